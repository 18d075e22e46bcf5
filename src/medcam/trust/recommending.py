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
    finding = [item for item in passing if _finds(marker, item)]
    best = max(finding or passing, key=_gain)
    verdict = best.verdicts["T4"]
    where = f"at layer {best.layer!r}" if best.layer else "of the input"
    figure = f"correlation {verdict.estimate}"
    every = "every criterion"
    if any(item.word == "passes" and item.is_of_unused_layer for item in maps):
        every += " at a layer that the prediction uses"
    misses = marker is not None and bool(marker.maps) and not finding
    if finding:
        passing, every = finding, f"{every} and finds the planted marker"
    if len(passing) == 1:
        sentence = f"Use {best.title} {where}, the only map that passes {every} ({figure})."
        sentence += _MISSES * misses
        return Recommendation(best.method, best.layer, sentence), ""
    lead = "" if not verdict.gains else f", by {verdict.gains[BEST]}"
    every = every.replace("finds", "find")
    sentence = (
        f"Use {best.title} {where}: of the {len(passing)} maps that pass {every} it is most surely "
        f"ahead of the best map of the image alone{lead} ({figure})."
    )
    near = sum(_gain(best) - _gain(item) < GAIN for item in passing) - 1
    if near:
        sentence += f" {near} of the others {'are' if near > 1 else 'is'} about as good."
    sentence += _MISSES * misses
    return Recommendation(best.method, best.layer, sentence), ""


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
