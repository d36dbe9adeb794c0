"""Writes the references of tests/parity/tcav.safetensors: TCAV scores by Captum, of vectors by scikit-learn.

    pip install captum==0.9.0 torch==2.15.0 scikit-learn==1.9.1 safetensors==0.8.0 && python tests/parity/tcav.py

A small net of two convolutions and two dense layers with drawn weights; images of noise, those of the concept with stripes. For each layer, flat and
in float32: `LAYER.concept` [SET, n], `LAYER.random` [DRAWS, SET, n], `LAYER.gradients` [IMAGES, n] of the logit of TARGET at the images of the class.
`LAYER.vectors` [DRAWS, n] are the unit normals of scikit-learn's LogisticRegression with C = 1 / (REGULARISATION m²), m² the mean squared distance of
the rows from their mean, and `LAYER.accuracies` [DRAWS, 1] how many of the rows they tell apart. `LAYER.scores` [DRAWS, 2] is Captum's `sign_count` with
that classifier: of the vector that points to the concept, and of its opposite.
"""

import pathlib
import tempfile

import numpy as np
import torch
from captum.attr import LayerGradientXActivation
from captum.concept import TCAV, Classifier, Concept
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from torch.utils.data import DataLoader

from chacha import Generator

SET, DRAWS, IMAGES = 18, 5, 50
TARGET = 1
REGULARISATION = 0.01
LAYERS = {"early": "1", "late": "3", "dense": "6"}
SHAPE = (3, 8, 8)


class Logistic(Classifier):
    """On all rows: what is held out is no matter of the vector."""

    def __init__(self):
        self.model = None

    def train_and_eval(self, dataloader, **_):
        batches = list(dataloader)
        rows = torch.cat([batch[0] for batch in batches]).double().numpy()
        labels = torch.cat([batch[1] for batch in batches]).numpy()
        spread = np.mean(np.sum((rows - rows.mean(0)) ** 2, 1))
        self.model = LogisticRegression(C=1 / (REGULARISATION * spread), tol=1e-12, max_iter=100_000).fit(rows, labels)
        return {"accs": self.model.score(rows, labels)}

    def weights(self):
        normal = torch.from_numpy(self.model.coef_[0])
        normal = normal / normal.norm()
        return torch.stack([-normal, normal])

    def classes(self):
        return self.model.classes_


def uniform(seed, count):
    """In [-1, 1)."""
    return (2 * Generator(seed, 0).uniforms(count) - 1).astype(np.float32)


def net():
    layers = [
        torch.nn.Conv2d(3, 4, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 6, 3, 1, 1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(96, 12),
        torch.nn.ReLU(),
        torch.nn.Linear(12, 3),
    ]
    model = torch.nn.Sequential(*layers).eval()
    for seed, weights in enumerate(model.parameters()):
        scale = 0.1 if weights.ndim == 1 else (3 / weights[0].numel()) ** 0.5
        weights.data = torch.from_numpy(np.float32(scale) * uniform(700 + seed, weights.numel())).reshape(weights.shape)
    return model


def noise(seed, count):
    return torch.from_numpy(uniform(seed, count * np.prod(SHAPE))).reshape(count, *SHAPE)


def striped(images):
    stripes = torch.ones(SHAPE)
    stripes[:, :, ::2] = -1
    return 0.5 * images + 0.8 * stripes


def as_concept(number, name, images):
    return Concept(number, name, DataLoader(images, batch_size=len(images)))


def values(model, layer, images):
    """The layer's activations, and the gradients of the logit there."""
    found = model[: int(layer) + 1](images).detach().requires_grad_()
    model[int(layer) + 1 :](found)[:, TARGET].sum().backward()
    return found.detach().flatten(1).numpy(), found.grad.flatten(1).numpy()


def main():
    model = net()
    concept, image = striped(noise(1, SET)), noise(2, IMAGES)
    random = [noise(10 + draw, SET) for draw in range(DRAWS)]
    concepts = [as_concept(0, "stripes", concept)] + [as_concept(1 + draw, f"random{draw}", images) for draw, images in enumerate(random)]
    with tempfile.TemporaryDirectory() as folder:
        method = LayerGradientXActivation(model, None, multiply_by_inputs=False)
        tcav = TCAV(model, list(LAYERS.values()), classifier=Logistic(), layer_attr_method=method, save_path=folder)
        scores = tcav.interpret(image, [[concepts[0], other] for other in concepts[1:]], target=TARGET)
        stored = {}
        for name, layer in LAYERS.items():
            stored[f"{name}.concept"] = values(model, layer, concept)[0]
            stored[f"{name}.random"] = np.stack([values(model, layer, images)[0] for images in random])
            stored[f"{name}.gradients"] = values(model, layer, image)[1]
            keys = [f"0-{1 + draw}" for draw in range(DRAWS)]
            stats = [tcav.cavs[key][layer].stats for key in keys]
            # Captum's classes are the concepts' numbers in order, so the first row points to the concept.
            assert all(list(one["classes"]) == [0, 1 + draw] for draw, one in enumerate(stats))
            stored[f"{name}.vectors"] = np.stack([one["weights"][0].numpy() for one in stats]).astype(np.float32)
            stored[f"{name}.accuracies"] = np.array([[one["accs"]] for one in stats], np.float32)
            stored[f"{name}.scores"] = np.stack([scores[key][layer]["sign_count"].numpy() for key in keys])
            print(name, stored[f"{name}.scores"].tolist(), stored[f"{name}.accuracies"].ravel().tolist())
    stored = {name: np.ascontiguousarray(array, np.float32) for name, array in stored.items()}
    save_file(stored, pathlib.Path(__file__).parent / "tcav.safetensors", {"regularisation": str(REGULARISATION), "set": str(SET)})


main()
