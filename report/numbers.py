"""Every number in the report, as text, from the results files, for report.typ to typeset."""

import json
import math
import statistics
from collections import Counter
from pathlib import Path

import torch
from scipy.stats import t

import test
from report import benchmark, gains, learning, nets
from report.experiments import (
    BATCH_SIZES,
    CELLS,
    RATES,
    REPORT_1,
    REPORT_2,
    at_constant_rate,
    cell,
    settings,
)
from report.files import PAIRS, good, read
from report.frontier import point
from report.measures import PARTS, calibration_bins, expected_calibration_error
from report.search import differences

REPORTED = json.loads((Path(__file__).parent / "reported.json").read_text())
ROUNDS = 15  # of report 1's grids
FILES = (
    *("main", "grids", "adaptive", "protocol", "batches"),
    *("trunks", "techniques", "heads", "ablation"),  # with the same measures as those before
    *("learning", "search", "frontier", "benchmark"),
)


def percent(errors):
    return test.percent(errors) if errors else "n/a"


def signed(value, digits=2):
    """A number with its sign, a true minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def plain(value, digits=2):
    return f"{value:.{digits}f}".replace("-", "−")


def between(low, high):
    return f"[{plain(low)}, {plain(high)}]"


def mean(values, digits=2, factor=1):
    return f"{factor * statistics.mean(values):.{digits}f}" if values else "n/a"


def spread(values, digits=2):
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}" if values else "–"


def median(seconds):
    return f"{statistics.median(seconds):.1f}" if seconds else "n/a"


def interval_of(values):
    """The 95% interval of a mean by Student's t, in percent."""
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return [100 * (statistics.mean(values) - half), 100 * (statistics.mean(values) + half)]


def p_text(p):
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(entry):
    return f"{entry['parameters']:,}" if entry else "n/a"


def summary(entry):
    """Of a row's rounds: errors of the last and the best epoch and on training pairs, seconds."""
    last, best, fit = (good(entry, x) for x in ("test_error", "best_test_error", "training_error"))
    return {
        "parameters": count(entry),
        "rounds": str(len(last)),
        "last": percent(last),
        "best": percent(best),
        "training": percent(fit) if fit else "–",
        "seconds": mean(good(entry, "seconds")),
    }


# Report 1's grids


def difference(reported, errors):
    """Ours less the reported mean accuracy, in points, and half its 95% interval.

    The reported one is of 15 rounds, whose deviation we take to be ours.
    """
    if len(errors) < 2:
        return None
    freedom, error = len(errors) - 1, statistics.stdev(errors)
    half = float(t.ppf(0.975, freedom)) * error * (1 / ROUNDS + 1 / len(errors)) ** 0.5
    return 100 * (1 - statistics.mean(errors) - reported), 100 * half


def reported_cells(main):
    """Report 1's grids: (label, model, name of the cell, reported accuracy)."""
    lines = [(f"rate {rate:g}", "rates", f"{rate:g}", rate, 100) for rate in RATES]
    lines += [(f"batch {size}", "batch_sizes", str(size), None, size) for size in BATCH_SIZES]
    for label, part, setting, rate, size in lines:
        for accuracy, name in zip(REPORTED[part][setting], REPORT_1):
            own = rate or settings(main, name)["learning_rate"]
            yield label, name, cell(name, own, size), accuracy


def grid_differences(main, grids):
    """By cell of the grids: label, reported, ours less it by last and by best epochs."""
    for label, _, name, accuracy in reported_cells(main):
        entry = grids.get(name, {})
        measures = "test_error", "best_test_error"
        found = [difference(accuracy, good(entry, measure)) for measure in measures]
        yield label, name, accuracy, *found


def grid_rows(found):
    """Lines of three models each: the label, and of each reported, last and best epochs."""
    found = list(found)
    for n in range(0, len(found), 3):
        line = [found[n][0]]
        for *_, accuracy, last, best in found[n : n + 3]:
            line.append(f"{100 * accuracy:.2f}")
            for pair in (last, best):
                line.append("n/a" if pair is None else f"{signed(pair[0])} ± {pair[1]:.2f}")
                line[-1] += "*" * (pair is not None and abs(pair[0]) > pair[1])
        yield line


def agreement(found):
    """How many of the cells agree, whose interval has 0, by last and best epochs, and how far off.

    Two of the settings stand in both grids with the same number, and count once.
    """
    cells = list({(name, accuracy): rest for _, name, accuracy, *rest in found}.values())
    texts = {"distinct": str(len(cells)), "expected": f"{0.95 * len(cells):.0f}"}
    for which, pairs in zip(("last", "best"), zip(*cells)):
        found = [pair for pair in pairs if pair]
        texts[which] = str(sum(abs(gap) <= half for gap, half in found))
        sizes = [abs(gap) for gap, _ in found]
        texts[f"{which}_median"] = f"{statistics.median(sizes):.2f}" if sizes else "n/a"
    either = [pair for pair in cells if any(x and abs(x[0]) <= x[1] for x in pair)]
    return texts | {"either": str(len(either))}


def protocols(main, grids, protocol):
    """By reading of what report 1 leaves open: each telling cell's difference, and their mean size.

    Of last and of best epochs; the cells that a change does not concern count as they are.
    """
    reported = {}
    for *_, name, accuracy in reported_cells(main):
        reported.setdefault(name, accuracy)  # that of its rates where its batch sizes have another
    for change in ("", "normalised", "SGD", "50 epochs", "softmax"):
        for measure in ("test_error", "best_test_error"):
            names = [cell(*parts) for parts in CELLS]
            rows = [protocol.get(f"{x}, {change}") or grids.get(x, {}) for x in names]
            found = [difference(reported.get(x, 0), good(y, measure)) for x, y in zip(names, rows)]
            size = plain(statistics.mean(abs(gap) for gap, _ in found)) if all(found) else "n/a"
            gaps = [signed(pair[0]) if pair else "n/a" for pair in found]
            yield [change or "ours", measure == "best_test_error", *gaps, size]


def other_rates(grids, batches):
    """The first model's largest batches at all rates: size, rate, reported accuracy, differences.

    Ours less the reported in points and half its interval, of last and of best epochs.
    """
    for size in BATCH_SIZES[-2:]:
        reported = REPORTED["batch_sizes"][str(size)][0]
        for rate in RATES:
            name = cell("sub_lenet5", rate, size)
            entry = grids.get(name) or batches.get(name, {})
            measures = "test_error", "best_test_error"
            found = [difference(reported, good(entry, measure)) for measure in measures]
            if all(found):
                yield size, rate, reported, found


def nearest_rates(rows):
    """By size the rate of other_rates whose best epochs come nearest, after what it differs by."""
    for size in BATCH_SIZES[-2:]:
        found = [(*pairs[1], rate) for n, rate, _, pairs in rows if n == size]
        if found:
            gap, half, rate = min(found, key=lambda row: abs(row[0]))
            yield [str(size), f"{signed(gap)} ± {half:.2f}", f"{rate:g}"]


def best_settings(main, grids):
    """By model and grid the setting of our lowest error, last epochs and best; and the reported."""
    for part, key in (("rate", "rates"), ("batch", "batch_sizes")):
        for n, model in enumerate(REPORT_1):
            cells = {
                label.split()[1]: grids.get(name, {})
                for label, which, name, _ in reported_cells(main)
                if which == model and label.startswith(part)
            }
            line = [model, part, max(REPORTED[key], key=lambda x: REPORTED[key][x][n])]
            for measure in ("test_error", "best_test_error"):
                means = {x: statistics.mean(y) for x, e in cells.items() if (y := good(e, measure))}
                line.append(min(means, key=means.get) if means else "n/a")
            yield line


def ranges(main, grids):
    """By grid and model the lowest and the highest mean error in percent."""
    for part in ("rate", "batch"):
        texts = []
        for model in REPORT_1:
            cells = [
                grids.get(name, {})
                for label, which, name, _ in reported_cells(main)
                if which == model and label.startswith(part)
            ]
            means = [statistics.mean(x) for x in (good(y, "test_error") for y in cells) if x]
            low_and_high = f"{100 * min(means):.1f}–{100 * max(means):.1f}" if means else "n/a"
            texts.append(low_and_high)
        yield part, ", ".join(texts)


def deviations(off, on):
    """Standard deviations in points without and with the adaptive rate, ratio and its interval.

    The interval is that of Pitman and Morgan for paired samples.
    """
    pairs = [(a, b) for _, a, b in gains.pairs_of_rounds(off, on, "test_error")]
    if len(pairs) < 3:
        return ["n/a"] * 4
    a, b = (torch.tensor(x).double() for x in zip(*pairs))
    ratio, freedom = (b.std() / a.std()).item(), len(pairs) - 2
    correlation = torch.corrcoef(torch.stack([a, b]))[0, 1].item()
    k = t.ppf(0.975, freedom)
    inner = 1 + 2 * (1 - correlation**2) * k**2 / freedom
    low, high = ((inner - s * (inner**2 - 1) ** 0.5) ** 0.5 * ratio for s in (1, -1))
    return [f"{100 * a.std():.2f}", f"{100 * b.std():.2f}", f"{ratio:.2f}", between(low, high)]


# What rounds say together


def worst_round(on, off):
    """The round with the rule that ends worst, how it ends without; and both spreads but for it."""
    known = [(a, b, r) for r, a, b in gains.pairs_of_rounds(on, off, "test_error")]
    if len(known) < 3:
        return dict.fromkeys(("round", "on", "off", "spread_on", "spread_off"), "n/a")
    a, b, r = max(known)
    spreads = [statistics.stdev(x[n] for x in known if x[2] != r) for n in (0, 1)]
    names = ("spread_on", "spread_off")
    texts = {"round": str(r), "on": f"{100 * a:.2f}", "off": f"{100 * b:.2f}"}
    return texts | {name: f"{100 * x:.2f}" for name, x in zip(names, spreads)}


def rise(entry):
    """By how much the mean test error's last epoch is above its lowest, in points, and which it is.

    With the 95% interval by the paired t-test, which is too sure of itself: the epoch is chosen.
    """
    curves = good(entry, "test_error_by_epoch")
    if len(curves) < 2:
        return ["n/a"] * 3
    means = [statistics.mean(errors) for errors in zip(*curves)]
    lowest = means.index(min(means))
    if lowest == len(means) - 1:
        return [str(lowest + 1), "0", ""]
    rises = [errors[-1] - errors[lowest] for errors in curves]
    return [str(lowest + 1), mean(rises, factor=100), between(*interval_of(rises))]


def fitted(entry, below=0.01):
    """The median epoch after which the error on the training batches is below 1% for once."""
    epochs = []
    for errors in good(entry, "train_error"):
        under = [n for n, error in enumerate(errors, 1) if error < below]
        epochs.append(under[0] if under else math.inf)
    return f"{statistics.median(epochs):g}".replace("inf", "none") if epochs else "n/a"


def gap(entry):
    """Test error less training error, in points, with its 95% interval."""
    pairs = zip(*(entry.get(measure, []) for measure in ("test_error", "training_error")))
    gaps = [a - b for a, b in pairs if None not in (a, b)]
    return [mean(gaps, factor=100), between(*interval_of(gaps))] if len(gaps) > 1 else ["n/a", ""]


def like_for_like(main, grids, adaptive):
    """Table 1: reported errors beside ours of the same setting, and with the adaptive rate.

    Report 1's are at a constant rate, its shared model at the rate of its text and of its table.
    """
    for name, entry in main.items():
        row = settings(main, name)
        rivals = [(row["learning_rate"], entry)]
        if name == "sub_lenet5_ws":
            rivals.append((0.01, adaptive.get(f"{name}, rate 0.01", {})))
        for rate, with_rule in rivals:
            texts = [f"{entry['parameters']:,}"]
            reported = 100 * REPORTED["table_2"].get(name, [math.nan])[0]
            constant, rule = entry, None
            if name in REPORT_1:
                by_size = REPORTED["batch_sizes"][str(row["batch_size"])]
                by_rate = REPORTED["rates"].get(f"{rate:g}")
                found = by_size if rate == row["learning_rate"] else by_rate
                reported = 100 - 100 * found[REPORT_1.index(name)]
                constant = grids.get(cell(name, rate, row["batch_size"]), {})
                rule = with_rule
            texts.append("–" if math.isnan(reported) else f"{reported:.2f}")
            texts += [percent(good(constant, x)) for x in ("test_error", "best_test_error")]
            texts.append("–" if rule is None else percent(good(rule, "test_error")))
            label = f" at {rate:g}" if len(rivals) > 1 else ""
            yield [name, label, *texts, mean(good(constant, "seconds"))]


def parts_rows(main):
    """Report 2's Table II beside ours: its ± is over parts of one test set."""
    for name, (reported, deviation, parameters) in REPORTED["table_2"].items():
        entry = main.get(name, {})
        errors = good(entry, "test_error")
        p = [statistics.mean(errors)] if errors else []
        binomial = [(x * (1 - x) / (PAIRS / PARTS)) ** 0.5 for x in p]
        parts = good(entry, "deviation_of_parts")
        texts = [f"{parameters:,}", f"{reported:.2f} ± {deviation:.2f}", percent(errors)]
        largest = f"{100 * max(parts):.1f}" if parts else "n/a"
        yield [name, *texts, mean(parts, 1, 100), largest, mean(binomial, 1, 100)]


def order_rows(entries):
    """How the digits lie in the last layer: order along three axes; halves; neighbours."""
    others = [f"siamese_al, {head}" for head in nets.HEADS if head != "linear"]
    for name in (*REPORT_2, *others, "closed form", "posterior"):
        if entry := entries.get(name):
            measures = "order_along_readout", "order", "order_in_plane"
            texts = [spread(good(entry, measure)) for measure in measures]
            yield [name, *texts, mean(good(entry, "halves")), percent(good(entry, "nearest_error"))]


def head_rows(entries):
    """Comparisons of siamese_al's scores: frozen, on 1000 pairs and on 4000 others; end to end.

    Of each the error, the expected calibration error, and the cross-entropy in nats; then what the
    error has more than the closed form's on the same scores, with its interval.
    """
    rounds = good(entries.get("siamese_al", {}), "heads")
    for name in rounds[0] if len(rounds) > 1 else ():
        found = [one[name] for one in rounds]
        ece = expected_calibration_error([one["calibration"] for one in found])
        more = [one[name]["error"] - one["closed form"]["error"] for one in rounds]
        extra = f"{plain(100 * statistics.mean(more))} {between(*interval_of(more))}"
        more = [extra if any(more) else ""]
        texts = f"{100 * ece:.2f}", mean([x["loss"] for x in found], 3)
        yield [name, percent([x["error"] for x in found]), *texts, *more]
    trained = {"closed form": "closed form", "linear": "siamese_al"}
    trained |= {head: f"siamese_al, {head}" for head in nets.HEADS if head != "linear"}
    for head, name in trained.items():
        if rounds := good(entries.get(name, {}), "calibration"):
            ece = f"{100 * expected_calibration_error(rounds):.2f}"
            error = percent(good(entries[name], "test_error"))
            more = gains.gain(entries[name], entries.get("closed form", {}))
            more = f"{plain(more[0])} {between(*more[1:3])}" if more else ""
            yield [f"{head}, end to end", error, ece, "", more]


def ambiguity(main, entries):
    """posterior's wrong pairs: how many repeat an image, or stay wrong with all training digits."""
    entry = main.get("posterior", {})
    by_round = {r: pairs for r, pairs in enumerate(entry.get("wrong", [])) if pairs is not None}
    wrong = list(by_round.values())
    found = {"count": str(sum(map(len, wrong))), "pairs": f"{PAIRS * len(wrong):,}"}
    found["sure"] = str(sum(max(p, 1 - p) >= 0.9 for one in wrong for *_, p in one))
    digits = [(n, r) for r, one in by_round.items() for n, *_ in one]
    images = Counter(x for n, r in digits for x in gains.tested_images(r)[n].tolist())
    repeated = {image for image, count in images.items() if count > 1}
    hit = [any(x in repeated for x in gains.tested_images(r)[n].tolist()) for n, r in digits]
    found |= {"repeated": str(sum(hit)), "images": str(len(repeated))}
    teachers = good(
        entries.get(learning.with_pairs("posterior", learning.ALL), {}), "wrong_in_rounds"
    )
    shared, everything = [], []
    for rounds in teachers:
        theirs = {r: gains.are_wrong(bits) for r, bits in enumerate(rounds) if r in by_round}
        shared.append(sum(int(theirs[r][n]) for n, r in digits if r in theirs))
        everything.append(sum(int(one.sum()) for one in theirs.values()))
    found["still"] = " and ".join(map(str, shared)) or "n/a"
    found["teachers"] = " and ".join(map(str, everything)) or "n/a"
    return found


def closed_form_rows(main):
    measures = "test_error", "likeliest_error", "closed_form_error", "digit_error"
    for name, entry in main.items():
        rounds = good(entry, "calibration") if name != "sub_lenet5_ws_al" else []
        error = f"{100 * expected_calibration_error(rounds):.2f}" if rounds else "–"
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


def step_rows(repeats):
    """From the textbook's loop to test.py's: seconds of a round of each model, step by step."""
    for step in next(iter(repeats[0].values()), {}) if repeats else ():
        medians = [statistics.median(one[name][step] for one in repeats) for name in repeats[0]]
        yield [step, *(f"{x:.2f}" for x in medians)]


def learning_curves(main, entries):
    """By model and measure: training pairs, error in percent, standard error."""
    curves = (("siamese_al", "error"), ("siamese_al", "closed_form_error"), ("posterior", "error"))
    for name, measure in curves:
        points = learning.curve(main, entries, name, measure)
        label = f"{name}, digits in closed form" if measure == "closed_form_error" else name
        yield label, [[f"{n:,}", plain(error), plain(sd)] for n, error, sd in points]


def bin_rows(entry):
    """Where a model says P(a ≤ b): pairs, mean P, share with a ≤ b and its interval."""
    for n, *shares in calibration_bins(good(entry, "calibration")):
        yield [f"{n:,}", *(f"{x:.3f}" for x in shares)]


def reported_gains():
    """The gains that the reports' own tables have, in points, by "without -> with"."""
    rates, table_2 = REPORTED["rates"]["0.01"], REPORTED["table_2"]
    errors = {cell(name, 0.01, 100): 1 - x for name, x in zip(REPORT_1, rates)}
    errors |= {name: error for name, (error, *_) in table_2.items()}
    for _, without, with_it in [x for part in gains.COMPARISONS.values() for x in part]:
        if without in errors and with_it in errors:
            gain = 100 * (errors[without] - errors[with_it])
            yield f"{without} -> {with_it}", f"{gain:.0f}" if without in table_2 else plain(gain)


def comparisons(entries):
    """What gains.compare says, as texts; by "without -> with" its row, and all as a table."""
    found = {}
    for part, what, *names, gain, low, high, image_low, image_high, p in gains.compare(entries):
        wider = "" if image_low is None else between(image_low, image_high)
        texts = [plain(gain), between(low, high), wider, p_text(p), "*" * bool(p < 0.05)]
        found[" -> ".join(names)] = [part, what, *names, *texts]
    return found


def numbers():
    """A dictionary of texts and of tables' rows."""
    files = {name: read(name) for name in FILES}
    main, grids, adaptive, protocol, batches = (files[name]["models"] for name in FILES[:5])
    budgets, variants, bench = (files[x] for x in ("frontier", "search", "benchmark"))
    extras = benchmark.read_extras()
    entries = {}
    for name in FILES[:9]:
        entries |= files[name]["models"]
    cells = list(grid_differences(main, grids))
    readings = list(protocols(main, grids, protocol))
    rates = list(other_rates(grids, batches))
    paired = differences(variants["models"])
    constant = {name: at_constant_rate(name, main, grids) for name in REPORT_1}
    rules = {
        name: (
            grids.get(cell(name, 0.01, settings(main, name)["batch_size"]), {}),
            adaptive.get(f"{name}, rate 0.01") or main.get(name, {}),
        )
        for name in REPORT_1
    }
    return {
        "environment": {name: str(value) for name, value in files["main"]["environment"].items()},
        "rows": {name: summary(entry) for name, entry in entries.items()},
        "gains": comparisons(entries),
        "reported_gains": dict(reported_gains()),
        "like_for_like": list(like_for_like(main, grids, adaptive)),
        "grids": list(grid_rows(cells)),
        "agreement": agreement(cells),
        "protocols": readings,
        "cells": [cell(*parts) for parts in CELLS],
        "stepped": list(next(iter(extras.get("steps", [])), {})),
        "other_rates": [
            [str(n), f"{x:g}", f"{100 * y:.2f}", *(f"{signed(a)} ± {b:.2f}" for a, b in pairs)]
            for n, x, y, pairs in rates
        ],
        "nearest_rates": list(nearest_rates(rates)),
        "fit": [[row[0], row[-1]] for row in readings if row[1]],
        "parameters": {name: count(main.get(name)) for name in test.EXPERIMENTS},
        "ranges": dict(ranges(main, grids)),
        "best_settings": list(best_settings(main, grids)),
        "deviations": {name: deviations(*pair) for name, pair in rules.items()},
        "worst": worst_round(main.get("sub_lenet5", {}), constant["sub_lenet5"]),
        "rises": {name: rise(entry) for name, entry in entries.items()},
        "fitted": {name: fitted(entry) for name, entry in entries.items()},
        "gaps": {name: gap(entry) for name, entry in entries.items()},
        "parts": list(parts_rows(main)),
        "order": list(order_rows(entries)),
        "heads": list(head_rows(entries)),
        "closed_form": list(closed_form_rows(main)),
        "ambiguity": ambiguity(main, files["learning"]["models"]),
        "learning": dict(learning_curves(main, files["learning"]["models"])),
        "bins": list(bin_rows(main.get("posterior", {}))),
        "first_version": REPORTED["first_version"]["posterior"],
        "before": REPORTED["before"],
        "others": REPORTED["others"],
        "paired": {
            name: [plain(gap), between(low, high)] for name, (gap, low, high) in paired.items()
        },
        "better": len([name for name, (_, _, high) in paired.items() if high < 0]),
        "validation": {
            x: percent(good(y, "validation_error")) for x, y in variants["models"].items()
        },
        "trainings": {
            x: str(len(good(y, "validation_error"))) for x, y in variants["models"].items()
        },
        "variant_seconds": {x: median(good(y, "seconds")) for x, y in variants["models"].items()},
        "sharpness": sharpness_errors(variants["models"].get("posterior", {})),
        "frontier": frontier_points(budgets["models"]),
        "quarter": quarter(budgets["models"]),
        "budget_trainings": str(budgets["environment"]["rounds"]),
        "profile_round": list(profile_rows(extras.get("round", []))),
        "steps": list(step_rows(extras.get("steps", []))),
        "speed": list(benchmark.rows(bench)),
        "profile_step": {name: f"{value:.1f}" for name, value in extras["profile"].items()},
        "origin": {
            key: extras.get(key, "n/a")
            for key in ("processor", "commit", "date", "python", "workers")
        },
        "memory": f"{sum(extras['memory']):.0f}",
        "first_round": f"{statistics.median(extras['first_round']):.1f}",
    }
