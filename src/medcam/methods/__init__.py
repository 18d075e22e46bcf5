"""The methods: pure functions from evidence to a map, and the registry, one dict.

The evidence that a method needs is the names of its parameters:

=================  ====================================================================
activations        ``[batch, channels, *layer]``, what the layer put out
gradients          ``[batch, channels, *layer]``, of the score with respect to these
inputs             ``[batch, channels, *space]``, what the model was given
input_gradients    ``[batch, channels, *space]``, of the score with respect to these
guided_gradients   ``[batch, channels, *space]``, the same by guided backpropagation
=================  ====================================================================

A method of a layer returns ``[batch, *layer]``; a method of the input returns
``[batch, channels, *space]``, which is reduced over the channels afterwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from torch import Tensor

from medcam.errors import InputError, InputTypeError, unknown_name
from medcam.methods.eigen_cam import eigen_cam
from medcam.methods.grad_cam import grad_cam, grad_cam_weights
from medcam.methods.grad_cam_pp import grad_cam_pp
from medcam.methods.guided import guided_backpropagation, guided_grad_cam
from medcam.methods.hires_cam import hires_cam
from medcam.methods.layer_cam import layer_cam
from medcam.methods.saliency import input_x_gradient, saliency
from medcam.methods.seg_xres_cam import seg_xres_cam
from medcam.methods.x_grad_cam import x_grad_cam

__all__ = ["METHODS", "Method", "MethodLike", "get"]

_EVIDENCE = ("activations", "gradients", "inputs", "input_gradients", "guided_gradients")


@dataclass(frozen=True)
class Method:
    """A way to turn evidence into a map.

    Attributes:
        name: The name that ``method=`` and ``backend=`` take.
        function: The pure function; its parameters name the evidence.
        title: The name in the literature.
        signed: Whether negative values of the map carry meaning.
        positive_part: Whether in a signed map only the positive part points at the target.
        reduction: How a map of the input becomes one channel: the signed value of "largest"
            magnitude, or the largest "magnitude".
        stitched: How the maps of overlapping windows become one (`medcam.explain_volume`): their
            weighted "mean"; their "sum", where each window's map is a share of the whole; or
            "pooled", where one projection has to serve all windows.
        weights: From gradients to the weights of the layer's channels, for a method that takes
            their means.
    """

    name: str
    function: Callable[..., Tensor]
    title: str
    signed: bool = False
    positive_part: bool = False
    reduction: Literal["largest", "magnitude"] = "largest"
    stitched: Literal["mean", "sum", "pooled"] = "mean"
    weights: Callable[[Tensor], Tensor] | None = None
    evidence: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        parameters = inspect.signature(self.function).parameters
        object.__setattr__(self, "evidence", frozenset(parameters) & frozenset(_EVIDENCE))

    @property
    def of_layer(self) -> bool:
        """Whether the map depends on a layer."""
        return "activations" in self.evidence

    @property
    def of_input(self) -> bool:
        """Whether the map is one of the input's own voxels and channels."""
        return any("input" in name or "guided" in name for name in self.evidence)

    @property
    def rectified(self) -> bool:
        """Whether the map ends in a ReLU that can be left out."""
        return "rectify" in inspect.signature(self.function).parameters

    def of(self, known: Mapping[str, Any]) -> Tensor:
        """The map, from evidence by name, of which the method takes what it needs."""
        return self.function(**{name: known[name] for name in self.evidence})

    def is_weightless(self, known: Mapping[str, Any], values: Tensor) -> Tensor | None:
        """Of which samples the map is zero since all channels' weights are, but not the gradients.

        Args:
            known: The evidence by name.
            values: The map. On the CPU, where it is zero nowhere, nothing more is looked at.

        Returns:
            Flags ``[batch]``; None where the method has no such weights or there are no such maps.
        """
        if self.weights is None or "gradients" not in known:
            return None
        if values.device.type == "cpu" and values.numpy().reshape(len(values), -1).any(1).all():
            return None
        blank = ~values.flatten(1).any(1)
        gradients: Tensor = known["gradients"]
        return blank & (self.weights(gradients) == 0).all(1) & gradients.flatten(1).any(1)

    def reduced(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """A map of the input ``[batch, targets, channels, *space]`` reduced over its channels.

        And beside it the map with its channels, as it was. Of a positive and a negative value of
        the same magnitude the positive one is taken.
        """
        if self.reduction == "magnitude":
            return values.abs().amax(2), values
        high, low = values.amax(2), values.amin(2)  # far faster than argmax
        return high.where(high >= -low, low), values

    def signed_form(self) -> Method:
        """The method without its last ReLU, for maps that are still to be added up."""
        if not self.rectified:
            return self
        function = partial(self.function, rectify=False)
        return replace(self, function=function, signed=True, positive_part=True)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("gcam", grad_cam, "Grad-CAM", weights=grad_cam_weights),
        Method("gcampp", grad_cam_pp, "Grad-CAM++"),
        Method("gbp", guided_backpropagation, "Guided Backpropagation", signed=True),
        Method("ggcam", guided_grad_cam, "Guided Grad-CAM", signed=True, weights=grad_cam_weights),
        Method("hirescam", hires_cam, "HiResCAM", signed=True, positive_part=True, stitched="sum"),
        Method("layercam", layer_cam, "LayerCAM"),
        Method("xgradcam", x_grad_cam, "XGrad-CAM"),
        Method("segxrescam", seg_xres_cam, "Seg-XRes-CAM"),
        Method(
            "eigencam", eigen_cam, "Eigen-CAM", signed=True, positive_part=True, stitched="pooled"
        ),
        Method("saliency", saliency, "Saliency", reduction="magnitude"),
        Method("inputxgradient", input_x_gradient, "Input x Gradient", signed=True),
    )
}

MethodLike = str | Method


def _by_any_name(name: str) -> Method:
    """A method by its title, or by its name in other letters: "Grad-CAM++", "GradCAM", "GCAM"."""

    def plain(text: str) -> str:
        return text.lower().replace("plusplus", "++").translate(str.maketrans("", "", " -_"))

    for method in METHODS.values():
        if plain(name) in (method.name, plain(method.title)):
            return method
    raise unknown_name("Method", name, METHODS)


def get(method: MethodLike, **options: Any) -> Method:
    """A method by name, with its own options, e.g. ``get("segxrescam", pool=4)``.

    Raises:
        UnknownNameError: There is no such method.
        InputError: The method has no such option.

    >>> get("gcam").title
    'Grad-CAM'
    """
    if isinstance(method, str):
        method = METHODS.get(method) or _by_any_name(method)
    if not isinstance(method, Method):
        raise InputTypeError(
            f"method={method!r} is not a method: give a name ({', '.join(METHODS)}) or a Method."
        )
    known = set(inspect.signature(method.function).parameters) - set(_EVIDENCE)
    if not set(options) <= known:
        raise InputError(
            f"{method.title} has no option {', '.join(sorted(set(options) - known))}; "
            f"it has {', '.join(sorted(known)) or 'none'}."
        )
    if options.get("rectify") is False:
        method = method.signed_form()
    return replace(method, function=partial(method.function, **options)) if options else method
