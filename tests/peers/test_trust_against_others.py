"""Figures of the trust check against Quantus and captum, on the same inputs, where they are right.

Quantus' faithfulness correlation takes sets of one size, so that nothing is partialled out.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from captum.metrics import infidelity, sensitivity_max

import medcam
from medcam import demo
from medcam.trust.bank import fill_bank
from medcam.trust.blocks import Blocks, random_sets
from medcam.trust.measuring import Measuring
from medcam.trust.permuted import permuted_networks
from medcam.trust.plan import Plan
from medcam.trust.question import question_of
from medcam.trust.statistics import rank_correlation
from medcam.trust.subject import WholeImages

with warnings.catch_warnings():  # Quantus' own, while it is imported
    warnings.simplefilter("ignore")
    import quantus

pytestmark = pytest.mark.filterwarnings("ignore")  # Quantus warns of its own defaults


@pytest.fixture(scope="module")
def model():
    return demo.load_lesion_classifier()


@pytest.fixture(scope="module")
def image():
    slices = demo.load_lesion_slices()
    return slices.images[slices.labels == 1][:1]


def maps(network, images, method="gcam"):
    explanation = medcam.explain(network, images, method=method, layer="relu6", target=1)
    return explanation.map.attention()


@pytest.mark.parametrize("size", [40, 200])
def test_faithfulness_correlation_is_that_of_quantus(model, image, size):
    attention = maps(model, image).numpy()
    runs, drawn = 50, []

    def perturbed(arr, indices, **_):
        drawn.append(indices[0])
        result = arr.copy()
        result[0, indices[0]] = arr[0].mean()
        return result

    np.random.seed(3)  # noqa: NPY002  # Quantus draws from the global state
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=runs, subset_size=size, perturb_func=perturbed, normalise=False,
        return_aggregate=False, disable_warnings=True,
    )  # fmt: skip
    theirs = metric(
        model=model, x_batch=image.numpy(), y_batch=np.array([1]), a_batch=attention, device="cpu",
        softmax=False,
    )[0]  # fmt: skip
    sets = np.zeros((runs, 64 * 64), bool)
    for row, indices in zip(sets, drawn, strict=True):
        row[indices] = True
    subject = WholeImages(model, (image,), {}, {})
    question = question_of(subject.logits(), 1)
    bank = fill_bank(
        subject, question, Blocks((1, 1), (64, 64)), sets, subject.logits(), fills=["mean"]
    )
    ours, _ = bank.correlations([attention.astype(float)], "mean")
    assert ours[0] == pytest.approx(theirs, abs=2e-5)  # float32 scores
    assert abs(theirs) > 0.05


def test_max_sensitivity_is_that_of_captum(model, image):
    subject = WholeImages(model, (image,), {}, {})
    plan = Plan(8, 1, 0, 4, 1, 1, 1)
    question = question_of(subject.logits(), 1)
    method = medcam.methods.METHODS["gcam"]
    measuring = Measuring(subject, question, [method], ["relu6"], {}, plan, 7, lambda _: None)
    ours = measuring.measure()[0]["gcam", "relu6"].noise[0]
    generator = torch.Generator().manual_seed(7)
    deviation = image.std()

    def noisy(images):
        return images + 0.05 * deviation * torch.randn(images.shape, generator=generator)

    # one by one: captum 0.9 returns sqrt(n) times the value for n draws at once
    theirs = [
        float(sensitivity_max(lambda x: maps(model, x), image, noisy, n_perturb_samples=1)[0])
        for _ in range(4)
    ]
    assert ours == pytest.approx(max(theirs), rel=1e-4)
    assert ours > 0.01


def test_infidelity_is_that_of_captum(model, image):
    """The perturbation is the indicator of a set, so that captum sums the map over the set."""
    subject = WholeImages(model, (image,), {}, {})
    question, blocks = question_of(subject.logits(), 1), Blocks((5, 5), (64, 64))
    sets = random_sets(blocks, 24, seed=5)
    bank = fill_bank(subject, question, blocks, sets, subject.logits(), fills=["mean"])
    methods = ["gcam", "gbp", "saliency"]
    attention = [maps(model, image, method)[:, 0] for method in methods]
    drawn = iter(sets)

    def perturbed(inputs, baselines=None):
        mask = torch.stack([blocks.mask(next(drawn)) for _ in inputs])[:, None]
        return mask.float(), torch.where(mask, image.mean(), inputs)

    ours = bank.infidelity([torch.stack(attention).numpy().astype(float)], "mean")
    for value, item in zip(ours, attention, strict=True):
        drawn = iter(sets)
        with torch.no_grad():
            theirs = infidelity(
                lambda x: model(x)[:, 1], perturbed, image, item[:, None], normalize=True,
                n_perturb_samples=24, max_examples_per_batch=24,
            )  # fmt: skip
        share = float(theirs[0]) / float((bank.drops["mean"] ** 2).mean())
        assert value == pytest.approx(share, abs=1e-4)
        assert 0.01 < value < 0.9
    assert len(set(ours.round(3))) == 3


def test_rank_correlations_with_permuted_networks_are_those_of_quantus(model, image):
    own = maps(model, image, "saliency")
    for network in permuted_networks(model, 3, seed=1):
        other = maps(network, image, "saliency")
        ours = rank_correlation(own[:, 0].numpy(), other[:, 0].numpy())[0]
        theirs = quantus.correlation_spearman(a=own.flatten().numpy(), b=other.flatten().numpy())
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_mprt_bottom_up_compares_as_quantus_does(model, image):
    """The rank correlations of Quantus' bottom-up randomisation, whose last network is random."""
    metric = quantus.MPRT(
        layer_order="bottom_up", similarity_func=quantus.correlation_spearman, normalise=False,
        abs=False, seed=2, disable_warnings=True,
    )  # fmt: skip
    own, seen = maps(model, image, "saliency").numpy(), []

    def explain(model, inputs, targets, **_):
        seen.append(maps(model, torch.as_tensor(inputs), "saliency").numpy())
        return seen[-1]

    scores = metric(
        model=model, x_batch=image.numpy(), y_batch=np.array([1]), a_batch=own, device="cpu",
        explain_func=explain,
    )  # fmt: skip
    theirs = [float(np.ravel(values)[0]) for values in scores.values()]
    ours = [float(rank_correlation(own[:, 0], other[:, 0])[0]) for other in seen]
    assert ours[-len(theirs) :] == pytest.approx(theirs, abs=1e-5)
    assert len(theirs) >= 7
    assert ours[-1] < 0.6
