"""What a model is made of, and of which of its layers a map can be made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from medcam.engine.model import layers, layouts
from medcam.engine.model.inputs import main_input
from medcam.engine.model.nested import describe
from medcam.engine.target.resolution import TargetLike
from medcam.errors import NoMapError
from medcam.explanation.call import explain


@dataclass(frozen=True)
class LayerRow:
    """One layer of a model.

    Attributes:
        name: What ``layer=`` takes.
        kind: The module's class.
        parameters: The number of parameters, those of its children with them.
        output: What it put out, in words: "a tensor of shape [1, 8, 16, 16]". None: it did not run,
            or no input was given.
        channels: The channels of its features; None where they do not lie on the input.
        space: Their extents.
        mappable: Whether a map can be made of it; None if no input was given.
        reason: Why no map can be made of it.
        automatic: Whether ``layer="auto"`` takes it.
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
    """The layers of a model, a parent before its children.

    Attributes:
        rows: The layers, in the order in which they were registered.
        parameters: The number of the model's parameters.
        automatic: The layer that ``layer="auto"`` takes; None if there is none, or no input.
        why_not: Why there is no automatic layer.
    """

    rows: tuple[LayerRow, ...]
    parameters: int
    automatic: str | None = None
    why_not: str | None = None


def overview(model: nn.Module, *inputs: Any, target: TargetLike = None) -> Overview:
    """Lists a model's layers: what each puts out, and whether a map can be made of it.

    The model runs twice: once with every layer's features kept for a backward pass, as
    ``layer="full"`` does, which takes as much memory as training; once to choose the automatic
    layer. It is left as it was.

    Args:
        model: The model; wrappers such as DataParallel are looked through.
        *inputs: Its inputs, as in `medcam.explain`. Without any the model does not run, and nothing
            is said of shapes and maps.
        target: What maps would be of: a layer on which it does not depend has none. None: all that
            the model puts out.

    Raises:
        InputError: An input that the model cannot be explained on.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
        >>> for row in overview(net, torch.rand(1, 1, 8, 8)).rows:
        ...     print(row.name, row.space, row.reason or "a map can be made")
        0 (3, 3) a map can be made
        1 (3, 3) a map can be made
        2 None its output is a tensor of shape [1, 36], which does not lie on the input (8, 8)
        3 None its output is a tensor of shape [1, 2], which does not lie on the input (8, 8)
    """
    model = layers.unwrap(model)
    named = {name: module for name, module in model.named_modules() if name}
    total = _parameters(model)
    if not inputs:
        rows = [LayerRow(n, type(m).__name__, _parameters(m)) for n, m in named.items()]
        return Overview(tuple(rows), total)
    target = _whole_output if target is None else target
    _, image = main_input(inputs, {})
    batch, space = image.shape[0], tuple(image.shape[2:])
    with _watched(named, batch, space) as seen:
        reasons = _reasons(model, inputs, target)
    automatic, why_not = _automatic(model, inputs, target)
    rows = []
    for name, module in named.items():
        output, channels, extents = seen.get(name, (None, None, None))
        reason = reasons if isinstance(reasons, str) else reasons.get(name)
        rows.append(
            LayerRow(
                name=name,
                kind=type(module).__name__,
                parameters=_parameters(module),
                output=output,
                channels=channels,
                space=extents,
                mappable=reason is None,
                reason=reason,
                automatic=name == automatic,
            )
        )
    return Overview(tuple(rows), total, automatic, why_not)


def _whole_output(logits: Tensor) -> Tensor:
    """A score that depends on every logit, in ranges where none of its derivatives is a constant.

    The sum would not do: after a softmax it is always one.
    """
    return logits.flatten(1).square().mean(1)


def _reasons(
    model: nn.Module, inputs: tuple[Any, ...], target: TargetLike
) -> Mapping[str, str] | str:
    """Why no map can be made, by layer; one reason for all, where there is no map at all."""
    try:
        return explain(model, inputs, layer="full", target=target, shape=None).skipped
    except NoMapError as error:
        return str(error)


def _automatic(
    model: nn.Module, inputs: tuple[Any, ...], target: TargetLike
) -> tuple[str | None, str | None]:
    """The automatic layer, or why there is none."""
    try:
        (layer,) = explain(model, inputs, target=target, shape=None).maps
    except NoMapError as error:
        return None, str(error)
    return str(layer), None


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if not is_lazy(parameter))


@contextmanager
def _watched(
    named: Mapping[str, nn.Module], batch: int, space: tuple[int, ...]
) -> Iterator[dict[str, tuple[str, int | None, tuple[int, ...] | None]]]:
    """What each layer puts out, in words; and its channels and extents, if it lies on the input."""
    seen: dict[str, tuple[str, int | None, tuple[int, ...] | None]] = {}

    def look(name: str, module: nn.Module, _: Any, output: Any) -> None:
        found = layouts.main_tensor(output, batch, space, module)
        layout = None if found is None else found[1]
        seen[name] = (
            describe(output),
            None if layout is None else layout.channels,
            None if layout is None else layout.space,
        )

    handles = [
        module.register_forward_hook(partial(look, name))
        for name, module in named.items()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
