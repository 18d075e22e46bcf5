"""What programs for the original package reach for beside its public functions.

Names that are not kept raise an error that says what takes their place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcam.errors import InputError
from medcam.maps import resample


def replaced_names(module: str, instead: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` that says what takes the place of the original's names.

    Args:
        module: The module.
        instead: What takes the place of each name.

    Example:
        >>> replaced_names("medcam.backends.base", {"Old": "medcam.explain"})("Old")
        Traceback (most recent call last):
        ImportError: 'Old' of the original medcam.backends.base is not kept: use medcam.explain.
    """

    def get(name: str) -> Any:
        if name not in instead:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        # an ImportError, since `from module import name` would hide the text of another
        raise ImportError(f"{name!r} of the original {module} is not kept: use {instead[name]}.")

    return get


def interpolate(data: Any, shape: Sequence[int], squeeze: bool = False) -> Tensor:
    """Return data at another spatial shape, as `medcam.maps.resample` does it.

    Args:
        data: ``[*space]``, ``[channels, *space]`` or ``[batch, channels, *space]``.
        shape: The 2 or 3 extents.
        squeeze: Whether axes that were added are removed.

    Raises:
        InputError: The shape has not 2 or 3 extents, or the data more axes.
    """
    tensor = torch.as_tensor(data, dtype=torch.float32)
    missing = len(shape) + 2 - tensor.ndim
    if len(shape) not in (2, 3) or not 0 <= missing <= 2:
        raise InputError(
            f"Data of shape {list(tensor.shape)} cannot be resized to {list(shape)}: give 2 or 3 "
            "extents, and at most a batch and a channel axis before them."
        )
    resized = resample(tensor.reshape(*[1] * missing, *tensor.shape), shape)
    return resized.reshape(resized.shape[missing:]) if squeeze else resized


def normalize(values: Any) -> Any:
    """Return values scaled to [0, 1]; a constant becomes zeros."""
    low, high = values.min(), values.max()
    if low == high:
        return values * 0
    return (values - low) / (high - low)


def save_attention_map(
    filename: str | os.PathLike[str], attention_map: Any, heatmap: bool, raw_input: Any = None
) -> Path:
    """Save a map as `medcam.save` does; the original has these arguments in another order."""
    from medcam.explanation.single_file import save

    return save(attention_map, filename, heatmap, raw_input)


class OriginalState(MutableMapping[str, Any]):
    """The original's ``model.medcam_dict``: what programs read of it, and the switches they set.

    Args:
        session: The session of the injected model.
        device: The model's device.
    """

    def __init__(self, session: Any, device: torch.device | None) -> None:
        self._session = session
        self._device = device

    def _values(self) -> dict[str, Any]:
        session, settings = self._session, self._session.settings
        layer = None if session.last is None else session.last.layer
        folder = None if settings.output_dir is None else str(settings.output_dir)
        return {
            "output_dir": folder, "layer": settings.request.layer, "counter": session.calls,
            "save_scores": settings.save_scores, "save_maps": settings.save_maps,
            "save_pickle": settings.save_pickle, "evaluate": settings.evaluate,
            "metric": settings.metric, "return_score": settings.return_score,
            "_replace_output": settings.replace, "return_attention": settings.return_attention,
            "threshold": settings.threshold, "label": settings.request.target, "channels": 1,
            "data_shape": settings.request.shape, "current_layer": layer,
            "current_attention_map": _as_array(session.attention_map()), "device": self._device,
            "tested": True, "enabled": session.enabled,
            "heatmap": settings.request.methods[0].of_layer,
        }  # fmt: skip

    def __getitem__(self, key: str) -> Any:
        values = self._values()
        if key not in values:
            raise KeyError(
                f"{key!r} of the original's medcam_dict is not kept; there are {list(values)}"
            )
        return values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "enabled":
            self._session.enabled = bool(value)
        elif key in _SWITCHES:
            changed = {_SWITCHES[key]: value}
            self._session.settings = self._session.settings.changed(**changed)
        elif key == "label":
            self._session.change_target(value)
        else:
            raise KeyError(
                f"{key!r} of the original's medcam_dict cannot be set here: inject the model "
                f"again. These can: {['enabled', 'label', *_SWITCHES]}"
            )

    def __delitem__(self, key: str) -> None:
        raise KeyError(f"{key!r} of the original's medcam_dict cannot be removed")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())


_SWITCHES = {
    "_replace_output": "replace",
    "return_attention": "return_attention",
    "return_score": "return_score",
}
"""The entries that can be set, and the options that they are here."""


def _as_array(maps: Any) -> Any:
    """Return the last map; of several the first, as the original holds one."""
    if isinstance(maps, dict):
        maps = next(iter(maps.values()), None)
    return None if maps is None else np.asarray(maps)
