"""Load a trained nnU-Net v2 folder: plans.json, dataset.json, fold_*/checkpoint_final.pth."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medcam.engine.model.devices import usable_device
from medcam.engine.model.layers import unwrap
from medcam.errors import InputError, require
from medcam.frameworks.nnunet.console import prints_to_log
from medcam.frameworks.nnunet.trained_model import TrainedModel

_TRUSTED = ("dynamic_network_architectures.", "torch.nn.")

Folds = int | str | Iterable[int | str]
"""``"all"``, a number, several, or ``"fold_all"``."""


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
    """Load a trained nnU-Net v2 folder.

    Checkpoints are pickles, but nnU-Net writes only plain data into them. They are read with
    ``weights_only=True``. Reading a folder that holds other objects, or that names a network from
    outside nnU-Net, may run any code; it is refused unless ``trust=True``.

    Args:
        model_folder: The folder that holds plans.json, dataset.json and the folds, e.g.
            ``nnUNet_results/Dataset005_Prostate/nnUNetTrainer__nnUNetPlans__3d_fullres``.
        folds: "all" folds in the folder, a number, several, or ``"fold_all"`` for the network that
            was trained on all cases.
        checkpoint: The name of the checkpoint file in each fold.
        device: The network's device; None: the GPU if there is one.
        tta: Whether predictions are mirrored and averaged, as ``nnUNetv2_predict`` does.
        step_size: nnU-Net's tile step size, in window extents.
        trust: Whether the folder may run code.

    Raises:
        InputError: A part is missing, or the folder is not trusted.
        MissingPackageError: nnunetv2 is not installed.
    """
    with prints_to_log():
        inference = require("nnunetv2.inference.predict_from_raw_data", extra="nnunet")
    folder = Path(model_folder)
    dataset, plans = _read_json(folder, "dataset.json"), _read_json(folder, "plans.json")
    fold_names = _chosen_folds(folder, folds, checkpoint)
    network_device = usable_device(device)
    if not 0 < step_size <= 1:
        raise InputError(
            f"step_size={step_size}: give the step from window to window in window extents, above "
            "0, at most 1."
        )
    states = [_read_checkpoint(folder / f"fold_{fold}" / checkpoint, trust) for fold in fold_names]
    configuration = states[0]["init_args"]["configuration"]
    _check_configurations(states, fold_names)
    if not trust:
        _check_architecture(plans, configuration)
    with prints_to_log():
        predictor = inference.nnUNetPredictor(
            tile_step_size=step_size, use_gaussian=True, use_mirroring=tta,
            perform_everything_on_device=network_device.type == "cuda", device=network_device,
            allow_tqdm=False,
        )  # fmt: skip
        network = _build_network(plans, dataset, configuration, states[0]["trainer_name"])
        predictor.manual_initialization(
            network, *_managers(plans, configuration), [s["network_weights"] for s in states],
            dataset, states[0]["trainer_name"], states[0].get("inference_allowed_mirroring_axes"),
        )  # fmt: skip
        network.load_state_dict(states[0]["network_weights"])
    # Outside the predictor's inference mode: parameters made there cannot be used by autograd.
    network.to(network_device)
    network.eval()
    if not tta:
        predictor.allowed_mirroring_axes = None
    return TrainedModel(folder, fold_names, predictor, unwrap(predictor.network))


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder: give the folder that holds plans.json.")
    try:
        contents = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        subfolders = sorted(path.parent.name for path in folder.glob(f"*/{name}"))
        hint = f" Did you mean one of its folders: {', '.join(subfolders[:4])}?"
        raise InputError(
            f"'{folder}' holds no {name}, so it is not a trained nnU-Net v2 folder."
            f"{hint if subfolders else ''}"
        ) from error
    except ValueError as error:
        raise InputError(f"'{folder / name}' is damaged: {error}.") from error
    if not isinstance(contents, dict):
        raise InputError(f"'{folder / name}' is damaged: it holds a {type(contents).__name__}.")
    return contents


def _chosen_folds(folder: Path, folds: Folds, checkpoint: str) -> tuple[str, ...]:
    """Return the names of the requested folds, after checking that each has the checkpoint."""
    available = sorted(
        path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoint}")
    )
    if folds == "all":
        # As nnU-Net: fold_all, trained on all cases, is used only if there is no other fold.
        chosen = [fold for fold in available if fold != "all"] or available
    else:
        requested = [folds] if isinstance(folds, (int, str)) else list(folds)
        chosen = [str(fold).removeprefix("fold_") for fold in requested]
    missing = [fold for fold in chosen if fold not in available]
    if missing or not chosen:
        listed = ", ".join(available) or "none"
        others = sorted({path.name for path in folder.glob("fold_*/*.pth")} - {checkpoint})
        hint = f" Other checkpoints: {', '.join(others)}." if others else ""
        lacking = f"no fold {', '.join(missing)}" if missing else "no fold at all"
        raise InputError(
            f"'{folder}' has {lacking} with a {checkpoint}; folds with one: {listed}.{hint}"
        )
    return tuple(chosen)


@contextmanager
def _safe_globals(types: list[Any]) -> Iterator[None]:
    """Allow types in ``torch.load(weights_only=True)``; PyTorch 2.4 has no context for that."""
    serialization: Any = torch.serialization
    if hasattr(serialization, "safe_globals"):
        with serialization.safe_globals(types):
            yield
        return
    import _codecs  # bytes are pickled as encoded text, which later versions allow by default

    before = serialization.get_safe_globals()
    serialization.add_safe_globals([*types, _codecs.encode])
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(before)


def _read_checkpoint(path: Path, trust: bool) -> dict[str, Any]:
    import numpy as np

    # nnU-Net logs NumPy numbers; unpickling these types runs no code.
    scalar: Any = np.float64(0).__reduce__()[0]
    types: list[Any] = [np.dtype, *(type(np.dtype(name)) for name in ("f8", "f4", "i8"))]
    try:
        with _safe_globals([scalar, *types]):
            state = torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        if not trust:
            raise InputError(
                f"'{path}' holds more than plain data and may run code when it is read. If you "
                "trust where it comes from, pass trust=True (--trust)."
            ) from error
        raise InputError(f"'{path}' is not a readable checkpoint: {error}.") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise InputError(f"'{path}' is not a readable checkpoint: {error}.") from error
    required = ("network_weights", "init_args", "trainer_name")
    missing = [key for key in required if not isinstance(state, dict) or key not in state]
    if missing:
        raise InputError(f"'{path}' is not a checkpoint of nnU-Net v2: it has no {missing[0]}.")
    checked: dict[str, Any] = state
    return checked


def _check_configurations(states: Sequence[Mapping[str, Any]], folds: Sequence[str]) -> None:
    """Raise if the folds were trained with different configurations."""
    names = [state["init_args"]["configuration"] for state in states]
    if len(set(names)) > 1:
        pairs = ", ".join(f"fold {f}: {n}" for f, n in zip(folds, names, strict=True))
        raise InputError(
            f"The folds have different configurations ({pairs}): load folds of one configuration."
        )


def _check_architecture(plans: Mapping[str, Any], configuration: str) -> None:
    """Raise if the plans name code from outside nnU-Net."""
    _, manager = _managers(plans, configuration)
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
    """Return nnU-Net's ``PlansManager`` and ``ConfigurationManager``."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(dict(plans))
    return manager, manager.get_configuration(configuration)


def _build_network(
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    configuration: str,
    trainer_name: str,
) -> nn.Module:
    """Return the network as the trainer builds it, without deep supervision."""
    import inspect

    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    plans_manager, manager = _managers(plans, configuration)
    channels = determine_num_input_channels(plans_manager, manager, dataset)
    heads = plans_manager.get_label_manager(dataset).num_segmentation_heads
    try:
        trainer = recursive_find_trainer_class_by_name(trainer_name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"The trainer {trainer_name!r} is not part of the installed nnunetv2: install the code "
            "that the network was trained with, or set nnUNet_extTrainer to its folder. "
            f"nnU-Net's error: {error}"
        ) from error
    build = trainer.build_network_architecture
    if "plans_manager" in inspect.signature(build).parameters:
        network = build(plans_manager, manager, channels, heads, enable_deep_supervision=False)
    else:  # nnunetv2 up to 2.6
        network = build(
            manager.network_arch_class_name, manager.network_arch_init_kwargs,
            manager.network_arch_init_kwargs_req_import, channels, heads,
            enable_deep_supervision=False,
        )  # fmt: skip
    built: nn.Module = network
    return built
