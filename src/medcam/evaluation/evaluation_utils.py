"""The original's name of `medcam.compute_score`."""

from __future__ import annotations

from medcam.evaluation.score import compute_score as comp_score

__all__ = ["comp_score"]
