#!/usr/bin/env bash
# The first optimizer that a program makes imports torch._dynamo, the front end of torch.compile,
# though nothing is compiled: making torch.optim.SGD takes about as long as `import torch` did.
# `import torch` alone does not import it, so it looks like time of the first training step.
#
# Version: torch 2.14.1. Source: met when a run's first epoch ended a second later than its parts
# took. Optimizer.add_param_group is wrapped by torch._disable_dynamo, whose wrapper imports
# torch._dynamo when it is first called (torch/_compile.py).
# Seen (x86-64), seconds, Python's files read before: import torch 1.3, the first optimizer 0.9,
# the second less than 0.0001.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.2.6
cat > "$folder/first.py" <<'PYTHON'
import sys
import time

start = time.perf_counter()
import torch

imported = time.perf_counter() - start
weights = [torch.nn.Parameter(torch.zeros(1))]
assert "torch._dynamo" not in sys.modules
seconds = []
for _ in range(2):
    start = time.perf_counter()
    torch.optim.SGD(weights, lr=0.1)
    seconds.append(time.perf_counter() - start)
print(f"import torch {imported:.2f} s, first optimizer {seconds[0]:.2f}, second {seconds[1]:.4f}")
assert "torch._dynamo" in sys.modules
assert seconds[0] > 0.2 * imported and seconds[0] > 100 * seconds[1]
PYTHON
"$folder/venv/bin/python" "$folder/first.py" > "$folder/warm_up" # files are read, and compiled
"$folder/venv/bin/python" "$folder/first.py"
