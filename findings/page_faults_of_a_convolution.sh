#!/usr/bin/env bash
# A convolution on the CPU whose output has 2 MB may take a thousand page faults at every call: glibc
# gives the memory of each output back to the system and gets it again page by page, which can take
# ten times as long as the convolution. torch.profiler puts that time down to the convolution. With
# glibc's thresholds raised (environment variables, read as the process starts) there is no fault at
# all. In a longer program it comes and goes with what else lies on the heap.
#
# Version: torch 2.14.1, CPU, one thread, glibc on Linux. Source: met when one of two equal training
# runs was slower by an eighth; mallopt(3) describes both thresholds
# (https://man7.org/linux/man-pages/man3/mallopt.3.html).
# Seen (x86-64, pages of 4 KB), minor page faults a call:
#     defaults: 1026
#     thresholds raised: 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.2.6
cat > "$folder/faults.py" <<'PYTHON'
import resource

import torch

torch.set_num_threads(1)
convolution, images = torch.nn.Conv2d(1, 16, 2), torch.randn(200, 1, 14, 14)
for _ in range(10):
    convolution(images)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    convolution(images)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 50)
PYTHON
defaults=$("$folder/venv/bin/python" "$folder/faults.py")
raised=$(MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=33554432 \
    "$folder/venv/bin/python" "$folder/faults.py")
printf 'defaults: %s\nthresholds raised: %s\n' "$defaults" "$raised"
test "$defaults" -gt 100
test "$raised" -lt 5
