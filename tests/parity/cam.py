"""Writes the references of tests/parity/cam/: what pytorch-grad-cam makes of layers, and plain hooks in PyTorch of attention.

    benches/peers/install.sh && benches/peers/.venv/bin/pip install grad-cam && benches/peers/.venv/bin/python tests/parity/cam.py [NET ...]

- NET.safetensors: maps in the input's height and width, before they are normalised, of the nets of families.py and of those below, in
  float64, each with its distance in float32 as a yardstick.
- NET.EXPORTER+OPSET.onnx: the exports of the nets below.

The package's own code makes the maps of its methods; only its last step, which normalises them by OpenCV's resize, is replaced by
`interpolate` with `align_corners=False`.
"""

import copy
import json
import pathlib
import sys
import warnings

import numpy as np
import onnx
import timm
import torch
import families as nets
from generate import INPUT_SCALE, distance, export, strip, uniform
from pytorch_grad_cam import EigenCAM, GradCAM, HiResCAM, LayerCAM, ScoreCAM, base_cam
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_with_sign_correction
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional as F

FOLDER = pathlib.Path(__file__).parent / "cam"
CLASSES = nets.CLASSES


def resized(cam, size=None):
    if size is None:
        return cam
    return F.interpolate(torch.from_numpy(np.asarray(cam))[:, None], size[::-1], mode="bilinear", align_corners=False)[:, 0].numpy()


base_cam.scale_cam_image = resized


class Eigen(EigenCAM):
    def get_cam_image(self, input_tensor, target_layer, target_category, activations, grads, eigen_smooth):
        return get_2d_projection_with_sign_correction(activations)


CAMS = {"grad_cam": GradCAM, "layer_cam": LayerCAM, "hires_cam": HiResCAM, "eigen_cam": Eigen, "score_cam": ScoreCAM}


def small_vit(**options):
    return nets.of_timm("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, num_heads=2, depth=3, **options)


def cnn():
    def block(inside, outside, stride):
        return [nn.Conv2d(inside, outside, 3, stride, 1), nn.ReLU()]

    return nn.Sequential(*block(3, 8, 2), *block(8, 16, 2), *block(16, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))


nets.NETS |= {
    "cnn": (cnn, 32),
    # Register tokens beside the class token; and a head that reads the mean of the patches.
    "registers": (small_vit(reg_tokens=3), 32),
    "pooled": (small_vit(global_pool="avg"), 32),
}
OWN = ["cnn", "registers", "pooled"]


def tokens(others):
    def grid(values):
        side = round((values.shape[1] - others) ** 0.5)
        return values[:, others:].reshape(values.shape[0], side, side, -1).permute(0, 3, 1, 2)

    return grid


# The default layer of each, how its values become channels by rows by columns, and how many tokens stand before the grid; a list of tokens
# that the head reads where there is attention over all of them.
LAYERS = {
    "cnn": (lambda m: m[5], None, 0, None),
    "convnext": (lambda m: m.features[-1], None, 0, None),
    "swin": (lambda m: m.norm, lambda values: values.permute(0, 3, 1, 2), 0, None),
    "vit": (lambda m: m.encoder.layers[-1].ln_1, tokens(1), 1, [0]),
    "deit": (lambda m: m.blocks[-1].norm1, tokens(2), 2, [0, 1]),
    "registers": (lambda m: m.blocks[-1].norm1, tokens(4), 4, [0]),
    "pooled": (lambda m: m.blocks[-1], tokens(1), 1, list(range(1, 17))),
}


def record(model):
    """The softmax of each attention, in order, once the model has run."""
    found = []

    def keep(weights):
        weights.retain_grad()
        found.append(weights)
        return weights

    def attend(module):
        def forward(x, *_, **__):
            batch, count, width = x.shape
            qkv = F.linear(x, module.in_proj_weight, module.in_proj_bias)
            q, k, v = qkv.reshape(batch, count, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
            weights = keep((q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1))
            return module.out_proj((weights @ v).transpose(1, 2).reshape(batch, count, width)), None

        return forward

    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.forward = attend(module)
        elif isinstance(module, timm.layers.Attention):
            module.fused_attn = False
            module.attn_drop.register_forward_hook(lambda _, inputs, __: keep(inputs[0] * 1))
    return found


def tail(model, tokens):
    """The logits of the mean of these tokens, in the place of each of those behind the last block."""
    spread = tokens.mean(1, keepdim=True).expand_as(tokens)
    return model.heads(model.encoder.ln(spread)[:, 0]) if hasattr(model, "encoder") else model.forward_head(model.norm(spread))


def attention_maps(model, x, target, others, read):
    found, behind = record(model), []
    for block in model.encoder.layers if hasattr(model, "encoder") else model.blocks:
        block.register_forward_hook(lambda _, __, tokens: behind.append(tokens))
    model(x)[0, target].backward(retain_graph=True)
    count = found[0].shape[-1]
    start = torch.zeros(count, dtype=x.dtype)
    start[read] = 1 / len(read)
    one = torch.eye(count, dtype=x.dtype)
    rollout, relevance = one, one
    for weights in found:
        rollout = (weights[0].mean(0) + one) / 2 @ rollout
        relevance = relevance + (weights.grad * weights)[0].clamp(min=0).mean(0) @ relevance
    # Last, as it changes what the weights keep for their gradients.
    gradients = [torch.autograd.grad(tail(model, tokens)[0, target], weights, retain_graph=True)[0] for tokens, weights in zip(behind, found)]
    sensitivity = sum(gradient[0].clamp(min=0).mean((0, 1)) for gradient in gradients)
    side = round((count - others) ** 0.5)
    rows = {"attention_rollout": start @ rollout, "gradient_rollout": start @ (relevance - one), "legrad": sensitivity}
    for name, row in rows.items():
        yield name, resized(row[others:].reshape(1, side, side).detach().numpy(), x.shape[2:])[0]


def maps(model, x, target, name):
    layer, transform, others, read = LAYERS[name]
    found = {}
    for method, cam in CAMS.items():
        explainer = cam(model=model, target_layers=[layer(model)], reshape_transform=transform)
        found[method] = np.float64(explainer(input_tensor=x, targets=[ClassifierOutputTarget(target)])[0])
        explainer.activations_and_grads.release()
    if read:
        found |= attention_maps(model, x, target, others, read)
    return found


def write(name):
    model, side = nets.build(name), nets.NETS[name][1]
    if name in OWN:
        seed = 1000
        x = torch.from_numpy(INPUT_SCALE * uniform(seed, 3 * side**2)).reshape(1, 3, side, side)
        target = int(copy.deepcopy(model).double()(x.double()).argmax())
        drawn = {"seed": seed, "scale": INPUT_SCALE, "shape": [3, side, side]}
        proto = export(model, x, "dynamo", 18)
        strip(proto)
        onnx.save(proto, FOLDER / f"{name}.dynamo18.onnx")
    else:
        with safe_open(nets.FOLDER / f"{name}.safetensors", "np") as file:
            drawn, target = json.loads(file.metadata()["input"]), int(file.metadata()["target"])
        x = torch.from_numpy(drawn["scale"] * uniform(drawn["seed"], 3 * side**2)).reshape(1, 3, side, side)
    exact = maps(copy.deepcopy(model).double(), x.double(), target, name)
    rounded = maps(model, x, target, name)
    metadata = {"input": json.dumps(drawn), "target": str(target), "made_by": f"torch {torch.__version__}, timm {timm.__version__}, grad-cam 1.5.7"}
    for method, map in exact.items():
        gap = distance(rounded[method], map)
        metadata |= {f"{method}.float32": f"{gap:.3g}", f"{method}.rounding": "0"}
        print(f"{name} {method}: {np.abs(map).max():.2e}, float32 {gap:.1e}", flush=True)
    save_file({key: np.ascontiguousarray(value, np.float32) for key, value in exact.items()}, FOLDER / f"{name}.safetensors", metadata)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or LAYERS:
        write(name)
