"""The files of a case: one per input channel of the network."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medcam.errors import InputError
from medcam.files.paths import is_file, is_folder
from medcam.frameworks.nnunet.trained_model import TrainedModel

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""One file per channel, or the first channel's file alone."""

_CHANNEL = re.compile(r"_(\d{4})$")


@dataclass(frozen=True)
class Case:
    """A case: its name and its files, one for each channel of the network.

    Attributes:
        name: The case's name, which its results are named after.
        files: The images, in the order of the channels.
        previous: The segmentation from the cascade's first stage.
    """

    name: str
    files: tuple[Path, ...]
    previous: Path | None = None


def case_from_files(
    model: TrainedModel,
    files: Files,
    *,
    previous: str | os.PathLike[str] | None = None,
) -> Case:
    """Return the case that consists of these files.

    Args:
        model: The network, which defines the number of channels and the files' ending.
        files: One file per channel; or the first one, ``case_0000.nii.gz``, with the others in the
            same folder; or a single file that holds all channels.
        previous: The segmentation from the cascade's first stage.

    Raises:
        InputError: A file does not exist, or a channel has no file.
    """
    listed = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    paths = tuple(Path(path) for path in listed)
    if not paths:
        raise InputError("No file was given.")
    for path in paths:
        _check_file(path, model.file_ending)
    stem = paths[0].name[: -len(model.file_ending)]
    names = model.channel_names
    case_name = _CHANNEL.sub("", stem)
    if len(paths) == 1 and len(names) > 1 and case_name != stem:
        paths = _channel_files(paths[0].parent, case_name, model)
    elif len(paths) not in (1, len(names)):
        raise InputError(
            f"{len(paths)} files were given; the network needs {len(names)}, one for each channel: "
            f"{_listed(names)}."
        )
    first_stage = Path(previous) if previous is not None else None
    if first_stage is not None and not is_file(first_stage):
        raise InputError(f"There is no file '{first_stage}' (the previous stage's segmentation).")
    return Case(case_name, paths, first_stage)


def find_cases(
    model: TrainedModel,
    source: str | os.PathLike[str],
    *,
    previous: str | os.PathLike[str] | None = None,
) -> list[Case]:
    """Return the cases of a folder, a CSV file or a single image.

    Args:
        model: The network.
        source: A folder of ``case_0000.nii.gz`` files; a CSV file; or the first image of one case.
            The CSV file's columns are ``case_id`` (optional), ``image`` or one column per channel
            (``image``, ``image2``, ... or the channels' names), and ``previous`` (optional).
            Relative paths are relative to the CSV file.
        previous: A folder of the previous stage's segmentations, named after the cases; for a
            single image a file.

    Raises:
        InputError: There is no case, or a part of a case is missing.
    """
    path = Path(source)
    ending = model.file_ending
    if is_folder(path):
        first_files = sorted(path.glob(f"*_0000{ending}"))
        if not first_files:
            raise InputError(
                f"The folder '{path}' holds no '*_0000{ending}': nnU-Net's images are named "
                f"case_0000{ending}, with the channel as the number."
            )
        stems = [file.name[: -len(f"_0000{ending}")] for file in first_files]
        return [
            case_from_files(model, file, previous=_previous_of(previous, stem, ending))
            for file, stem in zip(first_files, stems, strict=True)
        ]
    if path.suffix.lower() == ".csv":
        return _cases_of_table(model, path, previous)
    first_stage = None if previous is None else Path(previous)
    if first_stage is not None and is_folder(first_stage):
        first_stage = _previous_of(first_stage, case_from_files(model, path).name, ending)
    return [case_from_files(model, path, previous=first_stage)]


def _check_file(path: Path, ending: str) -> None:
    if is_folder(path):
        raise InputError(f"'{path}' is a folder: medcam.nnunet.find_cases lists its cases.")
    if not is_file(path):
        raise InputError(f"There is no file '{path}'.")
    if not path.name.lower().endswith(ending.lower()):
        raise InputError(
            f"'{path.name}': the network was trained on files that end in '{ending}', and its "
            "reader expects these. Convert the image."
        )


def _channel_files(folder: Path, stem: str, model: TrainedModel) -> tuple[Path, ...]:
    """Return ``stem_0000``, ``stem_0001``, ..., one existing file for each channel."""
    names = model.channel_names
    paths = tuple(folder / f"{stem}_{i:04d}{model.file_ending}" for i in range(len(names)))
    for i, path in enumerate(paths):
        if not is_file(path):
            raise InputError(
                f"Channel {i} ({names[i]}) is missing: there is no '{path}'. The network needs "
                f"{_listed(names)}."
            )
    return paths


def _previous_of(folder: str | os.PathLike[str] | None, name: str, ending: str) -> Path | None:
    """Return the path of a case's previous segmentation in a folder of these."""
    return None if folder is None else Path(folder) / f"{name}{ending}"


def _cases_of_table(
    model: TrainedModel, path: Path, previous: str | os.PathLike[str] | None
) -> list[Case]:
    rows = _read_table(path)
    columns = _image_columns(model, path, list(rows[0]))
    cases = []
    for line, row in enumerate(rows, start=2):
        files = [path.parent / row[column] for column in columns if row[column]]
        entry = row.get("previous")
        first_stage = path.parent / entry if entry else None
        try:
            case = case_from_files(model, files, previous=first_stage)
        except InputError as error:
            raise InputError(f"'{path}', line {line}: {error}") from error
        name = row.get("case_id") or case.name
        if first_stage is None and previous is not None:
            first_stage = _previous_of(previous, name, model.file_ending)
            case = case_from_files(model, files, previous=first_stage)
        cases.append(Case(name, case.files, case.previous))
    return cases


def _read_table(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"'{path}' is not a CSV file in UTF-8: {error}.") from error
    if not rows:
        raise InputError(f"'{path}' lists no case.")
    return rows


def _image_columns(model: TrainedModel, path: Path, header: Sequence[str]) -> list[str]:
    """Return the columns that hold the images: numbered, named after the channels, or one."""
    names = model.channel_names
    numbered = ["image", *[f"image{i}" for i in range(2, len(names) + 1)]]
    for columns in (numbered, names, ["image"]):
        if set(columns) <= set(header):
            return columns
    raise InputError(
        f"'{path}' has the columns {_listed(header)}; needed are {_listed(numbered)}, "
        f"or {_listed(names)}."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(str(name) for name in names)
