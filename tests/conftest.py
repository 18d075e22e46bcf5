"""Fixtures for all tests."""

from __future__ import annotations

import pytest

from medcam.engine import automatic


@pytest.fixture
def unchecked_layer(monkeypatch):
    """Keep the automatic layer of segmentations as the graph gives it, for random weights.

    The check asks whether the prediction uses the layer (tests/engine/test_layer_use.py); a network
    with random weights uses none.
    """
    monkeypatch.setattr(automatic, "_may_check", lambda prepared: False)
