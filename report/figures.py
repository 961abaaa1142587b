"""Draw the figures from the results files: python -m report.figures

report/figures/search.svg       error on validation pairs against seconds of training, for the variants of report.search
report/figures/calibration.svg  how often a ≤ b where a model says so with probability P
report/figures/wrong.svg        the test pairs that posterior gets wrong, with their P(a ≤ b)
"""

import json
import statistics
from pathlib import Path

import matplotlib
import torch

from data import generate_pair_sets, load_mnist
from report.closed_form import expected_calibration_error
from test import MODELS, PAIRS

FOLDER = Path(__file__).parent
COLORS = {"siamese_al": "#0072B2", "posterior": "#D55E00"}  # told apart by colour-blind readers, too
SHOWN = 40  # wrong pairs


def read(name):
    return json.loads((FOLDER / "results" / f"{name}.json").read_text())


def search(plt):
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    sharpness = str(MODELS["posterior"]().head.sharpness)
    for name, entry in read("search").items():
        trials = list(entry["trials"].values())
        errors = [100 * trial["error"][sharpness] for trial in trials]
        x, y = statistics.mean(trial["seconds"] for trial in trials), statistics.mean(errors)
        half = statistics.stdev(errors) / len(errors) ** 0.5
        color = COLORS["posterior"] if name == "chosen" else "#555555"
        axes.errorbar(x, y, half, fmt="o", color=color, markersize=4, linewidth=1)
        if name.startswith(("chosen", "distorted", "net")):  # what costs or saves time
            label, below = name.removeprefix("net "), name == "chosen"
            axes.annotate(label, (x, y), (4, -9 if below else 3), textcoords="offset points", fontsize=6.5, color=color)
    axes.set(xlabel="seconds of a training, one of two busy cores", ylabel="error on validation pairs, %")
    axes.set_yscale("log")
    axes.set_yticks([0.7, 0.8, 0.9, 1.0, 1.2, 1.5], ["0.7", "0.8", "0.9", "1.0", "1.2", "1.5"])
    axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes.set_xlim(0, 32)
    return figure


def calibration(plt):
    figure, axes = plt.subplots(figsize=(4.2, 3.8), layout="constrained")
    axes.plot([0, 1], [0, 1], color="#AAAAAA", linewidth=0.8)
    for key, rounds in read("closed_form").items():
        if key in COLORS:
            bins = torch.tensor([r["calibration"]["own"] for r in rounds.values()]).sum(dim=0).tolist()
            points = [(p / n, t / n) for n, p, t in zip(*bins, strict=True) if n >= 10]
            label = f"{key}, ECE {100 * expected_calibration_error(bins):.2f} %"
            axes.plot(*zip(*points, strict=True), "o-", color=COLORS[key], markersize=4, linewidth=1, label=label)
    axes.set(xlabel="P(a ≤ b), mean of a bin", ylabel="share of pairs with a ≤ b", aspect="equal")
    axes.legend(frameon=False, fontsize=8)
    return figure


def wrong(plt):
    mnist, rounds = load_mnist(), read("closed_form")["posterior"]
    wrong = [(int(seed), *pair) for seed, r in rounds.items() for pair in r["wrong"]]
    wrong.sort(key=lambda pair: -abs(pair[3] - 0.5))  # the most certain first
    figure, grid = plt.subplots(5, SHOWN // 5, figsize=(9, 5), layout="constrained")
    for axes, (seed, n, (a, b), probability) in zip(grid.flat, wrong, strict=False):
        pairs = generate_pair_sets(PAIRS, torch.Generator().manual_seed(seed), mnist)[3]
        axes.imshow(torch.cat(list(pairs[n]), dim=1), cmap="gray_r")
        axes.axvline(13.5, color=COLORS["posterior"], linewidth=0.8)
        axes.set_title(f"{a} {'≤' if a <= b else '>'} {b}, P(≤) = {probability:.2f}", fontsize=7)
    for axes in grid.flat:
        axes.axis("off")
    return figure


def main():
    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "0", "font.size": 9}  # the same file every time
    from matplotlib import pyplot as plt

    (FOLDER / "figures").mkdir(exist_ok=True)
    for draw in (search, calibration, wrong):
        path = FOLDER / "figures" / f"{draw.__name__}.svg"
        draw(plt).savefig(path, metadata={"Date": None})
        print(path)


if __name__ == "__main__":
    main()
