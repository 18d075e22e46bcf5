"""Small networks, many windows: one thread is faster than several that wait for each other."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch

with warnings.catch_warnings():  # torch's own, about what ignite imports
    warnings.simplefilter("ignore", DeprecationWarning)
    import ignite.engine  # noqa: F401


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
