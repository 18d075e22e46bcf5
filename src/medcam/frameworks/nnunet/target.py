"""What of a label is explained: all of it, a component, a region, a point."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from medcam.engine.windows.score_gradient import ScoreGradient
from medcam.engine.windows.tiling import Windows
from medcam.errors import InputError, TargetError
from medcam.frameworks.nnunet.loading import quiet
from medcam.frameworks.nnunet.preprocessing import Prepared
from medcam.maps import ResolvedTarget

Part = str | os.PathLike[str] | Sequence[float]
"""``"predicted"``, ``"component"``, the path of a region's image, ``"point x,y,z"`` or
``(x, y, z)`` in voxels of the original image, ``"mm x,y,z"`` in RAS+ millimetres."""


@dataclass(frozen=True, eq=False)
class Aim:
    """The voxels of the network's grid whose mean logit is explained.

    Attributes:
        label: The label's name.
        channel: Its channel of the logits.
        inside: The voxels, ``[*grid]``.
        text: In words.
    """

    label: str
    channel: int
    inside: NDArray[np.bool_]
    text: str

    @property
    def status(self) -> Literal["ok", "absent"]:
        """Whether there is anything to explain."""
        return "ok" if self.inside.any() else "absent"

    def gradient(self, windows: Windows) -> ScoreGradient:
        """The gradient of the mean logit, on the windows' grid."""
        count = max(int(self.inside.sum()), 1)
        values = torch.from_numpy(self.inside.astype(np.float32) / count)[None, None]
        target = ResolvedTarget(
            self.text, "segmentation", torch.tensor([[self.channel]]),
            torch.tensor([[int(self.inside.sum())]]),
        )  # fmt: skip
        if windows.padding:
            values = torch.nn.functional.pad(values, windows.padding)
        return ScoreGradient(target, [torch.tensor([self.channel])], [values])


def check_part(part: Part) -> None:
    """Raises what is wrong with a part, whatever the image.

    Raises:
        TargetError: It is none, or its file is not there.
    """
    _read(part)


def placed(prepared: Prepared, label: str, part: Part) -> Aim | None:
    """Resolves a part that lies where it lies, whatever is predicted; None for other parts.

    Args:
        prepared: The case.
        label: The label's name.
        part: Which part of it.

    Raises:
        UnknownNameError: The network has no such label.
        TargetError: The part does not fit the image.
    """
    channel = prepared.model.channel_of(label)
    kind, place = _read(part)
    if kind == "region":
        region = prepared.region(_read_region(prepared, Path(str(part))))
        return Aim(label, channel, region, f"{label} inside the region '{Path(str(part)).name}'")
    if kind not in ("point", "mm"):
        return None
    voxel = tuple(round(i) for i in place) if kind == "point" else _voxel(prepared, place)
    inside = np.zeros(prepared.grid, bool)
    inside[prepared.there(voxel)] = True
    at = f"voxel {voxel}" if kind == "point" else f"{place} mm (voxel {voxel})"
    return Aim(label, channel, inside, f"{label} at {at}")


def aim(prepared: Prepared, logits: torch.Tensor, label: str, part: Part) -> Aim:
    """Resolves what is explained.

    Args:
        prepared: The case.
        logits: nnU-Net's stitched logits ``[classes, *grid]``.
        label: The label's name.
        part: Which part of it.

    Raises:
        UnknownNameError: The network has no such label.
        TargetError: The part does not fit the image.
    """
    found = placed(prepared, label, part)
    if found is not None:
        return found
    channel = prepared.model.channel_of(label)
    predicted = _predicted(prepared, logits, label, channel)
    if _read(part)[0] == "component":
        return Aim(
            label, channel, _largest(predicted), f"the largest predicted component of {label}"
        )
    return Aim(label, channel, predicted, f"{label}, over the voxels predicted as such")


def _read(part: Part) -> tuple[str, tuple[float, ...]]:
    if isinstance(part, (str, os.PathLike)):
        text = os.fspath(part)
        if text in ("predicted", "component"):
            return text, ()
        word, _, rest = text.replace(":", " ").partition(" ")
        if word in ("point", "mm"):
            try:
                place = tuple(float(number) for number in rest.replace(" ", "").split(","))
            except ValueError as error:
                raise TargetError(
                    f"target={text!r}: a place is three numbers, e.g. '{word} 12,40,33'."
                ) from error
            return word, place
        if Path(text).is_file():
            return "region", ()
        raise TargetError(
            f"target={text!r} is neither 'predicted', 'component', 'point x,y,z', 'mm x,y,z' nor a "
            "file that is there."
        )
    if isinstance(part, Sequence) and part and all(isinstance(i, (int, float)) for i in part):
        return "point", tuple(float(i) for i in part)
    raise TargetError(f"target={part!r}: give 'predicted', 'component', a file or a voxel.")


def _predicted(
    prepared: Prepared, logits: torch.Tensor, label: str, channel: int
) -> NDArray[np.bool_]:
    manager = prepared.model.predictor.label_manager
    if manager.has_regions:
        inside: NDArray[np.bool_] = (logits[channel] > 0).numpy()
        return inside
    found = np.asarray(manager.convert_logits_to_segmentation(logits))
    return np.asarray(found == manager.all_labels[channel])


def _largest(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import label

    parts, count = label(inside, np.ones((3,) * inside.ndim))
    if count < 2:
        return inside
    return np.asarray(parts == 1 + np.bincount(parts[parts > 0] - 1).argmax())


def _voxel(prepared: Prepared, place: Sequence[float]) -> tuple[int, ...]:
    affine = prepared.image.affine
    if affine is None or len(place) != 3:
        raise TargetError("A place in mm needs three numbers, and an image with an affine.")
    found = np.linalg.solve(affine, [*place, 1.0])[:3]
    return tuple(int(i) for i in np.rint(found))


def _read_region(prepared: Prepared, path: Path) -> NDArray[Any]:
    reader = prepared.model.predictor.plans_manager.image_reader_writer_class()
    with quiet():
        try:
            region, properties = reader.read_seg(str(path))
        except Exception as error:  # readers raise anything; the reason is told
            raise InputError(f"The region '{path}' cannot be read: {error}") from error
    if tuple(region.shape[1:]) != prepared.shape or not _same_place(
        properties, prepared.properties
    ):
        raise TargetError(
            f"The region '{path}' does not lie on the image's grid: its shape is "
            f"{tuple(region.shape[1:])}, the image's {prepared.shape}, and spacing, origin and "
            "direction have to be the same. Resample it onto the image."
        )
    if not np.isin(np.unique(region), (0, 1)).all():
        raise TargetError(f"The region '{path}' holds values other than 0 and 1.")
    if not region.any():
        raise TargetError(f"The region '{path}' is empty.")
    return np.asarray(region)


def _same_place(one: dict[str, Any], other: dict[str, Any]) -> bool:
    for key in ("sitk_stuff", "nibabel_stuff"):
        for name, value in one.get(key, {}).items():
            second = other.get(key, {}).get(name)
            if isinstance(value, str):
                if value != second:
                    return False
            elif second is None or not np.allclose(value, second, atol=1e-3):
                return False
    return True
