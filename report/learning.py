"""Data or model? Errors by the number of training pairs, and by nets that saw all of MNIST's.

The rows are the table's; round r trains on pairs of seed r and is judged on all
10,000 test images, 5000 pairs. Those of 1000 pairs are not among them: main.jsonl has them, judged
on 1000 test pairs. The last has all 60,000 training digits: it also judges the 1000 test pairs of
each round of main.jsonl, so as to tell which of its errors more such data would not mend.
"""

import statistics
from functools import partial

import torch

import test
from data import draw_pairs, generate_pair_sets, load_mnist
from models import closed_form
from report.files import PAIRS, good, train_and_look
from report.measures import answers, look, sharpness
from train import mistakes

TRAININGS = {250: 10, 500: 10, 2000: 6, 4000: 4, 8000: 3, 16000: 2}  # by pairs to train on
ALL, TEACHERS = 30_000, 2  # pairs, which are all training images; trainings
ROUNDS = 20  # of main.jsonl
MODELS = "siamese_al", "posterior"


def with_pairs(name, pairs):
    """The name of a row that trains on so many pairs."""
    return f"{name}, {pairs} pairs"


def learning():
    rows = {
        with_pairs(name, pairs): test.EXPERIMENTS[name] | dict(reported=None)
        for pairs in TRAININGS
        for name in MODELS
        if name in test.EXPERIMENTS
    }
    if "posterior" in test.EXPERIMENTS:
        rows[with_pairs("posterior", ALL)] = test.EXPERIMENTS["posterior"] | dict(reported=None)
    return rows


def by_pairs(rounds):
    """The rows by their number of pairs: pairs, rows, and how many trainings each has."""
    rows = learning()
    for pairs, trainings in (TRAININGS | {ALL: TEACHERS}).items():
        own = {name: row for name, row in rows.items() if size(name) == pairs}
        yield pairs, own, min(rounds, trainings)


def size(name):
    """The number of pairs in a row's name."""
    return int(name.split()[-2])


def draw(pairs, nb, generator):
    """`pairs` pairs to train on, the first `nb` test pairs, and all 5000: 9 tensors."""
    images, labels, *test_images = load_mnist()
    train_set = draw_pairs(pairs, images, labels, generator)
    judging = draw_pairs(len(test_images[0]) // 2, *test_images, generator)
    return [*train_set, *(tensor[:nb] for tensor in judging), *judging]


def judge(pairs, model, sets):
    """On all test images: the error, and that of its scores under the closed form."""
    input, target, classes = sets[6:]
    comparison, digits = answers(model, input)
    found = {
        "error": mistakes(comparison, target).double().mean().item(),
        "closed_form_error": mistakes(closed_form(digits, **sharpness(model)), target)
        .double()
        .mean()
        .item(),
        "digit_error": (digits.argmax(dim=2) != classes).double().mean().item(),
    }
    if pairs == ALL:
        rounds = (generate_pair_sets(1000, torch.Generator().manual_seed(r)) for r in range(ROUNDS))
        found["wrong_in_rounds"] = [look(model, one)["wrong_pairs"] for one in rounds]
    return found


def measure(job):
    """A round on as many pairs as its settings say, with what `judge` says of its model."""
    pairs = job[0]["pairs"]
    return train_and_look(job, partial(draw, pairs, PAIRS), partial(judge, pairs))


def curve(main, entries, name, measure):
    """Points (pairs, mean, standard error) of a model's errors in percent, by training pairs."""
    own = good(main.get(name, {}), "test_error" if measure == "error" else measure)
    found = {PAIRS: own} if own else {}
    for row, entry in entries.items():
        if row.partition(",")[0] == name and (errors := good(entry, measure)):
            found[size(row)] = errors
    return [
        (pairs, 100 * statistics.mean(errors), 100 * statistics.stdev(errors) / len(errors) ** 0.5)
        for pairs, errors in sorted(found.items())
        if len(errors) > 1
    ]
