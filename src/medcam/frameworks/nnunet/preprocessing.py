"""nnU-Net's preprocessing, from the image to the network's grid, and the way back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medcam.errors import InputError
from medcam.files import Image, read_image, stack_images
from medcam.frameworks.nnunet.cases import Case
from medcam.frameworks.nnunet.console import prints_to_log
from medcam.frameworks.nnunet.preconditions import (
    check_channels,
    check_grid,
    check_previous_stage,
    read_previous,
    unreadable,
)
from medcam.frameworks.nnunet.trained_model import TrainedModel


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case on the network's grid, and the mappings between its three orders of voxels.

    Reader order is that of the array from nnU-Net's reader. File order is that of
    `medcam.files.read_image`. The network's grid follows from reader order by transposing,
    cropping and resampling.

    Attributes:
        case: The case.
        data: The network's input, ``[channels, *grid]``, float32.
        properties: The geometry that nnU-Net recorded while it read and preprocessed.
        model: The network whose plans were followed.
        reader_shape: The spatial shape of the image in reader order.
        image: The image from its file, for the geometry of the saved maps.
    """

    case: Case
    data: NDArray[np.float32]
    properties: dict[str, Any]
    model: TrainedModel
    reader_shape: tuple[int, ...]
    image: Image

    @property
    def grid(self) -> tuple[int, ...]:
        """The spatial shape of the network's grid."""
        return tuple(self.data.shape[1:])

    # --------------------------------------------------------------- network grid to image

    def to_image_grid(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a map on the voxels of the original image.

        The map is resampled linearly, as nnU-Net resamples probabilities; it is zero where
        preprocessing cropped the image.

        Args:
            values: ``[*grid]``.

        Returns:
            The map in file order, with the shape of the image file.
        """
        image_spacing, grid_spacing = self._spacings()
        cropped_shape = self.properties["shape_after_cropping_and_before_resampling"]
        resampled = self.model.configuration.resampling_fn_probabilities(
            values[None].astype(np.float32), cropped_shape, grid_spacing, image_spacing
        )
        whole = np.zeros(self.properties["shape_before_cropping"], np.float32)
        whole[self._crop()] = np.asarray(resampled)[0]
        return self.to_file_order(whole.transpose(self.model.plans.transpose_backward))

    def segmentation_from(self, logits: torch.Tensor) -> NDArray[Any]:
        """Return nnU-Net's own segmentation in file order.

        Args:
            logits: The stitched logits ``[classes, *grid]``.
        """
        from nnunetv2.inference.export_prediction import (
            convert_predicted_logits_to_segmentation_with_correct_shape as convert,
        )

        model = self.model
        with prints_to_log():
            segmentation = convert(
                logits, model.plans, model.configuration, model.label_manager, self.properties,
                num_threads_torch=torch.get_num_threads(),
            )  # fmt: skip
        return self.to_file_order(np.asarray(segmentation))

    def to_file_order(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return an array in file order, given it in reader order."""
        if "nibabel_stuff" not in self.properties and "sitk_stuff" not in self.properties:
            return array.reshape(self.image.space)  # a picture, or a stack of pictures
        array = array.transpose(2, 1, 0)
        orientation = self._reorientation()
        if orientation is not None:
            from nibabel.orientations import apply_orientation

            array = np.asarray(apply_orientation(array, orientation))
        return array.reshape(self.image.space)

    # --------------------------------------------------------------- image to network grid

    def to_reader_order(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return an array in reader order, given it in file order."""
        indices = self._reader_indices().reshape(-1)
        flat = np.empty(indices.size, array.dtype)
        flat[indices] = array.reshape(-1)
        return flat.reshape(self.reader_shape)

    def to_network_grid(self, voxel: Sequence[int]) -> tuple[int, ...]:
        """Return the voxel of the network's grid that contains a voxel of the original image.

        Args:
            voxel: The voxel's index in file order.

        Raises:
            InputError: The voxel is outside the image, or in the margin that nnU-Net crops.
        """
        index, space = tuple(int(i) for i in voxel), self.image.space
        if len(index) != len(space) or any(
            not 0 <= i < n for i, n in zip(index, space, strict=False)
        ):
            raise InputError(f"Voxel {index} is outside the image, whose shape is {space}.")
        in_reader_order = np.unravel_index(int(self._reader_indices()[index]), self.reader_shape)
        transposed = [int(in_reader_order[axis]) for axis in self.model.plans.transpose_forward]
        cropped_shape = self.properties["shape_after_cropping_and_before_resampling"]
        cropped = [i - part.start for i, part in zip(transposed, self._crop(), strict=True)]
        if any(not 0 <= i < n for i, n in zip(cropped, cropped_shape, strict=True)):
            raise InputError(
                f"Voxel {index} is in the empty margin of the image, which nnU-Net cuts off."
            )
        return tuple(
            min(int((i + 0.5) * new / old), new - 1)
            for i, old, new in zip(cropped, cropped_shape, self.grid, strict=True)
        )

    def region_to_network_grid(self, region: NDArray[Any]) -> NDArray[np.bool_]:
        """Return a region of the image on the network's grid.

        Args:
            region: 0/1 in reader order, ``[1, *reader_shape]``.
        """
        transposed = region[0].transpose(self.model.plans.transpose_forward)
        cropped = transposed[self._crop()] > 0
        image_spacing, grid_spacing = self._spacings()
        resampled = self.model.configuration.resampling_fn_seg(
            cropped[None].astype(np.int8), self.grid, image_spacing, grid_spacing
        )
        voxels: NDArray[np.bool_] = np.asarray(np.asarray(resampled)[0] > 0)
        if not voxels.any():
            # Resampling lost a region smaller than the grid's voxels: mark those that contain it.
            scale = np.asarray(self.grid) / np.asarray(cropped.shape)
            containing = np.floor((np.argwhere(cropped) + 0.5) * scale).astype(int)
            voxels[tuple(np.minimum(containing, np.asarray(self.grid) - 1).T)] = True
        return voxels

    # ---------------------------------------------------------------------------- geometry

    def _crop(self) -> tuple[slice, ...]:
        """Return the box that nnU-Net kept of the transposed image."""
        return tuple(slice(low, high) for low, high in self.properties["bbox_used_for_cropping"])

    @property
    def grid_spacing(self) -> tuple[float, ...]:
        """The size of the voxels of the network's grid in mm."""
        return tuple(self._spacings()[1])

    def _spacings(self) -> tuple[list[float], list[float]]:
        """Return the spacing of the transposed image, and that of the network's grid."""
        transpose = self.model.plans.transpose_forward
        image_spacing = [self.properties["spacing"][axis] for axis in transpose]
        grid_spacing = self.model.spacing
        if len(grid_spacing) < len(image_spacing):  # 2D: slices keep their distance
            grid_spacing = [image_spacing[0], *grid_spacing]
        return image_spacing, grid_spacing

    def _reader_indices(self) -> NDArray[np.int64]:
        """Return, for each voxel in file order, its flat index in reader order.

        An array of indices is reordered like an image, so that the rule is written only once.
        """
        indices = np.arange(np.prod(self.reader_shape)).reshape(self.reader_shape)
        return self.to_file_order(indices)

    def _reorientation(self) -> Any:
        """Return the orientation from a reorienting reader's axes to the file's; else None."""
        from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

        nibabel_properties = self.properties.get("nibabel_stuff", {})
        if "reoriented_affine" in nibabel_properties:
            return ornt_transform(
                io_orientation(nibabel_properties["reoriented_affine"]),
                io_orientation(nibabel_properties["original_affine"]),
            )
        axis_codes = self.properties.get("sitk_stuff", {}).get("original_orientation")
        if axis_codes is None:
            return None
        return ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(tuple(axis_codes)))


def prepare(model: TrainedModel, case: Case) -> Prepared:
    """Read and preprocess a case with nnU-Net's own code.

    Raises:
        InputError: A cascade without its previous stage, files that do not fit together, or a
            wrong number of channels.
    """
    check_previous_stage(model, case)
    if len(case.files) > 1:
        image = stack_images(case.files)
    else:
        image = read_image(case.files[0], as_channels=True)
    preprocessor = model.configuration.preprocessor_class(verbose=False)
    with prints_to_log() as printed:
        reader = model.reader_writer
        try:
            channels, properties = reader.read_images([str(path) for path in case.files])
        except Exception as error:  # readers raise exceptions of any class
            raise InputError(unreadable(case, error, printed.getvalue())) from error
        check_channels(model, case, channels)
        check_grid(model, case, channels, properties["spacing"])
        previous = None
        if case.previous is not None:
            previous = read_previous(reader, str(case.previous), channels)
        try:
            data, segmentation, properties = preprocessor.run_case_npy(
                channels, previous, properties, model.plans, model.configuration, model.dataset
            )
        except Exception as error:  # depends on the image; the preprocessor may raise any class
            raise InputError(
                f"nnU-Net's preprocessing fails on '{case.name}': {type(error).__name__}: {error}"
            ) from error
    if previous is not None:
        from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

        labels = model.foreground_labels
        data = np.vstack((data, convert_labelmap_to_one_hot(segmentation[0], labels, data.dtype)))
    return Prepared(
        case=case,
        data=np.ascontiguousarray(data, np.float32),
        properties=properties,
        model=model,
        reader_shape=tuple(channels.shape[1:]),
        image=dataclasses.replace(image, array=image.array[:1]),
    )
