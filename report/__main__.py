"""The report, from what its results lack to the PDF: python -m report

It trains the rounds that the logs in report/results lack, draws report/figures and typesets
report/report.pdf. Stopped and started again, it goes on where it was.
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
from report import benchmark, experiments, figures, frontier, learning, search, tables
from report.files import CORES, complete, fail, write
from report.numbers import numbers

FOLDER = Path(__file__).parent


def typeset(found, **options):
    """The PDF's bytes, or with format="png" those of its pages; `found` is what numbers() says."""
    inputs = {"numbers": json.dumps(found)}
    source = FOLDER / "report.typ"
    return typst.compile(source, sys_inputs=inputs, ignore_system_fonts=True, **options)


def complete_all(rounds, workers):
    """Train what the logs lack."""
    for rows, run, most in experiments.FILES:
        complete(rows.__name__, rows(), min(rounds, most), run, workers)
    for pairs, rows, trainings in learning.by_pairs(rounds):
        complete("learning", rows, trainings, learning.measure, workers, pairs=pairs)
    seed, rows, trainings = search.FIRST_SEED, search.search(), search.trainings(rounds)
    complete("search", rows, trainings, search.validate, workers, seed)
    trainings = min(rounds, frontier.TRAININGS)
    complete("frontier", frontier.frontier(), trainings, frontier.measure, 1, seed)
    benchmark.complete_all()


def main():
    parser = argparse.ArgumentParser(
        prog="python -m report", description=__doc__.partition(":")[0], allow_abbrev=False
    )
    parser.error, add, several = fail, parser.add_argument, partial(test.whole, low=2)
    add("--rounds", type=several, default=20, metavar="N", help="trainings of each model (20)")
    add("--workers", type=test.whole, default=CORES, metavar="N", help="processes (one per core)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # so that workers can be forked
    test.on_signals(test.stop)
    try:
        load_mnist()  # here, as forked workers then have it
        complete_all(options.rounds, options.workers)
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
