"""Train every model for 20 rounds and print the mean ± standard deviation of its test error.

    python test.py                                  all models, on the best device there is
    python test.py --models siamese --rounds 2      a quick look
    python test.py --help                           all options

To try other hyperparameters, edit the table below in place.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import signal
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from data import add_rotated, generate_pair_sets, load_mnist
from models import MODELS
from train import OPTIMIZERS, train, train_together

COLUMNS = {  # what each column of the table takes: a choice, or a number from ... to ...
    "optimizer": tuple(OPTIMIZERS),
    "learning_rate": (1e-9, 1e6),
    "batch_size": (1, 1_000_000),
    "epochs": (1, 10_000),
    "adaptive": (True, False),
    "comparison_weight": (0.0, 1e6),
    "digit_weight": (0.0, 1e6),
    "rotation": (0.0, 180.0),
}
# fmt: off
EXPERIMENTS = {
    # model              optimizer  learning  batch  epochs  adaptive  comparison  digit   rotation
    #                               rate      size           rate      weight      weight  ± degrees
    "sub_lenet5":       ("adam",    0.01,     250,   25,     True,     1.0,        0.0,    0),
    "sub_lenet5_ws":    ("adam",    0.0001,   100,   25,     True,     1.0,        0.0,    0),
    "sub_lenet5_ws_al": ("adam",    0.01,      50,   25,     True,     0.0,        1.0,    0),
    "baseline":         ("adam",    0.001,    100,   25,     False,    1.0,        0.0,    5),
    "baseline_al":      ("adam",    0.001,    100,   25,     False,    1.0,        1.0,    5),
    "siamese":          ("adam",    0.001,    100,   25,     False,    1.0,        0.0,    5),
    "siamese_al":       ("adam",    0.001,    100,   25,     False,    1.0,        1.0,    5),
}
PAIRS = 1000  # to train on, and as many to test on
STACK = 20  # rounds that an accelerator trains at once

# The errors in the reports, in percent: report 1's Fig. 2 at these batch sizes (best epoch of each
# round, no adaptive rate) and report 2's Table II.
REPORTED = {"sub_lenet5": 17.93, "sub_lenet5_ws": 18.10, "sub_lenet5_ws_al": 4.05,
            "baseline": 22.00, "baseline_al": 20.00, "siamese": 17.00, "siamese_al": 15.00}

# The reports' two questions: what does each technique gain? Models without and with it.
QUESTIONS = {
    "weight sharing": [("sub_lenet5", "sub_lenet5_ws"),
                       ("baseline", "siamese"), ("baseline_al", "siamese_al")],
    "auxiliary loss": [("sub_lenet5_ws", "sub_lenet5_ws_al"),
                       ("baseline", "baseline_al"), ("siamese", "siamese_al")],
}
# fmt: on


def prepare(key, rotation, seed, device, mnist):
    """A model and its data for one round, all random numbers drawn from `seed`: train's arguments.

    The pairs are those that the course's generate_pair_sets draws under torch.manual_seed(seed).
    """
    generator = torch.Generator().manual_seed(seed)
    *train_set, test_input, test_target, _ = generate_pair_sets(PAIRS, generator, mnist)
    weight_seed, order_seed = torch.randint(2**32, (2,), generator=generator).tolist()
    if rotation:
        train_set = add_rotated(*train_set, rotation, generator)
    torch.manual_seed(weight_seed)  # layers draw their weights from torch's global generator
    model = MODELS[key]().to(device, memory_format=torch.channels_last)  # convolves faster on CPUs
    train_set = [tensor.to(device) for tensor in train_set]
    test_set = [test_input.to(device), test_target.to(device)]
    return model, train_set, test_set, torch.Generator().manual_seed(order_seed)


def run_job(key, hyperparameters, seeds, device, mnist):
    """Train model `key` once for each of `seeds`: the list of train.train's histories, in which
    "seconds" is the wall time of a round.

    `hyperparameters` is a row of the table as a dictionary, `mnist` what load_mnist returns.
    """
    start = time.perf_counter()
    settings = dict(hyperparameters)
    rotation = settings.pop("rotation")
    with torch.random.fork_rng(devices=[]):  # gives the global generator back as it was
        rounds = [prepare(key, rotation, seed, device, mnist) for seed in seeds]
        if len(rounds) == 1:
            histories = [train(*rounds[0], **settings)]
        else:
            histories = train_together(*zip(*rounds, strict=True), **settings)
    seconds = (time.perf_counter() - start) / len(seeds)
    return [history | {"seconds": seconds} for history in histories]


def start_worker():
    torch.set_num_threads(1)  # one core each: several threads a round would wait for one another
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent's to handle


def run_jobs(jobs, workers, device, mnist):
    """Run `jobs`, (key, hyperparameters, seeds) each, in `workers` processes; on an accelerator in
    this one. Yields (key, seeds, histories) as they finish; stopped early, it stops the workers.
    """
    if device != "cpu":
        for key, hyperparameters, seeds in jobs:
            yield key, seeds, run_job(key, hyperparameters, seeds, device, mnist)
        return
    # A forked worker has torch loaded from the start. That is safe on Linux, if this process has
    # no other threads, as main sees to.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, context, start_worker) as pool:
        try:
            futures = {pool.submit(run_job, *job, device, mnist): job for job in jobs}
            for future in as_completed(futures):
                key, _, seeds = futures[future]
                yield key, seeds, future.result()
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.kill()
            raise


def percent(errors):
    """Mean ± standard deviation (n-1) of errors in 0..1, in percent."""
    deviation = f"{100 * statistics.stdev(errors):.2f}" if len(errors) > 1 else "n/a"
    return f"{100 * statistics.mean(errors):.2f} ± {deviation}"


def student_t(n):
    """The 97.5% quantile of Student's t with n degrees of freedom, to three decimals."""
    t = torch.linspace(0, 13, 130_001, dtype=torch.float64)
    log_scale = math.lgamma((n + 1) / 2) - math.lgamma(n / 2) - math.log(n * math.pi) / 2
    density = torch.exp(log_scale - (n + 1) / 2 * torch.log1p(t**2 / n))
    return t[1:][torch.cumulative_trapezoid(density, t) >= 0.475][0].item()


def paired_gain(without, with_it):
    """What a technique gains: the mean over rounds of the error without it minus that with it, and
    half the width of the mean's 95% confidence interval. Takes two lists of two or more errors.
    """
    gains = [a - b for a, b in zip(without, with_it, strict=True)]
    half_width = student_t(len(gains) - 1) * statistics.stdev(gains) / math.sqrt(len(gains))
    return statistics.mean(gains), half_width


def finished(entry, measure):
    """What the results file has of a model's finished rounds: unfinished ones are None there."""
    return [value for value in entry[measure] if value is not None]


LAYOUT = "{:<18}{:>11}{:>16}{:>16}{:>13}{:>10}"
HEADINGS = ("model", "parameters", "last epoch %", "best epoch %", "reported %", "s/round")


def table_row(key, entry):
    """A model's line of the table, from its entry in the results file."""
    text = LAYOUT.format(
        key,
        f"{entry['parameters']:,}",
        percent(finished(entry, "test_error")),
        percent(finished(entry, "best_test_error")),
        f"{REPORTED[key]:.2f}" if key in REPORTED else "",
        f"{statistics.mean(finished(entry, 'seconds')):.2f}",
    )
    missing = entry["seconds"].count(None)
    return text + (f"  {missing} rounds missing" if missing else "")


def answers(entries):
    """Lines that say what each technique gains, over the rounds that both models have finished."""
    for technique, comparisons in QUESTIONS.items():
        for models in comparisons:
            if not entries.keys() >= set(models):
                continue
            pairs = zip(*(entries[key]["test_error"] for key in models), strict=True)
            shared = [errors for errors in pairs if None not in errors]
            if len(shared) > 1:
                gain, half = (100 * value for value in paired_gain(*zip(*shared, strict=True)))
                interval = f"[{gain - half:.2f}, {gain + half:.2f}]"
                yield f"{technique:<18}{' -> '.join(models):<37}{gain:>6.2f}   {interval}"


def time_left(entries, workers):
    """An estimate, as m:ss, once one round is finished; a model that has finished none is taken to
    need the mean time of the others."""
    means = {k: statistics.mean(s) for k, e in entries.items() if (s := finished(e, "seconds"))}
    typical = statistics.mean(means.values())
    left = sum(e["seconds"].count(None) * means.get(k, typical) for k, e in entries.items())
    return "{}:{:02}".format(*divmod(round(left / workers), 60))


def tell(text):
    """Show progress on stderr: on a terminal in the place of the last one, in a log as a line."""
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def write_results(path, results):
    """Write the whole file or nothing: whoever reads `path` never finds half of it."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(results, indent=1) + "\n")
    draft.replace(path)


def check(name, value, allowed):
    """Raise ValueError if `value` is not among `allowed`: choices, or the ends of a range (of whole
    numbers, if they are)."""
    if type(allowed[0]) in (int, float):
        low, high = allowed
        fits = type(value) in (int, type(low)) and low <= value <= high
        wanted = f"a {'whole ' if type(low) is int else ''}number from {low} to {high}"
    else:
        fits = type(value) is type(allowed[0]) and value in allowed
        wanted = " or ".join(map(str, allowed))
    if not fits:
        raise ValueError(f"{name} is {value!r}, it must be {wanted}")


def read_row(key):
    """Row `key` of the table as a dictionary. Nonsense raises ValueError, naming row and value."""
    if len(EXPERIMENTS[key]) != len(COLUMNS):
        raise ValueError(f"row {key} has {len(EXPERIMENTS[key])} values for {len(COLUMNS)} columns")
    row = dict(zip(COLUMNS, EXPERIMENTS[key], strict=True))
    try:
        for name, value in row.items():
            check(name, value, COLUMNS[name])
        if row["comparison_weight"] == row["digit_weight"] == 0:
            raise ValueError("comparison_weight and digit_weight are 0, one of them must not be")
        with torch.device("meta"):  # shapes only
            comparison, _ = MODELS[key]()(torch.zeros(2, 2, 14, 14))
        if comparison is None and row["comparison_weight"]:
            raise ValueError("comparison_weight must be 0, as the model outputs digits only")
    except ValueError as error:
        raise ValueError(f"row {key}: {error}") from None
    return row


def fail(message):
    """For bad input: one line that says what is wrong and what to do, and exit code 2."""
    print(f"test.py: {message}", file=sys.stderr)
    sys.exit(2)


def parse_arguments():
    """The command line, checked and completed, with the rows it names as .experiments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.error = fail
    # fmt: off
    add = parser.add_argument
    add("--models", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), metavar="KEY",
        help=f"rows of the table: {', '.join(EXPERIMENTS)}")
    add("--rounds", type=int, default=20, metavar="N", help="trainings of each model (20)")
    add("--epochs", type=int, metavar="N", help="epochs of every model, instead of the table's")
    add("--seed", type=int, default=0, metavar="N", help="round r draws its data from N + r (0)")
    add("--device", default="auto", help="auto (the best there is), cpu, cuda, mps, ...")
    add("--workers", type=int, metavar="N", help="processes, on the CPU (one per core)")
    add("--output", type=Path, default="results.json", metavar="FILE", help="(results.json)")
    # fmt: on
    arguments = parser.parse_args()

    if arguments.device == "auto":
        found = torch.accelerator.is_available() and torch.accelerator.current_accelerator()
        arguments.device = str(found or "cpu")
    try:
        torch.zeros(1, device=arguments.device).item()
    except Exception:  # each backend has its own
        fail(f"--device {arguments.device} is not one that torch can use here")
    if arguments.workers is not None and arguments.device != "cpu":
        fail(f"--workers is for the CPU, leave it out for the device {arguments.device}")
    if len(set(arguments.models)) < len(arguments.models):
        fail("--models names a model twice")
    if arguments.output.is_dir():
        fail(f"--output {arguments.output} is a directory, it must be a file")
    try:
        check("--rounds", arguments.rounds, (1, 10_000))
        check("--seed", arguments.seed, (0, 2**31))
        if arguments.workers is not None:
            check("--workers", arguments.workers, (1, 256))
        arguments.experiments = {k: read_row(k) for k in EXPERIMENTS if k in arguments.models}
        if arguments.epochs is not None:
            check("--epochs", arguments.epochs, COLUMNS["epochs"])
            for row in arguments.experiments.values():
                row["epochs"] = arguments.epochs
    except ValueError as error:
        fail(error)
    return arguments


def main():
    torch.set_num_threads(1)  # so that workers can be forked
    arguments = parse_arguments()
    experiments, rounds, seed = arguments.experiments, arguments.rounds, arguments.seed
    if arguments.device == "cpu":
        # The first round of every model before all others: from then on the time left is known.
        order = [(key, 0) for key in experiments]
        order += [(key, r) for key in experiments for r in range(1, rounds)]
        jobs = [(key, experiments[key], [seed + r]) for key, r in order]
        usable = hasattr(os, "sched_getaffinity")  # the cores that this process may use
        cores = len(os.sched_getaffinity(0)) if usable else os.cpu_count()
        workers = min(arguments.workers or cores, len(jobs))
    else:
        stacks = [range(r, min(r + STACK, rounds)) for r in range(0, rounds, STACK)]
        jobs = [(k, row, [seed + r for r in s]) for k, row in experiments.items() for s in stacks]
        workers = 1

    environment = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "device": arguments.device,
        "workers": workers,
        "seed": seed,
        "rounds": rounds,
    }
    entries = {
        key: {
            "parameters": sum(parameter.numel() for parameter in MODELS[key]().parameters()),
            "hyperparameters": row,
            **{name: [None] * rounds for name in ("test_error", "best_test_error", "seconds")},
        }
        for key, row in experiments.items()
    }
    results = {"environment": environment, "complete": False, "models": entries}
    try:
        mnist = load_mnist()
        write_results(arguments.output, results)
    except (OSError, ValueError) as error:
        fail(error)

    print(", ".join(f"{name} {value}" for name, value in environment.items()))
    print(f"{PAIRS} training and {PAIRS} test pairs a round; mean ± standard deviation (n-1)\n")
    print(LAYOUT.format(*HEADINGS), flush=True)
    unprinted = list(experiments)
    exit_code = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        for key, seeds, histories in run_jobs(jobs, workers, arguments.device, mnist):
            entry = entries[key]
            for r, history in zip((s - seed for s in seeds), histories, strict=True):
                entry["test_error"][r] = history["test_error"][-1]
                entry["best_test_error"][r] = min(history["test_error"])
                entry["seconds"][r] = history["seconds"]
            missing = sum(e["seconds"].count(None) for e in entries.values())
            results["complete"] = not missing
            write_results(arguments.output, results)
            while unprinted and None not in entries[unprinted[0]]["seconds"]:
                tell("")
                print(table_row(unprinted[0], entries[unprinted.pop(0)]), flush=True)
            total, left = len(entries) * rounds, time_left(entries, workers)
            tell(f"{total - missing} of {total} rounds done, about {left} left")
    except SystemExit as stop:
        exit_code = stop.code
    except BrokenProcessPool:
        print("test.py: a worker was killed (out of memory?): try fewer --workers", file=sys.stderr)
        exit_code = 1
    tell("")
    for key in unprinted:
        if finished(entries[key], "seconds"):
            print(table_row(key, entries[key]))
    if lines := list(answers(entries)):
        print("\nWhat each technique gains, in points of error, and its 95% interval:")
        print(*lines, sep="\n")
    print(f"\nresults{'' if results['complete'] else ', INCOMPLETE,'} in {arguments.output}")
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
