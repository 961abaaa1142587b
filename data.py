"""Pairs of MNIST digits at 14x14, as the course EE-559 hands them out, and their augmentation.

Everything random is drawn from the generator that is passed, or, as in the course's own helper,
from torch's global one where none is.
"""

import hashlib
import math
import os
from pathlib import Path

import torch
import torch.nn.functional as F

UNPACKED = {  # MNIST's four files as torchvision unpacks them, and their MD5 sums
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def read_idx(path, md5):
    """What follows an MNIST file's header, uint8 [n]. Raises ValueError if it is damaged."""
    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"{path} is damaged: delete it, to have it unpacked again")
    header = 16 if "images" in path.name else 8
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header)


def load_mnist(root=None):
    """MNIST as (train_images, train_labels, test_images, test_labels).

    Images are uint8 [60000, 28, 28] and [10000, 28, 28] in 0..255, labels int64 in 0..9. `root`
    holds MNIST/raw/; by default it is the environment variable PYTORCH_DATA_DIR or else data/
    beside this file. Where the four files are not unpacked there, torchvision checks the .gz files
    by MD5 and unpacks them; missing ones it downloads. Raises ValueError where that fails.
    """
    root = Path(root or os.environ.get("PYTORCH_DATA_DIR") or Path(__file__).parent / "data")
    paths = [root / "MNIST" / "raw" / name for name in UNPACKED]
    if not all(path.exists() for path in paths):
        try:
            from torchvision.datasets import MNIST  # here, as the import takes as long as torch's

            MNIST(root, download=True)
        except (ImportError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"MNIST cannot be unpacked or downloaded: {reason}") from error
    images, labels, test_images, test_labels = map(read_idx, paths, UNPACKED.values())
    images, test_images = images.view(-1, 28, 28), test_images.view(-1, 28, 28)
    return images, labels.long(), test_images, test_labels.long()


def draw_pairs(nb, images, labels, generator=None):
    """Draw `nb` pairs from `images` [n, 28, 28]; no image is drawn twice.

    Returns input float32 [nb, 2, 14, 14] in 0..255, target int64 [nb], which is 1 where the first
    digit is less than or equal to the second, and classes int64 [nb, 2], the two digits.
    Raises ValueError if there are not 2·nb images.
    """
    if not 1 <= nb <= len(images) // 2:
        raise ValueError(f"cannot draw {nb} pairs from {len(images)} images")
    chosen = torch.randperm(len(images), generator=generator)[: 2 * nb].view(nb, 2)
    input = F.avg_pool2d(images[chosen].float(), kernel_size=2)
    classes = labels[chosen]
    target = (classes[:, 0] <= classes[:, 1]).long()
    return input, target, classes


def generate_pair_sets(nb, generator=None, mnist=None):
    """The course's helper: `nb` pairs of MNIST's training images and `nb` of its test images.

    Returns train_input, train_target, train_classes, test_input, test_target, test_classes, each
    as in `draw_pairs`: under the same torch.manual_seed (or a `generator` of the same seed), the
    very tensors of the course's generate_pair_sets. `mnist` is what `load_mnist` returns; without
    it, it is loaded.
    """
    train_images, train_labels, test_images, test_labels = mnist or load_mnist()
    train_set = draw_pairs(nb, train_images, train_labels, generator)
    test_set = draw_pairs(nb, test_images, test_labels, generator)
    return train_set + test_set


def rotate(input, max_degrees, generator=None):
    """Turn every image of `input` [N, 2, 14, 14] about its centre by an angle of its own.

    Angles are uniform in ±max_degrees, values interpolated bilinearly, with 0 (MNIST's background)
    beyond the edge. Returns a new tensor of the same shape.
    """
    images = input.view(-1, 1, *input.shape[2:])
    angle = math.radians(max_degrees) * (2 * torch.rand(len(images), generator=generator) - 1)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rotation = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(rotation, images.shape, align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).view_as(input)


def add_rotated(input, target, classes, max_degrees, generator=None):
    """Report 2, section II: the pairs, and after them a rotated copy of each; twice the length."""
    rotated = rotate(input, max_degrees, generator)
    return torch.cat([input, rotated]), target.repeat(2), classes.repeat(2, 1)
