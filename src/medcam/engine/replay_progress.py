"""The functions that run the model again for a method, and their progress: how many images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medcam.engine.model.devices import autocast_dtype
from medcam.engine.progress import Progress, Tick, progress_of
from medcam.methods import METHODS, Method


@dataclass(eq=False)
class Reported:
    """Progress of one method on all samples; the first sample tells the number of its images.

    Attributes:
        progress: As ``progress=`` of `medcam.explain`.
        title: The title of the bar.
        samples: The number of samples.
    """

    progress: Progress = False
    title: str = ""
    samples: int = 1
    _stack: ExitStack = field(default_factory=ExitStack)
    _counted: Any = None
    _tick: Tick | None = None

    def __enter__(self) -> Reported:
        """Wait for the number of images."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar."""
        self._stack.close()

    def announce(self, function: object, count: int) -> None:
        """Start the report, unless it has begun.

        Args:
            function: What runs the model; only its calls are counted.
            count: The number of images that it will run on for one sample.
        """
        if self._tick is None:
            total = count * self.samples
            context = progress_of(self.progress, self.title, total)
            self._counted, self._tick = function, self._stack.enter_context(context)

    def note(self, function: object, count: int) -> None:
        """Report images that have run."""
        if self._tick is not None and function == self._counted:
            self._tick(count)


@dataclass(eq=False)
class ReportedFunction:
    """A function of one sample's changed images; its calls are reported once it has announced them.

    Attributes:
        name: Its name as evidence.
        function: The function.
        reported: Where its calls are reported.
    """

    name: str
    function: Callable[..., Tensor]
    reported: Reported
    _is_announced: bool = False

    def announce(self, count: int) -> None:
        """Tell on how many images the function will run."""
        self._is_announced = True
        self.reported.announce(self.name, count)

    def __call__(self, changed: Tensor) -> Tensor:
        """Return what the function returns."""
        result = self.function(changed)
        if self._is_announced:
            self.reported.note(self.name, len(changed))
        return result


def functions_of(
    method: Method,
    map_at: Callable[..., Tensor],
    scores: Mapping[str, Callable[..., Tensor]],
    reported: Reported,
    device: str,
) -> dict[str, Any]:
    """Return the functions that a method may take as evidence, by name.

    They run the model under the caller's autocast, also if the method does not.

    Args:
        method: The method.
        map_at: Function of changed images and of a method that returns its maps of these.
        scores: Functions that return scores, by name.
        reported: Where progress is reported.
        device: The type of the model's device.
    """
    functions: dict[str, Callable[..., Tensor]] = dict(scores)
    functions["input_gradient_at"] = partial(map_at, method=METHODS["saliency"])
    if method.repeated is not None:
        functions["map_at"] = partial(map_at, method=method.repeated)
    dtype = autocast_dtype(device)
    if dtype is not None:
        wrap = torch.autocast(device, dtype)
        functions = {name: wrap(function) for name, function in functions.items()}
    return {
        name: ReportedFunction(name, function, reported) for name, function in functions.items()
    }
