"""Prints the structural similarities that the tests of src/evaluation/similarity.rs are held against.

    pip install scikit-image && python tests/parity/similarity.py
"""

import numpy as np
from skimage.metrics import structural_similarity

for height, width, window in [(12, 17, 7), (5, 9, 5)]:
    k = np.arange(height * width)
    one = (k * 37 % 101 - 50.0).reshape(height, width)
    for other in [one * 0.5 + 3, (k * 53 % 89 - 20.0).reshape(height, width), -one]:
        both = np.concatenate([one, other])
        found = structural_similarity(one, other, data_range=both.max() - both.min(), win_size=window)
        print(height, width, repr(float(found)))
