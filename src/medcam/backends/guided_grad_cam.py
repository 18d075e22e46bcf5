"""The original's `GuidedGradCam` is not kept: its name says what takes its place."""

from __future__ import annotations

from medcam.injection.original import replaced_names

__getattr__ = replaced_names(
    "medcam.backends.guided_grad_cam",
    {"GuidedGradCam": "medcam.explain(model, x, method='ggcam')"},
)
