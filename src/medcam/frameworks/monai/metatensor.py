"""Maps as MetaTensors: on the grid of their image, with its history."""

from __future__ import annotations

from copy import deepcopy

from jaxtyping import Float
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

from medcam.engine.model.nested import without_subclass
from medcam.errors import InputError, InputTypeError
from medcam.explanation.explanation import Explanation
from medcam.maps import AttentionMap


def as_metatensor(
    attention: Explanation | AttentionMap | Float[Tensor, "batch targets *space"],
    like: MetaTensor,
) -> MetaTensor:
    """The map as a MetaTensor that lies where its image lies.

    It gets copies of the image's meta data and applied operations, so that ``Invertd`` undoes on it
    what was done to the image, and ``SaveImaged`` writes it with the image's affine.

    Args:
        attention: An explanation of one map, a map, or its values ``[batch, targets, *space]``.
        like: The image ``[batch, channels, *space]`` that was explained. For an image without a
            batch, ``[channels, *space]``, the result has none either.

    Returns:
        ``[batch, targets, *space]``, raw values; ``[targets, *space]`` for an image without batch.

    Raises:
        InputError: The explanation holds several maps, or the map is not on the image's grid.
        InputTypeError: ``like`` is no MetaTensor.

    >>> import torch
    >>> image = MetaTensor(torch.rand(1, 4, 4), affine=torch.diag(torch.tensor([2.0, 2, 1, 1])))
    >>> as_metatensor(torch.rand(1, 1, 4, 4), image).pixdim.tolist()
    [2.0, 2.0]
    """
    if not isinstance(like, MetaTensor):
        raise InputTypeError(
            f"like= is the image as a MetaTensor, not {type(like).__name__}: only a MetaTensor "
            "knows where its voxels lie."
        )
    if isinstance(attention, Explanation):
        attention = attention.map
    values = without_subclass(
        attention.values if isinstance(attention, AttentionMap) else attention
    )
    single = like.ndim == values.ndim - 1
    axes = 1 if single else 2  # where the spatial ones begin
    batch = 1 if single else len(like)
    if len(values) != batch or values.shape[2:] != like.shape[axes:]:
        raise InputError(
            f"The map has shape {list(values.shape)}, the image {list(like.shape)}: batch and "
            "spatial axes have to be equal, else the image's affine is not the map's. Make maps "
            "on the input's grid, shape='input'."
        )
    found = MetaTensor(values[0] if single else values)
    found.copy_meta_from(like)  # type: ignore[no-untyped-call]  # MONAI's
    found.meta = deepcopy(like.meta)
    found.applied_operations = deepcopy(like.applied_operations)
    return found
