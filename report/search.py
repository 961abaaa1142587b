"""How `posterior` was chosen: python -m report.search [--seeds N]

Every variant below is the chosen setting with one or a few changes. It trains on 1000 pairs, as in test.py, and is
judged on 4000 other pairs of MNIST's training images: no test image is ever read. The seeds are 1,000,000 and up, which
no reported round uses. Results go to report/results/search.json, after every training; what is there is not run again.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import test
import train
from data import distort, draw_pairs, load_mnist
from models import Convolutions, Posterior, Shared

RESULTS = Path(__file__).parent / "results" / "search.json"
FIRST_SEED, VALIDATION = 1_000_000, 4000
SHARPNESS = 1.0, 1.5, 2.0, 3.0, 4.0
CHOSEN = {
    "net": "16 32M 64p 64",  # channels; M: max pooling, p: padding by 1, k5: kernel size 5 instead of 3
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
        pool, padding = word.endswith("M"), int("p" in word)
        out, _, kernel = word.rstrip("M").replace("p", "").partition("k")
        kernel = int(kernel or 3)
        convolution = nn.Conv2d(channels, int(out), kernel, padding=padding, bias=False)
        layers += [convolution, nn.BatchNorm2d(int(out)), *[nn.MaxPool2d(2)] * pool, nn.ReLU()]
        channels, size = int(out), (size + 2 * padding - kernel + 1) // (1 + pool)
    classifier = nn.Linear(channels * size * size, 10)
    return Shared(nn.Sequential(Convolutions(*layers), nn.Flatten(), classifier), Posterior())


def trial(changes, seed, mnist):
    """Train one variant once: its validation errors (by sharpness of the posterior), size, time."""
    settings = CHOSEN | changes
    net, train.DECAY = settings.pop("net"), settings.pop("decay")
    distortion = {name: settings.pop(name) for name in ("strength", "thickening", "mode")}
    train.distort = partial(distort, **distortion)
    generator = torch.Generator().manual_seed(seed)
    input, target, classes = draw_pairs(1000 + VALIDATION, *mnist[:2], generator)
    torch.manual_seed(seed)
    model, train_set = build(net), (input[:1000], target[:1000], classes[:1000])
    start = time.perf_counter()
    train.train([model], [train_set], [(input[:1], target[:1])], [generator], **settings)
    seconds = time.perf_counter() - start
    with torch.no_grad():
        digits = torch.cat([model(part)[1] for part in input[1000:].split(100)])
    target, classes = target[1000:], classes[1000:]
    errors, losses = {}, {}
    for sharpness in SHARPNESS:
        log_odds = Posterior(sharpness)(digits)
        errors[sharpness] = ((log_odds > 0) != target.bool()).float().mean().item()
        losses[sharpness] = F.binary_cross_entropy_with_logits(log_odds, target.float()).item()
    digit_error = (digits.argmax(dim=2) != classes).float().mean().item()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    outcome = {"parameters": parameters, "seconds": seconds, "digit_error": digit_error}
    return outcome | {"error": errors, "comparison_loss": losses}


def table(results):
    """Lines to print: for every variant means ± standard deviations (n-1) over its trainings."""
    layout = "{:<32}{:>11}{:>11}{:>16}{:>16}{:>8}"
    yield layout.format("variant", "parameters", "trainings", "error %", "digit error %", "s")
    sharpness = str(test.MODELS["posterior"]().head.sharpness)
    for name in VARIANTS:
        if name in results:
            trials = list(results[name]["trials"].values())
            errors = [trial["error"][sharpness] for trial in trials]
            digit_errors = [trial["digit_error"] for trial in trials]
            seconds = f"{statistics.mean(trial['seconds'] for trial in trials):.2f}"
            cells = test.percent(errors), test.percent(digit_errors), seconds
            yield layout.format(name, f"{trials[0]['parameters']:,}", len(trials), *cells)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=6, help="trainings of each variant (6)")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    torch.set_num_threads(1)  # so that workers can be forked
    mnist = load_mnist()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with ProcessPoolExecutor(
        len(os.sched_getaffinity(0)), multiprocessing.get_context("fork"), test.start_worker
    ) as pool:
        futures = {}
        for name in options.only:
            settings = CHOSEN | VARIANTS[name]
            known = results.setdefault(name, {"settings": settings, "trials": {}})
            if known["settings"] != settings:  # of an earlier search
                known.update(settings=settings, trials={})
            for seed in map(str, range(FIRST_SEED, FIRST_SEED + options.seeds)):
                if seed not in known["trials"]:
                    futures[pool.submit(trial, VARIANTS[name], int(seed), mnist)] = name, seed
        start, total = time.monotonic(), len(futures)
        for done, future in enumerate(as_completed(futures), 1):
            name, seed = futures[future]
            results[name]["trials"][seed] = json.loads(json.dumps(future.result()))
            test.write_results(RESULTS, results)
            left = (time.monotonic() - start) / done * (total - done) / 60
            print(f"{done} of {total}, {name}, about {left:.0f} min left", flush=True)
    print(*table(results), sep="\n")


if __name__ == "__main__":
    main()
