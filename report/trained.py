"""What trained models say of their test pairs, round by round: report/results/trained.json.

It trains report 2's four models and posterior as test.py does, and keeps of each what `describe`
returns.
"""

import statistics
from functools import partial

import torch
from scipy.stats import spearmanr

import test
from models import Shared, TwoLogits, closed_form, likeliest
from train import mistakes

MODELS = "baseline", "baseline_al", "siamese", "siamese_al", "posterior"
BINS = 20  # of equal width, of the probability P(a ≤ b)
PARTS = 20  # of the test pairs, report 2's "20 rounds on splited test set"
SHOWN = 1000  # points in a plane of t-SNE


def trained():
    return {name: test.EXPERIMENTS[name] for name in MODELS if name in test.EXPERIMENTS}


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
    """How far the ten digits' mean `points` [N, d] lie in numeric order on their principal axis.

    It is the absolute rank correlation, 0 to 1. Without any order its square is 1/9 on average.
    """
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


def describe(model, pairs, keep_plane=False):
    """Measures of a trained model on its six tensors of pairs; none if its training diverged.

    The error of the two likeliest digits and that of the closed form of the digits' scores; how
    often a digit is wrong; how well P(a ≤ b) is calibrated; the pairs that are told wrong; the
    spread over parts of the test pairs, as in report 2; and how the digits lie in the last layer.
    """
    test_input, test_target, classes = pairs[3:]
    with torch.no_grad():
        comparison, digits = model.eval()(test_input)
    if comparison.isnan().any():
        return {}
    settings = getattr(model.head, "keywords", {})  # the sharpness, if the head is a closed form
    wrong, likeliest_wrong, closed_form_wrong = (
        mistakes(x, test_target).double()
        for x in (comparison, likeliest(digits), closed_form(digits, **settings))
    )
    probability = comparison.double().sigmoid()
    found = {
        "likeliest_error": likeliest_wrong.mean().item(),
        "closed_form_error": closed_form_wrong.mean().item(),
        "digit_error": (digits.argmax(dim=2) != classes).double().mean().item(),
        "calibration": calibration(probability, test_target),
        "wrong": [
            [n, *classes[n].tolist(), round(probability[n].item(), 4)]
            for n in wrong.nonzero().flatten().tolist()
        ],
        "deviation_of_parts": statistics.stdev(x.mean().item() for x in wrong.chunk(PARTS)),
    }
    # A shared net has a vector for each digit; the baseline one for the pair, taken for the first.
    if isinstance(model.net, Shared):
        points, labels = digits.flatten(0, 1), classes.flatten()
    else:
        points, labels = digits.flatten(1), classes[:, 0]
    found["order"] = order(points, labels)
    if isinstance(model.head, TwoLogits):  # report 2's
        points, labels = plane(points[:SHOWN]), labels[:SHOWN]
        found["order_in_plane"] = order(points, labels)
        if keep_plane:
            rows = torch.cat([points, labels.unsqueeze(1)], dim=1).tolist()
            found["plane"] = [[round(value, 2) for value in row] for row in rows]
    return found


def train_and_describe(name, row, seeds, nb_pairs, device, folder=None):
    """test.run_rounds with what describe says of each round; round 0 with its plane, to draw."""
    look = partial(describe, keep_plane=seeds == [0])
    return test.run_rounds(name, row, seeds, nb_pairs, device, folder, look)
