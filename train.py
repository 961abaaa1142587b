"""Training: one model on one set of pairs or, at the end of the file, several as a stack.

Tensors of one round have the pairs as their first axis, [N, ...]; those of a stack of R rounds have
the rounds as their second, [N, R, ...]. Means and sums over axis 0 serve both: [] or [R].
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch.func import functional_call, stack_module_state
from torch.optim.lr_scheduler import OneCycleLR

import data


def total_loss(comparison, digits, target, classes, comparison_weight, digit_weight, smoothing=0):
    """The weighted sum of the main and the auxiliary loss, means over the pairs: [] or [R].

    Main: binary cross-entropy of `comparison` [N] with `target` [N]. Auxiliary: cross-entropy, with
    label smoothing, of `digits` [N, 2, 10] with `classes` [N, 2], first digit plus second (report
    1, section V; report 2, section II.4); of log-probabilities it is the negative log-likelihood.
    """
    if comparison.shape != target.shape or digits.shape != (*classes.shape, 10):
        shapes = [tuple(tensor.shape) for tensor in (comparison, digits)]
        raise ValueError(f"the model must return [N] and [N, 2, 10] for N pairs, not {shapes}")
    if comparison_weight and not comparison.requires_grad:
        raise ValueError("comparison_weight must be 0: the model's comparison learns nothing")
    loss = 0
    if comparison_weight:
        target = target.to(comparison)
        main = F.binary_cross_entropy_with_logits(comparison, target, reduction="none")
        loss = loss + comparison_weight * main.mean(dim=0)
    if digit_weight:
        scores, labels = digits.flatten(end_dim=-2), classes.flatten()
        auxiliary = F.cross_entropy(scores, labels, reduction="none", label_smoothing=smoothing)
        loss = loss + digit_weight * auxiliary.view_as(classes).sum(dim=-1).mean(dim=0)
    return loss


def mistakes(comparison, target):
    """1 for each pair that is told wrong, 0 if right, NaN if the model has no answer; [N]."""
    wrong = (comparison > 0) != target.bool()
    return wrong.float().where(~comparison.isnan(), math.nan)


@torch.no_grad()
def evaluate(model, test_input, test_target):
    """The model's error in evaluation mode, in which it is left: 0 to 1, or NaN; [] or [R]."""
    model.eval()
    # of a copy, as a model may change its input; and in parts, which fit a core's cache
    parts = zip(test_input.clone().split(100), test_target.split(100), strict=True)
    wrong = sum(mistakes(model(pairs)[0], target).sum(dim=0) for pairs, target in parts)
    return wrong.cpu().double() / len(test_target)


def shuffled(input, target, classes, generator=None, copies=0, distort=None):
    """The pairs in a new order; if `copies` is not 0, so many distorted copies of each instead."""
    if copies:
        input = torch.cat([distort(input, generator) for _ in range(copies)])
        target, classes = target.repeat(copies), classes.repeat(copies, 1)
    order = torch.randperm(len(target), generator=generator).to(input.device)
    return input.reshape(*target.shape, 2, 14, 14)[order], target[order], classes[order]


def train(
    model,
    train_set,
    test_set,
    generator=None,
    *,
    optimizer="Adam",  # or "AdamW", "SGD", of torch.optim
    learning_rate=0.001,  # of "one-cycle" the highest
    weight_decay=0.0,
    momentum=0.0,  # of "SGD"
    schedule="constant",  # or "adaptive" (report 1, section VII), "one-cycle" (Smith, 2018)
    lowest_rate=1e-4,  # of "adaptive": without it sub_lenet5_ws, which starts here, ends at chance
    batch_size=100,  # pairs
    epochs=25,
    comparison_weight=1.0,  # of the main loss
    digit_weight=0.0,  # of the auxiliary loss
    label_smoothing=0.0,  # of the auxiliary loss's labels, 0 to 1
    rotation=0.0,  # degrees: if not 0, a copy of each pair, turned by up to this, joins (report 2)
    copies=0,  # if not 0, all epochs but the last have so many distortions of each pair instead
    distort=data.distort,  # what distorts: input, generator -> a new input
):
    """Train `model` in place; return its history, by name a list with a value for each epoch.

    "loss" is the mean over the epoch's pairs, "train_error" the error on its batches as they were
    trained on, "test_error" that on `test_set` after it, both 0 to 1, or NaN; "learning_rate" is
    that of its first step. `train_set` and `test_set` are the first and the last three tensors of
    generate_pair_sets, on the model's device (the last of all is not used). `generator`, on the
    CPU, draws augmentation and order, or torch's global one does; of a Stack it is a list of R.
    Raises ValueError, or what torch raises, if arguments are wrong.
    """
    for name, value in {"batch_size": batch_size, "epochs": epochs}.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} is {value!r}, it must be a whole number above 0")
    if optimizer not in ("Adam", "AdamW", "SGD"):
        raise ValueError(f"optimizer is {optimizer!r}, it must be Adam, AdamW or SGD")
    if schedule not in ("constant", "adaptive", "one-cycle"):
        raise ValueError(f"schedule is {schedule!r}, it must be constant, adaptive or one-cycle")
    weights = comparison_weight, digit_weight, label_smoothing
    others = (momentum, lowest_rate, rotation)
    if not all(0 <= x < math.inf for x in weights + others) or weights[:2] == (0, 0):
        names = "momentum, lowest_rate, rotation, label_smoothing and both weights"
        raise ValueError(f"{names} must be finite and not below 0, and one of the weights above it")
    if rotation:
        train_set = each_round(data.add_rotated, train_set, generator, rotation)
    copies_by_epoch = [copies] * (epochs - 1) + [0]
    rounds = model.rounds if isinstance(model, Stack) else [model]
    groups = [{"params": one.parameters()} for one in rounds]
    settings = {"lr": float(learning_rate + 0), "weight_decay": weight_decay, "fused": True}
    settings |= {"momentum": momentum} if momentum else {}  # which only SGD takes
    optimizer = getattr(torch.optim, optimizer)(groups, **settings)
    if schedule == "one-cycle":
        steps = sum(math.ceil(max(1, n) * len(train_set[0]) / batch_size) for n in copies_by_epoch)
        cycle = OneCycleLR(optimizer, settings["lr"], total_steps=steps, cycle_momentum=False)
    history = {"loss": [], "train_error": [], "test_error": [], "learning_rate": []}
    previous_losses = [math.inf] * len(groups)
    for copies in copies_by_epoch:
        rates = torch.tensor([group["lr"] for group in optimizer.param_groups], dtype=torch.double)
        epoch_set = each_round(shuffled, train_set, generator, copies, distort)
        loss_sum, wrong = 0, 0
        model.train()
        for pairs, target, classes in zip(*(tensor.split(batch_size) for tensor in epoch_set)):
            comparison, digits = model(pairs)
            loss = total_loss(comparison, digits, target, classes, *weights)
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            if schedule == "one-cycle":
                cycle.step()
            loss_sum = loss_sum + loss.detach() * len(pairs)
            wrong = wrong + mistakes(comparison, target).sum(dim=0)
        losses, train_errors = (x.cpu().double() / len(epoch_set[0]) for x in (loss_sum, wrong))
        values = losses, train_errors, evaluate(model, *test_set[:2]), rates.view(losses.shape)
        for name, value in zip(history, values):
            history[name].append(value.tolist())
        losses = losses.view(-1).tolist()
        if schedule == "adaptive":  # halve the rate where the loss fell by less than 3%
            for group, now, before in zip(optimizer.param_groups, losses, previous_losses):
                if now > (1 - 0.03) * before:
                    group["lr"] = max(group["lr"] / 2, min(group["lr"], lowest_rate))
        previous_losses = losses
    return history


def each_round(function, tensors, generator, *arguments):
    """function(*tensors, generator, *arguments); round by round where there is a generator each."""
    if not isinstance(generator, list):
        return function(*tensors, generator, *arguments)
    found = [function(*one, *arguments) for one in zip(*(x.unbind(1) for x in tensors), generator)]
    return [torch.stack(parts, dim=1) for parts in zip(*found)]


class Stack(torch.nn.Module):
    """R models of one kind as one, to fill a GPU: [N, R, 2, 14, 14] to [N, R] and [N, R, 2, 10].

    Their parameters are stacked as it runs, so that each gets its own gradient; their buffers are
    views of stacked ones from now on, to be changed in place. A CPU takes Convolutions in float64.
    """

    def __init__(self, models):
        super().__init__()
        self.rounds, (_, self.stacked) = torch.nn.ModuleList(models), stack_module_state(models)
        for name, buffers in self.stacked.items():
            for model, buffer in zip(models, buffers):
                model.get_buffer(name).data = buffer

    def forward(self, pairs):
        by_name = zip(*(model.named_parameters() for model in self.rounds))
        state = {named[0][0]: torch.stack([x for _, x in named]) for named in by_name}
        by_round = pairs.transpose(0, 1).contiguous()  # a model may use view
        one = partial(functional_call, self.rounds[0])
        return torch.vmap(one, out_dims=1, randomness="different")(state | self.stacked, by_round)
