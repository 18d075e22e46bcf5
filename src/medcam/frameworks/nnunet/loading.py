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
from torch import Tensor, nn

from medcam.engine.model.devices import usable_device
from medcam.engine.model.layers import unwrap
from medcam.engine.model.state_dicts import differences
from medcam.errors import InputError, foreign_errors, reason_of, require
from medcam.files.paths import is_folder
from medcam.files.torch_files import load_torch
from medcam.frameworks.nnunet.console import prints_to_log
from medcam.frameworks.nnunet.named_code import check_named_code
from medcam.frameworks.nnunet.trained_model import TrainedModel

Folds = int | str | Iterable[int | str]
"""``"all"``, a number, several, or ``"fold_all"``."""


def loaded(model_folder: str | os.PathLike[str] | TrainedModel, **options: Any) -> TrainedModel:
    """Return a trained folder as `load` does; the result of `load` as it is."""
    if isinstance(model_folder, TrainedModel):
        return model_folder
    return load(model_folder, **options)


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
    _check_configurations(states, fold_names)
    with prints_to_log(), foreign_errors(f"'{folder}' cannot be loaded as a trained nnU-Net"):
        predictor = inference.nnUNetPredictor(
            tile_step_size=step_size, use_gaussian=True, use_mirroring=tta,
            perform_everything_on_device=network_device.type == "cuda", device=network_device,
            allow_tqdm=False,
        )  # fmt: skip
        _initialise(predictor, plans, dataset, states, folder, trust)
        network = predictor.network
        # Outside the predictor's inference mode: parameters made there cannot be used by autograd.
        network.to(network_device)
        network.eval()
        if not tta:
            predictor.allowed_mirroring_axes = None
        model = TrainedModel(
            folder, fold_names, predictor, unwrap(network), checkpoint=checkpoint, trusted=trust
        )
        model.check()
    return model


def _initialise(
    predictor: Any,
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    states: Sequence[Mapping[str, Any]],
    folder: Path,
    trust: bool,
) -> None:
    """Build the network that a folder describes, and hand it to nnU-Net's predictor."""
    first = states[0]
    managers = _managers(plans, first["init_args"]["configuration"])
    if not trust:
        check_named_code(*managers)
    _check_network(managers, dataset, states, folder)
    network = _build_network(*managers, dataset, first["trainer_name"])
    axes = first.get("inference_allowed_mirroring_axes")
    predictor.manual_initialization(
        network, *managers, [state["network_weights"] for state in states], dataset,
        first["trainer_name"], axes,
    )  # fmt: skip
    network.load_state_dict(first["network_weights"])


def _check_network(
    managers: tuple[Any, Any],
    dataset: Mapping[str, Any],
    states: Sequence[Mapping[str, Any]],
    folder: Path,
) -> None:
    """Raise if the weights are not those of the network, before memory is taken for it."""
    most = max(len(state["network_weights"]) for state in states)
    for key, value in managers[1].network_arch_init_kwargs.items():
        counts = value if isinstance(value, list) else [value]
        if key.startswith("n_") and any(isinstance(n, int) and n > most for n in counts):
            raise InputError(
                f"'{folder}' is damaged: {key} is {value} in its plans, the checkpoint has "
                f"{most} weights."
            )
    try:
        with torch.device("meta"):
            network = _build_network(*managers, dataset, states[0]["trainer_name"])
    except NotImplementedError:
        return  # a trainer of the user's own, whose network needs data while it is built
    for state in states:
        problems = differences(state["network_weights"], network.state_dict())
        if problems:
            raise InputError(
                f"The weights of '{folder}' are not those of the network that its plans describe: "
                f"{problems}."
            )


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    if not is_folder(folder):
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
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"'{folder / name}' is damaged: {reason_of(error)}") from error
    if not isinstance(contents, dict):
        raise InputError(f"'{folder / name}' is damaged: it holds a {type(contents).__name__}.")
    return contents


def _chosen_folds(folder: Path, folds: Folds, checkpoint: str) -> tuple[str, ...]:
    """Return the names of the requested folds, after checking that each has the checkpoint."""
    if not checkpoint or checkpoint != Path(checkpoint).name or set(checkpoint) & set("*?["):
        raise InputError(f"checkpoint={checkpoint!r} is not the name of a file in each fold.")
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
            state = load_torch(path, f"'{path}' is not a readable checkpoint", trust=trust)
    except InputError as error:
        if trust or not isinstance(error.__cause__, pickle.UnpicklingError):
            raise
        raise InputError(
            f"'{path}' holds more than plain data and may run code when it is read. If you "
            "trust where it comes from, pass trust=True (--trust)."
        ) from error.__cause__
    required = ("network_weights", "init_args", "trainer_name")
    missing = [key for key in required if not isinstance(state, dict) or key not in state]
    if missing:
        raise InputError(f"'{path}' is not a checkpoint of nnU-Net v2: it has no {missing[0]}.")
    arguments, weights = state["init_args"], state["network_weights"]
    if not isinstance(arguments, Mapping) or not isinstance(arguments.get("configuration"), str):
        raise InputError(f"'{path}' is damaged: its init_args name no configuration.")
    if not isinstance(weights, Mapping) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise InputError(f"'{path}' is damaged: its network_weights are no tensors by name.")
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


def _managers(plans: Mapping[str, Any], configuration: str) -> tuple[Any, Any]:
    """Return nnU-Net's ``PlansManager`` and ``ConfigurationManager``."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(dict(plans))
    return manager, manager.get_configuration(configuration)


def _build_network(
    plans_manager: Any, manager: Any, dataset: Mapping[str, Any], trainer_name: str
) -> nn.Module:
    """Return the network as the trainer builds it, without deep supervision."""
    import inspect

    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    channels = determine_num_input_channels(plans_manager, manager, dataset)
    heads = plans_manager.get_label_manager(dataset).num_segmentation_heads
    try:
        trainer = recursive_find_trainer_class_by_name(trainer_name)
    except (RuntimeError, AssertionError, TypeError) as error:
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
