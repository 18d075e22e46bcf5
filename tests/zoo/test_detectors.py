"""torchvision's and MONAI's detectors: predictions untouched, maps against autograd alone."""

from __future__ import annotations

import pytest
import torch

import medcam
from medcam.targets import box
from support.detectors import make_detectors_runnable, monai_detector, nms, torchvision_detector

make_detectors_runnable()

KINDS = ("retinanet", "fcos", "fasterrcnn")


@pytest.fixture(scope="module")
def detectors():
    return {kind: torchvision_detector(kind) for kind in KINDS}


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.rand(2, 3, 40, 40)


def scores_of(output, index):
    return [image[key][index] for image in output for key in image if key.endswith("scores")]


def by_hooking(detector, module, x, index):
    """Return a layer's activations and the gradients of the scores, from a hook and autograd."""
    kept = []

    def hook(_, __, output):
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    handle = module.register_forward_hook(hook)
    output = detector(x)
    handle.remove()
    (grads,) = torch.autograd.grad(sum(scores_of(output, index)), kept[0])
    return kept[0].detach(), grads


def close(found, expected):
    assert expected.abs().flatten(1).amax(1).min() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", [0, 3])
def test_maps_of_torchvisions_detectors(detectors, kind, index, x):
    detector = detectors[kind]
    activations, grads = by_hooking(detector, detector.detector.backbone, x, index)
    options = {"target": box(index=index), "layer": "detector.backbone", "shape": None}
    hires = medcam.explain(detector, x, method="hirescam", **options)
    close(hires.map.values[:, 0], (grads * activations).sum(1))
    weights = grads.mean((2, 3), keepdim=True)
    grad_cam = medcam.explain(detector, x, **options).map.values[:, 0]
    torch.testing.assert_close(
        grad_cam, (weights * activations).sum(1).relu(), rtol=1e-4, atol=1e-9
    )


@pytest.mark.parametrize("kind", KINDS)
def test_saliency_of_torchvisions_detectors(detectors, kind, x):
    found = medcam.explain(detectors[kind], x, target=box(index=1), method="saliency").map.values
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(sum(scores_of(detectors[kind](x), 1)), x)
    close(found[:, 0], grad.abs().amax(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:The target also depends on")  # the centerness of FCOS
def test_the_detections_are_those_without_medcam(detectors, kind, x):
    with torch.no_grad():
        expected = detectors[kind](x)
    found = medcam.explain(detectors[kind], x, method=["gcam", "saliency"]).output
    for ours, theirs in zip(found, expected, strict=True):
        for key, values in theirs.items():
            assert not ours[key].requires_grad
            torch.testing.assert_close(ours[key], values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_maps_of_monais_retinanet(dims):
    """MONAI deep-copies its boxes, which PyTorch refuses within a graph."""
    detector, x = monai_detector(dims), torch.rand(1, 1, *[32] * dims)
    with torch.no_grad():
        expected = detector(x)[0]
    assert len(expected["boxes"]) > 3
    assert expected["boxes"].shape[1] == 2 * dims
    target = box(expected["boxes"][2], int(expected["labels"][2]))
    explanation = medcam.explain(detector, x, target=target, method="saliency")
    for key, values in expected.items():
        torch.testing.assert_close(explanation.output[0][key], values, rtol=1e-5, atol=1e-5)
    # by hand: the detector's score is the sigmoid of one logit of the network
    leaf = x.clone().requires_grad_()
    logits = torch.cat([level.flatten() for level in detector.network(leaf)["classification"]])
    place = (logits.sigmoid() - expected["labels_scores"][2]).abs().argmin()
    (grad,) = torch.autograd.grad(logits[place].sigmoid(), leaf)
    close(explanation.map.values[:, 0], grad.abs()[:, 0])


def test_the_head_of_a_pyramid_is_explained_at_the_level_of_the_detection():
    """The head runs at each level; the other levels have no gradient."""
    detector, x = monai_detector(2), torch.rand(1, 1, 32, 32)
    output = detector.network(x)["classification"]
    with torch.no_grad():
        found = detector(x)[0]
    sizes = {tuple(level.shape[2:]) for level in output}
    assert len(sizes) > 1
    shapes = set()
    for index in range(len(found["labels_scores"])):
        explanation = medcam.explain(
            detector, x, target=box(index=index), layer="network.classification_head.conv",
            method="hirescam", shape=None,
        )  # fmt: skip
        assert explanation.map.values.any()
        level = next(
            level
            for level in output
            if ((level.sigmoid() - found["labels_scores"][index]).abs() < 1e-6).any()
        )
        shapes.add(tuple(level.shape[2:]))
        assert tuple(explanation.map.values.shape[2:]) == tuple(level.shape[2:])
    assert shapes == sizes


def test_injected_monai_detectors():
    detector, x = monai_detector(2), torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        expected = detector(x)[0]
        injected = medcam.inject(detector, label=box(index=1), backend="saliency")
        found = injected(x)[0]
    assert found.keys() == expected.keys()
    values = medcam.explain(detector, x, target=box(index=1), method="saliency").map
    assert injected.get_attention_map() == pytest.approx(values.normalized().numpy(), abs=1e-6)


def test_deep_copies_outside_of_a_call_stay_refused():
    import copy

    leaf = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(leaf * 2)


def test_the_suppression_of_the_tests_by_hand():
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 5, 10.0]])
    scores = torch.tensor([0.8, 0.9, 0.1, 0.5])
    assert nms(boxes, scores, 0.5).tolist() == [1, 3, 2]  # 0 overlaps with 1 by 0.9
    assert nms(boxes, scores, 0.4).tolist() == [1, 2]
    assert nms(boxes, scores, 0.95).tolist() == [1, 0, 3, 2]


def test_the_logits_of_monais_network():
    """What docs/how-to/detection.md says of scores that are 1 up to rounding."""
    detector, x = monai_detector(2), torch.rand(1, 1, 32, 32)
    found = medcam.explain(
        detector.network, x, method="saliency", output=lambda out: out["classification"][0],
        target=lambda logits: logits[:, 1, 5, 7],
    )  # fmt: skip
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(detector.network(leaf)["classification"][0][0, 1, 5, 7], leaf)
    close(found.map.values[:, 0], grad.abs()[:, 0])
