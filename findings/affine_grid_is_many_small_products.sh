#!/usr/bin/env bash
# On the CPU F.affine_grid for many small images takes longer than F.grid_sample, which does the
# work: it is a batch of N small products of matrices. All matrices stacked and multiplied with the
# one grid of places are a single product, which gives the same grids several times as fast.
#
# Version: torch 2.14.1, CPU, one thread. Source: met when affine distortions took twice as long as
# their sampling (https://docs.pytorch.org/docs/2.14/generated/torch.nn.functional.affine_grid.html
# does not speak of speed).
# Seen (x86-64 with AVX512), milliseconds, least of 50, 2000 images of 14x14:
#     F.affine_grid 2.2, one product 0.1, F.grid_sample, bilinear, 0.8
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
images = torch.rand(2000, 1, 14, 14)
matrices = torch.eye(2, 3) + 0.1 * torch.randn(2000, 2, 3)
same = F.affine_grid(torch.eye(2, 3)[None], (1, 1, 14, 14), align_corners=False)
places = F.pad(same, (0, 1), value=1.0).view(-1, 3).T.contiguous()  # x, y, 1


def batch():
    return F.affine_grid(matrices, images.shape, align_corners=False)


def product():
    return (matrices.view(-1, 3) @ places).view(-1, 2, 14, 14).movedim(1, 3)


def sample():
    return F.grid_sample(images, grid, align_corners=False)


def milliseconds(function):
    found = []
    for _ in range(50):
        start = time.perf_counter()
        function()
        found.append(1000 * (time.perf_counter() - start))
    return min(found)


grid = batch()
torch.testing.assert_close(product(), grid)
slow, fast, sampling = map(milliseconds, (batch, product, sample))
print(f"F.affine_grid {slow:.2f} ms, one product {fast:.2f}, F.grid_sample {sampling:.2f}")
assert slow > 2 * fast and slow > sampling
PYTHON
