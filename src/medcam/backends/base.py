"""The original's `BaseWrapper` is not kept: its name says what takes its place."""

from __future__ import annotations

from medcam.injection.original import replaced_names

__getattr__ = replaced_names(
    "medcam.backends.base",
    dict.fromkeys(["_BaseWrapper", "BaseWrapper"], "medcam.methods.Method"),
)
