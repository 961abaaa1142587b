"""Every number in the report, as text, from the results files, for report.typ to typeset."""

import json
import math
import statistics
from pathlib import Path

from report import benchmark, gains
from report.experiments import BATCH_SIZES, RATES, REPORT_1, at_constant_rate, cell, settings
from report.files import PAIRS, good, read
from report.frontier import point
from report.search import differences
from report.trained import PARTS, expected_calibration_error
from test import percent

REPORTED = json.loads((Path(__file__).parent / "reported.json").read_text())


def accuracy(errors):
    return percent([1 - error for error in errors])


def mean(values, digits=2, factor=1):
    return f"{factor * statistics.mean(values):.{digits}f}" if values else "n/a"


def median(seconds):
    return f"{statistics.median(seconds):.1f}" if seconds else "n/a"


def count(entry):
    return f"{entry['parameters']:,}" if entry else "n/a"


def mean_gain(entry):
    """By how many points the best epoch's error is lower than the last's."""
    last, best = good(entry, "test_error"), good(entry, "best_test_error")
    return 100 * (statistics.mean(last) - statistics.mean(best)) if last and best else math.nan


def interval(without, with_it):
    """A gain and its 95% interval, both in points."""
    if found := gains.gain(without, with_it):
        return [f"{found[0]:.2f}", f"[{found[1]:.2f}, {found[2]:.2f}]"]
    return ["n/a", ""]


def results_table(main):
    for name, entry in main.items():
        reported = "–" if entry["reported"] is None else f"{entry['reported']:.2f}"
        errors = (percent(good(entry, measure)) for measure in ("test_error", "best_test_error"))
        yield [name, count(entry), reported, *errors, mean(good(entry, "seconds"))]


def agrees(reported, errors):
    """Whether a reported accuracy, a mean of 15 rounds, agrees with the mean of our errors.

    It does if they are within two standard errors of their difference.
    """
    if not errors:
        return False
    spread = statistics.stdev(errors) if len(errors) > 1 else 0
    error = spread * (1 / 15 + 1 / len(errors)) ** 0.5
    return abs(reported - 1 + statistics.mean(errors)) <= 2 * error


def grid_rows(main, grids):
    """Report 1's Figs. 1 and 2 beside ours: per model reported, last and best epoch, agreement."""
    cells = [(f"rate {rate:g}", "rates", f"{rate:g}", rate, 100) for rate in RATES]
    cells += [(f"batch {size}", "batch_sizes", str(size), None, size) for size in BATCH_SIZES]
    for label, part, setting, rate, size in cells:
        row = []
        for reported, name in zip(REPORTED[part][setting], REPORT_1):
            rate_here = rate or settings(main, name)["learning_rate"]
            entry = grids.get(cell(name, rate_here, size), {})
            last, best = good(entry, "test_error"), good(entry, "best_test_error")
            marks = "l" * agrees(reported, last) + "b" * agrees(reported, best)
            best = f"{100 - 100 * statistics.mean(best):.2f}" if best else "n/a"
            row.append([f"{100 * reported:.2f}", accuracy(last), best, marks])
        yield [label, row]


def adaptive_rows(main, grids):
    """Report 1's models without and with the adaptive rate, and what it gains."""
    for name in REPORT_1:
        on, off = main.get(name, {}), at_constant_rate(name, main, grids)
        errors = (percent(good(entry, "test_error")) for entry in (off, on))
        yield [name, *errors, *interval(off, on)]


def worst_round(main, grids):
    """The round of sub_lenet5 that ends worst, and how it ends without the adaptive rate."""
    on = main.get("sub_lenet5", {}).get("test_error", [])
    off = at_constant_rate("sub_lenet5", main, grids).get("test_error", [])
    known = [pair for pair in zip(on, off, range(len(on))) if None not in pair]
    if not known:
        return dict.fromkeys(("round", "on", "off"), "n/a")
    on, off, r = max(known, key=lambda pair: pair[0])
    return {"round": r, "on": f"{100 * on:.2f}", "off": f"{100 * off:.2f}"}


def parts_rows(main, trained):
    """Report 2's Table II beside ours: its ± is over parts of one test set."""
    for name, (reported, deviation, parameters) in REPORTED["table_2"].items():
        entry = main.get(name, {})
        errors = good(entry, "test_error")
        p = [statistics.mean(errors)] if errors else []
        binomial = [(x * (1 - x) / (PAIRS / PARTS)) ** 0.5 for x in p]
        parts = good(trained.get(name, {}), "deviation_of_parts")
        row = [f"{parameters:,}", count(entry), f"{100 * reported:.0f} ± {100 * deviation:.0f}"]
        yield [name, *row, percent(errors), mean(parts, factor=100), mean(binomial, factor=100)]


def order_rows(trained):
    """How far the digits lie in numeric order, in the layer and in t-SNE: round 0, all rounds."""
    for name, entry in trained.items():
        row = []
        for values in (good(entry, "order"), good(entry, "order_in_plane")):
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            row += [f"{values[0]:.2f}", mean(values) + spread] if values else ["–", "–"]
        yield [name, *row]


def two_by_two(models, rivals):
    for technique, *pair in rivals:
        names = [name.partition(",")[0] for name in pair]
        yield [technique, *names, *interval(*(models.get(name, {}) for name in pair))]


def ablation_rows(main, ablation):
    first, last = main.get("siamese_al", {}), main.get("posterior", {})
    before = None
    for name, entry in {"siamese_al": first, **ablation, "smoothing": last}.items():
        row = [count(entry), percent(good(entry, "test_error")), mean(good(entry, "seconds"), 1)]
        yield [name, *row, *(["", ""] if before is None else interval(before, entry))]
        before = entry


def closed_form_rows(trained):
    measures = "test_error", "likeliest_error", "closed_form_error", "digit_error"
    for name in ("baseline_al", "siamese_al", "posterior"):
        entry = trained.get(name, {})
        rounds = good(entry, "calibration")
        error = mean([expected_calibration_error(rounds)] if rounds else [], factor=100)
        yield [name, *(percent(good(entry, measure)) for measure in measures), error]


def frontier_points(entries):
    """Seconds, error in percent and its standard error of each row."""
    points = {name: point(entry) for name, entry in entries.items()}
    return {name: [f"{x:.2f}" for x in found] for name, found in points.items() if found}


def quarter(entries):
    """The seconds of posterior_2s as a share of siamese_al's in the same run."""
    ours, theirs = (point(entries.get(name, {})) for name in ("posterior_2s", "siamese_al"))
    return f"{ours[0] / theirs[0]:.2f}" if ours and theirs else "n/a"


def sharpness_errors(entry):
    """Validation error by what the scores are multiplied with."""
    errors = good(entry, "error")
    return {s: mean([x[s] for x in errors], factor=100) for s in errors[0]} if errors else {}


def profile_rows(rounds):
    """What a round consists of: the parts' shares in percent."""
    means = {what: statistics.mean(found[what] for found in rounds) for what in [*rounds, {}][0]}
    for what, seconds in sorted(means.items(), key=lambda item: -item[1]):
        yield [what, f"{100 * seconds / sum(means.values()):.0f}"]


def numbers():
    """A dictionary of texts and of tables' rows."""
    names = "main", "grids", "floor", "ablation", "trained", "search", "frontier", "benchmark"
    files = {name: read(name) for name in names}
    main, grids, floor, ablation, trained, variants, budgets, _ = (
        x["models"] for x in files.values()
    )
    bench, environment = files["benchmark"], files["main"]["environment"]
    rows = list(grid_rows(main, grids))
    marks = [mark for _, row in rows for *_, mark in row]
    rates, sizes = REPORTED["rates"], REPORTED["batch_sizes"]
    wrong = good(trained.get("posterior", {}), "wrong")
    paired = differences(variants)
    drawn = *REPORT_1, *REPORTED["table_2"], "posterior"
    optimism = [mean_gain(entry) for entry in main.values() if good(entry, "test_error")]
    return {
        "environment": {name: str(value) for name, value in environment.items()},
        "epochs": str(settings(main, "sub_lenet5")["epochs"]),
        "parameters": {name: count(main.get(name, {})) for name in drawn},
        "results": list(results_table(main)),
        "posterior": percent(good(main.get("posterior", {}), "test_error")),
        "grids": rows,
        "cells": len(marks),
        "disagree": marks.count(""),
        "optimism": f"{max(optimism, default=math.nan):.2f}",
        "optimism_grid": f"{mean_gain(grids.get(cell('sub_lenet5', 0.01, 100), {})):.2f}",
        "agree": {
            "any": sum(map(bool, marks)),
            **{letter: sum(letter in mark for mark in marks) for letter in "lb"},
        },
        "twice": [f"{100 * accuracies[0]:.2f}" for accuracies in (rates["0.01"], sizes["100"])],
        "slip": f"{100 * (rates['0.01'][1] - rates['0.0001'][1]):.2f}",
        "al_parameters": count(grids.get(cell("sub_lenet5_al", 0.01, 100))),
        "adaptive": list(adaptive_rows(main, grids)),
        "worst": worst_round(main, grids),
        "no_floor": percent(good(floor.get("sub_lenet5_ws, no floor", {}), "test_error")),
        "parts": list(parts_rows(main, trained)),
        "order": list(order_rows(trained)),
        "gains_1": list(two_by_two(grids, gains.REPORT_1)),
        "gains_2": list(two_by_two(main, gains.REPORT_2)),
        "gains_own": list(two_by_two(main, gains.OWN_SETTINGS)),
        "ablation": list(ablation_rows(main, ablation)),
        "closed_form": list(closed_form_rows(trained)),
        "wrong": {"count": sum(map(len, wrong)), "pairs": f"{PAIRS * len(wrong):,}"},
        "first_version": REPORTED["first_version"]["posterior"],
        "posterior_2s": percent(good(main.get("posterior_2s", {}), "test_error")),
        "paired": {
            name: [f"{x:.2f}".replace("-", "−") for x in found] for name, found in paired.items()
        },
        "better": len([name for name, (_, _, high) in paired.items() if high < 0]),
        "validation": {x: percent(good(y, "validation_error")) for x, y in variants.items()},
        "trainings": {x: str(len(good(y, "validation_error"))) for x, y in variants.items()},
        "variant_seconds": {x: median(good(y, "seconds")) for x, y in variants.items()},
        "variant_parameters": {name: count(entry) for name, entry in variants.items()},
        "sharpness": sharpness_errors(variants.get("posterior", {})),
        "frontier": frontier_points(budgets),
        "quarter": quarter(budgets),
        "budget_trainings": str(files["frontier"]["environment"]["rounds"]),
        "profile_round": list(profile_rows(bench.get("round", []))),
        "speed": list(benchmark.rows(bench)),
        "benchmark": {
            "epochs": str(benchmark.EPOCHS),
            "cores": str(bench["environment"]["workers"]),
            "repeats": str(bench["environment"]["rounds"]),
        },
        "profile_step": {name: f"{value:.1f}" for name, value in bench["profile"].items()},
        "profile_sum": f"{sum(bench['profile'].values()):.1f}",
        "memory_sum": f"{sum(bench['memory']):.0f}",
        "first_round": f"{statistics.median(bench['first_round']):.1f}",
    }
