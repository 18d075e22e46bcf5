"""The map to use: the most faithful one of those that pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medcam.trust.result import BEST, CheckedMap, Recommendation
from medcam.trust.verdict import CRITERIA


def recommend(maps: Sequence[CheckedMap]) -> tuple[Recommendation | None, str]:
    """Return the map that passes every criterion at a layer in use, with the largest gain in T4.

    Returns:
        The recommendation, or None with the reason.
    """
    passing = [item for item in maps if item.word == "passes" and not item.is_of_unused_layer]
    if not passing:
        return None, _reason(maps)
    best = max(passing, key=_gain)
    verdict = best.verdicts["T4"]
    where = f"at layer {best.layer!r}" if best.layer else "of the input"
    others = len(passing) - 1
    beside = f" {others} other map{'s' * (others != 1)} pass{'es' * (others == 1)}, too." * bool(
        others
    )
    sentence = (
        f"Use {best.title} {where}: of the maps that pass every criterion it is furthest ahead of "
        f"maps of the image alone (correlation {verdict.estimate}).{beside}"
    )
    return Recommendation(best.method, best.layer, sentence), ""


def _gain(item: CheckedMap) -> float:
    """Return the lower bound of the gain over the controls."""
    gains = item.verdicts["T4"].gains
    return gains[BEST].low if gains else 0.0


def _reason(maps: Sequence[CheckedMap]) -> str:
    """Return why no map is recommended: the commonest verdict that stands against them."""
    if any(item.word == "passes" for item in maps):
        unused = (item.layer for item in maps if item.is_of_unused_layer)
        listed = ", ".join(dict.fromkeys(layer for layer in unused if layer is not None))
        return (
            f"No map is recommended: those that pass are of layers that the prediction hardly uses "
            f"({listed})."
        )
    counts = Counter(
        (verdict.criterion, verdict.word)
        for item in maps
        for verdict in item.verdicts.values()
        if verdict.word not in ("passes", "does not apply")
    )
    if not counts:
        return "No map is recommended: no criterion applies."
    (criterion, word), count = counts.most_common(1)[0]
    return (
        f"No map is recommended: none passes every criterion. Most often: {criterion} "
        f"({CRITERIA[criterion]}) {word}, {count} of {len(maps)} maps."
    )
