"""Writes the references of tests/parity/regions.safetensors: what the packages lime, shap and Captum make of regions of a picture.

    pip install captum==0.9.0 lime==0.2.0.1 shap==0.51.0 torch safetensors && python tests/parity/regions.py

The packages draw no numbers of their own: coalitions and orders are those that explaind draws (chacha.py). All float32: an `input` [3, 20, 24] and
`weights` [2, 3, 20, 24] of a net with two logits, each tanh of the weighted sum, and `segments` [20, 24], whose labels 0 to 15 are regions; for
fewer, higher labels are joined to the last. Maps [1, 20, 24] of the logit of class 1:

- `feature_ablation.BASELINE`: Captum's FeatureAblation.
- `shapley_sampling.BASELINE.SAMPLES`: Captum's ShapleyValueSampling.
- `lime.SAMPLES.WIDTH`: LimeImageExplainer, whose hidden regions have their mean colour.
- `kernel_shap.REGIONS.SAMPLES`: KernelExplainer without selection of features, baseline 0.
"""

import math
import pathlib

import numpy as np
import shap
import torch
from captum.attr import FeatureAblation, ShapleyValueSampling
from lime import lime_image
from safetensors.numpy import save_file

from chacha import Generator

HEIGHT, WIDTH, REGIONS, SEED = 20, 24, 16, 5
BASELINES = [0.0, 0.25]
ORDERS = 12
LIMES = [(300, 0.25), (64, 1.0)]
# Where all coalitions are taken, where many are drawn twice, and where sizes have no complements of another size.
SHAPS = [(8, 254), (9, 300), (10, 700), (16, 400)]


def picture():
    c, y, x = np.mgrid[:3, :HEIGHT, :WIDTH]
    draw = np.random.default_rng(2)
    image = (np.sin(0.3 * x + c) * np.cos(0.2 * y) + draw.normal(0, 0.4, c.shape)).astype(np.float32)
    waves = [np.sin(0.1 * (7 * c + 3 * y + 5 * x)), np.cos(0.13 * (2 * c + 5 * y - x))]
    weights = (np.stack(waves) / 25).astype(np.float32)
    centres = draw.uniform(0, 1, (REGIONS, 2)) * [HEIGHT, WIDTH]
    distances = [(y[0] - row) ** 2 + (x[0] - column) ** 2 for row, column in centres]
    return image, weights, np.argmin(distances, 0)


def net(weights, inputs):
    """The logits of each input, in float64."""
    return np.tanh(np.einsum("nchw,kchw->nk", np.float64(inputs), np.float64(weights)))


def order(uniforms):
    """A random order by Fisher and Yates, from the last place down."""
    found = list(range(len(uniforms) + 1))
    for place, share in zip(range(len(uniforms), 0, -1), uniforms):
        other = min(int(share * (place + 1)), place)
        found[place], found[other] = found[other], found[place]
    return found


def by_captum(image, weights, segments):
    weights = torch.from_numpy(weights).double()
    logits = lambda inputs: torch.tanh(torch.einsum("nchw,kchw->nk", inputs, weights))
    given = torch.from_numpy(image[None]).double()
    mask = torch.from_numpy(segments).long().repeat(1, 3, 1, 1)
    sampling = ShapleyValueSampling(logits)
    orders = [order(Generator(SEED, sample).uniforms(REGIONS - 1)) for sample in range(ORDERS)]
    sampling.permutation_generator = lambda *_: iter(orders)
    for baseline in BASELINES:
        of = dict(baselines=baseline, target=1, feature_mask=mask)
        yield f"feature_ablation.{baseline}", FeatureAblation(logits).attribute(given, **of)[0, :1]
        yield f"shapley_sampling.{baseline}.{ORDERS}", sampling.attribute(given, n_samples=ORDERS, **of)[0, :1]


class Coalitions:
    """In the place of the explainer's random state: a bit for each region and sample, the highest of a word."""

    def __init__(self, samples):
        self.samples = samples

    def randint(self, low, high, count):
        rows = [Generator(SEED, sample).words(count // self.samples) >> np.uint32(31) for sample in range(self.samples)]
        return np.concatenate(rows).astype(np.int64)


def by_lime(image, weights, segments):
    for samples, width in LIMES:
        explainer = lime_image.LimeImageExplainer(kernel_width=width)
        explainer.random_state = Coalitions(samples)
        of = dict(labels=(1,), top_labels=None, num_samples=samples, segmentation_fn=lambda _: segments, random_seed=0)
        answer = lambda images: net(weights, np.stack(images).transpose(0, 3, 1, 2))
        found = explainer.explain_instance(np.float64(image.transpose(1, 2, 0)), answer, **of).local_exp[1]
        values = np.zeros(REGIONS)
        values[[region for region, _ in found]] = [value for _, value in found]
        yield f"lime.{samples}.{width}", values[segments][None]


class Draws:
    """In the place of numpy.random: for each draw a uniform that chooses the size, and an order of the regions."""

    def choice(self, sizes, count, p):
        self.order = 0
        shares = [Generator(SEED, draw).uniforms(1)[0] for draw in range(count)]
        return np.minimum(np.searchsorted(np.cumsum(p) / np.sum(p), shares, side="right"), sizes - 1)

    def permutation(self, regions):
        uniforms = Generator(SEED, self.order).uniforms(regions)[1:]
        self.order += 1
        return np.array(order(uniforms))


def by_shap(image, weights, segments):
    for regions, samples in SHAPS:
        labels = np.minimum(segments, regions - 1)
        answer = lambda shown: net(weights, np.where(np.asarray(shown)[:, None, labels] > 0, image, 0.0))[:, 1]
        explainer = shap.KernelExplainer(answer, np.zeros((1, regions)))
        kept, np.random.choice, np.random.permutation = (np.random.choice, np.random.permutation), *draws()
        values = explainer.shap_values(np.ones(regions), nsamples=samples, l1_reg=False, silent=True)
        np.random.choice, np.random.permutation = kept
        if samples == 2**regions - 2:
            assert np.abs(values - shapley(answer, regions)).max() < 1e-9
        yield f"kernel_shap.{regions}.{samples}", values[labels][None]


def draws():
    source = Draws()
    return source.choice, source.permutation


def shapley(answer, regions):
    """By the definition, over all coalitions."""
    coalitions = np.arange(2**regions)
    values = answer(coalitions[:, None] >> np.arange(regions) & 1)
    sizes = np.array([int(coalition).bit_count() for coalition in coalitions])
    found = []
    for region in range(regions):
        without = coalitions[coalitions >> region & 1 == 0]
        weights = [math.factorial(size) * math.factorial(regions - size - 1) / math.factorial(regions) for size in sizes[without]]
        found.append(np.dot(weights, values[without | 1 << region] - values[without]))
    return np.array(found)


def main():
    image, weights, segments = given = picture()
    found = {"input": image, "weights": weights, "segments": segments}
    for package in (by_captum, by_lime, by_shap):
        for name, values in package(*given):
            found[name] = values
            print(name, float(np.abs(np.asarray(values)).max()), flush=True)
    found = {name: np.ascontiguousarray(values, np.float32) for name, values in found.items()}
    save_file(found, pathlib.Path(__file__).with_suffix(".safetensors"), {"of": "regions.py"})


if __name__ == "__main__":
    main()
