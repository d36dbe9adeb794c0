"""An untrained LeNet (LeCun et al. 1998, with ReLU and max pooling) for digits of 28 x 28 grey pixels, to begin a training with:

    lenet.py FOLDER

Writes FOLDER/model.onnx, opset 17, with model.toml and labels.txt. Weights are drawn by a seed as by He et al. 2015, biases are 0. ONNX is a
protobuf; the little of it that is needed is written with the standard library alone (field numbers: onnx.proto).
"""

import math
import pathlib
import random
import struct
import sys

CLASSES = ["four", "nine"]
FLOAT = 1  # TensorProto.DataType


def message(*fields):
    """A protobuf message of (number, value): whole numbers as varints, all else with its length in front."""

    def varint(value):
        low, rest = value & 0x7F, value >> 7
        return bytes([low]) if rest == 0 else bytes([low | 0x80]) + varint(rest)

    encoded = b""
    for number, value in fields:
        if isinstance(value, int):
            encoded += varint(number << 3) + varint(value)
        else:
            content = value.encode() if isinstance(value, str) else value
            encoded += varint(number << 3 | 2) + varint(len(content)) + content
    return encoded


def attribute(name, value):
    """A whole number, or a list of them."""
    return message((1, name), (3, value), (20, 2)) if isinstance(value, int) else message((1, name), *((8, one) for one in value), (20, 7))


def value_info(name, sides):
    """A float tensor with the batch in front."""
    dims = [message((2, "N"))] + [message((1, side)) for side in sides]
    shape = message(*((1, dim) for dim in dims))
    return message((1, name), (2, message((1, message((1, FLOAT), (2, shape))))))


class Network:
    def __init__(self):
        self.draw = random.Random(0)
        self.fields = [(2, "lenet")]

    def node(self, op_type, inputs, output, **attributes):
        self.fields.append((1, message(*((1, name) for name in inputs), (2, output), (3, output), (4, op_type), *((5, attribute(*one)) for one in attributes.items()))))
        return output

    def initializer(self, name, shape, values):
        content = struct.pack(f"<{len(values)}f", *values)
        self.fields.append((5, message(*((1, side) for side in shape), (2, FLOAT), (8, name), (9, content))))
        return name

    def layer(self, op_type, x, name, shape, **attributes):
        fan_in = math.prod(shape[1:])
        weights = [self.draw.gauss(0, math.sqrt(2 / fan_in)) for _ in range(math.prod(shape))]
        inputs = [x, self.initializer(f"{name}.weight", shape, weights), self.initializer(f"{name}.bias", shape[:1], [0] * shape[0])]
        return self.node(op_type, inputs, name, **attributes)

    def block(self, x, name, shape):
        x = self.layer("Conv", x, name, shape, kernel_shape=[5, 5], pads=[2, 2, 2, 2])
        x = self.node("Relu", [x], f"{name}.relu")
        return self.node("MaxPool", [x], f"{name}.pool", kernel_shape=[2, 2], strides=[2, 2])


def lenet():
    network = Network()
    x = network.block("input", "conv1", [16, 1, 5, 5])
    x = network.block(x, "conv2", [32, 16, 5, 5])
    x = network.node("Flatten", [x], "flat", axis=1)
    x = network.layer("Gemm", x, "fc1", [128, 32 * 7 * 7], transB=1)
    x = network.node("Relu", [x], "fc1.relu")
    network.layer("Gemm", x, "logits", [len(CLASSES), 128], transB=1)
    graph = message(*network.fields, (11, value_info("input", [1, 28, 28])), (12, value_info("logits", [len(CLASSES)])))
    return message((1, 8), (2, "explaind"), (7, graph), (8, message((1, ""), (2, 17))))


def main(folder):
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(lenet())
    (folder / "model.toml").write_text("# White digits on black.\n[input]\nresize = { short_side = 28 }\nchannels = \"gray\"\nmean = 0.0\nstd = 1.0\n")
    (folder / "labels.txt").write_text("\n".join(CLASSES) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(pathlib.Path(sys.argv[1]))
