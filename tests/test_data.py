"""data.py against the published facts about MNIST, the course's helper, and torchvision."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torchvision.transforms.functional import InterpolationMode
from torchvision.transforms.functional import rotate as torchvision_rotate

import data

ROOT = Path(__file__).parent.parent


def test_mnist_is_mnist(mnist):
    """Published: the labels' counts, and 0.1307 and 0.3081 as the pixels' mean and deviation."""
    train_images, train_labels, test_images, test_labels = mnist
    assert train_images.shape == (60000, 28, 28) and test_images.shape == (10000, 28, 28)
    assert train_images.dtype == test_images.dtype == torch.uint8
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train_labels.bincount().tolist() == counts
    assert test_labels.bincount().tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    pixels = train_images.double() / 255
    assert round(pixels.mean().item(), 4) == 0.1307
    assert round(pixels.std().item(), 4) == 0.3081


def test_mnist_is_what_torchvision_reads(mnist):
    for train, images, labels in ((True, *mnist[:2]), (False, *mnist[2:])):
        dataset = torchvision.datasets.MNIST(ROOT / "data", train=train)
        assert torch.equal(images, dataset.data) and torch.equal(labels, dataset.targets)


def test_mnist_is_unpacked_where_the_environment_says(tmp_path, monkeypatch, mnist):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in (ROOT / "data" / "MNIST" / "raw").glob("*.gz"):
        (raw / packed.name).symlink_to(packed)
    monkeypatch.setenv("PYTORCH_DATA_DIR", str(tmp_path))
    assert torch.equal(data.load_mnist()[0], mnist[0])
    assert len(list(raw.glob("*-ubyte"))) == 4


def test_a_damaged_file_is_named(tmp_path, mnist):
    shutil.copytree(ROOT / "data" / "MNIST", tmp_path / "MNIST")
    labels = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1])
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte is damaged: delete it"):
        data.load_mnist(tmp_path)


def course_pairs(nb, images, labels):
    """The recipe of the course's helper, step by step: all images pooled, then nb pairs chosen."""
    pooled = F.avg_pool2d(images.view(-1, 1, 28, 28).float(), kernel_size=2)
    chosen = torch.randperm(len(images))[: 2 * nb].view(nb, 2)
    first, second = chosen[:, 0], chosen[:, 1]
    target = (labels[first] <= labels[second]).long()
    classes = torch.stack([labels[first], labels[second]], dim=1)
    return torch.cat([pooled[first], pooled[second]], dim=1), target, classes


@pytest.mark.parametrize("seed", [0, 7])
def test_the_course_draws_the_same_pairs(mnist, seed):
    torch.manual_seed(seed)
    expected = course_pairs(1000, *mnist[:2]) + course_pairs(1000, *mnist[2:])
    torch.manual_seed(seed)
    from_global = data.generate_pair_sets(1000)
    from_generator = data.generate_pair_sets(1000, torch.Generator().manual_seed(seed), mnist)
    for ours in (from_global, from_generator):
        for ours_tensor, tensor in zip(ours, expected, strict=True):
            assert ours_tensor.dtype == tensor.dtype
            assert torch.equal(ours_tensor, tensor)


def test_shapes_types_and_labels(pair_sets):
    for input, target, classes in (pair_sets[:3], pair_sets[3:]):
        assert input.shape == (1000, 2, 14, 14) and input.dtype == torch.float32
        assert target.shape == (1000,) and target.dtype == torch.int64
        assert classes.shape == (1000, 2) and classes.dtype == torch.int64
        assert input.min() == 0 and 200 < input.max() <= 255
        assert target.tolist() == [int(a <= b) for a, b in classes.tolist()]
        # ten digits, nearly equally frequent: (1 + 1/10) / 2, give or take 3 deviations
        assert abs(target.float().mean() - 0.55) < 3 * 0.0157


def test_training_and_test_images_never_mix():
    """Every image here is filled with its own number, so each can be told by its first pixel."""
    train_images = torch.arange(0, 100, dtype=torch.uint8).view(-1, 1, 1).expand(-1, 28, 28)
    test_images = torch.arange(100, 200, dtype=torch.uint8).view(-1, 1, 1).expand(-1, 28, 28)
    labels = torch.zeros(100, dtype=torch.long)
    sets = data.generate_pair_sets(50, None, (train_images, labels, test_images, labels))
    assert sorted(sets[0][:, :, 0, 0].flatten().tolist()) == list(range(0, 100))
    assert sorted(sets[3][:, :, 0, 0].flatten().tolist()) == list(range(100, 200))


def test_a_passed_generator_leaves_the_global_one_alone(mnist):
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    sets = data.generate_pair_sets(10, generator, mnist)
    data.add_rotated(*sets[:3], 5, generator)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("nb", [0, -1, 5001])
def test_impossible_numbers_of_pairs(mnist, nb):
    with pytest.raises(ValueError, match=str(nb)):
        data.generate_pair_sets(nb, None, mnist)


def test_rotation_is_torchvisions(pair_sets):
    input = pair_sets[0][:20]
    rotated = data.rotate(input, 40, torch.Generator().manual_seed(3))
    angles = 40 * (2 * torch.rand(40, generator=torch.Generator().manual_seed(3)) - 1)
    for image, ours, angle in zip(
        input.flatten(0, 1), rotated.flatten(0, 1), angles.tolist(), strict=True
    ):
        expected = torchvision_rotate(image[None], angle, InterpolationMode.BILINEAR)[0]
        torch.testing.assert_close(ours, expected, atol=0.05, rtol=0)  # of 255
    assert angles.min() < -30 and angles.max() > 30


def test_rotation_by_nothing_changes_nothing(pair_sets):
    torch.testing.assert_close(data.rotate(pair_sets[0], 0), pair_sets[0], atol=1e-3, rtol=0)


def test_rotated_copies_follow_the_originals(pair_sets):
    input, target, classes = (tensor[:30] for tensor in pair_sets[:3])
    generator, same = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    both = data.add_rotated(input, target, classes, 5, generator)
    assert torch.equal(both[0], torch.cat([input, data.rotate(input, 5, same)]))
    assert torch.equal(both[1], torch.cat([target, target]))
    assert torch.equal(both[2], torch.cat([classes, classes]))
