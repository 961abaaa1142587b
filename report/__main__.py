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
from report import benchmark, experiments, figures, frontier, search, trained
from report.files import CORES, PAIRS, RESULTS, complete, fail, write
from report.numbers import numbers

FOLDER = Path(__file__).parent


def typeset(**options):
    """The PDF's bytes, or with format="png" those of its pages."""
    inputs = {"numbers": json.dumps(numbers())}
    source = FOLDER / "report.typ"
    return typst.compile(source, sys_inputs=inputs, ignore_system_fonts=True, **options)


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
    rounds, workers, replace = options.rounds, options.workers, options.replace
    try:
        test.lock(FOLDER)
    except BlockingIOError:
        fail("another one makes the report, wait for it")
    try:
        table = SimpleNamespace(models=[*test.EXPERIMENTS], epochs=None, pairs=PAIRS, seed=0)
        test.check_rows(table, "cpu", 1)  # names the row that is wrong
        for rows in (experiments.main, experiments.grids, experiments.floor, experiments.ablation):
            complete(rows.__name__, rows(), rounds, workers, replace=replace)
        rows, look = trained.trained(), trained.train_and_describe
        complete("trained", rows, rounds, workers, look, replace=replace)
        rows, trainings, seed = search.search(), search.trainings(rounds), search.FIRST_SEED
        complete("search", rows, trainings, workers, search.validate, seed, replace=replace)
        rows, trainings = frontier.frontier(), min(rounds, frontier.TRAININGS)
        complete("frontier", rows, trainings, 1, frontier.measure, seed, replace=replace)
        benchmark.complete_all(replace)
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
        write(FOLDER / "report.pdf", typeset())
        print(FOLDER / "report.pdf", flush=True)
    except OSError as error:
        fail(error)
    except Exception as error:  # whatever comes of a damaged measure, or of an edited figure
        fail(f"cannot show what {RESULTS} has ({error!r}): if a file is damaged, restore it")


if __name__ == "__main__":
    sys.stderr = sys.stderr or open(os.devnull, "w")  # one that is closed is None
    main()
