"""Training runs, one or several at once: SGD or Adam, losses, report 1's adaptive learning rate."""

import math

import torch
import torch.nn.functional as F

from models import predict

SLOWEST_FALL = 0.03  # of the loss, from one epoch to the next, that leaves the rate alone
LOWEST_RATE = 1e-4  # without this floor sub_lenet5_ws, which starts here, ends at chance


def sgd(parameters):
    """Plain SGD as a function that makes a step: step(gradients, learning_rate)."""

    @torch.no_grad()
    def step(gradients, learning_rate):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= learning_rate * gradient

    return step


def adam(parameters, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """Adam (Kingma and Ba, 2015) as a function that makes a step: step(gradients, learning_rate).

    torch.optim.Adam takes 2 s to import what torch.compile needs, and one rate for all rounds.
    """
    means = [torch.zeros_like(parameter) for parameter in parameters]
    squares = [torch.zeros_like(parameter) for parameter in parameters]
    steps = 0

    @torch.no_grad()
    def step(gradients, learning_rate):
        nonlocal steps
        steps += 1
        rate = learning_rate / (1 - beta1**steps)
        state = zip(parameters, gradients, means, squares, strict=True)
        for parameter, gradient, mean, square in state:
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            deviation = (square / (1 - beta2**steps)).sqrt_().add_(epsilon)
            parameter -= rate * mean / deviation

    return step


OPTIMIZERS = {"sgd": sgd, "adam": adam}


def total_loss(comparison, digits, target, classes, comparison_weight, digit_weight):
    """The weighted sum of the main loss and the auxiliary one, means over the batch; 0-d.

    Main: binary cross-entropy of `comparison` [N] with `target` [N]. Auxiliary: cross-entropy of
    `digits` [N, 2, 10] with `classes` [N, 2], first digit plus second (report 1, section V; report
    2, section II.4). Of log-probabilities it is the negative log-likelihood: a second log-softmax
    changes nothing. A loss of weight 0 is not computed.
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
    return wrong.sum().item() / len(wrong)


def train(model, train_set, test_set, generator, *, optimizer, learning_rate, batch_size, epochs,
          adaptive, comparison_weight, digit_weight):  # fmt: skip
    """Train `model` in place and return its history, a list of `epochs` values each:

    "loss" (mean over the epoch's pairs), "learning_rate" (the epoch's) and "test_error" (after it,
    0 to 1).

    train_set is (train_input, train_target, train_classes), test_set (test_input, test_target), on
    the model's device; the test set serves for "test_error" alone. `generator`, on the CPU, draws
    the order of the pairs anew for each epoch.
    """
    parameters = list(model.parameters())
    step = OPTIMIZERS[optimizer](parameters)
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
            # zeros for a head whose loss has weight 0
            gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
            step(gradients, learning_rate)
            summed_loss += loss.detach() * len(batch)
        epoch_loss = summed_loss.item() / nb
        history["loss"].append(epoch_loss)
        history["learning_rate"].append(learning_rate)
        history["test_error"].append(evaluate(model, *test_set))
        if adaptive:
            learning_rate = adapt(learning_rate, epoch_loss, previous_loss)
        previous_loss = epoch_loss
    return history


def train_together(models, train_sets, test_sets, generators, *, optimizer, learning_rate,
                   batch_size, epochs, adaptive, comparison_weight, digit_weight):  # fmt: skip
    """`train` for several models of one class at once, as one stack, which fills an accelerator.

    Takes lists of what `train` takes one of, and returns the list of the histories. Each model
    keeps its own data, order and learning rate; the models themselves stay as they are.
    """
    model, device = models[0], train_sets[0][0].device
    names, shapes = zip(*((name, p.shape) for name, p in model.named_parameters()), strict=True)
    sizes = [shape.numel() for shape in shapes]
    vectors = [torch.cat([p.detach().flatten() for p in m.parameters()]) for m in models]
    vectors = torch.stack(vectors).requires_grad_()  # [models, parameters]
    _, buffers = torch.func.stack_module_state(models)

    def outputs(vector, buffers, input):
        values = [part.view(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)]
        state = dict(zip(names, values, strict=True)), buffers
        return torch.func.functional_call(model, state, input)

    def batch_loss(vector, buffers, input, target, classes):
        both = outputs(vector, buffers, input)
        return total_loss(*both, target, classes, comparison_weight, digit_weight)

    def count_wrong(vector, buffers, input, target):
        return (predict(*outputs(vector, buffers, input)) != target.bool()).sum()

    train_set = [torch.stack(tensors) for tensors in zip(*train_sets, strict=True)]
    test_set = [torch.stack(tensors) for tensors in zip(*test_sets, strict=True)]
    rows, nb = torch.arange(len(models), device=device).unsqueeze(1), train_set[0].shape[1]
    step = OPTIMIZERS[optimizer]([vectors])
    rates, previous_losses = [learning_rate] * len(models), [math.inf] * len(models)
    histories = [{"loss": [], "learning_rate": [], "test_error": []} for _ in models]
    for _ in range(epochs):
        model.train()
        orders = torch.stack([torch.randperm(nb, generator=g) for g in generators]).to(device)
        rate = vectors.new_tensor(rates).unsqueeze(1)
        summed_losses = vectors.new_zeros(len(models))
        for batch in orders.split(batch_size, dim=1):
            tensors = (tensor[rows, batch] for tensor in train_set)
            losses = torch.vmap(batch_loss, randomness="different")(vectors, buffers, *tensors)
            step(torch.autograd.grad(losses.sum(), [vectors]), rate)
            summed_losses += losses.detach() * batch.shape[1]
        model.eval()
        with torch.no_grad():
            wrong = torch.vmap(count_wrong)(vectors, buffers, *test_set).tolist()
        errors = [count / test_set[0].shape[1] for count in wrong]
        epoch_losses = (summed_losses / nb).tolist()
        for history, *values in zip(histories, epoch_losses, rates, errors, strict=True):
            for name, value in zip(history, values, strict=True):
                history[name].append(value)
        if adaptive:
            rates = list(map(adapt, rates, epoch_losses, previous_losses))
        previous_losses = epoch_losses
    return histories
