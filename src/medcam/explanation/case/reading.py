"""Reports of what lies in a folder: a record (JSON) for each case, and the files it names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcam.errors import InputError, MedcamError
from medcam.files import Image, read_image, read_sidecar
from medcam.methods.registry import title_of
from medcam.views.report.index import IndexEntry, index_entry, write_index
from medcam.views.report.page import write_report
from medcam.views.scene.values import Scene, SceneMap

_INDEX = "index.html"


def report_folder(folder: Path, output: Path | None = None) -> Iterator[IndexEntry]:
    """Writes a page for each case of a folder, and at last ``index.html``, which lists them.

    A case that cannot be read is a line with its error; the others go on. Other JSON files, which
    are no records of medcam, are passed over.

    Args:
        folder: Where the records are, also in folders below.
        output: The folder for the pages; None: each page beside its record, the index in
            ``folder``.

    Yields:
        The lines of the index, each after its page is written.

    Raises:
        InputError: No such folder, or no record in it.
        SaveError: A page could not be written.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise InputError(f"'{folder}' {what}: give the folder that the results were saved to.")
    records = [path for path in sorted(folder.rglob("*.json")) if _may_be_record(path)]
    if not records:
        raise InputError(
            f"There is no case in '{folder}': a case is a record (.json) that medcam saves beside "
            "its maps. Give the folder that results were saved to."
        )
    entries = []
    for record in records:
        entries.append(_report(record, folder, output or folder))
        yield entries[-1]
    write_index((output or folder) / _INDEX, entries, title=folder.resolve().name)


def read_case(path: Path) -> Scene:
    """Gives the case that a record describes, with the files that it names.

    Of the record's ``files``: ``map``, one for each of its ``maps`` and in their order; ``image``
    (else the first of its ``inputs`` that is a file); ``mask``, of which all that is not 0 is
    outlined; ``segmentation``, whose labels are. Of its ``extra``: ``name``, ``modality`` and
    ``scores``, rows of a table. Of images with several channels the first is shown, but for colour
    pictures.

    Args:
        path: The record, as `medcam.files.write_sidecar` writes it.

    Raises:
        InputError: The record or a file cannot be read, is missing, or does not fit the others.
    """
    record = read_sidecar(path)
    try:
        return _case(record, path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, MedcamError):
            raise
        raise InputError(
            f"'{path}' is damaged: it has no usable {error}. Make the case anew."
            if isinstance(error, KeyError)
            else f"'{path}' is damaged: {error}. Make the case anew."
        ) from error


def _case(record: Mapping[str, Any], path: Path) -> Scene:
    files, extra, about = record["files"], record.get("extra") or {}, record["maps"]
    paths = [path.parent / name for name in files.get("map", ())]
    if len(paths) != len(about):
        raise InputError(
            f"'{path}' speaks of {len(about)} maps and names {len(paths)} files of maps: it has to "
            "name one for each. Make the case anew."
        )
    axes = len(about[0]["shape"]) if about else 3
    image = _read(_image_path(record, path), axes)
    masks = [_read(path.parent / name, axes).array[0] != 0 for name in files.get("mask", ())]
    predicted = [_read(path.parent / name, axes).array[0] for name in files.get("segmentation", ())]
    maps = [
        _map(_read(name, axes).array[0], entry) for name, entry in zip(paths, about, strict=True)
    ]
    shown = {name: part for name, part in record.items() if name != "schema"}
    shown["extra"] = {name: part for name, part in extra.items() if name != "scores"}
    return Scene(
        name=str(extra.get("name") or path.stem),
        image=_displayed(image),
        maps=maps,
        affine=image.affine if len(image.space) == 3 else None,
        mask=masks[0] if masks else None,
        segmentation=predicted[0] if predicted else None,
        scores=list(extra.get("scores") or ()),
        provenance=shown,
        modality=extra.get("modality"),
    )


def _image_path(record: Mapping[str, Any], path: Path) -> Path:
    named = [
        *record["files"].get("image", ()),
        *(entry["path"] for entry in record.get("inputs", ()) if entry.get("path")),
    ]
    if not named:
        raise InputError(
            f"'{path}' names no image that the maps can be laid over: save the case with "
            "files={'image': path}."
        )
    return path.parent / str(named[0])


def _read(path: Path, axes: int) -> Image:
    """Reads an image; how many axes of space it has decides what a file leaves open."""
    image = read_image(path, as_channels=True, fill=0.0)
    if len(image.space) == axes:
        return image
    if image.path is not None and image.path.suffix.lower() in (".npy", ".tif", ".tiff"):
        return read_image(path, as_channels=False, fill=0.0)
    return image


def _displayed(image: Image) -> NDArray[Any]:
    if len(image.array) == 3 and len(image.space) == 2:
        return np.moveaxis(image.array, 0, 2)
    first: NDArray[Any] = image.array[0]
    return first


def _map(values: NDArray[Any], entry: Mapping[str, Any]) -> SceneMap:
    title = str(entry.get("title") or title_of(str(entry["method"])))
    target = entry["target"]
    label = str(target["description"])
    if target.get("class") is not None and f"class {target['class']}" not in label:
        label = f"{label}: class {target['class']}"
    return SceneMap(
        values,
        title,
        layer=entry["layer"],
        target=label,
        signed=bool(entry["signed"]),
        units=f"raw {title} units",
    )


def _report(record: Path, folder: Path, output: Path) -> IndexEntry:
    below = record.relative_to(folder).with_suffix("")
    page = below.with_name(f"{below.name}.html" if below.name != "index" else "index_case.html")
    try:
        case = read_case(record)
    except MedcamError as error:
        return IndexEntry(below.as_posix(), error=str(error))
    write_report(output / page, case)
    return index_entry(case, page.as_posix())


def _may_be_record(path: Path) -> bool:
    """Whether a file is a record, or so damaged that it may have been one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return True
    return isinstance(content, dict) and str(content.get("schema", "")).startswith("medcam.")
