"""Progress of methods that run the model again: of each, how many changed images have run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from medcam.engine.progress import Progress, Tick, progress_of


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
