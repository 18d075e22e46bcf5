"""The criteria of the trust check: from figures to verdicts.

The thresholds were read off three packaged networks with eleven methods and nine fakes, and tested
on networks that they were not read off (docs/how-to/trust.md has the table).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from medcam.trust.controls import IMAGE_CONTROLS
from medcam.trust.statistics import Estimate, estimate
from medcam.trust.verdict import Verdict, Word

SAME_IMAGE = 0.95
"""T0: the rank correlation of maps of unlike images from which on a map does not know the image."""

NOT_REPEATED = 1e-3
"""T1: the relative difference of two runs above which a map does not repeat."""

SAME_WEIGHTS = 0.6
"""T2: a map fails if its rank correlation with the maps of permuted networks is above this, and
above that of unlike images by more than `MORE_THAN_UNLIKE`."""

MORE_THAN_UNLIKE = 0.1
"""T2: the part of the rule that spares maps which are alike for unlike images."""

SAME_TARGET = 0.9
"""T3: the rank correlation of the maps of two targets from which on a map does not know them."""

FAITHFUL = 0.5
"""T4: the least correlation of a map's sums with the drops of the score."""

_LARGEST = 1 - 1e-9

GAIN = 0.05
"""T4: by how much a map has to be better than every map that is made of the image alone."""


def knows_image(between: Float[np.ndarray, " pairs"], *, mirrored: float | None = None) -> Verdict:
    """Return T0.

    Args:
        between: The rank correlations of the maps of unlike images.
        mirrored: For a single image, whose map is compared with that of its mirror image: the
            correlation of the image with its mirror image.
    """
    measured = _with_range(between)
    what = "maps of different images" if mirrored is None else "the map of the mirrored image"
    threshold = f"below {SAME_IMAGE}"
    if measured.value < SAME_IMAGE:
        change = "with the image" if mirrored is None else "if the image is mirrored"
        return Verdict(
            "T0", "passes", measured, threshold,
            f"The map changes {change}: its rank correlation with {what} is "
            f"{measured.value:.2f}.",
        )  # fmt: skip
    if mirrored is not None and mirrored > SAME_TARGET:
        return Verdict(
            "T0", "undecided", measured, threshold,
            f"There is one image, which equals its mirror image nearly (correlation "
            f"{mirrored:.2f}): give images of other patients to see whether the map knows them.",
        )  # fmt: skip
    return Verdict(
        "T0", "fails", measured, threshold,
        f"The map is nearly the same whatever the image shows: its rank correlation with {what} is "
        f"{measured.value:.2f}.",
    )  # fmt: skip


def shows_nothing() -> list[Verdict]:
    """Return T0 and T3 of a map that has one value everywhere."""
    text = "The map has one value everywhere: it shows nothing."
    nothing = Estimate(math.nan)
    return [
        Verdict("T0", "fails", nothing, f"below {SAME_IMAGE}", text),
        Verdict("T3", "fails", nothing, f"below {SAME_TARGET}", text),
    ]


def repeats(difference: float) -> Verdict:
    """Return T1, from the relative difference of two runs."""
    measured, threshold = Estimate(difference), f"at most {NOT_REPEATED:g}"
    word: Word = "passes" if difference <= NOT_REPEATED else "fails"
    kind = "the same map" if word == "passes" else "different maps"
    return Verdict(
        "T1", word, measured, threshold,
        f"Two runs on the same image give {kind} (relative difference {difference:.2g}).",
    )  # fmt: skip


def knows_weights(with_permuted: Float[np.ndarray, " networks"], unlike: float) -> Verdict:
    """Return T2.

    Args:
        with_permuted: For each network of permuted weights, the rank correlation with its maps.
        unlike: The rank correlation of maps of unlike images.
    """
    limit = max(SAME_WEIGHTS, unlike + MORE_THAN_UNLIKE)
    threshold = f"at most {limit:.2f}"
    finite = with_permuted[np.isfinite(with_permuted)]
    if not len(finite) or not finite.any():
        return Verdict(
            "T2", "undecided", Estimate(math.nan), threshold,
            "No network with permuted weights gave a map to compare with, or all were blank.",
        )  # fmt: skip
    measured = _with_error(finite)
    count = f"{len(finite)} network{'s' if len(finite) > 1 else ''} with permuted weights"
    if len(finite) < 2 or measured.low <= limit < measured.high:
        word: Word = "undecided"
        text = (
            "It cannot be told whether the map depends on the weights (too few networks, or they "
        )
        text += "differ too much)"
    elif measured.value > limit:
        word, text = "fails", "The map hardly changes if all that the network learnt is destroyed"
    else:
        word, text = "passes", "The map changes if all that the network learnt is destroyed"
    return Verdict(
        "T2", word, measured, threshold,
        f"{text}: its rank correlation with the maps of {count} is {measured.value:.2f}.",
    )  # fmt: skip


def knows_target(
    between: Float[np.ndarray, " images"] | None, other: str, *, mirrored: bool = False
) -> Verdict:
    """Return T3.

    Args:
        between: The rank correlations of the maps of two targets; None: there is no other target.
        other: The other target in words, or why there is none.
        mirrored: Whether the map is a magnitude, and the two logits are each other's negative, so
            that both maps are the same by construction.
    """
    threshold = f"below {SAME_TARGET}"
    if between is None:
        return Verdict(
            "T3", "does not apply", Estimate(math.nan), threshold,
            f"There is no other target to compare with: {other}.",
        )  # fmt: skip
    measured = _with_range(between)
    if mirrored and measured.value >= SAME_TARGET:
        return Verdict(
            "T3", "does not apply", measured, threshold,
            f"The map shows magnitudes, and the two logits are each other's negative: the map is "
            f"the same for both classes by construction (rank correlation {measured.value:.2f}).",
        )  # fmt: skip
    word: Word = "passes"
    text = "The map tells this target from another one"
    if measured.value >= SAME_TARGET:
        word, text = "fails", "The map is nearly the same for another target"
    return Verdict(
        "T3", word, measured, threshold,
        f"{text} ({other}): the rank correlation of the two maps is {measured.value:.2f}.",
    )  # fmt: skip


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
        width: The least half width of the bounds after Fisher's transformation. The bootstrap of
            few sets is too narrow.
    """

    correlation: Mapping[str, float]
    draws: Mapping[str, Float[np.ndarray, " draws"]]
    width: float = 0.0

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
    word = _word(rho, gain)
    second = None
    if len(fills) > 1:
        second = measured.bounds(fills[1])
        other = _word(second, measured.gain(of_image, fills[1]))
        if word == "passes" and other in ("fails", "no better than the image"):
            word = "undecided"
    gains["best of the image"] = gain
    return Verdict(
        "T4", word, rho, f"at least {FAITHFUL}, and {GAIN} more than {', '.join(IMAGE_CONTROLS)}",
        _sentence(word, rho, gain, best, controls[best].correlation[fills[0]], second), gains,
        second,
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


def _sentence(
    word: Word, rho: Estimate, gain: Estimate, best: str, value: float, second: Estimate | None
) -> str:
    """Return T4 in one sentence."""
    beside = ""
    if second is not None:
        beside = f"; {second.value:.2f} if other parts of the image fill the gap"
    figures = f"(correlation {rho}{beside})"
    if word == "passes":
        return (
            f"Hiding what the map marks lowers the score most {figures}: {gain.value:.2f} more "
            f"than with the best map of the image alone ({best}: {value:.2f})."
        )
    if word == "fails":
        return (
            f"Hiding what the map marks lowers the score little more than hiding the rest "
            f"{figures}: at least {FAITHFUL} is asked for."
        )
    if word == "no better than the image":
        return (
            f"Hiding what the map marks lowers the score {figures}, but so does hiding what a map "
            f"marks that knows nothing of the network ({best}: {value:.2f})."
        )
    return (
        f"It cannot be told whether hiding what the map marks lowers the score enough {figures}; "
        f"for the best map of the image alone it is {value:.2f} ({best}). At least {FAITHFUL}, and "
        f"{GAIN} more than that, is asked for: more images or sets may decide."
    )


def _with_range(values: Float[np.ndarray, " items"]) -> Estimate:
    """Return the mean, with the smallest and the largest value."""
    return Estimate(float(values.mean()), float(values.min()), float(values.max()))


def _with_error(values: Float[np.ndarray, " items"]) -> Estimate:
    """Return the mean, with bounds of 1.64 standard errors."""
    if len(values) < 2:
        return Estimate(float(values.mean()))
    half = 1.64 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Estimate(float(values.mean()), float(values.mean() - half), float(values.mean() + half))
