"""The original's `GuidedBackPropagation` is not kept: its name says what takes its place."""

from __future__ import annotations

from medcam.injection.original import replaced_names

__getattr__ = replaced_names(
    "medcam.backends.guided_backpropagation",
    {"GuidedBackPropagation": "medcam.explain(model, x, method='gbp')"},
)
