"""Train every row of the table below for 20 rounds; print mean ± std of its test error."""

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import platform
import signal
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing, suppress
from pathlib import Path

import torch

import models
from data import generate_pair_sets, load_mnist
from train import Stack, train

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
LAYOUT = "{:<18}{:>11}{:>16}{:>16}{:>13}{:>10}"


def run_rounds(name, row, seeds, nb_pairs, device, folder=None, look=None, draw=generate_pair_sets):
    """Train a row of the table once for each of `seeds`, several as one stack.

    All of a round is drawn from its seed, first by `draw` the pairs. Returns for each what the
    results file keeps and look(model, pairs) returns; `folder` is where weights go.
    """
    start, outcomes = time.perf_counter(), []
    arguments = {key: row[key] for key in row if key not in ("model", "reported")}
    nets, pairs, generators = [], [], []
    with torch.random.fork_rng(devices=[]):  # gives the global generator back as it was
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            pairs.append([x.to(device) for x in draw(nb_pairs, generator)])
            weight_seed, training_seed = torch.randint(2**32, (2,), generator=generator).tolist()
            torch.manual_seed(weight_seed)  # layers draw from torch's global generator
            nets.append(row["model"]().to(device))
            generators.append(torch.Generator().manual_seed(training_seed))
        if len(seeds) == 1:
            model, sets = nets[0], pairs[0]
            histories = [train(model, sets[:3], sets[3:], generators[0], **arguments)]
        else:
            sets = [torch.stack(tensors, dim=1) for tensors in zip(*pairs)]
            history = train(Stack(nets), sets[:3], sets[3:], generators, **arguments)
            by_round = [zip(*values) for values in history.values()]
            histories = [dict(zip(history, columns)) for columns in zip(*by_round)]
    seconds = (time.perf_counter() - start) / len(seeds)
    for seed, model, own_pairs, history in zip(seeds, nets, pairs, histories):
        if folder:
            weights = {key: value.cpu().clone() for key, value in model.state_dict().items()}
            file = f"{name}-{seed}.pt".replace("/", "%2F")
            torch.save(weights, folder / f".{file}")  # a stop may leave half of it
            (folder / f".{file}").replace(folder / file)
        for key, values in history.items():  # JSON has no inf and no nan
            history[key] = [value if math.isfinite(value) else None for value in values]
        errors = history.pop("test_error")
        best = min((error for error in errors if error is not None), default=None)
        outcome = {"test_error": errors[-1], "best_test_error": best, "seconds": seconds}
        outcome |= {"test_error_by_epoch": errors, "diverged": None in errors + history["loss"]}
        outcomes.append(outcome | history | (look(model, own_pairs) if look else {}))
    return outcomes


def run_row(name, *job):
    try:
        return run_rounds(name, *job)
    except Exception as error:  # as one that survives pickling, and names the row
        raise RuntimeError(f"row {name}: {type(error).__name__}: {error}") from error


def on_signals(*handlers):
    """Set what Ctrl-C and SIGTERM do; return what they did."""
    return [signal.signal(*pair) for pair in zip((signal.SIGINT, signal.SIGTERM), handlers)]


def start_worker():
    on_signals(signal.SIG_IGN, signal.SIG_DFL)  # Ctrl-C is the parent's; the pool sends SIGTERM
    parent = multiprocessing.parent_process()  # or a worker would outlive one that is killed
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    torch.set_num_threads(1)  # several threads in each process would wait for one another
    load_mnist()  # or a spawned worker's first round would seem longer than others


def run_in_workers(function, jobs, workers, method=None):
    """Yield (job, function(*job)) as each ends, in `workers` processes; left early, stop them."""
    # a forked worker has all loaded, but where torch knows a GPU it cannot train
    forks = sys.platform == "linux" and not torch.accelerator.is_available()
    forks = forks and torch.get_num_threads() == threading.active_count() == 1  # or it may hang
    context = multiprocessing.get_context(method or ("fork" if forks else "spawn"))
    with ProcessPoolExecutor(workers, context, start_worker) as pool:
        try:
            handlers = on_signals(signal.SIG_DFL, signal.SIG_DFL)  # forks drop what handlers raise
            futures = {pool.submit(function, *job): job for job in jobs}
            on_signals(*handlers)
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for worker in multiprocessing.active_children():
                worker.kill()


def run_under_torchrun(function, jobs, store, rank):
    """Like run_in_workers, among torchrun's processes: each takes the next job, rank 0 yields."""
    missing = list(range(len(jobs))) if rank == 0 else []
    while (taken := store.add("taken", 1) - 1) < len(jobs) or missing:
        try:
            if taken < len(jobs):
                store.set(str(taken), json.dumps(function(*jobs[taken])))
            else:
                time.sleep(0.1)
        finally:  # also when stopped in its own job
            for n in [n for n in missing if store.check([str(n)])]:
                missing.remove(n)
                yield jobs[n], json.loads(store.get(str(n)))


def percent(errors):
    """Mean ± standard deviation (n-1) of errors in 0..1, in percent."""
    deviation = f"{100 * statistics.stdev(errors):.2f}" if len(errors) > 1 else "n/a"
    return f"{100 * statistics.mean(errors):.2f} ± {deviation}" if errors else "n/a"


def table(results):
    """Lines to print of a results file: the rounds that are finished and did not diverge."""
    environment = results["environment"]
    yield ", ".join(f"{name} {value}" for name, value in environment.items())
    yield "test error in percent, mean ± standard deviation (n-1) over the rounds\n"
    yield LAYOUT.format("model", "parameters", "last epoch", "best epoch", "reported", "s/round")
    for name, entry in results["models"].items():
        state = entry.get("diverged", [None] * environment["rounds"])
        good = [r for r, diverged in enumerate(state) if diverged is False]
        last, best = ([entry[key][r] for r in good] for key in ("test_error", "best_test_error"))
        seconds = f"{statistics.mean(entry['seconds'][r] for r in good):.2f}" if good else "n/a"
        reported = "" if entry["reported"] is None else f"{entry['reported']:.2f}"
        columns = f"{entry['parameters']:,}", percent(last), percent(best), reported, seconds
        counts = {"diverged": state.count(True), "missing": state.count(None)}
        notes = [f"  {n} of {len(state)} rounds {what}" for what, n in counts.items() if n]
        yield LAYOUT.format(name, *columns) + "".join(notes)


def new_results(rows, device, workers, seed, rounds, pairs):
    """The results file before the first round; of every row all arguments, defaults included."""
    core = [Path(models.__file__).with_name(f"{x}.py") for x in ("data", "models", "train", "test")]
    code = hashlib.sha256(b"".join(path.read_bytes() for path in core)).hexdigest()[:12]
    environment = {"torch": torch.__version__, "python": platform.python_version()}
    environment |= {"machine": f"{platform.system()} {platform.machine()}", "device": device}
    environment |= dict(workers=workers, seed=seed, rounds=rounds, pairs=pairs, code=code)
    entries = {}
    for name, row in rows.items():
        settings = train.__kwdefaults__ | row
        settings = {key: getattr(value, "__name__", value) for key, value in settings.items()}
        entries[name] = {"parameters": sum(p.numel() for p in row["model"]().parameters())}
        entries[name] |= {"reported": settings.pop("reported", None), "hyperparameters": settings}
    return {"environment": environment, "complete": False, "models": entries}


def write_results(path, results):
    """Write the whole file or nothing: whoever reads `path` never finds half of it."""
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=path.resolve().parent) as folder:
        draft = Path(folder) / path.name
        draft.write_text(json.dumps(results, default=str) + "\n")
        draft.replace(path.resolve())  # a link stays one


def lock(path):
    """Keep other runs from `path` until this process ends; BlockingIOError if one has it."""
    name = hashlib.sha256(bytes(path.resolve())).hexdigest()
    with suppress(AttributeError, PermissionError):  # Windows has no lockf; another user's file
        lock_file = Path(tempfile.gettempdir()) / f"compare-digits-{name}.lock"
        os.lockf(os.open(lock_file, os.O_RDWR | os.O_CREAT), os.F_TLOCK, 0)


def say(text, end="\n"):
    """Tell of progress on standard error, where nobody may be reading any more."""
    with suppress(OSError, ValueError):
        print(text, end=end, file=sys.stderr, flush=True)


def keep(finished, nb_jobs, results, path):
    """Write to `path` what `finished` yields, as it comes; tell each error and the time left."""
    start, environment = time.monotonic(), results["environment"]
    with closing(finished):  # so that workers stop when this does
        for done, ((name, _, seeds, *_), outcomes) in enumerate(finished, 1):
            entry, rounds = results["models"][name], [seed - environment["seed"] for seed in seeds]
            for r, outcome in zip(rounds, outcomes):
                for key, value in outcome.items():
                    entry.setdefault(key, [None] * environment["rounds"])[r] = value
            results["complete"] = done == nb_jobs
            write_results(path, results)
            left = round((time.monotonic() - start) / done * (nb_jobs - done))
            error = percent([x["test_error"] for x in outcomes if not x["diverged"]])
            text = f"{name}, round {', '.join(map(str, rounds))}: {error.removesuffix(' ± n/a')} %"
            text += f"; {done} of {nb_jobs} done, about {left // 60}:{left % 60:02} left"
            say(text, end="\033[K\r" if sys.stderr.isatty() else "\n")  # on a terminal one line


def fail(message):
    """For bad input: one line that says what is wrong and what to do, and exit code 2."""
    say(f"test.py: {' '.join(str(message).split())}")
    sys.exit(2)


def whole(text, low=1, high=10**6):
    if not (text.isdecimal() and low <= int(text[:20]) <= high):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
    return int(text)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.error, add, keys = fail, parser.add_argument, list(EXPERIMENTS)
    add("--models", nargs="+", choices=keys, default=keys, metavar="KEY", help="rows of the table")
    add("--rounds", type=whole, default=20, metavar="N", help="trainings of each model (20)")
    add("--epochs", type=whole, metavar="N", help="epochs of every model, instead of the table's")
    add("--pairs", type=whole, default=1000, metavar="N", help="to train on, and to test on (1000)")
    add("--seed", type=lambda text: whole(text, 0), default=0, metavar="N", help="of round 0 (0)")
    add("--device", default="auto", metavar="NAME", help="auto (the best there is), cpu, cuda, ...")
    add("--workers", type=whole, metavar="N", help="processes, on the CPU (one per core)")
    add("--output", type=Path, default="results.json", metavar="FILE", help="(results.json)")
    add("--save", type=Path, metavar="FOLDER", help="a new folder for each round's weights")
    return parser.parse_args()


def find_device(name):
    """`name`, or the best device there is if that is "auto"; ValueError if torch has none."""
    if name == "auto":
        found = torch.accelerator.is_available() and torch.accelerator.current_accelerator()
        name = found.type if found else "cpu"
    try:
        if "LOCAL_RANK" in os.environ and not name.startswith("cpu"):  # torchrun's: a GPU each
            torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
        torch.zeros(1, device=name).item()
    except Exception as error:  # each backend has its own
        raise ValueError(f"--device {name}: {error}") from error
    return "cpu" if name.startswith("cpu") else name


def check_rows(options, device, stack):
    """The rows to run, and how many rounds are to train as one: `stack`, or 1 where that fails."""
    rows, changes = {}, {"epochs": options.epochs} if options.epochs else {}
    if changes or options.pairs != 1000:  # not what the reports did
        changes["reported"] = None
    for name in options.models:  # each trains once, on eight pairs, to see what is wrong with it
        try:
            rows[name] = EXPERIMENTS[name] | changes
            if rows[name]["model"]() is rows[name]["model"]():
                raise ValueError("model must be a function that makes a new one at each call")
            run_rounds(name, rows[name], [options.seed], 8, device)
            found = new_results({name: rows[name]}, device, 1, 0, 1, 1)  # as it is kept and printed
            list(table(json.loads(json.dumps(found, default=str, allow_nan=False))))
            multiprocessing.reduction.ForkingPickler.dumps(rows[name])  # as a worker gets it
        except Exception as error:
            raise ValueError(f"row {name}: {type(error).__name__}: {error}") from error
        try:
            if stack > 1:
                run_rounds(name, rows[name], list(range(stack)), 8, device)
        except Exception as error:
            say(f"{device} trains round by round, as a stack {name} fails: {error}")
            stack = 1
    return rows, stack


def main():
    options = parse_arguments()
    torch.set_num_threads(1)  # or forked workers would hang
    path, rounds, store, rank, world = options.output, options.rounds, None, 0, 1
    try:
        if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun's
            store, rank, world = next(torch.distributed.rendezvous("env://"))
        device = find_device(options.device)
        if options.workers and (device != "cpu" or store):
            raise ValueError("--workers is for the CPU without torchrun, leave it out")
        there = path.resolve().parent.is_dir() and path.exists() == path.is_file()
        if path.suffix != ".json" or not there:
            raise ValueError(f"--output {path} must be a file in a folder that is there, and .json")
        if not rank and options.save and options.save.exists() and any(options.save.iterdir()):
            raise ValueError(f"--save {options.save} is not empty, name a new folder")
        if rank == 0:
            say(f"models: {len({*options.models})}, rounds: {rounds}, {device}; checking every row")
        generate_pair_sets(options.pairs)  # reads MNIST, or says why it cannot
        stack = 1 if device == "cpu" else math.ceil(rounds * len(options.models) / world)
        rows, stack = check_rows(options, device, min(stack, rounds, 20))
        seeds, jobs = [options.seed + r for r in range(rounds)], []
        for r in range(0, rounds, stack):  # a round of every model, the next of every model, ...
            for name, row in reversed(rows.items()):  # the shortest last, to end together
                jobs.append((name, row, seeds[r : r + stack], options.pairs, device, options.save))
        if options.save:
            options.save.mkdir(parents=True, exist_ok=True)
        if store:
            finished = run_under_torchrun(run_row, jobs, store, rank)
        elif device == "cpu":
            cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
            world = min(options.workers or cores, len(jobs))
            finished = run_in_workers(run_row, jobs, world)
        else:
            finished = ((job, run_row(*job)) for job in jobs)
        if rank:  # of several; rank 0 keeps and prints them
            return list(finished)
        results = new_results(rows, device, world, options.seed, rounds, options.pairs)
        lock(path)
        earlier, aside, n = path.resolve(), path.resolve(), 0
        while aside.exists():
            aside, n = earlier.with_stem(f"{earlier.stem}-{n + 1}"), n + 1
        if n:
            say(f"the earlier {path} is now {earlier.rename(aside)}")
        write_results(path, results)
    except BlockingIOError:
        fail(f"another run writes to {path}: wait for it, or name another --output")
    except (OSError, RuntimeError, ValueError) as error:  # Runtime: of a loop of links, say
        fail(error)
    code = 0
    try:
        keep(finished, len(jobs), results, path)
    except (SystemExit, KeyboardInterrupt) as stopped:
        code = getattr(stopped, "code", 0) or 1
    except Exception as error:
        code, results["complete"] = 1, False  # as this may be of a file that cannot be written
        say(f"test.py: stopped by {type(error).__name__}: {' '.join(str(error).split())}")
    on_signals(signal.SIG_IGN, signal.SIG_IGN)  # or one would cost the table
    with suppress(OSError):  # a stop may have come between a round's end and its writing
        write_results(path, results)
    try:
        print(*table(results), sep="\n")
        print(f"\nresults{'' if results['complete'] else ', INCOMPLETE,'} in {path}", flush=True)
    except OSError as error:
        fail(f"the table cannot be printed ({error}), but the results are in {path}")
    sys.exit(code)


def stop(number, frame):
    on_signals(lambda *_: None, lambda *_: None)  # SIG_IGN would be told of one that is on its way
    sys.exit(128 + number)


if __name__ == "__main__":
    # a closed one is None
    sys.stdout, sys.stderr = (x or open(os.devnull, "w") for x in (sys.stdout, sys.stderr))
    getattr(sys.stdout, "reconfigure", dict)(errors="replace")  # "±", where there is none
    on_signals(stop, stop)
    main()
