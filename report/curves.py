"""Draw a log of test.py by epoch: python -m report.curves FILE.jsonl [FILE.svg]

A row for each model: loss on the left, training and test error on the right; means over the rounds
that are finished and did not diverge, ± one standard deviation.
"""

import argparse
from functools import partial
from pathlib import Path

from report.figures import COLORS, OTHER, WIDTH, band, by_epoch, draw, plt
from report.files import fail, good, load


def curves(entries):
    size = 2 * WIDTH, 1.6 * len(entries)
    figure, grid = plt.subplots(len(entries), 2, figsize=size, layout="constrained", squeeze=False)
    for (left, right), (name, entry) in zip(grid, entries.items()):
        color = COLORS.get(name, OTHER)
        band(left, by_epoch(entry, "loss"), color)
        band(right, 100 * by_epoch(entry, "train_error"), color, "--", "training")
        band(right, 100 * by_epoch(entry, "test_error_by_epoch"), color, "-", "test")
        left.set(title=f"{name}, {len(good(entry, 'test_error'))} rounds", ylabel="training loss")
        right.set(title=name, ylabel="error, %")
        right.legend(frameon=False)
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def main():
    parser = argparse.ArgumentParser("python -m report.curves", description=__doc__.split(":")[0])
    parser.error = fail
    parser.add_argument("file", type=Path, metavar="FILE.jsonl", help="results of test.py")
    parser.add_argument("svg", type=Path, nargs="?", metavar="FILE.svg", help="(beside FILE.jsonl)")
    options = parser.parse_args()
    try:
        path = options.svg or options.file.with_suffix(".svg")
        if path.suffix != ".svg":
            raise ValueError(f"{path} must end in .svg")
        models, measure = load(options.file)["models"], "test_error_by_epoch"
        entries = {name: entry for name, entry in models.items() if good(entry, measure)}
        if not entries:
            raise ValueError(f"{options.file} has no finished round that did not diverge")
        draw(partial(curves, entries), path)
    except (OSError, ValueError) as error:
        fail(error)
    print(path)


if __name__ == "__main__":
    main()
