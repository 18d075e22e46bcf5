"""The code that nnU-Net's plans name: accepted only if the object is nnU-Net's own.

A name says nothing about what it leads to: ``torch.nn.functional.torch.os.system`` begins with
``torch.nn`` and is the system's shell. So each name is located, and the object itself is checked:
its kind, and the module that defines it.
"""

from __future__ import annotations

import inspect
import pydoc
import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from medcam.errors import InputError

_NETWORKS = ("torch.nn", "dynamic_network_architectures")
_NNUNET = ("nnunetv2",)
_RESAMPLING = ("nnunetv2.preprocessing.resampling",)


def check_named_code(plans: Any, configuration: Any) -> None:
    """Raise if the plans name anything but nnU-Net's own code; nothing of the code is called.

    Args:
        plans: nnU-Net's ``PlansManager``.
        configuration: nnU-Net's ``ConfigurationManager``.

    Raises:
        InputError: A name leads to an object of another kind or from elsewhere.
    """
    network = configuration.network_arch_class_name
    modules = [(network, _locate_network(network))]
    modules += [(name, _locate(name)) for name in _named_operations(configuration)]
    for name, located in modules:
        if not _is_own_class(located, nn.Module, _NETWORKS):
            raise _foreign(name)
    for name, located, base in _found_classes(plans, configuration):
        if not _is_own_class(located, base, _NNUNET):
            raise _foreign(name)
    for key in ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"):
        function = getattr(getattr(configuration, key), "func", None)
        if not inspect.isfunction(function) or not _is_within(function.__module__, _RESAMPLING):
            raise _foreign(configuration.configuration[key])


def _named_operations(configuration: Any) -> list[Any]:
    """Return the names that nnU-Net may locate and give to the network.

    The plans list which arguments are names, but some trainers locate an operation whatever the
    list says. So every text counts that is listed, has a dot, or lies where operations do.
    """
    arguments = configuration.network_arch_init_kwargs
    names = [arguments[key] for key in configuration.network_arch_init_kwargs_req_import]
    names += [value for key, value in _texts(arguments) if "." in value or _OPERATION.search(key)]
    return [name for name in names if name is not None]


_OPERATION = re.compile(r"(?:_op|_class|_module|nonlin)$")


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text inside arguments, with the last key that leads to it."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _texts(part, str(name))
            yield from _texts(str(name), "") if "." in str(name) else ()
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part, key)


def _locate(name: Any) -> Any:
    """Return the object that nnU-Net takes for a name; None if it is not nnU-Net's.

    Importing a module runs its code, so modules of other packages are not imported.
    """
    is_own = isinstance(name, str) and _is_within(name, _NETWORKS)
    return pydoc.locate(name) if is_own else None


def _locate_network(name: Any) -> Any:
    """Return the network's class; one that was moved is searched for, as nnU-Net does it."""
    located = _locate(name)
    if located is not None or not isinstance(name, str) or not _is_within(name, _NETWORKS):
        return located
    import dynamic_network_architectures
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    package = "dynamic_network_architectures.architectures"
    folder = f"{dynamic_network_architectures.__path__[0]}/architectures"
    return recursive_find_python_class(folder, name.rpartition(".")[2], package)


def _found_classes(plans: Any, configuration: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the other classes of the plans: the name, what nnU-Net finds, and the base class."""
    import nnunetv2
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import (
        ImageNormalization,
    )
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    name = plans.plans["image_reader_writer"]
    yield name, plans.image_reader_writer_class, BaseReaderWriter
    yield plans.plans.get("label_manager"), plans.label_manager_class, LabelManager
    name = configuration.preprocessor_name
    yield name, configuration.preprocessor_class, DefaultPreprocessor
    folder = f"{nnunetv2.__path__[0]}/preprocessing/normalization"
    for scheme in configuration.normalization_schemes:
        located = recursive_find_python_class(
            folder, scheme, "nnunetv2.preprocessing.normalization"
        )
        yield scheme, located, ImageNormalization


def _is_own_class(located: Any, base: type, packages: tuple[str, ...]) -> bool:
    """Return whether an object is a class of a kind, defined in one of some packages."""
    return (
        inspect.isclass(located)
        and issubclass(located, base)
        and _is_within(located.__module__, packages)
    )


def _is_within(name: str, packages: tuple[str, ...]) -> bool:
    """Return whether a module's name is that of a package, or of a part of it."""
    return name.startswith(tuple(f"{package}." for package in packages)) or name in packages


def _foreign(name: Any) -> InputError:
    return InputError(
        f"The plans name {str(name)[:200]!r}, which is not nnU-Net's own code. If you trust where "
        "the folder comes from, pass trust=True (--trust)."
    )
