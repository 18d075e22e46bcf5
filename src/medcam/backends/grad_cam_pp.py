"""The original's `GradCamPP` is not kept: its name says what takes its place."""

from __future__ import annotations

from medcam.injection.original import replaced_names

__getattr__ = replaced_names(
    "medcam.backends.grad_cam_pp",
    {"GradCamPP": "medcam.explain(model, x, method='gcampp')"},
)
