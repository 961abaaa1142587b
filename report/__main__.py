"""The report, from what is missing of its results to the PDF: python -m report [--rounds N] [--workers N]

It runs the rounds that the files in report/results lack, draws report/figures and typesets report/report.pdf. Stopped
and started again, it goes on where it was.
"""

import argparse
import json
import os
import signal
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
import typst

import test
from report import benchmark, experiments, figures, search, trained
from report.numbers import numbers

FOLDER = Path(__file__).parent


def typeset(**options):
    """The PDF's bytes, or with format="png" those of its pages."""
    inputs = {"numbers": json.dumps(numbers())}
    return typst.compile(FOLDER / "report.typ", sys_inputs=inputs, ignore_system_fonts=True, **options)


def fail(message):
    print(f"report: {message}", file=sys.stderr)
    sys.exit(2)


def stop(number, frame):
    print("report: stopped; what is finished is kept", file=sys.stderr)
    sys.exit(128 + number)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m report", description=__doc__.partition("\n")[0], allow_abbrev=False
    )
    parser.error = fail
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="trainings of each model (20)")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=int, default=cores, metavar="N", help="processes (one per core)")
    options = parser.parse_args()
    try:
        test.check("--rounds", options.rounds, (2, 10**4))  # a spread needs two
        test.check("--workers", options.workers, test.LIMITS["workers"])
    except ValueError as error:
        fail(error)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    torch.set_num_threads(1)  # so that workers can be forked
    try:
        for part in (experiments, trained, search):
            part.complete_all(options.rounds, options.workers)
        benchmark.complete_all()
    except BrokenProcessPool:
        sys.exit("report: a worker was killed, out of memory? What is finished is kept; try fewer --workers")
    except (OSError, ValueError) as error:
        fail(error)
    figures.draw()
    (FOLDER / "report.pdf").write_bytes(typeset())
    print(FOLDER / "report.pdf")


if __name__ == "__main__":
    main()
