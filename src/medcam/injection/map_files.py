"""The files of an injected model's maps: one for each map, sample and target."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from medcam.errors import InputError
from medcam.explanation.explanation import Explanation
from medcam.files.claims import started
from medcam.injection.call_arguments import CallArguments, arguments_on
from medcam.injection.output_folder import OutputFolder, Writer, call_number, output_folder
from medcam.injection.references import References
from medcam.injection.settings import Settings
from medcam.maps import AttentionMap, MapKey


class MapFiles:
    """Writer of the files of maps.

    Args:
        settings: The options of `medcam.inject`.
        references: The geometry of saved maps.

    Attributes:
        writer: An object that stands for this writer, and not for its copies.
    """

    def __init__(self, settings: Settings, references: References) -> None:
        self._settings = settings
        self._references = references
        self._output: OutputFolder | None = None
        self.writer = Writer()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_output": None, "writer": Writer()}

    def output(self) -> OutputFolder:
        """Return the folder that this process writes to; see `medcam.injection.output_folder`.

        Raises:
            InputError: There is no output folder.
        """
        if self._settings.output_dir is None:
            raise InputError("Nothing can be saved without a folder: inject(..., output_dir=...).")
        output = self._output
        if output is None or output.process != os.getpid():  # also after a fork
            self._output = output = output_folder(self._settings.output_dir)
        return output

    def folder(self, key: MapKey) -> Path:
        """Return a layer's folder; for maps without a layer, the output folder itself.

        Raises:
            InputError: There is no output folder.
        """
        from medcam.files import safe_name

        folder = self.output().path
        layer = key[0] if isinstance(key, tuple) else key  # (layer, image)
        return folder if layer is None else folder / safe_name(str(layer))

    def save_all(
        self,
        explanation: Explanation,
        arguments: CallArguments,
        call: int,
        fresh: Callable[[int], int],
    ) -> None:
        """Write a file for each map, sample and target.

        Args:
            explanation: The call's maps.
            arguments: The call's raw inputs and image.
            call: The number of the call.
            fresh: Returns another number, not below the given one, if this one is taken.
        """
        from medcam.files import safe_name

        output = self.output()
        folders = {self.folder(key) for key in explanation.maps}
        number = call_number(folders, self.writer.of(explanation.model), call, fresh)
        for key, item in explanation.maps.items():
            values = item.values.detach().cpu().numpy()
            on_image = arguments_on(item, explanation, arguments)
            ending = f"_{safe_name(str(item.image))}" if isinstance(key, tuple) else ""
            for sample, per_target in enumerate(values):
                for target, single in enumerate(per_target):
                    name = f"attention_map_{number}_{sample}_{target}{ending}"
                    path = self.folder(key) / name
                    if not np.isfinite(single).all():  # a sample without a valid map
                        _remove_of_earlier_run(path.parent, f"{name}.*")
                        continue
                    if single.ndim == 1:
                        self._save_curve(path, item, on_image, (sample, target))
                    else:
                        self._save_single(single, path, item, on_image, sample, target)
                    output.touch()

    def forget(self, call: int) -> None:
        """Remove what an earlier run of the program saved of a call that has no maps now."""
        folder = self.output().path
        for part in (".", "*"):
            _remove_of_earlier_run(folder, f"{part}/attention_map_{call}_*")

    def _save_curve(
        self,
        path: Path,
        item: AttentionMap,
        arguments: CallArguments,
        index: tuple[int, int],
    ) -> None:
        """Write the map of a signal as a PNG curve over the signal, and its raw values (.npy).

        Args:
            path: The path without an ending.
            item: The map.
            arguments: The arguments of the call.
            index: The sample and the target.
        """
        from medcam.explanation.single_file import save

        single, (sample, _) = item.single(*index), index
        signals = arguments.image if arguments.raw_input is None else arguments.raw_input
        save(single, path.with_name(f"{path.name}.npy"))
        save(
            single,
            path.with_name(f"{path.name}.png"),
            raw_input=None if signals is None else signals[sample],
            colormap=self._settings.colormap,
        )

    def _save_single(
        self,
        values: np.ndarray,
        path: Path,
        item: AttentionMap,
        arguments: CallArguments,
        sample: int,
        target: int,
    ) -> None:
        """Write one map ``[*space]`` as a PNG (2D) or NIfTI file (3D)."""
        from medcam.explanation.single_file import save

        is_picture, reference = values.ndim == 2, None
        own_shape = item.on_layer and item.grid is not None and item.grid.known
        if not is_picture:
            shape = arguments.space if own_shape else values.shape
            reference = self._references.reference(arguments, sample, shape)
        single = item.single(sample, target)
        save(
            single if own_shape else values,
            path.with_name(path.name + (".png" if is_picture else ".nii.gz")),
            raw_input=None if arguments.raw_input is None else arguments.raw_input[sample],
            reference=reference,
            colormap=self._settings.colormap,
            raw_input_order=self._settings.raw_input_order,
            signed=item.signed,
        )


def _remove_of_earlier_run(folder: Path, pattern: str) -> None:
    """Remove files that were there before this process began: they are not of its images."""
    began = started()
    for path in folder.glob(pattern):
        with suppress(OSError):
            if path.stat().st_mtime < began:
                path.unlink(missing_ok=True)
