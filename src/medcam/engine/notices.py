"""Warnings and errors about a run, reported without stalling the device.

Their conditions are flags on the model's device. On the CPU a flag is read at once; on an
accelerator that would be a synchronisation, so a flag is read when the maps are first accessed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from medcam.errors import MedcamError, warn

_PROBABILITIES = {
    "SoftmaxBackward0": "a softmax",
    "LogSoftmaxBackward0": "a log-softmax",
    "SigmoidBackward0": "a sigmoid",
}

_VIEWS = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Select", "Clone",
          "Permute", "Transpose", "Alias", "Expand")  # fmt: skip


@dataclass(eq=False)
class Notices:
    """Flags on the device, each with the warning or error that it stands for.

    Attributes:
        by_sample: If it is not empty, an error that does not hold for every sample is a warning
            that begins with this text; the samples are in `invalid` then.
        invalid: For each sample whether it has no valid map, ``[batch]``, from all flags that were
            added; None if there are none.
    """

    by_sample: str = ""
    invalid: Tensor | None = None
    _pending: list[tuple[Tensor, str | MedcamError]] = field(default_factory=list)

    @property
    def pending(self) -> bool:
        """Whether there are flags that have not been read yet; always False on the CPU."""
        return bool(self._pending)

    def add(self, flags: Bool[Tensor, "*samples"], meaning: str | MedcamError) -> None:
        """Add a flag for each sample, or for each target of each sample.

        Args:
            flags: True where ``meaning`` holds, ``[batch]`` or ``[batch, targets]``.
            meaning: An error, or the text of a warning with the placeholder ``{samples}``. Of
                several targets it names those that it holds for.

        Raises:
            MedcamError: On the CPU, if ``meaning`` is an error and a flag is set.
        """
        if self.by_sample and isinstance(meaning, MedcamError):
            flags = flags.reshape(len(flags), -1).any(1)
            self._collect(flags)
        self._pending.append((flags, meaning))
        if flags.device.type == "cpu":
            self.report()

    def dismiss(self) -> None:
        """Forget the error that `add` raised last, as its map is left out."""
        self._pending.pop()

    def marked(self, values: Tensor) -> Tensor:
        """Return values ``[batch, ...]`` with NaN for the samples that have no valid map."""
        invalid = self.invalid
        if invalid is None or len(invalid) != len(values):
            return values
        shaped = invalid.to(values.device).reshape(-1, *[1] * (values.ndim - 1))
        return values.masked_fill(shaped, float("nan"))

    def _collect(self, flags: Tensor) -> None:
        """Add flags of samples to `invalid`; those of an image with another batch say nothing."""
        if self.invalid is None:
            self.invalid = flags
        elif self.invalid.shape == flags.shape and self.invalid.device == flags.device:
            self.invalid = self.invalid | flags

    def report(self) -> None:
        """Raise the first error whose flag is set; issue the warnings.

        Warnings are issued once; errors are raised on every access.
        """
        while self._pending:
            flags, meaning = self._pending[0]
            is_set, is_error = bool(flags.any()), isinstance(meaning, MedcamError)
            if is_set and isinstance(meaning, MedcamError):
                text = str(meaning).replace("{samples}", _named(flags))
                if not self.by_sample or bool(flags.all()) or len(flags) == 1:
                    raise _with_text(meaning, text)
                warn(f"{self.by_sample}{text} The other samples have their maps.")
            self._pending.pop(0)
            if not is_set or is_error:
                continue
            warn(str(meaning).replace("{samples}", _named(flags)))


class SilentNotices(Notices):
    """Notices of a target that is resolved again: its warnings have been issued."""

    def add(self, flags: Bool[Tensor, "*samples"], meaning: str | MedcamError) -> None:
        """Ignore a notice."""


def _with_text(error: MedcamError, text: str) -> MedcamError:
    """Return an error of the same kind with another message."""
    other = type(error)(text)
    vars(other).update(vars(error))
    return other


def _named(flags: Tensor) -> str:
    """Return the numbers of the samples, and of several targets, for which a flag is set."""
    by_sample = flags.reshape(len(flags), -1)
    named = _listed(by_sample.any(1))
    if by_sample.shape[1] > 1 and not bool(by_sample.any(0).all()):
        named += f", target(s) {_listed(by_sample.any(0))}"
    return named


def _listed(flags: Tensor) -> str:
    """Return the numbers of the flags that are set."""
    numbers = flags.nonzero()[:, 0].tolist()
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")


def notice_non_finite(notices: Notices, values: Tensor, meaning: MedcamError) -> None:
    """Add an error for samples with a NaN or an infinity.

    On the CPU a finite sum proves in one pass over the values that there are none.
    """
    if values.device.type == "cpu" and isfinite(float(values.sum())):
        return
    flags = ~(values.flatten(1).abs().amax(1) < float("inf"))
    known = notices.invalid
    if known is not None and known.shape == flags.shape and known.device == flags.device:
        flags = flags & ~known  # their input, or another layer, has been told
    notices.add(flags, meaning)


def warn_of_probabilities(logits: Tensor) -> None:
    """Warn if the explained tensor was computed by a softmax or a sigmoid."""
    node: Any = logits.grad_fn
    while node is not None and node.name().startswith(_VIEWS):
        node = node.next_functions[0][0]
    function = _PROBABILITIES.get(node.name()) if node is not None else None
    if function is not None:
        warn(
            f"The model ends in {function}. Its gradient vanishes where the model is certain, and "
            "maps of probabilities mix the classes. Explain the logits instead: remove the last "
            "layer, or choose the logits with output= if the model returns them."
        )
