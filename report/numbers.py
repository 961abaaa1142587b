"""Every number in the report, as text, from the results files: report.typ gets them at typesetting."""

import json
import statistics
from pathlib import Path

import test
from report import benchmark, gains, search
from report.experiments import BATCH_SIZES, RATES, REPORT_1, cell, read
from report.trained import PARTS, expected_calibration_error
from test import percent

REPORTED = json.loads((Path(__file__).parent / "reported.json").read_text())


def accuracy(errors):
    return percent([1 - error for error in errors])


def mean(errors):
    return f"{100 * statistics.mean(errors):.2f}"


def mean_gain(entry):
    """By how many points the best epoch's error is lower than the last's."""
    return 100 * (statistics.mean(entry["test_error"]) - statistics.mean(entry["best_test_error"]))


def interval(without, with_it):
    """A gain and its 95% interval, both in points."""
    found = gains.gain(without, with_it)
    return ["n/a", ""] if found is None else [f"{found[0]:.2f}", f"[{found[1]:.2f}, {found[2]:.2f}]"]


def results_table(main):
    reported = {key: f"{value:.2f}" for key, value in test.REPORTED.items()}
    for key, entry in main.items():
        errors = percent(entry["test_error"]), percent(entry["best_test_error"])
        seconds = f"{statistics.mean(entry['seconds']):.2f}"
        yield [key, f"{entry['parameters']:,}", reported.get(key, "–"), *errors, seconds]


def agrees(reported, errors):
    """Whether a reported accuracy, a mean of 15 rounds, is within two standard errors of the difference of ours."""
    spread = statistics.stdev(errors) if len(errors) > 1 else 0
    return abs(reported - 1 + statistics.mean(errors)) <= 2 * spread * (1 / 15 + 1 / len(errors)) ** 0.5


def grid_rows(grids):
    """Report 1's Figs. 1 and 2 beside ours: per model reported, last epoch, best epoch, and which of them agree."""
    cells = [(f"rate {rate:g}", f"{rate:g}", "rates", {"rate": rate, "batch_size": 100}) for rate in RATES]
    cells += [(f"batch {size}", str(size), "batch_sizes", {"batch_size": size}) for size in BATCH_SIZES]
    for label, name, part, setting in cells:
        row = []
        for reported, key in zip(REPORTED[part][name], REPORT_1, strict=True):
            own_rate = {"rate": test.read_row(key)["learning_rate"]}
            entry = grids[cell(key, **(own_rate | setting))]
            last, best = entry["test_error"], entry["best_test_error"]
            marks = "l" * agrees(reported, last) + "b" * agrees(reported, best)
            row.append([f"{100 * reported:.2f}", accuracy(last), f"{100 - 100 * statistics.mean(best):.2f}", marks])
        yield [label, row]


def adaptive_rows(main, grids):
    """Report 1's models without and with the adaptive rate, and what it gains."""
    for key in REPORT_1:
        on, row = main[key], main[key]["hyperparameters"]
        off = grids[cell(key, row["learning_rate"], row["batch_size"])]
        yield [key, percent(off["test_error"]), percent(on["test_error"]), *interval(off, on)]


def parts_rows(main, trained):
    """Report 2's Table II beside ours: its ± is over parts of one test set."""
    for key, (reported, deviation, parameters) in REPORTED["table_2"].items():
        errors = main[key]["test_error"]
        p = statistics.mean(errors)
        binomial = (p * (1 - p) / (test.PAIRS / PARTS)) ** 0.5
        parts = statistics.mean(trained[key]["deviation_of_parts"])
        row = [f"{parameters:,}", f"{main[key]['parameters']:,}"]
        row += [f"{100 * reported:.0f} ± {100 * deviation:.0f}", percent(errors)]
        yield [key, *row, f"{100 * parts:.2f}", f"{100 * binomial:.2f}"]


def order_rows(trained):
    """How far the digits lie in numeric order, in the layer and in its t-SNE plane: round 0, and over the rounds."""
    for key, entry in trained.items():
        row = []
        for values in (entry["order"], entry["order_in_plane"]):
            known = values[0] is not None
            row.append(f"{values[0]:.2f}" if known else "–")
            row.append(f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" if known else "–")
        yield [key, *row]


def two_by_two(models, rivals):
    for technique, without, with_it in rivals:
        names = [key.partition(",")[0] for key in (without, with_it)]
        yield [technique, *names, *interval(models[without], models[with_it])]


def ablation_rows(main, ablation):
    steps = {"siamese_al": main["siamese_al"], **ablation, "smoothing": main["posterior"]}
    before = None
    for name, entry in steps.items():
        seconds = f"{statistics.mean(entry['seconds']):.1f}"
        found = interval(before, entry) if before else ["", ""]
        yield [name, f"{entry['parameters']:,}", percent(entry["test_error"]), seconds, *found]
        before = entry


def closed_form_rows(trained):
    names = "test_error", "likeliest_error", "closed_form_error", "digit_error"
    for key in ("baseline_al", "siamese_al", "posterior"):
        ece = expected_calibration_error(trained[key]["calibration"])
        yield [key, *(percent(trained[key][name]) for name in names), f"{100 * ece:.2f}"]


def numbers():
    """A dictionary of texts and of tables' rows."""
    names = "main", "grids", "floor", "ablation", "trained", "search", "benchmark"
    files = {name: read(name) for name in names}
    main, grids, trained = (files[name]["models"] for name in ("main", "grids", "trained"))
    bench, environment = files["benchmark"], files["main"]["environment"]
    rows = list(grid_rows(grids))
    marks = [mark for _, row in rows for *_, mark in row]
    worst = max(range(len(main["sub_lenet5"]["test_error"])), key=main["sub_lenet5"]["test_error"].__getitem__)
    row = main["sub_lenet5"]["hyperparameters"]
    constant = grids[cell("sub_lenet5", row["learning_rate"], row["batch_size"])]
    (no_floor,) = files["floor"]["models"].values()
    variants = files["search"]["models"]
    wrong = trained["posterior"]["wrong"]
    return {
        "environment": {name: str(value) for name, value in environment.items()},
        "epochs": str(main["sub_lenet5"]["hyperparameters"]["epochs"]),
        "parameters": {key: f"{entry['parameters']:,}" for key, entry in main.items()},
        "results": list(results_table(main)),
        "grids": rows,
        "cells": len(marks),
        "disagree": marks.count(""),
        "optimism": f"{max(mean_gain(main[key]) for key in main):.2f}",
        "optimism_grid": f"{mean_gain(grids[cell('sub_lenet5', 0.01, 100)]):.2f}",
        "agree": {"any": sum(map(bool, marks)), **{m: sum(m in mark for mark in marks) for m in "lb"}},
        "twice": [f"{100 * REPORTED[part][name][0]:.2f}" for part, name in (("rates", "0.01"), ("batch_sizes", "100"))],
        "slip": f"{100 * (REPORTED['rates']['0.01'][1] - REPORTED['rates']['0.0001'][1]):.2f}",
        "al_parameters": f"{grids[cell('sub_lenet5_al', 0.01, 100)]['parameters']:,}",
        "adaptive": list(adaptive_rows(main, grids)),
        "worst": {"round": worst, "on": mean([main["sub_lenet5"]["test_error"][worst]]),
                  "off": mean([constant["test_error"][worst]])},
        "no_floor": percent(no_floor["test_error"]),
        "parts": list(parts_rows(main, trained)),
        "order": list(order_rows(trained)),
        "gains_1": list(two_by_two(grids, gains.REPORT_1)),
        "gains_2": list(two_by_two(main, gains.REPORT_2)),
        "gains_own": list(two_by_two(main, gains.OWN_SETTINGS)),
        "ablation": list(ablation_rows(main, files["ablation"]["models"])),
        "closed_form": list(closed_form_rows(trained)),
        "wrong": {"count": sum(map(len, wrong)), "pairs": f"{test.PAIRS * len(wrong):,}"},
        "validation": {name: percent(search.errors_of(entry)) for name, entry in variants.items()},
        "trainings": len(variants["chosen"]["error"]),
        "speed": list(benchmark.rows(bench)),
        "benchmark": {name: str(value) for name, value in bench["environment"].items()},
        "profile": {name: f"{value:.1f}" for name, value in bench["profile"].items()},
        "profile_sum": f"{sum(bench['profile'].values()):.1f}",
        "memory_sum": f"{sum(bench['memory']):.0f}",
        "first_round": f"{statistics.median(bench['first_round']):.1f}",
    }  # fmt: skip
