"""Description of a method: `Method`, and how the maps of its windows become a volume's map."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from medcam.errors import InputError, InputTypeError
from medcam.maps import AttentionMap, ResolvedTarget
from medcam.methods.evidence_names import REPLAYS, check_parameters, parameters_of

_STITCHED = ("mean", "sum", "shared")


@dataclass(frozen=True)
class SharedWeights:
    """One set of channel weights for all windows of a volume, from statistics summed over them.

    Each window's map is then ``Σ_k w_k (A^k - offset_k)``, and the volume's map the windows' mean.

    Attributes:
        statistics: Function of evidence, by the names of its parameters, that returns statistics
            ``[windows, numbers]``.
        weights: Function of the statistics summed over all windows, ``[batch, targets, numbers]``.
            It returns the weights ``[batch, targets, channels]``, and the offset ``[batch,
            channels]`` that is subtracted from the activations.
        of_target: Whether the statistics are gradients of the stitched target, so that windows
            without a voxel of it contribute zero and are skipped.
    """

    statistics: Callable[..., Float[Tensor, "windows numbers"]]
    weights: Callable[
        [Float[Tensor, "batch targets numbers"]],
        tuple[Float[Tensor, "batch targets channels"], Float[Tensor, "batch channels"]],
    ]
    of_target: bool


@dataclass(frozen=True)
class Agreement:
    """Another method of the same evidence that a map should agree with.

    In trained networks, most maps that did not correlate with that of the other method did not show
    what the prediction depends on (docs/methods.md).

    Attributes:
        function: The other method's function.
        title: The other method's title.
        name: The other method's name.
        least: The least correlation of the two maps.
    """

    function: Callable[..., Float[Tensor, "batch *layer"]]
    title: str
    name: str
    least: float


@dataclass(frozen=True)
class FromCam:
    """A method of the input that weighs the input's evidence by a layer's map (Guided Grad-CAM).

    Attributes:
        cam: The layer's method. Over a volume its map is stitched by its own rule first.
        function: Function of the input's evidence, by the names of its parameters, and of ``cam``
            ``[batch, *space]``. It returns the map ``[batch, channels, *space]``.
    """

    cam: Method
    function: Callable[..., Float[Tensor, "batch channels *space"]]

    def of(
        self, evidence: Mapping[str, Any], cam: Float[Tensor, "batch *space"]
    ) -> Float[Tensor, "batch channels *space"]:
        """Return the map of the input's evidence, by name, and of the layer's map on the input."""
        by_name = {**evidence, "cam": cam}
        return self.function(**{name: by_name[name] for name in self.parameters})

    @property
    def parameters(self) -> frozenset[str]:
        """The names of the parameters of ``function``."""
        return frozenset(inspect.signature(self.function).parameters)


@dataclass(frozen=True)
class Method:
    """An attention method: its pure function, and the properties of its maps.

    Attributes:
        name: The name that ``method=`` and ``backend=`` take, and that maps are keyed by.
        function: The pure function. The names of its parameters state which evidence it needs.
        title: The name in the literature.
        signed: Whether negative values of the map carry meaning.
        positive_part: Whether attention is the positive part of a signed map, not its magnitude.
        reduction: How a map of the input is reduced to one channel: the signed value of "largest"
            magnitude, or the largest "magnitude".
        stitched: How `medcam.explain_volume` combines the maps of overlapping windows: "mean" is
            their weighted mean; "sum" adds them, if each window's map is its share of the whole;
            "shared" uses channel weights that all windows share. A method of the input alone is
            computed from the whole volume's gradients and needs no rule.
        weights: Function of evidence, by the names of its parameters, that returns the channel
            weights ``[batch, channels]``. If these are zero because the terms of each channel
            cancel, medcam says so.
        shared: How shared weights are computed. Required by ``stitched="shared"``; other methods
            use it on request (``channel_weights="volume"``).
        from_cam: How a method of the input that weighs by a layer's map is composed; with None
            each window's map is computed separately, and ``stitched`` applies.
        per_channel: Whether each channel has one weight, so that structures that the same channels
            see cannot be told apart.
        agreement: Another method whose map this one should agree with.
        repeated: The method whose maps of changed images ``function`` combines (SmoothGrad). Its
            map lies where that method's map lies.
        total: Function of evidence that returns what each target's map sums to, ``[targets]``, if
            the method is complete. By how much it does not is in `medcam.Explanation.details`.
        evidence: The names of the evidence that ``function`` needs.

    Raises:
        InputError: ``function`` takes something that is no evidence, ``stitched`` is not one of the
            three, or ``shared`` is missing.
        InputTypeError: ``function`` is no function.

    Example:
        >>> from medcam.methods import METHODS
        >>> METHODS["gcam"].evidence == {"activations", "gradients"}
        True
    """

    name: str
    function: Callable[..., Tensor]
    title: str
    signed: bool = False
    positive_part: bool = False
    reduction: Literal["largest", "magnitude"] = "largest"
    stitched: Literal["mean", "sum", "shared"] = "mean"
    weights: Callable[..., Tensor] | None = None
    shared: SharedWeights | None = None
    from_cam: FromCam | None = None
    per_channel: bool = False
    agreement: Agreement | None = None
    repeated: Method | None = None
    total: Callable[..., Tensor] | None = None
    evidence: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InputTypeError(
                f"The function of method {self.name!r} is {self.function!r}, which is no function."
            )
        object.__setattr__(self, "evidence", parameters_of(self.function))
        check_parameters(self.name, self.function, self.evidence)
        if self.stitched not in _STITCHED:
            raise InputError(
                f"stitched={self.stitched!r} is not known: choose 'mean', 'sum' or 'shared'."
            )
        if self.stitched == "shared" and self.shared is None:
            raise InputError(
                f"Method {self.name!r} is stitched by shared weights, but has no rule to compute "
                "them: give shared=SharedWeights(...)."
            )

        if self.from_cam is not None:
            self._check_from_cam(self.from_cam)

    def _check_from_cam(self, from_cam: FromCam) -> None:
        """Raise if a method of the input cannot be composed with a layer's map as stated."""
        known = {"cam", *self.evidence} - {"activations", "gradients"}
        parameters = from_cam.parameters
        if not (self.of_input and self.of_layer):
            reason = "it has to be a method of the input that uses a layer"
        elif from_cam.cam.of_input or not from_cam.cam.of_layer:
            reason = f"{from_cam.cam.title} is no method of a layer alone"
        elif "cam" not in parameters or not parameters <= known:
            reason = f"its function takes {', '.join(sorted(parameters))}, not cam and what the "
            reason += f"method itself takes of the input ({', '.join(sorted(known - {'cam'}))})"
        else:
            return
        raise InputError(f"from_cam= of method {self.name!r} does not fit: {reason}.")

    @property
    def options(self) -> dict[str, Any]:
        """The options of the function that were set, by name.

        Example:
            >>> from medcam.methods import get
            >>> get("segxrescam", pool=4).options
            {'pool': 4}
        """
        function, options = self.function, dict[str, Any]()
        while isinstance(function, partial):
            options = {**function.keywords, **options}
            function = function.func
        return options

    @property
    def replays(self) -> bool:
        """Whether the model runs again, on images or features that the method changes.

        The function is then called once for each sample, with evidence of a batch of 1, and returns
        the maps of all targets, ``[targets, ...]``.
        """
        return bool(self.evidence & frozenset(REPLAYS))

    @property
    def of_layer(self) -> bool:
        """Whether the map depends on a layer."""
        if self.repeated is not None:
            return self.repeated.of_layer
        return "activations" in self.evidence or "gradients" in self.evidence

    @property
    def of_input(self) -> bool:
        """Whether the map lies on the voxels and channels of the input."""
        if self.repeated is not None:
            return self.repeated.of_input
        return bool(self.evidence & {"inputs", "input_gradients", "guided_gradients"})

    @property
    def rectified(self) -> bool:
        """Whether the function ends in a ReLU that ``rectify=False`` omits."""
        return "rectify" in inspect.signature(self.function).parameters

    def of(self, evidence: Mapping[str, Any]) -> Tensor:
        """Return the map of the evidence, by name; evidence that is not needed is ignored."""
        return self.function(**{name: evidence[name] for name in self.evidence})

    def map_of(
        self,
        values: Float[Tensor, "batch targets *space"],
        layer: str | None,
        target: ResolvedTarget,
        channels: Float[Tensor, "batch targets channels *space"] | None = None,
    ) -> AttentionMap:
        """Return values as an `AttentionMap` of this method.

        Args:
            values: The map.
            layer: The layer's name; ignored for methods without a layer.
            target: The resolved target.
            channels: For maps of the input, the values before the reduction over channels.
        """
        return AttentionMap(
            values=values,
            method=self.name,
            layer=layer if self.of_layer else None,
            target=target,
            signed=self.signed,
            positive_part=self.positive_part,
            channels=channels,
            method_title=self.title,
        )

    def reduced(
        self, values: Float[Tensor, "batch targets channels *space"]
    ) -> tuple[
        Float[Tensor, "batch targets *space"], Float[Tensor, "batch targets channels *space"]
    ]:
        """Return a map of the input reduced over its channels, and the map before the reduction.

        If a positive and a negative value have the same magnitude, the positive one is chosen.
        """
        if self.reduction == "magnitude":
            return values.abs().amax(2), values
        high, low = values.amax(2), values.amin(2)  # forty times faster than argmax
        return high.where(high >= -low, low), values

    def signed_form(self) -> Method:
        """Return the method without its last ReLU, for maps that are summed afterwards."""
        if not self.rectified:
            return self
        function = partial(self.function, rectify=False)
        return replace(self, function=function, signed=True, positive_part=True)
