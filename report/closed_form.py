"""What trained models say of their test pairs: python -m report.closed_form [--rounds N]

It trains siamese_al, baseline_al and posterior on test.py's rounds, and of each round it keeps the test error of the
model's own comparison, of comparing its two likeliest digits, and of the closed form P(a ≤ b) of its digits; how often
a digit is wrong; how well the probabilities P(a ≤ b) are calibrated; and the pairs it gets wrong. Results go to
report/results/closed_form.json after every round; what is there is not run again. Nothing is chosen by these numbers.
"""

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

import test
from data import generate_pair_sets, load_mnist
from models import Likeliest, Posterior
from train import train

RESULTS = Path(__file__).parent / "results" / "closed_form.json"
MODELS = "baseline_al", "siamese_al", "posterior"
BINS = 20  # of equal width, of the probability P(a ≤ b)


def calibration(probability, target):
    """For each bin the number of pairs, the sum of their probabilities, the number with a ≤ b."""
    bins = (probability * BINS).long().clamp(max=BINS - 1)
    weights = torch.ones_like(probability), probability, target.double()
    return [torch.zeros(BINS).double().index_add(0, bins, weight).tolist() for weight in weights]


def expected_calibration_error(bins):
    """The mean over pairs of |mean probability - share with a ≤ b| in the pair's bin, 0 to 1."""
    counts, probabilities, positives = bins
    gaps = (abs(p - t) for p, t in zip(probabilities, positives, strict=True))
    return sum(gaps) / sum(counts)


def outcome(key, seed, mnist):
    """Train a round as test.py does and look at what the model says of its test pairs."""
    row = test.read_row(key)
    rotation = row.pop("rotation")
    with torch.random.fork_rng(devices=[]):
        model, train_set, test_set, generator = test.prepare(key, rotation, seed, "cpu", mnist)
        train([model], [train_set], [test_set], [generator], **row)
    classes = generate_pair_sets(test.PAIRS, torch.Generator().manual_seed(seed), mnist)[5]
    with torch.no_grad():
        comparison, digits = model.eval()(test_set[0])
    target = test_set[1].bool()
    sharpness = getattr(model.head, "sharpness", 1.0)
    heads = {"own": comparison, "likeliest": Likeliest()(digits), "closed form": Posterior(sharpness)(digits)}
    probabilities = {name: log_odds.double().sigmoid() for name, log_odds in heads.items()}
    wrong = ((comparison > 0) != target).nonzero().flatten().tolist()
    return {
        "error": {name: ((log_odds > 0) != target).double().mean().item() for name, log_odds in heads.items()},
        "digit_error": (digits.argmax(dim=2) != classes).double().mean().item(),
        "calibration": {name: calibration(probabilities[name], target) for name in ("own", "closed form")},
        "wrong": [[n, classes[n].tolist(), round(probabilities["own"][n].item(), 4)] for n in wrong],
    }


def table(results):
    yield f"{'model':<14}{'own comparison':>18}{'likeliest digits':>18}{'closed form':>18}{'digit error':>18}{'ECE':>8}"
    for key, rounds in results.items():
        errors = [[r["error"][name] for r in rounds.values()] for name in ("own", "likeliest", "closed form")]
        errors.append([r["digit_error"] for r in rounds.values()])
        bins = torch.tensor([r["calibration"]["own"] for r in rounds.values()]).sum(dim=0).tolist()
        cells = "".join(f"{test.percent(values):>18}" for values in errors)
        yield f"{key:<14}{cells}{100 * expected_calibration_error(bins):>8.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="of each model (20)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # so that workers can be forked
    mnist = load_mnist()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = {key: results.get(key, {}) for key in MODELS}
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), context, test.start_worker) as pool:
        futures = {
            pool.submit(outcome, key, seed, mnist): (key, str(seed))
            for seed in range(options.rounds)
            for key in MODELS
            if str(seed) not in results[key]
        }
        start, total = time.monotonic(), len(futures)
        for done, future in enumerate(as_completed(futures), 1):
            key, seed = futures[future]
            results[key][seed] = future.result()
            test.write_results(RESULTS, results)
            left = (time.monotonic() - start) / done * (total - done) / 60
            print(f"{done} of {total} done, about {left:.0f} min left", flush=True)
    print(*table(results), sep="\n")


if __name__ == "__main__":
    main()
