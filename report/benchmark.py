"""The speed of test.py beside a textbook training loop, model by model: report/results/benchmark.json.

(a) the textbook loop: one round after the other, torch's default threads and memory layout, torch.optim.Adam, slices of
    shuffled tensors, the whole test set at once;
(b) what test.py does on the CPU: rounds in parallel, a single-threaded process on each core.

Both train on the same pairs and test after every epoch. They run in turn, several times. The FLOP utilisation is the
floating point operations of the forward and backward passes over the time, as a share of what products of 1024x1024
float32 matrices reach on the same cores in the same run. Also: start-up time, memory, and a profile of a training step.
"""

import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import models
import test
import train
from data import distort, load_mnist
from report.experiments import RESULTS, load

EPOCHS, REPEATS = 12, 3  # of a round; of each measurement
NAMES = "textbook_seconds", "seconds", "textbook_utilisation", "utilisation"


def textbook_lenet():
    """Report 1's digit net with its second convolution written as one."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, kernel_size=5), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(16, 120, kernel_size=5), nn.Tanh(), nn.Flatten()),
        *(nn.Linear(120, 82), nn.Tanh(), nn.Linear(82, 10), nn.LogSoftmax(dim=1)),
    )


def start_textbook(threads):
    """In the process that runs the textbook loop: PyTorch's threads and layout, plain models."""
    test.start_worker()
    torch.set_num_threads(threads)
    models.Convolutions.forward = nn.Sequential.forward
    models.lenet_digit = textbook_lenet


def textbook_loss(row, comparison, digits, target, classes):
    loss = 0
    if row["comparison_weight"]:
        loss = F.binary_cross_entropy_with_logits(comparison, target.float())
    if row["digit_weight"]:
        smoothing = row["label_smoothing"]
        loss = loss + F.cross_entropy(digits[:, 0], classes[:, 0], label_smoothing=smoothing)
        loss = loss + F.cross_entropy(digits[:, 1], classes[:, 1], label_smoothing=smoothing)
    return loss


def textbook_round(key, row, seed, mnist):
    """Seconds that the textbook loop takes for one round of a row of test.py's table."""
    start = time.perf_counter()
    _, train_set, test_set, generator = test.prepare(key, row["rotation"], seed, "cpu", mnist)
    model = models.MODELS[key]()
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[row["optimizer"]]
    optimizer = kind(model.parameters(), lr=row["learning_rate"])
    size = row["batch_size"]
    for epoch in range(row["epochs"]):
        model.train()
        input, target, classes = train_set
        if row["distorted"] and epoch < row["epochs"] - 1:
            input = torch.cat([distort(input, generator) for _ in range(row["distorted"])])
            target, classes = target.repeat(row["distorted"]), classes.repeat(row["distorted"], 1)
        order = torch.randperm(len(input), generator=generator)
        input, target, classes = input[order], target[order], classes[order]
        for b in range(0, len(input), size):
            outputs = model(input[b : b + size])
            loss = textbook_loss(row, *outputs, target[b : b + size], classes[b : b + size])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            ((model(test_set[0])[0] > 0) == test_set[1]).float().mean().item()
    return time.perf_counter() - start


def flops(key, row):
    """Floating point operations of one round: training forward and backward, and the tests."""
    model, pairs = models.MODELS[key](), torch.zeros(row["batch_size"], 2, 14, 14)
    target, classes = torch.zeros(len(pairs)).long(), torch.zeros(len(pairs), 2).long()
    with FlopCounterMode(display=False) as training:
        textbook_loss(row, *model(pairs), target, classes).backward()
    with FlopCounterMode(display=False) as testing, torch.no_grad():
        model.eval()(pairs)
    batches = test.PAIRS / len(pairs)  # of the pairs, once
    copies = row["epochs"] * (2 if row["rotation"] else 1)
    if row["distorted"]:
        copies = row["distorted"] * (row["epochs"] - 1) + 1
    return batches * (copies * training.get_total_flops() + row["epochs"] * testing.get_total_flops())


def matrix_product_speed(_):
    """FLOP/s of the product of two 1024x1024 float32 matrices, with this process's threads."""
    a, seconds = torch.rand(1024, 1024), []
    for _ in range(40):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * 1024**3 / statistics.median(seconds)


def compare(key, workers, mnist):
    """Measure one model once: seconds a round and FLOP utilisation of (a) and of (b)."""
    row, jobs = test.read_row(key) | {"epochs": EPOCHS}, range(2 * workers)
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, fork, start_textbook, (workers,)) as textbook:
        seconds_a = textbook.submit(textbook_round, key, row, 0, mnist).result()
        peak_a = textbook.submit(matrix_product_speed, None).result()
        work = textbook.submit(flops, key, row).result()
    start = time.perf_counter()
    list(test.run_in_workers([(key, row, [seed]) for seed in jobs], workers, mnist))
    seconds_b = (time.perf_counter() - start) / len(jobs)
    with ProcessPoolExecutor(workers, fork, test.start_worker) as ours:
        peak_b = sum(ours.map(matrix_product_speed, range(workers)))
    return seconds_a, seconds_b, work / seconds_a / peak_a, work / seconds_b / peak_b


def profile(key, row, seeds, device, mnist):
    """Milliseconds of one training step, by kind of operation; a job for run_in_workers."""
    kinds = {"convolution": "convolution", "batch_norm": "batch norm", "pool": "pooling", "relu": "ReLU"}
    kinds["threshold"] = "ReLU"  # its gradient
    model, train_set, test_set, generator = test.prepare(key, row["rotation"], seeds[0], device, mnist)
    settings = {name: value for name, value in row.items() if name != "rotation"}
    with (
        patch.object(train, "evaluate", lambda *_: [0.0]),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler,
    ):
        train.train([model], [train_set], [test_set], [generator], **settings)
    spent, steps = Counter(), row["epochs"] * len(train_set[0]) // row["batch_size"]
    for event in profiler.key_averages():
        kind = next((kind for word, kind in kinds.items() if word in event.key.lower()), "the rest")
        spent[kind] += event.self_cpu_time_total / 1000 / steps
    return [dict(spent)]


def first_round():
    """Seconds from launch to the end of a run of one round of one epoch."""
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        options = ["--models", "sub_lenet5_ws_al", "--rounds", "1", "--epochs", "1", "--device", "cpu"]
        command = [sys.executable, test.__file__, *options, "--output", f"{folder}/results.json"]
        subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def memory(workers):
    """Megabytes (proportional set size) of a run's processes after five rounds of each model, the parent first."""
    with TemporaryDirectory() as folder:
        options = ["--epochs", "1", "--device", "cpu", "--workers", str(workers)]
        command = [sys.executable, test.__file__, *options, "--output", f"{folder}/results.json"]
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            next(line for line in run.stderr if line.startswith(f"{5 * len(models.MODELS)} of"))
            tasks = Path(f"/proc/{run.pid}/task").glob("*/children")
            processes = [run.pid, *(pid for children in tasks for pid in children.read_text().split())]
            texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in processes]
        finally:
            run.terminate()
            run.communicate()
    return [int(text.partition("\nPss:")[2].split()[0]) / 1000 for text in texts]


def rows(results):
    """The table's rows as texts: medians, and last the sum over the models."""
    total = Counter()
    for key, entry in results["models"].items():
        a, b, share_a, share_b = (statistics.median(values) for values in entry.values())
        total += Counter(a=a, b=b)
        yield [key, f"{a:.2f}", f"{b:.2f}", f"{a / b:.2f}", f"{100 * share_a:.2f}", f"{100 * share_b:.2f}"]
    yield ["all", f"{total['a']:.2f}", f"{total['b']:.2f}", f"{total['a'] / total['b']:.2f}", "", ""]


def table(results):
    """Lines to print."""
    yield ", ".join(f"{name} {value}" for name, value in results["environment"].items())
    yield "seconds of a round and FLOP utilisation in percent, medians of the repeats\n"
    layout = "{:<18}{:>12}{:>12}{:>8}{:>17}{:>12}"
    yield layout.format("model", "textbook s", "test.py s", "ratio", "textbook FLOPs", "our FLOPs")
    for row in rows(results):
        yield layout.format(*row).rstrip()


def complete_all():
    """Measure what report/results/benchmark.json lacks. It is best done when nothing else runs."""
    torch.set_num_threads(1)  # so that this process, with no other threads, can fork workers
    path, workers, mnist = RESULTS / "benchmark.json", len(os.sched_getaffinity(0)), load_mnist()
    environment = {"torch": torch.__version__, "cores": workers, "load before": round(os.getloadavg()[0], 2)}
    environment |= {"epochs": EPOCHS, "repeats": REPEATS}
    entries = {key: {name: [] for name in NAMES} for key in models.MODELS}
    results = {"environment": environment, "models": entries}
    if path.exists():
        results = load("benchmark")
    entries = results["models"]
    jobs = [key for n in range(REPEATS) for key, entry in entries.items() if len(entry["seconds"]) <= n]
    for done, key in enumerate(jobs, 1):
        for name, value in zip(NAMES, compare(key, workers, mnist), strict=True):
            entries[key][name].append(value)
        test.write_results(path, results)
        print(f"benchmark: {done} of {len(jobs)} measurements done", flush=True)
    if "memory" not in results:
        row = test.read_row("siamese") | {"epochs": 2}
        ((_, (results["profile"],)),) = test.run_in_workers([("siamese", row, [0])], 1, mnist, profile)
        results["first_round"] = [first_round() for _ in range(REPEATS)]
        results["memory"] = memory(workers)
        test.write_results(path, results)


if __name__ == "__main__":
    complete_all()
    print(*table(load("benchmark")), sep="\n")
