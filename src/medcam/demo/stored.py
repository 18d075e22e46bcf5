"""Where the packaged files are, and how the weights of a network are read."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

_Net = TypeVar("_Net", bound=nn.Module)


def data_path(name: str) -> Path:
    """Return the path of a packaged file."""
    # pip unpacks wheels, so this is a real file and the path stays valid after the context
    with as_file(files("medcam.demo").joinpath("data", name)) as path:
        return path


def load_weights(net: _Net, name: str) -> _Net:
    """Load packaged weights into a network and return it in eval mode, on the CPU in float32."""
    net.load_state_dict(torch.load(data_path(name), map_location="cpu", weights_only=True))
    return net.eval()
