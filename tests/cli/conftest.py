"""A folder with a user's own code in it, and the command line run there."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from medcam.cli import app

CODE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes=3, channels=1, norm="none"):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3)
        )
        self.unused = nn.Conv2d(1, 1, 1)
        self.head = nn.Linear(8, classes)
        self.norm = norm

    def forward(self, x):
        return self.head(self.features(x).flatten(2).mean(2))


class Nets:
    net = Net


made = Net().train()
number = 3


def factory(**options):
    return Net(**options)


def no_model():
    return {"a": torch.ones(1)}


def failing():
    raise ZeroDivisionError("their own fault")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with ``nets_of_user.py`` in it; what was imported of it is forgotten."""
    (tmp_path / "nets_of_user.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]


@pytest.fixture
def medcam_command(folder) -> Callable[..., Result]:
    def run(*args: str) -> Result:
        return CliRunner().invoke(app, list(args), catch_exceptions=False)

    return run
