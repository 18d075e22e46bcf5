"""Write one case to disk: maps, pictures, pages, and last the record, which marks it complete."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from medcam.errors import SaveError
from medcam.explanation.case.names import append_to_name, map_stems
from medcam.explanation.case.record import build_record, json_row, record_for_page
from medcam.files import (
    Image,
    read_sidecar,
    save_map,
    save_nifti,
    save_png,
    write_atomically,
    write_sidecar,
)
from medcam.files.formats.itk import ItkGrid
from medcam.files.formats.npy import save_npy
from medcam.maps import AttentionMap
from medcam.views.figures import save_figure
from medcam.views.montage.drawing import draw_montage
from medcam.views.overlays import overlay
from medcam.views.report import write_report
from medcam.views.scene.images import displayed_array
from medcam.views.scene.scene import scene_of
from medcam.views.scene.values import Scene

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TableRows = Sequence[Mapping[str, Any]]
"""The rows of a table of scores, each a mapping of column to value."""

LabelsLike = str | os.PathLike[str] | NDArray[Any] | None
"""A mask or segmentation: a file, or an array on the image's grid; None if there is none."""


def save_case(
    prefix: Path,
    maps: Sequence[AttentionMap],
    image: Image,
    *,
    model: nn.Module | None,
    inputs: Sequence[object],
    name: str,
    model_kind: str | None = None,
    mask: LabelsLike = None,
    segmentation: LabelsLike = None,
    scores: TableRows = (),
    montage: bool = True,
    report: bool = True,
    ending: str | None = None,
    write_further: Callable[[Path], Mapping[str, Path]] | None = None,
    sample: int = 0,
    record: Mapping[str, Any] | None = None,
    extra: Mapping[str, object] | None = None,
) -> list[Path]:
    """Write one case: its maps, the pictures and pages that show them, and last the record.

    Args:
        prefix: The path of the files without an ending, as `safe_prefix` returns it.
        maps: The maps of one sample, ``[1, targets, *space]``, on the image's grid.
        image: The image under the maps, whose geometry their files get.
        model: The model that was explained; None if it no longer exists.
        inputs: The model's inputs, for the record.
        name: The title.
        model_kind: The model's class, for a record without a model.
        mask: A region: a file, or 0/1 on the image's grid.
        segmentation: The model's prediction: a file, or labels on the image's grid.
        scores: The rows of a table of scores.
        montage: Whether to write the montage.
        report: Whether to write the report.
        ending: The file ending of the maps. None: ``.npy`` for signals, ``.tif`` for pictures,
            ``.nrrd`` for a geometry that only this format can hold, otherwise ``.nii.gz``.
        write_further: A function that takes the prefix, writes further files after the maps, and
            returns their paths by role.
        sample: The sample's index in its batch, for the record.
        record: Further arguments of `medcam.files.provenance`.
        extra: Further entries of the record's part "extra".

    Returns:
        The paths of the files, the record last.

    Raises:
        InputError: An argument does not fit.
        SaveError: A file could not be written. There is no record then, not even an earlier one.
    """
    extra = {"name": name, "scores": [json_row(row) for row in scores], **(extra or {})}
    scene, _ = scene_of(
        maps, image, mask=mask, segmentation=segmentation, name=name, scores=list(scores),
        modality=extra.get("modality"), check=extra.get("check") or {},
        prediction=extra.get("prediction") or {}, sampling_rate=extra.get("sampling_rate"),
    )  # fmt: skip
    ending = ending or _map_ending(image)
    stems = map_stems(prefix, maps)
    earlier = _remove_record(prefix)
    map_paths = [
        _write_array(append_to_name(stem, ending), scene_map.values, image)
        for stem, scene_map in zip(stems, scene.maps, strict=True)
    ]
    overlay_paths = [] if scene.is_volume else _write_overlays(stems, scene)
    further = {} if write_further is None else dict(write_further(prefix))
    sources = {
        role: labels
        for role, labels in (("mask", mask), ("segmentation", segmentation))
        if isinstance(labels, str | os.PathLike)
    }
    shown = _write_shown(prefix, scene, image, ending, existing={*sources, *further})
    contents = build_record(
        model, model_kind=model_kind, inputs=list(inputs), maps=maps, folder=prefix.parent,
        files={
            "map": map_paths, **({"overlay": overlay_paths} if overlay_paths else {}), **further,
            **({"image": list(image.paths)} if image.paths else {}), **sources, **shown,
        },
        affine=image.affine, extra=extra, **(record or {}),
    )  # fmt: skip
    for entry in contents["maps"]:
        entry["sample"] = sample
    paths = [*map_paths, *overlay_paths, *further.values(), *shown.values()]
    if montage:
        paths.append(_write_montage(append_to_name(prefix, "_montage.png"), scene, image))
    if report:
        page = replace(scene, provenance=record_for_page(contents))
        paths.append(write_report(append_to_name(prefix, ".html"), page))
    saved = [*paths, write_sidecar(append_to_name(prefix, ".json"), contents)]
    _remove_orphans(earlier, saved)
    return saved


def _map_ending(image: Image) -> str:
    """Return the file ending of raw maps, for a format that can hold the image's geometry."""
    if len(image.space) == 1:
        return ".npy"
    if image.affine is None and isinstance(image.source, ItkGrid):
        return ".nrrd"
    if image.affine is None and image.source is None and len(image.space) == 2:
        return ".tif"
    return ".nii.gz"


def _write_array(path: Path, values: NDArray[Any], image: Image) -> Path:
    """Write an array with the image's geometry; NIfTI gets the identity if that is unknown."""
    unknown = image.affine is None and image.source is None
    if unknown and path.name.endswith((".nii", ".nii.gz")):
        return save_nifti(path, values, None)
    return save_map(path, values, image)


def _write_overlays(stems: Sequence[Path], scene: Scene) -> list[Path]:
    """Write a picture of each map over the image, or of each map along the signal."""
    if scene.is_signal:
        return [
            _write_figure(
                append_to_name(stem, ".png"),
                draw_montage(replace(scene, maps=[scene_map]), title=scene.name),
            )
            for stem, scene_map in zip(stems, scene.maps, strict=True)
        ]
    return [
        save_png(
            append_to_name(stem, ".png"),
            overlay(scene_map.values, scene.image, signed=scene_map.signed),
        )
        for stem, scene_map in zip(stems, scene.maps, strict=True)
    ]


def _write_shown(
    prefix: Path, scene: Scene, image: Image, ending: str, *, existing: Collection[str]
) -> dict[str, Path]:
    """Write the image, mask and segmentation that are no files yet, for later reports.

    Args:
        prefix: The path of the files without an ending.
        scene: The scene with the mask and the segmentation.
        image: The image.
        ending: The file ending of the maps.
        existing: The roles, "mask" or "segmentation", that have a file.

    Returns:
        The paths of the new files by role.
    """
    paths: dict[str, Path] = {}
    if not image.paths:
        values = displayed_array(image).astype(np.float32)
        values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
        if scene.is_signal:
            paths["image"] = save_npy(append_to_name(prefix, "_image.npy"), values)
        elif values.ndim == 3 and len(image.space) == 2:
            # A TIFF with one page per colour channel holds float values.
            pages = Image(np.moveaxis(values, 2, 0)[None])
            path = append_to_name(prefix, "_image.tif")
            paths["image"] = save_map(path, pages.array[0], pages)
        else:
            path = append_to_name(prefix, f"_image{ending}")
            paths["image"] = _write_array(path, values, image)
    for role, short_name, labels in (
        ("mask", "mask", scene.mask),
        ("segmentation", "seg", scene.segmentation),
    ):
        if labels is not None and role not in existing:
            path = append_to_name(prefix, f"_{short_name}{ending}")
            paths[role] = _write_array(path, labels.astype(np.float32), image)
    return paths


def _write_montage(path: Path, scene: Scene, image: Image) -> Path:
    figure = draw_montage(scene, spacing=image.spacing, title=scene.name)
    return _write_figure(path, figure)


def _write_figure(path: Path, figure: Figure) -> Path:
    return write_atomically(path, lambda temporary: save_figure(figure, temporary))


def _remove_record(prefix: Path) -> list[Path]:
    """Remove the record of an earlier run, which does not describe the new files.

    Returns:
        The files of the earlier run that the record lists.
    """
    path = append_to_name(prefix, ".json")
    try:
        listed = read_sidecar(path)["files"]
        names = [name for role in _OWN_ROLES for name in listed.get(role, ())]
        earlier = [path.parent / name for name in names if Path(name).name == name]
    except Exception:  # noqa: BLE001  # no record, or one of any content
        earlier = []
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SaveError(f"Could not replace '{path}': {error.strerror}.") from error
    return [file for file in earlier if _is_of_case(file, prefix.name)]


def _is_of_case(file: Path, case: str) -> bool:
    """Return whether a file's name is of a case, and of no other one with a longer name."""
    longer = (file.name[:end] for end in range(len(case) + 1, len(file.name)))
    return file.name.startswith(f"{case}_") and not any(
        file.with_name(f"{name}.json").exists() for name in longer
    )


_OWN_ROLES = ("map", "overlay")


def _remove_orphans(earlier: Sequence[Path], saved: Sequence[Path]) -> None:
    """Remove maps of an earlier run that the new record does not name."""
    for path in set(earlier) - set(saved):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
