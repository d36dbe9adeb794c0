"""Writes the references of tests/parity/metrics.safetensors: values of metrics by Captum and by Quantus.

    pip install captum==0.9.0 quantus==0.6.0 torch==2.15.0 safetensors==0.8.0 && python tests/parity/metrics.py

`input`, `map` and `weights` [3, 8, 9], `pixels` [8, 9] and `region` [8, 9] of zeros and ones, all float32; everything else is metadata, in JSON.

- `infidelity` and `infidelity.optimal` (Captum's `normalize`): of the map, where the output is 5 tanh(Σ weights x / 10), rounded to float32.
- `max_sensitivity`: where the map of an input x is weights sin(3 x), rounded to float32.
- The metrics of localisation and complexity: of the pixels.

Noise and samples are those that explaind draws for an image of the seed SEED (chacha.py), rounded to float32 with the input.
"""

import json
import pathlib

import numpy as np
import quantus
import torch
from captum.metrics import infidelity, sensitivity_max
from safetensors.numpy import save_file

from chacha import Generator

SHAPE = (3, 8, 9)
SEED = 11
SAMPLES = 20
NOISE, NOISE_STREAM = 0.2, 1 << 32
RADIUS, RADIUS_STREAM = 0.1, 2 << 32
TOP = 10


def wave(step, shape):
    return np.sin(step * np.arange(np.prod(shape))).reshape(shape).astype(np.float32)


def of_captum(picture, scores, weights):
    x, scores, weights = (torch.from_numpy(values).double() for values in (picture, scores, weights))
    reach = (x.max() - x.min()).item()
    size = x.numel()

    def drawn(scale, numbers):
        moved = [(x + scale * torch.from_numpy(of.reshape(SHAPE))).float().double() for of in numbers]
        return torch.stack(moved)

    noisy = drawn(-NOISE * reach, [Generator(SEED, NOISE_STREAM + k).normals(size) for k in range(SAMPLES)])
    near = drawn(RADIUS * reach, [2 * Generator(SEED, RADIUS_STREAM + k).uniforms(size) - 1 for k in range(SAMPLES)])

    def output(inputs):
        return (5 * torch.tanh((weights * inputs).flatten(1).sum(1) / 10)).float().double()

    def explain(inputs):
        return ((weights * torch.sin(3 * inputs[0])).float().double(),)

    def missed(normalize):
        found = infidelity(output, lambda _: (x - noisy, noisy), x[None], scores[None], n_perturb_samples=SAMPLES, normalize=normalize)
        return found.item()

    return {
        "infidelity": missed(False),
        "infidelity.optimal": missed(True),
        "max_sensitivity": sensitivity_max(explain, x[None], lambda *_: (near,), n_perturb_samples=SAMPLES).item(),
    }


def of_quantus(pixels, region):
    def value(metric, scores=pixels, **settings):
        quiet = {"disable_warnings": True, "display_progressbar": False, "normalise": False}
        measured = metric(**quiet, **settings)
        images = {"x_batch": np.zeros((1, 1, *pixels.shape)), "y_batch": np.zeros(1, int)}
        found = measured(model=None, a_batch=scores[None, None].astype(np.float64), s_batch=region[None, None] > 0, **images)
        return float(np.asarray(found).reshape(-1)[0])

    return {
        "pointing_game": value(quantus.PointingGame, abs=False),
        "energy_pointing": value(quantus.RelevanceMassAccuracy, scores=np.maximum(pixels, 0)),
        "relevance_mass": value(quantus.RelevanceMassAccuracy, abs=True),
        "relevance_rank": value(quantus.RelevanceRankAccuracy, abs=False),
        "top_k_intersection": value(quantus.TopKIntersection, k=TOP, abs=False),
        "sparseness": value(quantus.Sparseness),
        "entropy": value(quantus.Complexity),
    }


def main():
    picture, scores, weights = wave(0.7, SHAPE), wave(1.9, SHAPE), wave(1.1, SHAPE)
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    distance = (y - 3) ** 2 + (x - 5) ** 2
    pixels = (wave(2.3, SHAPE[1:]) + np.exp(-distance / 8)).astype(np.float32)
    region = (distance < 9).astype(np.float32)
    found = of_captum(picture, scores, weights) | of_quantus(pixels, region)
    settings = {"seed": SEED, "samples": SAMPLES, "noise": NOISE, "radius": RADIUS, "k": TOP}
    tensors = {"input": picture, "map": scores, "weights": weights, "pixels": pixels, "region": region}
    metadata = {name: json.dumps(value) for name, value in (settings | found).items()}
    save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"), {"of": "metrics.py"} | metadata)
    print(json.dumps(found, indent=1))


main()
