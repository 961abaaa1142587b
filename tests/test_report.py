"""README, report and figures against the results files, and these against each other."""

import json
import math
import re
import shutil
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr

import models
import report.__main__
import test
from report import benchmark, curves, experiments, figures, files, numbers, search, trained
from report.__main__ import typeset
from report.experiments import cell
from report.files import complete, read

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SOURCE = (ROOT / "report" / "report.typ").read_text()


# The results files


def hyperparameters(rows):
    """Of each row what a results file has of it."""
    results = test.new_results(rows, "cpu", 1, 0, 1, 1000)
    results = json.loads(json.dumps(results))
    return {name: entry["hyperparameters"] for name, entry in results["models"].items()}


@pytest.mark.parametrize("name", ["main", "grids", "floor", "ablation"])
def test_results_are_complete_and_of_the_rows_that_are_here(name):
    results, rows = read(name), hyperparameters(getattr(experiments, name)())
    assert results["environment"]["seed"] == 0 and results["environment"]["pairs"] == 1000
    assert list(results["models"]) == list(rows)
    for key, entry in results["models"].items():
        assert entry["hyperparameters"] == rows[key]
        assert len(entry["test_error"]) == 20 and entry["diverged"] == [False] * 20
        measures = ("test_error", "best_test_error", "test_error_by_epoch")
        for last, best, errors in zip(*(entry[measure] for measure in measures)):
            assert last == errors[-1] and best == min(errors) and len(errors) == 25


def test_each_step_of_the_ablation_changes_the_row_before_it():
    """It starts with siamese_al and ends with posterior but for its labels and its sharpness."""
    rows = [test.EXPERIMENTS["siamese_al"], *experiments.ablation().values()]
    for before, after in pairwise(rows):
        assert before != after and {**before, **after}.keys() == after.keys()
    last, posterior = (
        test.train.__kwdefaults__ | x for x in (rows[-1], test.EXPERIMENTS["posterior"])
    )
    differ = {name for name in posterior if posterior[name] != last[name]}
    assert differ == {"model", "label_smoothing"}


def test_the_same_training_has_the_same_errors_everywhere():
    """Bit by bit: what trained.json trains again; and the adaptive rate of sub_lenet5_ws, which
    starts at its floor and therefore is constant."""
    main, again, grids = (read(name)["models"] for name in ("main", "trained", "grids"))
    for key, entry in again.items():
        assert entry["test_error"] == main[key]["test_error"]
    adaptive, constant = main["sub_lenet5_ws"], grids[cell("sub_lenet5_ws", 1e-4, 100)]
    assert adaptive["test_error_by_epoch"] == constant["test_error_by_epoch"]


def test_the_search_used_the_settings_and_seeds_it_says():
    found = read("search")
    assert found["environment"]["seed"] == search.FIRST_SEED == 1_000_000
    rows = hyperparameters(search.search())
    assert {key: entry["hyperparameters"] for key, entry in found["models"].items()} == rows


def test_what_the_search_chose_is_the_row_and_the_model():
    row = test.EXPERIMENTS["posterior"]
    assert {k: v for k, v in row.items() if k != "model"} == {
        k: v for k, v in search.CHOSEN.items() if k != "model"
    }
    chosen, model = search.CHOSEN["model"](), models.posterior()
    assert [p.shape for p in chosen.parameters()] == [p.shape for p in model.parameters()]
    assert str(chosen.net) == str(model.net)


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


def test_the_search_never_sees_a_test_image(monkeypatch):
    """Its pairs are drawn from MNIST's 60,000 training images, those that validate among them."""
    seen = []

    def spy(nb, images, labels, generator):
        seen.append((nb, len(images)))
        return draw_pairs(nb, images, labels, generator)

    draw_pairs = search.draw_pairs
    monkeypatch.setattr(search, "draw_pairs", spy)
    row = search.CHOSEN | dict(model=models.siamese, epochs=1, copies=0)
    (outcome,) = search.validate("own", row, [1_000_000], 100, "cpu")
    assert seen == [(4100, 60000)] and 0 < outcome["test_error"] < 1


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
    for name in ("main", "grids", "floor", "ablation"):
        complete(name, getattr(experiments, name)(), 20, 1, run=run)
    complete("trained", trained.trained(), 20, 1, run=run)
    complete("search", search.search(), search.trainings(20), 1, seed=search.FIRST_SEED, run=run)
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


def test_the_report_lives_with_models_added_and_removed(monkeypatch):
    rows = {name: row for name, row in test.EXPERIMENTS.items() if name != "sub_lenet5_ws"}
    monkeypatch.setattr(test, "EXPERIMENTS", rows | {"own": SHORT})
    assert "own" in experiments.main() and experiments.floor() == {}
    assert not any(name.startswith("sub_lenet5_ws,") for name in experiments.grids())
    results = {name: read(name) for name in ("main", "grids", "floor", "trained")}
    for found in results.values():
        kept = found["models"]
        for key in list(kept):
            if key.startswith("siamese_al") or key.startswith("sub_lenet5_ws"):
                del kept[key]
    monkeypatch.setattr(numbers, "read", lambda name: results.get(name) or read(name))
    assert json.dumps(numbers.numbers())


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
    """Such as a measure of trained.json which a table of the report has."""
    damaged = read("trained")
    for entry in damaged["models"].values():
        entry["calibration"] = ["text" for _ in entry["calibration"]]
    monkeypatch.setattr(figures, "draw_all", lambda: None)
    monkeypatch.setattr(test, "lock", lambda path: None)  # this process would hold it
    monkeypatch.setattr(numbers, "read", lambda name: damaged if name == "trained" else read(name))
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
        figures.draw(figures.models, path)
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
    assert trained.expected_calibration_error(
        [trained.calibration(probability, target)]
    ) == pytest.approx(0.175)


def test_order_of_digits_by_hand():
    """Means on a line, far from the origin, in numeric order; and in an order whose rank
    correlation scipy knows."""
    digits = torch.arange(10).repeat(3)
    noise = torch.tensor([[0.01], [0], [-0.01]]).repeat_interleave(10, dim=0)
    places = torch.tensor([3.0, 1, 2, 0, 9, 5, 8, 6, 7, 4])
    direction, far = torch.tensor([[-3.0, 4.0]]), torch.tensor([[400.0, 300.0]])
    assert trained.order(
        (digits.unsqueeze(1) - 4.5 + noise) * direction + far, digits
    ) == pytest.approx(1)
    expected = abs(spearmanr(places.tolist(), range(10)).statistic)
    assert trained.order(
        (places.repeat(3).unsqueeze(1) + noise) * direction + far, digits
    ) == pytest.approx(expected)


def test_agreement_by_hand():
    """Errors of 19 and 21%: deviation √2 points, standard error of the difference √2 (1/15 + 1/2)^½
    = 1.065 points."""
    assert numbers.agrees(0.80 - 0.0212, [0.19, 0.21]) and not numbers.agrees(
        0.80 - 0.0214, [0.19, 0.21]
    )


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
    pdf = (ROOT / "report" / "report.pdf").read_bytes()
    assert typeset() == pdf, "report.pdf is stale: python -m report"
    assert len(typeset(format="png", ppi=10)) <= 3


def test_no_result_is_typed_into_the_report():
    """Results have two decimals, or are read from `n`."""
    text = re.sub(r"//.*", "", SOURCE)
    typed = re.findall(r"(?<![\w.])\d+\.\d{2,}(?!\d*(?:cm|em|pt|fr))", text)
    assert set(typed) <= {"0.01", "0.0001", "0.05"}  # settings
