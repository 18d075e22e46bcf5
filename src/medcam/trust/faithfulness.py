"""T4 of the trust check, whether a map is faithful: from what the bank says to a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medcam.trust.controls import IMAGE_CONTROLS
from medcam.trust.statistics import Estimate, estimate, two_digits
from medcam.trust.verdict import BEST, Verdict, Word

FAITHFUL = 0.5
"""T4: the least correlation of a map's sums with the drops of the score."""

_LARGEST = 1 - 1e-9

GAIN = 0.05
"""T4: by how much a map has to be better than every map that is made of the image alone."""


def least_width(sets: int, maps: int) -> float:
    """Return the half width of 5 % and 95 % bounds of a partial correlation, after Fisher.

    Args:
        sets: The number of sets that it was computed from.
        maps: The number of images and targets that it was averaged over.

    Example:
        >>> round(least_width(96, 1), 3), round(least_width(10, 1), 3)
        (0.171, 0.67)
    """
    return 1.64 / math.sqrt(max(sets - 4, 1) * maps)


@dataclass(frozen=True)
class Faithfulness:
    """What the bank says of one map, or of one control.

    Attributes:
        correlation: By fill, the correlation of sums and drops.
        draws: By fill, the same for bootstrap samples.
        infidelity: What the first fill leaves unexplained, see `medcam.trust.bank`.
        width: The least half width of the bounds after Fisher's transformation. The bootstrap of
            few sets is too narrow.
    """

    correlation: Mapping[str, float]
    draws: Mapping[str, Float[np.ndarray, " draws"]]
    width: float = 0.0
    infidelity: float = math.nan

    def bounds(self, fill: str) -> Estimate:
        """Return the correlation with its bounds: the wider ones of the bootstrap and Fisher's."""
        bounds = estimate(self.correlation[fill], self.draws[fill])
        z = math.atanh(min(max(bounds.value, -_LARGEST), _LARGEST))
        return Estimate(
            bounds.value, min(bounds.low, math.tanh(z - self.width)),
            max(bounds.high, math.tanh(z + self.width)),
        )  # fmt: skip

    def gain(self, controls: list[Faithfulness], fill: str) -> Estimate:
        """Return by how much the correlation is larger than the largest of the controls."""
        value = self.correlation[fill] - max(c.correlation[fill] for c in controls)
        best = np.max([control.draws[fill] for control in controls], 0)
        gain, own = estimate(value, self.draws[fill] - best), self.bounds(fill)
        low, high = value - (own.value - own.low), value + (own.high - own.value)
        return Estimate(value, min(gain.low, low), max(gain.high, high))


def is_faithful(
    measured: Faithfulness, controls: Mapping[str, Faithfulness], *, fills: tuple[str, ...]
) -> Verdict:
    """Return T4.

    Args:
        measured: What the bank says of the map.
        controls: The same of the controls, by name.
        fills: The fill that decides, and the one that is shown beside it.
    """
    of_image = [controls[name] for name in IMAGE_CONTROLS]
    gains = {name: measured.gain([control], fills[0]) for name, control in controls.items()}
    best = max(IMAGE_CONTROLS, key=lambda name: controls[name].correlation[fills[0]])
    rho, gain = measured.bounds(fills[0]), measured.gain(of_image, fills[0])
    word, second, is_contradicted = _word(rho, gain), None, False
    if len(fills) > 1:
        second = measured.bounds(fills[1])
        other = _word(second, measured.gain(of_image, fills[1]))
        is_contradicted = word == "passes" and other in ("fails", "no better than the image")
    word = "undecided" if is_contradicted else word
    gains[BEST] = gain
    best_value = controls[best].correlation[fills[0]]
    return Verdict(
        "T4", word, rho, f"at least {FAITHFUL}, and {GAIN} more than {', '.join(IMAGE_CONTROLS)}",
        _contradiction(rho, second)
        if is_contradicted and second is not None
        else _sentence(word, rho, gain, best, best_value, second),
        gains, second,
    )  # fmt: skip


def _word(rho: Estimate, gain: Estimate) -> Word:
    """Return the verdict of one fill."""
    if rho.high < FAITHFUL:
        return "fails"
    if rho.low < FAITHFUL:
        return "fails" if rho.value < FAITHFUL and gain.high <= GAIN else "undecided"
    if gain.low > GAIN:
        return "passes"
    return "no better than the image" if gain.value <= GAIN else "undecided"


def _contradiction(rho: Estimate, second: Estimate) -> str:
    """Return T4 in one sentence, of a map that is faithful with one fill alone."""
    return (
        f"Hiding what the map marks lowers the score if the mean takes its place (correlation "
        f"{rho}), but not if other parts of the image do ({second}): which of the two is right "
        "cannot be told, and more sets do not help."
    )


def _than_the_rest(correlation: float) -> str:
    """Return in words how a correlation below the threshold compares with none."""
    if abs(correlation) < _NONE:
        return "no more than hiding the rest"
    if correlation < 0:
        return "less than hiding the rest"
    return "more than hiding the rest, but not enough"


_NONE = 0.1


def _sentence(
    word: Word, rho: Estimate, gain: Estimate, best: str, value: float, second: Estimate | None
) -> str:
    """Return T4 in one sentence."""
    beside = ""
    if second is not None:
        beside = f"; {two_digits(second.value)} if other parts of the image fill the gap"
    figures = f"(correlation {rho}{beside})"
    if word == "passes":
        return (
            f"Hiding what the map marks lowers the score most {figures}: {two_digits(gain.value)} "
            f"more than with the best map of the image alone ({best}: {two_digits(value)})."
        )
    if word == "fails":
        return (
            f"Hiding what the map marks lowers the score {_than_the_rest(rho.value)} {figures}: at "
            f"least {FAITHFUL} is asked for."
        )
    if word == "no better than the image":
        return (
            f"Hiding what the map marks lowers the score {figures}, but so does hiding what a map "
            f"marks that knows nothing of the network ({best}: {two_digits(value)})."
        )
    return (
        f"It cannot be told whether hiding what the map marks lowers the score enough {figures}; "
        f"for the best map of the image alone it is {two_digits(value)} ({best}). At least "
        f"{FAITHFUL}, and {GAIN} more than that, is asked for: more images or sets may decide."
    )
