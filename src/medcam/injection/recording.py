"""Recording of an injected model: maps as files, the pickle, the layers' names, the scores."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medcam.errors import InputError
from medcam.explanation.explanation import Explanation
from medcam.injection.call_arguments import CallArguments, arguments_on, warn_of_first_image
from medcam.injection.references import References
from medcam.injection.settings import Settings
from medcam.maps import AttentionMap, MapKey

if TYPE_CHECKING:
    from medcam.evaluation.evaluator import Evaluator


class Recording:
    """What the calls of an injected model leave behind in files and in the score table.

    Args:
        settings: The options of `medcam.inject`.
        layer_ordering: The order of the layers in the score table.

    Raises:
        SaveError: The output folder cannot be created.
    """

    def __init__(self, settings: Settings, layer_ordering: Sequence[str]) -> None:
        self._settings = settings
        self._layer_ordering = list(layer_ordering)
        self._calls = 0
        self._user_maps = 0
        self._pickled: list[np.ndarray] = []
        self._evaluator: Evaluator | None = None
        self._references = References(settings.reference)
        self._has_told = False
        if settings.output_dir is not None:
            from medcam.files.folder import make_folder

            make_folder(settings.output_dir)

    def record(
        self, explanation: Explanation, arguments: CallArguments
    ) -> dict[str, list[float]] | None:
        """Record one call, as far as the settings ask for it.

        Args:
            explanation: The call's maps.
            arguments: The call's mask, raw inputs and image.

        Returns:
            The scores by layer, one for each sample and target; None if nothing is scored.

        Raises:
            MaskError: The mask does not fit the maps.
            SaveError: A file could not be written.
        """
        settings, scores = self._settings, None
        if not self._has_told:
            self._has_told = warn_of_first_image(explanation, arguments, settings.reference)
        if settings.save_pickle:
            self._collect(explanation)
        if settings.save_maps:
            self._save(explanation, arguments)
        if settings.scores and arguments.mask is not None:
            scores = self._score(explanation, arguments)
        self._calls += 1
        return scores

    def save_user_map(self, attention_map: Any, raw_input: Any, key: MapKey) -> Path:
        """Save a map ``[H, W]`` or ``[X, Y, Z]`` of the user's own.

        Args:
            attention_map: The map, numpy or torch.
            raw_input: The image that a 2D map is drawn over.
            key: The map of the last call in whose folder the file goes.
        """
        from medcam.explanation.single_file import save

        image = key[-1] if isinstance(key, tuple) else None
        saved = save(
            attention_map,
            self._folder(key) / f"attention_map_{self._user_maps}",
            raw_input=raw_input,
            reference=self._references.of_image(image),
            colormap=self._settings.colormap,
            raw_input_order=self._settings.raw_input_order,
        )
        self._user_maps += 1
        return saved

    def write_layers(self, names: Sequence[str]) -> None:
        """Write ``registered_layers.txt``, one name a line, if there is an output folder."""
        if self._settings.output_dir is None:
            return
        from medcam.files import write_atomically

        lines = "".join(f"{name}\n" for name in names)
        write_atomically(
            self._settings.output_dir / "registered_layers.txt",
            lambda path: _write(path, lines.encode("utf-8")),
        )

    def dump(self) -> None:
        """Write the pickle and the score table with its chart, as far as the settings ask for them.

        Raises:
            InputError: Scores are to be saved, but no call had a mask.
            SaveError: A file could not be written.
        """
        folder = self._settings.output_dir
        if self._settings.save_pickle and folder is not None:
            from medcam.files import write_atomically

            write_atomically(
                folder / "attention_maps.pkl",
                lambda path: _write(path, pickle.dumps(self._pickled)),
            )
        if folder is not None and self._evaluator is not None:
            self._evaluator.dump()
        elif self._settings.scores:
            raise InputError(
                "There are no scores to save yet: call the model with a mask first, "
                "model(input, mask)."
            )

    def _collect(self, explanation: Explanation) -> None:
        """Keep the maps ``[*space]`` of all samples and targets for the pickle."""
        for item in explanation.maps.values():
            for per_target in self._settings.values_of(item).detach().cpu().numpy():
                self._pickled.extend(per_target)

    def _save(self, explanation: Explanation, arguments: CallArguments) -> None:
        """Write a file for each map, sample and target."""
        from medcam.files import safe_name

        for key, item in explanation.maps.items():
            values = item.values.detach().cpu().numpy()
            on_image = arguments_on(item, explanation, arguments)
            ending = f"_{safe_name(str(item.image))}" if isinstance(key, tuple) else ""
            for sample, per_target in enumerate(values):
                for target, single in enumerate(per_target):
                    name = f"attention_map_{self._calls}_{sample}_{target}{ending}"
                    path = self._folder(key) / name
                    if single.ndim == 1:
                        self._save_curve(path, item, on_image, (sample, target))
                    else:
                        self._save_single(single, path, item, on_image, sample, target)

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

    def _folder(self, key: MapKey) -> Path:
        """Return a layer's folder; for maps without a layer, the output folder itself.

        Raises:
            InputError: There is no output folder.
        """
        from medcam.files import safe_name

        folder = self._settings.output_dir
        if folder is None:
            raise InputError("Nothing can be saved without a folder: inject(..., output_dir=...).")
        layer = key[0] if isinstance(key, tuple) else key  # (layer, image)
        return folder if layer is None else folder / safe_name(str(layer))

    def _score(self, explanation: Explanation, arguments: CallArguments) -> dict[str, list[float]]:
        """Return the scores of a call by layer; the evaluator keeps them."""
        from medcam.injection.scoring import score_maps

        scores: dict[str, list[float]] = {}
        for name in dict.fromkeys(item.image for item in explanation.maps.values()):
            maps = {key: item for key, item in explanation.maps.items() if item.image == name}
            item = next(iter(maps.values()))
            on_image = arguments_on(item, explanation, arguments)
            if on_image.mask is None:
                continue
            of_image = score_maps(
                maps,
                on_image.mask,
                self._evaluator_of_all_calls(),
                call=self._calls,
                space=on_image.space,
                spacings=self._spacings(maps.values(), on_image),
            )
            for layer, values in of_image.items():
                scores[layer] = [*scores.get(layer, []), *values]
        return scores

    def _spacings(
        self, maps: Collection[AttentionMap], arguments: CallArguments
    ) -> list[tuple[float, ...] | None] | None:
        """Return the voxel size of the mask of each sample, as the metric may need it."""
        from medcam.evaluation.metrics import METRICS

        metric = self._settings.metric
        known = METRICS.get(metric) if isinstance(metric, str) else None
        grids = {arguments.space, *(tuple(item.values.shape[2:]) for item in maps)}
        batch = 0 if arguments.image is None else len(arguments.image)
        return [
            self._references.spacing(
                arguments, sample, np.shape(arguments.mask)[-3:], grids,
                counts=known is not None and "spacing" in known.options,
            )
            for sample in range(batch)
        ] or None  # fmt: skip

    def _evaluator_of_all_calls(self) -> Evaluator:
        """Return the evaluator, made at the first call that is scored."""
        if self._evaluator is None:
            from medcam.evaluation.evaluator import Evaluator

            self._evaluator = Evaluator(
                self._settings.output_dir or Path(),
                metric=self._settings.metric,
                threshold=self._settings.threshold,
                layer_ordering=self._layer_ordering,
            )
        return self._evaluator


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
