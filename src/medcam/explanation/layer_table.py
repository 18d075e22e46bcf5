"""The layers of a model as a table, with the layers that a map can be made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from medcam.engine.model import layers
from medcam.engine.model.nested import describe
from medcam.engine.model.undo import ForwardHooks, undoing
from medcam.engine.request import Request
from medcam.engine.run import run
from medcam.engine.target.resolution import TargetLike
from medcam.engine.target.scores import score_of_whole_output
from medcam.errors import NoMapError
from medcam.methods import Method


@dataclass(frozen=True)
class LayerRow:
    """One layer of a model.

    Attributes:
        name: The layer's name, as ``layer=`` takes it.
        kind: The module's class.
        parameters: The number of parameters, including those of its children.
        output: The layer's output in words: "a tensor of shape [1, 8, 16, 16]". None: the layer did
            not run, or no input was given.
        channels: The number of channels of the output; None if the output is not on the input's
            grid.
        space: The spatial extents of the output; None if it is not on the input's grid.
        mappable: Whether a map can be made of the layer; None if no input was given.
        reason: The reason why no map can be made of the layer.
        automatic: Whether ``layer="auto"`` chooses this layer.
    """

    name: str
    kind: str
    parameters: int
    output: str | None = None
    channels: int | None = None
    space: tuple[int, ...] | None = None
    mappable: bool | None = None
    reason: str | None = None
    automatic: bool = False


@dataclass(frozen=True)
class Overview:
    """The table of a model's layers.

    Attributes:
        rows: The layers in the order of their registration, so a parent precedes its children.
        parameters: The number of the model's parameters.
        automatic: The layer that ``layer="auto"`` chooses; None if there is none, or no input.
        why_not: The reason why there is no automatic layer.
    """

    rows: tuple[LayerRow, ...]
    parameters: int
    automatic: str | None = None
    why_not: str | None = None


@undoing
def overview(model: nn.Module, *inputs: Any, target: TargetLike = None) -> Overview:
    """List a model's layers with their outputs and whether a map can be made of each.

    The model runs twice. The first run keeps the activations of all layers for a backward pass, as
    ``layer="full"`` does, which needs as much memory as training. The second run chooses the
    automatic layer. The model is not changed.

    Args:
        model: The model; wrappers such as DataParallel are removed for the call.
        *inputs: The model's inputs, as in `medcam.explain`. Without inputs the model does not run,
            and the table has names and parameters only.
        target: The target of the maps: no map can be made of a layer that it does not depend on.
            None: a score that depends on the whole output.

    Raises:
        InputError: The model cannot be explained on these inputs.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
        >>> for row in overview(net, torch.rand(1, 1, 8, 8)).rows:
        ...     print(row.name, row.space, row.reason or "a map can be made")
        0 (3, 3) a map can be made
        1 (3, 3) a map can be made
        2 None its output is a tensor of shape [1, 36], which is flattened
        3 None its output is a tensor of shape [1, 2], which does not lie on the input (8, 8)
    """
    model = layers.unwrap(model)
    modules = {name: module for name, module in model.named_modules() if name}
    total = _count_parameters(model)
    if not inputs:
        rows = [LayerRow(n, type(m).__name__, _count_parameters(m)) for n, m in modules.items()]
        return Overview(tuple(rows), total)
    target = score_of_whole_output if target is None else target
    with _described_outputs(modules) as outputs:
        reasons, features = _reasons_without_map(model, inputs, target)
    automatic, why_not = _automatic_layer(model, inputs, target)
    rows = []
    for name, module in modules.items():
        channels, extents = features.get(name, (None, None))
        reason = reasons if isinstance(reasons, str) else reasons.get(name)
        rows.append(
            LayerRow(
                name=name,
                kind=type(module).__name__,
                parameters=_count_parameters(module),
                output=outputs.get(name),
                channels=channels,
                space=extents,
                mappable=reason is None,
                reason=reason,
                automatic=name == automatic,
            )
        )
    return Overview(tuple(rows), total, automatic, why_not)


def _reasons_without_map(
    model: nn.Module, inputs: tuple[Any, ...], target: TargetLike
) -> tuple[Mapping[str, str] | str, Mapping[str, tuple[int, tuple[int, ...]]]]:
    """Return the reasons by layer why no map can be made, and the features of all others.

    If there is no map at all, the reason is one text.
    """
    request = Request.of(_LISTING, layer="full", target=target, shape=None)
    try:
        result = run(request, model, model, inputs, {})
    except NoMapError as error:
        return str(error), {}
    return result.skipped, result.features


def _automatic_layer(
    model: nn.Module, inputs: tuple[Any, ...], target: TargetLike
) -> tuple[str | None, str | None]:
    """Return the automatic layer and None; or None and the reason why there is none.

    Whether a segmentation uses the layer is not checked, as the inputs need not be an image.
    """
    request = Request.of(_LISTING, target=target, shape=None, check_layer=False)
    try:
        result = run(request, model, model, inputs, {})
    except NoMapError as error:
        return None, str(error)
    return result.layers[0], None


def _ones(
    activations: Float[Tensor, "batch channels *layer"],
    gradients: Float[Tensor, "batch channels *layer"],
) -> Float[Tensor, "batch *layer"]:
    """Return a map of ones: a listing needs layers with gradients, and no warnings about maps."""
    return torch.ones_like((activations * gradients)[:, 0])


_LISTING = Method("listing", _ones, "Listing")


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if not is_lazy(parameter))


@contextmanager
def _described_outputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, str]]:
    """Record the outputs of the modules that run within the context, in words."""
    outputs: dict[str, str] = {}

    def record(name: str, module: nn.Module, _: Any, output: Any) -> None:
        outputs[name] = describe(output)

    hooks = [
        (module, partial(record, name))
        for name, module in modules.items()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    with ForwardHooks(hooks):
        yield outputs
