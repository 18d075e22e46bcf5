"""Where the maps of an injected model's calls lie: the reference of each sample.

In this order: the ``reference`` of the call; a plain affine given to `medcam.inject`; the input's
own affine; the file given to `medcam.inject`, which is the image of one case.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from medcam.engine.model.nested import without_subclass
from medcam.errors import warn
from medcam.injection.arguments import is_plain_affine
from medcam.injection.call_arguments import CallArguments
from medcam.maps import ImageName

_SAME_PLACE = 0.01
"""Largest distance, in voxels, of two grids that count as one."""

_ELSEWHERE = (
    "The input's own affine places it elsewhere than the reference= given to inject: the input's "
    "is taken. Give model(x, reference=...) to decide for one call."
)

_ANOTHER_INPUT = (
    "reference= given to inject holds for all calls, but this is another input than the first, so "
    "its map may be saved in the place of another case: give model(x, reference=...) per case. A "
    "reference that holds for all cases is given as its affine."
)


class References:
    """Decides for each sample of each call where its maps lie.

    Args:
        fixed: ``reference`` of `medcam.inject`: for the first image with a map, or by image.
    """

    def __init__(self, fixed: Any) -> None:
        self._fixed = fixed
        self._first_inputs: dict[ImageName | None, tuple[Any, ...]] = {}
        self._told: set[str] = set()

    def reference(self, arguments: CallArguments, sample: int, shape: Sequence[int]) -> Any:
        """Return the reference of a sample's map of the given shape; None if nothing is known."""
        from medcam.files.formats.nifti import reference_for_shape

        return reference_for_shape(self._chosen(arguments, sample, shape), shape, arguments.space)

    def spacing(
        self,
        arguments: CallArguments,
        sample: int,
        shape: Sequence[int],
        grids: Collection[tuple[int, ...]],
        *,
        counts: bool,
    ) -> tuple[float, ...] | None:
        """Return the voxel size in mm of a sample's mask; None for a picture or without geometry.

        Args:
            arguments: The call.
            sample: The sample's index.
            shape: The spatial shape of the mask.
            grids: The shapes of grids that share the input's outer borders: its own, its maps'.
            counts: Whether the scores depend on it: if not, no warning is issued.
        """
        from medcam.files.formats.nifti import grid_shape, voxel_sizes

        if len(arguments.space) != 3 or len(shape) != 3:
            return None
        reference = self._chosen(arguments, sample, shape, may_warn=counts)
        if reference is None:
            return None
        sizes, own_shape = voxel_sizes(reference), grid_shape(reference) or arguments.space
        if own_shape not in grids or tuple(shape) not in grids:
            return sizes
        return tuple(
            size * own / extent for size, own, extent in zip(sizes, own_shape, shape, strict=True)
        )

    def _chosen(
        self,
        arguments: CallArguments,
        sample: int,
        shape: Sequence[int],
        *,
        may_warn: bool = True,
    ) -> Any:
        """Return the reference that counts for a sample, of any shape."""
        if arguments.references is not None:
            return arguments.references[sample]
        image, fixed = arguments.image, self.of_image(arguments.name, is_first=arguments.is_first)
        own = image[sample] if image is not None and hasattr(image, "affine") else None
        if fixed is None:
            return own
        if is_plain_affine(fixed) or image is None:
            return fixed
        if own is not None and not _is_identity(own):
            distance = _distance(own, fixed, tuple(shape), arguments.space)
            if distance < _SAME_PLACE:
                return fixed
            if may_warn:
                self._tell(_ELSEWHERE)
            return own
        may_warn = may_warn and _ANOTHER_INPUT not in self._told
        if may_warn and self._is_another(image[sample], arguments.name):
            self._tell(_ANOTHER_INPUT)
        return fixed

    def of_image(self, name: ImageName | None, *, is_first: bool = True) -> Any:
        """Return the reference that `medcam.inject` was given for an image; None without one."""
        if isinstance(self._fixed, Mapping):
            return next(iter(self._fixed.values())) if name is None else self._fixed.get(name)
        return self._fixed if is_first else None

    def _is_another(self, image: Tensor, name: ImageName | None) -> bool:
        """Return whether a sample is not the first one that the fixed reference was taken for."""
        plain: Tensor = without_subclass(image.detach())
        values = np.ascontiguousarray(plain.cpu().float().numpy())
        fingerprint = (tuple(image.shape), zlib.crc32(values.data))
        return fingerprint != self._first_inputs.setdefault(name, fingerprint)

    def _tell(self, message: str) -> None:
        """Warn once for each message."""
        if message not in self._told:
            self._told.add(message)
            warn(message)


def _is_identity(image: Any) -> bool:
    """Return whether an image's affine is that of an image whose place is unknown."""
    from medcam.files.geometry import affine_of

    return bool(np.array_equal(np.asarray(affine_of(image)).reshape(-1, 4, 4)[0], np.eye(4)))


def _distance(own: Any, fixed: Any, shape: tuple[int, ...], space: Sequence[int]) -> float:
    """Return how far two references place the voxels of a map from each other, in voxels."""
    from medcam.files.formats.nifti import grid_affine
    from medcam.files.geometry import max_voxel_distance, spacing_of

    first, second = grid_affine(own, shape, space), grid_affine(fixed, shape, space)
    if first is None or second is None:
        return np.inf
    return max_voxel_distance(first, second, shape) / min(spacing_of(first))
