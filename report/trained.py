"""What trained models say of their test pairs, round by round: report/results/trained.json.

It trains report 2's four models and posterior on test.py's rounds, and keeps of each: the test error of the model's own
comparison, of its two likeliest digits, and of the closed form P(a ≤ b) of its digits; how often a digit is wrong; how
well the probabilities P(a ≤ b) are calibrated; the pairs it gets wrong; the spread over 20 parts of the test pairs, as
in report 2; and how the ten digits lie in the last layer.
"""

import statistics

import torch
from scipy.stats import spearmanr

import test
from data import generate_pair_sets
from models import Likeliest, Posterior, Shared
from report import experiments

MODELS = "baseline", "baseline_al", "siamese", "siamese_al", "posterior"
MEASURES = (
    *("test_error", "likeliest_error", "closed_form_error", "digit_error"),
    *("calibration", "wrong", "deviation_of_parts", "order", "order_in_plane", "plane"),
)
BINS = 20  # of equal width, of the probability P(a ≤ b)
PARTS = 20  # of the test pairs, report 2's "20 rounds on splited test set"
SHOWN = 1000  # points in a plane of t-SNE


def calibration(probability, target):
    """For each bin the number of pairs, the sum of their probabilities, the number with a ≤ b."""
    bins = (probability * BINS).long().clamp(max=BINS - 1)
    weights = torch.ones_like(probability), probability, target.double()
    return [torch.zeros(BINS).double().index_add(0, bins, weight).tolist() for weight in weights]


def expected_calibration_error(rounds):
    """The mean over pairs of |mean probability - share with a ≤ b| in the pair's bin, 0 to 1."""
    counts, probabilities, positives = torch.tensor(rounds).sum(dim=0)
    return ((probabilities - positives).abs().sum() / counts.sum()).item()


def order(points, digits):
    """How far the ten digits' mean `points` [N, d] lie in numeric order along their first principal axis: the absolute
    rank correlation, 0 to 1. Without any order its square is 1/9 on average."""
    means = torch.stack([points[digits == digit].mean(dim=0) for digit in range(10)]).double()
    means -= means.mean(dim=0)
    axis = torch.linalg.svd(means).Vh[0]
    return abs(float(spearmanr((means @ axis).tolist(), range(10)).statistic))


def plane(points):
    """t-SNE of `points` [N, d]: [N, 2]."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return torch.from_numpy(TSNE(init="pca", random_state=0).fit_transform(points.numpy()))


def look(key, row, seeds, device, mnist):
    """Train a model as test.py does, a round for each seed, and return MEASURES of each."""
    rounds, _ = test.train_rounds(key, row, seeds, device, mnist)
    return [describe(*pair, mnist) for pair in zip(rounds, seeds, strict=True)]


def describe(trained_round, seed, mnist):
    model, _, (test_input, test_target), _ = trained_round
    classes = generate_pair_sets(test.PAIRS, torch.Generator().manual_seed(seed), mnist)[5]
    with torch.no_grad():
        comparison, digits = model.eval()(test_input)
    comparisons = comparison, Likeliest()(digits), Posterior(getattr(model.head, "sharpness", 1.0))(digits)
    wrong, likeliest, closed_form = (((c > 0) != test_target.bool()).double() for c in comparisons)
    probability = comparison.double().sigmoid()
    mistakes = wrong.nonzero().flatten().tolist()
    found = {
        "test_error": wrong.mean().item(),
        "likeliest_error": likeliest.mean().item(),
        "closed_form_error": closed_form.mean().item(),
        "digit_error": (digits.argmax(dim=2) != classes).double().mean().item(),
        "calibration": calibration(probability, test_target),
        "wrong": [[n, *classes[n].tolist(), round(probability[n].item(), 4)] for n in mistakes],
        "deviation_of_parts": statistics.stdev(part.mean().item() for part in wrong.chunk(PARTS)),
    }
    # A shared net has a vector for each digit, the baseline one for the pair: it stands for the first digit.
    shared = isinstance(model.net, Shared)
    points, labels = (digits.flatten(0, 1), classes.flatten()) if shared else (digits.flatten(1), classes[:, 0])
    found["order"] = order(points, labels)
    if not isinstance(model.head, Posterior):  # report 2's
        points, labels = plane(points[:SHOWN]), labels[:SHOWN]
        found["order_in_plane"] = order(points, labels)
        if seed == 0:  # for the figure
            plane_and_digit = torch.cat([points, labels.unsqueeze(1)], dim=1)
            found["plane"] = [[round(value, 2) for value in point] for point in plane_and_digit.tolist()]
    return found


def complete_all(rounds, workers=None):
    rows = {key: experiment for key, experiment in experiments.main().items() if key in MODELS}
    experiments.complete("trained", rows, rounds, workers, look, MEASURES)
