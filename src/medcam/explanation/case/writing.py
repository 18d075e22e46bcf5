"""One case on disk: its maps, what shows them, and the record, which is there last or not."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from medcam.errors import SaveError, warn
from medcam.explanation.case.names import after, stems_of
from medcam.files import Image, save_map, save_nifti, save_png, write_atomically, write_sidecar
from medcam.files.formats.itk import ItkGrid
from medcam.files.record.contents import provenance
from medcam.maps import AttentionMap
from medcam.views.figures import save_figure
from medcam.views.montage.drawing import draw_montage
from medcam.views.overlays import overlay
from medcam.views.report import write_report
from medcam.views.scene.images import displayed
from medcam.views.scene.scene import scene_of
from medcam.views.scene.values import Scene

ScoreRows = Sequence[Mapping[str, Any]]
Mask = str | os.PathLike[str] | NDArray[Any] | None


def save_case(
    prefix: Path,
    maps: Sequence[AttentionMap],
    image: Image,
    *,
    model: nn.Module | None,
    inputs: Sequence[object],
    name: str,
    kind: str | None = None,
    mask: Mask = None,
    segmentation: Mask = None,
    scores: ScoreRows = (),
    montage: bool = True,
    report: bool = True,
    ending: str | None = None,
    more: Callable[[Path], Mapping[str, Path]] | None = None,
    sample: int = 0,
    record: Mapping[str, Any] | None = None,
    extra: Mapping[str, object] | None = None,
) -> list[Path]:
    """Writes one case: its maps, what shows them, and the record, which is there last or not.

    Args:
        prefix: Of `as_prefix`.
        maps: Of one sample, ``[1, targets, *space]``, on the image's grid.
        image: What they are laid over, and where they lie.
        model: The model that was explained; None: it no longer exists, which the record says.
        inputs: What the model was given, for the record.
        name: The title.
        kind: The model's class, where there is no model.
        mask: A region: a file, or 0/1 on the image's grid.
        segmentation: What the model predicted: a file, or labels on the image's grid.
        scores: The rows of a table.
        montage: Whether to write the montage.
        report: Whether to write the report.
        ending: The format of the maps. None: ``.tif`` for pictures, ``.nrrd`` for what only that
            format can place, else ``.nii.gz``.
        more: Writes further files, after the maps; gives them by their roles.
        sample: The sample's place in its batch, for the record.
        record: Further arguments of `medcam.files.record.contents`.
        extra: Its further part.

    Returns:
        The files, the record last.

    Raises:
        InputError: Something does not fit.
        SaveError: A file could not be written. There is no record then, not even an earlier one.
    """
    extra = {"name": name, "scores": [_plain(row) for row in scores], **(extra or {})}
    scene, _ = scene_of(
        maps, image, mask=mask, segmentation=segmentation, name=name, scores=list(scores),
        modality=extra.get("modality"),
    )  # fmt: skip
    ending = ending or ending_of(image)
    stems = stems_of(prefix, maps)
    _remove_record(prefix)
    paths = [_write(after(stem, ending), one.values, image)
             for stem, one in zip(stems, scene.maps, strict=True)]  # fmt: skip
    seen = [
        save_png(after(stem, ".png"), overlay(one.values, scene.image, signed=one.signed))
        for stem, one in zip(stems, scene.maps, strict=True)
        if not scene.is_volume
    ]
    roles: dict[str, Any] = {"map": paths, **({"overlay": seen} if seen else {})}
    further = dict(more(prefix)) if more is not None else {}
    named = {
        role: given
        for role, given in (("mask", mask), ("segmentation", segmentation))
        if isinstance(given, str | os.PathLike)
    }
    kept = _kept(prefix, scene, image, ending, there={*named, *further})
    about = record_of(
        model, kind=kind, inputs=list(inputs), maps=maps, folder=prefix.parent,
        files={**roles, **further, **_named(image), **named, **kept}, affine=image.affine,
        extra=extra, **(record or {}),
    )  # fmt: skip
    for entry in about["maps"]:
        entry["sample"] = sample
    written = [*paths, *seen, *further.values(), *kept.values()]
    if montage:
        written.append(_write_montage(after(prefix, "_montage.png"), scene, image))
    if report:
        page = replace(scene, provenance=record_for_page(about))
        written.append(write_report(after(prefix, ".html"), page))
    return [*written, write_sidecar(after(prefix, ".json"), about)]


def record_of(model: nn.Module | None, *, kind: str | None, **parts: Any) -> dict[str, Any]:
    """Gives the record of how maps were made, even if their model no longer exists.

    Args:
        model: The model; None: it no longer exists, of which is warned.
        kind: Its class then, as far as it is known.
        **parts: The other arguments of `medcam.files.record.contents`.
    """
    record = provenance(model=model or nn.Identity(), **parts)
    if model is None:
        record["model"] = {"class": kind, "state_sha256": None}
        warn(
            "The record does not say of which weights the maps are: the model no longer exists, or "
            "there are several. Pass save(..., model=model)."
        )
    return record


def ending_of(image: Image) -> str:
    """The format of raw maps that can hold where an image lies."""
    if image.affine is None and isinstance(image.source, ItkGrid):
        return ".nrrd"
    if image.affine is None and image.source is None and len(image.space) == 2:
        return ".tif"
    return ".nii.gz"


def _write(path: Path, values: NDArray[Any], image: Image) -> Path:
    """Where the voxels lie is the image's; a volume that does not know it gets the identity."""
    unknown = image.affine is None and image.source is None
    if unknown and path.name.endswith((".nii", ".nii.gz")):
        return save_nifti(path, values, None)
    return save_map(path, values, image)


def _kept(
    prefix: Path,
    scene: Scene,
    image: Image,
    ending: str,
    *,
    there: Collection[str],
) -> dict[str, Path]:
    """Files of the image and regions that are not there, so that a report can be made again."""
    kept: dict[str, Path] = {}
    if not image.paths:
        values = np.nan_to_num(displayed(image).astype(np.float32), posinf=0.0, neginf=0.0)
        if values.ndim == 3 and len(image.space) == 2:  # the pages of the file are its colours
            pages = Image(np.moveaxis(values, 2, 0)[None])
            kept["image"] = save_map(after(prefix, "_image.tif"), pages.array[0], pages)
        else:
            kept["image"] = _write(after(prefix, f"_image{ending}"), values, image)
    for role, short, labels in (
        ("mask", "mask", scene.mask),
        ("segmentation", "seg", scene.segmentation),
    ):
        if labels is not None and role not in there:
            path = after(prefix, f"_{short}{ending}")
            kept[role] = _write(path, labels.astype(np.float32), image)
    return kept


def _named(image: Image) -> dict[str, Any]:
    """The files of the image, if it has any."""
    return {"image": list(image.paths)} if image.paths else {}


def _write_montage(path: Path, scene: Scene, image: Image) -> Path:
    figure = draw_montage(scene, spacing=image.spacing, title=scene.name)
    return write_atomically(path, lambda temporary: save_figure(figure, temporary))


def _remove_record(prefix: Path) -> None:
    """Takes the mark of an earlier run away: it does not hold for what is written now."""
    path = after(prefix, ".json")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SaveError(f"Could not replace '{path}': {error.strerror}.") from error


def record_for_page(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a page says about how its maps were made."""
    shown = {key: part for key, part in record.items() if key != "schema"}
    shown["extra"] = {key: part for key, part in record["extra"].items() if key != "scores"}
    return shown


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row that JSON can hold: what is undefined is null."""
    return {
        str(key): None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
