"""From the image to the network's grid and back, as nnU-Net's preprocessing goes and returns."""

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
from medcam.frameworks.nnunet.loading import TrainedModel, quiet


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case on the network's grid, with the way back.

    Attributes:
        case: The case.
        data: What the network sees, ``[channels, *grid]``, float32.
        properties: What nnU-Net notes on the way there.
        model: Whose plans were followed.
        shape: The shape of the image as its reader gives it, without channels.
        image: The image as its file has it, for the geometry of what is saved.
    """

    case: Case
    data: NDArray[np.float32]
    properties: dict[str, Any]
    model: TrainedModel
    shape: tuple[int, ...]
    image: Image

    @property
    def grid(self) -> tuple[int, ...]:
        """The spatial shape that the network sees."""
        return tuple(self.data.shape[1:])

    # ------------------------------------------------------------------------------- back

    def back(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """A map on the network's grid, brought to the voxels of the original image.

        Resampled as nnU-Net resamples probabilities (linearly), zero where the image was cropped.

        Args:
            values: ``[*grid]``.

        Returns:
            The shape and order of the axes of the image file (`medcam.files.read_image`).
        """
        plans, configuration = self._managers()
        spacing = self._spacing()
        current = list(configuration.spacing)
        cropped = self.properties["shape_after_cropping_and_before_resampling"]
        if len(current) < len(cropped):
            current = [spacing[0], *current]
        resampled = configuration.resampling_fn_probabilities(
            values[None].astype(np.float32), cropped, current, spacing
        )
        whole = np.zeros(self.properties["shape_before_cropping"], np.float32)
        box = tuple(slice(low, high) for low, high in self.properties["bbox_used_for_cropping"])
        whole[box] = np.asarray(resampled)[0]
        return self.original(whole.transpose(plans.transpose_backward))

    def segmentation(self, logits: Any) -> NDArray[Any]:
        """nnU-Net's own segmentation ``[X, Y, Z]``, from its logits."""
        from nnunetv2.inference.export_prediction import (
            convert_predicted_logits_to_segmentation_with_correct_shape as convert,
        )

        with quiet():
            found = convert(
                logits, *self._managers(), self.model.predictor.label_manager, self.properties,
                num_threads_torch=torch.get_num_threads(),
            )  # fmt: skip
        return self.original(np.asarray(found))

    def original(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array in the reader's order, in the order of the file."""
        if "nibabel_stuff" not in self.properties and "sitk_stuff" not in self.properties:
            return array.reshape(self.image.space)  # a picture, or a stack of pictures
        array = array.transpose(2, 1, 0)
        turned = self._reorientation()
        if turned is not None:
            from nibabel.orientations import apply_orientation

            array = np.asarray(apply_orientation(array, turned))
        return array.reshape(self.image.space)

    def reader_order(self, array: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `original`."""
        places = self.original(np.arange(np.prod(self.shape)).reshape(self.shape))
        back = np.empty(places.size, array.dtype)
        back[places.reshape(-1)] = array.reshape(-1)
        return back.reshape(self.shape)

    # ------------------------------------------------------------------------------- there

    def there(self, index: Sequence[int]) -> tuple[int, ...]:
        """The voxel of the network's grid that holds a voxel of the original image.

        Raises:
            InputError: The voxel is outside the image, or in the margin that is cut off.
        """
        given, space = tuple(int(i) for i in index), self.image.space
        if len(given) != len(space) or any(
            not 0 <= i < n for i, n in zip(given, space, strict=False)
        ):
            raise InputError(f"Voxel {given} is outside the image, whose shape is {space}.")
        # an array of indices goes the way of an image: no rule is written down twice
        places = self.original(np.arange(np.prod(self.shape)).reshape(self.shape))
        own = np.unravel_index(int(places[given]), self.shape)
        plans, _ = self._managers()
        moved = [int(own[axis]) for axis in plans.transpose_forward]
        box = self.properties["bbox_used_for_cropping"]
        cropped = self.properties["shape_after_cropping_and_before_resampling"]
        inside = [i - low for i, (low, _) in zip(moved, box, strict=True)]
        if any(not 0 <= i < n for i, n in zip(inside, cropped, strict=True)):
            raise InputError(
                f"Voxel {given} is in the empty margin of the image, which nnU-Net cuts off."
            )
        return tuple(
            min(int((i + 0.5) * new / old), new - 1)
            for i, old, new in zip(inside, cropped, self.grid, strict=True)
        )

    def region(self, array: NDArray[Any]) -> NDArray[np.bool_]:
        """A region of the image, on the network's grid.

        Args:
            array: 0/1 in the reader's order, ``[1, *shape]``.
        """
        plans, configuration = self._managers()
        moved = array[0].transpose(plans.transpose_forward)
        box = tuple(slice(low, high) for low, high in self.properties["bbox_used_for_cropping"])
        cropped = moved[box] > 0
        spacing = self._spacing()
        target = list(configuration.spacing)
        if len(target) < cropped.ndim:
            target = [spacing[0], *target]
        resampled = configuration.resampling_fn_seg(
            cropped[None].astype(np.int8), self.grid, spacing, target
        )
        inside: NDArray[np.bool_] = np.asarray(np.asarray(resampled)[0] > 0)
        if not inside.any():  # thinner than the grid: the voxels that hold its voxels
            scale = np.asarray(self.grid) / np.asarray(cropped.shape)
            held = np.floor((np.argwhere(cropped) + 0.5) * scale).astype(int)
            inside[tuple(np.minimum(held, np.asarray(self.grid) - 1).T)] = True
        return inside

    # --------------------------------------------------------------------------------- own

    def _managers(self) -> tuple[Any, Any]:
        predictor = self.model.predictor
        return predictor.plans_manager, predictor.configuration_manager

    def _spacing(self) -> list[float]:
        plans, _ = self._managers()
        return [self.properties["spacing"][axis] for axis in plans.transpose_forward]

    def _reorientation(self) -> Any:
        """From the reader's axes to the file's, for readers that turn images; else None."""
        from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

        held = self.properties.get("nibabel_stuff", {})
        if "reoriented_affine" in held:
            return ornt_transform(
                io_orientation(held["reoriented_affine"]), io_orientation(held["original_affine"])
            )
        code = self.properties.get("sitk_stuff", {}).get("original_orientation")
        if code is None:
            return None
        return ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(tuple(code)))


def prepare(model: TrainedModel, case: Case) -> Prepared:
    """Reads and preprocesses a case with nnU-Net's own code.

    Raises:
        InputError: A cascade without its previous stage, files that do not fit together, another
            number of channels.
    """
    predictor = model.predictor
    if model.cascaded and case.previous is None:
        raise InputError(
            f"This network is the second stage of a cascade: it needs the segmentation of "
            f"'{model.cascaded}' for '{case.name}'. Predict it with nnUNetv2_predict -c "
            f"{model.cascaded}, and pass it as previous= (--prev-stage)."
        )
    if not model.cascaded and case.previous is not None:
        raise InputError("This network is no cascade: it takes no previous stage's segmentation.")
    own = (
        stack_images(case.files)
        if len(case.files) > 1
        else read_image(case.files[0], as_channels=True)
    )
    configuration = predictor.configuration_manager
    preprocessor = configuration.preprocessor_class(verbose=False)
    previous = None if case.previous is None else str(case.previous)
    with quiet() as said:
        reader = predictor.plans_manager.image_reader_writer_class()
        try:
            image, properties = reader.read_images([str(path) for path in case.files])
        except Exception as error:  # readers raise anything; the reason is told
            raise InputError(_unreadable(case, error, said.getvalue())) from error
        _check_image(model, case, image)
        last = None if previous is None else _read_previous(reader, previous, image)
        try:
            data, segmentation, properties = preprocessor.run_case_npy(
                image, last, properties, predictor.plans_manager, configuration,
                predictor.dataset_json,
            )  # fmt: skip
        except Exception as error:  # anything, of whatever the image holds
            raise InputError(
                f"nnU-Net's preprocessing fails on '{case.name}': {type(error).__name__}: {error}"
            ) from error
    if last is not None:
        from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

        labels = predictor.label_manager.foreground_labels
        data = np.vstack((data, convert_labelmap_to_one_hot(segmentation[0], labels, data.dtype)))
    space = tuple(image.shape[1:])
    seen = np.ascontiguousarray(data, np.float32)
    return Prepared(
        case, seen, properties, model, space, dataclasses.replace(own, array=own.array[:1])
    )


def _read_previous(reader: Any, path: str, image: NDArray[Any]) -> NDArray[Any]:
    """The segmentation of a cascade's first stage."""
    try:
        found = np.asarray(reader.read_seg(path)[0])
    except Exception as error:  # readers raise anything; the reason is told
        raise InputError(
            f"The previous stage's segmentation '{path}' cannot be read: {error}"
        ) from error
    if found.shape[1:] != image.shape[1:]:
        raise InputError(
            f"The previous stage's segmentation '{path}' has the shape {found.shape[1:]}, the "
            f"image {image.shape[1:]}."
        )
    return found


def _unreadable(case: Case, error: Exception, said: str) -> str:
    reason = str(error) or " ".join(said.split())
    files = ", ".join(f"'{path}'" for path in case.files)
    return f"nnU-Net cannot read {files}: {reason}"


def _check_image(model: TrainedModel, case: Case, image: NDArray[Any]) -> None:
    names = model.channel_names
    if len(image) != len(names):
        files = ", ".join(f"'{path.name}'" for path in case.files)
        raise InputError(
            f"{files}: {len(image)} channel(s); the network needs {len(names)}: {', '.join(names)}."
        )
    if not np.isfinite(image).all():
        raise InputError(f"The image of '{case.name}' holds NaN or infinite values.")
    if not image.any():
        raise InputError(f"The image of '{case.name}' is zero everywhere.")
