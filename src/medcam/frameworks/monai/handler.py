"""An ignite handler: maps of the images that an engine works on."""

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
from medcam.errors import InputError
from medcam.files import save_nifti
from medcam.frameworks.monai.files import MapNames, affine_of
from medcam.frameworks.monai.inferer import AttentionInferer
from medcam.frameworks.monai.transforms import one_map


class AttentionHandler:
    """Adds attention maps to the output of MONAI's supervised trainers and evaluators.

    With ``inferer``: at the end of every ``every``-th iteration the images of the batch are run
    once more, in evaluation mode, and their maps are stored. The training goes on as without it:
    parameters, gradients, running statistics, modes and random numbers stay as they are.

    Without: the engine's own inferer has to be an `AttentionInferer`. Its maps are taken right
    after the forward pass, at no further cost, so that postprocessing finds them, e.g. ``Invertd``
    and ``SaveImaged`` with ``keys="attention"``.

    Args:
        inferer: Makes the maps, with one method and one layer; None: the engine's inferer.
        every: In which iterations: 1 is all, 10 every tenth.
        key: Under which key the maps are put into ``engine.state.output``: ``[batch, targets,
            *space]``, or ``[targets, *space]`` in each of its items where it is decollated. An
            output that holds no dictionaries is left alone.
        output_dir: Where the maps are saved as NIfTI, on the grid that the network saw and with
            its affine: ``{name}_{key}.nii.gz``, with the target's number before the ending where
            there are several. The name is that of the image's file; without one, the iteration
            and the place in the batch. A later epoch overwrites an earlier one. None: nowhere.

    Attributes:
        attention: The last maps ``[batch, targets, *space]``.

    Raises:
        InputError: The inferer makes several maps, or the engine has no network or inferer that
            this could work with.

    Example::

        SupervisedTrainer(..., train_handlers=[
            AttentionHandler(AttentionInferer(target=1), every=50, output_dir="maps"),
        ])
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
        self.inferer = None if inferer is None else one_map(inferer)
        self.every = every
        self.key = key
        self.output_dir = None if output_dir is None else Path(output_dir)
        self._names = MapNames()
        self._batch: Any = None

    def attach(self, engine: Any) -> None:
        """Registers the handler, as ignite's handlers are.

        Args:
            engine: MONAI's ``SupervisedTrainer``, ``SupervisedEvaluator``, or alike.
        """
        from ignite.engine import Events
        from monai.engines.utils import IterationEvents

        if self.inferer is None:
            engine.add_event_handler(Events.STARTED, self._check)
            engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._take)
        else:
            engine.add_event_handler(Events.ITERATION_STARTED, self._keep)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._make)

    def _check(self, engine: Any) -> None:
        inferer = getattr(engine, "inferer", None)
        if not isinstance(inferer, AttentionInferer):
            raise InputError(
                f"The engine's inferer is {type(inferer).__name__}, which makes no maps: wrap it, "
                "AttentionInferer(inferer), or give the handler one of its own."
            )
        one_map(inferer)

    def _take(self, engine: Any) -> None:
        if engine.state.iteration % self.every == 0:
            self._store(engine, engine.inferer.attention)

    def _keep(self, engine: Any) -> None:
        # By the iteration's end it is decollated, and postprocessing may have changed it.
        due = engine.state.iteration % self.every == 0
        self._batch = engine.state.batch if due else None

    def _make(self, engine: Any) -> None:
        batch, self._batch = self._batch, None
        if batch is None or self.inferer is None:
            return
        network = getattr(engine, "network", None)
        if not isinstance(network, nn.Module):
            raise InputError(f"{type(engine).__name__} has no network of its own to explain.")
        inputs, _, *more = engine.prepare_batch(
            batch, engine.state.device, engine.non_blocking, **engine.to_kwargs
        )
        args, kwargs = more or ((), {})
        mixed = torch.autocast("cuda", **engine.amp_kwargs) if engine.amp else nullcontext()
        with in_eval_mode(network), torch.no_grad(), mixed:
            self.inferer(inputs, network, *args, **kwargs)
        found = self.inferer.attention
        assert isinstance(found, Tensor)  # noqa: S101  # `one_map`
        self._store(engine, found)

    def _store(self, engine: Any, attention: Tensor) -> None:
        self.attention = attention
        items: Sequence[Tensor] = decollate_batch(attention)
        output = engine.state.output
        if isinstance(output, dict):
            output[self.key] = attention
        elif isinstance(output, list) and len(output) == len(items):
            for one, item in zip(output, items, strict=True):
                if isinstance(one, dict):
                    one[self.key] = item
        if self.output_dir is not None:
            for index, item in enumerate(items):
                self._save(self.output_dir, f"{engine.state.iteration}_{index}", item)

    def _save(self, folder: Path, otherwise: str, item: Tensor) -> None:
        source = item.meta.get("filename_or_obj") if isinstance(item, MetaTensor) else None
        name = self._names.of(source, otherwise)
        for index, values in enumerate(item):
            number = f"_{index}" if len(item) > 1 else ""
            volume = values[..., None] if values.ndim == 2 else values
            path = folder / f"{name}_{self.key}{number}.nii.gz"
            save_nifti(path, torch.as_tensor(volume), affine_of(item))
