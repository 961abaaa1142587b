"""Architectures that only the report trains: models.py's with a change, and other comparisons."""

from functools import partial

import torch
from torch import nn

import models
from models import Convolutions, Either, Model, Separate, Shared, TwoLogits, closed_form


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


def own_net_closed_form(view):
    """Our own digit net, of the digits' middles or `upright`; 24,682 parameters."""
    return Model(net("32M 64", view).net, closed_form)


VIEWS = {  # of a digit, and their width in pixels
    "upright": (models.Upright, 12),
    "middle": (partial(nn.ZeroPad2d, -1), 12),
    "whole": (nn.Identity, 14),
}


def net(layers, *views):
    """posterior_2s or, of several views, posterior with other digit nets.

    `layers` has the channels of their 3x3 convolutions, with an M where they are pooled.
    """
    nets = []
    for view in views:
        make, size = VIEWS[view]
        found, channels = [], 1
        for word in layers.split():
            out = int(word.rstrip("M"))
            found.append(nn.Conv2d(channels, out, 3, bias=False))
            found += [nn.MaxPool2d(2)] if "M" in word else []
            found += [nn.BatchNorm2d(out), nn.ReLU()]
            channels, size = out, (size - 2) // (1 + ("M" in word))
        last = nn.Linear(channels * size * size, 10)
        digit_net = nn.Sequential(make(), Convolutions(*found), nn.Flatten(), last)
        nets.append(Shared(digit_net))
    return Model(nets[0] if len(nets) == 1 else Either(nets), partial(closed_form, sharpness=2.0))


# Other solutions of the course project, as their authors describe them, in our training loop


class Standardised(nn.Module):
    """Pixels by the training images' mean and standard deviation."""

    def forward(self, images):
        return (images - 33) / 71


class Residual(nn.Sequential):
    def forward(self, images):
        return (images + super().forward(images)).relu()


def adamisik_convnet():
    """Their best, 3.08 ± 0.60 % over 10 rounds by their log; 62,154 parameters."""
    layers = [
        *(Standardised(), nn.Conv2d(1, 32, 5), nn.BatchNorm2d(32), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(32, 64, 5), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10)),
    ]
    return Model(Shared(*layers), models.likeliest)


def adamisik_resnet():
    """Theirs with dropout, 3.47 ± 0.70 % over 10 rounds; 23,722 parameters."""
    layers = [Standardised(), nn.Conv2d(1, 16, 1), nn.ReLU()]
    for _ in range(5):
        half = [[nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)] for _ in range(2)]
        layers.append(Residual(*half[0], nn.ReLU(), *half[1]))
    layers += [nn.AvgPool2d(14), nn.ReLU(), nn.Flatten(), nn.Linear(16, 10), nn.Dropout()]
    return Model(Shared(*layers), models.likeliest)


def masyahook_convnet():
    """Theirs, 3.50 ± 0.68 % over 10 rounds by their results; 53,002 parameters."""
    layers = [
        *(Standardised(), nn.Conv2d(1, 32, 3), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)),
    ]
    return Model(Shared(*layers), models.likeliest)


MEMBERS = 4


class Ensemble(nn.ModuleList):
    """Siamese digit nets; a digit's probabilities are the means of theirs."""

    def forward(self, pairs):
        log_probabilities = torch.stack([net(pairs).log_softmax(dim=2) for net in self])
        return log_probabilities.logsumexp(dim=0)


def ensemble():
    """The digit nets of four posteriors, and its comparison; 197,456 parameters."""
    members = [models.posterior() for _ in range(MEMBERS)]
    return Model(Ensemble([member.net for member in members]), members[0].head)
