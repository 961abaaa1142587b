#!/usr/bin/env bash
# OneCycleLR with total_steps=1 has a single rate, and that is not max_lr and not where a cycle
# starts (max_lr / 25) but where it ends, max_lr / 250,000: a training of one step learns nothing,
# in silence. With two or three steps there is no warm-up: they start at 0.81 and 0.99 of max_lr.
# From four steps on the first rate is max_lr / 25, and it need not reach max_lr at all.
#
# Version: torch 2.14.1, CPU. Source: met when a schedule of epochs times batches was run with one
# epoch of one batch. The documentation
# (https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.OneCycleLR.html) speaks of
# an initial rate, a maximum and a minimum, and asks only that total_steps is a positive integer.
# Seen, max_lr 1:
#     1 step: 4e-06
#     2 steps: 0.81, 4e-06
#     3 steps: 0.99, 0.46, 4e-06
#     4 steps: 0.04, 0.81, 0.28, 4e-06
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.optim.lr_scheduler import OneCycleLR


def rates(total_steps):
    """The rate of each step of a cycle up to 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    cycle = OneCycleLR(optimizer, max_lr=1.0, total_steps=total_steps, cycle_momentum=False)
    found = []
    for _ in range(total_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cycle.step()
    return found


for steps in (1, 2, 3, 4):
    found = rates(steps)
    print(f"{steps} step{'s' if steps > 1 else ''}:", ", ".join(f"{rate:.2g}" for rate in found))
    assert abs(found[-1] - 4e-6) < 1e-9
    assert (found[0] < 0.041) == (steps in (1, 4))
assert max(rates(4)) < 0.82 and rates(2)[0] > 0.8 and rates(3)[0] > 0.99
PYTHON
