"""Save an explanation: one case on disk for each sample."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from medcam.errors import InputError
from medcam.explanation.case.names import append_to_name, safe_prefix
from medcam.explanation.case.record import split_details
from medcam.explanation.case.writing import LabelsLike, TableRows, save_case
from medcam.files import safe_name
from medcam.files.image import Image
from medcam.maps import AttentionMap, ImageName
from medcam.views.scene.images import image_of, labels_of, mask_of
from medcam.views.scene.selection import maps_on_grid


def save_maps(
    maps: Sequence[AttentionMap],
    prefix: str | os.PathLike[str],
    *,
    inputs: Tensor | None,
    details: Mapping[str, Any],
    model: nn.Module | None,
    model_kind: str | None,
    image: object = None,
    mask: object = None,
    segmentation: object = None,
    scores: TableRows = (),
    name: str | None = None,
    montage: bool = True,
    report: bool = True,
    extra: Mapping[str, object] | None = None,
) -> list[Path]:
    """Write the files of `medcam.Explanation.save`, one case for each sample.

    Args:
        maps: The maps of a batch.
        prefix: As in `medcam.Explanation.save`, like all arguments that are not described here.
        inputs: The input that was explained; None if it is unknown.
        details: The explanation's details, for the record.
        model: The model; None if it no longer exists.
        model_kind: The model's class.
        image: See `medcam.Explanation.save`.
        mask: See `medcam.Explanation.save`.
        segmentation: See `medcam.Explanation.save`.
        scores: See `medcam.Explanation.save`.
        name: See `medcam.Explanation.save`.
        montage: See `medcam.Explanation.save`.
        report: See `medcam.Explanation.save`.
        extra: See `medcam.Explanation.save`.

    Returns:
        The paths of the files, those of each sample with its record last.

    Raises:
        InputError: An argument does not fit.
        SaveError: A file could not be written. There is no record then, not even an earlier one.
    """
    title = name or Path(prefix).name
    prefix = safe_prefix(prefix)
    batch, axes = len(maps[0].values), maps[0].values.ndim - 2
    source = inputs if image is None else image
    if source is None:
        raise unknown_input("save(prefix, image=...)")
    if batch > 1 and isinstance(source, str | os.PathLike | Image):
        raise InputError(f"There are {batch} samples: give a list of {batch} images, or a batch.")
    prefixes = [prefix]
    if batch > 1:
        prefixes = [append_to_name(prefix, f"_{sample}") for sample in range(batch)]
    input_space = None if inputs is None else tuple(inputs.shape[2:])
    windows, explained = split_details(details)
    paths: list[Path] = []
    for sample, sample_prefix in enumerate(prefixes):
        background = image_of(source, axes, sample=sample, batch=batch)
        paths += save_case(
            sample_prefix,
            maps_on_grid(maps, background.space, sample=sample, input_space=input_space),
            background,
            model=model,
            model_kind=model_kind,
            inputs=recorded_inputs(inputs, None if image is None else background, sample),
            mask=_sample_labels(mask, axes, sample, batch, mask_of),
            segmentation=_sample_labels(segmentation, axes, sample, batch, labels_of),
            scores=[row for row in scores if row.get("sample", sample) == sample],
            name=title if batch == 1 else f"{title}, sample {sample}",
            montage=montage,
            report=report,
            sample=sample,
            record={"windows": windows or None},
            extra={**(extra or {}), **({"explained": explained} if explained else {})},
        )
    return paths


def save_of_images(
    parts: Mapping[ImageName, Any],
    prefix: str | os.PathLike[str],
    *,
    image: object,
    mask: object,
    segmentation: object,
    name: str | None,
    **options: Any,
) -> list[Path]:
    """Write the cases of an explanation with maps on several images, one for each image.

    Args:
        parts: The `medcam.Explanation` of each image.
        prefix: The path of the files without an ending; the image's name follows.
        image: The images to draw the maps on, by name; None: the inputs.
        mask: The masks by name, or None.
        segmentation: The segmentations by name, or None.
        name: The title; the image's name follows.
        **options: Further arguments of `medcam.Explanation.save`.

    Raises:
        InputError: One of ``image``, ``mask`` and ``segmentation`` is no mapping.
    """
    by_name: dict[str, Mapping[Any, object]] = {}
    for argument, value in (("image", image), ("mask", mask), ("segmentation", segmentation)):
        if value is not None and not isinstance(value, Mapping):
            raise InputError(
                f"There are maps on the images {list(parts)}: give {argument}= as a mapping by "
                f"these names, or save one, explanation.of_image({next(iter(parts))!r}).save(...)."
            )
        values = value or {}
        if values and set(values) != set(parts):
            raise InputError(
                f"{argument}= has the keys {list(values)}; the maps are on the images "
                f"{list(parts)}: give one for each."
            )
        by_name[argument] = values
    title, path = name or Path(prefix).name, safe_prefix(prefix)
    saved: list[Path] = []
    for image_name, part in parts.items():
        saved += part.save(
            append_to_name(path, f"_{safe_name(str(image_name))}"),
            name=f"{title}, {image_name}",
            **{argument: values.get(image_name) for argument, values in by_name.items()},
            **options,
        )
    return saved


def unknown_input(call: str) -> InputError:
    """Return the error for an explanation without input; the call shows how to give an image."""
    return InputError(
        "This explanation does not hold its input (an injected model keeps none): give the image "
        f"to draw the maps on, {call}."
    )


def recorded_inputs(inputs: Tensor | None, image: Image | None, sample: int) -> list[object]:
    """Return the inputs for a sample's record: the model's input, and the image in its place."""
    return [
        *([] if inputs is None else [inputs[sample : sample + 1]]),
        *([] if image is None else [image]),
    ]


def _sample_labels(
    labels: object, axes: int, sample: int, batch: int, read: Callable[..., NDArray[Any]]
) -> LabelsLike:
    """Return one sample's mask or segmentation as an array, or as a path if it is one."""
    if isinstance(labels, list | tuple) and len(labels) == batch and batch > 1:
        labels, batch = labels[sample], 1
    if labels is None or isinstance(labels, str | os.PathLike):
        return labels
    return read(labels, axes, sample=sample, batch=batch)
