"""The recipe of ``medcam explain``: its options and files, written, read and checked again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any

import typer

from medcam.cli.image_run import ImageOptions
from medcam.cli.model import is_data
from medcam.cli.own_code import make_importable
from medcam.errors import InputError
from medcam.files.paths import is_folder
from medcam.files.record.named_files import NamedFile, file_entry, find_again, places_of, shown
from medcam.files.record.recipe import (
    Recipe,
    code_entries,
    imported_beside,
    recipe_values,
)

_FILES = ("image", "weights")
_MOST_OVERLAP = 0.99
_TYPES: dict[str, tuple[type, ...]] = {
    "model": (str,), "arg": (list,), "method": (list,), "layer": (list,), "target": (str,),
    "regions": (bool,), "select": (str, NoneType), "roi": (str, NoneType),
    "overlap": (float, int), "mode": (str,), "channel_weights": (str,), "placement": (str,),
    "slice_axis": (int, NoneType), "scale": (str,), "prepare": (str, NoneType),
    "volume": (int, NoneType), "channels": (bool, NoneType),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """Options of ``medcam reproduce`` in place of what the record names.

    Attributes:
        image: The images.
        weights: The weights.
        model: The model, or nnU-Net's folder.
        arg: Arguments of the factory.
        search: A folder where files are looked for by their names.
        device: The device.
        trust: Whether the record's code may run, and files be read that can run code.
    """

    image: tuple[Path, ...] = ()
    weights: Path | None = None
    model: str | None = None
    arg: tuple[str, ...] = ()
    search: Path | None = None
    device: str | None = None
    trust: bool = False


def recipe_of(options: ImageOptions, folder: Path, *, trust: bool) -> dict[str, Any]:
    """Return the recipe of ``medcam explain``, after its code was imported.

    Args:
        options: The options.
        folder: The folder of the record.
        trust: ``--trust``.
    """
    values = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if field.name not in _FILES
    }
    code = code_entries(_named_code(options), folder)
    files = {
        "image": options.image,
        "weights": [] if options.weights is None else [options.weights],
        "region": [] if options.region is None else [options.region],
        "saved model": [] if ":" in options.model else [Path(options.model)],
    }
    return recipe_values(
        "explain",
        {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()},
        {
            **{role: [file_entry(path, folder) for path in paths] for role, paths in files.items()},
            "code": code,
            "imported code": imported_beside(code, folder),
        },
        folder=folder,
        trust=trust,
    )


def _named_code(options: ImageOptions) -> list[tuple[str, str]]:
    """Return the options that name code to run, each with its value."""
    named = [("--model", options.model)] if ":" in options.model else []
    if options.prepare is not None:
        named.append(("--prepare", options.prepare))
    return [*named, *(("--method", name) for name in options.method if ":" in name)]


def options_of(
    recipe: Recipe, path: Path, overrides: Overrides
) -> tuple[ImageOptions, list[NamedFile]]:
    """Return the options of a recipe with the files where they are now, after the user's consent.

    Nothing is run or unpickled. If the user consents to the record's code, its working folder
    becomes importable.

    Args:
        recipe: The recipe.
        path: The record.
        overrides: The user's own paths.

    Raises:
        InputError: A file is missing, an option is unknown, or the record names code to run and
            ``--trust`` is not given.
    """
    options = _checked_options(recipe.options)
    folder, search = path.parent, overrides.search
    files: list[NamedFile] = []

    def find(role: str, option: str, instead: Sequence[Path]) -> list[Path]:
        entries = recipe.entries(role)
        if instead and len(instead) != len(entries):
            raise InputError(f"The record names {len(entries)} of {option}: give as many.")
        advice = f"Give its place: {option} PATH, or the folder that it is in: --search FOLDER."
        for number, entry in enumerate(entries):
            own = instead[number] if instead else None
            files.append(find_again(role, entry, folder, instead=own, search=search, advice=advice))
        return [file.path for file in files if file.role == role]

    images = find("image", "--image", overrides.image)
    weights = find("weights", "--weights", [overrides.weights] if overrides.weights else [])
    if overrides.weights and not weights:
        raise InputError("The record names no weights: leave --weights out.")
    if options.region is not None:
        region = find("region", "--search", ())
        if not region:
            raise InputError("The record is damaged: it names no file of its region.")
        options = options.with_region(region[0])
    if overrides.model is None and ":" not in options.model:
        options = replace(options, model=str(*find("saved model", "--model", ())))
    specs = _found_code(recipe, folder, overrides, files)
    code = _code_to_run(options, specs, overrides)
    if code and recipe.trust and overrides.weights is None:
        code += [f"--weights {place}, which is unpickled" for place in weights]
    require_consent(code, path, overrides)
    if overrides.trust:
        _make_importable(recipe, folder)
    return _with_code(options, specs, overrides, images, weights), files


def _checked_options(values: Mapping[str, Any]) -> ImageOptions:
    """Return the options of a recipe, with the types that the command line gives them."""
    unknown = sorted(set(values) - set(_TYPES))
    if unknown:
        raise InputError(
            f"The record has the option '{shown(unknown[0])}', which this version of medcam does "
            "not know: use the version that wrote it, or a later one."
        )
    for name, value in values.items():
        texts = value if isinstance(value, list) else []
        if not isinstance(value, _TYPES[name]) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"The record is damaged: its {name} is '{shown(value, 80)}'.")
    check_share("overlap", values.get("overlap", 0), 0, _MOST_OVERLAP)
    if "model" not in values:
        raise InputError("The record is damaged: it names no model.")
    read: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in values.items()
    }
    return ImageOptions(image=(), **read)


def check_share(name: str, value: Any, least: float, most: float) -> None:
    """Raise for windows so dense that a record could take all memory or time."""
    if not least <= value <= most:
        raise InputError(f"The record is damaged: its {name} is {value}, not {least} to {most}.")


def _found_code(
    recipe: Recipe, folder: Path, overrides: Overrides, files: list[NamedFile]
) -> dict[tuple[str, str], str]:
    """Return where the files of code are now, by option and value; modules keep their names."""
    specs: dict[tuple[str, str], str] = {}
    for entry in recipe.entries("code"):
        option, spec = str(entry["option"]), str(entry["spec"])
        module_name, _, name = spec.rpartition(":")
        specs[option, spec] = spec
        if not module_name.endswith(".py") or (option == "--model" and overrides.model):
            continue
        code = find_again(
            f"code of {option}", entry, folder, search=overrides.search,
            advice="Give the folder that it is in: --search FOLDER.",
        )  # fmt: skip
        files.append(code)
        specs[option, spec] = f"{code.path}:{name}"
    return specs


def require_consent(code: Sequence[str], path: Path, overrides: Overrides) -> None:
    """Raise if a record would run code that the user has not consented to.

    Args:
        code: What would run, as options.
        path: The record.
        overrides: The user's ``--trust``.
    """
    if code and not overrides.trust:
        raise InputError(
            f"'{path}' names code that would run on this machine: {shown('; '.join(code), 1000)}. "
            "A record may be written by anybody: look at the code first, then add --trust, or name "
            "your own (--model, --arg)."
        )


def _code_to_run(
    options: ImageOptions, specs: Mapping[tuple[str, str], str], overrides: Overrides
) -> list[str]:
    """Return the code of the record that would run, as options."""
    code = [
        f"{option} {specs.get((option, spec), spec)}"
        for option, spec in _named_code(options)
        if option != "--model" or overrides.model is None
    ]
    if ":" not in options.model and not is_data(options.model) and overrides.model is None:
        code.append(f"--model {options.model}")
    if not overrides.arg:  # arguments choose what a factory does, such as what torch.hub downloads
        code += [f"--arg {shlex.quote(argument)}" for argument in options.arg]
    return code


def _make_importable(recipe: Recipe, folder: Path) -> None:
    """Add the folder that the command ran in to the import path, as it was then."""
    for entry in recipe.entries("working folder")[:1]:
        place = next((place for place in places_of(entry, folder) if is_folder(place)), None)
        if place is not None:
            make_importable(place.resolve())


def _with_code(
    options: ImageOptions,
    specs: Mapping[tuple[str, str], str],
    overrides: Overrides,
    images: Sequence[Path],
    weights: Sequence[Path],
) -> ImageOptions:
    """Return the options with files and code where they are now."""
    prepare = options.prepare
    return replace(
        options,
        image=tuple(images),
        weights=weights[0] if weights else None,
        model=overrides.model or specs.get(("--model", options.model), options.model),
        arg=overrides.arg or options.arg,
        prepare=None if prepare is None else specs.get(("--prepare", prepare), prepare),
        method=tuple(specs.get(("--method", name), name) for name in options.method),
    )


def note_changed(files: Sequence[NamedFile]) -> None:
    """Say on stderr which files are not those of the record, before anything runs."""
    for file in files:
        if not file.is_same:
            typer.echo(
                f"Changed: {file.role} '{shown(file.path)}' is not the recorded one (sha256 "
                f"{file.current}, recorded {shown(file.recorded, 64)}).",
                err=True,
            )
