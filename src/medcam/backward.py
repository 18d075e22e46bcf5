"""Backward passes from scores: gradients, kept or used in passing.

The user's ``.grad`` is never touched: ``torch.autograd.grad`` alone, never ``.backward()``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from medcam._graph import leaves
from medcam.errors import NoMapError
from medcam.lean import autocast_dtype


def gradients(
    score: Tensor, tensors: Sequence[Tensor], *, retain_graph: bool
) -> Sequence[Tensor | None]:
    """The gradient of a summed score with respect to several tensors; None where unconnected.

    In float16 the backward pass is run on a scaled score, since a mean over a million voxels has
    gradients below float16's smallest number; the scale is taken out again in float32.

    Args:
        score: One sample's score each, ``[batch]``.
        tensors: What the gradients are taken with respect to.
        retain_graph: Whether the graph is needed again.

    Raises:
        NoMapError: Autograd cannot go back through this model.
    """
    if not tensors:
        return []
    with _explained():
        if not _in_float16(tensors):
            return torch.autograd.grad(
                score.sum(), tensors, retain_graph=retain_graph, allow_unused=True
            )
        scale = 2.0**24  # scaled down where it overflows: too large costs time, too small the map
        while True:
            grads = torch.autograd.grad(
                score.sum() * scale, tensors, retain_graph=True, allow_unused=True
            )
            scaled = [None if g is None else g.float() / scale for g in grads]
            if scale <= 1 or all(g is None or bool(g.isfinite().all()) for g in scaled):
                return scaled
            scale /= 2.0**8


def can_pass(scores: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Whether `in_passing` meets all gradients: each way back ends in one of the tensors."""
    begins = {id(tensor) for tensor in tensors if tensor.is_leaf}
    return not _in_float16(tensors) and all(id(leaf) in begins for leaf in leaves(scores))


def in_passing(
    score: Tensor,
    tensors: Iterable[Tensor],
    use: Callable[[int, Tensor], None],
    *,
    retain_graph: bool,
) -> None:
    """Calls ``use(index, gradient)`` for each tensor while the backward pass is at it.

    So no more than one gradient is there at any one time. The tensors have to be ones that
    `can_pass`; of those that the score does not depend on, nothing is heard. They are not held
    here, so that ``use`` may let go of them, but for those at which the graph begins.

    Raises:
        NoMapError: As in `gradients`.
    """
    raised: list[Exception] = []

    def used(index: int, gradient: Tensor | None) -> None:
        try:
            if gradient is not None:  # its node ran for another output of it
                use(index, gradient)
        except Exception as error:
            raised.append(error)
            raise

    handles, begins = [], []
    for index, tensor in enumerate(tensors):
        handle = tensor.register_hook(partial(used, index))  # type: ignore[no-untyped-call]  # PyTorch's
        handles.append(handle)
        if tensor.is_leaf:
            begins.append(tensor)
    del tensor  # `use` may let go of it
    try:
        with _explained():
            torch.autograd.grad(score.sum(), begins, retain_graph=retain_graph, allow_unused=True)
    except NoMapError:
        if raised:
            raise raised[0] from None
        raise
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _explained() -> Iterator[None]:
    """Autograd's errors, with what can be done about them."""
    try:
        yield
    except (torch.cuda.OutOfMemoryError, NoMapError):
        raise
    except RuntimeError as error:
        raise NoMapError(
            f"Autograd could not go back through the model: {error}\nIf a part of the model is "
            "checkpointed, use use_reentrant=False; if it runs under no_grad, or detaches its "
            "input, choose a layer after that part."
        ) from error


def _in_float16(tensors: Sequence[Tensor]) -> bool:
    """Whether a part of the backward pass may run in float16."""
    device = tensors[0].device.type
    return autocast_dtype(device) == torch.float16 or any(t.dtype == torch.float16 for t in tensors)
