"""explaind beside PyTorch + Captum, in one run on two cores: answers compared, times alternated, medians and ratios printed.

    make build peers && benches/peers/.venv/bin/python benches/peers/compare.py [--repeats 7] [MODEL ...]

- integrated_gradients, 25 steps, one image: a request to explaind's release server (npy in, npy out) against Captum in this process,
  at the better of internal_batch_size None and 5.
- gradient / forward: benches/gradient.rs, batch 8, both graphs on explaind's own runtime.
- memory: VmHWM of a server that has answered gradient and pattern_attribution on VGG-16, against three times its weights.
- overhead: what /explain?method=gradient takes outside the model for a 1024 x 768 JPEG on the bundled SqueezeNet.
"""

import argparse
import contextlib
import io
import json
import os
import pathlib
import socket
import statistics
import subprocess
import time
import urllib.error
import urllib.request
import warnings

import numpy as np
import torch
from captum.attr import IntegratedGradients
from PIL import Image
from torchvision import models

ROOT = pathlib.Path(__file__).parents[2]
EXPLAIND = ROOT / "target" / "release" / "explaind"
FOLDER = pathlib.Path(__file__).parent / "models"
CORES = 2
# name -> (constructor, integrated_gradients at least so many times faster, gradient at most so many forward passes)
NETS = {
    "vgg16": (models.vgg16, 1.3, 2.4),
    "resnet50": (models.resnet50, 1.3, 2.7),
    "squeezenet1_1": (models.squeezenet1_1, 1.1, 4.0),
}


def network(name):
    """torchvision's net with random weights, and its export as models/NAME/model.onnx."""
    torch.manual_seed(0)
    model = NETS[name][0](weights=None).eval()
    path = FOLDER / name / "model.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.onnx.export(
            model, (torch.zeros(1, 3, 224, 224),), path, dynamo=False, opset_version=17, input_names=["input"], output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        )
    return model


@contextlib.contextmanager
def server(folder):
    """A release server over `folder`; gives its address and process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [EXPLAIND, "serve", "--models", folder, "--listen", f"127.0.0.1:{port}", "--threads", str(CORES), "--log", "warn"]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/readyz").read()
                break
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None:
                    raise SystemExit("the server did not start")
                time.sleep(0.1)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


def post(url, body, content_type):
    request = urllib.request.Request(url, body, {"content-type": content_type})
    try:
        return urllib.request.urlopen(request).read()
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{url}: {error.code} {error.read().decode()}") from None


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def medians(repeats, **functions):
    """Each once to warm up, then all in turn, `repeats` times; PyTorch's threads go on spinning for a while, so after a pause."""
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            time.sleep(1)
            times[name].append(seconds(function))
    return {name: statistics.median(values) for name, values in times.items()}


def integrated_gradients(name, model, repeats):
    goal = NETS[name][1]
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    target = int(model(x).argmax())
    body = npy(x[0].numpy())
    captum = IntegratedGradients(model)
    peer = lambda size: captum.attribute(x, target=target, n_steps=25, method="riemann_right", internal_batch_size=size)
    with server(FOLDER) as (address, _):
        url = f"{address}/explain?model={name}&method=integrated_gradients&n_steps=25&head=logits&target={target}&baseline=zero&format=npy"
        ours = lambda: np.load(io.BytesIO(post(url, body, "application/x-npy")))
        expected = peer(5)[0].detach().numpy()
        gap = np.linalg.norm(ours() - expected) / np.linalg.norm(expected)
        times = medians(repeats, explaind=ours, captum=lambda: peer(None), captum_5=lambda: peer(5))
    best = min(times["captum"], times["captum_5"])
    print(
        f"{name}: integrated_gradients explaind {times['explaind']:.2f} s, Captum {times['captum']:.2f} s, by 5 {times['captum_5']:.2f} s:"
        f" {best / times['explaind']:.2f} x faster (goal {goal}); the maps differ by {gap:.0e}"
    )


def gradient(names):
    """benches/gradient.rs on the exported nets."""
    folders = [FOLDER / name for name in names]
    subprocess.run(["cargo", "bench", "--quiet", "--locked", "--bench", "gradient", "--", *folders], check=True, cwd=ROOT)
    print("  goals:", ", ".join(f"{name} {NETS[name][2]}" for name in names))


def memory():
    network("vgg16")
    folder = FOLDER / "vgg16"
    tensors = folder / "samples.npy"
    np.save(tensors, np.random.default_rng(2).standard_normal((8, 3, 224, 224), np.float32))
    if not (folder / "patterns.safetensors").exists():
        subprocess.run([EXPLAIND, "fit-patterns", "--models", FOLDER, "--model", "vgg16", "--tensors", tensors], check=True, cwd=ROOT)
    body = npy(np.load(tensors)[0])
    with server(FOLDER) as (address, pid):
        for method in ("gradient", "pattern_attribution"):
            post(f"{address}/explain?model=vgg16&method={method}&format=npy", body, "application/x-npy")
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    weights = (folder / "model.onnx").stat().st_size / 2**20
    print(f"vgg16: peak memory with gradient and pattern graphs open {peak:.0f} MiB, {peak / weights:.2f} x the weights (goal 3)")


def overhead(repeats):
    file = io.BytesIO()
    Image.open(ROOT / "examples" / "chelsea.png").convert("RGB").resize((1024, 768)).save(file, "JPEG", quality=90)
    with server(ROOT / "models") as (address, _):
        url = f"{address}/explain?model=squeezenet1_1&method=gradient"

        def outside():
            request = urllib.request.Request(url, file.getvalue(), {"content-type": "image/jpeg"})
            start = time.perf_counter()
            with urllib.request.urlopen(request) as answer:
                answer.read()
                took = 1000 * (time.perf_counter() - start)
            stages = dict(stage.strip().split(";dur=") for stage in answer.headers["server-timing"].split(","))
            return took - float(stages["model"]), stages

        answers = sorted((outside() for _ in range(9 * repeats)), key=lambda answer: answer[0])
    median, stages = answers[len(answers) // 2]
    print("  its stages in ms:", ", ".join(f"{name} {ms}" for name, ms in stages.items()))
    print(f"squeezenet1_1: {median:.1f} ms outside the model for a 1024 x 768 JPEG (goal 15)")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("models", nargs="*", default=list(NETS), metavar="MODEL")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    torch.set_num_threads(CORES)
    for name in arguments.models:
        integrated_gradients(name, network(name), arguments.repeats)
    gradient(arguments.models)
    memory()
    overhead(arguments.repeats)


if __name__ == "__main__":
    main()
