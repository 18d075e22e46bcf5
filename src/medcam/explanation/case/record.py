"""The record of a case: how its maps were made, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from medcam.errors import warn
from medcam.files.record.contents import provenance


def build_record(
    model: nn.Module | None, *, model_kind: str | None, **arguments: Any
) -> dict[str, Any]:
    """Return the record of how maps were made; without a model, warn that it names no weights.

    Args:
        model: The model; None if it no longer exists.
        model_kind: The model's class, for a record without a model; None if it is unknown.
        **arguments: The other arguments of `medcam.files.provenance`.
    """
    record = provenance(model=model or nn.Identity(), **arguments)
    if model is None:
        record["model"] = {"class": model_kind, "state_sha256": None}
        warn(
            "The record cannot name the weights that the maps were made with: the model no longer "
            "exists, or there are several. Pass save(..., model=model)."
        )
    return record


def split_details(details: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an explanation's details of its windows, and those of its layer and output.

    Example:
        >>> split_details({"windows": 8, "model_ends_in": "softmax"})
        ({'windows': 8}, {'model_ends_in': 'softmax'})
    """
    explained = {name: value for name, value in details.items() if name in _OF_LAYER_AND_OUTPUT}
    windows = {name: value for name, value in details.items() if name not in explained}
    return windows, explained


_OF_LAYER_AND_OUTPUT = (
    "automatic_layer",
    "layers_passed_over",
    "other_branches",
    "model_ends_in",
    "completeness_residual",
    "method_options",
)


_NOT_SHOWN = ("check", "prediction", "scores", "recipe")


def record_for_page(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a record that a page shows.

    That is no schema, no scores, check and prediction, which have tables, and no recipe, whose
    paths name folders of this machine.
    """
    shown = {name: part for name, part in record.items() if name != "schema"}
    extra = record.get("extra") or {}
    shown["extra"] = {name: part for name, part in extra.items() if name not in _NOT_SHOWN}
    return shown


def json_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a table with null for NaN and infinity, which JSON cannot hold.

    Example:
        >>> json_row({"dice": 0.5, "hd95": math.nan})
        {'dice': 0.5, 'hd95': None}
    """
    return {
        str(column): None if isinstance(value, float) and not math.isfinite(value) else value
        for column, value in row.items()
    }
