"""Tokens and features with channels last of published networks, against their layers by hand.

The grids are those of the patch embeddings, written down here; nothing is inferred from shapes.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor, nn

import medcam

from .networks import timm, transformers  # after torchvision's shim, without torch's warnings


class MonaiSwin(nn.Module):
    """MONAI's Swin with as many channels as cells along an axis, as SwinUNETR has by default."""

    def __init__(self):
        super().__init__()
        self.swin = SwinTransformer(
            1, 12, (3, 3, 3), (2, 2, 2), (1, 1, 1, 1), (1, 2, 2, 4), mlp_ratio=2.0
        )
        self.head = nn.Linear(192, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.swin(x)[-1].mean((2, 3, 4)))


class Logits(nn.Module):
    """A model of transformers that returns its logits as a tensor."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


def video_swin():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's own, about TorchScript
        from torchvision.models.video.swin_transformer import SwinTransformer3d
    return SwinTransformer3d([2, 4, 4], 16, [1] * 4, [1, 2, 4, 8], [4] * 3, num_classes=3)


def video_mae():
    config = transformers.VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=8, tubelet_size=2, hidden_size=24,
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=3,
    )  # fmt: skip
    return Logits(transformers.VideoMAEForVideoClassification(config))


def timm_swin():
    return timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=96, window_size=6, depths=(1, 1, 1, 1),
        embed_dim=24, num_heads=(1, 2, 2, 4), num_classes=3,
    )  # fmt: skip


def timm_vit(registers, *, class_token):
    return timm.models.vision_transformer.VisionTransformer(
        img_size=(32, 48), patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=3,
        reg_tokens=registers, class_token=class_token,
        global_pool="token" if class_token else "avg",
    )  # fmt: skip


def last(grid):
    return lambda values: values.movedim(-1, 1)


def tokens(grid, before=0):
    return lambda values: values[:, before:].transpose(1, 2).unflatten(2, grid)


CASES = {
    "MONAI Swin, 24³": (MonaiSwin, (1, 24, 24, 24), [
        ("swin.layers1.0.blocks.0", last((12, 12, 12)), 2), ("swin.layers2.0.blocks.0", last(0), 4),
        ("swin.layers3.0.blocks.0", last(0), 8),
    ]),
    "Video Swin": (video_swin, (3, 8, 32, 32), [
        ("features.0", last(0), (2, 4, 4)), ("features.2", last(0), (2, 8, 8)),
        ("features.4", last(0), (2, 16, 16)),
    ]),
    "VideoMAE": (video_mae, None, [
        ("model.videomae.encoder.layer.0", tokens((4, 4, 4)), (2, 8, 8)),
    ]),
    "timm Swin": (timm_swin, (3, 96, 96), [
        ("layers.0", last(0), 4), ("layers.1", last(0), 8), ("norm", last(0), 32),
    ]),
    **{
        f"timm ViT, {registers} registers{', class token' * class_token}": (
            lambda r=registers, c=class_token: timm_vit(r, class_token=c), (3, 32, 48),
            [("blocks.0", tokens((4, 6), registers + class_token), 8)],
        )
        for registers, class_token in [(0, True), (1, False), (3, True), (4, False), (8, True)]
    },
}  # fmt: skip


def by_hand(net: nn.Module, x: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Return a layer's output and the gradient of the second class with respect to it."""
    runs: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, i, o: runs.append(o))
    score = net(x)[0, 1]
    handle.remove()
    value = runs[-1] if isinstance(runs[-1], Tensor) else runs[-1][0]
    (gradient,) = torch.autograd.grad(score, value)
    return value, gradient


@pytest.mark.parametrize("name", CASES)
def test_layers_are_read_as_their_networks_make_them(name):
    build, shape, layers = CASES[name]
    torch.manual_seed(0)
    net = build().double().eval()
    frames_first = (1, 8, 3, 32, 32)
    x = torch.rand(frames_first if shape is None else (1, *shape)).double()
    for layer, read, step in layers:
        value, gradient = by_hand(net, x, layer)
        expected = (read(value) * read(gradient)).sum(1, keepdim=True).detach()
        item = medcam.explain(net, x, layer=layer, target=1, method="hirescam", shape=None).map
        torch.testing.assert_close(item.values, expected, rtol=0, atol=1e-12)
        assert item.grid.known
        steps = (step,) * (item.values.ndim - 2) if isinstance(step, int) else step
        assert item.grid.step == tuple(map(float, steps))
        starts = [(length - 1) / 2 for length in steps]  # patches tile the input
        assert item.grid.start == pytest.approx(starts)
