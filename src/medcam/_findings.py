"""What is noticed during a call, on the device, and told to the user without stalling it.

On the CPU a finding is reported at once. On an accelerator, looking at a flag would make the host
wait for the device, so it is looked at when the maps are first read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Bool
from torch import Tensor

from medcam.errors import MedcamError, warn


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
        """Raises the first error found, warns of the rest.

        A warning is told once; an error at every reading, as what it is about stays wrong.
        """
        while self._pending:
            flags, meaning = self._pending[0]
            found = bool(flags.any())
            if found and isinstance(meaning, MedcamError):
                raise meaning
            self._pending.pop(0)
            if not found or isinstance(meaning, MedcamError):
                continue
            samples = flags.reshape(len(flags), -1).any(1).nonzero()[:, 0] if flags.ndim else flags
            named = ", ".join(str(int(sample)) for sample in samples.reshape(-1)[:8])
            warn(meaning.format(samples=named))
