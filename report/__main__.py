"""The report, from what its results lack to the PDF: python -m report

It runs the rounds that the files in report/results lack, draws report/figures and typesets
report/report.pdf. Stopped and started again, it goes on where it was.
"""

import argparse
import json
import os
import sys
from concurrent.futures import BrokenExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
import typst

import test
from report import benchmark, experiments, figures, frontier, learning, search, tables
from report.files import CORES, PAIRS, RESULTS, complete, fail, write
from report.numbers import numbers

FOLDER = Path(__file__).parent


def typeset(found, **options):
    """The PDF's bytes, or with format="png" those of its pages; `found` is what numbers() says."""
    inputs = {"numbers": json.dumps(found)}
    source = FOLDER / "report.typ"
    return typst.compile(source, sys_inputs=inputs, ignore_system_fonts=True, **options)


def plan(rounds, workers):
    """The results files: what files.complete takes for each but benchmark.json."""
    for rows, function, most in experiments.FILES:
        yield rows.__name__, rows(), min(rounds, most), workers, function
    rows, trainings = learning.learning(), learning.trainings(rounds)
    yield "learning", rows, trainings, workers, learning.measure
    seed, rows, trainings = search.FIRST_SEED, search.search(), search.trainings(rounds)
    yield "search", rows, trainings, workers, search.validate, seed
    trainings = min(rounds, frontier.TRAININGS)
    yield "frontier", frontier.frontier(), trainings, 1, frontier.measure, seed


def main():
    parser = argparse.ArgumentParser(
        prog="python -m report", description=__doc__.partition(":")[0], allow_abbrev=False
    )
    parser.error, add, several = fail, parser.add_argument, partial(test.whole, low=2)
    add("--rounds", type=several, default=20, metavar="N", help="trainings of each model (20)")
    add("--workers", type=test.whole, default=CORES, metavar="N", help="processes (one per core)")
    add("--replace", action="store_true", help="run again what has other settings in a file")
    options = parser.parse_args()
    test.on_signals(test.stop, test.stop)
    torch.set_num_threads(1)  # so that workers can be forked
    try:
        test.lock(FOLDER)
    except BlockingIOError:
        fail("another one makes the report, wait for it")
    try:
        table = SimpleNamespace(models=[*test.EXPERIMENTS], epochs=None, pairs=PAIRS, seed=0)
        test.check_rows(table, "cpu", 1)  # names the row that is wrong
        for name, *arguments in plan(options.rounds, options.workers):
            complete(name, *arguments, replace=options.replace)
        benchmark.complete_all(options.replace)
    except BrokenExecutor as error:
        test.say(f"report: {error}")
        sys.exit(1)
    except SystemExit:
        test.say("report: stopped; what is finished is kept")
        raise
    except (OSError, RuntimeError, ValueError) as error:
        fail(error)
    try:
        figures.draw_all()
        found = numbers()
        write(tables.PATH, tables.text(found))
        write(FOLDER / "report.pdf", typeset(found))
        print(FOLDER / "report.pdf", flush=True)
    except OSError as error:
        fail(error)
    except Exception as error:  # whatever comes of a damaged measure, or of an edited figure
        fail(f"cannot show what {RESULTS} has ({error!r}): if a file is damaged, restore it")


if __name__ == "__main__":
    sys.stderr = sys.stderr or open(os.devnull, "w")  # one that is closed is None
    main()
