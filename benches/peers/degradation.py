"""The degradation benchmark of the eleven methods, explaind beside a straight PyTorch + Captum implementation, in one run on two cores.

    make build peers datasets && benches/peers/.venv/bin/python benches/peers/degradation.py [--images 4 8]

For each count of images: `explaind bench` as a whole command, start and reports and all, then the same images in this process, method after method:
Captum's attributions at its defaults (SmoothGrad-IG noisy image by noisy image: all at once, its default, would take 14 GB), PatternAttribution and PGIG as Captum runs over a net
whose convolutions go backwards through the weight times its pattern, each ranking's degraded images in batches of 25. Printed: seconds, their
ratio, and the areas under the mean curves of both. They agree but for what is drawn at random, and where rounding turns the order of two
patches: both get PNG files of the model's size, as decoders and resizes differ in a level here and there, which a gradient feels.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time
import warnings

import numpy as np
import onnx
import torch
from captum.attr import GradientShap, GuidedBackprop, InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from onnx import numpy_helper
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision import models, transforms

ROOT = pathlib.Path(__file__).parents[2]
EXPLAIND = ROOT / "target" / "release" / "explaind"
MODEL = ROOT / "models" / "squeezenet1_1"
DATASETS = ROOT / "data" / "datasets"
CORES, SAMPLES, STEPS, BASELINES, NOISE_LEVEL = 2, 25, 25, 49, 0.15
GRID, PATCHES, AT_ONCE = 25, 100, 25
METHODS = (
    "random,gradient,input_x_gradient,integrated_gradients,var_grad,smooth_grad_sq,smooth_grad_ig,"
    f"expected_gradients baseline=dataset:fit_photos:{BASELINES},guided_backprop,pattern_attribution,pgig pattern_layers=inner,pgig pattern_layers=all"
)
RESIZE = transforms.Resize(256, transforms.InterpolationMode.BICUBIC)
PREPROCESS = transforms.Compose([
    RESIZE,
    transforms.CenterCrop(224),
    transforms.ToTensor(),
    transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
])


class PatternConvolution(torch.autograd.Function):
    """A convolution whose cotangent goes back through another weight."""

    @staticmethod
    def forward(ctx, x, weight, bias, back, stride, padding):
        ctx.save_for_backward(x, back)
        ctx.how = stride, padding
        return nn.functional.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, cotangent):
        x, back = ctx.saved_tensors
        return nn.grad.conv2d_input(x.shape, back, cotangent, *ctx.how), None, None, None, None, None


class PatternConv2d(nn.Module):
    def __init__(self, conv, pattern):
        super().__init__()
        self.conv, self.back = conv, conv.weight.detach() * pattern

    def forward(self, x):
        conv = self.conv
        return PatternConvolution.apply(x, conv.weight, conv.bias, self.back, conv.stride, conv.padding)


def prepare(file, path):
    """Writes the photo as PNG, over white, in the size that the model crops."""
    photo = Image.open(file).convert("RGBA")
    RESIZE(Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")).save(path)
    return path


def network(patterns=None, layers="all"):
    """The bundled SqueezeNet with a softmax; the ONNX file and torchvision list its convolutions in the same order."""
    net = models.squeezenet1_1()
    constants = [torch.from_numpy(numpy_helper.to_array(t).copy()) for t in onnx.load(MODEL / "model.onnx").graph.initializer]
    names = [t.name.removesuffix(".weight") for t in onnx.load(MODEL / "model.onnx").graph.initializer][::2]
    convolutions = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    for (_, module), weight, bias in zip(convolutions, constants[::2], constants[1::2], strict=True):
        module.weight.data, module.bias.data = weight, bias
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    if patterns:
        for index, ((name, module), source) in enumerate(zip(convolutions, names, strict=True)):
            if layers == "all" or 0 < index < len(convolutions) - 1:
                parent, _, child = name.rpartition(".")
                setattr(net.get_submodule(parent), child, PatternConv2d(module, patterns[source]))
    net.requires_grad_(False)
    return nn.Sequential(net, nn.Softmax(1)).eval()


def attributions():
    """Name -> function from (x, target) to a map, and whether it is ranked by its magnitude too."""
    net = network()
    patterns = load_file(MODEL / "patterns.safetensors")
    inner, everywhere = network(patterns, "inner"), network(patterns)
    baselines = torch.stack([PREPROCESS(Image.open(path).convert("RGB")) for path in photos("fit_photos")[:BASELINES]])
    noise = lambda x: NOISE_LEVEL * float(x.max() - x.min())
    integrated = dict(n_steps=STEPS, method="riemann_right")
    saliency = lambda x, target: Saliency(net).attribute(x, target=target, abs=False)
    tunnel = lambda base, kind, x, target, **more: NoiseTunnel(base).attribute(
        x, nt_type=kind, nt_samples=SAMPLES, stdevs=noise(x), target=target, **more
    )

    def pattern_attribution(x, target):
        x = x.clone().requires_grad_()
        everywhere(x)[0, target].square().div(2).backward()
        return x.grad

    return {
        "random": (lambda x, target: 2 * torch.rand_like(x) - 1, False),
        "gradient": (saliency, True),
        "input_x_gradient": (lambda x, target: InputXGradient(net).attribute(x, target=target), False),
        "integrated_gradients": (lambda x, target: IntegratedGradients(net).attribute(x, target=target, **integrated), False),
        "var_grad": (lambda x, target: tunnel(Saliency(net), "vargrad", x, target, abs=False), False),
        "smooth_grad_sq": (lambda x, target: tunnel(Saliency(net), "smoothgrad_sq", x, target, abs=False), False),
        "smooth_grad_ig": (
            lambda x, target: tunnel(IntegratedGradients(net), "smoothgrad", x, target, nt_samples_batch_size=1, **integrated), False
        ),
        "expected_gradients": (
            lambda x, target: GradientShap(net).attribute(x, baselines, n_samples=BASELINES, target=target), False
        ),
        "guided_backprop": (lambda x, target: GuidedBackprop(net).attribute(x, target=target), True),
        "pattern_attribution": (pattern_attribution, False),
        "pgig inner": (lambda x, target: IntegratedGradients(inner).attribute(x, target=target, **integrated), False),
        "pgig all": (lambda x, target: IntegratedGradients(everywhere).attribute(x, target=target, **integrated), False),
    }


def photos(dataset):
    folder = DATASETS / dataset
    files = (folder / (folder / "current").read_text().strip()).rglob("*")
    return sorted(path for path in files if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"})


def area(net, x, target, clean, scores):
    """Under the curve of the target's probability while the top patches become their own means."""
    borders = [round(i * x.shape[-1] / GRID) for i in range(GRID + 1)]
    boxes = [(slice(a, b), slice(c, d)) for a, b in zip(borders, borders[1:]) for c, d in zip(borders, borders[1:])]
    means = [float(scores[box].mean()) for box in boxes]
    degraded, curve, batch = x.clone(), [clean], []
    for patch in sorted(range(len(boxes)), key=lambda i: -means[i])[:PATCHES]:
        region = degraded[0][:, boxes[patch][0], boxes[patch][1]]
        region[:] = region.mean((1, 2), keepdim=True)
        batch.append(degraded[0].clone())
        if len(batch) == AT_ONCE:
            with torch.no_grad():
                curve += net(torch.stack(batch))[:, target].tolist()
            batch = []
    return np.trapezoid(curve, dx=1 / PATCHES)


def straight(files, methods, net):
    """Method -> area under its mean curve, over the mean of the clean probabilities."""
    areas, whole = {}, 0
    for file in files:
        x = PREPROCESS(Image.open(file))[None]
        with torch.no_grad():
            probabilities = net(x)[0]
        target = int(probabilities.argmax())
        clean = float(probabilities[target])
        whole += clean
        for name, (method, unsigned) in methods.items():
            scores = method(x, target).detach()[0]
            areas.setdefault(name, []).append(area(net, x, target, clean, scores.sum(0)))
            if unsigned:
                areas.setdefault(f"{name} absolute", []).append(area(net, x, target, clean, scores.abs().sum(0)))
    return {name: sum(values) / whole for name, values in areas.items()}


def explaind(images, folder):
    (folder / "data" / "datasets").mkdir(parents=True)
    (folder / "data" / "datasets" / "fit_photos").symlink_to(DATASETS / "fit_photos")
    report = folder / "report.json"
    command = [EXPLAIND, "bench", "--models", MODEL.parent, "--model", MODEL.name, "--data", folder / "data", "--threads", str(CORES)]
    command += ["--dataset", f"peer={images}", "--methods", METHODS, "-o", report]
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, json.loads(report.read_text())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, nargs="+", default=[4, 8])
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    torch.set_num_threads(CORES)
    methods, net = attributions(), network()
    files = photos("photos")
    straight(files[:1], {"gradient": methods["gradient"]}, net)
    for count in arguments.images:
        chosen = files[:: len(files) // count][:count]
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "photos").mkdir()
            chosen = [prepare(file, folder / "photos" / f"{place}.png") for place, file in enumerate(chosen)]
            ours, report = explaind(folder / "photos", folder)
            start = time.perf_counter()
            theirs = straight(chosen, methods, net)
            seconds = time.perf_counter() - start
        print(f"{count} images: explaind {ours:.1f} s, PyTorch + Captum {seconds:.1f} s: {seconds / ours:.2f} x")
    print(f"areas under the curves of the last {len(chosen)} images:")
    for (name, area_of_theirs), row in zip(theirs.items(), report["result"]["rows"], strict=True):
        print(f"  {row['title']:45} explaind {row['area']:.4f}  {name:25} {area_of_theirs:.4f}")


if __name__ == "__main__":
    main()
