"""Backward passes from scores: gradients are returned, or streamed to a callback.

Only ``torch.autograd.grad`` is used, never ``.backward()``, so the user's ``.grad`` is unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from medcam.engine.graph import leaves
from medcam.engine.model.devices import autocast_dtype
from medcam.errors import NoMapError, is_out_of_memory, reason_of

_OUT_OF_MEMORY = (
    "There is not enough memory for the backward pass. Take fewer samples at once, memory='low', a "
    "method of a layer alone (gcam), or a later layer; large volumes go through "
    "medcam.explain_volume."
)

_IN_PLACE = (
    "The model changes a tensor in place that its own backward pass needs (for example y *= 2 or "
    "y[...] = 0 after a sigmoid or softmax). Explain what it computes before that, output=..., or "
    "change it to y = y * 2. PyTorch's error:"
)
_CUDNN = (
    "cuDNN has no backward pass for this layer in evaluation mode (a recurrent one): pass "
    "cudnn=False. PyTorch's error:"
)


def gradients(
    score: Tensor, tensors: Sequence[Tensor], *, retain_graph: bool
) -> Sequence[Tensor | None]:
    """Return the gradient of a summed score with respect to several tensors; None if unconnected.

    In float16 the backward pass starts from a scaled score, since the gradients of a mean over a
    million voxels are below float16's smallest number. They are unscaled in float32.

    Args:
        score: The score of each sample, ``[batch]``.
        tensors: What the gradients are taken with respect to.
        retain_graph: Whether the graph is needed again.

    Raises:
        NoMapError: Autograd cannot go back through this model.
    """
    if not tensors:
        return []
    with _readable_errors():
        if not _in_float16(tensors):
            return torch.autograd.grad(
                score.sum(), tensors, retain_graph=retain_graph, allow_unused=True
            )
        scale = 2.0**24  # reduced on overflow: too large costs time, too small costs the map
        while True:
            grads = torch.autograd.grad(
                score.sum() * scale, tensors, retain_graph=True, allow_unused=True
            )
            scaled = [None if g is None else g.float() / scale for g in grads]
            if scale <= 1 or all(g is None or bool(g.isfinite().all()) for g in scaled):
                return scaled
            scale /= 2.0**8


def can_stream(scores: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Return whether `stream_gradients` meets every gradient: all paths end in these tensors."""
    known = {id(tensor) for tensor in tensors if tensor.is_leaf}
    return not _in_float16(tensors) and all(id(leaf) in known for leaf in leaves(scores))


def stream_gradients(
    score: Tensor,
    tensors: Iterable[Tensor],
    use: Callable[[int, Tensor], None],
    *,
    retain_graph: bool,
) -> None:
    """Call ``use(index, gradient)`` for each tensor during one backward pass.

    At most one gradient is alive; ``use`` is not called for tensors that the score does not depend
    on. Tensors other than leaves are not referenced here, so that ``use`` may release them.

    Args:
        score: The score of each sample, ``[batch]``.
        tensors: Tensors that `can_stream`.
        use: Called with the tensor's index and its gradient.
        retain_graph: Whether the graph is needed again.

    Raises:
        NoMapError: As in `gradients`.
    """
    raised: list[Exception] = []

    def guarded_use(index: int, gradient: Tensor | None) -> None:
        try:
            if gradient is not None:  # it is None if only another output of the node is used
                use(index, gradient)
        except Exception as error:
            raised.append(error)
            raise

    handles, leaf_tensors = [], []
    for index, tensor in enumerate(tensors):
        hook = partial(guarded_use, index)
        handle = tensor.register_hook(hook)  # type: ignore[no-untyped-call]  # no annotations
        handles.append(handle)
        if tensor.is_leaf:
            leaf_tensors.append(tensor)
    del tensor  # `use` may release it
    try:
        with _readable_errors():
            torch.autograd.grad(
                score.sum(), leaf_tensors, retain_graph=retain_graph, allow_unused=True
            )
    except NoMapError:
        if raised:
            raise raised[0] from None
        raise
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Raise autograd's errors as `NoMapError`, with advice."""
    try:
        yield
    except (torch.cuda.OutOfMemoryError, NoMapError):
        raise
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise NoMapError(f"{_OUT_OF_MEMORY} {reason_of(error)}") from error
        if "modified by an inplace operation" in str(error):
            raise NoMapError(f"{_IN_PLACE} {reason_of(error)}") from error
        if "cudnn" in str(error).lower():
            raise NoMapError(f"{_CUDNN} {reason_of(error)}") from error
        raise NoMapError(
            f"Autograd could not go back through the model: {error}\nIf a part of the model is "
            "checkpointed by code other than torch.utils.checkpoint, switch that off; if it runs "
            "under no_grad, or detaches its input, choose a layer after that part."
        ) from error


def _in_float16(tensors: Sequence[Tensor]) -> bool:
    """Return whether a part of the backward pass may run in float16."""
    device = tensors[0].device.type
    return autocast_dtype(device) == torch.float16 or any(t.dtype == torch.float16 for t in tensors)
