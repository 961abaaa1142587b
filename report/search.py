"""How `posterior` was chosen: report/results/search.json.

Every variant below is the chosen row with one or a few changes. It trains on 1000 pairs, as in
test.py, and is judged on 4000 other pairs of MNIST's training images: no test image is ever read.
The seeds are 1,000,000 and up, which no reported round uses.
"""

import math
import time
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from data import distort, draw_pairs, load_mnist
from models import Convolutions, Model, Shared, block, closed_form, posterior
from report.files import good
from train import mistakes, train

FIRST_SEED, VALIDATION = 1_000_000, 4000
SHARPNESS = 1.0, 1.5, 2.0, 3.0, 4.0


def named(function, *arguments, **keywords):
    """functools.partial with a name that tells all; results files show functions by their names."""
    found = partial(function, *arguments, **keywords)
    texts = [*map(str, arguments), *(f"{key}={value}" for key, value in keywords.items())]
    found.__name__ = f"{function.__name__}({', '.join(texts)})"
    return found


def net(layers):
    """A siamese model; `layers` has its channels, M for max pooling, and p for padding by 1."""
    found, channels, size = [], 1, 14
    for word in layers.split():
        pool, padding, out = "M" in word, int("p" in word), int(word.rstrip("pM"))
        found += block(channels, out, 3, padding, pool, bias=False)
        channels, size = out, (size + 2 * padding - 2) // (1 + pool)
    last = nn.Linear(channels * size * size, 10)
    return Model(Shared(nn.Sequential(Convolutions(*found), nn.Flatten(), last)), closed_form)


CHOSEN = dict(
    model=named(net, "16 32M 64p 64"),
    optimizer="AdamW",
    learning_rate=0.03,
    weight_decay=0.1,
    schedule="one-cycle",
    comparison_weight=0,
    digit_weight=1,
    label_smoothing=0.1,
    copies=2,
)
VARIANTS = {
    "chosen": {},
    "learning_rate 0.01": dict(learning_rate=0.01),
    "weight_decay 0.01": dict(weight_decay=0.01),
    "label_smoothing 0.0": dict(label_smoothing=0),
    "copies 0": dict(copies=0),
    "copies 1": dict(copies=1),
    "copies 3": dict(copies=3),
    "strength 0.7": dict(distort=named(distort, strength=0.7)),
    "strength 1.3": dict(distort=named(distort, strength=1.3)),
    "thickening 0.0": dict(distort=named(distort, thickening=0.0)),
    "mode bilinear": dict(distort=named(distort, mode="bilinear")),
    "comparison_weight 1.0": dict(comparison_weight=1),
    "batch_size 50": dict(batch_size=50, learning_rate=0.02),
    # More copies pay for a smaller net.
    "net 8M 16p 32, 1 copies": dict(model=named(net, "8M 16p 32"), copies=1),
    "net 16M 32p 48, 1 copies": dict(model=named(net, "16M 32p 48"), copies=1),
    "net 16 32M 32p 64, 1 copies": dict(model=named(net, "16 32M 32p 64"), copies=1),
    "net 16M 64 64, 3 copies": dict(model=named(net, "16M 64 64"), copies=3),
    "net 32M 64 64, 3 copies": dict(model=named(net, "32M 64 64"), copies=3),
    "net 48 48M 48p 32pM, 1 copies": dict(model=named(net, "48 48M 48p 32pM"), copies=1),
}
FINALISTS = "chosen", "batch_size 50"  # with 12 trainings, where others have 3


def search():
    return {name: CHOSEN | changes for name, changes in VARIANTS.items()}


def trainings(rounds):
    """How many each variant has, `rounds` at the most."""
    return {name: min(rounds, 12 if name in FINALISTS else 3) for name in VARIANTS}


def validate(name, row, seeds, nb_pairs, device, folder=None):
    """Train a row once for each of `seeds` on `nb_pairs` pairs of training images, test on 4000.

    Of the model's comparison it returns what test.run_rounds does; of the closed form error and
    loss by sharpness; how often a digit is wrong; and the seconds of the training alone.
    """
    outcomes, arguments = [], {key: row[key] for key in row if key != "model"}
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        pairs = draw_pairs(nb_pairs + VALIDATION, *load_mnist()[:2], generator)
        train_set = [tensor[:nb_pairs].to(device) for tensor in pairs]
        input, target, classes = test_set = [tensor[nb_pairs:].to(device) for tensor in pairs]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = row["model"]().to(device)
        start = time.perf_counter()
        history = train(model, train_set, test_set, generator, **arguments)
        end = time.perf_counter()
        with torch.no_grad():
            digits = torch.cat([model(part)[1] for part in input.split(100)])
        seconds = end - start - (time.perf_counter() - end) * len(history["loss"])
        for key, values in history.items():  # JSON has no inf and no nan
            history[key] = [value if math.isfinite(value) else None for value in values]
        errors = history.pop("test_error")
        outcome = {"test_error": errors[-1], "test_error_by_epoch": errors, "seconds": seconds}
        outcome |= history | {"diverged": None in errors + history["loss"]}
        if not outcome["diverged"]:
            log_odds = {str(x): closed_form(digits, x) for x in SHARPNESS}
            loss = F.binary_cross_entropy_with_logits
            outcome |= {
                "digit_error": (digits.argmax(dim=2) != classes).float().mean().item(),
                "error": {s: mistakes(x, target).mean().item() for s, x in log_odds.items()},
                "comparison_loss": {s: loss(x, target.float()).item() for s, x in log_odds.items()},
            }
        outcomes.append(outcome)
    return outcomes


def errors_of(entry):
    """The validation errors of a variant's trainings, at the sharpness that posterior has."""
    sharpness = str(posterior().head.keywords["sharpness"])
    return [errors[sharpness] for errors in good(entry, "error")]
