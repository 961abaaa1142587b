"""Error against the seconds of one core: report/results/frontier.json.

All rows of test.py's table, and the net of `posterior` trained for less and for more, on the pairs
and under the seeds of report.search: errors are on validation pairs. One process runs them one
after the other; a round has a test after every epoch, as in test.py.
"""

import statistics

import torch

import test
from models import Model, posterior
from report import search
from report.files import good
from report.nets import MEMBERS, Ensemble, ensemble

TRAININGS = 8
ENSEMBLE = f"posterior, ensemble of {MEMBERS}"
SHORT = (2, 1), (3, 1), (3, 2), (7, 3), (12, 3)  # epochs and copies, as posterior_2s
LONG = ((25, 4),)  # as posterior


def frontier():
    rows = dict(test.EXPERIMENTS)
    for name, budgets in {"posterior_2s": SHORT, "posterior": LONG}.items():
        for epochs, copies in budgets if name in test.EXPERIMENTS else ():
            changes = dict(epochs=epochs, copies=copies)
            rows[f"{name}, epochs {epochs}, copies {copies}"] = test.EXPERIMENTS[name] | changes
    if "posterior" in test.EXPERIMENTS:
        rows[ENSEMBLE] = test.EXPERIMENTS["posterior"] | dict(model=ensemble)
    return rows


def train_ensemble(name, row, seed, nb_pairs, device):
    """Its members train on the same pairs, each from weights and in batches of its own."""
    sets, members, seconds = search.draw(nb_pairs, torch.Generator().manual_seed(seed)), [], 0
    for member in range(MEMBERS):
        (outcome,) = test.run_rounds(
            name,
            row | dict(model=posterior),
            [seed + member * search.FIRST_SEED],
            nb_pairs,
            device,
            look=lambda model, sets: members.append(model) or {},
            draw=lambda nb, generator: sets,
        )
        seconds += outcome["seconds"]
    together = Model(Ensemble([model.net for model in members]), members[0].head)
    found = search.judge(together, sets[6:])
    error = found.get("validation_error")  # test.keep tells it as a test error
    return {"test_error": error, "seconds": seconds, "diverged": error is None, **found}


def measure(name, row, seeds, nb_pairs, device, folder=None):
    if row["model"] is ensemble:
        return [train_ensemble(name, row, seed, nb_pairs, device) for seed in seeds]
    return search.validate(name, row, seeds, nb_pairs, device, folder)


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
