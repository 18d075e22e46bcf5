"""Methods that change the image, on volumes: the same as of the whole stitched prediction."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import medcam
from medcam import methods, targets
from medcam.engine.windows.tiling import Windows
from medcam.errors import InputError, MedcamWarning, NoMapError
from support.stitched import Sliding, net

CASES = [  # dims, space, roi, options
    (2, (19, 13), (8, 6), {}),
    (2, (7, 21), (10, 10), {"padding_mode": "reflect", "overlap": 0.5}),
    (3, (8, 9, 6), (6, 6, 8), {"overlap": 0.5, "mode": "constant"}),
]
OF_INPUT = {
    "intgrad": methods.intgrad(baseline="mean", steps=4),
    "occlusion": methods.get("occlusion", size=4, stride=3),
    "rise": methods.get("rise", masks=6, cells=3),
    "smoothgrad": methods.smoothgrad(samples=3),
    "smoothgrad of input x gradient": methods.smoothgrad("inputxgradient", samples=2),
}


def case(dims, space, channels=2, batch=2):
    torch.manual_seed(1)
    return net(dims, channels), torch.rand(batch, channels, *space, dtype=torch.float64)


def close(values, expected):
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-10 * max(1, expected.abs().max()))


@pytest.mark.parametrize(("dims", "space", "roi", "options"), CASES)
@pytest.mark.parametrize("name", [*OF_INPUT, "expgrad"])
def test_maps_are_those_of_the_whole_stitched_prediction(dims, space, roi, options, name):
    model, x = case(dims, space)
    method = OF_INPUT.get(name) or methods.expgrad(torch.rand_like(x), samples=16)
    item = medcam.explain_volume(model, x, roi, method=method, sw_batch_size=2, **options).map
    expected = medcam.explain(
        Sliding(model, roi, **{"mode": "gaussian", **options}), x, method=method
    ).map
    close(item.values, expected.values)
    close(item.channels, expected.channels)
    assert bool(item.values.any())


@pytest.mark.parametrize("name", ["intgrad", "occlusion"])
def test_several_targets_folds_and_mirrorings(name):
    model, x = case(2, (9, 11), batch=1)
    other = net(2, 2)
    torch.nn.init.normal_(other.head.weight, std=2)
    options = {"target": targets.classes(0, 1), "method": OF_INPUT[name]}
    item = medcam.explain_volume([model, other], x, (9, 11), mirror_axes=(0,), **options).map

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.networks = nn.ModuleList([model, other])

        def forward(self, x):
            parts = [(n(x) + n(x.flip(2)).flip(2)) / 2 for n in self.networks]
            return sum(parts) / 2

    close(item.values, medcam.explain(Mean(), x, **options).map.values)


def noisy(x, noise, samples, seed=0):
    """Return SmoothGrad's images by its formula, for each sample the same draws."""
    generator = torch.Generator().manual_seed(seed)
    low, high = x.flatten(2).amin(2), x.flatten(2).amax(2)
    sigma = (noise * (high - low)).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
    draws = [torch.randn(x.shape[1:], generator=generator) for _ in range(samples)]
    return [x + sigma * draw.double() for draw in draws]


@pytest.mark.filterwarnings("ignore:Grad-CAM cannot explain a part")
@pytest.mark.parametrize("name", ["gcam", "hirescam", "layercam", "ggcam"])
def test_smoothed_maps_of_a_layer_are_means_of_the_noisy_volumes_maps(name):
    model, x = case(3, (8, 9, 6), batch=1)
    options = {"roi_size": (6, 6, 6), "overlap": 0.5, "layer": "coarse"}
    with torch.no_grad():
        inside = Sliding(model, (6, 6, 6), overlap=0.5)(x).argmax(1) == 1
    method = methods.smoothgrad(name, samples=3, noise=0.2)
    item = medcam.explain_volume(model, x, method=method, target=1, **options).map
    fixed = targets.region(inside, 1)
    maps = [
        medcam.explain_volume(model, changed, method=name, target=fixed, **options).map
        for changed in noisy(x, 0.2, 3)
    ]
    if item.channels is None:
        close(item.values, sum(each.values for each in maps) / 3)
    else:
        close(item.channels, sum(each.channels for each in maps) / 3)
    assert bool(item.values.any())


def test_the_layers_of_a_smoothed_map_are_those_of_its_method():
    model, x = case(2, (19, 13), batch=1)
    options = {"roi_size": (8, 6), "target": 1, "method": methods.smoothgrad("gcam", samples=2)}
    auto = medcam.explain_volume(model, x, **options)
    plain = medcam.explain_volume(model, x, **{**options, "method": "gcam"})
    assert auto.map.layer == plain.map.layer
    both = medcam.explain_volume(model, x, layer={"fine", "coarse"}, **options)
    assert {item.layer for item in both.maps.values()} == {"fine", "coarse"}
    alone = medcam.explain_volume(model, x, layer="fine", **options).map
    close(both.maps["fine"].values, alone.values)


def test_order_beside_methods_that_run_once():
    model, x = case(2, (19, 13), batch=1)
    asked = [OF_INPUT["occlusion"], "gcam", OF_INPUT["intgrad"], "saliency"]
    found = medcam.explain_volume(model, x, (8, 6), layer="fine", target=1, method=asked)
    names = [item.method for item in found.maps.values()]
    assert names == ["occlusion", "gcam", "intgrad", "saliency"]
    alone = medcam.explain_volume(model, x, (8, 6), layer="fine", target=1, method="gcam")
    close(found.maps["gcam", "fine"].values, alone.map.values)


def test_windows_that_a_change_does_not_reach_are_not_run():
    model, x = case(2, (32, 32), batch=1)
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    inside = torch.zeros(1, 32, 32, dtype=torch.bool)
    inside[:, :8, :8] = True  # one window of 16
    corner = torch.zeros(32, 32, dtype=torch.bool)
    corner[24:, 24:] = True
    far = methods.get("occlusion", size=8, roi=corner)
    everywhere = methods.get("occlusion", size=8)
    counts = {}
    for name, method in {"far": far, "everywhere": everywhere}.items():
        seen.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("error" if name == "everywhere" else "ignore", MedcamWarning)
            item = medcam.explain_volume(
                model, x, 16, overlap=0.0, method=method, target=targets.region(inside, 1)
            ).map
        counts[name] = sum(seen)
        if name == "everywhere":
            assert bool(item.values[..., :8, :8].any())
            assert not bool(item.values[..., 16:, 16:].any())
    # four windows are predicted; one holds the target, and only its four boxes run again
    assert counts == {"far": 4 + 1, "everywhere": 4 + 1 + 4}


def test_a_network_that_ends_in_a_softmax_is_explained_at_its_logits():
    model, x = case(2, (9, 11), batch=1)
    squashed = nn.Sequential(model, nn.Softmax(1)).eval()
    inside = torch.ones(1, 9, 11, dtype=torch.bool)
    options = {"target": targets.region(inside, 1), "method": methods.intgrad(steps=32)}
    with pytest.warns(MedcamWarning, match="softmax"):
        item = medcam.explain_volume(squashed, x, (6, 6), **options).map
    close(item.values, medcam.explain_volume(model, x, (6, 6), **options).map.values)


def test_completeness_and_options_are_in_the_details():
    model, x = case(2, (19, 13), batch=1)
    many = medcam.explain_volume(model, x, (8, 6), target=1, method=methods.intgrad(steps=64))
    with pytest.warns(MedcamWarning, match="misses the change of the score"):
        few = medcam.explain_volume(model, x, (8, 6), target=1, method=methods.intgrad(steps=2))
    residuals = [item.details["completeness_residual"]["intgrad"] for item in (few, many)]
    assert residuals[1] < 0.02
    assert residuals[0] > residuals[1]
    assert many.details["method_options"]["intgrad"]["steps"] == 64


@pytest.mark.filterwarnings("ignore:.*cannot explain a part", "ignore:.*misses the change")
@pytest.mark.parametrize("name", [*OF_INPUT, "smoothgrad of gcam", "smoothgrad of ggcam"])
def test_a_sample_without_a_voxel_of_the_target_has_a_map_of_zeros(name):
    model, x = case(2, (19, 13))
    method = OF_INPUT.get(name) or methods.smoothgrad(name.split()[-1], samples=2)
    inside = torch.zeros(2, 19, 13, dtype=torch.bool)
    inside[0, 3:6, 3:6] = True
    with pytest.warns(MedcamWarning, match="The target is empty for sample"):
        item = medcam.explain_volume(
            model, x, (8, 6), target=targets.region(inside, 1), method=method, layer="fine"
        ).map
    assert bool(item.values[0].any())
    assert not bool(item.values[1].any())


def test_a_volume_whose_changes_change_nothing_says_so():
    model, x = case(2, (19, 13), batch=1)
    method = methods.get("occlusion", fill=0.0)
    with pytest.warns(MedcamWarning, match="No changed image raises or lowers"):
        medcam.explain_volume(model, torch.zeros_like(x), (8, 6), method=method)


def test_progress_counts_the_changed_volumes():
    model, x = case(2, (19, 13), batch=1)
    steps = []
    medcam.explain_volume(
        model, x, (8, 6), target=1, method=methods.intgrad(steps=5),
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert steps[-1] == (5, 5)


def test_what_is_refused():
    model, x = case(2, (19, 13), batch=1)
    with pytest.raises(InputError, match="Score-CAM: changed features of a layer"):
        medcam.explain_volume(model, x, (8, 6), layer="fine", method="scorecam")
    squares = lambda logits: logits[:, 1].flatten(1).square().sum(1)  # noqa: E731
    with pytest.raises(NoMapError, match="function of the whole prediction"):
        medcam.explain_volume(model, x, (8, 6), method="occlusion", target=squares)
    mask = lambda logits: logits.argmax(1) == 1  # noqa: E731
    by_mask = medcam.explain_volume(model, x, (8, 6), method="occlusion", target=mask).map
    by_class = medcam.explain_volume(model, x, (8, 6), method="occlusion", target=1).map
    share = by_mask.values[by_class.values.abs() > 0] / by_class.values[by_class.values.abs() > 0]
    close(share, share[:1].expand_as(share))  # a mask is summed, a class averaged


class Dropping(nn.Module):
    """A network that draws random numbers in evaluation mode, too."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(nn.functional.dropout(x, 0.5, training=True))


def test_windows_with_another_score_than_the_prediction_are_an_error():
    model, x = case(2, (19, 13), batch=1)
    inside = torch.ones(1, 19, 13, dtype=torch.bool)
    options = {"method": OF_INPUT["occlusion"], "target": targets.region(inside, 1)}
    with pytest.raises(NoMapError, match=r"another score than the prediction \(by .*model.eval"):
        medcam.explain_volume(Dropping(model).eval(), x, (8, 6), **options)


@pytest.mark.parametrize("name", ["intgrad", "smoothgrad"])
def test_the_callers_autocast_holds_for_changed_volumes(name):
    model, x = case(2, (19, 13), batch=1)
    model, x = model.float(), x.float()
    dtypes = []
    model.head.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        medcam.explain_volume(model, x, (8, 6), method=OF_INPUT[name], target=1)
    assert set(dtypes) == {torch.bfloat16}


def test_a_volume_in_half_precision_under_autocast():
    model, x = case(2, (19, 13), batch=1)
    inside = torch.ones(1, 19, 13, dtype=torch.bool)
    options = {"method": OF_INPUT["occlusion"], "target": targets.region(inside, 1)}
    exact = medcam.explain_volume(model.float(), x.float(), (8, 6), **options).map.values
    with torch.autocast("cpu", torch.bfloat16):
        half = medcam.explain_volume(model, x.bfloat16(), (8, 6), **options).map.values
    assert torch.corrcoef(torch.stack([exact.flatten(), half.float().flatten()]))[0, 1] > 0.9


def test_what_does_not_change_is_computed_once(monkeypatch):
    """The sums of weights and the windows of the target, of a volume that is changed 20 times."""
    model, x = case(2, (19, 13), batch=1)
    calls = []
    sums = Windows.sums

    def counted(self, **options):
        calls.append(1)
        return sums(self, **options)

    monkeypatch.setattr(Windows, "sums", counted)
    numbers = []
    for masks in (5, 25):
        calls.clear()
        medcam.explain_volume(
            model, x, (8, 6), method=methods.get("rise", masks=masks, cells=3), target=1
        )
        numbers.append(len(calls))
    assert numbers[0] == numbers[1]
