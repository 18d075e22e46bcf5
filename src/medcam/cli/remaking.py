"""Make the maps of a record again, in memory; nothing is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from medcam.cli.recipe import (
    Overrides,
    check_share,
    note_changed,
    options_of,
    require_consent,
)
from medcam.errors import InputError, foreign_errors
from medcam.files.paths import is_folder
from medcam.files.record.named_files import NamedFile, find_again, places_of, shown

if TYPE_CHECKING:
    from medcam.files.record.recipe import Recipe
    from medcam.maps import AttentionMap

_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d{1,3})?")
_MOST_THREADS = 256
_LEAST_STEP = 0.01  # in windows
_CASE_TYPES: dict[str, tuple[type, ...]] = {
    "label": (str,), "method": (list,), "layer": (str, list, type(None)), "target": (str, list),
    "channel_weights": (str,), "placement": (str,), "batch_size": (int,), "case": (str,),
    "folds": (list,), "checkpoint": (str,), "tta": (bool,), "step_size": (float, int),
    "trainer": (str,),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Remade:
    """Maps that were made again.

    Attributes:
        maps: The maps of the case, on the image's grid.
        record: The record that they would be saved with.
        save: Function that saves the case under a prefix and returns the files.
    """

    maps: Sequence[AttentionMap]
    record: Mapping[str, Any]
    save: Callable[[Path], list[Path]]


def remake(
    recipe: Recipe,
    record: Mapping[str, Any],
    path: Path,
    overrides: Overrides,
    *,
    progress: bool,
) -> Remade:
    """Make the maps of a record again, on its device and with its number of threads.

    Args:
        recipe: The recipe of the record.
        record: The record.
        path: Its path.
        overrides: The user's own paths and device.
        progress: Whether to show a progress bar.

    Raises:
        InputError: A file is missing, the user has to consent first, or the model does not run.
    """
    run = _remake_image if recipe.command == "explain" else _remake_case
    with foreign_errors(f"The maps of '{path}' cannot be made again"):
        if recipe.trust and not overrides.trust:
            typer.echo(
                "Note: the record was made with --trust; what needs it has to be trusted again.",
                err=True,
            )
        return run(recipe, record, path, overrides, progress)


def _remake_image(
    recipe: Recipe, record: Mapping[str, Any], path: Path, overrides: Overrides, progress: bool
) -> Remade:
    from medcam.cli.image_run import get_ready
    from medcam.cli.prediction import segmentation_of
    from medcam.cli.recipe import recipe_of
    from medcam.explanation.case.record import build_record, split_details
    from medcam.explanation.case.saving import recorded_inputs
    from medcam.views.scene.selection import maps_on_grid

    options, files = options_of(recipe, path, overrides)
    note_changed(files)
    device = _device_of(record, overrides)
    trust = recipe.trusts(overrides.trust, overrides.weights, overrides.model)
    with _threads_of(record):
        ready = get_ready(options, trust=trust, device=device)
        explanation = ready.explain(progress=progress)
    original, inputs = ready.original, explanation.inputs
    maps = maps_on_grid(
        explanation.maps.values(), original.space,
        input_space=None if inputs is None else inputs.shape[2:],
    )  # fmt: skip
    current = build_record(
        ready.network, model_kind=None, inputs=recorded_inputs(inputs, original, 0), maps=maps,
        folder=path.parent, affine=original.affine,
        windows=split_details(explanation.details)[0] or None,
        extra={"recipe": recipe_of(options, path.parent, trust=trust)},
    )  # fmt: skip

    def save(prefix: Path) -> list[Path]:
        selector = None if options.in_windows else options.selector
        return explanation.save(
            prefix, image=original, model=ready.network,
            segmentation=segmentation_of(explanation, selector, original),
            extra={"recipe": recipe_of(options, prefix.parent, trust=trust)},
        )  # fmt: skip

    return Remade(maps=maps, record=current, save=save)


def _remake_case(
    recipe: Recipe, record: Mapping[str, Any], path: Path, overrides: Overrides, progress: bool
) -> Remade:
    from medcam.cli.options import methods_of
    from medcam.frameworks import nnunet as framework
    from medcam.frameworks.nnunet.result import maps_of, recipe_of, record_of

    options = _checked_case(recipe.options)
    methods, files, region = _case_methods(recipe, options, path, overrides)
    images = [file.path for file in files if file.role == "image"]
    previous = next((file.path for file in files if file.role == "previous stage"), None)
    trained_folder = _trained_folder(recipe, path, overrides, files)
    note_changed(files)
    device = _device_of(record, overrides)
    with _threads_of(record):
        trained = framework.load(
            trained_folder, folds=options["folds"], checkpoint=options["checkpoint"],
            device=device, tta=options["tta"], step_size=options["step_size"],
            trust=recipe.trusts(overrides.trust, overrides.model),
        )  # fmt: skip
        explanation = framework.explain_case(
            trained, framework.Case(options["case"], tuple(images), previous), options["label"],
            method=methods_of(methods), layer=options["layer"],
            target=options["target"] if region is None else region,
            channel_weights=options["channel_weights"], placement=options["placement"],
            batch_size=options["batch_size"], progress=progress,
        )  # fmt: skip

    def extra(folder: Path) -> dict[str, Any]:
        return {"recipe": recipe_of(explanation, folder, methods)}

    return Remade(
        maps=maps_of(explanation),
        record=record_of(explanation, path.parent, extra(path.parent)),
        save=lambda prefix: explanation.save(prefix, extra=extra(prefix.parent)),
    )


def _checked_case(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a case's recipe, with the types that they are written with."""
    if unknown := sorted(set(values) - set(_CASE_TYPES)):
        raise InputError(
            f"The record has the option '{shown(unknown[0])}', which this version of medcam does "
            "not know: use the version that wrote it, or a later one."
        )
    for name, types in _CASE_TYPES.items():
        if not isinstance(values.get(name), types):
            raise InputError(
                f"The record is damaged: its {name} is '{shown(values.get(name), 80)}'."
            )
    check_share("step_size", values["step_size"], _LEAST_STEP, 1)
    return dict(values)


def _case_methods(
    recipe: Recipe, options: Mapping[str, Any], path: Path, overrides: Overrides
) -> tuple[list[str], list[NamedFile], Path | None]:
    """Return the methods, the images and other files of a case, and its region, where they are."""
    folder, search = path.parent, overrides.search
    files = []
    for role in ("image", "previous stage", "region"):
        entries = recipe.entries(role)
        own = overrides.image if role == "image" else ()
        if own and len(own) != len(entries):
            raise InputError(f"The record names {len(entries)} images: give --image as many times.")
        place = "--image PATH, or " if role == "image" else ""
        files += [
            find_again(
                role, entry, folder, instead=own[number] if own else None, search=search,
                advice=f"Give its place: {place}the folder that it is in, --search FOLDER.",
            )
            for number, entry in enumerate(entries)
        ]  # fmt: skip
    specs = {}
    for entry in recipe.entries("code"):
        spec = str(entry["spec"])
        if spec.rpartition(":")[0].endswith(".py"):
            files.append(find_again("code of --method", entry, folder, search=search))
            specs[spec] = f"{files[-1].path}:{spec.rpartition(':')[2]}"
    methods = [specs.get(str(name), str(name)) for name in options["method"]]
    code = [f"--method {name}" for name in methods if ":" in name]
    if code and recipe.trust:
        code.append("the trained folder, which may run code")
    require_consent(code, path, overrides)
    region = next((file.path for file in files if file.role == "region"), None)
    return methods, files, region


def _trained_folder(
    recipe: Recipe, path: Path, overrides: Overrides, files: list[NamedFile]
) -> Path:
    """Return where the trained folder is now, after adding its files to the list of files."""
    entry = recipe.entries("trained folder")[0]
    places = [Path(overrides.model)] if overrides.model else places_of(entry, path.parent)
    folder = next((place for place in places if is_folder(place)), None)
    if folder is None:
        raise InputError(
            f"The trained folder '{shown(places[-1])}' does not exist. Give its place: "
            "--model FOLDER."
        )
    for role in ("description", "checkpoint"):
        for file in recipe.entries(role):
            name = Path(str(file["path"])).name
            inside = f"fold_{Path(str(file['fold'])).name}" if role == "checkpoint" else ""
            files.append(find_again(role, file, path.parent, instead=folder / inside / name))
    return folder


def _device_of(record: Mapping[str, Any], overrides: Overrides) -> str | None:
    """Return the device of a record, or the user's own; None for the default if there is none."""
    from medcam.engine.model.devices import usable_device

    if overrides.device is not None:
        return overrides.device
    name = record["environment"]["device"]
    if not isinstance(name, str) or not _DEVICE.fullmatch(name):
        raise InputError(f"The record is damaged: its device is '{shown(name, 80)}'.")
    try:
        usable_device(name)
    except InputError:
        typer.echo(f"Note: this machine has no {name}, which the maps were made on.", err=True)
        return None
    return name


@contextmanager
def _threads_of(record: Mapping[str, Any]) -> Iterator[None]:
    """Compute with as many threads as the record: sums may depend on how they are divided."""
    import torch

    before, recorded = torch.get_num_threads(), record["environment"].get("threads")
    is_number = isinstance(recorded, int) and 1 <= recorded <= _MOST_THREADS
    torch.set_num_threads(recorded if is_number else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
