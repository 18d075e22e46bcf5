"""Recording of an injected model: maps as files, the pickle, the layers' names, the scores."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medcam.errors import InputError
from medcam.explanation.explanation import Explanation
from medcam.injection.call_arguments import CallArguments, arguments_on, warn_of_first_image
from medcam.injection.map_files import MapFiles
from medcam.injection.output_folder import call_number
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
        self._mutex = threading.Lock()
        self._pickled: list[np.ndarray] = []
        self._evaluator: Evaluator | None = None
        self._references = References(settings.reference)
        self._files = MapFiles(settings, self._references)
        self._has_told = False
        self._scored_layers: list[Any] = []
        if settings.output_dir is not None:
            from medcam.files.folder import make_folder

            make_folder(settings.output_dir)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_mutex": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._mutex = threading.Lock()

    @property
    def calls(self) -> int:
        """The number of calls so far."""
        return self._calls

    def reserve(self, lowest: int = 0) -> int:
        """Return the number of a call that begins; calls may run in several threads.

        Args:
            lowest: The lowest number that it may be.
        """
        with self._mutex:
            number = max(self._calls, lowest)
            self._calls = number + 1
            return number

    def release(self, call: int) -> None:
        """Give the number of a call back that made nothing, if it is the last one."""
        with self._mutex:
            if self._calls == call + 1:
                self._calls = call

    def record(
        self, explanation: Explanation, arguments: CallArguments, call: int
    ) -> dict[str, list[float]] | None:
        """Record one call, as far as the settings ask for it.

        Args:
            explanation: The call's maps.
            arguments: The call's mask, raw inputs and image.
            call: Its number, from `reserve`.

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
            self._files.save_all(explanation, arguments, call, self.reserve)
        if settings.scores and arguments.mask is not None:
            scores = self._score(explanation, arguments, call)
        return scores

    def record_failure(self, arguments: CallArguments, call: int) -> None:
        """Record a call without maps: no file of an earlier run stays, and its scores are NaN.

        Args:
            arguments: The call's mask and image.
            call: Its number.
        """
        if self._settings.save_maps:
            with suppress(OSError):
                self._files.forget(call)
        if not self._settings.scores or arguments.mask is None or arguments.image is None:
            return
        layers = self._scored_layers or [self._settings.request.layer]
        for layer in layers:
            for sample in range(len(arguments.image)):
                name = f"{call}_{sample}_0"
                self._evaluator_of_all_calls().add_missing(_as_label(layer), None, name)

    def save_user_map(self, attention_map: Any, raw_input: Any, key: MapKey) -> Path:
        """Save a map ``[H, W]`` or ``[X, Y, Z]`` of the user's own.

        Args:
            attention_map: The map, numpy or torch.
            raw_input: The image that a 2D map is drawn over.
            key: The map of the last call in whose folder the file goes.
        """
        from medcam.explanation.single_file import save

        image, folder = key[-1] if isinstance(key, tuple) else None, self._files.folder(key)
        number = call_number(
            [folder / "user"], self._files.writer, self._user_maps, lambda lowest: lowest
        )
        saved = save(
            attention_map,
            folder / f"attention_map_{number}",
            raw_input=raw_input,
            reference=self._references.of_image(image),
            colormap=self._settings.colormap,
            raw_input_order=self._settings.raw_input_order,
        )
        self._user_maps = number + 1
        return saved

    def write_layers(self, names: Sequence[str]) -> None:
        """Write ``registered_layers.txt``, one name a line, if there is an output folder."""
        if self._settings.output_dir is None:
            return
        from medcam.files import write_atomically

        lines = "".join(f"{name}\n" for name in names)
        write_atomically(
            self._files.output().path / "registered_layers.txt",
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
                self._files.output().path / "attention_maps.pkl",
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

    def _score(
        self, explanation: Explanation, arguments: CallArguments, call: int
    ) -> dict[str, list[float]]:
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
                call=call,
                space=on_image.space,
                spacings=self._spacings(maps.values(), on_image),
            )
            self._scored_layers = list(dict.fromkeys([*self._scored_layers, *of_image]))
            for layer, values in of_image.items():
                scores[layer] = [*scores.get(layer, []), *values]
        return scores

    def _spacings(
        self, maps: Collection[AttentionMap], arguments: CallArguments
    ) -> list[tuple[float, ...] | None] | None:
        """Return the voxel size of the mask of each sample, as metrics and sizes may need it."""
        from medcam.evaluation.metrics import METRICS

        metric = self._settings.metric
        known = METRICS.get(metric) if isinstance(metric, str) else None
        counts = self._settings.by_lesion or (known is not None and "spacing" in known.options)
        grids = {arguments.space, *(tuple(item.values.shape[2:]) for item in maps)}
        batch = 0 if arguments.image is None else len(arguments.image)
        return [
            self._references.spacing(
                arguments, sample, np.shape(arguments.mask)[-3:], grids,
                counts=counts,
            )
            for sample in range(batch)
        ] or None  # fmt: skip

    def _evaluator_of_all_calls(self) -> Evaluator:
        """Return the evaluator, made at the first call that is scored."""
        if self._evaluator is None:
            from medcam.evaluation.evaluator import Evaluator

            self._evaluator = Evaluator(
                self._files.output().path,
                metric=self._settings.metric,
                threshold=self._settings.threshold,
                by_lesion=self._settings.by_lesion,
                layer_ordering=self._layer_ordering,
            )
        return self._evaluator


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _as_label(layer: Any) -> str:
    """Return a layer, or several, as the table names it."""
    return layer if isinstance(layer, str) else ", ".join(map(str, layer or ()))
