"""Pairs of 14x14 MNIST digits, as the course EE-559 hands them out, and their augmentation.

All that is random comes from the `generator` passed or, as in the course, from torch's global one.
"""

import functools
import math
import os
import shutil
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F


@functools.cache  # a process reads the files once
def load_mnist(root=None):
    """MNIST as (train_images, train_labels, test_images, test_labels).

    Images are uint8 [60000, 28, 28] and [10000, 28, 28], labels int64 in 0..9. Each of the four .gz
    files is looked for in MNIST/raw in `root` or, without one, in $PYTORCH_DATA_DIR/mnist (the
    course's), $PYTORCH_DATA_DIR and data/ beside this file; one that is missing or damaged in all
    is downloaded, for this time. Raises ValueError if that fails.
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
    roots = [root] if root else [f"{course}/mnist", course, beside]
    try:
        with tempfile.TemporaryDirectory() as draft:  # unpacked there: a root may be read-only
            raw = Path(draft, "MNIST", "raw")
            raw.mkdir(parents=True)
            for folder in roots:
                for name, md5 in MNIST.resources:
                    path = Path(folder, "MNIST", "raw", name)
                    if check_integrity(path, md5):
                        shutil.copy(path, raw)
            train = MNIST(draft, download=True)
            test = MNIST(draft, train=False)
    except RuntimeError as error:
        raise ValueError(
            f"MNIST's four .gz files in {path.parent} are missing or damaged, and downloading them "
            f"failed ({error}): restore them"
        ) from error
    except OSError as error:
        raise ValueError(
            f"MNIST cannot be unpacked in {tempfile.tempdir} ({error}): "
            "let TMPDIR be a folder with 80 MB to spare"
        ) from error
    return train.data, train.targets, test.data, test.targets


def draw_pairs(nb, images, labels, generator=None):
    """Draw `nb` pairs from `images` [n, 28, 28], none of them twice; n must be 2·nb at least.

    Returns input float32 [nb, 2, 14, 14] in 0..255, target int64 [nb], which is 1 where the first
    digit is less than or equal to the second, and classes int64 [nb, 2], the two digits.
    """
    if not 1 <= nb <= len(images) // 2:
        raise ValueError(f"cannot draw {nb} pairs from {len(images)} images")
    order = torch.randperm(len(images), generator=generator)
    chosen = order[: 2 * nb].view(nb, 2)
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


def warp(input, generator=None, degrees=0, scale=0, shear=0, shift=0, mode="bilinear"):
    """Turn, stretch, slant and move every image of `input` [N, 2, 14, 14] by amounts of its own.

    They are uniform: angles in ±degrees, divisors of width and height in 1 ± scale, slants in
    ±shear, shifts along both axes in ±shift pixels. `mode` is F.grid_sample's; MNIST's background,
    0, is beyond the edge. Returns a new tensor of the same shape.
    """
    images = input.reshape(-1, 1, 14, 14).float().cpu()  # Apple's GPUs may lack bicubic
    uniform = 2 * torch.rand(6, len(images), generator=generator) - 1
    angle = math.radians(degrees) * uniform[0]
    slant = shear * uniform[1]
    width, height = 1 + scale * uniform[2:4]
    x, y = shift / 7 * uniform[4:]  # an image is 2 wide
    cos = angle.cos()
    sin = angle.sin()
    origins = [  # where each new pixel comes from: two rows of a matrix
        width * cos,
        slant * cos - height * sin,
        x,
        width * sin,
        slant * sin + height * cos,
        y,
    ]
    matrices = torch.stack(origins, dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrices, images.shape, align_corners=False)
    return F.grid_sample(images, grid, mode, align_corners=False).to(input).view_as(input)


def distort(input, generator=None, strength=1.0, thickening=0.3, mode="bicubic"):
    """A copy of `input` [N, 2, 14, 14] in which every image is distorted by amounts of its own.

    At strength 1 it is turned by up to 15°, stretched and slanted by up to 10% and moved by up to
    a pixel (bicubic: bilinear blurs). Then its strokes get thinner or thicker: each pixel moves by
    up to `thickening` of the way to the darkest or the brightest of itself and its neighbours.
    """
    images = warp(
        input,
        generator,
        degrees=15 * strength,
        scale=0.1 * strength,
        shear=0.1 * strength,
        shift=strength,
        mode=mode,
    )
    uniform = 2 * torch.rand(len(input), 2, 1, 1, generator=generator).to(input) - 1
    thickening = thickening * strength * uniform
    channels = images.view(1, -1, 14, 14)  # of one image, which pools ten times faster
    channels = channels.to(memory_format=torch.channels_last)
    brightest = F.max_pool2d(channels, 3, 1, 1).view_as(images)
    darkest = -F.max_pool2d(-channels, 3, 1, 1).view_as(images)
    extreme = torch.where(thickening > 0, brightest, darkest)
    return images + thickening.abs() * (extreme - images)


def add_rotated(input, target, classes, generator=None, degrees=5):
    """Report 2, section II: the pairs, and after them a rotated copy of each; twice the length."""
    rotated = warp(input, generator, degrees)
    return torch.cat([input, rotated]), target.repeat(2), classes.repeat(2, 1)
