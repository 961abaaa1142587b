"""Training: optimizers, losses, schedules of the learning rate; one round, or several at once.

Several rounds of a model train side by side as one stack, which fills an accelerator; on a CPU a stack holds a single
round. Below, R is the number of rounds, N of pairs, P of parameters.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from data import distort

SLOWEST_FALL = 0.03  # of the loss, from one epoch to the next, that leaves the rate alone
LOWEST_RATE = 1e-4  # without this floor sub_lenet5_ws, which starts here, ends at chance
DECAY = 0.1  # of the weights, in AdamW
EVALUATED = 100  # pairs at once: what passes between layers stays in a core's cache


def sgd(parameters, gradient, state, step):
    """Plain SGD's direction, to be multiplied by the learning rate."""
    return gradient


def adam(parameters, gradient, state, step, decay=0, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """Adam's direction (Kingma and Ba, 2015) in the given step, which counts from 1, with decoupled weight decay
    (Loshchilov and Hutter, 2019) if that is not 0.

    `state` is two tensors like the parameters, zero before the first step. torch.optim.Adam takes 2 s to import what
    torch.compile needs, and one learning rate for all rounds.
    """
    mean, square = state
    mean.lerp_(gradient, 1 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    deviation = (square / (1 - beta2**step)).sqrt_().add_(epsilon)
    return (mean / (1 - beta1**step)).div_(deviation).add_(parameters, alpha=decay)


OPTIMIZERS = {"sgd": sgd, "adam": adam, "adamw": partial(adam, decay=DECAY)}
SCHEDULES = "constant", "adaptive", "one-cycle"


def total_loss(comparison, digits, target, classes, comparison_weight, digit_weight, smoothing=0):
    """The weighted sum of the main loss and the auxiliary one, means over each round's pairs: [R].

    Main: binary cross-entropy of `comparison` [R, N] with `target` [R, N]. Auxiliary: cross-entropy of `digits` [R, N,
    2, 10] with `classes` [R, N, 2], first digit plus second (report 1, section V; report 2, section II.4), with label
    smoothing (Szegedy et al., 2016) if that is not 0. Of log-probabilities it is the negative log-likelihood: a second
    log-softmax changes nothing. A loss of weight 0 is not computed.
    """
    loss = 0
    if comparison_weight:
        main = F.binary_cross_entropy_with_logits(comparison, target.float(), reduction="none")
        loss = loss + comparison_weight * main.mean(dim=1)
    if digit_weight:
        rows = digits.flatten(0, 2), classes.flatten()
        auxiliary = F.cross_entropy(*rows, reduction="none", label_smoothing=smoothing)
        loss = loss + digit_weight * auxiliary.view(classes.shape).mean(dim=1).sum(dim=1)
    return loss


def adapt(learning_rate, loss, previous_loss):
    """Report 1, section VII: halve the rate after an epoch in which the loss fell by less than 3%.

    Never below 1e-4; a rate that is lower from the start stays as it is.
    """
    if loss > (1 - SLOWEST_FALL) * previous_loss:
        return max(learning_rate / 2, min(learning_rate, LOWEST_RATE))
    return learning_rate


def one_cycle(progress, rise=0.3, start=0.04):
    """What a one-cycle schedule (Smith, 2018) makes of the learning rate after the given share of the steps, 0 to 1:
    by half a cosine up from `start` to 1, by another down to 0."""
    if progress < rise:
        return start + (1 - start) * (1 - math.cos(math.pi * progress / rise)) / 2
    return (1 + math.cos(math.pi * (progress - rise) / (1 - rise))) / 2


def stack(models):
    """`models`, of one class, as one: their parameters as a matrix [R, P], and their forward pass: forward(pairs [R,
    N, 2, 14, 14]) -> comparison [R, N], digits [R, N, 2, 10]."""
    model = models[0]
    names, shapes = zip(*((name, p.shape) for name, p in model.named_parameters()), strict=True)
    sizes = [shape.numel() for shape in shapes]
    matrix = torch.stack([parameters_to_vector(m.parameters()).detach() for m in models])
    _, buffers = torch.func.stack_module_state(models)

    def forward_one(vector, buffers, pairs):
        values = [part.view(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)]
        state = dict(zip(names, values, strict=True)) | buffers
        return torch.func.functional_call(model, state, pairs)

    def forward(pairs):
        if len(models) > 1:
            return torch.vmap(forward_one, randomness="different")(matrix, buffers, pairs)
        own_buffers = {name: buffer[0] for name, buffer in buffers.items()}
        comparison, digits = forward_one(matrix[0], own_buffers, pairs[0])
        return comparison.unsqueeze(0), digits.unsqueeze(0)

    return matrix.requires_grad_(), buffers, forward


@torch.no_grad()
def evaluate(forward, test_input, test_target):
    """The share of pairs, 0 to 1, that each round's model gets wrong: a list of R."""
    wrong = 0
    parts = zip(test_input.split(EVALUATED, dim=1), test_target.split(EVALUATED, dim=1), strict=True)
    for pairs, target in parts:
        comparison, _ = forward(pairs)
        wrong = wrong + ((comparison > 0) != target.bool()).sum(dim=1)
    return [count / test_target.shape[1] for count in wrong.tolist()]


def train(models, train_sets, test_sets, generators, *, optimizer, learning_rate, schedule, batch_size, epochs,
          comparison_weight, digit_weight, label_smoothing=0, distorted=0):  # fmt: skip
    """Train `models`, R of one class, in place and return their histories, `epochs` values each:

    "loss" (mean over the epoch's pairs), "learning_rate" (the epoch's, or its cycle's highest) and "test_error" (after
    it, 0 to 1).

    Of the lists of R, train_sets has (train_input, train_target, train_classes), test_sets (test_input, test_target),
    on the models' device; a test set serves for "test_error" alone. If `distorted` is not 0, every epoch but the last
    has so many fresh distorted copies of the pairs in their place. A generator, on the CPU, draws its round's
    distortions and the order of its pairs.
    """
    model, rounds = models[0], len(models)
    train_input, train_target, train_classes = map(torch.stack, zip(*train_sets, strict=True))
    test_input, test_target = map(torch.stack, zip(*test_sets, strict=True))
    matrix, buffers, forward = stack(models)
    state = torch.zeros_like(matrix), torch.zeros_like(matrix)
    nb, each = train_input.shape[1], torch.arange(rounds, device=matrix.device).unsqueeze(1)
    rates, previous_losses = [learning_rate] * rounds, [math.inf] * rounds
    histories = [{"loss": [], "learning_rate": [], "test_error": []} for _ in models]
    step = 0
    for epoch in range(epochs):
        model.train()
        input = train_input
        if distorted and epoch < epochs - 1:
            each_round = zip(train_input, generators, strict=True)
            copies = [torch.cat([distort(pairs, g) for _ in range(distorted)]) for pairs, g in each_round]
            input = torch.stack(copies)
        order = torch.stack([torch.randperm(input.shape[1], generator=g) for g in generators])
        batches = order.to(matrix.device).split(batch_size, dim=1)
        losses = torch.zeros(rounds, device=matrix.device)
        for n, batch in enumerate(batches):
            pairs, target, classes = input[each, batch], train_target[each, batch % nb], train_classes[each, batch % nb]
            loss = total_loss(*forward(pairs), target, classes, comparison_weight, digit_weight, label_smoothing)
            (gradient,) = torch.autograd.grad(loss.sum(), [matrix])
            rate = matrix.new_tensor(rates).unsqueeze(1)
            if schedule == "one-cycle":
                rate *= one_cycle((epoch + n / len(batches)) / epochs)
            step += 1
            with torch.no_grad():
                matrix -= rate * OPTIMIZERS[optimizer](matrix, gradient, state, step)
            losses += loss.detach() * batch.shape[1] / input.shape[1]
        model.eval()
        losses, errors = losses.tolist(), evaluate(forward, test_input, test_target)
        for history, *values in zip(histories, losses, rates, errors, strict=True):
            for name, value in zip(history, values, strict=True):
                history[name].append(value)
        if schedule == "adaptive":
            rates = list(map(adapt, rates, losses, previous_losses))
        previous_losses = losses
    for r, trained in enumerate(models):
        vector_to_parameters(matrix[r].detach(), trained.parameters())
        trained.load_state_dict({name: buffer[r] for name, buffer in buffers.items()}, strict=False)
    return histories
