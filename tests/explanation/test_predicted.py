"""What the network predicted: classes, probabilities, volumes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import medcam
from medcam.errors import InputError, MedcamWarning


class Fixed(nn.Module):
    """A network whose logits do not depend much on the image."""

    def __init__(self, logits, final=None):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.register_buffer("logits", torch.tensor(logits))
        self.final = final or nn.Identity()

    def forward(self, x):
        tiny = 1e-9 * self.conv(x).mean((1, 2, 3))
        return self.final(self.logits + tiny[:, None])


def said(logits, final=None, **options):
    model = Fixed(logits, final).eval()
    explanation = medcam.explain(model, torch.rand(1, 1, 8, 8), layer="conv", target=0)
    return medcam.prediction_of(explanation, **options)


def test_softmax_is_assumed_and_said():
    logits = [1.0, 3.0, 0.5]
    prediction = said(logits, names=["healthy", "lesion", "scar"])
    total = sum(math.exp(z) for z in logits)
    for item, z in zip(prediction.classes, logits, strict=True):
        assert item.logit == pytest.approx(z, abs=1e-5)
        assert item.probability == pytest.approx(math.exp(z) / total, abs=1e-6)
    assert [item.name for item in prediction.predicted] == ["lesion"]
    assert str(prediction) == "lesion 0.82 (softmax, assumed)"
    assert prediction.to_dict()["probabilities_are_assumed"] is True


@pytest.mark.parametrize(
    ("word", "names", "values"),
    [
        ("softmax", ["class 1"], [0.1173, 0.8668]),
        ("sigmoid", ["class 0", "class 1"], [0.7311, 0.9526]),
        ("none", ["class 1"], None),
    ],
)
def test_the_function_that_is_named(word, names, values):
    prediction = said([1.0, 3.0, -1.0], probabilities=word)
    assert [item.name for item in prediction.predicted] == names
    assert not prediction.is_assumed
    found = [item.probability for item in prediction.classes[:2]]
    assert found == ([None, None] if values is None else pytest.approx(values, abs=1e-4))


def test_a_model_that_ends_in_a_softmax_has_probabilities_and_no_logits():
    with pytest.warns(MedcamWarning, match="softmax"):
        prediction = said([1.0, 3.0, 0.5], nn.Softmax(1))
    assert prediction.activation == "softmax"
    assert not prediction.is_assumed
    assert prediction.classes[1].logit is None
    assert prediction.classes[1].probability == pytest.approx(0.8214, abs=1e-3)
    with pytest.warns(MedcamWarning, match="softmax"):
        logs = said([1.0, 3.0, 0.5], nn.LogSoftmax(1))
    assert logs.classes[1].probability == pytest.approx(0.8214, abs=1e-3)


def test_several_labels_of_a_model_that_ends_in_a_sigmoid():
    with pytest.warns(MedcamWarning, match="sigmoid"):
        prediction = said([2.0, -1.0, 0.5], nn.Sigmoid(), truth=[0, 2])
    assert [item.label for item in prediction.predicted] == [0, 2]
    assert prediction.is_correct is True


@pytest.mark.parametrize(("logit", "label"), [(0.7, 1), (-0.7, 0)])
def test_one_logit_is_that_of_class_1(logit, label):
    prediction = said([logit], truth=[1])
    assert [item.label for item in prediction.predicted] == [label]
    assert prediction.classes[1].logit == pytest.approx(logit, abs=1e-5)
    assert prediction.classes[0].logit is None
    p = 1 / (1 + math.exp(-logit))
    assert [item.probability for item in prediction.classes] == pytest.approx([1 - p, p], abs=1e-5)
    assert prediction.is_correct == (label == 1)
    assert str(prediction).endswith(": correct" if label == 1 else ": not correct")


def test_volumes_of_a_segmentation_in_ml():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(1, 3, 1)

        def forward(self, x):
            z = 1e-9 * self.conv(x)
            z[:, 0] += 0.5
            z[:, 1, :2] += 1
            z[:, 2, 2:, :1] += 1
            return z

    explanation = medcam.explain(Net().eval(), torch.rand(1, 1, 4, 5, 6), layer="conv", target=1)
    prediction = medcam.prediction_of(
        explanation, names={1: "liver", 2: "tumour"}, spacing=(2.0, 1.5, 1.0)
    )
    assert prediction.classes[1].voxels == 2 * 5 * 6
    assert prediction.classes[2].voxels == 2 * 6
    assert prediction.classes[1].size == pytest.approx(60 * 3 / 1000)
    assert prediction.unit == "ml"
    assert str(prediction) == "liver 0.18 ml, tumour 0.036 ml"
    plain = medcam.prediction_of(explanation)
    assert str(plain) == "class 1 60 voxels, class 2 12 voxels"
    assert "unit" not in plain.to_dict()


def test_regions_may_overlap():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 1)

        def forward(self, x):
            z = 1e-9 * self.conv(x) - 1
            z[:, 0, :4] += 2
            z[:, 1, :2] += 2
            return z

    target = medcam.targets.region_class(0)
    explanation = medcam.explain(Net().eval(), torch.rand(1, 1, 6, 6), layer="conv", target=target)
    prediction = medcam.prediction_of(explanation, spacing=(0.5, 0.5))
    assert [item.voxels for item in prediction.classes] == [24, 12]
    assert prediction.classes[0].size == pytest.approx(24 * 0.25)
    assert prediction.unit == "mm²"
    assert str(prediction) == "class 0 6 mm², class 1 3 mm²"  # region 0 is a finding
    with pytest.raises(InputError, match="true class is known of classifications"):
        medcam.prediction_of(explanation, truth=[1])


def test_a_single_channel_that_ends_in_a_log_sigmoid():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x):
            z = 1e-9 * self.conv(x) - 1
            z[:, :, :2] += 2
            return nn.functional.logsigmoid(z)

    with pytest.warns(MedcamWarning, match="sigmoid"):
        explanation = medcam.explain(Net().eval(), torch.rand(1, 1, 6, 6), layer="conv", target=1)
    prediction = medcam.prediction_of(explanation)
    assert [item.voxels for item in prediction.classes] == [24, 12]
    assert str(prediction) == "class 1 12 voxels"


def test_the_samples_of_a_batch():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 1, bias=False)
            nn.init.constant_(self.conv.weight[:1], -1)
            nn.init.constant_(self.conv.weight[1:], 1)

        def forward(self, x):
            return self.conv(x).mean((2, 3))

    images = torch.stack([torch.full((1, 4, 4), value) for value in (2.0, -3.0)])
    explanation = medcam.explain(Mean().eval(), images, layer="conv", target=1)
    labels = [
        medcam.prediction_of(explanation, sample=number).predicted[0].label for number in (0, 1)
    ]
    assert labels == [1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probabilities": "logistic"}, "choose auto, softmax"),
        ({"names": ["a", "b", "c", "d"]}, "the classes 0 to 2: there is no class 3"),
        ({"truth": [3]}, "The true class 3 does not exist"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InputError, match=message):
        said([1.0, 3.0, 0.5], **options)
