"""Writes the references of tests/parity/perturbation.safetensors: what pytorch-grad-cam measures of perturbed images.

    pip install grad-cam==1.5.7 numpy safetensors && python tests/parity/perturbation.py

All float32: an `input` [3, 40, 48], `weights` of a linear net whose score is the logistic function of its output, and a `map` [40, 48] without equal
values. `mask` [40, 48], 0 where pixels are removed, with a hole in the middle, others at two borders and one at a corner, and `imputed`, what the
package's imputer makes of the input without noise. `morf` and `lerf` [9]: the score when 10 to 90 % of the pixels are removed so, the highest or the
lowest first; `combined` [1], its `ROADCombined` without noise. `confidence` [2]: the score of the input, and of the input times the map.
"""

import pathlib

import numpy as np
import torch
from pytorch_grad_cam.metrics.cam_mult_image import CamMultImageConfidenceChange
from pytorch_grad_cam.metrics.perturbation_confidence import PerturbationConfidenceMetric, RemoveLeastRelevantFirst, RemoveMostRelevantFirst
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from pytorch_grad_cam.utils.image import scale_cam_image
from safetensors.numpy import save_file

HEIGHT, WIDTH = 40, 48


def main():
    draw = np.random.default_rng(1)
    c, y, x = np.mgrid[:3, :HEIGHT, :WIDTH]
    picture = (np.sin(0.2 * x + c) * np.cos(0.15 * y) + draw.normal(0, 0.3, c.shape)).astype(np.float32)
    weights = (np.sin(0.1 * (7 * c + 3 * y + 5 * x)) / 20).astype(np.float32)
    scores = (np.exp(-((y[0] - 22) ** 2 + (x[0] - 17) ** 2) / 150) + draw.normal(0, 0.05, (HEIGHT, WIDTH))).astype(np.float32)

    class Net(torch.nn.Module):
        def forward(self, inputs):
            return torch.sigmoid((inputs.double() * torch.from_numpy(weights)).sum(dim=(1, 2, 3), keepdim=False))[:, None]

    mask = (draw.random((HEIGHT, WIDTH)) < 0.6).astype(np.float32)
    mask[8:30, 10:40] = 0
    mask[:7, :9] = mask[35:, 20:30] = mask[12:20, 44:] = 0
    imputer = NoisyLinearImputer(noise=0)
    imputed = imputer(torch.from_numpy(picture), torch.from_numpy(mask)).numpy()

    def measured(metric, cam):
        return metric(torch.from_numpy(picture[None]), cam[None], [lambda output: output[0]], Net(), return_diff=False)[0]

    scaled = scale_cam_image(scores[None])[0]
    found = {
        "morf": [measured(PerturbationConfidenceMetric(RemoveMostRelevantFirst(100 - part, imputer)), scores) for part in range(10, 100, 10)],
        "lerf": [measured(PerturbationConfidenceMetric(RemoveLeastRelevantFirst(100 - part, imputer)), scores) for part in range(10, 100, 10)],
    }
    clean = Net()(torch.from_numpy(picture[None]))[0, 0].item()
    found |= {
        "input": picture,
        "weights": weights,
        "map": scores,
        "mask": mask,
        "imputed": imputed,
        "combined": [(np.mean(found["lerf"]) - np.mean(found["morf"])) / 2],
        "confidence": [clean, measured(CamMultImageConfidenceChange(), scaled)],
    }
    found = {name: np.ascontiguousarray(values, np.float32) for name, values in found.items()}
    save_file(found, pathlib.Path(__file__).with_suffix(".safetensors"), {"of": "perturbation.py"})


main()
