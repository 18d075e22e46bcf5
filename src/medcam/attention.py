"""What a call yields: attention maps in raw units, and the explanation that holds them."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from medcam._findings import Findings
from medcam.errors import InputError

MapKey = str | None | tuple[str, str | None]
"""A layer name; ``(method, layer)`` when several methods were asked for. The layer is None for
methods that need none, such as guided backpropagation."""

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True, eq=False)
class ResolvedTarget:
    """What was explained.

    Attributes:
        description: In words.
        task: "classification" or "segmentation", by the shape of the output.
        classes: The class that each map is of, ``[batch, targets]``; None if it is no class.
        voxels: How many voxels the score is the mean of, ``[batch, targets]``; None without voxels.
    """

    description: str
    task: Literal["classification", "segmentation"]
    classes: Int[Tensor, "batch targets"] | None = None
    voxels: Int[Tensor, "batch targets"] | None = None

    def __str__(self) -> str:
        return self.description


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """One method's map of one layer, for every sample and target.

    Attributes:
        values: ``[batch, targets, *space]``, in the raw units of the method, on the device of
            the model.
        method: The method's name, e.g. ``"gcam"``.
        layer: The layer's name; None for methods that need no layer.
        target: What was explained.
        signed: Whether negative values carry meaning (evidence against the target).
        positive_part: Whether, in a signed map, only the positive part points at the target
            (HiResCAM); otherwise the magnitude does (guided backpropagation).
        channels: For maps of the input itself, the signed values of each input channel before
            they were reduced to ``values``, ``[batch, targets, channels, *space]``.
    """

    values: Float[Tensor, "batch targets *space"]
    method: str
    layer: str | None
    target: ResolvedTarget
    signed: bool = False
    positive_part: bool = False
    channels: Float[Tensor, "batch targets channels *space"] | None = None

    def normalized(self) -> Float[Tensor, "batch targets *space"]:
        """The map scaled for display, each sample and target by itself.

        Positive maps go to [0, 1] by minimum and maximum; signed maps to [-1, 1], symmetric
        about zero. A constant map becomes zeros, never NaN.
        """
        values = self.values
        axes = tuple(range(2, values.ndim))
        low = torch.zeros_like(values).amin(axes, True) if self.signed else values.amin(axes, True)
        high = values.abs().amax(axes, True) if self.signed else values.amax(axes, True)
        span = high - low
        # what resizing leaves of a constant by rounding is no contrast
        varies = span > 8 * torch.finfo(values.dtype).eps * values.abs().amax(axes, True)
        return torch.where(varies, (values - low) / span.where(varies, 1.0), 0.0)

    def attention(self) -> Float[Tensor, "batch targets *space"]:
        """Where the network looks, without a sign: what is scored against a mask."""
        if not self.signed:
            return self.values
        return self.values.clamp(min=0) if self.positive_part else self.values.abs()

    def numpy(self) -> Float[np.ndarray, "batch targets *space"]:
        """The raw values as a numpy array on the CPU."""
        return self.values.cpu().numpy()

    def __repr__(self) -> str:
        shape = ", ".join(str(extent) for extent in self.values.shape)
        where = "the input" if self.layer is None else f"layer {self.layer!r}"
        return f"AttentionMap({self.method} of {where}, [{shape}], {self.target})"


class ModelReference:
    """A model as long as somebody else holds it; of a pickled reference, only its class is left.

    Args:
        model: The model; None: it is not known.

    >>> reference = ModelReference(torch.nn.Linear(1, 1))
    >>> reference() is None, reference.kind
    (True, 'torch.nn.modules.linear.Linear')
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._model = None if model is None else weakref.ref(model)
        kind = type(model)
        self.kind = None if model is None else f"{kind.__module__}.{kind.__qualname__}"

    def __call__(self) -> nn.Module | None:
        """The model, or None."""
        return None if self._model is None else self._model()

    def __deepcopy__(self, memo: object) -> ModelReference:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"_model": None, "kind": self.kind}


@dataclass(frozen=True, eq=False)
class Explanation:
    """What one call of a model yields beside its prediction.

    Attributes:
        output: The model's output, as the model returned it.
        target: What was explained.
        layer: The layer, or layers, that the maps are of, after "auto" and "full" are resolved.
        unchecked: The maps, without waiting for the device to say whether they are finite; read
            ``maps`` instead.
        skipped: Layers of which no map could be made, with the reason (``layer="full"``).
        details: How it was made where that needs more words, e.g. the windows over a volume.
        inputs: The input that the maps lie on, ``[batch, channels, *space]``: the caller's own
            tensor, no copy. None where it is not kept (in an injected model).
    """

    output: Any = field(repr=False)
    target: ResolvedTarget
    layer: str | tuple[str, ...] | None
    unchecked: Mapping[MapKey, AttentionMap] = field(repr=False)
    skipped: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    _findings: Findings = field(default_factory=Findings, repr=False)
    _named: bool = field(default=True, repr=False)  # the layer's name alone says which run is meant
    inputs: Tensor | None = field(default=None, repr=False, kw_only=True)
    _model: ModelReference = field(default_factory=ModelReference, repr=False, kw_only=True)

    @property
    def model(self) -> nn.Module | None:
        """The model that was explained; None if nobody else holds it any more."""
        return self._model()

    @property
    def maps(self) -> Mapping[MapKey, AttentionMap]:
        """The maps by layer name, or by ``(method, layer)`` when several methods were asked for.

        Raises:
            NoMapError: A map is not finite.
        """
        self._findings.report()
        return MappingProxyType(_Maps(self.unchecked))

    @property
    def map(self) -> AttentionMap:
        """The one map of this explanation.

        Raises:
            InputError: There are several; pick one from ``maps``.
        """
        maps = self.maps
        if len(maps) != 1:
            raise InputError(
                f"This explanation holds {len(maps)} maps: choose one, explanation.maps[key], "
                f"with key one of {list(maps)[:6]}{' ...' if len(maps) > 6 else ''}."
            )
        return next(iter(maps.values()))

    def save(
        self,
        prefix: str | os.PathLike[str],
        *,
        image: object = None,
        model: nn.Module | None = None,
        mask: object = None,
        segmentation: object = None,
        scores: Sequence[Mapping[str, Any]] = (),
        name: str | None = None,
        montage: bool = True,
        report: bool = True,
        extra: Mapping[str, object] | None = None,
    ) -> list[Path]:
        """Writes the raw maps, a montage, a report and the record of how they were made.

        Volumes: ``out/case_gcam.nii.gz`` (float32, raw), ``out/case_montage.png``,
        ``out/case.html`` and ``out/case.json``. Pictures: ``out/case_gcam.tif`` (float32, raw),
        ``out/case_gcam.png`` (over the image), and the same three. Names go on with ``_LAYER`` for
        several layers and ``_classK`` for several targets; of several samples each is a case of its
        own, ``out/case_0_...``. An image, mask or segmentation that is no file yet is saved, too.
        The record is written last: ``medcam report out`` makes the pages anew from it and the
        files it names.

        Args:
            prefix: Where to, without an ending: ``"out/case"``.
            image: What the maps are laid over, and whose geometry they take: a path, an `Image`
                of `medcam.files`, an array or tensor, a MetaTensor; of several samples a batch, or
                a list. None: the input that was explained. Without an affine NIfTI files get the
                identity, with one warning per process.
            model: The model, for the record. None: the one that was explained, if it still exists.
            mask: A region, 0/1, drawn as a line; a path, or as `image`.
            segmentation: What the model predicted, labels, whose borders the report draws in green;
                as `mask`, e.g. ``explanation.output.argmax(1)``.
            scores: The rows of a table, one mapping a row; of several samples, a row with a
                "sample" is of that one.
            name: The title; None: the last part of the prefix.
            montage: Whether to write the montage.
            report: Whether to write the report.
            extra: What else the record says; a "modality" such as "CT" names the image's units.

        Returns:
            The files, the record last.

        Raises:
            InputError: Something given does not fit; the message says what is allowed.
            SaveError: A file could not be written. There is no record then, not even an earlier
                one.
        """
        from medcam.results import save_explanation

        return save_explanation(
            self, prefix, image=image, model=model, mask=mask, segmentation=segmentation,
            scores=scores, name=name, montage=montage, report=report, extra=extra,
        )  # fmt: skip

    def show(
        self,
        image: object = None,
        *,
        browser: bool = True,
        mask: object = None,
        segmentation: object = None,
        scores: Sequence[Mapping[str, Any]] = (),
        name: str = "Explanation",
        sample: int = 0,
    ) -> Path:
        """Opens a report in the browser: image and maps in linked planes, and how they were made.

        Args:
            image: As in `save`.
            browser: Whether to open it; False only writes it.
            mask: As in `save`.
            segmentation: As in `save`.
            scores: As in `save`.
            name: The title.
            sample: Which one of the batch.

        Returns:
            The page, in a temporary folder.
        """
        from medcam.results import show_explanation

        return show_explanation(
            self, image, browser=browser, mask=mask, segmentation=segmentation, scores=scores,
            name=name, sample=sample,
        )  # fmt: skip

    def _repr_html_(self) -> str:
        """A picture for notebooks, with what it shows."""
        from medcam.results import inline_html

        return inline_html(self)


class _Maps(dict[MapKey, AttentionMap]):
    """Maps by key, with an error that lists the keys."""

    def __missing__(self, key: object) -> AttentionMap:
        raise InputError(f"There is no map {key!r}; the keys are {', '.join(map(repr, self))}.")


def resize(
    values: Float[Tensor, "batch targets *space"], shape: Sequence[int]
) -> Float[Tensor, "batch targets *resized"]:
    """Resizes maps linearly (``align_corners=False``), averaging first along axes that shrink.

    Args:
        values: The maps.
        shape: The new extents of the spatial axes.

    >>> resize(torch.tensor([[[[0.0, 1.0]]]]), (1, 4))
    tensor([[[[0.0000, 0.2500, 0.7500, 1.0000]]]])
    """
    space, shape = tuple(values.shape[2:]), tuple(shape)
    if space == shape:
        return values
    smaller = tuple(min(old, new) for old, new in zip(space, shape, strict=True))
    if smaller != space:
        values = F.interpolate(values, smaller, mode="area")
    if smaller != shape:
        values = F.interpolate(values, shape, mode=_LINEAR[len(shape)], align_corners=False)
    return values


ShapeRequest = Literal["input"] | Sequence[int] | None


def requested_shape(shape: ShapeRequest, space: Sequence[int]) -> tuple[int, ...] | None:
    """The spatial shape that maps are brought to; None keeps the layer's own.

    Raises:
        InputError: ``shape`` is neither "input", None nor one positive extent per axis.
    """
    if shape is None:
        return None
    if isinstance(shape, str):
        if shape in {"input", "default"}:
            return tuple(space)
    elif (
        isinstance(shape, Sequence)
        and len(shape) == len(space)
        and all(hasattr(extent, "__index__") and int(extent) > 0 for extent in shape)
    ):
        return tuple(int(extent) for extent in shape)
    raise InputError(
        f"shape={shape!r} is not a map's shape: give 'input', None for the layer's own, or "
        f"{len(space)} positive extents, as the input has {len(space)} spatial axes."
    )


def plain(tensor: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
    """The tensor without its subclass (a MetaTensor's affine is wrong for its features)."""
    return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)
