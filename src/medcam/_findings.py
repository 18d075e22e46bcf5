"""What is noticed during a call, on the device, and told to the user without stalling it.

On the CPU a finding is reported at once. On an accelerator, looking at a flag would make the host
wait for the device, so it is looked at when the maps are first read.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

from jaxtyping import Bool
from torch import Tensor

from medcam._errors import MedcamError, MedcamWarning


@dataclass(eq=False)
class Findings:
    """Flags with the error or warning that each one means."""

    _pending: list[tuple[Tensor, str | MedcamError]] = field(default_factory=list)

    def add(self, flags: Bool[Tensor, "*samples"], meaning: str | MedcamError) -> None:
        """Notes that, where a flag is set, ``meaning`` holds: a warning's text, or an error.

        In a warning's text, ``{samples}`` stands for the samples concerned.
        """
        self._pending.append((flags, meaning))
        if flags.device.type == "cpu":
            self.report()

    def report(self) -> None:
        """Raises the first error found, warns of the rest; each is told once."""
        pending, self._pending = self._pending, []
        for flags, meaning in pending:
            if not bool(flags.any()):
                continue
            if isinstance(meaning, MedcamError):
                raise meaning
            samples = flags.reshape(len(flags), -1).any(1).nonzero()[:, 0] if flags.ndim else flags
            named = ", ".join(str(int(sample)) for sample in samples.reshape(-1)[:8])
            warnings.warn(meaning.format(samples=named), MedcamWarning, stacklevel=_outside())


def _outside() -> int:
    """How far up the stack the caller's own code is, so that a warning points there."""
    import sys

    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        ("medcam", "torch.nn.modules", "jaxtyping", "contextlib")
    ):
        frame, level = frame.f_back, level + 1
    return level - 1 or 1
