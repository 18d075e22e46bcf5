"""T0 to T3 of the trust check, from figures to verdicts; T4 is in `medcam.trust.faithfulness`.

The thresholds were read off three packaged networks with eleven methods and nine fakes, and tested
on networks that they were not read off (docs/how-to/trust.md has the table).
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from medcam.trust.statistics import Estimate, two_digits
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


def knows_image(between: Float[np.ndarray, " pairs"], *, mirrored: float | None = None) -> Verdict:
    """Return T0.

    Args:
        between: The rank correlations of the maps of unlike images.
        mirrored: For a single image, whose map is compared with that of its mirror image: the
            correlation of the image with its mirror image.
    """
    measured = _with_range(between)
    what = "maps of different images" if mirrored is None else "the map of the mirrored image"
    threshold = below = f"below {SAME_IMAGE}"
    figure = two_digits(measured.value)
    if measured.value < SAME_IMAGE:
        change = "with the image" if mirrored is None else "if the image is mirrored"
        return Verdict(
            "T0", "passes", measured, threshold,
            f"The map changes {change}: its rank correlation with {what} is {figure}, {below}.",
        )  # fmt: skip
    if mirrored is not None and mirrored > SAME_TARGET:
        return Verdict(
            "T0", "undecided", measured, threshold,
            f"There is one image, which equals its mirror image nearly (correlation "
            f"{two_digits(mirrored)}): give images of other patients to see whether the map knows "
            "them.",
        )  # fmt: skip
    return Verdict(
        "T0", "fails", measured, threshold,
        f"The map is nearly the same whatever the image shows: its rank correlation with {what} is "
        f"{figure}, not {below}.",
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


def knows_weights(
    with_permuted: Float[np.ndarray, " networks"], unlike: float, *, has_weights: bool = True
) -> Verdict:
    """Return T2.

    Args:
        with_permuted: For each network of permuted weights, the rank correlation with its maps.
        unlike: The rank correlation of maps of unlike images.
        has_weights: Whether the network has weights to permute.
    """
    limit = max(SAME_WEIGHTS, unlike + MORE_THAN_UNLIKE)
    threshold = f"at most {SAME_WEIGHTS}, or {MORE_THAN_UNLIKE} more than with unlike images"
    if not has_weights:
        return Verdict(
            "T2", "does not apply", Estimate(math.nan), threshold,
            "The model holds no weights that could be permuted, such as a file or a function in a "
            "module: whether the map depends on what was learnt is not known.",
        )  # fmt: skip
    finite = with_permuted[np.isfinite(with_permuted)]
    if not len(finite) or not finite.any():
        return Verdict(
            "T2", "undecided", Estimate(math.nan), threshold,
            "No network with permuted weights was run (networks=0), or all their maps were blank: "
            "whether the map depends on the weights is not known.",
        )  # fmt: skip
    measured = _with_error(finite)
    word, text = _of_weights(measured, limit, unlike, len(finite))
    count = f"{len(finite)} network{'s' if len(finite) > 1 else ''} with permuted weights"
    return Verdict(
        "T2", word, measured, threshold,
        f"{text}: its rank correlation with the maps of {count} is {measured}.",
    )  # fmt: skip


def _of_weights(measured: Estimate, limit: float, unlike: float, count: int) -> tuple[Word, str]:
    """Return the verdict of T2 with the start of its sentence."""
    alike = f"maps of unlike images have {two_digits(unlike)}"
    if count < 2:
        return "undecided", "Too few networks tell whether the map depends on the weights"
    if measured.low > limit:
        return "fails", (
            f"The map hardly changes if all that the network learnt is destroyed (the limit is "
            f"{two_digits(limit)})"
        )
    if measured.value <= SAME_WEIGHTS and measured.high <= limit:
        return "passes", (
            f"The map changes if all that the network learnt is destroyed (the limit is "
            f"{two_digits(SAME_WEIGHTS)})"
        )
    if SAME_WEIGHTS < measured.value <= limit:
        return "does not apply", (
            f"Maps of this kind are alike whatever the network sees ({alike}), so this says "
            "nothing of the weights"
        )
    return "undecided", (
        f"It cannot be told whether the map depends on the weights (the limit is "
        f"{two_digits(limit)}; {alike})"
    )


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
            "What speaks for one of the two targets speaks against the other, nearly everywhere: "
            "the strength of the evidence, which this map shows, is the same for both (rank "
            f"correlation {two_digits(measured.value)}), which is no fault of the map.",
        )  # fmt: skip
    word: Word = "passes"
    text = "The map tells this target from another one"
    if measured.value >= SAME_TARGET:
        word, text = "fails", "The map is nearly the same for another target"
    return Verdict(
        "T3", word, measured, threshold,
        f"{text} ({other}): the rank correlation of the two maps is {two_digits(measured.value)}, "
        f"{'not ' * (word == 'fails')}{threshold}.",
    )  # fmt: skip


def _with_range(values: Float[np.ndarray, " items"]) -> Estimate:
    """Return the mean, with the smallest and the largest value."""
    return Estimate(float(values.mean()), float(values.min()), float(values.max()))


def _with_error(values: Float[np.ndarray, " items"]) -> Estimate:
    """Return the mean, with bounds of 1.64 standard errors."""
    if len(values) < 2:
        return Estimate(float(values.mean()))
    half = 1.64 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Estimate(float(values.mean()), float(values.mean() - half), float(values.mean() + half))
