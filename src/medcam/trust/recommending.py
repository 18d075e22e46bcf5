"""The map to use: the most faithful one of those that pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medcam.trust.faithfulness import GAIN
from medcam.trust.result import BEST, CheckedMap, Recommendation


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
    figure = f"correlation {verdict.estimate}"
    every = "every criterion"
    if any(item.word == "passes" and item.is_of_unused_layer for item in maps):
        every += " at a layer that the prediction uses"
    if len(passing) == 1:
        sentence = f"Use {best.title} {where}, the only map that passes {every} ({figure})."
        return Recommendation(best.method, best.layer, sentence), ""
    lead = "" if not verdict.gains else f", by {verdict.gains[BEST]}"
    sentence = (
        f"Use {best.title} {where}: of the {len(passing)} maps that pass {every} it is "
        f"furthest ahead of the best map of the image alone{lead} ({figure})."
    )
    near = sum(_gain(best) - _gain(item) < GAIN for item in passing) - 1
    if near:
        sentence += f" {near} of the others {'are' if near > 1 else 'is'} about as good."
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
        verdict.short
        for item in maps
        for verdict in item.verdicts.values()
        if verdict.word not in ("passes", "does not apply")
    )
    if not counts:
        return "No map is recommended: no criterion applies."
    listed = ", ".join(f"{count} x {words}" for words, count in counts.most_common())
    return (
        f"No map is recommended: none of {len(maps)} passes every criterion ({listed})."
        if len(maps) > 1
        else f"No map is recommended: the only one does not pass every criterion ({listed})."
    )
