#!/usr/bin/env python3
"""Runs networks that others wrote through `explaind derive`, and writes docs/zoo.md.

    make zoo                                      # all rows that have not run, then the page; slow: hours, several GB of packages
    zoo.py run [--binary FILE] [--minutes N] [--memory GB] [--only TEXT] [--again OUTCOME]
    zoo.py table > docs/zoo.md

A row is a network of a collection by an exporter. It runs in a process of its own with limits on time and memory, and leaves a JSON file in
target/zoo/, so a run goes on where another ended. Weights are random, those that are initialised as equal numbers disturbed, and images small: this
is about operators and shapes. Reference: PyTorch's autograd in float64; where that differs, the distances of both from central differences are told.
Networks that are not PyTorch's are compared with central differences of the file itself, evaluated in float64 (tests/parity/float64.py).
"""

import argparse
import copy
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "target" / "zoo"
sys.path.insert(0, str(ROOT / "tests" / "parity"))
CLASSES = 20
SECONDS = 900  # of CPU time
MEMORY = 14  # GB
LARGEST = 620 << 20  # bytes of weights; the float64 copy, the file and the derived file are as many times in memory
YARDSTICKS, SUMMATION = 4, 2e-6  # an answer may be this many times as far as float32 itself, as in tests/parity/stored.rs
SIDES = [64, 56, 96, 128, 160, 192, 224, 256]
INPUTS = 4  # tried until one agrees: near a kink float32 takes another side than float64

# All of torchvision's classifiers, the smallest first.
TORCHVISION = """
squeezenet1_1 squeezenet1_0 shufflenet_v2_x0_5 mnasnet0_5 shufflenet_v2_x1_0 mobilenet_v3_small mnasnet0_75 mobilenet_v2 shufflenet_v2_x1_5
regnet_y_400mf mnasnet1_0 efficientnet_b0 mobilenet_v3_large regnet_x_400mf mnasnet1_3 regnet_y_800mf googlenet regnet_x_800mf shufflenet_v2_x2_0
efficientnet_b1 densenet121 efficientnet_b2 regnet_x_1_6gf regnet_y_1_6gf resnet18 efficientnet_b3 densenet169 regnet_x_3_2gf efficientnet_b4
regnet_y_3_2gf densenet201 efficientnet_v2_s resnet34 resnext50_32x4d resnet50 inception_v3 swin_t swin_v2_t convnext_tiny densenet161
efficientnet_b5 maxvit_t regnet_y_8gf regnet_x_8gf efficientnet_b6 resnet101 swin_s swin_v2_s convnext_small efficientnet_v2_m regnet_x_16gf
resnet152 alexnet efficientnet_b7 wide_resnet50_2 resnext101_64x4d regnet_y_16gf vit_b_16 swin_b swin_v2_b vit_b_32 convnext_base resnext101_32x8d
regnet_x_32gf efficientnet_v2_l wide_resnet101_2 vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn regnet_y_32gf convnext_large vit_l_16
vit_l_32 vit_h_14 regnet_y_128gf
""".split()

# The smallest network of each of timm's modules, the smallest first.
TIMM = """
test_efficientnet test_nfnet test_mambaout test_byobnet test_convnext test_vit test_resnet lcnet_035 starnet_s050 test_coatnet
test_vit_relpos dla46x_c mobilevit_xxs repghostnet_050 edgenext_xx_small ghostnet_050 ese_vovnet19b_slim_dw efficientvit_b0 efficientvit_m0
regnetx_002 cspnext_tiny iformer_t fasternet_t0 cs3darknet_focus_s lcnetv2_small xcit_nano_12_p8_224 swiftformer_xs inception_next_atto
efficientformerv2_s0 fastvit_t8 pvt_v2_b0 rexnet_100 hardcorenas_b hgnetv2_b0 pit_ti_224 repvit_m1 cpubone_nano tiny_vit_5m_224 coat_tiny
vit_tiny_patch16_dinov3_qkvb convit_tiny deit_tiny_patch16_224 efficientvim_m1 gmlp_ti16_224 shvit_s1 vit_tiny_r_s16_p8_224
crossvit_tiny_240 densenet121 levit_128s halonet_h1 dpn48b resnest14d visformer_tiny csatv2 hrnet_w18_small resnetv2_18 legacy_seresnet18
poolformerv2_s12 efficientformer_l1 skresnet18 gcvit_xxtiny cait_xxs24_224 lowformer_b0 nest_tiny convmixer_768_32 legacy_xception
inception_v3 vitamin_small_224 res2next50 rdnet_tiny tnt_s_legacy_patch16_224 mvitv2_tiny twins_svt_small xception41p volo_d1_224
sam2_hiera_tiny hiera_tiny_224 sequencer2d_s swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window16_256 davit_tiny
focalnet_tiny_srf selecsls42 tresnet_m nextvit_small inception_v4 inception_resnet_v2 mobilenetv5_base pnasnet5large nasnetalarge
samvit_base_patch16_224 naflexvit_base_patch16_parfac_gap beit_base_patch16_224 qwen3_vit_88m vgg11 gemma4_vit_167m_enc deepseek_vit_412m
""".split()

# Configurations that make each network small: its own sizes, where they are.
HUGGING_FACE = {
    "Beit": {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96, "use_relative_position_bias": True},
    "Bit": {"embedding_size": 32, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1]},
    "ConvNext": {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]},
    "ConvNextV2": {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]},
    "Cvt": {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3]},
    "Data2VecVision": {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96},
    "DeiT": {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96},
    "Dinov2": {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 16},
    "Dinov2WithRegisters": {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 16},
    "EfficientNet": {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
    "FocalNet": {"embed_dim": 24, "depths": [1, 1, 1, 1]},
    "Levit": {"hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1]},
    "MobileNetV1": {"depth_multiplier": 0.25},
    "MobileNetV2": {"depth_multiplier": 0.35},
    "MobileViT": {"hidden_sizes": [48, 64, 80], "neck_hidden_sizes": [16, 16, 24, 32, 48, 64, 160]},
    "MobileViTV2": {"width_multiplier": 0.5},
    "PoolFormer": {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]},
    "Pvt": {"hidden_sizes": [16, 32, 40, 64], "num_attention_heads": [1, 2, 5, 8], "depths": [1, 1, 1, 1]},
    "PvtV2": {"hidden_sizes": [16, 32, 40, 64], "num_attention_heads": [1, 2, 5, 8], "depths": [1, 1, 1, 1]},
    "RegNet": {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1], "groups_width": 16},
    "ResNet": {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1]},
    "Segformer": {"hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1]},
    "SwiftFormer": {"embed_dims": [16, 24, 32, 48], "depths": [1, 1, 2, 1]},
    "Swin": {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    "Swinv2": {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    "ViT": {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96},
    "ViTMSN": {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96},
}

COLLECTIONS = {
    "torchvision": "torchvision's classifiers",
    "timm": "timm's modules, the smallest network of each",
    "hugging_face": "Hugging Face's image classifiers, from small configurations",
    "onnx": "light models of the package `onnx`",
    "keras": "Keras applications",
    "sklearn": "scikit-learn on images as rows of pixels",
}
PACKAGES = {
    "torchvision": ["torch", "torchvision", "onnxscript"],
    "timm": ["torch", "timm", "onnxscript"],
    "hugging_face": ["torch", "transformers", "onnxscript"],
    "onnx": [],
    "keras": ["keras", "tensorflow-cpu", "tf2onnx"],
    "sklearn": ["scikit-learn", "skl2onnx"],
}
OUTCOMES = {
    "agrees": "the gradient agrees with the reference",
    "differs": "**the gradient differs from the reference**",
    "refused": "refused, with a reason",
    "fails": "`derive` fails in another way",
    "no export": "the exporter fails, or onnxruntime does not run what it wrote",
    "too large": f"more than {LARGEST >> 20} MB of weights",
    "too slow": f"more than {SECONDS} s of CPU time, or more memory than {MEMORY} GB",
    "not run": "not run",
}


def rows():
    """All rows, those first that say most in the least time."""
    keras = ["MobileNetV2", "EfficientNetB0", "ResNet50V2", "DenseNet121", "NASNetMobile", "ConvNeXtTiny", "Xception", "InceptionV3", "VGG16"]
    sklearn = ["MLPClassifier", "MLPClassifier zipmap", "LogisticRegression", "RandomForestClassifier", "PCA and MLPClassifier"]
    light = ["bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19", "zfnet512"]
    found = [("timm", name, "script") for name in TIMM]
    found += [("torchvision", name, "script") for name in TORCHVISION]
    found += [("hugging_face", name, exporter) for name in HUGGING_FACE for exporter in ("script", "dynamo")]
    found += [("onnx", name, "as it is") for name in light]
    found += [("sklearn", name, "skl2onnx") for name in sklearn]
    found += [("timm", name, "dynamo") for name in TIMM]
    found += [("torchvision", name, "dynamo") for name in TORCHVISION]
    found += [("keras", name, "tf2onnx") for name in keras]
    return found


def place(row):
    return RESULTS / ("--".join(re.sub(r"\W+", "_", part) for part in row) + ".json")


class NoExport(Exception):
    pass


# --- A row, in a process of its own ---


def torch_network(collection, name):
    """The network and a side of images that it takes."""
    import torch

    faults = []
    for side in SIDES:
        for sized in (True, False):
            try:
                torch.manual_seed(0)
                model = built(collection, name, side if sized else None)
                if sum(p.numel() for p in model.parameters()) * 4 > LARGEST:
                    return None, side
                disturb(model)
                with torch.no_grad():
                    model(torch.rand(2, 3, side, side))
                return model, side
            except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as fault:
                faults.append(f"{side}: {fault}")
    raise NoExport(f"could not be built: {faults[-1]}")


def built(collection, name, side):
    if collection == "torchvision":
        from torchvision import models

        sized = {} if side is None else {"image_size": side}
        return models.get_model(name, weights=None, num_classes=CLASSES, **sized).eval()
    if collection == "timm":
        import timm

        sized = {} if side is None else {"img_size": side}
        return timm.create_model(name, num_classes=CLASSES, exportable=True, **sized).eval()
    from families import hugging_face

    sized = {} if side is None else {"image_size": side}
    return hugging_face(name, num_labels=CLASSES, **HUGGING_FACE[name], **sized).eval()


def disturb(model):
    """Weights that are initialised as equal numbers, such as those of norms and of layer scales, become different ones."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() and parameter.max() == parameter.min():
                parameter.add_(0.1 * torch.randn(parameter.shape))
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn(buffer.shape))
            elif key.endswith("running_var"):
                buffer.mul_(1 + 0.5 * torch.rand(buffer.shape))
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False


def export(model, side, exporter, path):
    import torch

    x = torch.rand(2, 3, side, side)
    names = {"input_names": ["input"], "output_names": ["logits"]}
    faults = []
    if exporter == "dynamo":
        batch = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
        for how, rows in ((batch, x), ({}, x[:1])):
            try:
                torch.onnx.export(model, (rows,), path, dynamo=True, external_data=False, verbose=False, **how, **names)
                return "" if how else "batch of one"
            except Exception as fault:
                faults.append(fault)
    else:
        batch = {"dynamic_axes": {"input": {0: "batch"}, "logits": {0: "batch"}}}
        for how, rows, opset in ((batch, x, 17), (batch, x, 18), ({}, x[:1], 17), ({}, x[:1], 18)):
            try:
                torch.onnx.export(model, (rows,), path, dynamo=False, opset_version=opset, **how, **names)
                return f"opset {opset}" + ("" if how else ", batch of one")
            except Exception as fault:
                faults.append(fault)
    raise NoExport(str(faults[0]))


class TorchReference:
    """Scores and gradients of a PyTorch network in float64."""

    def __init__(self, model, side):
        self.float32, self.exact = model, copy.deepcopy(model).double()
        self.shape = (1, 3, side, side)

    def scores(self, x):
        import torch

        with torch.no_grad():
            return self.exact(torch.from_numpy(x))[0].numpy()

    def gradient(self, x, target, model=None):
        import torch
        from generate import right_batch_norm

        model = model or self.exact
        leaf = torch.from_numpy(x).to(next(model.parameters()).dtype).requires_grad_()
        with right_batch_norm():
            model(leaf)[0, target].backward()
        return leaf.grad.double().numpy()

    def float32_distance(self, x, target, gradient):
        return distance(self.gradient(x, target, self.float32), gradient)

    def rounding_distance(self, x, target, gradient):
        """How far float64 is from itself with rounding noise in each module."""
        import torch

        from generate import rounding_distance

        try:
            return rounding_distance(self.exact, torch.from_numpy(x), target, gradient[0])
        except (AttributeError, TypeError):  # modules that give more than a tensor
            return 0.0


class FileReference:
    """Scores of an ONNX file in float64. It has no gradient: slopes are central differences."""

    def __init__(self, path, shape):
        import float64
        import onnx

        model = onnx.load(path)
        stored = {tensor.name for tensor in model.graph.initializer}
        self.evaluate = float64.evaluate
        self.path, self.shape = path, shape
        self.input = next(value.name for value in model.graph.input if value.name not in stored)
        self.output = model.graph.output[-1].name

    def scores(self, x):
        return self.evaluate(self.path, {self.input: x})[self.output].ravel()


def distance(a, b):
    import numpy as np

    return float(np.linalg.norm((a - b).ravel()) / np.linalg.norm(b.ravel()))


def slope(reference, x, target, direction, step=1e-3):
    """Richardson's extrapolation of central differences; `step` is spread over all pixels."""

    def central(step):
        ahead, behind = (reference.scores(x + sign * step * direction)[target] for sign in (1, -1))
        return (ahead - behind) / (2 * step)

    return (4 * central(step / 2) - central(step)) / 3


def differences(reference, x, target, gradient):
    """The largest distance of <gradient, direction> from the slope along it, of directions of unit length; one is the gradient's own."""
    import numpy as np

    draws = np.random.default_rng(1).standard_normal((3, *x.shape))
    worst = 0.0
    for direction in [gradient, *draws]:
        direction = direction / np.linalg.norm(direction)
        off = abs(np.vdot(gradient, direction) - slope(reference, x, target, direction))
        worst = max(worst, off / np.linalg.norm(gradient))
    return float(worst)


def derive(binary, path, derived, head="logits"):
    command = [binary, "derive", "--model", path, "--rule-set", "gradient", "--head", head, "--output", derived]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "EXPLAIND_THREADS": "1"})
    return done.returncode, (done.stderr.strip() or done.stdout.strip())


def predicts(binary, path, x, scores):
    """Whether `explaind predict` names the class that the reference does: so do the methods that need forward passes alone."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        image = pathlib.Path(folder) / "x.npy"
        np.save(image, x[0].astype(np.float32))
        command = [binary, "predict", "--model", path, "--format", "json", "--top-k", "1", image]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "EXPLAIND_THREADS": "1"})
    if done.returncode:
        return False
    best = json.loads(done.stdout.splitlines()[0])["predictions"][0]
    return best.get("class", best.get("index")) == int(np.argmax(scores))


def inputs(shape):
    import numpy as np

    generator = np.random.default_rng(0)
    return [generator.standard_normal(shape) for _ in range(INPUTS)]


def compare(reference, binary, path, result, head="logits"):
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    candidates = inputs(reference.shape)
    derived = path.with_name("derived.onnx")
    code, said = derive(binary, path, derived, head)
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        result["outcome"] = "too slow"
        return
    if code:
        refused = re.search(r"cannot be derived|cannot be used|is not known|must have|no output|not supported|varies|vary", said)
        result["outcome"] = "refused" if refused else "fails"
        result["said"] = said.removeprefix("error: ")[:600]
        result["predicts"] = predicts(binary, path, candidates[0], reference.scores(candidates[0]))
        return
    session = onnxruntime.InferenceSession(str(derived), options, providers=["CPUExecutionProvider"])
    given = next(value.name for value in session.get_inputs() if value.name != "seed")
    found = []
    for x in candidates:
        x = x.astype(np.float32).astype(np.float64)
        target = int(np.argmax(reference.scores(x)))
        seed = np.zeros((1, len(reference.scores(x))), np.float32)
        seed[0, target] = 1
        (gradient,) = session.run(["gradient"], {given: x.astype(np.float32), "seed": seed})
        gradient = gradient.astype(np.float64).reshape(x.shape)
        measured = {}
        if isinstance(reference, TorchReference):
            expected = reference.gradient(x, target)
            measured["distance"] = distance(gradient, expected)
            measured["yardstick"] = reference.float32_distance(x, target, expected)
            if measured["distance"] > YARDSTICKS * max(measured["yardstick"], SUMMATION):
                measured["yardstick"] = max(measured["yardstick"], reference.rounding_distance(x, target, expected))
            agrees = measured["distance"] <= YARDSTICKS * max(measured["yardstick"], SUMMATION)
            if not agrees:
                measured["differences"] = differences(reference, x, target, gradient)
                measured["autograd_differences"] = differences(reference, x, target, expected)
        else:
            measured["differences"] = differences(reference, x, target, gradient)
            agrees = measured["differences"] < 1e-4
        found.append(measured)
        if agrees:
            break
    result |= found[-1] | {"outcome": "agrees" if agrees else "differs", "inputs": len(found), "all": found}


def light(name, path):
    """A light model has weights that are equal numbers made by ConstantOfShape: they become random ones."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    stored = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    model = onnx.load(stored)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    generator, kept = np.random.default_rng(0), []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in constants:
            kept.append(node)
            continue
        shape = constants[node.input[0]]
        if np.prod(shape) * 4 > LARGEST:
            return None
        fan = max(1, int(np.prod(shape[1:])))
        drawn = generator.standard_normal(shape) * (2 / fan) ** 0.5 if len(shape) > 1 else 1 + 0.1 * generator.random(shape)
        model.graph.initializer.append(numpy_helper.from_array(drawn.astype(np.float32), node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnx.save(model, path)
    read = {name for node in kept for name in node.input}
    given = next(value for value in model.graph.input if value.name not in constants and value.name in read)
    return tuple(dim.dim_value or 1 for dim in given.type.tensor_type.shape.dim)


class SklearnReference:
    def __init__(self, model, features):
        self.model, self.shape = model, (1, features)

    def scores(self, x):
        return self.model.predict_proba(x)[0]


def sklearn(name, path):
    import numpy as np
    import skl2onnx
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline

    digits = load_digits()
    pixels = (digits.data / 16).astype(np.float32)
    model = {
        "MLPClassifier": lambda: MLPClassifier((16,), max_iter=20, random_state=0),
        "MLPClassifier zipmap": lambda: MLPClassifier((16,), max_iter=20, random_state=0),
        "LogisticRegression": lambda: LogisticRegression(max_iter=50),
        "RandomForestClassifier": lambda: RandomForestClassifier(10, random_state=0),
        "PCA and MLPClassifier": lambda: make_pipeline(PCA(16), MLPClassifier((16,), max_iter=20, random_state=0)),
    }[name]().fit(pixels, digits.target)
    options = {} if name.endswith("zipmap") else {id(model): {"zipmap": False}}
    converted = skl2onnx.to_onnx(model, pixels[:1], options=options, target_opset=18)
    path.write_bytes(converted.SerializeToString())
    return SklearnReference(model, pixels.shape[1])


def keras(name, path):
    import tensorflow
    import tf2onnx

    side = 224 if name == "NASNetMobile" else 96
    tensorflow.keras.utils.set_random_seed(0)
    model = getattr(tensorflow.keras.applications, name)(weights=None, classes=CLASSES, input_shape=(side, side, 3))
    signature = (tensorflow.TensorSpec((None, side, side, 3), tensorflow.float32, name="input"),)
    tf2onnx.convert.from_keras(model, signature, opset=17, output_path=str(path))
    return FileReference(path, (1, side, side, 3))


def run_row(row, binary):
    collection, name, exporter = row
    warnings.filterwarnings("ignore")
    result = {"row": row}
    with tempfile.TemporaryDirectory(dir=RESULTS) as folder:
        path, head = pathlib.Path(folder) / "model.onnx", "logits"
        try:
            if collection == "onnx":
                shape = light(name, path)
                reference, head = shape and FileReference(path, shape), "probabilities"
            elif collection == "sklearn":
                reference, head = sklearn(name, path), "probabilities"
            elif collection == "keras":
                reference, head = keras(name, path), "probabilities"
            else:
                model, side = torch_network(collection, name)
                reference = model and TorchReference(model, side)
                if model:
                    result["note"] = export(model, side, exporter, path)
                    result["side"] = side
            if reference is None:
                result["outcome"] = "too large"
                return result
            import onnxruntime

            onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as fault:
            return result | {"outcome": "no export", "said": f"{type(fault).__name__}: {fault}"[:300]}
        compare(reference, binary, path, result, head)
    return result


# --- All rows ---


def run(arguments):
    import torch

    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * arguments.minutes
    for row in rows():
        stored = place(row)
        text = " ".join(row)
        if arguments.only not in text:
            continue
        if stored.exists() and json.loads(stored.read_text())["outcome"] not in arguments.again:
            continue
        if time.monotonic() > ends:
            break
        began = time.monotonic()
        result = row_in_process(row, arguments.binary, arguments.memory)
        result |= {"seconds": round(time.monotonic() - began, 1), "versions": versions(row[0])}
        stored.write_text(json.dumps(result, indent=1))
        print(f"{text}: {result['outcome']} {result.get('distance', '')} {result.get('said', '')[:150]} {result['seconds']} s", flush=True)


def row_in_process(row, binary, memory):
    """Forked, so that PyTorch is imported once."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def work():
        os.setsid()
        os.nice(19)
        resource.setrlimit(resource.RLIMIT_DATA, (memory << 30, memory << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        try:
            result = run_row(row, binary)
        except Exception as fault:
            result = {"row": row, "outcome": "no export", "said": f"{type(fault).__name__}: {fault}"[:300]}
        if re.search(r"MemoryError|out of memory|not enough memory|allocat|bad_alloc", result.get("said", "")):
            result["outcome"] = "too slow"
        theirs.send(result)

    process = context.Process(target=work)
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(10 * SECONDS) else {"row": row, "outcome": "too slow"}
    except EOFError:
        return {"row": row, "outcome": "too slow"}
    finally:
        if process.is_alive():
            process.join(5)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.join()


def versions(collection):
    return {package: importlib.metadata.version(package) for package in ["onnx", "onnxruntime", *PACKAGES[collection]]}


# --- The page ---


def number(value):
    return "" if value is None else f"{value:.0e}".replace("e-0", "e-")


def table():
    results = {}
    for row in rows():
        stored = place(row)
        results[row] = json.loads(stored.read_text()) if stored.exists() else {"outcome": "not run"}
    used = {}
    for result in results.values():
        for package, version in result.get("versions", {}).items():
            used.setdefault(package, set()).add(version)
    made_with = ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in used.items())
    outcomes = [outcome for outcome in OUTCOMES if any(result["outcome"] == outcome for result in results.values())]
    print("# Networks that others wrote\n")
    print(
        "What `explaind derive` makes of networks as exporters write them: random weights, small images, the gradient of the largest logit. Made by\n"
        f"`make zoo` on {datetime.date.today():%d %B %Y} with {made_with}.\n"
    )
    print("| Collection | Exporter | Rows | " + " | ".join(outcomes) + " |")
    print("|---|---|---|" + "---|" * len(outcomes))
    for collection, title in COLLECTIONS.items():
        for exporter in dict.fromkeys(row[2] for row in results if row[0] == collection):
            group = [result["outcome"] for row, result in results.items() if (row[0], row[2]) == (collection, exporter)]
            counts = " | ".join(str(group.count(outcome) or "") for outcome in outcomes)
            print(f"| {title} | {exporter} | {len(group)} | {counts} |")
    print()
    for outcome in outcomes:
        print(f"- *{outcome}*: {OUTCOMES[outcome].replace('**', '')}")
    print(
        "\nDistances are |found - expected| / |expected|, of the gradient in float32 from PyTorch's in float64; beside it that of PyTorch's own float32,\n"
        "or of float64 with rounding noise in each module, if larger. *Central differences* stand in the place of the reference where there is no\n"
        "autograd. *Predicts*: `explaind predict` names the class that the reference does, as do\n"
        "methods that need forward passes alone."
    )
    stored = {name: len(list((ROOT / "tests" / "parity" / name).glob("*.safetensors"))) for name in ("families", "torchvision")}
    print(
        f"\nThe tests compare small networks of {stored['families']} families, each as both of PyTorch's exporters write it\n"
        f"(`tests/parity/families.py`), and {stored['torchvision']} of torchvision's networks (`tests/parity/generate.py`) with stored gradients in float64,\n"
        "and models with what exporters write besides, such as uint8 inputs and fused nodes (`tests/api/exporters.py`)."
    )
    for collection, title in COLLECTIONS.items():
        print(f"\n## {title[0].upper()}{title[1:]}\n")
        group = {row: result for row, result in sorted(results.items()) if row[0] == collection}
        ran = [line(row, result) for row, result in group.items() if result["outcome"] != "not run"]
        if ran:
            print("| Network | Exporter | Outcome | Distance | PyTorch float32 | Notes |")
            print("|---|---|---|---|---|---|")
            print("\n".join(ran))
        for exporter in dict.fromkeys(row[2] for row in group):
            rest = [row[1] for row, result in group.items() if row[2] == exporter and result["outcome"] == "not run"]
            if rest:
                print(f"\nNot run ({exporter}): {', '.join(rest)}.")


def line(row, result):
    notes = [result.get("note", "")]
    found = result.get("distance", result.get("differences"))
    if result.get("inputs", 1) > 1 and result["outcome"] == "agrees":
        notes.append(f"agrees on the {result['inputs']}th random image; on the others float32 takes another side of a kink")
    if "distance" not in result and "differences" in result:
        notes.append("central differences")
    elif result["outcome"] == "differs":
        away = [number(result[of]) for of in ("differences", "autograd_differences")]
        notes.append(f"from central differences the derived gradient is {away[0]} away, autograd {away[1]}")
    if "predicts" in result:
        notes.append("predicts" if result["predicts"] else "does not predict")
    if "said" in result:
        notes.append(result["said"].removeprefix("error: ").splitlines()[0].split(". ")[0].replace("|", "\\|")[:220])
    said = "; ".join(note for note in notes if note)
    outcome = "**differs**" if result["outcome"] == "differs" else result["outcome"]
    return f"| {row[1]} | {row[2]} | {outcome} | {number(found)} | {number(result.get('yardstick'))} | {said} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("--binary", default=str(ROOT / "target" / "release" / "explaind"))
    runs.add_argument("--minutes", type=float, default=float("inf"), help="start no row after so many")
    runs.add_argument("--memory", type=int, default=MEMORY, help="GB that a row may use")
    runs.add_argument("--only", default="", help="rows whose collection, name and exporter contain this")
    runs.add_argument("--again", action="append", default=[], help="outcomes whose rows run again")
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments)
    else:
        table()


if __name__ == "__main__":
    main()
