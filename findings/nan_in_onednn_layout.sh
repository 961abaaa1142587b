#!/usr/bin/env bash
# In oneDNN's memory layout (tensor.to_mkldnn(), on x86 CPUs) relu(NaN) is 0 and a maximum over NaN
# and numbers is the largest number; in every other layout both are NaN. So a net whose weights have
# become NaN gives finite outputs there, and a loss that is looked at for NaN does not show it.
#
# Version: torch 2.14.1, CPU. Source: met when a training with far too high a rate ended with NaN in
# eleven of its parameters, a finite loss and a finite error. torch.relu's documentation
# (https://docs.pytorch.org/docs/stable/generated/torch.relu.html) has no word on layouts.
# Seen (x86-64):
#     relu: [nan, 1.0] strided, [0.0, 1.0] in oneDNN's layout
#     max pool of NaN, 1, 2, 3: nan strided, 3.0 in oneDNN's layout
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import math

import torch
import torch.nn.functional as F

row = torch.tensor([[[[math.nan, 1.0]]]])
square = torch.tensor([[[[math.nan, 1.0], [2.0, 3.0]]]])
plain, other = (f.flatten().tolist() for f in (row.relu(), row.to_mkldnn().relu().to_dense()))
print(f"relu: {plain} strided, {other} in oneDNN's layout")
assert math.isnan(plain[0]) and plain[1] == 1 and other == [0, 1]
plain = F.max_pool2d(square, 2).item()
other = F.max_pool2d(square.to_mkldnn(), 2).to_dense().item()
print(f"max pool of NaN, 1, 2, 3: {plain} strided, {other} in oneDNN's layout")
assert math.isnan(plain) and other == 3
PYTHON
