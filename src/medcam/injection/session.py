"""What an injected model remembers between calls: its settings, the last maps, the scores."""

from __future__ import annotations

import dataclasses
import logging
import os
import pickle
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from medcam.engine.model import isolation
from medcam.engine.model.inputs import first_image
from medcam.engine.notices import Notices
from medcam.engine.request import Request
from medcam.engine.run import run
from medcam.engine.target.resolution import TargetLike
from medcam.errors import InputError, InputTypeError, warn
from medcam.explanation.explanation import Explanation, explanation_of
from medcam.injection.settings import Settings
from medcam.maps import AttentionMap, MapKey

if TYPE_CHECKING:
    from medcam.evaluation.evaluator import Evaluator

_log = logging.getLogger("medcam")

_WAITING = 64  # calls whose findings wait for the device, at most


class Session:
    """The state of an injected model.

    Args:
        settings: The options of `medcam.inject`.
        enabled: Whether calls make maps.
        layer_ordering: The order of the layers in the score table.
    """

    def __init__(self, settings: Settings, *, enabled: bool, layer_ordering: Sequence[str]) -> None:
        self.settings = settings
        self.enabled = enabled
        self._calls = 0
        self._saved = 0
        self._layers: dict[tuple[int, ...], str] = {}
        self.last: Explanation | None = None
        self._untold: deque[tuple[Callable[[], bool], Notices]] = deque(maxlen=_WAITING)
        self._pickled: list[np.ndarray] = []
        self._evaluator: Evaluator | None = None
        self._layer_ordering = list(layer_ordering)
        if settings.output_dir is not None:
            from medcam.files.folder import make_folder

            make_folder(settings.output_dir)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "last": None, "_untold": deque(maxlen=_WAITING)}

    def run(
        self,
        model: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        label: TargetLike = None,
        mask: Any = None,
        raw_input: Any = None,
    ) -> Any:
        """One call of the injected model: the prediction, with maps, files and scores beside."""
        settings = self.settings
        self._tell()
        if settings.evaluate and mask is None:
            raise InputError(
                "evaluate=True needs the ground truth with each call: model(input, mask)."
            )
        if mask is not None and not settings.scores:
            warn("A mask was given, but nothing is scored: inject(..., evaluate=True) does.")
        found = first_image(args, kwargs)
        image = None if found is None else found[1]
        if isinstance(raw_input, str | os.PathLike):
            raise InputTypeError(
                f"raw_input={str(raw_input)!r} is a path: give the image itself, an array or "
                "tensor with one image for each sample."
            )
        if raw_input is not None and image is not None and len(image) == 1:
            single = len(raw_input) != 1 or getattr(raw_input, "ndim", 3) == 2
            raw_input = [raw_input] if single else raw_input  # the one sample itself
        if raw_input is not None and image is not None and len(raw_input) != len(image):
            raise InputError(
                f"raw_input holds {len(raw_input)} image(s) for {len(image)} sample(s): give one "
                "for each sample, e.g. [batch, 1, H, W]."
            )
        explanation = self._explain(model, forward, args, kwargs, label, image)
        # the output's graph and the inputs are the caller's
        self.last = dataclasses.replace(explanation, output=None, inputs=None)
        if explanation._notices.pending:  # never on the CPU
            self._untold.append((_finished(explanation), explanation._notices))
        maps = explanation.unchecked
        if settings.save_pickle:
            self._pickled.extend(
                values
                for item in explanation.maps.values()
                for sample in self._handed(item).numpy()
                for values in sample
            )
        if settings.save_maps:
            self._save(explanation.maps, raw_input, image)
        scored = settings.scores and mask is not None
        scores = self._score(explanation, mask, image) if scored else None
        self._calls += 1
        output = explanation.output
        if settings.replace or settings.return_attention:
            attention = self._only(maps)
            output = attention if settings.replace else (output, attention)
        return (output, scores) if settings.return_score else output

    def _tell(self) -> None:
        """Says what was found in earlier calls, as far as the device is through with them."""
        while self._untold and self._untold[0][0]():
            self._untold.popleft()[1].report()

    def _explain(
        self,
        model: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        label: TargetLike,
        image: Tensor | None,
    ) -> Explanation:
        """The explanation of one call; the automatic layer is chosen once for each input size."""
        request = self.settings.request
        if label is not None:
            request = dataclasses.replace(request, target=label)
        automatic = request.layer in ("auto", None) and request.methods[0].of_layer
        size = tuple(image.shape[2:]) if image is not None else ()
        if automatic and size in self._layers:
            request = dataclasses.replace(request, layer=self._layers[size])
        keep = isolation.keeps_graph(model, (args, dict(kwargs)))
        result = run(request, model, forward, args, kwargs, keep_graph=keep)
        if automatic and isinstance(result.layer, str) and result.names_run:
            self._layers[size] = result.layer
        return explanation_of(result, model=model)

    # ------------------------------------------------------------------------- handing out

    def attention_map(self) -> Any:
        """The last call's map as a numpy array, or a dict by layer; None before the first call."""
        if self.last is None:
            return None
        maps = {key: self._handed(item).numpy() for key, item in self.last.maps.items()}
        return next(iter(maps.values())) if len(maps) == 1 else maps

    def _handed(self, item: AttentionMap) -> Tensor:
        values = item.normalized() if self.settings.normalize else item.values
        return values.detach().cpu()

    def _only(self, maps: Mapping[MapKey, AttentionMap]) -> Tensor:
        if len(maps) != 1:
            raise InputError(
                f"replace= and return_attention= return one map, but layer="
                f"{self.settings.request.layer!r} makes {len(maps)}: name one layer, or use "
                "model.get_attention_map(), which is then a dict by layer."
            )
        (item,) = maps.values()
        return item.normalized() if self.settings.normalize else item.values

    def test_run(self, model: nn.Module, forward: Callable[..., Any], batch: Any) -> list[str]:
        """The layers of which maps can be made."""
        request = dataclasses.replace(self.settings.request, layer="full", shape=None)
        if not request.methods[0].of_layer:
            request = Request.of(
                "gcam", layer="full", shape=None, output=request.output, memory=request.memory
            )
        layer = run(request, model, forward, (batch,), {}).layer
        names = [layer] if isinstance(layer, str) else list(layer or ())
        if self.settings.output_dir is not None:
            from medcam.files import write_atomically

            text = "".join(f"{name}\n" for name in names)
            path = self.settings.output_dir / "registered_layers.txt"
            write_atomically(path, lambda temporary: _write_text(temporary, text))
        return names

    # ------------------------------------------------------------------------------- files

    def _save(
        self, maps: Mapping[MapKey, AttentionMap], raw_input: Any, image: Tensor | None
    ) -> None:
        from medcam.explanation.single_file import save
        from medcam.files.formats.nifti import regrid

        space = () if image is None else tuple(image.shape[2:])
        for key, item in maps.items():
            values = item.values.detach().cpu().numpy()
            for sample, per_target in enumerate(values):
                reference = self._reference(image, sample)
                for target, single in enumerate(per_target):
                    ending = ".png" if single.ndim == 2 else ".nii.gz"
                    name = f"attention_map_{self._calls}_{sample}_{target}{ending}"
                    save(
                        single,
                        self._folder(key) / name,
                        raw_input=None if raw_input is None else raw_input[sample],
                        reference=regrid(reference, single.shape, space)
                        if single.ndim == 3
                        else None,
                        colormap=self.settings.colormap,
                        signed=item.signed,
                    )

    def _reference(self, image: Tensor | None, sample: int = 0) -> Any:
        """The image whose geometry a map takes: the one given, or an input that has an affine."""
        if self.settings.reference is None and image is not None and hasattr(image, "affine"):
            return image[sample]
        return self.settings.reference

    def save_one(self, attention_map: Any, raw_input: Any) -> Path:
        """Saves a map given by the user."""
        from medcam.explanation.single_file import save

        last = next(iter(self.last.maps), None) if self.last is not None else None
        path = self._folder(last) / f"attention_map_{self._saved}"
        saved = save(
            attention_map,
            path,
            raw_input=raw_input,
            reference=self.settings.reference,
            colormap=self.settings.colormap,
        )
        self._saved += 1
        return saved

    def _folder(self, key: MapKey) -> Path:
        """A layer's folder; maps that are of no layer go to the output folder itself."""
        from medcam.files import safe_name

        if self.settings.output_dir is None:
            raise InputError("Nothing can be saved without a folder: inject(..., output_dir=...).")
        return (
            self.settings.output_dir / safe_name(key)
            if isinstance(key, str)
            else (self.settings.output_dir)
        )

    def dump(self) -> None:
        """Writes the pickle and the score table, as far as they were asked for."""
        if self.settings.save_pickle and self.settings.output_dir is not None:
            from medcam.files import write_atomically

            write_atomically(
                self.settings.output_dir / "attention_maps.pkl",
                self._write_pickle,
            )
        if self.settings.output_dir is not None and self._evaluator is not None:
            self._evaluator.dump()
        elif self.settings.scores:
            raise InputError(
                "There are no scores to save yet: call the model with a mask first, "
                "model(input, mask)."
            )

    def _write_pickle(self, path: Path) -> None:
        path.write_bytes(pickle.dumps(self._pickled))

    # ------------------------------------------------------------------------------ scores

    def _score(
        self, explanation: Explanation, mask: Any, image: Tensor | None
    ) -> dict[str, list[float]]:
        from medcam.injection.scoring import score_maps

        space = () if image is None else tuple(image.shape[2:])
        spacings = [
            self._spacing(image, sample) for sample in range(0 if image is None else len(image))
        ]
        return score_maps(
            explanation.maps, mask, self._scoring(), self._calls, space, spacings or None
        )

    def _spacing(self, image: Tensor | None, sample: int) -> tuple[float, ...] | None:
        """A sample's voxel size in mm, where its geometry is known."""
        from medcam.files.formats.nifti import voxel_sizes

        reference = self._reference(image, sample)
        volume = image is not None and image.ndim == 5 and reference is not None
        return voxel_sizes(reference) if volume else None

    def _scoring(self) -> Evaluator:
        if self._evaluator is None:
            from medcam.evaluation.evaluator import Evaluator

            self._evaluator = Evaluator(
                self.settings.output_dir or Path(),
                metric=self.settings.metric,
                threshold=self.settings.threshold,
                layer_ordering=self._layer_ordering,
            )
        return self._evaluator


def _finished(explanation: Explanation) -> Callable[[], bool]:
    """Whether the device is through with a call, without waiting for it.

    A device without events never is: what was found is then said when the maps are read.
    """
    device = next(iter(explanation.unchecked.values())).values.device
    kind: Any = getattr(torch, device.type, None)
    if not hasattr(kind, "Event"):
        return lambda: False
    with kind.device(device):
        event = kind.Event()
        event.record()
    query: Callable[[], bool] = event.query
    return query


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
