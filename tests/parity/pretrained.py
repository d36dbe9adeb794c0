"""Writes the references of tests/parity/pretrained/: PyTorch gradients and Captum's integrated gradients of the real networks.

    make models && benches/peers/.venv/bin/python tests/parity/pretrained.py

MODEL.safetensors: `pixels` uint8 [height, width, 3] of a photo after resize and crop, `logits`, `gradient` of the target's logit,
`integrated_gradients` of its probability (Captum, 25 right Riemann points, baseline 0), all computed in float64 and stored as float32.
Metadata: the preprocessing, the target, and for both maps the yardsticks of generate.py (`MAP.float32`, `MAP.rounding`).
"""

import json
import pathlib

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from onnx import numpy_helper
from PIL import Image
from safetensors.numpy import save_file
from torch import nn

from generate import ROUNDING, distance

ROOT = pathlib.Path(__file__).parents[2]
PREPROCESSING = {
    "squeezenet1_1": {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "efficientnet_lite0": {"scale": 1.0, "mean": [127.0] * 3, "std": [128.0] * 3},
}


class Network(nn.Module):
    """The nine operators that both networks need, in PyTorch. `rounding` disturbs every value, to see what rounding can do."""

    def __init__(self, path):
        super().__init__()
        self.graph = onnx.load(path).graph
        self.constants = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in self.graph.initializer}
        self.rounding = None

    def in_dtype(self, dtype):
        self.constants = {name: tensor.to(dtype) for name, tensor in self.constants.items()}
        return self

    def forward(self, x):
        values = {"": None, self.graph.input[0].name: x, **self.constants}
        for node in self.graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            y = getattr(self, node.op_type)(*(values[name] for name in node.input), **attributes)
            if self.rounding is not None:
                noise = torch.randn(y.shape, generator=self.rounding, dtype=y.dtype)
                y = y + ROUNDING * y.detach().square().mean().sqrt() * noise
            values[node.output[0]] = y
        return values[self.graph.output[0].name]

    def Conv(self, x, weight, bias, kernel_shape, strides, pads, group=1):
        top, left, bottom, right = pads
        x = F.pad(x, (left, right, top, bottom))
        if group == 1:
            return F.conv2d(x, weight, bias, strides)
        # Depthwise, tap by tap: PyTorch's float64 kernel takes one group at a time.
        (rows, columns), stride = kernel_shape, strides[0]
        height, width = ((side - taps) // stride + 1 for side, taps in zip(x.shape[2:], kernel_shape))
        taps = (
            weight[:, :, i, j, None] * x[:, :, i : i + stride * height : stride, j : j + stride * width : stride][:, :, :height, :width]
            for i in range(rows)
            for j in range(columns)
        )
        return sum(taps) + bias[:, None, None]

    def Gemm(self, x, weight, bias, transB):
        return F.linear(x, weight, bias)

    def MaxPool(self, x, kernel_shape, strides):
        return F.max_pool2d(x, kernel_shape, strides)

    def Relu(self, x):
        return F.relu(x)

    def Clip(self, x, low, high):
        return F.hardtanh(x, float(low), float(high))

    def Add(self, a, b):
        return a + b

    def Concat(self, *parts, axis):
        return torch.cat(parts, axis)

    def GlobalAveragePool(self, x):
        return x.mean((2, 3), keepdim=True)

    def Flatten(self, x, axis):
        return x.flatten(axis)


def gradient(network, x, target):
    x = x.clone().requires_grad_()
    network(x)[0, target].backward()
    return x.grad[0].numpy()


def integrated_gradients(network, x, target):
    captum = IntegratedGradients(lambda points: network(points).softmax(1))
    return captum.attribute(x, target=target, n_steps=25, method="riemann_right", internal_batch_size=5)[0].detach().numpy()


def crop(photo):
    """Short side 256, bicubic, centre crop 224."""
    image = Image.open(photo).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.BICUBIC)
    left, top = ((side - 224) // 2 for side in image.size)
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


def write(name, preprocessing):
    path = ROOT / "models" / name / "model.onnx"
    pixels = crop(ROOT / "examples" / "chelsea.png")
    mean, std = (np.float32(preprocessing[key]) for key in ("mean", "std"))
    tensor = (pixels.astype(np.float32) * np.float32(preprocessing["scale"]) - mean) / std
    x = torch.from_numpy(tensor.transpose(2, 0, 1)[None].copy())

    exact, single = Network(path).in_dtype(torch.float64), Network(path)
    logits = exact(x.double())[0].numpy()
    target = int(logits.argmax())
    print(name, "target", target, "forward", distance(onnxruntime.InferenceSession(path).run(None, {"input": x.numpy()})[0][0], logits))
    tensors = {"logits": logits}
    metadata = {"preprocessing": json.dumps(preprocessing), "target": str(target), "made_by": f"torch {torch.__version__}"}
    for method in (gradient, integrated_gradients):
        reference = method(exact, x.double(), target)
        exact.rounding = torch.Generator().manual_seed(1)
        rounding = max(distance(method(exact, x.double(), target), reference) for _ in range(4))
        exact.rounding = None
        float32 = distance(method(single, x, target), reference)
        print(name, method.__name__, f"float32 {float32:.1e} rounding {rounding:.1e}", flush=True)
        tensors[method.__name__] = reference
        metadata |= {f"{method.__name__}.float32": f"{float32:.3g}", f"{method.__name__}.rounding": f"{rounding:.3g}"}
    tensors = {key: np.ascontiguousarray(value, np.float32) for key, value in tensors.items()}
    folder = pathlib.Path(__file__).parent / "pretrained"
    folder.mkdir(exist_ok=True)
    save_file({"pixels": np.ascontiguousarray(pixels), **tensors}, folder / f"{name}.safetensors", metadata)


if __name__ == "__main__":
    for name, preprocessing in PREPROCESSING.items():
        write(name, preprocessing)
