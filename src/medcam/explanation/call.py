"""`medcam.explain`: one call of a model, with its maps."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from typing import Any, Literal

from torch import nn

from medcam.engine.model import layers
from medcam.engine.model.layers import LayerLike
from medcam.engine.model.outputs import Selector
from medcam.engine.request import Request, ShapeRequest
from medcam.engine.run import run
from medcam.engine.target.resolution import TargetLike
from medcam.errors import InputTypeError
from medcam.explanation.explanation import Explanation, explanation_of
from medcam.methods import MethodLike

_REST = ("model", "inputs", "args", "kwargs")
_OTHER_NAMES = {"backend": "method", "label": "target", "data_shape": "shape"}


def explain(
    model: nn.Module,
    inputs: Any = None,
    *args: Any,
    method: MethodLike | Iterable[MethodLike] = "gcam",
    layer: LayerLike = "auto",
    target: TargetLike = None,
    output: Selector = None,
    shape: ShapeRequest = "input",
    memory: Literal["normal", "low"] = "normal",
    **kwargs: Any,
) -> Explanation:
    """Run a model once and return its output with attention maps.

    The model is left as it was: its gradients, flags, buffers, hooks and modes. The prediction is
    ``explanation.output``, without a graph.

    Args:
        model: Any ``nn.Module``. Wrappers (DataParallel, torch.compile) are looked through; a
            compiled model runs eagerly.
        inputs: The model's input ``[batch, channels, *space]`` with 2 or 3 spatial axes; a tuple
            is several positional inputs. Further ``args`` and ``kwargs`` go to the model as they
            are. The maps are on the grid of the first floating-point tensor with spatial axes.
        *args: Further positional inputs of the model.
        method: One of ``medcam.methods.METHODS``, a `medcam.methods.Method`, or several, which share
            the one forward pass:
            ``gcam``, ``gcampp``, ``gbp``, ``ggcam``, ``hirescam``, ``layercam``, ``xgradcam``,
            ``segxrescam``, ``eigencam``, ``saliency``, ``inputxgradient``.
        layer: A name from `medcam.get_layers`; several names; "full" for every layer of which a
            map can be made; or "auto" for the deepest rich features. Where a layer runs several
            times in a call, the last run that the target depends on counts.
        target: What is explained. None is the prediction: the predicted class's logit, and in a
            segmentation its mean over the predicted foreground. "best", "all", a class, one class
            per sample, a callable from the output tensor to scores ``[batch]``, or one of
            `medcam.targets`.
        output: Which tensor of the model's output holds the logits: None (automatic), an index, a
            key or attribute, or a callable.
        shape: The spatial shape of the maps: "input", None for the layer's own, or the extents.
        memory: "low" keeps only the inputs of the network's blocks and recomputes each block in
            the backward pass: the same maps bit for bit, for one more forward pass for each
            backward pass. It is meant for maps of the input (``gbp``, ``ggcam``, ``saliency``,
            ``inputxgradient``) of large volumes, whose graph spans the network; with
            ``layer="full"`` the activations are kept anyway, so little is saved.
        **kwargs: Keyword inputs of the model.

    Returns:
        The explanation: ``.output``, and ``.map`` or ``.maps``.

    Raises:
        InputError: Something given does not fit; the message says what is allowed.
        NoMapError: The model ran, but no map can be made, e.g. since the target does not depend
            on the layer.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
        >>> explanation = explain(net, torch.rand(3, 1, 8, 8), layer="1")
        >>> explanation.output.shape, explanation.map.values.shape
        (torch.Size([3, 2]), torch.Size([3, 1, 8, 8]))
    """
    _check_keywords(model, kwargs)
    request = Request.of(
        method, layer=layer, target=target, output=output, shape=shape, memory=memory
    )
    if isinstance(inputs, tuple):
        args = (*inputs, *args)
    elif inputs is not None:
        args = (inputs, *args)
    model = layers.unwrap(model)
    return explanation_of(run(request, model, model, args, kwargs), model=model)


def _check_keywords(model: nn.Module, kwargs: Iterable[str]) -> None:
    """Raise for keywords that neither `explain` nor the model's forward has."""
    if not kwargs:
        return
    theirs = inspect.signature(model.forward).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in theirs.values())
    ours = [name for name in inspect.signature(explain).parameters if name not in _REST]
    for keyword in kwargs:
        if keyword in theirs:
            continue
        if keyword in _OTHER_NAMES:
            raise InputTypeError(
                f"explain() takes {_OTHER_NAMES[keyword]}= where inject() takes {keyword}=."
            )
        if not takes_any:
            near = difflib.get_close_matches(keyword, [*ours, *theirs], 1)
            hint = f" Did you mean {near[0]}=?" if near else f" explain() has {', '.join(ours)}."
            raise InputTypeError(f"Neither explain() nor the model's forward has {keyword}=.{hint}")
