"""Every method against a replica: loops written from its paper, in numpy and float64."""

# ruff: noqa: N803 (A and G are the papers' symbols)

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import medcam
from medcam import demo
from medcam.errors import MedcamWarning
from medcam.methods import METHODS, get
from medcam.methods.grad_cam import grad_cam
from medcam.methods.grad_cam_pp import grad_cam_pp
from medcam.methods.hires_cam import hires_cam
from medcam.methods.seg_xres_cam import seg_xres_cam
from medcam.targets import class_score
from support.methods import ONCE
from support.nets import Classifier, UNet, image

SPACES = [(5, 4), (3, 4, 5)]


def relu(values):
    return np.maximum(values, 0)


def weighted(weights, A):
    cam = np.zeros(A.shape[1:])
    for weight, channel in zip(weights, A, strict=True):
        cam += weight * channel
    return cam


# One sample each: A and G are [K, *layer], x and its gradients [channels, *space].


def grad_cam_of_paper(A, G):
    return relu(weighted([g.sum() / g.size for g in G], A))


def grad_cam_pp_of_paper(A, G, eps=0.0):
    """Eq. 19 as printed, with ReLU(A) in the sum, and without the common factor e^y."""
    weights = []
    for a, g in zip(A, G, strict=True):
        S = relu(a).sum()
        terms = [v**2 / (2 * v**2 + S * v**3 + eps) * v for v in g.ravel() if v > 0]
        weights.append(sum(terms))
    return relu(weighted(weights, A))


def hires_cam_of_paper(A, G):
    cam = np.zeros(A.shape[1:])
    for u in np.ndindex(cam.shape):
        cam[u] = sum(G[k][u] * A[k][u] for k in range(len(A)))
    return cam


def layer_cam_of_paper(A, G):
    cam = np.zeros(A.shape[1:])
    for u in np.ndindex(cam.shape):
        cam[u] = max(0, sum(max(0, G[k][u]) * A[k][u] for k in range(len(A))))
    return cam


def x_grad_cam_of_paper(A, G):
    weights = [0.0 if a.sum() == 0 else (g * a).sum() / a.sum() for a, g in zip(A, G, strict=True)]
    return relu(weighted(weights, A))


def seg_xres_cam_of_paper(A, G, h=2, pool=np.mean):
    """Seg-XRes-CAM: each voxel's weight is the pooled gradient of its window."""
    cam = np.zeros(A.shape[1:])
    for u in np.ndindex(cam.shape):
        window = tuple(slice(i // h * h, i // h * h + h) for i in u) if h else ...
        cam[u] = max(0, sum(pool(G[k][window]) * A[k][u] for k in range(len(A))))
    return cam


def eigen_cam_of_paper(A):
    rows = np.array([A[(slice(None), *u)] for u in np.ndindex(A.shape[1:])])
    rows = rows - rows.mean(0)
    first = np.linalg.svd(rows)[2][0]
    return (rows @ (first * np.sign(first.sum()))).reshape(A.shape[1:])


def linear(old, new):
    """Return the matrix of linear interpolation, align_corners=False."""
    matrix = np.zeros((new, old))
    for i in range(new):
        at = min(max((i + 0.5) * old / new - 0.5, 0), old - 1)
        low = int(at)
        matrix[i, low] += 1 - (at - low)
        matrix[i, min(low + 1, old - 1)] += at - low
    return matrix


def guided_grad_cam_of_paper(guided, A, G):
    cam = grad_cam_of_paper(A, G)
    for axis, extent in enumerate(guided.shape[1:]):
        cam = np.moveaxis(np.tensordot(linear(cam.shape[axis], extent), cam, (1, axis)), 0, axis)
    return np.stack([channel * cam for channel in guided])


REPLICAS = {
    "gcam": lambda e: grad_cam_of_paper(e["activations"], e["gradients"]),
    "gcampp": lambda e: grad_cam_pp_of_paper(e["activations"], e["gradients"]),
    "gbp": lambda e: e["guided_gradients"],
    "ggcam": lambda e: guided_grad_cam_of_paper(
        e["guided_gradients"], e["activations"], e["gradients"]
    ),
    "hirescam": lambda e: hires_cam_of_paper(e["activations"], e["gradients"]),
    "layercam": lambda e: layer_cam_of_paper(e["activations"], e["gradients"]),
    "xgradcam": lambda e: x_grad_cam_of_paper(e["activations"], e["gradients"]),
    "segxrescam": lambda e: seg_xres_cam_of_paper(e["activations"], e["gradients"]),
    "eigencam": lambda e: eigen_cam_of_paper(e["activations"]),
    "saliency": lambda e: e["input_gradients"],
    "inputxgradient": lambda e: e["inputs"] * e["input_gradients"],
}


def evidence(space, batch=3, channels=6):
    """Return signed activations and gradients, and an input of twice the layer's size plus one."""
    whole = [2 * extent + 1 for extent in space]
    layer = {n: torch.randn(batch, channels, *space) for n in ("activations", "gradients")}
    names = ("inputs", "input_gradients", "guided_gradients")
    return {
        n: v.double()
        for n, v in (layer | {n: torch.randn(batch, 2, *whole) for n in names}).items()
    }


def assert_same(found, expected, tolerance=1e-12):
    found = np.asarray(found)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_every_method_has_a_replica():
    """Those that run the model again have theirs in test_perturbations.py."""
    assert list(REPLICAS) == ONCE


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", ONCE)
def test_replica(method, space):
    given = evidence(space)
    found = METHODS[method].function(**{n: given[n] for n in METHODS[method].evidence})
    for sample in range(3):
        alone = {name: tensor[sample].numpy() for name, tensor in given.items()}
        assert_same(found[sample], REPLICAS[method](alone))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("method", ["gcam", "gcampp", "hirescam", "layercam", "xgradcam"])
def test_replica_on_a_network(method, dims):
    """This test's own hooks record the evidence, so capture and target are tested, too."""
    net = UNet(dims).double().eval()
    x, kept = image(dims, size=8).double(), []
    with net.bottleneck.register_forward_hook(lambda m, i, out: kept.append(out)):
        score = net(x)[:, 2].flatten(1).mean(1).sum()
    (G,) = torch.autograd.grad(score, kept)
    found = medcam.explain(
        net, x, method=method, layer="bottleneck", target=medcam.targets.class_score(2), shape=None
    )
    for sample in range(len(x)):
        alone = {"activations": kept[0][sample].detach().numpy(), "gradients": G[sample].numpy()}
        assert_same(found.map.values[sample, 0], REPLICAS[method](alone))


W = 1 / (2 + 4) + 2 / (2 + 8) + 0.5 / (2 + 2)  # .4916667, the first weight of Grad-CAM++
A = torch.tensor([[[[1, 2], [0, 1]], [[3, 0], [1, 0]]]], dtype=torch.float64)
G = torch.tensor([[[[1, -1], [2, 0.5]], [[0.5, 0.5], [0, -2]]]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("method", "by_hand"),
    [
        ("gcam", [[0, 1.25], [0, 0.625]]),
        ("gcampp", [[W + 0.75, 2 * W], [0.25, W]]),
        ("hirescam", [[2.5, -2], [0, 0.5]]),
        ("layercam", [[2.5, 0], [0, 0.5]]),
        ("xgradcam", [[1, 0], [0.375, 0]]),  # w = (-.125, .375)
    ],
)
def test_by_hand(method, by_hand):
    assert_same(METHODS[method].function(A, G)[0], np.array(by_hand), 1e-15)


def test_x_grad_cam_leaves_out_a_channel_whose_activations_sum_to_zero():
    given = evidence((4, 5))
    A, G = given["activations"], given["gradients"]
    A[:, 2] = torch.tensor([3.0, -3, 0.5, -0.5]).repeat(5).reshape(4, 5)
    found = METHODS["xgradcam"].function(activations=A, gradients=G)
    for sample in range(3):
        assert_same(found[sample], x_grad_cam_of_paper(A[sample].numpy(), G[sample].numpy()))
    others = [0, 1, 3, 4, 5]
    without = METHODS["xgradcam"].function(activations=A[:, others], gradients=G[:, others])
    assert_same(found, without.numpy())


# ------------------------------------------------------------------------------- Seg-XRes-CAM


@pytest.mark.parametrize("space", SPACES)
def test_seg_xres_cam_lies_between_hires_cam_and_grad_cam(space):
    given = evidence(space)
    A, G = given["activations"], given["gradients"]
    assert_same(seg_xres_cam(A, G, pool=1), hires_cam(A, G).relu().numpy(), 0)
    assert_same(seg_xres_cam(A, G, pool=None), grad_cam(A, G).numpy(), 1e-14)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("h", [2, 3, 4, 99])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_seg_xres_cam_windows_at_the_border_are_smaller(space, h, pooling):
    given = evidence(space)
    found = get("segxrescam", pool=h, pooling=pooling).function(
        activations=given["activations"], gradients=given["gradients"]
    )
    for sample in range(3):
        A, G = (given[name][sample].numpy() for name in ("activations", "gradients"))
        assert_same(found[sample], seg_xres_cam_of_paper(A, G, h, getattr(np, pooling)))


# ---------------------------------------------------------------------------------- Grad-CAM++


@pytest.mark.parametrize("scale", [1, 1e-30, 1e-120])
def test_grad_cam_pp_neither_underflows_nor_cancels(scale):
    """In the paper's own form G³ is 0 here, and the weight 0/0."""
    given = evidence((4, 5))
    A, G = given["activations"], given["gradients"] * scale
    found = grad_cam_pp(A, G) / scale
    total = A.relu().flatten(2).sum(2)[..., None]
    w = (G / scale).flatten(2).relu() / (2 + G.flatten(2).relu() * total)
    assert_same(found, torch.einsum("bku,bk...->b...", w, A).relu().numpy())
    assert found.flatten(1).amax(1).min() > 0


def test_grad_cam_pp_in_float32_with_gradients_whose_square_underflows():
    A, G = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4) * 1e-30
    w = G.double().flatten(2).sum(2) / 2  # S·G is negligible next to 2
    expected = torch.einsum("bk,bk...->b...", w, A.double())
    torch.testing.assert_close(grad_cam_pp(A, G).double(), expected, rtol=1e-5, atol=0)


def test_an_epsilon_in_the_denominator_would_be_wrong():
    """Gradients of a mean over 10⁴ voxels are around 1e-4, their squares below 1e-6."""
    given = evidence((6, 6, 6), batch=1)
    A, G = given["activations"], given["gradients"] * 1e-4

    def shown(cam):
        return cam / cam.max()

    exact = shown(grad_cam_pp_of_paper(A[0].numpy(), G[0].numpy()))
    rounded = shown(grad_cam_pp_of_paper(A[0].numpy(), G[0].numpy(), eps=1e-6))
    assert_same(shown(grad_cam_pp(A, G)[0].numpy()), exact)
    assert abs(exact - rounded).max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_logits_stay_finite(dtype):
    net, x = Classifier(3).to(dtype).eval(), image(3, size=8).to(dtype)
    with torch.no_grad():
        net.head.bias.add_(2000)
    found = medcam.explain(net, x, method="gcampp", layer="features.4", target=1)
    assert found.output.min() > 1000
    with torch.no_grad():
        net.head.bias.sub_(2000)
    plain = medcam.explain(net, x, method="gcampp", layer="features.4", target=1)
    assert torch.equal(found.map.values, plain.map.values)  # exp(y) would be infinite
    assert plain.map.values.amax() > 0


# ------------------------------------------------------------------------------------ Eigen-CAM


def test_eigen_cam_turns_with_the_activations():
    values = evidence((4, 5))["activations"]
    flipped = METHODS["eigencam"].function(activations=-values)
    assert_same(flipped, -METHODS["eigencam"].function(activations=values).numpy())


def test_eigen_cam_of_one_channel_is_the_centred_channel():
    values = torch.randn(2, 1, 3, 4).double()
    centred = values[:, 0] - values.flatten(1).mean(1)[:, None, None]
    assert_same(METHODS["eigencam"].function(activations=values), centred.numpy())


def test_eigen_cam_of_a_network_with_random_weights_converges():
    """S1: in float32 the eigenvalue solver raised LinAlgError for a third of these networks."""
    images = demo.load_lesion_slices().images
    for seed in range(20, 30):
        torch.manual_seed(seed)
        net = demo.load_lesion_classifier()
        net.conv1.reset_parameters()
        net.conv2.reset_parameters()
        found = medcam.explain(net, images, method="eigencam", layer="relu6", shape=None)
        exact = medcam.explain(
            net.double(), images.double(), method="eigencam", layer="relu6", shape=None
        )
        size = exact.map.values.abs().max()
        assert (found.map.values - exact.map.values).abs().max() < 1e-4 * size + 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eigen_cam_behind_a_layer_norm_is_positive_where_activations_are_large(dtype):
    """S10: the channels of each voxel sum to zero, so their sum gives the direction no sign."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        values = torch.randn(1, 6, 5, 5, generator=generator, dtype=dtype)
        values[..., 1:3, 1:3] *= 8
        values -= values.mean(1, keepdim=True)
        cam = METHODS["eigencam"].function(activations=values)
        norms = values.norm(dim=1)
        assert ((cam - cam.mean()) * (norms - norms.mean())).sum() > 0


def test_x_grad_cam_of_sums_that_are_rounding_is_zero_and_says_so():
    """S3: behind an instance norm without affine parameters the weights were 1e5 and more."""
    net = nn.Sequential(
        nn.Conv2d(1, 5, 3), nn.InstanceNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 3)
    ).eval()  # fmt: skip
    for dtype in (torch.float32, torch.float64):
        with pytest.warns(MedcamWarning, match="activations of each channel cancel at layer '1'"):
            found = medcam.explain(
                net.to(dtype), image().to(dtype), method="xgradcam", layer="1", target=1
            )
        assert not found.map.values.any()
        behind = medcam.explain(
            net, image().to(dtype), method="xgradcam", layer="2", target=class_score(1)
        )
        assert behind.map.values.any()


def test_one_channel_without_a_sum_is_left_out_of_x_grad_cam():
    values, grads = torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4)
    values[:, 0] -= values[:, 0].double().mean().float()
    alone = METHODS["xgradcam"].function(activations=values[:, 1:], gradients=grads[:, 1:])
    assert torch.allclose(METHODS["xgradcam"].function(activations=values, gradients=grads), alone)
