"""Maps of a volume that are zero everywhere: the reason, from those of the windows."""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from medcam.engine.blanks import BlankContext, BlankKey, empty_targets, notice_blanks
from medcam.engine.model import isolation
from medcam.engine.notices import Notices
from medcam.engine.windows.parts import layer_part
from medcam.engine.windows.plan import StitchingPlan
from medcam.engine.windows.stitching import Maps
from medcam.methods import Method
from medcam.methods.method import BlankReason


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


def _reason(plan: StitchingPlan, method: Method, layer: str | None) -> BlankReason:
    """Return why a method's map of the volume is zero."""
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
    automatic = plan.request.layer in ("auto", None)
    return BlankContext.of(isolation.modules_of(member.model), {}, automatic=automatic)
