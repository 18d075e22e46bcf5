"""The part of a page that says whether its maps can be trusted, from the record of a check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MARKS = {
    "passes": "✓", "fails": "✕", "no better than the image": "≈", "undecided": "?",
    "does not apply": "–",  # noqa: RUF001  # an en dash is intended, as is usual in tables
}  # fmt: skip
"""A sign for each verdict, so that colour is not all that tells them apart."""


@dataclass(frozen=True)
class Mark:
    """A verdict in a table.

    Attributes:
        word: The verdict.
        sign: A sign for it.
        sentence: The verdict in a sentence.
    """

    word: str
    sign: str
    sentence: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether the verdict speaks against the map."""
        return self.word in ("fails", "no better than the image")


@dataclass(frozen=True)
class TrustRow:
    """What was found of one map: its name, the verdict, and that of each criterion.

    The remark says that the prediction hardly uses the map's layer; else it is empty.
    """

    name: str
    verdict: Mark
    criteria: list[Mark]
    remark: str = ""


@dataclass(frozen=True)
class Criterion:
    """A criterion: its title, its threshold, what it cannot show, and its source."""

    title: str
    threshold: str
    limit: str
    source: str


@dataclass(frozen=True)
class TrustSection:
    """What a page shows of a check.

    Attributes:
        target: What was explained.
        advice: The recommended map, or why none is.
        columns: The criteria.
        rows: The maps.
        layers: What is left of the prediction without each layer, in sentences.
        remarks: Notes, and which maps find a planted marker.
    """

    target: str
    advice: str
    columns: list[Criterion]
    rows: list[TrustRow]
    layers: list[str]
    remarks: list[str]


def trust_section(check: Mapping[str, Any]) -> TrustSection | None:
    """Return what a page shows of a check; None without one.

    Args:
        check: As `medcam.trust.TrustCheck.to_dict` returns it, or empty.

    Raises:
        KeyError: The record of the check is incomplete.
        TypeError: It holds values of other types.
    """
    if not check:
        return None
    maps = [_mapping(item) for item in check["maps"]]
    criteria = [_mapping(item["criteria"]) for item in maps]
    keys = list(criteria[0]) if criteria else []
    recommended = check["recommended"]
    advice = check["reason"] if recommended is None else _mapping(recommended)["sentence"]
    rows = [
        TrustRow(
            f"{item['title']} ({item['layer'] or 'input'})", _mark(item["verdict"]),
            [_mark(verdicts[key]["verdict"], str(verdicts[key]["sentence"])) for key in keys],
            "" if item.get("layer_is_used", True) else "but the prediction hardly uses this layer",
        )
        for item, verdicts in zip(maps, criteria, strict=True)
    ]  # fmt: skip
    columns = [Criterion(*(str(criteria[0][key][name]) for name in _OF_CRITERION)) for key in keys]
    layers = [str(_mapping(share)["sentence"]) for share in check["layers"]]
    cut = [str(check["cut"])] if check["cut"] else []
    remarks = [*map(str, check["notes"]), *_of_marker(check["artefact"]), *cut]
    return TrustSection(str(check["target"]), str(advice), columns, rows, layers, remarks)


_OF_CRITERION = ("title", "threshold", "cannot_show", "source")


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"the record of a check holds a {type(value).__name__}")
    return value


def _mark(word: Any, sentence: str = "") -> Mark:
    return Mark(str(word), _MARKS.get(str(word), "?"), sentence)


def _of_marker(artefact: Any) -> list[str]:
    """Return a sentence for each map about the planted marker."""
    if artefact is None:
        return []
    maps = [_mapping(item) for item in _mapping(artefact)["maps"]]
    return [
        f"Planted marker: {item['method']} ({item['layer'] or 'input'}). {item['sentence']}"
        for item in maps
    ] or ["The network did not learn the planted marker."]
