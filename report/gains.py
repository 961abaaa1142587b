"""What each technique of the two reports gains: python -m report.gains [RESULTS FILE]

For every pair of models that differ in one technique: the mean over rounds of the error without it
minus the error with it, in percentage points, and that mean's 95% interval by the paired t-test.
Both models of a pair have the same data in each round. Without a file: report/results/main.json.
"""

import json
import sys
from pathlib import Path

from scipy.stats import ttest_rel

QUESTIONS = {  # models without and with the technique
    "weight sharing": [
        ("sub_lenet5", "sub_lenet5_ws"),
        ("baseline", "siamese"),
        ("baseline_al", "siamese_al"),
    ],
    "auxiliary loss": [
        ("sub_lenet5_ws", "sub_lenet5_ws_al"),
        ("baseline", "baseline_al"),
        ("siamese", "siamese_al"),
    ],
    "our own model": [("siamese_al", "posterior")],
}


def paired_gain(without, with_it):
    """The mean of without - with_it, two lists of two or more numbers, and its 95% interval."""
    interval = ttest_rel(without, with_it).confidence_interval(0.95)
    return (interval.low + interval.high) / 2, interval.low, interval.high


def gains(models):
    """Lines to print, of the models in a results file. A round counts if both models finished it
    and neither diverged."""
    for technique, pairs in QUESTIONS.items():
        for pair in pairs:
            entries = [models[key] for key in pair if key in models]
            errors = [
                [entry["test_error"][r] for entry in entries]
                for r in range(min((len(entry["diverged"]) for entry in entries), default=0))
                if all(entry["diverged"][r] is False for entry in entries)
            ]
            if len(entries) == 2 and len(errors) > 1:
                gain, low, high = (100 * x for x in paired_gain(*zip(*errors, strict=True)))
                names = " -> ".join(pair)
                yield f"{technique:<18}{names:<37}{gain:>6.2f}   [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    default = Path(__file__).parent / "results" / "main.json"
    results = json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else default).read_text())
    print("What each technique gains, in points of error, and its 95% interval:")
    print(*gains(results["models"]), sep="\n")
