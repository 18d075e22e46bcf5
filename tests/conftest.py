"""Test-wide set-up: shapes are checked at run time, and torch uses the machine's two cores."""

from __future__ import annotations

import os
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

from jaxtyping import install_import_hook

# Before medcam is imported anywhere. Where users enter, medcam's own errors speak instead.
SHAPED = ("attention", "auto_layer", "capture", "guided", "layouts", "methods", "targets")
install_import_hook([f"medcam.{name}" for name in SHAPED], "beartype.beartype")

import hypothesis
import pytest
import torch

with warnings.catch_warnings():  # torch's own, about what ignite imports
    warnings.simplefilter("ignore", DeprecationWarning)
    import ignite.engine  # noqa: F401

from medcam.files.formats import nifti
from support.torchvision_shim import make_importable

make_importable()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _warned_anew() -> None:
    """What is said once per process is said once per test."""
    nifti._warn_identity.cache_clear()


# A busy machine is no failure; and a submission is judged by the same examples each time.
hypothesis.settings.register_profile(
    "medcam", deadline=None, derandomize=bool(os.environ.get("CI"))
)
hypothesis.settings.load_profile("medcam")
