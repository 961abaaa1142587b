"""The logs report/results/*.jsonl: how they are read and completed, by test.py's own functions."""

import json
import os
import sys
from pathlib import Path

import test
from train import train_round

RESULTS = Path(__file__).parent / "results"
CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
PAIRS = 1000  # to train on
SAME = "row", "pairs", "arguments"  # what makes a round of a log one that is asked for
VERSIONS = "torch", "device", "processor", "code"


def fail(message):
    """For bad input: one line that says what is wrong, and exit code 2."""
    test.say(f"report: {' '.join(str(message).split())}")
    sys.exit(2)


def train_and_look(job, draw, look):
    """A job's line for the log, as test.run_job has it, with what look(model, pairs) says."""
    settings, row, seed = job
    model, pairs, outcome = train_round(seed=seed, draw=draw, **row)
    return settings | {"seed": seed} | outcome | look(model, pairs)


def load(path):
    """A log as {"environment": ..., "models": {row's name: entry}}; ValueError if it is none.

    An entry has the row's "hyperparameters", its "parameters", and of everything else in its lines
    a list by round, None where there is no such line: round r has the log's lowest seed + r. Of a
    row's lines those with the pairs and arguments of its last one count, of a seed the last.
    """
    try:
        found = [json.loads(text) for text in path.read_text().splitlines()]
        newest = {line["row"]: [line[key] for key in SAME] for line in found}
        same = [line for line in found if newest[line["row"]] == [line[key] for key in SAME]]
        lines = {(line["row"], line["seed"]): line for line in same if line["test_error"]}
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no log of rounds ({error!r}): restore it") from error
    models = {}
    first = min((seed for _, seed in lines), default=0)
    rounds = max((seed - first + 1 for _, seed in lines), default=0)
    for (name, seed), line in lines.items():
        entry = models.setdefault(name, {})
        entry["hyperparameters"], entry["parameters"] = line["arguments"], line["parameters"]
        errors = line["test_error"]
        best = None if None in errors else min(errors)
        found = {key: line[key] for key in line if key not in (*SAME, *VERSIONS, "seed")}
        found |= {"test_error": errors[-1], "best_test_error": best, "test_error_by_epoch": errors}
        del found["parameters"]
        for key, value in found.items():
            entry.setdefault(key, [None] * rounds)[seed - first] = value
    environment = {}
    for key in VERSIONS:
        environment[key] = ", ".join(sorted({line[key] for line in lines.values()}))
    return {"environment": environment | {"rounds": rounds}, "models": models}


def read(name):
    return load(RESULTS / f"{name}.jsonl")


def good(entry, measure):
    """The values of the rounds that are finished and did not diverge; none if there is no such."""
    values = entry.get(measure, [])
    rounds = zip(values, entry.get("diverged", [False] * len(values)))
    return [value for value, diverged in rounds if value is not None and not diverged]


def write(path, content):
    """Write `content`, bytes, to `path` whole or not at all."""
    draft = path.with_name(f".draft-{path.name}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written ({error.strerror})") from error


def complete(name, rows, rounds, run, workers=None, seed=0, pairs=PAIRS, folder=RESULTS):
    """Train what `folder`/`name`.jsonl lacks of the `rows`, and append it there.

    `rounds` is the number that each row is to have, or a dictionary of these. Round r is what
    run(job) returns, a line, job being (settings, row, seed + r); `workers` processes run all that
    are missing, or this one. Rounds count whatever code, PyTorch or processor made them.
    """
    path = folder / f"{name}.jsonl"
    rounds = rounds if isinstance(rounds, dict) else dict.fromkeys(rows, rounds)
    seeds = range(seed, seed + max(rounds.values(), default=0))
    rows = {key: {x: row[x] for x in row if x != "reported"} for key, row in rows.items()}
    settings = {key: test.settings_of(key, row, pairs, "cpu") for key, row in rows.items()}
    folder.mkdir(parents=True, exist_ok=True)
    test.open_log(path)
    same = {key: {x: whole[x] for x in SAME} for key, whole in settings.items()}
    found = test.rounds_in(path, same, seeds)
    wanted = [(n, key) for n in seeds for key in rows if n < seed + rounds[key]]
    jobs = [(settings[key], rows[key], n) for n, key in wanted if (key, n) not in found]
    others = {line["code"] for line in found.values()} - {x["code"] for x in settings.values()}
    if others:
        test.say(f"{path}: has rounds of another version of the core, {', '.join(others)}")
    if jobs:
        test.say(f"{path}: {len(jobs)} rounds to train")
        lines = test.run_in_workers(run, jobs, workers) if workers else (run(job) for job in jobs)
        test.keep(lines, path, len(jobs))
