"""How `posterior` and `posterior_2s` were chosen: report/results/search.jsonl.

Every variant below is one of the two rows with one or a few changes. It trains on 1000 pairs, as in
test.py, and is judged on 4000 other pairs of MNIST's training images: no test image is ever read.
The seeds are 1,000,000 and up, which no reported round uses, and the same for all variants, so that
their differences are paired. What was tried before, with drafts of this, is in exploration.txt.
"""

from functools import partial

import torch.nn.functional as F

import test
from data import distort, draw_pairs, load_mnist
from models import closed_form
from report.files import PAIRS, train_and_look
from report.gains import gain
from report.measures import answers
from report.nets import deskewed, named, net
from train import mistakes

FIRST_SEED, VALIDATION = 1_000_000, 4000
SHARPNESS = 1.0, 1.5, 2.0, 3.0, 4.0  # compared on each training


def with_net(layers, **changes):
    return dict(model=named(net, layers), **changes)


POSTERIOR = {
    "net 16 32m 64p 64": with_net("16 32m 64p 64"),  # the choice before this one
    "net 32m 48 64": with_net("32m 48 64"),
    "net 32M 64 64": with_net("32M 64 64"),
    "net 16M 48 64": with_net("16M 48 64"),
    "learning_rate 0.01": dict(learning_rate=0.01),
    "learning_rate 0.06": dict(learning_rate=0.06),
    "weight_decay 0.01": dict(weight_decay=0.01),
    "label_smoothing 0": dict(label_smoothing=0),
    "copies 0": dict(copies=0),
    "copies 1": dict(copies=1),
    "copies 3": dict(copies=3),
    "epochs 17, copies 3": dict(epochs=17, copies=3),
    "epochs 19, copies 3": dict(epochs=19, copies=3),
    "batch_size 50, learning_rate 0.02": dict(batch_size=50, learning_rate=0.02),
    "strength 0.7": dict(distort=named(distort, strength=0.7)),
    "strength 1.3": dict(distort=named(distort, strength=1.3)),
    "thickening 0": dict(distort=named(distort, thickening=0)),
    "bilinear": dict(distort=named(distort, mode="bilinear")),
    "comparison_weight 1": dict(comparison_weight=1),
    "deskewed": dict(model=deskewed),
}
POSTERIOR_2S = {
    "net 16M 32p 48, epochs 14, copies 1": with_net("16M 32p 48", epochs=14, copies=1),
    "net 16M 32 64, epochs 5": with_net("16M 32 64", epochs=5),
    "net 16M 48 64, epochs 5": with_net("16M 48 64", epochs=5),
    "net 24M 48 64": with_net("24M 48 64"),
    "net 32m 48 64": with_net("32m 48 64"),
    "net 32M 64 64": with_net("32M 64 64"),
    "net 32M 64 64, epochs 3": with_net("32M 64 64", epochs=3),
    "epochs 3, copies 4": dict(epochs=3, copies=4),
    "epochs 5, copies 2": dict(epochs=5, copies=2),
    "epochs 9, copies 1": dict(epochs=9, copies=1),
    "batch_size 100, learning_rate 0.06, epochs 5": dict(
        batch_size=100, learning_rate=0.06, epochs=5
    ),
    "batch_size 25, learning_rate 0.03, epochs 3": dict(
        batch_size=25, learning_rate=0.03, epochs=3
    ),
    "learning_rate 0.02": dict(learning_rate=0.02),
    "learning_rate 0.06": dict(learning_rate=0.06),
    "weight_decay 0.05": dict(weight_decay=0.05),
    "weight_decay 0.2": dict(weight_decay=0.2),
    "label_smoothing 0": dict(label_smoothing=0),
    "strength 0.7": dict(distort=named(distort, strength=0.7)),
    "thickening 0": dict(distort=named(distort, thickening=0)),
    "bilinear": dict(distort=named(distort, mode="bilinear")),
    "deskewed": dict(model=deskewed),
    "deskewed, epochs 3": dict(model=deskewed, epochs=3),
    "deskewed, strength 0.7": dict(model=deskewed, distort=named(distort, strength=0.7)),
}
FINALISTS = (
    "posterior",
    "posterior, net 16 32m 64p 64",
    "posterior, net 32M 64 64",
    "posterior, epochs 19, copies 3",
)


def search():
    rows = {}
    for name, variants in {"posterior": POSTERIOR, "posterior_2s": POSTERIOR_2S}.items():
        if name in test.EXPERIMENTS:
            rows[name] = chosen = test.EXPERIMENTS[name]
            rows |= {f"{name}, {what}": chosen | changes for what, changes in variants.items()}
    return rows


def trainings(rounds):
    """How many each variant has: those of posterior, which take the longest, 6 at the most.

    Those between which its choice was have twice `rounds`: they differ by hundredths of a point.
    """
    found = {}
    for name in search():
        found[name] = rounds if name.startswith("posterior_2s") else min(rounds, 6)
        if name in FINALISTS:
            found[name] = 2 * rounds
    return found


def judge(model, pairs):
    """On validation pairs: the error, how often a digit is wrong, and what sharpness would do."""
    input, target, classes = pairs
    comparison, digits = answers(model, input)
    if comparison.isnan().any():
        return {}
    log_odds = {str(x): closed_form(digits, x) for x in SHARPNESS}
    loss = F.binary_cross_entropy_with_logits
    return {
        "validation_error": mistakes(comparison, target).double().mean().item(),
        "digit_error": (digits.argmax(dim=2) != classes).double().mean().item(),
        "error": {s: mistakes(x, target).double().mean().item() for s, x in log_odds.items()},
        "comparison_loss": {s: loss(x, target.float()).item() for s, x in log_odds.items()},
    }


def draw(nb, generator):
    """Of training images `nb` pairs to train on, `nb` to test on and 4000 to judge by: 9 tensors.

    Those to test on, which take a round's time as in test.py, are the first of those to judge by.
    """
    pairs = draw_pairs(nb + VALIDATION, *load_mnist()[:2], generator)
    parts = slice(nb), slice(nb, 2 * nb), slice(nb, None)
    return [tensor[part] for part in parts for tensor in pairs]


def validate(job):
    """A round on pairs of training images, with what `judge` says of its model."""

    def look(model, sets):
        return judge(model, sets[6:])

    return train_and_look(job, partial(draw, PAIRS), look)


def differences(entries):
    """By variant the points of validation error more than its row's, and the 95% interval."""
    rows = {name: entries.get(name.partition(",")[0], {}) for name in entries}
    found = {name: gain(entries[name], rows[name], "validation_error") for name in entries}
    return {name: x[:3] for name, x in found.items() if x and entries[name] is not rows[name]}
