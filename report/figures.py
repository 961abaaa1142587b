"""Draw the figures from the results files, as report/figures/*.svg."""

import hashlib
import io
import statistics
from pathlib import Path

import matplotlib
import matplotlib.patheffects
import numpy as np
import torch

import test
from data import generate_pair_sets
from report.experiments import REPORT_1, at_constant_rate
from report.files import PAIRS, RESULTS, good, read, write
from report.frontier import ENSEMBLE, point
from report.search import differences
from report.trained import expected_calibration_error

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
WIDTH = 3.4  # inches: a column of the report
SHOWN = 30  # wrong pairs
COURSE = 2, 15  # seconds on one core and % of error, for some 70,000 parameters and 25 epochs
SETTINGS = {
    "svg.hashsalt": "0",
    "text.parse_math": False,  # of rows' names
    "font.size": 6.5,
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
    figure, panels = plt.subplots(1, 3, figsize=(WIDTH, 1.7), layout="constrained")
    main, grids = read("main")["models"], read("grids")["models"]
    for axes, name in zip(panels, REPORT_1):
        adaptive, constant = main.get(name, {}), at_constant_rate(name, main, grids)
        band(axes, 100 - 100 * by_epoch(adaptive, "test_error_by_epoch"), COLORS[name])
        band(axes, 100 - 100 * by_epoch(constant, "test_error_by_epoch"), "#444444", "--")
        axes.set_title(name, fontsize=6.5)
        axes.set_xlabel("epoch")
    panels[0].set_ylabel("test accuracy, %")
    return figure


def planes():
    """Report 2's Figs. 2 to 5: t-SNE of the last layer of the trunk, coloured by digit."""
    trained = read("trained")["models"]
    found = {name: plane for name, entry in trained.items() for plane in good(entry, "plane")}
    figure = plt.figure(figsize=(2 * WIDTH + 0.3, 1.85), layout="constrained")
    grid = figure.subplots(1, max(1, len(found)), squeeze=False)
    for axes, (name, plane) in zip(grid.flat, found.items()):
        x, y, digit = zip(*plane)
        colors = dict(c=digit, cmap=plt.get_cmap("viridis", 10), vmin=-0.5, vmax=9.5)
        points = axes.scatter(x, y, s=1.6, linewidths=0, **colors)
        for n in range(10):
            at = [statistics.mean(v for v, d in zip(values, digit) if d == n) for values in (x, y)]
            style = dict(fontsize=7, weight="bold", ha="center", va="center", color="white")
            stroke = matplotlib.patheffects.withStroke(linewidth=1.5, foreground="black")
            axes.text(*at, n, **style).set_path_effects([stroke])
        axes.set(xticks=[], yticks=[])
        axes.set_title(name, fontsize=7.5)
    if found:
        bar = figure.colorbar(points, ax=grid, ticks=range(10), pad=0.01, aspect=12)
        bar.set_label("digit")
    return figure


def frontier():
    """Error on validation pairs against seconds of one core, both on log scales."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.35), layout="constrained")
    points = {name: point(entry) for name, entry in read("frontier")["models"].items()}
    points = {name: found for name, found in points.items() if found}
    theirs = {*test.EXPERIMENTS} - {"posterior", "posterior_2s"}  # and the user's own
    style = dict(linewidth=0.8, capsize=1.5, markersize=4)
    for name in points:
        if name in theirs:
            color = COLORS.get(name, OTHER)
            axes.errorbar(*points[name], fmt="o", color=color, label=name, **style)
    color = COLORS["posterior"]
    ours = sorted(points[name] for name in points if name not in {*theirs, ENSEMBLE})
    if ours:
        label = "our net, other budgets"
        axes.errorbar(*zip(*ours), fmt=".-", color=color, label=label, **style)
    if ENSEMBLE in points:
        label = "four of our nets"
        axes.errorbar(*points[ENSEMBLE], fmt="*", color=color, label=label, **style)
    text = dict(textcoords="offset points", fontsize=6.5)
    for name in ("posterior_2s", "posterior"):
        if name in points:
            axes.plot(*points[name][:2], "D", color=COLORS[name], markersize=4.5, zorder=3)
            axes.annotate(name, points[name][:2], (2, 4), **text)
    axes.plot(*COURSE, "x", color="black", markersize=6, markeredgewidth=1.2)
    axes.annotate("the course: 15 %, 2 s", COURSE, (0, -6), ha="center", va="top", **text)
    axes.set(xscale="log", yscale="log", xlabel="seconds of one core for a round, tests included")
    axes.set_ylabel("error on validation pairs, %")
    for axis, ticks in (axes.xaxis, (0.5, 1, 2, 5, 10, 20, 50)), (axes.yaxis, (1, 2, 5, 10, 20)):
        axis.set_major_locator(matplotlib.ticker.FixedLocator(ticks))
        axis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        axis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    style = dict(fontsize=6, labelspacing=0.2, columnspacing=1, handletextpad=0.4, borderpad=0)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, **style)
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
        axes.set_title(labels.get(row, row), fontsize=7)
    figure.supxlabel("points of validation error more than the row above", fontsize=6.5)
    return figure


def calibration():
    """How often a ≤ b where a model says so with probability P."""
    figure, axes = plt.subplots(figsize=(WIDTH * 0.55, WIDTH * 0.5), layout="constrained")
    axes.plot([0, 1], [0, 1], color="#AAAAAA", linewidth=0.8)
    for name, entry in read("trained")["models"].items():
        rounds = good(entry, "calibration")
        if name in ("siamese_al", "posterior") and rounds:
            bins = torch.tensor(rounds).sum(dim=0).tolist()
            points = [(p / n, t / n) for n, p, t in zip(*bins) if n >= 10]
            label = f"{name}\nECE {100 * expected_calibration_error(rounds):.2f} %"
            style = dict(color=COLORS[name], markersize=2.5, linewidth=1, label=label)
            axes.plot(*zip(*points), "o-", **style)
    axes.set(xlabel="P(a ≤ b), mean of a bin", ylabel="share of pairs with a ≤ b", aspect="equal")
    axes.legend(frameon=False, fontsize=6, loc="upper left", borderpad=0, handlelength=1)
    return figure


def wrong():
    """The test pairs that posterior gets wrong and is surest of, with their P(a ≤ b)."""
    rounds = read("trained")["models"].get("posterior", {}).get("wrong", [])
    pairs = [(seed, *pair) for seed, found in enumerate(rounds) for pair in found or []]
    pairs.sort(key=lambda pair: -abs(pair[-1] - 0.5))
    figure, grid = plt.subplots(SHOWN // 6, 6, figsize=(WIDTH, 2), layout="constrained")
    for axes, (seed, n, a, b, probability) in zip(grid.flat, pairs):
        images = generate_pair_sets(PAIRS, torch.Generator().manual_seed(seed))[3][n]
        axes.imshow(torch.cat(list(images), dim=1), cmap="gray_r")
        axes.axvline(13.5, color=COLORS["posterior"], linewidth=0.8)
        axes.set_title(f"{a} {'≤' if a <= b else '>'} {b}: {probability:.2f}", fontsize=5, pad=1.5)
    for axes in grid.flat:
        axes.axis("off")
    return figure


FIGURES = epochs, planes, frontier, variants, calibration, wrong


def sources():
    """A digest of what the figures are drawn from. Each carries it: a test sees which are stale."""
    paths = (
        RESULTS / f"{name}.json" for name in ("main", "grids", "trained", "search", "frontier")
    )
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def draw(function, path, description=None):
    """Write the figure that `function` returns as SVG."""
    content = io.BytesIO()
    with plt.rc_context(SETTINGS):
        figure = function()
        metadata = {"Date": None, "Description": description}
        figure.savefig(content, format="svg", metadata=metadata)
        plt.close(figure)
    write(path, content.getvalue())


def draw_all():
    FOLDER.mkdir(exist_ok=True)
    for function in FIGURES:
        draw(function, FOLDER / f"{function.__name__}.svg", sources())
