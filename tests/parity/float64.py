"""Runs an ONNX graph in float64: onnx's reference evaluator, with PyTorch's convolutions and pools in the place of its slow ones."""

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


def symmetric(x, pads, value):
    """`x` padded by ONNX's pads (all begins, then all ends) of its spatial axes."""
    rank = len(pads) // 2
    amounts = [amount for axis in reversed(range(rank)) for amount in (pads[axis], pads[axis + rank])]
    return F.pad(x, amounts, value=value) if any(amounts) else x


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


class Conv(OpRun):
    op_domain = ""

    def _run(self, x, w, b=None, auto_pad=None, dilations=None, group=None, kernel_shape=None, pads=None, strides=None):
        rank = x.ndim - 2
        conv = [F.conv1d, F.conv2d, F.conv3d][rank - 1]
        x = symmetric(tensor(x), pads or [0] * 2 * rank, 0.0)
        bias = None if b is None else tensor(b)
        return (conv(x, tensor(w), bias, strides or 1, 0, dilations or 1, group or 1).numpy(),)


class ConvTranspose(OpRun):
    op_domain = ""

    def _run(
        self, x, w, b=None, auto_pad=None, dilations=None, group=None, kernel_shape=None, output_padding=None, output_shape=None, pads=None,
        strides=None,
    ):
        rank = x.ndim - 2
        pads = list(pads or [0] * 2 * rank)
        assert pads[:rank] == pads[rank:] and not output_shape
        conv = [F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d][rank - 1]
        bias = None if b is None else tensor(b)
        return (conv(tensor(x), tensor(w), bias, strides or 1, pads[:rank], output_padding or 0, group or 1, dilations or 1).numpy(),)


class MaxPool(OpRun):
    op_domain = ""

    def _run(self, x, auto_pad=None, ceil_mode=None, dilations=None, kernel_shape=None, pads=None, storage_order=None, strides=None):
        pads = list(pads or [0] * 4)
        height, width = x.shape[2:]
        padded = symmetric(tensor(x), pads, -np.inf)
        y, places = F.max_pool2d(padded, kernel_shape, strides or 1, 0, dilations or 1, bool(ceil_mode), return_indices=True)
        wide = padded.shape[3]
        row, column = places // wide - pads[0], places % wide - pads[1]
        plane = torch.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], 1, 1) * (height * width)
        return y.numpy(), (plane + row * width + column).numpy()


class AveragePool(OpRun):
    op_domain = ""

    def _run(self, x, auto_pad=None, ceil_mode=None, count_include_pad=None, dilations=None, kernel_shape=None, pads=None, strides=None):
        pads = list(pads or [0] * 4)
        assert pads[:2] == pads[2:]
        pool = F.avg_pool2d(tensor(x), kernel_shape, strides or 1, pads[:2], bool(ceil_mode), bool(count_include_pad))
        return (pool.numpy(),)


def evaluate(path, inputs):
    """The outputs by name; float inputs and constants are brought to float64, and so is all that the graph computes."""
    model = onnx.load(path)
    double = onnx.TensorProto.DOUBLE
    for initializer in model.graph.initializer:
        if initializer.data_type == onnx.TensorProto.FLOAT:
            initializer.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(initializer).astype(np.float64), initializer.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = double
            elif attribute.t.data_type == onnx.TensorProto.FLOAT:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float64)))
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = double
    del model.graph.value_info[:]
    session = ReferenceEvaluator(model, new_ops=[Conv, ConvTranspose, MaxPool, AveragePool])
    return dict(zip(session.output_names, session.run(None, inputs)))
