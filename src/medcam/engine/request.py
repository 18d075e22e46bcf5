"""Request for maps, validated as far as possible before the model runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from medcam import methods
from medcam.engine.model.layers import LayerLike
from medcam.engine.model.outputs import Selector
from medcam.engine.progress import Progress, check_progress
from medcam.engine.target.resolution import TargetLike, check_target, reads_output
from medcam.errors import InputError, InputTypeError
from medcam.maps import ImageName, ResolvedTarget
from medcam.methods import Method, MethodLike

ShapeRequest = Literal["input"] | Sequence[int] | None
"""What ``shape=`` takes: "input", the extents, or None for the layer's own shape."""

Placement = Literal["features", "resize"]
"""What ``placement=`` takes: maps lie where their features are, or are stretched over the input."""

InputLayout = Literal["auto", "bag"]
"""What ``layout=`` takes: "bag" if the input's first axis is slices or views of one case."""


@dataclass(frozen=True)
class Request:
    """Request for maps: the arguments of `medcam.explain`, see there.

    Attributes:
        methods: The methods.
        layer: As ``layer=``.
        target: As ``target=``.
        output: As ``output=``.
        shape: As ``shape=``.
        cudnn: As ``cudnn=``.
        several: Whether methods were given as a list, so that maps are keyed by ``(method,
            layer)``.
        memory: As ``memory=``.
        image: As ``image=``.
        placement: As ``placement=``.
        layout: As ``layout=``.
        check_layer: Whether the automatic layer of a segmentation has to be one that the prediction
            uses (`medcam.engine.layer_use`).
        window_target: The target of the volume, if the run is one of its windows.
        by_sample: If it is not empty, samples without a valid map are marked by NaN, with a warning
            that begins with this text, as long as there is another one. Otherwise they raise.
        progress: As ``progress=``, for methods that run the model again.
        of_output: Whether the target is a function of the output; None: as ``target`` says.
    """

    methods: tuple[Method, ...]
    layer: LayerLike = "auto"
    target: TargetLike = None
    output: Selector = None
    shape: ShapeRequest = "input"
    cudnn: bool = True
    several: bool = False
    memory: Literal["normal", "low"] = "normal"
    image: ImageName | None = None
    placement: Placement = "features"
    layout: InputLayout = "auto"
    check_layer: bool = True
    window_target: ResolvedTarget | None = None
    of_output: bool | None = None
    by_sample: str = ""
    progress: Progress = False

    @staticmethod
    def of(method: MethodLike | Iterable[MethodLike], **options: Any) -> Request:
        """Return the request for one method or several.

        Raises:
            InputError: There is no method, or two have the same name.
            InputTypeError: An item is not a method.
        """
        if isinstance(method, (str, Method)):
            return Request((methods.get(method),), **options)
        if not isinstance(method, Iterable):
            raise InputTypeError(
                f"method={method!r} is neither a method nor a list of methods: give a name "
                f"({', '.join(methods.METHODS)}), a medcam.methods.Method, or a list of these."
            )
        chosen = tuple(methods.get(item) for item in method)
        if not chosen:
            raise InputError(f"No method was given: choose from {', '.join(methods.METHODS)}.")
        names = [item.name for item in dict.fromkeys(chosen)]
        duplicate = next((name for name in names if names.count(name) > 1), None)
        if duplicate is not None:
            raise InputError(
                f"method holds {duplicate!r} with different options, but maps are keyed by the "
                "method's name: ask for one at a time, or rename one with "
                "dataclasses.replace(method, name=...)."
            )
        return Request(chosen, several=True, **options)

    def __post_init__(self) -> None:
        check_target(self.target)
        check_progress(self.progress)
        shape = self.shape
        if isinstance(shape, str) and shape not in {"input", "default"}:
            requested_shape(shape, (1, 1))  # raises the error
        if self.memory not in ("normal", "low"):
            raise InputError(
                f"memory={self.memory!r} is not known: choose 'normal', or 'low' to recompute the "
                "network's blocks in the backward pass instead of keeping their activations."
            )

        if self.placement not in ("features", "resize"):
            raise InputError(
                f"placement={self.placement!r} is not known: choose 'features', which places maps "
                "where the layer's features lie, or 'resize', which stretches them over the input."
            )
        if self.layout not in ("auto", "bag"):
            raise InputError(
                f"layout={self.layout!r} is not known: choose 'auto', or 'bag' if the first axis "
                "of the input is slices or views of one case, not the batch."
            )

    def for_target(self, target: ResolvedTarget) -> Request:
        """Return the request with the automatic method replaced by the one that suits a target."""
        if methods.AUTO not in self.methods:
            return self
        return replace(self, methods=methods.for_target(self.methods, target))

    @property
    def chooses_layer(self) -> bool:
        """Whether a layer is needed, and chosen automatically."""
        return self.layer in ("auto", None) and any(method.of_layer for method in self.methods)

    @property
    def is_window(self) -> bool:
        """Whether the run is one of a volume's windows.

        Then which maps are blank is returned, and reported for the volume.
        """
        return self.window_target is not None

    @property
    def at_logits(self) -> bool:
        """Whether the target is explained at the logits of a model that ends in probabilities."""
        return not (reads_output(self.target) if self.of_output is None else self.of_output)

    @property
    def replayed(self) -> tuple[Method, ...]:
        """The methods that run the model again."""
        return tuple(method for method in self.methods if method.replays)

    @property
    def differentiates_input(self) -> bool:
        """Whether a method needs the gradient of the image in the run itself."""
        return any(method.of_input and not method.replays for method in self.methods)

    @property
    def evidence(self) -> frozenset[str]:
        """The names of the evidence that the methods need."""
        return frozenset().union(*(method.evidence for method in self.methods))


def check_requested_shape(shape: ShapeRequest, space: Sequence[int]) -> None:
    """Raise for a ``shape=`` that fits no map; slices in the batch give a map one axis more.

    Raises:
        InputError: See `requested_shape`.
    """
    if isinstance(shape, Sequence) and not isinstance(shape, str) and len(shape) == len(space) + 1:
        space = (1, *space)
    requested_shape(shape, space)


def requested_shape(shape: ShapeRequest, space: Sequence[int]) -> tuple[int, ...] | None:
    """Return the spatial shape that maps are resampled to; None keeps the layer's own.

    Args:
        shape: As ``shape=`` of `medcam.explain`.
        space: The input's spatial shape.

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
        f"shape={shape!r} is not a map's shape: give 'input', None for the layer's own shape, or "
        f"{len(space)} positive extents, as the input has {len(space)} spatial "
        f"ax{'i' if len(space) == 1 else 'e'}s."
    )
