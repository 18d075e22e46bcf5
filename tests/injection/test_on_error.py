"""An injected model never loses a prediction because of a map."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch import nn

import medcam
from medcam.errors import InputError, MaskError, MedcamWarning, NoMapError, TargetError
from support.nets import Classifier


class Scaling(nn.Module):
    """A network that scales 8-bit images itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Classifier()

    def forward(self, x):
        return self.net(x.float() / 255)


class Counting(nn.Module):
    """A network that counts its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls = Classifier(), 0

    def forward(self, x):
        self.calls += 1
        return self.net(x)


class Cut(Counting):
    """A network whose head has no gradient."""

    def forward(self, x):
        return super().forward(x).detach()


def batch(*bad, count=4):
    images = torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for sample in bad:
        images[sample, 0, 3, 4] = torch.nan
    return images


@pytest.mark.parametrize("method", ["gcam", "gcampp", "gbp", "ggcam", "hirescam", "saliency"])
@pytest.mark.parametrize("bad", [(1,), (0, 3)])
def test_a_sample_with_nan_names_itself_and_the_others_keep_their_maps(method, bad):
    net = Classifier().eval()
    good = [sample for sample in range(4) if sample not in bad]
    model = medcam.inject(net, backend=method, return_attention=True)
    with pytest.warns(MedcamWarning, match=rf"sample\(s\) {', '.join(map(str, bad))}") as told:
        output, maps = model(batch(*bad))
    assert len(told) == 1
    assert torch.equal(output[good], net(batch()[good]))
    alone = medcam.explain(net, batch()[good], method=method, layer=model.get_explanation().layer)
    assert torch.equal(maps[good], alone.map.normalized())
    assert maps[list(bad)].isnan().all()
    assert model.get_explanation().map.values[list(bad)].isnan().all()


def test_a_sample_without_a_map_has_no_file_and_a_score_of_nan(tmp_path):
    model = medcam.inject(
        Classifier().eval(), tmp_path, save_maps=True, save_scores=True, return_score=True
    )
    with pytest.warns(MedcamWarning, match="The other samples have their maps"):
        _, scores = model(batch(2), torch.ones(4, 1, 16, 16))
    files = sorted(path.name for path in tmp_path.rglob("attention_map_*"))
    assert files == [f"attention_map_0_{sample}_0.png" for sample in (0, 1, 3)]
    (values,) = scores.values()
    assert np.isnan(values).tolist() == [False, False, True, False]
    with pytest.warns(MedcamWarning, match="1 of 4 scores are NaN .*sample without a map"):
        model.dump()


@pytest.mark.parametrize("layer", ["auto", "full", "head"])
def test_a_batch_of_nothing_else_still_gives_the_predictions(layer):
    net = Classifier().eval()
    model = medcam.inject(net, layer="features" if layer == "head" else layer)
    model(batch())
    with pytest.warns(MedcamWarning, match="prediction is returned, but its map could not be made"):
        output = model(batch(0, 1, count=2))
    assert output.isnan().all()
    assert model.get_attention_map() is None  # not that of the call before
    assert not model(batch()).isnan().any()
    assert model.get_attention_map() is not None


def test_raise_raises(tmp_path):
    model = medcam.inject(Classifier().eval(), on_error="raise")
    with pytest.raises(InputError, match=r"NaN or infinite values in sample\(s\) 1,"):
        model(batch(1))
    with pytest.raises(InputError, match=r"on_error='no' is not known: choose 'warn'"):
        medcam.inject(Classifier(), on_error="no")


def test_explain_names_the_samples():
    with pytest.raises(InputError, match=r"sample\(s\) 0, 2, so"):
        medcam.explain(Classifier().eval(), batch(0, 2))


@pytest.mark.parametrize(
    ("options", "returned"),
    [
        ({}, lambda y: y),
        ({"return_attention": True}, lambda y: (y, None)),
    ],
)
def test_the_model_runs_once_and_its_output_is_returned(options, returned):
    net = Cut().eval()
    model = medcam.inject(net, layer="net.features", label=1, **options)
    with pytest.warns(MedcamWarning, match="could not be made"), torch.no_grad():
        result = model(batch())
    assert model.calls == 1
    with torch.no_grad():
        expected = returned(net(batch()))
    output, wanted = (result, expected) if torch.is_tensor(result) else (result[0], expected[0])
    assert torch.equal(output, wanted)
    assert not output.requires_grad
    assert torch.is_tensor(result) or result[1] is None


def test_where_the_map_is_the_output_its_error_is_raised():
    model = medcam.inject(Cut().eval(), layer="net.features", label=1, replace=True)
    with pytest.raises(NoMapError):
        model(batch())


def test_errors_of_the_call_are_raised(tmp_path):
    model = medcam.inject(Classifier().eval(), tmp_path, evaluate=True)
    with pytest.raises(MaskError):
        model(batch(), torch.ones(3, 1, 7, 7))
    with pytest.raises(TargetError):
        model(batch(), torch.ones(4, 1, 16, 16), label=99)


def test_errors_of_the_model_are_the_model_s():
    model = medcam.inject(Classifier().eval())
    with pytest.raises(RuntimeError, match="channels"):
        model(torch.rand(1, 7, 16, 16))


def test_training_goes_on():
    """In training the output keeps its graph, and a batch with a NaN costs no gradient."""
    net = Classifier().train()
    model = medcam.inject(net, layer="features")
    with pytest.warns(MedcamWarning, match=r"sample\(s\) 1"):
        output = model(batch(1))
    output[[0, 2, 3]].sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_images_of_integers_that_the_model_scales_itself(dtype):
    net = Scaling().eval()
    images = (batch() * 255).to(dtype)
    model = medcam.inject(net, layer="net.features", return_attention=True)
    output, maps = model(images)
    assert torch.equal(output, net(images))
    scaled = medcam.explain(net.net, images.float() / 255, layer="features")
    assert torch.equal(maps, scaled.map.normalized())
    assert torch.equal(
        medcam.explain(net, images, layer="net.features").map.values, scaled.map.values
    )
    assert medcam.explain(net, images).map.values.shape == (4, 1, 16, 16)


def test_a_method_of_the_input_needs_floating_point_images():
    net, images = Scaling().eval(), (batch() * 255).to(torch.uint8)
    with pytest.raises(InputError, match=r"Guided Backpropagation .* integers: .*\.float\(\)"):
        medcam.explain(net, images, method="gbp")
    model = medcam.inject(net, backend="gbp")
    with pytest.warns(MedcamWarning, match="could not be made"):
        assert torch.equal(model(images), net(images))


def test_integers_that_the_model_does_not_take_are_told():
    with pytest.raises(
        InputError, match=r"Input 0 is a tensor of integers.*convert it with \.float"
    ):
        medcam.explain(Classifier().eval(), (batch() * 255).to(torch.uint8))


def test_complex_inputs_are_told_as_such():
    with pytest.raises(InputError, match="complex numbers: give their real and imaginary parts"):
        medcam.explain(Classifier().eval(), batch().to(torch.complex64))


def test_a_layer_that_is_not_finite_is_left_out_of_all():
    class Overflowing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.net = nn.Conv2d(1, 1, 1), Classifier()
            self.large = nn.Identity()

        def forward(self, x):
            return self.net(x) + self.large(self.wide(x) * 1e30 * 1e30).clamp(-1, 1).mean()

    explanation = medcam.explain(Overflowing().eval(), batch(), layer="full", target=0)
    assert "large" not in explanation.maps
    assert "NaN or infinite" in explanation.skipped["large"]
    assert "net.features" in explanation.maps


def test_no_memory_for_the_backward_pass_is_told_as_such(monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")

    net = Classifier().eval()
    model = medcam.inject(net, layer="features")
    expected = net(batch())
    monkeypatch.setattr("torch.autograd.grad", full)
    with pytest.raises(NoMapError, match=r"memory for the backward pass.*memory='low'"):
        medcam.explain(net, batch(), layer="features")
    with pytest.warns(MedcamWarning, match="not enough memory"):
        assert torch.equal(model(batch()), expected)


def test_a_call_without_a_map_keeps_its_number(tmp_path):
    """So that the file of a case is that of the same call, whatever the others were."""
    images = batch(1, 3, count=5)
    model = medcam.inject(Classifier().eval(), tmp_path, save_maps=True, save_scores=True)
    clean = medcam.inject(medcam.eject(model), tmp_path / "clean", save_maps=True)
    masks = torch.ones(5, 1, 16, 16)
    with pytest.warns(MedcamWarning) as told:
        list(map(model, images.split(1), masks.split(1)))
    clean_images = batch(count=5)
    for number in range(5):
        clean(clean_images[number : number + 1])
    layer = model.get_explanation().layer
    names = sorted(path.name for path in (tmp_path / layer).iterdir())
    assert names == [f"attention_map_{number}_0_0.png" for number in (0, 2, 4)]
    for name in names:
        expected = tmp_path / "clean" / layer / name
        assert (tmp_path / layer / name).read_bytes() == expected.read_bytes()
    texts = [str(item.message)[:7] for item in told if "Call" in str(item.message)]
    assert texts == ["Call 1:", "Call 3:"]
    table = model._medcam._recording._evaluator.scores
    assert table["name"].tolist() == [f"{number}_0_0" for number in range(5)]
    assert table["evaluation"].isna().tolist() == [False, True, False, True, False]


def test_no_file_of_an_earlier_run_stands_for_a_bad_sample(tmp_path):
    model = medcam.inject(Classifier().eval(), tmp_path, layer="features", save_maps=True)
    (tmp_path / "features").mkdir()
    names = ["attention_map_0_1_0.png", "attention_map_0_2_0.png", "attention_map_1_0_0.png"]
    for name in (*names, "attention_map_10_0_0.png"):
        path = tmp_path / "features" / name
        path.touch()
        os.utime(path, (1, 1))
    with pytest.warns(MedcamWarning, match=r"Call 0: .*sample\(s\) 1"):
        model(batch(1))
    with pytest.warns(MedcamWarning, match="Call 1: the prediction is returned"):
        model(batch(0, count=1))
    left = sorted(path.name for path in (tmp_path / "features").iterdir())
    assert left == [
        "attention_map_0_0_0.png", "attention_map_0_2_0.png", "attention_map_0_3_0.png",
        "attention_map_10_0_0.png",
    ]  # fmt: skip


def test_exhausted_memory_is_not_met_with_a_call_that_needs_more(monkeypatch):
    """Neither by PyTorch's own backward pass, nor by memory='normal'."""

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")

    net = Counting().eval()
    monkeypatch.setattr("medcam.engine.memory.lean.rectifiers._masked", full)
    with pytest.raises(NoMapError, match="not enough memory"):
        medcam.explain(net, batch(), layer="net.features.0", target=1)
    assert net.calls == 1
