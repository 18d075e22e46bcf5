"""Select the tensor of a model's output that is explained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from medcam.engine.model.detections import Detections, detections_of
from medcam.engine.model.nested import children, describe, tensors
from medcam.errors import InputError, InputTypeError, warn

Selector = None | int | str | Callable[[Any], Any]
"""What ``output=`` takes: an index, a key or attribute, a callable, or None for the default."""

_log = logging.getLogger("medcam")


def select(
    output: Any,
    selector: Selector,
    *,
    batch: int,
    space: Sequence[int],
    channels: int | None = None,
) -> Tensor:
    """Return the tensor of a model's output that is explained.

    By default: the output if it is a tensor; else ``.logits``; else ``["out"]``; else the finest of
    a deep-supervision list; else the one whose shape is that of logits, with a warning if others
    might be meant: the only tensor with the input's spatial shape, if it is not a reconstruction of
    the input; else ``[batch, classes]``, the one with the fewest columns; else the first. The
    output of a single sample may have been squeezed.

    Args:
        output: What the model returned: a tensor, or a nest of tuples, lists, mappings and
            dataclasses.
        selector: An index, a key or attribute name, a callable, or None for the default.
        batch: The input's batch size.
        space: The input's spatial shape.
        channels: The number of the input's channels, if a reconstruction of it is to be told.

    Raises:
        InputError: The selector does not fit the output, or the tensor cannot be explained.
        InputTypeError: The output or the selected part contains no suitable tensor.
    """
    chosen, path = (output, "") if selector is None else _selected(output, selector)
    if chosen is None and selector is not None:
        raise InputTypeError(
            f"output={selector!r} selects None from {describe(output)}: select a tensor."
        )
    if not isinstance(chosen, Tensor):
        path, chosen = _default(chosen, path, batch, tuple(space), channels)
        _log.info("output explained: output%s, of shape %s", path, list(chosen.shape))
    if not chosen.is_floating_point():
        raise InputError(
            f"output{path} is a tensor of {chosen.dtype}, which has no gradient: choose the "
            "logits with output=, e.g. output='logits' or output=0."
        )
    if batch == 1:
        chosen = _unsqueezed(chosen, tuple(space))
    if chosen.ndim == 0 or chosen.shape[0] != batch:
        raise InputError(
            f"output{path} has shape {list(chosen.shape)}, but the input holds {batch} sample(s): "
            "its first axis has to be the batch"
            + (
                ", or it is what squeeze() leaves of one sample: [classes] or [classes, "
                f"{', '.join(map(str, space))}]. Choose another tensor with output=."
                if batch == 1
                else ". Choose another tensor with output=, or say layout='bag' if the first axis "
                "of the input is slices or views of one case."
            )
        )
    if chosen.ndim > len(space) + 2:
        raise InputError(
            f"output{path} has shape {list(chosen.shape)}, with more axes than the input: a stack "
            "of heads? Choose one, e.g. output=lambda out: out[:, 0]."
        )
    if chosen.ndim == len(space) + 1 and tuple(chosen.shape[1:]) == tuple(space):
        return chosen[:, None]
    return chosen


def select_detections(
    output: Any, selector: Selector, *, batch: int
) -> tuple[Any, list[Detections]] | None:
    """Return the part of a detector's output that holds detections, and those of each image.

    None if the output, or its selected part, has none.

    Args:
        output: What the model returned.
        selector: As in `select`.
        batch: The input's batch size.
    """
    chosen = output if selector is None else _selected(output, selector)[0]
    detections = None if isinstance(chosen, Tensor) else detections_of(chosen, batch)
    return None if detections is None else (chosen, detections)


def _unsqueezed(tensor: Tensor, space: tuple[int, ...]) -> Tensor:
    """Return the output of a single sample with the axes that ``squeeze()`` removed.

    Axes of extent 1 are removed from the space, too. A tensor that already has its batch axis, or
    that can be read in two ways, is returned as it is.
    """
    shape = tuple(tensor.shape)
    squeezed = tuple(extent for extent in space if extent != 1)
    is_volume_of_one_slice = len(space) == 3 and shape == space
    if (shape[:1] == (1,) and not is_volume_of_one_slice) or (
        len(shape) == 1 and shape == squeezed
    ):
        return tensor
    if len(shape) < 2:
        return tensor.reshape(1, *shape)
    if shape in (space, squeezed):
        return tensor.reshape(1, 1, *space)
    if shape[1:] in (space, squeezed):
        return tensor.reshape(1, shape[0], *space)
    return tensor


def _squeezed_candidates(
    floating: Sequence[tuple[str, Tensor]],
    candidates: list[tuple[str, Tensor]],
    space: tuple[int, ...],
) -> list[tuple[str, Tensor]]:
    """Return the candidates of `_default` for a single sample whose first tensor has no batch axis.

    If no tensor has one, those that ``squeeze()`` may have made are taken. If others have one, it
    cannot be known whether the first is the squeezed logits.
    """
    path, first = floating[0]
    restored = [(path, _unsqueezed(tensor, space)) for path, tensor in floating]
    restored = [item for item in restored if item[1].shape[0] == 1]
    if candidates and restored and restored[0][0] == path:
        warn(
            f"output{path} has shape {list(first.shape)}, without the batch axis of the one "
            f"sample; output{candidates[0][0]} has it, so the choice is among the tensors that do. "
            "If the former are the logits, after a squeeze(), choose them with output=."
        )
    return candidates or restored


def _selected(output: Any, selector: int | str | Callable[[Any], Any]) -> tuple[Any, str]:
    """Return the selected part of an output, and its path for messages."""
    if callable(selector):
        return selector(output), " (by a callable)"
    try:
        if isinstance(output, Mapping) and selector in output:
            return output[selector], f"[{selector!r}]"
        if isinstance(selector, str):
            return getattr(output, selector), f".{selector}"
        return list(dict(children(output)).values())[selector], f"[{selector!r}]"
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise InputError(
            f"output={selector!r} is not in what the model returned: {describe(output)}."
        ) from error


def _default(
    output: Any, path: str, batch: int, space: tuple[int, ...], channels: int | None
) -> tuple[str, Tensor]:
    """Return the tensor that the default rule of `select` chooses, after its path."""
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return f"{path}.logits", logits
    if isinstance(output, Mapping):
        for key in ("logits", "out"):
            if isinstance(output.get(key), Tensor):
                return f"{path}[{key!r}]", output[key]
    listed = list(tensors(output))
    floating = [
        (f"{path}{subpath}", tensor)
        for subpath, tensor in listed
        if tensor.is_floating_point() and (tensor.ndim or len(listed) == 1)  # else it is a loss
    ]
    candidates = [item for item in floating if item[1].shape[:1] == (batch,)]
    if batch == 1 and floating and floating[0][1].shape[:1] != (1,):
        candidates = _squeezed_candidates(floating, candidates, space)
    if not candidates:
        raise InputTypeError(
            f"The model returned {describe(output)}, in which no floating-point tensor has the "
            f"batch size {batch} as its first axis. Choose what to explain with output=."
        )
    candidates = _without_probabilities(candidates)
    return _deep_supervision(candidates, space) or _by_shape(candidates, space, channels)


_SQUASHED = ("Softmax", "LogSoftmax", "Sigmoid")
"""The beginnings of the names of the nodes that make probabilities."""


def _without_probabilities(
    candidates: Sequence[tuple[str, Tensor]],
) -> list[tuple[str, Tensor]]:
    """Return the candidates without the probabilities of others, as in (logits, probabilities)."""
    is_squashed = {
        path: tensor.grad_fn is not None and tensor.grad_fn.name().startswith(_SQUASHED)
        for path, tensor in candidates
    }
    plain = {tuple(tensor.shape) for path, tensor in candidates if not is_squashed[path]}
    return [
        (path, tensor)
        for path, tensor in candidates
        if not (is_squashed[path] and tuple(tensor.shape) in plain)
    ]


def _deep_supervision(
    candidates: Sequence[tuple[str, Tensor]], space: tuple[int, ...]
) -> tuple[str, Tensor] | None:
    """Return the finest of several outputs of the same channels; None if there are others."""
    full_size = [item for item in candidates if tuple(item[1].shape[2:]) == space]
    heads = [item for item in candidates if item[1].ndim == len(space) + 2]
    if len(full_size) > 1:
        heads = full_size
    is_alike = len({tensor.shape[1] for _, tensor in heads}) == 1
    if len(heads) != len(candidates) or not is_alike:
        return None
    finest = max(heads, key=lambda item: item[1].shape[2:].numel())
    same_shape = [item for item in heads if item[1].shape == finest[1].shape]
    if len(same_shape) > 1:
        warn(
            f"The model returns {len(same_shape)} tensors of the same shape "
            f"{list(finest[1].shape)}, so the final one cannot be determined: the first is "
            "explained. Choose another with output=, e.g. output=-1 for the last."
        )
    return finest


def _by_shape(
    candidates: Sequence[tuple[str, Tensor]], space: tuple[int, ...], channels: int | None
) -> tuple[str, Tensor]:
    """Return the candidate whose shape is that of logits; warn if others might be meant."""
    full_size = [item for item in candidates if tuple(item[1].shape[2:]) == space]
    vectors = [item for item in candidates if item[1].ndim <= 2]
    widths = sorted(tensor.shape[-1] if tensor.ndim == 2 else 1 for _, tensor in vectors)
    narrowest = next(
        (item for item in vectors if (item[1].shape[-1] if item[1].ndim == 2 else 1) == widths[0]),
        None,
    )
    position = {path: number for number, (path, _) in enumerate(candidates)}
    chosen, why = candidates[0], "the first, as no shape tells"
    if len(full_size) == 1:
        chosen, why = full_size[0], "the one of the input's size"
        is_later = narrowest is not None and position[narrowest[0]] < position[chosen[0]]
        if narrowest is not None and is_later and chosen[1].shape[1] == channels:
            chosen, why = narrowest, "as the other has the shape of the input, a reconstruction"
    elif narrowest is not None:
        is_only = widths.count(widths[0]) == 1
        chosen, why = narrowest, "the one with the fewest columns" if is_only else "the first"
    is_unclear = chosen[0] not in {path for path, _ in (*vectors, *full_size)}
    is_rival = any(path != chosen[0] for path, _ in (*vectors, *full_size))
    if len(candidates) > 1 and (is_rival or is_unclear or chosen[0] != candidates[0][0]):
        listed = ", ".join(f"output{name} {list(tensor.shape)}" for name, tensor in candidates)
        warn(
            f"The model returns several tensors ({listed}): output{chosen[0]} is explained, {why}. "
            f"If others are the logits, choose them with output=; output={_selector(chosen[0])} "
            "confirms this one."
        )
    return chosen


def _selector(path: str) -> str:
    """Return what ``output=`` takes for a path such as "[0]" or "['seg']"."""
    inside = path[1:-1] if path.startswith("[") and path.count("[") == 1 else ""
    return inside or f"lambda output: output{path}"
