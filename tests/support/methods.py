"""Groups of methods."""

from __future__ import annotations

from medcam.methods import METHODS

ONCE = [name for name, method in METHODS.items() if not method.replays]
"""The methods that run the model once."""

AGAIN = [name for name, method in METHODS.items() if method.replays]
"""The methods that run it again, on changed images or features."""
