"""The report's experiments: rows like those of test.py's table, most of them one with a change.

Each function gives the rows of one results file. Nothing is chosen by these numbers.
"""

import models
import test
from models import Model, Separate, Shared
from train import train

REPORT_1 = "sub_lenet5", "sub_lenet5_ws", "sub_lenet5_ws_al"
RATES = 0.1, 0.05, 0.01, 0.001, 0.0001, 0.00001  # at batches of 100: report 1's Fig. 1
BATCH_SIZES = 50, 100, 250, 500, 1000  # at each model's own rate: its Fig. 2


def sub_lenet5_al():
    """A LeNet digit net for each image and no head, which report 1 lacks; 118,576 parameters."""
    return Model(Separate([models.lenet_digit(), models.lenet_digit()]), models.likeliest)


def siamese_closed_form():
    """Report 2's siamese model, its digits compared in closed form; 71,034 parameters."""
    return Model(Shared(models.trunk(1, 10)), models.closed_form)


def own_net_closed_form():
    """Our own digit net, its scores compared as they are; 44,618 parameters."""
    return Model(Shared(models.posterior_digit()), models.closed_form)


def main():
    return dict(test.EXPERIMENTS)


def cell(name, rate, batch_size):
    """The name of a cell of report 1's grids."""
    return f"{name}, rate {rate:g}, batch {batch_size}"


def settings(main, name):
    """What a model of the results `main` was trained with; train's defaults if it is not there."""
    return main[name]["hyperparameters"] if name in main else train.__kwdefaults__


def at_constant_rate(name, main, grids):
    """The entry of `grids` with the settings of a model of `main`, but for the adaptive rate."""
    row = settings(main, name)
    return grids.get(cell(name, row["learning_rate"], row["batch_size"]), {})


def grids():
    """Report 1, section VI, with no adaptive rate; and separate nets with the auxiliary loss."""
    rows = {}
    for name in REPORT_1:
        if name in test.EXPERIMENTS:
            row = train.__kwdefaults__ | test.EXPERIMENTS[name]
            row |= dict(schedule="constant", reported=None)
            for rate in RATES:
                rows[cell(name, rate, 100)] = row | dict(learning_rate=rate, batch_size=100)
            for size in BATCH_SIZES:
                rows[cell(name, row["learning_rate"], size)] = row | dict(batch_size=size)
            if name == "sub_lenet5_ws_al":
                row |= dict(model=sub_lenet5_al, learning_rate=0.01, batch_size=100)
                rows[cell("sub_lenet5_al", 0.01, 100)] = row
    return rows


def floor():
    """Report 1's shared model, whose rate may fall to 0."""
    if "sub_lenet5_ws" not in test.EXPERIMENTS:
        return {}
    row = test.EXPERIMENTS["sub_lenet5_ws"]
    return {"sub_lenet5_ws, no floor": row | dict(lowest_rate=0, reported=None)}


def ablation():
    """From siamese_al to posterior: each row is the one before it, with a change.

    What is left to do after the last is to smooth the labels and to sharpen the posteriors.
    """
    if "siamese_al" not in test.EXPERIMENTS:
        return {}
    siamese_al = test.EXPERIMENTS["siamese_al"] | dict(reported=None)
    closed_form = siamese_al | dict(model=siamese_closed_form, comparison_weight=0)
    own_net = closed_form | dict(model=own_net_closed_form)
    distorted = own_net | dict(rotation=0, copies=2)
    one_cycle = distorted | dict(
        optimizer="AdamW", weight_decay=0.1, learning_rate=0.03, schedule="one-cycle"
    )
    return {
        "closed form": closed_form,
        "own digit net": own_net,
        "distorted copies": distorted,
        "one cycle": one_cycle,
    }
