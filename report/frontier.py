"""Error against the seconds of one core: report/results/frontier.jsonl.

All rows of test.py's table, our own trained for less and for more, and other solutions of the
course project, on the pairs and under the seeds of report.search: errors are on validation pairs.
One process runs them one after the other; a round has a test after every epoch, as in test.py.
"""

import statistics

import torch

import test
from models import Model, posterior
from report import nets, search
from report.files import PAIRS, good
from report.nets import MEMBERS, Ensemble, ensemble
from train import train_round

TRAININGS = 8
ENSEMBLE = f"posterior, ensemble of {MEMBERS}"
SHORT = (2, 1), (2, 2), (3, 3), (5, 4), (9, 4)  # epochs and copies, as posterior_2s
LONG = (6, 6), (26, 6)  # as posterior
OTHERS = {  # of the course's other solutions those that are described well enough, and run in time
    "adamisik, convnet": dict(model=nets.adamisik_convnet),
    "adamisik, ResNet": dict(model=nets.adamisik_resnet),
    "masyahook": dict(model=nets.masyahook_convnet, learning_rate=0.0003, epochs=100),
}


def frontier():
    rows = dict(test.EXPERIMENTS)
    for name, budgets in {"posterior_2s": SHORT, "posterior": LONG}.items():
        for epochs, copies in budgets if name in test.EXPERIMENTS else ():
            changes = dict(epochs=epochs, copies=copies)
            rows[f"{name}, epochs {epochs}, copies {copies}"] = test.EXPERIMENTS[name] | changes
    if "posterior" in test.EXPERIMENTS:
        rows[ENSEMBLE] = test.EXPERIMENTS["posterior"] | dict(model=ensemble)
    for name, row in OTHERS.items():
        rows[name] = dict(comparison_weight=0, digit_weight=1) | row
    return rows


def train_ensemble(job):
    """Its members train on the same pairs, each from weights and in batches of its own."""
    settings, row, seed = job
    sets = search.draw(PAIRS, torch.Generator().manual_seed(seed))
    members, seconds = [], 0
    for member in range(MEMBERS):
        model, _, outcome = train_round(
            seed=seed + member * search.FIRST_SEED,
            draw=lambda generator: sets,
            **row | dict(model=posterior),
        )
        members.append(model)
        seconds += outcome["seconds"]
    together = Model(Ensemble([model.net for model in members]), members[0].head)
    found = search.judge(together, sets[6:])
    parameters = sum(p.numel() for p in together.parameters())
    outcome = {"parameters": parameters, "seconds": seconds, "diverged": not found}
    errors = {"test_error": [found.get("validation_error")]}  # test.keep tells it as one
    return settings | {"seed": seed} | outcome | errors | found


def measure(job):
    _, row, _ = job
    return train_ensemble(job) if row["model"] is ensemble else search.validate(job)


def point(entry):
    """Median seconds of a training, mean error in percent, and its standard error; or None."""
    seconds, errors = good(entry, "seconds"), good(entry, "validation_error")
    if not errors:
        return None
    deviation = statistics.stdev(errors) if len(errors) > 1 else 0
    return (
        statistics.median(seconds),
        100 * statistics.mean(errors),
        100 * deviation / len(errors) ** 0.5,
    )
