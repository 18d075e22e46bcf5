"""`medcam.explain_volume`: a volume that the network sees in windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medcam.engine.model import isolation, layers
from medcam.engine.model.devices import usable_device
from medcam.engine.model.inputs import main_input
from medcam.engine.model.layers import LayerLike
from medcam.engine.model.nested import without_subclass
from medcam.engine.model.outputs import Selector
from medcam.engine.request import Request
from medcam.engine.target.resolution import TargetLike
from medcam.engine.windows.ensemble import mirrored, mirrorings
from medcam.engine.windows.plan import ChannelWeights, check_channel_weights
from medcam.engine.windows.progress import Progress
from medcam.engine.windows.run import run_windows
from medcam.engine.windows.tiling import sliding_windows
from medcam.errors import InputError, warn
from medcam.explanation.explanation import Explanation, explanation_of
from medcam.methods import MethodLike


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
    channel_weights: ChannelWeights = "window",
    logits: Float[Tensor, "batch classes *space"] | None = None,
    device: torch.device | str | None = None,
    progress: Progress = False,
) -> Explanation:
    """Explain a segmentation of a volume that the network sees in overlapping windows.

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
        overlap: The share of a window that the next one overlaps, in [0, 1).
        mode: The weights of a window's voxels: "gaussian" or "constant" (MONAI's default).
        sigma_scale: The Gaussian's standard deviation, in window extents.
        padding_mode: How a volume smaller than the window is padded: "constant", "reflect",
            "replicate" or "circular".
        cval: What "constant" pads with.
        sw_batch_size: How many windows run at once.
        mirror_axes: Spatial axes of test-time mirroring: the prediction is the mean over all
            combinations, and so is the map.
        slice_axis: The model is 2D and sees the volume slice by slice along this axis;
            ``roi_size`` names the other two.
        channel_weights: Whether methods with weights for a whole volume (Grad-CAM) weight the
            channels in each "window" by itself, or once for the "volume". Normalisation layers
            such as InstanceNorm scale each window differently, so one set may suit none.
        logits: The stitched prediction, if it is known already; None: it is computed.
        device: Where the sums are kept; None: where the volume is.
        progress: True for a progress bar, or a function ``(done, total)``.

    Returns:
        The explanation; ``.output`` is the stitched prediction ``[batch, classes, *space]`` and
        ``.details["windows"]`` says how many windows there were and how many were explained.

    Raises:
        InputError: Something given does not fit.
        NoMapError: No map can be made.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
        >>> explanation = explain_volume(net, torch.rand(1, 1, 20, 20), 12, layer="1", target=1)
        >>> explanation.output.shape, explanation.map.values.shape
        (torch.Size([1, 2, 20, 20]), torch.Size([1, 1, 20, 20]))
    """
    models = [model] if isinstance(model, nn.Module) else model
    networks = [layers.unwrap(network) for network in models]
    if not networks:
        raise InputError("No model was given.")
    check_channel_weights(channel_weights)
    request = Request.of(method, layer=layer, target=target, output=output)
    main_input((volume,), {})
    own_volume, volume = volume, without_subclass(volume.detach())
    space = tuple(volume.shape[2:])
    windows = sliding_windows(
        space, roi_size, overlap=overlap, mode=mode, sigma_scale=sigma_scale,
        padding_mode=padding_mode, value=cval, slice_axis=slice_axis,
        dtype=torch.promote_types(volume.dtype, torch.float32),
    )  # fmt: skip
    axes = _window_axes(mirror_axes, slice_axis, len(space))
    members = len(networks) * len(mirrorings(axes))
    if sw_batch_size < 1:
        raise InputError(f"sw_batch_size={sw_batch_size} has to be at least 1.")
    sums_device = usable_device(device, volume.device)
    with ExitStack() as stack:
        if any(isolation.differs_in_training(network) for network in networks):
            warn(
                "The model is in training mode; it is explained in evaluation mode, as windows "
                "would move its running statistics and draw other random numbers each."
            )
        for network in networks:
            stack.enter_context(isolation.in_eval_mode(network))
        result = run_windows(
            request,
            lambda: mirrored(networks, axes),
            members,
            volume,
            windows,
            logits=logits,
            batch_size=sw_batch_size,
            device=sums_device,
            channel_weights=channel_weights,
            progress=progress,
        )
    only = networks[0] if len(networks) == 1 else None
    return explanation_of(result, model=only, inputs=own_volume)


def _window_axes(axes: Sequence[int], slice_axis: int | None, count: int) -> tuple[int, ...]:
    """Return axes of the volume as axes of a window."""
    listed = [axes] if isinstance(axes, int) else list(axes)
    if any(not -count <= axis < count for axis in listed):
        raise InputError(f"mirror_axes={axes!r}: the spatial axes are 0 to {count - 1}.")
    chosen = sorted({axis % count for axis in listed})
    if slice_axis is None:
        return tuple(chosen)
    across = slice_axis % count
    if across in chosen:
        raise InputError(f"A 2D model's slices cannot be mirrored along slice_axis={slice_axis}.")
    return tuple(axis - (axis > across) for axis in chosen)
