"""Verdicts of the trust check: what a criterion found of a map, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medcam.trust.statistics import Estimate, plain_number

Word = Literal["passes", "fails", "no better than the image", "undecided", "does not apply"]
"""What a verdict says."""

CRITERIA = {
    "T0": "knows the image",
    "T1": "repeats",
    "T2": "knows the weights",
    "T3": "knows the target",
    "T4": "is faithful",
}
"""The criteria that decide, by number."""

FAILURES = {
    "T0": "does not know the image",
    "T1": "does not repeat",
    "T2": "does not know the weights",
    "T3": "does not know the target",
    "T4": "is not faithful",
}
"""What a map does that fails a criterion, by number."""

BEST = "best of the image"
"""The name of the gain over the best control that knows the image only."""

CANNOT_SHOW = {
    "T0": "A map can depend on the image and still miss what the prediction needs.",
    "T1": "A map can repeat exactly and be wrong.",
    "T2": "Necessary, not sufficient: a map can depend on the weights and still be wrong.",
    "T3": "A map can tell the targets apart and still miss why one was predicted.",
    "T4": "The network was not trained on images with blocks replaced, and a map of where the "
    "target is scores nearly as high as one of why it was predicted.",
    "T5": "No verdict: maps that ignore the image change least of all.",
}
"""What each criterion cannot show."""

SOURCES = {
    "T0": "pairs of unlike images, as Arun et al. 2021 (doi 10.1148/ryai.2021200267) compare",
    "T1": "two runs; Arun et al. 2021 (doi 10.1148/ryai.2021200267)",
    "T2": "networks with all weights permuted: Adebayo et al. 2018 (arXiv 1810.03292), without "
    "the order of layers (Binder et al. 2023, arXiv 2211.12486; Yona and Greenfeld 2021, arXiv "
    "2110.14297)",
    "T3": "Adebayo et al. 2018 (arXiv 1810.03292); Rebuffi et al. 2020 (arXiv 2004.02866)",
    "T4": "faithfulness correlation, Bhatt et al. 2020 (arXiv 2005.00631), the size of the sets "
    "partialled out",
    "T5": "max-sensitivity, Yeh et al. 2019 (arXiv 1901.09392)",
}
"""Where each criterion comes from."""


@dataclass(frozen=True)
class Verdict:
    """What one criterion says of one map.

    Attributes:
        criterion: "T0" to "T4", a key of `CRITERIA`.
        word: The verdict.
        estimate: The value with its bounds.
        threshold: The threshold in words, e.g. ``"below 0.95"``.
        sentence: The verdict in one plain sentence.
        gains: For T4, by how much the map is better than each control.
        second: For T4, the value with the second fill.
    """

    criterion: str
    word: Word
    estimate: Estimate
    threshold: str
    sentence: str
    gains: dict[str, Estimate] | None = None
    second: Estimate | None = None

    @property
    def short(self) -> str:
        """The verdict in a few words, with the criterion, e.g. "is not faithful"."""
        if self.word == "fails":
            return FAILURES[self.criterion]
        return f"undecided whether it {self.title}" if self.word == "undecided" else self.word

    @property
    def title(self) -> str:
        """The criterion in words."""
        return CRITERIA[self.criterion]

    @property
    def cannot_show(self) -> str:
        """What the criterion cannot show."""
        return CANNOT_SHOW[self.criterion]

    @property
    def source(self) -> str:
        """Where the criterion comes from."""
        return SOURCES[self.criterion]

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as plain values, for JSON: NaN becomes None."""
        row: dict[str, Any] = {
            "criterion": self.criterion,
            "title": self.title,
            "verdict": self.word,
            **_plain(self.estimate),
            "threshold": self.threshold,
            "sentence": self.sentence,
            "cannot_show": self.cannot_show,
            "source": self.source,
        }
        if self.gains is not None:
            row["gains"] = {name: _plain(gain) for name, gain in self.gains.items()}
        if self.second is not None:
            row["second_fill"] = _plain(self.second)
        return row


def overall(verdicts: Sequence[Verdict]) -> Word:
    """Return what all criteria together say of a map: the worst of their verdicts.

    A map that passes has no criterion that is undecided. Criteria that do not apply are left out.
    """
    words = {verdict.word for verdict in verdicts}
    order: tuple[Word, ...] = ("fails", "no better than the image", "undecided", "passes")
    return next((word for word in order if word in words), "does not apply")


def _plain(estimate: Estimate) -> dict[str, float | None]:
    values = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: plain_number(value) for name, value in values.items()}
