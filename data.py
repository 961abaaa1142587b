"""Pairs of 14x14 MNIST digits, as the course EE-559 hands them out, and their augmentation.

All that is random comes from the `generator` passed or, as in the course, from torch's global one.
"""

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F


@cache  # a process reads the files once
def load_mnist():
    """MNIST as (train_images, train_labels, test_images, test_labels).

    Images are uint8 [60000, 28, 28] and [10000, 28, 28], labels int64 in 0..9. Each of the four .gz
    files is looked for in MNIST/raw in $PYTORCH_DATA_DIR/mnist (the course's), $PYTORCH_DATA_DIR
    and data/ beside this file; one that is missing or damaged in all is downloaded, for this time.
    Raises ValueError if that fails.
    """
    try:
        from torchvision.datasets import MNIST  # here, so that a misfit is told in one line
        from torchvision.datasets.utils import check_integrity
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f"torchvision does not work with torch {torch.__version__} ({error}): "
            "python -m pip install --force-reinstall torch torchvision"
        ) from error
    beside = Path(__file__).with_name("data")
    course = os.environ.get("PYTORCH_DATA_DIR", beside)
    try:
        with tempfile.TemporaryDirectory() as draft:  # unpacked there: a root may be read-only
            raw = Path(draft, "MNIST", "raw")
            raw.mkdir(parents=True)
            for folder in (f"{course}/mnist", course, beside):
                for name, md5 in MNIST.resources:
                    path = Path(folder, "MNIST", "raw", name)
                    if check_integrity(path, md5):
                        shutil.copy(path, raw)
            train = MNIST(draft, download=True)
            test = MNIST(draft, train=False)
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"MNIST cannot be read ({error}): restore its four .gz files in {beside}/MNIST/raw, "
            f"and let {tempfile.gettempdir()} have 80 MB to spare"
        ) from error
    return train.data, train.targets, test.data, test.targets


def draw_pairs(nb, images, labels, generator=None):
    """Draw `nb` pairs from `images` [n, 28, 28], none of them twice; n must be 2·nb at least.

    Returns input float32 [nb, 2, 14, 14] in 0..255, target int64 [nb], which is 1 where the first
    digit is less than or equal to the second, and classes int64 [nb, 2], the two digits.
    """
    if not 1 <= nb <= len(images) // 2:
        raise ValueError(f"cannot draw {nb} pairs from {len(images)} images")
    chosen = torch.randperm(len(images), generator=generator)[: 2 * nb].view(nb, 2)
    input = F.avg_pool2d(images[chosen].float(), kernel_size=2)
    classes = labels[chosen]
    target = (classes[:, 0] <= classes[:, 1]).long()
    return input, target, classes


def generate_pair_sets(nb, generator=None, nb_test=None):
    """The course's helper: `nb` pairs of MNIST's training images and `nb` of its test images.

    Returns train_input, train_target, train_classes, test_input, test_target, test_classes, each
    as in `draw_pairs`: under the same torch.manual_seed (or with a `generator` of the same seed)
    the very tensors of the course's generate_pair_sets. `nb_test` is for another number of the
    latter.
    """
    train_images, train_labels, test_images, test_labels = load_mnist()
    train_set = draw_pairs(nb, train_images, train_labels, generator)
    test_set = draw_pairs(nb_test or nb, test_images, test_labels, generator)
    return train_set + test_set


def places(size):
    """A column (1, y, x) for each pixel's centre, [3, size²]; the image's edges are at ±1."""
    axis = (2 * torch.arange(size) + 1) / size - 1
    return torch.cartesian_prod(torch.ones(1), axis, axis).T


def resample(input, matrices, size=14, mode="bicubic"):
    """Images [..., 14, 14], N in all, seen through N affine maps: [..., size, size].

    `matrices` [N, 2, 3] take (1, y, x) of a new pixel to its (y, x) in the old image. `mode` is
    F.grid_sample's; beyond the edge is MNIST's background, 0.
    """
    # one product of matrices takes a fraction of the time of F.affine_grid's N products
    grid = matrices.to(input) @ places(size).to(input)
    grid = grid.view(-1, 2, size, size).flip(1).movedim(1, 3)  # F.grid_sample has x before y
    images = input.reshape(-1, 1, 14, 14)
    return F.grid_sample(images, grid, mode, align_corners=False).view(
        *input.shape[:-2], size, size
    )


def distort(input, generator=None, strength=1.0):
    """A copy of `input` [N, 2, 14, 14] in which every image is distorted by amounts of its own.

    At strength 1 width and height change by up to about 10%, each axis is slanted by up to 15%
    (both at once may turn the image) and it moves by up to about a pixel.
    """
    amounts = torch.tensor([[1 / 7, 0.1, 0.15], [1 / 7, 0.15, 0.1]])
    uniform = torch.empty(2 * len(input), 2, 3).uniform_(-strength, strength, generator=generator)
    return resample(input, torch.eye(3)[1:] + amounts * uniform)


def add_rotated(input, target, classes, generator=None, degrees=5):
    """Report 2, section II: the pairs, and after them a copy of each; twice the length.

    In it every image is turned by an angle of its own, uniform in ±degrees.
    """
    angles = torch.empty(2 * len(input), 1, 1).uniform_(-degrees, degrees, generator=generator)
    angles = angles.deg2rad()
    quarter = torch.tensor([[0.0, 0, 1], [0, -1, 0]])  # of a turn
    matrices = angles.cos() * torch.eye(3)[1:] + angles.sin() * quarter
    rotated = resample(input, matrices, mode="bilinear")
    return torch.cat([input, rotated]), target.repeat(2), classes.repeat(2, 1)
