"""Writes the references of tests/parity/training.safetensors: what torch.optim makes of a small CNN and of SqueezeNet; and the CNN itself,
tests/parity/training/model.onnx.

    pip install numpy onnx torch safetensors && python tests/parity/training.py

Pictures are made by a formula (`picture`), so that both sides train on the same pixels. `<optimizer>.<steps>.<weight>`: the small CNN's weights after
so many steps on all pictures at once. `squeezenet.losses`: the mean loss of three epochs, in batches of 8, in explaind's order of pictures
(src/training/data.rs).
"""

import pathlib

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from torch.nn import functional

from chacha import Generator

HERE = pathlib.Path(__file__).parent
CLASSES = 3
SIDE = 12


def picture(number, side):
    """Pixels [side, side, 3], as `picture` in training.rs has them."""
    y, x, c = np.mgrid[:side, :side, :3]
    waves = x * (2 * number + 3) + y * (3 * c + number % 5 + 1) + (x * y >> 3) * (c + 1) + 40 * number
    return (waves * 256 // side % 256).astype(np.uint8)


def inputs(count, side, mean, std):
    pixels = np.stack([picture(number, side) for number in range(count)]).astype(np.float32)
    mean, std = np.array(mean, np.float32), np.array(std, np.float32)
    return torch.from_numpy(((pixels * np.float32(1 / 255) - mean) / std).transpose(0, 3, 1, 2).copy())


def small_cnn():
    """Conv, BatchNormalization, PRelu; Conv with groups, stride and dilation; Relu, Gemm."""
    rng = np.random.default_rng(15)

    def weight(name, *shape, scale=None, around=0.0):
        scale = scale or (2 / np.prod(shape[1:])) ** 0.5
        return numpy_helper.from_array((around + scale * rng.standard_normal(shape)).astype(np.float32), name)

    initializers = [
        weight("conv1.weight", 8, 3, 3, 3),
        weight("conv1.bias", 8, scale=0.1),
        weight("norm.weight", 8, scale=0.1, around=1.0),
        weight("norm.bias", 8, scale=0.1),
        weight("norm.mean", 8, scale=0.1),
        numpy_helper.from_array(rng.uniform(0.5, 1.5, 8).astype(np.float32), "norm.variance"),
        weight("prelu.weight", 8, 1, 1, scale=0.1, around=0.25),
        weight("conv2.weight", 8, 4, 3, 3),
        weight("conv2.bias", 8, scale=0.1),
        weight("fc.weight", CLASSES, 8),
        weight("fc.bias", CLASSES, scale=0.1),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "conv1.weight", "conv1.bias"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "norm.weight", "norm.bias", "norm.mean", "norm.variance"], ["b"]),
        helper.make_node("PRelu", ["b", "prelu.weight"], ["c"]),
        helper.make_node("Conv", ["c", "conv2.weight", "conv2.bias"], ["d"], pads=[2, 2, 2, 2], strides=[2, 2], dilations=[2, 2], group=2),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "fc.weight", "fc.bias"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CLASSES])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def small_logits(w, x):
    x = functional.conv2d(x, w["conv1.weight"], w["conv1.bias"], padding=1)
    x = functional.batch_norm(x, w["norm.mean"], w["norm.variance"], w["norm.weight"], w["norm.bias"])
    x = functional.prelu(x, w["prelu.weight"].reshape(-1))
    x = functional.relu(functional.conv2d(x, w["conv2.weight"], w["conv2.bias"], stride=2, padding=2, dilation=2, groups=2))
    return functional.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])


OPTIMIZERS = {
    "adam": lambda weights: torch.optim.Adam(weights, lr=1e-3, betas=(0.8, 0.99), eps=1e-7, weight_decay=0.01),
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.05, momentum=0.9),
}


def small(model):
    x, truth = inputs(6, SIDE, [0.5] * 3, [0.25] * 3), torch.tensor([0, 0, 1, 1, 2, 2])
    target = torch.from_numpy(np.cos(np.arange(6 * CLASSES)).astype(np.float32).reshape(6, CLASSES))
    losses = {"adam": lambda z: functional.cross_entropy(z, truth), "sgd": lambda z: functional.mse_loss(z, target)}
    found = {}
    for name, optimizer in OPTIMIZERS.items():
        weights = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in model.graph.initializer}
        trained = [weight.requires_grad_() for key, weight in weights.items() if key not in ("norm.mean", "norm.variance")]
        steps = optimizer(trained)
        for step in range(1, 21):
            steps.zero_grad()
            losses[name](small_logits(weights, x)).backward()
            steps.step()
            if step in (1, 20):
                found |= {f"{name}.{step}.{key}": weight.detach().numpy().copy() for key, weight in weights.items()}
    return found


def walk(graph, weights, value):
    """The logits of a graph of SqueezeNet's ops: the input of its last Softmax, else its output."""
    values = dict(weights) | {next(one.name for one in graph.input if one.name not in weights): value}
    for node in graph.node:
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        given = [values.get(name) for name in node.input]
        match node.op_type:
            case "Conv":
                pads = attributes.get("pads", [0] * 4)
                assert pads[:2] == pads[2:]
                out = functional.conv2d(*given, stride=attributes.get("strides", 1), padding=pads[:2])
            case "Relu":
                out = functional.relu(given[0])
            case "MaxPool":
                out = functional.max_pool2d(given[0], attributes["kernel_shape"], attributes["strides"], ceil_mode=bool(attributes.get("ceil_mode", 0)))
            case "Concat":
                out = torch.cat(given, attributes["axis"])
            case "GlobalAveragePool":
                out = given[0].mean((2, 3), keepdim=True)
            case "AveragePool":
                out = functional.avg_pool2d(given[0], attributes["kernel_shape"])
            case "Flatten" | "Reshape":
                out = given[0].reshape(len(given[0]), -1)
            case "Dropout":
                out = given[0]
            case "Softmax":
                return given[0].reshape(len(given[0]), -1)
            case "Constant":
                out = None
            case other:
                raise NotImplementedError(other)
        values[node.output[0]] = out
    return values[graph.output[0].name].reshape(len(value), -1)


def order(examples, seed, epoch):
    uniforms = iter(Generator(seed, 2 << 48 | epoch << 32).uniforms(len(examples)))
    examples = list(examples)
    for end in range(len(examples) - 1, 0, -1):
        other = int(next(uniforms) * (end + 1))
        examples[end], examples[other] = examples[other], examples[end]
    return examples


def squeezenet():
    graph = onnx.load(HERE / "../../models/squeezenet1_1/model.onnx").graph
    weights = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    trained = [weight.requires_grad_() for weight in weights.values() if weight.is_floating_point()]
    steps = torch.optim.Adam(trained, lr=1e-4)
    x = inputs(16, 224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    truth = torch.tensor([100 + 200 * (number // 4) for number in range(16)])
    losses = []
    for epoch in range(3):
        total = 0.0
        met = order(range(16), 7, epoch)
        for batch in (met[:8], met[8:]):
            steps.zero_grad()
            loss = functional.cross_entropy(walk(graph, weights, x[batch]), truth[batch])
            loss.backward()
            steps.step()
            total += 8 * loss.item()
        losses.append(total / 16)
    return np.array(losses)


def main():
    torch.manual_seed(0)
    model = small_cnn()
    (HERE / "training").mkdir(exist_ok=True)
    onnx.save(model, HERE / "training/model.onnx")
    found = small(model)
    found["squeezenet.losses"] = squeezenet()
    print(found["squeezenet.losses"])
    found = {name: np.ascontiguousarray(values, np.float64 if name.endswith("losses") else np.float32) for name, values in found.items()}
    save_file(found, HERE / "training.safetensors", {"of": "training.py"})


if __name__ == "__main__":
    main()
