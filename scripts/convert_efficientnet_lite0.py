"""EfficientNet-Lite0 (Tan and Le 2019, the `lite` variant of 2020): PyTorch state dict -> ONNX, with numpy and onnx alone.

    convert_efficientnet_lite0.py WEIGHTS.pth MODEL.onnx

Reads the legacy (before 1.6) .pth format with a restricted unpickler. Each BatchNormalization is folded into its Conv in float64,
padding is TensorFlow's SAME at 224 x 224. The result is N x 3 x 224 x 224 -> logits N x 1000 at opset 17.
"""

import collections
import pickle
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STORAGES = {"FloatStorage": np.float32, "LongStorage": np.int64}
# repeats, kernel, stride, expansion, channels in, channels out
STAGES = [
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
]
EPSILON = 1e-3
RESOLUTION = 224


class StateDict(pickle.Unpickler):
    """Unpickles tensors as (storage key, offset, size, stride) and refuses every other class."""

    def find_class(self, module, name):
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: (storage, offset, size, stride)
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(f"a state dict needs no {module}.{name}")

    def persistent_load(self, pid):
        _, dtype, key, *_ = pid
        return (np.dtype(dtype), str(key))


def read_state_dict(path):
    with open(path, "rb") as file:
        if pickle.load(file) != 0x1950A86A20F9469CFC6C or pickle.load(file) != 1001:
            raise SystemExit(f"{path} is not a legacy PyTorch file")
        pickle.load(file)  # byte order and integer sizes of the writer
        tensors = StateDict(file).load()
        dtypes = {key: dtype for (dtype, key), *_ in tensors.values()}
        storages = {}
        for key in map(str, pickle.load(file)):
            count = int.from_bytes(file.read(8), "little")
            storages[key] = np.frombuffer(file.read(count * dtypes[key].itemsize), dtypes[key])
    return {
        name: np.lib.stride_tricks.as_strided(
            storages[key][offset:], size, [step * dtype.itemsize for step in stride]
        ).copy()
        for name, ((dtype, key), offset, size, stride) in tensors.items()
    }


class Network:
    def __init__(self, weights):
        self.weights = weights
        self.nodes = []
        self.initializers = []
        self.side = RESOLUTION
        for name, value in (("relu6_min", 0), ("relu6_max", 6)):
            self.constant(name, np.float32(value))

    def constant(self, name, value):
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, op_type, inputs, name, **attributes):
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def conv(self, x, name, conv, norm, kernel, stride=1, group=1, activate=True):
        """Conv with its BatchNormalization folded in, then ReLU6 when `activate`."""
        weight = self.weights[f"{conv}.weight"].astype(np.float64)
        gamma, beta, mean, variance = (
            self.weights[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + EPSILON)
        out = -(-self.side // stride)
        total = max((out - 1) * stride + kernel - self.side, 0)
        before, after, self.side = total // 2, total - total // 2, out
        inputs = [
            x,
            self.constant(f"{name}.weight", (weight * scale[:, None, None, None]).astype(np.float32)),
            self.constant(f"{name}.bias", (beta - mean * scale).astype(np.float32)),
        ]
        y = self.node(
            "Conv", inputs, name, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[before] * 2 + [after] * 2, group=group
        )
        return self.node("Clip", [y, "relu6_min", "relu6_max"], f"{name}_relu6") if activate else y

    def block(self, x, index, kernel, stride, expansion, channels_in, channels_out):
        name, source, inner = f"block{index}", f"_blocks.{index}.", channels_in * expansion
        y = x
        if expansion != 1:
            y = self.conv(y, f"{name}.expand", f"{source}_expand_conv", f"{source}_bn0", 1)
        y = self.conv(y, f"{name}.dw", f"{source}_depthwise_conv", f"{source}_bn1", kernel, stride, group=inner)
        y = self.conv(y, f"{name}.project", f"{source}_project_conv", f"{source}_bn2", 1, activate=False)
        return self.node("Add", [y, x], f"{name}.add") if stride == 1 and channels_in == channels_out else y


def convert(weights):
    network = Network(weights)
    x = network.conv("input", "stem", "_conv_stem", "_bn0", 3, stride=2)
    index = 0
    for repeats, kernel, stride, expansion, channels_in, channels_out in STAGES:
        for repeat in range(repeats):
            first = repeat == 0
            x = network.block(x, index, kernel, stride if first else 1, expansion, channels_in if first else channels_out, channels_out)
            index += 1
    x = network.conv(x, "head", "_conv_head", "_bn1", 1)
    x = network.node("GlobalAveragePool", [x], "gap")
    x = network.node("Flatten", [x], "flat", axis=1)
    fc = [network.constant("fc.weight", weights["_fc.weight"]), network.constant("fc.bias", weights["_fc.bias"])]
    network.nodes.append(helper.make_node("Gemm", [x, *fc], ["logits"], name="fc", transB=1))
    graph = helper.make_graph(
        network.nodes,
        "efficientnet_lite0",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, RESOLUTION, RESOLUTION])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 1000])],
        network.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="explaind")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    onnx.save(convert(read_state_dict(sys.argv[1])), sys.argv[2])
