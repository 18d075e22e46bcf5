"""`medcam.check`: whether the maps of a network can be trusted, by five criteria."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from medcam.engine.model import layers
from medcam.engine.model.inputs import chosen_image, require_images
from medcam.engine.model.layers import LayerLike
from medcam.engine.model.nested import without_subclass
from medcam.engine.model.outputs import Selector
from medcam.engine.progress import Progress
from medcam.engine.target.resolution import TargetLike
from medcam.engine.windows.ensemble import checked_axes, mirrorings
from medcam.engine.windows.tiling import sliding_windows
from medcam.errors import InputError
from medcam.maps import ImageName
from medcam.methods import MethodLike
from medcam.trust.assessment import Options, check_subject
from medcam.trust.measuring import MapFunction
from medcam.trust.plan import NETWORKS, NOISES, SETS
from medcam.trust.question import Parts
from medcam.trust.result import TrustCheck
from medcam.trust.subject import InWindows, Subject, WholeImages


def check(
    model: nn.Module,
    inputs: Any = None,
    *args: Any,
    method: MethodLike | Iterable[MethodLike] = "all",
    layer: LayerLike = "stages",
    target: TargetLike = None,
    against: TargetLike = None,
    parts: Parts = "auto",
    regions: bool = False,
    output: Selector = None,
    image: ImageName | None = None,
    spacing: Sequence[float] | None = None,
    maps: Mapping[str, MapFunction] | None = None,
    roi_size: Sequence[int] | int | None = None,
    overlap: float | Sequence[float] = 0.25,
    mirror_axes: Sequence[int] = (),
    sw_batch_size: int = 1,
    sets: int = SETS,
    networks: int = NETWORKS,
    noises: int = NOISES,
    budget: int | None = None,
    seed: int = 0,
    artefact: bool = False,
    progress: Progress = False,
    **kwargs: Any,
) -> TrustCheck:
    """Check whether the maps of a network can be trusted, by five criteria.

    T0: the map knows the image. T1: it repeats. T2: it knows the weights. T3: it knows the target.
    T4: it is faithful: the prediction loses most by what the map marks, and more so than by what a
    map marks that knows the image only. A sixth figure, the sensitivity to noise, has no verdict.

    The model runs in evaluation mode. Its weights, buffers, modes, gradients and the random numbers
    stay as they are, also after Ctrl-C. The networks with permuted weights are copies.

    Args:
        model: As in `medcam.explain`.
        inputs: As in `medcam.explain`: several images of different patients if possible, since maps
            of unlike images are compared.
        *args: Further positional inputs of the model.
        method: "all" for those of one forward and backward pass, or as in `medcam.explain`. Methods
            that run the model again (occlusion, Integrated Gradients) cost more by their number of
            runs, and are checked by name.
        layer: "stages" for the last layer of each stage of the network; or as in `medcam.explain`.
        target: As in `medcam.explain`, but one class. Of a segmentation, the largest components of
            the class are explained one by one, or halves of the only one.
        against: The target to tell it from (T3). None: the class with the next highest logit, or
            another component.
        parts: "whole" explains a whole class of a segmentation. It is then rarely told from the
            image itself.
        regions: Whether the channels of a segmentation are regions that may overlap (a sigmoid for
            each).
        output: As in `medcam.explain`.
        image: The image that maps are made of, if there are several, as in `medcam.explain`. The
            other inputs stay as they are.
        spacing: The size of a voxel in mm, for blocks of one length on every axis. None: 1 mm.
        maps: Further maps to check, such as those of another library: functions of the network, the
            images and the target that return maps ``[batch, *space]``, by name.
        roi_size: The extents of sliding windows, as in `medcam.explain_volume`. None: the network
            sees the image at once.
        overlap: Of the windows.
        mirror_axes: As in `medcam.explain_volume`.
        sw_batch_size: As in `medcam.explain_volume`.
        sets: The number of random sets of blocks (T4).
        networks: The number of networks with permuted weights (T2).
        noises: The number of noisy copies (T5).
        budget: The most forward passes that may be spent. Sets and networks are cut to fit, and
            `TrustCheck.plan` says what that costs in certainty. A pass that makes maps counts as
            four. A planted marker is not counted.
        seed: The seed of all random numbers.
        artefact: Whether to plant a marker: a copy of the network is taught to tell these images
            with the marker from the same ones without, and `TrustCheck.artefact` says which maps
            find it. For classifications; it takes up to 400 training steps.
        progress: True for a bar, after a line that states the cost; or a function ``(done,
            total)``.
        **kwargs: Keyword inputs of the model.

    Returns:
        The verdicts, with the recommended method and layer.

    Raises:
        InputError: An argument does not fit; the message says what is allowed.
        NoMapError: No map can be made.

    Example:
        >>> from medcam import demo
        >>> slices = demo.load_lesion_slices()
        >>> images = slices.images[slices.labels == 1][:4]
        >>> found = check(demo.load_lesion_classifier(), images, method="gcam", layer="relu6",
        ...               target=1, noises=0)
        >>> found.of("gcam").word
        'passes'
        >>> print(found.of("gcam").verdicts["T1"].sentence)
        Two runs on the same image give the same map (relative difference 0).
    """
    if isinstance(inputs, tuple):
        args = (*inputs, *args)
    elif inputs is not None:
        args = (inputs, *args)
    network = layers.unwrap(model)
    subject: Subject
    if roi_size is None:
        if mirror_axes:
            raise InputError("mirror_axes= is for windows: give roi_size=, too.")
        subject = _whole(network, args, kwargs, {"output": output}, image)
    else:
        subject = _in_windows(
            network, args, kwargs, roi_size, overlap, mirror_axes, output, sw_batch_size
        )
    return check_subject(
        subject,
        Options(
            method, layer, target, against, parts, regions,
            None if spacing is None else tuple(spacing), dict(maps or {}), sets, networks, noises,
            budget, seed, progress, artefact,
        ),
    )  # fmt: skip


def _in_windows(
    network: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    roi_size: Sequence[int] | int,
    overlap: float | Sequence[float],
    mirror_axes: Sequence[int],
    output: Selector,
    batch_size: int,
) -> InWindows:
    """Return the subject of a volume that is predicted in windows."""
    images = require_images(args, kwargs, network)
    if len(images) > 1 or len(args) != 1 or kwargs:
        raise InputError("With roi_size= the only input is the volume [batch, channels, *space].")
    volume = without_subclass(images[0].tensor.detach())
    volume = volume.to(torch.promote_types(volume.dtype, torch.float32))
    windows = sliding_windows(
        tuple(volume.shape[2:]), roi_size, overlap=overlap, dtype=volume.dtype
    )
    flips = mirrorings(checked_axes(mirror_axes, volume.ndim - 2))
    return InWindows(network, volume, windows, flips, output, batch_size)


def _whole(
    network: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: dict[str, Any],
    image: ImageName | None,
) -> WholeImages:
    """Return the subject of images that are seen at once; of several the first one is checked."""
    images = require_images(args, kwargs, network, named=image is not None)
    if not all(item.tensor.is_floating_point() for item in images):
        raise InputError("A check perturbs the images: give them as floating-point numbers.")
    number = chosen_image(images, image)
    if len(images) > 1:
        options = {**options, "image": images[number or 0].name}
    return WholeImages(network, args, kwargs, options)
