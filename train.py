"""One training run: mini-batch SGD or Adam, optionally with report 1's adaptive learning rate."""

import math

import torch
import torch.nn.functional as F

from models import predict

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}

SLOWEST_FALL = 0.03  # of the loss, from one epoch to the next, that leaves the rate alone
LOWEST_RATE = 1e-4  # without this floor sub_lenet5_ws, which starts here, ends at chance


def total_loss(comparison, digits, target, classes, comparison_weight, digit_weight):
    """The weighted sum of the main loss and the auxiliary one, means over the batch; 0-d.

    Main: binary cross-entropy of `comparison` [N] with `target` [N]. Auxiliary: cross-entropy of
    `digits` [N, 2, 10] with `classes` [N, 2], first digit plus second (report 1, section V; report
    2, section II.4). A loss of weight 0 is not computed.
    """
    loss = 0
    if comparison_weight:
        main_loss = F.binary_cross_entropy_with_logits(comparison, target.float())
        loss = loss + comparison_weight * main_loss
    if digit_weight:
        first_loss = F.cross_entropy(digits[:, 0], classes[:, 0])
        second_loss = F.cross_entropy(digits[:, 1], classes[:, 1])
        loss = loss + digit_weight * (first_loss + second_loss)
    return loss


def adapt(learning_rate, loss, previous_loss):
    """Report 1, section VII: halve the rate after an epoch in which the loss fell by less than 3%.

    Never below 1e-4; a rate that is lower from the start stays as it is.
    """
    if loss > (1 - SLOWEST_FALL) * previous_loss:
        return max(learning_rate / 2, min(learning_rate, LOWEST_RATE))
    return learning_rate


@torch.no_grad()
def evaluate(model, test_input, test_target):
    """The share of pairs, 0 to 1, that `model` gets wrong; leaves it in evaluation mode."""
    model.eval()
    wrong = predict(*model(test_input)) != test_target.bool()
    return wrong.float().mean().item()


def train(
    model,
    train_set,
    test_set,
    generator,
    *,
    optimizer,
    learning_rate,
    batch_size,
    epochs,
    adaptive,
    comparison_weight,
    digit_weight,
):
    """Train `model` in place and return its history, a list of `epochs` values each:

    "loss" (mean over the epoch's pairs), "learning_rate" (the epoch's) and "test_error" (after it,
    0 to 1).

    train_set is (train_input, train_target, train_classes), test_set (test_input, test_target), on
    the model's device; the test set serves for "test_error" alone. `generator`, on the CPU, draws
    the order of the pairs anew for each epoch. "adam" or "sgd" (without momentum) is the optimizer.
    """
    optimizer = OPTIMIZERS[optimizer](model.parameters(), lr=learning_rate)
    nb = len(train_set[0])
    history = {"loss": [], "learning_rate": [], "test_error": []}
    previous_loss = math.inf
    for _ in range(epochs):
        model.train()
        order = torch.randperm(nb, generator=generator).to(train_set[0].device)
        summed_loss = 0.0
        for batch in order.split(batch_size):
            input, target, classes = (tensor[batch] for tensor in train_set)
            loss = total_loss(*model(input), target, classes, comparison_weight, digit_weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            summed_loss += loss.detach() * len(batch)
        epoch_loss = summed_loss.item() / nb
        history["loss"].append(epoch_loss)
        history["learning_rate"].append(learning_rate)
        history["test_error"].append(evaluate(model, *test_set))
        if adaptive:
            learning_rate = adapt(learning_rate, epoch_loss, previous_loss)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
        previous_loss = epoch_loss
    return history
