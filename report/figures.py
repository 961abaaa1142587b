"""Draw the figures from the results files, as report/figures/*.svg."""

import hashlib
import io
import re
import statistics
from itertools import combinations
from pathlib import Path

import matplotlib
import matplotlib.patheffects
import numpy as np
import torch

from data import generate_pair_sets
from report.experiments import REPORT_1, REPORT_2, at_constant_rate
from report.files import PAIRS, RESULTS, good, read, write
from report.frontier import ENSEMBLE, OTHERS, point
from report.learning import curve
from report.measures import calibration_bins, expected_calibration_error
from report.search import differences

matplotlib.use("svg")
from matplotlib import pyplot as plt

FOLDER = Path(__file__).parent / "figures"
COLORS = {  # one for each model, everywhere, that colour-blind readers can tell (Okabe and Ito)
    "sub_lenet5": "#E69F00",
    "sub_lenet5_ws": "#56B4E9",
    "sub_lenet5_ws_al": "#009E73",
    "baseline": "#888888",
    "baseline_al": "#000000",
    "siamese": "#CC79A7",
    "siamese_al": "#0072B2",
    "posterior": "#D55E00",
    "posterior_2s": "#8C2D04",
}
OTHER = "#666633"  # for a model that is not among them
WIDTH = 3.47  # inches: a column of the report
SHOWN = 2, 6  # rows and columns of wrong pairs
SIDES = {  # of a point, for its name
    "sub_lenet5": "above",
    "sub_lenet5_ws": "left",
    "baseline": "above",
    "siamese_al": "below",
    "posterior": "above",
    "posterior_2s": "above",
    ENSEMBLE: "right",
    "adamisik, convnet": "left",
    "masyahook": "below",
}
COURSE = 2, 15  # seconds on one core and % of error, for some 70,000 parameters and 25 epochs
MEASURED, TYPEFACE = "STIXGeneral", "'Libertinus Serif', 'Times New Roman', serif"
SETTINGS = {
    "svg.hashsalt": "0",
    "text.parse_math": False,  # of rows' names
    "svg.fonttype": "none",  # so that the report sets figures in its own typeface
    "font.family": MEASURED,
    "font.size": 7.8,
    "axes.titlesize": 7.8,
    "axes.linewidth": 0.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.minor.width": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def by_epoch(entry, measure):
    """A measure by epoch of the rounds that did not diverge, as an array [rounds, epochs]."""
    return np.array(good(entry, measure), dtype=float)


def band(axes, values, color, style="-", label=None):
    """The mean over the rounds of `values` [rounds, epochs], ± one standard deviation as a band."""
    if len(values):
        mean, half = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(values) - 1))
        x = range(1, len(mean) + 1)
        axes.plot(x, mean, style, color=color, linewidth=1.1, label=label)
        axes.fill_between(x, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)


def epochs():
    """Report 1's Fig. 3: mean test accuracy by epoch, with and without the adaptive rate."""
    figure, panels = plt.subplots(1, 3, figsize=(WIDTH, 1.35), layout="constrained")
    main, grids = read("main")["models"], read("grids")["models"]
    for axes, name in zip(panels, REPORT_1):
        adaptive, constant = main.get(name, {}), at_constant_rate(name, main, grids)
        band(axes, 100 - 100 * by_epoch(adaptive, "test_error_by_epoch"), COLORS[name])
        band(axes, 100 - 100 * by_epoch(constant, "test_error_by_epoch"), "#444444", "--")
        axes.set(title=name, xlabel="epoch", xticks=(1, 10, 20))
    panels[0].set_ylabel("test accuracy, %")
    return figure


def medoids(plane):
    """Of each digit's points, rows of x, y, digit, the one that is nearest to all others."""
    for n in range(10):
        points = plane[plane[:, 2] == n, :2]
        yield points[np.linalg.norm(points[:, None] - points, axis=2).sum(axis=0).argmin()]


def apart(places):
    """Labels' places [x, y], moved where two overlap."""
    places = np.array(places)
    least = 0.11 * np.ptp(places, axis=0).max()
    for _ in range(100):
        for a, b in combinations(range(len(places)), 2):
            between = places[b] - places[a]
            lack = least - np.linalg.norm(between)
            if lack > 0:
                step = between / np.linalg.norm(between) * lack / 2
                places[a] -= step
                places[b] += step
    return places


def planes():
    """Report 2's Figs. 2 to 5: t-SNE of the last layer of the trunk, coloured by digit."""
    main = read("main")["models"]
    shown = [name for name in main if name in (*REPORT_2, "posterior")]
    found = {name: plane for name in shown for plane in good(main[name], "plane")}
    figure = plt.figure(figsize=(2 * WIDTH + 0.3, 1.45), layout="constrained")
    grid = figure.subplots(1, max(1, len(found)), squeeze=False)
    for axes, (name, plane) in zip(grid.flat, found.items()):
        x, y, digit = zip(*plane)
        colors = dict(c=digit, cmap=plt.get_cmap("viridis", 10), vmin=-0.5, vmax=9.5)
        points = axes.scatter(x, y, s=1.6, linewidths=0, **colors)
        for n, at in enumerate(apart(list(medoids(np.array(plane))))):
            style = dict(weight="bold", ha="center", va="center", color="white")
            stroke = matplotlib.patheffects.withStroke(linewidth=1.5, foreground="black")
            axes.text(*at, n, **style).set_path_effects([stroke])
        axes.set(xticks=[], yticks=[], title=name)
    if found:
        bar = figure.colorbar(points, ax=grid, ticks=range(10), pad=0.01, aspect=12)
        bar.set_label("digit")
    return figure


def frontier():
    """Error on validation pairs against seconds of one core, both on log scales."""
    figure, axes = plt.subplots(figsize=(WIDTH, 1.66), layout="constrained")
    points = {name: point(entry) for name, entry in read("frontier")["models"].items()}
    points = {name: found for name, found in points.items() if found}
    ours = {x: y for x, y in points.items() if x.startswith("posterior") and x != ENSEMBLE}
    style = dict(linewidth=0.8, capsize=1.5, markersize=4)
    if ours:
        line = zip(*sorted(ours.values()))
        axes.errorbar(*line, fmt=".-", color=COLORS["posterior"], zorder=1, **style)
    names = {name: name for name in points if name not in ours} | {ENSEMBLE: "four of posterior"}
    names |= {name: name for name in ours if "," not in name}
    for name in points:
        if name in names:
            color = COLORS.get(name, COLORS["posterior"] if name == ENSEMBLE else OTHER)
            shape = "D" if name in ours else "s" if name in OTHERS else "o"
            axes.errorbar(*points[name], fmt=shape, color=color, **style)
            side, (x, y) = SIDES.get(name, "right"), points[name][:2]
            ends = {"left": "right", "right": "left", "below left": "right"}
            align = dict(ha=ends.get(side, "center"), va="center")
            shifts = {"left": (-5, 0), "right": (5, 0), "above": (0, 8), "below": (0, -8)}
            shift = shifts.get(side, (2, -8))
            text = dict(textcoords="offset points", color=color, **align)
            axes.annotate(names[name], (x, y), shift, **text)
        else:
            epochs, copies = re.findall(r"\d+", name)[-2:]
            below = dict(textcoords="offset points", ha="right", va="top", fontsize=6.5)
            axes.annotate(f"{epochs}×{copies}", points[name][:2], (-2, -2), **below)
    axes.plot(*COURSE, "x", color="black", markersize=6, markeredgewidth=1.2)
    axes.annotate(
        "the course", COURSE, (-6, 0), textcoords="offset points", ha="right", va="center"
    )
    axes.set(xscale="log", yscale="log", xlabel="seconds of one core for a round, tests included")
    axes.set(ylabel="error on validation pairs, %", xlim=(0.12, 70), ylim=(0.4, 40))
    for axis, ticks in (
        (axes.xaxis, (0.2, 0.5, 1, 2, 5, 10, 20, 50)),
        (axes.yaxis, (1, 2, 5, 10, 20)),
    ):
        axis.set_major_locator(matplotlib.ticker.FixedLocator(ticks))
        axis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        axis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    return figure


def learning():
    """Error on test pairs by the number of training pairs, both on log scales."""
    figure, axes = plt.subplots(figsize=(WIDTH, 1.15), layout="constrained")
    lines = [
        ("siamese_al", "error", "siamese_al", "o-", COLORS["siamese_al"]),
        ("siamese_al", "closed_form_error", "its digits in closed form", "s--", "#56B4E9"),
        ("posterior", "error", "posterior", "D-", COLORS["posterior"]),
    ]
    for name, measure, label, style, color in lines:
        points = curve(read("main")["models"], read("learning")["models"], name, measure)
        if points:
            x, means, errors = zip(*points)
            more = dict(color=color, linewidth=0.9, capsize=1.5, markersize=3.5)
            axes.errorbar(x, means, errors, fmt=style, **more)
            near = len(points) // 2
            beside = dict(textcoords="offset points", color=color)
            axes.annotate(label, (x[near], means[near]), (2, 4), **beside)
    axes.set(xscale="log", yscale="log", xlabel="training pairs", ylabel="test error, %")
    ticks = matplotlib.ticker.FixedLocator([250, 500, 1000, 2000, 4000, 8000, 16000, 30000])
    for axis, locator in (
        (axes.xaxis, ticks),
        (axes.yaxis, matplotlib.ticker.LogLocator(subs=(1, 3))),
    ):
        axis.set_major_locator(locator)
        axis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        axis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set_ylim(0.3, 30)
    return figure


def variants():
    """The search: each variant's error minus that of its row, with the 95% interval."""
    entries = read("search")["models"]
    seconds = {name: good(entry, "seconds") for name, entry in entries.items()}
    labels = {x: f"{x} ({statistics.median(y):.1f} s)" for x, y in seconds.items() if y}
    figure, panels = plt.subplots(1, 2, figsize=(2 * WIDTH + 0.3, 2.5), layout="constrained")
    for axes, row in zip(panels, ("posterior", "posterior_2s")):
        found = differences({x: y for x, y in entries.items() if x.partition(",")[0] == row})
        for y, (middle, low, high) in enumerate(found.values()):
            style = dict(fmt="o", markersize=2.5, linewidth=0.8, color=COLORS[row])
            axes.errorbar(middle, y, xerr=[[middle - low], [high - middle]], **style)
        axes.axvline(0, color="#888888", linewidth=0.6)
        names = [labels[name].removeprefix(f"{row}, ") for name in found]
        axes.set_yticks(range(len(found)), names, fontsize=5)
        axes.invert_yaxis()
        axes.set_title(labels.get(row, row))
    figure.supxlabel("points of validation error more than the row above")
    return figure


def calibration():
    """How often a ≤ b where a model says so with probability P, less P; 95% intervals."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.95), layout="constrained")
    axes.axhline(0, color="#AAAAAA", linewidth=0.8)
    for n, name in enumerate(("siamese_al", "posterior")):
        rounds = good(read("main")["models"].get(name, {}), "calibration")
        points = [
            (p, share - p, share - low, high - share)
            for _, p, share, low, high in calibration_bins(rounds)
        ]
        if points:
            p, gap, below, above = zip(*points)
            label = f"{name}: ECE {100 * expected_calibration_error(rounds):.2f} %"
            style = dict(
                color=COLORS[name], fmt="oD"[n], markersize=2.5, linewidth=0.8, label=label
            )
            axes.errorbar(p, gap, (below, above), **style)
    axes.set(xlabel="P(a ≤ b), mean of a bin", ylabel="share − P", ylim=(-0.45, 0.45))
    style = dict(frameon=False, ncols=2, borderpad=0, handlelength=1)
    figure.legend(loc="outside upper center", **style)
    return figure


def wrong():
    """The test pairs that posterior gets wrong and is surest of, with their P(a ≤ b)."""
    rounds = read("main")["models"].get("posterior", {}).get("wrong", [])
    pairs = [(seed, *pair) for seed, found in enumerate(rounds) for pair in found or []]
    pairs.sort(key=lambda pair: -abs(pair[-1] - 0.5))
    figure, grid = plt.subplots(*SHOWN, figsize=(WIDTH, 0.82), layout="constrained")
    for axes, (seed, n, a, b, probability) in zip(grid.flat, pairs):
        images = generate_pair_sets(PAIRS, torch.Generator().manual_seed(seed))[3][n]
        axes.imshow(torch.cat(list(images), dim=1), cmap="gray_r")
        axes.axvline(13.5, color=COLORS["posterior"], linewidth=0.8)
        axes.set_title(f"{a} {'≤' if a <= b else '>'} {b}: {probability:.2f}", fontsize=7, pad=1.5)
    for axes in grid.flat:
        axes.axis("off")
    return figure


def pairs():
    """What the task is: the first three training pairs of round 0 with each answer."""
    inputs, targets, classes = generate_pair_sets(PAIRS, torch.Generator().manual_seed(0))[:3]
    figure, row = plt.subplots(1, 6, figsize=(WIDTH, 0.5), layout="constrained")
    chosen = [n for answer in (1, 0) for n in (targets == answer).nonzero()[:3]]
    for axes, n in zip(row, chosen):
        axes.imshow(torch.cat(list(inputs[n.item()]), dim=1), cmap="gray_r")
        axes.axvline(13.5, color=OTHER, linewidth=0.8)
        a, b = classes[n.item()].tolist()
        axes.set_title(f"{a} ≤ {b}: {'yes' if a <= b else 'no'}", fontsize=7, pad=1.5)
        axes.axis("off")
    return figure


FIGURES = epochs, planes, frontier, learning, variants, calibration, wrong, pairs


def sources():
    """A digest of what the figures are drawn from. Each carries it: a test sees which are stale."""
    names = "main", "grids", "learning", "search", "frontier"
    paths = (RESULTS / f"{name}.jsonl" for name in names)
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def draw(function, path, description=None):
    """Write the figure that `function` returns, in the format that the path's ending names."""
    content, kind = io.BytesIO(), path.suffix[1:]
    with plt.rc_context(SETTINGS):
        figure = function()
        metadata = {"Date": None, "Description": description} if kind == "svg" else None
        figure.savefig(content, format=kind, metadata=metadata, dpi=200)
        plt.close(figure)
    write(path, content.getvalue().replace(f"'{MEASURED}'".encode(), TYPEFACE.encode()))


def draw_all():
    FOLDER.mkdir(exist_ok=True)
    for function in FIGURES:
        draw(function, FOLDER / f"{function.__name__}.svg", sources())
