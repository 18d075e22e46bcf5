"""Detectors: torchvision's and MONAI's, small and with random weights, and one of our own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from support.torchvision_shim import make_importable


def make_detectors_runnable() -> None:
    """Implement what torchvision's compiled extension is needed for, if it does not load."""
    make_importable()
    from torchvision import extension, ops

    if extension._has_ops():
        return
    if not torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", "CPU"):
        torch.library.impl("torchvision::nms", "CPU", nms)
    ops.boxes._assert_has_ops = lambda: None
    # without the extension torchvision compiles its own Python code, which takes a compiler
    align = ops.roi_align.__globals__["_roi_align"]
    ops.roi_align.__globals__["_roi_align"] = getattr(align, "__wrapped__", align)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return the boxes that non-maximum suppression keeps, as ``torchvision.ops.nms``."""
    from torchvision.ops import box_iou

    kept: list[int] = []
    for index in scores.detach().argsort(descending=True, stable=True).tolist():
        others = boxes[kept].detach()
        if (
            not kept
            or float(box_iou(boxes[index : index + 1].detach(), others).max()) <= iou_threshold
        ):
            kept.append(index)
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)


class OfTensor(nn.Module):
    """A detector that takes a batch ``[batch, channels, H, W]`` in place of a list of images."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        return self.detector(list(x))


class Backbone(nn.Sequential):
    """A backbone of stride 4, as torchvision's detectors take it."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        )  # fmt: skip


class CellDetector(nn.Module):
    """A detector whose boxes are the cells of a grid, each scored for three classes.

    Args:
        keep: The number of boxes in each image, the best-scored first.
    """

    def __init__(self, keep: int = 6) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.features = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU())
        self.logits = nn.Conv2d(6, 3, 3, 2, 1)
        self.keep = keep

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        scores = self.logits(self.features(x)).sigmoid()  # stride 4
        rows, columns = torch.meshgrid(
            *(torch.arange(extent) for extent in scores.shape[2:]), indexing="ij"
        )
        corners = torch.stack([columns, rows, columns + 1, rows + 1], -1).reshape(-1, 4) * 4.0
        images = []
        for image in scores:
            best, labels = image.flatten(1).max(0)
            order = best.argsort(descending=True)[: self.keep]
            images.append({"boxes": corners[order], "labels": labels[order], "scores": best[order]})
        return images


def torchvision_detector(kind: str) -> OfTensor:
    """Return "retinanet", "fcos" or "fasterrcnn" of torchvision, with three classes."""
    make_detectors_runnable()
    from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    size = {"min_size": 32, "max_size": 64}
    torch.manual_seed(3)
    if kind == "retinanet":
        anchors = AnchorGenerator(((8, 16),), ((1.0,),))
        detector = RetinaNet(Backbone(), 3, anchor_generator=anchors, score_thresh=0.0, **size)
    elif kind == "fcos":
        anchors = AnchorGenerator(((8,),), ((1.0,),))
        detector = FCOS(Backbone(), 3, anchor_generator=anchors, score_thresh=0.0, **size)
    else:
        detector = FasterRCNN(
            Backbone(), 3, rpn_anchor_generator=AnchorGenerator(((8, 16),), ((1.0,),)),
            box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2), box_score_thresh=0.0, **size,
        )  # fmt: skip
    for parameter in detector.parameters():  # scores that differ from place to place
        nn.init.normal_(parameter, std=0.07)
    return OfTensor(detector).eval()


def monai_detector(dims: int = 2) -> nn.Module:
    """Return MONAI's RetinaNet detector, with two classes."""
    make_importable()
    from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
    from monai.apps.detection.networks.retinanet_network import (
        RetinaNet,
        resnet_fpn_feature_extractor,
    )
    from monai.apps.detection.utils.anchor_utils import AnchorGenerator
    from monai.networks.nets import resnet10

    torch.manual_seed(3)
    backbone = resnet10(
        spatial_dims=dims, n_input_channels=1, conv1_t_size=3, conv1_t_stride=1,
        feed_forward=False,
    )  # fmt: skip
    features = resnet_fpn_feature_extractor(backbone, dims, False, [1], None)
    network = RetinaNet(dims, 2, 1, features, size_divisible=[8] * dims)
    aspect = (1.0,) if dims == 2 else ((1.0, 1.0),)
    detector = RetinaNetDetector(
        network, AnchorGenerator(sizes=((8,), (16,)), aspect_ratios=(aspect, aspect))
    )
    detector.set_box_selector_parameters(score_thresh=0.0, detections_per_img=20)
    for parameter in detector.network.classification_head.parameters():
        nn.init.normal_(parameter, std=0.1)
    return detector.eval()
