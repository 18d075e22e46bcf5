"""1D signals: maps of the equivalent 2D network, of a hand-written derivation, and who is a signal.

A 1D convolution is a 2D convolution whose kernel is one row high. So every map of a 1D network is
the map of a 2D network with the same weights, for the signal as a picture of one row.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import medcam
from medcam.engine.model.signals import reads_signals
from medcam.errors import InputError, MedcamWarning
from medcam.targets import class_score
from support.methods import ONCE
from support.nets import Classifier, UNet, balanced, image


def assert_same(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


class Row(nn.Module):
    """A 2D network with the weights of a 1D network; pictures have one row."""

    def __init__(self, signals: nn.Module, pictures: nn.Module) -> None:
        super().__init__()
        self.net = pictures
        state = signals.state_dict()
        for name, values in pictures.state_dict().items():
            if values.ndim == 4:
                kernel = torch.zeros_like(values)
                kernel[:, :, values.shape[2] // 2] = state[name]
                state[name] = kernel
        pictures.load_state_dict(state)
        for module in pictures.modules():
            if isinstance(module, nn.MaxPool2d):
                module.kernel_size = module.stride = (1, 2)
            if isinstance(module, nn.Upsample):
                module.scale_factor = (1.0, 2.0)

    def forward(self, x):
        return self.net(x)


@pytest.fixture
def classifier():
    torch.manual_seed(1)
    return Classifier(1, channels=3).double().eval()


@pytest.fixture
def unet():
    torch.manual_seed(1)
    return balanced(UNet(1), 1).double().eval()


# ---------------------------------------------------------------------- every method, every layer


@pytest.mark.parametrize("method", ONCE)
def test_a_signals_map_is_that_of_the_picture_of_one_row(classifier, method):
    x = image(1, 3, 16, channels=3).double()
    row = Row(classifier, Classifier(2, channels=3).double().eval())
    options = {"method": method, "target": [2, 0, 1]}
    found = medcam.explain(classifier, x, layer=["features.0", "features.4"], **options)
    expected = medcam.explain(
        row, x[:, :, None], layer=["net.features.0", "net.features.4"], **options
    )
    assert len(found.maps) == len(expected.maps)
    for ours, theirs in zip(found.maps.values(), expected.maps.values(), strict=True):
        assert ours.values.shape == (3, 1, 16)
        assert ours.values.flatten(1).any(1).sum() >= 2
        assert_same(ours.values, theirs.values[:, :, 0])


@pytest.mark.parametrize("method", ONCE)
def test_a_segmented_signals_map_is_that_of_the_picture_of_one_row(unet, method):
    x = image(1, 2, 64).double()
    row = Row(unet, UNet(2).double().eval())
    for target in (None, "best", 2):
        options = {"method": method, "target": target}
        found = medcam.explain(unet, x, layer="bottleneck", **options)
        expected = medcam.explain(row, x[:, :, None], layer="net.bottleneck", **options)
        assert found.target.task == "segmentation"
        assert_same(found.map.values, expected.map.values[:, :, 0])
    assert found.map.values.any()


def test_grad_cam_by_hand(classifier):
    x = image(1, 2, 16, channels=3).double()
    features = classifier.features(x).detach().requires_grad_()
    score = classifier.head(features.mean(2))[:, 1]
    (grads,) = torch.autograd.grad(score.sum(), features)
    expected = torch.zeros(2, 8, dtype=torch.float64)
    for sample in range(2):
        for channel in range(8):
            weight = sum(grads[sample, channel].tolist()) / 8
            expected[sample] += weight * features.detach()[sample, channel]
    found = medcam.explain(classifier, x, target=1, layer="features", shape=None)
    assert_same(found.map.values[:, 0], expected.clamp(min=0))


def test_full_has_a_map_of_each_layer_along_the_signal(unet):
    explanation = medcam.explain(unet, image(1, 2, 16).double(), layer="full", target=1)
    assert {"down", "pool", "bottleneck", "up", "decoder", "head"} <= set(explanation.maps)
    for layer, item in explanation.maps.items():
        assert_same(
            item.values,
            medcam.explain(unet, explanation.inputs, layer=layer, target=1).map.values,
        )


def test_a_sample_in_a_batch_is_the_sample_alone(unet):
    x = image(1, 3, 16).double()
    together = medcam.explain(unet, x, target="all").map.values
    for i in range(3):
        alone = medcam.explain(unet, x[i : i + 1], target="all").map.values
        assert_same(together[i : i + 1], alone)


def test_one_logit_for_each_sample_of_the_signal_is_a_segmentation():
    """[batch, time] without a class axis, as networks that find R peaks return it."""
    net = nn.Sequential(nn.Conv1d(1, 4, 5, padding=2), nn.ReLU(), nn.Conv1d(4, 1, 1), nn.Flatten())
    explanation = medcam.explain(net.eval(), image(1, 2, 20), target=class_score(0))
    assert explanation.target.task == "segmentation"
    assert explanation.map.values.shape == (2, 1, 20)


def test_memory_low_gives_the_same_maps():
    def block(channels):
        return nn.Sequential(
            nn.Conv1d(channels, 6, 3, padding=1), nn.InstanceNorm1d(6), nn.LeakyReLU(),
            nn.Conv1d(6, 6, 3, padding=1), nn.InstanceNorm1d(6), nn.LeakyReLU(),
        )  # fmt: skip

    net = nn.Sequential(block(1), block(6), nn.Conv1d(6, 2, 1)).eval()
    x = image(1, 2, 32)
    low, normal = (
        medcam.explain(net, x, method="saliency", target=1, memory=memory).map.values
        for memory in ("low", "normal")
    )
    assert normal.any()
    assert torch.equal(low, normal)


# --------------------------------------------------------------------------------------- windows


def test_one_window_is_the_whole_signal(unet):
    x = image(1, 2, 24).double()
    methods = ONCE
    whole = medcam.explain(unet, x, method=methods, target=1)
    windows = medcam.explain_volume(unet, x, 24, method=methods, target=1, mode="constant")
    for key, item in whole.maps.items():
        assert_same(windows.maps[key].values, item.values, 1e-10)


def test_gradients_of_a_signal_in_windows_are_those_of_the_stitched_prediction(unet):
    x = image(1, 1, 40).double().requires_grad_()
    windows = [slice(0, 16), slice(8, 24), slice(16, 32), slice(24, 40)]
    total, count = torch.zeros(1, 3, 40, dtype=torch.float64), torch.zeros(40)
    for window in windows:
        part = torch.zeros_like(total)
        part[..., window] = unet(x[..., window])
        total = total + part
        count[window] += 1
    stitched = total / count
    inside = stitched.argmax(1) == 1
    (grad,) = torch.autograd.grad(stitched[:, 1][inside].mean(), x)
    found = medcam.explain_volume(
        unet, x.detach(), 16, overlap=0.5, mode="constant", method="saliency", target=1
    )
    assert_same(found.output, stitched.detach())
    assert_same(found.map.values[:, 0], grad.abs()[:, 0])


def test_mirrored_windows_of_a_signal(unet):
    x = image(1, 1, 32).double()
    mirrored = medcam.explain_volume(unet, x, 32, mirror_axes=(0,), target=1)
    both = (unet(x) + unet(x.flip(2)).flip(2)) / 2
    assert_same(mirrored.output, both.detach())


def test_a_signal_has_no_slices(unet):
    with pytest.raises(InputError, match=r"slice_axis=0: a signal has one axis"):
        medcam.explain_volume(unet, image(1, 1, 32).double(), 16, slice_axis=0)


# ------------------------------------------------------------------------------- what is a signal


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Conv1d(2, 4, 3), True),
        (nn.Sequential(nn.AvgPool1d(4), nn.Flatten(), nn.Linear(8, 2)), True),
        (nn.ConvTranspose1d(2, 4, 3), True),
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4)), True),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8)), False),  # vectors
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(2), nn.Conv1d(4, 4, 1)), False),
        (nn.Sequential(nn.MaxPool3d(2), nn.Flatten(2), nn.AdaptiveAvgPool1d(1)), False),
        (nn.TransformerEncoderLayer(8, 2, batch_first=True), False),
    ],
)
def test_the_layers_say_whether_a_model_reads_signals(model, expected):
    assert reads_signals(model) is expected


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 16, 16)])
def test_a_picture_without_its_batch_axis_is_no_signal(shape):
    with pytest.raises(InputError, match=r"batch axis missing.*1D signals.*nn\.Conv1d"):
        medcam.explain(nn.Conv2d(shape[0], 2, 3), torch.rand(shape))


def test_embedded_tokens_are_no_signal():
    with pytest.raises(InputError, match="No input has the shape"):
        medcam.explain(
            nn.TransformerEncoderLayer(8, 2, batch_first=True).eval(), torch.rand(2, 5, 8)
        )


class Transposing(nn.Module):
    """A network for ``[batch, time, channels]``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(12, 4, 3)

    def forward(self, x):
        return self.conv(x.transpose(1, 2)).mean(2)


def test_channels_behind_the_time_are_refused():
    with pytest.raises(InputError, match=r"channels before its time, \[batch, channels, time\]"):
        medcam.explain(Transposing(), torch.rand(2, 50, 12))


class WithSides(nn.Module):
    """A network of an image and of a second input of three axes."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, side, x):
        pooled = self.conv(x).flatten(2).mean(2)
        return pooled + side.mean((1, 2))[:, None]


def test_an_image_wins_over_a_tensor_of_three_axes():
    x = image(2, 2, 8)
    net = WithSides(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()))
    assert medcam.explain(net, torch.rand(2, 5, 7), x, target=1).map.values.shape[2:] == (8, 8)


def test_an_image_wins_even_if_the_model_reads_signals():
    class OfRows(WithSides):
        def forward(self, side, x):
            return super().forward(side, x[:, :, 0])

    net = OfRows(nn.Sequential(nn.Conv1d(1, 3, 3, padding=1), nn.ReLU()))
    explanation = medcam.explain(
        net, torch.rand(2, 1, 9), image(2, 2, 8), target=1, method="saliency"
    )
    assert explanation.map.values.shape[2:] == (8, 8)


# ---------------------------------------------------------------------------------------- layouts


class Mixed(nn.Module):
    """Convolutions, a transformer with a class token, and an LSTM: time comes last or second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv1d(1, 16, 4, 4), nn.Upsample(scale_factor=8)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.lstm = nn.LSTM(16, 8, bidirectional=True, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        features = self.conv(x)
        tokens = features.transpose(1, 2)
        tokens = self.encoder(torch.cat([tokens.new_ones(len(x), 1, 16), tokens], 1))
        states = self.lstm(tokens[:, 1:])[0]
        return self.head(states.mean(1) + tokens[:, 0]) + self.up(features).mean()


@pytest.mark.parametrize(
    ("layer", "read", "step"),
    [
        ("conv", lambda a: a, 4.0),
        ("up", lambda a: a, 0.5),
        ("encoder", lambda a: a[:, 1:].transpose(1, 2), 4.0),
        ("lstm", lambda a: a.transpose(1, 2), 4.0),
    ],
)
def test_time_and_channels_are_never_exchanged(layer, read, step):
    torch.manual_seed(0)
    net, x = Mixed().double().eval(), torch.rand(2, 1, 64).double()  # 16 tokens of 16 channels
    runs = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, i, o: runs.append(o))
    output = net(x)
    handle.remove()
    value = runs[0][0] if isinstance(runs[0], tuple) else runs[0]
    (gradient,) = torch.autograd.grad(output[:, 1].sum(), value)
    found = medcam.explain(net, x, layer=layer, target=1, method="hirescam", shape=None).map
    assert_same(found.values, (read(value) * read(gradient)).sum(1, keepdim=True).detach())
    assert found.grid.known
    assert found.grid.step == (step,)


class Squeezing(nn.Module):
    """A squeeze-and-excitation block: its last weights are a linear layer, over the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1)
        self.gate = nn.Sequential(nn.Linear(channels, 4), nn.ReLU(), nn.Linear(4, channels))

    def forward(self, x):
        x = self.conv(x)
        return x * self.gate(x.mean(2)).sigmoid()[..., None]


def test_a_squeeze_and_excitation_block_has_its_channels_first():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(2, 16, 3, 2, 1), Squeezing(16), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(16, 3),
    ).double().eval()  # fmt: skip
    x = image(1, 2, 20, channels=2).double()
    explanation = medcam.explain(net, x, target=1, method="hirescam", shape=None)
    assert explanation.layer == "1"
    features = net[:2](x).detach().requires_grad_()
    (grad,) = torch.autograd.grad(net[2:](features)[:, 1].sum(), features)
    assert_same(explanation.map.values[:, 0], (grad * features.detach()).sum(1))


class PatchTransformer(nn.Module):
    """A vision transformer of a signal: patches, two blocks, the mean of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv1d(2, 16, 4, 4)
        self.blocks = nn.Sequential(*[
            nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True) for _ in range(2)
        ])  # fmt: skip
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.blocks(self.patches(x).transpose(1, 2)).mean(1))


def test_auto_takes_the_last_tokens_of_a_transformer():
    torch.manual_seed(0)
    net, x = PatchTransformer().double().eval(), image(1, 2, 40, channels=2).double()
    explanation = medcam.explain(net, x, target=1, method="hirescam", shape=None)
    assert explanation.layer == "blocks"
    tokens = net.blocks(net.patches(x).transpose(1, 2)).detach().requires_grad_()
    (grad,) = torch.autograd.grad(net.head(tokens.mean(1))[:, 1].sum(), tokens)
    assert_same(explanation.map.values[:, 0], (grad * tokens.detach()).sum(2))


class Recurrent(nn.Module):
    """Convolutions, then an LSTM along the time."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv1d(2, 8, 5, 2, 2), nn.ReLU())
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.lstm(self.features(x).transpose(1, 2))[0].mean(1))


def test_a_recurrent_layer_can_be_named():
    torch.manual_seed(0)
    net, x = Recurrent().double().eval(), image(1, 2, 20, channels=2).double()
    explanation = medcam.explain(net, x, target=1, layer="lstm", method="hirescam", shape=None)
    states = net.lstm(net.features(x).transpose(1, 2))[0].detach().requires_grad_()
    (grad,) = torch.autograd.grad(net.head(states.mean(1))[:, 1].sum(), states)
    assert_same(explanation.map.values[:, 0], (grad * states.detach()).sum(2))
    assert medcam.explain(net, x, target=1).layer == "features"


# ----------------------------------------------------------------------------------------- others


def test_the_layers_of_a_signals_model_are_listed(classifier):
    from medcam.explanation.layer_table import overview

    rows = {
        row.name: row for row in overview(classifier, image(1, 1, 16, channels=3).double()).rows
    }
    assert rows["features.2"].space == (8,)
    assert rows["features"].automatic


def test_a_shape_of_maps_has_one_extent(classifier):
    x = image(1, 1, 16, channels=3).double()
    assert medcam.explain(classifier, x, shape=(5,)).map.values.shape == (1, 1, 5)
    with pytest.raises(InputError, match="1 positive extents, as the input has 1 spatial axis"):
        medcam.explain(classifier, x, shape=(5, 5))


def test_a_model_in_training_mode_warns():
    net = nn.Sequential(
        nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.AdaptiveAvgPool1d(1), nn.Flatten()
    )
    with pytest.warns(MedcamWarning, match="training mode"):
        medcam.explain(net, image(1, 2, 8), target=0)
