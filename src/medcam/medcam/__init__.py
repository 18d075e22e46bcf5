"""The names of the original M3d-CAM's ``from medcam import medcam``; it defines none of its own.

It is a package, not a module: the original's ``medcam.py``, installed later, does not replace it.
"""

from __future__ import annotations

from medcam.installation import require_whole

require_whole()

from medcam.engine.model.layers import get_layers
from medcam.evaluation.evaluator import Evaluator
from medcam.evaluation.score import compute_score
from medcam.explanation.single_file import save
from medcam.injection.injecting import inject

__all__ = ["Evaluator", "compute_score", "get_layers", "inject", "save"]
