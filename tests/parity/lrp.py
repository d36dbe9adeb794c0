"""Writes tests/parity/lrp.safetensors: what zennit says about networks of tests/parity/torchvision/ by layer-wise relevance propagation.

    benches/peers/install.sh && benches/peers/.venv/bin/pip install zennit==0.5.1
    benches/peers/.venv/bin/python tests/parity/lrp.py

For each of NETS, with the weights of its NET.safetensors, and each composite: NET/COMPOSITE, the relevance of every fifth element of the input
for the largest logit, which starts with that logit; computed in float64. Metadata of NET: the input's seed and class, and for each composite
`float32`, the relative L2 distance of zennit's float32 answer, and `rounding`, the largest of several float64 answers whose input has noise of the
size of rounding. Inputs are in [-2, 2), the bounds of the rule z-box.
"""

import copy
import json
import pathlib
import warnings

import numpy as np
import torch
from generate import FOLDER, INPUT_SCALE, distance, uniform
from nets import NETS as BUILT
from safetensors import safe_open
from safetensors.numpy import save_file
from zennit.attribution import Gradient
from zennit.canonizers import MergeBatchNorm
from zennit.composites import COMPOSITES, LayerMapComposite, layer_map_base
from zennit.rules import Epsilon
from zennit.torchvision import ResNetCanonizer
from zennit.types import Linear

NETS = {"resnet18_bn": [ResNetCanonizer], "vgg16": []}
NAMES = ["epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat"]
STRIDE = 5
ROUNDING = 1e-7


merge = MergeBatchNorm.merge_batch_norm


def merge_all(modules, batch_norm):
    """As zennit, which leaves an epsilon behind: it divides what its layer gives by the root of 1 + 1e-5."""
    merge(modules, batch_norm)
    batch_norm.eps = 0.0


MergeBatchNorm.merge_batch_norm = staticmethod(merge_all)


def build(name):
    """The network with its stored weights."""
    model = BUILT[name].build().eval()
    with safe_open(FOLDER / f"{name}.safetensors", "numpy") as file:
        weights = json.loads(file.metadata()["weights"])
    tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    for tensor, (seed, shift, scale, count) in zip(tensors, weights, strict=True):
        tensor.copy_(torch.from_numpy(np.float32(shift) + np.float32(scale) * uniform(seed, count)).reshape(tensor.shape))
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model


def composite(name, canonizers):
    canonizers = [canonizer() for canonizer in canonizers]
    if name == "epsilon":
        return LayerMapComposite(layer_map_base() + [(Linear, Epsilon())], canonizers=canonizers)
    bounds = {"low": torch.tensor(-INPUT_SCALE), "high": torch.tensor(INPUT_SCALE)} if name == "epsilon_gamma_box" else {}
    return COMPOSITES[name](canonizers=canonizers, **bounds)


def relevance(model, rules, x, target):
    with Gradient(copy.deepcopy(model), rules) as attributor:
        _, found = attributor(x, lambda logits: torch.nn.functional.one_hot(torch.tensor([target]), logits.shape[1]).to(logits) * logits)
    return found[0].numpy()


def look(name, seed):
    side = BUILT[name].side
    x = torch.from_numpy(INPUT_SCALE * uniform(seed, 3 * side**2)).reshape(1, 3, side, side)
    model = build(name)
    exact = build(name).double()
    target = int(exact(x.double()).argmax())
    maps, about = {}, {"seed": seed, "target": target}
    for rules in NAMES:
        of = lambda model, x: relevance(model, composite(rules, NETS[name]), x, target)
        reference = of(exact, x.double())
        noise = [x.double() * (1 + ROUNDING * torch.randn(x.shape, dtype=torch.double)) for _ in range(3)]
        about[rules] = {
            "float32": float(f"{distance(of(model, x), reference):.3g}"),
            "rounding": float(f"{max(distance(of(exact, noisy), reference) for noisy in noise):.3g}"),
        }
        maps[f"{name}/{rules}"] = np.ascontiguousarray(reference.ravel()[::STRIDE], np.float32)
    return maps, about


def write():
    tensors, metadata = {}, {}
    for name in NETS:
        worst = lambda found: max(max(found[1][rules].values()) for rules in NAMES)
        found = min((look(name, seed) for seed in range(7000, 7002)), key=worst)
        tensors.update(found[0])
        metadata[name] = json.dumps(found[1])
        print(name, found[1], flush=True)
    save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"), metadata)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    write()
