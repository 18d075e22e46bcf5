"""Save an explanation: one case on disk for each sample."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from medcam.errors import InputError
from medcam.explanation.case.names import after, as_prefix
from medcam.explanation.case.writing import Mask, ScoreRows, save_case
from medcam.files.image import Image
from medcam.maps import AttentionMap
from medcam.views.scene.images import image_of, labels_of, mask_of
from medcam.views.scene.selection import on_grid


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
    scores: ScoreRows = (),
    name: str | None = None,
    montage: bool = True,
    report: bool = True,
    extra: Mapping[str, object] | None = None,
) -> list[Path]:
    """Write an explanation's maps, a montage, a report and the record of how they were made.

    Which files these are, and what the arguments mean, is said by `medcam.Explanation.save`. Of
    several samples each is a case of its own.

    Args:
        maps: The maps.
        prefix: See there.
        inputs: The input that was explained; None: it is not known.
        details: How the maps were made, for the record.
        model: The model, for the record; None: it no longer exists.
        model_kind: Its class.
        image: See there.
        mask: See there.
        segmentation: See there.
        scores: See there.
        name: See there.
        montage: See there.
        report: See there.
        extra: See there.

    Raises:
        InputError: Something given does not fit.
        SaveError: A file could not be written. There is no record then, not even an earlier one.
    """
    title = name or Path(prefix).name
    prefix = as_prefix(prefix)
    batch, axes = len(maps[0].values), maps[0].values.ndim - 2
    source = inputs if image is None else image
    if source is None:
        raise InputError(
            "This explanation does not hold its input (an injected model keeps none): give "
            "the image that the maps are laid over, save(prefix, image=...)."
        )
    if batch > 1 and isinstance(source, str | os.PathLike | Image):
        raise InputError(f"There are {batch} samples: give a list of {batch} images, or a batch.")
    places = [prefix] if batch == 1 else [after(prefix, f"_{n}") for n in range(batch)]
    covers = None if inputs is None else tuple(inputs.shape[2:])
    files: list[Path] = []
    for sample, place in enumerate(places):
        under = image_of(source, axes, sample=sample, batch=batch)
        files += save_case(
            place,
            on_grid(maps, under.space, sample=sample, covers=covers),
            under,
            model=model,
            kind=model_kind,
            inputs=seen_by_model(inputs, None if image is None else under, sample),
            mask=_of_sample(mask, axes, sample, batch, mask_of),
            segmentation=_of_sample(segmentation, axes, sample, batch, labels_of),
            scores=[row for row in scores if row.get("sample", sample) == sample],
            name=title if batch == 1 else f"{title}, sample {sample}",
            montage=montage,
            report=report,
            sample=sample,
            record={"windows": details or None},
            extra=extra,
        )
    return files


def seen_by_model(inputs: Tensor | None, image: Image | None, sample: int) -> list[object]:
    """Return the model's input of one sample, if it is known, and the image that stands for it."""
    return [
        *([] if inputs is None else [inputs[sample : sample + 1]]),
        *([] if image is None else [image]),
    ]


def _of_sample(
    labels: object, axes: int, sample: int, batch: int, read: Callable[..., NDArray[Any]]
) -> Mask:
    """Return one sample's mask or segmentation; paths stay paths."""
    if isinstance(labels, list | tuple) and len(labels) == batch and batch > 1:
        labels, batch = labels[sample], 1
    if labels is None or isinstance(labels, str | os.PathLike):
        return labels
    return read(labels, axes, sample=sample, batch=batch)
