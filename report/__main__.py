"""The report, from what its results lack to the PDF: python -m report [LOG ...]

It trains the rounds that the logs in report/results lack, draws report/figures and typesets
report/report.pdf. Stopped and started again, it goes on where it was. With names of logs it trains
what these lack, and prints their tables; with --results FOLDER they are trained again there.
"""

import argparse
import json
import signal
from concurrent.futures import BrokenExecutor
from functools import partial
from pathlib import Path

import torch
import typst

import test
from data import load_mnist
from report import benchmark, experiments, figures, frontier, learning, search, show, tables
from report.files import CORES, RESULTS, complete, fail, write
from report.numbers import numbers

FOLDER = Path(__file__).parent


def typeset(found, **options):
    """The PDF's bytes, or with format="png" those of its pages; `found` is what numbers() says."""
    inputs = {"numbers": json.dumps(found)}
    source = FOLDER / "report.typ"
    return typst.compile(source, sys_inputs=inputs, ignore_system_fonts=True, **options)


NAMES = [rows.__name__ for rows, *_ in experiments.FILES]
LOGS = *NAMES, "learning", "search", "frontier", "benchmark"


def complete_all(rounds, workers, logs=LOGS, folder=RESULTS):
    """Train what the logs of these names lack."""
    add = partial(complete, folder=folder)
    for rows, run, most in experiments.FILES:
        if rows.__name__ in logs:
            add(rows.__name__, rows(), min(rounds, most), run, workers)
    if "learning" in logs:
        for pairs, rows, trainings in learning.by_pairs(rounds):
            add("learning", rows, trainings, learning.measure, workers, pairs=pairs)
    seed = search.FIRST_SEED
    if "search" in logs:
        add("search", search.search(), search.trainings(rounds), search.validate, workers, seed)
    if "frontier" in logs:
        trainings = min(rounds, frontier.TRAININGS)
        add("frontier", frontier.frontier(), trainings, frontier.measure, 1, seed)
    if "benchmark" in logs:
        benchmark.complete_all(folder)


def several(text):
    """A number of rounds that has a standard deviation."""
    if test.whole(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 2 up")
    return int(text)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m report", description=__doc__.partition(":")[0], allow_abbrev=False
    )
    parser.error, add = fail, parser.add_argument
    add("logs", nargs="*", metavar="LOG", help=f"only these, no report: {', '.join(LOGS)}")
    add("--results", type=Path, default=RESULTS, metavar="FOLDER", help="(report/results)")
    add("--rounds", type=several, default=20, metavar="N", help="trainings of each model (20)")
    add("--workers", type=test.whole, default=CORES, metavar="N", help="processes (one per core)")
    options = parser.parse_args()
    logs, folder = options.logs or LOGS, options.results
    if unknown := set(logs) - set(LOGS):
        fail(f"there is no log {', '.join(sorted(unknown))}, but {', '.join(LOGS)}")
    if folder != RESULTS and not options.logs:
        fail("--results is for logs that are named, as the report is made of report/results")
    torch.set_num_threads(1)  # so that workers can be forked
    test.on_signals(test.stop)
    try:
        load_mnist()  # here, as forked workers then have it
        complete_all(options.rounds, options.workers, logs, folder)
        if options.logs:
            for log in logs:
                print(*show.tables(folder / f"{log}.jsonl"), sep="\n")
            return
        figures.draw_all()
        found = numbers()
        write(tables.PATH, tables.text(found))
        write(FOLDER / "report.pdf", typeset(found))
        print(FOLDER / "report.pdf")
    except (BrokenExecutor, OSError, RuntimeError, ValueError) as error:
        fail(error)
    finally:
        test.on_signals(signal.default_int_handler)


if __name__ == "__main__":
    main()
