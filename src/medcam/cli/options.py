"""What the options of ``medcam explain`` give: the image, what the model sees, target and mask."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medcam.engine.target.resolution import TargetLike
    from medcam.files import Image


def read(paths: list[Path], volume: int | None, as_channels: bool | None) -> Image:
    """The image: one file, or one for each channel."""
    from medcam.files import read_image, stack_images

    if len(paths) > 1:
        return stack_images(paths, volume=volume)
    return read_image(paths[0], volume=volume, as_channels=as_channels)


def prepared(image: Image, scale: str, prepare: str | None) -> NDArray[Any]:
    """What the model sees, ``[channels, *space]``, float32."""
    import numpy as np

    from medcam.errors import InputError

    values: NDArray[Any] = image.array.astype(np.float32)
    axes = tuple(range(1, values.ndim))
    if scale == "zscore":
        deviation = values.std(axes, keepdims=True)
        values = (values - values.mean(axes, keepdims=True)) / np.where(deviation, deviation, 1)
    elif scale == "unit":
        low, high = values.min(axes, keepdims=True), values.max(axes, keepdims=True)
        values = (values - low) / np.where(high > low, high - low, 1)
    elif scale == "255":
        values = values / 255
    elif scale != "none":
        raise InputError(f"--scale {scale!r}: choose none, zscore, unit or 255.")
    if prepare is not None:
        values = _by_own_function(prepare, values)
    if values.shape[1:] != image.space or not np.isfinite(values).all():
        raise InputError(
            f"After preprocessing the image is {list(values.shape)}; it has to be finite and on "
            f"the image's own grid, [channels, {', '.join(map(str, image.space))}]: maps are "
            "saved there. Resample the image first."
        )
    return np.ascontiguousarray(values, np.float32)


def _by_own_function(spec: str, values: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    from medcam.cli.model import find_object
    from medcam.errors import InputError
    from medcam.files.arrays import to_array

    function = find_object(spec, "--prepare")
    try:
        given = function(values)
    except Exception as error:  # their code may raise anything
        raise InputError(f"--prepare {spec} failed: {type(error).__name__}: {error}.") from error
    return np.asarray(to_array(given, f"What {spec} returns"))


def target_of(text: str, image: Image) -> TargetLike:
    """The target that an option describes."""
    from medcam.engine.target import targets
    from medcam.errors import TargetError

    words = text.split()
    whole = [word for word in words[-1:] if word.lstrip("-").isdigit()]
    if text in ("predicted", "best", "all"):
        return None if text == "predicted" else text
    if len(words) == 1 and whole:
        return int(text)
    if len(words) == 2 and words[0] == "channel" and whole:
        return targets.class_score(int(words[1]))
    if len(words) == 3 and words[0] == "voxel" and whole:
        try:
            return targets.voxel([int(i) for i in words[1].split(",")], int(words[2]))
        except ValueError as error:
            raise TargetError(f"--target {text!r}: a voxel is e.g. 'voxel 40,52,30 2'.") from error
    if len(words) >= 3 and words[0] == "region" and whole:
        import torch

        region = truth_of(Path(" ".join(words[1:-1])), image)
        return targets.region(torch.from_numpy(region.astype("uint8")), int(words[-1]))
    raise TargetError(
        f"--target {text!r}: give predicted, best, all, a class (2), 'channel 2', "
        "'voxel 40,52,30 2' or 'region mask.nii.gz 2'."
    )


def truth_of(path: Path, image: Image) -> NDArray[Any]:
    """A 0/1 image on the grid of another."""
    import numpy as np

    from medcam.errors import MaskError
    from medcam.files import read_image
    from medcam.files.geometry import furthest_apart

    mask = read_image(path)
    if len(mask.array) != 1 or mask.space != image.space:
        raise MaskError(
            f"'{path}' is {list(mask.array.shape)}, the image {list(image.array.shape)}: a mask "
            "has one channel and the image's grid."
        )
    if mask.affine is not None and image.affine is not None:
        apart = furthest_apart(mask.affine, image.affine, image.space)
        if apart > 1e-3:
            raise MaskError(f"'{path}' lies up to {apart:.3g} mm away from the image's voxels.")
    values = mask.array[0]
    if values.max() == 255 and np.isin(values, (0, 255)).all():  # pictures know no 1
        values = values // 255
    if not np.isin(values, (0, 1)).all():
        raise MaskError(f"'{path}' holds values other than 0 and 1: choose one label of it.")
    return np.asarray(values)
