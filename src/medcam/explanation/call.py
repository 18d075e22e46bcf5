"""`medcam.explain`: run a model once and return its output with attention maps."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from typing import Any, Literal

from torch import nn

from medcam.engine.model import layers
from medcam.engine.model.layers import LayerLike
from medcam.engine.model.outputs import Selector
from medcam.engine.progress import Progress
from medcam.engine.request import InputLayout, Placement, Request, ShapeRequest
from medcam.engine.run import run
from medcam.engine.target.resolution import TargetLike
from medcam.errors import InputTypeError
from medcam.explanation.explanation import Explanation, explanation_of
from medcam.maps import ImageName
from medcam.methods import MethodLike

_MODEL_PARAMETERS = ("model", "inputs", "args", "kwargs")  # of `explain`; all others are options
_INJECT_NAMES = {"backend": "method", "label": "target", "data_shape": "shape"}


def explain(
    model: nn.Module,
    inputs: Any = None,
    *args: Any,
    method: MethodLike | Iterable[MethodLike] = "auto",
    layer: LayerLike = "auto",
    target: TargetLike = None,
    output: Selector = None,
    shape: ShapeRequest = "input",
    memory: Literal["normal", "low"] = "normal",
    image: ImageName | None = None,
    placement: Placement = "features",
    layout: InputLayout = "auto",
    cudnn: bool = True,
    progress: Progress = False,
    **kwargs: Any,
) -> Explanation:
    """Run a model once and return its output with attention maps.

    The call changes nothing in the model: gradients, flags, buffers, hooks and modes stay as they
    were. ``explanation.output`` is the prediction, without an autograd graph.

    Args:
        model: Any ``nn.Module``. DataParallel and torch.compile wrappers are removed for the call;
            a compiled model runs eagerly.
        inputs: The model's input ``[batch, channels, *space]`` with 2 or 3 spatial axes, or a tuple
            of several positional inputs. Further ``args`` and ``kwargs`` are passed to the model
            unchanged. Floating-point tensors with spatial axes are images, also inside dicts, lists
            and tuples; without one, signals ``[batch, channels, time]`` of a model with 1D
            convolutions or poolings. If the target depends on several images, there is a map for
            each.
        *args: Further positional inputs of the model.
        method: "auto", a name in `medcam.methods.METHODS`, a `medcam.methods.Method`, or several,
            which share one forward pass. "auto" is Grad-CAM for a classification,
            LayerCAM for a class of a segmentation, and Seg-XRes-CAM for a part of one, such as a
            region (docs/methods.md has the measurements). The names are ``gcam``,
            ``gcampp``, ``gbp``, ``ggcam``, ``hirescam``, ``layercam``, ``xgradcam``,
            ``segxrescam``, ``eigencam``, ``saliency``, ``inputxgradient``; and ``smoothgrad``,
            ``intgrad``, ``occlusion``, ``rise``, ``scorecam``, ``ablationcam``, which run the model
            again on changed images (`medcam.methods` has functions with their options).
        layer: A name from `medcam.get_layers`; several names; "full" for every layer that a map can
            be made of; or "auto" for the deepest feature-rich layer. If a layer runs on several
            images, or on the slices of one, each run has its map; if it runs several times on the
            same part of an image, the map is that of the last run that the target depends on, with
            a warning.
        target: What to explain. None: the prediction, which is the logit of the predicted class; in
            a segmentation its mean over the predicted foreground. Also "best", "all", a class, one
            class per sample, a callable from the output tensor to scores ``[batch]``, or one of
            `medcam.targets`.
        output: Which tensor of the model's output holds the logits: an index, a key or attribute,
            or a callable. None: automatic.
        shape: The spatial shape of the maps: "input", None for the layer's own, or the extents.
        memory: "low" keeps only the inputs of the network's blocks and recomputes each block in the
            backward pass (checkpointing). The maps are the same bit for bit; each backward pass
            costs one more forward pass. Use it for maps of the input (``gbp``, ``ggcam``,
            ``saliency``, ``inputxgradient``) of large volumes, whose graph spans the network. With
            ``layer="full"`` the activations are kept anyway, so little is saved.
        image: The image that maps are made of, if there are several: the name of its parameter, its
            key, or its position among the images. None: every image that the target depends on.
        placement: "features" places a map where the layer's features lie on the input, which
            follows from the kernels, strides and paddings (`medcam.LayerGrid`); "resize" stretches
            it over the input, as other libraries do.
        layout: "bag" if the first axis of the input is slices or views of one case, not the batch;
            the maps are then ``[1, targets, slices, *space]``. "auto": where the output does not
            hold the samples of that axis.
        cudnn: False disables cuDNN during the call, whose recurrent layers have no backward pass in
            evaluation mode.
        progress: True for a progress bar, or a function ``(done, total)``, of methods that run the
            model again on changed images.
        **kwargs: Keyword inputs of the model.

    Returns:
        The explanation: ``.output``, and ``.map`` or ``.maps``.

    Raises:
        InputError: An argument does not fit; the message says what is allowed.
        NoMapError: The model ran, but no map can be made, e.g. because the target does not depend
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
        method, layer=layer, target=target, output=output, shape=shape, memory=memory, image=image,
        placement=placement, layout=layout, cudnn=cudnn, progress=progress,
    )  # fmt: skip
    if isinstance(inputs, tuple):
        args = (*inputs, *args)
    elif inputs is not None:
        args = (inputs, *args)
    model = layers.unwrap(model)
    return explanation_of(run(request, model, model, args, kwargs), model=model)


def _check_keywords(model: nn.Module, kwargs: Iterable[str]) -> None:
    """Raise for keywords that neither `explain` nor the model's forward accepts."""
    if not kwargs:
        return
    accepted = inspect.signature(model.forward).parameters
    accepts_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    signature = inspect.signature(explain)
    options = [name for name in signature.parameters if name not in _MODEL_PARAMETERS]
    for keyword in kwargs:
        if keyword in accepted:
            continue
        if keyword in _INJECT_NAMES:
            raise InputTypeError(
                f"explain() takes {_INJECT_NAMES[keyword]}= where inject() takes {keyword}=."
            )
        if not accepts_any:
            near = difflib.get_close_matches(keyword, [*options, *accepted], 1)
            hint = f" Did you mean {near[0]}=?" if near else f" explain() has {', '.join(options)}."
            raise InputTypeError(f"Neither explain() nor the model's forward has {keyword}=.{hint}")
