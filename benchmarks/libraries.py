"""One call of each measured library, which makes maps of class 1.

Each function takes a network and the name of a layer, and returns the call. Captum, torchcam,
pytorch-grad-cam and MONAI are imported only in the processes that measure them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Call = Callable[[Tensor], Any]
Maker = Callable[[nn.Module, str], Call]


def ours(**overrides: Any) -> Maker:
    """Return a maker of `medcam.explain` calls; maps have the layer's size, as in other libraries.

    Args:
        overrides: Keyword arguments of `medcam.explain`.
    """

    def maker(net: nn.Module, layer: str) -> Call:
        import medcam

        options = {"layer": layer, "target": 1, "shape": None, **overrides}
        return lambda x: medcam.explain(net, x, **options)

    return maker


def all_cams(net: nn.Module, layer: str) -> Call:
    """Return one call with all methods that need only a layer's activations and gradients."""
    from medcam.methods import METHODS

    cams = [m for m in METHODS if METHODS[m].evidence == {"activations", "gradients"}]
    return ours(method=cams)(net, layer)


def _grad_cam(activations: Tensor, grad: Tensor) -> Tensor:
    weights = grad.flatten(2).mean(2)
    return torch.einsum("bk,bk...->b...", weights, activations.detach()).relu()


def floor(net: nn.Module, layer: str) -> Call:
    """Return the floor, the least that PyTorch has to do: one hook, the graph from the layer on."""
    module, kept = net.get_submodule(layer), {}
    net.requires_grad_(False)

    def begin(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept["a"] = output.detach().requires_grad_()
        return kept["a"].clone()

    def run(x: Tensor) -> Tensor:
        handle = module.register_forward_hook(begin)
        score = net(x)[:, 1].sum()
        handle.remove()
        return _grad_cam(kept["a"], *torch.autograd.grad(score, kept["a"]))

    return run


def floor_input(net: nn.Module, layer: str) -> Call:
    """Return the floor of an input gradient; the clamping of guided backpropagation is left out."""
    net.requires_grad_(False)

    def run(x: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(net(leaf.clone())[:, 1].sum(), leaf)[0]

    return run


def floor_both(net: nn.Module, layer: str) -> Call:
    """Return the floor of Guided Grad-CAM: one forward pass, layer and input gradients."""
    module, kept = net.get_submodule(layer), {}
    net.requires_grad_(False)

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept["a"] = output
        return output.clone()

    def run(x: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        handle = module.register_forward_hook(keep)
        score = net(leaf.clone())[:, 1].sum()
        handle.remove()
        (grad,) = torch.autograd.grad(score, kept["a"], retain_graph=True)
        (guided,) = torch.autograd.grad(score, leaf)
        cam = _grad_cam(kept["a"], grad)[:, None]
        return guided * nn.functional.interpolate(cam, x.shape[2:], mode="bilinear")

    return run


def floor_full(net: nn.Module, layer: str) -> Call:
    """Return the floor of all layers with spatial axes: one hook per layer, one backward pass."""
    net.requires_grad_(False)
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        if output.ndim < 4 or max(output.shape[2:]) == 1:
            return None
        kept.append(output if output.requires_grad else output.detach().requires_grad_())
        return kept[-1].clone()

    def run(x: Tensor) -> list[Tensor]:
        kept.clear()
        modules = [module for name, module in net.named_modules() if name]
        handles = [module.register_forward_hook(keep) for module in modules]
        score = net(x)[:, 1].sum()
        for handle in handles:
            handle.remove()
        grads = torch.autograd.grad(score, kept)
        return [_grad_cam(a, grad) for a, grad in zip(kept, grads, strict=True)]

    return run


def captum(net: nn.Module, layer: str) -> Call:
    """Return a call of captum's LayerGradCam."""
    from captum.attr import LayerGradCam

    cam = LayerGradCam(net, net.get_submodule(layer))
    return lambda x: cam.attribute(x, target=1, relu_attributions=True)


def captum_guided(net: nn.Module, layer: str) -> Call:
    """Return a call of captum's GuidedBackprop."""
    from captum.attr import GuidedBackprop

    method = GuidedBackprop(net)
    return lambda x: method.attribute(x.clone().requires_grad_(), target=1)


def captum_guided_cam(net: nn.Module, layer: str) -> Call:
    """Return a call of captum's GuidedGradCam."""
    from captum.attr import GuidedGradCam

    method = GuidedGradCam(net, net.get_submodule(layer))
    return lambda x: method.attribute(
        x.clone().requires_grad_(), target=1, interpolate_mode="bilinear"
    )


def torchcam(net: nn.Module, layer: str) -> Call:
    """Return a call of torchcam's GradCAM."""
    from torchcam.methods import GradCAM

    extractor = GradCAM(net, layer)
    return lambda x: extractor(1, net(x), normalized=False)


def pytorch_grad_cam(net: nn.Module, layer: str) -> Call:
    """Return a call of pytorch-grad-cam's GradCAM."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    cam = GradCAM(net, [net.get_submodule(layer)])
    return lambda x: cam(x, [ClassifierOutputTarget(1)] * len(x))


def monai(net: nn.Module, layer: str) -> Call:
    """Return a call of MONAI's GradCAM."""
    from monai.visualize import GradCAM

    cam = GradCAM(net, layer)
    return lambda x: cam(x, class_idx=1)


def quiet(maker: Maker, net: nn.Module, layer: str) -> Call:
    """Return a library's call without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call = maker(net, layer)

    def silent(x: Tensor) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(x)

    return silent
