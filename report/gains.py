"""What each technique gains: the mean over rounds of the error without it minus that with it.

It is in percentage points, with its 95% interval by the paired t-test: both models of a pair have
the same data in each round.
"""

from scipy.stats import ttest_rel

from report.experiments import cell

REPORT_2 = [  # technique, model without it, model with it
    ("weight sharing", "baseline", "siamese"),
    ("weight sharing", "baseline_al", "siamese_al"),
    ("auxiliary loss", "baseline", "baseline_al"),
    ("auxiliary loss", "siamese", "siamese_al"),
]
REPORT_1 = [  # in its grids, at one and the same setting
    (technique, cell(without, 0.01, 100), cell(with_it, 0.01, 100))
    for technique, without, with_it in (
        ("weight sharing", "sub_lenet5", "sub_lenet5_ws"),
        ("weight sharing", "sub_lenet5_al", "sub_lenet5_ws_al"),
        ("auxiliary loss", "sub_lenet5", "sub_lenet5_al"),
        ("auxiliary loss", "sub_lenet5_ws", "sub_lenet5_ws_al"),
    )
]
OWN_SETTINGS = [
    ("weight sharing", "sub_lenet5", "sub_lenet5_ws"),
    ("auxiliary loss", "sub_lenet5_ws", "sub_lenet5_ws_al"),
    ("our own model", "siamese_al", "posterior"),
]


def paired_gain(without, with_it):
    """The mean of without - with_it, two lists of two or more numbers, and its 95% interval."""
    interval = ttest_rel(without, with_it).confidence_interval(0.95)
    return (interval.low + interval.high) / 2, interval.low, interval.high


def gain(without, with_it, measure="test_error"):
    """paired_gain of two models' entries, in percentage points; None of fewer than two rounds.

    It is over the rounds that both finished and in which neither diverged.
    """
    both = without, with_it
    lists = (entry.get(key, []) for key in (measure, "diverged") for entry in both)
    errors = [(a, b) for a, b, *diverged in zip(*lists) if diverged == [False, False]]
    errors = [pair for pair in errors if None not in pair]
    return [100 * x for x in paired_gain(*zip(*errors))] if len(errors) > 1 else None


def gains(models, rivals):
    """Lines to print: each of `rivals` among the models in a results file."""
    for technique, *pair in rivals:
        if found := gain(*(models.get(name, {}) for name in pair)):
            mean, low, high = found
            names = " -> ".join(name.partition(",")[0] for name in pair)
            yield f"{technique:<18}{names:<37}{mean:>6.2f}   [{low:.2f}, {high:.2f}]"
