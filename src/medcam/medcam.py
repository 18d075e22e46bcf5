"""``from medcam import medcam``, as the original M3d-CAM is imported; no logic of its own."""

from __future__ import annotations

from medcam.evaluation import compute_score
from medcam.evaluator import Evaluator
from medcam.inject import inject
from medcam.layers import get_layers
from medcam.saving import save

__all__ = ["Evaluator", "compute_score", "get_layers", "inject", "save"]
