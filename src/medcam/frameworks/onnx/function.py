"""Functions of arrays or tensors as modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from medcam.engine.model.opaque import Opaque
from medcam.errors import InputError, InputTypeError, foreign_errors
from medcam.frameworks.onnx.session import beside


def from_callable(
    function: Callable[[Any], Any], *, takes: Literal["array", "tensor"] = "array"
) -> nn.Module:
    """Return a function of images as a module: of scikit-learn, TensorFlow or a remote service.

    Args:
        function: Takes images ``[batch, channels, *space]``, a copy that it may change, and
            returns scores ``[batch, classes]``, scores ``[batch]`` of class 1 of two, or logits
            ``[batch, classes, *space]``: an array, a tensor or a list, or a dict of these. It has
            to take any number of images, and to return the same for the same image.
        takes: Whether it takes a NumPy array or a tensor.

    Raises:
        InputError: ``takes`` is neither.
        InputTypeError: ``function`` cannot be called.

    Example:
        >>> import medcam
        >>> model = from_callable(lambda images: images[:, 0, :4, :4].mean((1, 2)))
        >>> image = torch.rand(1, 1, 8, 8)
        >>> attention = medcam.explain(model, image, method="occlusion", target=1).map.values
        >>> bool(attention[..., 4:, 4:].any())
        False
    """
    if not callable(function):
        raise InputTypeError(f"from_callable() takes a function, not {type(function).__name__}.")
    if takes not in ("array", "tensor"):
        raise InputError(f"takes={takes!r}: choose 'array' or 'tensor'.")
    return CallableModel(function, takes == "array")


class CallableModel(Opaque):
    """Function of images as a module; see `from_callable`."""

    def __init__(self, function: Callable[[Any], Any], takes_array: bool) -> None:
        super().__init__()
        self._function = function
        self._takes_array = takes_array

    def forward(self, images: Tensor) -> Any:
        """Return what the function returns, as tensors.

        Raises:
            InputError: It does not return one row for each image.
        """
        copied = images.detach().clone()
        with torch.no_grad():
            result = self._function(copied.cpu().numpy() if self._takes_array else copied)
        if isinstance(result, Mapping):
            rows: Any = {name: self._rows(value, images) for name, value in result.items()}
        else:
            rows = self._rows(result, images)
        return self.barred(rows, [images])

    def _rows(self, result: Any, images: Tensor) -> Tensor:
        """Return scores as a tensor ``[batch, classes, *space]`` beside the images."""
        with foreign_errors("The function has to return numbers", kind=InputTypeError):
            values = result if isinstance(result, Tensor) else torch.from_numpy(np.array(result))
        if not values.ndim or len(values) != len(images):
            raise InputError(
                f"The function returned the shape {list(values.shape)} for {len(images)} image(s): "
                "it has to return one row for each, [batch, classes]."
            )
        values = beside(values.detach(), images)
        return values[:, None] if values.ndim == 1 else values
