"""The voxels that are explained: all of a label, a component, a region, or a point."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from medcam.engine.windows.score_gradient import ScoreGradient
from medcam.engine.windows.tiling import Windows
from medcam.errors import InputError, TargetError
from medcam.files.paths import is_file
from medcam.frameworks.nnunet.console import prints_to_log
from medcam.frameworks.nnunet.preprocessing import Prepared
from medcam.maps import ResolvedTarget

Part = str | os.PathLike[str] | Sequence[float]
"""The part of a label that is explained, as the user gives it: ``"predicted"``, ``"component"``,
the path of a region's image, ``"point x,y,z"`` or ``(x, y, z)`` in voxels of the original image, or
``"mm x,y,z"`` in RAS+ millimetres."""


@dataclass(frozen=True, eq=False)
class VoxelTarget:
    """The voxels of the network's grid whose mean logit is explained.

    Attributes:
        label: The label's name.
        channel: The label's channel of the logits.
        voxels: True at the voxels, ``[*grid]``.
        description: The target in words.
        regions: Whether the labels are regions that may overlap.
        is_part: Whether these are a part of the label: a component, a region or a place.
    """

    label: str
    channel: int
    voxels: NDArray[np.bool_]
    description: str
    is_part: bool = True
    regions: bool = False

    @property
    def status(self) -> Literal["ok", "absent"]:
        """Whether there is a voxel to explain; "absent": the label is nowhere predicted."""
        return "ok" if self.voxels.any() else "absent"

    def score_gradient(self, windows: Windows) -> ScoreGradient:
        """Return the gradient of the mean logit, on the windows' padded grid."""
        count = int(self.voxels.sum())
        values = torch.from_numpy(self.voxels.astype(np.float32) / max(count, 1))[None, None]
        target = ResolvedTarget(
            self.description, "segmentation", torch.tensor([[self.channel]]),
            torch.tensor([[count]]), is_part=self.is_part, regions=self.regions,
        )  # fmt: skip
        if windows.padding:
            values = torch.nn.functional.pad(values, windows.padding)
        return ScoreGradient(target, [torch.tensor([self.channel])], [values])


def check_part(part: Part) -> None:
    """Raise if a part is malformed, before any image is read.

    Raises:
        TargetError: The part has an unknown form, or its file does not exist.
    """
    parse_part(part)


def resolve_fixed(prepared: Prepared, label: str, part: Part) -> VoxelTarget | None:
    """Return the voxels of a part that does not depend on the prediction; None for other parts.

    Args:
        prepared: The case.
        label: The label's name.
        part: A region, a point or a place in mm; None is returned for others.

    Raises:
        UnknownNameError: The network has no such label.
        TargetError: The part does not fit the image.
    """
    channel = prepared.model.channel_of(label)
    kind, place = parse_part(part)
    if kind == "region":
        path = Path(str(part))
        voxels = prepared.region_to_network_grid(_read_region(prepared, path))
        return VoxelTarget(label, channel, voxels, f"{label} inside the region '{path.name}'")
    if kind not in ("point", "mm"):
        return None
    voxel = tuple(round(i) for i in place) if kind == "point" else _voxel_at(prepared, place)
    voxels = np.zeros(prepared.grid, bool)
    voxels[prepared.to_network_grid(voxel)] = True
    position = f"voxel {voxel}" if kind == "point" else f"{place} mm (voxel {voxel})"
    return VoxelTarget(label, channel, voxels, f"{label} at {position}")


def resolve(prepared: Prepared, logits: torch.Tensor, label: str, part: Part) -> VoxelTarget:
    """Return the voxels that are explained.

    Args:
        prepared: The case.
        logits: nnU-Net's stitched logits ``[classes, *grid]``.
        label: The label's name.
        part: The part of the label.

    Raises:
        UnknownNameError: The network has no such label.
        TargetError: The part does not fit the image.
    """
    fixed = resolve_fixed(prepared, label, part)
    if fixed is not None:
        return fixed
    channel = prepared.model.channel_of(label)
    predicted = _predicted(prepared, logits, channel)
    if parse_part(part)[0] == "component":
        return VoxelTarget(
            label, channel, _largest_component(predicted),
            f"the largest predicted component of {label}",
        )  # fmt: skip
    text = f"{label}, over the voxels predicted as such"
    return VoxelTarget(label, channel, predicted, text, is_part=False)


def parse_part(part: Part) -> tuple[str, tuple[float, ...]]:
    """Return the kind of a part, and the numbers of a point or of a place in mm."""
    if isinstance(part, (str, os.PathLike)):
        text = os.fspath(part)
        if text in ("predicted", "component"):
            return text, ()
        kind, _, numbers = text.replace(":", " ").partition(" ")
        if kind in ("point", "mm"):
            try:
                place = tuple(float(number) for number in numbers.replace(" ", "").split(","))
            except ValueError as error:
                raise TargetError(
                    f"target={text!r}: a place is three numbers, e.g. '{kind} 12,40,33'."
                ) from error
            return kind, place
        if is_file(Path(text)):
            return "region", ()
        raise TargetError(
            f"target={text!r} is neither 'predicted', 'component', 'point x,y,z', 'mm x,y,z' nor "
            "an existing file."
        )
    if isinstance(part, Sequence) and part and all(isinstance(i, (int, float)) for i in part):
        return "point", tuple(float(i) for i in part)
    raise TargetError(f"target={part!r}: give 'predicted', 'component', a file or a voxel.")


def _predicted(prepared: Prepared, logits: torch.Tensor, channel: int) -> NDArray[np.bool_]:
    """Return the voxels that nnU-Net predicts as the label of a channel."""
    model = prepared.model
    if model.has_regions:
        positive: NDArray[np.bool_] = (logits[channel] > 0).numpy()
        return positive
    segmentation = np.asarray(model.label_manager.convert_logits_to_segmentation(logits))
    return np.asarray(segmentation == model.all_labels[channel])


def _largest_component(voxels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest component; voxels that share a corner are connected."""
    from scipy.ndimage import label

    components, count = label(voxels, np.ones((3,) * voxels.ndim))
    if count < 2:
        return voxels
    sizes = np.bincount(components[components > 0] - 1)
    return np.asarray(components == 1 + sizes.argmax())


def _voxel_at(prepared: Prepared, place: Sequence[float]) -> tuple[int, ...]:
    """Return the voxel of the original image at a place in RAS+ millimetres."""
    affine = prepared.image.affine
    if affine is None or len(place) != 3:
        raise TargetError("A place in mm needs three numbers, and an image with an affine.")
    voxel = np.linalg.solve(affine, [*place, 1.0])[:3]
    return tuple(int(i) for i in np.rint(voxel))


def _read_region(prepared: Prepared, path: Path) -> NDArray[Any]:
    """Return a region's image in reader order, after checking that it lies on the case's grid."""
    with prints_to_log():
        try:
            region, properties = prepared.model.reader_writer.read_seg(str(path))
        except Exception as error:  # readers raise exceptions of any class
            raise InputError(f"The region '{path}' cannot be read: {error}") from error
    same_shape = tuple(region.shape[1:]) == prepared.reader_shape
    if not same_shape or not _same_geometry(properties, prepared.properties):
        raise TargetError(
            f"The region '{path}' does not lie on the image's grid: its shape is "
            f"{tuple(region.shape[1:])}, the image's {prepared.reader_shape}, and spacing, origin "
            "and direction have to be the same. Resample it onto the image."
        )
    if not np.isin(np.unique(region), (0, 1)).all():
        raise TargetError(f"The region '{path}' holds values other than 0 and 1.")
    if not region.any():
        raise TargetError(f"The region '{path}' is empty.")
    return np.asarray(region)


def _same_geometry(properties: Mapping[str, Any], reference: Mapping[str, Any]) -> bool:
    """Return whether two images have the same spacing, origin and direction."""
    for reader in ("sitk_stuff", "nibabel_stuff"):
        for name, value in properties.get(reader, {}).items():
            expected = reference.get(reader, {}).get(name)
            if isinstance(value, str):
                if value != expected:
                    return False
            elif expected is None or not np.allclose(value, expected, atol=1e-3):
                return False
    return True
