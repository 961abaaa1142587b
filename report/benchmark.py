"""The speed of test.py beside a textbook training loop: report/results/benchmark.jsonl and .json.

(a) the textbook loop: one round after the other, PyTorch's threads, memory layout and optimizers,
    slices of shuffled tensors, the whole test set at once;
(b) what test.py does on the CPU: rounds in parallel, a single-threaded process on each core.

Both train on the same pairs and test after every epoch. They run in turn, several times. The FLOP
utilisation is the floating point operations of the forward and backward passes over the time, as a
share of what products of 1024x1024 float32 matrices reach on the same cores in the same run. Also:
what changes the one into the other, step by step; start-up time, memory, a profile of a training
step, and what a round of posterior_2s consists of.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.flop_counter import FlopCounterMode

import models
import test
from data import add_rotated, generate_pair_sets, load_mnist
from report.files import CORES, PAIRS, RESULTS, complete, good, read, write
from train import train, train_round

EPOCHS, REPEATS = 12, 3  # of a round; of each measurement, but of the steps
TWO_SECONDS, ROUNDS = "posterior_2s", 10  # the row that is profiled, and how often
STEPS = {  # from (a) to (b): processes, threads of each, layout, whether the optimizer is fused
    "textbook": (1, CORES, "plain", False),
    "channels_last": (1, CORES, "channels_last", False),  # in place of what follows
    "torch.compile": (1, CORES, "compiled", False),  # likewise; once it is compiled
    "one thread": (1, 1, "plain", False),
    "a process a core": (CORES, 1, "plain", False),
    "oneDNN's layout": (CORES, 1, "ours", False),
    "fused optimizer": (CORES, 1, "ours", True),
}
STEPPED = "sub_lenet5", "siamese_al", "posterior"  # one model of each kind
MEASURES = "textbook_seconds", "seconds", "textbook_utilisation", "utilisation"


def plain(module):
    """A model as a textbook has it: plain Sequentials, LeNet's second convolution as one."""
    for name, child in list(module.named_children()):
        module.add_module(name, plain(child))
    if isinstance(module, models.Convolutions):
        return nn.Sequential(*module)
    if isinstance(module, nn.Sequential) and isinstance(module[-1], nn.LogSoftmax):  # LeNet
        module[3], module[4] = nn.Conv2d(16, 120, kernel_size=5), nn.Flatten()
    return module


def textbook_loss(row, comparison, digits, target, classes):
    loss = 0
    if row["comparison_weight"]:
        loss = F.binary_cross_entropy_with_logits(comparison, target.float())
    if row["digit_weight"]:
        smoothing = row["label_smoothing"]
        loss = loss + F.cross_entropy(digits[:, 0], classes[:, 0], label_smoothing=smoothing)
        loss = loss + F.cross_entropy(digits[:, 1], classes[:, 1], label_smoothing=smoothing)
    return loss


def laid_out(model, layout):
    if layout == "plain":
        return plain(model)
    if layout == "channels_last":
        return plain(model).to(memory_format=torch.channels_last)
    return model


def compiled(model, row, pairs):
    """The model after torch.compile, which compiles a training step and an evaluation here."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # processes that would outlive a worker
    found = torch.compile(plain(model))
    input, target, classes = pairs
    size = row["batch_size"]
    for _ in range(8):  # so that of two nets both have had their turn
        textbook_loss(row, *found.train()(input[:size]), target[:size], classes[:size]).backward()
    with torch.no_grad():
        found.eval()(input)
    return found


def textbook_round(row, seed, nb_pairs, threads=1, layout="plain", fused=False):
    """Seconds that the textbook loop takes for one round, without those of torch.compile."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    sets = generate_pair_sets(nb_pairs, generator)
    train_set, (test_input, test_target, _) = sets[:3], sets[3:]
    if row["rotation"]:
        train_set = add_rotated(*train_set, generator, row["rotation"])
    model, size, copies = row["model"](), row["batch_size"], row["copies"]
    if layout == "compiled":
        pause = time.perf_counter()
        model = compiled(model, row, sets[3:])
        start += time.perf_counter() - pause
    else:
        model = laid_out(model, layout)
    settings = dict(lr=row["learning_rate"], weight_decay=row["weight_decay"], fused=fused or None)
    optimizer = getattr(torch.optim, row["optimizer"])(model.parameters(), **settings)
    for epoch in range(row["epochs"]):
        model.train()
        input, target, classes = train_set
        if copies and epoch < row["epochs"] - 1:
            input = torch.cat([row["distort"](input, generator) for _ in range(copies)])
            target, classes = target.repeat(copies), classes.repeat(copies, 1)
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
            ((model(test_input)[0] > 0) == test_target).float().mean().item()
    return time.perf_counter() - start


def flops(row, nb_pairs):
    """Floating point operations of one round: training forward and backward, and the tests."""
    model, pairs = plain(row["model"]()), torch.zeros(row["batch_size"], 2, 14, 14)
    target, classes = torch.zeros(len(pairs)).long(), torch.zeros(len(pairs), 2).long()
    with FlopCounterMode(display=False) as training:
        textbook_loss(row, *model(pairs), target, classes).backward()
    with FlopCounterMode(display=False) as testing, torch.no_grad():
        model.eval()(pairs)
    copies = row["epochs"] * (2 if row["rotation"] else 1)  # of the pairs, over the epochs
    if row["copies"]:
        copies = row["copies"] * (row["epochs"] - 1) + 1
    total = copies * training.get_total_flops() + row["epochs"] * testing.get_total_flops()
    return total * nb_pairs / len(pairs)


def matrix_product_speed(size=1024):
    """FLOP/s of the product of two square float32 matrices, with this process's threads."""
    a, seconds = torch.rand(size, size), []
    for _ in range(40):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds)


def textbook(job):
    """In a process of its own: seconds and FLOPs of a round, and the speed of matrix products."""
    _, row, seed = job
    seconds = textbook_round(row, seed, PAIRS, threads=CORES)  # PyTorch's default
    return seconds, flops(row, PAIRS), matrix_product_speed()


def timed(run, jobs, workers):
    """Wall time of all jobs together, over their number; and what they return."""
    start = time.perf_counter()
    outcomes = list(test.run_in_workers(run, jobs, workers))
    return (time.perf_counter() - start) / len(jobs), outcomes


def compare(job):
    """Measure a row once: MEASURES of (a) and (b), in a line as of test.run_job."""
    settings, row, _ = job
    ((a, work, speed_a),) = test.run_in_workers(textbook, [job], 1)
    jobs = [(settings, row, seed) for seed in range(2 * CORES)]
    b, (line, *_) = timed(partial(test.run_job, device="cpu"), jobs, CORES)
    speeds = test.run_in_workers(matrix_product_speed, [1024] * CORES, CORES)
    shares = work / a / speed_a, work / b / sum(speeds)
    return (
        line | dict(zip(MEASURES, (a, b, *shares))) | {"seed": job[2], "load": os.getloadavg()[0]}
    )


def step(job):
    """Seconds of a round of the textbook loop, with some of what test.py does."""
    row, seed, *options = job
    return textbook_round(row, seed, PAIRS, *options)


def step_by_step(name):
    """Seconds of a round of the row by step, and of test.py's, which is the last."""
    row, found = benchmark()[name], {}
    for what, (workers, *options) in STEPS.items():
        jobs = [(row, seed, *options) for seed in range(2 * workers)]
        wall, seconds = timed(step, jobs, workers)
        found[what] = statistics.mean(seconds) if workers == 1 else wall  # without compiling
    settings = test.settings_of(name, row, PAIRS, "cpu")
    jobs = [(settings, row, seed) for seed in range(2 * CORES)]
    found["test.py"], _ = timed(partial(test.run_job, device="cpu"), jobs, CORES)
    return found


def profile(make_model):
    """Milliseconds of a training step of a model of report 2, by kind of operation."""
    kinds = {"convolution": "convolution", "batch_norm": "batch norm", "pool": "pooling"}
    kinds |= {"relu": "ReLU", "threshold": "ReLU"}  # the latter is its gradient
    sets = generate_pair_sets(PAIRS, torch.Generator().manual_seed(0))
    train_set, test_set = sets[:3], [tensor[:1] for tensor in sets[3:]]
    model, epochs = make_model(), 2
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        train(model, train_set, test_set, torch.Generator().manual_seed(0), epochs=epochs)
    spent, steps = Counter(), epochs * PAIRS // train.__kwdefaults__["batch_size"]
    for event in profiler.key_averages():
        kind = next((kind for word, kind in kinds.items() if word in event.key.lower()), "the rest")
        spent[kind] += event.self_cpu_time_total / 1000 / steps
    return dict(spent)


class Stopwatch:
    """Seconds by what they were spent on: each call names what has passed since the last."""

    def __init__(self):
        self.spent, self.last = Counter(), time.perf_counter()

    def __call__(self, what):
        now = time.perf_counter()
        self.spent[what] += now - self.last
        self.last = now


def round_profile(seed, name=TWO_SECONDS):
    """Seconds of one round of a row, by what they are spent on; by hooks, with no profiler.

    "pairs" has their drawing, "forward" and "tests" have the comparison too, "the rest" shuffling,
    batches, statistics and schedule.
    """
    row = benchmark()[name] | dict(epochs=test.EXPERIMENTS[name]["epochs"])

    def model():
        watch("pairs")
        found = row["model"]()
        found.register_forward_pre_hook(lambda *_: watch("the rest"))
        found.register_forward_hook(lambda net, *_: watch("forward" if net.training else "tests"))
        return found

    def distorted(*arguments):
        watch("the rest")
        found = row["distort"](*arguments)
        watch("distortion")
        return found

    changes = dict(model=model, distort=distorted)
    hooks = [
        register_optimizer_step_pre_hook(lambda *_: watch("loss, backward")),
        register_optimizer_step_post_hook(lambda *_: watch("optimizer")),
    ]
    watch = Stopwatch()
    train_round(seed=seed, draw=partial(generate_pair_sets, PAIRS), **row | changes)
    watch("the rest")
    for hook in hooks:
        hook.remove()
    return dict(watch.spent)


def command(folder, *options):
    output = f"{folder}/results.jsonl"
    return [sys.executable, test.__file__, "--device", "cpu", "--output", output, *options]


def first_round():
    """Seconds from launch to the end of a run of one round of one epoch."""
    options = "--models", next(iter(test.EXPERIMENTS)), "--rounds", "1", "--epochs", "1"
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        subprocess.run(command(folder, *options), check=True, capture_output=True)
    return time.perf_counter() - start


def memory():
    """Megabytes (proportional set size) of a run's processes after five rounds of each model."""
    with TemporaryDirectory() as folder:
        options = command(folder, "--epochs", "1", "--workers", str(CORES))
        streams = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        run = subprocess.Popen(options, **streams)
        try:
            done = f"; {5 * len(test.EXPERIMENTS)} of "
            next(line for line in run.stderr if done in line)
            tasks = Path(f"/proc/{run.pid}/task").glob("*/children")
            children = [pid for task in tasks for pid in task.read_text().split()]
            paths = [Path(f"/proc/{pid}/smaps_rollup") for pid in (run.pid, *children)]
            texts = [path.read_text() for path in paths]
        finally:
            run.terminate()
            run.communicate()
    return [int(text.partition("\nPss:")[2].split()[0]) / 1000 for text in texts]


def origin():
    """The processor, the last commit that changed the core, and the date."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    core = [f"{name}.py" for name in ("data", "models", "train", "test")]
    log = ["git", "log", "-1", "--format=%h", "--", *core]
    done = subprocess.run(log, cwd=Path(test.__file__).parent, capture_output=True, text=True)
    return {
        "processor": names[0] if names else platform.processor(),
        "commit": done.stdout.strip() or "n/a",
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "workers": str(CORES),
    }


def rows(results):
    """The table's rows as texts: medians, and last the sum over the models."""
    total = Counter()
    for name, entry in results["models"].items():
        values = [good(entry, measure) for measure in MEASURES]
        if all(values):
            a, b, *shares = map(statistics.median, values)
            total += Counter(a=a, b=b)
            shares = (f"{100 * share:.2f}" for share in shares)
            yield [name, f"{a:.2f}", f"{b:.2f}", f"{a / b:.2f}", *shares]
    a, b = total["a"], total["b"]
    yield ["all", f"{a:.2f}", f"{b:.2f}", f"{a / b:.2f}" if b else "n/a", "", ""]


def table(results):
    """Lines to print."""
    yield ", ".join(f"{name} {value}" for name, value in results["environment"].items())
    yield "seconds of a round and FLOP utilisation in percent, medians of the repeats\n"
    layout = "{:<18}{:>12}{:>12}{:>8}{:>17}{:>12}"
    yield layout.format("model", "textbook s", "test.py s", "ratio", "textbook FLOPs", "our FLOPs")
    for row in rows(results):
        yield layout.format(*row).rstrip()


def benchmark():
    """The table's rows with all their arguments, and few epochs."""
    found = {}
    for name, row in test.EXPERIMENTS.items():
        found[name] = train.__kwdefaults__ | {key: row[key] for key in row if key != "reported"}
        found[name]["epochs"] = min(EPOCHS, found[name]["epochs"])
    return found


def read_extras(folder=RESULTS):
    """What is measured once: benchmark.json."""
    path = folder / "benchmark.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_extras(extras, folder):
    write(folder / "benchmark.json", json.dumps(extras).encode() + b"\n")


def complete_all(folder=RESULTS):
    """Measure what benchmark.jsonl and .json lack. It is best done when nothing else runs."""
    complete("benchmark", benchmark(), REPEATS, compare, folder=folder)
    extras = read_extras(folder)
    if "memory" not in extras:
        (extras["profile"],) = test.run_in_workers(profile, [models.siamese], 1)
        extras |= origin()
        extras["first_round"] = [first_round() for _ in range(REPEATS)]
        extras["memory"] = memory()
        write_extras(extras, folder)
    if "steps" not in extras:
        names = [name for name in STEPPED if name in test.EXPERIMENTS]
        extras["steps"] = [{x: step_by_step(x) for x in names} for _ in range(REPEATS - 1)]
        write_extras(extras, folder)
    if "round" not in extras and TWO_SECONDS in test.EXPERIMENTS:
        load_mnist()  # here, as a forked worker then has it
        extras["round"] = list(test.run_in_workers(round_profile, range(ROUNDS), 1))
        write_extras(extras, folder)


if __name__ == "__main__":
    torch.set_num_threads(1)  # so that this process, with no other threads, can fork workers
    complete_all()
    print(*table(read("benchmark")), sep="\n")
