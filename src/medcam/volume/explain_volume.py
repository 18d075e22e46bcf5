"""`medcam.explain_volume`: a volume that the network sees in windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medcam import _state, layers
from medcam._devices import usable_device
from medcam._findings import Findings
from medcam.attention import AttentionMap, Explanation, MapKey, ModelReference
from medcam.errors import InputError, NoMapError, warn
from medcam.inputs import main_input
from medcam.layers import LayerLike
from medcam.methods import METHODS, MethodLike
from medcam.outputs import Selector
from medcam.request import Request
from medcam.targets import TargetLike
from medcam.volume.job import Job, Pooling, check_pooling
from medcam.volume.members import Members, mirrored, mirrorings
from medcam.volume.passes import Runner, predict
from medcam.volume.progress import ticking
from medcam.volume.seeds import Seeds, seeds_of
from medcam.volume.stitching import nothing, passes, stitch
from medcam.volume.windows import Windows, sliding_windows

Progress = bool | Callable[[int, int], None]


def explain_volume(
    model: nn.Module | Sequence[nn.Module],
    volume: Float[Tensor, "batch channels *space"],
    roi_size: Sequence[int] | int,
    *,
    method: MethodLike | Iterable[MethodLike] = "gcam",
    layer: LayerLike = "auto",
    target: TargetLike = None,
    output: Selector = None,
    overlap: float | Sequence[float] = 0.25,
    mode: Literal["gaussian", "constant"] = "gaussian",
    sigma_scale: float | Sequence[float] = 0.125,
    padding_mode: str = "constant",
    cval: float = 0.0,
    sw_batch_size: int = 1,
    mirror_axes: Sequence[int] = (),
    slice_axis: int | None = None,
    channel_weights: Pooling = "window",
    logits: Float[Tensor, "batch classes *space"] | None = None,
    device: torch.device | str | None = None,
    progress: Progress = False,
) -> Explanation:
    """Explains a segmentation of a volume that the network sees in overlapping windows.

    The prediction is ``monai.inferers.sliding_window_inference``'s with the same options. The
    target is resolved once, on the stitched prediction; each window then explains its share of it.
    Gradients of the image, input × gradient and guided backpropagation are exactly those straight
    through the stitching; maps of the Grad-CAM family are stitched signed and in raw units, and
    rectified once (docs/volumes.md). Windows without a voxel of the target are skipped.

    The volume stays where it is; windows go to the network's device one group at a time, and the
    sums are kept in float32 (float64 for a float64 volume) on ``device``.

    Args:
        model: A segmentation network, or several (folds), whose predictions are averaged. Its
            answer to a window has to have the window's spatial shape.
        volume: ``[batch, channels, *space]``, 2 or 3 spatial axes; a MetaTensor is read as such.
        roi_size: The windows' extents; one number for all axes, 0 or -1 for a whole axis.
        method: As in `medcam.explain`.
        layer: As in `medcam.explain`; "auto" is decided at the first window.
        target: As in `medcam.explain`, applied to the stitched prediction. A callable takes it
            whole, ``[batch, classes, *space]``.
        output: As in `medcam.explain`.
        overlap: The part of a window that the next one covers again, in [0, 1).
        mode: How a window's voxels count: "gaussian" or "constant". MONAI's default is the latter.
        sigma_scale: The Gaussian's standard deviation, in window extents.
        padding_mode: How a volume smaller than the window is padded: "constant", "reflect",
            "replicate" or "circular".
        cval: What "constant" pads with.
        sw_batch_size: How many windows run at once.
        mirror_axes: Spatial axes of test-time mirroring: the prediction is the mean over all
            combinations, and so is the map.
        slice_axis: The model is 2D and sees the volume slice by slice along this axis;
            ``roi_size`` names the other two.
        channel_weights: Whether Grad-CAM weighs the channels in each "window" by itself or once
            for the "volume". Normalisation layers such as InstanceNorm scale each window
            differently, so one set of weights may suit none.
        logits: The stitched prediction, if it is known already; else it is computed.
        device: Where the sums are kept; None: where the volume is.
        progress: Whether to show a progress bar, or a function told ``(done, of)``.

    Returns:
        The explanation; ``.output`` is the stitched prediction ``[batch, classes, *space]`` and
        ``.details["windows"]`` says how many windows there were and how many were explained.

    Raises:
        InputError: Something given does not fit.
        NoMapError: No map can be made.

    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    >>> explanation = explain_volume(net, torch.rand(1, 1, 20, 20), 12, layer="1", target=1)
    >>> explanation.output.shape, explanation.map.values.shape
    (torch.Size([1, 2, 20, 20]), torch.Size([1, 1, 20, 20]))
    """
    models = [layers.unwrap(m) for m in ([model] if isinstance(model, nn.Module) else model)]
    if not models:
        raise InputError("No model was given.")
    check_pooling(channel_weights)
    request = Request.of(method, layer=layer, target=target, output=output)
    main_input((volume,), {})
    given, volume = volume, volume.as_subclass(Tensor).detach()
    space = tuple(volume.shape[2:])
    windows = sliding_windows(
        space, roi_size, overlap=overlap, mode=mode, sigma_scale=sigma_scale,
        padding_mode=padding_mode, value=cval, slice_axis=slice_axis,
        dtype=torch.promote_types(volume.dtype, torch.float32),
    )  # fmt: skip
    axes = _window_axes(mirror_axes, slice_axis, len(space))
    members = len(models) * len(mirrorings(axes))
    if sw_batch_size < 1:
        raise InputError(f"sw_batch_size={sw_batch_size} has to be at least 1.")
    where = usable_device(device, volume.device)
    with ExitStack() as stack:
        if any(_state.depends_on_mode(one) for one in models):
            warn(
                "The model is in training mode; it is explained in evaluation mode, as windows "
                "would move its running statistics and draw other random numbers each."
            )
        for one in models:
            stack.enter_context(_state.undisturbed(one))
        found = explain_windows(
            request,
            lambda: mirrored(models, axes),
            members,
            volume,
            windows,
            logits=logits,
            batch_size=sw_batch_size,
            device=where,
            pooling=channel_weights,
            progress=progress,
        )
    reference = ModelReference(models[0]) if len(models) == 1 else ModelReference()
    return dataclasses.replace(found, inputs=given, _model=reference)


def explain_windows(
    request: Request,
    members: Members,
    count: int,
    volume: Float[Tensor, "batch channels *space"],
    windows: Windows,
    *,
    logits: Float[Tensor, "batch classes *space"] | None = None,
    seeds: Seeds | None = None,
    batch_size: int = 1,
    device: torch.device,
    pooling: Pooling = "window",
    progress: Progress = False,
) -> Explanation:
    """`explain_volume` for windows, networks and seeds that are at hand.

    Args:
        request: What is asked.
        members: Gives the networks and their mirrorings.
        count: How many these are.
        volume: The image, before padding.
        windows: The windows.
        logits: The stitched prediction; None: it is computed.
        seeds: What is explained of it; None: ``request.target``.
        batch_size: How many windows run at once.
        device: Where the sums are kept.
        pooling: ``channel_weights`` of `explain_volume`.
        progress: A bar, or a function told ``(done, of)``.
    """
    findings = Findings()
    padded = windows.pad(volume)
    if logits is None:
        everything = len(windows) * len(volume) * count
        with ticking(progress, "prediction", everything) as tick:
            logits = predict(
                members(), padded, windows, output=request.output, batch_size=batch_size,
                device=device, tick=tick,
            )  # fmt: skip
    if tuple(logits.shape[2:]) != tuple(volume.shape[2:]) or len(logits) != len(volume):
        raise InputError(
            f"logits has shape {list(logits.shape)}; for this volume they are [{len(volume)}, "
            f"classes, {', '.join(map(str, volume.shape[2:]))}]."
        )
    if seeds is None:
        seeds = seeds_of(request.target, logits.to(device), windows, findings)
    runner = Runner(padded, seeds)
    job = Job(request, members, count, windows, runner, batch_size, device, pooling)
    touched = len(job.touched) * count
    if touched:
        with ticking(progress, "maps", passes(job)) as tick:
            maps = stitch(dataclasses.replace(job, tick=tick))
    else:
        maps = nothing(job)
    for (name, _), item in maps.items():
        findings.add(
            ~item.values.isfinite().flatten(1).all(1),
            NoMapError(
                f"The {METHODS[name].title} map holds NaN or infinite values. Do the model's "
                "activations or logits overflow? Try float32."
            ),
        )
    keyed: dict[MapKey, AttentionMap] = {
        (name, layer) if request.several else layer: item for (name, layer), item in maps.items()
    }
    return Explanation(
        logits,
        seeds.target,
        runner.layer,
        keyed,
        runner.skipped,
        findings,
        details={
            "windows": len(windows) * len(volume) * count,
            "windows_explained": touched,
            "roi": tuple(windows.weights.shape),
            "members": count,
            "channel_weights": pooling,
        },
    )


def _window_axes(axes: Sequence[int], slice_axis: int | None, count: int) -> tuple[int, ...]:
    """Axes of the volume as axes of a window."""
    given = [axes] if isinstance(axes, int) else list(axes)
    if any(not -count <= axis < count for axis in given):
        raise InputError(f"mirror_axes={axes!r}: the spatial axes are 0 to {count - 1}.")
    chosen = sorted({axis % count for axis in given})
    if slice_axis is None:
        return tuple(chosen)
    across = slice_axis % count
    if across in chosen:
        raise InputError(f"A 2D model's slices cannot be mirrored along slice_axis={slice_axis}.")
    return tuple(axis - (axis > across) for axis in chosen)
