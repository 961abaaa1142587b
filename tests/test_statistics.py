"""What is computed from the errors of the rounds, against values worked by hand."""

import math

import pytest

from report.gains import REPORT_2, gains, paired_gain
from test import percent, table


def entry(errors, diverged=None, reported=17.0):
    """A model's part of the results file; an error of None is an unfinished round."""
    return {
        "parameters": 71076,
        "reported": reported,
        "test_error": errors,
        "best_test_error": [None if error is None else error / 2 for error in errors],
        "seconds": [None if error is None else 2.0 for error in errors],
        "diverged": diverged or [None if error is None else False for error in errors],
    }


def words(entries):
    """The words of each line of the table."""
    results = {"environment": {"device": "cpu", "rounds": 4}, "models": entries}
    return [line.split() for line in list(table(results))[3:]]


def test_mean_and_deviation_by_hand():
    """Errors of 1, 2 and 6 percent: mean 3, squared deviations 4 + 1 + 9, over n - 1 = 2, root."""
    assert percent([0.01, 0.02, 0.06]) == "3.00 ± 2.65"
    assert percent([0.123]) == "12.30 ± n/a"
    assert percent([]) == "n/a"


def test_paired_gain_by_hand():
    """Gains of 1, 2 and 3 points: mean 2, deviation 1, half-width t / √3. Student's t for two
    degrees of freedom has a closed form: its 97.5% quantile is 0.95 √2 / √(1 - 0.95²)."""
    gain, low, high = paired_gain([0.10, 0.20, 0.30], [0.09, 0.18, 0.27])
    half = 0.01 * 0.95 * math.sqrt(2 / (1 - 0.95**2)) / math.sqrt(3)
    assert [gain, low, high] == pytest.approx([0.02, 0.02 - half, 0.02 + half])


def test_a_row_of_the_table():
    (row,) = words({"siamese": entry([0.01, 0.02, 0.06])})
    assert " ".join(row) == "siamese 71,076 3.00 ± 2.65 1.50 ± 1.32 17.00 2.00"
    (row,) = words({"own": entry([0.1], reported=None)})  # no report has a figure for it
    assert " ".join(row) == "own 71,076 10.00 ± n/a 5.00 ± n/a 2.00"


def test_unfinished_rounds_are_left_out_and_said():
    (row,) = words({"siamese": entry([0.01, None, 0.02, 0.06, None])})
    assert " ".join(row) == (
        "siamese 71,076 3.00 ± 2.65 1.50 ± 1.32 17.00 2.00 2 of 5 rounds missing"
    )
    (row,) = words({"siamese": entry([None])})
    assert " ".join(row) == "siamese 71,076 n/a n/a 17.00 n/a 1 of 1 rounds missing"
    (row,) = words({"siamese": {"parameters": 71076, "reported": 17.0}})  # of a run just begun
    assert " ".join(row) == "siamese 71,076 n/a n/a 17.00 n/a 4 of 4 rounds missing"


def test_diverged_rounds_are_left_out_and_said():
    errors = [0.01, 0.55, 0.02, 0.06, None]
    (row,) = words({"siamese": entry(errors, [False, True, False, False, None])})
    assert " ".join(row) == (
        "siamese 71,076 3.00 ± 2.65 1.50 ± 1.32 17.00 2.00 "
        "1 of 5 rounds diverged 1 of 5 rounds missing"
    )


def test_gains_pair_the_rounds_that_both_models_finished():
    entries = {
        "siamese": entry([0.10, 0.20, 0.50, 0.30, None, 0.5], [False] * 4 + [None, True]),
        "siamese_al": entry([0.09, 0.18, None, 0.27, 0.01, 0.1]),
        "baseline": entry([0.1] * 6),
    }
    lines = [" ".join(line.split()) for line in gains(entries, REPORT_2)]
    assert len(lines) == 2  # baseline -> siamese, and:
    assert lines[1] == "auxiliary loss siamese -> siamese_al 2.00 [-0.48, 4.48]"
    assert list(gains({"siamese": entry([0.1]), "siamese_al": entry([0.1])}, REPORT_2)) == []
