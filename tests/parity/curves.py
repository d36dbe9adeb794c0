"""Writes the references of tests/parity/curves.safetensors: the evaluation of RISE, and the public performance information curves.

    pip install numpy scipy pillow safetensors saliency && python tests/parity/curves.py PHOTO

`rise.*`: float32, a picture `input` [3, 64, 64], the weights of a linear net whose score is the logistic function of its output, a map [64, 64],
and the curves `deletion` and `insertion` [65] of the published evaluation (github.com/eclique/RISE, evaluation.py), one row of pixels a step.
`pic.*`: of the 224 x 224 pixels in the middle of PHOTO (uint8 `pixels`), with the random mask of every 100th pixel and a predictor 1 - 0.9 e / e0, e the
mean absolute error to the photo, of the blurred start e0: for the maps `bump` and `inverse` of METRICS by the package saliency the bytes of
the 15 pictures (int64, blurred start first, then by threshold, then the photo), the curve's 1001 values (float64) and the area.
"""

import pathlib
import sys

import numpy as np
from PIL import Image
from safetensors.numpy import save_file
from saliency.metrics import pic
from scipy.ndimage import convolve, gaussian_filter

THRESHOLDS = [0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.13, 0.21, 0.34, 0.5, 0.75]


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


def information(pixels):
    side = len(pixels)
    mask = np.zeros(side * side, bool)
    mask[::100] = True
    mask = mask.reshape(side, side)

    def error(picture):
        return np.abs(picture.astype(np.float64) - pixels).mean()

    start = error(pic.create_blurred_image(pixels, mask))
    sizes = []
    estimate = pic.estimate_image_entropy
    pic.estimate_image_entropy = lambda picture: sizes.append(estimate(picture)) or sizes[-1]
    y, x = np.mgrid[:side, :side]
    bump = np.exp(-(((y - 100) / 40) ** 2) - ((x - 110) / 50) ** 2)
    found = {"pic.pixels": pixels}
    for name, scores in [("bump", bump), ("inverse", -bump), ("constant", np.ones_like(bump))]:
        sizes.clear()
        result = pic.compute_pic_metric(
            pixels, scores, mask, lambda batch: [1 - 0.9 * error(one) / start for one in batch], THRESHOLDS
        )
        whole, blurred, *shown = sizes
        found[f"pic.{name}.bytes"] = np.array([blurred, *shown, whole], np.int64)
        found[f"pic.{name}.curve"] = np.asarray(result.curve_y)
        found[f"pic.{name}.area"] = np.array([result.auc])
        print(name, [blurred, *shown, whole], result.auc)
    return found


def main(path):
    photo = Image.open(path).convert("RGB")
    left, top = (photo.width - 224) // 2, (photo.height - 224) // 2
    pixels = np.asarray(photo.crop((left, top, left + 224, top + 224)))
    found = rise(pixels[80:144, 80:144]) | information(pixels)
    save_file({name: np.ascontiguousarray(values) for name, values in found.items()}, pathlib.Path(__file__).with_suffix(".safetensors"), {"of": "curves.py"})


main(sys.argv[1])
