"""Apply the rule of an operation or of a module, or give the reason why the place is unknown."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from medcam.engine.model.placement.geometry import Geometry
from medcam.engine.model.placement.parts import Misplaced, UnplacedError, reason_of
from medcam.engine.model.placement.rules.call import Call, elementwise
from medcam.engine.model.placement.rules.modules import ModuleRule
from medcam.engine.model.placement.rules.registry import RULES

_log = logging.getLogger("medcam")

Origins = dict[int, "Geometry | str"]
"""For each image that a tensor comes from its geometry, or the reason why that is unknown."""


def geometry_by_module(
    rule: ModuleRule, module: nn.Module, geometry: Geometry | str, shape: tuple[int, ...]
) -> Geometry | str:
    """Return the geometry of a module's output, or the reason why it is unknown."""
    if isinstance(geometry, str):
        return geometry
    try:
        return rule(module, geometry, shape)
    except UnplacedError as error:
        return reason_of(error)


def geometries_of(
    func: Any,
    name: str,
    arguments: Mapping[str, Any],
    origins: Mapping[int, Origins],
    image: int,
    shapes: Sequence[tuple[int, ...]],
) -> list[Geometry | str | None]:
    """Return the geometry of each result on one image, or the reason why it is unknown.

    Args:
        func: The operation.
        name: Its name.
        arguments: The arguments by name.
        origins: The origins of each tensor, by id.
        image: The number of the image.
        shapes: The shapes of the results.
    """
    of_image = {key: item[image] for key, item in origins.items() if image in item}
    geometries = {key: item for key, item in of_image.items() if isinstance(item, Geometry)}
    has_place = any(
        part.size > 1 and part.axes - {0, 1}
        for geometry in geometries.values()
        for dim in geometry.dims
        for part in dim
    )
    if not geometries or (len(geometries) < len(of_image) and not has_place):
        reasons = [item for item in of_image.values() if isinstance(item, str)]
        reason = next((item for item in reasons if isinstance(item, Misplaced)), reasons[0])
        return [reason] * len(shapes)
    rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
    if rule is None and torch.Tag.pointwise in func.tags:
        rule = elementwise
    if rule is None:
        return [f"the operation {name!r} is not followed"] * len(shapes)
    unknown, foreign = set(of_image) - set(geometries), set(origins) - set(of_image)
    call = Call(arguments, geometries, frozenset(unknown), frozenset(foreign), shapes)
    try:
        result = rule(call)
    except UnplacedError as error:
        return [reason_of(error, name)] * len(shapes)
    except Exception:  # noqa: BLE001  # rules see any program's arguments; see below
        # a rule that fails must not cost the caller the prediction: the place is then unknown
        _log.debug("the rule of %r failed", name, exc_info=True)
        return [f"the operation {name!r} is not followed"] * len(shapes)
    return list(result) if isinstance(result, list) else [result] * max(len(shapes), 1)
