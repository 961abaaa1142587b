"""models.py against the reports' figures and against what the architectures imply."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import MODELS, TwoLogits, lenet_digit, lenet_head, predict, trunk

PARAMETERS = {
    "sub_lenet5": 130_877,
    "sub_lenet5_ws": 71_589,
    "sub_lenet5_ws_al": 59_288,
    "baseline": 71_790,
    "baseline_al": 71_790,
    "siamese": 71_076,
    "siamese_al": 71_076,
}
SHARED = ["sub_lenet5_ws", "sub_lenet5_ws_al", "siamese", "siamese_al"]


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts():
    assert {key: parameters(model()) for key, model in MODELS.items()} == PARAMETERS
    assert parameters(lenet_digit()) == 59_288
    assert parameters(lenet_head()) == 12_301
    assert parameters(trunk(1, 10)) == 71_076 - 42


@pytest.mark.parametrize("key", MODELS)
def test_outputs(key, pair_sets):
    comparison, digits = MODELS[key]()(pair_sets[0][:7])
    assert digits.shape == (7, 2, 10)
    assert comparison is None if key == "sub_lenet5_ws_al" else comparison.shape == (7,)
    assert predict(comparison, digits).shape == (7,)
    assert predict(comparison, digits).dtype == torch.bool


def widths(module, image):
    """The width of the image after each layer, where it changes."""
    found = [image.shape[-1]]
    for layer in module:
        image = layer(image)
        if image.dim() == 4 and image.shape[-1] != found[-1]:
            found.append(image.shape[-1])
    return found


def test_image_sizes_on_the_way():
    image = torch.zeros(2, 1, 14, 14)
    assert widths(lenet_digit(), image) == [14, 10, 5, 1]
    assert widths(trunk(1, 10), image) == [14, 13, 6, 7, 3, 4, 2]


def test_digit_net_is_the_reports(pair_sets):
    """The report's layers written out, on the net's own weights."""
    net, image = lenet_digit(), pair_sets[0][:5, :1]
    w1, b1, w2, b2, w3, b3, w4, b4 = net.parameters()
    x = F.avg_pool2d(torch.tanh(F.conv2d(image, w1, b1)), 2)
    x = torch.tanh(F.conv2d(x, w2, b2))[:, :, 0, 0]
    x = torch.tanh(x @ w3.T + b3) @ w4.T + b4
    torch.testing.assert_close(net(image), x - x.logsumexp(dim=1, keepdim=True))


def test_trunk_is_the_reports(pair_sets):
    """Convolution, batch norm, max pool, ReLU; and nothing between the linear layers."""
    net, image = trunk(2, 20).train(), pair_sets[0][:5]
    blocks, (w1, b1, w2, b2) = list(net.parameters())[:12], list(net.parameters())[12:]
    x = image
    for (w, b, scale, shift), padding in zip(
        (blocks[:4], blocks[4:8], blocks[8:]), (0, 1, 1), strict=True
    ):
        x = F.conv2d(x, w, b, padding=padding)
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        x = (x - mean) / (var + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]
        x = F.max_pool2d(x, 2).clamp(min=0)
    expected = (x.reshape(5, -1) @ w1.T + b1) @ w2.T + b2
    torch.testing.assert_close(net(image), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("key", SHARED)
def test_swapping_the_images_swaps_the_digits(key, pair_sets):
    model, pairs = MODELS[key]().eval(), pair_sets[0][:50]
    _, digits = model(pairs)
    _, swapped = model(pairs.flip(1))
    torch.testing.assert_close(swapped, digits.flip(1))


@pytest.mark.parametrize("key", ["sub_lenet5", *SHARED])
def test_a_digit_is_read_from_its_own_image(key, pair_sets):
    model, pairs = MODELS[key]().eval(), pair_sets[0][:50]
    altered = pairs.clone()
    altered[:, 1] = pairs[:, 1].flip(0)
    torch.testing.assert_close(model(altered)[1][:, 0], model(pairs)[1][:, 0])
    assert not torch.allclose(model(altered)[1][:, 1], model(pairs)[1][:, 1])


def test_separate_digit_nets_differ(pair_sets):
    model, pairs = MODELS["sub_lenet5"](), pair_sets[0][:50]
    _, digits = model(pairs)
    _, swapped = model(pairs.flip(1))
    assert not torch.allclose(swapped, digits.flip(1))


@pytest.mark.parametrize("key", MODELS)
def test_in_evaluation_a_pair_does_not_depend_on_its_batch(key, pair_sets):
    model, pairs = MODELS[key]().eval(), pair_sets[0][:50]
    torch.testing.assert_close(model(pairs[:1])[1], model(pairs)[1][:1], atol=1e-4, rtol=1e-4)


def test_log_odds_are_the_two_logits():
    """Binary cross-entropy of the log-odds is the report's cross-entropy of the two logits."""
    head, scores, target = TwoLogits(), torch.randn(30, 20), torch.randint(2, (30,))
    logits = nn.Linear.forward(head, scores)
    torch.testing.assert_close(
        F.binary_cross_entropy_with_logits(head(scores), target.float()),
        F.cross_entropy(logits, target),
    )
    assert torch.equal(predict(head(scores), None), logits.argmax(dim=1) == 1)


def test_digits_are_compared_as_numbers():
    pairs = list(itertools.product(range(10), repeat=2))
    digits = F.one_hot(torch.tensor(pairs), 10).float()
    assert predict(None, digits).tolist() == [a <= b for a, b in pairs]


def test_a_comparison_outweighs_the_digits():
    digits = F.one_hot(torch.tensor([[9, 0], [0, 9]]), 10).float()
    assert predict(torch.tensor([0.1, -0.1]), digits).tolist() == [True, False]
