"""train.py against steps worked by hand."""

import copy
import math
from itertools import chain

import pytest
import torch
from torch import nn

import train as train_module
from data import generate_pair_sets
from models import MODELS
from test import EXPERIMENTS
from train import DECAY, OPTIMIZERS, adapt, one_cycle, total_loss, train

SETTINGS = dict(
    optimizer="sgd",
    learning_rate=0.5,
    batch_size=2,
    epochs=1,
    schedule="constant",
    comparison_weight=1.0,
    digit_weight=0.0,
)


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
    test_set, generator = test_set or train_set[:2], torch.Generator().manual_seed(seed)
    return train([model], [train_set], [test_set], [generator], **(SETTINGS | changes))[0]


def test_losses_by_hand():
    """Log-odds 0 cost log 2; ten equal scores cost log 10 a digit. Two rounds, each its own mean."""
    comparison, digits = torch.zeros(2, 4), torch.zeros(2, 4, 2, 10)
    comparison[1] = 100.0
    target, classes = torch.tensor([[0, 1, 1, 0]] * 2), torch.tensor([[[0, 9]] * 4] * 2)

    def loss(*weights):
        return total_loss(comparison, digits, target, classes, *weights).tolist()

    assert loss(1, 0) == pytest.approx([math.log(2), 50])
    assert loss(0, 1) == pytest.approx([2 * math.log(10)] * 2)
    assert loss(0.5, 3)[0] == pytest.approx(0.5 * math.log(2) + 6 * math.log(10))


def test_each_digit_has_its_own_loss():
    """The first digit's scores against the first class, the second's against the second."""
    digits = torch.zeros(1, 1, 2, 10)
    digits[0, 0, 0, 3], digits[0, 0, 1, 8] = 100.0, 100.0
    right = total_loss(None, digits, None, torch.tensor([[[3, 8]]]), 0, 1)
    swapped = total_loss(None, digits, None, torch.tensor([[[8, 3]]]), 0, 1)
    assert right.item() == pytest.approx(0) and swapped.item() == pytest.approx(200)


def test_label_smoothing_by_hand():
    """A tenth of the label spread over ten digits: nine of them, a hundredth each, cost 100."""
    digits = torch.zeros(1, 1, 2, 10)
    digits[0, 0, :, 3] = 100.0
    loss = total_loss(None, digits, None, torch.tensor([[[3, 3]]]), 0, 1, 0.1)
    assert loss.item() == pytest.approx(2 * 9 * 0.01 * 100)


def test_an_sgd_step_by_hand():
    """Two pairs of mean 1 and 2, target 1, w = 0: gradient (0.5 - 1) · 1.5, rate 0.5."""
    model = Mean()
    history = run(model, numbered(2))
    assert model.weight.item() == pytest.approx(0.375)
    assert history["loss"] == [pytest.approx(math.log(2))]
    assert history["learning_rate"] == [0.5]


def test_an_adam_step_by_hand():
    """Adam's first step is the learning rate, whatever the gradient's size."""
    model = Mean()
    run(model, numbered(2), optimizer="adam", learning_rate=0.01)
    assert model.weight.item() == pytest.approx(0.01)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_torchs(name):
    """Twenty steps at changing rates on random gradients, beside torch.optim's."""
    ours = torch.linspace(-1, 1, 10)
    theirs, state = nn.Parameter(ours.clone()), torch.zeros(2, 10)
    optimizer = {
        "sgd": lambda: torch.optim.SGD([theirs], lr=1.0),
        "adam": lambda: torch.optim.Adam([theirs], lr=1.0),
        "adamw": lambda: torch.optim.AdamW([theirs], lr=1.0, weight_decay=DECAY),
    }[name]()
    generator = torch.Generator().manual_seed(0)
    for n in range(20):
        gradient, rate = torch.randn(10, generator=generator), 0.1 / (n + 1)
        ours -= rate * OPTIMIZERS[name](ours, gradient, state, n + 1)
        theirs.grad, optimizer.param_groups[0]["lr"] = gradient, rate
        optimizer.step()
    torch.testing.assert_close(ours, theirs.detach())


def test_the_one_cycle_schedule_is_torchs():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    steps = dict(total_steps=51, pct_start=0.3, div_factor=25, final_div_factor=1e9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, **steps)
    for n in range(51):
        assert schedule.get_last_lr()[0] == pytest.approx(one_cycle(n / 50, 14.3 / 50), abs=1e-6)
        optimizer.step()
        if n < 50:
            schedule.step()
    assert one_cycle(0.3) == pytest.approx(1)


def test_one_cycle_reaches_the_optimizer():
    """Plain steps of one pair, mean 1, whose log-odds are w: rate · factor · (1 - p)."""
    model, w = Mean(), 0.0
    history = run(model, numbered(1), epochs=10, schedule="one-cycle")
    for n in range(10):
        w += 0.5 * one_cycle(n / 10) * (1 - 1 / (1 + math.exp(-w)))
    assert model.weight.item() == pytest.approx(w) and history["learning_rate"] == [0.5] * 10


def textbook(model, train_set, test_set, generator, *, epochs, batch_size, adaptive, weights):
    """A plain loop with torch's own Adam: the losses, rates and test errors by epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses, rates, errors = [], [], []
    for _ in range(epochs):
        model.train()
        total, rates = 0.0, [*rates, optimizer.param_groups[0]["lr"]]
        for batch in torch.randperm(len(train_set[0]), generator=generator).split(batch_size):
            comparison, digits = model(train_set[0][batch])
            loss = 0
            if weights[0]:
                labels = train_set[1][batch].double()
                loss = nn.functional.binary_cross_entropy_with_logits(comparison, labels)
            for n in range(2 if weights[1] else 0):
                loss += nn.functional.cross_entropy(digits[:, n], train_set[2][batch, n])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        losses.append(total / len(train_set[0]))
        model.eval()
        errors.append(((model(test_set[0])[0] > 0) != test_set[1].bool()).double().mean().item())
        if adaptive and len(losses) > 1 and losses[-1] > 0.97 * losses[-2]:
            optimizer.param_groups[0]["lr"] = max(rates[-1] / 2, 1e-4)
    return losses, rates, errors


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("key", MODELS)
def test_training_is_the_textbook_loop_alone_and_together(key, mnist):
    """Three rounds of each model in a plain loop, one by one, and as one stack, in float64: the
    same losses, and each round's own learning rate. Of report 1's models one round has only black
    images to learn from (batch norm would divide by their variance, 0): its rate falls sooner.
    """
    rounds = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        sets = generate_pair_sets(100, generator, mnist)
        torch.manual_seed(seed)
        black = seed == 2 and key.startswith("sub_lenet5")
        train_set = (sets[0].double() * (not black), *sets[1:3])
        test_set = (sets[3].double(), sets[4])
        rounds.append((MODELS[key]().double(), train_set, test_set))
    weights = EXPERIMENTS[key][5:7]
    settings = SETTINGS | dict(
        optimizer="adam",
        learning_rate=0.01,
        batch_size=30,
        epochs=4,
        schedule="adaptive",
        comparison_weight=weights[0],
        digit_weight=weights[1],
    )
    models, train_sets, test_sets = zip(*rounds, strict=True)

    def generators():
        return [torch.Generator().manual_seed(seed) for seed in range(3)]

    plain, alone, stacked = (copy.deepcopy(models) for _ in range(3))
    together = train(stacked, train_sets, test_sets, generators(), **settings)
    for r, generator in enumerate(generators()):
        one = [[part[r]] for part in (alone, train_sets, test_sets, generators())]
        by_itself = train(*one, **settings)[0]
        plain_settings = dict(epochs=4, batch_size=30, adaptive=True, weights=weights)
        expected = textbook(plain[r], train_sets[r], test_sets[r], generator, **plain_settings)
        for history, model in ((by_itself, alone[r]), (together[r], stacked[r])):
            for name, values in zip(("loss", "learning_rate", "test_error"), expected, strict=True):
                one_pair = 0.011 if name == "test_error" else 0
                assert history[name] == pytest.approx(values, rel=1e-5, abs=one_pair)
            # not the weights themselves: a bias before batch norm has no effect, so Adam moves it
            # by rounding errors
            trained, wanted = (m.eval()(test_sets[r][0])[1] for m in (model, plain[r]))
            assert (trained - wanted).abs().mean() < 0.05 * wanted.abs().mean()
    if key in ("sub_lenet5_ws", "sub_lenet5_ws_al"):
        assert together[2]["learning_rate"] != together[0]["learning_rate"]


def test_two_sgd_steps_by_hand():
    """The second step's gradient is its own, not the sum of both."""
    model = Mean()
    run(model, tuple(tensor[:1] for tensor in numbered(1)), epochs=2)
    w = 0.25
    w += 0.5 * (1 - 1 / (1 + math.exp(-w)))
    assert model.weight.item() == pytest.approx(w)


def test_every_pair_once_an_epoch_in_new_order():
    model = Mean()
    run(model, numbered(100), batch_size=37, epochs=2)
    batches = model.seen[True]
    assert [len(batch) for batch in batches] == [37, 37, 26] * 2
    first, second = list(chain(*batches[:3])), list(chain(*batches[3:]))
    assert sorted(first) == sorted(second) == list(range(1, 101))
    assert first != second and first != sorted(first)


def test_distorted_copies_take_the_place_of_the_pairs(monkeypatch):
    """Three epochs of ten pairs, the n-th filled with n + 1 and labelled so: two of twenty distorted ones, each pair
    twice and never the same, then one of the pairs themselves. Labels go with their pairs."""

    class Centre(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, pairs):
            if self.training:
                seen.extend(map(tuple, pairs.flatten(1).tolist()))
            return pairs[:, 1, 7, 7] + self.weight, torch.zeros(len(pairs), 2, 10)

    seen, labels = [], []

    def spy(comparison, digits, target, classes, *weights):
        labels.extend(zip(comparison[0].tolist(), target[0].tolist(), classes[0, :, 0].tolist(), strict=True))
        return total_loss(comparison, digits, target, classes, *weights)

    monkeypatch.setattr(train_module, "total_loss", spy)
    numbers = torch.arange(1, 11)
    train_set = numbered(10, numbers)[0], numbers, numbers.view(-1, 1).expand(-1, 2)
    settings = SETTINGS | dict(epochs=3, distorted=2, batch_size=7, learning_rate=1e-9)
    one_test_pair = numbered(1)[0], torch.ones(1).long()
    train([Centre()], [train_set], [one_test_pair], [torch.Generator().manual_seed(0)], **settings)
    assert [(round(centre), centre_target) for centre, centre_target, _ in labels] == [
        (number, number) for _, number, _ in labels
    ]
    order = [number for _, _, number in labels]
    assert sorted(order[:20]) == sorted(order[20:40]) == sorted([*range(1, 11)] * 2)
    assert sorted(order[40:]) == list(range(1, 11)) and order[:20] != order[20:40]
    assert len(set(seen[:40])) == 40 and all(len(set(pixels)) == 1 for pixels in seen[40:])


def test_the_loss_of_an_uneven_last_batch_counts_by_its_pairs():
    """Rate 1e-9 keeps w at 0, so all pairs cost log 2, and so does their mean."""
    history = run(Mean(), numbered(5), batch_size=3, learning_rate=1e-9)
    assert history["loss"] == [pytest.approx(math.log(2), rel=1e-6)]


def test_the_error_is_of_the_test_set_in_evaluation_mode():
    model = Mean()
    history = run(model, numbered(4), numbered(3, torch.tensor([1, 1, 0]))[:2], epochs=3)
    assert model.seen[False] == [[1, 2, 3]] * 3
    assert history["test_error"] == [pytest.approx(1 / 3)] * 3


def test_no_test_label_reaches_training():
    target = torch.tensor([1, 0, 1, 1, 0, 0])
    histories, weights = [], []
    for test_target in (target, target.flip(0)):
        model = Mean()
        histories.append(
            run(
                model,
                numbered(6, target),
                numbered(6, test_target)[:2],
                epochs=5,
                schedule="adaptive",
            )
        )
        weights.append(model.weight.item())
    assert weights[0] == weights[1]
    assert histories[0]["loss"] == histories[1]["loss"]
    assert histories[0]["learning_rate"] == histories[1]["learning_rate"]


@pytest.mark.parametrize(
    ("rate", "loss", "previous", "expected"),
    [
        (0.01, 0.96, 1.0, 0.01),  # fell by 4%
        (0.01, 0.98, 1.0, 0.005),  # by 2%
        (0.01, 1.50, 1.0, 0.005),  # rose
        (0.01, 5.00, math.inf, 0.01),  # the first epoch has none before it
        (1.5e-4, 1.0, 1.0, 1e-4),  # the floor
        (1e-4, 1.0, 1.0, 1e-4),
        (1e-5, 1.0, 1.0, 1e-5),  # below the floor from the start: not raised
    ],
)
def test_the_adaptive_rule(rate, loss, previous, expected):
    assert adapt(rate, loss, previous) == expected


def test_the_adaptive_rate_reaches_the_optimizer():
    """On data without signal the loss stays, so the rate halves after every epoch but the first."""
    input, _, classes = numbered(2)
    noise = (input * 0, torch.tensor([0, 1]), classes)
    history = run(Mean(), noise, epochs=4, schedule="adaptive")
    assert history["learning_rate"] == [0.5, 0.5, 0.25, 0.125]
    assert run(Mean(), noise, epochs=4)["learning_rate"] == [0.5] * 4

    # one pair of mean 1 and digits of equal score: each step moves w by rate · (1 - p)
    model, rates = Mean(), []
    one = numbered(1)
    rates = run(model, one, epochs=6, learning_rate=0.01, schedule="adaptive")["learning_rate"]
    w = 0.0
    for rate in rates:
        w += rate * (1 - 1 / (1 + math.exp(-w)))
    assert rates[-1] < 0.01 and model.weight.item() == pytest.approx(w, rel=1e-5)
