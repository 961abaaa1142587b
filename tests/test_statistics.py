"""The statistics of test.py against values worked by hand and against scipy."""

import pytest
import scipy.stats

from test import answers, finished, paired_gain, percent, student_t, table_row, time_left


def entry(errors, seconds=None):
    return {
        "parameters": 71076,
        "test_error": errors,
        "best_test_error": errors,
        "seconds": seconds or [None if error is None else 2.0 for error in errors],
    }


def test_mean_and_deviation_by_hand():
    """Errors of 1, 2 and 6 percent: mean 3, squared deviations 4 + 1 + 9, over n - 1 = 2, root."""
    assert percent([0.01, 0.02, 0.06]) == "3.00 ± 2.65"
    assert percent([0.123]) == "12.30 ± n/a"


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9, 19, 99, 9999])
def test_students_t(n):
    assert student_t(n) == pytest.approx(scipy.stats.t.ppf(0.975, n), abs=5e-4)


def test_paired_gain_by_hand():
    """Gains of 1, 2 and 3 points: mean 2, deviation 1, half-width 4.303 / √3."""
    gain, half = paired_gain([0.10, 0.20, 0.30], [0.09, 0.18, 0.27])
    assert gain == pytest.approx(0.02)
    assert half == pytest.approx(0.01 * 4.303 / 3**0.5, abs=1e-5)


def test_paired_gain_is_the_paired_t_test():
    a, b = [0.21, 0.18, 0.25, 0.19, 0.20], [0.15, 0.17, 0.16, 0.20, 0.11]
    interval = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    gain, half = paired_gain(a, b)
    assert [gain - half, gain + half] == pytest.approx([interval.low, interval.high], abs=1e-5)


def test_rows_leave_unfinished_rounds_out_and_say_so():
    some = entry([0.01, None, 0.02, 0.06, None])
    assert finished(some, "test_error") == [0.01, 0.02, 0.06]
    assert "3.00 ± 2.65" in table_row("siamese", some)
    assert table_row("siamese", some).endswith("  2 rounds missing")
    words = " ".join(table_row("siamese", entry([0.1])).split())
    assert words == "siamese 71,076 10.00 ± n/a 10.00 ± n/a 17.00 2.00"


def test_answers_pair_the_rounds_that_both_models_finished():
    entries = {
        "siamese": entry([0.10, 0.20, 0.50, 0.30, None]),
        "siamese_al": entry([0.09, 0.18, None, 0.27, 0.01]),
        "baseline": entry([0.1] * 5),
    }
    lines = list(answers(entries))
    assert len(lines) == 2  # baseline -> siamese, and:
    words = " ".join(lines[1].split())
    assert words == "auxiliary loss siamese -> siamese_al 2.00 [-0.48, 4.48]"
    assert list(answers({"siamese": entry([0.1]), "siamese_al": entry([0.1])})) == []


def test_time_left_by_hand():
    """One model has 2 rounds of 10 s to go; one, unstarted, 3 of the mean 10 s: 50 s on 2 cores."""
    entries = {
        "siamese": entry([0.1, 0.1, None, None], [8.0, 12.0, None, None]),
        "baseline": entry([None] * 3),
    }
    assert time_left(entries, workers=2) == "0:25"
    assert time_left({"siamese": entry([0.1, None], [3600.0, None])}, workers=1) == "60:00"
    assert time_left({"siamese": entry([0.1, None], [119.6, None])}, workers=1) == "2:00"
