"""What is asked of a call, checked as far as it can be before the model runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from medcam import methods, targets
from medcam.attention import ShapeRequest, requested_shape
from medcam.errors import InputError, InputTypeError
from medcam.layers import LayerLike
from medcam.methods import Method, MethodLike
from medcam.outputs import Selector
from medcam.targets import TargetLike


@dataclass(frozen=True)
class Request:
    """What is asked of a call, checked as far as it can be before the model runs.

    The attributes are the arguments of `explain`; ``several`` says whether methods were given as
    a list, so that the maps are keyed by method too.
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
        """A request for one method or several."""
        if isinstance(method, (str, Method)):
            return Request((methods.get(method),), **options)
        if not isinstance(method, Iterable):
            raise InputTypeError(f"method={method!r} is not a method, nor a list of methods.")
        chosen = tuple(methods.get(name) for name in method)
        if not chosen:
            raise InputError(f"No method was given: choose from {', '.join(methods.METHODS)}.")
        names = [one.name for one in dict.fromkeys(chosen)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(
                f"method holds {twice!r} with different options, but maps are told apart by the "
                "method's name: ask for one at a time, or give one a name of its own with "
                "dataclasses.replace(method, name=...)."
            )
        return Request(chosen, several=True, **options)

    def __post_init__(self) -> None:
        targets.checked(self.target)
        shape = self.shape
        if isinstance(shape, str) and shape not in {"input", "default"}:
            requested_shape(shape, (1, 1))  # raises
        if self.memory not in ("normal", "low"):
            raise InputError(
                f"memory={self.memory!r} is not known: 'normal', or 'low' to run the blocks of the "
                "network again in the backward pass instead of keeping their activations."
            )

    @property
    def evidence(self) -> frozenset[str]:
        """All the evidence that the methods need."""
        return frozenset().union(*(method.evidence for method in self.methods))
