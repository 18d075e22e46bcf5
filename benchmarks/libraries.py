"""The libraries that are measured: name -> a function that makes one map of class 1."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Maker = Callable[[nn.Module, str], Callable[[Tensor], Any]]


def medcam_gcam(net: nn.Module, layer: str) -> Callable[[Tensor], Any]:
    """Ours."""
    import medcam

    return lambda x: medcam.explain(net, x, layer=layer, target=1, shape=None)


def floor(net: nn.Module, layer: str) -> Callable[[Tensor], Any]:
    """The least that PyTorch can do: a hand-written capture from the layer on."""
    module, kept = net.get_submodule(layer), {}

    def begin(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept["a"] = output.detach().requires_grad_()
        return kept["a"].clone()

    def run(x: Tensor) -> Tensor:
        net.requires_grad_(False)
        handle = module.register_forward_hook(begin)
        score = net(x)[:, 1].sum()
        handle.remove()
        (grad,) = torch.autograd.grad(score, kept["a"])
        weights = grad.flatten(2).mean(2)
        return torch.einsum("bk,bk...->b...", weights, kept["a"].detach()).relu()

    return run


def captum(net: nn.Module, layer: str) -> Callable[[Tensor], Any]:
    """Captum's LayerGradCam."""
    from captum.attr import LayerGradCam

    cam = LayerGradCam(net, net.get_submodule(layer))
    return lambda x: cam.attribute(x, target=1, relu_attributions=True)


def torchcam(net: nn.Module, layer: str) -> Callable[[Tensor], Any]:
    """Torchcam's GradCAM."""
    from torchcam.methods import GradCAM

    extractor = GradCAM(net, layer)
    return lambda x: extractor(1, net(x), normalized=False)


def pytorch_grad_cam(net: nn.Module, layer: str) -> Callable[[Tensor], Any]:
    """pytorch-grad-cam's GradCAM."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    cam = GradCAM(net, [net.get_submodule(layer)])
    return lambda x: cam(x, [ClassifierOutputTarget(1)] * len(x))


def monai(net: nn.Module, layer: str) -> Callable[[Tensor], Any]:
    """MONAI's GradCAM."""
    from monai.visualize import GradCAM

    cam = GradCAM(net, layer)
    return lambda x: cam(x, class_idx=1)


LIBRARIES: dict[str, Maker] = {
    "floor": floor,
    "medcam": medcam_gcam,
    "captum": captum,
    "torchcam": torchcam,
    "pytorch-grad-cam": pytorch_grad_cam,
    "MONAI": monai,
}


def make(library: str, net: nn.Module, layer: str) -> Callable[[Tensor], Any]:
    """A library's function, with its own warnings silenced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call = LIBRARIES[library](net, layer)

    def quiet(x: Tensor) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(x)

    return quiet
