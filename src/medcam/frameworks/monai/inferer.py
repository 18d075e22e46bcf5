"""An inferer that also makes attention maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Literal

import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import Inferer, SimpleInferer, SlidingWindowInferer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medcam.engine.model import isolation, layers, outputs
from medcam.engine.model.isolation import in_eval_mode
from medcam.engine.model.layers import LayerLike
from medcam.engine.model.nested import without_subclass
from medcam.engine.model.outputs import Selector
from medcam.engine.request import Request
from medcam.engine.run import run
from medcam.engine.target.resolution import TargetLike
from medcam.errors import InputError, InputTypeError
from medcam.explanation.explanation import Explanation, explanation_of
from medcam.explanation.volume import explain_volume
from medcam.frameworks.monai.called import Called
from medcam.frameworks.monai.metatensor import as_metatensor
from medcam.frameworks.monai.windows import window_options
from medcam.maps import MapKey
from medcam.methods import MethodLike

_OF_THE_INFERER = ("device", "buffer_steps", "buffer_dim")  # taken from a call's keywords


class AttentionInferer(Inferer):
    """MONAI's inferer that keeps, beside the prediction, where the network looked.

    It is called as any inferer and returns the wrapped inferer's prediction, bit for bit. After
    each call ``attention`` is the map, on the grid of the image and with copies of its meta data
    and applied operations, and ``explanation`` everything about it.

    - `SlidingWindowInferer` (also ``SlidingWindowInfererAdapt``) and `SliceInferer`: the prediction
      is made once; the windows that hold the target are then run again for the map, stitched as
      `medcam.explain_volume` says, with the inferer's own windows and weights. The sums are kept
      where the inferer puts the prediction (its ``device``). For a network in training this second
      run is in evaluation mode, so that nothing of the training changes.
    - `SimpleInferer`: one forward pass gives both, as in `medcam.explain`; where gradients are on,
      the prediction keeps its graph.

    Args:
        inferer: The inferer to wrap; None is `SimpleInferer`.
        layer: As in `medcam.explain`.
        target: As in `medcam.explain`; for windows, of the stitched prediction.
        label: Another name for ``target``.
        method: As in `medcam.explain`.
        output: Which of the network's outputs is explained, as in `medcam.explain`. Dictionaries
            in a sliding window are chosen from by key, not by index, as MONAI sorts them.
        channel_weights: As in `medcam.explain_volume`; only for windows.
        return_attention: Whether a call returns ``(prediction, attention)``.

    Attributes:
        explanation: The last call's; ``.output`` is the prediction without its graph.
        attention: The last call's map ``[batch, targets, *space]``, raw; a MetaTensor where the
            image is one. With several layers or methods a dict, keyed as ``explanation.maps``.

    Raises:
        InputTypeError: An inferer of another kind; a network that is no ``nn.Module``.
        InputError: Options or further inputs of the network that do not fit.

    >>> from monai.networks.nets import UNet
    >>> net = UNet(2, 1, 2, (4, 8), (2,)).eval()
    >>> inferer = AttentionInferer(SlidingWindowInferer((16, 16)), target=1)
    >>> prediction = inferer(torch.rand(1, 1, 24, 24), net)
    >>> inferer.attention.shape
    torch.Size([1, 1, 24, 24])
    """

    explanation: Explanation
    attention: Tensor | dict[MapKey, Tensor]

    def __init__(
        self,
        inferer: Inferer | None = None,
        *,
        layer: LayerLike = "auto",
        target: TargetLike = None,
        label: TargetLike = None,
        method: MethodLike | Iterable[MethodLike] = "gcam",
        output: Selector = None,
        channel_weights: Literal["window", "volume"] = "window",
        return_attention: bool = False,
    ) -> None:
        super().__init__()
        if target is not None and label is not None:
            raise InputError("target= and label= are the same: give one of them.")
        self.inferer = SimpleInferer() if inferer is None else _accepted(inferer)
        self.channel_weights = channel_weights
        self.return_attention = return_attention
        self.request = Request.of(
            method, layer=layer, target=label if target is None else target, output=output
        )

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """The wrapped inferer's prediction.

        Args:
            inputs: The image ``[batch, channels, *space]``.
            network: The network, an ``nn.Module``.
            *args: Further inputs of the network.
            **kwargs: The same; for sliding windows also what the inferer itself takes.

        Returns:
            The prediction, or ``(prediction, attention)`` with ``return_attention=True``.
        """
        model = _model(network)
        if isinstance(self.inferer, SlidingWindowInferer):
            prediction = self.inferer(inputs, network, *args, **kwargs)
            explanation = self._windows(self.inferer, prediction, inputs, model, args, kwargs)
        else:
            explanation = self._whole(inputs, network, model, args, kwargs)
            prediction = explanation.output
        self.explanation = dataclasses.replace(
            explanation, output=isolation.detached_output(prediction)
        )
        self.attention = _attention(self.explanation, inputs, self.request.several)
        return (prediction, self.attention) if self.return_attention else prediction

    def _whole(
        self,
        inputs: Tensor,
        network: nn.Module,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Explanation:
        # Distributed training counts on its wrapper's own forward; others are looked through.
        runs = network if isinstance(network, DistributedDataParallel) else model

        def call(image: Tensor, *more: Any, **named: Any) -> Any:
            return self.inferer(image, runs, *more, **named)

        keep = isolation.keeps_graph(model, (inputs, args, dict(kwargs)))
        result = run(self.request, model, call, (inputs, *args), kwargs, keep_graph=keep)
        return explanation_of(result, model=model)

    def _windows(
        self,
        inferer: SlidingWindowInferer,
        prediction: Any,
        inputs: Tensor,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Explanation:
        if kwargs.get("condition") is not None:
            raise InputError(
                "A condition that is cut into windows beside the image cannot be explained: "
                "concatenate it to the image's channels, or explain without it."
            )
        request = self.request
        space = tuple(inputs.shape[2:])
        if isinstance(prediction, Mapping) and isinstance(request.output, int):
            raise InputError(
                f"output={request.output}: the network returns a dictionary, which MONAI sorts; "
                f"choose by key, one of {list(prediction)}."
            )
        logits = outputs.select(prediction, request.output, batch=len(inputs), space=space)
        # MONAI's stitched MetaTensors are float32, also those of a float64 image.
        logits = logits.to(torch.promote_types(logits.dtype, inputs.dtype))
        named = {key: value for key, value in kwargs.items() if key not in _OF_THE_INFERER}
        if (args or named) and not hasattr(inferer, "spatial_dim"):  # slices get the image alone
            model = Called(model, args, named)
        inference = torch.is_inference_mode_enabled()
        outside = torch.inference_mode(False) if inference else nullcontext()
        with outside, in_eval_mode(model) if model.training else nullcontext():
            return explain_volume(
                model,
                _usable(inputs),
                method=request.methods if request.several else request.methods[0],
                layer=request.layer,
                target=request.target,
                output=request.output,
                channel_weights=self.channel_weights,
                logits=_usable(logits),
                device=logits.device,
                **window_options(inferer, space),
            )


def _accepted(inferer: Inferer) -> Inferer:
    name = type(inferer).__name__
    if not isinstance(inferer, (SimpleInferer, SlidingWindowInferer)):
        raise InputTypeError(
            f"{name} cannot be wrapped: AttentionInferer knows how SlidingWindowInferer, "
            "SliceInferer and SimpleInferer put their predictions together, and no other."
        )
    if getattr(inferer, "with_coord", False):
        raise InputError(
            "with_coord=True hands each window's coordinates to the network; maps are made "
            "without them. Use an inferer with with_coord=False."
        )
    return inferer


def _model(network: Any) -> nn.Module:
    if not isinstance(network, nn.Module):
        raise InputTypeError(
            f"network= is a torch.nn.Module, not {type(network).__name__}: its layers are looked "
            "at. Give what a lambda would add as further arguments: inferer(inputs, network, more)."
        )
    return layers.unwrap(network)


def _usable(tensor: Tensor) -> Tensor:
    """A plain tensor that gradients can be asked of."""
    tensor = without_subclass(tensor.detach())
    return tensor.clone() if tensor.is_inference() else tensor


def _attention(
    explanation: Explanation, inputs: Tensor, several: bool
) -> Tensor | dict[MapKey, Tensor]:
    like = inputs if isinstance(inputs, MetaTensor) else None
    found = {
        key: item.values if like is None else as_metatensor(item, like)
        for key, item in explanation.maps.items()
    }
    return next(iter(found.values())) if len(found) == 1 and not several else found
