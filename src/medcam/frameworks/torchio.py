"""Attention maps of subjects that TorchIO samples in patches; it never rectifies a patch's map.

``GridAggregator`` averages the patches' predictions. Averaging maps is right only if they are
signed, in raw units, and of one target for the whole image. Maps that were rectified or scaled in
each patch, or whose target was resolved in each patch, average to a different map. So the patches'
maps are stitched here, and the ReLU is applied once, to the whole map.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medcam.engine.model import layers
from medcam.engine.model.layers import LayerLike
from medcam.engine.model.outputs import Selector
from medcam.engine.progress import Progress
from medcam.engine.request import Placement, Request
from medcam.engine.target.resolution import TargetLike
from medcam.engine.windows.ensemble import mirrored
from medcam.engine.windows.plan import ChannelWeights, check_channel_weights
from medcam.engine.windows.run import run_windows
from medcam.engine.windows.tiling import Place, Windows
from medcam.errors import InputError, InputTypeError, require
from medcam.explanation.explanation import Explanation, explanation_of
from medcam.maps import AttentionMap
from medcam.methods import MethodLike

if TYPE_CHECKING:
    import torchio

__all__ = ["as_image", "explain_subject", "sampler_windows"]

Overlap = Literal["average", "hann"]

_PAD_MODES = {  # NumPy's names, as TorchIO uses them, and PyTorch's
    "constant": "constant",
    "edge": "replicate",
    "reflect": "reflect",
    "wrap": "circular",
}


def explain_subject(
    model: nn.Module,
    sampler: torchio.GridSampler,
    images: str | Sequence[str] | None = None,
    *,
    method: MethodLike | Iterable[MethodLike] = "auto",
    layer: LayerLike = "auto",
    target: TargetLike = None,
    output: Selector = None,
    overlap_mode: Overlap = "average",
    slice_axis: int | None = None,
    batch_size: int = 1,
    channel_weights: ChannelWeights = "volume",
    placement: Placement = "features",
    logits: Float[Tensor, "classes *space"] | None = None,
    device: torch.device | str | None = None,
    progress: Progress = False,
) -> Explanation:
    """Explain a segmentation of a subject that the network sees patch by patch.

    The prediction is that of a loop over the sampler's patches whose logits are aggregated by a
    ``GridAggregator`` with this ``overlap_mode``. The target is resolved once, on the aggregated
    prediction. The maps of the patches that hold the target are stitched as in
    `medcam.explain_volume`.

    Args:
        model: The segmentation network. Its output for a patch has the patch's spatial shape.
        sampler: The sampler that divides the subject into patches.
        images: The name of the network's input image, or several names, whose images become the
            channels in this order; None: the only scalar image.
        method: As in `medcam.explain`.
        layer: As in `medcam.explain`; "auto" is decided at the first patch.
        target: As in `medcam.explain`, applied to the aggregated prediction.
        output: As in `medcam.explain`.
        overlap_mode: As in ``GridAggregator``; see `sampler_windows`.
        slice_axis: For a 2D network, the axis along which the patches are one voxel thick.
        batch_size: The number of patches that run at once.
        channel_weights: As in `medcam.explain_volume`.
        placement: As in `medcam.explain`.
        logits: The result of the aggregator's ``get_output_tensor()``; None: it is computed.
        device: The device of the sums; None: the CPU, as in TorchIO.
        progress: As in `medcam.explain_volume`.

    Returns:
        The explanation, ``[1, targets, *space]`` on the grid of the subject before the sampler
        padded it. `as_image` adds the affine to the map.

    Raises:
        InputError: An argument does not fit the subject or the sampler.
        NoMapError: No map can be made.

    Example:
        >>> import torchio as tio
        >>> _ = torch.manual_seed(1)
        >>> subject = tio.Subject(t1=tio.ScalarImage(tensor=torch.rand(1, 12, 12, 12)))
        >>> net = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 1))
        >>> explanation = explain_subject(
        ...     net.eval(), tio.GridSampler(subject, 8, 4), layer="1", target=1
        ... )
        >>> as_image(explanation, subject.t1).spatial_shape
        (12, 12, 12)
    """
    require("torchio", extra="torchio")
    check_channel_weights(channel_weights)
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} has to be at least 1.")
    request = Request.of(method, layer=layer, target=target, output=output, placement=placement)
    network = layers.unwrap(model)
    padded = _input_volume(sampler.subject, images)
    windows = sampler_windows(
        sampler, overlap_mode, slice_axis=slice_axis,
        dtype=torch.promote_types(padded.dtype, torch.float32),
    )  # fmt: skip
    result = run_windows(
        request,
        lambda: mirrored([network], ()),
        1,
        windows.crop(padded),
        windows,
        logits=None if logits is None else logits[None],
        batch_size=batch_size,
        device=torch.device("cpu" if device is None else device),
        channel_weights=channel_weights,
        progress=progress,
    )
    return explanation_of(result, model=network)


def sampler_windows(
    sampler: torchio.GridSampler,
    overlap_mode: Overlap = "average",
    *,
    slice_axis: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Windows:
    """Return the patches of a sampler, and the weights of their voxels, as medcam's windows.

    Args:
        sampler: The sampler. Its padding may be a number, "constant", "edge", "reflect", "wrap" or
            None.
        overlap_mode: As in ``GridAggregator``: "average" weights every voxel of a patch alike;
            "hann" weights the middle more, by a Hann window. "crop" is not supported: it keeps only
            the middle of each patch, so that the aggregated prediction is not a mean.
        slice_axis: For a 2D network, the axis along which the patches are one voxel thick.
        dtype: The weights' type.

    Raises:
        InputError: The overlap mode or padding is not supported, or the patches are thicker than
            one voxel along ``slice_axis``.

    Example:
        >>> import torchio as tio
        >>> subject = tio.Subject(t1=tio.ScalarImage(tensor=torch.rand(1, 12, 12, 12)))
        >>> len(sampler_windows(tio.GridSampler(subject, patch_size=8, patch_overlap=4)))
        8
    """
    if overlap_mode not in ("average", "hann"):
        raise InputError(
            f"overlap_mode={overlap_mode!r}: choose 'average' or 'hann'. With 'crop' each voxel "
            "belongs to only one patch, and maps have seams where the patches meet."
        )
    padding, padding_mode, value = _padding(sampler)
    roi = [int(extent) for extent in sampler.patch_size]
    weights = torch.ones(roi)
    if overlap_mode == "hann":
        for axis, extent in enumerate(roi):
            line = torch.hann_window(extent + 2, periodic=False)[1:-1]
            weights = weights * line.reshape([-1 if axis == other else 1 for other in range(3)])
    # Each location is a patch's first voxel and the one after its last: i, j, k, i1, j1, k1.
    locations = [[int(index) for index in location] for location in sampler.locations]
    places: list[Place] = [tuple(map(slice, ends[:3], ends[3:])) for ends in locations]
    if slice_axis is not None:
        axis = slice_axis % 3 if -3 <= slice_axis < 3 else 3
        if axis == 3 or roi[axis] != 1:
            raise InputError(
                f"slice_axis={slice_axis}, patch_size={roi}: a 2D network needs patches one voxel "
                "thick along one of the axes 0 to 2, e.g. patch_size=(64, 64, 1), slice_axis=2."
            )
        places = [
            (*place[:axis], location[axis], *place[axis + 1 :])
            for place, location in zip(places, locations, strict=True)
        ]
        weights = weights.squeeze(axis)
    shape = tuple(int(extent) for extent in sampler.subject.spatial_shape)
    return Windows(shape, tuple(places), weights.to(dtype), padding, padding_mode, value)


def as_image(
    attention: Explanation | AttentionMap | Float[Tensor, "1 targets *space"],
    like: torchio.Image,
) -> torchio.ScalarImage:
    """Return a map as a TorchIO image with its subject's affine, to ``.save("map.nii.gz")``.

    TorchIO saves with SimpleITK, which does not support a sheared affine; use
    `medcam.files.save_nifti` for one.

    Args:
        attention: An explanation of one map, a map, or its values ``[1, targets, *space]``.
        like: The image that was explained, before the sampler padded it.

    Returns:
        The image ``[targets, *space]``, raw values, on the CPU.

    Raises:
        InputError: The explanation holds several maps, or the map is not on the image's grid.
        InputTypeError: ``like`` is no image of TorchIO.
    """
    require("torchio", extra="torchio")
    import torchio

    if not isinstance(like, torchio.Image):
        raise InputTypeError(
            f"like= is the image that was explained, e.g. subject.t1, not {type(like).__name__}."
        )
    if isinstance(attention, Explanation):
        attention = attention.map
    values = attention.values if isinstance(attention, AttentionMap) else attention
    if len(values) != 1 or tuple(values.shape[2:]) != tuple(like.spatial_shape):
        raise InputError(
            f"The map has shape {list(values.shape)}, the image [{', '.join(map(str, like.shape))}]"
            ": give a map of one sample on the image's grid, else the affine is not the map's."
        )
    tensor = values[0].detach().cpu()
    return torchio.ScalarImage(tensor=tensor, affine=like.affine)  # type: ignore[no-untyped-call]


def _input_volume(
    subject: torchio.Subject, images: str | Sequence[str] | None
) -> Float[Tensor, "1 channels *space"]:
    """Return the network's input, with the images concatenated as its channels."""
    known = subject.get_images_dict(intensity_only=False)
    scalar = list(subject.get_images_dict(intensity_only=True))
    names = [images] if isinstance(images, str) else scalar if images is None else list(images)
    if images is None and len(scalar) != 1:
        raise InputError(
            f"The subject has {len(scalar)} scalar images ({', '.join(scalar)}): name the "
            "network's inputs, images=..., in the order of its channels."
        )
    if not names or any(name not in known for name in names):
        raise InputError(f"images={images!r}: choose from the subject's {', '.join(known)}.")
    volume = torch.cat([known[name].data for name in names])[None]
    return volume if volume.is_floating_point() else volume.float()


def _padding(sampler: torchio.GridSampler) -> tuple[tuple[int, ...], str, float]:
    """Return the sampler's padding as arguments of ``torch.nn.functional.pad``.

    Returns:
        The padding on each side, the last axis first; the mode; and the value.
    """
    mode = sampler.padding_mode
    borders = [int(overlap) // 2 for overlap in sampler.patch_overlap]
    if mode is None:
        return (), "constant", 0.0
    sides = tuple(border for border in reversed(borders) for _ in range(2))
    if isinstance(mode, (int, float)):
        return sides, "constant", float(mode)
    if mode not in _PAD_MODES:
        raise InputError(
            f"padding_mode={mode!r} of the sampler is not supported: choose a number, "
            f"{', '.join(map(repr, _PAD_MODES))} or None."
        )
    return sides, _PAD_MODES[mode], 0.0
