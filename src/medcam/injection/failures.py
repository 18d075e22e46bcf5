"""What a call of an injected model does where the map fails, and the prediction does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medcam.engine.model import isolation
from medcam.errors import NoMapError, SaveError, is_out_of_memory, reason_of

REPLICA = (
    "nn.DataParallel copies the injected model to several devices, and the maps of the copies "
    "would be lost: none are made. Inject the wrapper instead, "
    "medcam.inject(nn.DataParallel(model))."
)


class Remembering:
    """A model's call that keeps its first output, so that no later error can lose it.

    Args:
        call: The call.
        keep_graph: Whether the output keeps its graph.

    Attributes:
        has_run: Whether the model has returned.
    """

    def __init__(self, call: Callable[..., Any], keep_graph: bool) -> None:
        self._call = call
        self._keep_graph = keep_graph
        self._output: Any = None
        self.has_run = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; keep what it returns the first time."""
        output = self._call(*args, **kwargs)
        if not self.has_run:
            self._output, self.has_run = output, True
        return output

    @property
    def output(self) -> Any:
        """The first output, as the caller of the model gets it."""
        return self._output if self._keep_graph else isolation.detached_output(self._output)


def concerns_map_only(error: BaseException) -> bool:
    """Return whether an error concerns the map and not the prediction, nor medcam's arguments.

    Where the memory is exhausted the model alone needs less: nothing is kept for a backward pass.
    """
    if isinstance(error, (NoMapError, SaveError)) or is_out_of_memory(error):
        return True
    return bool(getattr(error, "is_of_image", False))


def without_map(error: BaseException, call: int, *, is_made: bool) -> str:
    """Return the warning that takes the place of an error.

    Args:
        error: The error.
        call: The number of the call, as in the names of the files.
        is_made: Whether the map was made and only what follows failed.
    """
    what = "was not saved" if is_made and not isinstance(error, NoMapError) else "could not be made"
    return (
        f"Call {call}: the prediction is returned, but its map {what}: {reason_of(error)} "
        "(on_error='raise' raises this error.)"
    )
