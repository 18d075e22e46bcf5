"""Maps through TorchIO's patches equal those through its aggregator, and explain_volume's."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
import torchio as tio
from torch import nn

import medcam
from medcam.errors import InputError, InputTypeError
from medcam.frameworks.torchio import sampler_windows
from support.monai_cases import oblique
from support.stitched import evidence, net

ONE = medcam.targets.class_score(1)
AFFINE = oblique()
SAMPLERS = {  # of a subject of 13 x 10 x 8
    "no padding": {"patch_size": 6, "patch_overlap": 2},
    "per axis": {"patch_size": (6, 10, 4), "patch_overlap": (4, 0, 2)},
    "padded with a number": {"patch_size": 6, "patch_overlap": 4, "padding_mode": 0.5},
    "constant": {"patch_size": 6, "patch_overlap": 4, "padding_mode": "constant"},
    "edge": {"patch_size": 8, "patch_overlap": (4, 2, 0), "padding_mode": "edge"},
    "reflect": {"patch_size": 8, "patch_overlap": 4, "padding_mode": "reflect"},
    "wrap": {"patch_size": 8, "patch_overlap": 4, "padding_mode": "wrap"},
}


def subject(dtype=torch.float64, channels=1):
    torch.manual_seed(1)
    tensor = torch.rand(channels, 13, 10, 8, dtype=dtype)
    return tio.Subject(t1=tio.ScalarImage(tensor=tensor, affine=AFFINE))


def joined(sampler, function, mode="average", batch_size=2):
    """Return a function of the patches, aggregated by TorchIO's own loop."""
    aggregator = tio.GridAggregator(sampler, overlap_mode=mode)
    for batch in tio.SubjectsLoader(sampler, batch_size=batch_size):
        places = batch[tio.LOCATION]
        aggregator.add_batch(function(batch["t1"][tio.DATA], places), places)
    return aggregator.get_output_tensor()


def seed_of(logits, k=1):
    """Return the gradient of class k's mean logit, on the aggregated grid."""
    seed = torch.zeros_like(logits)
    seed[k] = 1 / logits[k].numel()
    return seed


def on_padded_grid(sampler, tensor):
    sides = [int(n) // 2 for n in sampler.patch_overlap] if sampler.padding_mode else [0] * 3
    pads = [side for side in reversed(sides) for _ in range(2)]
    return nn.functional.pad(tensor, pads)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_grad_cam_is_the_aggregators_mean_of_raw_maps(name, dtype):
    model, sampler = net(3, dtype=dtype), tio.GridSampler(subject(dtype), **SAMPLERS[name])
    with torch.no_grad():
        logits = joined(sampler, lambda patch, _: model(patch))
    seed = on_padded_grid(sampler, seed_of(logits))

    def raw(patches, places):
        maps = []
        for patch, (i, j, k, i1, j1, k1) in zip(patches, places.tolist(), strict=True):
            part = seed[:, i:i1, j:j1, k:k1]
            a, g = evidence(model, "fine", patch[None], part)
            maps.append((a * g.mean((2, 3, 4), keepdim=True)).sum(1))  # signed, in raw units
        return torch.stack(maps)

    expected = joined(sampler, raw).relu()
    assert expected.any()
    found = medcam.torchio.explain_subject(
        model, sampler, method="gcam", layer="fine", target=ONE, channel_weights="window"
    )
    tolerance = 1e-10 if dtype == torch.float64 else 1e-6
    scale = float(logits.abs().max())
    torch.testing.assert_close(found.output[0], logits, rtol=0, atol=tolerance * scale)
    torch.testing.assert_close(
        found.map.values[0], expected, rtol=0, atol=tolerance * float(expected.max())
    )


@pytest.mark.parametrize("mode", ["average", "hann"])
def test_overlap_modes_are_the_aggregators(mode):
    model, sampler = net(3), tio.GridSampler(subject(), 6, 4)
    with torch.no_grad():
        logits = joined(sampler, lambda patch, _: model(patch), mode)
    found = medcam.torchio.explain_subject(
        model, sampler, layer="fine", target=ONE, overlap_mode=mode, batch_size=3
    )
    tolerance = 1e-10 if mode == "average" else 1e-5  # "hann" sums in float32
    torch.testing.assert_close(
        found.output[0], logits.double(), rtol=0, atol=tolerance * float(logits.abs().max())
    )


@pytest.mark.parametrize("mode", ["average", "hann"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_input_gradients_are_those_straight_through_the_aggregation(name, mode):
    model, sampler = net(3), tio.GridSampler(subject(), **SAMPLERS[name])
    found = medcam.torchio.explain_subject(
        model, sampler, method="saliency", target=ONE, overlap_mode=mode
    )
    leaf = subject().t1.data[None].requires_grad_()
    windows = sampler_windows(sampler, mode, dtype=torch.float64)
    padded = windows.pad(leaf)
    torch.testing.assert_close(padded.detach()[0], sampler.subject.t1.data, rtol=0, atol=0)
    total, weight = 0, windows.weights
    for i, j, k, i1, j1, k1 in sampler.locations.tolist():
        answer = model(padded[:, :, i:i1, j:j1, k:k1]) * weight
        rest = (k, padded.shape[4] - k1, j, padded.shape[3] - j1, i, padded.shape[2] - i1)
        total = total + torch.stack([
            nn.functional.pad(answer, rest),
            nn.functional.pad(weight.expand_as(answer), rest),
        ])  # fmt: skip
    score = windows.crop(total[0] / total[1])[:, 1].mean()
    (expected,) = torch.autograd.grad(score, leaf)
    assert expected.any()
    torch.testing.assert_close(found.map.channels[:, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["gcam", "hirescam", "gbp", "ggcam", "eigencam", "saliency"])
def test_on_monais_windows_it_is_explain_volume(method):
    model, given = net(3), subject()
    sampler = tio.GridSampler(given, patch_size=6, patch_overlap=2)
    options = {"method": method, "layer": "fine", "target": 1}
    found = medcam.torchio.explain_subject(model, sampler, **options)
    expected = medcam.explain_volume(
        model, given.t1.data[None], 6, overlap=1 / 3, mode="constant", **options
    )
    assert found.details["windows"] == expected.details["windows"] == len(sampler)
    assert expected.map.values.any()
    torch.testing.assert_close(found.output, expected.output, rtol=0, atol=1e-10)
    scale = float(expected.map.values.abs().max())
    torch.testing.assert_close(found.map.values, expected.map.values, rtol=0, atol=1e-10 * scale)


def test_averaging_rectified_maps_would_be_something_else():
    """This is why a loop around `medcam.explain` does not replace `explain_subject`."""
    model, sampler = net(3), tio.GridSampler(subject(), 6, 4)
    naive = joined(
        sampler,
        lambda patch, _: medcam.explain(model, patch, layer="fine", target=1).map.normalized(),
    )
    right = medcam.torchio.explain_subject(model, sampler, layer="fine", target=1).map.values[0]
    assert torch.corrcoef(torch.stack([naive.flatten(), right.flatten()]))[0, 1] < 0.99


def test_a_known_prediction_is_not_made_again():
    model, sampler = net(3), tio.GridSampler(subject(), 6, 2)
    first = medcam.torchio.explain_subject(model, sampler, layer="fine", target=1)
    rows = []
    model.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    again = medcam.torchio.explain_subject(
        model, sampler, layer="fine", target=1, logits=first.output[0], batch_size=4
    )
    assert sum(rows) == first.details["windows_explained"]
    assert max(rows) == 4
    assert first.map.values.any()
    torch.testing.assert_close(again.map.values, first.map.values)


def test_channels_are_weighed_by_patch_or_once():
    model, given = net(3), subject()
    sampler, maps = tio.GridSampler(given, 6, 2), []
    for weights in ("window", "volume"):
        options = {"method": "gcam", "layer": "fine", "target": 1, "channel_weights": weights}
        maps.append(medcam.torchio.explain_subject(model, sampler, **options).map.values)
        expected = medcam.explain_volume(
            model, given.t1.data[None], 6, overlap=1 / 3, mode="constant", **options
        ).map.values
        torch.testing.assert_close(maps[-1], expected, rtol=0, atol=1e-12)
    assert not torch.allclose(*maps)


@pytest.mark.parametrize("axis", [0, 2, -1])
def test_a_2d_network_sees_slices(axis):
    patch = [6, 6, 6]
    patch[axis] = 1
    model, given = net(2), subject()
    overlap = [0 if n == 1 else 2 for n in patch]
    sampler = tio.GridSampler(given, patch, overlap)
    found = medcam.torchio.explain_subject(model, sampler, layer="fine", target=1, slice_axis=axis)
    expected = medcam.explain_volume(
        model, given.t1.data[None], 6, overlap=1 / 3, mode="constant", layer="fine", target=1,
        slice_axis=axis,
    )  # fmt: skip
    assert expected.map.values.any()
    torch.testing.assert_close(found.map.values, expected.map.values, rtol=0, atol=1e-12)


def test_several_images_are_the_networks_channels_in_the_order_given():
    both = subject(channels=2).t1.data
    given = tio.Subject(
        t1=tio.ScalarImage(tensor=both[:1]),
        t2=tio.ScalarImage(tensor=both[1:]),
        label=tio.LabelMap(tensor=torch.ones(1, 13, 10, 8)),
    )
    model = net(3, channels=2)
    sampler = tio.GridSampler(given, 6, 2)
    options = {"layer": "fine", "method": "hirescam", "target": ONE}
    found = medcam.torchio.explain_subject(model, sampler, ["t2", "t1"], **options)
    expected = medcam.torchio.explain_subject(
        model,
        tio.GridSampler(tio.Subject(x=tio.ScalarImage(tensor=both.flip(0))), 6, 2),
        **options,
    )
    assert torch.equal(found.map.values, expected.map.values)
    with pytest.raises(InputError, match=r"2 scalar images \(t1, t2\): name the network's inputs"):
        medcam.torchio.explain_subject(model, sampler)
    with pytest.raises(InputError, match="choose from the subject's t1, t2, label"):
        medcam.torchio.explain_subject(model, sampler, "t3")


def test_the_map_is_an_image_where_its_subject_is(tmp_path):
    given = subject(torch.float32)
    sampler = tio.GridSampler(given, 6, 2, padding_mode="reflect")
    found = medcam.torchio.explain_subject(
        net(3, dtype=torch.float32), sampler, layer="fine", target=medcam.targets.classes(0, 1)
    )
    made = medcam.torchio.as_image(found, given.t1)
    assert isinstance(made, tio.ScalarImage)
    assert torch.equal(made.data, found.map.values[0])
    np.testing.assert_array_equal(made.affine, AFFINE)
    one = medcam.torchio.as_image(found.map.values[:, 1:], given.t1)
    one.save(tmp_path / "map.nii.gz")
    read = nibabel.load(tmp_path / "map.nii.gz")
    np.testing.assert_allclose(read.affine, AFFINE, atol=1e-6)
    assert read.get_data_dtype() == np.float32
    np.testing.assert_array_equal(read.get_fdata(), found.map.values[0, 1].numpy())
    given.t1.save(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(nibabel.load(tmp_path / "image.nii.gz").affine, read.affine)


def test_integer_images_are_read_as_numbers():
    data = (torch.rand(1, 13, 10, 8) * 100).short()
    model = net(3, dtype=torch.float32)
    maps = [
        medcam.torchio.explain_subject(
            model,
            tio.GridSampler(tio.Subject(ct=tio.ScalarImage(tensor=values)), 6, 2),
            layer="fine",
            target=ONE,
        ).map.values
        for values in (data, data.float())
    ]
    assert torch.equal(*maps)


def test_what_does_not_fit_is_refused():
    model, given = net(3), subject()
    sampler = tio.GridSampler(given, 6, 2)
    explain = medcam.torchio.explain_subject
    with pytest.raises(InputError, match="With 'crop' each voxel belongs to only one patch"):
        explain(model, sampler, overlap_mode="crop")
    with pytest.raises(InputError, match="is not supported: choose a number"):
        explain(model, tio.GridSampler(given, 6, 2, padding_mode="mean"))
    with pytest.raises(InputError, match=r"slice_axis=2, patch_size=\[6, 6, 6\]"):
        explain(model, sampler, slice_axis=2)
    with pytest.raises(InputError, match="slice_axis=3"):
        explain(model, sampler, slice_axis=3)
    with pytest.raises(InputError, match="batch_size=0"):
        explain(model, sampler, batch_size=0)
    with pytest.raises(InputError, match="choose 'window' or 'volume'"):
        explain(model, sampler, channel_weights="patch")
    found = explain(model, sampler, layer="fine", target=1)
    with pytest.raises(InputError, match="the affine is not the map's"):
        medcam.torchio.as_image(found, tio.ScalarImage(tensor=torch.rand(1, 13, 10, 9)))
    with pytest.raises(InputTypeError, match=r"e\.g\. subject\.t1, not Subject"):
        medcam.torchio.as_image(found, given)
