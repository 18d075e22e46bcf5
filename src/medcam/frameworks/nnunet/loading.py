"""A trained nnU-Net v2 folder: plans.json, dataset.json, fold_*/checkpoint_final.pth."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medcam.engine.model.devices import usable_device
from medcam.engine.model.layers import unwrap
from medcam.errors import InputError, require, unknown_name

_log = logging.getLogger("medcam")

_TRUSTED = ("dynamic_network_architectures.", "torch.nn.")

Folds = int | str | Iterable[int | str]


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained nnU-Net, ready to predict and to be explained.

    Attributes:
        folder: Where it comes from.
        folds: The folds whose mean is the prediction.
        predictor: nnU-Net's own predictor, with everything that the folder says.
        network: The network, with the parameters of the first fold.
    """

    folder: Path
    folds: tuple[str, ...]
    predictor: Any
    network: nn.Module

    @property
    def parameters(self) -> list[dict[str, torch.Tensor]]:
        """The state of the network, by fold."""
        found: list[dict[str, torch.Tensor]] = self.predictor.list_of_parameters
        return found

    @property
    def channel_names(self) -> list[str]:
        """What the input channels are, in order."""
        dataset = self.predictor.dataset_json
        names = dataset.get("channel_names") or dataset.get("modality")
        return [str(names[key]) for key in sorted(names, key=int)]

    @property
    def labels(self) -> Mapping[str, Any]:
        """The labels by name, as dataset.json has them; regions are lists of labels."""
        labels: dict[str, Any] = self.predictor.dataset_json["labels"]
        return labels

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Along which axes of a window the prediction is mirrored."""
        axes = self.predictor.allowed_mirroring_axes if self.predictor.use_mirroring else None
        return tuple(axes or ())

    @property
    def cascaded(self) -> str | None:
        """The configuration whose segmentation this one needs, if it is the second of a cascade."""
        name: str | None = self.predictor.configuration_manager.previous_stage_name
        return name

    def channel_of(self, label: str) -> int:
        """The channel of the logits that stands for a label or region.

        Raises:
            UnknownNameError: The model has no such label.
        """
        manager = self.predictor.label_manager
        names = [name for name in self.labels if name != "ignore"]
        if manager.has_regions:
            names.remove("background")
        if label not in names:
            more = " Its labels are regions." if manager.has_regions else ""
            numbered = [name for name in names if str(self.labels[name]) == label]
            more += f" The label with this number is {numbered[0]!r}." if numbered else ""
            raise unknown_name("Label", label, names, more=more)
        if manager.has_regions:
            return names.index(label)
        value = self.labels[label]
        number = int(value[0] if isinstance(value, (list, tuple)) else value)
        return int(manager.all_labels.index(number))

    @property
    def bottleneck(self) -> str:
        """The name of the encoder's deepest stage; "auto" where the network has no such thing."""
        stages = getattr(getattr(self.network, "encoder", None), "stages", None)
        return f"encoder.stages.{len(stages) - 1}" if stages is not None else "auto"

    def with_fold(self, index: int) -> nn.Module:
        """The network with the parameters of a fold, loaded into the one module."""
        self.network.load_state_dict(self.parameters[index])
        return self.network


def load(
    model_folder: str | os.PathLike[str],
    *,
    folds: Folds = "all",
    checkpoint: str = "checkpoint_final.pth",
    device: torch.device | str | None = None,
    tta: bool = True,
    step_size: float = 0.5,
    trust: bool = False,
) -> TrainedModel:
    """Loads a trained nnU-Net v2 folder.

    Checkpoints are pickles, but what nnU-Net writes into them is plain data: they are read with
    ``weights_only=True``. A folder that holds other objects, or names a network that is not
    nnU-Net's, may run any code when it is read, and is refused unless ``trust=True``.

    Args:
        model_folder: The folder that holds plans.json, dataset.json and the folds, e.g.
            ``nnUNet_results/Dataset005_Prostate/nnUNetTrainer__nnUNetPlans__3d_fullres``.
        folds: "all" that are there, a number, several, or ``"fold_all"`` for the network that was
            trained on everything.
        checkpoint: The file in each fold.
        device: None: the GPU if there is one.
        tta: Whether predictions are mirrored and averaged, as ``nnUNetv2_predict`` does.
        step_size: nnU-Net's tile step size, in window extents.
        trust: Whether the folder may run code.

    Raises:
        InputError: A part is missing, or the folder is not trusted.
        MissingPackageError: nnunetv2 is not installed.
    """
    with quiet():
        inference = require("nnunetv2.inference.predict_from_raw_data", extra="nnunet")
    folder = Path(model_folder)
    dataset, plans = _json(folder, "dataset.json"), _json(folder, "plans.json")
    chosen = _chosen_folds(folder, folds, checkpoint)
    where = usable_device(device)
    if not 0 < step_size <= 1:
        raise InputError(
            f"step_size={step_size} is not the step from window to window: above 0, at most 1."
        )
    states = [_checkpoint(folder / f"fold_{fold}" / checkpoint, trust) for fold in chosen]
    configuration = states[0]["init_args"]["configuration"]
    _check_configurations(states, chosen)
    if not trust:
        _check_architecture(plans, configuration)
    with quiet():
        predictor = inference.nnUNetPredictor(
            tile_step_size=step_size, use_gaussian=True, use_mirroring=tta,
            perform_everything_on_device=where.type == "cuda", device=where, allow_tqdm=False,
        )  # fmt: skip
        network = _build(plans, dataset, configuration, states[0]["trainer_name"])
        predictor.manual_initialization(
            network, *_managers(plans, configuration), [s["network_weights"] for s in states],
            dataset, states[0]["trainer_name"], states[0].get("inference_allowed_mirroring_axes"),
        )  # fmt: skip
        network.load_state_dict(states[0]["network_weights"])
    # here, not in the predictor's inference mode, where it would make parameters of no use
    network.to(where)
    network.eval()
    if not tta:
        predictor.allowed_mirroring_axes = None
    return TrainedModel(folder, chosen, predictor, unwrap(predictor.network))


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Within it, what nnU-Net prints goes to the log; yields what was printed."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield said
    finally:
        for line in said.getvalue().splitlines():
            _log.debug("nnU-Net: %s", line)


def _json(folder: Path, name: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder: give the folder that holds plans.json.")
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        below = sorted(path.parent.name for path in folder.glob(f"*/{name}"))
        hint = f" Did you mean one of its folders: {', '.join(below[:4])}?" if below else ""
        raise InputError(
            f"'{folder}' holds no {name}, so it is not a trained nnU-Net v2 folder.{hint}"
        ) from error
    except ValueError as error:
        raise InputError(f"'{folder / name}' is damaged: {error}.") from error
    if not isinstance(found, dict):
        raise InputError(f"'{folder / name}' is damaged: it holds a {type(found).__name__}.")
    return found


def _chosen_folds(folder: Path, folds: Folds, checkpoint: str) -> tuple[str, ...]:
    there = sorted(
        path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoint}")
    )
    if folds == "all":
        # as nnU-Net: the network trained on everything is taken where there is no other
        chosen = [fold for fold in there if fold != "all"] or there
    else:
        given = [folds] if isinstance(folds, (int, str)) else list(folds)
        chosen = [str(fold).removeprefix("fold_") for fold in given]
    missing = [fold for fold in chosen if fold not in there]
    if missing or not chosen:
        listed = ", ".join(there) or "none"
        others = sorted({path.name for path in folder.glob("fold_*/*.pth")} - {checkpoint})
        hint = f" Other checkpoints: {', '.join(others)}." if others else ""
        what = f"no fold {', '.join(missing)}" if missing else "no fold at all"
        raise InputError(
            f"'{folder}' has {what} with a {checkpoint}; folds with one: {listed}.{hint}"
        )
    return tuple(chosen)


def _checkpoint(path: Path, trust: bool) -> dict[str, Any]:
    import numpy as np

    scalar: Any = np.float64(0).__reduce__()[0]  # unpickles a logged number; runs no code
    kinds: list[Any] = [np.dtype, *(type(np.dtype(name)) for name in ("f8", "f4", "i8"))]
    try:
        with torch.serialization.safe_globals([scalar, *kinds]):
            found = torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        if not trust:
            raise InputError(
                f"'{path}' holds more than plain data and may run code when it is read. If you "
                "trust where it comes from, pass trust=True (--trust)."
            ) from error
        raise InputError(f"'{path}' is not a readable checkpoint: {error}.") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise InputError(f"'{path}' is not a readable checkpoint: {error}.") from error
    needed = ("network_weights", "init_args", "trainer_name")
    missing = [key for key in needed if not isinstance(found, dict) or key not in found]
    if missing:
        raise InputError(f"'{path}' is not a checkpoint of nnU-Net v2: it has no {missing[0]}.")
    state: dict[str, Any] = found
    return state


def _check_configurations(states: Sequence[Mapping[str, Any]], folds: Sequence[str]) -> None:
    names = [state["init_args"]["configuration"] for state in states]
    if len(set(names)) > 1:
        pairs = ", ".join(f"fold {f}: {n}" for f, n in zip(folds, names, strict=True))
        raise InputError(f"The folds are of different configurations ({pairs}): choose one.")


def _check_architecture(plans: Mapping[str, Any], configuration: str) -> None:
    """An error for plans that name code that is not nnU-Net's own."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(dict(plans)).get_configuration(configuration)
    names = [manager.network_arch_class_name]
    kwargs = manager.network_arch_init_kwargs
    names += [kwargs[key] for key in manager.network_arch_init_kwargs_req_import if kwargs[key]]
    foreign = [name for name in names if not str(name).startswith(_TRUSTED)]
    if foreign:
        raise InputError(
            f"The plans name {foreign[0]!r}, which is not nnU-Net's own code. If you trust where "
            "the folder comes from, pass trust=True (--trust)."
        )


def _managers(plans: Mapping[str, Any], configuration: str) -> tuple[Any, Any]:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(dict(plans))
    return manager, manager.get_configuration(configuration)


def _build(
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    configuration: str,
    trainer_name: str,
) -> nn.Module:
    """The network as the trainer builds it, without deep supervision."""
    import inspect

    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    manager, chosen = _managers(plans, configuration)
    channels = determine_num_input_channels(manager, chosen, dataset)
    heads = manager.get_label_manager(dataset).num_segmentation_heads
    try:
        trainer = recursive_find_trainer_class_by_name(trainer_name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"The trainer {trainer_name!r} is not part of the installed nnunetv2: install the code "
            "that the network was trained with, or let nnUNet_extTrainer name its folder. "
            f"nnU-Net says: {error}"
        ) from error
    build = trainer.build_network_architecture
    if "plans_manager" in inspect.signature(build).parameters:
        network = build(manager, chosen, channels, heads, enable_deep_supervision=False)
    else:  # nnunetv2 up to 2.6
        network = build(
            chosen.network_arch_class_name, chosen.network_arch_init_kwargs,
            chosen.network_arch_init_kwargs_req_import, channels, heads,
            enable_deep_supervision=False,
        )  # fmt: skip
    built: nn.Module = network
    return built
