"""A trained nnU-Net as a value: what its folder says about images, labels, windows and folds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medcam.engine.model.layers import LayerLike
from medcam.errors import InputError, unknown_name
from medcam.files.paths import is_file
from medcam.files.record.digests import sha256_of_file, sha256_of_state


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained nnU-Net, ready to predict and to be explained.

    The properties below are read from nnU-Net's predictor here, and nowhere else.

    Attributes:
        folder: The trained folder.
        folds: The folds whose mean is the prediction.
        predictor: nnU-Net's own predictor, initialised from the folder.
        network: The network, with the parameters of the first fold.
        checkpoint: The name of the checkpoint file in each fold.
        trusted: Whether the folder was allowed to run code.
    """

    folder: Path
    folds: tuple[str, ...]
    predictor: Any
    network: nn.Module
    checkpoint: str = "checkpoint_final.pth"
    trusted: bool = False

    def check(self) -> None:
        """Raise an error, of any class, if what the folder says cannot be read as it should be."""
        for name in self.labels:
            if name != "ignore" and not (self.has_regions and name == "background"):
                self.channel_of(name)
        extents = (*self.patch_size, *self.spacing)
        facts = (self.channel_names, self.cascaded, self.trainer_name, self.mirror_axes)
        axes = (self.plans.transpose_forward, self.plans.transpose_backward)
        if not facts or any(sorted(order) != [0, 1, 2] for order in axes):
            raise InputError(f"'{self.folder}' is damaged: transpose_forward is {axes[0]}.")
        if not all(0 < extent < math.inf for extent in extents) or not self.file_ending:
            raise InputError(
                f"'{self.folder}' is damaged: the windows are {list(self.patch_size)} voxels of "
                f"{self.spacing} mm."
            )

    # ----------------------------------------------------------------------------- images

    @property
    def dataset(self) -> Mapping[str, Any]:
        """The contents of dataset.json."""
        dataset: dict[str, Any] = self.predictor.dataset_json
        return dataset

    @property
    def file_ending(self) -> str:
        """The ending of the image files that nnU-Net's reader expects, e.g. ``".nii.gz"``."""
        return str(self.dataset["file_ending"])

    @property
    def channel_names(self) -> list[str]:
        """The names of the input channels, in order."""
        names: Any = self.dataset.get("channel_names") or self.dataset.get("modality")
        return [str(names[key]) for key in sorted(names, key=int)]

    @property
    def cascaded(self) -> str | None:
        """The first stage's configuration if this is the second stage of a cascade, else None."""
        name: str | None = self.configuration.previous_stage_name
        return name

    @property
    def reader_writer(self) -> Any:
        """A new instance of the reader and writer of image files that the plans name."""
        return self.plans.image_reader_writer_class()

    # ------------------------------------------------------------------------------ plans

    @property
    def plans(self) -> Any:
        """nnU-Net's ``PlansManager``."""
        return self.predictor.plans_manager

    @property
    def configuration(self) -> Any:
        """nnU-Net's ``ConfigurationManager``, e.g. of 3d_fullres."""
        return self.predictor.configuration_manager

    @property
    def spacing(self) -> list[float]:
        """The voxel spacing of the network's grid in mm, in the order of its axes."""
        return list(self.configuration.spacing)

    @property
    def trainer_name(self) -> str:
        """The class name of the trainer that the network was trained by."""
        return str(self.predictor.trainer_name)

    # ----------------------------------------------------------------------------- labels

    @property
    def labels(self) -> Mapping[str, Any]:
        """The labels by name, as in dataset.json; a region is a list of labels."""
        labels: dict[str, Any] = self.dataset["labels"]
        return labels

    @property
    def label_manager(self) -> Any:
        """nnU-Net's ``LabelManager``, which converts logits to a segmentation."""
        return self.predictor.label_manager

    @property
    def has_regions(self) -> bool:
        """Whether the labels are regions that may overlap, each a channel of its own."""
        return bool(self.label_manager.has_regions)

    @property
    def all_labels(self) -> list[int]:
        """The label values in the order of the logits' channels; not for regions."""
        return list(self.label_manager.all_labels)

    @property
    def foreground_labels(self) -> list[int]:
        """The label values without the background."""
        return list(self.label_manager.foreground_labels)

    def channel_of(self, label: str) -> int:
        """Return the channel of the logits for a label or region.

        Raises:
            UnknownNameError: The model has no such label.
        """
        names = [name for name in self.labels if name != "ignore"]
        if self.has_regions:
            names.remove("background")
        if label not in names:
            more = " Its labels are regions." if self.has_regions else ""
            numbered = [name for name in names if str(self.labels[name]) == label]
            more += f" The label with this number is {numbered[0]!r}." if numbered else ""
            raise unknown_name("Label", label, names, more=more)
        if self.has_regions:
            return names.index(label)
        value = self.labels[label]
        number = int(value[0] if isinstance(value, (list, tuple)) else value)
        return self.all_labels.index(number)

    # ---------------------------------------------------------------------------- windows

    @property
    def patch_size(self) -> tuple[int, ...]:
        """The extents of a window in voxels of the network's grid."""
        return tuple(self.configuration.patch_size)

    @property
    def step_size(self) -> float:
        """The step from window to window, in window extents."""
        step: float = self.predictor.tile_step_size
        return step

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """The spatial axes of a window along which the prediction is mirrored."""
        axes = self.predictor.allowed_mirroring_axes if self.predictor.use_mirroring else None
        return tuple(axes or ())

    def window_slicers(self, shape: Sequence[int]) -> list[tuple[slice | int, ...]]:
        """Return nnU-Net's windows over a padded grid.

        Args:
            shape: The spatial shape of the grid, at least one window along each axis.

        Returns:
            For each window the indices ``[channels, *axes]``; an axis that a 2D network sees slice
            by slice has a number.
        """
        slicers: list[tuple[slice | int, ...]] = (
            self.predictor._internal_get_sliding_window_slicers(shape)
        )
        return slicers

    # ---------------------------------------------------------------------------- network

    @property
    def bottleneck(self) -> str:
        """The name of the encoder's deepest stage; "auto" for networks without such stages."""
        stages = getattr(getattr(self.network, "encoder", None), "stages", None)
        return f"encoder.stages.{len(stages) - 1}" if stages is not None else "auto"

    def named_layers(self, layer: LayerLike) -> LayerLike:
        """Return layers by their names in the network: "bottleneck" has one, alone or in a list."""
        if isinstance(layer, str) or layer is None:
            return self.bottleneck if layer == "bottleneck" else layer
        if "bottleneck" in layer and self.bottleneck == "auto":
            raise InputError(
                "This network has no encoder with stages, so it has no 'bottleneck': name its "
                "layers, see `medcam nnunet info`."
            )
        return [self.bottleneck if name == "bottleneck" else name for name in layer]

    @property
    def parameters(self) -> list[dict[str, torch.Tensor]]:
        """The network's state dict of each fold."""
        states: list[dict[str, torch.Tensor]] = self.predictor.list_of_parameters
        return states

    @property
    def checkpoint_paths(self) -> list[Path]:
        """The checkpoint file of each fold."""
        return [self.folder / f"fold_{fold}" / self.checkpoint for fold in self.folds]

    @cached_property
    def checkpoint_digests(self) -> list[tuple[str | None, str]]:
        """The SHA-256 of each fold's file, None if it is gone, and of the parameters in use."""
        return [
            (sha256_of_file(path) if is_file(path) else None, sha256_of_state(state))
            for path, state in zip(self.checkpoint_paths, self.parameters, strict=True)
        ]

    def with_fold(self, index: int) -> nn.Module:
        """Return the network after loading a fold's parameters into it, in place."""
        self.network.load_state_dict(self.parameters[index])
        return self.network
