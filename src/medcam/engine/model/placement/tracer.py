"""Follow tensors through a forward pass: from which image they come, and where their cells lie.

`Tracer` is a torch-dispatch mode: it sees every operation of PyTorch, whatever Python function
called it, runs it unchanged, and computes the geometry of the result. Tensors are known by their
memory (storage, offset, shape and strides), so views, copies of Python objects and tensor
subclasses are no obstacle.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from medcam.engine.model.placement.entries import Entries
from medcam.engine.model.placement.geometry import Geometry
from medcam.engine.model.placement.memory import (
    IN_PLACE,
    Storage,
    has_memory,
    same_places,
    view_key,
)
from medcam.engine.model.placement.rules.apply import Origins, geometries_of, geometry_by_module
from medcam.engine.model.placement.rules.modules import ModuleRule, module_rule
from medcam.engine.model.placement.steering import ReadingMode, Steering
from medcam.engine.model.placement.subclasses import made_outside_modes
from medcam.engine.model.placement.writing import Whole
from medcam.engine.model.undo import ForwardHooks

_log = logging.getLogger("medcam")

_Entering = tuple[dict[str, Any], dict[int, Origins]]
"""The arguments of an operation by name, and the origins of the tensors among them by id."""

_Result = TypeVar("_Result")

_NO_MEMORY = "it went through a nested, sparse or wrapped tensor"
_UNWRITTEN = "memory that an operation unknown to medcam may have written"
_CREATES_UNWRITTEN = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}
_CREATES = {
    *_CREATES_UNWRITTEN, "zeros", "ones", "full", "new_zeros", "new_ones", "new_full",
    "zeros_like", "ones_like", "full_like",
}  # fmt: skip


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's
    """Mode that follows the images through the operations of a forward pass.

    Args:
        images: The images, in the order of their numbers.
        originals: Other tensors that hold the same images, in this order.
        others: The other tensors among the inputs.

    Attributes:
        steering: Whether the way that the model takes depends on values: a crop around what was
            found, for example.
        entries: How the first convolutions read the images.
    """

    def __init__(
        self,
        images: Sequence[Tensor],
        originals: Sequence[Tensor] = (),
        others: Sequence[Tensor] = (),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's
        self._storages: dict[int, Storage] = {}
        # the images of which something went into tensors that are not known by their memory
        self._lost: Origins = {}
        self.steering = Steering([*images, *originals, *others])
        self.entries = Entries()
        self._shapes = [image.shape for image in images]
        for same in (originals, images):
            for number, image in enumerate(same):
                self._add(image, {number: Geometry.of_image(image.shape)})

    @contextmanager
    def following(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Enter the mode, and follow modules whose operations do not tell where their cells lie.

        These are recurrent layers, whose every step depends on the steps before it, and circular
        padding, which copies parts of a tensor.

        Args:
            modules: All modules of the model.
        """
        hooks = [
            (module, partial(self._follow_module, rule))
            for module in modules
            if (rule := module_rule(module)) is not None
        ]
        # prepended last, so that other hooks find the result
        with ForwardHooks(hooks, prepend=True):
            try:
                with made_outside_modes(), self, ReadingMode(self._watch):
                    yield
            finally:
                self.steering.finish()

    def _watch(self, tensor: Tensor) -> None:
        """Note that the model reads the values of a tensor."""
        _unless_it_fails(lambda: self.steering.read(tensor))

    def _follow_module(self, rule: ModuleRule, module: nn.Module, inputs: Any, output: Any) -> None:
        """Record the origins of a module's output by the rule of the module."""
        result = output[0] if isinstance(output, tuple) else output
        if not inputs or not isinstance(inputs[0], Tensor) or not isinstance(result, Tensor):
            return
        shape = tuple(result.shape)
        origins = {
            image: geometry_by_module(rule, module, geometry, shape)
            for image, geometry in self.origins(inputs[0]).items()
        }
        if origins:
            self._add(result, origins)

    def origins(self, tensor: Tensor) -> Origins:
        """Return the images that a tensor comes from, with its geometry on each.

        Empty for a tensor that comes from no image.
        """
        if not has_memory(tensor):
            return dict(self._lost) or {ANY_IMAGE: _NO_MEMORY}
        storage = self._storage_of(tensor)
        if storage is None:
            return {}
        if storage.is_pending:
            storage.finish_filling()
        known = storage.views.get(view_key(tensor))
        return dict(storage.whole) if known is None else known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and follow its result."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            before = _unless_it_fails(lambda: self._inputs(func, args, kwargs))
            result = func(*args, **kwargs)
            if before is not None:
                _unless_it_fails(lambda: self._follow_or_lose(func, before, result))
        return result

    def _inputs(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Entering:
        """Return the arguments by name, and the origins of the tensors among them by id.

        They are read before the operation runs, because it may work in place.
        """
        arguments = {
            argument.name: argument.default_value
            for argument in func._schema.arguments
            if argument.has_default_value()
        }
        names = [argument.name for argument in func._schema.arguments]
        arguments.update(zip(names, args, strict=False))
        arguments.update(kwargs)
        origins: dict[int, Origins] = {}
        is_copy = func._schema.name == "aten::copy_"
        for argument, value in arguments.items():
            if is_copy and argument == "self":
                continue  # what was there before does not matter
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if not isinstance(tensor, Tensor):
                    continue
                known = self.origins(tensor) if has_memory(tensor) else self._lost
                if known:
                    origins[id(tensor)] = known
        return arguments, origins

    def _follow(self, func: Any, before: _Entering, result: Any) -> bool:
        """Record the origins of an operation's results; return whether nothing failed."""
        arguments, origins = before
        self.steering.note(func, arguments, result)
        results = list(result) if isinstance(result, (list, tuple)) else [result]
        tensors = [value if isinstance(value, Tensor) else None for value in results]
        name = func._schema.name.removeprefix("aten::")
        if name in _CREATES and tensors[0] is not None and has_memory(tensors[0]):
            self._create(tensors[0], is_written=name not in _CREATES_UNWRITTEN)
            return True
        if not origins:
            if func._schema.is_mutable:
                self._overwrite(tensors)
            return True
        images = sorted(set().union(*origins.values()))
        shapes = [tuple(t.shape) if has_memory(t) else () for t in tensors if t is not None]
        origins_of: list[Origins] = [{} for _ in tensors]
        for image in images:
            entering = origins.get(id(arguments.get("input")), {}).get(image)
            if name == "convolution" and entering is not None and image != ANY_IMAGE:
                self.entries.note(arguments, image, entering, self._shapes[image])
            geometries = geometries_of(func, name, arguments, origins, image, shapes)
            for item, geometry in zip(origins_of, geometries, strict=False):
                if geometry is not None:
                    item[image] = geometry
        mutated = func._schema.is_mutable
        for tensor, item in zip(tensors, origins_of, strict=True):
            if tensor is None:
                continue
            storage = self._storage_of(tensor)
            if name != "copy_" or storage is None or not storage.fill(tensor, item):
                self._add(tensor, item, overwrites=mutated)
        return True

    def _follow_or_lose(self, func: Any, before: _Entering, result: Any) -> None:
        """Record the origins of an operation's results, or that their places are unknown."""
        if _unless_it_fails(lambda: self._follow(func, before, result)):
            return
        images: set[int] = set().union(*before[1].values())
        reason = f"the operation {func._schema.name.removeprefix('aten::')!r} is not followed"
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, Tensor) and images:
                self._add(tensor, dict.fromkeys(images, reason), overwrites=True)

    def _create(self, tensor: Tensor, *, is_written: bool) -> None:
        """Record a new tensor that is empty or constant."""
        self._add(tensor, {} if is_written else {ANY_IMAGE: _UNWRITTEN})
        storage = self._storage_of(tensor)
        if storage is not None:
            shape, strides = tuple(tensor.shape), tuple(tensor.stride())
            storage.filled = Whole(shape, strides, int(tensor.storage_offset()))

    def _overwrite(self, tensors: Sequence[Tensor | None]) -> None:
        """Record that memory has been written with values of no image."""
        for tensor in tensors:
            storage = None if tensor is None else self._storage_of(tensor)
            if storage is not None and tensor is not None:
                storage.views[view_key(tensor)] = {}
                if tensor.numel() == tensor.untyped_storage().nbytes() // tensor.element_size():
                    storage.whole.pop(ANY_IMAGE, None)

    def _add(self, tensor: Tensor, origins: Origins, *, overwrites: bool = False) -> None:
        """Record the origins of a tensor."""
        if not has_memory(tensor):
            self._lost.update(dict.fromkeys(origins, _NO_MEMORY))
            return
        memory = tensor.untyped_storage()
        storage = self._storage_of(tensor)
        if storage is None:
            reference = StorageWeakRef(memory)  # type: ignore[no-untyped-call]  # PyTorch's
            storage = self._storages[memory._cdata] = Storage(reference)
        elif (
            overwrites
            and origins  # zeros in a part of it leave the rest where it is
            and tensor.numel() * tensor.element_size() != memory.nbytes()
            and not same_places(storage.views.get(view_key(tensor)), origins)
        ):
            storage.overwrite(view_key(tensor), origins)
        for image in origins:
            storage.whole.setdefault(image, IN_PLACE)
        if origins == {ANY_IMAGE: _UNWRITTEN}:
            storage.whole[ANY_IMAGE] = _UNWRITTEN
            return
        storage.views[view_key(tensor)] = origins

    def _storage_of(self, tensor: Tensor) -> Storage | None:
        """Return what is known of a tensor's memory; None if it is nothing."""
        if not has_memory(tensor):
            return None
        address = tensor.untyped_storage()._cdata
        storage = self._storages.get(address)
        if storage is not None and storage.alive.expired():  # type: ignore[no-untyped-call]  # PyTorch's
            del self._storages[address]
            return None
        return storage


def _unless_it_fails(follow: Callable[[], _Result]) -> _Result | None:
    """Return the result; None if it fails, since following must not cost the prediction."""
    try:
        return follow()
    except Exception:  # noqa: BLE001  # tensors of any program: nested, quantised, wrapped
        _log.debug("an operation could not be followed", exc_info=True)
        return None


ANY_IMAGE = -1
"""The number of an image in place of "it may be any"."""
