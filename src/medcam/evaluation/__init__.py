"""Scores of attention maps against masks: metrics, thresholds, tables; it never runs a model."""

from __future__ import annotations

from medcam.evaluation.components import Lesion, lesions
from medcam.evaluation.metrics import METRICS
from medcam.evaluation.score import compute_score

__all__ = ["METRICS", "Lesion", "compute_score", "lesions"]
