"""Calls of other libraries (the peers): one function each, which returns raw maps.

Some peers leave hooks in the network or change flags, so each call gets a copy of the network. The
peers' warnings about their own calls are ignored by their text; all others are errors.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from captum.attr import (
    GuidedBackprop,
    GuidedGradCam,
    InputXGradient,
    LayerGradCam,
    LayerGradientXActivation,
    Saliency,
)
from monai import visualize as monai_visualize
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchcam import methods as torchcam_methods

_GRAD_CAM = {
    "gcam": GradCAM,
    "gcampp": GradCAMPlusPlus,
    "hirescam": HiResCAM,
    "layercam": LayerCAM,
    "xgradcam": XGradCAM,
}
_TORCHCAM = {"gcam": "GradCAM", "layercam": "LayerCAM", "xgradcam": "XGradCAM"}


# Warnings of the peers about their own calls, by library.
_CAPTUM = (
    "Setting backward hooks on ReLU activations",
    "Input Tensor 0 did not already require gradients",
)
_MONAI = ("Full backward hook is firing when gradients are computed",)


@contextmanager
def _quiet(texts: tuple[str, ...]) -> Iterator[None]:
    with warnings.catch_warnings():
        for text in texts:
            warnings.filterwarnings("ignore", message=text, category=UserWarning)
        yield


# --------------------------------------------------------------------------------------- captum


def captum_grad_cam(net: nn.Module, layer: str, x: Tensor, target: list[int]) -> Tensor:
    """``[batch, *layer]``."""
    net = copy.deepcopy(net)
    peer = LayerGradCam(net, net.get_submodule(layer))
    return peer.attribute(x, target=target, relu_attributions=True).detach()[:, 0]


def captum_hires_cam(net: nn.Module, layer: str, x: Tensor, target: list[int]) -> Tensor:
    """``[batch, *layer]``: captum's layer gradient × activation, summed over the channels."""
    net = copy.deepcopy(net)
    peer = LayerGradientXActivation(net, net.get_submodule(layer))
    return peer.attribute(x, target=target).detach().sum(1)


def captum_guided_backprop(net: nn.Module, x: Tensor, target: list[int]) -> Tensor:
    """``[batch, channels, *space]``."""
    with _quiet(_CAPTUM):
        return GuidedBackprop(copy.deepcopy(net)).attribute(x.clone(), target=target).detach()


def captum_guided_grad_cam(net: nn.Module, layer: str, x: Tensor, target: list[int]) -> Tensor:
    """``[batch, channels, *space]``, with linear interpolation (captum's default is "nearest")."""
    net = copy.deepcopy(net)
    mode = {4: "bilinear", 5: "trilinear"}[x.ndim]
    with _quiet(_CAPTUM):
        peer = GuidedGradCam(net, net.get_submodule(layer))
        return peer.attribute(x.clone(), target=target, interpolate_mode=mode).detach()


def captum_saliency(net: nn.Module, x: Tensor, target: list[int]) -> Tensor:
    """``[batch, channels, *space]``, signed."""
    with _quiet(_CAPTUM):
        peer = Saliency(copy.deepcopy(net))
        return peer.attribute(x.clone(), target=target, abs=False).detach()


def captum_input_x_gradient(net: nn.Module, x: Tensor, target: list[int]) -> Tensor:
    """``[batch, channels, *space]``."""
    with _quiet(_CAPTUM):
        return InputXGradient(copy.deepcopy(net)).attribute(x.clone(), target=target).detach()


# ---------------------------------------------------------------------------------------- MONAI


def monai_grad_cam(net: nn.Module, layer: str, x: Tensor, target: list[int]) -> Tensor:
    """``[batch, *layer]``: one sample at a time, since MONAI mixes the samples of a batch."""
    peer = monai_visualize.GradCAM(copy.deepcopy(net), layer)
    with _quiet(_MONAI):
        maps = [peer.compute_map(x[i : i + 1], class_idx=k) for i, k in enumerate(target)]
    return torch.cat(maps).detach()[:, 0]


def monai_grad_cam_at_input(net: nn.Module, layer: str, x: Tensor, target: list[int]) -> Tensor:
    """``[batch, *space]``: MONAI's own upsampling, without its normaliser (1 - minmax)."""
    peer = monai_visualize.GradCAM(copy.deepcopy(net), layer, postprocessing=lambda z: z)
    with _quiet(_MONAI):
        maps = [peer(x[i : i + 1], class_idx=k) for i, k in enumerate(target)]
    return torch.cat(maps)[:, 0]


def monai_saliency(net: nn.Module, x: Tensor, target: list[int]) -> Tensor:
    """``[batch, channels, *space]``: a new object and input each time, as .grad accumulates."""
    maps = [
        monai_visualize.VanillaGrad(copy.deepcopy(net))(x[i : i + 1].clone(), index=k)
        for i, k in enumerate(target)
    ]
    return torch.cat(maps)


def monai_guided_backprop(net: nn.Module, x: Tensor, target: list[int]) -> Tensor:
    """``[batch, channels, *space]``; only modules with "relu" in their name are guided."""
    maps = [
        monai_visualize.GuidedBackpropGrad(copy.deepcopy(net))(x[i : i + 1].clone(), index=k)
        for i, k in enumerate(target)
    ]
    return torch.cat(maps)


# ------------------------------------------------------------------------------------- torchcam


def torchcam_map(method: str, net: nn.Module, layer: str, x: Tensor, target: list[int]) -> Tensor:
    """``[batch, *layer]``."""
    net = copy.deepcopy(net)
    with getattr(torchcam_methods, _TORCHCAM[method])(net, target_layer=layer) as extractor:
        return extractor(target, net(x), normalized=False)[0].detach()


# ----------------------------------------------------------------------------- pytorch-grad-cam


def pytorch_grad_cam_map(
    method: str, net: nn.Module, layer: str, x: Tensor, target: list[int]
) -> Tensor:
    """``[batch, *layer]``, before the library's ReLU and scaling."""
    net = copy.deepcopy(net)
    with _GRAD_CAM[method](net, [net.get_submodule(layer)]) as cam:
        cam(x, targets=[ClassifierOutputTarget(k) for k in target])
        recorded = cam.activations_and_grads
        activations, grads = recorded.activations[0].numpy(), recorded.gradients[0].numpy()
        raw = cam.get_cam_image(None, None, None, activations, grads, False)
    return torch.from_numpy(raw)
