"""The results files report/results/*.json: how they are read, checked and completed."""

import json
import os
import re
import sys
import tempfile
from itertools import repeat
from pathlib import Path

import test
from data import load_mnist

RESULTS = Path(__file__).parent / "results"
CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
PAIRS = 1000  # to train on, and as many to test on
NUMBERS = "test_error", "best_test_error", "seconds"
BY_EPOCH = "loss", "train_error", "test_error_by_epoch", "learning_rate"


def fail(message):
    """For bad input: one line that says what is wrong, and exit code 2."""
    test.say(f"report: {' '.join(str(message).split())}")
    sys.exit(2)


def write(path, content):
    """Write `content`, bytes, to `path` whole or not at all."""
    try:
        with tempfile.TemporaryDirectory(prefix=".draft-", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            draft.write_bytes(content)
            draft.replace(path)
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error.strerror})") from error


def measures(entry):
    """The lists of a model's entry: by measure a value for each round, None where unfinished."""
    return {key: values for key, values in entry.items() if isinstance(values, list)}


def is_finished(entry, r):
    return any(values[r] is not None for values in measures(entry).values())


def good(entry, measure):
    """The values of the rounds that are finished and did not diverge; none if there is no such."""
    rounds = zip(entry.get(measure, []), entry.get("diverged", repeat(False)))
    return [value for value, diverged in rounds if value is not None and not diverged]


def settings(entry):
    """What tells one row from another, without the addresses of functions in partial ones."""
    text = json.dumps([entry["parameters"], entry["hyperparameters"]])
    return json.loads(re.sub(r"(<function \S+) at 0x[0-9a-fA-F]+", r"\1", text))


def load(path):
    """A results file; raises ValueError if it is damaged, OSError if it cannot be read."""
    try:
        results = json.loads(path.read_text())
        rounds = range(results["environment"]["rounds"]).stop  # a whole number
        for name, entry in results["models"].items():
            epochs, _ = entry["hyperparameters"]["epochs"], entry["parameters"] + 0
            entry.setdefault("reported", None)
            states = entry.get("diverged", [None] * rounds)
            for measure, values in measures(entry).items():
                if len(values) != rounds:
                    raise ValueError(f"{measure} of {name} is not {rounds} rounds long")
                lacks = [value is None and s is False for value, s in zip(values, states)]
                if measure in NUMBERS and any(lacks):
                    raise ValueError(f"{measure} of {name} lacks a round that is finished")
                if measure in NUMBERS + BY_EPOCH:
                    known = [value for value in values if value is not None]
                    if measure in BY_EPOCH:
                        if any(len(value) != epochs for value in known):
                            raise ValueError(f"{measure} of {name} is not {epochs} epochs long")
                        known = [x for value in known for x in value if x is not None]
                    sum(known)  # TypeError if they are no numbers
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        what = f"{path} is damaged, or no results file ({error!r})"
        raise ValueError(f"{what}: restore it, or move it away to have it made again") from error
    return results


def read(name):
    return load(RESULTS / f"{name}.json")


def complete(name, rows, rounds, workers, function=test.run_row, seed=0, run=None, replace=False):
    """Run the rounds of `rows` that report/results/`name`.json lacks, and keep them there.

    `rounds` is the number that each row is to have, or a dictionary of these. Round r is what
    function(name, row, [seed + r], PAIRS, "cpu") returns; run(function, jobs, workers) runs all
    that are missing, as test.run_in_workers does. Rows of the file that are not in `rows` stay. If
    its rounds of a row have other settings, it raises ValueError or, to `replace` them, runs them.
    """
    path = RESULTS / f"{name}.json"
    rounds = rounds if isinstance(rounds, dict) else dict.fromkeys(rows, rounds)
    results = test.new_results(rows, "cpu", workers, seed, max(rounds.values(), default=0), PAIRS)
    results = json.loads(json.dumps(results, default=str))  # as it is read from a file
    environment, models = results["environment"], results["models"]
    old = load(path) if path.exists() else {"environment": {}, "models": {}}
    before, kept, other = old["environment"], {}, {}
    moved = any(before.get(key) != environment[key] for key in ("seed", "pairs"))
    for key, entry in old["models"].items():
        if any(is_finished(entry, r) for r in range(before["rounds"])):
            new = models.get(key, entry)
            same = settings(entry) == settings(new)
            (kept if same and not moved else other)[key] = entry | {"reported": new["reported"]}
    if other and not (replace and other.keys() <= rows.keys()):
        raise ValueError(
            f"{path} has rounds of other settings: {'; '.join(other)}. Run them again by "
            "python -m report --replace, or move the file away"
        )
    models |= kept
    if kept:
        then, now = before.get("code"), environment["code"]
        if then != now:
            test.say(f"{path}: made by another version of the program, {then}; this is {now}")
        environment["rounds"] = max(environment["rounds"], before["rounds"])
        for key, value in before.items():  # of the rounds that are there, and of those to come
            new = environment.setdefault(key, value)
            if key != "rounds":
                known = str(new) in str(value).split(", ")
                environment[key] = value if known else f"{value}, {new}"
    for entry in models.values():
        for values in measures(entry).values():
            values += [None] * (environment["rounds"] - len(values))
    jobs = [
        (key, row, [seed + r], PAIRS, "cpu")
        for r in range(environment["rounds"])
        for key, row in rows.items()
        if r < rounds[key] and not is_finished(models[key], r)
    ]
    results = old | results | {"complete": not jobs}
    if jobs or models != old["models"] or not path.exists():
        path.parent.mkdir(exist_ok=True)
        test.write_results(path, results)
    if jobs:
        test.say(f"{path}: {len(jobs)} rounds to run")
        load_mnist()  # here, as forked workers then have it
        run = run or test.run_in_workers
        test.keep(run(function, jobs, workers), len(jobs), results, path)
