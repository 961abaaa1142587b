"""README, report and figures against the results files, and these against each other."""

import itertools
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

import data
import models
import report.__main__
import test
from report import (
    benchmark,
    curves,
    experiments,
    figures,
    files,
    frontier,
    gains,
    heads,
    learning,
    measures,
    nets,
    numbers,
    search,
    tables,
)
from report.__main__ import plan, typeset
from report.experiments import cell
from report.files import complete, read

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SOURCE = (ROOT / "report" / "report.typ").read_text()
RESULTS = sorted((ROOT / "report" / "results").glob("*.json"))


# The results files


def hyperparameters(rows):
    """Of each row what a results file has of it."""
    results = test.new_results(rows, "cpu", 1, 0, 1, 1000)
    results = json.loads(json.dumps(results))
    return {name: entry["hyperparameters"] for name, entry in results["models"].items()}


@pytest.mark.parametrize("rows, most", [(rows, most) for rows, _, most in experiments.FILES])
def test_results_are_complete_and_of_the_rows_that_are_here(rows, most):
    results, rows = read(rows.__name__), hyperparameters(rows())
    assert results["environment"]["seed"] == 0 and results["environment"]["pairs"] == 1000
    assert results["complete"] and list(results["models"]) == list(rows)
    for key, entry in results["models"].items():
        assert entry["hyperparameters"] == rows[key]
        assert len(entry["test_error"]) == most and entry["diverged"] == [False] * most
        measures = ("test_error", "best_test_error", "test_error_by_epoch", "wrong_pairs")
        for last, best, errors, bits in zip(*(entry[measure] for measure in measures)):
            assert last == errors[-1] and best == min(errors)
            assert len(errors) == entry["hyperparameters"]["epochs"]
            assert round(1000 * last) == int(bits, 16).bit_count()


def test_each_step_of_the_ablation_changes_one_thing_of_the_row_before_it():
    """It starts with siamese_al and ends with posterior but for its labels and its sharpness."""
    siamese_al, posterior = (
        test.train.__kwdefaults__ | test.EXPERIMENTS[name] for name in ("siamese_al", "posterior")
    )
    steps = pairwise([siamese_al, *experiments.ablation().values(), posterior])
    changed = [{key for key in b if a.get(key) != b[key]} - {"reported"} for a, b in steps]
    assert changed == [
        {"model"},
        {"comparison_weight"},
        {"model"},
        {"rotation", "copies"},
        {"optimizer", "weight_decay"},
        {"schedule", "learning_rate"},
        {"model", "label_smoothing"},  # the model's scores are sharpened, which undoes it
    ]


def test_a_rate_that_starts_at_its_floor_is_constant():
    """That of sub_lenet5_ws: the same errors, bit by bit, with the adaptive rate and without."""
    adaptive, constant = (
        read("main")["models"]["sub_lenet5_ws"],
        read("grids")["models"][cell("sub_lenet5_ws", 1e-4, 100)],
    )
    assert adaptive["test_error_by_epoch"] == constant["test_error_by_epoch"]


def test_no_experiment_is_run_twice():
    """Under two names: no two rows of the files have the same arguments and the same pairs."""
    seen = {}
    for rows, *_ in experiments.FILES:
        for name, row in hyperparameters(rows()).items():
            if not name.endswith(", normalised"):
                key = json.dumps(row, sort_keys=True)
                assert key not in seen, f"{name} is {seen[key]}"
                seen[key] = name


@pytest.mark.parametrize("rows", [search.search, frontier.frontier])
def test_validation_used_the_settings_and_seeds_it_says(rows):
    found, rows = read(rows.__name__), rows()
    assert found["environment"]["seed"] == search.FIRST_SEED == 1_000_000
    assert found["complete"] and found["environment"]["pairs"] == 1000
    rows = hyperparameters(rows)
    assert {key: entry["hyperparameters"] for key, entry in found["models"].items()} == rows
    for entry in found["models"].values():
        errors = files.good(entry, "validation_error")
        assert len(errors) >= 6 and entry["diverged"].count(True) == 0
        assert all(math.isclose(4000 * x, round(4000 * x), abs_tol=1e-6) for x in errors)


def test_the_searchs_nets_are_what_their_names_say():
    """posterior's own net is among them; the one before it had 66,170 parameters."""
    own, model = nets.net("32M 48 64"), models.posterior()
    assert str(own.net) == str(model.net) and own.head.keywords == model.head.keywords
    before = nets.net("16 32m 64p 64")
    assert sum(p.numel() for p in before.parameters()) == 66_170
    layers = [type(x).__name__ for x in before.modules() if not list(x.children())]
    assert layers[:7] == [
        *("Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU")
    ]


def test_the_course_and_siamese_al_are_beaten_in_their_own_time():
    """posterior in the time of siamese_al, posterior_2s in a quarter of it, in one run on one core,
    within the course's parameters and epochs; and at most 1.4% of the test pairs wrong."""
    entries = read("frontier")["models"]
    points = {key: frontier.point(entry) for key, entry in entries.items()}
    theirs = points["siamese_al"][0]
    assert points["posterior"][0] <= theirs and points["posterior_2s"][0] <= theirs / 4
    assert entries["posterior_2s"]["parameters"] <= 70_000
    assert entries["posterior_2s"]["hyperparameters"]["epochs"] <= 25
    assert statistics.mean(read("main")["models"]["posterior_2s"]["test_error"]) <= 0.014


def test_the_frontier_and_the_search_have_the_same_trainings():
    searched, again = read("search")["models"], read("frontier")["models"]
    for key in ("posterior", "posterior_2s"):
        errors = again[key]["validation_error"]
        assert errors == searched[key]["validation_error"][: len(errors)]


def test_what_the_reports_say():
    """Report 1's grids are means of 15 test sets of 1000 pairs; test.py's table has the figures at
    its settings."""
    grids = numbers.REPORTED
    for means in (*grids["rates"].values(), *grids["batch_sizes"].values()):
        assert all(math.isclose(15000 * x, round(15000 * x), abs_tol=0.01) for x in means)
    for n, key in enumerate(experiments.REPORT_1):
        row = test.EXPERIMENTS[key]
        accuracy = grids["batch_sizes"][str(row["batch_size"])][n]
        assert row["reported"] == pytest.approx(100 * (1 - accuracy), abs=0.005)
    for key, (error, *_) in grids["table_2"].items():
        assert test.EXPERIMENTS[key]["reported"] == 100 * error


@pytest.mark.parametrize("model", [models.posterior, nets.ensemble])
def test_the_search_never_sees_a_test_image(model, mnist, monkeypatch):
    """Here are none: its pairs are of training images, those that validate among them."""
    for module in (data, search):
        monkeypatch.setattr(module, "load_mnist", lambda: (*mnist[:2], None, None))
    row = test.EXPERIMENTS["posterior"] | dict(model=model, epochs=1, copies=0)
    (outcome,) = frontier.measure("own", row, [1_000_000], 100, "cpu")
    assert 0 < outcome["validation_error"] < 1 and not outcome["diverged"]


def test_what_is_trained_on_does_not_judge():
    """Three sets of pairs, drawn as one: no image is in the first and in another."""
    sets = search.draw(1000, torch.Generator().manual_seed(5))
    assert [len(tensor) for tensor in sets] == 3 * [1000] + 3 * [1000] + 3 * [4000]
    assert all(torch.equal(a, b[:1000]) for a, b in zip(sets[3:6], sets[6:]))
    used, judging = (set(map(bytes, x.flatten(0, 1).numpy())) for x in (sets[0], sets[6]))
    assert len(used) == 2000 and len(judging) == 8000 and not used & judging


@pytest.mark.parametrize("model", [models.posterior, nets.ensemble])
def test_the_held_out_pairs_judge(model, monkeypatch):
    """All 4000 of the seed, and nothing else; an ensemble's members differ."""
    judged = []
    monkeypatch.setattr(search, "judge", lambda *found: judged.append(found) or {})
    row = test.EXPERIMENTS["posterior"] | dict(model=model, epochs=1, copies=0)
    frontier.measure("own", row, [1_000_000], 100, "cpu")
    ((found, pairs),) = judged
    generator = torch.Generator().manual_seed(1_000_000)
    expected = data.draw_pairs(4100, *data.load_mnist()[:2], generator)
    assert all(torch.equal(a, b[100:]) for a, b in zip(pairs, expected, strict=True))
    if model is nets.ensemble:
        weights = [next(net.parameters()) for net in found.net]
        assert len(weights) == 4
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(weights, 2))


def test_what_the_search_and_the_frontier_say_by_hand():
    """A variant with 1, 2 and 3 points more than its row; 2 s as a share of 8 s."""

    def entry(errors):
        return {"validation_error": errors, "diverged": [False] * 3, "seconds": [2.0] * 3}

    row, variant = entry([0.01, 0.02, 0.03]), entry([0.02, 0.04, 0.06])
    found = search.differences({"a": row, "a, more": variant, "b, alone": variant})
    assert list(found) == ["a, more"] and found["a, more"][0] == pytest.approx(2)
    longer = variant | {"seconds": [1.0, 8.0, 9.0]}
    assert numbers.quarter({"posterior_2s": row, "siamese_al": longer}) == "0.25"
    errors = [{"1.0": 0.01, "2.0": 0.02}, {"1.0": 0.03, "2.0": 0.02}]
    assert numbers.sharpness_errors({"error": errors}) == {"1.0": "2.00", "2.0": "2.00"}


def test_deskewed_digits_stand_upright():
    """A bar that leans by half a pixel a row, and one that stands."""
    bar = torch.zeros(1, 1, 14, 14)
    bar[:, :, 2:12, 6:8] = 255
    places = (torch.arange(14) - 6.5).view(1, 14, 1)
    leaning = torch.zeros(1, 1, 14, 14)
    for row in range(2, 12):
        left = 6 + (row - 7) // 2
        leaning[:, :, row, left : left + 2] = 255

    def slant(image):
        """The columns' mean place in the upper half minus that in the lower half."""
        image = image.clamp(min=0)[0, 0]
        upper, lower = ((half.sum(0) @ places.view(14)) / half.sum() for half in image.split(7))
        return float(upper - lower)

    deskew = nets.Deskew()
    assert abs(slant(leaning)) > 2 and abs(slant(deskew(leaning))) < 0.3
    assert torch.allclose(deskew(bar), bar, atol=1)
    lower = leaning.roll(2, dims=2)  # stays where it is
    moved = deskew(lower).sum(dim=(0, 1, 2)) @ places.view(14) / lower.sum()
    assert abs(moved - lower.sum(dim=(0, 1, 2)) @ places.view(14) / lower.sum()) < 0.3


def test_an_ensemble_is_the_mean_of_probabilities():
    scores = [torch.randn(3, 2, 10) for _ in range(2)]
    members = [nn.Identity(), nn.Identity()]
    for net, score in zip(members, scores):
        net.forward = lambda pairs, score=score: score
    found = nets.Ensemble(members)(torch.zeros(3, 2, 14, 14)).softmax(dim=2)
    assert torch.allclose(found, (scores[0].softmax(dim=2) + scores[1].softmax(dim=2)) / 2)


def test_a_point_of_the_frontier_by_hand():
    """Errors of 1, 2 and 6%: mean 3, deviation √7, over √3; the median of the seconds."""
    entry = {"seconds": [9.0, 1.0, 2.0], "validation_error": [0.01, 0.02, 0.06]}
    assert frontier.point(entry) == pytest.approx((2.0, 3.0, (7 / 3) ** 0.5))
    assert frontier.point({"seconds": [None], "validation_error": [None]}) is None


def test_a_rounds_profile_is_all_of_it(monkeypatch):

    class Slow(torch.nn.Module):
        """Tests take half a second, ten times 50 ms."""

        def __init__(self):
            super().__init__()
            self.model = models.posterior()

        def forward(self, pairs):
            time.sleep(0 if self.training else 0.05)
            return self.model(pairs)

    row = test.EXPERIMENTS["posterior_2s"] | dict(model=Slow, epochs=2, copies=1)
    monkeypatch.setitem(test.EXPERIMENTS, "posterior_2s", row)
    start = time.perf_counter()
    spent = benchmark.round_profile("posterior_2s", 0)
    elapsed = time.perf_counter() - start
    kinds = "pairs", "distortion", "forward", "loss, backward", "optimizer", "tests", "the rest"
    assert spent.keys() == set(kinds) and min(spent.values()) > 0
    assert 0.95 * elapsed < sum(spent.values()) <= elapsed
    assert spent["tests"] > 0.5
    rounds = [{"a": 0.003, "b": 0.001}, {"a": 0.009, "b": 0.003}]
    assert list(numbers.profile_rows(rounds)) == [["a", "75"], ["b", "25"]]


def test_steps_from_the_textbook_to_test_py():
    """All of them train; medians of two repeats by hand."""
    row = benchmark.benchmark()["sub_lenet5_ws_al"] | dict(epochs=1)
    for _, _, *options in benchmark.STEPS.values():
        assert benchmark.textbook_round(row, 0, 100, 1, *options) > 0
    repeats = [{"x": {"a": 3.0, "b": 1.0}}, {"x": {"a": 5.0, "b": 1.0}}]
    assert list(numbers.step_rows(repeats)) == [["a", "4.00"], ["b", "1.00"]]


# How they are completed


SHORT = test.EXPERIMENTS["sub_lenet5_ws_al"] | dict(epochs=1, reported=None)


def test_only_what_is_missing_is_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    rows = {"short": SHORT}
    complete("some", rows, 2, 2)
    path, first = tmp_path / "some.json", read("some")
    assert first["complete"] and first["environment"]["rounds"] == 2
    written = path.stat().st_mtime_ns
    complete("some", rows, 2, 2)  # nothing to do
    assert path.stat().st_mtime_ns == written
    marked = json.loads(path.read_text())
    for measure, values in marked["models"]["short"].items():  # as if stopped after round 0
        if isinstance(values, list):
            values[:] = [0.5 if measure == "test_error" else values[0], None]
    test.write_results(path, marked)
    complete("some", rows, 2, 2)
    assert read("some")["models"]["short"]["test_error"] == [
        0.5,
        first["models"]["short"]["test_error"][1],
    ]


def test_a_file_of_an_older_version_is_continued(tmp_path, monkeypatch, capsys):
    """It lacks a measure of what it has; and is read again in the middle of the new rounds."""
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    rows = {"short": SHORT}
    complete("some", rows, 1, 1)
    old = read("some")
    del old["models"]["short"]["loss"]
    test.write_results(tmp_path / "some.json", old)
    complete("some", rows, 2, 1)
    complete("some", rows, 3, 1)
    entry = read("some")["models"]["short"]
    assert [x is None for x in entry["loss"]] == [True, False, False]
    assert None not in entry["test_error"]


def test_nothing_is_missing_from_what_is_committed(tmp_path, monkeypatch, capsys):
    """What python -m report goes through: no round is to be run, no file to be changed."""

    def run(function, jobs, workers):
        raise AssertionError(jobs)

    shutil.copytree(files.RESULTS, tmp_path / "results")
    monkeypatch.setattr(files, "RESULTS", tmp_path / "results")
    for name, rows, trainings, workers, function, *seed in plan(20, 1):
        complete(name, rows, trainings, workers, function, *seed, run=run)
    for path in (ROOT / "report" / "results").iterdir():
        assert (tmp_path / "results" / path.name).read_bytes() == path.read_bytes()


def test_finished_rounds_are_not_thrown_away(tmp_path, monkeypatch, capsys):
    """Of a row that differs: refused in one line that names it, unless they are to be replaced."""
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    complete("some", {"short": SHORT, "same": SHORT}, 1, 2)
    before = (tmp_path / "some.json").read_text()
    edited = {"short": SHORT | dict(batch_size=100), "same": SHORT}
    with pytest.raises(
        ValueError, match=r"some\.json has rounds of other settings: short\. "
    ) as said:
        complete("some", edited, 1, 2)
    assert "--replace" in str(said.value) and (tmp_path / "some.json").read_text() == before
    complete("some", edited, 1, 2, replace=True)
    found = read("some")["models"]
    assert found["short"]["hyperparameters"]["batch_size"] == 100
    assert found["same"] == json.loads(before)["models"]["same"]


def test_a_partial_function_is_the_same_in_every_process(tmp_path, monkeypatch, capsys):
    """Its text in a results file has an address; its arguments count, the address does not."""
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    complete("some", {"own": SHORT | dict(model=partial(wide, 3))}, 1, 1)
    path = tmp_path / "some.json"
    path.write_text(re.sub("0x[0-9a-f]+", "0xabc", path.read_text()))
    complete("some", {"own": SHORT | dict(model=partial(wide, 3))}, 1, 1)
    with pytest.raises(ValueError, match="other settings"):
        complete("some", {"own": SHORT | dict(model=partial(wide, 4))}, 1, 1)


def wide(width):
    return models.sub_lenet5_ws_al()


def test_models_come_and_go(tmp_path, monkeypatch, capsys):
    """A row that is no longer there keeps its rounds, a new one gets some."""
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    complete("some", {"old": SHORT}, 1, 2)
    old = read("some")["models"]["old"]
    complete("some", {"new": SHORT}, 1, 2)
    found = read("some")["models"]
    assert found["old"] == old and found["new"]["test_error"] == old["test_error"]


def test_another_version_of_the_core_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    complete("some", {"short": SHORT}, 1, 2)
    results = json.loads((tmp_path / "some.json").read_text())
    now = results["environment"]["code"]
    results["environment"]["code"] = "an earlier one"
    test.write_results(tmp_path / "some.json", results)
    capsys.readouterr()
    complete("some", {"short": SHORT}, 1, 2)
    assert (
        f"another version of the program, an earlier one; this is {now}" in capsys.readouterr().err
    )
    assert read("some")["environment"]["code"] == "an earlier one"  # nothing was run
    complete("some", {"short": SHORT}, 2, 2)
    assert read("some")["environment"]["code"] == f"an earlier one, {now}"
    complete("some", {"short": SHORT}, 3, 2)  # some rounds are still the earlier one's
    assert read("some")["environment"]["code"] == f"an earlier one, {now}"


def test_the_report_lives_with_models_added_and_removed(monkeypatch):
    rows = {name: row for name, row in test.EXPERIMENTS.items() if name != "sub_lenet5_ws"}
    rows.pop("posterior_2s")
    monkeypatch.setattr(test, "EXPERIMENTS", rows | {"own": SHORT})
    assert "own" in experiments.main()
    assert not any(
        name.startswith("sub_lenet5_ws,") for rows, *_ in experiments.FILES for name in rows()
    )
    assert not any("posterior_2s" in name for name in (*search.search(), *frontier.frontier()))
    results = {path.stem: read(path.stem) for path in RESULTS}
    for found in results.values():
        kept = found["models"]
        for key in list(kept):
            if key.startswith(("siamese_al", "sub_lenet5_ws", "posterior_2s")):
                del kept[key]
    for module in (numbers, figures):
        monkeypatch.setattr(module, "read", results.__getitem__)
    found = numbers.numbers()
    assert typeset(found) and tables.text(found)
    for entry in results["search"]["models"].values():
        entry["diverged"] = [state is not None or None for state in entry["diverged"]]
    for function in figures.FIGURES:
        figures.plt.close(function())


def test_a_damaged_results_file_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    complete("some", {"short": SHORT}, 1, 1)
    good = json.loads((tmp_path / "some.json").read_text())
    texts = ["", "{", "[]", "{}", '{"models": {}}']
    for place, value in (
        (("environment",), []),
        (("environment", "rounds"), "1"),
        (("environment", "rounds"), None),
        (("models",), [1]),
        (("models", "short"), "text"),
        (("models", "short", "parameters"), None),
        (("models", "short", "hyperparameters"), {}),
        (("models", "short", "test_error"), []),
        (("models", "short", "test_error"), [None]),  # of a round that is finished
        (("models", "short", "seconds"), ["1"]),
        (("models", "short", "loss"), [[]]),
        (("models", "short", "loss"), [["0.1"]]),
    ):
        bad = json.loads(json.dumps(good))
        *parents, key = place
        node = bad
        for parent in parents:
            node = node[parent]
        node[key] = value
        texts.append(json.dumps(bad))
    for text in texts:
        (tmp_path / "some.json").write_text(text)
        with pytest.raises(ValueError, match=r"some\.json is damaged"):
            complete("some", {"short": SHORT}, 1, 1)


def made(monkeypatch, capsys):
    """What python -m report says when it is run and refuses to go on; it takes one line."""
    monkeypatch.setattr("sys.argv", ["report"])
    monkeypatch.setattr(report.__main__, "complete", lambda *_, **__: None)  # trains nothing
    monkeypatch.setattr(benchmark, "complete_all", lambda *_: None)
    with pytest.raises(SystemExit) as stop:
        report.__main__.main()
    said = [x for x in capsys.readouterr().err.splitlines() if "made by another version" not in x]
    assert stop.value.code == 2 and len(said) == 1 and said[0].startswith("report: ")
    return said[0]


def test_results_that_lack_what_is_shown(monkeypatch, capsys):
    """Such as a measure of main.json which a table of the report has."""
    damaged = read("main")
    for entry in damaged["models"].values():
        entry["calibration"] = ["text" for _ in entry["calibration"]]
    monkeypatch.setattr(figures, "draw_all", lambda: None)
    monkeypatch.setattr(test, "lock", lambda path: None)  # this process would hold it
    monkeypatch.setattr(numbers, "read", lambda name: damaged if name == "main" else read(name))
    assert "report: cannot show what " in made(monkeypatch, capsys)


def test_figures_and_report_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    """Or only in part: what was there stays."""
    old = {path: path.read_bytes() for path in (ROOT / "report" / "figures").iterdir()}
    monkeypatch.setattr(test, "lock", lambda path: None)  # this process would hold it
    monkeypatch.setattr(figures, "FOLDER", tmp_path / "figures")
    (tmp_path / "figures").write_text("a file")
    assert "figures" in made(monkeypatch, capsys)
    monkeypatch.undo()
    path = tmp_path / "figure.svg"
    path.write_text("old")

    def half(self, content):
        with open(self, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match=r"figure\.svg cannot be written \(No space left on device\)"):
        figures.draw(figures.wrong, path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 2
    assert old == {path: path.read_bytes() for path in old}


def test_a_second_report_at_once_is_refused(monkeypatch, capsys):
    script = "import test; from report.__main__ import FOLDER; test.lock(FOLDER); print(); input()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        assert "another one makes the report" in made(monkeypatch, capsys)
        other.stdin.close()


@pytest.mark.parametrize(
    "options", [["--rounds", "1"], ["--rounds", "two"], ["--workers", "0"], ["--round", "2"], ["2"]]
)
def test_wrong_options_take_one_line_and_code_2(options, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["report", *options])
    with pytest.raises(SystemExit) as stop:
        report.__main__.main()
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and printed.startswith("report: ") and printed.count("\n") == 1


# Curves


def test_curves_of_a_results_file(tmp_path, monkeypatch, capsys):
    """Of a file of test.py's: an SVG beside it, with a title for each model."""
    row = test.EXPERIMENTS["sub_lenet5_ws_al"] | dict(epochs=2)
    results = test.new_results({"own": row}, "cpu", 1, 0, 2, 1000)
    jobs = [("own", row, [seed], 100, "cpu") for seed in range(2)]
    path = tmp_path / "own.json"
    test.keep(test.run_in_workers(test.run_rounds, jobs, 2), 2, results, path)
    monkeypatch.setattr("sys.argv", ["report.curves", str(path)])
    curves.main()
    assert capsys.readouterr().out == f"{tmp_path / 'own.svg'}\n"
    assert "own, 2 rounds" in (tmp_path / "own.svg").read_text()


@pytest.mark.parametrize("text", [None, "", "{}", '{"environment": {"rounds": 1}, "models": {}}'])
def test_curves_of_nothing(text, tmp_path, monkeypatch, capsys):
    path = tmp_path / "none.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr("sys.argv", ["report.curves", str(path)])
    with pytest.raises(SystemExit) as stop:
        curves.main()
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and printed.startswith("report: ") and printed.count("\n") == 1
    assert "none.json" in printed and not path.with_suffix(".svg").exists()


# What is computed from them, by hand


def test_expected_calibration_error_by_hand():
    """Four pairs say 0.9, of which three have a ≤ b, and four say 0.3, of which two have: gaps of
    0.15 and -0.2."""
    probability = torch.tensor([0.9] * 4 + [0.3] * 4).double()
    target = torch.tensor([1, 1, 1, 0, 1, 1, 0, 0])
    assert measures.expected_calibration_error(
        [measures.calibration(probability, target)]
    ) == pytest.approx(0.175)


def test_order_of_digits_by_hand():
    """Means on a line, far from the origin, in numeric order; and in an order whose rank
    correlation scipy knows."""
    digits = torch.arange(10).repeat(3)
    noise = torch.tensor([[0.01], [0], [-0.01]]).repeat_interleave(10, dim=0)
    places = torch.tensor([3.0, 1, 2, 0, 9, 5, 8, 6, 7, 4])
    direction, far = torch.tensor([[-3.0, 4.0]]), torch.tensor([[400.0, 300.0]])
    assert measures.order(
        (digits.unsqueeze(1) - 4.5 + noise) * direction + far, digits
    ) == pytest.approx(1)
    expected = abs(spearmanr(places.tolist(), range(10)).statistic)
    assert measures.order(
        (places.repeat(3).unsqueeze(1) + noise) * direction + far, digits
    ) == pytest.approx(expected)


def test_order_along_the_axis_of_a_head():
    """A linear head's axis is its weights; along it these means are in order, not along the first.

    The digits lie on the second axis in order and far apart on the first in another.
    """
    head = models.TwoLogits(20, 2)
    axis = measures.readout(head, torch.randn(5, 2, 10))
    weights = (head.weight[1] - head.weight[0]).detach().view(2, 10)
    assert torch.allclose(axis, weights)
    places = torch.tensor([3.0, 1, 2, 0, 9, 5, 8, 6, 7, 4])
    points = torch.stack([100 * places, torch.arange(10.0)], dim=1)
    assert measures.order(points, torch.arange(10)) < 0.8
    assert measures.order(points, torch.arange(10), torch.tensor([0.0, 1.0])) == pytest.approx(1)
    assert measures.readout(models.likeliest, torch.randn(5, 2, 10)) is None


def test_clusters_by_hand():
    """Low digits at 0, high ones at 9 but for one of eight; each digit has six points of its own,
    but for one of 48 that stands among others."""
    digits = torch.tensor([0, 1, 2, 3, 7, 8, 9]).repeat_interleave(6)
    points = torch.stack([digits * 1.0, torch.arange(42) % 6 * 0.01], dim=1)
    assert measures.halves(points, digits) == 1 and measures.nearest_error(points, digits) == 0
    points[0] = torch.tensor([9.0, 0.005])  # a 0 among the nines
    assert measures.halves(points, digits) == pytest.approx(41 / 42)
    assert measures.nearest_error(points, digits) == pytest.approx(1 / 42)


def test_errors_by_hand():
    """Round 1 diverged. In rounds 0 and 2 pairs 3, 4 and 3 are wrong; one net of all digits has
    pair 3 of both wrong, and pair 9 of round 1."""
    wrong = [[[3, 1, 2, 0.05], [4, 2, 1, 0.8]], None, [[3, 5, 5, 0.2]]]
    main = {"posterior": {"wrong": wrong, "diverged": [False, True, False]}}
    rounds = [f"{1 << 3:x}", f"{1 << 9:x}", f"{1 << 3 | 1 << 5:x}"]
    entries = {"posterior, 30000 pairs": {"wrong_in_rounds": [rounds], "diverged": [False]}}
    found = numbers.ambiguity(main, entries)
    images = [gains.tested_images(r)[n].tolist() for r, n in ((0, 3), (0, 4), (2, 3))]
    flat = [image for pair in images for image in pair]
    again = {image for image in flat if flat.count(image) > 1}
    expected = dict(count="3", pairs="2,000", sure="1", still="2", teachers="3")
    expected["repeated"] = str(sum(bool(again & {*pair}) for pair in images))
    assert found == expected | {"images": str(len(again))}
    entry = {"test_error": [0.3, None, 0.5, 0.4], "training_error": [0.1, 0.2, None, 0.1]}
    assert numbers.gap(entry)[0] == "25.00"  # of 20 and 30 points
    entry = {"train_error": [[0.5, 0.009, 0.02], [0.5, 0.4, 0.3], [0.1, 0.1, 0.005]]}
    assert numbers.fitted(entry) == "3" and numbers.fitted({}) == "n/a"


def test_what_is_kept_of_the_wrong_pairs(pair_sets):
    """The bits of the pairs that the trained model tells wrong."""
    model = models.siamese()
    bits = measures.look(model, pair_sets)["wrong_pairs"]
    with torch.no_grad():
        wrong = (model(pair_sets[3])[0] > 0) != pair_sets[4].bool()
    assert torch.equal(gains.are_wrong(bits).bool(), wrong)
    assert bits == f"{sum(2**n for n in wrong.nonzero().flatten().tolist()):x}"


def test_calibration_bins_by_hand():
    """Twelve pairs of which nine have a ≤ b: Wilson's interval solves a quadratic."""
    probability, target = torch.full((12,), 0.92).double(), torch.tensor([1] * 9 + [0] * 3)
    rounds = [measures.calibration(probability, target)]
    ((count, p, share, low, high),) = measures.calibration_bins(rounds)
    z = statistics.NormalDist().inv_cdf(0.975)
    middle, half = 0.75 + z * z / 24, z * math.sqrt(0.75 * 0.25 / 12 + z * z / 576)
    assert (count, p, share) == (12, pytest.approx(0.92), 0.75)
    expected = [(middle - half) / (1 + z * z / 12), (middle + half) / (1 + z * z / 12)]
    assert [low, high] == pytest.approx(expected)
    assert (
        list(measures.calibration_bins([measures.calibration(probability[:9], target[:9])])) == []
    )


def test_differences_from_a_reported_mean_by_hand():
    """Errors of 19 and 21%: deviation √2 points, standard error √2 (1/15 + 1/2)^½ = 1.065 points,
    and Student's t of one degree of freedom is tan(0.475 π)."""
    gap, half = numbers.difference(0.79, [0.19, 0.21])
    expected = math.sqrt(2) * math.sqrt(1 / 15 + 1 / 2) * math.tan(0.475 * math.pi)
    assert gap == pytest.approx(1) and half == pytest.approx(expected)


def test_agreement_by_hand():
    """A cell that stands in both grids counts once; one is within its interval, one above it."""
    same, above = ("rate 1", "a", 0.8, (0.5, 1.0), (0.5, 1.0)), (2.0, 1.0)
    found = numbers.agreement([same, ("batch 1", *same[1:]), ("rate 2", "b", 0.7, above, (-3, 4))])
    expected = dict(distinct="2", last="1", best="2", either="2", best_median="1.75")
    assert found.items() >= expected.items()


def test_a_learned_head_finds_what_is_there():
    """Products of probabilities tell a ≤ b, of sure scores all; raw scores, linearly, do not."""
    classes = torch.randint(10, (2000, 2), generator=torch.Generator().manual_seed(0))
    target = (classes[:, 0] <= classes[:, 1]).long()
    scores = 20 * torch.nn.functional.one_hot(classes, 10).float()
    products = heads.learn(nets.HEADS["products"], scores, target, 0, rate=0.01, epochs=20)
    assert heads.judge(products, scores, target)["error"] == 0
    again = heads.learn(nets.HEADS["products"], scores, target, 0, rate=0.01, epochs=20)
    assert torch.equal(products.weight, again.weight)
    with torch.no_grad():  # a linear map that is the closed form: 1 where i ≤ j, less a half
        products.weight.copy_(torch.ones(10, 10).triu().flatten().unsqueeze(0) - 0.5)
        products.bias.zero_()
    timid = torch.randn(50, 2, 10)
    assert torch.equal(products(timid) > 0, models.closed_form(timid) > 0)


def test_architectures_of_the_report():
    """Parameters by hand: of 16 + 64 + 128 channels batch norm has two each, siamese's head 42."""

    def count(model):
        return sum(p.numel() for p in model.parameters())

    trunk = models.siamese
    assert count(nets.separate_trunks()) == 2 * (71_076 - 42) + 42
    assert count(nets.no_batch_norm(trunk)) == 71_076 - 2 * (16 + 64 + 128)
    assert count(nets.dropout(models.baseline)) == 71_790
    dropping = nets.dropout(trunk)(torch.rand(4, 2, 14, 14))[0]
    assert dropping.shape == (4,)
    model, pairs = nets.dropout(trunk), torch.rand(4, 2, 14, 14)
    assert not torch.equal(model(pairs)[0], model(pairs)[0])
    head = nets.softmax_into_head(models.sub_lenet5_ws).head
    digits = torch.randn(3, 2, 10)
    assert torch.equal(head(digits), head.head(digits.softmax(dim=2)))
    assert [count(nets.siamese_with(name)) - 71_034 for name in nets.HEADS] == [
        *(42, 12_301, 12_301, 21, 101)
    ]


def test_learning_curves_have_the_rounds_pairs():
    """1000 pairs would be those of main.json; judged on every test image once."""
    sets = learning.draw(1000, 1000, torch.Generator().manual_seed(3))
    expected = data.generate_pair_sets(1000, torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(sets, expected))
    assert torch.equal(sets[8].flatten().bincount(), data.load_mnist()[3].bincount())
    main = {"own": {"test_error": [0.1, 0.3]}}
    rows = {"own, 500 pairs": {"error": [0.2, 0.4]}, "other, 250 pairs": {"error": [0.5, 0.5]}}
    points = learning.curve(main, rows, "own", "error")
    assert points == [
        (500, pytest.approx(30), pytest.approx(10)),
        (1000, *[pytest.approx(x) for x in (20, 10)]),
    ]


def test_images_normalised_by_the_training_images():
    sets = experiments.normalised(100, torch.Generator().manual_seed(0))
    plain = data.generate_pair_sets(100, torch.Generator().manual_seed(0))
    assert sets[0].mean().abs() < 1e-5 and (sets[0].std() - 1).abs() < 1e-5
    assert torch.allclose(sets[3] * plain[0].std() + plain[0].mean(), plain[3], atol=1e-3)
    assert all(torch.equal(sets[n], plain[n]) for n in (1, 2, 4, 5))


# README and report


def test_the_readme_shows_the_results():
    """All lines of the table, one after the other, in a block of their own."""
    text = "\n".join(test.table(read("main")))
    assert f"\n```\n{text}\n```\n" in README


def test_every_figure_is_drawn_from_the_results_that_are_here():
    for function in figures.FIGURES:
        path = figures.FOLDER / f"{function.__name__}.svg"
        assert figures.sources() in path.read_text(), f"{path} is stale: python -m report"
    assert {path.name for path in figures.FOLDER.iterdir()} == {
        f"{function.__name__}.svg" for function in figures.FIGURES
    }


def test_the_pdf_is_what_the_results_give():
    found = numbers.numbers()
    pdf = (ROOT / "report" / "report.pdf").read_bytes()
    assert typeset(found) == pdf, "report.pdf is stale: python -m report"
    assert tables.PATH.read_bytes() == tables.text(found), "tables.md is stale: python -m report"
    assert len(typeset(found, format="png", ppi=10)) <= 3


def test_no_result_is_typed_into_the_report():
    """Results have two decimals, or are read from `n`. Without any order the absolute rank
    correlation of ten digits is 0.27 on average."""
    text = re.sub(r"//.*", "", SOURCE)
    typed = re.findall(r"(?<![\w.])\d+\.\d{2,}(?!\d*(?:cm|em|pt|fr))", text)
    assert set(typed) <= {"0.01", "0.0001", "0.001", "0.03", "0.04", "0.05", "0.27"}  # settings
