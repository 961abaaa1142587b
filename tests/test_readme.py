"""The README's numbers and commands against the results files and the program."""

import json
import re
from pathlib import Path

import test
from report import ablation, closed_form, gains, search

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def results(name):
    return json.loads((ROOT / "report" / "results" / f"{name}.json").read_text())


def assert_shown(lines):
    """The README has these lines, one after the other, in a block of their own."""
    text = "\n".join(lines)
    assert f"\n```\n{text}\n```\n" in README


def test_the_results_are_a_complete_default_run():
    main = results("main")
    assert main["complete"] is True
    assert main["environment"]["rounds"] == 20 and main["environment"]["seed"] == 0
    assert list(main["models"]) == list(test.EXPERIMENTS)
    for key, entry in main["models"].items():
        assert entry["hyperparameters"] == test.read_row(key)
        assert entry["diverged"] == [False] * 20


def test_the_table_is_the_results_file():
    main = results("main")
    assert_shown(test.table(main))
    assert_shown(gains.gains(main["models"]))


def test_the_ablation_is_its_results_file():
    entries = results("ablation")["models"]
    models, rows = ablation.steps()
    assert list(models) == list(entries)
    for name, row in rows.items():
        assert tuple(entries[name]["hyperparameters"].values()) == row
    assert_shown(ablation.table(entries))


def test_the_ablation_ends_at_the_reported_rounds():
    """Its first and last steps are two models of the main table: the very same errors."""
    main, entries = results("main")["models"], results("ablation")["models"]
    for name, key in (("siamese_al", "siamese_al"), ("label smoothing", "posterior")):
        errors = entries[name]["test_error"]
        assert len(errors) >= 10 and errors == main[key]["test_error"][: len(errors)]


def test_the_closed_form_is_its_results_file():
    main, rounds = results("main")["models"], results("closed_form")
    assert_shown(closed_form.table(rounds))
    for key in rounds:  # the same trainings as in the main table
        own = [rounds[key][str(seed)]["error"]["own"] for seed in range(20)]
        assert own == main[key]["test_error"]


def test_the_search_is_its_results_file():
    found = results("search")
    assert_shown(search.table(found))
    assert set(found) <= set(search.VARIANTS)
    for name, entry in found.items():
        assert entry["settings"] == search.CHOSEN | search.VARIANTS[name]
        assert all(int(seed) >= 1_000_000 for seed in entry["trials"])


def test_what_the_search_chose_is_the_row_and_the_model():
    row = test.read_row("posterior")
    assert all(search.CHOSEN[name] == value for name, value in row.items() if name != "rotation")
    chosen, model = search.build(search.CHOSEN["net"]), test.MODELS["posterior"]()
    assert [p.shape for p in chosen.parameters()] == [p.shape for p in model.parameters()]
    assert str(chosen.digit_net) == str(model.digit_net)


def test_the_benchmark_is_the_committed_output():
    assert_shown((ROOT / "report" / "results" / "benchmark.txt").read_text().rstrip().splitlines())


def test_every_option_is_in_the_readme(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["test.py", "--help"])
    try:
        test.main()
    except SystemExit as stop:
        assert stop.code == 0
    options = set(re.findall(r"--\w+", capsys.readouterr().out)) - {"--help"}
    assert len(options) == 7
    assert all(f"`{option} " in README for option in options)
