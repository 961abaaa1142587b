"""data.py against the published facts about MNIST, the course's helper, and torchvision."""

import errno
import gzip
import os
import re
import shutil
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torchvision.transforms.functional import InterpolationMode
from torchvision.transforms.functional import rotate as torchvision_rotate

import data

ROOT = Path(__file__).parent.parent
FILES = [
    f"{part}-{what}.gz"
    for part in ("train", "t10k")
    for what in ("images-idx3-ubyte", "labels-idx1-ubyte")
]


def test_mnist_is_mnist(mnist):
    """Published: the labels' counts, and 0.1307 and 0.3081 as the pixels' mean and deviation."""
    train_images, train_labels, test_images, test_labels = mnist
    assert train_images.shape == (60000, 28, 28) and test_images.shape == (10000, 28, 28)
    assert train_images.dtype == test_images.dtype == torch.uint8
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train_labels.bincount().tolist() == counts
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert test_labels.bincount().tolist() == counts
    pixels = train_images.double() / 255
    assert round(pixels.mean().item(), 4) == 0.1307
    assert round(pixels.std().item(), 4) == 0.3081


def raw_copy(folder):
    """A folder like data/, with the four files in folder/MNIST/raw, which it returns."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        shutil.copy(ROOT / "data" / "MNIST" / "raw" / name, raw)
    return raw


def test_mnist_is_what_its_files_say(mnist):
    """Their format, as published: a header of 16 or 8 bytes, then a byte a pixel or a label."""
    for tensor, name in zip(mnist, FILES):
        content = gzip.decompress((ROOT / "data" / "MNIST" / "raw" / name).read_bytes())
        values = torch.frombuffer(
            bytearray(content[16 if "images" in name else 8 :]), dtype=torch.uint8
        )
        assert torch.equal(values.view(tensor.shape), tensor.to(torch.uint8))


def test_where_mnist_is_looked_for(tmp_path, monkeypatch, mnist):
    """In the course's folder, in that of torchvision, beside data.py: what one lacks, or has only
    damaged or unpacked, another has. There is no network."""
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://localhost:9/"])
    monkeypatch.setenv("PYTORCH_DATA_DIR", str(tmp_path))
    load_mnist = data.load_mnist.__wrapped__  # not from the cache
    assert torch.equal(load_mnist()[3], mnist[3])  # nothing is there
    raw_copy(tmp_path / "mnist")
    path = broken(raw_copy(tmp_path), "changed")
    path.with_suffix("").write_bytes(b"not looked at")
    assert torch.equal(load_mnist()[3], mnist[3])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(data, "__file__", str(tmp_path / "elsewhere" / "data.py"))
    assert torch.equal(load_mnist()[3], mnist[3])  # all but one in both, that one in the course's
    broken(tmp_path / "mnist" / "MNIST" / "raw", "missing")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "elsewhere" / "data"))):
        load_mnist()


@pytest.mark.parametrize("where", ["copy", "mkdtemp"])
def test_a_full_temporary_folder_is_named(where, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil if where == "copy" else data.tempfile, where, full)
    with pytest.raises(ValueError, match=f"No space left.* let {tempfile.gettempdir()} have 80 MB"):
        data.load_mnist.__wrapped__()


def beside(folder, monkeypatch):
    """load_mnist, not from its cache, as if data.py stood beside the data in `folder`."""
    monkeypatch.setattr(data, "__file__", str(folder / "data.py"))
    return data.load_mnist.__wrapped__()


def test_nothing_is_written_and_unpacked_files_do_not_matter(tmp_path, monkeypatch, mnist):
    raw = raw_copy(tmp_path / "data")
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"truncated")
    before = {path: path.stat().st_mtime_ns for path in raw.iterdir()}
    assert torch.equal(beside(tmp_path, monkeypatch)[3], mnist[3])
    assert {path: path.stat().st_mtime_ns for path in raw.iterdir()} == before


@contextmanager
def serving(folder):
    """A mirror for torchvision on this machine: its URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("localhost", 0), partial(Quiet, directory=folder)) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()


def broken(raw, how):
    """The path of a .gz file that is now missing, cut short, or changed in one byte."""
    path = raw / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.unlink()
    if how != "missing":
        path.write_bytes(content[:900] if how == "truncated" else content)
    return path


@pytest.mark.parametrize("how", ["missing", "truncated", "changed"])
def test_a_bad_file_is_downloaded(how, tmp_path, monkeypatch, mnist):
    """By torchvision, which checks it: here from this repository, as if that were a mirror. The
    folder itself is not touched, as it may be read-only."""
    raw = raw_copy(tmp_path / "data")
    broken(raw, how)
    before = {path: path.read_bytes() for path in raw.iterdir()}
    with serving(ROOT / "data" / "MNIST" / "raw") as mirror:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [mirror])
        assert torch.equal(beside(tmp_path, monkeypatch)[3], mnist[3])
    assert {path: path.read_bytes() for path in raw.iterdir()} == before


@pytest.mark.parametrize("how", ["missing", "truncated", "changed", "a pipe"])
def test_without_a_network_a_bad_file_is_named(how, tmp_path, monkeypatch):
    path = broken(raw_copy(tmp_path / "data"), "missing" if how == "a pipe" else how)
    if how == "a pipe":
        os.mkfifo(path)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://localhost:9/"])
    with pytest.raises(ValueError, match=f"restore its four .gz files in {path.parent}"):
        beside(tmp_path, monkeypatch)


def test_a_wrong_download_is_refused(tmp_path, monkeypatch):
    """A mirror that serves damaged files: nothing is taken from it."""
    broken(raw_copy(tmp_path / "data"), "missing")
    with serving(broken(raw_copy(tmp_path / "mirror"), "changed").parent) as mirror:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [mirror])
        with pytest.raises(ValueError, match="restore its four"):
            beside(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "problem", [RuntimeError("operator torchvision::nms does not exist"), None]
)
def test_a_torchvision_that_does_not_fit_torch(problem, tmp_path, monkeypatch):
    """Its import fails with a RuntimeError, or it is not there at all: the remedy is named."""

    class Misfit:
        def find_spec(self, name, *_):
            if name.startswith("torchvision"):
                raise problem or ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(sys, "meta_path", [Misfit(), *sys.meta_path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ValueError, match=r"torchvision does not work with torch .*pip install"):
        data.load_mnist.__wrapped__()


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
    from_generator = data.generate_pair_sets(1000, torch.Generator().manual_seed(seed))
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


def test_training_and_test_images_never_mix(monkeypatch):
    """Every image here is filled with its own number, so each can be told by its first pixel."""
    train_images = torch.arange(0, 100, dtype=torch.uint8).view(-1, 1, 1).expand(-1, 28, 28)
    test_images = torch.arange(100, 200, dtype=torch.uint8).view(-1, 1, 1).expand(-1, 28, 28)
    labels = torch.zeros(100, dtype=torch.long)
    monkeypatch.setattr(data, "load_mnist", lambda: (train_images, labels, test_images, labels))
    sets = data.generate_pair_sets(50)
    assert sorted(sets[0][:, :, 0, 0].flatten().tolist()) == list(range(0, 100))
    assert sorted(sets[3][:, :, 0, 0].flatten().tolist()) == list(range(100, 200))


def test_a_passed_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    sets = data.generate_pair_sets(10, generator)
    data.add_rotated(*sets[:3], generator, 5)
    data.distort(sets[0], generator)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("nb", [0, -1, 5001])
def test_impossible_numbers_of_pairs(nb):
    with pytest.raises(ValueError, match=str(nb)):
        data.generate_pair_sets(nb)


def test_places_are_those_of_torchs_grids():
    """(1, y, x) of each pixel, row by row, as F.affine_grid has x and y."""
    for size in (12, 14):
        grid = F.affine_grid(torch.eye(2, 3)[None], (1, 1, size, size), align_corners=False)
        x, y = grid.view(-1, 2).T
        torch.testing.assert_close(data.places(size), torch.stack([torch.ones_like(x), y, x]))


def test_rotated_copies_are_torchvisions_and_follow_the_originals(pair_sets):
    input, target, classes = (tensor[:20] for tensor in pair_sets[:3])
    generator, same = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    both = data.add_rotated(input, target, classes, generator, 40)
    angles = torch.empty(40).uniform_(-40, 40, generator=same)
    for image, ours, angle in zip(
        input.flatten(0, 1), both[0][20:].flatten(0, 1), angles.tolist(), strict=True
    ):
        expected = torchvision_rotate(image[None], angle, InterpolationMode.BILINEAR)[0]
        torch.testing.assert_close(ours, expected, atol=0.05, rtol=0)  # of 255
    assert angles.min() < -30 and angles.max() > 30
    assert torch.equal(both[0][:20], input)
    assert torch.equal(both[1], torch.cat([target, target]))
    assert torch.equal(both[2], torch.cat([classes, classes]))


@pytest.mark.parametrize("size", [12, 14])
def test_resampling_is_affine_grids(size, pair_sets):
    """F.affine_grid and F.grid_sample, step by step; and a map that changes nothing."""
    input = pair_sets[0][:10]
    matrices = torch.eye(3)[1:] + 0.2 * torch.randn(20, 2, 3)
    theirs = matrices.flip(1)[:, :, [2, 1, 0]]  # (x, y) of (x, y, 1)
    grid = F.affine_grid(theirs, (20, 1, size, size), align_corners=False)
    for mode in ("bilinear", "bicubic"):
        expected = F.grid_sample(input.view(20, 1, 14, 14), grid, mode, align_corners=False)
        ours = data.resample(input, matrices, size, mode)
        torch.testing.assert_close(ours.view_as(expected), expected, atol=2e-2, rtol=0)
    same = data.resample(input, torch.eye(3)[1:].expand(20, 2, 3))
    torch.testing.assert_close(same, input, atol=2e-3, rtol=0)


def test_shifts_scale_and_slant_of_a_point():
    """A bright spot moves by at most a pixel, as often left as right; a bar of 8 pixels becomes up
    to 10% longer or shorter; what is far from the middle row is slanted."""
    generator = torch.Generator().manual_seed(0)
    columns, rows = torch.arange(14) - 6.5, torch.arange(14) - 6.5

    def centre(images):
        mass = images.sum((2, 3))
        return (images.sum(2) @ columns) / mass, (images.sum(3) @ rows) / mass

    spot = torch.zeros(500, 2, 14, 14)
    spot[:, :, 6:8, 6:8] = 1.0
    x, y = centre(data.distort(spot, generator))
    for position in (x, y):
        assert 0.9 < position.max() <= 1.35 and -1.35 <= position.min() < -0.9
        assert position.mean().abs() < 0.06
    assert (x * y).mean().abs() < 0.03  # along both axes independently
    bar = torch.zeros(500, 2, 14, 14)
    bar[:, :, :, 3:11] = 1.0
    length = data.distort(bar, generator)[:, :, 5:9].mean(2).sum(-1)
    assert 7 < length.min() < 7.5 and 8.6 < length.max() < 9.2
    high = torch.zeros(500, 2, 14, 14)
    high[:, :, 1:3, 6:8] = 1.0
    low = high.flip(2)
    same = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    slant = centre(data.distort(high, same[0]))[0] - centre(data.distort(low, same[1]))[0]
    assert 1.2 < slant.max() < 1.9 and slant.mean().abs() < 0.1  # 0.15 of some 10 pixels


def test_every_image_is_distorted_by_amounts_of_its_own(pair_sets):
    same = pair_sets[0][:1].expand(10, 2, 14, 14).clone()
    same[:, 1] = same[:, 0]
    distorted = data.distort(same, torch.Generator().manual_seed(0)).view(20, -1)
    assert len({tuple(image.tolist()) for image in distorted}) == 20
    again = data.distort(same, torch.Generator().manual_seed(0)).view(20, -1)
    assert torch.equal(distorted, again)
    unchanged = data.distort(same, torch.Generator().manual_seed(0), strength=0.0)
    torch.testing.assert_close(unchanged, same, atol=2e-3, rtol=0)
