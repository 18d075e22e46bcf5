"""Maps as MetaTensors, with the affine and the applied operations of their image."""

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
    """Return a map as a MetaTensor on the grid of its image.

    It gets copies of the image's meta data and applied operations. So ``Invertd`` inverts the
    image's transforms on the map, and ``SaveImaged`` writes the map with the image's affine.

    Args:
        attention: An explanation of one map, a map, or its values ``[batch, targets, *space]``.
        like: The image ``[batch, channels, *space]`` that was explained, or one image without a
            batch axis, ``[channels, *space]``.

    Returns:
        Raw values ``[batch, targets, *space]``; ``[targets, *space]`` for an image without a
        batch axis.

    Raises:
        InputError: The explanation holds several maps, or the map is not on the image's grid.
        InputTypeError: ``like`` is no MetaTensor.

    Example:
        >>> import torch
        >>> affine = torch.diag(torch.tensor([2.0, 2, 1, 1]))
        >>> image = MetaTensor(torch.rand(1, 4, 4), affine=affine)
        >>> as_metatensor(torch.rand(1, 1, 4, 4), image).pixdim.tolist()
        [2.0, 2.0]
    """
    if not isinstance(like, MetaTensor):
        raise InputTypeError(
            f"like= is the image as a MetaTensor, not {type(like).__name__}: only a MetaTensor "
            "holds an affine."
        )
    if isinstance(attention, Explanation):
        attention = attention.map
    values = without_subclass(
        attention.values if isinstance(attention, AttentionMap) else attention
    )
    single = like.ndim == values.ndim - 1
    first_spatial_axis = 1 if single else 2
    batch = 1 if single else len(like)
    if len(values) != batch or values.shape[2:] != like.shape[first_spatial_axis:]:
        raise InputError(
            f"The map has shape {list(values.shape)}, the image {list(like.shape)}: batch and "
            "spatial axes have to be equal, else the image's affine is not the map's. Make maps "
            "on the input's grid, shape='input'."
        )
    result = MetaTensor(values[0] if single else values)
    result.copy_meta_from(like)  # type: ignore[no-untyped-call]  # MONAI's
    result.meta = deepcopy(like.meta)
    result.applied_operations = deepcopy(like.applied_operations)
    return result
