"""test.py as it is used: from the command line, and with its table edited."""

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import models
import test
from data import generate_pair_sets
from models import Model, Shared, TwoLogits, trunk

ROOT = Path(__file__).parent.parent


def run(*options, script=ROOT / "test.py", **settings):
    """Run test.py with `options`; the finished process."""
    command = [sys.executable, script, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, **settings)


def results(path, *options, **where):
    """The results file that test.py writes to `path` with `options`."""
    done = run(*options, "--output", path, **where)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    """Two models, two rounds, one epoch, two workers, seed 5: process, results file, weights."""
    folder = tmp_path_factory.mktemp("two_models")
    path, weights = folder / "results.json", folder / "new" / "weights"
    done = run(
        *("--models", "sub_lenet5_ws_al", "siamese_al", "--rounds", 2, "--epochs", 1, "--seed", 5),
        *("--workers", 2, "--device", "cpu", "--output", path, "--save", weights),
    )
    assert done.returncode == 0, done.stderr
    return done, json.loads(path.read_text()), weights


def by_round(results, key):
    """All that is kept of a model's rounds but for how long they took."""
    return {k: v for k, v in results["models"][key].items() if k != "seconds"}


# The results file


def test_results_file(two_models):
    results = two_models[1]
    assert results["complete"] is True
    environment = results["environment"]
    assert environment["torch"] == torch.__version__ and re.match(
        "[0-9a-f]{12}$", environment["code"]
    )
    assert (environment["device"], environment["workers"], environment["pairs"]) == ("cpu", 2, 1000)
    assert (environment["seed"], environment["rounds"]) == (5, 2)
    assert list(results["models"]) == ["sub_lenet5_ws_al", "siamese_al"]
    siamese = results["models"]["siamese_al"]
    assert siamese["parameters"] == 71076
    assert siamese["hyperparameters"] == {
        "model": "siamese",
        "optimizer": "Adam",
        "learning_rate": 0.001,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "schedule": "constant",
        "lowest_rate": 1e-4,
        "batch_size": 100,
        "epochs": 1,
        "comparison_weight": 1.0,
        "digit_weight": 1,
        "label_smoothing": 0.0,
        "rotation": 5,
        "copies": 0,
        "distort": "distort",
    }
    for name in ("test_error", "best_test_error", "seconds"):
        assert len(siamese[name]) == 2 and all(value > 0 for value in siamese[name])
    assert siamese["test_error_by_epoch"] == [[error] for error in siamese["test_error"]]
    assert siamese["learning_rate"] == [[0.001], [0.001]]
    for name in ("loss", "train_error"):
        assert len(siamese[name]) == 2 and all(value > 0 for (value,) in siamese[name])
    assert siamese["diverged"] == [False, False]
    # an epoch of digit labels is enough to beat chance, 45%, by far
    assert all(error < 0.3 for error in results["models"]["sub_lenet5_ws_al"]["test_error"])


def test_a_device_that_takes_no_stack_trains_round_by_round(capsys):
    """As a CPU does in float32, with oneDNN's layout; the LeNets, without it, could."""
    options = SimpleNamespace(models=["sub_lenet5_ws_al"], epochs=1, pairs=1000, seed=0)
    rows, stack = test.check_rows(options, "cpu", 3)
    assert stack == 3 and list(rows) == ["sub_lenet5_ws_al"] and capsys.readouterr().err == ""
    if models.platform.machine() in ("x86_64", "AMD64"):
        options.models = ["sub_lenet5_ws_al", "siamese"]
        rows, stack = test.check_rows(options, "cpu", 3)
        said = capsys.readouterr().err
        assert stack == 1 and "cpu trains round by round, as a stack siamese fails" in said
        assert said.count("\n") == 1 and list(rows) == options.models


def test_what_is_printed(two_models):
    done, results, _ = two_models
    lines = done.stdout.splitlines()
    assert f"torch {torch.__version__}" in lines[0]
    assert "device cpu, workers 2, seed 5, rounds 2, pairs 1000" in lines[0]
    assert "\n".join(test.table(results)).splitlines() == lines[:-2]
    told = done.stderr.splitlines()
    assert told[0] == "models: 2, rounds: 2, cpu; checking every row" and len(told) == 5
    for name, entry in results["models"].items():
        for r, error in enumerate(entry["test_error"]):
            assert any(
                line.startswith(f"{name}, round {r}: {100 * error:.2f} %; ") for line in told
            )
    assert "4 of 4 done, about 0:00 left" in told[-1]


def test_an_edited_experiment_has_no_reported_figure(two_models, tmp_path):
    """Its epochs or pairs are not the report's; what the table prints stands in the row."""
    assert [entry["reported"] for entry in two_models[1]["models"].values()] == [None, None]
    rows = {"siamese": test.EXPERIMENTS["siamese"]}
    entry = test.new_results(rows, "cpu", 1, 0, 1, 1000)["models"]["siamese"]
    assert entry["reported"] == 17.0 and entry["hyperparameters"]["epochs"] == 25


def test_fewer_pairs(tmp_path):
    options = ("--models", "sub_lenet5_ws_al", "--rounds", 1, "--pairs", 30, "--device", "cpu")
    found = results(tmp_path / "few.json", *options)
    assert found["environment"]["pairs"] == 30
    entry = found["models"]["sub_lenet5_ws_al"]
    assert entry["reported"] is None and len(entry["loss"][0]) == 25
    for measure in ("train_error", "test_error_by_epoch"):
        assert all(30 * x == pytest.approx(round(30 * x)) for x in entry[measure][0])


def test_saved_weights_give_the_error_again(two_models):
    """Of the pairs of the round that the file's name names, the error that the results have."""
    _, results, folder = two_models
    assert {path.name for path in folder.iterdir()} == {
        f"{name}-{seed}.pt" for name in ("siamese_al", "sub_lenet5_ws_al") for seed in (5, 6)
    }
    model = models.siamese()
    model.load_state_dict(torch.load(folder / "siamese_al-6.pt", weights_only=True))
    *_, test_input, test_target, _ = generate_pair_sets(1000, torch.Generator().manual_seed(6))
    with torch.no_grad():
        comparison, _ = model.eval()(test_input)
    error = ((comparison > 0) != test_target.bool()).double().mean().item()
    assert error == pytest.approx(results["models"]["siamese_al"]["test_error"][1], abs=0.0011)


# A round stands alone


@pytest.mark.parametrize("key", ["siamese_al", "sub_lenet5_ws_al"])
def test_alone_and_with_another_number_of_workers_the_numbers_are_the_same(
    key, two_models, tmp_path
):
    options = ("--models", key, "--rounds", 2, "--epochs", 1, "--seed", 5)
    alone = results(tmp_path / "alone.json", *options, "--workers", 1, "--device", "cpu:0")
    assert by_round(alone, key) == by_round(two_models[1], key)


def test_spawned_workers_give_the_same_numbers(two_models):
    """As on macOS and Windows, and where there is a GPU: a worker has nothing but its job."""
    row = test.EXPERIMENTS["siamese_al"] | {"epochs": 1}
    jobs = [("siamese_al", row, [seed], 1000, "cpu") for seed in (5, 6)]
    found = {job[2][0]: x for job, x in test.run_in_workers(test.run_rounds, jobs, 2, "spawn")}
    for seed in (5, 6):
        (outcome,) = found[seed]
        for measure in set(outcome) - {"seconds"}:
            assert outcome[measure] == two_models[1]["models"]["siamese_al"][measure][seed - 5]


def test_a_round_can_be_rerun_alone(two_models):
    """Round 1 of seed 5 is round 0 of seed 6; and nothing outside the round has a part in it."""
    row = test.EXPERIMENTS["siamese_al"] | {"epochs": 1}
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = test.run_rounds("siamese_al", row, [6], 1000, "cpu")[0]["test_error"]
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(10)
    assert test.run_rounds("siamese_al", row, [6], 1000, "cpu")[0]["test_error"] == first
    assert two_models[1]["models"]["siamese_al"]["test_error"][1] == first


def test_dropout_is_of_the_round_too():
    """Layers that draw as they run, like those that draw their weights, draw from the seed."""

    def dropping():
        return Model(
            Shared(torch.nn.Sequential(trunk(1, 10), torch.nn.Dropout(0.5))), TwoLogits(20, 2)
        )

    rounds = []
    for _ in range(2):
        torch.rand(7)
        rounds.append(
            test.run_rounds("own", dict(model=dropping, epochs=2), [3], 50, "cpu")[0]["loss"]
        )
    assert rounds[0] == rounds[1]


def test_rounds_have_data_and_weights_of_their_own(monkeypatch):
    """What reaches training: the course's pairs under the round's seed, and fresh weights."""
    seen = []

    def spy(model, train_set, test_set, generator, **arguments):
        weights = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        seen.append((weights, [*train_set, *test_set], generator.initial_seed(), arguments))
        return {"loss": [1.0], "test_error": [0.0]}

    monkeypatch.setattr(test, "train", spy)
    for seed in (3, 4, 3):
        test.run_rounds("siamese", test.EXPERIMENTS["siamese"], [seed], 1000, "cpu")
    torch.manual_seed(3)
    expected = generate_pair_sets(1000)
    for weights, pairs, order_seed, arguments in (seen[0], seen[2]):
        assert torch.equal(weights, seen[0][0]) and order_seed == seen[0][2]
        assert all(torch.equal(ours, course) for ours, course in zip(pairs, expected, strict=True))
        assert arguments == {"rotation": 5}
    assert not torch.equal(seen[1][0], seen[0][0]) and seen[1][2] != seen[0][2]
    assert not torch.equal(seen[1][1][0], seen[0][1][0])


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_rounds_trained_together_are_the_rounds_trained_alone(tmp_path):
    """As on an accelerator, here in float64 (see Stack); also their weights, each in a file."""

    def siamese():
        return models.siamese().double()

    def in_float64(nb, generator):
        sets = generate_pair_sets(nb, generator)
        return [x.double() if x.is_floating_point() else x for x in sets]

    row = dict(model=siamese, rotation=5, epochs=2)
    together = test.run_rounds("own", row, [3, 4], 100, "cpu", tmp_path, draw=in_float64)
    for seed, outcome in zip([3, 4], together, strict=True):
        alone = test.run_rounds("own", row, [seed], 100, "cpu", draw=in_float64)[0]
        for measure in set(alone) - {"seconds"}:
            assert outcome[measure] == pytest.approx(alone[measure], rel=1e-6), measure
    a, b = (torch.load(tmp_path / f"own-{seed}.pt", weights_only=True) for seed in (3, 4))
    assert all(not torch.equal(a[name], b[name]) for name in a if name.endswith("weight"))
    assert (tmp_path / "own-3.pt").stat().st_size < 1.3 * 71076 * 8  # not the whole stack's


def test_ranks_share_the_rounds(two_models, tmp_path):
    """torchrun's three processes for two jobs: the numbers of a run with workers, printed once."""
    path = tmp_path / "results.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=3", ROOT / "test.py", "--rounds", "1", "--epochs", "1"]
    command += ["--models", "siamese_al", "sub_lenet5_ws_al", "--seed", "5", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--output", path, "--save", tmp_path / "weights"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("siamese_al") == 1 and done.stderr.count("checking every row") == 1
    found = json.loads(path.read_text())
    assert found["complete"] is True and found["environment"]["workers"] == 3
    for key in found["models"]:
        for measure, values in by_round(found, key).items():
            whole = two_models[1]["models"][key][measure]
            assert values == (whole[:1] if isinstance(values, list) else whole)
    assert len(list((tmp_path / "weights").iterdir())) == 2


@pytest.mark.parametrize("world", [2, 4, 8])
def test_ranks_have_nearly_the_same_work(world, monkeypatch, tmp_path):
    """All rows for 20 rounds, each rank taking the next job when it has done one, by the seconds
    that results were measured to take: 95% of the ranks' time are work."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda url: iter([("store", 0, world)]))
    monkeypatch.setattr(test, "check_rows", lambda *_: (test.EXPERIMENTS, 1))
    taken = []
    monkeypatch.setattr(
        test, "run_under_torchrun", lambda _, jobs, *rest: (taken.append(job) for job in jobs)
    )
    monkeypatch.setattr(test, "keep", lambda finished, *_: list(finished))
    path = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["test.py", "--device", "cpu", "--output", str(path)])
    with pytest.raises(SystemExit) as stop:
        test.main()
    assert stop.value.code == 0
    measured = json.loads((ROOT / "report" / "results" / "main.json").read_text())["models"]
    jobs = [(name, seed) for name, _, (seed,), *_ in taken]
    assert sorted(jobs) == sorted((name, seed) for name in test.EXPERIMENTS for seed in range(20))
    seconds = [measured[name]["seconds"][seed] for name, seed in jobs]
    ends = [0.0] * world
    for x in seconds:
        ends[ends.index(min(ends))] += x
    assert sum(seconds) > 0.95 * world * max(ends)


# The table, edited


def edited(folder, old, new):
    """A copy of the program in `folder` with a line of its table replaced; the path of test.py."""
    for name in ("test.py", "train.py", "models.py", "data.py"):
        shutil.copy(ROOT / name, folder)
    (folder / "data").symlink_to(ROOT / "data")
    script = folder / "test.py"
    text = script.read_text()
    assert text.count(old) == 1
    script.write_text(text.replace(old, new))
    return script


SIAMESE = "    siamese=dict(model=models.siamese, rotation=5, reported=17.0),\n"


def test_an_edited_row_and_a_sweep(tmp_path):
    """A student's edits in one place: SGD with momentum, batches of 37; and two learning rates."""
    row = (
        '    siamese=dict(model=models.siamese, optimizer="SGD", learning_rate=0.05, momentum=0.9,'
    )
    row += ' schedule="adaptive", batch_size=37, epochs=2),\n'
    row += '    **{f"siamese_{rate}": dict(model=models.siamese, learning_rate=rate, epochs=1)'
    row += " for rate in (0.01, 0.001)},\n"
    script = edited(tmp_path, SIAMESE, row)
    options = (
        "--models",
        "siamese",
        "siamese_0.01",
        "siamese_0.001",
        "--rounds",
        1,
        "--device",
        "cpu",
    )
    entries = results(tmp_path / "edited.json", *options, script=script)["models"]
    settings = entries["siamese"]["hyperparameters"]
    assert (settings["optimizer"], settings["momentum"], settings["batch_size"]) == ("SGD", 0.9, 37)
    assert (
        len(entries["siamese"]["loss"][0]) == 2 and 0 < entries["siamese"]["test_error"][0] < 0.45
    )
    rates = [entries[f"siamese_{rate}"]["learning_rate"] for rate in (0.01, 0.001)]
    assert rates == [[[0.01]], [[0.001]]]


def test_a_new_model(tmp_path, monkeypatch):
    """A function in models.py, or in test.py itself, and a row. No report has a figure for it."""
    row = dict(model=own, optimizer="SGD", learning_rate=0.05, batch_size=200, epochs=1)
    monkeypatch.setitem(test.EXPERIMENTS, "own", row)
    path = tmp_path / "own.json"
    options = ["--models", "own", "--rounds", "1", "--device", "cpu", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", ["test.py", *options])
    with pytest.raises(SystemExit) as stop:
        test.main()
    assert stop.value.code == 0
    entry = json.loads(path.read_text())["models"]["own"]
    assert entry["parameters"] == 71076 and entry["hyperparameters"]["model"] == "own"


def own():
    return Model(Shared(trunk(1, 10)), TwoLogits(20, 2))


def lazy():
    return Model(Shared(nn.Sequential(nn.Flatten(), nn.LazyLinear(10))), TwoLogits(20, 2))


THE_SAME = own()


def test_a_name_that_comes_twice_is_refused_by_python(tmp_path):
    done = run(script=edited(tmp_path, SIAMESE, SIAMESE + SIAMESE))
    assert done.returncode == 1 and "keyword argument repeated: siamese" in done.stderr


def refusal(capsys, *options):
    """What test.py says, after it has said what it does, as it refuses `options`."""
    with pytest.MonkeyPatch.context() as patch:
        device = () if "--device" in options else ("--device", "cpu")
        patch.setattr(sys, "argv", ["test.py", *device, *map(str, options)])
        with pytest.raises(SystemExit) as stop:
            test.main()
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if "checking every row" not in line]
    assert stop.value.code == 2 and printed.out == "" and len(lines) == 1
    assert lines[0].startswith("test.py: ")
    return lines[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--models", "siamesee"], "siamesee"),
        (["--models"], "--models"),
        (["--rounds", "0"], "argument --rounds: '0' is no whole number from 1 to 1000000"),
        (["--rounds", "-3"], "--rounds"),
        (["--rounds", "2.5"], "2.5"),
        (["--rounds", ""], "--rounds"),
        (["--rounds", "1" + "0" * 5000], "--rounds"),
        (["--epochs", "0"], "--epochs"),
        (["--epochs", "many"], "many"),
        (["--pairs", "0"], "--pairs"),
        (["--pairs", "5001"], "cannot draw 5001 pairs from 10000 images"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**40)], "--seed"),
        (["--workers", "0"], "--workers"),
        (["--workers", "10000000"], "--workers"),
        (["--device", "abacus"], "abacus"),
        (["--device", "meta"], "meta"),
        (["--device", ""], "device"),
        (["--output", "no/such/folder/r.json"], "--output no/such/folder/r.json must be a file in"),
        (["--output", "."], "--output . must be a file in a folder that is there, and .json"),
        (["--output", ""], "--output . must be a file"),
        (["--output", "no\nsuch/r.json"], "--output no such/r.json must be a file in"),
        (["--device", "cu\nda"], "--device cu da: "),
        (["--models", "sia\nmese"], r"argument --models: invalid choice: 'sia\nmese'"),
        (["--output", "models.py"], "--output models.py must be a file"),
        (["--output", "long" * 100 + ".json"], "name too long"),
        (["--save", "."], "--save . is not empty"),
        (["--save", "models.py"], "models.py"),
        (["--round", "2"], "--round"),
        (["siamese"], "siamese"),
    ],
)
def test_wrong_options_take_one_line_and_code_2(capsys, options, says):
    few = [] if "--models" in options else ["--models", "sub_lenet5_ws_al"]
    assert says.lower() in refusal(capsys, *options, *few).lower()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has one")
def test_a_device_that_is_not_there(capsys):
    assert "cuda" in refusal(capsys, "--device", "cuda").lower()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (dict(model=own, optimizer="Adamm"), "Adamm"),
        (dict(model=own, learning_rate=-1), "ValueError: Invalid learning rate: -1"),
        (dict(model=own, learning_rat=1), "unexpected keyword argument 'learning_rat'"),
        (dict(model=own, batch_size=0), "batch_size is 0"),
        (dict(model=own, epochs=2.5), "epochs is 2.5"),
        (dict(model=own, schedule="yes"), "schedule is 'yes'"),
        (dict(model=own, comparison_weight=0), "one of the weights above it"),
        (dict(model=own, reported="17"), "format code 'f'"),
        (dict(model=own, reported=math.nan), "not JSON compliant"),
        (dict(model=own, learning_rate=torch.inf), "not JSON compliant"),
        (dict(model=own, reported=torch.tensor(17.0)), "format code 'f'"),
        (dict(model=lazy), "uninitialized parameter"),
        (dict(model=own, lowest_rate="1e-4", schedule="adaptive"), "not supported between"),
        (dict(epochs=1), "KeyError: 'model'"),
        (dict(model="siamese"), "'str' object is not callable"),
        (dict(model=lambda: own()), "lambda"),
        (dict(model=own()), "Model.forward() missing"),
        (dict(model=lambda: THE_SAME), "a function that makes a new one at each call"),
        (dict(model=lambda: Model(Shared(trunk(1, 9)), TwoLogits(20, 2))), "shape"),
        (
            dict(model=lambda: Model(trunk(2, 20), TwoLogits(20, 2))),
            "must return [N] and [N, 2, 10]",
        ),
        (("Adam", 0.01), "tuple"),
        (None, "NoneType"),
    ],
)
def test_a_row_of_nonsense_is_named_in_one_line(capsys, monkeypatch, tmp_path, row, says):
    monkeypatch.setitem(test.EXPERIMENTS, "own", row)
    path = tmp_path / "results.json"
    path.write_text("precious")
    said = refusal(capsys, "--models", "sub_lenet5_ws_al", "own", "--output", path)
    assert said.startswith("test.py: row own: ") and says in said
    assert [p.name for p in tmp_path.iterdir()] == [
        "results.json"
    ] and path.read_text() == "precious"


# Files


def test_an_earlier_results_file_is_moved_aside(tmp_path):
    """Every one of them, beside the file that a link stands for; and the link stays one."""
    link = tmp_path / "link.json"
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "target.json"
    target.write_text("first")
    link.symlink_to(target)
    options = ("--models", "sub_lenet5_ws_al", "--rounds", 1, "--epochs", 1, "--device", "cpu")
    for n in (1, 2):
        done = run(*options, "--output", link)
        aside = tmp_path / "there" / f"target-{n}.json"
        assert done.returncode == 0 and f"the earlier {link} is now {aside}" in done.stderr
        assert link.is_symlink() and json.loads(target.read_text())["complete"] is True
    assert (tmp_path / "there" / "target-1.json").read_text() == "first"
    assert json.loads((tmp_path / "there" / "target-2.json").read_text())["complete"] is True
    assert len(list((tmp_path / "there").iterdir())) == 3


def test_only_a_regular_file_is_replaced(capsys, tmp_path):
    """Not a pipe, say, or the device that a link stands for."""
    pipe, link = tmp_path / "pipe.json", tmp_path / "link.json"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        assert "must be a file" in refusal(capsys, "--output", path)
    link.unlink()
    link.symlink_to(link)
    assert refusal(capsys, "--output", link)


def test_bad_input_leaves_an_existing_results_file_alone(capsys, tmp_path):
    path = tmp_path / "results.json"
    path.write_text("precious")
    refusal(capsys, "--output", path, "--rounds", 0)
    assert path.read_text() == "precious" and len(list(tmp_path.iterdir())) == 1


def test_data_that_cannot_be_had(tmp_path):
    path, nowhere = tmp_path / "results.json", tmp_path / "nowhere"
    path.write_text("precious")
    environment = os.environ | {
        "PYTORCH_DATA_DIR": str(nowhere),
        "http_proxy": "http://localhost:9",
    }
    environment |= {"https_proxy": "http://localhost:9"}
    done = run("--output", path, "--device", "cpu", env=environment)
    said = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and said.startswith("test.py: MNIST's files in ")
    assert str(nowhere) in said and "Traceback" not in done.stderr
    assert path.read_text() == "precious" and len(list(tmp_path.iterdir())) == 1
    assert not nowhere.exists()


def test_a_full_disk_is_found_before_training(tmp_path):
    """No file may be longer than 100 bytes in the end, as on a disk with no more room."""
    limit = (
        "import resource, runpy, sys; sys.path.insert(0, {0!r}); import data; data.load_mnist(); "
    )
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); sys.argv[0] = 'test.py'; "
    limit += "runpy.run_path({0!r} + '/test.py', run_name='__main__')"
    options = [
        "--models",
        "sub_lenet5_ws",
        "--device",
        "cpu",
        "--output",
        tmp_path / "results.json",
    ]
    command = [sys.executable, "-c", limit.format(str(ROOT)), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = done.stderr.splitlines()
    assert done.returncode == 2 and done.stdout == "" and len(said) == 2
    assert said[1].startswith("test.py: ") and "too large" in said[1]
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_half_way_leaves_the_old_results(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    test.write_results(path, {"old": 1})
    whole = Path.write_text

    def half(self, text):
        whole(self, text[: len(text) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space"):
        test.write_results(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1} and len(list(tmp_path.iterdir())) == 1


# Divergence, interrupts, deaths


def test_diverging_rounds_are_counted(tmp_path, monkeypatch, capsys):
    """A rate at which a weight becomes infinite, in the last step or sooner: the row says so, and
    the other model's numbers are as ever."""
    row = test.EXPERIMENTS["siamese"] | dict(optimizer="SGD", batch_size=2000, learning_rate=1e38)
    monkeypatch.setitem(test.EXPERIMENTS, "siamese", row)
    for epochs in (1, 2):
        path = tmp_path / f"{epochs}.json"
        options = ["--models", "siamese", "sub_lenet5_ws_al", "--rounds", "2", "--device", "cpu"]
        options += ["--epochs", str(epochs), "--output", str(path)]
        monkeypatch.setattr(sys, "argv", ["test.py", *options])
        with pytest.raises(SystemExit) as stop:
            test.main()
        assert stop.value.code == 0
        found = json.loads(path.read_text(), parse_constant=pytest.fail)["models"]  # nan is no JSON
        assert found["siamese"]["diverged"] == [True, True]
        assert found["siamese"]["test_error"] == [None, None]
        assert found["sub_lenet5_ws_al"]["diverged"] == [False, False]
        printed = capsys.readouterr()
        line = next(line for line in printed.out.splitlines() if line.startswith("siamese "))
        assert line.split()[2:4] == ["n/a", "n/a"] and line.endswith("2 of 2 rounds diverged")
        assert "siamese, round 0: n/a %" in printed.err


@pytest.fixture
def running(tmp_path):
    """test.py with 20 short rounds to do, some of them done, and the path of its results file."""
    (tmp_path / "output").mkdir()
    path = tmp_path / "output" / "results.json"
    command = [sys.executable, ROOT / "test.py", "--models", "sub_lenet5_ws", "--epochs", "3"]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--workers", "2", "--output", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stderr:
        if "; 3 of 20 done" in line:
            break
    yield process, path
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def assert_all_stopped(process):
    """No process of the group is left, or soon none is."""
    start = time.monotonic()
    with pytest.raises(ProcessLookupError):
        while time.monotonic() - start < 10:
            os.killpg(process.pid, 0)
            time.sleep(0.1)


def assert_kept(path, out):
    """The table and the results file have the same finished rounds."""
    results = json.loads(path.read_text())
    assert results["complete"] is False
    missing = results["models"]["sub_lenet5_ws"]["test_error"].count(None)
    assert 0 < missing <= 17
    assert f"{missing} of 20 rounds missing" in out and "INCOMPLETE" in out


@pytest.mark.parametrize(
    ("send", "number"),  # Ctrl-C goes to all processes, and so may SIGTERM
    [(os.killpg, signal.SIGINT), (os.killpg, signal.SIGTERM), (os.kill, signal.SIGTERM)],
)
def test_an_interrupted_run_keeps_what_is_finished(number, send, running):
    """Also where the signal comes again and again."""
    process, path = running
    start = time.monotonic()
    for _ in range(3):
        send(process.pid, number)
        time.sleep(0.02)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - start < 10
    assert process.returncode == 128 + number and "Traceback" not in err
    assert_kept(path, out)
    assert_all_stopped(process)


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker_stops_the_run_and_keeps_what_is_finished(number, running):
    process, path = running
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    workers = [int(pid) for children in tasks for pid in children.read_text().split()]
    assert len(workers) == 2
    os.kill(workers[0], number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in err
    assert "test.py: stopped by BrokenProcessPool: A process in the process pool was term" in err
    assert_kept(path, out)
    assert_all_stopped(process)


def test_workers_end_with_their_parent(running):
    process, path = running
    process.kill()
    process.wait(timeout=10)
    assert_all_stopped(process)
    results = json.loads(path.read_text())["models"]["sub_lenet5_ws"]
    assert results["test_error"].count(None) <= 17


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are not forked")
@pytest.mark.skipif(torch.accelerator.is_available(), reason="nor are they where there is a GPU")
def test_a_process_that_has_threads_is_not_forked(monkeypatch):
    """Its locks and its OpenMP would hang the workers: these are spawned."""
    methods = []

    def get_context(method):
        methods.append(method)
        raise InterruptedError

    def start():
        with suppress(InterruptedError):
            next(test.run_in_workers(divmod, [(7, 2)], 1))

    monkeypatch.setattr(test.multiprocessing, "get_context", get_context)
    start()
    torch.set_num_threads(2)
    start()
    torch.set_num_threads(1)
    waiting = threading.Event()
    thread = threading.Thread(target=waiting.wait)
    thread.start()
    start()
    waiting.set()
    thread.join()
    start()
    assert methods == ["fork", "spawn", "spawn", "fork"]


@pytest.mark.parametrize("what", [KeyboardInterrupt, SystemExit])
def test_a_model_that_leaves_does_not_look_like_success(what, monkeypatch, tmp_path, capsys):
    """Such as by sys.exit() in forward."""

    def finished(function, jobs, workers):
        yield jobs[0], function(*jobs[0])
        raise what

    monkeypatch.setattr(test, "run_in_workers", finished)
    options = ["--models", "sub_lenet5_ws_al", "--rounds", "2", "--epochs", "1", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["test.py", *options, "--output", str(tmp_path / "r.json")])
    with pytest.raises(SystemExit) as stop:
        test.main()
    assert stop.value.code == 1 and "1 of 2 rounds missing" in capsys.readouterr().out


def test_a_stdout_that_is_no_terminal_and_no_file(tmp_path):
    """As notebooks have it; and the script by a symbolic link."""
    link = tmp_path / "link.py"
    link.symlink_to(ROOT / "test.py")
    script = (
        "import io, runpy, sys; sys.stdout = io.StringIO(); "
        f"sys.argv = {['test.py', '--models', 'sub_lenet5_ws_al', '--rounds', '1']!r}; "
        f"sys.argv += {['--epochs', '1', '--device', 'cpu', '--output']!r}; "
        f"sys.argv += [{str(tmp_path / 'r.json')!r}]; sys.path.insert(0, {str(ROOT)!r}); "
        f"runpy.run_path({str(link)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and "1 of 1 done" in done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["complete"] is True


@pytest.mark.skipif(sys.platform == "win32", reason="it sends itself signals")
@pytest.mark.parametrize("moment", ["as the workers stop", "as the table is printed"])
def test_a_signal_at_the_end_costs_no_table(moment, monkeypatch, tmp_path, capsys):
    """Be it the second one, or the first after all work is done."""

    def finished(function, jobs, workers):
        try:
            yield jobs[0], function(*jobs[0])
            if moment == "as the workers stop":
                os.kill(os.getpid(), signal.SIGTERM)
            yield jobs[1], function(*jobs[1])
        finally:
            os.kill(os.getpid(), signal.SIGINT if moment == "as the workers stop" else 0)

    def table(results):
        if moment == "as the table is printed" and results["complete"]:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(results)

    real = test.table
    monkeypatch.setattr(test, "run_in_workers", finished)
    monkeypatch.setattr(test, "table", table)
    options = ["--models", "sub_lenet5_ws_al", "--rounds", "2", "--epochs", "1", "--device", "cpu"]
    path = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["test.py", *options, "--output", str(path)])
    test.on_signals(test.stop, test.stop)
    with pytest.raises(SystemExit) as stop:
        test.main()
    out, stopped = capsys.readouterr().out, moment == "as the workers stop"
    assert stop.value.code == (143 if stopped else 0)
    assert ("1 of 2 rounds missing" in out) is stopped and f"in {path}" in out


def test_a_rank_that_is_stopped_tells_first_what_others_have_finished():
    """Rank 0 is stopped in its second job, the third; meanwhile another has done the second."""

    class Store(dict):
        def add(self, key, number):
            self[key] = self.get(key, 0) + number
            return self[key]

        def set(self, key, value):
            self[key] = value

        def check(self, keys):
            return all(key in self for key in keys)

    def function(name):
        if name == "first":
            store.add("taken", 1)
        if name == "third":
            store.set("1", json.dumps("of another rank"))
            sys.exit(143)
        return "of rank 0"

    store, told = Store(), []
    jobs = [("first",), ("second",), ("third",), ("fourth",)]
    with pytest.raises(SystemExit):
        for done in test.run_under_torchrun(function, jobs, store, 0):
            told.append(done)
    assert told == [(("first",), "of rank 0"), (("second",), "of another rank")]


@pytest.mark.skipif(sys.platform == "win32", reason="it forks")
def test_what_a_model_raises_reaches_the_parent_whatever_it_is(monkeypatch):
    """An exception that can be sent, but not received: its class takes two arguments."""

    class Odd(Exception):
        def __init__(self, one, two):
            super().__init__(one)

    def fail(*job):
        raise Odd("what went wrong", 2)

    monkeypatch.setattr(test, "run_rounds", fail)
    with pytest.raises(RuntimeError, match=r"^row own: Odd: what went wrong$"):
        list(test.run_in_workers(test.run_row, [("own", {}, [0])], 1, "fork"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are not forked")
def test_a_signal_while_workers_start_is_not_lost():
    """It comes as Python forks, where what its handler raises is discarded: here in a callback."""
    script = (
        "import os, signal, test; test.load_mnist(); test.on_signals(test.stop, test.stop); "
        "os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM)); "
        "list(test.run_in_workers(print, [('a worker has been at work',)], 1, 'fork'))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM) and err == ""
    assert_all_stopped(process)


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such locks and signals")
def test_a_second_run_to_one_output_is_refused(running, capsys):
    """By whatever name; and the first one, which rests meanwhile, goes on."""
    process, path = running
    os.killpg(process.pid, signal.SIGSTOP)
    before = path.read_text()
    link = path.parent.parent / "link.json"
    link.symlink_to(path)
    for name in (path, link):
        said = refusal(capsys, "--models", "sub_lenet5_ws", "--output", name)
        assert said.startswith(f"test.py: another run writes to {name}: wait for it, or ")
    assert path.read_text() == before
    os.killpg(process.pid, signal.SIGCONT)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert_kept(path, out)


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_progress_that_nobody_can_read_costs_no_result(tmp_path):
    """The other end of a pipe, gone; a log that is closed. The table is printed alone, even where
    it takes only ASCII."""
    for stderr in ("2> >(head -n 1 > /dev/null)", "2>&-"):
        done, path = shell(tmp_path, stderr, "PYTHONIOENCODING=ascii")
        lines = done.stdout.splitlines()
        assert done.returncode == 0 and lines[-1] == f"results in {path}"
        assert lines[0].startswith("torch ") and len(lines) == 7
        assert re.search(r"59,288 +\d+\.\d\d \? \d+\.\d\d +", lines[4])


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_a_table_that_nobody_can_read_costs_no_result(tmp_path):
    done, path = shell(tmp_path, ">/dev/full")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("test.py: the table cannot be printed") and str(path) in said
    assert shell(tmp_path, ">&- 2>&-")[0].returncode == 0


def test_python_without_docstrings_and_assertions(monkeypatch, capsys):
    """As python -OO takes them away."""
    monkeypatch.setattr(test, "__doc__", None)
    monkeypatch.setattr(sys, "argv", ["test.py", "--help"])
    with pytest.raises(SystemExit):
        test.main()
    assert "--rounds N" in capsys.readouterr().out
    for name in ("data", "models", "train", "test"):
        assert not re.search(r"^\s*assert\b|__doc__\.", (ROOT / f"{name}.py").read_text(), re.M)


def test_too_few_open_files_are_told_as_such(monkeypatch, tmp_path, capsys):
    def pool(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(test, "ProcessPoolExecutor", pool)
    options = ["--models", "sub_lenet5_ws_al", "--rounds", "2", "--epochs", "1", "--device", "cpu"]
    path = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["test.py", *options, "--output", str(path)])
    with pytest.raises(SystemExit) as stop:
        test.main()
    out, err = capsys.readouterr()
    assert stop.value.code == 1 and "2 of 2 rounds missing" in out and "INCOMPLETE" in out
    assert "Too many open files" in err.splitlines()[-1]


def shell(folder, redirection, before=""):
    """A short run in bash, with streams redirected: what is done, and its results file."""
    path = folder / "results.json"
    command = f"{before} {sys.executable} {ROOT}/test.py --models sub_lenet5_ws_al"
    command += f" --rounds 2 --epochs 1 --device cpu --output {path} {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert json.loads(path.read_text())["complete"] is True
    return done, path


def test_an_interrupt_does_not_wait_for_long_rounds(tmp_path):
    """Rounds of minutes, stopped after seconds."""
    path = tmp_path / "results.json"
    command = [sys.executable, ROOT / "test.py", "--models", "siamese", "--epochs", "500"]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--output", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(200):
        if path.exists():
            break
        time.sleep(0.2)
    time.sleep(2)
    process.terminate()
    out, err = process.communicate(timeout=10)
    assert process.returncode == 143 and "Traceback" not in err
    assert "20 of 20 rounds missing" in out and json.loads(path.read_text())["complete"] is False


@pytest.mark.skipif(sys.platform == "win32", reason="it needs resource")
def test_memory_does_not_grow_from_round_to_round():
    """In a process of its own, as the peak is that of all it ever did."""
    script = (
        "import resource, torch, test; torch.set_num_threads(1)\n"
        "row = test.EXPERIMENTS['siamese'] | {'epochs': 1, 'batch_size': 500}\n"
        "for seed in range(8):\n"
        "    test.run_rounds('siamese', row, [seed], 1000, 'cpu')\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    peaks = [int(line) for line in done.stdout.split()]
    assert len(peaks) == 8 and peaks[-1] - peaks[2] < 0.02 * peaks[2]
