"""The map to use: the most faithful one of those that pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medcam.trust.artefact import PlantedArtefact
from medcam.trust.faithfulness import GAIN
from medcam.trust.result import CheckedMap, Recommendation
from medcam.trust.verdict import BEST


def recommend(
    maps: Sequence[CheckedMap], marker: PlantedArtefact | None = None
) -> tuple[Recommendation | None, str]:
    """Return the map that passes every criterion at a layer in use, with the largest gain in T4.

    With a planted marker that is one of those that find it, if there is any.

    Args:
        maps: The maps with their verdicts.
        marker: Which maps find a planted marker; None if that was not asked.

    Returns:
        The recommendation, or None with the reason.
    """
    passing = [item for item in maps if item.word == "passes" and not item.is_of_unused_layer]
    if not passing:
        return None, _reason(maps)
    every = "every criterion"
    if any(item.word == "passes" and item.is_of_unused_layer for item in maps):
        every += " at a layer that the prediction uses"
    finding = [item for item in passing if _finds(marker, item)]
    misses = marker is not None and bool(marker.maps) and not finding
    candidates, several = finding or passing, len(finding or passing) > 1
    if finding:
        every += f" and {'find' if several else 'finds'} the planted marker"
    best = max(candidates, key=_gain)
    verdict = best.verdicts["T4"]
    where = f"at layer {best.layer!r}" if best.layer else "of the input"
    sentence = f"Use {best.title} {where}, the only map that passes {every}"
    near, lead = 0, ""
    if several:
        near = sum(_gain(best) - _gain(item) < GAIN for item in candidates) - 1
        lead = f", by {verdict.gains[BEST]}" if verdict.gains else ""
        sentence = (
            f"Use {best.title} {where}: of the {len(candidates)} maps that pass {every} it is most "
            f"surely ahead of the best map of the image alone"
        )
    sentence += f"{lead} (correlation {verdict.estimate})."
    if near:
        sentence += f" {near} of the others {'are' if near > 1 else 'is'} about as good."
    return Recommendation(best.method, best.layer, sentence + _MISSES * misses), ""


_MISSES = " No map that passes finds the planted marker, though: read what is said of it below."


def _finds(marker: PlantedArtefact | None, item: CheckedMap) -> bool:
    """Return whether a map finds the planted marker."""
    verdict = None if marker is None else marker.maps.get((item.method, item.layer))
    return verdict is not None and verdict.word == "finds the marker"


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
