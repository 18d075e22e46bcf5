"""How well attention maps agree with ground-truth masks: scores, thresholds and tables."""

from __future__ import annotations

from medcam.evaluation.metrics import METRICS
from medcam.evaluation.score import compute_score

__all__ = ["METRICS", "compute_score"]
