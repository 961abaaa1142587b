"""README, report and figures against the results files, and the results files against each other and the program."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr

import report.__main__
import test
from report import benchmark, experiments, figures, gains, numbers, search, trained
from report.__main__ import typeset
from report.experiments import cell, read

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SOURCE = (ROOT / "report" / "report.typ").read_text()


def assert_shown(lines):
    """The README has these lines, one after the other, in a block of their own."""
    text = "\n".join(lines)
    assert f"\n```\n{text}\n```\n" in README


# The results files


def rows(experiment):
    return {key: row for key, (_, row) in experiment.items()}


@pytest.mark.parametrize("name", ["main", "grids", "floor", "ablation"])
def test_results_are_complete_and_of_the_rows_that_are_here(name):
    results, experiment = read(name), rows(getattr(experiments, name)())
    assert results["environment"]["seed"] == 0
    assert list(results["models"]) == list(experiment)
    for key, entry in results["models"].items():
        assert entry["hyperparameters"] == experiment[key]
        assert len(entry["test_error"]) == 20 and entry["diverged"] == [False] * 20
        for last, best, errors in zip(*(entry[m] for m in test.MEASURES[:3]), strict=True):
            assert last == errors[-1] and best == min(errors) and len(errors) == 25


def test_the_same_training_has_the_same_errors_everywhere():
    """Bit by bit: what trained.json trains again; and the adaptive rate of sub_lenet5_ws, which starts at its floor
    and therefore is constant."""
    main, again, grids = (read(name)["models"] for name in ("main", "trained", "grids"))
    for key, entry in again.items():
        assert entry["test_error"] == main[key]["test_error"]
    adaptive, constant = main["sub_lenet5_ws"], grids[cell("sub_lenet5_ws", 1e-4, 100)]
    assert adaptive["test_error_by_epoch"] == constant["test_error_by_epoch"]


def test_the_search_used_the_settings_and_seeds_it_says():
    found = read("search")
    assert found["environment"]["seed"] == search.FIRST_SEED == 1_000_000
    assert list(found["models"]) == list(search.VARIANTS)
    for name, entry in found["models"].items():
        assert entry["hyperparameters"] == search.CHOSEN | search.VARIANTS[name]


def test_what_the_search_chose_is_the_row_and_the_model():
    row = test.read_row("posterior")
    assert all(search.CHOSEN[name] == value for name, value in row.items() if name != "rotation")
    chosen, model = search.build(search.CHOSEN["net"]), test.MODELS["posterior"]()
    assert [p.shape for p in chosen.parameters()] == [p.shape for p in model.parameters()]
    assert str(chosen.net) == str(model.net)


def test_what_the_reports_say():
    """Report 1's grids are means of 15 test sets of 1000 pairs; test.py's table shows the figures at its settings."""
    grids = numbers.REPORTED
    for means in (*grids["rates"].values(), *grids["batch_sizes"].values()):
        assert all(math.isclose(15000 * mean, round(15000 * mean), abs_tol=0.01) for mean in means)
    for n, key in enumerate(experiments.REPORT_1):
        accuracy = grids["batch_sizes"][str(test.read_row(key)["batch_size"])][n]
        assert test.REPORTED[key] == pytest.approx(100 * (1 - accuracy), abs=0.005)
    for key, (error, *_) in grids["table_2"].items():
        assert test.REPORTED[key] == 100 * error


# How they are completed


def test_only_what_is_missing_is_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiments, "RESULTS", tmp_path)
    experiment = {
        "short": (
            test.MODELS["sub_lenet5_ws_al"],
            test.read_row("sub_lenet5_ws_al") | {"epochs": 1},
        )
    }
    experiments.complete("some", experiment, 2, workers=2)
    path, first = tmp_path / "some.json", experiments.read("some")
    assert first["complete"] and first["environment"]["rounds"] == 2
    written = path.stat().st_mtime_ns
    experiments.complete("some", experiment, 2, workers=2)  # nothing to do
    assert path.stat().st_mtime_ns == written
    marked = json.loads(path.read_text())
    marked["models"]["short"]["test_error"] = [0.5, None]  # as if stopped after the first round
    test.write_results(path, marked)
    assert (
        experiments.read("some")["models"]["short"]["seconds"]
        == first["models"]["short"]["seconds"][:1]
    )
    experiments.complete("some", experiment, 2, workers=2)
    assert experiments.read("some")["models"]["short"]["test_error"] == [
        0.5,
        first["models"]["short"]["test_error"][1],
    ]
    other = {"short": (experiment["short"][0], experiment["short"][1] | {"batch_size": 100})}
    experiments.complete("some", other, 1, workers=2)  # another row: run anew
    entry = experiments.read("some")["models"]["short"]
    assert entry["hyperparameters"]["batch_size"] == 100 and len(entry["test_error"]) == 1
    assert "short" not in test.MODELS


def test_a_damaged_results_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "RESULTS", tmp_path)
    for text in ("", "{", "[]", "{}", '{"models": {}}'):
        (tmp_path / "main.json").write_text(text)
        with pytest.raises(ValueError, match=r"main\.json is damaged"):
            experiments.complete("main", {}, 1)


@pytest.mark.parametrize(
    "options", [["--rounds", "1"], ["--rounds", "two"], ["--workers", "0"], ["--round", "2"], ["2"]]
)
def test_wrong_options_take_one_line_and_code_2(options, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["report", *options])
    with pytest.raises(SystemExit) as stop:
        report.__main__.main()
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and printed.startswith("report: ") and printed.count("\n") == 1


# What is computed from them, by hand


def test_expected_calibration_error_by_hand():
    """Four pairs say 0.9, of which three have a ≤ b, and four say 0.3, of which two have: gaps 0.15 and -0.2."""
    probability = torch.tensor([0.9] * 4 + [0.3] * 4).double()
    target = torch.tensor([1, 1, 1, 0, 1, 1, 0, 0])
    assert trained.expected_calibration_error(
        [trained.calibration(probability, target)]
    ) == pytest.approx(0.175)


def test_order_of_digits_by_hand():
    """Means on a line, far from the origin, in numeric order; and in an order whose rank correlation scipy knows."""
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
    """Errors of 19 and 21%: deviation √2 points, standard error of the difference √2 (1/15 + 1/2)^½ = 1.065 points."""
    assert numbers.agrees(0.80 - 0.0212, [0.19, 0.21]) and not numbers.agrees(
        0.80 - 0.0214, [0.19, 0.21]
    )


# README and report


def test_the_readme_shows_the_results():
    main = read("main")
    assert_shown(test.table(main))
    assert_shown(gains.gains(main["models"], gains.REPORT_2 + gains.OWN_SETTINGS))
    assert_shown(benchmark.table(read("benchmark")))


def test_every_option_is_in_the_readme(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["test.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        test.main()
    assert stop.value.code == 0
    options = set(re.findall(r"--\w+", capsys.readouterr().out)) - {"--help"}
    assert len(options) == 7
    assert all(f"`{option} " in README for option in options)


def test_every_figure_is_drawn_from_the_results_that_are_here():
    for function in figures.FIGURES:
        path = figures.FOLDER / f"{function.__name__}.svg"
        assert figures.sources() in path.read_text(), f"{path} is stale: python -m report"
    assert {path.name for path in figures.FOLDER.iterdir()} == {
        f"{f.__name__}.svg" for f in figures.FIGURES
    }


def test_the_pdf_is_what_the_results_give():
    assert typeset() == (ROOT / "report" / "report.pdf").read_bytes(), (
        "report.pdf is stale: python -m report"
    )
    assert len(typeset(format="png", ppi=10)) <= 3


def test_no_result_is_typed_into_the_report():
    """Results have two decimals, or are read from `n`."""
    text = re.sub(r"//.*", "", SOURCE)
    typed = re.findall(r"(?<![\w.])\d+\.\d{2,}(?!\d*(?:cm|em|pt|fr))", text)
    assert set(typed) <= {"0.01", "0.0001", "0.05"}  # settings
