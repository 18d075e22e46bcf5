"""Which files make a case: one per input channel."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medcam.errors import InputError
from medcam.frameworks.nnunet.loading import TrainedModel

_CHANNEL = re.compile(r"_(\d{4})$")


@dataclass(frozen=True)
class Case:
    """A case: its name and its files, one for each channel of the network.

    Attributes:
        name: What results are named after.
        files: The images, in the order of the channels.
        previous: The segmentation of the cascade's first stage.
    """

    name: str
    files: tuple[Path, ...]
    previous: Path | None = None


def case_of(
    model: TrainedModel,
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    previous: str | os.PathLike[str] | None = None,
) -> Case:
    """The case that files make.

    Args:
        model: The network, which says how many channels it needs.
        files: One file per channel; or the first one, ``case_0000.nii.gz``, beside which the
            others lie; or a single file that holds all channels.
        previous: The segmentation of the cascade's first stage.

    Raises:
        InputError: A file is not there, or one for a channel is missing.
    """
    given = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    paths = tuple(Path(path) for path in given)
    if not paths:
        raise InputError("No file was given.")
    ending = str(model.predictor.dataset_json["file_ending"])
    names = model.channel_names
    for path in paths:
        if path.is_dir():
            raise InputError(f"'{path}' is a folder: medcam.nnunet.find_cases lists its cases.")
        if not path.is_file():
            raise InputError(f"There is no file '{path}'.")
        if not path.name.lower().endswith(ending.lower()):
            raise InputError(
                f"'{path.name}': the network was trained on files that end in '{ending}', which "
                "its reader expects. Convert the image."
            )
    stem = paths[0].name[: -len(ending)]
    if len(paths) == 1 and len(names) > 1 and (found := _CHANNEL.search(stem)) is not None:
        stem = stem[: found.start()]
        paths = tuple(paths[0].with_name(f"{stem}_{i:04d}{ending}") for i in range(len(names)))
        for i, path in enumerate(paths):
            if not path.is_file():
                raise InputError(
                    f"Channel {i} ({names[i]}) is missing: there is no '{path}'. The network needs "
                    f"{_listed(names)}."
                )
    elif len(paths) not in (1, len(names)):
        raise InputError(
            f"{len(paths)} files were given; the network needs {len(names)}, one for each channel: "
            f"{_listed(names)}."
        )
    last = Path(previous) if previous is not None else None
    if last is not None and not last.is_file():
        raise InputError(f"There is no file '{last}' (the previous stage's segmentation).")
    return Case(_CHANNEL.sub("", stem), paths, last)


def find_cases(
    model: TrainedModel,
    source: str | os.PathLike[str],
    *,
    previous: str | os.PathLike[str] | None = None,
) -> list[Case]:
    """The cases of a folder, a CSV file or a single image.

    Args:
        model: The network.
        source: A folder of ``case_0000.nii.gz`` files; a CSV file whose columns are ``case_id``
            (optional), ``image`` or one column per channel (``image``, ``image2``, ... or the
            channels' names), and ``previous`` (optional), relative paths being relative to it; or
            the first image of one case.
        previous: A folder of the previous stage's segmentations, named after the cases; for a
            single image a file.

    Raises:
        InputError: Nothing is found, or a part of a case is missing.
    """
    path = Path(source)
    ending = str(model.predictor.dataset_json["file_ending"])
    if path.is_dir():
        firsts = sorted(path.glob(f"*_0000{ending}"))
        if not firsts:
            raise InputError(
                f"The folder '{path}' holds no '*_0000{ending}': nnU-Net's images are named "
                f"case_0000{ending}, the number being the channel."
            )
        stems = [first.name[: -len(f"_0000{ending}")] for first in firsts]
        return [
            case_of(model, first, previous=_previous(previous, stem, ending))
            for first, stem in zip(firsts, stems, strict=True)
        ]
    if path.suffix.lower() == ".csv":
        return _from_table(model, path, previous, ending)
    single = None if previous is None else Path(previous)
    if single is not None and single.is_dir():
        single = _previous(single, case_of(model, path).name, ending)
    return [case_of(model, path, previous=single)]


def _previous(folder: str | os.PathLike[str] | None, name: str, ending: str) -> Path | None:
    return None if folder is None else Path(folder) / f"{name}{ending}"


def _from_table(
    model: TrainedModel, path: Path, previous: str | os.PathLike[str] | None, ending: str
) -> list[Case]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"'{path}' is not a CSV file in UTF-8: {error}.") from error
    if not rows:
        raise InputError(f"'{path}' lists no case.")
    names = model.channel_names
    numbered = ["image", *[f"image{i}" for i in range(2, len(names) + 1)]]
    columns = next((c for c in (numbered, names) if set(c) <= set(rows[0])), None)
    if columns is None and "image" in rows[0]:
        columns = ["image"]
    if columns is None:
        raise InputError(
            f"'{path}' has the columns {_listed(list(rows[0]))}; needed are {_listed(numbered)}, "
            f"or {_listed(names)}."
        )
    cases = []
    for number, row in enumerate(rows, start=2):
        files = [path.parent / row[column] for column in columns if row[column]]
        given = row.get("previous")
        last: str | os.PathLike[str] | None = path.parent / given if given else None
        try:
            case = case_of(model, files, previous=last)
        except InputError as error:
            raise InputError(f"'{path}', line {number}: {error}") from error
        name = row.get("case_id") or case.name
        if last is None and previous is not None:
            case = case_of(model, files, previous=_previous(previous, name, ending))
        cases.append(Case(name, case.files, case.previous))
    return cases


def _listed(names: Sequence[str]) -> str:
    return ", ".join(str(name) for name in names)
