"""The injected model: a shallow copy whose class is a subclass of the model's own class.

``isinstance``, ``repr``, ``state_dict``, pickling and copying work as before; parameters are
shared. One attribute is added: the session.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
from pathlib import Path
from typing import Any

from torch import nn
from torch.fx import GraphModule

from medcam.engine.model.layers import get_layers, inner_model, unwrap
from medcam.errors import InputTypeError
from medcam.explanation.explanation import Explanation
from medcam.injection.arguments import Parameters, parameters_of, split
from medcam.injection.original import OriginalState
from medcam.injection.session import Session
from medcam.injection.wrappers import is_replica

_log = logging.getLogger("medcam")

_FORWARD = "_medcam_forward"
"""Where a forward that was set on the instance is kept."""


class InjectedModel(nn.Module):
    """The methods that an injected model has in addition to those of its own class."""

    _medcam: Session

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; while medcam is enabled, also make attention maps.

        Args:
            *args: The model's inputs. Where the model's own forward takes a single tensor, a
                second positional argument is medcam's: an integer, string, callable or 0-1-D
                tensor is the label, a tensor with spatial axes the mask.
            **kwargs: The model's keywords, and medcam's: ``label`` (what is explained in this
                call), ``mask`` (the ground truth, ``[batch, 1, *space]``, ``[batch, *space]`` or
                ``[*space]``, or a list of one for each sample; for views ``[batch, views, H, W]``,
                for a bag ``[slices, 1, H, W]``), ``raw_input`` (what 2D maps are drawn over),
                ``reference`` (the image whose geometry 3D maps take in this call: for one sample
                a path, nibabel image or MetaTensor, for several a list of these; or an affine),
                ``data_shape`` (the spatial shape of the maps in this call; both as in
                `medcam.inject`). For a model of several images, ``mask``, ``raw_input`` and
                ``reference`` hold for the first one with a map; a mapping by the images' names
                gives one for each. A model whose own forward has a parameter of that name gets it
                (``reference`` and ``data_shape`` also if it takes any keyword); medcam's is then
                ``medcam_label``, ``medcam_mask``, ``medcam_reference`` and so on.

        Returns:
            What the model returns; see ``replace``, ``return_attention`` and ``return_score`` of
            `medcam.inject`.
        """
        plain_forward = self._medcam_plain_forward()
        if not self._medcam.enabled and len(args) == 1 and not kwargs:
            return plain_forward(*args)
        args, kwargs, medcam_arguments = split(_own_parameters(self), args, kwargs)
        if not self._medcam.enabled:
            return plain_forward(*args, **kwargs)
        if is_replica(self):
            self._medcam.refuse_replica()
            return plain_forward(*args, **kwargs)
        return self._medcam.run(self, plain_forward, args, kwargs, **medcam_arguments)

    def get_layers(self, reverse: bool = False) -> list[str]:
        """Return the layer names, children before parents (see `medcam.get_layers`).

        Args:
            reverse: Whether parents come before children.
        """
        return get_layers(self, reverse)

    def get_attention_map(self) -> Any:
        """Return the last call's map as a numpy array ``[batch, targets, *space]``.

        Several layers: a dict of these by layer name. Values are scaled for display, [0, 1]
        (signed maps: [-1, 1]); with ``normalize=False`` they are in raw units. None before the
        first call.
        """
        return self._medcam.attention_map()

    def get_explanation(self) -> Explanation | None:
        """Return the last call's explanation: raw maps, the layer chosen, what was explained.

        Its ``output`` is None: the output belongs to the caller. None before the first call.
        """
        return self._medcam.last

    def save_attention_map(self, attention_map: Any, raw_input: Any = None) -> Path:
        """Save one map ``[H, W]`` or ``[X, Y, Z]`` of your own in the output folder.

        Args:
            attention_map: The map, numpy or torch.
            raw_input: The image that a 2D map is drawn over.

        Returns:
            The file's path, ``{output_dir}/{layer}/attention_map_{n}.png`` or ``.nii.gz``.

        Raises:
            InputError: There is no output folder, or the map cannot be saved.
        """
        return self._medcam.save_user_map(attention_map, raw_input)

    @property
    def medcam_dict(self) -> OriginalState:
        """The original package's dict of options and results; see `OriginalState`."""
        device = next((parameter.device for parameter in self.parameters()), None)
        return OriginalState(self._medcam, device)

    def replace_output(self, replace: bool) -> None:
        """Set whether calls return the attention map instead of the prediction."""
        self._medcam.settings = self._medcam.settings.changed(replace=replace)

    def dump(self) -> None:
        """Write what was collected: ``attention_maps.pkl``, and the score table with its chart.

        Raises:
            InputError: Scores are to be saved, but no call had a mask.
        """
        self._medcam.dump()

    def enable_medcam(self) -> None:
        """Make attention maps in every call from now on."""
        self._medcam.enabled = True

    def disable_medcam(self) -> None:
        """Run only the model itself in every call from now on, without overhead."""
        self._medcam.enabled = False

    def test_run(self, batch: Any) -> list[str]:
        """Return the layers that maps can be made of for this input; saves no map.

        With an output folder, the names are also written to ``registered_layers.txt`` there.

        Args:
            batch: One input of the model.
        """
        return self._medcam.test_run(self, self._medcam_plain_forward(), batch)

    def _medcam_plain_forward(self) -> Any:
        """Return the model's own forward: the one set on the instance, or that of its class."""
        return vars(self).get(_FORWARD) or super().forward

    def _medcam_plain(self) -> nn.Module:
        """Return the model without medcam, for `medcam.explain`."""
        return eject(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as the plain model and its session."""
        return rebuild, (eject(self), self._medcam)

    # `copy` asks a class for these before it pickles, and the model's own class may have them.

    def __copy__(self) -> nn.Module:
        """Copy as the plain model, in its own way, with the same session."""
        return rebuild(copy.copy(eject(self)), self._medcam)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        """Copy as the plain model, in its own way, and its session."""
        return rebuild(copy.deepcopy(eject(self), memo), copy.deepcopy(self._medcam, memo))


def eject(model: nn.Module) -> nn.Module:
    """Return the plain model, with the same parameters; a plain model is returned as it is.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3))
        >>> eject(net) is net
        True
    """
    if not isinstance(model, InjectedModel):
        return model
    plain = shallow_copy(model)
    del vars(plain)["_medcam"]
    if _FORWARD in vars(plain):
        vars(plain)["forward"] = vars(plain).pop(_FORWARD)
    plain.__class__ = _own_class(model)
    return plain


def rebuild(model: nn.Module, session: Session) -> nn.Module:
    """Return the injected form of a plain model.

    Raises:
        InputTypeError: The model's class cannot be subclassed.
    """
    injected = shallow_copy(model)
    vars(injected)["_medcam"] = session
    if "forward" in vars(injected):  # it would take precedence over the forward of the subclass
        vars(injected)[_FORWARD] = vars(injected).pop("forward")
    if vars(injected).get("_compiled_call_impl") is not None:  # bound to the plain model
        vars(injected)["_compiled_call_impl"] = None
    try:
        plain_class: Any = type(model)
        injected.__class__ = _injected_class(plain_class)
    except TypeError as error:
        raise InputTypeError(
            f"A {type(model).__name__} cannot be injected: {error}. Use medcam.explain(model, x)."
        ) from error
    return injected


@functools.cache
def _injected_class(cls: Any) -> Any:
    """Return the subclass of a model's class that makes maps."""
    attributes: dict[str, Any] = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
    }

    @functools.wraps(cls.forward)  # other tools read the signature of the model's own forward
    def forward(self: InjectedModel, *args: Any, **kwargs: Any) -> Any:
        return InjectedModel.forward(self, *args, **kwargs)

    attributes["forward"] = forward
    if issubclass(cls, GraphModule):
        attributes["recompile"] = _recompile
    for name in vars(InjectedModel):
        if not name.startswith("_") and name != "forward" and hasattr(cls, name):
            _log.warning(
                "%s has a method %s of its own; medcam's method of that name is not available",
                cls.__name__,
                name,
            )
            attributes[name] = inspect.getattr_static(cls, name)
    return type(cls)(cls.__name__, (InjectedModel, cls), attributes)


def _recompile(self: InjectedModel) -> Any:
    """Recompile a ``torch.fx`` graph in the model's own class, not in that which makes maps."""
    plain: Any = eject(self)
    code = plain.recompile()
    vars(self).update({k: v for k, v in vars(plain).items() if k != "forward"})
    _parameters_of_class.cache_clear()
    return code


def shallow_copy(model: nn.Module) -> nn.Module:
    """Return a new object with the same attributes; copy methods of the class are not called."""
    twin: nn.Module = object.__new__(type(model))
    vars(twin).update(vars(model))
    return twin


def _own_class(model: InjectedModel) -> Any:
    """Return the class that the model had before `medcam.inject`."""
    return type(model).__mro__[2]


def _own_parameters(model: InjectedModel) -> Parameters:
    """Return the parameters of the model's own forward."""
    inner = inner_model(model)
    if inner is not None:  # a wrapper takes any arguments, and hands them on
        return parameters_of(unwrap(inner).forward, bound=True)
    forward = vars(model).get(_FORWARD)
    if forward is None:
        return _parameters_of_class(_own_class(model))
    return parameters_of(forward, bound=True)


@functools.cache
def _parameters_of_class(cls: Any) -> Parameters:
    return parameters_of(cls.forward, bound=False)
