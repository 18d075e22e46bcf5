"""Maps of a volume equal those by autograd, or by a loop written from the formula."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SliceInferer

import medcam
from medcam import targets
from medcam.engine.windows.score_gradient import ScoreGradient
from medcam.maps import ResolvedTarget
from support.methods import ONCE
from support.stitched import Sliding, evidence, net, placed, through_monai, windows

CASES = [  # dims, space, roi, options
    (2, (19, 13), (8, 6), {}),
    (2, (19, 13), (8, 6), {"overlap": 0.6, "mode": "constant"}),
    (2, (7, 21), (10, 10), {}),
    (2, (7, 21), (12, 10), {"padding_mode": "reflect"}),
    (2, (7, 21), (10, 10), {"padding_mode": "constant", "cval": 2.5}),
    (3, (11, 9, 6), (6, 6, 8), {"overlap": 0.5, "padding_mode": "replicate"}),
]
TARGETS = {
    "the prediction": None,
    "a class": 1,
    "a channel": targets.class_score(2),
    "a callable": lambda logits: logits.softmax(1)[:, 1].flatten(1).square().sum(1),
    "several": targets.classes(0, 1),
}


def case(dims, space, channels=2, batch=2):
    torch.manual_seed(1)
    return net(dims, channels), torch.rand(batch, channels, *space, dtype=torch.float64)


def scores(name, out):
    """Return the scores of a target of `TARGETS`, computed independently."""
    picked = out.argmax(1)

    def mean(chosen, inside):
        return (chosen * inside).flatten(1).sum(1) / inside.flatten(1).sum(1)

    if name == "the prediction":
        return mean(out.gather(1, picked[:, None])[:, 0], picked != 0)[:, None]
    if name == "a class":
        return mean(out[:, 1], picked == 1)[:, None]
    if name == "a channel":
        return out[:, 2].flatten(1).mean(1)[:, None]
    if name == "a callable":
        return TARGETS[name](out)[:, None]
    return torch.stack([mean(out[:, k], picked == k) for k in (0, 1)], 1)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * max(1, expected.abs().max()))


@pytest.mark.parametrize(("dims", "space", "roi", "options"), CASES)
@pytest.mark.parametrize("sw_batch_size", [1, 3])
def test_the_prediction_is_monais(dims, space, roi, options, sw_batch_size):
    model, x = case(dims, space)
    found = medcam.explain_volume(
        model, x, roi, layer="fine", target=1, sw_batch_size=sw_batch_size, **options
    )
    with torch.no_grad():
        expected = through_monai(model, x, roi, **options)
    close(found.output, expected)


@pytest.mark.parametrize(("dims", "space", "roi", "options"), CASES)
@pytest.mark.parametrize("target", TARGETS)
def test_input_gradients_are_those_straight_through_the_stitching(
    dims, space, roi, options, target
):
    model, x = case(dims, space)
    found = medcam.explain_volume(
        model, x, roi, method=["saliency", "inputxgradient"], target=TARGETS[target],
        sw_batch_size=2, **options,
    )  # fmt: skip
    leaf = x.clone().requires_grad_()
    columns = scores(target, through_monai(model, leaf, roi, **options)).unbind(1)
    for t, column in enumerate(columns):
        (grad,) = torch.autograd.grad(column.sum(), leaf, retain_graph=True)
        close(found.maps["saliency", None].channels[:, t], grad)
        close(found.maps["saliency", None].values[:, t], grad.abs().amax(1))
        close(found.maps["inputxgradient", None].channels[:, t], grad * x)


@pytest.mark.parametrize(("dims", "space", "roi", "options"), CASES)
def test_guided_backpropagation_is_that_straight_through_the_stitching(dims, space, roi, options):
    model, x = case(dims, space)
    found = medcam.explain_volume(model, x, roi, method="gbp", target=1, **options)
    whole = medcam.explain(Sliding(model, roi, **options), x, method="gbp", target=1)
    assert whole.map.values.abs().max() > 0
    close(found.map.channels, whole.map.channels)


@pytest.mark.parametrize(("dims", "space", "roi", "options"), [CASES[0], CASES[1]])
def test_hirescam_at_input_resolution_is_that_straight_through_the_stitching(
    dims, space, roi, options
):
    model, x = case(dims, space, batch=1)
    found = medcam.explain_volume(
        model, x, roi, method="hirescam", layer="fine", target=targets.class_score(1), **options
    )
    kept = []
    handle = model.fine.register_forward_hook(lambda m, i, o: kept.append(o))
    out = through_monai(model, x.clone().requires_grad_(), roi, **options)
    handle.remove()
    grads = torch.autograd.grad(out[:, 1].mean(), kept)
    places, *_ = windows(space, roi, options.get("mode", "gaussian"), options.get("overlap", 0.25))
    expected = torch.zeros_like(x[:, 0])
    for place, a, g in zip(places, kept, grads, strict=True):
        expected[(slice(None), *place)] += (a * g).sum(1).detach()
    close(found.map.values[:, 0], expected)


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("layer", ["fine", "coarse", "auto"])
@pytest.mark.parametrize("method", ONCE)
def test_one_window_over_everything_is_the_plain_explanation(method, layer, mode):
    model, x = case(2, (12, 14), batch=2)
    found = medcam.explain_volume(model, x, -1, method=method, layer=layer, mode=mode, target=1)
    plain = medcam.explain(model, x, method=method, layer=layer, target=1)
    assert found.layer == plain.layer
    close(found.map.values, plain.map.values)
    assert found.map.signed == plain.map.signed


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("layer", ["fine", "coarse"])
def test_grad_cam_is_the_mean_of_signed_window_maps(layer, mode):
    space, roi = (19, 13), (8, 6)
    model, x = case(2, space, batch=1)
    found = medcam.explain_volume(
        model, x, roi, method="gcam", layer=layer, target=1, mode=mode, channel_weights="window"
    )
    out = through_monai(model, x, roi, mode=mode).detach()
    inside = (out.argmax(1) == 1).double()
    seed = torch.zeros_like(out)
    seed[:, 1] = inside / inside.sum()
    places, weight, total, count = windows(space, roi, mode)
    expected = torch.zeros_like(x[:, 0])
    for place in places:
        at = (slice(None), slice(None), *place)
        share = seed[at] * weight * (count / total)[place]
        a, g = evidence(model, layer, x[at], share)
        cam = torch.einsum("bk,bkij->bij", g.mean((2, 3)), a)[:, None]
        cam = placed(cam, roi)[:, 0]
        expected[(slice(None), *place)] += cam * weight
    expected = (expected / total).relu()
    assert expected.max() > 0
    close(found.map.values[:, 0], expected)


def test_guided_grad_cam_is_guided_gradients_times_the_stitched_map():
    model, x = case(2, (19, 13))
    methods = ["ggcam", "gbp", medcam.methods.get("gcam", rectify=False)]
    found = medcam.explain_volume(model, x, (8, 6), method=methods[:2], layer="coarse", target=2)
    signed = medcam.explain_volume(model, x, (8, 6), method=methods[2], layer="coarse", target=2)
    assert signed.map.values.min() < 0 < signed.map.values.max()
    guided = found.maps["gbp", None].channels
    assert guided.abs().max() > 0
    close(found.maps["ggcam", "coarse"].channels, guided * signed.map.values.relu()[:, :, None])


def test_channel_weights_of_the_volume_are_the_mean_gradients_of_all_windows():
    space, roi = (19, 13), (8, 6)
    model, x = case(2, space, batch=1)
    found = medcam.explain_volume(
        model, x, roi, method="gcam", layer="coarse", target=targets.classes(0, 1),
        channel_weights="volume",
    )  # fmt: skip
    out = through_monai(model, x, roi).detach()
    places, weight, total, _ = windows(space, roi)
    for t in (0, 1):
        inside = (out.argmax(1) == t).double()
        seed = torch.zeros_like(out)
        seed[:, t] = inside / inside.sum()
        kept = []
        for place in places:
            at = (slice(None), slice(None), *place)
            a, g = evidence(model, "coarse", x[at], seed[at] * (weight / total[place]))
            kept.append((place, a, g.mean((2, 3))))
        alpha = sum(mean for _, _, mean in kept)
        expected = torch.zeros_like(x[:, 0])
        for place, a, _ in kept:
            cam = torch.einsum("bk,bkij->bij", alpha, a)[:, None]
            cam = placed(cam, roi)[:, 0]
            expected[(slice(None), *place)] += cam * weight
        close(found.map.values[:, t], (expected / total).relu())


def test_eigen_cam_projects_all_windows_on_one_direction():
    space, roi = (19, 13), (8, 6)
    model, x = case(2, space, batch=1)
    found = medcam.explain_volume(model, x, roi, method="eigencam", layer="fine", target=1)
    places, weight, total, _ = windows(space, roi)
    parts = [model.fine(x[(slice(None), slice(None), *place)]).detach() for place in places]
    rows = torch.cat([part.flatten(2)[0].T for part in parts])
    mean = rows.mean(0)
    direction = torch.linalg.svd(rows - mean, full_matrices=False)[2][0]
    direction = direction * direction.sum().sign()
    expected = torch.zeros_like(x[:, 0])
    for place, part in zip(places, parts, strict=True):
        cam = torch.einsum("k,bkij->bij", direction, part - mean[:, None, None])
        expected[(slice(None), *place)] += cam * weight
    close(found.map.values[:, 0], expected / total)


@pytest.mark.parametrize("method", ["saliency", "gcam", "gcampp", "hirescam", "gbp"])
def test_mirroring_and_folds_are_averaged(method):
    torch.manual_seed(1)
    models = [net(2), net(2)]
    torch.nn.init.normal_(models[1].head.weight)
    x, roi = torch.rand(1, 1, 20, 14, dtype=torch.float64), (8, 8)  # mirrors onto itself
    found = medcam.explain_volume(
        models, x, roi, method=method, layer="coarse", target=targets.class_score(1),
        mirror_axes=(0, 1),
    )  # fmt: skip
    outs, maps = [], []
    for model in models:
        for flips in ([], [2], [3], [2, 3]):
            part = medcam.explain_volume(
                model, x.flip(flips), roi, method=medcam.methods.get(method).signed_form(),
                layer="coarse", target=targets.class_score(1),
            )  # fmt: skip
            outs.append(part.output.flip(flips))
            item = part.map.values if part.map.channels is None else part.map.channels
            maps.append(item.flip([axis - 4 for axis in flips]))
    close(found.output, sum(outs) / 8)
    expected = sum(maps) / 8
    if method in ("gcam", "gcampp"):
        expected = expected.relu()
    got = found.map.values if found.map.channels is None else found.map.channels
    assert expected.abs().max() > 0
    close(got, expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_2d_network_sees_a_volume_slice_by_slice(axis):
    model = net(2)
    x = torch.rand(1, 1, 9, 8, 10, dtype=torch.float64)
    found = medcam.explain_volume(
        model, x, (8, 6), method=["saliency", "gcam"], layer="coarse",
        target=targets.class_score(1), slice_axis=axis, overlap=0.5,
    )  # fmt: skip
    inferer = SliceInferer(axis, (8, 6), mode="gaussian", overlap=0.5)
    leaf = x.clone().requires_grad_()
    out = inferer(leaf, model)
    close(found.output, out.detach())
    (grad,) = torch.autograd.grad(out[:, 1].mean(), leaf)
    close(found.maps["saliency", None].channels[:, 0], grad)
    assert found.maps["gcam", "coarse"].values.shape == (1, 1, 9, 8, 10)


def test_slices_are_mirrored_along_axes_of_the_volume():
    model, target = net(2), targets.class_score(1)
    x = torch.rand(1, 1, 6, 4, 10, dtype=torch.float64)
    options = {"method": "saliency", "target": target, "slice_axis": 1}
    found = medcam.explain_volume(model, x, -1, mirror_axes=(2,), **options)
    plain = medcam.explain_volume(model, x, -1, **options)
    turned = medcam.explain_volume(model, x.flip(4), -1, **options)
    close(found.output, (plain.output + turned.output.flip(4)) / 2)
    close(found.map.channels, (plain.map.channels + turned.map.channels.flip(5)) / 2)
    with pytest.raises(medcam.errors.InputError, match="cannot be mirrored along slice_axis=1"):
        medcam.explain_volume(model, x, -1, mirror_axes=(1,), **options)


def test_weights_of_the_windows_follow_the_prediction_to_its_device():
    """A volume on a GPU failed: the windows' weights stay on the CPU. "meta" is such a device."""
    values = torch.zeros(1, 1, 8, 8, device="meta")
    target = ResolvedTarget("class 1", "segmentation")
    gradient = ScoreGradient(target, [torch.zeros(1, dtype=torch.long, device="meta")], [values])
    place = (slice(0, 4), slice(0, 4))
    logits = torch.zeros(1, 2, 4, 4, device="meta")
    assert gradient.score(logits, [(0, place)], [torch.ones(4, 4)]).shape == (1, 1)
