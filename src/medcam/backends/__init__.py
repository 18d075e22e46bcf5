"""The original's classes of methods are not kept; their modules say what takes their place."""

from __future__ import annotations

from medcam.backends import (
    base,
    grad_cam,
    grad_cam_pp,
    guided_backpropagation,
    guided_grad_cam,
)

__all__ = ["base", "grad_cam", "grad_cam_pp", "guided_backpropagation", "guided_grad_cam"]
