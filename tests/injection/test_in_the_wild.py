"""Unusual models: scripted parts, patched forwards, kept tensors, shared modules, geometry."""

from __future__ import annotations

import inspect
import io
import threading
import warnings

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

import medcam
from medcam import targets
from medcam.errors import InputError, MaskError, MedcamWarning, NoMapError
from support.nets import Classifier, UNet, image


class PartlyScripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.part = torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.part(self.conv(x)).mean((2, 3)))


@pytest.fixture
def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates scripting, users still have it
        return PartlyScripted().eval()


def test_scripted_parts_are_passed_over(scripted):
    x = image()
    assert medcam.explain(scripted, x).layer == "conv"
    assert "TorchScript" in medcam.explain(scripted, x, layer="full").skipped["part"]
    with pytest.raises(NoMapError, match="TorchScript"):
        medcam.explain(scripted, x, layer="part")
    scripted(x).sum().backward()
    assert scripted.conv.weight.grad is not None


def test_a_forward_put_on_the_instance_is_the_models_forward():
    net, x = Classifier().eval(), image()
    own = net.forward
    net.forward = lambda x: own(x) * 2
    model = medcam.inject(net, return_attention=True)
    output, attention = model(x)
    assert torch.equal(output, net(x))
    assert attention.any()
    assert torch.equal(medcam.eject(model)(x), net(x))


def test_a_model_compiled_in_place_still_makes_maps():
    net, x = Classifier().eval(), image()
    expected = net(x)
    net.compile(backend="eager")
    model = medcam.inject(net, return_attention=True)
    output, attention = model(x)
    torch.testing.assert_close(output, expected)
    assert attention.any()


def test_tensors_that_the_model_keeps_carry_no_graph():
    class Keeper(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("average", torch.zeros(8))

        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.features(x)
            self.average = 0.9 * self.average + 0.1 * self.seen.mean((0, 2, 3))
            return self.head(self.seen.flatten(2).mean(2))

    net = Keeper().eval()
    with torch.no_grad():
        medcam.inject(net, layer="features.3")(image())
        medcam.explain(net, image(), layer="features.3")
    assert not net.average.requires_grad
    assert not net.seen.requires_grad


class Pyramid(nn.Module):
    """One head convolution for two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
        self.shared, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        coarse = self.shared(self.down(fine))
        return self.head(coarse.mean((2, 3)) + self.shared(fine).mean((2, 3)))


@pytest.mark.filterwarnings("ignore:The target also depends on")
def test_a_shared_layer_gives_the_same_map_in_every_call():
    model = medcam.inject(
        Pyramid().eval(), backend="hirescam", data_shape=None, return_attention=True, label=1
    )
    x = image()
    first, second = model(x)[1], model(x)[1]
    assert torch.equal(first, second)


def test_the_automatic_layer_is_one_of_the_branch_with_the_evidence():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Classifier(classes=1), Classifier(classes=1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.a(x), self.b(x)], 1)

    found = medcam.explain(Branches().eval(), image(), target=0)
    assert found.layer == "a.features"
    assert found.map.values.any()


def test_a_constant_map_stays_flat_when_resized():
    values = torch.full((1, 1, 5, 6), 0.1)
    values = medcam.maps.resample(values, (224, 224))
    target = targets.ResolvedTarget("nothing", "classification")
    item = medcam.AttentionMap(values, "gcam", "x", target)
    assert not item.normalized().any()


def test_flattened_features_are_no_tokens():
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(1, 64, 4, 4), nn.ReLU()
            self.flat, self.head = nn.Flatten(2), nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.flat(self.relu(self.conv(x))).mean(2))

    assert medcam.explain(Flat().eval(), image(size=64), target=1).layer == "relu"


def test_a_convolution_is_never_channels_last():
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=(4, 10), padding=1), nn.Flatten(), nn.LazyLinear(2)
    ).eval()
    x = image(size=64)
    net(x)
    assert medcam.explain(net, x, layer="0", target=1, shape=None).map.values.shape[2:] == (16, 7)


@pytest.mark.parametrize("method", ["saliency", "gbp", "ggcam"])
def test_float16_autocast_loses_no_gradient(method):
    net, x = UNet(3).eval(), image(3, batch=1, size=32)
    options = {"method": method, "layer": "bottleneck", "target": targets.class_score(1)}
    full = medcam.explain(net, x, **options).map.values
    with torch.autocast("cpu", dtype=torch.float16):
        half = medcam.explain(net, x, **options).map.values
    both = torch.stack([half.flatten(), full.flatten()])
    assert full.any() or method == "ggcam"
    assert not full.any() or torch.corrcoef(both)[0, 1] > 0.97


@pytest.mark.parametrize(
    "target",
    [
        targets.class_score(1), targets.classes(0, 1), targets.best(), targets.voxel((2, 3), 1),
        targets.region(torch.eye(12), 1), targets.where(torch.isfinite), 1, [0, 1], "all",
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*predicted:medcam.errors.MedcamWarning")
def test_a_model_with_any_target_can_be_saved(target):
    model = medcam.inject(UNet().eval(), label=target, layer="bottleneck", normalize=False)
    stream, x = io.BytesIO(), image()
    torch.save(model, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    model(x), loaded(x)
    assert (loaded.get_attention_map() == model.get_attention_map()).all()


def test_integers_of_every_kind_are_classes():
    net, x = Classifier().eval(), image()
    expected = medcam.explain(net, x, target=[0, 1]).map.values
    for given in ([np.int64(0), np.int64(1)], [torch.tensor(0), torch.tensor(1)], np.array([0, 1])):
        assert torch.equal(medcam.explain(net, x, target=given).map.values, expected)


def test_explaining_an_injected_model_explains_the_model():
    net, x = Classifier().eval(), image()
    found = medcam.explain(medcam.inject(net), x)
    assert torch.equal(found.map.values, medcam.explain(net, x).map.values)


def test_methods_are_found_by_their_titles():
    net, x = Classifier().eval(), image()
    for given, name in [("Grad-CAM++", "gcampp"), ("GCAM", "gcam"), ("Guided Grad-CAM", "ggcam")]:
        assert medcam.explain(net, x, method=given).map.method == name


def test_argument_names_of_inject_get_a_hint():
    with pytest.raises(TypeError, match=r"target= where inject\(\) takes label="):
        medcam.explain(Classifier().eval(), image(), label=1)


def test_the_signature_is_the_models_own():
    model = medcam.inject(Classifier())
    assert list(inspect.signature(model.forward).parameters) == ["x"]


def test_another_thread_may_use_the_model_meanwhile():
    net, x = Classifier().eval(), image()
    outputs = []

    class Slow(Classifier):
        def forward(self, value: Tensor) -> Tensor:
            features = self.features(value)
            if threading.current_thread() is threading.main_thread():
                worker = threading.Thread(target=lambda: outputs.append(self(value * 0)))
                worker.start()
                worker.join()
            return self.head(features.flatten(2).mean(2))

    slow = Slow().eval()
    slow.load_state_dict(net.state_dict())
    expected = medcam.explain(net, x, layer="features").map.values
    assert torch.equal(medcam.explain(slow, x, layer="features").map.values, expected)
    assert len(outputs) == 1


# ------------------------------------------------------------------------------------ geometry


def meta(spacing: float, size: int = 12) -> MetaTensor:
    affine = torch.diag(torch.tensor([spacing, spacing, spacing, 1.0], dtype=torch.float64))
    return MetaTensor(torch.rand(1, 1, size, size, size), affine=affine)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:monai")
def test_distances_are_in_the_mm_of_each_image(tmp_path):
    net = Classifier(3).eval()
    model = medcam.inject(
        net, tmp_path, evaluate=True, return_score=True, metric="centroid_distance", threshold=0.5,
        layer="features",
    )  # fmt: skip
    mask = torch.zeros(1, 1, 12, 12, 12)
    mask[..., :3, :3, :3] = 1
    x = meta(1.0)
    far = MetaTensor(x.as_tensor(), affine=meta(5.0).affine)
    (_, near_score), (_, far_score) = model(x, mask), model(far, mask)
    assert far_score["features"][0] == pytest.approx(5 * near_score["features"][0])


@pytest.mark.parametrize("data_shape", [None, (3, 4, 6)])
def test_a_map_of_another_size_covers_the_same_ground(data_shape, tmp_path):
    model = medcam.inject(
        Classifier(3).eval(), tmp_path, layer="features", data_shape=data_shape, save_maps=True
    )
    model(meta(2.0))
    written = nib.load(tmp_path / "features" / "attention_map_0_0_0.nii.gz")
    corners = np.array([[-0.5] * 3, np.array(written.shape) - 0.5])
    covered = nib.affines.apply_affine(written.affine, corners)
    np.testing.assert_allclose(covered, [[-1] * 3, [23] * 3])


def test_a_transposed_mask_is_refused():
    net, x = Classifier().eval(), torch.rand(1, 1, 12, 8)
    with pytest.raises(MaskError, match="another order"):
        medcam.compute_score(medcam.explain(net, x, target=1).map.values, torch.ones(8, 12))


# -------------------------------------------------------------------------------- small things


def test_one_raw_input_for_one_sample(tmp_path):
    model = medcam.inject(Classifier().eval(), tmp_path, save_maps=True, layer="features")
    for raw in (np.ones((12, 12)), np.ones((12, 12, 3)), torch.rand(1, 1, 12, 12)):
        model(image(batch=1), raw_input=raw)
    with pytest.raises(InputError, match=r"2 image\(s\) for 3 sample"):
        model(image(batch=3), raw_input=torch.rand(2, 1, 12, 12))


def test_a_mask_without_evaluate_gives_a_warning():
    with pytest.warns(MedcamWarning, match="evaluate=True"):
        medcam.inject(Classifier().eval())(image(), torch.ones(2, 1, 12, 12))


def test_a_target_that_is_no_class_is_described_in_the_table(tmp_path):
    model = medcam.inject(UNet().eval(), tmp_path, evaluate=True, save_scores=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedcamWarning)
        model(image(), torch.eye(12).expand(2, 12, 12))
    scores = model._medcam._recording._evaluator.scores
    assert set(scores["class_label"]) == {"the predicted foreground"}


def test_one_map_can_be_saved_as_it_is(tmp_path):
    found = medcam.explain(Classifier(3).eval(), image(3, batch=1))
    path = medcam.save(found.map, tmp_path / "map", reference=np.eye(4))
    np.testing.assert_array_equal(nib.load(path).get_fdata(dtype="f4"), found.map.numpy()[0, 0])
    with pytest.raises(InputError, match="2 sample"):
        medcam.save(medcam.explain(Classifier(3).eval(), image(3)).map, tmp_path / "map")


def test_a_missing_key_lists_the_keys():
    found = medcam.explain(Classifier().eval(), image(), method=["gcam", "gbp"], layer="features")
    with pytest.raises(InputError, match=r"\('gcam', 'features'\), \('gbp', None\)"):
        found.maps["gcam"]


def test_a_warning_points_at_the_users_line():
    with pytest.warns(MedcamWarning) as warned:
        medcam.explain(nn.Sequential(Classifier(), nn.Softmax(1)).eval(), image())
    assert warned[0].filename == __file__
