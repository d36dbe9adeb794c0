"""Writes photo.png and curves.json beside this script: performance information curves by the public code of the SIG paper.

    pip install saliency==0.2.1 "numpy<2" scipy==1.15.3 pillow==13.0.0 && python tests/data/information/generate.py docs/jaguar.jpg

The photo is cut to a square and scaled to 224 x 224 pixels. Pixels 0, 100, 200, ... are known from the start. The map is exp(-((y - 100) / 40)^2 -
((x - 110) / 50)^2), and its negative; the predictor is 1 - 0.9 e / e0, where e is the mean absolute error to the photo and e0 that of the blurred start.
`bytes` has the blurred start, the 13 thresholds and the photo (libwebp 1.6.0), `scores` the same, `area` is that under the curve.
"""

import json
import pathlib
import sys

import numpy as np
from PIL import Image, ImageOps
from saliency.metrics import pic

THRESHOLDS = [0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.13, 0.21, 0.34, 0.5, 0.75]


def main(path):
    folder = pathlib.Path(__file__).parent
    photo = ImageOps.fit(Image.open(path).convert("RGB"), (224, 224), Image.Resampling.LANCZOS)
    photo.save(folder / "photo.png", optimize=True)
    pixels = np.asarray(photo)
    known = np.zeros(224 * 224, dtype=bool)
    known[::100] = True
    known = known.reshape(224, 224)
    y, x = np.mgrid[:224, :224]
    scores = np.exp(-(((y - 100) / 40) ** 2) - ((x - 110) / 50) ** 2).astype(np.float32)

    def error(pictures):
        return np.abs(pictures.astype(np.float64) - pixels).mean(axis=(-3, -2, -1))

    start = error(pic.create_blurred_image(pixels, known))
    found = {}
    for name, scores in [("map", scores), ("negative", -scores)]:
        for curve, is_monotone in [("monotone", True), ("plain", False)]:
            result = pic.compute_pic_metric(
                pixels, scores, known, lambda pictures: 1 - 0.9 * error(pictures) / start, THRESHOLDS, keep_monotonous=is_monotone
            )
            found.setdefault(name, {})[curve] = result.auc
        found[name]["bytes"] = [pic.estimate_image_entropy(picture) for picture in result.blurred_images]
        found[name]["scores"] = [float(score) for score in result.predictions]
    (folder / "curves.json").write_text(json.dumps(found, indent=2) + "\n")


main(sys.argv[1])
