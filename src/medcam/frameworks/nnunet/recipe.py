"""The recipe of a case: the folder, weights, images and options that its maps were made with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcam.errors import TargetError
from medcam.files.paths import is_file
from medcam.files.record.named_files import file_entry, folder_entry
from medcam.files.record.recipe import code_entries, imported_beside, recipe_values
from medcam.frameworks.nnunet.cases import Case
from medcam.frameworks.nnunet.target import Part, parse_part
from medcam.frameworks.nnunet.trained_model import TrainedModel
from medcam.methods import AUTO, METHODS, Method


def call_of(
    label: str,
    methods: Sequence[Method],
    layer: str | list[str] | None,
    target: Part,
    **options: Any,
) -> dict[str, Any]:
    """Return the options of a call of `explain_case` as values of the record.

    Args:
        label: The label.
        methods: The methods as they were asked for.
        layer: The layer or layers as they were asked for.
        target: The part of the label; a file is named by its path.
        **options: The other options, which are values already.

    Returns:
        The options. "method" is None if a method is not in the registry, as nothing but the
        program that made it can name it.
    """
    known = all(method == AUTO or METHODS.get(method.name) is method for method in methods)
    part = os.fspath(target) if isinstance(target, str | os.PathLike) else list(target)
    return {
        "label": label,
        "method": [method.name for method in methods] if known else None,
        "layer": layer,
        "target": part,
        **options,
    }


def case_recipe(
    model: TrainedModel,
    case: Case,
    call: Mapping[str, Any],
    folder: str | os.PathLike[str],
    methods: Sequence[str] | None = None,
) -> dict[str, Any] | None:
    """Return the recipe of a case; None if no command could repeat the call.

    That is so if a method has no name that a command could take, or if the region is gone.

    Args:
        model: The trained folder.
        case: The case.
        call: The result of `call_of`.
        folder: The folder of the record.
        methods: The values of ``--method``, if methods of the user's own code are among them.
    """
    names = call["method"] if methods is None else list(methods)
    if names is None:
        return None
    code = code_entries([("--method", name) for name in names if ":" in name], folder)
    try:
        is_region = parse_part(call["target"])[0] == "region"
    except TargetError:
        return None
    return recipe_values(
        "nnunet explain",
        {
            **call, "method": names, "case": case.name, "folds": list(model.folds),
            "checkpoint": model.checkpoint, "tta": bool(model.predictor.use_mirroring),
            "step_size": model.step_size, "trainer": model.trainer_name,
        },
        {
            "image": [file_entry(path, folder) for path in case.files],
            "previous stage": [_entry(case.previous, folder)] if case.previous else [],
            "region": [_entry(Path(call["target"]), folder)] if is_region else [],
            "trained folder": [folder_entry(model.folder, folder)],
            "description": [
                _entry(model.folder / name, folder) for name in ("plans.json", "dataset.json")
            ],
            "checkpoint": [
                {**_entry(path, folder, sha256), "fold": fold, "state_sha256": state_sha256}
                for fold, path, (sha256, state_sha256) in zip(
                    model.folds, model.checkpoint_paths, model.checkpoint_digests, strict=True
                )
            ],
            "code": code,
            "imported code": imported_beside(code, folder),
        },
        folder=Path(folder),
        trust=model.trusted,
    )  # fmt: skip


def _entry(
    path: Path, folder: str | os.PathLike[str], sha256: str | None = None
) -> dict[str, str | None]:
    """Return a file's entry; without a digest if it was removed after it was read."""
    if sha256 is None and is_file(path):
        return {**file_entry(path, folder)}
    return {**folder_entry(path, folder), "sha256": sha256}
