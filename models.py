"""The architectures: report 1's three, report 2's two, and our own; every one is a function.

Every model maps pairs, float32 [N, 2, 14, 14] in 0..255, to two outputs:

    comparison  [N]         log-odds that the first digit is less than or equal to the second: if
                            they are positive, the model says that it is
    digits      [N, 2, 10]  each image's scores for the ten digits; their softmax are probabilities.
                            None will do where digit_weight is 0
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from data import places, resample


class Convolutions(nn.Sequential):
    """A Sequential that trains, and that `evaluate` runs, in oneDNN's own memory layout.

    On x86 CPUs a step is up to twice as fast in it. But its tensors are opaque, and much cannot be
    done with them: outside training and inference_mode this is a Sequential like any other. It is
    for layers like those below; nn.Sequential is for others, as oneDNN lacks some of their options.
    """

    def forward(self, images):
        trainable = nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.ReLU  # in that layout
        if (
            images.is_cpu
            and images.dtype == torch.float32
            and "AVX" in torch.backends.cpu.get_cpu_capability()
            and all(isinstance(layer, trainable) for layer in self)
            and (self.training or torch.is_inference_mode_enabled())
        ):
            return super().forward(images.to_mkldnn()).to_dense()
        return super().forward(images)


class Upright(nn.Module):
    """Each digit [N, 1, 14, 14] deskewed, centred and resized, in the middle: [N, 1, 12, 12].

    The Cholesky factor of the moments of its pixels' (1, y, x) maps a centred digit without slant,
    with deviations 1, to this one. Its columns, divided by d, map one with deviations d: these are
    the geometric means of its own and a typical digit's, as a digit's size tells something, too.
    Pixels must go to 255; darker ones count as 1. Deskewing is from LeCun et al. (1998).
    """

    def forward(self, images):
        pixels = places(14).to(images)  # (1, y, x) of each
        weights = F.normalize(images.flatten(1).clamp(min=1), p=1)  # an empty image has some, too
        moments = torch.einsum("ip,jp,np->nij", pixels, pixels, weights)
        factors = torch.linalg.cholesky_ex(moments).L  # NaN of NaN, where others raise
        deviations = factors.diagonal(dim1=1, dim2=2)
        # such that training digits keep their size in pixels on average, in the smaller frame
        typical = images.new_tensor([1, 0.532, 0.373])
        matrices = factors / (typical * deviations).sqrt().unsqueeze(1)
        return resample(images, matrices[:, 1:], size=12)


def lenet_digit():
    """Report 1's digit net, LeNet-5 from its third layer on; 59,288 parameters."""
    return nn.Sequential(                                # [N, 1, 14, 14]
        nn.Conv2d(1, 16, kernel_size=5), nn.Tanh(),      # [N, 16, 10, 10]
        nn.AvgPool2d(2), nn.Flatten(),                   # [N, 400]
        nn.Linear(400, 120), nn.Tanh(),                  # [N, 120], a convolution of all 5x5
        nn.Linear(120, 82), nn.Tanh(),                   # [N, 82]; 84 defy the report's counts
        nn.Linear(82, 10), nn.LogSoftmax(dim=1),         # [N, 10]
    )  # fmt: skip


def lenet_head():
    """Report 1's comparison, up to the logit of its sigmoid; 12,301 parameters."""
    return nn.Sequential(nn.Flatten(),                   # [N, 20]
        nn.Linear(20, 100), nn.ReLU(),                   # [N, 100]
        nn.Linear(100, 100), nn.ReLU(),                  # [N, 100]
        nn.Linear(100, 1), nn.Flatten(0),                # [N]
    )  # fmt: skip


def block(in_channels, out_channels, padding=0):
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=2, padding=padding)
    return convolution, nn.BatchNorm2d(out_channels), nn.MaxPool2d(2), nn.ReLU()


def trunk(in_channels, out_features):
    """Report 2's Table I but for its last layer; "BN 64" in its third block must be 128."""
    return nn.Sequential(                                # [N, in_channels, 14, 14]
        Convolutions(
            *block(in_channels, 16),                     # [N, 16, 6, 6]
            *block(16, 64, padding=1),                   # [N, 64, 3, 3]
            *block(64, 128, padding=1),                  # [N, 128, 2, 2]
        ),
        nn.Flatten(),                                    # [N, 512]
        nn.Linear(512, 64),                              # [N, 64]
        nn.Linear(64, out_features),                     # [N, out_features]
    )  # fmt: skip


def posterior_digit(view):
    """Our own digit net, for a `view` of the images; 24,682 parameters."""
    return nn.Sequential(                                # [N, 1, 14, 14]
        view,                                            # [N, 1, 12, 12]
        Convolutions(
            nn.Conv2d(1, 32, kernel_size=3, bias=False),
            nn.MaxPool2d(2),                             # [N, 32, 5, 5]: there is less to normalise
            nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3, bias=False),
            nn.BatchNorm2d(64), nn.ReLU(),               # [N, 64, 3, 3]
        ),
        nn.Flatten(), nn.Linear(576, 10),                # [N, 10]
    )  # fmt: skip


class TwoLogits(nn.Linear):
    """Report 2's comparison of two digits' scores; 42 parameters.

    Its two logits are for "greater" and "less or equal". Their softmax is the sigmoid of their
    difference, which therefore is the log-odds, and the report's cross-entropy the binary one.
    """

    def forward(self, digits):
        greater, less_or_equal = super().forward(digits.flatten(1)).unbind(dim=1)
        return less_or_equal - greater


def likeliest(digits):
    """Report 1's comparison of the two likeliest digits (section V): inf or -inf."""
    first, second = digits.argmax(dim=2).unbind(dim=1)
    return torch.where(first <= second, math.inf, -math.inf)


def closed_form(digits, sharpness=1.0):
    """The log-odds of P(a ≤ b) = Σ_i p_i Σ_{j≥i} q_j; p, q: softmax of the two digits' scores.

    Label smoothing makes scores too timid for that; `sharpness`, which multiplies them, helps.
    """
    log_p, log_q = (sharpness * digits).log_softmax(dim=2).unbind(dim=1)
    log_yes = log_p.logcumsumexp(dim=1) + log_q  # a ≤ j and b = j, for each j
    log_no = log_p[:, 1:] + log_q.logcumsumexp(dim=1)[:, :-1]  # a = i and b < i
    return log_yes.logsumexp(dim=1) - log_no.logsumexp(dim=1)


class Separate(nn.ModuleList):
    """Two digit nets, one for each image."""

    def forward(self, pairs):
        return torch.stack([net(x) for net, x in zip(self, pairs.split(1, dim=1))], dim=1)


class Shared(nn.Sequential):
    """Weight sharing: one digit net for both images."""

    def forward(self, pairs):
        return super().forward(pairs.reshape(-1, 1, 14, 14)).view(-1, 2, 10)


class Either(nn.ModuleList):
    """Nets that learn alone, each batch one of them; their mean scores answer.

    Which one is drawn from torch's global generator, as dropout is.
    """

    def forward(self, pairs):
        if self.training:
            return self[torch.randint(len(self), ())](pairs)
        return sum(net(pairs) for net in self) / len(self)


class Model(nn.Module):
    """The scores that `net` gives the digits, and their comparison by `head`."""

    def __init__(self, net, head):
        super().__init__()
        self.net = net
        self.head = head

    def forward(self, pairs):
        digits = self.net(pairs)
        return self.head(digits), digits


def sub_lenet5():
    """Report 1, section III: a digit net for each image; 130,877 parameters."""
    return Model(Separate([lenet_digit(), lenet_digit()]), lenet_head())


def sub_lenet5_ws():
    """Report 1, section IV: weight sharing; 71,589 parameters."""
    return Model(Shared(lenet_digit()), lenet_head())


def sub_lenet5_ws_al():
    """Report 1, section V: weight sharing, no head; 59,288 parameters."""
    return Model(Shared(lenet_digit()), likeliest)


def baseline():
    """Report 2's baseline, a pair as one image; 71,790 parameters, not its 71,140."""
    return Model(nn.Sequential(trunk(2, 20), nn.Unflatten(1, (2, 10))), TwoLogits(20, 2))


def siamese():
    """Report 2's siamese model; 71,076 parameters."""
    return Model(Shared(trunk(1, 10)), TwoLogits(20, 2))


def posterior_2s():
    """Our own: a shared digit net, and the comparison in closed form; 24,682 parameters."""
    return Model(Shared(posterior_digit(Upright())), partial(closed_form, sharpness=2.0))


def posterior():
    """The same with a second net, which sees the image's middle as it is; 49,364 parameters."""
    model = posterior_2s()
    # padding by -1 takes a pixel off each edge
    model.net = Either([model.net, Shared(posterior_digit(nn.ZeroPad2d(-1)))])
    return model
