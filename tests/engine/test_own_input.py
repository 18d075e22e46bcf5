"""Models that ignore the tensor they are given and use the caller's own, stored on themselves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import medcam
from medcam.errors import NoMapError


class Two(nn.Module):
    """A network of two images, given as a list; counts its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 4, 3, padding=1)
        self.head = nn.Linear(8, 2)
        nn.init.uniform_(self.head.weight)
        self.runs = 0

    def forward(self, xs: list[Tensor]) -> Tensor:
        self.runs += 1
        return self.head(torch.cat([F.relu(self.conv(x)).mean((2, 3, 4)) for x in xs], 1))


class Coat(nn.Module):
    """What public programs wrap around such a network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.xs = net, None

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.xs)


class Passed(nn.Module):
    """The same network where one of the images is passed on: nothing is special about it."""

    def __init__(self, net: nn.Module, xs: list[Tensor], which: int) -> None:
        super().__init__()
        self.net, self.xs, self.which = net, xs, which

    def forward(self, x: Tensor) -> Tensor:
        return self.net([x if i == self.which else other for i, other in enumerate(self.xs)])


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    return torch.rand(2, 1, 8, 8, 8), torch.rand(2, 1, 8, 8, 8)


@pytest.mark.filterwarnings("ignore:.*training mode:medcam.errors.MedcamWarning")
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("method", ["saliency", "inputxgradient", "gbp", "ggcam"])
def test_maps_are_of_the_image_that_was_given(images, method, which):
    net = Two().eval()
    coat = Coat(net).eval()
    coat.xs = list(images)
    x = images[which]
    expected = medcam.explain(
        Passed(net, coat.xs, which), x, method=method, layer="net.conv", target=1
    )
    with torch.no_grad():
        plain = net(list(images))
    found = medcam.explain(coat, x, method=method, layer="net.conv", target=1)
    assert expected.map.values.any()
    assert torch.equal(found.map.values, expected.map.values)
    assert torch.equal(found.output, plain)
    assert not found.output.requires_grad
    for grad in (True, False):
        model = medcam.inject(coat, backend=method, layer="net.conv", label=1)
        with torch.set_grad_enabled(grad):
            assert torch.equal(model(x), plain)
        assert torch.equal(model.get_explanation().map.values, expected.map.values)
    assert all(not image.requires_grad and image.grad is None for image in images)


def test_training_does_not_leave_a_gradient_at_the_image(images):
    coat = Coat(Two())
    coat.xs = list(images)
    plain = Two()
    plain.load_state_dict(coat.net.state_dict())
    medcam.inject(coat, backend="saliency")(images[0]).sum().backward()
    plain(list(images)).sum().backward()
    for ours, theirs in zip(coat.net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert all(not image.requires_grad and image.grad is None for image in images)


def test_an_image_that_required_a_gradient_still_does(images):
    coat = Coat(Two()).eval()
    coat.xs = [images[0].requires_grad_(), images[1]]
    for call in (lambda: medcam.explain(coat, images[0], method="saliency").map,
                 lambda: medcam.inject(coat, backend="saliency")(images[0])):  # fmt: skip
        call()
        assert images[0].requires_grad
        assert images[0].grad is None


def test_the_flag_is_restored_after_an_error(images):
    coat = Coat(Two()).eval()
    coat.xs = list(images)

    def fails(*inputs: object) -> None:
        if images[0].requires_grad:
            raise ZeroDivisionError

    coat.net.register_forward_hook(fails)
    with pytest.raises(ZeroDivisionError):
        medcam.explain(coat, images[0], method="saliency")
    assert not images[0].requires_grad


@pytest.mark.parametrize("inference", [True, False])
def test_a_target_that_depends_on_no_image_is_an_error_as_before(images, inference):
    coat = Coat(Two()).eval()
    with torch.inference_mode(inference):
        coat.xs = [image.clone() for image in images]
        x = images[0].clone()
        for method in ("saliency", "gbp", ["gcam", "saliency"]):
            with pytest.raises(NoMapError, match="input"):
                medcam.explain(coat, x, method=method, layer="net.conv")
    assert not x.requires_grad


def test_a_model_that_uses_its_input_runs_once(images):
    net = Two().eval()
    medcam.explain(Passed(net, list(images), 0), images[0], method=["gcam", "gbp"])
    assert net.runs == 1
