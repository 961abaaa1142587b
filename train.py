"""Training: one model on one set of pairs; and a round, all of which is drawn from its seed."""

import math
import time

import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import TensorDataset

import data


def shapes(value):
    """What a model returned, in words: the shapes of tensors, the types of all else."""
    if isinstance(value, (tuple, list)):
        return [shapes(part) for part in value]
    return [*value.shape] if isinstance(value, torch.Tensor) else type(value).__name__


def ask(model, pairs):
    """The model's answer to N pairs: comparison [N], and digits [N, 2, 10] or None."""
    answer = model(pairs)
    nb = len(pairs)
    found = shapes(answer)
    if found not in ([[nb], [nb, 2, 10]], [[nb], "NoneType"]):
        raise ValueError(f"the model must return [N] and [N, 2, 10] for N pairs, not {found}")
    return answer


def total_loss(comparison, digits, target, classes, comparison_weight, digit_weight, smoothing=0):
    """The weighted sum of the main and the auxiliary loss, means over the pairs.

    Main: binary cross-entropy of `comparison` [N] with `target` [N]. Auxiliary: cross-entropy, with
    label smoothing, of `digits` [N, 2, 10] with `classes` [N, 2], first digit plus second (report
    1, section V; report 2, section II.4); of log-probabilities it is the negative log-likelihood.
    """
    if comparison_weight and not comparison.requires_grad:
        raise ValueError("comparison_weight must be 0: the model's comparison learns nothing")
    if digit_weight and digits is None:
        raise ValueError("digit_weight must be 0: the model returns no digits")
    loss = 0
    if comparison_weight:
        loss = comparison_weight * F.binary_cross_entropy_with_logits(
            comparison, target.to(comparison)
        )
    if digit_weight:
        scores, labels = digits.flatten(end_dim=1), classes.flatten()
        auxiliary = F.cross_entropy(scores, labels, label_smoothing=smoothing)
        loss += digit_weight * 2 * auxiliary  # a mean over both digits, of which a sum is due
    return loss


def mistakes(comparison, target):
    """1 for each pair that is told wrong, 0 if right, NaN if the model has no answer; [N]."""
    wrong = (comparison > 0) != target.bool()
    return wrong.float().masked_fill(comparison.isnan(), math.nan)


@torch.inference_mode()
def evaluate(model, test_input, test_target):
    """The model's error in evaluation mode, in which it is left: 0 to 1, or NaN."""
    model.eval()
    # in parts, which fit a core's cache; of a copy, as a model may change its input
    parts = zip(test_input.clone().split(100), test_target.split(100), strict=True)
    wrong = [mistakes(ask(model, x)[0], y) for x, y in parts]
    return torch.cat(wrong).sum().item() / len(test_target)


def shuffled(input, target, classes, generator=None, copies=0, distort=None):
    """The pairs in a new order; if `copies` is not 0, so many distorted copies of each instead."""
    if copies:
        input = torch.cat([distort(input.clone(), generator) for _ in range(copies)])
        target, classes = target.repeat(copies), classes.repeat(copies, 1)
    order = torch.randperm(len(input), generator=generator)
    return TensorDataset(input, target, classes)[order]  # it checks that they are as many


def train(
    model,
    train_set,
    test_set,
    generator=None,
    *,
    optimizer="Adam",  # or "AdamW", "SGD", of torch.optim
    learning_rate=0.001,  # of "one-cycle" the highest
    weight_decay=0.0,
    momentum=0.0,  # of "SGD"; of the others the first beta, 0 stands for their own, 0.9
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
    CPU, draws augmentation and order, or torch's global one does. Raises ValueError, or what torch
    raises, if arguments are wrong.
    """
    if schedule not in ("constant", "adaptive", "one-cycle"):
        raise ValueError(f"schedule is {schedule!r}, it must be constant, adaptive or one-cycle")
    if epochs < 1 or not (comparison_weight or digit_weight):
        raise ValueError("nothing to learn: epochs is below 1, or both losses' weights are 0")
    weights = comparison_weight, digit_weight, label_smoothing
    if rotation:
        train_set = data.add_rotated(*train_set, generator, rotation)

    settings = {"lr": float(learning_rate), "weight_decay": weight_decay, "fused": True}
    if optimizer == "SGD":
        settings["momentum"] = momentum
    elif momentum:
        settings["betas"] = (momentum, 0.999)
    optimizer = getattr(torch.optim, optimizer)(model.parameters(), **settings)
    (group,) = optimizer.param_groups
    copies_by_epoch = [copies] * (epochs - 1) + [0]
    if schedule == "one-cycle":
        nb_pairs = len(train_set[0])
        nb_steps = sum(math.ceil(max(1, n) * nb_pairs / batch_size) for n in copies_by_epoch)
        # of fewer than four it would have the last ones, whose rate is next to nothing
        cycle = OneCycleLR(optimizer, group["lr"], max(4, nb_steps), cycle_momentum=False)

    history = {"loss": [], "train_error": [], "test_error": [], "learning_rate": []}
    for nb_copies in copies_by_epoch:
        history["learning_rate"].append(group["lr"])
        epoch_set = shuffled(*train_set, generator, nb_copies, distort)
        nb_epoch = len(epoch_set[0])
        loss_sum = 0
        wrong = 0
        model.train()
        for pairs, target, classes in zip(*(tensor.split(batch_size) for tensor in epoch_set)):
            comparison, digits = ask(model, pairs)
            loss = total_loss(comparison, digits, target, classes, *weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule == "one-cycle":
                cycle.step()
            loss_sum += loss.detach() * len(pairs)
            wrong += mistakes(comparison, target).sum()
        history["loss"].append(loss_sum.item() / nb_epoch)
        history["train_error"].append(wrong.item() / nb_epoch)
        history["test_error"].append(evaluate(model, *test_set[:2]))
        losses = history["loss"]
        if schedule == "adaptive" and len(losses) > 1 and losses[-1] > 0.97 * losses[-2]:
            group["lr"] = max(group["lr"] / 2, min(group["lr"], lowest_rate))
    return history


def train_round(model, seed, draw, device="cpu", **arguments):
    """Train a fresh `model()` on fresh pairs, with all that is random drawn from `seed`.

    `draw` maps a generator to the six tensors of generate_pair_sets; `arguments` are those of
    `train`. Returns the model, the pairs and what a log has of the round: its history, in which
    None stands for what is no number; the model's number of "parameters"; whether it "diverged": a
    loss, a test error or a parameter is no finite number, or a buffer is NaN; whether it gives
    "one_answer" to all test pairs; and the "seconds" that it took.
    """
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    pairs = [tensor.to(device) for tensor in draw(generator)]
    weight_seed, training_seed = torch.randint(2**32, (2,), generator=generator).tolist()
    with torch.random.fork_rng(devices=[]):  # gives torch's global generator back as it was
        torch.manual_seed(weight_seed)  # layers draw from it
        net = model().to(device)
        generator.manual_seed(training_seed)
        history = train(net, pairs[:3], pairs[3:], generator, **arguments)
    outcome = {
        "seconds": time.perf_counter() - start,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
    }
    for name, values in history.items():
        outcome[name] = [value if math.isfinite(value) else None for value in values]
    with torch.no_grad():  # in PyTorch's own layout, as oneDNN's hides NaN
        comparison, _ = net(pairs[3])
    outcome["one_answer"] = len((comparison > 0).unique()) == 1
    outcome["diverged"] = bool(
        None in outcome["loss"] + outcome["test_error"]
        or comparison.isnan().any()
        or not all(parameter.isfinite().all() for parameter in net.parameters())
        or any(buffer.isnan().any() for buffer in net.buffers())  # which may hold infinite masks
    )
    return net, pairs, outcome
