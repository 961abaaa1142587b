"""The speed of test.py beside a textbook training loop, model by model: python -m report.benchmark

(a) the textbook loop: one round after the other, torch's default threads and memory layout,
    torch.optim.Adam, slices of shuffled tensors, the whole test set at once;
(b) what test.py does on the CPU: rounds in parallel, a single-threaded process on each core.

Both train on the same pairs and test after every epoch. They run in turn, several times; the
medians are printed. The FLOP utilisation is the floating point operations of the forward and
backward passes over the time, as a share of what products of 1024x1024 float32 matrices reach on
the same cores in the same run.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import models
import test
from data import distort, load_mnist


def textbook_lenet():
    """Report 1's digit net with its second convolution written as one."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, kernel_size=5), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(16, 120, kernel_size=5), nn.Tanh(), nn.Flatten()),
        *(nn.Linear(120, 82), nn.Tanh(), nn.Linear(82, 10), nn.LogSoftmax(dim=1)),
    )


def start_textbook(threads):
    """In the process that runs the textbook loop: PyTorch's threads and layout, plain models."""
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
    for _ in range(row["epochs"]):
        model.train()
        input, target, classes = train_set
        if row["distorted"]:
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
    copies = 2 if row["rotation"] else max(row["distorted"], 1)
    each_epoch = test.PAIRS * (copies * training.get_total_flops() + testing.get_total_flops())
    return row["epochs"] * each_epoch / len(pairs)


def matrix_product_speed(_):
    """FLOP/s of the product of two 1024x1024 float32 matrices, with this process's threads."""
    a, seconds = torch.rand(1024, 1024), []
    for _ in range(40):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * 1024**3 / statistics.median(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=models.MODELS, default=list(models.MODELS))
    parser.add_argument("--epochs", type=int, default=5, help="of each round (5)")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement (3)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # so that this process, with no other threads, can fork workers
    workers, mnist = len(os.sched_getaffinity(0)), load_mnist()
    print(f"torch {torch.__version__}, {workers} cores, load {os.getloadavg()[0]:.2f} at the start")
    print(f"{arguments.epochs} epochs a round; medians of {arguments.repeats} measurements\n")
    layout = "{:<18}{:>12}{:>12}{:>8}{:>16}{:>16}"
    print(layout.format("model", "textbook s", "test.py s", "ratio", "textbook FLOPs", "our FLOPs"))

    context = multiprocessing.get_context("fork")
    total = [0.0, 0.0]
    with ProcessPoolExecutor(1, context, start_textbook, (workers,)) as textbook:
        for key in arguments.models:
            row = test.read_row(key) | {"epochs": arguments.epochs}
            seconds, shares = ([], []), ([], [])
            for repeat in range(arguments.repeats):
                a = textbook.submit(textbook_round, key, row, repeat, mnist).result()
                a_peak = textbook.submit(matrix_product_speed, None).result()
                jobs = [(key, row, [seed]) for seed in range(2 * workers)]
                start = time.perf_counter()
                list(test.run_in_workers(jobs, workers, mnist))
                b = (time.perf_counter() - start) / len(jobs)
                with ProcessPoolExecutor(workers, context, test.start_worker) as ours:
                    b_peak = sum(ours.map(matrix_product_speed, range(workers)))
                work = textbook.submit(flops, key, row).result()
                for which, (time_taken, peak) in enumerate(((a, a_peak), (b, b_peak))):
                    seconds[which].append(time_taken)
                    shares[which].append(work / time_taken / peak)
            a, b = map(statistics.median, seconds)
            share_a, share_b = (f"{100 * statistics.median(share):.2f} %" for share in shares)
            print(layout.format(key, f"{a:.2f}", f"{b:.2f}", f"{a / b:.2f}", share_a, share_b))
            total = [total[0] + a, total[1] + b]
    a, b = total
    print(layout.format("all", f"{a:.2f}", f"{b:.2f}", f"{a / b:.2f}", "", ""))


if __name__ == "__main__":
    main()
