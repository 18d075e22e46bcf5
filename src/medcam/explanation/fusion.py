"""`medcam.fuse`: one map of the maps of several layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import torch

from medcam.errors import InputError
from medcam.maps import AttentionMap

Rule = Literal["product", "mean", "max"]
"""What ``rule=`` takes."""


def fuse(maps: Iterable[AttentionMap], rule: Rule = "product") -> AttentionMap:
    """Return one map of the maps of several layers, such as a coarse and a fine one.

    Each map's attention is scaled to a maximum of 1 for each sample and target. The "product" of
    these is high where every layer looks, at the resolution of the finest: with Grad-CAM++ it is
    RefineCAM (arXiv 2605.14641), but maps are not shifted to a minimum of 0. "mean" and "max" keep
    what a single layer sees, as the paper of LayerCAM does (doi 10.1109/TIP.2021.3089943).

    Args:
        maps: Maps of one image and target at one shape, such as ``explanation.maps.values()``.
        rule: How they are combined.

    Raises:
        InputError: There are fewer than two maps, their shapes differ, or the rule is unknown.

    Example:
        >>> from medcam import demo, explain
        >>> images = demo.load_lesion_slices().images[:1]
        >>> both = explain(demo.load_lesion_classifier(), images, layer=["relu4", "relu6"],
        ...                method="layercam", target=1)
        >>> fuse(both.maps.values()).layer
        'relu4 x relu6'
    """
    items = list(maps)
    if rule not in ("product", "mean", "max"):
        raise InputError(f"rule={rule!r} is not known: choose 'product', 'mean' or 'max'.")
    if len(items) < 2:
        raise InputError(
            f"There are {len(items)} maps to fuse: give those of several layers, "
            "fuse(explanation.maps.values())."
        )
    first = items[0]
    if any(item.values.shape != first.values.shape for item in items):
        shapes = ", ".join(str(list(item.values.shape)) for item in items)
        raise InputError(f"Maps of one shape can be fused; these are {shapes}: use shape='input'.")
    axes = tuple(range(2, first.values.ndim))
    scaled = []
    for item in items:
        attention = item.attention().clamp(min=0)
        highest = attention.amax(axes, keepdim=True)
        scaled.append(attention / torch.where(highest > 0, highest, 1.0))
    stacked = torch.stack(scaled)
    values = stacked.amax(0) if rule == "max" else stacked.mean(0)
    if rule == "product":
        values = stacked.prod(0)
    sign = {"product": " x ", "mean": " + ", "max": " | "}[rule]
    titles = list(dict.fromkeys(item.title for item in items))
    names = list(dict.fromkeys(item.method for item in items))
    return replace(
        first, values=values, signed=False, positive_part=False, channels=None, grid=None,
        method="_".join(names), method_title=sign.join(titles),
        layer=sign.join(item.layer or "input" for item in items),
    )  # fmt: skip
