"""Memory: how tensors are told apart, and what is known of each piece of memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from medcam.engine.model.placement.comparing import far_apart, run_against
from medcam.engine.model.placement.geometry import Geometry
from medcam.engine.model.placement.parts import Misplaced, UnplacedError, reason_of
from medcam.engine.model.placement.rules.apply import Origins
from medcam.engine.model.placement.writing import Whole, strides_key

IN_PLACE = "a part of a tensor was written in place"


@dataclass(eq=False)
class Storage:
    """What is known of one piece of memory.

    Attributes:
        alive: Weak reference, which keeps the address from being used again.
        views: The origins of each tensor in it, by offset, shape and strides.
        whole: The images that something in it comes from, with the reason why a view that is not
            in ``views`` has no geometry.
        filled: The tensor if it was made empty or constant, to be filled part by part.
        is_pending: Whether parts of it have been written since its places were last found.
    """

    alive: StorageWeakRef
    views: dict[tuple[Any, ...], Origins] = field(default_factory=dict)
    whole: dict[int, str] = field(default_factory=dict)
    filled: Whole | None = None
    is_pending: bool = False

    def fill(self, part: Tensor, origins: Origins) -> bool:
        """Record that a part of a new tensor was written; return whether that could be followed."""
        whole = self.filled
        if whole is None or not origins or tuple(part.shape) == whole.shape:
            return False
        filled: Origins = {}
        for image, geometry in origins.items():
            if image < 0:
                continue  # of what was there before
            if isinstance(geometry, str):
                return False
            filled[image] = IN_PLACE  # found when the whole is read
            try:
                whole.write(image, part, geometry)
            except UnplacedError as error:
                whole.writes.pop(image, None)
                filled[image] = self.whole[image] = reason_of(error)
        if not filled:
            return False
        key = whole.key
        earlier = {k: g for k, g in self.views.get(key, {}).items() if k not in filled}
        self.views = {key: {**earlier, **filled}, view_key(part): origins}
        self.is_pending = True
        for image in origins:
            self.whole.setdefault(image, IN_PLACE)
        return True

    def finish_filling(self) -> None:
        """Find the places of a tensor that was filled part by part."""
        whole, self.is_pending = self.filled, False
        if whole is None or whole.key not in self.views:
            return
        origins = dict(self.views[whole.key])
        for image in whole.writes:
            origins[image] = place = whole.geometry(image)
            if isinstance(place, str):
                self.whole[image] = place
        self.views[whole.key] = origins

    def overwrite(self, key: tuple[Any, ...], origins: Origins) -> None:
        """Record that a part was written in place: the whole is of several origins.

        Args:
            key: The part.
            origins: The origins of what was written.
        """
        before = self.views.get(key, {})
        for image, after in origins.items():
            earlier = before.get(image)
            if not isinstance(earlier, Geometry) or not isinstance(after, Geometry):
                continue
            if run_against(earlier, after) or far_apart(earlier, after):
                self.whole[image] = Misplaced(f"{IN_PLACE} with values of another place")
        self.views.clear()


def has_memory(tensor: Tensor) -> bool:
    """Return whether a tensor is known by its memory: not if it is sparse, nested or wrapped."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def view_key(tensor: Tensor) -> tuple[Any, ...]:
    """Return what tells a tensor from others in the same memory."""
    return tensor.storage_offset(), tuple(tensor.shape), strides_key(tensor.shape, tensor.stride())


def same_places(before: Origins | None, after: Origins) -> bool:
    """Return whether a tensor lies where it did before it was changed in place."""
    if before is None or set(before) != set(after):
        return False
    for image, earlier in before.items():
        later = after[image]
        if not isinstance(earlier, Geometry) or not isinstance(later, Geometry):
            return False
        if (earlier.dims, earlier.start) != (later.dims, later.start):
            return False
    return True
