"""From siamese_al to posterior, one change at a time: python -m report.ablation [--rounds N] [--workers N] ...

Every step is a row of its own, trained as test.py trains its table, on the same rounds. The results file,
report/results/ablation.json, is like test.py's; test.py's options apply. Nothing is chosen by these numbers.
"""

import statistics
import sys
from pathlib import Path

import test
from models import MODELS, Posterior, Shared, trunk
from report.gains import paired_gain

RESULTS = Path(__file__).parent / "results" / "ablation.json"


def digit_net_of_posterior(sharpness):
    model = MODELS["posterior"]()
    return Shared(model.digit_net, Posterior(sharpness))


def steps():
    """The models and rows: each has one change more than the one before it."""
    siamese_al, posterior = (test.read_row(key) for key in ("siamese_al", "posterior"))
    row, models, rows = dict(siamese_al), {}, {}

    def step(name, model, **changes):
        row.update(changes)
        models[name], rows[name] = model, tuple(row.values())

    step("siamese_al", MODELS["siamese_al"])
    step("closed form", lambda: Shared(trunk(1, 10), Posterior()), comparison_weight=0.0)
    step("own digit net", lambda: digit_net_of_posterior(1))
    step("distorted copies", lambda: digit_net_of_posterior(1), rotation=0, distorted=posterior["distorted"])
    names = "optimizer", "learning_rate", "schedule", "batch_size"
    step("one cycle", lambda: digit_net_of_posterior(1), **{name: posterior[name] for name in names})
    step("label smoothing", MODELS["posterior"], label_smoothing=posterior["label_smoothing"])
    assert rows["label smoothing"] == tuple(posterior.values())
    return models, rows


def table(entries):
    """Lines to print: each step's error and time, and what it gains over the step before it."""
    yield f"{'step':<18}{'parameters':>11}{'error %':>16}{'s/round':>10}   gain, 95% interval"
    before = None
    for name, entry in entries.items():
        gain = ""
        if before:
            mean, low, high = (100 * x for x in paired_gain(before["test_error"], entry["test_error"]))
            gain = f"{mean:>7.2f}   [{low:.2f}, {high:.2f}]"
        seconds, error = statistics.mean(entry["seconds"]), test.percent(entry["test_error"])
        yield f"{name:<18}{entry['parameters']:>11,}{error:>16}{seconds:>10.2f}{gain}"
        before = entry


if __name__ == "__main__":
    models, rows = steps()
    MODELS.update(models)
    test.EXPERIMENTS = rows
    sys.argv += [] if "--output" in sys.argv else ["--output", str(RESULTS)]
    test.main()
