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
from report.nets import named, net
from train import mistakes

FIRST_SEED, VALIDATION = 1_000_000, 4000
SHARPNESS = 1.0, 1.5, 2.0, 3.0, 4.0  # compared on each training


def with_net(layers, *views, **changes):
    return dict(model=named(net, layers, *views), **changes)


POSTERIOR = {
    "net 32M 48 64 whole, epochs 25, copies 2, learning_rate 0.03": with_net(
        "32M 48 64", "whole", epochs=25, copies=2, learning_rate=0.03
    ),  # the choice before this one, but for its distortion
    "net 32M 64 upright, copies 3": with_net("32M 64", "upright", copies=3),
    "net 32M 64 middle, copies 3": with_net("32M 64", "middle", copies=3),
    "net 32M 64 middle middle": with_net("32M 64", "middle", "middle"),
    "net 32M 64 upright upright": with_net("32M 64", "upright", "upright"),
    "net 32M 64 upright whole": with_net("32M 64", "upright", "whole"),
    "net 32M 96 upright middle, epochs 11": with_net("32M 96", "upright", "middle", epochs=11),
    "learning_rate 0.03": dict(learning_rate=0.03),
    "learning_rate 0.08": dict(learning_rate=0.08),
    "momentum 0.8": dict(momentum=0.8),
    "weight_decay 0.2": dict(weight_decay=0.2),
    "label_smoothing 0": dict(label_smoothing=0),
    "epochs 25, copies 3": dict(epochs=25, copies=3),
    "epochs 24, copies 4": dict(epochs=24, copies=4),  # more seconds than siamese_al
    "strength 0.7": dict(distort=named(distort, strength=0.7)),
    "strength 1.3": dict(distort=named(distort, strength=1.3)),
}
POSTERIOR_2S = {
    "net 32M 48 64 whole, epochs 4, copies 3, learning_rate 0.04, momentum 0": with_net(
        "32M 48 64", "whole", epochs=4, copies=3, learning_rate=0.04, momentum=0
    ),  # the choice before this one, but for its distortion
    "net 32M 64 middle": with_net("32M 64", "middle"),
    "net 32M 64 whole": with_net("32M 64", "whole"),
    "net 16M 64 upright, copies 5": with_net("16M 64", "upright", copies=5),
    "net 24M 64 upright": with_net("24M 64", "upright"),
    "net 32M 48 upright": with_net("32M 48", "upright"),
    "net 32M 96 upright": with_net("32M 96", "upright"),
    "net 32M 48 64 upright": with_net("32M 48 64", "upright"),
    "copies 3": dict(copies=3),
    "copies 5": dict(copies=5),
    "epochs 3, copies 2": dict(epochs=3, copies=2),
    "epochs 5, copies 1": dict(epochs=5, copies=1),
    "batch_size 100, learning_rate 0.08": dict(batch_size=100, learning_rate=0.08),
    "batch_size 25, learning_rate 0.03, copies 3": dict(
        batch_size=25, learning_rate=0.03, copies=3
    ),
    "momentum 0": dict(momentum=0),  # PyTorch's 0.9
    "momentum 0, learning_rate 0.03": dict(momentum=0, learning_rate=0.03),
    "momentum 0.7": dict(momentum=0.7),
    "learning_rate 0.03": dict(learning_rate=0.03),
    "learning_rate 0.08": dict(learning_rate=0.08),
    "weight_decay 0.05": dict(weight_decay=0.05),
    "weight_decay 0.2": dict(weight_decay=0.2),
    "label_smoothing 0": dict(label_smoothing=0),
    "strength 0.7": dict(distort=named(distort, strength=0.7)),
    "strength 1.3": dict(distort=named(distort, strength=1.3)),
}
FINALISTS = (
    "posterior",
    "posterior, net 32M 48 64 whole, epochs 25, copies 2, learning_rate 0.03",
    "posterior, net 32M 64 upright whole",
    "posterior, net 32M 96 upright middle, epochs 11",
)


def search():
    rows = {}
    for name, variants in {"posterior": POSTERIOR, "posterior_2s": POSTERIOR_2S}.items():
        if name in test.EXPERIMENTS:
            rows[name] = chosen = test.EXPERIMENTS[name]
            rows |= {f"{name}, {what}": chosen | changes for what, changes in variants.items()}
    return rows


def trainings(rounds):
    """How many each variant has: those of posterior, which take the longest, 8 at the most.

    Those between which its choice was have as many as those of posterior_2s, 1.2 times `rounds`:
    they differ by hundredths of a point.
    """
    many = rounds + rounds // 5
    short = min(rounds, 8)
    return {
        name: many if name.startswith("posterior_2s") or name in FINALISTS else short
        for name in search()
    }


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
