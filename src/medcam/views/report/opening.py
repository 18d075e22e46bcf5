"""Which map a page opens on, and what the check says of each map of the page."""

from __future__ import annotations

from typing import Any

from medcam.views.report.trust import TrustRow, TrustSection, trust_section
from medcam.views.scene.values import Scene


def first_map(scene: Scene) -> int:
    """Return the index of the map that a page opens on; 0 without maps.

    It is the one that the check recommends; without that, the first that passes at a layer that
    the prediction uses; without a check, the first.

    Example:
        >>> import numpy as np
        >>> first_map(Scene("a", np.zeros((2, 3))))
        0
    """
    rows = _rows(scene, trust_section(scene.check))
    recommended = [n for n, row in enumerate(rows) if row and row.is_recommended]
    passing = [
        n for n, row in enumerate(rows)
        if row and row.verdict.word == "passes" and not row.remark
    ]  # fmt: skip
    return next(iter([*recommended, *passing]), 0)


def verdicts(scene: Scene) -> list[dict[str, Any] | None]:
    """Return what stands beside each map while it is shown; None for one that was not checked."""
    trust = trust_section(scene.check)
    parts = "" if trust is None or ":" not in trust.target else f", checked on {trust.target}"
    return [None if row is None else _beside(row, parts) for row in _rows(scene, trust)]


def _rows(scene: Scene, trust: TrustSection | None) -> list[TrustRow | None]:
    return [
        None if trust is None else trust.row_of(item.method, item.layer, item.target)
        for item in scene.maps
    ]


def _beside(row: TrustRow, parts: str) -> dict[str, Any]:
    """Return the texts beside a map; of a segmentation they say which parts were checked."""
    remark = f"{', ' if row.verdict.word == 'passes' else '; '}{row.remark}" if row.remark else ""
    return {
        "sign": row.verdict.sign,
        "word": row.verdict.word,
        "bad": row.verdict.is_bad,
        "remark": (", recommended" if row.is_recommended else remark) + parts,
    }
