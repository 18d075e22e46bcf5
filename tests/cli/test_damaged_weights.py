"""A damaged file of weights is weights or an error of ours: 500 seeded mutations."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from medcam.cli.weights import load_weights
from support.mutations import failures_of
from support.nets import Classifier

pytestmark = pytest.mark.slow


def load_it(path):
    """Load weights; what was loaded can be run."""
    model = Classifier()
    load_weights(model, path)
    model(torch.rand(1, 1, 16, 16))


def test_damaged_weights(tmp_path):
    state = Classifier().state_dict()
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "c.safetensors")
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    failures = failures_of(load_it, files, tmp_path, range(500))
    assert not failures, "\n".join(failures)
