"""The explanation of a case: maps and segmentation on the grid of its image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from medcam.errors import InputError
from medcam.explanation.case.comparison import MapComparison, compare_maps
from medcam.explanation.case.names import safe_prefix
from medcam.explanation.case.record import build_record, split_details
from medcam.explanation.case.writing import save_case
from medcam.explanation.explanation import Explanation
from medcam.explanation.predicted import Prediction
from medcam.files import read_sidecar, write_atomically
from medcam.frameworks.nnunet.console import prints_to_log
from medcam.frameworks.nnunet.outcome import prediction_of_case
from medcam.frameworks.nnunet.preprocessing import Prepared
from medcam.frameworks.nnunet.recipe import case_recipe
from medcam.maps import AttentionMap
from medcam.methods import Method
from medcam.methods import get as get_method

CaseMapKey = tuple[str, str | None]
"""``(method, layer)``; the layer is None for methods without a layer."""

_RECORDED_DETAILS = ("windows", "windows_explained", "channel_weights")


@dataclass(frozen=True, eq=False, kw_only=True)
class CaseExplanation:
    """The maps of a case, on the grid of its image.

    Attributes:
        case: The case's name.
        label: The label that was explained.
        status: "ok", or "absent": the label is nowhere predicted, and the maps are zero.
        maps: float32 maps in raw units, by ``(method, layer)``, with the shape and the order of
            the axes of the image file.
        segmentation: nnU-Net's own segmentation on the same grid.
        affine: 4x4, from voxel indices to RAS+ millimetres; None for pictures.
        explanation: The maps and the logits on the network's grid.
        importance: For methods of the input, by map: each channel's share of the magnitude.
    """

    case: str
    label: str
    status: Literal["ok", "absent"]
    maps: Mapping[CaseMapKey, NDArray[np.float32]] = field(repr=False)
    segmentation: NDArray[Any] = field(repr=False)
    affine: NDArray[np.float64] | None = field(repr=False)
    explanation: Explanation = field(repr=False)
    importance: Mapping[CaseMapKey, Mapping[str, float]]
    _prepared: Prepared = field(repr=False)
    _methods: Sequence[Method] = field(default=(), repr=False)
    _call: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def prediction(self) -> Prediction:
        """What nnU-Net predicted: the volume of each label in ml."""
        return prediction_of_case(self._prepared.model, self.segmentation, self.affine)

    @property
    def map(self) -> NDArray[np.float32]:
        """The only map.

        Raises:
            InputError: There are several; pick one from ``maps``.
        """
        if len(self.maps) != 1:
            raise InputError(
                f"There are {len(self.maps)} maps: choose one, .maps[key], with key one of "
                f"{list(self.maps)}."
            )
        return next(iter(self.maps.values()))

    def save(
        self,
        prefix: str | os.PathLike[str],
        *,
        report: bool = False,
        montage: bool = True,
        extra: Mapping[str, object] | None = None,
    ) -> list[Path]:
        """Write the maps, the segmentation, a montage and the record of how they were made.

        Args:
            prefix: The path without an ending: ``"out/case"`` gives ``out/case_gcam.nii.gz``
                (with several layers ``out/case_gcam_LAYER.nii.gz``), ``out/case_seg.nii.gz``,
                ``out/case_montage.png`` and ``out/case.json``, which is written last. Maps are
                float32 in raw units. Maps of pictures are ``.tif`` files, each with a ``.png`` of
                the map over the picture.
            report: Whether to write ``out/case.html``, a page to open in a browser.
            montage: Whether to write the montage.
            extra: Further entries of the record's part "extra".

        Returns:
            The files, the record last.

        Raises:
            SaveError: A file could not be written. There is no record then.
        """
        prefix = safe_prefix(prefix)
        record = self._record_arguments(prefix.parent, extra)
        return save_case(
            prefix,
            self._attention_maps(),
            self._prepared.image,
            model=self._prepared.model.network,
            inputs=list(self._prepared.case.files),
            name=self.case,
            montage=montage,
            report=report,
            ending=self._map_ending(),
            segmentation=self.segmentation,
            write_further=lambda path: {"segmentation": self._save_segmentation(path)},
            extra=record.pop("extra"),
            record=record,
        )

    def compare(self, record: str | os.PathLike[str]) -> list[MapComparison]:
        """Compare the maps with those of a saved case, bit for bit and by value.

        Args:
            record: The record, ``out/case.json``, of the same case; the files of its maps lie
                beside it.

        Returns:
            A comparison for each map of the record; ``.same`` says whether it is the same.

        Raises:
            InputError: The record cannot be read, or is of a version without hashes of maps.
        """
        return compare_maps(read_sidecar(record), Path(record), self._attention_maps())

    def _record_arguments(
        self, folder: Path, extra: Mapping[str, object] | None = None
    ) -> dict[str, Any]:
        """Return the windows, folds and further entries of the case's record."""
        model, details = self._prepared.model, self.explanation.details
        own = {} if extra is None else dict(extra)
        if "recipe" not in own and self._call:
            own["recipe"] = case_recipe(model, self._prepared.case, self._call, folder)
        return {
            "windows": {
                "patch_size": list(model.patch_size),
                "step_size": model.step_size,
                "mirror_axes": list(model.mirror_axes),
                **{key: details[key] for key in _RECORDED_DETAILS if key in details},
            },
            "folds": model.folds,
            "extra": {
                "case": self.case,
                "label": self.label,
                "status": self.status,
                "prediction": self.prediction.to_dict(),
                "explained": split_details(details)[1],
                "nnunet_folder": str(model.folder),
                "importance": {
                    f"{method} {layer or ''}".strip(): dict(shares)
                    for (method, layer), shares in self.importance.items()
                },
                **own,
            },
        }

    def _map_ending(self) -> str:
        """Return the file ending of the maps: the image's where it can hold float32."""
        file_name = self._prepared.case.files[0].name.lower()
        if self.affine is None:
            return ".tif"
        return next((e for e in (".nrrd", ".mha", ".nii") if file_name.endswith(e)), ".nii.gz")

    def _save_segmentation(self, prefix: Path) -> Path:
        """Save the segmentation with nnU-Net's own writer, in the format of the training data."""
        prepared = self._prepared
        model = prepared.model
        values = prepared.to_reader_order(self.segmentation)

        def write(path: Path) -> None:
            with prints_to_log():
                model.reader_writer.write_seg(values, str(path), prepared.properties)

        path = prefix.with_name(f"{prefix.name}_seg{model.file_ending}")
        return write_atomically(path, write)

    def _attention_maps(self) -> list[AttentionMap]:
        """Return the maps on the image's grid as those of their methods."""
        return [self._attention_map(key, values) for key, values in self.maps.items()]

    def _attention_map(self, key: CaseMapKey, values: NDArray[np.float32]) -> AttentionMap:
        """Return a map on the image's grid as an `AttentionMap` of its method."""
        name, layer = key
        method = next((method for method in self._methods if method.name == name), None)
        method = get_method(name) if method is None else method
        return method.map_of(torch.from_numpy(values)[None, None], layer, self.explanation.target)


def maps_of(explanation: CaseExplanation) -> list[AttentionMap]:
    """Return the maps of a case as they are saved, ``[1, 1, *space]`` on the image's grid."""
    return explanation._attention_maps()


def record_of(
    explanation: CaseExplanation, folder: Path, extra: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Return the record of a case as `CaseExplanation.save` writes it, without its files."""
    prepared = explanation._prepared
    return build_record(
        prepared.model.network,
        model_kind=None,
        inputs=list(prepared.case.files),
        maps=explanation._attention_maps(),
        folder=folder,
        affine=prepared.image.affine,
        **explanation._record_arguments(folder, extra),
    )


def recipe_of(
    explanation: CaseExplanation, folder: Path, methods: Sequence[str]
) -> dict[str, Any] | None:
    """Return the recipe of a case whose methods are those of ``--method``, see `case_recipe`."""
    prepared = explanation._prepared
    return case_recipe(prepared.model, prepared.case, explanation._call, folder, methods)
