"""Writes the references of tests/parity/xrai.safetensors: scikit-image's segmentation and the public XRAI.

    pip install numpy pillow safetensors scikit-image saliency && python tests/parity/xrai.py

Per picture of 96 x 96 (`chelsea`, `coffee`, `astronaut`: photos that come with scikit-image; `drawing`: flat colours, where many edges are equal):
`NAME.pixels` uint8 [96, 96, 3] and `NAME.labels` uint8 [6, 96, 96], one map per scale, segmented as XRAI does: colours stretched to -1..1, sigma 0.8,
min_size 150. For chelsea also
- `labels_sig` uint16: the same with colours in 0..1 and min_size 20,
- `areas` int32: of every region of `labels` after the dilation,
- `attribution` float32 [3, 96, 96], smooth noise, and what XRAI makes of it and of those regions: `full`, `full_30` (area_threshold 0.3) and
  `fast`, float32 [96, 96], with `NAME_ranks` uint16.
"""

import pathlib

import numpy as np
import skimage
from PIL import Image
from safetensors.numpy import save_file
from saliency.core.xrai import XRAI, XRAIParameters
from skimage.filters import gaussian
from skimage.morphology import dilation, disk
from skimage.segmentation import felzenszwalb

SCALES = [50, 100, 150, 250, 500, 1200]
SIDE = 96


def photo(name, size, left, top):
    picture = Image.fromarray(getattr(skimage.data, name)()).convert("RGB").resize(size, Image.BICUBIC)
    return np.asarray(picture.crop((left, top, left + SIDE, top + SIDE)))


def drawing():
    y, x = np.mgrid[:SIDE, :SIDE]
    picture = np.full((SIDE, SIDE, 3), 200, np.uint8)
    picture[(x - 30) ** 2 + (y - 40) ** 2 < 500] = [250, 30, 30]
    picture[(abs(x - 66) < 14) & (abs(y - 60) < 22)] = [20, 90, 220]
    picture[(x + y) % 24 < 3] = [40, 40, 40]
    return picture


def stretched(pixels, low, high):
    values = pixels.astype(np.float32) / np.float32(255)
    values = (values - values.min()) / (values.max() - values.min())
    return values.astype(np.float64) * (high - low) + low


def segment(pixels, low, high, min_size):
    picture = stretched(pixels, low, high)
    return np.stack([felzenszwalb(picture, scale=scale, sigma=0.8, min_size=min_size) for scale in SCALES])


def xrai(attribution, masks, algorithm, area_threshold=1.0):
    parameters = XRAIParameters(algorithm=algorithm, area_threshold=area_threshold, return_xrai_segments=True)
    found = XRAI().GetMaskWithDetails(
        attribution, None, segments=masks, base_attribution=attribution, extra_parameters=parameters
    )
    return found.attribution_mask, found.segments


def main():
    pictures = {
        "chelsea": photo("chelsea", (225, 150), 64, 12),
        "coffee": photo("coffee", (180, 120), 42, 12),
        "astronaut": photo("astronaut", (160, 160), 34, 0),
        "drawing": drawing(),
    }
    tensors = {}
    for name, pixels in pictures.items():
        labels = segment(pixels, -1, 1, 150)
        assert labels.max() < 256
        tensors[f"{name}.pixels"] = np.ascontiguousarray(pixels)
        tensors[f"{name}.labels"] = labels.astype(np.uint8)
        print(name, labels.max(axis=(1, 2)) + 1)
    tensors["chelsea.labels_sig"] = segment(pictures["chelsea"], 0, 1, 20).astype(np.uint16)

    maps = tensors["chelsea.labels"]
    masks = [dilation(one == label, footprint=disk(5)) for one in maps for label in range(one.max() + 1)]
    tensors["chelsea.areas"] = np.array([mask.sum() for mask in masks], np.int32)
    noise = np.random.default_rng(7).standard_normal((3, SIDE, SIDE))
    smooth = np.stack([gaussian(one, 4) for one in noise]) + 0.05 * noise
    tensors["chelsea.attribution"] = smooth.astype(np.float32)
    attribution = tensors["chelsea.attribution"].transpose(1, 2, 0).astype(np.float64)
    for name, algorithm, threshold in [("full", "full", 1.0), ("full_30", "full", 0.3), ("fast", "fast", 1.0)]:
        values, ranks = xrai(attribution, masks, algorithm, threshold)
        tensors[f"chelsea.{name}"] = values.astype(np.float32)
        tensors[f"chelsea.{name}_ranks"] = ranks.astype(np.uint16)
        print(name, ranks.max(), "regions")
    save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"), {"scikit-image": skimage.__version__})


main()
