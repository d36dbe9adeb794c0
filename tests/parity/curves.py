"""Writes the references of tests/parity/curves.safetensors: the published evaluation of RISE.

    pip install numpy scipy pillow safetensors && python tests/parity/curves.py chelsea.png

`rise.*`, all float32: 64 x 64 pixels from the middle of the photo as `input` [3, 64, 64]; `weights` of a linear net whose score is the logistic function of
its output; `map` [64, 64]; the curves `deletion` and `insertion` [65] as github.com/eclique/RISE (evaluation.py) draws them, one row of pixels a
step; and their `areas`.
"""

import pathlib
import sys

import numpy as np
from PIL import Image
from safetensors.numpy import save_file
from scipy.ndimage import convolve, gaussian_filter

def rise(pixels):
    picture = ((pixels / 255 - 0.5) / 0.25).transpose(2, 0, 1).astype(np.float32)
    c, y, x = np.mgrid[:3, :64, :64]
    weights = (np.sin(0.1 * (7 * c + 3 * y + 5 * x)) / 50).astype(np.float32)
    scores = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)

    def net(picture):
        return 1 / (1 + np.exp(-float((picture.astype(np.float64) * weights).sum())))

    kernel = np.zeros((11, 11))
    kernel[5, 5] = 1
    kernel = gaussian_filter(kernel, 5).astype(np.float32)
    blurred = np.stack([convolve(plane, kernel, mode="constant") for plane in picture])

    def curve(start, finish):
        order = np.flip(np.argsort(scores.reshape(-1)))
        start, finish, found = start.reshape(3, -1).copy(), finish.reshape(3, -1), []
        for step in range(65):
            found.append(net(start.reshape(3, 64, 64)))
            part = order[64 * step : 64 * (step + 1)]
            start[:, part] = finish[:, part]
        return np.array(found)

    def auc(curve):
        return (curve.sum() - curve[0] / 2 - curve[-1] / 2) / (len(curve) - 1)

    deletion, insertion = curve(picture, np.zeros_like(picture)), curve(blurred, picture)
    return {
        "rise.input": picture,
        "rise.weights": weights,
        "rise.map": scores,
        "rise.deletion": deletion,
        "rise.insertion": insertion,
        "rise.areas": np.array([auc(deletion), auc(insertion)]),
    }


def main(path):
    photo = Image.open(path).convert("RGB")
    left, top = (photo.width - 224) // 2, (photo.height - 224) // 2
    pixels = np.asarray(photo.crop((left + 80, top + 80, left + 144, top + 144)))
    found = {name: np.ascontiguousarray(values, np.float32) for name, values in rise(pixels).items()}
    save_file(found, pathlib.Path(__file__).with_suffix(".safetensors"), {"of": "curves.py"})


main(sys.argv[1])
