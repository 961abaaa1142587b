"""What is computed from the errors of the rounds, against values worked by hand."""

import math
import statistics

import pytest
import torch

from data import generate_pair_sets, load_mnist
from report import gains, numbers
from test import percent, table


def entry(errors, diverged=None):
    """A row's rounds, as report.files.load has them; an error of None is an unfinished one."""
    states = [None if error is None else False for error in errors]
    return {"test_error": errors, "diverged": diverged or states}


def words(errors, diverged=(), rounds=4, reported=True, sure=()):
    """The words of the table's line of a row: rounds with these errors, the n-th of seed n."""
    found = {}
    for seed, error in enumerate(errors):
        line = {"test_error": [error and error / 2, error], "parameters": 71076, "seconds": 2.0}
        line |= {"row": "siamese", "diverged": seed in diverged, "one_answer": seed in sure}
        found["siamese", seed] = line
    settings = dict(torch="2", device="cpu", processor="AVX2", pairs=1000, code="abc")
    lines = list(table({"siamese": settings}, range(rounds), found, reported))
    assert lines[0] == "torch 2, cpu (AVX2), 1000 pairs, code abc" and len(lines) == 3
    return " ".join(lines[2].split())


def test_mean_and_deviation_by_hand():
    """Errors of 1, 2 and 6 percent: mean 3, squared deviations 4 + 1 + 9, over n - 1 = 2, root."""
    assert percent([0.01, 0.02, 0.06]) == "3.00 ± 2.65"
    assert percent([0.123]) == "12.30"
    assert numbers.percent([]) == "n/a"


def test_gain_by_hand():
    """Gains of 1, 2 and 3 points: mean 2, deviation 1, half-width t / √3. Student's t for two
    degrees of freedom has closed forms: its 97.5% quantile is 0.95 √2 / √(1 - 0.95²), and p of
    t = 2 √3 is 1 - t / √(2 + t²). Rounds that one lacks, or that diverged, are left out."""
    without = entry([0.10, 0.20, 0.50, 0.30, None, 0.5], [False] * 4 + [None, True])
    with_it = entry([0.09, 0.18, None, 0.27, 0.01, 0.1])
    half = 0.95 * math.sqrt(2 / (1 - 0.95**2)) / math.sqrt(3)
    t = 2 * math.sqrt(3)
    expected = [2, 2 - half, 2 + half, 1 - t / math.sqrt(2 + t * t)]
    assert gains.gain(without, with_it) == pytest.approx(expected)
    assert gains.gain(entry([0.1]), entry([0.2])) is None
    assert gains.gain(entry([0.1, 0.2]), entry([0.1, 0.2])) is None


def test_the_images_of_a_round():
    """Their labels are the round's classes."""
    images = gains.tested_images(3)
    classes = generate_pair_sets(1000, torch.Generator().manual_seed(3))[5]
    assert torch.equal(load_mnist()[3][images], classes)


def test_intervals_for_other_images_against_all_products():
    """Two models' wrong pairs in three rounds: the sum over all pairs of pairs that share a round
    or an image, by brute force."""
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(2, 3, 1000, generator=generator) < torch.tensor([0.3, 0.1]).view(2, 1, 1)
    entries = [
        {
            "diverged": [False] * 3,
            "wrong_pairs": [f"{sum(int(x) << n for n, x in enumerate(r)):x}" for r in one.tolist()],
        }
        for one in wrong
    ]
    low, high = gains.for_new_images(*entries)
    gained = (wrong[0].double() - wrong[1].double()).flatten()
    images = torch.cat([gains.tested_images(r) for r in range(3)])
    shares = (images.view(-1, 1, 2, 1) == images.view(1, -1, 1, 2)).flatten(2).any(dim=2)
    rounds = torch.arange(3).repeat_interleave(1000)
    same_round = rounds.unsqueeze(0) == rounds.unsqueeze(1)
    rest = gained - gained.mean()
    products = rest.unsqueeze(0) * rest.unsqueeze(1)
    by_round = products[same_round].sum() * 3 / 2
    others = products[shares & ~same_round].sum()
    error = (by_round + others.clamp(min=0)).sqrt() / 3000
    t = 0.95 * math.sqrt(2 / (1 - 0.95**2))
    middle = gained.mean().item()
    expected = [100 * (middle - t * error), 100 * (middle + t * error)]
    assert [low, high] == pytest.approx([float(x) for x in expected], rel=1e-6)


def test_holm_by_hand():
    """The smallest of four times 4, the next times 3; none below the one before it, none over 1."""
    assert gains.holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert gains.holm([0.6, 0.5]) == [1, 1] and gains.holm([]) == []


def test_spread_rise_and_worst_round_by_hand():
    off, on = entry([0.01, 0.02, 0.03, 0.04]), entry([0.02, 0.04, 0.06, 0.08])
    assert numbers.deviations(off, on)[:3] == ["1.29", "2.58", "2.00"]
    a, b = [0.01, 0.05, 0.02, 0.07, 0.03, 0.04], [0.02, 0.04, 0.06, 0.05, 0.09, 0.01]
    low, high = map(float, numbers.deviations(entry(a), entry(b))[3][1:-1].split(", "))
    for ratio in (low, high):  # where a · ratio and b have just not the same deviation
        sums, differences = ([ratio * x + s * y for x, y in zip(a, b)] for s in (1, -1))
        r = statistics.correlation(sums, differences)
        assert abs(r) * math.sqrt(4 / (1 - r * r)) == pytest.approx(2.776, abs=0.03)
    curves = {"test_error_by_epoch": [[0.3, 0.1, 0.2], [0.5, 0.3, 0.3]], "diverged": [False] * 2}
    assert numbers.rise(curves)[:2] == ["2", "5.00"]
    worst = numbers.worst_round(entry([0.1, 0.9, 0.2]), entry([0.1, 0.3, 0.4]))
    assert (worst["round"], worst["on"], worst["off"]) == ("1", "90.00", "30.00")
    assert worst["spread_on"] == "7.07" and worst["spread_off"] == "21.21"


def test_a_row_of_the_table():
    row = "siamese 71,076 3.00 ± 2.65 1.50 ± 1.32 2.00 17.00"
    assert words([0.01, 0.02, 0.06], rounds=3) == row
    assert words([0.1], rounds=1, reported=False) == "siamese 71,076 10.00 5.00 2.00"


def test_what_is_missing_or_diverged_is_left_out_and_said():
    row = "siamese 71,076 3.00 ± 2.65 1.50 ± 1.32 2.00 17.00 of 4 rounds "
    assert words([0.01, 0.02, 0.06]) == row + "1 missing"
    assert words([0.01, None, 0.02, 0.06], diverged=[1]) == row + "1 diverged"
    answers = "1 missing, 1 with one answer to all pairs"
    assert words([0.01, 0.02, 0.06], sure=[1]) == row + answers
    assert words([]) == "siamese of 4 rounds 4 missing"
    assert words([None], diverged=[0], rounds=1, sure=[0]) == "siamese of 1 rounds 1 diverged"
