"""Writes the references of tests/parity/forward.safetensors: maps of RISE's published code and of Captum's Occlusion.

    pip install captum==0.9.0 scikit-image==0.26.0 torch safetensors tqdm && PYTHONPATH=RISE python tests/parity/forward.py

RISE is a copy of the authors' repository, eclique/RISE, whose explanations.py computes the maps; its masks are those that explaind draws (chacha.py),
enlarged as its generate_masks does. All float32: an `input` [3, 40, 48] and `weights` [2, 3, 40, 48] of a net with two logits, each tanh of the
weighted sum; its probabilities are their softmax. `rise` [1, 40, 48]: the probability of class 1 with SAMPLES masks of a grid of GRID cells. `occlusion.WINDOW.STRIDE.CHANNELS.BASELINE`: the logit of class 1, [1, 40, 48] or [3, 40, 48].
"""

import pathlib

import numpy as np
import torch
from captum.attr import Occlusion
from explanations import RISE
from safetensors.numpy import save_file
from skimage.transform import resize

from chacha import Generator

SIDES = HEIGHT, WIDTH = 40, 48
SAMPLES, GRID, P_KEEP, SEED = 96, 6, 0.4, 3
OCCLUSIONS = [("9x9", "5x5", "all", 0.0), ("7x11", "7x4", "all", 0.25), ("12x8", "6x8", "each", -0.5), ("40x48", "1x1", "all", 0.0)]


class Net(torch.nn.Module):
    def __init__(self, weights, probabilities):
        super().__init__()
        self.weights, self.probabilities = torch.from_numpy(weights).double(), probabilities

    def forward(self, inputs):
        logits = torch.tanh(torch.einsum("nchw,kchw->nk", inputs.double(), self.weights))
        return torch.softmax(logits, 1) if self.probabilities else logits


def drawn_mask(sample):
    cell = [-(-side // GRID) for side in SIDES]
    uniforms = Generator(SEED, sample).uniforms(GRID * GRID + 2)
    grid = (uniforms[: GRID * GRID].reshape(GRID, GRID) < P_KEEP).astype(np.float32)
    y, x = (int(share * size) for share, size in zip(uniforms[GRID * GRID :], cell))
    enlarged = resize(grid, [(GRID + 1) * size for size in cell], order=1, mode="reflect", anti_aliasing=False)
    return enlarged[y : y + HEIGHT, x : x + WIDTH]


def main():
    draw = np.random.default_rng(1)
    c, y, x = np.mgrid[:3, :HEIGHT, :WIDTH]
    picture = (np.sin(0.2 * x + c) * np.cos(0.15 * y) + draw.normal(0, 0.3, c.shape)).astype(np.float32)
    weights = np.stack([np.sin(0.1 * (7 * c + 3 * y + 5 * x)), np.cos(0.13 * (2 * c + 5 * y - x))]).astype(np.float32) / np.float32(60)
    inputs = torch.from_numpy(picture[None])
    masks = np.stack([drawn_mask(sample) for sample in range(SAMPLES)])
    rise = RISE(Net(weights, True), SIDES, SAMPLES)
    # Of the type that the net answers in: the code multiplies both.
    rise.N, rise.p1, rise.masks = SAMPLES, P_KEEP, torch.from_numpy(masks[:, None]).double()
    found = {"input": picture, "weights": weights, "rise": rise(inputs)[1:]}
    for window, stride, channels, baseline in OCCLUSIONS:
        (rows, columns), strides = ([int(side) for side in size.split("x")] for size in (window, stride))
        depth = 3 if channels == "all" else 1
        maps = Occlusion(Net(weights, False)).attribute(
            inputs.double(), sliding_window_shapes=(depth, rows, columns), strides=(depth, *strides), target=1, baselines=baseline
        )[0]
        found[f"occlusion.{window}.{stride}.{channels}.{baseline}"] = maps[:1] if channels == "all" else maps
    found = {name: np.ascontiguousarray(values, np.float32) for name, values in found.items()}
    save_file(found, pathlib.Path(__file__).with_suffix(".safetensors"), {"of": "forward.py"})


with torch.no_grad():
    main()
