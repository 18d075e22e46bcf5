"""The names of the original M3d-CAM's ``from medcam import medcam``, re-exported."""

from __future__ import annotations

from medcam.engine.model.layers import get_layers
from medcam.evaluation import compute_score
from medcam.evaluation.evaluator import Evaluator
from medcam.explanation.single_file import save
from medcam.injection.injecting import inject

__all__ = ["Evaluator", "compute_score", "get_layers", "inject", "save"]
