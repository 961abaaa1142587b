"""README, report and figures against the results files, and these against each other."""

import itertools
import json
import math
import re
import shutil
import statistics
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
    show,
    tables,
)
from report.__main__ import typeset
from report.experiments import cell
from report.files import read

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SOURCE = (ROOT / "report" / "report.typ").read_text()
RESULTS = sorted((ROOT / "report" / "results").glob("*.jsonl"))


def arguments(rows):
    """Of each row what a log has of it."""
    found = {}
    for name, row in rows.items():
        row = {key: row[key] for key in row if key != "reported"}
        found[name] = test.settings_of(name, row, 1000, "cpu")["arguments"]
    return found


@pytest.mark.parametrize("rows, most", [(rows, most) for rows, _, most in experiments.FILES])
def test_results_are_complete_and_of_the_rows_that_are_here(rows, most):
    results, rows = read(rows.__name__), arguments(rows())
    assert set(results["models"]) == set(rows)
    for key, entry in results["models"].items():
        assert entry["hyperparameters"] == rows[key]
        assert len(entry["test_error"]) == most and entry["diverged"] == [False] * most
        for errors, bits in zip(entry["test_error_by_epoch"], entry["wrong_pairs"]):
            assert len(errors) == entry["hyperparameters"]["epochs"]
            assert round(1000 * errors[-1]) == int(bits, 16).bit_count()


def test_a_log_as_it_is_read(tmp_path):
    """Two rows; of b the round of seed 5 is there twice, and that of seed 6 with other pairs."""
    same = dict(pairs=1000, arguments={"epochs": 2}, torch="2", device="cpu", processor="AVX2")
    same |= dict(code="x", parameters=7, diverged=False)
    path = tmp_path / "some.jsonl"
    for row, seed, errors in (
        ("a", 5, [0.2, 0.1]),
        ("a", 6, [0.1, 0.3]),
        ("b", 5, [0.9, 0.8]),
        ("b", 6, [0.7, 0.7]),
        ("b", 5, [None, 0.6]),
    ):
        same["pairs"] = 500 if errors[0] == errors[1] else 1000
        test.append(same | dict(row=row, seed=seed, test_error=errors, seconds=errors[1]), path)
    found = files.load(path)
    versions = dict(torch="2", device="cpu", processor="AVX2", code="x")
    assert found["environment"] == versions | {"rounds": 2} and list(found["models"]) == ["a", "b"]
    a, b = found["models"].values()
    assert a["test_error"] == [0.1, 0.3] and a["best_test_error"] == [0.1, 0.1]
    assert a["test_error_by_epoch"] == [[0.2, 0.1], [0.1, 0.3]] and a["parameters"] == 7
    assert b["test_error"] == b["seconds"] == [0.6, None] and "pairs" not in a and "seed" not in a
    path.write_text("{}\n")
    with pytest.raises(ValueError, match=r"some\.jsonl is no log of rounds"):
        files.load(path)


def test_each_step_of_the_ablation_changes_one_thing_of_the_row_before_it():
    """It starts with siamese_al and ends with posterior."""
    siamese_al, posterior = (
        test.train.__kwdefaults__ | test.EXPERIMENTS[name] for name in ("siamese_al", "posterior")
    )
    steps = pairwise([siamese_al, *experiments.ablation().values(), posterior])
    changed = [{key for key in b if a.get(key) != b[key]} - {"reported"} for a, b in steps]
    assert changed == [
        {"model"},
        {"comparison_weight"},
        {"model"},
        {"model"},
        {"rotation", "copies"},
        {"optimizer", "weight_decay"},
        {"schedule", "learning_rate"},
        {"model", "label_smoothing"},  # the model's scores are sharpened, which undoes it
        {"model", "copies", "epochs"},  # two nets share the copies
    ]


def test_a_rate_that_starts_at_its_floor_is_constant():
    """That of sub_lenet5_ws: the same errors, bit by bit, with the adaptive rate and without."""
    adaptive, constant = (
        read("main")["models"]["sub_lenet5_ws"],
        read("grids")["models"][cell("sub_lenet5_ws", 1e-4, 100)],
    )
    assert adaptive["test_error_by_epoch"] == constant["test_error_by_epoch"]


@pytest.mark.parametrize("rows", [search.search, frontier.frontier])
def test_validation_used_the_settings_and_seeds_it_says(rows):
    path, found = files.RESULTS / f"{rows.__name__}.jsonl", read(rows.__name__)
    seeds = {json.loads(line)["seed"] for line in path.read_text().splitlines()}
    assert min(seeds) == search.FIRST_SEED == 1_000_000
    rows = arguments(rows())
    assert {key: entry["hyperparameters"] for key, entry in found["models"].items()} == rows
    for entry in found["models"].values():
        errors = files.good(entry, "validation_error")
        assert len(errors) >= 6 and entry["diverged"].count(True) == 0
        assert all(math.isclose(4000 * x, round(4000 * x), abs_tol=1e-6) for x in errors)


def test_the_searchs_nets_are_what_their_names_say():
    """Our own are among them; the digit net before them, three convolutions, had 44,618 parameters;
    and other solutions have as many as their authors say."""
    for views in (["upright", "middle"], ["upright"]):
        own = nets.net("32M 64", *views)
        model = models.posterior() if len(views) == 2 else models.posterior_2s()
        layers = [[str(x) for x in m.modules() if not list(x.children())] for m in (own, model)]
        assert layers[0] == layers[1] and own.head.keywords == model.head.keywords
    before = nets.net("32M 48 64", "whole")
    assert sum(p.numel() for p in before.parameters()) == 44_618
    layers = [type(x).__name__ for x in before.modules() if not list(x.children())]
    assert " ".join(layers[:5]) == "Identity Conv2d MaxPool2d BatchNorm2d ReLU"
    others = nets.adamisik_convnet, nets.adamisik_resnet
    assert [sum(p.numel() for p in f().parameters()) for f in others] == [62_154, 23_722]


def test_the_course_and_siamese_al_are_beaten_in_their_own_time():
    """posterior in the time of siamese_al, posterior_2s in a tenth of it, in one run on one core,
    within the course's parameters and epochs; and at most 1.4% of the test pairs wrong."""
    entries = read("frontier")["models"]
    points = {key: frontier.point(entry) for key, entry in entries.items()}
    theirs = points["siamese_al"][0]
    assert points["posterior"][0] <= theirs and points["posterior_2s"][0] <= theirs / 10
    assert entries["posterior_2s"]["parameters"] <= 70_000
    assert entries["posterior_2s"]["hyperparameters"]["epochs"] <= 25
    assert statistics.mean(read("main")["models"]["posterior_2s"]["test_error"]) <= 0.014


def test_what_the_reports_say():
    """Report 1's grids are means of 15 test sets of 1000 pairs; test.py's table has the figures at
    its settings."""
    grids = numbers.REPORTED
    for means in (*grids["rates"].values(), *grids["batch_sizes"].values()):
        assert all(math.isclose(15000 * x, round(15000 * x), abs_tol=0.01) for x in means)
    for n, key in enumerate(experiments.REPORT_1):
        row = test.EXPERIMENTS[key]
        accuracy = grids["batch_sizes"][str(row["batch_size"])][n]
        figure, _, difference = row["reported"].partition(", ")
        assert figure == f"{100 - 100 * accuracy:.2f}" and "best epoch" in difference
    for key, (error, *_) in grids["table_2"].items():
        assert test.EXPERIMENTS[key]["reported"] == f"{100 * error:.2f}"


def test_what_is_trained_on_does_not_judge():
    """Three sets of pairs, drawn as one: no image is in the first and in another."""
    sets = search.draw(1000, torch.Generator().manual_seed(5))
    assert [len(tensor) for tensor in sets] == 3 * [1000] + 3 * [1000] + 3 * [4000]
    assert all(torch.equal(a, b[:1000]) for a, b in zip(sets[3:6], sets[6:]))
    used, judging = (set(map(bytes, x.flatten(0, 1).numpy())) for x in (sets[0], sets[6]))
    assert len(used) == 2000 and len(judging) == 8000 and not used & judging


@pytest.mark.parametrize("model", [models.posterior, nets.ensemble])
def test_the_held_out_pairs_judge(model, mnist, monkeypatch):
    """All 4000 of the seed, and no test image; an ensemble's members differ."""
    judged = []
    for module in (data, search):
        monkeypatch.setattr(module, "load_mnist", lambda: (*mnist[:2], None, None))
    for module in (search, frontier):
        monkeypatch.setattr(module, "PAIRS", 100)
    judge = search.judge
    monkeypatch.setattr(search, "judge", lambda *x: judged.append(x) or judge(*x))
    row = test.EXPERIMENTS["posterior"] | dict(model=model, epochs=1, copies=0)
    line = frontier.measure(({"row": "own"}, row, 1_000_000))
    assert 0 < line["validation_error"] < 1 and not line["diverged"]
    ((found, pairs),) = judged
    expected = data.draw_pairs(4100, *mnist[:2], torch.Generator().manual_seed(1_000_000))
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
    # errors of 1, 2 and 6%: mean 3, deviation √7, over √3; the median of the seconds
    entry = {"seconds": [9.0, 1.0, 2.0], "validation_error": [0.01, 0.02, 0.06]}
    assert frontier.point(entry) == pytest.approx((2.0, 3.0, (7 / 3) ** 0.5))
    assert frontier.point({"seconds": [None], "validation_error": [None]}) is None


def test_an_ensemble_is_the_mean_of_probabilities():
    scores = [torch.randn(3, 2, 10) for _ in range(2)]
    members = [nn.Identity(), nn.Identity()]
    for net, score in zip(members, scores):
        net.forward = lambda pairs, score=score: score
    found = nets.Ensemble(members)(torch.zeros(3, 2, 14, 14)).softmax(dim=2)
    assert torch.allclose(found, (scores[0].softmax(dim=2) + scores[1].softmax(dim=2)) / 2)


def test_a_rounds_profile_is_all_of_it(monkeypatch):
    row = test.EXPERIMENTS["posterior_2s"] | dict(epochs=2, copies=1)
    monkeypatch.setitem(test.EXPERIMENTS, "posterior_2s", row)
    start = time.perf_counter()
    spent = benchmark.round_profile(0)
    elapsed = time.perf_counter() - start
    kinds = "pairs", "distortion", "forward", "loss, backward", "optimizer", "tests", "the rest"
    assert spent.keys() == set(kinds) and min(spent.values()) > 0
    assert 0.9 * elapsed < sum(spent.values()) <= elapsed
    rounds = [{"a": 0.003, "b": 0.001}, {"a": 0.009, "b": 0.003}]
    assert list(numbers.profile_rows(rounds)) == [["a", "75"], ["b", "25"]]


def test_steps_from_the_textbook_to_test_py():
    """All of them train (compiling takes too long); medians of two repeats by hand."""
    row = benchmark.benchmark()["siamese_al"] | dict(epochs=1)
    for _, _, layout, fused in benchmark.STEPS.values():
        if layout != "compiled":
            assert benchmark.textbook_round(row, 0, 100, 1, layout, fused) > 0
    repeats = [{"x": {"a": 3.0, "b": 1.0}}, {"x": {"a": 5.0, "b": 1.0}}]
    assert list(numbers.step_rows(repeats)) == [["a", "4.00"], ["b", "1.00"]]


SHORT = test.EXPERIMENTS["sub_lenet5_ws_al"] | dict(epochs=1, reported=None)
RUN = partial(test.run_job, device="cpu")


def test_only_what_is_missing_is_trained(tmp_path, monkeypatch, capsys):
    """By row, pairs and arguments; what has others stays in the log. Rounds of other code count,
    and are told."""
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    complete = partial(files.complete, folder=tmp_path)
    path = tmp_path / "some.jsonl"
    complete("some", {"short": SHORT}, 2, RUN, 2)
    first = path.read_text()
    assert first.count("\n") == 2
    complete("some", {"short": SHORT}, 2, RUN)
    assert path.read_text() == first and "other" not in capsys.readouterr().err
    path.write_text(first.replace(test.digest(), "anothercode0"))
    complete("some", {"short": SHORT, "more": SHORT}, {"short": 2, "more": 1}, RUN)
    assert path.read_text().count("\n") == 3
    assert "another version of the core, anothercode0" in capsys.readouterr().err
    found = read("some")["models"]
    assert found["more"]["test_error"] == [found["short"]["test_error"][0], None]
    complete("some", {"short": SHORT | dict(batch_size=100)}, 1, RUN)
    complete("some", {"short": SHORT}, 1, RUN, pairs=500)
    assert path.read_text().count("\n") == 5


def test_nothing_is_missing_from_what_is_committed(tmp_path, monkeypatch, capsys):
    """What python -m report goes through: no round is to be trained, no file to be changed."""

    def train(*_, **__):
        raise AssertionError

    shutil.copytree(files.RESULTS, tmp_path / "results")
    monkeypatch.setattr(test, "run_in_workers", train)
    monkeypatch.setattr(test, "keep", train)
    report.__main__.complete_all(20, 1, folder=tmp_path / "results")
    for path in (ROOT / "report" / "results").iterdir():
        assert (tmp_path / "results" / path.name).read_bytes() == path.read_bytes()


def refusal(main, capsys, *argv):
    """The one line that a command says as it refuses its arguments, or cannot go on."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr("sys.argv", ["report", *map(str, argv)])
        main()
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and said.startswith("report: ")
    return said


def test_what_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report.__main__, "complete_all", lambda *_: None)  # trains nothing
    monkeypatch.setattr(figures, "FOLDER", tmp_path / "figures")
    (tmp_path / "figures").write_text("a file")
    assert "figures" in refusal(report.__main__.main, capsys)
    path = tmp_path / "figure.svg"
    path.write_text("old")

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"figure\.svg cannot be written \(No space left on device\)"):
        figures.draw(figures.wrong, path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 2


def test_the_number_of_rounds_is_heard(monkeypatch, capsys):
    heard = []
    monkeypatch.setattr(report.__main__, "complete_all", lambda rounds, *_: heard.append(rounds))
    monkeypatch.setattr("sys.argv", ["report", "main", "--rounds", "3"])
    report.__main__.main()
    assert heard == [3] and "posterior" in capsys.readouterr().out
    assert "no number from 2 up" in refusal(report.__main__.main, capsys, "--rounds", "1")


@pytest.mark.parametrize("options", ["--rounds 1", "--rounds two", "--workers 0", "--round 2", "2"])
def test_wrong_options_take_one_line_and_code_2(options, capsys):
    refusal(report.__main__.main, capsys, *options.split())


def test_curves_of_a_log(tmp_path, monkeypatch, capsys):
    """An SVG beside it, with a title for each model; of a file that is no log none."""
    row = {key: x for key, x in SHORT.items() if key != "reported"} | dict(epochs=2)
    settings, path = test.settings_of("own", row, 100, "cpu"), tmp_path / "own.jsonl"
    for seed in range(2):
        test.append(RUN((settings, row, seed)), path)
    for picture in ("own.svg", "own.png"):
        monkeypatch.setattr(
            "sys.argv", ["curves", str(path), str(tmp_path / picture), "--together"]
        )
        curves.main()
        assert capsys.readouterr().out == f"{tmp_path / picture}\n"
    assert "own, 2 rounds" in (tmp_path / "own.svg").read_text()
    assert (tmp_path / "own.png").read_bytes().startswith(b"\x89PNG")
    header, *_, last, _ = show.tables(path)
    assert "100 pairs" in header and last.startswith("own ") and "±" in last
    other = tmp_path / "none.json"
    assert "none.json" in refusal(curves.main, capsys, other)
    for text in ("", "{}"):
        other.write_text(text)
        assert "none.json" in refusal(curves.main, capsys, other)
    assert not other.with_suffix(".svg").exists()


def test_expected_calibration_error_by_hand():
    """Four pairs say 0.9, of which three have a ≤ b, and four say 0.3, of which two have: gaps of
    0.15 and -0.2."""
    probability = torch.tensor([0.9] * 4 + [0.3] * 4).double()
    target = torch.tensor([1, 1, 1, 0, 1, 1, 0, 0])
    rounds = [measures.calibration(probability, target)]
    assert measures.expected_calibration_error(rounds) == pytest.approx(0.175)


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


def test_differences_from_reported_means_by_hand():
    """Errors of 19 and 21%: deviation √2 points, standard error √2 (1/15 + 1/2)^½ = 1.065 points,
    and Student's t of one degree of freedom is tan(0.475 π)."""
    gap, half = numbers.difference(0.79, [0.19, 0.21])
    expected = math.sqrt(2) * math.sqrt(1 / 15 + 1 / 2) * math.tan(0.475 * math.pi)
    assert gap == pytest.approx(1) and half == pytest.approx(expected)
    # a cell that stands in both grids counts once; one is within its interval, one above it
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
    """1000 pairs would be those of main.jsonl; judged on every test image once."""
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


def test_the_readme_shows_the_results():
    """All lines of the table, one after the other, in a block of their own."""
    found = {}
    for text in (files.RESULTS / "main.jsonl").read_text().splitlines():
        line = json.loads(text)
        found[line["row"], line["seed"]] = line
    settings = {name: found[name, 0] for name in test.EXPERIMENTS}
    text = "\n".join(test.table(settings, range(20), found, as_reported=True))
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
