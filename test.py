"""Train every model for 20 rounds and print the mean ± standard deviation of its test error.

    python test.py                                  all models, on the best device there is
    python test.py --models siamese --rounds 2      a quick look
    torchrun --nproc-per-node 4 test.py             the rounds shared by 4 processes or GPUs

To try other hyperparameters, edit the table below in place.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import re
import signal
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

if __name__ == "__main__":  # here, as importing torch takes seconds
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os._exit(128 + number))  # an exception would abort it

import torch

from data import add_rotated, generate_pair_sets, load_mnist
from models import MODELS
from train import OPTIMIZERS, SCHEDULES, train

# fmt: off
EXPERIMENTS = {
    # model              optim-   learning schedule   batch epochs loss weights:   label      rotated   distorted
    #                    izer     rate                size         pair, digits    smoothing  copy, ±°  copies
    "sub_lenet5":       ("adam",  0.01,   "adaptive",  250,  25,    1.0,  0.0,     0.0,      0,        0),
    "sub_lenet5_ws":    ("adam",  0.0001, "adaptive",  100,  25,    1.0,  0.0,     0.0,      0,        0),
    "sub_lenet5_ws_al": ("adam",  0.01,   "adaptive",   50,  25,    0.0,  1.0,     0.0,      0,        0),
    "baseline":         ("adam",  0.001,  "constant",  100,  25,    1.0,  0.0,     0.0,      5,        0),
    "baseline_al":      ("adam",  0.001,  "constant",  100,  25,    1.0,  1.0,     0.0,      5,        0),
    "siamese":          ("adam",  0.001,  "constant",  100,  25,    1.0,  0.0,     0.0,      5,        0),
    "siamese_al":       ("adam",  0.001,  "constant",  100,  25,    1.0,  1.0,     0.0,      5,        0),
    "posterior":        ("adamw", 0.03,   "one-cycle", 100,  25,    0.0,  1.0,     0.1,      0,        2),
}
COLUMNS = {  # what each column takes: names, or numbers from ... to ...
    "optimizer": list(OPTIMIZERS), "learning_rate": (1e-9, 1e6), "schedule": list(SCHEDULES),
    "batch_size": (1, 10**6), "epochs": (1, 10**4), "comparison_weight": (0.0, 1e6), "digit_weight": (0.0, 1e6),
    "label_smoothing": (0.0, 0.9), "rotation": (0.0, 180.0), "distorted": (0, 100),
}
LIMITS = {"rounds": (1, 10**4), "epochs": (1, 10**4), "seed": (0, 2**31), "workers": (1, 256)}  # of the options
PAIRS = 1000  # to train on, and as many to test on
STACK = 20  # rounds that an accelerator trains at once, at most

# The errors in the reports, in percent: report 1's Fig. 2 at these batch sizes (best epoch of each
# round, no adaptive rate) and report 2's Table II.
REPORTED = {"sub_lenet5": 17.93, "sub_lenet5_ws": 18.10, "sub_lenet5_ws_al": 4.05,
            "baseline": 22.00, "baseline_al": 20.00, "siamese": 17.00, "siamese_al": 15.00}
# What is kept of a round: the error after the last epoch, the lowest, all; wall time; whether its loss became infinite.
MEASURES = "test_error", "best_test_error", "test_error_by_epoch", "seconds", "diverged"
LAYOUT = "{:<18}{:>11}{:>16}{:>16}{:>13}{:>10}"
# fmt: on


def prepare(key, rotation, seed, device, mnist):
    """A model and its data for one round, all random numbers drawn from `seed`: train's arguments.

    The pairs are those that the course's generate_pair_sets draws under torch.manual_seed(seed).
    """
    generator = torch.Generator().manual_seed(seed)
    *train_set, test_input, test_target, _ = generate_pair_sets(PAIRS, generator, mnist)
    weight_seed, training_seed = torch.randint(2**32, (2,), generator=generator).tolist()
    if rotation:
        train_set = add_rotated(*train_set, rotation, generator)
    torch.manual_seed(weight_seed)  # layers draw their weights from torch's global generator
    model = MODELS[key]().to(device)
    train_set = [tensor.to(device) for tensor in train_set]
    test_set = [test_input.to(device), test_target.to(device)]
    return model, train_set, test_set, torch.Generator().manual_seed(training_seed)


def train_rounds(key, row, seeds, device, mnist):
    """Train model `key` once for each of `seeds`: the rounds, as prepare returns them, and train's histories."""
    settings = dict(row)
    rotation = settings.pop("rotation")
    with torch.random.fork_rng(devices=[]):  # gives the global generator back as it was
        rounds = [prepare(key, rotation, seed, device, mnist) for seed in seeds]
        return rounds, train(*zip(*rounds, strict=True), **settings)


def run_job(*job):
    """Train as train_rounds does and return for each round what MEASURES names."""
    start = time.perf_counter()
    _, histories = train_rounds(*job)
    seconds, outcomes = (time.perf_counter() - start) / len(histories), []
    for history in histories:
        errors, diverged = history["test_error"], not all(map(math.isfinite, history["loss"]))
        outcomes.append(dict(zip(MEASURES, (errors[-1], min(errors), errors, seconds, diverged), strict=True)))
    return outcomes


def start_worker(mnist=None):
    run_in_worker.mnist = mnist  # sent to a worker once, not with every job
    torch.set_num_threads(1)  # one core each: several threads a round would wait for one another
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent's to handle


def run_in_worker(function, job):
    return function(*job, "cpu", run_in_worker.mnist)


def run_in_workers(jobs, workers, mnist, function=run_job):
    """Call `function` for each of `jobs`, its first arguments, in `workers` processes, a core each.

    Yields each job's number and outcomes as it finishes; stopped early, it stops the workers.
    """
    # A forked worker has torch loaded from the start. That is safe on Linux, if this process has
    # no other threads, as main sees to.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, context, start_worker, (mnist,)) as pool:
        try:
            futures = {pool.submit(run_in_worker, function, job): n for n, job in enumerate(jobs)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.kill()
            raise


def run_here(jobs, rank, world, device, mnist):
    """Run every `world`-th of `jobs` in this process, number `rank` of those that torchrun started.

    Yields like run_in_workers, in rank 0 also what the other ranks have done.
    """
    store = next(torch.distributed.rendezvous("env://"))[0] if world > 1 else None
    elsewhere = {n for n in range(len(jobs)) if n % world and rank == 0}
    own = list(range(rank, len(jobs), world))
    while own or elsewhere:
        if own:
            outcomes = run_job(*jobs[own[0]], device, mnist)
            if rank:
                store.set(str(own[0]), json.dumps(outcomes))
            yield own.pop(0), outcomes
        else:
            time.sleep(0.1)
        for n in [n for n in elsewhere if store.check([str(n)])]:
            elsewhere.remove(n)
            yield n, json.loads(store.get(str(n)))


def percent(errors):
    """Mean ± standard deviation (n-1) of errors in 0..1, in percent."""
    if len(errors) < 2:
        return f"{100 * errors[0]:.2f} ± n/a" if errors else "n/a"
    return f"{100 * statistics.mean(errors):.2f} ± {100 * statistics.stdev(errors):.2f}"


def table(results):
    """Lines to print of a results file, with the errors of the rounds that are finished and did not diverge."""
    yield ", ".join(f"{name} {value}" for name, value in results["environment"].items())
    yield f"{PAIRS} training and {PAIRS} test pairs a round; mean ± standard deviation (n-1)\n"
    yield LAYOUT.format("model", "parameters", "last epoch %", "best epoch %", "reported %", "s/round")
    for key, entry in results["models"].items():
        good = [r for r, diverged in enumerate(entry["diverged"]) if diverged is False]
        last, best = (percent([entry[name][r] for r in good]) for name in ("test_error", "best_test_error"))
        reported = f"{REPORTED[key]:.2f}" if key in REPORTED else ""
        seconds = [value for value in entry["seconds"] if value is not None]
        seconds = f"{statistics.mean(seconds):.2f}" if seconds else "n/a"
        line = LAYOUT.format(key, f"{entry['parameters']:,}", last, best, reported, seconds)
        for value, what in ((True, "diverged"), (None, "missing")):
            if count := entry["diverged"].count(value):
                line += f"  {count} of {len(entry['diverged'])} rounds {what}"
        yield line


def new_results(rows, rounds, seed, device, workers, measures=MEASURES):
    """The results file before the first round."""
    environment = {"torch": torch.__version__, "python": platform.python_version()}
    environment |= {"machine": f"{platform.system()} {platform.machine()}", "device": device}
    environment |= {"workers": workers, "seed": seed, "rounds": rounds}
    entries = {}
    for key, row in rows.items():
        parameters = sum(parameter.numel() for parameter in MODELS[key]().parameters())
        unfinished = {name: [None] * rounds for name in measures}
        entries[key] = {"parameters": parameters, "hyperparameters": row, **unfinished}
    return {"environment": environment, "complete": False, "models": entries}


def write_results(path, results):
    """Write the whole file or nothing: whoever reads `path` never finds half of it."""
    path = path.resolve()  # a link stays one
    draft = path.with_name(path.name + ".part")
    text = json.dumps(results, indent=1)
    draft.write_text(re.sub(r"\[[^][{}]*\]", lambda x: "[" + " ".join(x[0][1:-1].split()) + "]", text) + "\n")
    draft.replace(path)


def keep(outcomes, jobs, results, path):
    """Put each job's outcomes into `results`, write them to `path` as they come, and say what time is left."""
    start = time.monotonic()
    for done, (n, outcome) in enumerate(outcomes, 1):
        key, _, seeds = jobs[n]
        for seed, values in zip(seeds, outcome, strict=True):
            for name, value in values.items():
                results["models"][key][name][seed - results["environment"]["seed"]] = value
        results["complete"] = done == len(jobs)
        write_results(path, results)
        left = round((time.monotonic() - start) / done * (len(jobs) - done))
        text = f"{done} of {len(jobs)} jobs done, about {left // 60}:{left % 60:02} left"
        end = "\033[K\r" if sys.stderr.isatty() else "\n"  # on a terminal one line only
        print(text, end=end, file=sys.stderr, flush=True)


def check(name, value, allowed):
    """Raise ValueError if `value` is not allowed: not one of a list of names, or, where `allowed` is a pair of
    numbers, not from the one to the other (and whole, if they are)."""
    if isinstance(allowed, list):
        fits, wanted = value in allowed, " or ".join(allowed)
    else:
        kind, (low, high) = type(allowed[0]), allowed
        fits = type(value) in (int, kind) and low <= value <= high
        wanted = f"a {'whole ' * (kind is int)}number from {low} to {high}"
    if not fits:
        raise ValueError(f"{name} is {value!r}, it must be {wanted}")


def read_row(key):
    """Row `key` of the table as a dictionary. Nonsense raises ValueError, naming row and value."""
    values = EXPERIMENTS[key]
    if not isinstance(values, tuple) or len(values) != len(COLUMNS):
        raise ValueError(f"row {key} must have {len(COLUMNS)} values, one for each column")
    if key not in MODELS:
        raise ValueError(f"row {key} has no model, add one to MODELS in models.py")
    row = dict(zip(COLUMNS, values, strict=True))
    for name, value in row.items():
        check(f"row {key}: {name}", value, COLUMNS[name])
    if row["comparison_weight"] == row["digit_weight"] == 0:
        raise ValueError(f"row {key}: comparison_weight and digit_weight are 0, one must not be")
    with torch.random.fork_rng(devices=[]):
        comparison, digits = MODELS[key]()(torch.zeros(2, 2, 14, 14))
    if comparison.shape != (2,) or digits.shape != (2, 2, 10):
        raise ValueError(f"row {key}: the outputs of its model must be [N] and [N, 2, 10] for N pairs")
    if row["comparison_weight"] and not comparison.requires_grad:
        raise ValueError(f"row {key}: comparison_weight must be 0, the model only learns digits")
    return row


def fail(message):
    """For bad input: one line that says what is wrong and what to do, and exit code 2."""
    if os.environ.get("RANK", "0") == "0":
        print(f"test.py: {message}", file=sys.stderr)
    sys.exit(2)


def parse_arguments():
    """The command line, checked and completed, with the rows it names as .rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.error, add = fail, parser.add_argument
    # fmt: off
    add("--models", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), metavar="KEY",
        help=f"rows of the table: {', '.join(EXPERIMENTS)}")
    add("--rounds", type=int, default=20, metavar="N", help="trainings of each model (20)")
    add("--epochs", type=int, metavar="N", help="epochs of every model, instead of the table's")
    add("--seed", type=int, default=0, metavar="N", help="round r draws its data from N + r (0)")
    add("--device", default="auto", help="auto (the best there is), cpu, cuda, mps, ...")
    add("--workers", type=int, metavar="N", help="processes, on the CPU (one per core)")
    add("--output", type=Path, default="results.json", metavar="FILE", help="(results.json)")
    # fmt: on
    options = parser.parse_args()
    try:
        if options.device == "auto":
            found = torch.accelerator.is_available() and torch.accelerator.current_accelerator()
            options.device = found.type if found else "cpu"
        if options.device != "cpu" and ":" not in options.device and "LOCAL_RANK" in os.environ:
            options.device += f":{int(os.environ['LOCAL_RANK']) % torch.accelerator.device_count()}"
        torch.zeros(1, device=options.device).item()
    except Exception:  # each backend has its own
        fail(f"--device {options.device} is not one that torch can use here")
    if options.workers is not None and (options.device != "cpu" or "RANK" in os.environ):
        fail("--workers is for the CPU without torchrun, leave it out")
    if len(set(options.models)) < len(options.models):
        fail("--models names a model twice")
    try:
        if options.output.suffix != ".json" or (options.output.exists() and not options.output.is_file()):
            raise ValueError(f"--output {options.output} must be a file, its name ending in .json")
        for name, allowed in LIMITS.items():
            if (value := getattr(options, name)) is not None:
                check(f"--{name}", value, allowed)
        options.rows = {key: read_row(key) for key in EXPERIMENTS if key in options.models}
    except (OSError, ValueError) as error:
        fail(error)
    for row in options.rows.values():
        row["epochs"] = options.epochs or row["epochs"]
    return options


def main():
    torch.set_num_threads(1)  # so that workers can be forked
    options = parse_arguments()
    rounds, device, path = options.rounds, options.device, options.output
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    # On a CPU a job is one round: the first of every model, then the second of every model, ...
    stack = 1 if device == "cpu" else min(STACK, math.ceil(rounds / world))
    seeds = range(options.seed, options.seed + rounds)
    parts = [list(seeds[r : r + stack]) for r in range(0, rounds, stack)]
    jobs = [(key, row, part) for part in parts for key, row in options.rows.items()]
    in_workers = device == "cpu" and world == 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = min(options.workers or cores, len(jobs)) if in_workers else world
    results = new_results(options.rows, rounds, options.seed, device, workers)
    try:
        mnist = load_mnist()
    except (OSError, ValueError) as error:
        fail(error)
    try:
        if rank == 0:
            write_results(path, results)
    except OSError as error:
        fail(f"--output {path} cannot be written ({error.strerror})")

    outcomes = run_in_workers(jobs, workers, mnist) if in_workers else run_here(jobs, rank, world, device, mnist)
    if rank:
        list(outcomes)  # rank 0 keeps and prints them
        return
    exit_code, problem = 0, ""
    try:
        keep(outcomes, jobs, results, path)
    except SystemExit as stop:
        exit_code = stop.code
    except BrokenProcessPool:
        exit_code, problem = 1, "test.py: a worker was killed, out of memory? Try fewer --workers\n"
    except OSError as error:
        exit_code, problem = 1, f"test.py: {path} cannot be written ({error})\n"
    with suppress(OSError):  # a stop may have come between a round's end and its writing
        write_results(path, results)
    print(problem, end="", file=sys.stderr)
    print(*table(results), sep="\n")
    print(f"\nresults{'' if results['complete'] else ', INCOMPLETE,'} in {path}")
    sys.exit(exit_code)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    main()
