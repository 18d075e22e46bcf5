"""Contrast: the score of one class less that of another, and Finer-CAM made of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import medcam
from medcam.cli.options import target_of
from medcam.engine.notices import Notices
from medcam.errors import MedcamWarning, TargetError
from medcam.files import Image
from medcam.targets import class_score, classes, contrast, region, resolve, voxel
from support.nets import Classifier, UNet, balanced, image


def logits_of(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).double() * 3


def scores(target, logits):
    return resolve(target, logits, Notices()).values[:, 0]


@pytest.mark.parametrize("gamma", [0, 0.6, 1, 2.5])
def test_a_classification_by_hand(gamma):
    z = logits_of(4, 5)
    found = resolve(contrast(3, against=1, gamma=gamma), z, Notices())
    torch.testing.assert_close(found.values[:, 0], z[:, 3] - gamma * z[:, 1], rtol=0, atol=1e-14)
    several = scores(contrast(3, against=[0, 4], gamma=gamma), z)
    expected = z[:, 3] - gamma * (z[:, 0] + z[:, 4]) / 2
    torch.testing.assert_close(several, expected, rtol=0, atol=1e-14)
    assert (found.target.task, found.target.classes.tolist()) == ("classification", [[3]] * 4)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_segmentation_takes_both_logits_over_the_voxels_of_the_first(dims):
    z = logits_of(2, 3, *(6, 5, 4)[:dims])
    with torch.no_grad():
        z[(slice(None), 2, *[0] * dims)] = 50  # class 2 is predicted somewhere
    found = resolve(contrast(2, against=0, gamma=0.5), z, Notices(), axes=dims)
    for sample in range(2):
        terms = []
        for u in np.ndindex(z.shape[2:]):
            at = z[(sample, slice(None), *u)]
            if at.argmax() == 2:
                terms.append(float(at[2] - 0.5 * at[0]))
        assert abs(float(found.values[sample, 0]) - sum(terms) / len(terms)) < 1e-13
        assert int(found.target.voxels[sample, 0]) == len(terms)
    assert str(found.target).endswith("over the voxels predicted as class 2")
    assert not found.target.is_part


def test_a_class_that_is_not_predicted_is_told():
    z = logits_of(1, 3, 4, 4)
    z[:, 2] = -50
    with pytest.warns(MedcamWarning, match="nowhere predicted"):
        found = scores(contrast(2, against=1), z)
    assert torch.allclose(found, (z[:, 2] - z[:, 1]).flatten(1).mean(1))


def test_one_channel_is_two_classes():
    z = logits_of(3, 1)
    assert torch.equal(scores(contrast(1, against=0), z), 2 * z[:, 0])


def test_two_lesions_and_two_channels():
    z, one = logits_of(2, 3, 6, 6), torch.zeros(6, 6)
    one[:2, :2] = 1
    other = one.flip(0)
    lesions = resolve(contrast(region(one, 1), against=region(other, 1)), z, Notices())
    expected = z[:, 1, :2, :2].flatten(1).mean(1) - z[:, 1, 4:, :2].flatten(1).mean(1)
    torch.testing.assert_close(lesions.values[:, 0], expected)
    assert lesions.target.is_part
    mixed = scores(contrast(class_score(2), against=class_score(0), gamma=0.5), z)
    torch.testing.assert_close(mixed, (z[:, 2] - 0.5 * z[:, 0]).flatten(1).mean(1))
    z[:, 1] = -50
    with pytest.warns(MedcamWarning, match="nowhere predicted"):
        scores(contrast(1, against=voxel((0, 0), 2)), z)


@pytest.mark.parametrize("method", ["gcam", "hirescam", "layercam", "gcampp", "saliency"])
def test_finer_cam_is_the_cam_of_the_difference(method):
    """By this test's own hooks: Zhang et al., the gradient of y_a - γ y_b."""
    torch.manual_seed(0)
    net, x, kept = Classifier(3, channels=2).double().eval(), image(3, size=6, channels=2), []
    x = x.double()
    ask = {"method": method, "layer": "features.4"}
    found = medcam.explain(net, x, target=contrast(2, against=0, gamma=0.6), **ask).map.values
    own = medcam.explain(net, x, target=lambda z: z[:, 2] - 0.6 * z[:, 0], **ask).map.values
    torch.testing.assert_close(found, own, rtol=0, atol=1e-14)
    if method != "hirescam":
        return
    with net.features[4].register_forward_hook(lambda m, i, out: kept.append(out)):
        z = net(x)
    (grad,) = torch.autograd.grad((z[:, 2] - 0.6 * z[:, 0]).sum(), kept)
    raw = medcam.explain(
        net, x, target=contrast(2, against=0, gamma=0.6), shape=None, **ask
    ).map.values
    torch.testing.assert_close(raw[:, 0], (grad * kept[0]).sum(1), rtol=0, atol=1e-14)


def test_linear_methods_are_the_difference_of_the_maps():
    torch.manual_seed(0)
    net, x = balanced(UNet(2), 2), image(size=8)
    ask = {"method": "hirescam", "layer": "bottleneck"}
    inside = net(x).argmax(1) == 1
    parts = [medcam.explain(net, x, target=region(inside, k), **ask).map.values for k in (1, 2)]
    found = medcam.explain(net, x, target=contrast(1, against=2, gamma=0.5), **ask).map.values
    torch.testing.assert_close(found, parts[0] - 0.5 * parts[1], rtol=1e-4, atol=1e-6)


def test_whole_volumes_explain_the_contrast_of_the_stitched_prediction():
    torch.manual_seed(0)
    net, x = balanced(UNet(2), 2).double(), image(batch=1, size=12).double()
    ask = {"method": "saliency", "target": contrast(1, against=2)}
    windows = medcam.explain_volume(net, x, 12, **ask).map.values
    torch.testing.assert_close(windows, medcam.explain(net, x, **ask).map.values)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: contrast(1, against=1), "other than 1"),
        (lambda: contrast(1, against=[]), "other than 1"),
        (lambda: contrast(1.5, against=0), "class number"),
        (lambda: contrast(True, against=0), "class number"),
        (lambda: contrast(1, against="0"), "class number"),
        (lambda: contrast(1, against=0, gamma=-1), "gamma=-1"),
        (lambda: contrast(1, against=0, gamma=float("nan")), "gamma=nan"),
        (lambda: scores(contrast(1, against=7), logits_of(2, 3)), "Class 7 does not exist"),
        (
            lambda: scores(contrast(classes(0, 1), against=2), logits_of(2, 3)),
            "two targets of one class",
        ),
    ],
)
def test_what_is_no_contrast(make, words):
    with pytest.raises(TargetError, match=words):
        make()


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("contrast 2 1", contrast(2, against=1)),
        ("contrast 2 0,1", contrast(2, against=[0, 1])),
        ("contrast 0 1 0.6", contrast(0, against=1, gamma=0.6)),
    ],
)
def test_as_the_command_line_spells_it(text, target):
    z, image = logits_of(2, 3), Image(np.zeros((1, 4, 4), np.float32))
    found = resolve(target_of(text, image), z, Notices())
    expected = resolve(target, z, Notices())
    assert torch.equal(found.values, expected.values)
    assert str(found.target) == str(expected.target)
