"""Every target against plain torch: which score, of which class, over which voxels."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import medcam
from medcam.engine.notices import Notices
from medcam.errors import InputTypeError, MaskError, MedcamWarning, TargetError
from medcam.targets import best, class_score, classes, region, resolve, voxel, where
from support.nets import Classifier, UNet, image

quick = settings(max_examples=20, deadline=None, database=None)
seeds = st.integers(0, 10**6)


def logits_of(seed, *shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double() * 3
    return values.requires_grad_()


def scores(target, logits):
    """Return the scores ``[batch, targets]``; warnings are errors here."""
    return resolve(target, logits, Notices()).values


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def mean_over(values, inside):
    return torch.stack([v[m].mean() for v, m in zip(values, inside, strict=True)])


# ------------------------------------------------------------------------------- classification


@quick
@given(seeds, st.integers(1, 5), st.integers(2, 6), st.data())
def test_classification(seed, batch, count, data):
    z = logits_of(seed, batch, count)
    k = data.draw(st.integers(0, count - 1))
    largest = z.max(1, keepdim=True).values
    for target in (None, "best", best()):
        assert_same(scores(target, z), largest)
    for target in (k, classes(k), torch.tensor(k)):
        assert_same(scores(target, z), z[:, [k]])
    assert_same(scores("all", z), z)
    assert_same(scores(classes(k, 0, k), z), z[:, [k, 0, k]])
    labels = data.draw(st.lists(st.integers(0, count - 1), min_size=batch, max_size=batch))
    own = torch.stack([z[i, label] for i, label in enumerate(labels)])[:, None]
    for target in (labels, tuple(labels), torch.tensor(labels)):
        assert_same(scores(target, z), own)


@pytest.mark.usefixtures("unchecked")
def test_numpy_labels():
    z = logits_of(0, 2, 4)
    for target in (np.int64(3), np.array(3), np.array([3, 3])):
        assert_same(scores(target, z), z[:, [3]])


def test_class_score_of_a_classification():
    z = logits_of(0, 3, 4)
    assert_same(scores(class_score(2), z), z[:, [2]])


@pytest.mark.filterwarnings("ignore:The one output is read as the logit")
@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 1, 1, 1)])
def test_one_logit_is_explained_by_its_sign(shape):
    z = torch.tensor([2.0, -3, 0.5, -0.1]).reshape(shape)
    magnitude = torch.tensor([[2.0], [3], [0.5], [0.1]])
    for target in (None, "best"):
        found = resolve(target, z, Notices())
        assert torch.equal(found.values, magnitude)
        assert found.target.classes.tolist() == [[1], [0], [1], [0]]
    plus = z.reshape(4, 1)
    assert torch.equal(scores(1, z), plus)
    assert torch.equal(scores(0, z), -plus)
    assert torch.equal(scores("all", z), torch.cat([-plus, plus], 1))
    assert torch.equal(scores([1, 0, 0, 1], z)[:, 0], torch.tensor([2.0, 3, -0.5, -0.1]))


def test_multilabel_explains_the_logit_asked_for():
    z = torch.tensor([[5.0, -1, 4], [-2, -3, -4]])
    assert torch.equal(scores([2, 0], z), torch.tensor([[4.0], [-2]]))
    assert torch.equal(scores(classes(0, 2), z), z[:, [0, 2]])


def test_resolved_classification():
    z = torch.tensor([[5.0, -1, 4], [-2, -3, -4]])
    found = resolve(None, z, Notices()).target
    assert (found.task, found.classes.tolist(), found.voxels) == (
        "classification",
        [[0], [0]],
        None,
    )
    assert resolve("all", z, Notices()).target.classes.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert "predicted" in str(found)


# --------------------------------------------------------------------------------- segmentation


def seg(seed, batch=2, count=3, dims=2):
    """Return logits in which every class is predicted somewhere in every sample."""
    z = logits_of(seed, batch, count, *(6, 5, 5)[:dims])
    with torch.no_grad():
        for k in range(count):
            z[(slice(None), k, *[k] * dims)] = 20 + z.abs().amax()
    return z


@quick
@given(seeds, st.integers(1, 3), st.integers(2, 5), st.integers(2, 3), st.data())
def test_segmentation(seed, batch, count, dims, data):
    z = seg(seed, batch, count, dims)
    predicted = z.argmax(1)
    per_class = torch.stack([mean_over(z[:, k], predicted == k) for k in range(count)], 1)
    k = data.draw(st.integers(0, count - 1))
    assert_same(scores(None, z), mean_over(z.amax(1), predicted != 0)[:, None])
    assert_same(scores(k, z), per_class[:, [k]])
    assert_same(scores("all", z), per_class)
    assert_same(scores(classes(k, 0), z), per_class[:, [k, 0]])
    assert_same(scores(class_score(k), z), z[:, k].flatten(1).mean(1, keepdim=True))
    labels = data.draw(st.lists(st.integers(0, count - 1), min_size=batch, max_size=batch))
    own = per_class.gather(1, torch.tensor(labels)[:, None])
    assert_same(scores(labels, z), own)
    sizes = torch.stack([(predicted == c).flatten(1).sum(1) for c in range(count)], 1)
    assert torch.equal(resolve("all", z, Notices()).target.voxels, sizes)
    most = sizes[:, 1:].argmax(1) + 1
    found = resolve("best", z, Notices())
    assert torch.equal(found.target.classes, most[:, None])
    assert_same(found.values, per_class.gather(1, most[:, None]))


@quick
@given(seeds, st.integers(2, 3))
def test_a_single_channel_is_background_and_foreground(seed, dims):
    z = logits_of(seed, 2, 1, *(6, 5, 5)[:dims])
    with torch.no_grad():
        z[:, 0, 0], z[:, 0, 1] = 1.5, -2.5
    one = z[:, 0]
    foreground, background = mean_over(one, one > 0), mean_over(-one, one <= 0)
    for target in (None, "best", 1):
        assert_same(scores(target, z), foreground[:, None])
    assert_same(scores(0, z), background[:, None])
    assert_same(scores("all", z), torch.stack([background, foreground], 1))
    assert_same(scores(class_score(0), z), one.flatten(1).mean(1, keepdim=True))


@quick
@given(seeds, st.integers(2, 3), st.data())
def test_region_and_voxel(seed, dims, data):
    z = seg(seed, 2, 3, dims)
    space = z.shape[2:]
    inside = torch.rand(2, *space, generator=torch.Generator().manual_seed(seed)) < 0.5
    inside[(slice(None), *[0] * dims)] = True
    k = data.draw(st.integers(0, 2))
    own = mean_over(z[:, k], inside)[:, None]
    for mask in (inside, inside[:, None], inside.int(), inside.double()):
        assert_same(scores(region(mask, k), z), own)
    for mask in (inside[1], inside[1].to(torch.uint8)):
        assert_same(scores(region(mask, k), z), mean_over(z[:, k], inside[[1, 1]])[:, None])
    assert resolve(region(inside, k), z, Notices()).target.voxels.sum() == inside.sum()
    index = tuple(data.draw(st.integers(-extent, extent - 1)) for extent in space)
    assert_same(scores(voxel(index, k), z), z[(slice(None), [k], *index)])


def test_region_and_voxel_of_a_single_channel():
    z = logits_of(0, 2, 1, 4, 4)
    mask = torch.eye(4).bool()
    line = z[:, 0][:, mask].mean(1, keepdim=True)
    assert_same(scores(region(mask, 1), z), line)
    assert_same(scores(region(mask, 0), z), -line)
    assert_same(scores(voxel((1, 2), 0), z), -z[:, :, 1, 2])


@quick
@given(seeds, st.integers(2, 3))
def test_where(seed, dims):
    z = seg(seed, 2, 3, dims)
    sure = z.amax(1) > 2
    assert_same(scores(where(lambda z: z.amax(1) > 2), z), mean_over(z.amax(1), sure)[:, None])
    assert_same(scores(where(lambda z: z.amax(1) > 2, 1), z), mean_over(z[:, 1], sure)[:, None])
    assert_same(scores(where(lambda z: z > 2), z), mean_over(z, z > 2)[:, None])


def test_where_sees_the_logits_without_their_graph():
    seen = []
    scores(where(lambda z: seen.append(z.requires_grad) or z > 0), seg(0))
    assert seen == [False]


# ------------------------------------------------------------------------------------ callables


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5, 6)])
def test_callables(shape):
    z = logits_of(0, *shape)
    both = z.reshape(3, 4, -1).mean(2)[:, [1, 3]]
    assert_same(scores(lambda z: z.reshape(3, 4, -1).mean(2)[:, 1], z), both[:, :1])
    assert_same(scores(lambda z: z.reshape(3, 4, -1).mean(2)[:, [1, 3]], z), both)
    assert_same(scores(lambda z: z > -1, z), mean_over(z, z > -1)[:, None])
    assert_same(scores(lambda z: z[0].mean(), z[:1]), z[:1].mean().reshape(1, 1))


def test_a_callable_may_pick_voxels():
    """The score is then the mean logit of each voxel's predicted class."""
    z = logits_of(0, 3, 4, 5, 6)
    assert_same(scores(lambda z: z.amax(1) > 0, z), mean_over(z.amax(1), z.amax(1) > 0)[:, None])


@pytest.mark.parametrize("target", [where(lambda z: z[:, 0] > -99), lambda z: z[:, 0] > -99])
def test_a_mask_of_the_samples_of_a_classification(target):
    z = logits_of(0, 3, 4)
    assert_same(scores(target, z), z.amax(1, keepdim=True))


def test_a_callable_sees_the_output_as_it_is():
    """Neither are spatial axes of extent 1 removed, nor a missing class axis added."""
    for shape in ((2, 3, 1, 1), (2,), (2, 3, 7)):
        seen = []
        scores(
            lambda z, seen=seen: seen.append(z.shape) or z.reshape(2, -1).sum(1),
            logits_of(0, *shape),
        )
        assert seen == [shape]


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (lambda z: z.sum(), "shape []"),
        (lambda z: z[:1].sum(1), "shape [1]"),
        (lambda z: z.argmax(1), "int64"),
        (lambda z: 3.5, "float 3.5"),
        (lambda z: None, "NoneType"),
        (lambda z: z[..., None], "shape [2, 3, 1]"),
    ],
)
def test_callables_that_return_neither_scores_nor_a_mask(result, said):
    with pytest.raises(TargetError) as error:
        scores(result, logits_of(0, 2, 3))
    assert said in str(error.value)
    assert "scores [batch] = [2]" in str(error.value)
    assert "boolean mask" in str(error.value)


# ------------------------------------------------------------- M is constant, and its mean counts


@pytest.mark.parametrize(
    ("target", "inside"),
    [
        (1, lambda z: z.argmax(1, keepdim=True) == 1),
        (class_score(1), lambda z: torch.ones_like(z[:, :1]).bool()),
        (region(torch.eye(6, 5).bool(), 1), lambda z: torch.eye(6, 5).bool().expand(2, 1, 6, 5)),
        (where(lambda z: z.amax(1) > 2, 1), lambda z: z.amax(1, keepdim=True) > 2),
    ],
)
def test_the_gradient_is_that_of_a_mean_over_a_constant_set(target, inside):
    """1/|M| at the voxels in M, in the channel asked for, and 0 elsewhere."""
    z = seg(1)
    (gradient,) = torch.autograd.grad(scores(target, z).sum(), z)
    M = inside(z).double()
    expected = torch.zeros_like(z)
    expected[:, 1:2] = M / M.flatten(1).sum(1).reshape(2, 1, 1, 1)
    assert_same(gradient, expected.detach())


def test_a_soft_mask_made_of_the_logits_does_not_leak_into_the_gradient():
    z = seg(2)
    for target in (None, "best", where(lambda z: z.amax(1) > z.mean()), lambda z: z > z.mean()):
        (gradient,) = torch.autograd.grad(scores(target, z).sum(), z)
        assert_same(gradient.flatten(1).sum(1), torch.ones(2).double())
        assert gradient.min() == 0


def test_half_precision_logits_are_averaged_in_float32():
    z = torch.full((1, 1, 300, 300), 3.0).half()
    for target in (None, 1, class_score(0), where(lambda z: z > 0), lambda z: z > 0):
        found = scores(target, z)
        assert (found.dtype, found.item()) == (torch.float32, 3.0)


# ------------------------------------------------------------------------------- what is empty


def background_only(z):
    with torch.no_grad():
        z[1, 0] = 1000
    return z


@pytest.mark.parametrize("target", [None, "best"])
def test_without_foreground_the_background_is_explained_with_a_warning(target):
    z = background_only(seg(3))
    with pytest.warns(MedcamWarning, match=r"foreground is predicted in sample\(s\) 1:.*target=k"):
        found = scores(target, z)
    assert_same(found[1], z[1, 0].mean()[None])
    assert_same(found[:1], scores(target, z[:1]))


@pytest.mark.parametrize("target", [2, "all", [1, 2], classes(2, 0)])
def test_a_class_that_is_nowhere_predicted_is_explained_everywhere_with_a_warning(target):
    z = background_only(seg(3))
    with pytest.warns(MedcamWarning, match=r"nowhere predicted in sample\(s\) 1"):
        found = resolve(target, z, Notices())
    labels = found.target.classes
    for column, k in enumerate(labels[1].tolist()):
        assert_same(found.values[1, column], z[1, k].mean())
    assert (found.target.voxels[1] == 30).all()
    assert_same(
        found.values[0, 0], mean_over(z[:1, labels[0, 0]], z[:1].argmax(1) == labels[0, 0])[0]
    )


EMPTY = torch.stack([torch.ones(6, 5), torch.zeros(6, 5)]).bool()


@pytest.mark.parametrize(
    "target", [region(EMPTY, 1), where(lambda z: EMPTY), where(lambda z: EMPTY, 1), lambda z: EMPTY]
)
def test_an_empty_set_scores_zero_without_a_gradient_and_warns(target):
    z = seg(4)
    with pytest.warns(MedcamWarning, match=r"empty for sample\(s\) 1"):
        found = resolve(target, z, Notices())
    (gradient,) = torch.autograd.grad(found.values.sum(), z)
    assert found.values[1] == 0
    assert not gradient[1].any()
    assert gradient[0].any()
    assert found.target.voxels.tolist() == [[30], [0]]


def test_an_empty_set_gives_a_map_of_zeros():
    net, x = UNet().eval(), image(size=8)
    mask = torch.zeros(2, 8, 8)
    mask[0] = 1
    ask = {"method": "hirescam", "layer": "bottleneck", "target": region(mask, 1)}
    with pytest.warns(MedcamWarning, match="map is zero"):
        values = medcam.explain(net, x, **ask).map.values
    assert values[0].any()
    assert not values[1].any()


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("target", "shape", "said"),
    [
        (3, (2, 3), "classes 0 to 2"),
        (-1, (2, 3), "Class -1"),
        (2, (2, 1), "classes 0 to 1"),
        (3, (2, 3, 4, 4), "classes 0 to 2"),
        ([0, 3], (2, 3), "Class 3"),
        (classes(0, 7), (2, 3), "Class 7"),
        (class_score(3), (2, 3, 4, 4), "Channel 3"),
        (class_score(1), (2, 1, 4, 4), "the output has 1"),
        (voxel((0, 4), 1), (2, 3, 4, 4), "Voxel (0, 4)"),
        (voxel((0, 0, 0), 1), (2, 3, 4, 4), "(4, 4)"),
        (voxel((0, 0), 3), (2, 3, 4, 4), "Class 3"),
        (voxel((0,), 0), (2, 3), "shape is ()"),
        ([0], (2, 3), "1 classes were given for a batch of 2"),
        ([0, 1, 2], (2, 3), "targets.classes"),
        (torch.tensor([0, 1, 2]), (2, 3, 4, 4), "one class per sample"),
        ([], (2, 3), "batch of 2"),
        ("worst", (2, 3), "'best', 'all'"),
        (None, (2, 3, 7), "neither [batch, classes] nor"),
        (where(lambda z: z), (2, 3, 4, 4), "boolean mask"),
        (where(lambda z: z[0] > 0), (2, 3, 4, 4), "[2, 3, 4, 4]"),
        (where(lambda z: z > 0, 1), (2, 3, 4, 4), "without the class axis"),
        (where(lambda z: z.amax(1) > 0, 3), (2, 3, 4, 4), "Class 3"),
        (region(torch.ones(4, 4), 3), (2, 3, 4, 4), "Class 3"),
    ],
)
def test_targets_that_do_not_fit(target, shape, said):
    with pytest.raises(TargetError) as error:
        scores(target, logits_of(0, *shape))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("mask", "shape", "said"),
    [
        (torch.ones(5, 4), (2, 3, 4, 4), "[2, 3, 4, 4]"),
        (torch.ones(3, 4, 4), (2, 3, 4, 4), "(2, 4, 4)"),
        (torch.ones(2, 3, 4, 4), (2, 3, 4, 4), "(2, 3, 4, 4)"),
        (torch.full((4, 4), 2), (2, 3, 4, 4), "mask == 2"),
        (torch.full((4, 4), 0.5), (2, 3, 4, 4), "0 and 1"),
        (torch.ones(2), (2, 3), "region"),
    ],
)
def test_regions_that_do_not_fit(mask, shape, said):
    with pytest.raises(MaskError) as error:
        scores(region(mask, 1), logits_of(0, *shape))
    assert said.strip("[]") in str(error.value) or "(4, 4)" in str(error.value)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "target", [True, 1.5, [0.5, 1.5], torch.tensor([0.5, 1.5]), torch.eye(2).long(), ["0", "1"]]
)
def test_objects_that_are_no_target(target):
    with pytest.raises(InputTypeError) as error:
        scores(target, logits_of(0, 2, 3))
    assert "one class per sample" in str(error.value)


def test_classes_needs_a_class():
    with pytest.raises(TargetError, match=r"targets\.classes\(1, 2\)"):
        classes()


# -------------------------------------------------------------------------- through the pipeline


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "target",
    [None, "best", "all", 1, [2, 1], torch.tensor([2, 1]), classes(2, 1), lambda z: z[:, 1]],
)
def test_maps_come_from_the_gradient_of_the_score(dims, target):
    net, x = Classifier(dims).double().eval(), image(dims, size=8).double()
    found = medcam.explain(net, x, method="saliency", target=target)
    given = x.clone().requires_grad_()
    expected = scores(target, net(given))
    assert found.map.values.shape[1] == expected.shape[1]
    for column in range(expected.shape[1]):
        (gradient,) = torch.autograd.grad(expected[:, column].sum(), given, retain_graph=True)
        assert torch.equal(found.map.values[:, column], gradient.abs().amax(1))


@pytest.mark.parametrize(
    "target", [None, "best", class_score(0), voxel((3, 3), 1), lambda z: z > 0]
)
def test_maps_of_a_segmentation_come_from_the_gradient_of_the_score(target):
    net, x = UNet(classes=2).double().eval(), image(size=8).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedcamWarning)
        found = medcam.explain(net, x, method="saliency", target=target)
        given = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(scores(target, net(given)).sum(), given)
    assert torch.equal(found.map.values[:, 0], gradient.abs().amax(1))


def test_the_resolved_target_is_kept_and_logged(caplog):
    caplog.set_level("INFO", logger="medcam")
    net, x = Classifier().eval(), image()
    found = medcam.explain(net, x, method="saliency")
    assert torch.equal(found.target.classes[:, 0], net(x).argmax(1))
    assert found.map.target is found.target
    assert found.target.description in caplog.text


def test_a_map_without_a_spatial_class_axis():
    """[batch, *space] logits, of a model that squeezes its one channel."""

    class Squeezed(UNet):
        def forward(self, x):
            return super().forward(x)[:, 0]

    torch.manual_seed(1)
    net, x = Squeezed(classes=1).eval(), image(size=8)
    nn.init.constant_(net.head.bias, 1.0)
    found = medcam.explain(net, x, method="saliency", target=1)
    given = x.clone().requires_grad_()
    z = net(given)
    (gradient,) = torch.autograd.grad(mean_over(z, z > 0).sum(), given)
    torch.testing.assert_close(found.map.values, gradient.abs())
