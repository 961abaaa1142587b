"""Draw the figures from the results files, as report/figures/*.svg."""

import hashlib
import io
import statistics
from pathlib import Path

import matplotlib
import matplotlib.patheffects
import numpy as np
import torch

from data import generate_pair_sets
from report import search
from report.experiments import REPORT_1, at_constant_rate
from report.files import PAIRS, RESULTS, good, read, write
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
}
OTHER = "#882255"  # for a model that is not among them
WIDTH = 3.4  # inches: a column of the report
SHOWN = 30  # wrong pairs
KINDS = {  # of variants in report.search, by the first word of their names: marker and label
    "chosen": ("D", "chosen"),
    "copies": ("s", "chosen, but for the copies"),
    "net": ("^", "other nets and copies"),
}
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


def models():
    """Every round of every model, its mean, and what the reports say."""
    main = read("main")["models"]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.35 + 0.175 * len(main)), layout="constrained")
    for y, (name, entry) in enumerate(main.items()):
        errors = [100 * error for error in good(entry, "test_error")]
        spread = [y - 0.25 + 0.5 * r / max(1, len(errors) - 1) for r in range(len(errors))]
        color = COLORS.get(name, OTHER)
        axes.plot(errors, spread, "o", color=color, markersize=2, alpha=0.7, markeredgewidth=0)
        if errors:
            mean = 2 * [statistics.mean(errors)]
            axes.plot(mean, [y - 0.4, y + 0.4], color=color, linewidth=1.5)
        if entry["reported"] is not None:
            style = dict(color="black", markersize=5, markeredgewidth=1, zorder=3)
            axes.plot(entry["reported"], y, "x", **style)
    axes.set_yticks(range(len(main)), main)
    axes.invert_yaxis()
    axes.set_xscale("log")
    ticks = 0.5, 1, 2, 5, 10, 20, 30
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes.set_xlabel("test error, % (log scale); bar: mean; ×: reported")
    return figure


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


def error_by_time():
    """Error on validation pairs against seconds of training, for the variants of report.search."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.2), layout="constrained")
    for name, entry in read("search")["models"].items():
        errors = [100 * error for error in search.errors_of(entry)]
        if not errors:
            continue
        x, y = statistics.mean(good(entry, "seconds")), statistics.mean(errors)
        half = statistics.stdev(errors) / len(errors) ** 0.5 if len(errors) > 1 else 0
        kind, second, *_ = *name.split(), ""
        marker, label = KINDS.get(kind, ("o", "other settings"))
        color = {"chosen": COLORS["posterior"], "copies": "#222222", "net": "#222222"}
        style = dict(fmt=marker, color=color.get(kind, "#888888"), markersize=3.5, linewidth=0.8)
        known = axes.get_legend_handles_labels()[1]
        axes.errorbar(x, y, half, label=None if label in known else label, **style)
        if kind == "copies":
            style = dict(textcoords="offset points", fontsize=6, color="#222222")
            axes.annotate(f"{second} copies", (x, y), (4, 2), **style)
    axes.legend(frameon=False, fontsize=6, loc="upper right")
    labels = dict(xlabel="seconds of a training on a busy core", ylabel="validation error, %")
    axes.set(xlim=(0, None), **labels)
    return figure


def calibration():
    """How often a ≤ b where a model says so with probability P."""
    figure, axes = plt.subplots(figsize=(WIDTH * 0.62, WIDTH * 0.6), layout="constrained")
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


FIGURES = models, epochs, planes, error_by_time, calibration, wrong


def sources():
    """A digest of what the figures are drawn from. Each carries it: a test sees which are stale."""
    paths = (RESULTS / f"{name}.json" for name in ("main", "grids", "trained", "search"))
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
