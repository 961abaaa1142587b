"""The report's trainings, every one a row like those in test.py's table, and what is run of them.

Each function below gives the experiments of one results file as {name: (model, row)}; `complete` runs what the file
lacks. Nothing is chosen by these numbers.
"""

import json
import os
from pathlib import Path
from unittest.mock import patch

import test
import train
from data import load_mnist
from models import MODELS, Likeliest, Model, Posterior, Separate, Shared, lenet_digit, posterior_digit, trunk

RESULTS = Path(__file__).parent / "results"
REPORT_1 = "sub_lenet5", "sub_lenet5_ws", "sub_lenet5_ws_al"
RATES = 0.1, 0.05, 0.01, 0.001, 0.0001, 0.00001  # at batches of 100: report 1's Fig. 1
BATCH_SIZES = 50, 100, 250, 500, 1000  # at each model's own rate: its Fig. 2


def load(name):
    """A results file. Raises ValueError if it is damaged."""
    path = RESULTS / f"{name}.json"
    try:
        results = json.loads(path.read_text())
        results["environment"].keys(), results["models"].keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: restore it, or delete it to have it run again") from error
    return results


def read(name):
    """A results file without what stands after a model's first unfinished round."""
    results = load(name)
    for entry in results["models"].values():
        measures = [measure for measure, values in entry.items() if isinstance(values, list)]
        finished = (*entry[measures[0]], None).index(None)
        entry |= {measure: entry[measure][:finished] for measure in measures}
    return results


def main():
    return {key: (MODELS[key], test.read_row(key)) for key in test.EXPERIMENTS}


def cell(key, rate, batch_size):
    """The name of a cell of report 1's grids."""
    return f"{key}, rate {rate:g}, batch {batch_size}"


def grids():
    """Report 1, section VI: no adaptive rate. And one cell more, the fourth of weight sharing x auxiliary loss."""
    experiments = {}

    def add(key, rate, batch_size, model=None, name=None):
        row = test.read_row(key) | {"schedule": "constant", "learning_rate": rate, "batch_size": batch_size}
        experiments[cell(name or key, rate, batch_size)] = model or MODELS[key], row

    for key in REPORT_1:
        for rate in RATES:
            add(key, rate, 100)
        for batch_size in BATCH_SIZES:
            add(key, test.read_row(key)["learning_rate"], batch_size)
    separate = lambda: Model(Separate([lenet_digit(), lenet_digit()]), Likeliest())  # noqa: E731
    add("sub_lenet5_ws_al", 0.01, 100, separate, "sub_lenet5_al")
    return experiments


def floor():
    """Report 1's shared model, whose rate may fall to 0."""
    return {"sub_lenet5_ws, no floor": main()["sub_lenet5_ws"]}


def ablation():
    """From siamese_al to posterior, one change after the other. What is left to do after the last of these steps is
    to smooth the labels and to sharpen the posteriors in return."""
    row, posterior = test.read_row("siamese_al"), test.read_row("posterior")
    experiments = {}

    def step(name, digit_net, **changes):
        row.update(changes)
        experiments[name] = lambda: Model(Shared(digit_net()), Posterior()), dict(row)

    step("closed form", lambda: trunk(1, 10), comparison_weight=0.0)
    step("own digit net", posterior_digit)
    step("distorted copies", posterior_digit, rotation=0, distorted=posterior["distorted"])
    cycle = {name: posterior[name] for name in ("optimizer", "learning_rate", "schedule", "batch_size")}
    step("one cycle", posterior_digit, **cycle)
    assert row | {"label_smoothing": posterior["label_smoothing"]} == posterior
    return experiments


def complete(name, experiments, rounds, workers=None, function=test.run_job, measures=test.MEASURES, seed=0):
    """Run, of `experiments`, the rounds that report/results/`name`.json lacks: what is there, of the same row, is
    not run again. `rounds` is their number, or a dictionary of it."""
    path, workers = RESULTS / f"{name}.json", workers or len(os.sched_getaffinity(0))
    rows = {key: row for key, (_, row) in experiments.items()}
    rounds = rounds if isinstance(rounds, dict) else dict.fromkeys(rows, rounds)
    with patch.dict(MODELS, {key: model for key, (model, _) in experiments.items()}):
        results = test.new_results(rows, 0, seed, "cpu", workers, measures)
        old = load(name) if path.exists() else {"environment": {}, "models": {}}
        for key, entry in results["models"].items():
            known = old["models"].get(key, {})
            same = all(known.get(name) == entry[name] for name in ("parameters", "hyperparameters"))
            if same and set(measures) <= known.keys():
                entry |= {measure: known[measure] for measure in measures}
            for measure in measures:
                entry[measure] += [None] * (rounds[key] - len(entry[measure]))
        environment = results["environment"]
        for what, value in old["environment"].items():  # of the rounds that are there, and of those to come
            if str(environment.get(what)) not in str(value).split(", "):
                environment[what] = f"{value}, {environment.get(what)}"
        environment["rounds"] = max(len(entry[measures[0]]) for entry in results["models"].values())
        jobs = [
            (key, row, [seed + r])
            for r in range(max(rounds.values()))
            for key, row in rows.items()
            if r < rounds[key] and results["models"][key][measures[0]][r] is None
        ]
        if jobs:
            path.parent.mkdir(exist_ok=True)
            print(f"{path}: {len(jobs)} rounds to run", flush=True)
            test.keep(test.run_in_workers(jobs, workers, load_mnist(), function), jobs, results, path)


def complete_all(rounds, workers=None):
    """Every results file of test.run_job's."""
    complete("main", main(), rounds, workers)
    complete("grids", grids(), rounds, workers)
    with patch.object(train, "LOWEST_RATE", 0.0):
        complete("floor", floor(), rounds, workers)
    complete("ablation", ablation(), rounds, workers)
