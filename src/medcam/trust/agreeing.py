"""`medcam.agreement`: how well a map agrees over folds, mirrorings, noise and methods."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from medcam.engine.model import isolation, layers
from medcam.engine.model.inputs import require_images
from medcam.engine.model.layers import LayerLike
from medcam.engine.model.outputs import Selector
from medcam.engine.model.undo import undoing
from medcam.engine.target.resolution import TargetLike
from medcam.engine.windows.ensemble import checked_axes, mirrorings
from medcam.errors import InputError, MedcamWarning
from medcam.explanation.call import explain
from medcam.maps import AttentionMap
from medcam.methods import MethodLike
from medcam.trust.blocks import noisy, to_numpy
from medcam.trust.statistics import rank_correlation


@dataclass(frozen=True, eq=False)
class Agreement:
    """Maps of the same images and target that should agree.

    Each map is divided by its mean magnitude, so that maps of other networks and methods count
    alike.

    Attributes:
        mean: The mean of the maps.
        spread: Their standard deviation: where they disagree.
        maps: The maps by name, such as ``"fold 0, mirrored 1, noise 2, gcam"``.
        correlation: For each sample, the mean rank correlation of two maps; NaN for a single one.
        pairs: The rank correlation of each pair of maps, as the mean over the samples.
        importance: Of maps of the input, each channel's share of the magnitude, by sample, as the
            mean over the maps ``[batch, channels]``; None for maps of a layer.
        made_of: How the number of maps comes about, such as ``"1 network x 2 orientations (1
            unmirrored, 1 mirrored) x 5 copies of each image (1 unchanged, 4 noisy)"``.
    """

    mean: AttentionMap
    spread: AttentionMap
    maps: Mapping[str, AttentionMap]
    correlation: Float[np.ndarray, " batch"]
    pairs: Mapping[tuple[str, str], float]
    importance: Float[np.ndarray, "batch channels"] | None
    made_of: str = ""

    def __str__(self) -> str:
        values = ", ".join(f"{value:.2f}" for value in self.correlation)
        maps = f"{len(self.maps)} maps" + (f": {self.made_of}" if self.made_of else "")
        return f"{maps}; mean rank correlation of each sample: {values}"


@undoing
def agreement(
    model: nn.Module | Sequence[nn.Module],
    inputs: Float[Tensor, "batch channels *space"],
    *,
    method: MethodLike | Iterable[MethodLike] = "auto",
    layer: LayerLike = "auto",
    target: TargetLike = None,
    output: Selector = None,
    mirror_axes: Sequence[int] = (),
    noises: int = 0,
    noise: float = 0.05,
    seed: int = 0,
) -> Agreement:
    """Return the mean and the spread of a map over folds, mirrorings, noise and methods.

    A map that hangs on the fold or on the noise of the image is not reproducible (Arun et al. 2021,
    doi 10.1148/ryai.2021200267). The models run in evaluation mode and stay as they are.

    Args:
        model: A network, or several of one architecture, such as the folds of a cross-validation.
        inputs: The images.
        method: As in `medcam.explain`; several are compared with each other.
        layer: As in `medcam.explain`, but one layer.
        target: As in `medcam.explain`. Without one, each network explains its own prediction: name
            a class, so that all explain the same.
        output: As in `medcam.explain`.
        mirror_axes: Spatial axes: the maps of all mirrored images, mirrored back, are compared.
        noises: The number of noisy copies of each image.
        noise: The standard deviation of the noise, as a share of that of each image.
        seed: Of the noise.

    Raises:
        InputError: There is no network, there is one map only, or a layer has no single map.
        NoMapError: No map can be made.

    Example:
        >>> from medcam import demo
        >>> images = demo.load_lesion_slices().images[:2]
        >>> both = agreement(demo.load_lesion_classifier(), images, target=1, mirror_axes=[1])
        >>> len(both.maps), both.spread.values.shape
        (2, torch.Size([2, 1, 64, 64]))
    """
    models = [model] if isinstance(model, nn.Module) else list(model)
    networks = [layers.unwrap(network) for network in models]
    if not networks:
        raise InputError("model is an empty sequence: give a network, or a list of networks.")
    require_images((inputs,), {}, networks[0])
    flips = mirrorings(checked_axes(mirror_axes, inputs.ndim - 2))
    options = {"method": method, "layer": layer, "target": target, "output": output}
    maps: dict[str, AttentionMap] = {}
    for fold, network in enumerate(networks):
        with isolation.in_eval_mode(network):
            for flip, number in itertools.product(flips, range(noises + 1)):
                generator = torch.Generator().manual_seed(seed + number)
                images = noisy(inputs, noise, generator) if number else inputs
                for item in _maps(network, images, flip, options):
                    maps[_name(fold, flip, number, item.method)] = item
    if len(maps) < 2:
        raise InputError(
            "There is one map only: give several networks or methods, mirror_axes=, or noises=."
        )
    return replace(_of_maps(maps), made_of=_made_of(len(networks), len(flips), noises, len(maps)))


def _maps(
    network: nn.Module, images: Tensor, flip: tuple[int, ...], options: dict[str, Any]
) -> list[AttentionMap]:
    """Return the maps of mirrored images, mirrored back."""
    axes = [axis + 2 for axis in flip]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedcamWarning)
        explanation = explain(network, images.flip(axes) if axes else images, **options)
        items = list(explanation.maps.values())
    if len({item.layer for item in items if item.layer is not None}) > 1:
        raise InputError("agreement compares maps of one layer: name one.")
    if not axes:
        return items
    if any(item.target.is_part for item in items):
        raise InputError(
            "The target has a place, which mirrored images do not share: leave out mirror_axes=, "
            "or take a class."
        )
    return [
        replace(
            item, values=item.values.flip(axes),
            channels=None if item.channels is None else item.channels.flip([a + 1 for a in axes]),
        )
        for item in items
    ]  # fmt: skip


def _name(fold: int, flip: tuple[int, ...], number: int, method: str) -> str:
    mirrored = f", mirrored {' '.join(map(str, flip))}" if flip else ""
    noise = f", noise {number}" if number else ""
    return f"fold {fold}{mirrored}{noise}, {method}"


def _made_of(networks: int, orientations: int, noises: int, maps: int) -> str:
    """Return how the number of maps comes about.

    Example:
        >>> _made_of(3, 1, 0, 6)
        '3 networks x 2 methods'
    """
    factors = [f"{networks} network{'s' * (networks > 1)}"]
    if orientations > 1:
        factors.append(f"{orientations} orientations (1 unmirrored, {orientations - 1} mirrored)")
    if noises:
        factors.append(f"{noises + 1} copies of each image (1 unchanged, {noises} noisy)")
    methods = maps // (networks * orientations * (noises + 1))
    if methods > 1:
        factors.append(f"{methods} methods")
    return " x ".join(factors)


def _of_maps(maps: Mapping[str, AttentionMap]) -> Agreement:
    """Return how maps agree."""
    first = next(iter(maps.values()))
    axes = tuple(range(2, first.values.ndim))
    scaled = []
    for item in maps.values():
        if item.values.shape != first.values.shape:
            raise InputError(
                f"The maps have the shapes {list(first.values.shape)} and "
                f"{list(item.values.shape)}: they have to be of one target and one image."
            )
        size = item.values.abs().mean(axes, keepdim=True)
        scaled.append(item.values / torch.where(size > 0, size, 1.0))
    stacked = torch.stack(scaled)
    pairs = {
        (a, b): rank_correlation(to_numpy(x), to_numpy(y))
        for (a, x), (b, y) in itertools.combinations(zip(maps, scaled, strict=True), 2)
    }
    shares = [_shares(item.channels) for item in maps.values() if item.channels is not None]
    return Agreement(
        replace(first, values=stacked.mean(0), channels=None),
        replace(first, values=stacked.std(0, correction=0), signed=False, channels=None),
        dict(maps),
        np.mean(list(pairs.values()), 0) if pairs else np.full(len(first.values), math.nan),
        {pair: float(values.mean()) for pair, values in pairs.items()},
        np.mean(shares, 0) if len(shares) == len(maps) else None,
    )


def _shares(
    channels: Float[Tensor, "batch targets channels *space"],
) -> Float[np.ndarray, "batch channels"]:
    """Return each channel's share of the magnitude of a map of the input."""
    sums = to_numpy(channels.abs().flatten(3).sum(3).sum(1))
    total = sums.sum(1, keepdims=True)
    shares: Float[np.ndarray, "batch channels"] = sums / np.where(total > 0, total, 1)
    return shares
