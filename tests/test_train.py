"""train.py against steps worked by hand and against a textbook loop."""

import copy
import inspect
import math
from functools import partial
from itertools import chain

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import data
import train as train_module
from data import generate_pair_sets
from models import (
    Model,
    Shared,
    TwoLogits,
    lenet_digit,
    lenet_head,
    likeliest,
    siamese,
    sub_lenet5_ws,
    trunk,
)
from test import EXPERIMENTS
from train import mistakes, total_loss, train, train_round

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
    """Log-odds 0 cost log 2; ten equal scores cost log 10 a digit."""
    comparison, digits = torch.zeros(4, requires_grad=True), torch.zeros(4, 2, 10)
    target, classes = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 9]).expand(4, 2)

    def loss(*weights):
        return total_loss(comparison, digits, target, classes, *weights).item()

    assert loss(1, 0) == pytest.approx(math.log(2))
    assert loss(0, 1) == pytest.approx(2 * math.log(10))
    assert loss(0.5, 3) == pytest.approx(0.5 * math.log(2) + 6 * math.log(10))


def test_each_digit_has_its_own_loss():
    """The first digit's scores against the first class, the second's against the second. Smoothed,
    a tenth of the label is spread over ten digits: nine of them, a hundredth each, cost 100."""
    digits = torch.zeros(1, 2, 10)
    digits[0, 0, 3], digits[0, 1, 8] = 100.0, 100.0
    for classes, smoothing, expected in (([3, 8], 0, 0), ([8, 3], 0, 200), ([3, 8], 0.1, 18)):
        zero, classes = torch.zeros(1), torch.tensor([classes])
        loss = total_loss(zero, digits, zero, classes, 0, 1, smoothing)
        assert loss.item() == pytest.approx(expected)


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


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_two_sgd_steps_by_hand(momentum):
    """The second step is its own gradient, not the sum of both, and the momentum of the first."""
    model = Mean()
    run(model, numbered(1), epochs=2, momentum=momentum)
    w = 0.25
    w += 0.5 * (1 - 1 / (1 + math.exp(-w))) + momentum * 0.25
    assert model.weight.item() == pytest.approx(w)


def test_two_adam_steps_by_hand():
    """Their first beta is `momentum`. The first step is the sign of its gradient; in the second the
    means are of both gradients, less their bias."""
    model = Mean()
    run(model, numbered(1), epochs=2, optimizer="Adam", momentum=0.6)
    first, w = -0.5, 0.5
    second = -(1 - 1 / (1 + math.exp(-w)))
    mean = (0.6 * 0.4 * first + 0.4 * second) / (1 - 0.6**2)
    square = (0.999 * 0.001 * first**2 + 0.001 * second**2) / (1 - 0.999**2)
    assert model.weight.item() == pytest.approx(w - 0.5 * mean / square**0.5)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_weight_decay_by_hand(optimizer):
    """Without a gradient (the pair is black) a step takes rate · decay of the weight away."""
    model = Mean()
    model.weight.data.fill_(2.0)
    black = (torch.zeros(1, 2, 14, 14), *numbered(1)[1:])
    run(model, black, optimizer=optimizer, weight_decay=0.1)
    assert model.weight.item() == pytest.approx(2 - 0.5 * 0.1 * 2)


# Learning rates


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


@pytest.mark.parametrize("percent, halved", [(2, True), (2.9, True), (3.1, False), (4, False)])
def test_the_adaptive_rule_halves_below_three_percent(percent, halved):
    """One plain step from log-odds 0, whose rate is such that the loss log 2 falls by `percent`."""
    w = -math.log(2 ** (1 - percent / 100) - 1)
    settings = dict(learning_rate=2 * w, epochs=3, schedule="adaptive")
    history = run(Mean(), numbered(1), **settings)
    assert 100 * (1 - history["loss"][1] / history["loss"][0]) == pytest.approx(percent, abs=0.01)
    assert history["learning_rate"][2] == pytest.approx(w if halved else 2 * w)


def test_the_one_cycle_schedule_ends_with_the_last_step(monkeypatch):
    """Three epochs of 20, 20 and, without copies, 10 pairs in batches of 3 are 7 + 7 + 4 steps: a
    rate that the epochs start with is that of steps 0, 7 and 14 of 18. Adam's beta1 stays."""
    betas, rates, model = [], [], Mean()

    class Spy(torch.optim.Adam):
        def step(self):
            betas.append(self.param_groups[0]["betas"])
            return super().step()

    monkeypatch.setattr(torch.optim, "Adam", Spy)
    settings = dict(schedule="one-cycle", batch_size=3, epochs=3, copies=2)
    same = dict(optimizer="Adam", distort=lambda input, generator: input.clone())
    history = run(model, numbered(10), **settings, **same)
    assert [*map(len, model.seen[True])] == [3] * 6 + [2] + [3] * 6 + [2] + [3, 3, 3, 1]
    assert set(betas) == {(0.9, 0.999)}
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, 18, cycle_momentum=False)
    for _ in range(18):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cycle.step()
    assert history["learning_rate"] == [rates[0], rates[7], rates[14]]


def test_a_short_cycle_has_a_rate_to_learn_with():
    """OneCycleLR's last steps have next to none: of one step in all, that is the only one."""
    for steps in (1, 2, 3, 4, 5):
        history = run(Mean(), numbered(2 * steps), schedule="one-cycle")
        assert history["learning_rate"] == [pytest.approx(0.5 / 25)]


# Batches, augmentation, evaluation


def test_every_pair_once_an_epoch_in_new_order():
    model = Mean()
    run(model, numbered(100), batch_size=37, epochs=2)
    batches = model.seen[True]
    assert [len(batch) for batch in batches] == [37, 37, 26] * 2
    first, second = list(chain(*batches[:3])), list(chain(*batches[3:]))
    assert sorted(first) == sorted(second) == list(range(1, 101))
    assert first != second and first != sorted(first)


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


def test_a_distortion_may_change_its_input_in_place():
    """Every copy is of the pairs as they were."""
    model = Mean()
    settings = dict(copies=2, epochs=3, distort=lambda input, generator: input.mul_(2))
    run(model, numbered(2), batch_size=1, **settings)
    seen = [mean for (mean,) in model.seen[True]]
    assert sorted(seen) == [1, 2] + 4 * [2] + 4 * [4]


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
    """w is positive, so the pairs that are labelled 0 are wrong; many pairs are tested in parts."""
    model = Mean()
    history = run(model, numbered(4), numbered(3, torch.tensor([1, 1, 0])), epochs=3)
    assert model.seen[False] == [[1, 2, 3]] * 3 and not model.training
    assert history["test_error"] == [1 / 3] * 3
    history = run(Mean(), numbered(4), numbered(333, (torch.arange(333) >= 77).long()))
    assert history["test_error"] == [77 / 333]


def test_a_model_may_change_its_input_in_place():
    """As x /= 255 does: the error after each epoch is of the pairs as they are."""

    class Scaled(Model):
        def forward(self, pairs):
            if self.in_place:
                pairs /= 255
                return super().forward(pairs)
            return super().forward(pairs / 255)

    sets = generate_pair_sets(100, torch.Generator().manual_seed(0))
    histories, before = [], [tensor.clone() for tensor in sets]
    for in_place in (True, False):
        torch.manual_seed(0)
        model = Scaled(Shared(lenet_digit()), lenet_head())
        model.in_place = in_place
        histories.append(train(model, sets[:3], sets[3:], digit_weight=1, epochs=3))
    assert histories[0] == histories[1]
    assert all(torch.equal(*pair) for pair in zip(sets, before))


def test_sets_that_do_not_fit_are_refused():
    """Fewer pairs than labels in the test set, by whole parts, would give an error too low."""
    sets = generate_pair_sets(300, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError):
        train(sub_lenet5_ws(), sets[:3], [sets[3][:100], sets[4]], epochs=1)
    with pytest.raises(AssertionError, match="Size mismatch"):
        train(sub_lenet5_ws(), [sets[0], sets[1][:200], sets[2]], sets[3:], epochs=1)


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


class Losing(Model):
    """Its first training step leaves `value` in `what`, which no answer shows."""

    def __init__(self, what="buffer", value=math.nan):
        super().__init__(Shared(trunk(1, 10)), TwoLogits(20, 2))
        self.register_buffer("mask", torch.zeros(3, 3).triu().log())  # -inf from the start
        self.register_buffer("buffer", torch.zeros(2, dtype=torch.long).float())
        self.weight, self.what, self.value = nn.Parameter(torch.zeros(2)), what, value

    def forward(self, pairs):
        if self.training:
            getattr(self, self.what).data[1] = self.value
        return super().forward(pairs)


@pytest.mark.parametrize(
    "changes, expected",
    [
        (dict(model=Losing), True),
        (dict(model=partial(Losing, "weight", -math.inf)), True),
        (dict(model=partial(Losing, value=1.0)), False),
        (dict(model=siamese, learning_rate=1e8), True),
        (EXPERIMENTS["posterior"] | dict(learning_rate=1e9, epochs=1), True),  # its answers alone
    ],
)
def test_a_round_of_which_a_number_is_lost_has_diverged(changes, expected):
    """A weight, a statistic; also where the answers hide it. What was infinite before may be so."""
    settings = dict(draw=partial(generate_pair_sets, 100), epochs=3) | changes
    assert train_round(seed=0, **settings)[2]["diverged"] is expected


@pytest.mark.parametrize("sign, expected", [(1, True), (-1, True), (0, False)])
def test_one_answer_to_all_pairs_is_noted(sign, expected):
    class Sure(Mean):
        def forward(self, pairs):
            comparison, digits = super().forward(pairs)
            return comparison + (sign or pairs.mean(dim=(1, 2, 3)) - 30), digits

    found = train_round(Sure, 0, partial(generate_pair_sets, 100), **(SGD | dict(learning_rate=0)))
    assert found[2]["one_answer"] is expected and not found[2]["diverged"]


def test_frozen_parameters_stay():
    """Also where an earlier training left a gradient; the others train. What no loss reaches stays,
    too: here a comparison that is not trained."""
    model = siamese()
    model.net[0][0].requires_grad_(False)
    for parameter in model.net.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = copy.deepcopy(model.state_dict())
    sets = generate_pair_sets(100, torch.Generator().manual_seed(0))
    settings = dict(comparison_weight=0, digit_weight=1, weight_decay=0.1, epochs=1, batch_size=10)
    train(model, sets[:3], sets[3:], **settings)
    assert torch.equal(model.net[0][0][0].weight, before["net.0.0.0.weight"])
    assert not torch.equal(model.net[0][2].weight, before["net.0.2.weight"])
    assert torch.equal(model.head.weight, before["head.weight"])


# From a prompt


def test_it_is_pleasant_from_a_prompt(pair_sets):
    """Three arguments do; the global seed then decides, and the signature has every default."""
    train_set, test_set = pair_sets[:3], pair_sets[3:]
    histories = []
    for _ in range(2):
        torch.manual_seed(1)
        histories.append(train(sub_lenet5_ws(), train_set, test_set, epochs=1))
    assert histories[0] == histories[1]
    required = [p for p in inspect.signature(train).parameters.values() if p.default is p.empty]
    assert [p.name for p in required] == ["model", "train_set", "test_set"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(optimizer="Adamm"), "has no attribute 'Adamm'"),
        (dict(copies=1, epochs=2, distort=lambda input, generator: input[:2]), "Size mismatch"),
        (dict(learning_rate="fast"), "could not convert"),
        (dict(optimizer="Adam", momentum=1.5), "Invalid beta parameter at index 0: 1.5"),
        (dict(learning_rate=-0.01), "Invalid learning rate: -0.01"),
        (dict(weight_decay=-1), "Invalid weight_decay value: -1"),
        (dict(momentum=-1), "Invalid momentum value: -1"),
        (dict(schedule="yes"), "schedule is 'yes', it must be constant, adaptive or one-cycle"),
        (dict(batch_size=0), "split_size can only be 0"),
        (dict(epochs=2.5), "type 'float'"),
        (dict(epochs=0), "epochs is below 1"),
        (dict(epochs="3"), "not supported between"),
        (dict(comparison_weight=0), "both losses' weights are 0"),
        (dict(digit_weight=1, label_smoothing=1.5), "label_smoothing"),
        (dict(learning_rat=0.1), "learning_rat"),
    ],
)
def test_nonsense_is_refused(changes, says):
    with pytest.raises(Exception, match=says):
        run(Mean(), numbered(4), **changes)


class Returning(Mean):
    """What `what` makes of the right outputs."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, pairs):
        return self.what(*super().forward(pairs))


@pytest.mark.parametrize(
    "what, found",
    [
        (lambda z, d: (z.unsqueeze(1), d), "[[2, 1], [2, 2, 10]]"),
        (lambda z, d: (z, d.flatten(1)), "[[2], [2, 20]]"),
        (lambda z, d: (z, d[:, :, :9]), "[[2], [2, 2, 9]]"),
        (lambda z, d: (z[:1], d), "[[1], [2, 2, 10]]"),
        (lambda z, d: torch.stack([z, -z], dim=1), "[2, 2]"),
        (lambda z, d: (d[:, 0], d[:, 1], z), "[[2, 10], [2, 10], [2]]"),
        (lambda z, d: (z, [d[:, 0], d[:, 1]]), "[[2], [[2, 10], [2, 10]]]"),
        (lambda z, d: {"comparison": z, "digits": d}, "dict"),
        (lambda z, d: None, "NoneType"),
    ],
)
def test_outputs_that_do_not_fit_are_described(what, found):
    """In training, and in evaluation, where a model may return something else."""
    says = f"the model must return [N] and [N, 2, 10] for N pairs, not {found}"
    model = Returning(what)
    with pytest.raises(ValueError) as error:
        run(model, numbered(2))
    assert str(error.value) == says
    model.what = lambda *x: x if model.training else what(*x)
    with pytest.raises(ValueError) as error:
        run(model, numbered(2))
    assert str(error.value) == says


def test_digits_may_be_none_where_none_are_learned():
    model = Returning(lambda z, d: [z, None])
    assert run(model, numbered(4)) == run(Mean(), numbered(4))
    with pytest.raises(ValueError, match="digit_weight must be 0: the model returns no digits"):
        run(model, numbered(4), digit_weight=1)


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


# The textbook loop


def textbook(model, pairs, generator, arguments):
    """A plain loop with torch's own optimizer: the history. Rotation is drawn first, as report 2
    has it, then every epoch's order."""
    settings = dict(train.__kwdefaults__, **arguments)
    (input, target, classes), test = pairs[:3], pairs[3:]
    if settings["rotation"]:
        input, target, classes = data.add_rotated(
            input, target, classes, generator, settings["rotation"]
        )
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["learning_rate"])
    (group,) = optimizer.param_groups
    history = {"loss": [], "train_error": [], "test_error": [], "learning_rate": []}
    for _ in range(settings["epochs"]):
        model.train()
        total, wrong = 0.0, 0
        history["learning_rate"].append(group["lr"])
        for batch in torch.randperm(len(input), generator=generator).split(settings["batch_size"]):
            comparison, digits = model(input[batch])
            loss = 0
            if weight := settings["comparison_weight"]:
                labels = target[batch].double()
                loss += weight * F.binary_cross_entropy_with_logits(comparison, labels)
            for n in range(2 if settings["digit_weight"] else 0):
                auxiliary = F.cross_entropy(digits[:, n], classes[batch, n])
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
        last = history["loss"][-2:]
        if settings["schedule"] == "adaptive" and len(last) > 1 and last[1] > 0.97 * last[0]:
            group["lr"] = max(group["lr"] / 2, 1e-4)
    return history


@pytest.mark.parametrize("key", [key for key in EXPERIMENTS if "copies" not in EXPERIMENTS[key]])
def test_training_is_the_textbook_loop(key):
    """Each of the reports' rows, in float64: the same losses, errors and learning rates."""
    arguments = {
        name: x for name, x in EXPERIMENTS[key].items() if name not in ("model", "reported")
    }
    arguments |= dict(epochs=4, batch_size=30)
    if key == "sub_lenet5_ws":  # starts at the floor
        arguments["learning_rate"] = 0.01
    pairs = generate_pair_sets(100, torch.Generator().manual_seed(0))
    pairs = [tensor.double() if tensor.is_floating_point() else tensor for tensor in pairs]
    torch.manual_seed(0)
    model = EXPERIMENTS[key]["model"]().double()
    plain = copy.deepcopy(model)
    history = train(model, pairs[:3], pairs[3:], torch.Generator().manual_seed(0), **arguments)
    expected = textbook(plain, pairs, torch.Generator().manual_seed(0), arguments)
    for name, values in expected.items():
        one_pair = 0.011 if "error" in name else 0
        assert history[name] == pytest.approx(values, rel=1e-5, abs=one_pair)
    assert history["loss"][0] == pytest.approx(expected["loss"][0], rel=1e-12)
    # not the weights themselves: a bias before batch norm has no effect, so Adam moves it by
    # rounding errors
    assert not model.training
    trained, wanted = (m.eval()(pairs[3])[1] for m in (model, plain))
    assert (trained - wanted).abs().mean() < 0.01 * wanted.abs().mean()
