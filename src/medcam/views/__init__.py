"""Views: pictures, montages and pages of maps that exist already; they never compute a map."""

from __future__ import annotations

from medcam.views.colors import colorize, display_range
from medcam.views.overlays import grey_picture, overlay

__all__ = ["colorize", "display_range", "grey_picture", "overlay"]
