"""The report's experiments: rows like those of test.py's table, most of them one with a change.

Each function gives the rows of one results file. Nothing is chosen by these numbers.
"""

from functools import partial

import models
import test
from data import generate_pair_sets
from report import heads as learned
from report import nets
from report.files import PAIRS, train_and_look
from report.measures import describe, look
from report.nets import named
from train import train

REPORT_1 = "sub_lenet5", "sub_lenet5_ws", "sub_lenet5_ws_al"
REPORT_2 = "baseline", "baseline_al", "siamese", "siamese_al"
RATES = 0.1, 0.05, 0.01, 0.001, 0.0001, 0.00001  # at batches of 100: report 1's Fig. 1
BATCH_SIZES = 50, 100, 250, 500, 1000  # at each model's own rate: its Fig. 2
CELLS = [  # of these grids, to be read otherwise: model, rate, batch size
    ("sub_lenet5", 0.01, 100),  # as reported
    ("sub_lenet5", 0.0001, 100),
    ("sub_lenet5", 0.01, 1000),
    ("sub_lenet5_ws", 0.01, 100),  # as reported
    ("sub_lenet5_ws", 0.0001, 100),
    ("sub_lenet5_ws_al", 0.00001, 100),
]


def normalised(nb, generator):
    """generate_pair_sets, its images by the training images' mean and standard deviation."""
    sets = generate_pair_sets(nb, generator)
    mean, deviation = sets[0].mean(), sets[0].std()
    return [(x - mean) / deviation if x.is_floating_point() else x for x in sets]


def run(job):
    """A round's line, with what `look` says of its model."""
    settings, *_ = job
    draw = normalised if settings["row"].endswith(", normalised") else generate_pair_sets
    return train_and_look(job, partial(draw, PAIRS), look)


def run_and_describe(job):
    """The same with all of measures.describe; and siamese_al's scores under learned heads."""
    settings, _, seed = job
    name = settings["row"]

    def describe_it(model, pairs):
        found = describe(model, pairs, seed, name not in REPORT_1, name == "posterior")
        if name == "siamese_al" and found:
            found["heads"] = learned.rivals(model, pairs, seed)
        return found

    return train_and_look(job, partial(generate_pair_sets, PAIRS), describe_it)


def row(name, **changes):
    """A row of the table with all its arguments, and with changes."""
    return train.__kwdefaults__ | test.EXPERIMENTS[name] | dict(reported=None) | changes


def cell(name, rate, batch_size):
    """The name of a cell of report 1's grids."""
    return f"{name}, rate {rate:g}, batch {batch_size}"


def settings(main, name):
    """What a model of the results `main` was trained with; train's defaults if it is not there."""
    return main[name]["hyperparameters"] if name in main else train.__kwdefaults__


def at_constant_rate(name, main, grids):
    """The entry of `grids` with the settings of a model of `main`, but for the adaptive rate."""
    found = settings(main, name)
    return grids.get(cell(name, found["learning_rate"], found["batch_size"]), {})


def main():
    return dict(test.EXPERIMENTS)


def grids():
    """Report 1, section VI, with no adaptive rate; and separate nets with the auxiliary loss."""
    rows = {}
    for name in REPORT_1:
        if name in test.EXPERIMENTS:
            own = row(name, schedule="constant")
            for rate in RATES:
                rows[cell(name, rate, 100)] = own | dict(learning_rate=rate, batch_size=100)
            for size in BATCH_SIZES:
                rows[cell(name, own["learning_rate"], size)] = own | dict(batch_size=size)
            if name == "sub_lenet5_ws_al":
                own |= dict(model=nets.sub_lenet5_al, learning_rate=0.01, batch_size=100)
                rows[cell("sub_lenet5_al", 0.01, 100)] = own
    return rows


def adaptive():
    """Its section VII at the rate 0.01, for the model that starts lower; and without our floor."""
    rows = {}
    for name in REPORT_1:
        if name in test.EXPERIMENTS:
            own = row(name)
            if own["learning_rate"] != 0.01:
                rows[f"{name}, no floor"] = own | dict(lowest_rate=0)
                own |= dict(learning_rate=0.01)
                rows[f"{name}, rate 0.01"] = own
            rows[f"{name}, rate 0.01, no floor"] = own | dict(lowest_rate=0)
    return rows


def protocol():
    """What report 1 leaves open, read otherwise, one thing at a time, in some of its cells.

    Also both losses on its nets, which tells what the auxiliary loss does from what the missing
    head does.
    """
    everything, rows = grids(), {}
    for name, rate, size in CELLS:
        if (here := cell(name, rate, size)) in everything:
            own = everything[here]
            changes = {"normalised": {}, "SGD": dict(optimizer="SGD"), "50 epochs": dict(epochs=50)}
            if own["comparison_weight"]:
                changes["softmax"] = dict(model=named(nets.softmax_into_head, own["model"]))
            rows |= {f"{here}, {what}": own | change for what, change in changes.items()}
            if rate == 0.01 and size == 100:
                rows[f"{here}, both losses"] = own | dict(digit_weight=1.0)
    return rows


def batches():
    """The other rates at its first model's largest batches, which are far from the reported."""
    everything, rows = grids(), {}
    for size in BATCH_SIZES[-2:]:
        if (here := cell("sub_lenet5", 0.01, size)) in everything:
            for rate in [rate for rate in RATES if rate != 0.01]:
                rows[cell("sub_lenet5", rate, size)] = everything[here] | dict(learning_rate=rate)
    return rows


def trunks():
    """Report 2's models with a trunk for each image: no weight sharing, and no early fusion."""
    changed = {"separate": "siamese", "separate_al": "siamese_al"}
    return {
        new: row(name, model=nets.separate_trunks)
        for new, name in changed.items()
        if name in test.EXPERIMENTS
    }


def techniques():
    """Report 2's models without or with the other techniques that it names.

    An unturned copy of the pairs tells what the angles do from what twice the steps do.
    """
    rows = {}
    for name in ("baseline", "siamese", "siamese_al"):
        if name in test.EXPERIMENTS:
            own = row(name)
            rows[f"{name}, no rotation"] = own | dict(rotation=0.0)
            rows[f"{name}, unturned copy"] = own | dict(rotation=1e-6)
            rows[f"{name}, dropout"] = own | dict(model=named(nets.dropout, own["model"]))
            plain = own | dict(model=named(nets.no_batch_norm, own["model"]))
            rows[f"{name}, no batch norm"] = plain
            if name == "siamese":
                rows[f"{name}, rate 0.01"] = own | dict(learning_rate=0.01)
                rows[f"{name}, no batch norm, rate 0.01"] = plain | dict(learning_rate=0.01)
    return rows


def heads():
    """Report 2's best model with other learned comparisons, trained end to end."""
    if "siamese_al" not in test.EXPERIMENTS:
        return {}
    others = [head for head in nets.HEADS if head != "linear"]
    return {
        f"siamese_al, {head}": row("siamese_al", model=named(nets.siamese_with, head))
        for head in others
    }


def ablation():
    """From siamese_al to posterior: each row is the one before it, with a change.

    What is left to do after the last is to add the second net, which takes more copies.
    """
    if "siamese_al" not in test.EXPERIMENTS:
        return {}
    closed_form = row("siamese_al", model=nets.siamese_closed_form)
    digits_only = closed_form | dict(comparison_weight=0)
    own_net = digits_only | dict(model=nets.named(nets.own_net_closed_form, "middle"))
    upright = digits_only | dict(model=nets.named(nets.own_net_closed_form, "upright"))
    distorted = upright | dict(rotation=0, copies=2)
    adamw = distorted | dict(optimizer="AdamW", weight_decay=0.1)
    one_cycle = adamw | dict(schedule="one-cycle", learning_rate=0.05)
    smoothed = one_cycle | dict(model=models.posterior_2s, label_smoothing=0.1)
    return {
        "closed form": closed_form,
        "digits' loss alone": digits_only,
        "own digit net": own_net,
        "upright digits": upright,
        "distorted copies": distorted,
        "AdamW": adamw,
        "one cycle": one_cycle,
        "smoothed labels": smoothed,
    }


FILES = (  # rows, what runs them, and at most so many trainings of each
    (main, run_and_describe, 20),
    (grids, run, 20),
    (adaptive, run, 20),
    (protocol, run, 20),
    (batches, run, 20),
    (trunks, run, 20),
    (techniques, run, 10),  # which take the longest
    (heads, run_and_describe, 20),
    (ablation, run_and_describe, 20),
)
