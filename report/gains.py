"""What each technique gains: the mean over rounds of the error without it minus that with it.

It is in percentage points. In each round both have the same data, so that differences are paired.
Its interval is Student's over the rounds. Beside it stands one for other test images, too: all
rounds' test pairs are drawn from the same 10,000, most of which stand in several rounds.
"""

import functools

import torch
from scipy.stats import t, ttest_rel

from data import draw_pairs
from report.experiments import REPORT_1, cell
from report.files import PAIRS

R1, R1_WS, R1_WS_AL = (cell(name, 0.01, 100) for name in REPORT_1)
R1_AL = cell("sub_lenet5_al", 0.01, 100)
COMPARISONS = {  # part of the table: what is gained, without it, with it
    "Report 1, rate 0.01, batches of 100": [
        ("weight sharing", R1, R1_WS),
        ("weight sharing", R1_AL, R1_WS_AL),
        ("digits' loss alone, no head", R1, R1_AL),
        ("digits' loss alone, no head", R1_WS, R1_WS_AL),
        ("digits' loss, with the head", R1, f"{R1}, both losses"),
        ("digits' loss, with the head", R1_WS, f"{R1_WS}, both losses"),
        ("no head", f"{R1_WS}, both losses", R1_WS_AL),
    ],
    "Report 1, at each model's own setting": [
        ("weight sharing", "sub_lenet5", "sub_lenet5_ws"),
        ("digits' loss alone, no head", "sub_lenet5_ws", "sub_lenet5_ws_al"),
    ],
    "Report 1, its best settings and ours": [
        ("rate 0.01, not 0.0001", cell("sub_lenet5_ws", 0.0001, 100), R1_WS),
        ("rate 0.001, not 0.01", R1_WS_AL, cell("sub_lenet5_ws_al", 0.001, 100)),
        (
            "batches of 50, not 100",
            cell("sub_lenet5_ws", 0.0001, 100),
            cell("sub_lenet5_ws", 0.0001, 50),
        ),
        (
            "batches of 250, not 50",
            cell("sub_lenet5_ws_al", 0.01, 50),
            cell("sub_lenet5_ws_al", 0.01, 250),
        ),
        ("batches of 100, not 250", cell("sub_lenet5", 0.01, 250), R1),
    ],
    "Report 2": [
        ("a trunk for each image", "baseline", "separate"),
        ("weight sharing", "separate", "siamese"),
        ("both", "baseline", "siamese"),
        ("a trunk for each image", "baseline_al", "separate_al"),
        ("weight sharing", "separate_al", "siamese_al"),
        ("both", "baseline_al", "siamese_al"),
        ("auxiliary loss", "baseline", "baseline_al"),
        ("auxiliary loss", "separate", "separate_al"),
        ("auxiliary loss", "siamese", "siamese_al"),
    ],
    "Report 2, its other techniques": [
        *(
            (what, f"{name}, {without}", name)
            for what, without in (
                ("rotated copies", "no rotation"),
                ("their angles alone", "unturned copy"),
                ("batch norm", "no batch norm"),
            )
            for name in ("baseline", "siamese", "siamese_al")
        ),
        *(("dropout", name, f"{name}, dropout") for name in ("baseline", "siamese", "siamese_al")),
        ("rate 0.01", "siamese", "siamese, rate 0.01"),
        ("batch norm", "siamese, no batch norm, rate 0.01", "siamese, rate 0.01"),
    ],
    "Adaptive rate": [
        ("the rule", cell("sub_lenet5", 0.01, 250), "sub_lenet5"),
        ("the rule", R1_WS, "sub_lenet5_ws, rate 0.01"),
        ("the rule", cell("sub_lenet5_ws_al", 0.01, 50), "sub_lenet5_ws_al"),
        ("our floor", "sub_lenet5, rate 0.01, no floor", "sub_lenet5"),
        ("our floor", "sub_lenet5_ws, rate 0.01, no floor", "sub_lenet5_ws, rate 0.01"),
        ("our floor", "sub_lenet5_ws_al, rate 0.01, no floor", "sub_lenet5_ws_al"),
    ],
    "From siamese_al to posterior": [
        ("closed form", "siamese_al", "closed form"),
        ("digits' loss alone", "closed form", "digits' loss alone"),
        ("own digit net", "digits' loss alone", "own digit net"),
        ("upright digits", "own digit net", "upright digits"),
        ("distorted copies", "upright digits", "distorted copies"),
        ("AdamW", "distorted copies", "AdamW"),
        ("one cycle", "AdamW", "one cycle"),
        ("smoothed labels, sharper scores", "one cycle", "smoothed labels"),
        ("a second net", "smoothed labels", "posterior"),
        ("all", "siamese_al", "posterior"),
    ],
    "Other heads, end to end": [
        ("closed form", "siamese_al, MLP", "closed form"),
        ("closed form", "siamese_al, MLP of probabilities", "closed form"),
    ],
}


def pairs_of_rounds(without, with_it, measure):
    """By round that both finished, and in which neither diverged, their measures."""
    columns = [entry.get(key, []) for key in (measure, "diverged") for entry in (without, with_it)]
    for r, (a, b, *diverged) in enumerate(zip(*columns)):
        if diverged == [False, False] and None not in (a, b):
            yield r, a, b


def gain(without, with_it, measure="test_error"):
    """Of two models' entries the mean gain in points, its 95% interval, and p by the paired t-test.

    None of fewer than two rounds, or if all are the same.
    """
    rounds = list(pairs_of_rounds(without, with_it, measure))
    before, after = ([errors[n] for errors in rounds] for n in (1, 2))
    if len(before) < 2 or before == after:
        return None
    found = ttest_rel(before, after)
    interval = found.confidence_interval(0.95)
    low, high = 100 * interval.low, 100 * interval.high
    return (low + high) / 2, low, high, found.pvalue


@functools.cache
def tested_images(seed, nb=PAIRS):
    """Which of MNIST's test images the pairs of a round have, [nb, 2], as they are drawn."""
    generator = torch.Generator().manual_seed(seed)
    for n in (60_000, 10_000):
        no_images = torch.zeros(1).expand(n, 28, 28)
        *_, chosen = draw_pairs(nb, no_images, torch.arange(n), generator)
    return chosen


def are_wrong(bits, nb=PAIRS):
    """What measures.look keeps of a round, as a tensor [nb] of 0 and 1."""
    return torch.tensor([int(bits, 16) >> n & 1 for n in range(nb)]).double()


def for_new_images(without, with_it):
    """The 95% interval of a gain in points that also allows for other test images; None if unknown.

    Its variance is clustered by round and by image: it sums the products of two pairs' residuals
    where they share a round or an image (of dyads: Aronow, Samii and Assenova, 2015). No two pairs
    of one round share an image; two that share both count twice. It is never narrower than without
    the images.
    """
    rounds = list(pairs_of_rounds(without, with_it, "wrong_pairs"))
    if len(rounds) < 2:
        return None
    gained = torch.stack([are_wrong(a) - are_wrong(b) for _, a, b in rounds])
    images = torch.stack([tested_images(r) for r, *_ in rounds])
    mean, n = gained.mean(), len(rounds)
    rest = gained - mean
    by_round = rest.sum(dim=1).square().sum() * n / (n - 1)
    sums = torch.zeros(images.max() + 1).double()
    sums.index_add_(0, images.flatten(), rest.flatten().repeat_interleave(2))
    by_image = sums.square().sum() - 2 * rest.square().sum()  # less each pair with itself
    error = (by_round + by_image.clamp(min=0)).sqrt() / rest.numel()
    half = t.ppf(0.975, n - 1) * error
    return [float(100 * (mean - half)), float(100 * (mean + half))]


def holm(p_values):
    """Each p-value adjusted for the family, by Holm's step-down method."""
    found, least = {}, 0
    for n, key in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1, (len(p_values) - n) * p_values[key]))
        found[key] = least
    return [found[key] for key in range(len(p_values))]


def compare(entries):
    """COMPARISONS as [part, what, without, with, gain, low, high, low, high of images, p by Holm].

    `entries` has the rows of all results files; those that it lacks are left out.
    """
    rows = []
    for part, comparisons in COMPARISONS.items():
        for what, *names in comparisons:
            pair = [entries.get(name, {}) for name in names]
            if found := gain(*pair):
                *found, p = found
                rows.append([part, what, *names, *found, *(for_new_images(*pair) or [None] * 2), p])
    for row, p in zip(rows, holm([row[-1] for row in rows])):
        row[-1] = p
    return rows
