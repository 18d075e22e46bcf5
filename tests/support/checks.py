"""Records of a trust check, without a check."""

from __future__ import annotations

from typing import Any

from medcam.trust.plan import Plan
from medcam.trust.result import CheckedMap, Recommendation, TrustCheck
from medcam.trust.stages import LayerShare
from medcam.trust.statistics import Estimate
from medcam.trust.verdict import CRITERIA, Verdict, Word


def checked_map(
    title: str = "Grad-CAM", layer: str | None = "layer", word: Word = "passes", used: bool = True
) -> CheckedMap:
    """Return a map with the same verdict on each criterion."""
    verdicts = {
        key: Verdict(key, word, Estimate(0.5, 0.4, 0.6), "below 0.9", f"{title} of {key}.")
        for key in CRITERIA
    }
    name = title.replace("-", "").lower()
    return CheckedMap(name, title, layer, verdicts, is_of_unused_layer=not used)


def check_record(
    *maps: CheckedMap,
    recommended: int | None = None,
    reason: str = "No map is recommended.",
    **entries: Any,
) -> dict[str, Any]:
    """Return the record of a check of these maps, of which one may be recommended.

    Args:
        maps: The maps.
        recommended: The index of the recommended map.
        reason: Why none is recommended.
        entries: Further entries of the record, or others.
    """
    best = None
    if recommended is not None:
        item = maps[recommended]
        best = Recommendation(item.method, item.layer, f"Use {item.name}.")
    check = TrustCheck(
        "class 1", maps, {}, (LayerShare("l", 0.97, 0.96),), best, reason,
        Plan(8, 2, 1, 0, 1, 1, 1), 0, (4, 4),
    )  # fmt: skip
    return {**check.to_dict(), **entries}
