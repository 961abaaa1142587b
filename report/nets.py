"""Architectures that only the report trains: models.py's with a change, and other comparisons."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

import models
from models import Convolutions, Model, Separate, Shared, TwoLogits, closed_form


def named(function, *arguments, **keywords):
    """functools.partial with a name that tells all; results files show functions by their names."""
    found = partial(function, *arguments, **keywords)
    texts = [getattr(x, "__name__", str(x)) for x in arguments]
    texts += [f"{key}={value}" for key, value in keywords.items()]
    found.__name__ = f"{function.__name__}({', '.join(texts)})"
    return found


# Report 1's


def sub_lenet5_al():
    """A LeNet digit net for each image and no head, which report 1 lacks; 118,576 parameters."""
    return Model(Separate([models.lenet_digit(), models.lenet_digit()]), models.likeliest)


class OfProbabilities(nn.Module):
    """A comparison by `head` of the digits' probabilities, instead of their logarithms."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, digits):
        return self.head(digits.softmax(dim=2))


def softmax_into_head(make):
    model = make()
    model.head = OfProbabilities(model.head)
    return model


# Report 2's


def separate_trunks():
    """A trunk for each image, as weight sharing's counterpart; 142,110 parameters."""
    return Model(Separate([models.trunk(1, 10), models.trunk(1, 10)]), TwoLogits(20, 2))


def dropout(make):
    """A model of report 2 with dropout of one half before its trunk's first linear layer."""
    model = make()
    for part in [x for x in model.modules() if isinstance(x, nn.Sequential)]:
        if any(isinstance(layer, Convolutions) for layer in part):
            part.insert(2, nn.Dropout())  # after the convolutions and nn.Flatten
    return model


def no_batch_norm(make):
    model = make()
    for part in [x for x in model.modules() if isinstance(x, Convolutions)]:
        for n in reversed(range(len(part))):
            if isinstance(part[n], nn.BatchNorm2d):
                part.pop(n)
    return model


# Learned comparisons of two digits' scores [N, 2, 10], rivals of the closed form: log-odds [N]


class Probabilities(nn.Linear):
    """Linear in the 20 probabilities; 21 parameters."""

    def forward(self, digits):
        return super().forward(digits.softmax(dim=2).flatten(1)).squeeze(1)


class Products(nn.Linear):
    """Linear in the 100 products p_i q_j of two digits' probabilities; 101 parameters."""

    def forward(self, digits):
        first, second = digits.softmax(dim=2).unbind(dim=1)
        return super().forward((first.unsqueeze(2) * second.unsqueeze(1)).flatten(1)).squeeze(1)


HEADS = {
    "linear": partial(TwoLogits, 20, 2),  # report 2's
    "MLP": models.lenet_head,  # report 1's
    "MLP of probabilities": lambda: OfProbabilities(models.lenet_head()),
    "probabilities": partial(Probabilities, 20, 1),
    "products": partial(Products, 100, 1),
}


def siamese_with(head):
    return Model(Shared(models.trunk(1, 10)), HEADS[head]())


# On the way to our own, and around it


def siamese_closed_form():
    """Report 2's siamese model, its digits compared in closed form; 71,034 parameters."""
    return Model(Shared(models.trunk(1, 10)), closed_form)


def own_net_closed_form():
    """Our own digit net, its scores compared as they are; 44,618 parameters."""
    return Model(Shared(models.posterior_digit()), closed_form)


def net(layers):
    """posterior with another digit net: `layers` has the channels of its 3x3 convolutions.

    A channel's p is for padding, M for pooling before batch norm, m for pooling after it.
    """
    found, channels, size = [], 1, 14
    for word in layers.split():
        padding, out = int("p" in word), int(word.rstrip("pMm"))
        found.append(nn.Conv2d(channels, out, 3, padding=padding, bias=False))
        found += [nn.MaxPool2d(2)] if "M" in word else []
        found.append(nn.BatchNorm2d(out))
        found += [nn.MaxPool2d(2)] if "m" in word else []
        found.append(nn.ReLU())
        channels, size = out, (size + 2 * padding - 2) // (1 + ("M" in word.upper()))
    last = nn.Linear(channels * size * size, 10)
    digit_net = nn.Sequential(Convolutions(*found), nn.Flatten(), last)
    return Model(Shared(digit_net), partial(closed_form, sharpness=2.0))


class Deskew(nn.Module):
    """Shear every image [N, 1, 14, 14] so that its strokes' principal axis stands upright."""

    def forward(self, images):
        places = (torch.arange(14) + 0.5) / 7 - 1  # as F.affine_grid has them
        mass = images.sum(dim=(1, 2, 3)).clamp(min=1)
        x, y = ((images.sum(dim=(1, axis)) @ places / mass).view(-1, 1) for axis in (2, 3))
        height = places - y
        slant = torch.einsum("nyx,ny,nx->n", images.squeeze(1), height, places - x)
        slant = slant / (images.sum(dim=(1, 3)) * height**2).sum(dim=1).clamp(min=1)
        one, zero = torch.ones_like(slant), torch.zeros_like(slant)
        matrix = torch.stack([one, slant, -slant * y.view(-1), zero, one, zero], dim=1)
        grid = F.affine_grid(matrix.view(-1, 2, 3), images.shape, align_corners=False)
        return F.grid_sample(images, grid, "bicubic", align_corners=False)


def deskewed():
    model = models.posterior()
    model.net.insert(0, Deskew())
    return model


MEMBERS = 4


class Ensemble(nn.ModuleList):
    """Siamese digit nets; a digit's probabilities are the means of theirs."""

    def forward(self, pairs):
        log_probabilities = torch.stack([net(pairs).log_softmax(dim=2) for net in self])
        return log_probabilities.logsumexp(dim=0)


def ensemble():
    """The shared digit nets of four posteriors, and its comparison; 178,472 parameters."""
    members = [models.posterior() for _ in range(MEMBERS)]
    return Model(Ensemble([member.net for member in members]), members[0].head)
