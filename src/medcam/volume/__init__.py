"""Whole volumes: windows, their exact stitching, `explain_volume`."""

from __future__ import annotations

from medcam.volume.explain_volume import explain_volume
from medcam.volume.windows import Windows, sliding_windows

__all__ = ["Windows", "explain_volume", "sliding_windows"]
