"""Comparison of a stored state_dict with that of a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy

_SHOWN = 4  # names of each kind


def differences(state: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Return how a stored state_dict differs from a model's, in words; empty if it fits.

    Args:
        state: The stored entries.
        expected: The model's.

    Example:
        >>> import torch
        >>> differences({"a": torch.ones(2)}, {"a": torch.ones(3), "b": torch.ones(1)})
        "1 missing in the file: b; 1 of another shape: a ([2], the model's [3])"
    """
    problems = [
        _listed("missing in the file", expected.keys() - state.keys()),
        _listed("not in the model", state.keys() - expected.keys()),
        _listed("of another kind", _other_kinds(state, expected)),
        _listed("of another shape", _misshapen(state, expected)),
    ]
    return "; ".join(problem for problem in problems if problem)


def _other_kinds(state: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return the entries that are no tensors where the model has one, or complex for real ones."""
    return [
        name
        for name in state.keys() & expected.keys()
        if isinstance(expected[name], Tensor)
        and (
            not isinstance(state[name], Tensor)
            or (state[name].is_complex() and not expected[name].is_complex())
        )
    ]


def _misshapen(state: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return the entries whose shape is not the model's, with both shapes."""
    return [
        f"{name} ({list(state[name].shape)}, the model's {list(expected[name].shape)})"
        for name in sorted(state.keys() & expected.keys())
        if isinstance(state[name], Tensor)
        and isinstance(expected[name], Tensor)
        and not is_lazy(expected[name])
        and state[name].shape != expected[name].shape
    ]


def _listed(kind: str, names: Collection[Any]) -> str:
    """Return the number of names with the first few; empty if there are none."""
    if not names:
        return ""
    first = ", ".join(sorted(map(str, names))[:_SHOWN])
    return f"{len(names)} {kind}: {first}{', ...' if len(names) > _SHOWN else ''}"
