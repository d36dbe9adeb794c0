"""Small classifiers with what exporters write and graphs of one's own rarely have, and what PyTorch says of each in float64.

    benches/peers/install.sh && benches/peers/.venv/bin/python tests/api/exporters.py

Writes tests/api/exporters/ID.onnx, ID.toml where the model needs a manifest, and expected.safetensors: of each model an input `ID.x`, its
`ID.scores` as `/predict` gives them, and `ID.gradient`, that of the score of class 1 (in the metadata: of its logit, or of its probability).
"""

import pathlib

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

FOLDER = pathlib.Path(__file__).with_suffix("")
CLASS = 1
node = helper.make_node
generator = np.random.default_rng(0)


def weights(*shape):
    return (0.3 * generator.standard_normal(shape)).astype(np.float32)


W, FC = weights(4, 3, 3, 3), weights(4, 3)
LOGITS = [("y", TensorProto.FLOAT, ["n", 3])]


def conv(source="x", name="c", **attributes):
    return node("Conv", [source, "w"], [name], **{"pads": [1] * 4, **attributes})


def tail(source, logits="y"):
    return [node("Relu", [source], ["r"]), node("GlobalAveragePool", ["r"], ["g"]), node("Flatten", ["g"], ["f"]), node("MatMul", ["f", "fc"], [logits])]


def convolved(x, w=W, **options):
    return F.conv2d(x, torch.from_numpy(w).double(), **{"padding": 1, **options})


def scored(values, fc=FC):
    return F.relu(values).mean((2, 3)) @ torch.from_numpy(fc).double()


def plain(x):
    return scored(convolved(x))


class Case:
    """Nodes over `x`, and the function of PyTorch's that gives the same logits."""

    def __init__(
        self, nodes, constants, function, outputs=LOGITS, x=("x", TensorProto.FLOAT, ["n", 3, 8, 8]), opset=17, domains=(), functions=(), manifest=None,
        shown=lambda z: z.softmax(1), explained="logits",
    ):
        self.nodes, self.constants, self.function, self.outputs, self.x = nodes, constants, function, outputs, x
        self.opset, self.domains, self.functions = opset, domains, functions
        self.manifest, self.shown, self.explained = manifest, shown, explained

    def model(self):
        stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in self.constants.items()]
        outputs = [helper.make_tensor_value_info(*output) for output in self.outputs]
        graph = helper.make_graph(self.nodes, "graph", [helper.make_tensor_value_info(*self.x)], outputs, stored)
        imports = [helper.make_opsetid("", self.opset)] + [helper.make_opsetid(domain, 1) for domain in self.domains]
        return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(self.functions))

    def answers(self):
        """An input, the scores and the gradient."""
        shape = [3, 8, 8] if self.x[2] is None else self.x[2][1:]
        pixels = generator.integers(0, 255, shape) if self.x[1] == TensorProto.UINT8 else generator.standard_normal(shape).astype(np.float32)
        leaf = torch.from_numpy(pixels.astype(np.float64))[None].requires_grad_()
        logits = self.function(leaf)
        scores = self.shown(logits)
        (logits if self.explained == "logits" else scores)[0, CLASS].backward()
        return pixels, scores[0].detach().numpy(), leaf.grad[0].numpy()


def half(values):
    return values.astype(np.float16)


def branch(op):
    return helper.make_graph([node(op, ["c"], ["inner"])], op, [], [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)])


def local_function():
    """Leaky(a) = LeakyRelu(Tanh(a)) of a slope that the call gives, or else 0.5."""
    body = [node("Tanh", ["a"], ["c"]), node("LeakyRelu", ["c"], ["b"])]
    body[1].attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    return helper.make_function(
        "local", "Leaky", ["a"], ["b"], body, [helper.make_opsetid("", 17)], attribute_protos=[helper.make_attribute("slope", 0.5)]
    )


def standardised(w):
    rows = torch.from_numpy(w).double()[0]
    return ((rows - rows.mean(1, keepdim=True)) / (rows.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()).reshape(4, 3, 3, 3).numpy()


def clipped(z):
    return z.softmax(1).clamp(1e-4, 1)


def cases():
    q, q_scale = generator.integers(-99, 99, (4, 3, 3, 3)).astype(np.int8), np.float32(0.01)
    turned, rows, wide, hidden, token = weights(2, 3), weights(1, 4, 27), weights(4, 6), [weights(6, 5), weights(5), weights(5, 3), weights(3)], weights(1, 4, 1)
    u, a, v, b = hidden
    double = lambda values: torch.from_numpy(values).double()
    images = lambda element, name="x", first="n": (name, element, [first, 3, 8, 8])
    ints, one = np.int64, np.float32(1)
    return {
        # Preprocessing inside the graph.
        "uint8_input": Case([node("Cast", ["x"], ["floats"], to=1), conv("floats"), *tail("c")], {"w": W, "fc": FC}, plain, x=images(TensorProto.UINT8)),
        "dequantised_weight": Case(
            [node("DequantizeLinear", ["q", "s"], ["w"]), conv(), *tail("c")],
            {"q": q, "s": q_scale, "fc": FC},
            lambda x: scored(convolved(x, q * q_scale)),
        ),
        # ONNX Runtime's optimiser.
        "fused_conv": Case(
            [node("FusedConv", ["x", "w"], ["c"], domain="com.microsoft", pads=[1] * 4, activation="Relu"), *tail("c")],
            {"w": W, "fc": FC},
            plain,
            domains=["com.microsoft"],
        ),
        "fused_conv_before_gelu": Case(
            [
                node("FusedConv", ["x", "w"], ["c"], domain="com.microsoft", pads=[1] * 4, activation="Relu"),
                node("Gelu", ["c"], ["d"]),
                *tail("d"),
            ],
            {"w": W, "fc": FC},
            lambda x: scored(F.gelu(F.relu(convolved(x)))),
            opset=20,
            domains=["com.microsoft"],
        ),
        # Its inner value has the name of one of the graph's.
        "local_function": Case(
            [
                conv(),
                node("Leaky", ["c"], ["d"], domain="local"),
                node("Leaky", ["d"], ["e"], domain="local", slope=0.25),
                node("GlobalAveragePool", ["e"], ["g"]),
                node("Flatten", ["g"], ["f"]),
                node("MatMul", ["f", "fc"], ["y"]),
            ],
            {"w": W, "fc": FC},
            lambda x: F.leaky_relu(F.leaky_relu(convolved(x).tanh(), 0.5).tanh(), 0.25).mean((2, 3)) @ double(FC),
            domains=["local"],
            functions=[local_function()],
        ),
        # timm: qkv.permute(2, 0, 3, 1, 4).unbind(0).
        "batch_not_first": Case(
            [
                conv(),
                node("Reshape", ["c", "sizes"], ["t"]),
                node("Transpose", ["t"], ["u"], perm=[1, 0, 2, 3, 4]),
                node("Split", ["u"], ["a", "b"], axis=0),
                node("Squeeze", ["a", "first"], ["a1"]),
                node("Squeeze", ["b", "first"], ["b1"]),
                node("Mul", ["a1", "b1"], ["m"]),
                *tail("m"),
            ],
            {"w": W, "fc": turned, "sizes": ints([0, 2, 2, 8, 8]), "first": ints([0])},
            lambda x: scored(convolved(x)[:, :2] * convolved(x)[:, 2:], turned),
        ),
        # TensorFlow's x[:, :, 1:, 1:].
        "slice_names_batch": Case(
            [conv(), node("Slice", ["c", "starts", "ends", "axes"], ["d"]), *tail("d")],
            {"w": W, "fc": FC, "starts": ints([0, 1, 1]), "ends": ints([2**31 - 1] * 3), "axes": ints([0, 2, 3])},
            lambda x: scored(convolved(x)[:, :, 1:, 1:]),
        ),
        "label_first": Case(
            [conv(), *tail("c"), node("Softmax", ["y"], ["p"], axis=1), node("ArgMax", ["p"], ["label"], axis=1)],
            {"w": W, "fc": FC},
            plain,
            outputs=[("label", TensorProto.INT64, ["n", 1]), ("p", TensorProto.FLOAT, ["n", 3])],
        ),
        "features_first": Case(
            [conv(), *tail("c")],
            {"w": W, "fc": FC},
            plain,
            outputs=[("f", TensorProto.FLOAT, ["n", 4]), *LOGITS],
            manifest='output = "y"\n',
        ),
        "batch_of_four": Case(
            [conv(), *tail("c")], {"w": W, "fc": FC}, plain, outputs=[("y", TensorProto.FLOAT, [4, 3])], x=images(TensorProto.FLOAT, first=4)
        ),
        "class_token_of_one_row": Case(
            [
                conv(),
                node("Reshape", ["c", "sizes"], ["t"]),
                node("Concat", ["t", "token"], ["u"], axis=2),
                node("Tanh", ["u"], ["on"]),
                node("ReduceMean", ["on"], ["m"], axes=[2], keepdims=0),
                node("MatMul", ["m", "fc"], ["y"]),
            ],
            {"w": W, "fc": FC, "sizes": ints([1, 4, 64]), "token": token},
            lambda x: torch.cat([convolved(x).flatten(2), double(token)], 2).tanh().mean(2) @ double(FC),
            outputs=[("y", TensorProto.FLOAT, [1, 3])],
            x=images(TensorProto.FLOAT, first=1),
        ),
        # onnxconverter-common with keep_io_types.
        "float16_inside": Case(
            [
                node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
                conv("x16"),
                node("MaxPool", ["c"], ["p"], kernel_shape=[3, 3], strides=[2, 2]),
                node("GlobalAveragePool", ["p"], ["g"]),
                node("Flatten", ["g"], ["f"]),
                node("MatMul", ["f", "fc"], ["y16"]),
                node("Cast", ["y16"], ["y"], to=TensorProto.FLOAT),
            ],
            {"w": half(W), "fc": half(FC)},
            lambda x: F.max_pool2d(convolved(x, half(W)), 3, 2).mean((2, 3)) @ double(half(FC)),
        ),
        "float16_input": Case(
            [conv(), *tail("c")],
            {"w": half(W), "fc": half(FC)},
            lambda x: scored(convolved(x, half(W)), half(FC)),
            outputs=[("y", TensorProto.FLOAT16, ["n", 3])],
            x=images(TensorProto.FLOAT16),
        ),
        "float64_of_numbers": Case(
            [node("Gemm", ["x", "u", "a"], ["s"]), node("Relu", ["s"], ["r"]), node("Gemm", ["r", "v", "b"], ["y"])],
            {name: values.astype(np.float64) for name, values in zip("uavb", hidden)},
            lambda x: F.relu(x @ double(u) + double(a)) @ double(v) + double(b),
            outputs=[("y", TensorProto.DOUBLE, ["n", 3])],
            x=("x", TensorProto.DOUBLE, ["n", 6]),
        ),
        "input_named_seed": Case([conv("seed"), *tail("c")], {"w": W, "fc": FC}, plain, x=images(TensorProto.FLOAT, "seed")),
        # timm's padding of tf_efficientnet: from sizes, in floats.
        "clip_of_constants": Case(
            [
                node("Shape", ["x"], ["shape"]),
                node("Gather", ["shape", "two"], ["height"]),
                node("Cast", ["height"], ["floats"], to=TensorProto.FLOAT),
                node("Sub", ["nine", "floats"], ["gap"]),
                node("Clip", ["gap", "zero"], ["rounded"]),
                node("Cast", ["rounded"], ["pad"], to=TensorProto.INT64),
                node("Concat", ["zeros", "pad", "pad"], ["pads"], axis=0),
                node("Pad", ["x", "pads"], ["padded"]),
                conv("padded", pads=[0] * 4),
                *tail("c"),
            ],
            {"w": W, "fc": FC, "two": ints([2]), "nine": np.float32([9]), "zero": np.float32(0), "zeros": ints([0] * 6)},
            lambda x: scored(convolved(F.pad(x, (0, 1, 0, 1)), padding=0)),
        ),
        # PyTorch's exporter of weight standardisation.
        "batch_norm_of_constants": Case(
            [
                node("BatchNormalization", ["rows", "one", "nil", "nil", "one"], ["normal", "mean", "variance"], training_mode=1),
                node("Reshape", ["normal", "sizes"], ["w"]),
                conv(),
                *tail("c"),
            ],
            {"rows": rows, "one": np.ones(4, np.float32), "nil": np.zeros(4, np.float32), "sizes": ints([4, 3, 3, 3]), "fc": FC},
            lambda x: scored(convolved(x, standardised(rows))),
        ),
        "power_of_zero": Case(
            [conv(), node("Relu", ["c"], ["positive"]), node("Pow", ["positive", "z"], ["ones"]), node("Add", ["ones", "c"], ["s"]), *tail("s")],
            {"w": W, "fc": FC, "z": np.float32(0)},
            lambda x: scored(convolved(x) + 1),
        ),
        "clip_after_softmax": Case(
            [conv(), *tail("c", "z"), node("Softmax", ["z"], ["p"], axis=1), node("Clip", ["p", "low", "one"], ["y"])],
            {"w": 4 * W, "fc": 4 * FC, "low": np.float32(1e-4), "one": one},
            lambda x: scored(convolved(x, 4 * W), 4 * FC),
            shown=clipped,
            explained="probabilities",
        ),
        # PyTorch's exporter of LocalResponseNorm.
        "constant_if": Case(
            [
                conv(),
                node("Shape", ["c"], ["shape"]),
                node("Size", ["shape"], ["rank"]),
                node("Equal", ["rank", "four"], ["is_four"]),
                node("If", ["is_four"], ["d"], then_branch=branch("Tanh"), else_branch=branch("Neg")),
                *tail("d"),
            ],
            {"w": W, "fc": FC, "four": ints(4)},
            lambda x: scored(convolved(x).tanh()),
        ),
        "input_without_shape": Case(
            [conv(), *tail("c")], {"w": W, "fc": FC}, plain, x=("x", TensorProto.FLOAT, None), manifest="[input]\nshape = [3, 8, 8]\n"
        ),
        # The last window would start beyond the input: PyTorch and ONNX Runtime's kernel leave it out, its shape inference does not.
        "ceil_pool_drops_window": Case(
            [conv(), node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1), *tail("p")],
            {"w": W, "fc": FC},
            lambda x: scored(F.max_pool2d(convolved(x), 2, 3, ceil_mode=True)),
            x=("x", TensorProto.FLOAT, ["n", 3, 12, 12]),
        ),
        # PyTorch's exporter of unflatten.
        "remainder_of_constants": Case(
            [
                conv(),
                node("GlobalAveragePool", ["c"], ["g"]),
                node("Flatten", ["g"], ["f"]),
                node("MatMul", ["f", "wide"], ["e"]),
                node("Mod", ["five", "three"], ["two"]),
                node("Concat", ["open", "three", "two"], ["sizes"], axis=0),
                node("Reshape", ["e", "sizes"], ["pairs"]),
                node("Tanh", ["pairs"], ["on"]),
                node("ReduceSum", ["on", "last"], ["y"], keepdims=0),
            ],
            {"w": W, "wide": wide, "five": ints([5]), "three": ints([3]), "open": ints([-1]), "last": ints([2])},
            lambda x: (convolved(x).mean((2, 3)) @ double(wide)).reshape(-1, 3, 2).tanh().sum(2),
        ),
    }


def main():
    FOLDER.mkdir(exist_ok=True)
    tensors, explained = {}, {}
    for name, case in cases().items():
        (FOLDER / f"{name}.onnx").write_bytes(case.model().SerializeToString())
        if case.manifest:
            (FOLDER / f"{name}.toml").write_text(case.manifest)
        for what, values in zip(("x", "scores", "gradient"), case.answers()):
            tensors[f"{name}.{what}"] = np.ascontiguousarray(values, np.float32)
        explained[name] = case.explained
    save_file(tensors, FOLDER / "expected.safetensors", explained)


if __name__ == "__main__":
    main()
