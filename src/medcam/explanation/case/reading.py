"""Read saved cases: the record (JSON) of each case in a folder, and the files that it names."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medcam.errors import InputError, MedcamError, SaveError, foreign_errors
from medcam.explanation.case.record import record_for_page
from medcam.files import read_sidecar
from medcam.methods.registry import title_of
from medcam.views.report.index import IndexEntry, index_entry, write_index
from medcam.views.report.outcome import outcome_section
from medcam.views.report.page import write_report
from medcam.views.report.trust import trust_section
from medcam.views.scene.images import displayed_array, read_with_axes
from medcam.views.scene.values import Scene, SceneMap

_INDEX = "index.html"
_LONGEST_NAME = 200  # letters of a case's name
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def report_folder(folder: Path, output: Path | None = None) -> Iterator[IndexEntry]:
    """Write a page for each case of a folder, and last ``index.html``, which lists the cases.

    The index shows the error of a case that cannot be read. JSON files that are no records of
    medcam are skipped.

    Args:
        folder: The folder of the records, which is searched recursively.
        output: The folder for the pages. None: each page beside its record, and the index in
            ``folder``.

    Yields:
        The entries of the index, each after its page was written.

    Raises:
        InputError: There is no such folder, or no record in it.
        SaveError: A page could not be written.
    """
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "does not exist"
        raise InputError(f"'{folder}' {problem}: give the folder that the results were saved to.")
    records = [path for path in sorted(folder.rglob("*.json")) if _may_be_record(path)]
    if not records:
        raise InputError(
            f"There is no case in '{folder}': a case is a record (.json) that medcam saves beside "
            "its maps. Give the folder that results were saved to."
        )
    entries = []
    for record in records:
        entries.append(_write_case_report(record, folder, output or folder))
        yield entries[-1]
    write_index((output or folder) / _INDEX, entries, title=folder.resolve().name)


def read_case(path: Path) -> Scene:
    """Return the scene that a record describes, read from the files that it names.

    These parts of the record are used:

    - ``files["map"]``: one file for each entry of ``maps``, in the same order;
    - ``files["image"]``: the image; without it, the first of the ``inputs`` that is a file;
    - ``files["mask"]``: a region, all voxels that are not 0;
    - ``files["segmentation"]``: labels;
    - ``extra``: ``name``, ``modality``, ``sampling_rate``, ``check``, ``prediction`` and
      ``scores``, the rows of a table.

    Args:
        path: The path of the record, as `medcam.files.write_sidecar` writes it.

    Raises:
        InputError: The record or a file cannot be read, is missing, or does not fit the others.
    """
    record = read_sidecar(path)
    with foreign_errors(f"'{path}' is damaged", "Save the case again."):
        return _scene_from_record(record, path)


def _scene_from_record(record: Mapping[str, Any], path: Path) -> Scene:
    files, extra, entries = record["files"], record.get("extra") or {}, record["maps"]
    map_paths = [path.parent / name for name in files.get("map", ())]
    if len(map_paths) != len(entries):
        raise InputError(
            f"'{path}' describes {len(entries)} maps but names {len(map_paths)} files of maps: it "
            "must name one file for each map. Save the case again."
        )
    axes = len(entries[0]["shape"]) if entries else 3
    image = read_with_axes(_image_path(record, path), axes)
    masks, segmentations = (
        [read_with_axes(path.parent / name, axes).array[0] for name in files.get(role, ())]
        for role in ("mask", "segmentation")
    )
    maps = [
        _scene_map(read_with_axes(map_path, axes).array[0], entry)
        for map_path, entry in zip(map_paths, entries, strict=True)
    ]
    return Scene(
        name=str(extra.get("name") or path.stem)[:_LONGEST_NAME],
        image=displayed_array(image),
        maps=maps,
        affine=image.affine if len(image.space) == 3 else None,
        mask=masks[0] != 0 if masks else None,
        segmentation=segmentations[0] if segmentations else None,
        scores=_score_rows(extra.get("scores")),
        check=_section_of(extra.get("check"), "check", trust_section),
        prediction=_section_of(extra.get("prediction"), "prediction", outcome_section),
        provenance=record_for_page(record),
        modality=_text_or_none(extra.get("modality")),
        is_signal=axes == 1,
        sampling_rate=extra.get("sampling_rate"),
    )


def _text_or_none(value: object) -> str | None:
    """Return a modality: text, or None for anything else."""
    return value if isinstance(value, str) else None


def _section_of(
    value: object, name: str, section: Callable[[Mapping[str, Any]], object]
) -> Mapping[str, Any]:
    """Return a part of a record that has a section of the page.

    Args:
        value: The part.
        name: Its name.
        section: Makes the section.

    Raises:
        TypeError: It is no mapping.
        ValueError: It is incomplete.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError(f"its {name} is a {type(value).__name__}")
    try:
        section(value)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"its {name} is incomplete") from error
    return value


def _score_rows(value: object) -> list[dict[str, Any]]:
    """Return the rows of a table of scores.

    Raises:
        ValueError: They are no rows of single values.
    """
    rows = value or []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("its scores are no rows of a table")
    for row in rows:
        for name, cell in row.items():
            if not isinstance(cell, str | float | int | bool | None):
                raise TypeError(f"its score {str(name)[:40]!r} is a {type(cell).__name__}")
    return [dict(row) for row in rows]


def _image_path(record: Mapping[str, Any], path: Path) -> Path:
    """Return the path of the image; without one, that of the first input that is a file."""
    names = [
        *record["files"].get("image", ()),
        *(entry["path"] for entry in record.get("inputs", ()) if entry.get("path")),
    ]
    if not names:
        raise InputError(
            f"'{path}' names no image to draw the maps on: save the case with "
            "files={'image': path}."
        )
    return path.parent / str(names[0])


def _scene_map(values: NDArray[Any], entry: Mapping[str, Any]) -> SceneMap:
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


def _write_case_report(record: Path, folder: Path, output: Path) -> IndexEntry:
    """Write the page of a record, unless it cannot be read, and return its entry in the index."""
    relative = record.relative_to(folder).with_suffix("")
    is_index = relative.name == "index"  # its page must not be overwritten by the index
    page = relative.with_name("index_case.html" if is_index else f"{relative.name}.html")
    try:
        with foreign_errors(f"No page can be made of '{record}'"):
            case = read_case(record)
            write_report(output / page, case)
            return index_entry(case, page.as_posix())
    except SaveError as error:
        if error.errno in _FULL:  # there will be no space for the others, either
            raise
        return IndexEntry(relative.as_posix(), error=str(error))
    except MedcamError as error:
        return IndexEntry(relative.as_posix(), error=str(error))


def _may_be_record(path: Path) -> bool:
    """Return whether a file is a record, or a damaged JSON file that may have been one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return True
    return isinstance(content, dict) and str(content.get("schema", "")).startswith("medcam.")
