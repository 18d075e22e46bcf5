"""What windows tell of a volume's maps: why one is zero, whether it agrees with another method."""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from medcam.engine.agreements import disagreement
from medcam.engine.blanks import BlankContext, BlankKey, empty_targets, notice_blanks
from medcam.engine.model import isolation
from medcam.engine.notices import Notices
from medcam.engine.windows.parts import layer_part
from medcam.engine.windows.plan import StitchingPlan
from medcam.engine.windows.stitching import Maps
from medcam.errors import warn
from medcam.methods import Method
from medcam.methods.blank import BlankReason, why_replayed_blank


def notice_blank_maps(plan: StitchingPlan, maps: Maps, notices: Notices) -> None:
    """Add a warning for each reason why maps of the volume are zero everywhere.

    Args:
        plan: The plan.
        maps: The maps, by ``(method, layer)``.
        notices: Where the warnings are added.
    """
    methods = {method.name: method for method in plan.request.methods}
    flags: dict[BlankKey, Tensor] = {}
    for (name, layer), item in maps.items():
        is_blank = ~item.values.flatten(2).any(2)
        if bool(is_blank.any()):
            method = methods[name]
            key = None if layer is None else (layer, 0)
            flags[_reason(plan, method, layer), method.title, key] = is_blank
    if flags:
        notice_blanks(notices, flags, empty_targets(plan.runner.gradient.target), _context(plan))


def warn_of_disagreement(plan: StitchingPlan) -> None:
    """Warn of methods whose maps of the windows hardly agree with those of another method."""
    for method in plan.request.methods:
        agreement = method.agreement
        for (title, layer), values in plan.runner.agreements.items():
            if agreement is not None and title == method.title and values:
                mean = sum(values) / len(values)
                if mean < agreement.least:
                    warn(disagreement(method, layer, f"in the windows: {mean:.2f} in the mean"))


def _reason(plan: StitchingPlan, method: Method, layer: str | None) -> BlankReason:
    """Return why a method's map of the volume is zero."""
    if method.replays and plan.touched_places:
        return why_replayed_blank(method)
    part = layer_part(method)
    title = method.title if part is None else part.title
    counted = plan.runner.blanks.get((title, layer), Counter())
    if counted and counted.total() >= len(plan.touched_places) * plan.count:
        return counted.most_common(1)[0][0]
    if part is None:
        return (
            "no guided gradient" if "guided_gradients" in method.evidence else "no input gradient"
        )
    if not plan.touched_places:
        return "no gradient"
    return "negative" if part.rectified else "unknown"


def _context(plan: StitchingPlan) -> BlankContext:
    """Return what the remedies depend on."""
    member = next(iter(plan.members()))
    return BlankContext.of(
        isolation.modules_of(member.model), {}, automatic=plan.request.chooses_layer
    )
