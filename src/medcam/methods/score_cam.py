"""Score-CAM and Ablation-CAM: channels weighted by what the score does, without a gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medcam.methods.changes import portions, positive_count

_MOST_CHANNELS = 256


def score_cam(
    activations: Float[Tensor, "1 features *layer"],
    score_of_masked: Callable[..., Tensor],
    channels: int | None = _MOST_CHANNELS,
    batch: int | None = None,
    rectify: bool = True,
) -> Float[Tensor, "targets *layer"]:
    """Return Score-CAM: channels weighted by the score of the image that they let through.

    ``L = ReLU(Σ_k α_k A^k)`` with ``α = softmax_k y(x ⊙ H^k)``, where ``H^k`` is the channel
    scaled to [0, 1] and placed on the image (Wang et al., CVPR Workshops 2020, arXiv 1910.01279,
    Algorithm 1). The paper's baseline score drops out of the softmax. Differences: a channel is
    scaled before it is placed on the image, not after; a constant channel, which masks nothing, is
    left out; of many channels only those that vary most over the layer are tried.

    Args:
        activations: The output of the layer.
        score_of_masked: Function of masks of the layer's size that returns the scores of the image
            times each mask.
        channels: The number of channels that are tried; None: all, as in the paper.
        batch: The number of images that run at a time; None: by their size.
        rectify: Whether the last ReLU is applied.

    Raises:
        InputError: An option is not accepted.
    """
    features = activations[0]
    low, high = features.flatten(1).amin(1), features.flatten(1).amax(1)
    chosen = _largest(features.flatten(1).std(1, correction=0), channels)
    chosen = chosen[high[chosen] > low[chosen]]
    scores = []
    for portion in portions(len(chosen), activations[:, :1], batch, score_of_masked):
        numbers = chosen[portion]
        shape = (-1, *[1] * (features.ndim - 1))
        start, width = low[numbers].reshape(shape), (high - low)[numbers].reshape(shape)
        scores.append(score_of_masked((features[numbers] - start) / width))
    if not scores:
        masks = torch.zeros_like(features[:1])
        return score_of_masked(masks)[0].reshape(-1, *[1] * masks[0].ndim) * masks
    weights = torch.cat(scores).softmax(0)
    cam = torch.einsum("kt,k...->t...", weights.to(features), features[chosen])
    return cam.relu() if rectify else cam


def ablation_cam(
    activations: Float[Tensor, "1 features *layer"],
    score_without: Callable[..., Tensor],
    channels: int | None = _MOST_CHANNELS,
    batch: int | None = None,
    rectify: bool = True,
) -> Float[Tensor, "targets *layer"]:
    """Return Ablation-CAM: channels weighted by the drop of the score without them.

    ``L = ReLU(Σ_k w_k A^k)`` with ``w_k = y - y_k``, where ``y_k`` is the score if channel k is
    zero (Desai and Ramaswamy, WACV 2020, doi 10.1109/WACV45572.2020.9093360, Eq. 2). The paper
    divides by y: one factor for the map, which would turn it round where y is negative, and is left
    out. Of many channels only those of the largest mean magnitude are switched off.

    Args:
        activations: The output of the layer.
        score_without: Function of channel numbers that returns the scores of the image without
            each of them; -1 switches none off.
        channels: The number of channels that are tried; None: all, as in the paper.
        batch: The number of images that run at a time; None: by their size.
        rectify: Whether the last ReLU is applied.

    Raises:
        InputError: An option is not accepted.
    """
    features = activations[0]
    chosen = _largest(features.flatten(1).abs().mean(1), channels)
    score = score_without(chosen.new_full((1,), -1))[0]
    scores = [
        score_without(chosen[portion])
        for portion in portions(len(chosen), activations[:, :1], batch, score_without)
    ]
    weights = score - torch.cat(scores)
    cam = torch.einsum("kt,k...->t...", weights.to(features), features[chosen])
    return cam.relu() if rectify else cam


def _largest(sizes: Float[Tensor, " features"], count: int | None) -> Int[Tensor, " chosen"]:
    """Return the numbers of the channels of the largest sizes, in their order."""
    most = len(sizes) if count is None else min(positive_count(count, "channels"), len(sizes))
    return sizes.topk(most).indices.sort().values
