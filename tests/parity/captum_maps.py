"""Writes the references of tests/parity/captum/: attributions of Captum for two of the nets of tests/parity/torchvision/.

    benches/peers/install.sh && benches/peers/.venv/bin/python tests/parity/captum_maps.py [NET ...]

Nets, weights and inputs are those of generate.py, read from its metadata. NET.safetensors holds every STRIDE-th element of each map, computed in
float64 and stored as float32; its metadata the yardsticks of generate.py for each (`MAP.float32`, `MAP.rounding`). Methods that draw numbers are
given those that explaind draws (chacha.py). They take SAMPLES samples, and Expected Gradients the baselines of `baselines`.
"""

import copy
import json
import pathlib
import sys
import warnings

import numpy as np
import torch
from captum.attr import Deconvolution, GuidedBackprop, GuidedGradCam, LayerAttribution, LayerGradCam, Saliency
from safetensors import safe_open
from safetensors.numpy import save_file
from torch.fx.experimental.optimization import fuse

from chacha import Generator
from generate import ROUNDING, distance, uniform
from nets import NETS

FOLDER = pathlib.Path(__file__).parent
STRIDE = 5
SAMPLES = 4
NOISE_LEVEL = 0.15
SEED_VALUE = 3
BASELINE_SEEDS = [2001, 2002, 2003]
POOLS = {"squeezenet1_1": "classifier.3", "resnet18": "avgpool"}


def stored_net(name):
    """The net with the weights of its metadata, its input and its target."""
    with safe_open(FOLDER / "torchvision" / f"{name}.safetensors", "numpy") as file:
        metadata = file.metadata()
    model = NETS[name].build().eval()
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    model = fuse(model)
    floats = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    for tensor, (seed, shift, scale, count) in zip(floats, json.loads(metadata["weights"]), strict=True):
        assert tensor.numel() == count
        tensor.copy_(torch.from_numpy(np.float32(shift) + np.float32(scale) * uniform(seed, count)).reshape(tensor.shape))
    drawn = json.loads(metadata["input"])
    x = np.float32(drawn["scale"]) * uniform(drawn["seed"], np.prod(drawn["shape"]))
    return model, torch.from_numpy(x).reshape(1, *drawn["shape"]), int(metadata["target"])


def gradients(model, points, target):
    return torch.cat([Saliency(model).attribute(point[None].clone(), target=target, abs=False) for point in points])


def noisy(x):
    """Rounded to float32, as the points are that the net is given."""
    sigma = NOISE_LEVEL * (x.max() - x.min()).double()
    draws = [Generator(SEED_VALUE, sample).normals(x.numel()).reshape(x.shape[1:]) for sample in range(SAMPLES)]
    return torch.stack([(x[0].double() + sigma * torch.from_numpy(draw)).float() for draw in draws]).to(x.dtype)


def baselines(x):
    return [torch.from_numpy(uniform(seed, x.numel()).reshape(x.shape[1:])).to(x.dtype) for seed in BASELINE_SEEDS]


def expected_gradients(model, x, target):
    starts, points = [], []
    for sample in range(SAMPLES):
        place, alpha = Generator(SEED_VALUE, sample).uniforms(2)
        start = baselines(x)[int(place * len(BASELINE_SEEDS))]
        starts.append(start)
        points.append((start.double() + alpha * (x[0].double() - start.double())).float().to(x.dtype))
    return ((x - torch.stack(starts)) * gradients(model, points, target)).mean(0)


def maps(model, x, target, pool):
    grad_cam = LayerGradCam(model, pool).attribute(x, target=target, attribute_to_layer_input=True, relu_attributions=True)
    smooth = gradients(model, noisy(x), target)
    guided = GuidedGradCam(model, pool).attribute(x.clone(), target=target, interpolate_mode="bilinear", attribute_to_layer_input=True)
    return {
        "guided_backprop": GuidedBackprop(model).attribute(x.clone(), target=target)[0],
        "deconvnet": Deconvolution(model).attribute(x.clone(), target=target)[0],
        "grad_cam": LayerAttribution.interpolate(grad_cam, x.shape[2:], "bilinear")[0],
        "guided_grad_cam": guided[0],
        "smooth_grad": smooth.mean(0),
        "smooth_grad_sq": smooth.square().mean(0),
        "var_grad": smooth.var(0, unbiased=False),
        "expected_gradients": expected_gradients(model, x, target),
    }


def disturbed(model, x, target, pool):
    """The maps with additive noise of relative size ROUNDING on every leaf module's output. Not for the maps that Captum makes by hooks of its
    own on rectifiers, which would meet these; generate.py chose the inputs away from kinks."""
    generator = torch.Generator().manual_seed(1)

    def disturb(_, __, output):
        noise = torch.randn(output.shape, generator=generator, dtype=output.dtype)
        return output + ROUNDING * output.detach().square().mean().sqrt() * noise

    handles = [m.register_forward_hook(disturb) for m in model.modules() if not list(m.children())]
    found = [maps(model, x, target, pool) for _ in range(2)]
    for handle in handles:
        handle.remove()
    return found


def write(name):
    model, x, target = stored_net(name)
    exact = copy.deepcopy(model).double()
    reference = maps(exact, x.double(), target, exact.get_submodule(POOLS[name]))
    single = maps(model, x, target, model.get_submodule(POOLS[name]))
    rounded = disturbed(exact, x.double(), target, exact.get_submodule(POOLS[name]))
    sampled = lambda tensor: tensor.detach().numpy().ravel()[::STRIDE]
    tensors = {key: np.ascontiguousarray(sampled(tensor), np.float32) for key, tensor in reference.items()}
    metadata = {
        "stride": str(STRIDE),
        "samples": str(SAMPLES),
        "noise_level": str(NOISE_LEVEL),
        "seed_value": str(SEED_VALUE),
        "baselines": json.dumps(BASELINE_SEEDS),
        "made_by": f"torch {torch.__version__}",
    }
    for key, tensor in reference.items():
        float32 = distance(sampled(single[key]), sampled(tensor))
        hooked = key in ("guided_backprop", "deconvnet")
        rounding = 0.0 if hooked else max(distance(sampled(other[key]), sampled(tensor)) for other in rounded)
        metadata |= {f"{key}.float32": f"{float32:.3g}", f"{key}.rounding": f"{rounding:.3g}"}
        print(name, key, f"float32 {float32:.1e} rounding {rounding:.1e}", flush=True)
    (FOLDER / "captum").mkdir(exist_ok=True)
    save_file(tensors, FOLDER / "captum" / f"{name}.safetensors", metadata)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for name in sys.argv[1:] or POOLS:
        write(name)
