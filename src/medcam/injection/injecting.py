"""`inject`: a model that works as before and also makes attention maps in every call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from medcam.engine.model.layers import (
    LayerLike,
    find,
    get_layers,
    inner_model,
    unwrap,
    without_compilation,
)
from medcam.engine.model.outputs import Selector
from medcam.engine.request import InputLayout, Placement, Request
from medcam.engine.target.resolution import TargetLike
from medcam.errors import InputError, InputTypeError
from medcam.injection.model import InjectedModel, eject, rebuild, shallow_copy
from medcam.injection.session import Session
from medcam.injection.settings import OnError, Settings
from medcam.maps import ImageName
from medcam.methods import MethodLike


def inject(
    model: nn.Module,
    output_dir: str | Path | None = None,
    backend: MethodLike = "auto",
    layer: LayerLike = "auto",
    label: TargetLike = None,
    data_shape: Literal["default"] | Sequence[int] | None = "default",
    save_maps: bool = False,
    save_pickle: bool = False,
    save_scores: bool = False,
    evaluate: bool = False,
    metric: str | Callable[..., float] = "wioa",
    threshold: Literal["otsu"] | float = "otsu",
    retain_graph: bool = False,
    return_score: bool = False,
    replace: bool = False,
    return_attention: bool = False,
    cudnn: bool = True,
    enabled: bool = True,
    *,
    output: Selector = None,
    target: TargetLike = None,
    normalize: bool = True,
    colormap: str | None = None,
    reference: Any = None,
    memory: Literal["normal", "low"] = "normal",
    image: ImageName | None = None,
    placement: Placement = "features",
    layout: InputLayout = "auto",
    raw_input_order: Literal["rgb", "bgr"] = "rgb",
    on_error: OnError = "warn",
    by_lesion: bool = False,
) -> Any:
    """Return a model that also makes attention maps in every call.

    Its predictions are those of ``model``, which is not changed; both share their parameters.
    While gradients are enabled (training) the output keeps its graph.

    Args:
        model: Any ``nn.Module`` with 2D or 3D inputs. DataParallel and DistributedDataParallel
            stay around it, with their synchronisation, ``module`` and keys; a torch.compile wrapper
            is removed (compiled code has no layers to hook). Injecting again reconfigures.
        output_dir: The folder to save to; created if missing. Needed by every ``save_*``, by
            ``evaluate`` and for ``dump``. Other ranks, child processes (also a DataLoader's
            workers) and programs at the same time write to folders of their own in it, ``rank_1``,
            ``process_1``, ``program_2``.
        backend: The method: "gbp", "gcam", "ggcam", "gcampp", or any of
            ``medcam.methods.METHODS``. "auto" is as in `medcam.explain`.
        layer: "auto", "full", a name from `get_layers`, or several names.
        label: What is explained; see ``target`` of `medcam.explain`. Also a callable that maps
            the output to a boolean mask of the same shape.
        data_shape: The spatial shape of the maps: "default" is the input's, None the layer's own,
            or the extents.
        save_maps: Save each call's maps: ``{output_dir}/{layer}/attention_map_{call}_{sample}_
            {target}`` as ``.png`` (2D, over ``raw_input``) or ``.nii.gz`` (3D, float32, raw
            units); of a 1D signal as ``.png`` (a curve) and ``.npy`` (float32, raw units). Methods
            without a layer have no layer folder.
        save_pickle: On `dump`, write ``attention_maps.pkl``, a list of maps ``[*space]``.
        save_scores: On `dump`, write ``scores.xlsx`` and ``mean_scores.png``; implies ``evaluate``
            for calls that come with a mask.
        evaluate: Score each map against the ``mask`` of the call.
        metric: A metric's name (``medcam.evaluation.METRICS``) or a callable ``(map, mask)``.
        threshold: "otsu" or a number in [0, 1], for the thresholded metrics.
        retain_graph: Kept for compatibility; the graph is kept whenever the caller needs it.
        return_score: Return ``(output, scores)``, scores by layer.
        replace: Return the map ``[batch, targets, *space]`` instead of the output.
        return_attention: Return ``(output, map)``.
        cudnn: False disables cuDNN during the call.
        enabled: False: calls make no maps until ``enable_medcam()``.
        output: Which tensor of the model's output holds the logits (see `medcam.explain`).
        target: The same as ``label``, under its name in `medcam.explain`.
        normalize: Whether returned maps are scaled for display, [0, 1] for each sample (signed:
            [-1, 1]); False returns raw units. Saved NIfTI files are always raw.
        colormap: The name of a matplotlib colour map for PNGs; None picks one.
        reference: The geometry of saved 3D maps in all calls: a 4×4 affine, or the image of the
            one case that is explained, as a path or nibabel image. For several cases give it with
            each call, ``model(x, reference=...)``. None takes the input's own affine if it has one
            (MONAI's MetaTensor), which also takes precedence over an image given here. For a model
            of several images it holds for the first, or is a mapping by their names.
        raw_input_order: The order of the three channels of ``raw_input``: "bgr" for images that
            OpenCV read, as programs for the original package do.
        memory: "low" needs less memory and more time (see `medcam.explain`).
        image: Which of several images maps are made of (see `medcam.explain`).
        placement: Whether maps lie where their features are (see `medcam.explain`).
        layout: Whether the input is a bag of slices or views (see `medcam.explain`).
        on_error: What happens if a call's prediction is fine and its map is not (an input with
            NaN, an operation without a gradient, a full disk, no memory for the backward pass):
            "warn" returns the prediction, with a warning; ``get_attention_map()`` is None then,
            and a map that would have been returned is None. Of a batch only the samples concerned
            have no map: their values are NaN, and no file is written. "raise" raises the error, as
            ``replace=True`` and wrong arguments (a mask of another shape, a class that does not
            exist) always do.
        by_lesion: Whether each connected component of a mask is scored by itself, as in
            `medcam.Evaluator`; ``scores.xlsx`` then has the means by lesion size.

    Raises:
        InputError: An option does not exist or does not fit; the message says what is allowed.
        InputTypeError: The model is a TorchScript model, or its class cannot be subclassed.
        SaveError: ``output_dir`` cannot be created.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> model = inject(net.eval(), layer="1")
        >>> model(torch.rand(1, 1, 8, 8)).shape, model.get_attention_map().shape
        (torch.Size([1, 2]), (1, 1, 8, 8))
    """
    kept = _with_plain_inside(without_compilation(model))
    unwrapped = unwrap(kept)
    if isinstance(unwrapped, torch.jit.ScriptModule):
        raise InputTypeError(
            "A TorchScript model has no layers that can be hooked: inject the Python model that "
            "was scripted or traced."
        )
    if label is not None and target is not None:
        raise InputError("label= and target= mean the same: give one of them.")
    find(unwrapped, layer)  # raises for a layer that does not exist
    is_default_shape = isinstance(data_shape, str) and data_shape == "default"
    settings = Settings(
        request=Request.of(
            backend,
            layer=layer,
            target=label if target is None else target,
            output=output,
            shape="input" if is_default_shape else data_shape,
            cudnn=cudnn,
            memory=memory,
            image=image,
            placement=placement,
            layout=layout,
        ),
        output_dir=None if output_dir is None else Path(output_dir),
        save_maps=save_maps,
        save_pickle=save_pickle,
        save_scores=save_scores,
        evaluate=evaluate,
        metric=metric,
        threshold=threshold,
        by_lesion=by_lesion,
        return_score=return_score,
        replace=replace,
        return_attention=return_attention,
        normalize=normalize,
        colormap=colormap,
        reference=reference,
        raw_input_order=raw_input_order,
        on_error=on_error,
    )
    return rebuild(kept, Session(settings, enabled=enabled, layer_ordering=get_layers(unwrapped)))


def _with_plain_inside(model: nn.Module) -> nn.Module:
    """Return a wrapper around the plain model where it is one around an injected model."""
    inner = inner_model(model)
    if inner is None or not isinstance(inner, InjectedModel):
        return model
    twin = shallow_copy(model)
    vars(twin)["_modules"] = {**model._modules, "module": eject(inner)}
    return twin
