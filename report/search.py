"""How `posterior` was chosen: report/results/search.json.

Every variant below is the chosen setting with one or a few changes. It trains on 1000 pairs, as in test.py, and is
judged on 4000 other pairs of MNIST's training images: no test image is ever read. The seeds are 1,000,000 and up, which
no reported round uses.
"""

import time
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn

import test
import train
from data import distort, draw_pairs
from models import Convolutions, Model, Posterior, Shared, block
from report import experiments

MEASURES = "error", "digit_error", "comparison_loss", "seconds"
FINALISTS = "chosen", "batch_size 50"
FIRST_SEED, VALIDATION = 1_000_000, 4000
SHARPNESS = 1.0, 1.5, 2.0, 3.0, 4.0
CHOSEN = {
    "net": "16 32M 64p 64",  # channels; M: max pooling, p: padding by 1
    "optimizer": "adamw",
    "learning_rate": 0.03,
    "schedule": "one-cycle",
    "batch_size": 100,
    "epochs": 25,
    "comparison_weight": 0.0,
    "digit_weight": 1.0,
    "label_smoothing": 0.1,
    "distorted": 2,
    "decay": 0.1,
    "strength": 1.0,  # data.distort's parameters
    "thickening": 0.3,
    "mode": "bicubic",
}
VARIANTS = {"chosen": {}}
VARIANTS |= {
    f"{name} {value}": {name: value}
    for name, values in {
        "learning_rate": (0.01,),
        "decay": (0.01,),
        "label_smoothing": (0.0,),
        "distorted": (0, 1, 3),
        "strength": (0.7, 1.3),
        "thickening": (0.0,),
        "mode": ("bilinear",),
        "comparison_weight": (1.0,),
    }.items()
    for value in values
}
VARIANTS["batch_size 50"] = {"batch_size": 50, "learning_rate": 0.02}
VARIANTS |= {  # more copies pay for a smaller net
    f"net {net}, {copies} copies": {"net": net, "distorted": copies}
    for net, copies in {
        "8M 16p 32": 1,
        "16M 32p 48": 1,
        "16 32M 32p 64": 1,
        "16M 64 64": 3,
        "32M 64 64": 3,
        "48 48M 48p 32pM": 1,
    }.items()
}


def build(net):
    """The siamese model whose digit net `net` describes, as at CHOSEN."""
    layers, channels, size = [], 1, 14
    for word in net.split():
        pool, padding, out = "M" in word, int("p" in word), int(word.rstrip("pM"))
        layers += block(channels, out, 3, padding, pool, bias=False)
        channels, size = out, (size + 2 * padding - 2) // (1 + pool)
    digit_net = nn.Sequential(Convolutions(*layers), nn.Flatten(), nn.Linear(channels * size * size, 10))
    return Model(Shared(digit_net), Posterior())


def trial(key, row, seeds, device, mnist):
    """Train one variant once: its time and validation errors, by sharpness of the posterior."""
    settings, (seed,) = dict(row), seeds
    net, decay = settings.pop("net"), settings.pop("decay")
    distortion = {name: settings.pop(name) for name in ("strength", "thickening", "mode")}
    generator = torch.Generator().manual_seed(seed)
    input, target, classes = draw_pairs(1000 + VALIDATION, *mnist[:2], generator)
    torch.manual_seed(seed)
    model, train_set = build(net), (input[:1000], target[:1000], classes[:1000])
    start = time.perf_counter()
    with (
        patch.object(train, "distort", partial(distort, **distortion)),
        patch.dict(train.OPTIMIZERS, adamw=partial(train.adam, decay=decay)),
    ):
        train.train([model], [train_set], [(input[:1], target[:1])], [generator], **settings)
    outcome = {"seconds": time.perf_counter() - start}
    with torch.no_grad():
        digits = torch.cat([model(part)[1] for part in input[1000:].split(100)])
    target, classes = target[1000:], classes[1000:]
    log_odds = {sharpness: Posterior(sharpness)(digits) for sharpness in SHARPNESS}
    outcome["digit_error"] = (digits.argmax(dim=2) != classes).float().mean().item()
    outcome["error"] = {s: ((x > 0) != target.bool()).float().mean().item() for s, x in log_odds.items()}
    loss = F.binary_cross_entropy_with_logits
    outcome["comparison_loss"] = {s: loss(x, target.float()).item() for s, x in log_odds.items()}
    return [outcome]


def errors_of(entry):
    """The validation errors of a variant's trainings, at the chosen sharpness."""
    sharpness = str(test.MODELS["posterior"]().head.sharpness)
    return [error[sharpness] for error in entry["error"]]


def complete_all(rounds, workers=None):
    """Run the trainings that report/results/search.json lacks: of the two finalists 12, of the others 3, for which
    `rounds` is an upper limit."""
    rows = {name: CHOSEN | changes for name, changes in VARIANTS.items()}
    variants = {name: (partial(build, row["net"]), row) for name, row in rows.items()}
    trainings = {name: min(rounds, 12 if name in FINALISTS else 3) for name in VARIANTS}
    experiments.complete("search", variants, trainings, workers, trial, MEASURES, FIRST_SEED)
