"""train.py against steps worked by hand and against a textbook loop."""

import copy
import inspect
import math
from itertools import chain

import pytest
import torch
from torch import nn

import data
import train as train_module
from data import generate_pair_sets
from models import (
    Model,
    Shared,
    baseline,
    lenet_digit,
    lenet_head,
    likeliest,
    siamese,
    sub_lenet5_ws,
    trunk,
)
from test import EXPERIMENTS
from train import Stack, mistakes, total_loss, train

SGD = dict(optimizer="SGD", learning_rate=0.5, batch_size=2, epochs=1)


class Mean(nn.Module):
    """One weight w, from 0: log-odds w · (mean of the pair). It notes what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen = {True: [], False: []}  # in training, in evaluation

    def forward(self, pairs):
        mean = pairs.mean(dim=(1, 2, 3))
        self.seen[self.training].append(mean.tolist())
        return self.weight * mean, torch.zeros(len(pairs), 2, 10) + self.weight


def numbered(nb, target=None):
    """`nb` pairs, the n-th filled with n + 1."""
    input = torch.arange(1.0, nb + 1).view(-1, 1, 1, 1).expand(-1, 2, 14, 14)
    target = torch.ones(nb, dtype=torch.long) if target is None else target
    return input, target, torch.zeros(nb, 2, dtype=torch.long)


def run(model, train_set, test_set=None, seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    return train(model, train_set, test_set or train_set, generator, **(SGD | changes))


# The losses and the error


def test_losses_by_hand():
    """Log-odds 0 cost log 2; ten equal scores cost log 10 a digit. As a stack of two rounds, whose
    second has other log-odds, each has its own mean."""
    comparison, digits = torch.zeros(4, 2, requires_grad=True), torch.zeros(4, 2, 2, 10)
    offset = torch.tensor([0.0, 100.0])
    target = torch.tensor([[0, 0], [1, 1], [1, 1], [0, 0]])
    classes = torch.tensor([0, 9]).expand(4, 2, 2)

    def loss(*weights):
        return total_loss(comparison + offset, digits, target, classes, *weights).tolist()

    assert loss(1, 0) == pytest.approx([math.log(2), 50])
    assert loss(0, 1) == pytest.approx([2 * math.log(10)] * 2)
    assert loss(0.5, 3)[0] == pytest.approx(0.5 * math.log(2) + 6 * math.log(10))
    one = (comparison[:, 0], digits[:, 0], target[:, 0], classes[:, 0])
    assert total_loss(*one, 0.5, 3).item() == pytest.approx(0.5 * math.log(2) + 6 * math.log(10))


def test_each_digit_has_its_own_loss():
    """The first digit's scores against the first class, the second's against the second."""
    digits = torch.zeros(1, 2, 10)
    digits[0, 0, 3], digits[0, 1, 8] = 100.0, 100.0
    comparison = target = torch.zeros(1)
    right = total_loss(comparison, digits, target, torch.tensor([[3, 8]]), 0, 1)
    swapped = total_loss(comparison, digits, target, torch.tensor([[8, 3]]), 0, 1)
    assert right.item() == pytest.approx(0) and swapped.item() == pytest.approx(200)


def test_label_smoothing_by_hand():
    """A tenth of the label spread over ten digits: nine of them, a hundredth each, cost 100."""
    digits = torch.zeros(1, 2, 10)
    digits[0, :, 3] = 100.0
    loss = total_loss(torch.zeros(1), digits, torch.zeros(1), torch.tensor([[3, 3]]), 0, 1, 0.1)
    assert loss.item() == pytest.approx(2 * 9 * 0.01 * 100)


def test_mistakes():
    """Positive log-odds say yes, 0 and negative ones no, infinite ones too; NaN is no answer."""
    comparison = torch.tensor([2.0, -2.0, 0.0, math.inf, -math.inf, math.nan])
    for target, expected in ((1, [0, 1, 1, 0, 1]), (0, [1, 0, 0, 1, 0])):
        found = mistakes(comparison, torch.full((6,), target)).tolist()
        assert found[:5] == expected and math.isnan(found[5])


# Steps by hand


def test_an_sgd_step_by_hand():
    """Two pairs of mean 1 and 2, target 1, w = 0: gradient (0.5 - 1) · 1.5, rate 0.5. At w = 0 the
    log-odds are 0, which says no, afterwards they are positive."""
    model = Mean()
    history = run(model, numbered(2))
    assert model.weight.item() == pytest.approx(0.375)
    assert history == {
        "loss": [pytest.approx(math.log(2))],
        "train_error": [1.0],
        "test_error": [0.0],
        "learning_rate": [0.5],
    }


def test_an_adam_step_by_hand():
    """Adam's first step is the learning rate, whatever the gradient's size."""
    model = Mean()
    run(model, numbered(2), optimizer="Adam", learning_rate=0.01)
    assert model.weight.item() == pytest.approx(0.01)


def test_two_sgd_steps_by_hand():
    """The second step's gradient is its own, not the sum of both."""
    model = Mean()
    run(model, numbered(1), epochs=2)
    w = 0.25
    w += 0.5 * (1 - 1 / (1 + math.exp(-w)))
    assert model.weight.item() == pytest.approx(w)


def test_momentum_by_hand():
    """The second step is its own gradient and 0.9 of the first."""
    model = Mean()
    run(model, numbered(1), epochs=2, momentum=0.9)
    w = 0.25
    w += 0.5 * (1 - 1 / (1 + math.exp(-w))) + 0.9 * 0.25
    assert model.weight.item() == pytest.approx(w)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_weight_decay_by_hand(optimizer):
    """Without a gradient (the pair is black) a step takes rate · decay of the weight away."""
    model = Mean()
    model.weight.data.fill_(2.0)
    black = (torch.zeros(1, 2, 14, 14), *numbered(1)[1:])
    run(model, black, optimizer=optimizer, weight_decay=0.1)
    assert model.weight.item() == pytest.approx(2 - 0.5 * 0.1 * 2)


# Learning rates


def test_the_adaptive_rule_by_hand():
    """One pair of mean 1 and target 1, plain steps: w, its loss and the rule that halves the rate
    where the loss fell by less than 3%, worked along, down to the floor, which is not crossed."""
    model = Mean()
    settings = dict(epochs=60, schedule="adaptive", learning_rate=0.08, lowest_rate=0.03)
    history = run(model, numbered(1), **settings)
    w, rate, previous, rates = 0.0, 0.08, math.inf, []
    for _ in range(60):
        rates.append(rate)
        loss = math.log(1 + math.exp(-w))
        w += rate * (1 - 1 / (1 + math.exp(-w)))
        if loss > 0.97 * previous:
            rate = max(rate / 2, 0.03)
        previous = loss
    assert history["learning_rate"] == pytest.approx(rates)
    assert model.weight.item() == pytest.approx(w, rel=1e-5)
    assert rates[:2] == [0.08, 0.08] and set(rates) == {0.08, 0.04, 0.03}


@pytest.mark.parametrize(
    ("learning_rate", "lowest_rate", "expected"),
    [
        (0.5, 1e-4, [0.5, 0.5, 0.25, 0.125]),  # the first epoch has none before it
        (3e-4, 1e-4, [3e-4, 3e-4, 1.5e-4, 1e-4]),
        (1e-4, 1e-4, [1e-4] * 4),
        (1e-5, 1e-4, [1e-5] * 4),  # below the floor from the start: not raised
        (1e-4, 0.0, [1e-4, 1e-4, 5e-5, 2.5e-5]),
    ],
)
def test_the_adaptive_rule_where_the_loss_stays(learning_rate, lowest_rate, expected):
    """Black pairs have nothing to learn from."""
    black = (torch.zeros(2, 2, 14, 14), torch.tensor([0, 1]), numbered(2)[2])
    settings = dict(epochs=4, learning_rate=learning_rate, lowest_rate=lowest_rate)
    history = run(Mean(), black, schedule="adaptive", **settings)
    assert history["learning_rate"] == pytest.approx(expected)
    constant = run(Mean(), black, schedule="constant", **settings)
    assert constant["learning_rate"] == [learning_rate] * 4


@pytest.mark.parametrize(
    ("percent", "halved"), [(2.0, True), (2.9, True), (3.1, False), (4.0, False)]
)
def test_the_adaptive_rule_halves_below_three_percent(percent, halved):
    """One plain step from log-odds 0, whose rate is such that the loss log 2 falls by `percent`."""
    w = -math.log(2 ** (1 - percent / 100) - 1)
    settings = dict(learning_rate=2 * w, epochs=3, schedule="adaptive")
    history = run(Mean(), numbered(1), **settings)
    assert 100 * (1 - history["loss"][1] / history["loss"][0]) == pytest.approx(percent, abs=0.01)
    assert history["learning_rate"][2] == pytest.approx(w if halved else 2 * w)


def test_the_one_cycle_schedule_by_hand():
    """51 plain steps of one pair: by half a cosine from a 25th of the rate up to it, which is
    reached at 30% of the steps, and by another one down to next to nothing (Smith, 2018)."""
    model = Mean()
    history = run(model, numbered(1), epochs=51, schedule="one-cycle")
    w, top = 0.0, 0.3 * 51 - 1
    for n in range(51):
        if n <= top:
            rate = 0.02 + 0.48 * (1 - math.cos(math.pi * n / top)) / 2
        else:
            rate = 0.5 * (1 + math.cos(math.pi * (n - top) / (50 - top))) / 2
        assert history["learning_rate"][n] == pytest.approx(rate, abs=1e-5)
        w += rate * (1 - 1 / (1 + math.exp(-w)))
    assert model.weight.item() == pytest.approx(w, rel=1e-4)


def test_the_one_cycle_schedule_ends_with_the_last_step():
    """Three epochs of 20, 20 and, without copies, 10 pairs in batches of 3 are 7 + 7 + 4 steps: a
    rate that the epochs start with is that of steps 0, 7 and 14 of 18. Adam's beta1 stays."""
    seen = []

    def spy(input, generator):
        return input.clone()

    class Spy(Mean):
        def forward(self, pairs):
            if self.training:
                seen.append(len(pairs))
            return super().forward(pairs)

    settings = dict(schedule="one-cycle", batch_size=3, epochs=3, copies=2, distort=spy)
    history = run(Spy(), numbered(10), optimizer="Adam", **settings)
    assert seen == [3] * 6 + [2] + [3] * 6 + [2] + [3, 3, 3, 1]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.5, total_steps=18, cycle_momentum=False
    )
    rates = []
    for _ in range(18):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cycle.step()
    assert history["learning_rate"] == [rates[0], rates[7], rates[14]]


def test_one_cycle_leaves_adams_momentum_alone(monkeypatch):
    betas = []

    class Spy(torch.optim.Adam):
        def step(self):
            betas.append(self.param_groups[0]["betas"])
            return super().step()

    monkeypatch.setattr(torch.optim, "Adam", Spy)
    run(Mean(), numbered(10), optimizer="Adam", schedule="one-cycle", epochs=3)
    assert set(betas) == {(0.9, 0.999)}


# Batches, augmentation, evaluation


def test_every_pair_once_an_epoch_in_new_order():
    model = Mean()
    run(model, numbered(100), batch_size=37, epochs=2)
    batches = model.seen[True]
    assert [len(batch) for batch in batches] == [37, 37, 26] * 2
    first, second = list(chain(*batches[:3])), list(chain(*batches[3:]))
    assert sorted(first) == sorted(second) == list(range(1, 101))
    assert first != second and first != sorted(first)


def test_a_seed_gives_the_same_training_and_another_seed_another():
    trainings = []
    for seed in (0, 1, 0):
        model = Mean()
        run(model, numbered(10), seed=seed)
        trainings.append(model.seen[True])
    assert trainings[0] == trainings[2] != trainings[1]


class Centre(nn.Module):
    """Notes the pairs it trains on, by the pixel in the middle of the second image."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(())), []

    def forward(self, pairs):
        if self.training:
            self.seen.extend(map(tuple, pairs.flatten(1).tolist()))
        return pairs[:, 1, 7, 7] + self.weight, torch.zeros(len(pairs), 2, 10)


def test_distorted_copies_take_the_place_of_the_pairs(monkeypatch):
    """Three epochs of ten pairs, the n-th filled with n + 1 and labelled so: two of twenty
    distorted ones, each pair twice and never the same, then one of the pairs. Labels stay."""
    labels = []

    def spy(comparison, digits, target, classes, *weights):
        labels.extend(zip(comparison.tolist(), target.tolist(), classes[:, 0].tolist()))
        return total_loss(comparison, digits, target, classes, *weights)

    monkeypatch.setattr(train_module, "total_loss", spy)
    numbers, model = torch.arange(1, 11), Centre()
    train_set = numbered(10, numbers)[0], numbers, numbers.view(-1, 1).expand(-1, 2)
    run(model, train_set, numbered(1), epochs=3, copies=2, batch_size=7, learning_rate=1e-9)
    assert all(round(centre) == target == digit for centre, target, digit in labels)
    order = [number for _, _, number in labels]
    assert sorted(order[:20]) == sorted(order[20:40]) == sorted([*range(1, 11)] * 2)
    assert sorted(order[40:]) == list(range(1, 11)) and order[:20] != order[20:40]
    seen = model.seen
    assert len(set(seen[:40])) == 40 and all(len(set(pixels)) == 1 for pixels in seen[40:])


def test_rotated_copies_join_the_pairs(pair_sets):
    """Report 2: each epoch has the pairs and one rotated copy of each, the same in every epoch."""
    model, train_set = Centre(), [tensor[:10] for tensor in pair_sets[:3]]
    run(model, train_set, numbered(1), epochs=2, rotation=5, batch_size=20)
    expected = data.add_rotated(*train_set, torch.Generator().manual_seed(0), 5)[0]
    expected = sorted(map(tuple, expected.flatten(1).tolist()))
    assert sorted(model.seen[:20]) == sorted(model.seen[20:]) == expected


def test_the_loss_of_an_uneven_last_batch_counts_by_its_pairs():
    """Rate 0 keeps w at 0, so all pairs cost log 2, and so does their mean; and at log-odds 0,
    which say no, the three pairs of five that are labelled 1 are wrong."""
    target = torch.tensor([1, 0, 1, 0, 1])
    history = run(Mean(), numbered(5, target), batch_size=3, learning_rate=0.0)
    assert history["loss"] == [pytest.approx(math.log(2), rel=1e-6)]
    assert history["train_error"] == [0.6]


def test_the_error_is_of_the_test_set_in_evaluation_mode():
    model = Mean()
    history = run(model, numbered(4), numbered(3, torch.tensor([1, 1, 0])), epochs=3)
    assert model.seen[False] == [[1, 2, 3]] * 3 and not model.training
    assert history["test_error"] == [1 / 3] * 3


def test_an_error_of_many_pairs_is_exact():
    """Tested in parts: w is positive, so the 77 of 333 pairs that are labelled 0 are wrong."""
    target = (torch.arange(333) >= 77).long()
    history = run(Mean(), numbered(4), numbered(333, target))
    assert history["test_error"] == [77 / 333]


def test_a_model_may_change_its_input_in_place():
    """As x /= 255 does: the error after each epoch is of the pairs as they are."""

    class InPlace(Model):
        def forward(self, pairs):
            pairs /= 255
            return super().forward(pairs)

    class Copied(Model):
        def forward(self, pairs):
            return super().forward(pairs / 255)

    sets = generate_pair_sets(100, torch.Generator().manual_seed(0))
    histories, before = [], [tensor.clone() for tensor in sets]
    for kind in (InPlace, Copied):
        torch.manual_seed(0)
        model = kind(Shared(lenet_digit()), lenet_head())
        generator = torch.Generator().manual_seed(0)
        histories.append(train(model, sets[:3], sets[3:], generator, digit_weight=1, epochs=3))
    assert histories[0] == histories[1]
    assert all(torch.equal(*pair) for pair in zip(sets, before))


def test_sets_that_do_not_fit_are_refused():
    """Fewer pairs than labels in the test set, by whole parts, would give an error too low."""
    sets = generate_pair_sets(300, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError):
        train(sub_lenet5_ws(), sets[:3], [sets[3][:100], sets[4]], epochs=1)


def test_no_test_label_reaches_training():
    target = torch.tensor([1, 0, 1, 1, 0, 0])
    histories, weights = [], []
    for test_target in (target, 0 * target):
        model, test_set = Mean(), numbered(6, test_target)[:2]  # no classes at all
        histories.append(run(model, numbered(6, target), test_set, epochs=5, schedule="adaptive"))
        weights.append(model.weight.item())
    assert weights[0] == weights[1]
    for name in ("loss", "train_error", "learning_rate"):
        assert histories[0][name] == histories[1][name]
    assert histories[0]["test_error"] != histories[1]["test_error"]


def test_what_diverges_is_not_a_number():
    """The loss before the last step is finite, what the model says after it is not."""
    history = run(Mean(), numbered(2), learning_rate=math.inf)
    assert history["loss"] == [pytest.approx(math.log(2))] and history["test_error"] == [0.0]
    broken = (numbered(2)[0] * math.nan, *numbered(2)[1:])
    history = run(Mean(), broken)
    assert all(math.isnan(history[name][0]) for name in ("loss", "train_error", "test_error"))
    history = run(Mean(), numbered(2), broken)
    assert math.isfinite(history["loss"][0]) and math.isnan(history["test_error"][0])


def test_frozen_parameters_stay():
    """Alone and in a stack, also where an earlier training left a gradient; the others train."""
    for stacked in (False, True):
        models = [siamese().double() for _ in range(2)]
        for model in models:
            model.net[0][0].requires_grad_(False)
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
        before = copy.deepcopy([model.state_dict() for model in models])
        sets = [stacked_pairs(seed) for seed in range(2)]
        settings = dict(epochs=1, batch_size=10, weight_decay=0.1)
        if stacked:
            together = [torch.stack(tensors, dim=1) for tensors in zip(*sets)]
            generators = [torch.Generator(), torch.Generator()]
            train(Stack(models), together[:3], together[3:], generators, **settings)
        else:
            for model, pairs in zip(models, sets):
                train(model, pairs[:3], pairs[3:], **settings)
        for model, old in zip(models, before):
            assert torch.equal(model.net[0][0][0].weight, old["net.0.0.0.weight"])
            assert not torch.equal(model.net[0][2].weight, old["net.0.2.weight"])


# From a prompt


def test_it_is_pleasant_from_a_prompt(pair_sets):
    """Three arguments do; the global seed then decides, and the signature has every default."""
    train_set, test_set = pair_sets[:3], pair_sets[3:]
    histories = []
    for _ in range(2):
        torch.manual_seed(1)
        histories.append(train(sub_lenet5_ws(), train_set, test_set, epochs=1))
    assert histories[0] == histories[1]
    parameters = inspect.signature(train).parameters.values()
    assert [p.name for p in parameters if p.default is p.empty] == [
        "model",
        "train_set",
        "test_set",
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(optimizer="Adamm"), "optimizer is 'Adamm', it must be Adam, AdamW or SGD"),
        (dict(optimizer=torch.optim.SGD), "it must be Adam, AdamW or SGD"),
        (dict(optimizer="RMSprop"), "it must be Adam, AdamW or SGD"),
        (dict(copies=1, epochs=2, distort=lambda input, generator: input[:2]), "shape"),
        (
            dict(copies=1, epochs=2, distort=lambda input, generator: input.repeat(2, 1, 1, 1)),
            "shape",
        ),
        (dict(learning_rate="0.01"), "concatenate"),
        (dict(optimizer="Adam", momentum=0.9), "momentum"),
        (dict(learning_rate=-0.01), "Invalid learning rate: -0.01"),
        (dict(weight_decay=-1), "Invalid weight_decay value: -1"),
        (dict(momentum=-1), "not below 0"),
        (dict(schedule="yes"), "schedule is 'yes', it must be constant, adaptive or one-cycle"),
        (dict(schedule=1), "schedule is 1"),
        (dict(batch_size=0), "batch_size is 0, it must be a whole number above 0"),
        (dict(batch_size=50.0), "batch_size is 50.0"),
        (dict(epochs=2.5), "epochs is 2.5"),
        (dict(epochs=True), "epochs is True"),
        (dict(epochs="3"), "epochs is '3'"),
        (dict(comparison_weight=0), "one of the weights above it"),
        (dict(comparison_weight=-1), "not below 0"),
        (dict(digit_weight=math.nan), "must be finite"),
        (dict(digit_weight=1, label_smoothing=-0.1), "not below 0"),
        (dict(rotation=math.nan), "must be finite"),
        (dict(lowest_rate=math.nan, schedule="adaptive"), "must be finite"),
        (dict(lowest_rate="1e-4"), "not supported between"),
        (dict(digit_weight=1, label_smoothing=1.5), "label_smoothing"),
        (dict(learning_rat=0.1), "learning_rat"),
        (dict(epochs=2, copies=1.5), "float"),
        (dict(epochs=2, copies=-1), "non-empty"),
    ],
)
def test_nonsense_is_refused(changes, says):
    with pytest.raises(Exception, match=says):
        run(Mean(), numbered(4), **changes)


class Wrong(nn.Module):
    """A model whose outputs have given shapes."""

    def __init__(self, *shapes):
        super().__init__()
        self.weight, self.shapes = nn.Parameter(torch.zeros(())), shapes

    def forward(self, pairs):
        return tuple(torch.zeros(len(pairs), *shape) + self.weight for shape in self.shapes)


@pytest.mark.parametrize("shapes", [((1,), (2, 10)), ((), (20,)), ((), (2, 9)), ((2,), (2, 10))])
def test_outputs_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match=r"must return \[N\] and \[N, 2, 10\]"):
        run(Wrong(*shapes), numbered(4))


def test_a_comparison_that_cannot_learn_is_refused():
    model = Model(Shared(trunk(1, 10)), likeliest)
    with pytest.raises(ValueError, match="comparison_weight must be 0"):
        run(model, numbered(4), digit_weight=1)
    run(model, numbered(4), comparison_weight=0, digit_weight=1)


def test_a_learning_rate_that_is_a_tensor_stays_as_it_is():
    """One of torch.logspace, say; the one-cycle schedule would fill it in place."""
    rate = torch.tensor(0.01)
    history = run(Mean(), numbered(4), learning_rate=rate, schedule="one-cycle", epochs=3)
    assert rate == 0.01
    assert history == run(Mean(), numbered(4), learning_rate=rate, schedule="one-cycle", epochs=3)


def test_a_model_with_rounds_of_its_own_is_no_stack():
    model = Mean()
    model.rounds = 3
    run(model, numbered(4))
    assert model.weight.item() != 0


# The textbook loop, and stacks


def textbook(model, pairs, generator, arguments):
    """A plain loop with torch's own optimizer: the history. Rotation is drawn first, as report 2
    has it, then every epoch's order."""
    settings = dict(train.__kwdefaults__, **arguments)
    (input, target, classes), test = pairs[:3], pairs[3:]
    if settings["rotation"]:
        turned = data.warp(input, generator, settings["rotation"])
        input, target = torch.cat([input, turned]), torch.cat([target, target])
        classes = torch.cat([classes, classes])
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["learning_rate"])
    history = {"loss": [], "train_error": [], "test_error": [], "learning_rate": []}
    for _ in range(settings["epochs"]):
        model.train()
        total, wrong = 0.0, 0
        history["learning_rate"].append(optimizer.param_groups[0]["lr"])
        for batch in torch.randperm(len(input), generator=generator).split(settings["batch_size"]):
            comparison, digits = model(input[batch])
            loss = 0
            if weight := settings["comparison_weight"]:
                labels = target[batch].double()
                main = nn.functional.binary_cross_entropy_with_logits(comparison, labels)
                loss += weight * main
            for n in range(2 if settings["digit_weight"] else 0):
                auxiliary = nn.functional.cross_entropy(digits[:, n], classes[batch, n])
                loss += settings["digit_weight"] * auxiliary
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
            wrong += ((comparison > 0) != target[batch].bool()).sum().item()
        history["loss"].append(total / len(input))
        history["train_error"].append(wrong / len(input))
        model.eval()
        errors = (model(test[0])[0] > 0) != test[1].bool()
        history["test_error"].append(errors.double().mean().item())
        losses = history["loss"]
        if (
            settings["schedule"] == "adaptive"
            and len(losses) > 1
            and losses[-1] > 0.97 * losses[-2]
        ):
            optimizer.param_groups[0]["lr"] = max(optimizer.param_groups[0]["lr"] / 2, 1e-4)
    return history


def stacked_pairs(seed, nb=100):
    """Six tensors of pairs in float64."""
    sets = generate_pair_sets(nb, torch.Generator().manual_seed(seed))
    return [tensor.double() if tensor.is_floating_point() else tensor for tensor in sets]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("key", [key for key in EXPERIMENTS if "copies" not in EXPERIMENTS[key]])
def test_training_is_the_textbook_loop_alone_and_together(key):
    """Three rounds of each of the reports' rows, in float64, in a plain loop, by train one by one,
    and as one stack: the same losses, errors, and each round's own learning rate. In report 1's
    rows one round has only black images to learn from (batch norm would divide by their variance,
    0): its rate falls sooner."""
    row = EXPERIMENTS[key]
    arguments = {name: row[name] for name in row if name not in ("model", "reported")}
    arguments |= dict(epochs=4, batch_size=30)
    if key == "sub_lenet5_ws":  # starts at the floor
        arguments["learning_rate"] = 0.01
    pairs, models = [stacked_pairs(seed) for seed in range(3)], []
    if key.startswith("sub_lenet5"):
        pairs[2][0] = pairs[2][0] * 0
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(row["model"]().double())
    plain, alone, stacked = (copy.deepcopy(models) for _ in range(3))

    def generators():
        return [torch.Generator().manual_seed(seed) for seed in range(3)]

    sets = [torch.stack(tensors, dim=1) for tensors in zip(*pairs)]
    together = train(Stack(stacked), sets[:3], sets[3:], generators(), **arguments)
    for r, generator in enumerate(generators()):
        expected = textbook(plain[r], pairs[r], generator, arguments)
        generator.manual_seed(r)
        by_itself = train(alone[r], pairs[r][:3], pairs[r][3:], generator, **arguments)
        of_stack = {name: [epoch[r] for epoch in values] for name, values in together.items()}
        for history in (by_itself, of_stack):
            for name, values in expected.items():
                one_pair = 0.011 if "error" in name else 0
                assert history[name] == pytest.approx(values, rel=1e-5, abs=one_pair)
            assert history["loss"][0] == pytest.approx(expected["loss"][0], rel=1e-12)
        # not the weights themselves: a bias before batch norm has no effect, so Adam moves it by
        # rounding errors
        for model in (alone[r], stacked[r]):
            assert not model.training
            trained, wanted = (m.eval()(pairs[r][3])[1] for m in (model, plain[r]))
            assert (trained - wanted).abs().mean() < 0.01 * wanted.abs().mean()
    if key in ("sub_lenet5_ws", "sub_lenet5_ws_al"):
        rates = list(zip(*together["learning_rate"]))
        assert rates[2] != rates[0]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
def test_a_stack_takes_every_optimizer_schedule_and_augmentation(optimizer):
    """To the last digits for the first steps, in which rounding has not grown yet."""
    settings = dict(optimizer=optimizer, learning_rate=0.001, epochs=2, batch_size=50, copies=2)
    settings |= dict(schedule="one-cycle", weight_decay=0.1, digit_weight=1, label_smoothing=0.1)
    settings |= dict(momentum=0.9) if optimizer == "SGD" else {}
    pairs, models = [stacked_pairs(seed) for seed in range(2)], [baseline().double() for _ in "ab"]
    alone = copy.deepcopy(models)
    sets = [torch.stack(tensors, dim=1) for tensors in zip(*pairs)]
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    together = train(Stack(models), sets[:3], sets[3:], generators, **settings)
    for r in range(2):
        generator = torch.Generator().manual_seed(r)
        expected = train(alone[r], pairs[r][:3], pairs[r][3:], generator, **settings)
        for name, values in expected.items():
            assert [epoch[r] for epoch in together[name]] == pytest.approx(values, rel=1e-9)
        for ours, theirs in zip(models[r].buffers(), alone[r].buffers()):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_what_no_loss_reaches_stays_in_a_stack_as_alone():
    """Of a model whose comparison is not trained, weight decay leaves the comparison alone."""
    settings = dict(comparison_weight=0, digit_weight=1, weight_decay=0.1, epochs=1, batch_size=50)
    pairs, models = [stacked_pairs(seed) for seed in range(2)], [siamese().double() for _ in "ab"]
    before = [model.head.weight.clone() for model in models]
    sets = [torch.stack(tensors, dim=1) for tensors in zip(*pairs)]
    train(Stack(models), sets[:3], sets[3:], [torch.Generator(), torch.Generator()], **settings)
    assert all(torch.equal(model.head.weight, old) for model, old in zip(models, before))
    train(models[0], pairs[0][:3], pairs[0][3:], **settings)
    assert torch.equal(models[0].head.weight, before[0])


def test_a_stack_has_the_shapes_of_its_rounds():
    models = [sub_lenet5_ws().double() for _ in range(3)]
    comparison, digits = Stack(models)(stacked_pairs(0, 15)[0].view(5, 3, 2, 14, 14))
    assert comparison.shape == (5, 3) and digits.shape == (5, 3, 2, 10)
