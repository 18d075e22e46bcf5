"""Transforms that add an attention map to an image, or to a dictionary of images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Literal

import torch
from monai.config.type_definitions import KeysCollection, NdarrayOrTensor
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import Inferer
from monai.transforms.transform import MapTransform, Transform
from monai.utils.type_conversion import convert_to_tensor
from torch import Tensor, nn

from medcam.engine.model.layers import LayerLike
from medcam.engine.model.outputs import Selector
from medcam.engine.request import Placement
from medcam.engine.target.resolution import TargetLike
from medcam.errors import InputError
from medcam.frameworks.monai.inferer import AttentionInferer
from medcam.frameworks.monai.metatensor import as_metatensor
from medcam.methods import MethodLike


class AttentionMapTransform(Transform):
    """An array transform from an image ``[channels, *space]`` to its map ``[targets, *space]``.

    The map is a MetaTensor with copies of the image's meta data and applied operations, in floating
    point and raw units, on the image's device. The network should be in evaluation mode.

    Args:
        network: The network; the image is moved to its device.
        inferer: As in `AttentionInferer`.
        layer: One layer, as in `medcam.explain`.
        target: As in `medcam.explain`.
        method: One method, as in `medcam.explain`.
        output: As in `medcam.explain`.
        channel_weights: As in `medcam.explain_volume`; only for windows.
        placement: As in `medcam.explain`.

    Attributes:
        inferer: The `AttentionInferer`, which keeps the last explanation and prediction.

    Example:
        >>> from monai.networks.nets import UNet
        >>> net = UNet(2, 1, 2, (4, 8), (2,)).eval()
        >>> AttentionMapTransform(net, target=1)(torch.rand(1, 16, 16)).shape
        torch.Size([1, 16, 16])
    """

    def __init__(
        self,
        network: nn.Module,
        inferer: Inferer | None = None,
        *,
        layer: LayerLike = "auto",
        target: TargetLike = None,
        method: MethodLike = "auto",
        output: Selector = None,
        channel_weights: Literal["window", "volume"] = "volume",
        placement: Placement = "features",
    ) -> None:
        super().__init__()
        self.network = network
        self.inferer = require_one_map(
            AttentionInferer(
                inferer, layer=layer, target=target, method=method, output=output,
                channel_weights=channel_weights, placement=placement,
            )
        )  # fmt: skip

    def __call__(self, img: NdarrayOrTensor) -> MetaTensor:
        """Return the map of one image.

        Args:
            img: The image ``[channels, *space]``.
        """
        return self.both(img)[0]

    def both(self, img: NdarrayOrTensor) -> tuple[MetaTensor, Any]:
        """Return the map, and the network's prediction without its batch axis."""
        image = convert_to_tensor(img, track_meta=True)
        device = next(self.network.parameters(), image).device
        with torch.no_grad():
            prediction = self.inferer(image[None].to(device), self.network)
        values = self.inferer.explanation.map.values.to(image.device)
        attention = as_metatensor(values, image)
        return attention, prediction[0] if isinstance(prediction, Tensor) else prediction


class AttentionMapd(MapTransform):
    """A dictionary transform that adds ``{key}_attention`` for each key.

    See `AttentionMapTransform`. To save a map on the grid of its image's file::

        Compose([
            AttentionMapd("image", network, SlidingWindowInferer((96, 96, 96)), target=1),
            Invertd("image_attention", preprocessing, orig_keys="image", nearest_interp=False),
            SaveImaged("image_attention", output_postfix="attention", resample=False),
        ])

    Args:
        keys: The keys of the images.
        network: The network.
        inferer: As in `AttentionInferer`.
        layer: One layer, as in `medcam.explain`.
        target: As in `medcam.explain`.
        method: One method, as in `medcam.explain`.
        output: As in `medcam.explain`.
        channel_weights: As in `medcam.explain_volume`; only for windows.
        placement: As in `medcam.explain`.
        output_postfix: The last part of the map's key, after an underscore.
        prediction_postfix: The same for the prediction; None: the prediction is not added.
        allow_missing_keys: Whether a key may be missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        network: nn.Module,
        inferer: Inferer | None = None,
        *,
        layer: LayerLike = "auto",
        target: TargetLike = None,
        method: MethodLike = "auto",
        output: Selector = None,
        channel_weights: Literal["window", "volume"] = "volume",
        placement: Placement = "features",
        output_postfix: str = "attention",
        prediction_postfix: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_postfix = output_postfix
        self.prediction_postfix = prediction_postfix
        self.transform = AttentionMapTransform(
            network, inferer, layer=layer, target=target, method=method, output=output,
            channel_weights=channel_weights, placement=placement,
        )  # fmt: skip

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the dictionary with the maps added."""
        result = dict(data)
        for key in self.key_iterator(result):
            attention, prediction = self.transform.both(result[key])
            result[f"{key}_{self.output_postfix}"] = attention
            if self.prediction_postfix is not None:
                result[f"{key}_{self.prediction_postfix}"] = prediction
        return result


def require_one_map(inferer: AttentionInferer) -> AttentionInferer:
    """Return the inferer, or raise if its calls make several maps.

    Raises:
        InputError: There are several methods or layers.
    """
    request = inferer.request
    several = request.several or not isinstance(request.layer, (str, type(None)))
    if several or request.layer == "full":
        raise InputError(
            "Several methods or layers make several maps, but one key holds one map: take one "
            "method and one layer, and use a transform or handler for each map."
        )
    return inferer


AttentionMapD = AttentionMapDict = AttentionMapd
