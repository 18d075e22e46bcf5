"""Values of the options of ``medcam explain`` and ``medcam nnunet explain``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medcam.engine.target.resolution import TargetLike
    from medcam.files import Image
    from medcam.methods import Method

MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        help="auto (default: gcam; for a segmentation layercam, for a part of one segxrescam), "
        "gcam, gbp, intgrad, occlusion, ..., or a medcam.methods.Method of your own, "
        "path/to/file.py:name; may be repeated.",
    ),
]
"""``--method``, as every command that explains takes it."""

RegionsOption = Annotated[
    bool,
    typer.Option(
        "--regions",
        help="The channels are regions that may overlap (a sigmoid for each), not classes.",
    ),
]
"""``--regions``."""

VolumeOption = Annotated[
    int | None, typer.Option("--volume", help="Which volume of a 4D image, from 0.")
]
"""``--volume``."""

PlacementOption = Annotated[
    str,
    typer.Option(
        "--placement",
        help="features: a map lies where the layer's features are; resize: it is stretched over "
        "the image, as other libraries do.",
    ),
]
"""``--placement``, as every command that explains takes it."""

NameOption = Annotated[
    str | None,
    typer.Option(
        "--name",
        help="The name of the results. Default: that of the first image; if a case of another "
        "image has it, with the name of the image's folder before it.",
    ),
]
"""``--name``."""

OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace the results of another image.")
]
"""``--overwrite``, as every command that explains takes it."""


def check_name(output: Path, images: Sequence[Path], name: str | None, overwrite: bool) -> None:
    """Raise before anything runs if the results could not be saved under their name.

    Raises:
        InputError: A case of another image has this name.
        SaveError: A part of the folder's path is a file.
    """
    from medcam.errors import SaveError
    from medcam.explanation.case.claims import claimed_prefix
    from medcam.files.paths import is_file

    for part in (output, *output.parents):
        if is_file(part):
            raise SaveError(f"--output {output}: '{part}' is a file. Choose another folder.")
    with claimed_prefix(output, images, name=name, overwrite=overwrite):
        pass


def note_other_name(prefix: Path, usual: str) -> None:
    """Say on stderr that the results have another name than the image."""
    from medcam.files import safe_name

    if prefix.name != safe_name(usual):
        typer.echo(
            f"Note: '{prefix.with_name(safe_name(usual))}' is of another image: this one is saved "
            f"as {prefix.name}.",
            err=True,
        )


def one_or_several(values: Sequence[str] | None, default: str) -> str | list[str]:
    """Return a repeated option: its default, its only value, or all values."""
    if not values:
        return default
    return values[0] if len(values) == 1 else list(values)


def methods_of(names: Sequence[str] | None, default: str = "auto") -> Method | list[Method]:
    """Return the methods of ``--method``: registered names, or methods of the user's own code.

    Args:
        names: Each a name of ``medcam.methods.METHODS``, or ``path/to/file.py:name`` or
            ``package.module:name`` of a `medcam.methods.Method`.
        default: The name if there is none.

    Raises:
        UnknownNameError: No method has this name.
        InputError: The user's own code does not lead to a method.
    """
    chosen = [_method_of(name) for name in names or [default]]
    return chosen[0] if len(chosen) == 1 else chosen


def _method_of(name: str) -> Method:
    from medcam.cli.own_code import find_object
    from medcam.errors import InputError
    from medcam.methods import Method, get

    if ":" not in name:
        return get(name)
    method = find_object(name, "--method")
    if not isinstance(method, Method):
        raise InputError(
            f"--method {name} is a {type(method).__name__}, not a medcam.methods.Method: write "
            "Method('name', function, 'Title')."
        )
    return method


def read_image_files(paths: Sequence[Path], volume: int | None, as_channels: bool | None) -> Image:
    """Return the image of one file, or of one file for each channel."""
    from medcam.files import read_image, stack_images

    if len(paths) > 1:
        return stack_images(paths, volume=volume)
    return read_image(paths[0], volume=volume, as_channels=as_channels)


def preprocessed(image: Image, scale: str, prepare: str | None) -> NDArray[Any]:
    """Return the model's input ``[channels, *space]``, float32.

    Args:
        image: The image.
        scale: ``--scale``.
        prepare: ``--prepare``, the user's own function; applied last.

    Raises:
        InputError: An unknown scale, or an array that is not on the image's grid.
    """
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

    from medcam.cli.own_code import find_object
    from medcam.errors import InputError
    from medcam.files.arrays import to_array

    function = find_object(spec, "--prepare")
    try:
        result = function(values)
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"--prepare {spec} failed: {type(error).__name__}: {error}.") from error
    return np.asarray(to_array(result, f"What {spec} returns"))


def target_of(text: str, image: Image, *, regions: bool = False) -> TargetLike:
    """Return the target that ``--target`` describes.

    Args:
        text: predicted, best, all, "2", "channel 2", "value 0", "contrast 2 1",
            "voxel 40,52,30 2" or "region mask.nii 2".
        image: The image, on whose grid a region lies.
        regions: Whether the channels are regions that may overlap.

    Raises:
        TargetError: The text describes no target.
        MaskError: The region does not fit the image.
    """
    from medcam.engine.target.resolution import for_regions

    target = _target_of(text, image)
    return for_regions(target) if regions else target


def _target_of(text: str, image: Image) -> TargetLike:
    """Return the target that ``--target`` describes, of classes that exclude each other."""
    from medcam import targets
    from medcam.errors import TargetError

    words = text.split()
    ends_in_number = bool(words) and words[-1].lstrip("-").isdigit()
    if text in ("predicted", "best", "all"):
        return None if text == "predicted" else text
    if len(words) == 1 and ends_in_number:
        return int(text)
    if len(words) == 2 and words[0] == "value" and ends_in_number:
        return targets.value(int(words[1]))
    if len(words) == 2 and words[0] == "channel" and ends_in_number:
        return targets.class_score(int(words[1]))
    if len(words) in (3, 4) and words[0] == "contrast":
        return _contrast_of(words[1:])
    if len(words) == 3 and words[0] == "voxel" and ends_in_number:
        try:
            return targets.voxel([int(i) for i in words[1].split(",")], int(words[2]))
        except ValueError as error:
            raise TargetError(f"--target {text!r}: a voxel is e.g. 'voxel 40,52,30 2'.") from error
    if len(words) >= 3 and words[0] == "region" and ends_in_number:
        import torch

        region = read_mask_on(Path(" ".join(words[1:-1])), image)
        return targets.region(torch.from_numpy(region.astype("uint8")), int(words[-1]))
    raise TargetError(
        f"--target {text!r}: give predicted, best, all, a class (2), 'channel 2', "
        "'value 0' (of a regression), 'contrast 2 1', 'voxel 40,52,30 2' or "
        "'region mask.nii.gz 2'."
    )


def _contrast_of(words: Sequence[str]) -> TargetLike:
    """Return the target of ``contrast A B [GAMMA]``; B may be several classes, ``0,1``.

    Raises:
        TargetError: A word is no number.
    """
    from medcam import targets
    from medcam.errors import TargetError

    try:
        label, others = int(words[0]), [int(word) for word in words[1].split(",")]
        gamma = float(words[2]) if len(words) > 2 else 1.0
    except ValueError as error:
        raise TargetError(
            f"--target 'contrast {' '.join(words)}': a contrast is e.g. 'contrast 2 1', "
            "'contrast 2 0,1' or 'contrast 2 1 0.6' (with the factor of the other class)."
        ) from error
    return targets.contrast(label, others, gamma)


def read_mask_on(path: Path, image: Image) -> NDArray[Any]:
    """Return a 0/1 image that lies on the grid of another image.

    Raises:
        MaskError: Another shape or place, or values other than 0 and 1 (in pictures 0 and 255).
    """
    import numpy as np

    from medcam.errors import MaskError
    from medcam.files import read_image
    from medcam.files.geometry import max_voxel_distance

    mask = read_image(path)
    if len(mask.array) != 1 or mask.space != image.space:
        raise MaskError(
            f"'{path}' is {list(mask.array.shape)}, the image {list(image.array.shape)}: a mask "
            "has one channel and the image's grid."
        )
    if mask.affine is not None and image.affine is not None:
        distance = max_voxel_distance(mask.affine, image.affine, image.space)
        if distance > 1e-3:
            raise MaskError(f"'{path}' lies up to {distance:.3g} mm away from the image's voxels.")
    values = mask.array[0]
    if values.max() == 255 and np.isin(values, (0, 255)).all():  # pictures have no 1
        values = values // 255
    if not np.isin(values, (0, 1)).all():
        raise MaskError(f"'{path}' holds values other than 0 and 1: choose one label of it.")
    return np.asarray(values)
