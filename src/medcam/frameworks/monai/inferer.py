"""An inferer of MONAI that also makes attention maps."""

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
from medcam.engine.model.undo import undoing
from medcam.engine.request import Placement, Request
from medcam.engine.run import run
from medcam.engine.target.resolution import TargetLike, for_regions
from medcam.errors import InputError, InputTypeError
from medcam.explanation.explanation import Explanation, explanation_of
from medcam.explanation.volume import explain_volume
from medcam.frameworks.monai.bound_network import BoundNetwork
from medcam.frameworks.monai.metatensor import as_metatensor
from medcam.frameworks.monai.window_options import explain_volume_options
from medcam.maps import MapKey
from medcam.methods import MethodLike

# Keywords of a call that `SlidingWindowInferer` takes itself; the others go to the network.
_INFERER_KEYWORDS = ("device", "buffer_steps", "buffer_dim")


class AttentionInferer(Inferer):
    """A wrapper around an inferer of MONAI that keeps an attention map of each call.

    It is called like any inferer and returns the wrapped inferer's prediction, bit for bit. After
    each call ``attention`` is the map, on the grid of the image and with copies of its meta data
    and applied operations. ``explanation`` holds the map's method, layer and target, too.

    - `SlidingWindowInferer` (also ``SlidingWindowInfererAdapt``) and `SliceInferer`: the prediction
      is made once. The windows that hold the target are then run again for the map, which is
      stitched as in `medcam.explain_volume`, with the inferer's own windows and weights. The sums
      are kept on the prediction's device (the inferer's ``device``). For a network in training mode
      this second run is in evaluation mode, so that training is not affected.
    - `SimpleInferer`: one forward pass gives both, as in `medcam.explain`; if gradients are
      enabled, the prediction keeps its graph.

    Args:
        inferer: The inferer to wrap; None is `SimpleInferer`.
        layer: As in `medcam.explain`.
        target: As in `medcam.explain`; for windows, of the stitched prediction.
        label: Another name for ``target``.
        method: As in `medcam.explain`.
        output: Which of the network's outputs is explained, as in `medcam.explain`. With sliding
            windows an item of a dictionary is chosen by key, not by index, as MONAI sorts the keys.
        channel_weights: As in `medcam.explain_volume`; only for windows.
        placement: As in `medcam.explain`.
        regions: Whether the channels are regions that may overlap (a sigmoid for each), so that
            ``target=k`` is `medcam.targets.region_class`.
        return_attention: Whether a call returns ``(prediction, attention)``.

    Attributes:
        explanation: The last call's explanation; ``.output`` is the prediction without its graph.
        attention: The last call's map ``[batch, targets, *space]``, raw; a MetaTensor if the image
            is one. With several layers or methods a dict, keyed as ``explanation.maps``.

    Raises:
        InputTypeError: An unsupported inferer; a network that is no ``nn.Module``.
        InputError: Options or further inputs of the network that do not fit.

    Example:
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
        method: MethodLike | Iterable[MethodLike] = "auto",
        output: Selector = None,
        channel_weights: Literal["window", "volume"] = "volume",
        placement: Placement = "features",
        regions: bool = False,
        return_attention: bool = False,
    ) -> None:
        super().__init__()
        if target is not None and label is not None:
            raise InputError("target= and label= are the same: give one of them.")
        self.inferer = SimpleInferer() if inferer is None else _check_inferer(inferer)
        self.channel_weights = channel_weights
        self.return_attention = return_attention
        explained = label if target is None else target
        self.request = Request.of(
            method, layer=layer, target=for_regions(explained) if regions else explained,
            output=output, placement=placement,
        )  # fmt: skip

    @undoing
    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the wrapped inferer's prediction, and keep its map.

        Args:
            inputs: The image ``[batch, channels, *space]``.
            network: The network, an ``nn.Module``.
            *args: Further inputs of the network.
            **kwargs: Further inputs of the network by keyword; with sliding windows also the
                inferer's own keywords.

        Returns:
            The prediction, or ``(prediction, attention)`` with ``return_attention=True``.
        """
        model = _unwrapped(network)
        if isinstance(self.inferer, SlidingWindowInferer):
            prediction = self.inferer(inputs, network, *args, **kwargs)
            explanation = self._explain_windows(
                self.inferer, prediction, inputs, model, args, kwargs
            )
        else:
            explanation = self._explain_whole(inputs, network, model, args, kwargs)
            prediction = explanation.output
        self.explanation = dataclasses.replace(
            explanation, output=isolation.detached_output(prediction)
        )
        self.attention = _attention_of(self.explanation, inputs, self.request.several)
        return (prediction, self.attention) if self.return_attention else prediction

    def _explain_whole(
        self,
        inputs: Tensor,
        network: nn.Module,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Explanation:
        # Distributed training needs its wrapper's own forward; other wrappers are removed.
        called = network if isinstance(network, DistributedDataParallel) else model

        def infer(image: Tensor, *more_args: Any, **more_kwargs: Any) -> Any:
            return self.inferer(image, called, *more_args, **more_kwargs)

        keep_graph = isolation.keeps_graph(model, (inputs, args, dict(kwargs)))
        result = run(self.request, model, infer, (inputs, *args), kwargs, keep_graph=keep_graph)
        return explanation_of(result, model=model)

    def _explain_windows(
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
                "A condition= that MONAI cuts into windows like the image cannot be explained: "
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
        # MONAI stitches MetaTensors in float32, even for a float64 image.
        logits = logits.to(torch.promote_types(logits.dtype, inputs.dtype))
        network_kwargs = {k: v for k, v in kwargs.items() if k not in _INFERER_KEYWORDS}
        # `SliceInferer`, which has a spatial_dim, calls the network with the image alone.
        if (args or network_kwargs) and not hasattr(inferer, "spatial_dim"):
            model = BoundNetwork(model, args, network_kwargs)
        inference = torch.is_inference_mode_enabled()
        outside_inference_mode = torch.inference_mode(False) if inference else nullcontext()
        with outside_inference_mode, in_eval_mode(model) if model.training else nullcontext():
            return explain_volume(
                model,
                _for_autograd(inputs),
                method=request.methods if request.several else request.methods[0],
                layer=request.layer,
                target=request.target,
                output=request.output,
                channel_weights=self.channel_weights,
                placement=request.placement,
                logits=_for_autograd(logits),
                device=logits.device,
                **explain_volume_options(inferer, space),
            )


def _check_inferer(inferer: Inferer) -> Inferer:
    """Return the inferer, or raise if its predictions cannot be explained."""
    if not isinstance(inferer, (SimpleInferer, SlidingWindowInferer)):
        raise InputTypeError(
            f"{type(inferer).__name__} cannot be wrapped: give AttentionInferer a "
            "SlidingWindowInferer, SliceInferer or SimpleInferer."
        )
    if getattr(inferer, "with_coord", False):
        raise InputError(
            "with_coord=True passes each window's coordinates to the network, but maps are made "
            "without them. Use an inferer with with_coord=False."
        )
    return inferer


def _unwrapped(network: Any) -> nn.Module:
    """Return the network without its wrappers."""
    if not isinstance(network, nn.Module):
        raise InputTypeError(
            f"network= is a torch.nn.Module, not {type(network).__name__}: maps need its layers. "
            "Instead of a lambda, pass further inputs as arguments: inferer(inputs, network, more)."
        )
    return layers.unwrap(network)


def _for_autograd(tensor: Tensor) -> Tensor:
    """Return a plain tensor that autograd can use, also one made in inference mode."""
    tensor = without_subclass(tensor.detach())
    return tensor.clone() if tensor.is_inference() else tensor


def _attention_of(
    explanation: Explanation, inputs: Tensor, several: bool
) -> Tensor | dict[MapKey, Tensor]:
    """Return the only map, or a dict of several; MetaTensors if the image is one."""
    maps = {
        key: as_metatensor(item, inputs) if isinstance(inputs, MetaTensor) else item.values
        for key, item in explanation.maps.items()
    }
    return next(iter(maps.values())) if len(maps) == 1 and not several else maps
