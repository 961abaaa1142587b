#!/usr/bin/env bash
# On the CPU F.max_pool2d takes ten times as long for contiguous images as for the same images in
# channels_last, which most advice calls a layout for convolutions; F.avg_pool2d some five times.
#
# Version: torch 2.14.1, CPU, one thread. Source: met when a convnet with contiguous weights spent
# 40% of its time in max_pool2d_with_indices. The tutorial on channels_last
# (https://docs.pytorch.org/tutorials/intermediate/memory_format_tutorial.html) speaks of
# convolutions, batch norm and GPUs.
# Seen (x86-64 with AVX512), milliseconds, least of 50, images [200, 16, 13, 13], windows of 2:
#     max_pool2d: 2.05 contiguous, 0.17 channels_last
#     avg_pool2d: 0.62 contiguous, 0.11 channels_last
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
images = torch.randn(200, 16, 13, 13)
other = images.to(memory_format=torch.channels_last)


def milliseconds(pool, images):
    found = []
    for _ in range(50):
        start = time.perf_counter()
        pool(images, 2)
        found.append(1000 * (time.perf_counter() - start))
    return min(found)


for pool in (F.max_pool2d, F.avg_pool2d):
    assert torch.allclose(pool(images, 2), pool(other, 2), atol=1e-6)
    slow, fast = milliseconds(pool, images), milliseconds(pool, other)
    name = pool.__name__ if pool is F.avg_pool2d else "max_pool2d"
    print(f"{name}: {slow:.2f} contiguous, {fast:.2f} channels_last")
    assert slow > 2.5 * fast
PYTHON
