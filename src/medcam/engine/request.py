"""What is asked of a call, checked as far as possible before the model runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medcam import methods
from medcam.engine.model.layers import LayerLike
from medcam.engine.model.outputs import Selector
from medcam.engine.target.resolution import TargetLike, check_target
from medcam.errors import InputError, InputTypeError
from medcam.methods import Method, MethodLike

ShapeRequest = Literal["input"] | Sequence[int] | None
"""The spatial shape of the maps: that of the input, the extents, or None for the layer's own."""


@dataclass(frozen=True)
class Request:
    """What is asked of a call.

    The attributes are the arguments of `medcam.explain`. ``several`` says whether methods were
    given as a list, so that maps are keyed by ``(method, layer)``.
    """

    methods: tuple[Method, ...]
    layer: LayerLike = "auto"
    target: TargetLike = None
    output: Selector = None
    shape: ShapeRequest = "input"
    cudnn: bool = True
    several: bool = False
    memory: Literal["normal", "low"] = "normal"

    @staticmethod
    def of(method: MethodLike | Iterable[MethodLike], **options: Any) -> Request:
        """Return the request for one method or several.

        Raises:
            InputError: No method, or two of one name.
            InputTypeError: Something that is no method.
        """
        if isinstance(method, (str, Method)):
            return Request((methods.get(method),), **options)
        if not isinstance(method, Iterable):
            raise InputTypeError(f"method={method!r} is not a method, nor a list of methods.")
        chosen = tuple(methods.get(item) for item in method)
        if not chosen:
            raise InputError(f"No method was given: choose from {', '.join(methods.METHODS)}.")
        names = [item.name for item in dict.fromkeys(chosen)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(
                f"method holds {twice!r} with different options, but maps are keyed by the method's "
                "name: ask for one at a time, or rename one with dataclasses.replace(method, "
                "name=...)."
            )
        return Request(chosen, several=True, **options)

    def __post_init__(self) -> None:
        check_target(self.target)
        shape = self.shape
        if isinstance(shape, str) and shape not in {"input", "default"}:
            requested_shape(shape, (1, 1))  # raises
        if self.memory not in ("normal", "low"):
            raise InputError(
                f"memory={self.memory!r} is not known: 'normal', or 'low' to recompute the blocks of "
                "the network in the backward pass instead of keeping their activations."
            )

    @property
    def evidence(self) -> frozenset[str]:
        """The names of all evidence that the methods need."""
        return frozenset().union(*(method.evidence for method in self.methods))


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
        f"shape={shape!r} is not a map's shape: give 'input', None for the layer's own, or "
        f"{len(space)} positive extents, as the input has {len(space)} spatial axes."
    )
