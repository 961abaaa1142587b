"""models.py against the reports' figures and against what the architectures imply."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import models
from models import (
    Convolutions,
    TwoLogits,
    closed_form,
    lenet_digit,
    lenet_head,
    likeliest,
    posterior_digit,
    trunk,
)

PARAMETERS = {
    "sub_lenet5": 130_877,
    "sub_lenet5_ws": 71_589,
    "sub_lenet5_ws_al": 59_288,
    "baseline": 71_790,
    "siamese": 71_076,
    "posterior": 49_364,
    "posterior_2s": 24_682,
}
SHARED = ["sub_lenet5_ws", "sub_lenet5_ws_al", "siamese", "posterior", "posterior_2s"]


def build(name):
    return getattr(models, name)()


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts():
    assert {key: parameters(build(key)) for key in PARAMETERS} == PARAMETERS
    assert parameters(lenet_digit()) == 59_288
    assert parameters(lenet_head()) == 12_301
    assert parameters(trunk(1, 10)) == 71_076 - 42


@pytest.mark.parametrize("key", PARAMETERS)
def test_outputs(key, pair_sets):
    comparison, digits = build(key)(pair_sets[0][:7])
    assert digits.shape == (7, 2, 10)
    assert comparison.shape == (7,) and comparison.dtype == digits.dtype == torch.float32


def widths(net, image):
    """The width of the image after each layer, where it changes."""
    found = [image.shape[-1]]
    for layer in net.modules():
        if not list(layer.children()):
            image = layer(image)
            if image.dim() == 4 and image.shape[-1] != found[-1]:
                found.append(image.shape[-1])
    return found


def test_image_sizes_on_the_way():
    image = torch.zeros(2, 1, 14, 14)
    assert widths(posterior_digit(models.Upright()), image) == [14, 12, 10, 5, 3]
    assert widths(posterior_digit(torch.nn.ZeroPad2d(-1)), image) == [14, 12, 10, 5, 3]
    assert widths(lenet_digit(), image) == [14, 10, 5]
    assert widths(trunk(1, 10), image) == [14, 13, 6, 7, 3, 4, 2]


def test_digit_net_is_the_reports(pair_sets):
    """The report's layers written out, on the net's own weights."""
    net, image = lenet_digit(), pair_sets[0][:5, :1]
    w1, b1, w2, b2, w3, b3, w4, b4 = net.parameters()
    x = F.avg_pool2d(torch.tanh(F.conv2d(image, w1, b1)), 2)
    x = torch.tanh(F.conv2d(x, w2.view(120, 16, 5, 5), b2))[:, :, 0, 0]
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


@pytest.mark.parametrize("key", ["sub_lenet5", *SHARED])
def test_swapping_the_images_swaps_the_digits(key, pair_sets):
    """Where they share a digit net; separate ones differ."""
    model, pairs = build(key).eval(), pair_sets[0][:50]
    swapped, digits = model(pairs.flip(1))[1], model(pairs)[1].flip(1)
    assert torch.allclose(swapped, digits, rtol=1e-4, atol=1e-4) is (key in SHARED)


@pytest.mark.parametrize("key", ["sub_lenet5", *SHARED])
def test_a_digit_is_read_from_its_own_image(key, pair_sets):
    model, pairs = build(key).eval(), pair_sets[0][:50]
    altered = pairs.clone()
    altered[:, 1] = pairs[:, 1].flip(0)
    torch.testing.assert_close(model(altered)[1][:, 0], model(pairs)[1][:, 0])
    assert not torch.allclose(model(altered)[1][:, 1], model(pairs)[1][:, 1])


@pytest.mark.parametrize("key", PARAMETERS)
def test_in_evaluation_a_pair_does_not_depend_on_its_batch(key, pair_sets):
    model, pairs = build(key).eval(), pair_sets[0][:50]
    torch.testing.assert_close(model(pairs[:1])[1], model(pairs)[1][:1], atol=1e-4, rtol=1e-4)


def test_log_odds_are_the_two_logits():
    """Binary cross-entropy of the log-odds is the report's cross-entropy of the two logits."""
    head, digits, target = TwoLogits(20, 2), torch.randn(30, 2, 10), torch.randint(2, (30,))
    logits = nn.Linear.forward(head, digits.flatten(1))
    torch.testing.assert_close(
        F.binary_cross_entropy_with_logits(head(digits), target.float()),
        F.cross_entropy(logits, target),
    )
    assert torch.equal(head(digits) > 0, logits.argmax(dim=1) == 1)


def test_the_likeliest_digits_are_compared_as_numbers():
    pairs = list(itertools.product(range(10), repeat=2))
    digits = F.one_hot(torch.tensor(pairs), 10).float()
    assert (likeliest(digits) > 0).tolist() == [a <= b for a, b in pairs]


def test_the_posterior_is_the_sum_over_the_100_pairs():
    digits = torch.randn(50, 2, 10, generator=torch.Generator().manual_seed(0)).double()
    pairs = list(itertools.product(range(10), repeat=2))
    for sharpness in (1.0, 2.0):
        p, q = (digits * sharpness).softmax(dim=2).unbind(dim=1)
        expected = sum(p[:, a] * q[:, b] for a, b in pairs if a <= b)
        torch.testing.assert_close(closed_form(digits, sharpness).sigmoid(), expected)


def test_the_posterior_is_sure_of_sure_digits():
    """Far beyond what probabilities in float32 can tell from 0 and 1, and differentiable."""
    pairs = list(itertools.product(range(10), repeat=2))
    digits = (100 * F.one_hot(torch.tensor(pairs), 10).float()).requires_grad_()
    log_odds = closed_form(digits)
    assert (log_odds > 50).tolist() == [a <= b for a, b in pairs]
    assert (log_odds < -50).tolist() == [a > b for a, b in pairs]
    log_odds.sum().backward()
    assert digits.grad.isfinite().all()


@pytest.mark.parametrize("extra", [(), (nn.GELU(),)])
def test_convolutions_are_a_sequential(extra, pair_sets):
    """In training, on this machine's CPU in whatever layout and in float64 in PyTorch's own: the
    same outputs, gradients, running statistics; layers that oneDNN does not know work, too."""
    images = pair_sets[0][:20, :1]
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.MaxPool2d(2), nn.ReLU(), *extra
    fast = Convolutions(*layers, nn.Conv2d(16, 8, 2))
    plain = nn.Sequential(*copy.deepcopy(list(fast))).double()
    output, expected = fast(images), plain(images.double())
    torch.testing.assert_close(output, expected.float(), rtol=1e-4, atol=1e-4)
    output.square().sum().backward()
    expected.square().sum().backward()
    for ours, other in zip(fast.parameters(), plain.parameters(), strict=True):
        scale = other.grad.abs().max()
        assert (ours.grad - other.grad).abs().max() < 1e-3 * scale + 1e-2
    assert torch.allclose(fast[1].running_var.double(), plain[1].running_var, rtol=1e-4)


@pytest.mark.parametrize("key", ["baseline", "siamese", "posterior"])
def test_in_evaluation_the_convnets_are_like_any_module(key, pair_sets):
    """Saliency, hooks, no pairs, a gradient for each pair, anomaly detection, export: all that
    oneDNN's layout refuses; and the outputs are those that `evaluate` sees."""
    model, pairs = build(key).eval(), pair_sets[0][:5].clone().requires_grad_()
    seen, convolutions = [], next(x for x in model.modules() if isinstance(x, Convolutions))
    hooks = [
        layer.register_forward_hook(lambda *x: seen.append(x[2].mean().item()))
        for layer in convolutions
    ]
    with torch.autograd.detect_anomaly(check_nan=True):
        model(pairs)[1].sum().backward()
    assert len(seen) == len(convolutions) and pairs.grad.abs().sum() > 0
    for hook in hooks:
        hook.remove()
    assert [len(x) for x in model(pairs[:0])] == [0, 0]
    weights = dict(model.named_parameters())

    def loss(weights, pair):
        return torch.func.functional_call(model, weights, (pair.unsqueeze(0),))[1].square().sum()

    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, pairs.detach())
    assert all(len(gradient) == 5 for gradient in gradients.values())
    exported = torch.export.export(model, (pairs.detach(),)).module()
    torch.testing.assert_close(exported(pairs.detach())[1], model(pairs)[1])
    with torch.inference_mode():
        torch.testing.assert_close(model(pairs)[1], exported(pairs)[1], rtol=1e-4, atol=1e-4)


# Upright digits


def moments(images):
    """Mean and variance of the pixels' y and x, in pixels of their frame, and the covariance."""
    images = images.clamp(min=0)[:, 0].double()
    axis = torch.arange(images.shape[-1]).double()
    weights = images / images.sum((1, 2), keepdim=True)
    y, x = weights.sum(2) @ axis, weights.sum(1) @ axis
    yy, xx = weights.sum(2) @ axis**2 - y**2, weights.sum(1) @ axis**2 - x**2
    return y, x, yy, xx, torch.einsum("nyx,y,x->n", weights, axis, axis) - y * x


def bars(slant, top=4, x=6.5, height=6.0, width=1.0):
    """Soft bars [1, 1, 14, 14] that lean to the right by `slant` pixels a row.

    They are so bright that the background, which counts as 1, does not matter.
    """
    rows, columns = torch.meshgrid(torch.arange(14.0), torch.arange(14.0), indexing="ij")
    offset = (columns - x + slant * (rows - top - height / 2)) / width
    inside = torch.sigmoid(4 * (rows - top)) * torch.sigmoid(4 * (top + height - rows))
    return (25500 * torch.exp(-(offset**2)) * inside).view(1, 1, 14, 14)


def test_leaning_digits_stand_upright_in_the_middle():
    """However a bar leans and wherever it is, it comes out as the one that stands."""
    upright = models.Upright()
    stands = upright(bars(0.0))
    y, x, _, _, covariance = moments(stands)
    assert abs(y - 5.5) < 0.1 and abs(x - 5.5) < 0.1 and abs(covariance) < 0.1
    for leaning in (bars(0.4), bars(-0.3), bars(0.3, top=3), bars(-0.2, x=7.5)):
        assert (upright(leaning) - stands).abs().mean() < 0.2 * stands.mean()
        assert abs(moments(upright(leaning))[4]) < 0.15


def test_half_of_a_size_is_left():
    """In the logarithm: a bar twice as wide comes out √2 as wide, one half as high √½ as high."""
    upright = models.Upright()
    _, _, yy, xx, _ = moments(upright(bars(0.0, width=1.4)))
    assert moments(upright(bars(0.0, width=2.8)))[3] / xx == pytest.approx(2, rel=0.1)
    assert moments(upright(bars(0.0, top=5.5, height=3)))[2] / yy == pytest.approx(0.5, rel=0.1)


def test_upright_training_digits(mnist):
    """They are centred and don't lean, and have on average the size in pixels that they had, once
    they don't; and their sizes differ less."""
    images = torch.nn.functional.avg_pool2d(mnist[0][:2000, None].float(), 2)
    before, after = moments(images), moments(models.Upright()(images))
    y, x, yy, xx, covariance = after
    assert (y - 5.5).abs().mean() < 0.1 and (x - 5.5).abs().mean() < 0.1
    assert (covariance / (yy * xx).sqrt()).abs().mean() < 0.1
    assert (before[4] / (before[2] * before[3]).sqrt()).abs().mean() > 0.2
    for old, new in ((before[2], yy), (before[3] - before[4] ** 2 / before[2], xx)):
        assert new.sqrt().mean() / old.sqrt().mean() == pytest.approx(1, abs=0.04)
        assert new.log().std() < 0.7 * old.log().std()


def test_an_empty_image_stays_empty():
    assert models.Upright()(torch.zeros(2, 1, 14, 14)).abs().max() == 0


def test_of_two_nets_each_batch_teaches_one_and_both_answer():
    nets = [torch.nn.Conv2d(2, 1, 14) for _ in range(2)]
    both, pairs = models.Either(nets), torch.rand(3, 2, 14, 14)
    torch.manual_seed(0)
    taught = []
    for _ in range(100):
        both.zero_grad()
        both(pairs).sum().backward()
        taught.append([net.weight.grad is not None for net in nets])
    assert taught.count([True, False]) + taught.count([False, True]) == 100
    assert 30 < taught.count([True, False]) < 70
    mean = (nets[0](pairs) + nets[1](pairs)) / 2
    torch.testing.assert_close(both.eval()(pairs), mean)
