"""test.py as it is used: from the command line, and with its table edited."""

import functools
import hashlib
import itertools
import json
import multiprocessing
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
from train import train_round

ROOT = Path(__file__).parent.parent
PAIRS = functools.partial(generate_pair_sets, 1000)
SHORT = ("--models", "sub_lenet5_ws_al", "--rounds", 2, "--epochs", 1, "--device", "cpu")


def run(*options, script=ROOT / "test.py", **settings):
    """Run test.py with `options`; the finished process."""
    command = [sys.executable, script, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, **settings)


def read(path):
    """A log's lines, strictly: no NaN, no line that is cut."""
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def main(*options, code=0):
    """Run test.main with `options` in this process, which must leave it with `code`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["test.py", "--device", "cpu", *map(str, options)])
        try:
            test.main()
        except SystemExit as stop:
            assert stop.code == code
        else:
            assert code == 0


def by_round(lines):
    """All that is kept of rounds but for how long they took."""
    return {(x["row"], x["seed"]): {**x, "seconds": None} for x in lines}


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    """Two models, two rounds, one epoch, two workers, seed 5: process, path of the log, weights."""
    folder = tmp_path_factory.mktemp("two_models")
    path, weights = folder / "results.jsonl", folder / "new" / "weights"
    done = run(
        *("--models", "sub_lenet5_ws_al", "siamese_al", "--rounds", 2, "--epochs", 1, "--seed", 5),
        *("--workers", 2, "--device", "cpu", "--output", path, "--save", weights),
    )
    assert done.returncode == 0, done.stderr
    return done, path, weights


# The log


def test_a_line_says_what_it_is_and_what_came_of_it(two_models):
    lines = read(two_models[1])
    assert len(lines) == 4
    line = next(x for x in lines if (x["row"], x["seed"]) == ("siamese_al", 6))
    assert line["arguments"] == {
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
    assert (line["pairs"], line["device"], line["parameters"]) == (1000, "cpu", 71076)
    assert line["torch"] == torch.__version__ and re.match("[0-9a-f]{12}$", line["code"])
    assert line["processor"] == torch.backends.cpu.get_cpu_capability()
    assert line["learning_rate"] == [0.001] and line["diverged"] is False
    for name in ("loss", "train_error", "test_error"):
        assert len(line[name]) == 1 and line[name][0] > 0
    assert line["seconds"] > 0
    # an epoch of digit labels is enough to beat chance, 45%, by far
    assert all(x["test_error"][0] < 0.3 for x in lines if x["row"] == "sub_lenet5_ws_al")


def test_what_is_printed(two_models):
    done, path, _ = two_models
    table = done.stdout.splitlines()
    assert table[0].startswith(f"torch {torch.__version__}, cpu (") and "1000 pairs" in table[0]
    assert [row.split()[0] for row in table[4:6]] == ["sub_lenet5_ws_al", "siamese_al"]
    errors = [100 * x["test_error"][0] for x in read(path) if x["row"] == "siamese_al"]
    assert f"{sum(errors) / 2:.2f} ± {abs(errors[0] - errors[1]) / 2**0.5:.2f}" in table[5]
    assert table[-1] == f"results in {path}"
    told = done.stderr.splitlines()
    assert told[0] == f"{path} has 0 rounds, 4 are to be trained on cpu" and len(told) == 5
    for line in read(path):
        text = f"{line['row']}, round {line['seed']}: {100 * line['test_error'][0]:.2f} %; "
        assert any(one.startswith(text) for one in told)
    assert "4 of 4 done, about 0:00:00 left" in told[-1]


def test_a_run_goes_on_where_it_was(two_models, tmp_path, capsys):
    """What the log has is not trained again, and stays as it is; what it lacks is the same as in
    one run; half a last line, of a run that was killed as it wrote, is told and trained again."""
    path = tmp_path / "any name"
    options = ("--models", "sub_lenet5_ws_al", "siamese_al", "--rounds", 2, "--epochs", 1)
    options += ("--seed", 5, "--output", path)
    whole = two_models[1].read_bytes()
    ends = [n + 1 for n, byte in enumerate(whole) if byte == 10]
    for cut in (ends[1], ends[0] + 300, 3, ends[-1] - 1, ends[-1]):
        path.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)
        main(*options)
        out, err = capsys.readouterr()
        assert f"{path} has {kept} rounds, {4 - kept} are to be trained" in err
        assert ("half a line" in err) is (cut not in ends)
        assert path.read_bytes().startswith(whole[: ends[kept - 1] if kept else 0])
        assert by_round(read(path)) == by_round(read(two_models[1])) and len(read(path)) == 4
        columns = [row.split()[:-1] for row in out.splitlines()[4:6]]
        assert columns == [row.split()[:-1] for row in two_models[0].stdout.splitlines()[4:6]]
    assert path.read_bytes() == whole


def test_rounds_of_other_settings_are_others(tmp_path, capsys):
    """They stay in the log, and out of the table."""
    path = tmp_path / "results.jsonl"
    main(*SHORT, "--output", path)
    other = read(path)
    other[0]["pairs"], other[1]["code"] = 500, "another"
    path.write_text("".join(json.dumps(line) + "\n" for line in other))
    before = path.read_bytes()
    main(*SHORT, "--output", path)
    out, err = capsys.readouterr()
    assert f"{path} has 0 rounds" in err and path.read_bytes().startswith(before)
    assert len(read(path)) == 4 and "missing" not in out
    main(*SHORT, "--output", path, "--seed", 1)
    assert f"{path} has 1 rounds" in capsys.readouterr().err and len(read(path)) == 5


def test_what_the_digest_is_of(tmp_path, monkeypatch):
    """The code of the core but for the table and what is printed; not comments and docstrings."""
    path = tmp_path / "some.py"
    digests = []
    for text in (
        "def f(x):\n    return x + 1\n",
        '"""A."""\n# b\n\n\ndef f(x):\n    """C\n    d."""\n    return x + 1  # e\n',
        "def f(x):\n    return x + 2\n",
        'def f(x):\n    return x + "2"\n',
    ):
        path.write_text(text)
        digests.append(test.code_of.__wrapped__(path))
    assert digests[0] == digests[1] and len(set(digests)) == 3
    monkeypatch.setattr(test, "code_of", lambda file: Path(file).name)
    assert test.digest() == hashlib.sha256(b"data.pymodels.pytrain.py").hexdigest()[:12]
    row = dict(model=functools.partial(models.trunk, 1, out_features=10))
    arguments = test.settings_of("own", row, 1000, "cpu")["arguments"]
    assert arguments["model"] == ["trunk", [1], {"out_features": 10}]


def test_two_runs_to_one_log(tmp_path):
    path = tmp_path / "results.jsonl"
    options = [*map(str, SHORT[:2]), "--rounds", "6", "--epochs", "1", "--device", "cpu"]
    command = [sys.executable, ROOT / "test.py", *options, "--output", path]
    quiet = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    both = [subprocess.Popen(command, **quiet) for _ in range(2)]
    tables = [process.communicate(timeout=120)[0].splitlines() for process in both]
    assert {x["seed"] for x in read(path)} == set(range(6))
    assert tables[0][4].split()[:5] == tables[1][4].split()[:5]


@pytest.mark.parametrize(
    "content", ["precious", '{"environment": {}, "models": {}}\n', "[1]\n", "1\n", "\n", '{"a": 1}']
)
def test_a_file_that_is_no_log_is_refused_and_left_alone(content, tmp_path, capsys):
    """Such as the results of an earlier version."""
    path = tmp_path / "results.json"
    path.write_text(content)
    assert re.search("is no log,.* name another --output", refusal(capsys, "--output", path))
    assert path.read_text() == content


# A round stands alone


def test_saved_weights_give_the_error_again(two_models):
    """Of the pairs of the round that the file's name names, the error that the log has."""
    _, path, folder = two_models
    assert {path.name for path in folder.iterdir()} == {
        f"{name}-{seed}.pt" for name in ("siamese_al", "sub_lenet5_ws_al") for seed in (5, 6)
    }
    model = models.siamese()
    model.load_state_dict(torch.load(folder / "siamese_al-6.pt", weights_only=True))
    *_, test_input, test_target, _ = generate_pair_sets(1000, torch.Generator().manual_seed(6))
    with torch.no_grad():
        comparison, _ = model.eval()(test_input)
    error = ((comparison > 0) != test_target.bool()).double().mean().item()
    assert error == pytest.approx(
        by_round(read(path))["siamese_al", 6]["test_error"][0], abs=0.0011
    )


def test_one_worker_gives_the_same_numbers(two_models, tmp_path, monkeypatch):
    """And needs no pool of processes, which some machines refuse."""
    monkeypatch.delattr(test, "ProcessPoolExecutor")
    options = ("--models", "siamese_al", "--rounds", 2, "--epochs", 1, "--seed", 5, "--workers", 1)
    main(*options, "--output", tmp_path / "alone")
    alone = by_round(read(tmp_path / "alone"))
    together = by_round(read(two_models[1]))
    assert len(alone) == 2 and all(together[key] == line for key, line in alone.items())


def test_spawned_workers_give_the_same_numbers(two_models, monkeypatch):
    """As on macOS and Windows, and where there is a GPU: a worker has nothing but its job."""
    row = {"model": models.siamese, "rotation": 5, "digit_weight": 1, "epochs": 1}
    settings = test.settings_of("siamese_al", row, 1000, "cpu")
    jobs = [(settings, row, seed) for seed in (5, 6)]
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    lines = list(test.run_in_workers(functools.partial(test.run_job, device="cpu"), jobs, 2))
    together = by_round(read(two_models[1]))
    assert all(together[key] == line for key, line in by_round(lines).items()) and len(lines) == 2


def test_a_round_can_be_trained_again_from_python(two_models):
    """Round 6, whatever was drawn before; and torch's global generator is as it was."""
    row = {"model": models.siamese, "rotation": 5, "digit_weight": 1, "epochs": 1}
    torch.manual_seed(123)
    before = torch.get_rng_state()
    for _ in range(2):
        model, pairs, outcome = train_round(seed=6, draw=PAIRS, **row)
        assert torch.equal(torch.get_rng_state(), before)
        assert outcome["loss"] == by_round(read(two_models[1]))["siamese_al", 6]["loss"]
    assert isinstance(model, Model) and len(pairs) == 6


def test_dropout_is_of_the_round_too():
    """Layers that draw as they run, like those that draw their weights, draw from the seed."""

    def dropping():
        return Model(Shared(nn.Sequential(trunk(1, 10), nn.Dropout(0.5))), TwoLogits(20, 2))

    few, losses = functools.partial(generate_pair_sets, 50), []
    for _ in range(2):
        torch.rand(7)
        losses.append(train_round(dropping, 3, few, epochs=2)[2]["loss"])
    assert losses[0] == losses[1]


def test_rounds_have_data_and_weights_of_their_own():
    """The course's pairs under the round's seed, and fresh weights: here they stay as they are."""
    row = dict(model=models.sub_lenet5_ws, optimizer="SGD", learning_rate=0.0, epochs=1)
    rounds = [train_round(seed=seed, draw=PAIRS, **row) for seed in (3, 4, 3)]
    weights = [next(model.parameters()) for model, *_ in rounds]
    torch.manual_seed(3)
    expected = generate_pair_sets(1000)
    for _, pairs, _ in (rounds[0], rounds[2]):
        assert all(torch.equal(ours, course) for ours, course in zip(pairs, expected, strict=True))
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])
    assert not torch.equal(rounds[1][1][0], expected[0])


def test_other_numbers_of_pairs_have_the_same_test(tmp_path):
    """Trained on 30, tested on 1000; no report has a figure for it."""
    options = ("--models", "sub_lenet5_ws_al", "--rounds", 1, "--pairs", 30)
    main(*options, "--output", tmp_path / "few")
    (line,) = read(tmp_path / "few")
    assert line["pairs"] == 30 and len(line["loss"]) == 25
    for measure, n in (("train_error", 30), ("test_error", 1000)):
        assert all(n * x == pytest.approx(round(n * x)) for x in line[measure])
    assert any(30 * x != pytest.approx(round(30 * x)) for x in line["test_error"])


def test_a_reports_figure_stands_beside_what_it_is_of(two_models, tmp_path, capsys):
    """Not beside other numbers of epochs, as in the first table, or of pairs."""
    assert "15.00" not in two_models[0].stdout
    row = test.EXPERIMENTS["siamese_al"] | dict(epochs=1)
    for pairs, expected in ((1000, "  15.00"), (999, "")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(test.EXPERIMENTS, "siamese_al", row)
            options = ("--models", "siamese_al", "--rounds", 1, "--pairs", pairs, "--workers", 1)
            main(*options, "--output", tmp_path / "log")
        line = capsys.readouterr().out.splitlines()[4]
        assert line.endswith(expected) and len(line.split()) == 5 + bool(expected)


# torchrun


def torchrun(path, ranks, *options, **settings):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={ranks}", ROOT / "test.py", *map(str, options)]
    return subprocess.Popen(
        [*command, "--device", "cpu", "--output", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **settings,
    )


def test_ranks_share_the_rounds(two_models, tmp_path):
    """Three processes, four rounds: the numbers of a run with workers; the last table is whole."""
    path = tmp_path / "results.jsonl"
    options = ("--models", "sub_lenet5_ws_al", "siamese_al", "--rounds", 2, "--epochs", 1)
    options += ("--seed", 5, "--save", tmp_path / "weights")
    process = torchrun(path, 3, *options)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.count("results in") == 3 > out.count("2 missing")
    assert by_round(read(path)) == by_round(read(two_models[1])) and len(read(path)) == 4
    assert len(list((tmp_path / "weights").iterdir())) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_killed_rank_loses_nothing_that_was_finished(tmp_path):
    """The run ends; started again, it trains what is missing."""
    path = tmp_path / "results.jsonl"
    options = (*SHORT[:2], "--rounds", 10, "--epochs", 8)
    process = torchrun(path, 2, *options)
    while not (path.exists() and path.read_bytes().count(b"\n") >= 3):
        time.sleep(0.05)
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    before = path.read_bytes()
    os.kill(int(pids[1]), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0 and path.read_bytes().startswith(before)
    kept = len(read(path))
    assert 3 <= kept < 10
    process = torchrun(path, 2, *options)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and f"{path} has {kept} rounds" in err
    assert sorted(x["seed"] for x in read(path)) == list(range(10))


@pytest.mark.parametrize("world", [2, 4, 8])
def test_ranks_have_nearly_the_same_work(world, monkeypatch, tmp_path):
    """All rows for 20 rounds, by the seconds that they were measured to take: no rank has a tenth
    more than the mean; and together they have every round once."""
    seconds = {}
    for line in read(ROOT / "report" / "results" / "main.jsonl"):
        seconds[line["row"], line["seed"]] = line["seconds"]
    taken = []
    monkeypatch.setattr(test, "prepare_row", lambda name, *_: ({}, {"row": name}))
    monkeypatch.setattr(test, "run_job", lambda job, **_: (job[0]["row"], job[2]))
    monkeypatch.setattr(test, "rounds_in", lambda *_: range(180))  # that many are in the log
    monkeypatch.setattr(test, "keep", lambda lines, *_: taken.append(list(lines)) or {})
    monkeypatch.setattr(test, "table", lambda *_: [])
    monkeypatch.setattr(
        sys, "argv", ["test.py", "--device", "cpu", "--output", str(tmp_path / "x")]
    )
    monkeypatch.setenv("WORLD_SIZE", str(world))
    for rank in range(world):
        monkeypatch.setenv("RANK", str(rank))
        test.main()
    assert sorted(itertools.chain(*taken)) == sorted(seconds)
    work = [sum(map(seconds.get, jobs)) for jobs in taken]
    assert max(work) < 1.1 * sum(work) / world


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


SIAMESE = '    siamese=dict(model=models.siamese, rotation=5, reported="17.00"),\n'


def test_an_edited_row_and_a_sweep(tmp_path):
    """A student's edits in one place: SGD with momentum, batches of 37; and two learning rates."""
    row = (
        '    siamese=dict(model=models.siamese, optimizer="SGD", learning_rate=0.05, momentum=0.9,'
    )
    row += ' schedule="adaptive", batch_size=37, epochs=2),\n'
    row += '    **{f"siamese_{rate}": dict(model=models.siamese, learning_rate=rate, epochs=1)'
    row += " for rate in (0.01, 0.001)},\n"
    script = edited(tmp_path, SIAMESE, row)
    names = ("siamese", "siamese_0.01", "siamese_0.001")
    options = ("--models", *names, "--rounds", 1, "--device", "cpu")
    done = run(*options, "--output", tmp_path / "edited", script=script)
    assert done.returncode == 0, done.stderr
    lines = {x["row"]: x for x in read(tmp_path / "edited")}
    settings = lines["siamese"]["arguments"]
    assert (settings["optimizer"], settings["momentum"], settings["batch_size"]) == ("SGD", 0.9, 37)
    assert len(lines["siamese"]["loss"]) == 2 and 0 < lines["siamese"]["test_error"][-1] < 0.45
    assert [lines[name]["learning_rate"] for name in names[1:]] == [[0.01], [0.001]]


def own():
    return Model(Shared(trunk(1, 10)), TwoLogits(20, 2))


NET = Shared(trunk(1, 10))


def same_net():
    """New objects around the same weights."""
    return Model(Shared(*NET), TwoLogits(20, 2))


def same_start():
    """A new parameter, on the same memory."""
    model = own()
    model.head.weight = nn.Parameter(NET[0][3].weight.data[:, :20][:2])
    return model


class SameHead(Model):
    def __init__(self, head=TwoLogits(20, 2)):  # noqa: B008
        super().__init__(Shared(trunk(1, 10)), head)


def one_by_one():
    """A last batch of one pair is not for it."""
    return Model(nn.Sequential(trunk(2, 20), nn.BatchNorm1d(20), nn.Unflatten(1, (2, 10))), head())


def head():
    return TwoLogits(20, 2)


def test_a_new_model(tmp_path, monkeypatch):
    """A function in models.py, or elsewhere, and a row. No report has a figure for it."""
    row = dict(model=own, optimizer="SGD", learning_rate=0.05, batch_size=200, epochs=1)
    monkeypatch.setitem(test.EXPERIMENTS, "own", row)
    main("--models", "own", "--rounds", 1, "--output", tmp_path / "own")
    (line,) = read(tmp_path / "own")
    assert line["parameters"] == 71076 and line["arguments"]["model"] == "own"
    row = dict(model=one_by_one, batch_size=7)  # whose last batch has six pairs
    monkeypatch.setitem(test.EXPERIMENTS, "own", row)
    test.prepare_row("own", SimpleNamespace(epochs=1, pairs=1000, seed=0), "cpu")


def refusal(capsys, *options):
    """The one line that test.py says as it refuses `options`."""
    main(*options, code=2)
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("test.py: ")
    return printed.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--models", "siamesee"], "siamesee"),
        (["--rounds", "0"], "argument --rounds: '0' is no whole number from 1 up"),
        (["--rounds", "2.5"], "2.5"),
        (["--rounds", "1" + "0" * 5000], "--rounds"),
        (["--epochs", "0"], "--epochs"),
        (["--pairs", "0"], "--pairs"),
        (["--pairs", "30001"], "cannot draw 30001 pairs from 60000 images"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["--seed", "9" * 30], "row sub_lenet5_ws_al: ValueError: Overflow"),
        (["--workers", "0"], "--workers"),
        (["--device", "abacus"], "abacus"),
        (["--device", "meta"], "meta does not work here"),
        (["--device", "cu\nda"], "cu da"),
        (["--output", "no/such/folder/r.json"], "no such file or directory: 'no/such/folder/r.js"),
        (["--output", "."], "is a directory"),
        (["--models", "sia\nmese"], r"argument --models: invalid choice: 'sia\nmese'"),
        (["--output", "models.py"], "models.py is no log"),
        (["--output", "long" * 100], "name too long"),
        (["--save", "models.py"], "models.py"),
    ],
)
def test_wrong_options_take_one_line_and_code_2(capsys, tmp_path, options, says):
    few = [] if "--models" in options else ["--models", "sub_lenet5_ws_al", "--epochs", "1"]
    few += [] if "--output" in options else ["--output", tmp_path / "x"]
    few = few if "--epochs" not in options else few[:2] + few[4:]
    assert says.lower() in refusal(capsys, *few, *options).lower()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has one")
def test_a_device_that_is_not_there(capsys):
    assert re.search("(?i)(cuda|nvidia).*: try --device cpu$", refusal(capsys, "--device", "cuda"))


def test_a_device_that_cannot_be_used_takes_one_line(capsys, monkeypatch):
    """One that torch sees but was not built for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    error = RuntimeError("CUDA error: no kernel image\nCompile with `TORCH_USE_CUDA_DSA`")
    monkeypatch.setattr(torch, "zeros", Raising(error))
    said = refusal(capsys, "--device", "auto")
    told = " ".join(str(error).split())
    assert said == f"test.py: cuda does not work here ({told}): try --device cpu\n"


class Raising:
    """A function, or a model, that raises `error`."""

    def __init__(self, error):
        self.error = error

    def __call__(self, *_, **__):
        raise self.error


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (dict(model=own, optimizer="Adamm"), "Adamm"),
        (dict(model=own, learning_rate=-1), "ValueError: Invalid learning rate: -1"),
        (dict(model=own, learning_rat=1), "unexpected keyword argument 'learning_rat'"),
        (dict(model=own, batch_size=0), "modulo by zero"),
        (dict(model=own, epochs=0), "epochs is below 1"),
        (dict(model=own, schedule="yes"), "schedule is 'yes'"),
        (dict(model=own, comparison_weight=0), "both losses' weights are 0"),
        (dict(model=own, learning_rate=torch.inf), "not JSON compliant"),
        (dict(epochs=1), "model must be a function or class"),
        (dict(model="siamese"), "model must be a function or class"),
        (dict(model=own()), "without brackets"),
        (dict(model=lambda: own()), "pickle <function <lambda>"),
        (dict(model=functools.partial(Model, NET, TwoLogits(20, 2))), "new weights at each call"),
        (dict(model=same_net), "new weights at each call"),
        (dict(model=same_start), "new weights at each call"),
        (dict(model=SameHead), "new weights at each call"),
        (dict(model=lambda: Model(Shared(trunk(1, 9)), head())), "not [[90], [90, 2, 10]]"),
        (dict(model=lambda: Model(trunk(2, 20), head())), "not [[100], [100, 20]]"),
        (dict(model=one_by_one, batch_size=333), "more than 1 value per channel"),
        (None, "NoneType"),
    ],
)
def test_a_row_of_nonsense_is_named_in_one_line(capsys, monkeypatch, tmp_path, row, says):
    """And nothing is made."""
    monkeypatch.setitem(test.EXPERIMENTS, "own", row)
    options = ("--models", "sub_lenet5_ws_al", "own", "--output", tmp_path / "results.jsonl")
    said = refusal(capsys, *options)
    assert said.startswith("test.py: row own: ") and says in said
    assert list(tmp_path.iterdir()) == []


def test_data_that_cannot_be_had(tmp_path):
    script = edited(tmp_path, SIAMESE, SIAMESE)
    (tmp_path / "data").unlink()
    environment = os.environ | dict.fromkeys(("http_proxy", "https_proxy"), "http://localhost:9")
    done = run("--output", tmp_path / "log", "--device", "cpu", script=script, env=environment)
    said = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and said.startswith("test.py: MNIST cannot be read (")
    assert f"restore its four .gz files in {tmp_path}/data/MNIST/raw" in said
    assert "Traceback" not in done.stderr and not (tmp_path / "log").exists()


def test_a_full_disk_stops_the_run(tmp_path, capsys):
    """No file may be longer than 1000 bytes, as on a disk with no more room: one round is kept, and
    the run goes on where there is room again."""
    path = tmp_path / "results.jsonl"
    script = (
        "import resource, sys, test; test.load_mnist(); test.generate_pair_sets(1); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
        "sys.argv[0] = 'test.py'; test.main()"
    )
    command = [sys.executable, "-c", script, *map(str, SHORT), "--output", path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "stopped by OSError: [Errno 27] File too large" in done.stderr.splitlines()[-1]
    assert "1 missing" in done.stdout
    main(*SHORT, "--output", path)
    assert f"{path} has 1 rounds" in capsys.readouterr().err and len(read(path)) == 2


# Divergence, interrupts, deaths


def test_diverging_rounds_are_counted(tmp_path, monkeypatch, capsys):
    """A rate at which a weight becomes infinite, in the last step or sooner: the row says so, and
    the other model's numbers are as ever."""
    row = test.EXPERIMENTS["siamese"] | dict(optimizer="SGD", batch_size=2000, learning_rate=1e38)
    monkeypatch.setitem(test.EXPERIMENTS, "siamese", row)
    for epochs in (1, 2):
        path = tmp_path / f"{epochs}.jsonl"
        options = ["--models", "siamese", "sub_lenet5_ws_al", "--rounds", "2"]
        main(*options, "--epochs", epochs, "--output", path)
        for line in read(path):
            assert line["diverged"] is (line["row"] == "siamese")
            assert (line["test_error"][-1] is None) is line["diverged"]
        printed = capsys.readouterr()
        (line,) = (line for line in printed.out.splitlines() if line.startswith("siamese "))
        assert line.endswith("siamese  of 2 rounds 2 diverged")
        assert "siamese, round 0: diverged; " in printed.err


@pytest.fixture
def running(tmp_path):
    """test.py with 20 short rounds to do, some of them done, and the path of its log."""
    path = tmp_path / "results.jsonl"
    command = [sys.executable, ROOT / "test.py", *RUNNING, "--output", path]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(command, start_new_session=True, **streams)
    for line in process.stderr:
        if "; 3 of 20 done" in line:
            break
    yield process, path
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


RUNNING = ["--models", "sub_lenet5_ws", "--epochs", "5", "--device", "cpu", "--workers", "2"]


def assert_all_stopped(process):
    """No process of the group is left, or soon none is."""
    start = time.monotonic()
    with pytest.raises(ProcessLookupError):
        while time.monotonic() - start < 10:
            os.killpg(process.pid, 0)
            time.sleep(0.1)


def assert_goes_on(path):
    """Started again, the run trains what is missing and changes nothing that is there."""
    before = path.read_bytes()
    kept = before.count(b"\n")
    done = run(*RUNNING, "--output", path)
    assert f"{path} has {kept} rounds, {20 - kept} are to be trained" in done.stderr
    assert path.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert sorted(x["seed"] for x in read(path)) == list(range(20))
    assert done.returncode == 0 and "missing" not in done.stdout


@pytest.mark.parametrize(
    ("send", "number"),  # Ctrl-C goes to all processes, and so may SIGTERM
    [(os.killpg, signal.SIGINT), (os.killpg, signal.SIGTERM), (os.kill, signal.SIGTERM)],
)
def test_an_interrupted_run_prints_what_is_there(number, send, running):
    """Also where the signal comes again and again."""
    process, path = running
    start = time.monotonic()
    for _ in range(3):
        send(process.pid, number)
        time.sleep(0.02)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - start < 10
    assert process.returncode == 128 + number and "Traceback" not in err
    missing = 20 - len(read(path))
    assert 0 < missing <= 17 and f"of 20 rounds {missing} missing" in out
    assert_all_stopped(process)
    if send is os.kill:  # as a job that a scheduler puts back into its queue
        assert_goes_on(path)


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_killed_worker_stops_the_run(running):
    process, path = running
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    workers = [int(pid) for children in tasks for pid in children.read_text().split()]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in err
    assert "test.py: stopped by BrokenProcessPool: A process in the process pool was term" in err
    assert f"{20 - len(read(path))} missing" in out
    assert_all_stopped(process)


def test_a_killed_run_goes_on(running):
    """Its workers end with it."""
    process, path = running
    process.kill()
    process.wait(timeout=10)
    assert_all_stopped(process)
    assert path.read_bytes().count(b"\n") >= 3
    assert_goes_on(path)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are not forked")
@pytest.mark.skipif(torch.accelerator.is_available(), reason="nor are they where there is a GPU")
@pytest.mark.parametrize("threads, expected", [(1, "fork"), (2, "spawn")])
def test_a_process_that_has_threads_is_not_forked(threads, expected, monkeypatch):
    """Its locks would hang the workers: these are spawned."""

    def get_context(method):
        raise InterruptedError(method)

    monkeypatch.setattr(test.multiprocessing, "get_context", get_context)
    monkeypatch.setattr(threading, "active_count", lambda: threads)
    with pytest.raises(InterruptedError, match=expected):
        next(test.run_in_workers(divmod, [1], 1))


def test_workers_that_are_left_early_are_stopped():
    """In the middle of long rounds."""
    lines = test.run_in_workers(time.sleep, [0, 100], 2)
    start = time.monotonic()
    next(lines)
    lines.close()
    assert time.monotonic() - start < 5 and not multiprocessing.active_children()


def test_a_stdout_that_is_no_terminal_and_no_file(tmp_path):
    """As notebooks have it; and the script by a symbolic link. Afterwards Ctrl-C is as it was."""
    link = tmp_path / "link.py"
    link.symlink_to(ROOT / "test.py")
    script = (
        "import io, runpy, signal, sys; sys.stdout = io.StringIO(); "
        f"sys.argv = {['test.py', *map(str, SHORT), '--output', str(tmp_path / 'log')]!r}; "
        f"sys.path.insert(0, {str(ROOT)!r}); runpy.run_path({str(link)!r}, run_name='__main__'); "
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 done" in done.stderr and len(read(tmp_path / "log")) == 2


class Failing(Model):
    """Fails in the run's batches of 50 pairs, in training, with an odd exception."""

    def __init__(self):
        super().__init__(Shared(trunk(1, 10)), TwoLogits(20, 2))

    def forward(self, pairs):
        if len(pairs) == 50 and self.training:
            raise Odd("what went wrong", 2)
        return super().forward(pairs)


class Odd(Exception):
    """It can be sent, but not received: its class takes two arguments."""

    def __init__(self, one, two):
        super().__init__(one)


def test_a_round_that_fails_costs_its_row_and_no_other(monkeypatch, tmp_path, capsys):
    """The others go on; the model's own traceback comes after the table, and code 1."""
    row = dict(model=Failing, batch_size=50, epochs=1)
    monkeypatch.setitem(test.EXPERIMENTS, "own", row)
    monkeypatch.setattr(test, "prepare_row", lambda name, *_: (ROWS[name], SETTINGS[name]))
    ROWS["own"], SETTINGS["own"] = row, test.settings_of("own", row, 100, "cpu")
    ROWS["good"] = row | dict(model=own)
    SETTINGS["good"] = test.settings_of("good", ROWS["good"], 100, "cpu")
    monkeypatch.setitem(test.EXPERIMENTS, "good", ROWS["good"])
    main("--models", "own", "good", "--rounds", 2, "--output", tmp_path / "log", code=1)
    printed = capsys.readouterr()
    assert "own, round 0: test_main.Odd: what went wrong; " in printed.err
    assert "own  of 2 rounds 2 missing" in printed.out and "good " in printed.out
    assert printed.err.splitlines()[-2] == "test_main.Odd: what went wrong"
    assert "in forward\n" in printed.err and len(read(tmp_path / "log")) == 2


ROWS, SETTINGS = {}, {}


@pytest.mark.skipif(sys.platform == "win32", reason="it needs resource")
def test_memory_does_not_grow_from_round_to_round():
    """In a process of its own, as the peak is that of all it ever did."""
    script = (
        "import functools, resource, torch, data, models, train; torch.set_num_threads(1)\n"
        "draw = functools.partial(data.generate_pair_sets, 1000)\n"
        "for seed in range(8):\n"
        "    train.train_round(models.siamese, seed, draw, epochs=1, batch_size=500, rotation=5)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    peaks = [int(line) for line in done.stdout.split()]
    assert len(peaks) == 8 and peaks[-1] - peaks[2] < 0.02 * peaks[2]
