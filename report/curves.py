"""Draw a log of test.py by epoch: python -m report.curves FILE.jsonl [PICTURE] [--together]

A row for each model, or with --together one for all: loss on the left, training and test error on
the right; means over the rounds that are finished and did not diverge, ± one standard deviation.
"""

import argparse
from functools import partial
from itertools import cycle
from pathlib import Path

from report.files import fail, good, load

ENDINGS = ".svg", ".png", ".pdf"


def curves(entries, together=False):
    from report.figures import COLORS, OTHER, WIDTH, band, by_epoch, plt

    rows = 1 if together else len(entries)
    size = 2 * WIDTH, 2.4 if together else 1.6 * rows
    figure, grid = plt.subplots(rows, 2, figsize=size, layout="constrained", squeeze=False)
    others = cycle([OTHER, "#882255", "#332288", "#117733", "#999933", "#44AA99"])
    panels = cycle(grid) if together else grid
    for (left, right), (name, entry) in zip(panels, entries.items()):
        color = COLORS.get(name) or next(others)
        title = f"{name}, {len(good(entry, 'test_error'))} rounds"
        band(left, by_epoch(entry, "loss"), color, "-", title)
        band(right, 100 * by_epoch(entry, "train_error"), color, "--", "training")
        band(right, 100 * by_epoch(entry, "test_error_by_epoch"), color, "-", "test")
        if not together:
            left.set_title(title)
            right.set_title(name)
    for left, right in grid:
        left.set_ylabel("training loss")
        right.set_ylabel("error, %; dashed: training" if together else "error, %")
        if not together:
            right.legend(frameon=False)
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
    if together:
        handles = grid[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def main():
    parser = argparse.ArgumentParser("python -m report.curves", description=__doc__.split(":")[0])
    parser.error = fail
    parser.add_argument("file", type=Path, metavar="FILE.jsonl", help="log of test.py")
    help = f"ends in {', '.join(ENDINGS)} (FILE.svg)"
    parser.add_argument("picture", type=Path, nargs="?", metavar="PICTURE", help=help)
    parser.add_argument("--together", action="store_true", help="all models in one row")
    options = parser.parse_args()
    try:
        path = options.picture or options.file.with_suffix(".svg")
        if path.suffix not in ENDINGS:
            raise ValueError(f"{path} must end in {', '.join(ENDINGS)}")
        models, measure = load(options.file)["models"], "test_error_by_epoch"
        entries = {name: entry for name, entry in models.items() if good(entry, measure)}
        if not entries:
            raise ValueError(f"{options.file} has no finished round that did not diverge")
        from report.figures import draw  # here, as it needs matplotlib

        draw(partial(curves, entries, options.together), path)
    except ModuleNotFoundError as error:
        fail(f"{error}: install requirements-dev.txt")
    except (OSError, ValueError) as error:
        fail(error)
    print(path)


if __name__ == "__main__":
    main()
