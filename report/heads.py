"""Can a learned comparison match the closed form? Heads trained on a net's frozen scores.

They see the scores of the very training pairs, or of 4000 other pairs of training images, nearly
all of which the net was not trained on. What they are trained with was chosen on validation pairs
under other seeds (exploration.txt).
"""

import torch
import torch.nn.functional as F

from data import draw_pairs, load_mnist
from models import closed_form
from report.measures import answers, calibration
from report.nets import HEADS
from train import mistakes

EPOCHS, BATCH = 100, 100  # with Adam, at these rates:
RATES = {
    "linear": 0.01,
    "MLP": 0.001,
    "MLP of probabilities": 0.001,
    "probabilities": 0.1,
    "products": 0.01,
}
MORE, SEED = 4000, 2_000_000  # further pairs, and the seed of round 0's


def learn(make, scores, target, seed, rate, epochs=EPOCHS):
    """A head trained on scores [N, 2, 10] and targets [N] by binary cross-entropy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = make()
    optimizer = torch.optim.Adam(head.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(target), generator=generator).split(BATCH):
            log_odds = head(scores[batch])
            loss = F.binary_cross_entropy_with_logits(log_odds, target[batch].float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return head


@torch.no_grad()
def judge(head, scores, target):
    """Error, cross-entropy (mean of the pairs, in nats) and calibration of a comparison."""
    log_odds = head(scores)
    return {
        "error": mistakes(log_odds, target).double().mean().item(),
        "loss": F.binary_cross_entropy_with_logits(log_odds, target.float()).item(),
        "calibration": calibration(log_odds.double().sigmoid(), target),
    }


def rivals(model, pairs, seed):
    """What `judge` says of each head, and of the closed form, on the test pairs of a round."""
    more = draw_pairs(MORE, *load_mnist()[:2], torch.Generator().manual_seed(SEED + seed))
    scores, test_scores = (answers(model, pairs[n])[1] for n in (0, 3))
    found = {"closed form": judge(closed_form, test_scores, pairs[4])}
    for name, make in HEADS.items():
        head = learn(make, scores, pairs[1], seed, RATES[name])
        found[name] = judge(head, test_scores, pairs[4])
        head = learn(make, answers(model, more[0])[1], more[1], seed, RATES[name])
        found[f"{name}, {MORE} other pairs"] = judge(head, test_scores, pairs[4])
    return found
