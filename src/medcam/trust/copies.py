"""Deep copies of the user's network, so that it is never written to itself."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from medcam.engine.model.isolation import modules_of
from medcam.engine.model.stored import stored_graphs
from medcam.errors import InputError, reason_of


def copy_of(model: nn.Module, purpose: str) -> nn.Module:
    """Return a deep copy; tensors with a graph that the model holds are copied without it.

    Args:
        model: The network.
        purpose: What the copy is for and how to do without, in words.

    Raises:
        InputError: The model cannot be copied.
    """
    memo: dict[int, Any] = {
        id(tensor): tensor.detach().clone() for tensor in stored_graphs(modules_of(model))
    }
    try:
        twin: nn.Module = copy.deepcopy(model, memo)
    except Exception as error:  # objects of the user's, such as open files, raise anything
        raise InputError(f"The model cannot be copied, {purpose}: {reason_of(error)}") from error
    return twin
