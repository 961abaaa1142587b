"""Train every row of the table EXPERIMENTS for 20 rounds; print mean ± std of its test error."""

import argparse
import ast
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from statistics import mean, stdev

import torch

import models
from data import generate_pair_sets, load_mnist
from train import train, train_round

# A row is an experiment, to edit in place: a name, a model of models.py, the arguments of train
# that differ from the defaults in its signature (train.py), and the error in percent that the
# report prints (report 1: Fig. 2; report 2: Table II), with what makes it another thing than ours.
EXPERIMENTS = dict(
    sub_lenet5=dict(model=models.sub_lenet5, reported="17.93, best epoch, constant rate",
                    learning_rate=0.01, batch_size=250, schedule="adaptive"),
    sub_lenet5_ws=dict(model=models.sub_lenet5_ws, reported="18.10, best epoch",
                       learning_rate=0.0001, batch_size=100, schedule="adaptive"),
    sub_lenet5_ws_al=dict(model=models.sub_lenet5_ws_al, reported="4.05, best epoch, constant rate",
                          learning_rate=0.01, batch_size=50, schedule="adaptive",
                          comparison_weight=0, digit_weight=1),
    baseline=dict(model=models.baseline, rotation=5, reported="22.00"),
    baseline_al=dict(model=models.baseline, rotation=5, digit_weight=1, reported="20.00"),
    siamese=dict(model=models.siamese, rotation=5, reported="17.00"),
    siamese_al=dict(model=models.siamese, rotation=5, digit_weight=1, reported="15.00"),
    posterior=dict(model=models.posterior, comparison_weight=0, digit_weight=1, copies=6,
                   label_smoothing=0.1, optimizer="AdamW", learning_rate=0.05, weight_decay=0.1,
                   schedule="one-cycle", epochs=13),
    posterior_2s=dict(model=models.posterior_2s, comparison_weight=0, digit_weight=1, copies=4,
                      label_smoothing=0.1, optimizer="AdamW", learning_rate=0.05, momentum=0.8,
                      weight_decay=0.1, schedule="one-cycle", batch_size=50, epochs=2),
)  # fmt: skip
HEADER = """test error in percent, mean ± standard deviation (n-1) over the rounds

model             parameters     last epoch     best epoch  s/round  reported"""
LAYOUT = "{:<17}{:>11,}{:>15}{:>15}{:>9.2f}  {}"


# The log: a line of JSON for each round, appended as it ends, never changed


class WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node):
        return None if isinstance(node.value, ast.Constant) else node


@cache
def code_of(path):
    """The code of a Python file, without comments and docstrings."""
    return ast.unparse(WithoutDocstrings().visit(ast.parse(Path(path).read_bytes())))


def digest():
    """Twelve digits that tell the code of data.py, models.py and train.py."""
    paths = [sys.modules[name].__file__ for name in ("data", "models", "train")]
    return hashlib.sha256("".join(map(code_of, paths)).encode()).hexdigest()[:12]


def in_json(value):
    """A function by its name, a partial by its parts."""
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    return value.__name__


def settings_of(name, row, pairs, device):
    """All that decides the numbers of a row's rounds, but for their seeds, as the log has it."""
    settings = {
        "row": name,
        "pairs": pairs,
        "arguments": train.__kwdefaults__ | row,  # train's defaults, and what the row has instead
        "code": digest(),
        "torch": torch.__version__,
        "device": device,
        "processor": (
            torch.cuda.get_device_name(device)
            if device.startswith("cuda")
            else torch.backends.cpu.get_cpu_capability()
        ),
    }
    return json.loads(json.dumps(settings, default=in_json, allow_nan=False))


def open_log(path):
    """Make the log if it is not there; cut off half a line, where a run was killed."""
    with open(path, "ab") as file:
        *_, half = path.read_bytes().split(b"\n")
        if not b'{"row": '.startswith(half[:8]):
            raise ValueError(f"{path} is no log, name another --output")
        if half:
            say(f"{path} ends in half a line, of a run that was killed: that round trains again")
            file.truncate(file.tell() - len(half))


def append(line, path):
    """Add a line to a log in one piece, as others may be adding theirs."""
    with open(path, "ab", buffering=10**7) as file:
        file.write(json.dumps(line).encode() + b"\n")


def rounds_in(path, settings, seeds):
    """A log's rounds of these seeds that have their row's settings: {(row's name, seed): line}."""
    found = {}
    *texts, _ = path.read_bytes().split(b"\n")  # without half a line
    for text in texts:
        try:
            line = json.loads(text)
            wanted = settings.get(line["row"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{path} is no log, or has a line that is no round (an older version's results are "
                "none): mend it, or name another --output"
            ) from None
        if wanted and wanted.items() <= line.items() and line["seed"] in seeds:
            found[line["row"], line["seed"]] = line
    return found


# A job is a round that is to be trained: (settings, row, seed)


def run_job(job, device, folder=None):
    """Train a round, keep its weights if there is a `folder`, and return its line for the log.

    If it fails, the line has "fault" instead, the error's traceback.
    """
    settings, row, seed = job
    draw = partial(generate_pair_sets, settings["pairs"], nb_test=1000)
    try:
        model, _, outcome = train_round(seed=seed, draw=draw, device=device, **row)
        if folder:
            torch.save(model.cpu().state_dict(), folder / f"{settings['row']}-{seed}.pt")
    except Exception:  # of the row's own model, say: it costs this round
        outcome = {"fault": traceback.format_exc()}
    return settings | {"seed": seed} | outcome


def run_in_workers(run, jobs, workers):
    """Run jobs in processes, yield what `run` makes of each as it ends; left early, stop them."""
    # a forked worker has all loaded, but cannot use a GPU, and where there are threads it may hang
    can_fork = (
        sys.platform == "linux"
        and threading.active_count() == 1
        and not torch.accelerator.is_available()
    )
    context = multiprocessing.get_context("fork" if can_fork else "spawn")
    with ProcessPoolExecutor(workers, context, start_worker) as pool:
        try:
            futures = [pool.submit(run, job) for job in jobs]
            for future in as_completed(futures):
                yield future.result()
        finally:
            for worker in multiprocessing.active_children():
                worker.kill()


def start_worker():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # several threads in each process would wait for one another
    load_mnist()  # or a spawned worker's first round would seem longer than others


def end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def keep(lines, path, nb_lines):
    """Append lines to the log as they come, tell each error and the time left; return faults."""
    faults = {}
    start = time.monotonic()
    with closing(lines):  # so that workers stop when this does
        for done, line in enumerate(lines, 1):
            seconds = (time.monotonic() - start) / done * (nb_lines - done)
            if "fault" in line:
                text = faults[line["row"]] = line["fault"]
                result = text.splitlines()[-1]
            else:
                append(line, path)
                result = "diverged" if line["diverged"] else f"{percent(line['test_error'][-1:])} %"
            say(
                f"{line['row']}, round {line['seed']}: {result}; {done} of {nb_lines} done, "
                f"about {timedelta(seconds=round(seconds))} left"
            )
    return faults


# What is printed


def say(text):
    print(text, file=sys.stderr)  # as standard output has the table alone


def percent(errors):
    """Mean ± standard deviation (n-1) of errors in 0..1, in percent."""
    spread = f" ± {100 * stdev(errors):.2f}" if len(errors) > 1 else ""
    return f"{100 * mean(errors):.2f}{spread}"


def table(settings, seeds, found, as_reported):
    """Lines to print of the rounds `found`, as rounds_in has them: those that did not diverge."""
    *_, one = settings.values()  # they differ in the row and its arguments
    yield "torch {torch}, {device} ({processor}), {pairs} pairs, code {code}".format(**one)
    yield HEADER
    for name in settings:
        lines = [line for line in found.values() if line["row"] == name]
        good = [line for line in lines if not line["diverged"]]
        text = name
        if good:
            last = percent([line["test_error"][-1] for line in good])
            best = percent([min(line["test_error"]) for line in good])
            seconds = mean(line["seconds"] for line in good)
            reported = EXPERIMENTS[name].get("reported", "") if as_reported else ""
            text = LAYOUT.format(name, good[0]["parameters"], last, best, seconds, reported)
        notes = {
            "missing": len(seeds) - len(lines),
            "diverged": len(lines) - len(good),
            "with one answer to all pairs": sum(line["one_answer"] for line in good),
        }
        notes = [f"{count} {note}" for note, count in notes.items() if count]
        if notes:
            text += f"  of {len(seeds)} rounds {', '.join(notes)}"
        yield text.rstrip()


# The command line


def fail(message, code=2):
    """Say in one line what is wrong and what to do, and exit; 2 stands for bad input."""
    say(f"test.py: {' '.join(str(message).split())}")
    sys.exit(code)


def stop(number, frame):
    """Of Ctrl-C and SIGTERM: end the run, which prints the table of what is there."""
    sys.exit(128 + number)


def on_signals(handler):
    """Let Ctrl-C and SIGTERM have this handler."""
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)


def whole(text):
    if not text.strip("0").isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up")
    return int(text)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.error = fail
    add = parser.add_argument
    add("--models", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS, help="rows (all)")
    add("--rounds", type=whole, default=20, help="trainings of each model (20)")
    add("--epochs", type=whole, help="epochs of every model, instead of the table's")
    add("--pairs", type=whole, default=1000, help="to train on (1000)")
    add("--seed", type=int, default=0, help="the first (0)")
    add("--device", default="auto", help="auto (cuda, or else cpu), cpu, cuda, mps, ...")
    add("--workers", type=whole, help="processes (one per core; on a GPU 4)")
    add("--output", type=Path, default="results.jsonl", help="(results.jsonl)")
    add("--save", type=Path, help="for each round's weights")
    return parser.parse_args()


def find_device(name):
    """`name`, or if that is "auto" cuda or else cpu; an error if torch cannot use it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()
    except Exception as error:
        raise ValueError(f"{name} does not work here ({error}): try --device cpu") from error
    return name


def prepare_row(name, options, device):
    """A row as arguments of train_round, and its settings; an error if something is wrong with it.

    It trains for two epochs on as many pairs as the last batch of the run has.
    """
    try:
        row = EXPERIMENTS[name] | ({"epochs": options.epochs} if options.epochs else {})
        row.pop("reported", None)
        model = row.get("model")
        if not callable(model) or isinstance(model, torch.nn.Module):
            raise ValueError("model must be a function or class that makes one, without brackets")
        nets = model(), model()
        memory = [
            {tensor.data_ptr() for tensor in [*net.parameters(), *net.buffers()]} for net in nets
        ]
        if set.intersection(*memory):
            raise ValueError("model must make new weights at each call")
        arguments = train.__kwdefaults__ | row
        size = arguments["batch_size"]
        draw = partial(generate_pair_sets, options.pairs % size or size, nb_test=8)
        arguments["epochs"] = min(arguments["epochs"], 2)
        train_round(seed=options.seed, draw=draw, device=device, **arguments)
        settings = settings_of(name, row, options.pairs, device)
        multiprocessing.reduction.ForkingPickler.dumps(row)  # as a worker gets it
        return row, settings
    except Exception as error:
        raise ValueError(f"row {name}: {type(error).__name__}: {error}") from error


def main():
    options = parse_arguments()
    cores = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for one another, and forked workers hang
    world = int(os.environ.get("WORLD_SIZE", 1))  # torchrun sets both
    rank = int(os.environ.get("RANK", 0))
    path = options.output
    seeds = range(options.seed, options.seed + options.rounds)
    rows = {}
    settings = {}
    try:
        device = find_device(options.device)
        generate_pair_sets(options.pairs, nb_test=1)  # reads MNIST, or says why it cannot
        for name in options.models:
            rows[name], settings[name] = prepare_row(name, options, device)
        open_log(path)
        found = rounds_in(path, settings, seeds)
        if options.save:
            options.save.mkdir(parents=True, exist_ok=True)
    except Exception as error:
        fail(error)

    jobs = []
    for seed in seeds:  # a round of every row, then the next of every row, ...
        for n, name in enumerate(rows):
            if (seed + n + rank) % world == 0 and (name, seed) not in found:
                jobs.append((settings[name], rows[name], seed))
    say(f"{path} has {len(found)} rounds, {len(jobs)} are to be trained on {device}")
    run = partial(run_job, device=device, folder=options.save)
    workers = min(options.workers or (cores if device == "cpu" else 4) // world, len(jobs))
    lines = (run(job) for job in jobs)
    if workers > 1:
        lines = run_in_workers(run, jobs, workers)

    on_signals(stop)
    try:
        faults = keep(lines, path, len(jobs))
    except Exception as error:
        fail(f"stopped by {type(error).__name__}: {error}", 1)
    finally:
        on_signals(signal.SIG_IGN)  # a second one would cost the table
        found = rounds_in(path, settings, seeds)
        lines = table(settings, seeds, found, not options.epochs and options.pairs == 1000)
        print(*lines, f"\nresults in {path}", sep="\n")
    on_signals(signal.default_int_handler)
    if faults:
        say("".join(faults.values()))
        sys.exit(int(world == 1))  # at code 1 torchrun would stop the other ranks


if __name__ == "__main__":
    main()
