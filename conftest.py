"""Test-wide set-up: shapes are checked at run time; every run computes the same."""

from __future__ import annotations

import os
import random
import warnings
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

from jaxtyping import install_import_hook

# Before medcam is imported anywhere. Where users enter, medcam's own errors speak instead.
SHAPED = (
    "engine.auto_layer", "engine.capture", "engine.guided", "engine.model.detections",
    "engine.model.layouts", "engine.target", "maps", "methods",
)  # fmt: skip
install_import_hook([f"medcam.{name}" for name in SHAPED], "beartype.beartype")

import hypothesis
import jaxtyping
import numpy as np
import pytest
import torch

with warnings.catch_warnings():  # torch's own, about what ignite imports
    warnings.simplefilter("ignore", DeprecationWarning)
    import ignite.engine  # noqa: F401

from medcam.files.formats import nifti
from support.torchvision_shim import make_importable

make_importable()

pytest_plugins = ["support.pages"]


# Networks of the tests are small: a second thread costs them time, and changes the last bits.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test, or a doctest, draws the same numbers whatever ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  # for libraries that draw from the global state
    random.seed(0)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user: medcam's own checks, without those of types that only tests switch on."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(autouse=True)
def _warned_anew() -> None:
    """What is said once per process is said once per test."""
    nifti._warn_identity.cache_clear()


# The same examples on every machine and in every run; `make test-explore` draws new ones. A busy
# machine is no failure.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("MEDCAM_HYPOTHESIS", "same"))


_LONG = (
    "tests/project/test_snippets.py", "tests/views/report/", "tests/frameworks/nnunet/",
    "tests/demo/", "tests/frameworks/monai/test_bundle.py", "tests/engine/test_growth.py",
    "tests/zoo/", "tests/views/montage/", "tests/cli/", "tests/trust/",
)  # fmt: skip
"""What takes longest, which two processes share best if it comes first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what takes longest first; the order of all else stays."""
    items.sort(key=lambda item: _place(item.nodeid))


def _place(nodeid: str) -> int:
    return next((i for i, name in enumerate(_LONG) if nodeid.startswith(name)), len(_LONG))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process whole groups of tests, so that costly fixtures are made once.

    A group is a file; the tests of nnU-Net, of the demonstration and of pages in the browser are
    one group each.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return next((group for group in _GROUPS if path.startswith(group)), path)

    config.option.loadscopereorder = False
    return Groups(config, log)


_GROUPS = ("tests/demo/", "tests/frameworks/nnunet/", "tests/views/report/")
