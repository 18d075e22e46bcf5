"""References for stitched maps: MONAI's own inferer, and loops over its windows."""

from __future__ import annotations

import numpy as np
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import sliding_window_inference
from monai.inferers.utils import _get_scan_interval
from scipy import ndimage
from torch import nn

from support.nets import conv


class Net(nn.Module):
    """A segmentation network with features at full and at half size."""

    def __init__(self, dims=2, channels=1, classes=3):
        super().__init__()
        self.fine = nn.Sequential(conv(dims, channels, 5, 3, padding=1), nn.ReLU())
        norm = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims]
        self.coarse = nn.Sequential(
            conv(dims, 5, 6, 3, padding=1, stride=2), norm(6), nn.LeakyReLU(0.1)
        )
        self.head = conv(dims, 5 + 6, classes, 1)
        self.mode = {2: "bilinear", 3: "trilinear"}[dims]

    def forward(self, x):
        fine = self.fine(x)
        up = nn.functional.interpolate(self.coarse(fine), fine.shape[2:], mode=self.mode)
        return self.head(torch.cat([fine, up], 1))


def net(dims=2, channels=1, classes=3, dtype=torch.float64):
    torch.manual_seed(5)
    model = Net(dims, channels, classes).to(dtype).eval()
    torch.nn.init.normal_(model.head.weight)  # every class is predicted somewhere
    return model


def placed(cam, roi):
    """Return maps of a layer of `Net` on a window: a cell of ``coarse`` is centred at voxel 2i."""
    if tuple(cam.shape[2:]) == tuple(roi):
        return cam
    at = np.meshgrid(*[np.arange(extent) / 2 for extent in roi], indexing="ij")
    rows = [
        ndimage.map_coordinates(single, at, order=1, mode="nearest") for single in cam.flatten(0, 1)
    ]
    return torch.from_numpy(np.stack(rows)).unflatten(0, cam.shape[:2]).to(cam.dtype)


def through_monai(model, x, roi, mode="gaussian", **options):
    """Return the prediction of MONAI's sliding-window inference, with its graph."""
    return sliding_window_inference(x, roi, 1, model, mode=mode, **options)


class Sliding(nn.Module):
    """A network whose forward is MONAI's sliding-window inference."""

    def __init__(self, model, roi, **options):
        super().__init__()
        self.model, self.roi, self.options = model, roi, options

    def forward(self, x):
        return through_monai(self.model, x, self.roi, **self.options)


def windows(space, roi, mode="gaussian", overlap=0.25):
    """Return MONAI's windows, their weight map, and the sum and count of weights per voxel."""
    steps = _get_scan_interval(space, roi, len(space), [overlap] * len(space))
    slices = dense_patch_slices(space, roi, steps)
    weight = compute_importance_map(tuple(roi), mode=mode).double()
    total = torch.zeros(space, dtype=torch.float64)
    count = torch.zeros(space, dtype=torch.float64)
    for window in slices:
        total[window] += weight
        count[window] += 1
    return slices, weight, total, count


def evidence(model, layer, x, seed):
    """Return a window's activations and gradients, by a forward hook and `backward`."""
    kept = {}

    def hook(module, inputs, output):
        kept["a"] = output
        output.retain_grad()

    handle = model.get_submodule(layer).register_forward_hook(hook)
    out = model(x.clone().requires_grad_())
    handle.remove()
    (out * seed).sum().backward()
    model.zero_grad()
    return kept["a"].detach(), kept["a"].grad
