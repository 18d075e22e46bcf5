"""Preparation of a run: the call is checked, its layers and its images are determined."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.jit import ScriptModule

from medcam.engine.model import isolation, layers
from medcam.engine.model.inputs import InputImage, chosen_image, require_images
from medcam.engine.model.nested import without_subclass
from medcam.engine.notices import Notices, notice_non_finite
from medcam.engine.request import Request, check_requested_shape
from medcam.errors import InputTypeError, image_error, warn

_BAD_INPUT = (
    "The input holds NaN or infinite values in sample(s) {samples}, so its maps would, too: "
    "replace these values first."
)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A call whose arguments have been checked.

    Attributes:
        request: The request.
        model: The model whose layers are recorded.
        choice: The layers to record.
        modules: Every module of the model once.
        images: The images among the inputs.
        chosen: The number of the only image that maps lie on; None for all.
        notices: Warnings and errors whose condition has not been read from the device yet.
    """

    request: Request
    model: nn.Module
    choice: layers.LayerChoice
    modules: list[nn.Module]
    images: list[InputImage]
    chosen: int | None
    notices: Notices

    @property
    def image(self) -> Tensor:
        """The main input: the chosen image, or the first."""
        return self.images[self.chosen or 0].tensor


def prepare(
    request: Request, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Prepared:
    """Validate the call before the model runs, and find the layers."""
    if isinstance(model, ScriptModule):
        raise InputTypeError(
            "A TorchScript model has no layers that can be recorded: give the Python model that "
            "was scripted or traced."
        )
    choice = _layer_choice(model, request.layer)
    modules = isolation.modules_of(model)
    images = require_images(args, kwargs, model, named=request.image is not None)
    chosen = chosen_image(images, request.image)
    check_requested_shape(request.shape, images[chosen or 0].space)
    notices = Notices(by_sample=request.by_sample)
    for image in images:
        values = without_subclass(image.tensor.detach())
        if not values.is_floating_point():
            _check_integer_image(request)
            continue
        notice_non_finite(notices, values, image_error(_BAD_INPUT))
    if model.training and _has_training_batch_norm(modules):
        warn(
            "The model is in training mode: its batch normalisation mixes the samples of a batch, "
            "so each map depends on the whole batch. Call model.eval() first."
        )
    return Prepared(request, model, choice, modules, images, chosen, notices)


def _check_integer_image(request: Request) -> None:
    """Raise if a method needs the gradient of an image that holds integers."""
    of_input = [method.title for method in request.methods if method.of_input]
    if of_input:
        raise image_error(
            f"{of_input[0]} needs the gradient of the image, or changes it, and the image holds "
            "integers: give it as floating-point numbers (.float()), or take a method of a layer, "
            "such as gcam."
        )


def _layer_choice(model: nn.Module, layer: layers.LayerLike) -> layers.LayerChoice:
    """Resolve ``layer=`` as `layers.find`; one name is looked up without listing all layers."""
    if isinstance(layer, str) and layer not in ("auto", "full", ""):
        module: nn.Module | None = model
        for name in layer.split("."):
            module = module._modules.get(name) if module is not None else None
        if module is not None:
            return layers.LayerChoice({layer: module})
    return layers.find(model, layer)


def _has_training_batch_norm(modules: Iterable[nn.Module]) -> bool:
    return any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        for module in modules
    )
