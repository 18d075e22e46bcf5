"""DataParallel and DistributedDataParallel around a model that is injected.

The wrapper stays: with its synchronisation, its ``module`` and the keys of its ``state_dict``.
Layers are those of the model inside, and maps are made of that model.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from medcam.engine.model.isolation import eager
from medcam.engine.model.layers import inner_model, unwrap
from medcam.engine.model.nested import map_tensors


def explained_model(model: nn.Module) -> nn.Module:
    """Return the model whose layers maps are made of: the one inside a wrapper, or itself."""
    return model if inner_model(model) is None else unwrap(model)


class InnerCall:
    """The call of a wrapper, for a run that makes maps.

    The first call of DistributedDataParallel goes through the wrapper, which synchronises buffers
    and prepares the reduction of gradients. Further ones, which only medcam makes, go to the model
    inside: the other ranks make none, and would be waited for for ever. DataParallel would run
    replicas in threads of its own, so its batch runs on the first device as a whole.

    Args:
        wrapper: The wrapper.
        forward: Its own forward.
        keep_graph: Whether the caller needs the output's graph.
    """

    def __init__(
        self, wrapper: nn.Module, forward: Callable[..., Any], *, keep_graph: bool
    ) -> None:
        self._wrapper: Any = wrapper
        self._forward = forward
        self._keep_graph = keep_graph
        self._goes_through = isinstance(wrapper, DistributedDataParallel)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model, through the wrapper the first time."""
        if self._goes_through:
            self._goes_through = False
            with self._without_reduction(), eager([self._wrapper.module]):
                return self._forward(*args, **kwargs)
        if self._wrapper.device_ids:
            device = next(self._wrapper.module.parameters()).device
            args, kwargs = map_tensors((args, kwargs), lambda tensor: tensor.to(device))
        return unwrap(self._wrapper.module)(*args, **kwargs)

    def _without_reduction(self) -> AbstractContextManager[None]:
        """Return a context in which no backward pass is expected, unless the caller makes one."""
        if self._keep_graph:
            return nullcontext()
        context: AbstractContextManager[None] = self._wrapper.no_sync()
        return context


def through_wrapper(
    model: nn.Module, forward: Callable[..., Any], *, keep_graph: bool
) -> Callable[..., Any]:
    """Return the call of a model for a run that makes maps: `InnerCall` of a wrapper."""
    if inner_model(model) is None:
        return forward
    return InnerCall(model, forward, keep_graph=keep_graph)


def is_replica(model: nn.Module) -> bool:
    """Return whether a model is one of DataParallel's copies on several devices."""
    return bool(vars(model).get("_is_replica", False))
