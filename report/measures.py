"""What a trained model says of its pairs, round by round: errors, calibration, order of the digits.

`pairs` are the six tensors of generate_pair_sets.
"""

import math
import statistics

import torch
from scipy.stats import binomtest, spearmanr

from models import Either, Shared, closed_form, likeliest
from train import mistakes

BINS = 20  # of equal width, of the probability P(a ≤ b)
PARTS = 20  # of the test pairs, report 2's "20 rounds on splited test set"
SHOWN = 1000  # points in a plane of t-SNE


def answers(model, input):
    """A trained model's comparisons [N] and digits' scores [N, 2, 10] of pairs `input`."""
    with torch.inference_mode():
        parts = [model.eval()(part) for part in input.split(100)]
    return [torch.cat(tensors) for tensors in zip(*parts)]


def look(model, pairs):
    """Its error on the training pairs, in evaluation mode; and which test pairs it tells wrong.

    These are the bits of a hexadecimal number, the first pair's the lowest; a pair without an
    answer counts as wrong.
    """
    wrong = [mistakes(answers(model, x)[0], y).ne(0) for x, y in (pairs[:2], pairs[3:5])]
    bits = sum(bit << n for n, bit in enumerate(wrong[1].tolist()))
    return {"training_error": wrong[0].double().mean().item(), "wrong_pairs": f"{bits:x}"}


def calibration(probability, target):
    """For each bin the number of pairs, the sum of their probabilities, the number with a ≤ b."""
    bins = (probability * BINS).long().clamp(max=BINS - 1)
    weights = torch.ones_like(probability), probability, target.double()
    found = [torch.zeros(BINS).double().index_add(0, bins, weight) for weight in weights]
    return [[round(x, 6) for x in values.tolist()] for values in found]


def expected_calibration_error(rounds):
    """The mean over pairs of |mean probability - share with a ≤ b| in the pair's bin, 0 to 1."""
    counts, probabilities, positives = torch.tensor(rounds).sum(dim=0)
    return ((probabilities - positives).abs().sum() / counts.sum()).item()


def calibration_bins(rounds, least=10):
    """Of each bin of `least` pairs or more: their number, mean P, share with a ≤ b, its interval.

    The interval is Wilson's, of 95%, as if the pairs were independent.
    """
    for n, p, positives in torch.tensor(rounds).sum(dim=0).T.tolist() if rounds else ():
        if n >= least:
            interval = binomtest(round(positives), round(n)).proportion_ci(method="wilson")
            yield round(n), p / n, positives / n, interval.low, interval.high


def order(points, digits, axis=None):
    """How far the ten digits' mean `points` [N, d] lie in numeric order along `axis` [d].

    It is the absolute rank correlation, 0 to 1. Without any order its square is 1/9 on average. The
    axis is their principal one if none is given.
    """
    means = torch.stack([points[digits == digit].mean(dim=0) for digit in range(10)]).double()
    means -= means.mean(dim=0)
    axis = torch.linalg.svd(means).Vh[0] if axis is None else axis.double()
    return abs(float(spearmanr((means @ axis).tolist(), range(10)).statistic))


def readout(head, digits):
    """The gradient of a comparison with respect to the scores, mean over the pairs: [2, 10].

    It is the axis along which the head reads them; of a linear head its weights. None if the head
    has no gradient.
    """
    digits = digits.clone().requires_grad_()
    comparison = head(digits)
    if not comparison.requires_grad:
        return None
    (gradient,) = torch.autograd.grad(comparison.sum(), digits)
    return gradient.mean(dim=0)


def nearest_error(points, digits):
    """The share of `points` [N, d] of which their five nearest others tell a wrong digit.

    They tell the digit that most of them have; of several the lowest.
    """
    distances = torch.cdist(points, points).fill_diagonal_(math.inf)
    nearest = digits[distances.topk(5, largest=False).indices]
    return (nearest.mode(dim=1).values != digits).double().mean().item()


def halves(points, digits):
    """Of 0 to 3 and 7 to 9 the share that two clusters of `points` [N, d] part as low and high."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        cluster = KMeans(2, n_init=10, random_state=0).fit_predict(points.numpy())
    known = (digits <= 3) | (digits >= 7)
    share = ((digits >= 7) == torch.from_numpy(cluster).bool())[known].double().mean().item()
    return max(share, 1 - share)


def plane(points, seed):
    """t-SNE of `points` [N, d] from a random start: [N, 2]."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        found = TSNE(init="random", random_state=seed).fit_transform(points.numpy())
    return torch.from_numpy(found)


def sharpness(model):
    """Keywords of closed_form, if that is the model's head."""
    return model.head.keywords if getattr(model.head, "func", None) is closed_form else {}


def describe(model, pairs, seed, planes=False, confidences=False):
    """Measures of a trained model; none if its training diverged.

    Beside those of `look`: the error of the two likeliest digits and that of the closed form of the
    digits' scores; how often a digit is wrong; how well P(a ≤ b) is calibrated; the spread over
    parts of the test pairs, as in report 2; how the digits lie in the last layer, in numeric order,
    in clusters and as two halves; with `planes` in that of t-SNE, too, which of seed 0 is kept to
    draw it. With `confidences` what it says of the
    pairs that it tells wrong.
    """
    test_input, test_target, classes = pairs[3:]
    comparison, digits = answers(model, test_input)
    if comparison.isnan().any():
        return {}
    settings = sharpness(model)
    wrong, likeliest_wrong, closed_form_wrong = (
        mistakes(x, test_target).double()
        for x in (comparison, likeliest(digits), closed_form(digits, **settings))
    )
    probability = comparison.double().sigmoid()
    found = look(model, pairs) | {
        "likeliest_error": likeliest_wrong.mean().item(),
        "closed_form_error": closed_form_wrong.mean().item(),
        "digit_error": (digits.argmax(dim=2) != classes).double().mean().item(),
        "calibration": calibration(probability, test_target),
        "deviation_of_parts": statistics.stdev(x.mean().item() for x in wrong.chunk(PARTS)),
    }
    if confidences:
        found["wrong"] = [
            [n, *classes[n].tolist(), round(probability[n].item(), 4)]
            for n in wrong.nonzero().flatten().tolist()
        ]
    # A shared net has a vector for each digit; others are taken to have one for the pair.
    axis = readout(model.head, digits)
    if isinstance(model.net, (Shared, Either)):
        points, labels = digits.flatten(0, 1), classes.flatten()
        if axis is not None:
            found["order_along_readout"] = order(digits[:, 0], classes[:, 0], axis[0])
    else:
        points, labels = digits.flatten(1), classes[:, 0]
        if axis is not None:
            found["order_along_readout"] = order(points, labels, axis.flatten())
    found["order"] = order(points, labels)
    points, labels = points[:SHOWN], labels[:SHOWN]
    found["nearest_error"], found["halves"] = nearest_error(points, labels), halves(points, labels)
    if planes:
        points = plane(points, seed)
        found["order_in_plane"] = order(points, labels)
        if seed == 0:
            rows = torch.cat([points, labels.unsqueeze(1)], dim=1).tolist()
            found["plane"] = [[round(value, 2) for value in row] for row in rows]
    return found
