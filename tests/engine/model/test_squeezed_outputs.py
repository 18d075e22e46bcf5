"""Outputs from which ``squeeze()`` removed the batch axis of the only sample, and more."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import medcam
from medcam.engine.model.outputs import select
from medcam.errors import InputError, MedcamWarning
from support.nets import Classifier, UNet

pytestmark = pytest.mark.filterwarnings("ignore:The one output is read as the logit")


class Packed(nn.Module):
    def __init__(self, net: nn.Module, pack) -> None:
        super().__init__()
        self.net, self.pack = net, pack

    def forward(self, x: Tensor):
        return self.pack(self.net(x))


def squeezed(z: Tensor) -> Tensor:
    return z.squeeze()


NETS = {
    "one logit": lambda: (Classifier(classes=1), (12, 12)),
    "three classes": lambda: (Classifier(classes=3), (12, 12)),
    "3D, one logit": lambda: (Classifier(3, classes=1), (8, 8, 6)),
    "one channel": lambda: (UNet(classes=1), (12, 8)),
    "three channels": lambda: (UNet(classes=3), (12, 8)),
    "3D, one channel": lambda: (UNet(3, classes=1), (8, 12, 6)),
    "3D, three channels": lambda: (UNet(3, classes=3), (8, 12, 6)),
}


@pytest.mark.filterwarnings("ignore:.*predicted:medcam.errors.MedcamWarning")
@pytest.mark.parametrize("target", [None, 0, "all", "best"])
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("kind", NETS)
def test_maps_are_those_of_the_output_before_the_squeeze(kind, samples, target):
    net, space = NETS[kind]()
    net.eval()
    layer = "features.3" if isinstance(net, Classifier) else "bottleneck.0"
    x = torch.randn(samples, 1, *space)
    expected = medcam.explain(net, x, layer=layer, method="hirescam", target=target)
    for pack in (squeezed, lambda z: (z.squeeze(),), lambda z: {"out": z.squeeze()}):
        found = medcam.explain(
            Packed(net, pack), x, layer=f"net.{layer}", method="hirescam", target=target
        )
        torch.testing.assert_close(found.map.values, expected.map.values)
        assert found.map.target.description == expected.map.target.description


def test_a_vector_is_read_as_the_classes_of_the_only_sample():
    assert select(torch.rand(()), None, batch=1, space=(8, 8)).shape == (1,)
    assert select(torch.rand(1), None, batch=1, space=(8, 8)).shape == (1,)
    assert select(torch.rand(5), None, batch=1, space=(8, 8)).shape == (1, 5)
    assert select(torch.rand(8), None, batch=1, space=(8, 8)).shape == (1, 8)
    assert select(torch.rand(2), None, batch=2, space=(8, 8)).shape == (2,)


@pytest.mark.parametrize(
    ("shape", "space", "expected"),
    [
        ((8, 6), (8, 6), (1, 1, 8, 6)),
        ((3, 8, 6), (8, 6), (1, 3, 8, 6)),
        ((8, 8, 8), (8, 8), (1, 8, 8, 8)),  # eight channels
        ((8, 8, 8), (8, 8, 8), (1, 1, 8, 8, 8)),  # a volume
        ((1, 8, 6), (8, 6), (1, 1, 8, 6)),
        ((8, 6), (1, 8, 6), (1, 1, 1, 8, 6)),  # the axis of one slice is squeezed, too
        ((1, 8, 6), (1, 8, 6), (1, 1, 1, 8, 6)),
        ((3, 8, 6), (1, 8, 6), (1, 3, 1, 8, 6)),
        ((3, 1, 8, 6), (1, 8, 6), (1, 3, 1, 8, 6)),
        ((1, 3, 8, 6), (1, 8, 6), (1, 3, 8, 6)),  # only the slice: the batch axis is there
        ((1, 6), (1, 6), (1, 6)),  # six classes: the batch axis is there
    ],
)
def test_a_segmentation_gets_its_axes_back(shape, space, expected):
    z = torch.rand(shape)
    restored = select(z, None, batch=1, space=space)
    assert restored.shape == expected
    assert torch.equal(restored.flatten(), z.flatten())


@pytest.mark.parametrize(
    ("shape", "batch", "space"),
    [
        ((6,), 1, (1, 6)),  # six classes, or a row of voxels?
        ((3, 4, 4), 1, (8, 8)),  # neither classes nor on the image
        ((8, 6), 1, (6, 8)),
        ((), 2, (8, 8)),
        ((3,), 2, (8, 8)),
        ((8, 8), 2, (8, 8)),
    ],
)
def test_what_can_be_read_in_two_ways_or_none_is_refused(shape, batch, space):
    with pytest.raises(InputError, match=f"input holds {batch} sample") as error:
        select(torch.rand(shape), None, batch=batch, space=space)
    assert ("squeeze()" in str(error.value)) == (batch == 1)


def test_squeezed_logits_beside_tensors_with_a_batch_axis_are_asked_for():
    logits, features = torch.rand(3), torch.rand(1, 16, 4, 4)
    with pytest.warns(MedcamWarning, match=r"output\[0\] has shape \[3\].*output="):
        assert select((logits, features), None, batch=1, space=(8, 8)) is features
    assert torch.equal(select((logits, features), 0, batch=1, space=(8, 8))[0], logits)
    # nothing is to be asked where what has the batch axis comes first, or a loss is beside it
    assert select((features, logits), None, batch=1, space=(8, 8)) is features
    chosen = select({"loss": torch.rand(()), "seg": torch.rand(8, 8)}, None, batch=1, space=(8, 8))
    assert chosen.shape == (1, 1, 8, 8)
