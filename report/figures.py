"""Draw the figures from the results files, as report/figures/*.svg."""

import hashlib
import statistics
from pathlib import Path

import matplotlib
import matplotlib.patheffects
import torch

import test
from data import generate_pair_sets, load_mnist
from report import experiments, search
from report.experiments import RESULTS, read
from report.trained import expected_calibration_error

matplotlib.use("svg")
from matplotlib import pyplot as plt

FOLDER = Path(__file__).parent / "figures"
COLORS = {  # one for each model, everywhere; colour-blind readers can tell them apart (Okabe and Ito, 2008)
    "sub_lenet5": "#E69F00",
    "sub_lenet5_ws": "#56B4E9",
    "sub_lenet5_ws_al": "#009E73",
    "baseline": "#888888",
    "baseline_al": "#000000",
    "siamese": "#CC79A7",
    "siamese_al": "#0072B2",
    "posterior": "#D55E00",
}
WIDTH = 3.4  # inches: a column of the report
SHOWN = 30  # wrong pairs
KINDS = {  # of variants in report.search, by the first word of their names: marker and label
    "chosen": ("D", "chosen"),
    "distorted": ("s", "chosen, but for the copies"),
    "net": ("^", "other nets and copies"),
}


def models():
    """Every round of every model, its mean, and what the reports say."""
    figure, axes = plt.subplots(figsize=(WIDTH, 1.75), layout="constrained")
    for y, (key, entry) in enumerate(read("main")["models"].items()):
        errors = [100 * error for error in entry["test_error"]]
        spread = [y - 0.25 + 0.5 * r / max(1, len(errors) - 1) for r in range(len(errors))]
        axes.plot(errors, spread, "o", color=COLORS[key], markersize=2, alpha=0.7, markeredgewidth=0)
        axes.plot(2 * [statistics.mean(errors)], [y - 0.4, y + 0.4], color=COLORS[key], linewidth=1.5)
        if key in test.REPORTED:
            axes.plot(test.REPORTED[key], y, "x", color="black", markersize=5, markeredgewidth=1, zorder=3)
    axes.set_yticks(range(len(COLORS)), COLORS)
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
    for axes, key in zip(panels, experiments.REPORT_1, strict=True):
        row = main[key]["hyperparameters"]
        constant = grids[experiments.cell(key, row["learning_rate"], row["batch_size"])]
        for entry, style in ((main[key], "-"), (constant, "--")):
            errors = torch.tensor(entry["test_error_by_epoch"], dtype=torch.double)
            mean, half = 100 - 100 * errors.mean(dim=0), 100 * errors.std(dim=0)
            x = range(1, len(mean) + 1)
            color = COLORS[key] if style == "-" else "#444444"
            axes.plot(x, mean, style, color=color, linewidth=1.1)
            axes.fill_between(x, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
        axes.set_title(key, fontsize=6.5)
        axes.set_xlabel("epoch")
    panels[0].set_ylabel("test accuracy, %")
    return figure


def planes():
    """Report 2's Figs. 2 to 5: t-SNE of the last layer of the trunk, coloured by digit."""
    figure, grid = plt.subplots(1, 4, figsize=(2 * WIDTH + 0.3, 1.85), layout="constrained")
    for axes, (key, entry) in zip(grid, list(read("trained")["models"].items())[:4], strict=True):
        x, y, digit = zip(*entry["plane"][0], strict=True)
        points = axes.scatter(x, y, c=digit, cmap=plt.get_cmap("viridis", 10), vmin=-0.5, vmax=9.5, s=1.6, linewidths=0)
        for n in range(10):
            at = [statistics.mean(v for v, d in zip(values, digit, strict=True) if d == n) for values in (x, y)]
            axes.text(*at, n, fontsize=7, weight="bold", ha="center", va="center", color="white").set_path_effects(
                [matplotlib.patheffects.withStroke(linewidth=1.5, foreground="black")]
            )
        axes.set(xticks=[], yticks=[])
        axes.set_title(key, fontsize=7.5)
    bar = figure.colorbar(points, ax=grid, ticks=range(10), pad=0.01, aspect=12)
    bar.set_label("digit")
    return figure


def error_by_time():
    """Error on validation pairs against seconds of training, for the variants of report.search."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.2), layout="constrained")
    for name, entry in read("search")["models"].items():
        errors = [100 * error for error in search.errors_of(entry)]
        x, y = statistics.mean(entry["seconds"]), statistics.mean(errors)
        half = statistics.stdev(errors) / len(errors) ** 0.5 if len(errors) > 1 else 0
        kind = name.split()[0]
        marker, label = KINDS.get(kind, ("o", "other settings"))
        color = COLORS["posterior"] if kind == "chosen" else "#888888" if kind not in KINDS else "#222222"
        new = label not in axes.get_legend_handles_labels()[1]
        axes.errorbar(x, y, half, fmt=marker, color=color, markersize=3.5, linewidth=0.8, label=label if new else None)
        if kind == "distorted":
            copies = name.split()[1]
            axes.annotate(f"{copies} copies", (x, y), (4, 2), textcoords="offset points", fontsize=6, color=color)
    axes.legend(frameon=False, fontsize=6, loc="upper right")
    axes.set(xlabel="seconds of a training on a busy core", ylabel="validation error, %", xlim=(0, None))
    return figure


def calibration():
    """How often a ≤ b where a model says so with probability P."""
    figure, axes = plt.subplots(figsize=(WIDTH * 0.62, WIDTH * 0.6), layout="constrained")
    axes.plot([0, 1], [0, 1], color="#AAAAAA", linewidth=0.8)
    for key, entry in read("trained")["models"].items():
        if key in ("siamese_al", "posterior"):
            bins = torch.tensor(entry["calibration"]).sum(dim=0).tolist()
            points = [(p / n, t / n) for n, p, t in zip(*bins, strict=True) if n >= 10]
            label = f"{key}\nECE {100 * expected_calibration_error(entry['calibration']):.2f} %"
            axes.plot(*zip(*points, strict=True), "o-", color=COLORS[key], markersize=2.5, linewidth=1, label=label)
    axes.set(xlabel="P(a ≤ b), mean of a bin", ylabel="share of pairs with a ≤ b", aspect="equal")
    axes.legend(frameon=False, fontsize=6, loc="upper left", borderpad=0, handlelength=1)
    return figure


def wrong():
    """The test pairs that posterior gets wrong and is surest of, with their P(a ≤ b)."""
    mnist, rounds = load_mnist(), read("trained")["models"]["posterior"]["wrong"]
    pairs = [(seed, *pair) for seed, found in enumerate(rounds) for pair in found]
    pairs.sort(key=lambda pair: -abs(pair[-1] - 0.5))
    figure, grid = plt.subplots(SHOWN // 6, 6, figsize=(WIDTH, 2), layout="constrained")
    for axes, (seed, n, a, b, probability) in zip(grid.flat, pairs, strict=False):
        images = generate_pair_sets(test.PAIRS, torch.Generator().manual_seed(seed), mnist)[3][n]
        axes.imshow(torch.cat(list(images), dim=1), cmap="gray_r")
        axes.axvline(13.5, color=COLORS["posterior"], linewidth=0.8)
        axes.set_title(f"{a} {'≤' if a <= b else '>'} {b}: {probability:.2f}", fontsize=5, pad=1.5)
    for axes in grid.flat:
        axes.axis("off")
    return figure


FIGURES = models, epochs, planes, error_by_time, calibration, wrong


def sources():
    """A digest of what the figures are drawn from. Each figure carries it, so that a test sees which are stale."""
    names = "main", "grids", "trained", "search"
    return hashlib.sha256(b"".join((RESULTS / f"{name}.json").read_bytes() for name in names)).hexdigest()


def draw():
    settings = {"svg.hashsalt": "0", "font.size": 6.5, "axes.linewidth": 0.5, "xtick.major.width": 0.5}
    settings |= {
        "ytick.major.width": 0.5,
        "xtick.minor.width": 0.3,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    FOLDER.mkdir(exist_ok=True)
    with plt.rc_context(settings):
        for function in FIGURES:
            figure = function()
            figure.savefig(FOLDER / f"{function.__name__}.svg", metadata={"Date": None, "Description": sources()})
            plt.close(figure)
