"""`targets.box`: which detection is explained, its score's map, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import medcam
from medcam.engine.model.detections import detections_of
from medcam.errors import InputTypeError, MedcamWarning, TargetError
from medcam.targets import box
from support.detectors import CellDetector
from support.methods import ONCE


@pytest.fixture
def net():
    return CellDetector().double().eval()


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.rand(2, 1, 16, 16, dtype=torch.float64)


def saliency_of(net, x, chosen):
    """Return |d score / d x| of one detection in each sample, by autograd alone."""
    x = x.clone().requires_grad_()
    output = net(x)
    total = sum(output[sample]["scores"][number] for sample, number in enumerate(chosen))
    (grad,) = torch.autograd.grad(total, x)
    return grad.abs().amax(1)


def assert_explained(net, x, target, chosen):
    """Assert that a target is the detections of these numbers, one in each sample."""
    found = medcam.explain(net, x, target=target, method="saliency")
    expected = saliency_of(net, x, chosen)
    assert expected.flatten(1).any(1).all()
    torch.testing.assert_close(found.map.values[:, 0], expected, rtol=0, atol=1e-14)
    labels = [net(x)[sample]["labels"][number] for sample, number in enumerate(chosen)]
    assert found.target.task == "detection"
    assert found.target.classes[:, 0].tolist() == [int(label) for label in labels]


# ---------------------------------------------------------------------- which detection is it


@pytest.mark.parametrize("target", [None, "best", box()])
def test_by_default_the_best_scored_detection(net, x, target):
    assert_explained(net, x, target, [0, 0])


def test_a_detection_by_its_number(net, x):
    assert_explained(net, x, box(index=3), [3, 3])
    assert_explained(net, x, box(index=[1, 4]), [1, 4])


def test_the_detection_that_overlaps_most(net, x):
    boxes = [net(x)[sample]["boxes"][2].tolist() for sample in range(2)]
    assert_explained(net, x, box(boxes), [2, 2])
    shifted = [[corner + 1.5 for corner in corners] for corners in boxes]
    assert_explained(net, x, box(torch.tensor(shifted)), [2, 2])


@pytest.mark.parametrize("as_box", [True, False])
def test_the_best_detection_of_a_class(net, x, as_box):
    output = net(x)
    labels = [sample["labels"].tolist() for sample in output]
    wanted = [max(set(row), key=row.index) for row in labels]  # the class that comes last
    chosen = [row.index(label) for row, label in zip(labels, wanted, strict=True)]
    assert chosen != [0, 0]
    assert_explained(net, x, box(label=wanted) if as_box else wanted, chosen)


def test_a_class_wins_over_the_overlap(net, x):
    """The box is that of a detection of another class: the nearest of the class is taken."""
    output = net(x[:1])[0]
    labels = output["labels"].tolist()
    other = next(i for i, label in enumerate(labels) if label != labels[0])
    everywhere = [0.0, 0.0, 16.0, 16.0]
    candidates = [i for i, label in enumerate(labels) if label == labels[other]]
    assert_explained(net, x[:1], box(everywhere, labels[other]), [candidates[0]])


def test_overlap_by_hand_in_three_axes():
    from medcam.engine.target.boxes import _intersection_over_union

    boxes = torch.tensor([[0, 0, 0, 2, 2, 2], [1, 1, 1, 3, 3, 3], [5, 5, 5, 6, 6, 6.0]])
    found = _intersection_over_union(boxes, (1, 1, 1, 2, 2, 4))
    shared, volume = [1, 1 * 1 * 2, 0], 1 * 1 * 3
    expected = [s / (v + volume - s) for s, v in zip(shared, (8, 8, 1), strict=True)]
    assert found.tolist() == pytest.approx(expected)


# ------------------------------------------------------------------------------ the whole library


@pytest.mark.parametrize("method", ONCE)
def test_every_method_explains_a_detection_as_the_score_it_is(net, x, method):
    class Score(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return torch.stack([sample["scores"][:2] for sample in self.net(x)])

    found = medcam.explain(net, x, target=box(index=1), method=method, layer="features")
    expected = medcam.explain(
        Score(), x, target=lambda scores: scores[:, 1], method=method, layer="net.features"
    )
    torch.testing.assert_close(found.map.values, expected.map.values, rtol=0, atol=1e-14)
    assert found.map.values.any()


def test_a_sample_in_a_batch_is_the_sample_alone(net, x):
    together = medcam.explain(net, x, target=box(index=[2, 1])).map.values
    for sample, index in enumerate((2, 1)):
        alone = medcam.explain(net, x[sample : sample + 1], target=box(index=index)).map.values
        torch.testing.assert_close(together[sample : sample + 1], alone, rtol=0, atol=1e-14)


def test_injected_detectors_return_their_detections(net, x):
    expected = net(x)
    injected = medcam.inject(net, label=box(index=2), layer="features", data_shape=None)
    with torch.no_grad():
        output = injected(x)
    for ours, theirs in zip(output, expected, strict=True):
        assert list(ours) == list(theirs)
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key].detach(), rtol=0, atol=0)
    found = medcam.explain(net, x, target=box(index=2), layer="features", shape=None)
    values = found.map.normalized().numpy()
    assert injected.get_attention_map() == pytest.approx(values, abs=1e-12)


def test_a_function_of_the_detections(net, x):
    found = medcam.explain(
        net, x, method="saliency",
        target=lambda detections: torch.stack([d["scores"][:2].sum() for d in detections]),
    )  # fmt: skip
    x = x.clone().requires_grad_()
    total = sum(sample["scores"][:2].sum() for sample in net(x))
    (grad,) = torch.autograd.grad(total, x)
    torch.testing.assert_close(found.map.values[:, 0], grad.abs()[:, 0], rtol=0, atol=1e-14)


def test_the_record_of_a_detection(net, x, tmp_path):
    label = int(net(x[:1])[0]["labels"][1])
    explanation = medcam.explain(net, x[:1], target=box(index=1))
    record = json.loads(explanation.save(tmp_path / "case", report=False)[-1].read_text())
    (entry,) = record["maps"]
    assert entry["target"]["description"] == "detection 1"
    assert entry["target"]["class"] == label
    assert entry["target"]["task"] == "detection"


class WithLosses(nn.Module):
    """A detector whose detections are a part of the output, as torchvision's scripted ones."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return {"losses": torch.zeros(()), "found": self.net(x)}


def test_detections_are_chosen_from_the_output(net, x):
    found = medcam.explain(WithLosses(net), x, output="found", target=1, method="saliency")
    expected = medcam.explain(net, x, target=1, method="saliency")
    assert torch.equal(found.map.values, expected.map.values)


@pytest.mark.parametrize(
    "keys", [("boxes", "scores", "labels"), ("box", "label_scores", "label"),
             ("boxes", "labels_scores", "labels")],
)  # fmt: skip
def test_the_keys_of_torchvision_and_monai(keys):
    values = torch.zeros(3, 4), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([5, 6, 7])
    (image,) = detections_of([dict(zip(keys, values, strict=True))], 1)
    assert torch.equal(image.boxes, values[0])
    assert torch.equal(image.scores, values[1])
    assert torch.equal(image.labels, values[2])


@pytest.mark.parametrize(
    "output",
    [
        torch.zeros(2, 3),
        [torch.zeros(1, 3)] * 2,
        [{"out": torch.zeros(1, 3)}] * 2,
        [{"boxes": torch.zeros(3, 4)}] * 2,
        [{"boxes": torch.zeros(3, 4), "scores": torch.zeros(2)}] * 2,
        [{"boxes": torch.zeros(3, 4), "scores": torch.zeros(3)}],
        {"classification": torch.zeros(()), "bbox_regression": torch.zeros(())},
        None,
    ],
)
def test_what_holds_no_detections(output):
    assert detections_of(output, 2) is None


class Certain(nn.Module):
    """A detector whose first image has scores of 1 up to rounding."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        first, second = self.net(x)
        return [{**first, "scores": 1 - 1e-9 * first["scores"]}, second]


def test_scores_without_a_gradient_are_told(net, x):
    with pytest.warns(MedcamWarning, match=r"is 1 up to rounding in sample\(s\) 0: its gradient"):
        medcam.explain(Certain(net), x, method="saliency")


# ----------------------------------------------------------------------------------- what is wrong


def refused(net, x, target, *words):
    with pytest.raises(TargetError) as raised:
        medcam.explain(net, x, target=target)
    missing = [word for word in words if word not in str(raised.value)]
    assert not missing, str(raised.value)


def test_what_there_is_is_listed_if_no_detection_fits(net, x):
    scores = [f"{score:.3g}" for score in net(x)[0]["scores"][:5].tolist()]
    refused(net, x, box((100, 100, 120, 120)), "box (100, 100, 120, 120) in sample 0",
            "There are: 0 (class", *scores, "and 1 more")  # fmt: skip
    refused(net, x, box(label=9), "no detection of class 9 in sample 0", *scores)
    refused(net, x, box((0, 0, 4, 4), 9), "no detection of class 9")
    refused(net, x, box(index=6), "Detection 6 does not exist in sample 0", *scores)
    refused(net, x, box((0, 0, 0, 4, 4, 4)), "6 coordinates", "have 4")
    refused(net, x, box(index=[0, 1, 2]), "3 boxes, labels or indices", "batch of 2")


def test_an_image_without_detections(x):
    refused(CellDetector(keep=0).double().eval(), x, None, "no detection in sample 0",
            "box_score_thresh", "set_box_selector_parameters")  # fmt: skip


def test_targets_of_other_outputs(net, x):
    refused(net, x, "all", "returns detections", "targets.box")
    refused(net, x, medcam.targets.voxel((1, 1), 0), "returns detections", "voxel (1, 1)")
    refused(net, x, lambda found: found[0]["boxes"], "target returned", "[batch] = [2]")


def test_a_box_of_a_model_that_detects_nothing(x):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(2)).double()
    net(x)
    refused(net, x, box(), "no boxes with scores", "model.eval()")
    segmenter = nn.Conv2d(1, 2, 3, padding=1).double()
    with pytest.raises(TargetError, match="no boxes with scores"):
        medcam.explain_volume(segmenter, x, 8, target=box(), layer="")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"box": (1, 2, 3)}, "is no box"),
        ({"box": (5, 5, 1, 1)}, "is no box"),
        ({"box": "nodule"}, "is no box"),
        ({"box": []}, "is no box"),
        ({"label": 1.5}, "label=float 1.5"),
        ({"label": True}, "label=bool True"),
        ({"index": "first"}, "index=str 'first'"),
        ({"index": 1, "label": 2}, "without a box and a label"),
    ],
)
def test_arguments_that_are_no_box(arguments, words):
    with pytest.raises(TargetError, match=words):
        box(**arguments)


def test_a_float_is_no_class_of_a_detection(net, x):
    with pytest.raises(InputTypeError, match="is not a target"):
        medcam.explain(net, x, target=torch.tensor([0.5, 1.0]))
