"""The part of a page that says whether its maps can be trusted, from the record of a check."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medcam.views.report.records import mapping_in

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

    Attributes:
        title: The method's name for display.
        layer: The layer; None for a map of the input.
        verdict: The verdict.
        criteria: That of each criterion.
        remark: That the prediction hardly uses the map's layer; else empty.
        is_recommended: Whether it is the map to use.
    """

    title: str
    layer: str | None
    verdict: Mark
    criteria: list[Mark]
    remark: str = ""
    is_recommended: bool = False

    @property
    def name(self) -> str:
        """The method and the layer, for display."""
        return f"{self.title} ({self.layer or 'input'})"


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
        checked: The target and the number of images, if it is known.
        advice: The recommended map, or why none is.
        columns: The criteria.
        rows: The maps.
        layers: What is left of the prediction without each layer, in sentences.
        remarks: Notes, and which maps find a planted marker.
    """

    target: str
    checked: str
    advice: str
    columns: list[Criterion]
    rows: list[TrustRow]
    layers: list[str]
    remarks: list[str]

    def row_of(self, title: str, layer: str | None, target: str) -> TrustRow | None:
        """Return what was found of a map; None if it was not checked.

        A map of another class than the checked one was not checked.

        Args:
            title: The method's name for display.
            layer: The layer; None for a map of the input.
            target: What the map explains, in words.
        """
        wanted, checked = (set(_CLASS.findall(text)) for text in (target, self.target))
        if wanted and checked and wanted != checked:
            return None
        rows = (row for row in self.rows if (row.title, row.layer) == (title, layer))
        return next(rows, None)


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
    maps = [mapping_in("a check", item) for item in check["maps"]]
    criteria = [mapping_in("a check", item["criteria"]) for item in maps]
    keys = list(criteria[0]) if criteria else []
    recommended = check["recommended"]
    advice = (
        check["reason"] if recommended is None else mapping_in("a check", recommended)["sentence"]
    )
    best = None if recommended is None else (recommended["method"], recommended["layer"])
    rows = [
        TrustRow(
            str(item["title"]), None if item["layer"] is None else str(item["layer"]),
            _mark(item["verdict"]),
            [_mark(verdicts[key]["verdict"], str(verdicts[key]["sentence"])) for key in keys],
            "" if item.get("layer_is_used", True) else _of_unused_layer(item["verdict"]),
            (item["method"], item["layer"]) == best,
        )
        for item, verdicts in zip(maps, criteria, strict=True)
    ]  # fmt: skip
    columns = [Criterion(*(str(criteria[0][key][name]) for name in _OF_CRITERION)) for key in keys]
    layers = [str(mapping_in("a check", share)["sentence"]) for share in check["layers"]]
    cut = [str(check["cut"])] if check["cut"] else []
    remarks = [*map(str, check["notes"]), *_of_marker(check["artefact"]), *cut]
    target = str(check["target"])
    checked = _with_images(target, check.get("images"))
    return TrustSection(target, checked, str(advice), columns, rows, layers, remarks)


_CLASS = re.compile(r"\bclass (\d+)")
_OF_CRITERION = ("title", "threshold", "cannot_show", "source")


def _of_unused_layer(word: Any) -> str:
    """Return what is said beside a verdict on a map of a layer that is not used."""
    remark = "the prediction hardly uses this layer"
    return f"but {remark}" if word == "passes" else remark


def _with_images(target: str, images: Any) -> str:
    """Return the target with the number of images, which older records lack."""
    if images is None:
        return target
    if not isinstance(images, int):
        raise TypeError(f"the number of images of a check is a {type(images).__name__}")
    return f"{target}; {images} image{'s' * (images != 1)}"


def _mark(word: Any, sentence: str = "") -> Mark:
    return Mark(str(word), _MARKS.get(str(word), "?"), sentence)


def _of_marker(artefact: Any) -> list[str]:
    """Return a sentence for each map about the planted marker."""
    if artefact is None:
        return []
    maps = [mapping_in("a check", item) for item in mapping_in("a check", artefact)["maps"]]
    return [
        f"Planted marker: {item.get('title', item['method'])} ({item['layer'] or 'input'}). "
        f"{item['sentence']}"
        for item in maps
    ] or ["The network did not learn the planted marker."]
