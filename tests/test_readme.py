"""The README's numbers and commands against the results file and the program."""

import json
import re
from pathlib import Path

import test

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RESULTS = json.loads((ROOT / "report" / "results" / "main.json").read_text())


def test_the_results_are_a_complete_default_run():
    assert RESULTS["complete"] is True
    assert RESULTS["environment"]["rounds"] == 20 and RESULTS["environment"]["seed"] == 0
    assert list(RESULTS["models"]) == list(test.EXPERIMENTS)
    for key, entry in RESULTS["models"].items():
        assert entry["hyperparameters"] == test.read_row(key)
        assert len(test.finished(entry, "test_error")) == 20


def test_the_table_is_the_results_file():
    lines = README.splitlines()
    assert ", ".join(f"{name} {value}" for name, value in RESULTS["environment"].items()) in lines
    for key, entry in RESULTS["models"].items():
        assert test.table_row(key, entry) in lines
    for line in test.answers(RESULTS["models"]):
        assert line in lines


def test_the_benchmark_is_the_committed_output():
    assert (ROOT / "report" / "results" / "benchmark.txt").read_text() in README


def test_every_option_is_in_the_readme(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["test.py", "--help"])
    try:
        test.main()
    except SystemExit as stop:
        assert stop.code == 0
    options = set(re.findall(r"--\w+", capsys.readouterr().out)) - {"--help"}
    assert len(options) == 7
    assert all(f"`{option} " in README for option in options)
