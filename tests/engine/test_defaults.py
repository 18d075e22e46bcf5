"""The default method suits what is explained, and maps that may mislead are said to."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn

import medcam
from medcam import demo
from medcam.errors import MedcamWarning
from medcam.maps import LayerGrid, place, resample
from medcam.methods import METHODS, get
from medcam.methods.grad_cam import grad_cam
from medcam.targets import box, class_score, region, voxel, where
from support.detectors import CellDetector
from support.nets import Classifier, UNet, balanced, image

pytestmark = pytest.mark.usefixtures("unchecked_layer")
MASK = torch.zeros(12, 12)
MASK[2:6, 2:6] = 1


def segmenter() -> UNet:
    torch.manual_seed(0)
    return balanced(UNet(2), 2)


# -------------------------------------------------------------------------------- which method


@pytest.mark.parametrize(
    ("target", "method"),
    [
        (None, "layercam"), (1, "layercam"), ("best", "layercam"), (class_score(1), "layercam"),
        (where(lambda z: z[:, 1] > 0, k=1), "layercam"),
        (lambda z: z[:, 1].mean((1, 2)), "layercam"),
        (region(MASK, 1), "segxrescam"), (voxel((3, 4), 1), "segxrescam"),
    ],
)  # fmt: skip
def test_segmentations(target, method):
    found = medcam.explain(segmenter(), image(), target=target)
    assert found.map.method == method
    named = medcam.explain(segmenter(), image(), target=target, method=method)
    del named  # the same call with the name is allowed
    windows = medcam.explain_volume(segmenter(), image(), 12, target=target)
    assert windows.map.method == method


def test_classifications_and_injected_models():
    assert medcam.explain(Classifier().eval(), image()).map.method == "gcam"
    model = medcam.inject(Classifier().eval())
    model(image())
    assert model.get_explanation().map.method == "gcam"
    model = medcam.inject(segmenter())
    model(image())
    assert model.get_explanation().map.method == "layercam"
    model = medcam.inject(segmenter(), label=region(MASK, 1))
    model(image())
    assert model.get_explanation().map.method == "segxrescam"


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_auto_survives_copies(copied):
    methods = medcam.methods.for_target(
        [copied(get("auto"))], medcam.explain(Classifier().eval(), image()).target
    )
    assert methods == (METHODS["gcam"],)


def test_auto_among_others_is_not_computed_twice():
    found = medcam.explain(segmenter(), image(), method=["auto", "layercam", "hirescam"])
    assert [key[0] for key in found.maps] == ["layercam", "hirescam"]


# --------------------------------------------------------------------------- yesterday's defaults


def test_grad_cam_resized_is_that_of_hooks_and_autograd_bit_for_bit():
    net, x = Classifier().eval(), image()
    kept: list[Tensor] = []
    net.features.register_forward_hook(lambda m, i, o: kept.append(o))
    scores = net(x)[:, 1].sum()
    (grads,) = torch.autograd.grad(scores, kept[0])
    net.features._forward_hooks.clear()
    cam = grad_cam(kept[0].detach(), grads)[:, None]
    ask = {"method": "gcam", "layer": "features", "target": 1}
    found = medcam.explain(net, x, placement="resize", **ask)
    assert torch.equal(found.map.values, resample(cam, (12, 12)))
    placed = medcam.explain(net, x, **ask)
    grid = placed.map.grid
    assert isinstance(grid, LayerGrid)
    assert torch.equal(placed.map.values, place(cam, grid, (12, 12), (12, 12)))


def test_the_window_rule_is_as_it_was_bit_for_bit():
    """Each window weighs its channels by itself; the mean of the signed maps is rectified once."""
    net, x = segmenter(), image(batch=1, size=18)
    ask = {"method": "gcam", "layer": "bottleneck", "target": class_score(1)}
    found = medcam.explain_volume(net, x, 12, overlap=0.5, mode="constant",
                                  channel_weights="window", **ask)  # fmt: skip
    total, count = torch.zeros(18, 18), torch.zeros(18, 18)
    signed = get("gcam", rectify=False)
    places = [(slice(a, a + 12), slice(b, b + 12)) for a in (0, 6) for b in (0, 6)]
    for window in places:
        count[window] += 1
    for window in places:
        share = torch.ones(4, 18, 18)[(0, *window)] / (18 * 18)

        def score(z: Tensor, share: Tensor = share) -> Tensor:
            return (z[:, 1] * share).flatten(1).sum(1)

        part = medcam.explain(net, x[(..., *window)], **{**ask, "method": signed, "target": score})
        total[window] += part.map.values[0, 0]
    assert torch.allclose(found.map.values[0, 0], (total / count).relu(), atol=1e-9)


# ------------------------------------------------------------------------------ parts and methods


@pytest.mark.parametrize("method", ["gcam", "gcampp", "xgradcam"])
@pytest.mark.parametrize("target", [region(MASK, 1), voxel((3, 4), 1)])
def test_methods_with_one_weight_per_channel_cannot_explain_a_part(method, target):
    title = METHODS[method].title.replace("+", r"\+")
    with pytest.warns(MedcamWarning, match=rf"{title} cannot explain a part .*segxrescam"):
        medcam.explain(segmenter(), image(), method=method, target=target)
    with pytest.warns(MedcamWarning, match=rf"{title} cannot explain a part") as told:
        medcam.explain_volume(segmenter(), image(), 12, method=method, target=target)
    assert (
        len([item for item in told if "cannot explain" in str(item.message)]) == 1
    )  # not by window


@pytest.mark.parametrize("method", ["hirescam", "layercam", "segxrescam", "ggcam", "auto"])
def test_other_methods_can(method):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        medcam.explain(segmenter(), image(), method=method, target=region(MASK, 1))
    assert not [item for item in told if "cannot explain" in str(item.message)]


# ------------------------------------------------------------------------------------- agreement


def lesions() -> Tensor:
    slices = demo.load_lesion_slices()
    return slices.images[slices.labels == 1][:4]


def test_grad_cam_that_disagrees_is_warned_of():
    """At relu4 of the lesion network Grad-CAM misses the lesion (docs/how-to/layer.md)."""
    net = demo.load_lesion_classifier()
    with pytest.warns(
        MedcamWarning, match=r"Grad-CAM and Seg-XRes-CAM hardly agree at layer 'relu4'"
    ):
        medcam.explain(net, lesions(), target=1, layer="relu4", method="gcam")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        medcam.explain(net, lesions(), target=1, method="gcam")  # relu6: they agree
        medcam.explain(net, lesions(), target=1, layer="relu4", method="hirescam")


def test_every_layer_and_several_targets_are_not_compared():
    net = demo.load_lesion_classifier()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        medcam.explain(net, lesions(), target=1, layer="full", method="gcam")
        medcam.explain(net, lesions(), target="all", layer="relu4", method="gcam")
    assert not [item for item in told if "hardly agree" in str(item.message)]


class Opposed(nn.Module):
    """A network with evidence in one half only, while the other half decides the mean gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(1, 2, 1, bias=False), nn.ReLU()
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(
            self.conv(x)
        )  # channel 0 where the image is bright, channel 1 where it is dark
        weight = torch.ones_like(y)
        weight[:, 1], weight[:, 1, :, :4] = -1.0, 6.0
        z = (y * weight).sum(1, keepdim=True)
        return torch.cat([-z, z], 1)


@pytest.mark.parametrize("windows", [False, True])
def test_windows_are_compared_in_the_mean(windows):
    x = torch.ones(1, 1, 12, 12)
    x[..., 4:] = -1.0  # bright at the left, dark at the right
    ask = {"layer": "act", "method": "gcam", "target": class_score(1)}
    if windows:
        ask.update(roi_size=12, mode="constant")
    explain = medcam.explain_volume if windows else medcam.explain
    with pytest.warns(MedcamWarning, match="Grad-CAM and Seg-XRes-CAM hardly agree") as told:
        explain(Opposed().eval(), x, **ask)
    assert ("in the windows" in str(told[-1].message)) == windows


def test_detections_have_grad_cam():
    found = medcam.explain(CellDetector().eval(), image(size=32), target=box())
    assert found.map.method == "gcam"
