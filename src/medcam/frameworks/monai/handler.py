"""An ignite handler that makes maps of the images in an engine's batches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import decollate_batch
from torch import Tensor, nn

from medcam.engine.model.isolation import in_eval_mode
from medcam.engine.model.undo import undoing
from medcam.errors import InputError
from medcam.files import save_nifti
from medcam.frameworks.monai.files import MapNames, affine_of
from medcam.frameworks.monai.inferer import AttentionInferer
from medcam.frameworks.monai.transforms import require_one_map


class AttentionHandler:
    """An ignite handler that adds attention maps to the output of MONAI's supervised engines.

    With ``inferer``: at the end of every ``every``-th iteration the batch's images are run once
    more, in evaluation mode, and their maps are stored. This does not affect training: parameters,
    gradients, running statistics, modes and random numbers stay as they are.

    Without ``inferer``: the engine's own inferer has to be an `AttentionInferer`. Its maps are
    stored right after the forward pass, without a second run. So they are available to
    postprocessing, e.g. to ``Invertd`` and ``SaveImaged`` with ``keys="attention"``.

    Args:
        inferer: The inferer that makes the maps, with one method and one layer; None: the engine's
            inferer.
        every: The period in iterations: 1 is every iteration, 10 every tenth.
        key: The key of the maps in ``engine.state.output``: ``[batch, targets, *space]``, or
            ``[targets, *space]`` in each item of a decollated output. An output without
            dictionaries is left unchanged.
        output_dir: The folder where the maps are saved as NIfTI, on the network's grid and with
            its affine: ``{name}_{key}.nii.gz``, with the target's number before the ending if
            there are several. The name is that of the image's file; without a file, the iteration
            and the position in the batch. A later epoch overwrites an earlier one. None: maps are
            not saved.

    Attributes:
        attention: The last maps ``[batch, targets, *space]``.

    Raises:
        InputError: The inferer makes several maps, or the engine has no network, or no inferer
            that makes maps.

    Example:
        >>> inferer = AttentionInferer(target=1)
        >>> handlers = [AttentionHandler(inferer, every=50, output_dir="maps")]
        >>> handlers[0].every  # then SupervisedTrainer(..., train_handlers=handlers)
        50
    """

    attention: Tensor

    def __init__(
        self,
        inferer: AttentionInferer | None = None,
        *,
        every: int = 1,
        key: str = "attention",
        output_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if every < 1:
            raise InputError(f"every={every} has to be at least 1.")
        self.inferer = None if inferer is None else require_one_map(inferer)
        self.every = every
        self.key = key
        self.output_dir = None if output_dir is None else Path(output_dir)
        self._names = MapNames()
        self._batch: Any = None

    def attach(self, engine: Any) -> None:
        """Register the handler with an engine, as ignite's handlers do.

        Args:
            engine: MONAI's ``SupervisedTrainer``, ``SupervisedEvaluator``, or a similar engine.
        """
        from ignite.engine import Events
        from monai.engines.utils import IterationEvents

        if self.inferer is None:
            engine.add_event_handler(Events.STARTED, self._check_engine)
            engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._store_engines_maps)
        else:
            engine.add_event_handler(Events.ITERATION_STARTED, self._remember_batch)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._make_maps)

    def _check_engine(self, engine: Any) -> None:
        inferer = getattr(engine, "inferer", None)
        if not isinstance(inferer, AttentionInferer):
            raise InputError(
                f"The engine's inferer is {type(inferer).__name__}, which makes no maps: wrap it, "
                "AttentionInferer(inferer), or give the handler an inferer of its own."
            )
        require_one_map(inferer)

    def _store_engines_maps(self, engine: Any) -> None:
        if engine.state.iteration % self.every == 0:
            self._store(engine, engine.inferer.attention)

    def _remember_batch(self, engine: Any) -> None:
        # At the iteration's end the batch is decollated, and postprocessing may have changed it.
        due = engine.state.iteration % self.every == 0
        self._batch = engine.state.batch if due else None

    @undoing
    def _make_maps(self, engine: Any) -> None:
        batch, self._batch = self._batch, None
        if batch is None or self.inferer is None:
            return
        network = getattr(engine, "network", None)
        if not isinstance(network, nn.Module):
            raise InputError(
                f"{type(engine).__name__} has no network to explain: attach the handler to a "
                "SupervisedTrainer, a SupervisedEvaluator, or another engine with a network."
            )
        inputs, _, *further_inputs = engine.prepare_batch(
            batch, engine.state.device, engine.non_blocking, **engine.to_kwargs
        )
        args, kwargs = further_inputs or ((), {})
        autocast = torch.autocast("cuda", **engine.amp_kwargs) if engine.amp else nullcontext()
        with in_eval_mode(network), torch.no_grad(), autocast:
            self.inferer(inputs, network, *args, **kwargs)
        attention = self.inferer.attention
        assert isinstance(attention, Tensor)  # noqa: S101  # as `require_one_map` has checked
        self._store(engine, attention)

    def _store(self, engine: Any, attention: Tensor) -> None:
        self.attention = attention
        maps: Sequence[Tensor] = decollate_batch(attention)
        output = engine.state.output
        if isinstance(output, dict):
            output[self.key] = attention
        elif isinstance(output, list) and len(output) == len(maps):
            for item, map_ in zip(output, maps, strict=True):
                if isinstance(item, dict):
                    item[self.key] = map_
        if self.output_dir is not None:
            for index, map_ in enumerate(maps):
                self._save(self.output_dir, map_, f"{engine.state.iteration}_{index}")

    def _save(self, folder: Path, map_: Tensor, default_name: str) -> None:
        """Save one image's map ``[targets, *space]``, one file for each target."""
        source = map_.meta.get("filename_or_obj") if isinstance(map_, MetaTensor) else None
        name = self._names.name_for(source, default_name)
        for index, values in enumerate(map_):
            number = f"_{index}" if len(map_) > 1 else ""
            volume = values[..., None] if values.ndim == 2 else values
            path = folder / f"{name}_{self.key}{number}.nii.gz"
            save_nifti(path, torch.as_tensor(volume), affine_of(map_))
