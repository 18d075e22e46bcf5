"""`TrustCheck`: what a check found, as values, a table and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medcam.errors import InputError, unknown_name
from medcam.maps import AttentionMap
from medcam.trust.artefact import PlantedArtefact
from medcam.trust.plan import Plan
from medcam.trust.stages import LayerShare
from medcam.trust.statistics import Estimate, plain_number
from medcam.trust.verdict import BEST, CANNOT_SHOW, CRITERIA, Verdict, Word, overall

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class CheckedMap:
    """What a check says of one method at one layer.

    Attributes:
        method: The method's name.
        title: The method's name in the literature.
        layer: The layer; None for a map of the input.
        verdicts: By criterion, "T0" to "T4".
        sensitivity: T5, the largest relative change under weak noise; None if it was not measured.
        infidelity: What the map leaves unexplained of the falls of the score (Yeh et al. 2019), 0
            to 1. No verdict follows: larger sets have larger sums and falls with every map.
        is_of_unused_layer: Whether the prediction hardly uses the layer, so that the map is not
            recommended whatever its verdicts.
    """

    method: str
    title: str
    layer: str | None
    verdicts: Mapping[str, Verdict]
    sensitivity: float | None = None
    infidelity: float | None = None
    is_of_unused_layer: bool = False

    @property
    def word(self) -> Word:
        """The verdict over all criteria."""
        return overall(list(self.verdicts.values()))

    @property
    def name(self) -> str:
        """The method and the layer, for display."""
        return f"{self.title} ({self.layer or 'input'})"

    @property
    def why(self) -> str:
        """Where a failure or doubt comes from, for display; empty for other verdicts."""
        if self.word not in ("fails", "undecided"):
            return ""
        listed = [verdict for verdict in self.verdicts.values() if verdict.word == self.word]
        if self.word == "fails":
            return f": {', '.join(verdict.short for verdict in listed)}"
        return f" whether it {' and '.join(verdict.title for verdict in listed)}"

    @property
    def remark(self) -> str:
        """What has to be said beside the verdict; empty for most maps."""
        if not self.is_of_unused_layer:
            return ""
        start = ", but" if self.word == "passes" else ";"
        return f"{start} the prediction hardly uses this layer"

    def to_dict(self) -> dict[str, Any]:
        """Return the values, for JSON."""
        return {
            "method": self.method,
            "title": self.title,
            "layer": self.layer,
            "verdict": self.word,
            "criteria": {key: verdict.to_dict() for key, verdict in self.verdicts.items()},
            "max_sensitivity": plain_number(self.sensitivity),
            "infidelity": plain_number(self.infidelity),
            "layer_is_used": not self.is_of_unused_layer,
        }


@dataclass(frozen=True)
class Recommendation:
    """The map to use for this network and target.

    Attributes:
        method: The method's name.
        layer: The layer; None for a map of the input.
        sentence: Why.
    """

    method: str
    layer: str | None
    sentence: str


@dataclass(frozen=True, eq=False)
class TrustCheck:
    """What a check found.

    Attributes:
        target: What was explained, in words.
        maps: What was found of each method at each layer.
        controls: How faithful maps are that know the image only, by name, with the fill that
            decides.
        layers: What is left of the prediction without each layer.
        recommended: The map to use; None if no map passes at a layer that the prediction uses.
        reason: Why no map is recommended; empty if one is.
        plan: What was done, and what it cost.
        seed: The seed of the random numbers.
        edge: The extents of a block in voxels.
        notes: What has to be known to read the verdicts.
        artefact: Which maps find a planted marker; None if that was not asked.
        hiding: By how much the score falls if each block is hidden, ``[batch, targets, *space]``: a
            map that the runs of T4 give for free, see `medcam.trust.hiding`.
        hiding_correlation: How well `hiding` predicts the falls of sets that it was not made from.
    """

    target: str
    maps: tuple[CheckedMap, ...]
    controls: Mapping[str, Estimate]
    layers: tuple[LayerShare, ...]
    recommended: Recommendation | None
    reason: str
    plan: Plan
    seed: int
    edge: tuple[int, ...]
    notes: tuple[str, ...] = ()
    artefact: PlantedArtefact | None = None
    hiding: AttentionMap | None = None
    hiding_correlation: float = math.nan

    def of(self, method: str, layer: str | None = None) -> CheckedMap:
        """Return what was found of a method.

        Args:
            method: The method's name.
            layer: The layer; None: the method's only one.

        Raises:
            UnknownNameError: The method was not checked there.
            InputError: It was checked at several layers, and none is named.
        """
        matching = [
            item for item in self.maps if item.method == method and layer in (None, item.layer)
        ]
        if not matching:
            asked = method if layer is None else f"{method} at {layer}"
            known = (f"{item.method} at {item.layer or 'the input'}" for item in self.maps)
            raise unknown_name("Checked map", asked, known)
        if len(matching) > 1:
            layers = ", ".join(repr(item.layer) for item in matching)
            raise InputError(f"{method!r} was checked at several layers: name one with {layers}.")
        return matching[0]

    @property
    def remarks(self) -> list[str]:
        """What is said below the verdicts: notes, the planted marker, what a budget cut."""
        marker = [] if self.artefact is None else [str(self.artefact)]
        return [*self.notes, *marker, *([self.plan.cut] if self.plan.cut else [])]

    def table(self) -> pd.DataFrame:
        """Return a row for each map: the verdicts, and the value of each criterion."""
        import pandas as pd

        rows = []
        for item in self.maps:
            row: dict[str, Any] = {
                "Method": item.title, "Layer": item.layer or "(input)", "Verdict": item.word,
            }  # fmt: skip
            for key, title in CRITERIA.items():
                verdict = item.verdicts[key]
                row[f"{key} {title}"] = verdict.word
                row[f"{key} value"] = verdict.estimate.value
            row["T4 low"], row["T4 high"] = (
                item.verdicts["T4"].estimate.low, item.verdicts["T4"].estimate.high,
            )  # fmt: skip
            gain = (item.verdicts["T4"].gains or {}).get(BEST)
            row["T4 gain"], row["T4 gain low"] = (
                (None, None) if gain is None else (gain.value, gain.low)
            )
            row["T5 max-sensitivity"] = item.sensitivity
            row["Infidelity"] = item.infidelity
            row["Layer is used"] = not item.is_of_unused_layer
            rows.append(row)
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the check as plain values, for JSON."""
        recommended = self.recommended
        return {
            "target": self.target,
            "images": self.plan.images,
            "maps": [item.to_dict() for item in self.maps],
            "controls": {name: plain_number(value.value) for name, value in self.controls.items()},
            "layers": [share.to_dict() for share in self.layers],
            "recommended": None if recommended is None else vars(recommended),
            "reason": self.reason,
            "cost": str(self.plan),
            "cut": self.plan.cut,
            "seed": self.seed,
            "block": list(self.edge),
            "hiding_correlation": plain_number(self.hiding_correlation),
            "notes": list(self.notes),
            "artefact": None if self.artefact is None else self.artefact.to_dict(),
            "cannot_show": CANNOT_SHOW,
        }

    def __str__(self) -> str:
        width = max((len(item.name) for item in self.maps), default=0)
        lines = [f"Can the maps be trusted? {self.checked}", ""]
        lines += [f"{item.name:{width}}  {item.word}{item.why}{item.remark}" for item in self.maps]
        lines += ["", *(f"layer {share}" for share in self.layers if not share.is_used)]
        lines.append(self.advice)
        lines += self.remarks
        return "\n".join(lines)

    @property
    def checked(self) -> str:
        """What was checked: the target and the number of images, in words."""
        return f"{self.target}; {self.plan.images} image{'s' * (self.plan.images > 1)}"

    @property
    def advice(self) -> str:
        """The map to use, or why none is recommended, in a sentence."""
        return self.reason if self.recommended is None else self.recommended.sentence
