"""Train every row of the table below for 20 rounds; print mean ± std of its test error."""

import argparse
import ast
import functools
import hashlib
import inspect
import json
import multiprocessing
import os
import signal
import statistics
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import torch

import models
from data import generate_pair_sets, load_mnist
from train import train, train_round

# A row is an experiment, to edit in place: a name, a model of models.py, the arguments of train
# that differ from the defaults in its signature (train.py), and the error in percent that the
# report prints (report 1: Fig. 2, best epochs at a constant rate; report 2: Table II).
EXPERIMENTS = dict(
    sub_lenet5=dict(model=models.sub_lenet5, reported=17.93,
                    learning_rate=0.01, batch_size=250, schedule="adaptive"),
    sub_lenet5_ws=dict(model=models.sub_lenet5_ws, reported=18.10,
                       learning_rate=0.0001, batch_size=100, schedule="adaptive"),
    sub_lenet5_ws_al=dict(model=models.sub_lenet5_ws_al, reported=4.05, learning_rate=0.01,
                          batch_size=50, schedule="adaptive", comparison_weight=0, digit_weight=1),
    baseline=dict(model=models.baseline, rotation=5, reported=22.0),
    baseline_al=dict(model=models.baseline, rotation=5, digit_weight=1, reported=20.0),
    siamese=dict(model=models.siamese, rotation=5, reported=17.0),
    siamese_al=dict(model=models.siamese, rotation=5, digit_weight=1, reported=15.0),
    posterior=dict(model=models.posterior, comparison_weight=0, digit_weight=1, copies=2,
                   label_smoothing=0.1, optimizer="AdamW", learning_rate=0.03, weight_decay=0.1,
                   schedule="one-cycle"),
    posterior_2s=dict(model=models.posterior, comparison_weight=0, digit_weight=1, copies=3,
                      label_smoothing=0.1, optimizer="AdamW", learning_rate=0.04, weight_decay=0.1,
                      schedule="one-cycle", batch_size=50, epochs=4),
)  # fmt: skip
HEADER = "model              parameters      last epoch      best epoch     reported   s/round"
LAYOUT = "{:<18}{:>11,}{:>16}{:>16}{:>13}{:>10.2f}"


# The log: a line of JSON for each round, appended as it ends, never changed


@functools.cache
def code_of(path):
    """The code of a Python file, without comments and docstrings."""
    tree = ast.parse(Path(path).read_bytes())
    documented = ast.Module, ast.ClassDef, ast.FunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node):
            del node.body[0]
    return ast.unparse(tree)


def digest(functions):
    """Twelve digits that tell the code of data.py, models.py, train.py and the functions' files."""
    functions = [getattr(function, "func", function) for function in functions]  # of partial ones
    functions += [generate_pair_sets, models.Model, train]
    files = {inspect.getsourcefile(function) for function in functions}
    code = "".join(map(code_of, sorted(files)))
    return hashlib.sha256(code.encode()).hexdigest()[:12]


def in_json(value):
    """A function by its name, a functools.partial by its parts, a tensor by its number."""
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    return value.__name__ if callable(value) else float(value)


def settings_of(name, row, pairs, device):
    """All that decides the numbers of a row's rounds, but for their seeds, as the log has it."""
    settings = {
        "row": name,
        "pairs": pairs,
        "arguments": train.__kwdefaults__ | row,  # train's defaults, and what the row has instead
        "code": digest(filter(callable, row.values())),
        "torch": torch.__version__,
        "device": device,
        "processor": (
            torch.cuda.get_device_name()
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
    """Train a round, keep its weights if there is a `folder`, and return its line for the log."""
    settings, row, seed = job
    name = settings["row"]
    draw = functools.partial(generate_pair_sets, settings["pairs"], nb_test=1000)
    try:
        model, _, outcome = train_round(seed=seed, draw=draw, device=device, **row)
    except Exception as error:  # as one that can be sent from a worker, and names the row
        raise RuntimeError(f"row {name}: {type(error).__name__}: {error}") from error
    if folder:
        torch.save(model.cpu().state_dict(), folder / f"{name}-{seed}.pt")
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
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # several threads in each process would wait for one another
    load_mnist()  # or a spawned worker's first round would seem longer than others


def end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def keep(lines, path, nb_lines):
    """Append lines to the log as they come; tell each error and the time left."""
    start = time.monotonic()
    with closing(lines):  # so that workers stop when this does
        for done, line in enumerate(lines, 1):
            append(line, path)
            error = "diverged" if line["diverged"] else f"{percent(line['test_error'][-1:])} %"
            seconds = (time.monotonic() - start) / done * (nb_lines - done)
            say(
                f"{line['row']}, round {line['seed']}: {error}; {done} of {nb_lines} done, "
                f"about {timedelta(seconds=round(seconds))} left",
                end="\033[K\r" if os.isatty(2) and done < nb_lines else "\n",
            )


# What is printed


def say(text, end="\n"):
    """Tell of progress on standard error."""
    print(text, end=end, file=sys.stderr, flush=True)


def percent(errors):
    """Mean ± standard deviation (n-1) of errors in 0..1, in percent."""
    text = f"{100 * statistics.mean(errors):.2f}"
    if len(errors) > 1:
        text += f" ± {100 * statistics.stdev(errors):.2f}"
    return text


def table(settings, seeds, found, reported):
    """Lines to print of the rounds `found`, as rounds_in has them: those that did not diverge."""
    *_, one = settings.values()  # they differ in the row and its arguments
    yield (
        f"torch {one['torch']}, {one['device']} ({one['processor']}), "
        f"{one['pairs']} pairs, code {one['code']}"
    )
    yield "test error in percent, mean ± standard deviation (n-1) over the rounds\n"
    yield HEADER
    for name in settings:
        lines = [found[name, seed] for seed in seeds if (name, seed) in found]
        good = [line for line in lines if not line["diverged"]]
        text = name
        if good:
            last = percent([line["test_error"][-1] for line in good])
            best = percent([min(line["test_error"]) for line in good])
            seconds = statistics.mean(line["seconds"] for line in good)
            text = LAYOUT.format(name, good[0]["parameters"], last, best, reported[name], seconds)
        if len(good) < len(seeds):
            diverged, missing = len(lines) - len(good), len(seeds) - len(lines)
            text += f"  of {len(seeds)} rounds {diverged} diverged, {missing} missing"
        yield text


# The command line


def fail(message):
    """For bad input: one line that says what is wrong and what to do, and exit code 2."""
    say(f"test.py: {' '.join(str(message).split())}")
    sys.exit(2)


def stop(number, frame):
    """Of Ctrl-C and SIGTERM: end the run, which prints the table of what is there."""
    sys.exit(128 + number)


def on_signals(handler):
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)


def whole(text, low=1):
    if not text.isdecimal() or int(text) < low:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} up")
    return int(text)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.error, add, rows = fail, parser.add_argument, EXPERIMENTS
    add("--models", nargs="+", choices=rows, default=rows, metavar="KEY", help="of the table (all)")
    add("--rounds", type=whole, default=20, help="trainings of each model (20)")
    add("--epochs", type=whole, help="epochs of every model, instead of the table's")
    add("--pairs", type=whole, default=1000, help="to train on (1000)")
    add("--seed", type=functools.partial(whole, low=0), default=0, help="the first (0)")
    add("--device", default="auto", help="auto (the best there is), cpu, cuda, ...")
    add("--workers", type=whole, help="processes (one per core; on a GPU 4)")
    add("--output", type=Path, default="results.jsonl", help="(results.jsonl)")
    add("--save", type=Path, help="for each round's weights")
    return parser.parse_args()


def find_device(name):
    """`name`, or if that is "auto" the best device there is; an error if torch has none."""
    if name == "auto":
        found = torch.accelerator.is_available() and torch.accelerator.current_accelerator()
        name = found.type if found else "cpu"
    if name.startswith("cpu"):
        name = "cpu"
    elif "LOCAL_RANK" in os.environ:  # torchrun's: a GPU each
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    torch.zeros(1, device=name).item()
    return name


def prepare_row(name, options, device):
    """A row as arguments of train_round, its settings, and the error to print beside ours.

    It trains once, on eight pairs, to see what is wrong with it.
    """
    try:
        row = EXPERIMENTS[name].copy()
        reported = row.pop("reported", None)
        if options.epochs:
            row["epochs"] = options.epochs
        if row["model"]() is row["model"]():
            raise ValueError("model must be a function that makes a new one at each call")
        draw = functools.partial(generate_pair_sets, 8)
        train_round(seed=options.seed, draw=draw, device=device, **row)
        multiprocessing.reduction.ForkingPickler.dumps(row)  # as a worker gets it
        settings = settings_of(name, row, options.pairs, device)
        as_reported = reported and not options.epochs and options.pairs == 1000
        return row, settings, f"{reported:.2f}" if as_reported else ""
    except Exception as error:
        raise ValueError(f"row {name}: {type(error).__name__}: {error}") from error


def main():
    options = parse_arguments()
    on_signals(stop)
    torch.set_num_threads(1)  # several would wait for one another, and forked workers hang
    world = int(os.environ.get("WORLD_SIZE", 1))  # torchrun sets both
    rank = int(os.environ.get("RANK", 0)) % world
    path, seeds = options.output, range(options.seed, options.seed + options.rounds)
    rows, settings, reported = {}, {}, {}
    try:
        device = find_device(options.device)
        generate_pair_sets(options.pairs, nb_test=1)  # reads MNIST, or says why it cannot
        for name in options.models:
            rows[name], settings[name], reported[name] = prepare_row(name, options, device)
        open_log(path)
        found = rounds_in(path, settings, seeds)
        if options.save:
            options.save.mkdir(parents=True, exist_ok=True)
            if rank == 0 and not found and any(options.save.iterdir()):
                raise ValueError(f"--save {options.save} is not empty, name a new folder")
    except Exception as error:
        fail(error)

    jobs = []
    for seed in seeds:  # a round of every row, then the next of every row, ...
        for n, name in enumerate(reversed(rows)):  # the shortest last, to end together
            if (seed + n) % world == rank and (name, seed) not in found:
                jobs.append((settings[name], rows[name], seed))
    nb_rounds = len(rows) * len(seeds)
    say(f"{len(found)} of {nb_rounds} rounds are in {path}, {len(jobs)} to train on {device}")
    run = functools.partial(run_job, device=device, folder=options.save)
    if world > 1:
        lines = (run(job) for job in jobs)
    else:
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
        workers = options.workers or (cores if device == "cpu" else 4)
        lines = run_in_workers(run, jobs, min(workers, len(jobs)) or 1)

    try:
        keep(lines, path, len(jobs))
        while world > 1 and rank == 0 and len(rounds_in(path, settings, seeds)) < nb_rounds:
            time.sleep(0.1)  # until torchrun's other processes have done theirs
    except Exception as error:
        say(f"test.py: stopped by {type(error).__name__}: {error}")
        sys.exit(1)
    finally:
        on_signals(signal.SIG_IGN)  # a second one would cost the table
        if rank == 0:
            found = rounds_in(path, settings, seeds)
            print(*table(settings, seeds, found, reported), f"\nresults in {path}", sep="\n")
    on_signals(signal.default_int_handler)  # for a prompt that may follow


if __name__ == "__main__":
    main()
