"""A training step (forward pass and gradient of all parameters) beside PyTorch, in one run on two cores: alternated, medians and ratios printed.

    make runtime peers && benches/peers/.venv/bin/python benches/peers/training.py [--batch 16] [--rounds 3] [MODEL ...]

explaind's side is benches/training.rs; PyTorch's are processes of this script, so that neither's threads or memory disturb the other.
"""

import argparse
import json
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import time
import warnings

import torch
from torch.fx.experimental.optimization import fuse
from torchvision import models

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = pathlib.Path(__file__).parent / "models"
CORES = 2
REPEATS = 7
GOAL = 3.3  # forward passes
NETS = ["squeezenet1_1", "resnet18"]


def network(name):
    """torchvision's net with random weights, and its export as models/NAME/model.onnx."""
    torch.manual_seed(0)
    model = getattr(models, name)(weights=None).eval()
    path = FOLDER / name / "model.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.onnx.export(
            model, (torch.zeros(1, 3, 224, 224),), path, dynamo=False, opset_version=17, input_names=["input"], output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        )
    return model


def seconds(function):
    """By the clock, and of the processor."""
    start, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - processor


def pytorch(name, batch):
    """Prints milliseconds of PyTorch's forward pass and step (clock, processor), and its peak memory in MiB."""
    torch.set_num_threads(CORES)
    # BatchNormalization folded into the convolution before it, as in the exported model.
    model = fuse(network(name))
    x = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    seed = torch.randn(batch, 1000, generator=torch.Generator().manual_seed(2))

    def forward():
        with torch.no_grad():
            model(x)

    def step():
        model.zero_grad(set_to_none=True)
        (model(x) * seed).sum().backward()

    times = {"forward": [], "step": []}
    for _ in range(REPEATS + 1):
        times["forward"].append(seconds(forward))
        times["step"].append(seconds(step))
    answer = {key: [1000 * statistics.median(column) for column in zip(*values[1:])] for key, values in times.items()}
    answer["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(answer))


def explaind(name, batch):
    command = ["cargo", "bench", "--quiet", "--locked", "--bench", "training", "--", "--batch", str(batch), FOLDER / name]
    output = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    numbers = map(float, re.findall(r"[\d.]+", output.split("images:")[1]))
    forward, given, step, _, forward_cpu, given_cpu, step_cpu, _, stock, _, memory = numbers
    return {"forward": [forward, forward_cpu], "given": [given, given_cpu], "step": [step, step_cpu], "stock": stock, "memory": memory}


def peer(name, batch):
    command = [sys.executable, __file__, "--pytorch", "--batch", str(batch), name]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pytorch", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("models", nargs="*", default=NETS, metavar="MODEL")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if arguments.pytorch:
        return pytorch(arguments.models[0], arguments.batch)
    for name in arguments.models:
        network(name)
        rounds = [(explaind(name, arguments.batch), peer(name, arguments.batch)) for _ in range(arguments.rounds)]
        ours, theirs = ({key: median([one[key] for one in side]) for key in side[0]} for side in zip(*rounds))
        for what, at in (("ms", 0), ("ms of the processor", 1)):
            print(
                f"{name}, {arguments.batch} images, {what}: explaind forward {ours['forward'][at]:.0f}, with weights as inputs"
                f" {ours['given'][at]:.0f}, step {ours['step'][at]:.0f}: {ours['step'][at] / ours['forward'][at]:.2f} forward passes;"
                f" PyTorch forward {theirs['forward'][at]:.0f}, step {theirs['step'][at]:.0f}: {theirs['step'][at] / ours['step'][at]:.2f} x explaind's"
            )
        print(f"  forward by ONNX Runtime's convolutions {ours['stock']:.0f} ms: the step is {ours['step'][0] / ours['stock']:.2f} of it (goal {GOAL})")
        print(f"  peak memory: explaind {ours['memory']:.0f} MiB, all three graphs open; PyTorch {theirs['memory']:.0f} MiB")


def median(values):
    if isinstance(values[0], list):
        return [statistics.median(column) for column in zip(*values)]
    return statistics.median(values)


if __name__ == "__main__":
    main()
