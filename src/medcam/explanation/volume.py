"""`medcam.explain_volume`: explain a volume that the network predicts in windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medcam.engine.model import isolation, layers
from medcam.engine.model.devices import usable_device
from medcam.engine.model.inputs import require_images
from medcam.engine.model.layers import LayerLike
from medcam.engine.model.nested import without_subclass
from medcam.engine.model.outputs import Selector
from medcam.engine.model.undo import undoing
from medcam.engine.progress import Progress
from medcam.engine.request import Placement, Request
from medcam.engine.target.resolution import TargetLike
from medcam.engine.windows.ensemble import checked_axes, mirrored, mirrorings
from medcam.engine.windows.plan import ChannelWeights, check_channel_weights
from medcam.engine.windows.run import run_windows
from medcam.engine.windows.tiling import sliding_windows
from medcam.errors import InputError, warn
from medcam.explanation.explanation import Explanation, explanation_of
from medcam.methods import MethodLike


@undoing
def explain_volume(
    model: nn.Module | Sequence[nn.Module],
    volume: Float[Tensor, "batch channels *space"],
    roi_size: Sequence[int] | int,
    *,
    method: MethodLike | Iterable[MethodLike] = "auto",
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
    channel_weights: ChannelWeights = "volume",
    placement: Placement = "features",
    logits: Float[Tensor, "batch classes *space"] | None = None,
    device: torch.device | str | None = None,
    progress: Progress = False,
) -> Explanation:
    """Explain the segmentation of a volume that the network predicts in overlapping windows.

    The prediction equals that of ``monai.inferers.sliding_window_inference`` with the same options.
    The target is resolved once, on the stitched prediction, and each window explains its share of
    it. Windows without a voxel of the target are skipped.

    Gradients of the image, input × gradient and guided backpropagation are exactly those of the
    stitched prediction. Maps of the Grad-CAM family are stitched signed and in raw units, and
    rectified once (docs/volumes.md).

    The volume stays on its device. Windows are moved to the network's device one group at a time.
    The sums are kept in float32 (float64 for a float64 volume) on ``device``.

    Args:
        model: A segmentation network, or several (folds), whose predictions are averaged. Its
            output for a window must have the window's spatial shape.
        volume: ``[batch, channels, *space]``, 2 or 3 spatial axes, or 1 for signals; may be a
            MetaTensor.
        roi_size: The windows' extents; one number for all axes, 0 or -1 for a whole axis.
        method: As in `medcam.explain`.
        layer: As in `medcam.explain`; "auto" is resolved in the first window.
        target: As in `medcam.explain`, applied to the stitched prediction. A callable takes the
            whole prediction, ``[batch, classes, *space]``.
        output: As in `medcam.explain`.
        overlap: The share of a window that the next one overlaps, in [0, 1).
        mode: The weights of a window's voxels: "gaussian" or "constant" (MONAI's default).
        sigma_scale: The Gaussian's standard deviation, in window extents.
        padding_mode: How a volume smaller than the window is padded: "constant", "reflect",
            "replicate" or "circular".
        cval: The value that "constant" pads with.
        sw_batch_size: The number of windows in one forward pass.
        mirror_axes: Spatial axes of test-time mirroring: the prediction is the mean over all
            combinations, and so is the map.
        slice_axis: The axis along which a 2D model predicts the volume slice by slice;
            ``roi_size`` then has the other two axes.
        channel_weights: Whether methods whose channel weights are pooled over the image (Grad-CAM)
            pool them in each "window", or once over the "volume". Normalisation layers such as
            InstanceNorm scale each window differently, so weights of the volume may fit no window.
        placement: As in `medcam.explain`: each window's map is placed where its features lie.
        logits: The stitched prediction, if it is already known. None: it is computed.
        device: The device of the sums. None: that of the volume.
        progress: True for a progress bar, or a function ``(done, total)``.

    Returns:
        The explanation. ``.output`` is the stitched prediction ``[batch, classes, *space]``;
        ``.details`` holds the number of "windows" and of "windows_explained".

    Raises:
        InputError: An argument does not fit; the message says what is allowed.
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
        raise InputError("model is an empty sequence: give a network, or a list of networks.")
    check_channel_weights(channel_weights)
    request = Request.of(method, layer=layer, target=target, output=output, placement=placement)
    require_images((volume,), {}, networks[0])
    tensor = without_subclass(volume.detach())
    space = tuple(tensor.shape[2:])
    windows = sliding_windows(
        space, roi_size, overlap=overlap, mode=mode, sigma_scale=sigma_scale,
        padding_mode=padding_mode, value=cval, slice_axis=slice_axis,
        dtype=torch.promote_types(tensor.dtype, torch.float32),
    )  # fmt: skip
    axes = _window_axes(mirror_axes, slice_axis, len(space))
    members = len(networks) * len(mirrorings(axes))
    if sw_batch_size < 1:
        raise InputError(f"sw_batch_size={sw_batch_size} has to be at least 1.")
    sums_device = usable_device(device, tensor.device)
    with ExitStack() as stack:
        if any(isolation.differs_in_training(network) for network in networks):
            warn(
                "The model is in training mode; it is explained in evaluation mode, because in "
                "training mode each window would update its running statistics and draw other "
                "random numbers."
            )
        for network in networks:
            stack.enter_context(isolation.in_eval_mode(network))
        result = run_windows(
            request,
            lambda: mirrored(networks, axes),
            members,
            tensor,
            windows,
            logits=logits,
            batch_size=sw_batch_size,
            device=sums_device,
            channel_weights=channel_weights,
            progress=progress,
        )
    single = networks[0] if len(networks) == 1 else None
    return explanation_of(result, model=single, inputs=volume)


def _window_axes(mirror_axes: Sequence[int], slice_axis: int | None, rank: int) -> tuple[int, ...]:
    """Return the mirrored axes of the volume as axes of a window."""
    axes = checked_axes(mirror_axes, rank)
    if slice_axis is None:
        return tuple(axes)
    removed = slice_axis % rank
    if removed in axes:
        raise InputError(f"A 2D model's slices cannot be mirrored along slice_axis={slice_axis}.")
    return tuple(axis - (axis > removed) for axis in axes)
