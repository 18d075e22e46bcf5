"""The injected model: a shallow copy whose class is a subclass of the model's own class.

``isinstance``, ``repr``, ``state_dict``, pickling and copying go on working, parameters are shared,
and the only thing added is one attribute that holds the session.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from medcam.engine.model.layers import get_layers
from medcam.errors import InputError, InputTypeError
from medcam.explanation.explanation import Explanation
from medcam.injection.session import Session

_log = logging.getLogger("medcam")

_FORWARD = "_medcam_forward"
_OURS = ("label", "mask", "raw_input")


class InjectedModel(nn.Module):
    """What an injected model can do beside what its own class does."""

    _medcam: Session

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the model; while medcam is enabled, attention maps are made too.

        Args:
            *args: The model's inputs. Where the model's own forward takes a single tensor, a
                second positional argument is medcam's: an integer, string, callable or 0-1-D
                tensor is the label, a tensor with spatial axes the mask.
            **kwargs: The model's keywords, and medcam's: ``label`` (what is explained in this
                call), ``mask`` (the ground truth, ``[batch, 1, *space]``, ``[batch, *space]`` or
                ``[*space]``), ``raw_input`` (what 2D overlays are drawn on). A model whose own
                forward has a parameter of that name gets it; medcam's is then ``medcam_label``,
                ``medcam_mask``, ``medcam_raw_input``.

        Returns:
            What the model returns; see ``replace``, ``return_attention`` and ``return_score``.
        """
        plain_forward = vars(self).get(_FORWARD) or super().forward
        if not self._medcam.enabled and len(args) == 1 and not kwargs:
            return plain_forward(*args)
        own, ours = _split(_own_parameters(self), args, kwargs)
        if not self._medcam.enabled:
            return plain_forward(*own[0], **own[1])
        return self._medcam.run(self, plain_forward, *own, **ours)

    def get_layers(self, reverse: bool = False) -> list[str]:
        """The layer names, children before parents (see `medcam.get_layers`)."""
        return get_layers(self, reverse)

    def get_attention_map(self) -> Any:
        """The last call's map as a numpy array ``[batch, targets, *space]``, or a dict by layer.

        Scaled for display, [0, 1] (signed maps: [-1, 1]); with ``normalize=False`` in raw units.
        None before the first call.
        """
        return self._medcam.attention_map()

    def get_explanation(self) -> Explanation | None:
        """The last call's explanation: raw maps, the layer chosen, what was explained.

        Its ``output`` is None: the output is the caller's.
        """
        return self._medcam.last

    def save_attention_map(self, attention_map: Any, raw_input: Any = None) -> Path:
        """Saves one map ``[H, W]`` or ``[X, Y, Z]`` of your own into the output folder.

        Args:
            attention_map: The map, numpy or torch.
            raw_input: What a 2D map is drawn on.

        Returns:
            The file's path, ``{output_dir}/{layer}/attention_map_{n}.png`` or ``.nii.gz``.
        """
        return self._medcam.save_one(attention_map, raw_input)

    def replace_output(self, replace: bool) -> None:
        """Whether calls return the attention map in place of the prediction."""
        self._medcam.settings = self._medcam.settings.changed(replace=replace)

    def dump(self) -> None:
        """Writes what was collected: ``attention_maps.pkl``, and the score table with its chart."""
        self._medcam.dump()

    def enable_medcam(self) -> None:
        """From now on calls make attention maps."""
        self._medcam.enabled = True

    def disable_medcam(self) -> None:
        """From now on calls are the model's own, at no cost."""
        self._medcam.enabled = False

    def test_run(self, batch: Any) -> list[str]:
        """The layers of which maps can be made for this input, from one run that saves no maps.

        With an output folder, the names are also written to ``registered_layers.txt`` there.
        """
        return self._medcam.test_run(self, vars(self).get(_FORWARD) or super().forward, batch)

    def _medcam_plain(self) -> nn.Module:
        """The model without medcam, for `medcam.explain`."""
        return eject(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles and copies as the plain model and its session."""
        return rebuild, (eject(self), self._medcam)


def eject(model: nn.Module) -> nn.Module:
    """The plain model again, with the same parameters; a plain model is returned as it is.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3))
    >>> eject(net) is net
    True
    """
    if not isinstance(model, InjectedModel):
        return model
    plain = _shallow_copy(model)
    del vars(plain)["_medcam"]
    if _FORWARD in vars(plain):
        vars(plain)["forward"] = vars(plain).pop(_FORWARD)
    plain.__class__ = type(model).__mro__[2]
    return plain


def rebuild(model: nn.Module, session: Session) -> nn.Module:
    """The injected form of a plain model."""
    injected = _shallow_copy(model)
    vars(injected)["_medcam"] = session
    if "forward" in vars(injected):  # a forward put on the instance would win over the class's
        vars(injected)[_FORWARD] = vars(injected).pop("forward")
    if vars(injected).get("_compiled_call_impl") is not None:  # bound to the plain model
        vars(injected)["_compiled_call_impl"] = None
    try:
        own: Any = type(model)
        injected.__class__ = _injected_class(own)
    except TypeError as error:
        raise InputTypeError(
            f"A {type(model).__name__} cannot be injected: {error}. Use medcam.explain(model, x)."
        ) from error
    return injected


@functools.cache
def _injected_class(cls: Any) -> Any:
    names: dict[str, Any] = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
    }

    @functools.wraps(cls.forward)  # tools read the model's own signature
    def forward(self: InjectedModel, *args: Any, **kwargs: Any) -> Any:
        return InjectedModel.forward(self, *args, **kwargs)

    names["forward"] = forward
    for name in vars(InjectedModel):
        if not name.startswith("_") and name != "forward" and hasattr(cls, name):
            _log.warning("%s.%s is the model's own; medcam's is hidden by it", cls.__name__, name)
            names[name] = inspect.getattr_static(cls, name)
    return type(cls)(cls.__name__, (InjectedModel, cls), names)


def _shallow_copy(model: nn.Module) -> nn.Module:
    """A new object with the same attributes, whatever the class says about copying."""
    twin: nn.Module = object.__new__(type(model))
    vars(twin).update(vars(model))
    return twin


def _own_parameters(model: nn.Module) -> tuple[int | None, frozenset[str]]:
    """How many positional inputs the model's own forward takes (None: any), and their names."""
    instance = vars(model).get(_FORWARD)
    own: Any = type(model)
    return _parameters_of(own.__mro__[2]) if instance is None else _parameters(instance, 0)


@functools.cache
def _parameters_of(cls: Any) -> tuple[int | None, frozenset[str]]:
    return _parameters(cls.forward, 1)


def _parameters(function: Any, skip: int) -> tuple[int | None, frozenset[str]]:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[skip:]
    names = frozenset(parameter.name for parameter in parameters)
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None, names
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional), names


def _split(
    parameters: tuple[int | None, frozenset[str]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[tuple[Any, ...], dict[str, Any]], dict[str, Any]]:
    """The model's own inputs, and medcam's label, mask and raw input."""
    count, names = parameters
    ours: dict[str, Any] = {}
    for name in _OURS:
        for key in (f"medcam_{name}", name):
            if key in kwargs and key not in names:
                ours[name] = kwargs[key]
                kwargs = {k: v for k, v in kwargs.items() if k != key}
    # the original accepted its input by name
    if "batch" in kwargs and "batch" not in names and not args:
        args = (kwargs["batch"],)
        kwargs = {k: v for k, v in kwargs.items() if k != "batch"}
    if count == 1 and len(args) > 1:
        order = list(args[1:])
        if len(order) > len(_OURS):
            raise InputError(
                f"{len(args)} positional inputs were given: the model takes one, and medcam a "
                "label, a mask and a raw input after it."
            )
        taken = dict(_by_type(order))
        twice = sorted(set(taken) & set(ours))
        if twice:
            raise InputError(f"{', '.join(twice)} was given twice, by position and by name.")
        return (args[:1], kwargs), {**ours, **taken}
    return (args, kwargs), ours


def _by_type(given: Sequence[Any]) -> Iterable[tuple[str, Any]]:
    """Which of label, mask and raw input each further positional argument is.

    The paper writes ``model.forward(input, mask)``, the original package took
    ``forward(input, label, mask, raw_input)``: the type of the first decides.
    """
    spatial = isinstance(given[0], (Tensor, np.ndarray)) and given[0].ndim > 1
    return zip(_OURS[1:] if spatial else _OURS, given, strict=False)
