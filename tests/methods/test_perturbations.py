"""Perturbation and path methods against replicas: loops written from their papers, in float64.

A replica knows the model as a black box only, and the target as a function of its output.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

import medcam
from medcam.methods import METHODS
from medcam.targets import class_score
from support.methods import AGAIN
from support.nets import conv


class Smooth(nn.Module):
    """A network without kinks, so that integrals converge, with features at half the size."""

    def __init__(self, dims=2, channels=2, classes=3):
        super().__init__()
        self.features = nn.Sequential(
            conv(dims, channels, 5, 3, padding=1), nn.Tanh(), conv(dims, 5, 6, 2, stride=2)
        )
        self.act = nn.Softplus()
        self.head = nn.Linear(6, classes)

    def forward(self, x):
        return self.head(self.act(self.features(x)).flatten(2).mean(2)).exp()


SPACES = [(6,), (6, 8), (4, 6, 4)]


def case(space, batch=2):
    torch.manual_seed(0)
    return Smooth(len(space)).double().eval(), torch.randn(batch, 2, *space).double()


@torch.no_grad()
def score(net, image, label=1):
    """Return the score of one image ``[channels, *space]``."""
    return float(net(image[None])[0, label])


def gradient(net, image, label=1):
    leaf = image[None].clone().requires_grad_()
    return torch.autograd.grad(net(leaf)[0, label], leaf)[0][0]


def explained(net, x, method, **ask):
    found = medcam.explain(net, x, method=method, target=class_score(1), **ask)
    return found.map


def assert_same(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


# ------------------------------------------------------------------------------------ baselines


def mean_of(image):
    result = torch.empty_like(image)
    for channel in range(len(image)):
        result[channel] = image[channel].sum() / image[channel].numel()
    return result


def blur_of(image):
    """Gaussian blur by loops, the border repeated."""
    values = image.clone()
    for axis in range(1, image.ndim):
        extent, source = image.shape[axis], values.clone()
        sigma = extent / 8
        radius = max(1, round(3 * sigma))
        weights = [np.exp(-0.5 * (o / sigma) ** 2) for o in range(-radius, radius + 1)]
        for place in range(extent):
            total = 0
            for offset, weight in zip(range(-radius, radius + 1), weights, strict=True):
                total = total + weight * source.select(
                    axis, min(max(place + offset, 0), extent - 1)
                )
            values.select(axis, place).copy_(total / sum(weights))
    return values


BASELINES = {
    "zero": torch.zeros_like,
    "mean": mean_of,
    "blur": blur_of,
    0.25: lambda image: torch.full_like(image, 0.25),
}


# -------------------------------------------------------------------------- Integrated Gradients


def integrated_gradients_of_paper(net, image, start, steps=2000):
    """Eq. 3, as the midpoint rule with many steps."""
    total = torch.zeros_like(image)
    for step in range(steps):
        total += gradient(net, start + (step + 0.5) / steps * (image - start)) / steps
    return total * (image - start)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("space", SPACES)
def test_integrated_gradients(space, baseline):
    net, x = case(space)
    found = explained(net, x, medcam.methods.intgrad(baseline=baseline, steps=12))
    for sample, image in enumerate(x):
        start = BASELINES[baseline](image)
        expected = integrated_gradients_of_paper(net, image, start, 200)
        assert_same(found.channels[sample, 0], expected, 1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("baseline", BASELINES)
def test_integrated_gradients_sum_to_the_change_of_the_score(baseline):
    net, x = case((6, 8))
    method = medcam.methods.intgrad(baseline=baseline, steps=24)
    found = medcam.explain(net, x, method=method, target=class_score(1))
    for sample, image in enumerate(x):
        change = score(net, image) - score(net, BASELINES[baseline](image))
        assert abs(float(found.map.channels[sample].sum()) - change) < 1e-9
    assert found.details["completeness_residual"]["intgrad"] < 1e-6


def test_a_sum_that_misses_the_change_of_the_score_is_told():
    """One point on the path does not see where the rectifier opens."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 1)).double()
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    nn.init.constant_(net[0].bias, -0.3)
    x = torch.ones(2, 1, 2, 2).double()
    with pytest.warns(medcam.MedcamWarning, match="misses the change of the score"):
        found = medcam.explain(net, x, method=medcam.methods.intgrad(steps=1), target=1)
    assert found.details["completeness_residual"]["intgrad"] == pytest.approx(
        0.3
    )  # 4 instead of 2.8
    exact = medcam.explain(net, x, method=medcam.methods.intgrad(steps=64), target=1)
    assert exact.details["completeness_residual"]["intgrad"] < 0.03


def test_a_baseline_of_another_patient():
    net, x = case((6, 8))
    other = torch.randn(2, 6, 8).double()
    found = explained(net, x, medcam.methods.intgrad(baseline=other, steps=12))
    for sample, image in enumerate(x):
        expected = integrated_gradients_of_paper(net, image, other, 200)
        assert_same(found.channels[sample, 0], expected, 1e-5)


# ---------------------------------------------------------------------------- Expected Gradients


@pytest.mark.parametrize("space", SPACES)
def test_expected_gradients_are_the_mean_of_integrated_gradients(space):
    net, x = case(space)
    references = torch.randn(3, 2, *space, generator=torch.Generator().manual_seed(1)).double()
    method = medcam.methods.expgrad(references, samples=360)
    found = medcam.explain(net, x, method=method, target=class_score(1))
    for sample, image in enumerate(x):
        paths = [integrated_gradients_of_paper(net, image, start, 60) for start in references]
        expected = sum(paths) / 3
        assert_same(found.map.channels[sample, 0], expected, 0.02 * float(expected.abs().max()))
    assert found.details["completeness_residual"]["expgrad"] < 2e-3


@pytest.mark.parametrize("samples", [3, 5, 12])
def test_expected_gradients_draw_by_draw(samples):
    """Eq. 3 as a loop over the draws."""
    net, x = case((6, 8), 1)
    references = torch.randn(3, 2, 6, 8, generator=torch.Generator().manual_seed(1)).double()
    generator = torch.Generator().manual_seed(7)
    each = -(-samples // 3)
    offsets = torch.rand(3 * each, generator=generator, dtype=torch.float64)
    total = 0
    for draw in range(3 * each):
        start, t = references[draw % 3], (draw // 3 + float(offsets[draw])) / each
        total = total + gradient(net, start + t * (x[0] - start)) * (x[0] - start)
    method = medcam.methods.expgrad(references, samples=samples, seed=7, batch=2)
    found = explained(net, x, method)
    assert_same(found.channels[0, 0], total / (3 * each))


# ------------------------------------------------------------------------------------ SmoothGrad


def noise_of(space, noise, count, image):
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        draw = torch.randn(2, *space, generator=generator).double()
        widths = [float(channel.max() - channel.min()) for channel in image]
        yield torch.stack([noise * w * d for w, d in zip(widths, draw, strict=True)])


@pytest.mark.parametrize("space", SPACES)
def test_smoothgrad(space):
    net, x = case(space)
    found = explained(net, x, medcam.methods.smoothgrad(noise=0.2, samples=5, seed=3, batch=2))
    for sample, image in enumerate(x):
        maps = [gradient(net, image + e) for e in noise_of(space, 0.2, 5, image)]
        assert_same(found.channels[sample, 0], sum(maps) / 5)
        assert_same(found.values[sample, 0], (sum(maps) / 5).abs().amax(0))


@pytest.mark.parametrize("method", ["gcam", "hirescam", "eigencam", "ggcam", "inputxgradient"])
def test_smoothgrad_of_a_method_is_the_mean_of_its_maps(method):
    net, x = case((6, 8))
    ask = {"layer": "act"} if METHODS[method].of_layer else {}
    smooth = medcam.methods.smoothgrad(method, noise=0.1, samples=4, seed=3)
    found = explained(net, x, smooth, **ask)
    for sample, image in enumerate(x):
        noisy = torch.stack([image + e for e in noise_of((6, 8), 0.1, 4, image)])
        alone = explained(net, noisy, method, **ask)
        expected = alone.values if alone.channels is None else alone.channels
        values = found.values if found.channels is None else found.channels
        assert_same(values[sample, 0], expected[:, 0].mean(0))
    assert smooth.title == f"SmoothGrad of {METHODS[method].title}"


# ------------------------------------------------------------------------------------- occlusion


def occlusion_of_paper(net, image, sizes, strides, fill, inside=None):
    space = image.shape[1:]
    total, counts = np.zeros(space), np.zeros(space)
    starts = [
        sorted({*range(0, n - s + 1, d), n - s})
        for n, s, d in zip(space, sizes, strides, strict=True)
    ]
    for corner in product(*starts):
        box = tuple(slice(c, c + s) for c, s in zip(corner, sizes, strict=True))
        if inside is not None and not inside[box].any():
            continue
        hidden = image.clone()
        for channel in range(len(image)):
            hidden[channel][box] = fill[channel][box]
        total[box] += score(net, image) - score(net, hidden)
        counts[box] += 1
    values = total / np.maximum(counts, 1)
    return torch.from_numpy(values if inside is None else values * inside.numpy())


@pytest.mark.parametrize("fill", BASELINES)
@pytest.mark.parametrize("space", SPACES)
def test_occlusion(space, fill):
    net, x = case(space)
    sizes, strides = [3, 2, 4][: len(space)], [2, 2, 1][: len(space)]
    method = medcam.methods.occlusion(size=sizes, stride=strides, fill=fill, batch=3)
    found = explained(net, x, method)
    for sample, image in enumerate(x):
        expected = occlusion_of_paper(net, image, sizes, strides, BASELINES[fill](image))
        assert_same(found.values[sample, 0], expected)
    assert float(found.values.abs().max()) > 1e-3


def test_occlusion_by_default_has_boxes_of_an_eighth():
    net, x = case((16, 9))
    found = explained(net, x, "occlusion")
    for sample, image in enumerate(x):
        assert_same(
            found.values[sample, 0], occlusion_of_paper(net, image, (2, 2), (2, 2), mean_of(image))
        )


def test_occlusion_in_millimetres_and_in_a_region():
    net, x = case((6, 8))
    inside = torch.zeros(6, 8, dtype=torch.bool)
    inside[1:3, 4:6] = True
    runs = []
    net.register_forward_pre_hook(lambda module, args: runs.append(len(args[0])))
    millimetres = medcam.methods.occlusion(size=6, stride=3, spacing=(3, 1.5), roi=inside)
    found = explained(net, x[:1], millimetres)
    assert sum(runs) < 25
    expected = occlusion_of_paper(net, x[0], (2, 4), (1, 2), mean_of(x[0]), inside)
    assert_same(found.values[0, 0], expected)
    assert not found.values[0, 0][~inside].any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 2.5}, "in voxels, whole numbers"),
        ({"size": (2, 2, 2)}, "2, one for each axis"),
        ({"size": 0}, "positive number"),
        ({"stride": -1}, "stride=-1"),
        ({"size": 3, "spacing": (1, 0)}, "spacing="),
        ({"roi": torch.ones(3, 3)}, "the image has"),
        ({"roi": torch.full((6, 8), 2)}, "other than 0 and 1"),
        ({"fill": "black"}, "fill='black'"),
        ({"fill": torch.zeros(3, 5)}, "does not broadcast"),
        ({"batch": 0}, "batch=0"),
    ],
)
def test_options_of_occlusion_that_do_not_fit(options, words):
    net, x = case((6, 8))
    with pytest.raises(medcam.errors.InputError, match=words):
        explained(net, x, medcam.methods.occlusion(**options))


# ------------------------------------------------------------------------------------------ RISE


def rise_of_paper(net, image, masks, keep, fill):
    """Eq. 6, after the mean score was subtracted."""
    scores = [score(net, mask * image + (1 - mask) * fill) for mask in masks]
    mean = sum(scores) / len(scores)
    total = torch.zeros(image.shape[1:]).double()
    for value, mask in zip(scores, masks, strict=True):
        total += (value - mean) * mask
    return total / (len(masks) * keep)


@pytest.mark.parametrize("fill", ["zero", "mean"])
@pytest.mark.parametrize("space", SPACES)
def test_rise(space, fill):
    from medcam.methods.random_masks import random_mask

    net, x = case(space)
    method = medcam.methods.rise(masks=20, cells=3, keep=0.6, fill=fill, seed=5, batch=7)
    found = explained(net, x, method)
    generator = torch.Generator().manual_seed(5)
    masks = [random_mask(space, [3] * len(space), 0.6, generator).double() for _ in range(20)]
    for sample, image in enumerate(x):
        expected = rise_of_paper(net, image, masks, 0.6, BASELINES[fill](image))
        assert_same(found.values[sample, 0], expected)


def test_masks_of_rise_are_smooth_random_and_half_open():
    from medcam.methods.random_masks import random_mask

    generator = torch.Generator().manual_seed(0)
    masks = torch.stack([random_mask((30, 20), [5, 4], 0.3, generator) for _ in range(400)])
    assert (masks.amin() >= 0, masks.amax() <= 1 + 1e-6) == (True, True)
    assert (masks.mean(0) - 0.3).abs().max() < 0.1  # no place is preferred
    assert (masks[:, 1:] - masks[:, :-1]).abs().max() <= 1 / 6 + 1e-6  # cells of 6 voxels
    deviation = masks.std(0)[6:-6, 5:-5]  # with cells at fixed places it would be uneven
    assert deviation.max() < 1.25 * deviation.min()
    assert len({mask.numpy().tobytes() for mask in masks}) > 390


def test_rise_finds_the_only_voxels_that_count():
    class Corner(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            z = 100 + self.scale * x[..., :4, :4].mean((1, 2, 3))
            return torch.stack([-z, z], 1)

    found = medcam.explain(Corner(), torch.ones(1, 1, 16, 16), method="rise", target=1).map
    values = found.values[0, 0]
    assert values[:4, :4].mean() > 5 * values[8:, 8:].abs().mean()


# ------------------------------------------------------------------- Score-CAM and Ablation-CAM


def features_of(net, image):
    with torch.no_grad():
        return net.act(net.features(image[None]))[0]


def score_cam_of_paper(net, image, channels):
    """Algorithm 1, with masks that are placed as medcam places maps."""
    A, scores = features_of(net, image), []
    for k in channels:
        H = (A[k] - A[k].min()) / (A[k].max() - A[k].min())
        scores.append(score(net, image * on_input(H, image.shape[1:])))
    weights = np.exp(scores) / np.exp(scores).sum()
    return sum(w * A[k] for w, k in zip(weights, channels, strict=True)).relu()


def on_input(mask, space):
    """Linear interpolation of cells of 2 voxels, whose centres are at .5, 2.5, ..."""
    for axis, extent in enumerate(space):
        lines = []
        for u in range(extent):
            at = min(max((u - 0.5) / 2, 0), mask.shape[axis] - 1)
            low = int(at)
            high = min(low + 1, mask.shape[axis] - 1)
            lines.append(
                (1 - (at - low)) * mask.select(axis, low) + (at - low) * mask.select(axis, high)
            )
        mask = torch.stack(lines, axis)
    return mask


@pytest.mark.parametrize("space", [(6, 8), (4, 6, 4)])
def test_score_cam(space):
    net, x = case(space)
    found = explained(net, x, "scorecam", layer="act", shape=None)
    few = explained(net, x, medcam.methods.scorecam(channels=2, batch=1), layer="act", shape=None)
    for sample, image in enumerate(x):
        assert_same(found.values[sample, 0], score_cam_of_paper(net, image, range(6)))
        deviations = [float(a.std(correction=0)) for a in features_of(net, image)]
        most = sorted(sorted(range(6), key=lambda k: -deviations[k])[:2])
        assert_same(few.values[sample, 0], score_cam_of_paper(net, image, most))


def ablation_cam_of_paper(net, image, channels):
    with torch.no_grad():
        A = net.features(image[None])[0]
    total = torch.zeros_like(A[0])
    for k in channels:
        without = A.clone()
        without[k] = 0
        with torch.no_grad():
            y = float(net.head(net.act(without[None]).flatten(2).mean(2)).exp()[0, 1])
        total += (score(net, image) - y) * A[k]
    return total


@pytest.mark.parametrize("space", SPACES)
def test_ablation_cam(space):
    net, x = case(space)
    ask = {"layer": "features", "shape": None}
    found = explained(net, x, medcam.methods.get("ablationcam", rectify=False), **ask)
    few = explained(net, x, medcam.methods.ablationcam(channels=3, batch=2), **ask)
    for sample, image in enumerate(x):
        assert_same(found.values[sample, 0], ablation_cam_of_paper(net, image, range(6)))
        sizes = [float(a.abs().mean()) for a in net.features(image[None])[0].detach()]
        most = sorted(range(6), key=lambda k: -sizes[k])[:3]
        assert_same(few.values[sample, 0], ablation_cam_of_paper(net, image, most).relu())
    assert float(found.values.abs().max()) > 1e-3


TESTED = {
    "smoothgrad": test_smoothgrad,
    "intgrad": test_integrated_gradients,
    "occlusion": test_occlusion,
    "rise": test_rise,
    "scorecam": test_score_cam,
    "ablationcam": test_ablation_cam,
}


def test_every_method_that_runs_the_model_again_has_a_replica():
    assert list(TESTED) == AGAIN
