"""Writes masks.json: outlines as COCO has them, and what pycocotools (2.0.11) makes of them. pip install pycocotools."""

import json
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

small = np.zeros((5, 7), np.uint8)
small[1:4, 2:5] = 1
small[2, 3] = 0
small[4, 6] = 1
rows, columns = np.mgrid[:60, :80]
large = (((rows - 30) / 25) ** 2 + ((columns - 40) / 30) ** 2 < 1).astype(np.uint8)
large[10:20, 5:70] = 0
large[58:, :3] = 1
polygons = [[12.5, 3.0, 50.25, 10.0, 44.0, 38.5, 20.0, 41.0, 5.5, 22.0], [1.0, 44.0, 9.0, 44.0, 9.0, 47.0]]


def code(mask):
    return coco.encode(np.asfortranarray(mask))["counts"].decode()


filled = coco.decode(coco.merge(coco.frPyObjects(polygons, 48, 64)))
out = {
    "runs": [{"size": list(mask.shape), "counts": code(mask), "mask": mask.tolist()} for mask in (small, large)],
    "polygons": {"size": [48, 64], "outline": polygons, "mask": filled.tolist()},
}
Path(__file__).with_name("masks.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")
