"""Slices, views and time in the batch: maps ``[batch, targets, slices, H, W]``.

The expected values are activations times gradients of each run, taken by hand.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import medcam
from medcam.errors import InputError, NoMapError
from medcam.files import Image

AFFINE = np.diag([3.0, 1, 1, 1])


class Net(nn.Module):
    """An encoder of pictures, and a head; how it runs is given."""

    def __init__(self, run: Callable[[Net, Tensor], Tensor], channels: int = 1):
        super().__init__()
        self.run = run
        self.enc = nn.Sequential(
            nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()
        )
        self.fc = nn.Linear(16, 3)

    def features(self, pictures: Tensor) -> Tensor:
        return self.enc(pictures).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class Recurrent(Net):
    """A CNN over the frames, and an LSTM over time."""

    def __init__(self):
        super().__init__(lambda net, x: x)
        self.rnn, self.fc = nn.LSTM(16, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x.reshape(-1, *x.shape[2:])).reshape(*x.shape[:2], 16)
        return self.fc(self.rnn(features)[0][:, -1])


def mean_of_views(net, x):
    return net.fc(net.features(x.flatten(0, 1)).view(len(x), -1, 16).mean(1))


def by_hand(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the map of each run of the encoder, ``[samples, H, W]``."""
    runs: list[Tensor] = []
    handle = net.enc.register_forward_hook(lambda m, i, o: runs.append(o))
    output = net(x)
    handle.remove()
    gradients = torch.autograd.grad(output[:, 1].sum(), runs)
    return [(a * g).sum(1).detach() for a, g in zip(runs, gradients, strict=True)]


def stack(axis):
    return lambda maps: torch.stack(maps, axis)


CASES = {
    "views as batch": (Net(mean_of_views), (2, 4, 1, 32, 32), lambda m: m[0].view(2, 4, 8, 8)),
    "colour views": (Net(mean_of_views, 3), (2, 4, 3, 32, 32), lambda m: m[0].view(2, 4, 8, 8)),
    "slices of a volume": (
        Net(lambda net, x: net.fc(
            net.features(x.transpose(1, 2).flatten(0, 1)).view(len(x), -1, 16).amax(1)
        )),
        (2, 1, 6, 32, 32), lambda m: m[0].view(2, 6, 8, 8),
    ),
    "slices, looped": (
        Net(lambda net, x: net.fc(torch.stack(
            [net.features(x[:, :, d]) for d in range(x.shape[2])], 1
        ).mean(1))),
        (2, 1, 6, 32, 32), stack(1),
    ),
    "every other slice, looped": (
        Net(lambda net, x: net.fc(sum(net.features(part) for part in x[:, :, 1::2].unbind(2)))),
        (2, 1, 7, 32, 32), stack(1),
    ),
    "time, looped": (
        Net(lambda net, x: net.fc(
            sum(net.features(x[:, t]) * (t + 1) for t in range(x.shape[1]))
        ), 3),
        (2, 4, 3, 32, 32), stack(1),
    ),
    "views as channels, looped": (
        Net(lambda net, x: net.fc(
            sum(net.features(x[:, i : i + 1]) * (i + 1) for i in range(x.shape[1]))
        )),
        (2, 4, 32, 32), stack(1),
    ),
    "CNN and LSTM": (Recurrent(), (2, 5, 1, 32, 32), lambda m: m[0].view(2, 5, 8, 8)),
    "MRNet": (
        Net(lambda net, x: net.fc(net.features(x).amax(0, keepdim=True))),
        (5, 1, 32, 32), lambda m: m[0][None],
    ),
    "attention pooling": (
        Net(lambda net, x: net.fc(net.features(x).softmax(0).T @ net.features(x)).mean(0)[None]),
        (5, 1, 32, 32), lambda m: m[1][None],
    ),
    "bag, looped": (
        Net(lambda net, x: net.fc(torch.cat(
            [net.features(x[i : i + 1]) for i in range(len(x))]
        ).mean(0, keepdim=True))),
        (5, 1, 32, 32), lambda m: torch.cat(m)[None],
    ),
    "batch, looped": (
        Net(lambda net, x: torch.cat([net.fc(net.features(part)) for part in x.split(1)])),
        (5, 1, 32, 32), torch.cat,
    ),
    "volume without its batch axis": (
        Net(lambda net, x: net.fc(net.features(x[0].transpose(0, 1)).amax(0, keepdim=True))),
        (1, 1, 5, 32, 32), lambda m: m[0][None],
    ),
    "2.5D": (
        Net(lambda net, x: net.fc(net.features(x.squeeze(1))), 6),
        (2, 1, 6, 32, 32), lambda m: m[0][:, None],
    ),
    "features of the first slice": (
        Net(lambda net, x: net.fc(net.features(x[:, 0, :1]))),
        (2, 1, 6, 32, 32), lambda m: m[0][:, None],
    ),
    "test-time flips": (
        Net(lambda net, x: net.fc(net.features(x) + net.features(x.flip(3)))),
        (2, 1, 32, 32), lambda m: m[1],
    ),
}  # fmt: skip


@pytest.fixture(params=CASES, ids=str)
def case(request):
    torch.manual_seed(0)
    net, shape, arranged = CASES[request.param]
    net, x = net.double().eval(), torch.rand(shape).double()
    return request.param, net, x, arranged(by_hand(net, x))


@pytest.mark.filterwarnings("ignore:Layer 'enc' ran several times on the same image")
@pytest.mark.parametrize("layer", ["enc", "auto"])
def test_maps_of_slices_and_views(case, layer):
    _name, net, x, expected = case
    ask = {"layer": layer, "target": 1, "method": "hirescam"}
    explanation = medcam.explain(net, x, shape=None, **ask)
    item = explanation.map
    assert explanation.layer == "enc"
    torch.testing.assert_close(item.values[:, 0], expected, rtol=0, atol=1e-14)
    assert item.grid.known
    assert item.grid.step[-2:] in ((4.0, 4.0), (4.0, -4.0))
    on_image = medcam.explain(net, x, **ask)
    assert on_image.map.values.shape[2:] == on_image.inputs.shape[2:]
    assert len(on_image.inputs) == len(on_image.map.values)
    again = medcam.explain(net, x, **ask)  # from memory, without tracing
    assert torch.equal(again.map.values, on_image.map.values)


@pytest.mark.filterwarnings("ignore:Layer 'enc' ran several times on the same image")
@pytest.mark.parametrize("method", ["gcam", "gcampp", "xgradcam", "layercam", "eigencam"])
def test_every_slice_has_the_map_it_has_alone(method):
    """A network that looks at each slice by itself weights the channels of each by itself."""
    torch.manual_seed(0)
    net = Net(mean_of_views).double().eval()
    x = torch.rand(2, 4, 1, 32, 32).double()
    together = medcam.explain(net, x, layer="enc", target=1, method=method).map.values
    picture = Net(lambda net, x: net.fc(net.features(x))).double().eval()
    picture.load_state_dict(net.state_dict())
    for view in range(4):
        alone = medcam.explain(picture, x[:, view], layer="enc", target=1, method=method)
        scale = 1 / 4 if method in ("gcam", "layercam") else 1  # the mean of four views
        if method in ("gcampp", "xgradcam", "eigencam"):
            ratio = together[:, :, view] / alone.map.values
            usable = alone.map.values.abs() > 1e-3 * alone.map.values.abs().max()
            assert float(ratio[usable].std()) < 1e-3 * float(ratio[usable].abs().mean())
        else:
            torch.testing.assert_close(
                together[:, :, view], alone.map.values * scale, rtol=1e-9, atol=1e-12
            )


def test_slices_are_placed_between_their_positions():
    net = CASES["every other slice, looped"][0].double().eval()
    x = torch.rand(1, 1, 7, 32, 32).double()
    own = medcam.explain(net, x, layer="enc", target=1, method="hirescam", shape=None).map
    assert own.grid.start[0] == pytest.approx(1)
    assert own.grid.step[0] == pytest.approx(2)
    placed = medcam.explain(net, x, layer="enc", target=1, method="hirescam").map.values[0, 0]
    torch.testing.assert_close(placed[2], (placed[1] + placed[3]) / 2, rtol=0, atol=1e-14)
    assert not placed[[0, 6]].any()  # no network has seen these slices


def test_bags_are_scored_saved_and_injected(tmp_path):
    torch.manual_seed(0)
    net, x = CASES["MRNet"][0].float().eval(), torch.rand(5, 1, 32, 32)
    model = medcam.inject(
        net, tmp_path, label=1, save_maps=True, evaluate=True, return_score=True, reference=AFFINE
    )
    mask = torch.zeros(1, 1, 5, 32, 32)
    mask[..., 2, 8:16, 8:16] = 1
    output, scores = model(x, mask=mask)
    assert output.shape == (1, 3)
    assert len(scores["enc"]) == 1
    assert (tmp_path / "enc" / "attention_map_0_0_0.nii.gz").exists()
    explanation = medcam.explain(net, x, target=1, method=["gcam", "saliency"])
    assert {tuple(m.values.shape) for m in explanation.maps.values()} == {(1, 1, 5, 32, 32)}
    assert explanation.inputs.shape == (1, 1, 5, 32, 32)
    explanation.save(
        tmp_path / "bag", image=Image(explanation.inputs[0].numpy(), AFFINE), report=False
    )
    assert (tmp_path / "bag_gcam.nii.gz").exists()


def test_a_bag_that_cannot_be_seen_is_named():
    class Opaque(Net):
        def forward(self, x):
            features = self.features(x)
            table = torch.special.zeta(torch.full((1,), 2.0), 1.0)  # of no image
            pooled = torch.linalg.solve(torch.eye(len(x)), features).mean(0, keepdim=True)
            return self.fc(pooled) * table

    net, x = Opaque(lambda net, x: x).eval(), torch.rand(5, 1, 32, 32)
    with pytest.raises(InputError, match=r"its first axis has to be the batch.*layout='bag'"):
        medcam.explain(net, x, layer="enc", target=1)
    explanation = medcam.explain(net, x, layer="enc", target=1, layout="bag")
    assert explanation.map.values.shape == (1, 1, 5, 32, 32)
    with pytest.raises(InputError, match="layout='bags' is not known"):
        medcam.explain(net, x, layout="bags")


def test_channels_that_are_volumes_of_their_own_are_refused_with_the_reason():
    class Volumes(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc, self.fc = nn.Conv3d(1, 4, 3, 2, 1), nn.Linear(4, 3)

        def forward(self, x):
            features = F.relu(self.enc(x.flatten(0, 1)[:, None])).mean((2, 3, 4))
            return self.fc(features.view(len(x), -1, 4).mean(1))

    with pytest.raises(NoMapError, match="the input's channels as volumes of their own"):
        medcam.explain(Volumes().eval(), torch.rand(2, 2, 8, 8, 8), layer="enc", target=1)


VIEWS = {"views as batch", "colour views", "time, looped", "CNN and LSTM"}
BAGS = {"MRNet", "attention pooling", "bag, looped"}


def arranged(name, gradient):
    """Return the largest magnitude over the channels, with the axes of the case's maps."""
    if name == "views as channels, looped":
        return gradient.abs()
    largest = gradient.abs().amax(2 if name in VIEWS else 1)
    return largest[None] if name in BAGS else largest


@pytest.mark.filterwarnings("ignore:Layer 'enc' ran several times on the same image")
def test_maps_of_the_input_have_the_axes_of_slices_and_views(case):
    name, net, x, _ = case
    (gradient,) = torch.autograd.grad(net(x.requires_grad_())[:, 1].sum(), x)
    x = x.detach()
    alone = medcam.explain(net, x, method="saliency", target=1)
    expected = arranged(name, gradient)
    torch.testing.assert_close(alone.map.values[:, 0], expected, rtol=0, atol=1e-14)
    assert alone.inputs.shape[2:] == expected.shape[1:]
    for _ in range(2):  # traced, and from memory
        maps = medcam.explain(net, x, layer="enc", method=["ggcam", "gbp", "gcam"], target=1).maps
        guided, cam = maps["gbp", None], maps["gcam", "enc"].values
        assert guided.values.shape == cam.shape
        product = guided.channels * cam[:, :, None]
        torch.testing.assert_close(maps["ggcam", "enc"].channels, product, rtol=0, atol=1e-14)


def test_guided_grad_cam_of_a_view_is_that_of_the_picture():
    net, x = Net(mean_of_views, 3).double().eval(), torch.rand(2, 4, 3, 32, 32).double()
    picture = Net(lambda net, x: net.fc(net.features(x)), 3).double().eval()
    picture.load_state_dict(net.state_dict())
    together = medcam.explain(net, x, layer="enc", method="ggcam", target=1).map.values
    for view in range(4):
        alone = medcam.explain(picture, x[:, view], layer="enc", method="ggcam", target=1)
        torch.testing.assert_close(together[:, :, view], alone.map.values / 16, rtol=1e-9, atol=0)
