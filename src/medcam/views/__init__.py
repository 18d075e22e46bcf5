"""Pictures of maps: overlays, colours."""

from __future__ import annotations

from medcam.views.colors import colorize, display_range
from medcam.views.overlay import grey_picture, overlay

__all__ = ["colorize", "display_range", "grey_picture", "overlay"]
