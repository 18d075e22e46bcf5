"""One run over the windows of a volume: predict, resolve the target once, stitch the maps."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.engine.agreements import warn_of_parts
from medcam.engine.model import isolation
from medcam.engine.model.probabilities import SIGMOIDS, ends_in
from medcam.engine.model.undo import undoing
from medcam.engine.notices import Notices
from medcam.engine.progress import Progress, progress_of
from medcam.engine.request import Request
from medcam.engine.result import Run
from medcam.engine.run import run
from medcam.engine.target.resolution import reads_output
from medcam.engine.target.scores import score_of_whole_output
from medcam.engine.windows.ensemble import Members
from medcam.engine.windows.final_function import before, final_function
from medcam.engine.windows.kept import KeptActivations
from medcam.engine.windows.parts import layer_part
from medcam.engine.windows.plan import ChannelWeights, StitchingPlan
from medcam.engine.windows.prediction import cut, predict
from medcam.engine.windows.remarks import notice_blank_maps, warn_of_disagreement
from medcam.engine.windows.replays import check_linear, check_replayed, replayed_maps
from medcam.engine.windows.runner import Runner
from medcam.engine.windows.score_gradient import ScoreGradient, score_gradient
from medcam.engine.windows.stitching import Maps, stitch, windows_to_explain, zero_maps
from medcam.engine.windows.tiling import Windows
from medcam.errors import InputError, NoMapError, warn
from medcam.methods import AUTO, Method


@undoing
def run_windows(
    request: Request,
    members: Members,
    count: int,
    volume: Float[Tensor, "batch channels *space"],
    windows: Windows,
    *,
    logits: Float[Tensor, "batch classes *space"] | None = None,
    gradient: ScoreGradient | None = None,
    batch_size: int = 1,
    device: torch.device,
    channel_weights: ChannelWeights = "window",
    progress: Progress = False,
) -> Run:
    """Return the stitched prediction of a volume and its maps.

    Args:
        request: The request.
        members: Yields the networks and their mirrorings.
        count: The number of members.
        volume: The image, before padding.
        windows: The windows.
        logits: The stitched prediction; None: it is computed.
        gradient: The gradient of the score to explain; None: that of ``request.target``.
        batch_size: The number of windows that run at once.
        device: The device of the sums.
        channel_weights: As in `medcam.explain_volume`.
        progress: As in `medcam.explain_volume`.

    Raises:
        InputError: The prediction cannot be stitched, or does not fit the volume.
        NoMapError: No map can be made.
    """
    check_replayed(request)
    notices, function = Notices(), ""
    padded, window_count = windows.pad(volume), len(windows) * len(volume) * count
    kept, is_own = None, logits is None
    if logits is None:
        if channel_weights == "volume" and window_count > len(volume):
            groups = -(-window_count // batch_size)
            kept = kept_activations(request, members, padded, windows, groups)
        with progress_of(progress, "prediction", window_count) as tick:
            logits = predict(
                members(), padded, windows, output=request.output, batch_size=batch_size,
                device=device, tick=tick, **({} if kept is None else {"recording": kept.recording}),
            )  # fmt: skip
    _check_logits(logits, volume)
    if gradient is None:
        check_linear(request, logits)
        if not reads_output(request.target):
            function = final_function(members, padded, windows, logits, request.output)
        gradient = _score_gradient(request, logits.to(device), function, windows, notices)
    request = request.for_target(gradient.target)
    warn_of_parts(request, gradient.target)
    runner = Runner(padded, gradient)
    plan = StitchingPlan(
        request, members, count, windows, runner, batch_size, device, channel_weights, kept
    )
    explained_count, details = len(plan.touched_places) * count, dict[str, Any]()
    known = logits if is_own and not (function or gradient.of_output) else None
    maps = _maps(plan, known, details, progress) if explained_count else zero_maps(plan)
    notice_blank_maps(plan, maps, notices)
    warn_of_disagreement(plan)
    for item in maps.values():
        notices.add(
            ~item.values.isfinite().flatten(1).all(1),
            NoMapError(
                f"The {item.title} map holds NaN or infinite values. Do the model's activations "
                "or logits overflow? Try float32."
            ),
        )
    return Run(
        output=logits,
        target=gradient.target,
        maps={
            (name, layer) if request.several else layer: item
            for (name, layer), item in maps.items()
        },
        layers=runner.layers,
        skipped=runner.skipped,
        notices=notices,
        details={
            "windows": window_count,
            "windows_explained": explained_count,
            "roi": tuple(windows.weights.shape),
            "members": count,
            "channel_weights": channel_weights,
            **({"model_ends_in": function} if function else {}),
            **runner.details,
            **details,
        },
    )


def _maps(
    plan: StitchingPlan, logits: Tensor | None, details: dict[str, Any], progress: Progress
) -> Maps:
    """Return the maps of all methods, in their order, each with its layers."""
    request = plan.request
    once = tuple(method for method in request.methods if not method.replays)
    maps: Maps = {}
    if once:
        of_once = dataclasses.replace(plan, request=dataclasses.replace(request, methods=once))
        with progress_of(progress, "maps", windows_to_explain(of_once)) as tick:
            maps = stitch(dataclasses.replace(of_once, tick=tick))
    maps.update(replayed_maps(plan, logits, details, progress))
    order = [method.name for method in request.methods]
    return dict(sorted(maps.items(), key=lambda item: order.index(item[0][0])))


def kept_activations(
    request: Request, members: Members, padded: Tensor, windows: Windows, groups: int
) -> KeptActivations | None:
    """Return where the prediction pass keeps activations; None if no method can use them.

    Of the automatic layer it is not known yet whether the prediction uses it: the layers that may
    take its place are kept, too.
    """
    if not any(_shares_weights(method) for method in request.methods) or request.layer == "full":
        return None
    if not request.chooses_layer:
        named = [request.layer] if isinstance(request.layer, str) else list(request.layer or ())
        return KeptActivations(named, groups)
    member = next(iter(members()))
    inputs = cut(padded, [(0, windows.places[0])], member)
    state = isolation.kept_state(isolation.modules_of(member.model))
    of_any_target = dataclasses.replace(
        request, methods=(AUTO,), target=score_of_whole_output, check_layer=False
    )
    try:
        with state, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structural = run(of_any_target, member.model, member.model, (inputs,), {})
    except NoMapError:
        return None
    return KeptActivations([*structural.layers, *structural.alternatives], groups)


def _shares_weights(method: Method) -> bool:
    """Return whether one set of channel weights may serve all windows."""
    part = layer_part(method)
    return part is not None and part.shared is not None


def _score_gradient(
    request: Request, logits: Tensor, function: str, windows: Windows, notices: Notices
) -> ScoreGradient:
    """Return the gradient of the target's score; of probabilities the logits are explained."""
    if function:
        warn(ends_in(function))
    return score_gradient(
        request.target, before(function, logits), windows, notices, regions=function in SIGMOIDS
    )


def _check_logits(logits: Tensor, volume: Tensor) -> None:
    """Raise unless a prediction lies on the volume's grid.

    Raises:
        InputError: Its shape is another one.
    """
    if tuple(logits.shape[2:]) != tuple(volume.shape[2:]) or len(logits) != len(volume):
        raise InputError(
            f"logits has shape {list(logits.shape)}; for this volume they are [{len(volume)}, "
            f"classes, {', '.join(map(str, volume.shape[2:]))}]."
        )
