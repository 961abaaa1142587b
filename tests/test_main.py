"""test.py as it is used: from the command line, and with its table edited."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import test
from data import generate_pair_sets
from models import Model, Shared, TwoLogits, trunk

ROOT = Path(__file__).parent.parent


def run(*options, script=ROOT / "test.py"):
    """Run test.py with `options`; the finished process."""
    command = [sys.executable, script, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def results(path, *options, **where):
    """The results file that test.py writes to `path` with `options`."""
    done = run(*options, "--output", path, **where)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    """Two models, two rounds, one epoch, two workers, seed 5: the process and its results file."""
    path = tmp_path_factory.mktemp("two_models") / "results.json"
    done = run(
        *("--models", "siamese_al", "sub_lenet5_ws_al", "--rounds", 2, "--epochs", 1),
        *("--seed", 5, "--workers", 2, "--device", "cpu", "--output", path),
    )
    assert done.returncode == 0, done.stderr
    return done, json.loads(path.read_text())


def errors(results, key):
    return results["models"][key]["test_error"], results["models"][key]["best_test_error"]


def test_results_file(two_models):
    _, results = two_models
    assert results["complete"] is True
    environment = results["environment"]
    assert environment["torch"] == torch.__version__
    assert (environment["device"], environment["workers"]) == ("cpu", 2)
    assert (environment["seed"], environment["rounds"]) == (5, 2)
    assert list(results["models"]) == ["sub_lenet5_ws_al", "siamese_al"]
    siamese = results["models"]["siamese_al"]
    assert siamese["parameters"] == 71076
    assert siamese["hyperparameters"] == {
        "optimizer": "adam",
        "learning_rate": 0.001,
        "batch_size": 100,
        "epochs": 1,
        "schedule": "constant",
        "comparison_weight": 1.0,
        "digit_weight": 1.0,
        "label_smoothing": 0.0,
        "rotation": 5,
        "distorted": 0,
    }
    for name in ("test_error", "best_test_error", "seconds"):
        assert len(siamese[name]) == 2 and all(value > 0 for value in siamese[name])
    assert siamese["test_error_by_epoch"] == [[error] for error in siamese["test_error"]]
    assert siamese["diverged"] == [False, False]
    # an epoch of digit labels is enough to beat chance, 45%, by far
    assert all(error < 0.3 for error in results["models"]["sub_lenet5_ws_al"]["test_error"])


def test_what_is_printed(two_models):
    done, results = two_models
    lines = done.stdout.splitlines()
    assert f"torch {torch.__version__}" in lines[0]
    assert "device cpu, workers 2, seed 5, rounds 2" in lines[0]
    assert "\n".join(test.table(results)).splitlines() == lines[:-2]
    assert "4 of 4 jobs done" in done.stderr


@pytest.mark.parametrize("key", ["siamese_al", "sub_lenet5_ws_al"])
def test_alone_and_with_another_number_of_workers_the_numbers_are_the_same(
    key, two_models, tmp_path
):
    options = ("--models", key, "--rounds", 2, "--epochs", 1, "--seed", 5)
    alone = results(tmp_path / "alone.json", *options, "--workers", 1, "--device", "cpu")
    assert errors(alone, key) == errors(two_models[1], key)


def test_a_round_can_be_rerun_alone(two_models, mnist):
    """Round 1 of seed 5 is round 0 of seed 6; and nothing outside the round has a part in it."""
    settings = test.read_row("siamese_al") | {"epochs": 1}
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = test.run_job("siamese_al", settings, [6], "cpu", mnist)[0]["test_error"]
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(10)
    assert test.run_job("siamese_al", settings, [6], "cpu", mnist)[0]["test_error"] == first
    assert two_models[1]["models"]["siamese_al"]["test_error"][1] == first


def test_rounds_have_data_and_weights_of_their_own(mnist, monkeypatch):
    """What reaches training: the course's pairs under the round's seed, fresh weights, the
    rotated copies after the originals, and of the test set all but the classes."""
    seen = []

    def spy(models, train_sets, test_sets, generators, **settings):
        weights = torch.nn.utils.parameters_to_vector(models[0].parameters()).detach().clone()
        seen.append((weights, train_sets[0], test_sets[0], generators[0].initial_seed()))
        return [{"loss": [1.0], "test_error": [0.0]}]

    monkeypatch.setattr(test, "train", spy)
    settings = test.read_row("siamese")
    for seed in (3, 4, 3):
        test.run_job("siamese", settings, [seed], "cpu", mnist)
    torch.manual_seed(3)
    expected = generate_pair_sets(1000, None, mnist)
    for weights, train_set, test_set, order_seed in (seen[0], seen[2]):
        assert torch.equal(weights, seen[0][0]) and order_seed == seen[0][3]
        assert len(train_set[0]) == 2000 and torch.equal(train_set[0][:1000], expected[0])
        assert torch.equal(train_set[1], expected[1].repeat(2))
        assert torch.equal(train_set[2], expected[2].repeat(2, 1))
        assert len(test_set) == 2
        assert torch.equal(test_set[0], expected[3]) and torch.equal(test_set[1], expected[4])
    assert not torch.equal(seen[1][0], seen[0][0]) and seen[1][3] != seen[0][3]
    assert not torch.equal(seen[1][1][0], seen[0][1][0])


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_rounds_trained_together_are_the_rounds_trained_alone(mnist):
    settings = test.read_row("siamese") | {"epochs": 1, "batch_size": 500}
    together = test.run_job("siamese", settings, [3, 4], "cpu", mnist)
    for seed, outcome in zip([3, 4], together, strict=True):
        alone = test.run_job("siamese", settings, [seed], "cpu", mnist)[0]
        assert outcome["test_error"] == pytest.approx(alone["test_error"], abs=0.01)


def test_ranks_share_the_rounds(two_models, tmp_path):
    """As torchrun starts them, three processes for two jobs: the numbers of a run with workers, printed once."""
    path = tmp_path / "results.json"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, ROOT / "test.py", "--models", "siamese_al", "sub_lenet5_ws_al"]
    command += ["--rounds", "1", "--epochs", "1", "--seed", "5", "--device", "cpu"]
    processes = [
        subprocess.Popen(
            [*command, "--output", path],
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "3"}
            | {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    printed = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert "siamese_al" in printed[0] and printed[1:] == ["", ""]
    results = json.loads(path.read_text())
    assert results["complete"] is True and results["environment"]["workers"] == 3
    for key in results["models"]:
        assert errors(results, key) == tuple(values[:1] for values in errors(two_models[1], key))


def test_diverging_rounds_are_counted(tmp_path, monkeypatch, capsys):
    """A rate at which the loss becomes infinite: the row says so, the other model's is as ever."""
    row = ("sgd", 1e6, "constant", 500, 2, 1.0, 0.0, 0.0, 0, 0)
    monkeypatch.setitem(test.EXPERIMENTS, "siamese", row)
    path = tmp_path / "results.json"
    options = [
        "--models",
        "siamese",
        "sub_lenet5_ws_al",
        "--rounds",
        "2",
        "--epochs",
        "2",
        "--device",
        "cpu",
    ]
    monkeypatch.setattr(sys, "argv", ["test.py", *options, "--output", str(path)])
    with pytest.raises(SystemExit) as stop:
        test.main()
    assert stop.value.code == 0
    results = json.loads(path.read_text(), parse_constant=pytest.fail)  # nan is no JSON
    assert results["models"]["siamese"]["diverged"] == [True, True]
    assert results["models"]["sub_lenet5_ws_al"]["diverged"] == [False, False]
    siamese = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("siamese ")
    )
    assert siamese.split()[2:4] == ["n/a", "n/a"] and siamese.endswith("2 of 2 rounds diverged")


def test_a_new_model(tmp_path, monkeypatch, mnist):
    """As the README says: an entry in MODELS and a row. No report has a figure for it."""
    row = ("sgd", 0.05, "constant", 200, 1, 1.0, 0.0, 0.0, 0, 0)
    monkeypatch.setitem(test.MODELS, "own", test.MODELS["siamese"])
    monkeypatch.setitem(test.EXPERIMENTS, "own", row)
    path = tmp_path / "own.json"
    options = ["--models", "own", "--rounds", "1", "--device", "cpu", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", ["test.py", *options])
    with pytest.raises(SystemExit) as stop:
        test.main()
    assert stop.value.code == 0
    assert json.loads(path.read_text())["models"]["own"]["parameters"] == 71076


def test_an_edited_row(tmp_path):
    """A student's edit: SGD, rate 0.05, batches of 37, 3 epochs."""
    for name in ("test.py", "train.py", "models.py", "data.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "data").symlink_to(ROOT / "data")
    script = tmp_path / "test.py"
    edited, count = re.subn(
        r'"siamese": +\("adam".*',
        '"siamese": ("sgd", 0.05, "adaptive", 37, 3, 1.0, 0.0, 0.0, 5, 0),',
        script.read_text(),
    )
    assert count == 1
    script.write_text(edited)
    options = ("--models", "siamese", "--rounds", 1, "--device", "cpu")
    entry = results(tmp_path / "edited.json", *options, script=script)["models"]["siamese"]
    assert entry["hyperparameters"]["optimizer"] == "sgd"
    assert entry["hyperparameters"]["batch_size"] == 37
    assert entry["hyperparameters"]["epochs"] == 3
    assert 0 < entry["test_error"][0] < 0.3


def refusal(capsys, *options):
    """What test.py says as it refuses `options`, without its name."""
    with pytest.MonkeyPatch.context() as patch:
        device = () if "--device" in options else ("--device", "cpu")
        patch.setattr(sys, "argv", ["test.py", *device, *map(str, options)])
        with pytest.raises(SystemExit) as stop:
            test.main()
    printed = capsys.readouterr()
    assert stop.value.code == 2 and printed.out == ""
    assert printed.err.startswith("test.py: ") and printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--models", "siamesee"], "siamesee"),
        (["--models"], "--models"),
        (["--models", "siamese", "siamese"], "twice"),
        (["--rounds", "0"], "--rounds is 0, it must be a whole number from 1 to 10000"),
        (["--rounds", "-3"], "--rounds is -3"),
        (["--rounds", "2.5"], "2.5"),
        (["--rounds", ""], "--rounds"),
        (["--rounds", "1" + "0" * 30], "--rounds"),
        (["--epochs", "0"], "--epochs is 0"),
        (["--epochs", "many"], "many"),
        (["--seed", "-1"], "--seed is -1"),
        (["--seed", str(2**40)], "--seed"),
        (["--workers", "0"], "--workers is 0"),
        (["--workers", "1000000"], "--workers"),
        (["--device", "abacus"], "--device abacus"),
        (["--device", "meta"], "--device meta"),
        (["--device", ""], "--device"),
        (["--output", "no/such/directory/results.json"], "no/such/directory/results.json"),
        (["--output", "."], "--output . must be a file, its name ending in .json"),
        (["--output", ""], "--output . must be a file"),
        (["--output", "models.py"], "--output models.py must be a file"),
        (["--output", "long" * 100 + ".json"], "name too long"),
        (["--round", "2"], "--round"),
        (["siamese"], "siamese"),
    ],
)
def test_wrong_options_take_one_line_and_code_2(capsys, options, says):
    assert says in refusal(capsys, *options)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has one")
def test_a_device_that_is_not_there(capsys):
    assert "--device cuda" in refusal(capsys, "--device", "cuda")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("optimizer", "adamm"),
        ("optimizer", 3),
        ("learning_rate", -0.01),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", "0.01"),
        ("batch_size", 0),
        ("batch_size", 50.0),
        ("epochs", 2.5),
        ("epochs", True),
        ("schedule", 1),
        ("schedule", "yes"),
        ("schedule", ["constant"]),
        ("label_smoothing", 1),
        ("comparison_weight", -1),
        ("digit_weight", None),
        ("rotation", 181),
    ],
)
def test_a_row_of_nonsense_names_the_row_and_the_value(capsys, monkeypatch, column, value):
    row = test.read_row("siamese") | {column: value}
    monkeypatch.setitem(test.EXPERIMENTS, "siamese", tuple(row.values()))
    assert f"row siamese: {column} is {value!r}, it must be" in refusal(capsys)


def test_a_row_that_cannot_learn(capsys, monkeypatch):
    monkeypatch.setitem(
        test.EXPERIMENTS, "siamese", ("adam", 0.01, "constant", 50, 25, 0.0, 0, 0, 0, 0)
    )
    assert "row siamese: " in refusal(capsys)
    monkeypatch.undo()
    row = ("adam", 0.01, "constant", 50, 25, 1.0, 1.0, 0, 0, 0)
    monkeypatch.setitem(test.EXPERIMENTS, "sub_lenet5_ws_al", row)
    assert "comparison_weight must be 0" in refusal(capsys)


def test_a_row_of_the_wrong_length(capsys, monkeypatch):
    monkeypatch.setitem(test.EXPERIMENTS, "siamese", ("adam", 0.01))
    assert "row siamese must have 10 values" in refusal(capsys)
    monkeypatch.setitem(test.EXPERIMENTS, "siamese", None)
    assert "row siamese must have 10 values" in refusal(capsys)


def test_a_new_model_half_done(capsys, monkeypatch):
    """A row without a model; a model without the two outputs that the others have."""
    monkeypatch.setitem(test.EXPERIMENTS, "own", test.EXPERIMENTS["siamese"])
    assert "row own has no model" in refusal(capsys)
    one_column = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 1))  # [N, 1]
    for model in (Model(trunk(2, 20), TwoLogits()), Model(Shared(trunk(1, 10)), one_column)):
        monkeypatch.setitem(test.MODELS, "own", lambda model=model: model)
        assert "row own: the outputs of its model must be [N] and [N, 2, 10]" in refusal(capsys)


def test_only_a_regular_file_is_replaced(capsys, tmp_path):
    """Not a pipe, say, or the device that a link stands for; a link to a file stays one."""
    pipe, link = tmp_path / "pipe.json", tmp_path / "link.json"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        assert "must be a file" in refusal(capsys, "--output", path)
    link.unlink()
    (tmp_path / "target.json").touch()
    link.symlink_to(tmp_path / "target.json")
    results(link, "--models", "sub_lenet5_ws_al", "--rounds", 1, "--epochs", 1, "--device", "cpu")
    assert link.is_symlink() and (tmp_path / "target.json").stat().st_size > 0


def test_bad_input_leaves_an_existing_results_file_alone(capsys, tmp_path):
    path = tmp_path / "results.json"
    path.write_text("precious")
    refusal(capsys, "--output", path, "--rounds", 0)
    assert path.read_text() == "precious"


def test_data_that_cannot_be_had(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTORCH_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["http://localhost:9/"])
    path = tmp_path / "results.json"
    path.write_text("precious")
    assert "train-images-idx3-ubyte.gz is missing or damaged" in refusal(capsys, "--output", path)
    assert path.read_text() == "precious"


def test_a_full_disk_is_found_before_training(tmp_path):
    """No file may be longer than 100 bytes, as on a disk with no more room."""
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); "
    limit += f"sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = 'test.py'; "
    limit += f"runpy.run_path({str(ROOT / 'test.py')!r}, run_name='__main__')"
    options = ["--device", "cpu", "--output", tmp_path / "results.json"]
    done = subprocess.run(
        [sys.executable, "-c", limit, *options], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr.startswith("test.py: ")
        and "too large" in done.stderr
        and done.stderr.count("\n") == 1
    )


@pytest.fixture
def running(tmp_path):
    """test.py with 20 short rounds to do, some of them done, and the path of its results file."""
    (tmp_path / "output").mkdir()
    path = tmp_path / "output" / "results.json"
    command = [
        sys.executable,
        ROOT / "test.py",
        "--models",
        "sub_lenet5_ws",
        "--epochs",
        "3",
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(
        [*command, "--workers", "2", "--output", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stderr:
        if line.startswith("3 of 20 jobs done"):
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("send", [os.kill, os.killpg])  # to the parent alone, to all processes
def test_an_interrupted_run_keeps_what_is_finished(number, send, running):
    process, path = running
    start = time.monotonic()
    send(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - start < 10
    assert process.returncode == 128 + number and "Traceback" not in err
    assert_kept(path, out)
    assert_all_stopped(process)


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_killed_worker_stops_the_run_and_keeps_what_is_finished(running):
    process, path = running
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    workers = [int(pid) for children in tasks for pid in children.read_text().split()]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "test.py: a worker was killed" in err and "Traceback" not in err
    assert_kept(path, out)
    assert_all_stopped(process)


def test_an_output_that_goes_away_costs_no_result(running):
    """The folder vanishes in the middle of the run: it stops, and prints what is finished."""
    process, path = running
    shutil.rmtree(path.parent)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"test.py: {path} cannot be written" in err and "Traceback" not in err
    assert "rounds missing" in out
    assert_all_stopped(process)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0])
def test_an_interrupt_while_it_starts_is_quiet(number, seconds, tmp_path):
    command = [
        sys.executable,
        ROOT / "test.py",
        "--device",
        "cpu",
        "--output",
        tmp_path / "results.json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number and "Traceback" not in err


def test_nothing_is_unpickled_from_files():
    for name in ("data.py", "models.py", "train.py", "test.py"):
        assert not re.search(
            r"pickle|torch\.load|eval\(|exec\(", (ROOT / name).read_text().replace(".eval()", "")
        )


def test_the_core_imports_only_torch_torchvision_and_the_standard_library():
    allowed = {*sys.stdlib_module_names, "torch", "torchvision", "data", "models", "train"}
    for name in ("data.py", "models.py", "train.py", "test.py"):
        imports = re.findall(r"^\s*(?:import|from) (\w+)", (ROOT / name).read_text(), re.MULTILINE)
        assert imports and set(imports) <= allowed


@pytest.mark.skipif(sys.platform == "win32", reason="it needs resource")
def test_memory_does_not_grow_from_round_to_round(mnist):
    import resource

    settings = test.read_row("siamese") | {"epochs": 1, "batch_size": 500}
    peaks = []
    for seed in range(8):
        test.run_job("siamese", settings, [seed], "cpu", mnist)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[-1] - peaks[2] < 0.02 * peaks[2]  # two percent, of some 500 MB


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
    assert json.loads(path.read_text()) == {"old": 1}


def test_an_interrupt_does_not_wait_for_long_rounds(tmp_path):
    """Rounds of minutes, stopped after seconds."""
    path = tmp_path / "results.json"
    command = [
        sys.executable,
        ROOT / "test.py",
        "--models",
        "siamese",
        "--epochs",
        "500",
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(
        [*command, "--output", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for _ in range(100):
        if path.exists():
            break
        time.sleep(0.2)
    time.sleep(2)
    process.terminate()
    out, err = process.communicate(timeout=10)
    assert process.returncode == 143 and "Traceback" not in err
    assert "20 of 20 rounds missing" in out and json.loads(path.read_text())["complete"] is False
