"""The original's `BaseWrapper` is not kept: its name says what takes its place."""

from __future__ import annotations

from medcam.injection.original import replaced_names

__getattr__ = replaced_names(
    "medcam.backends.base",
    {"_BaseWrapper": "medcam.methods.Method, a method of your own"},
)
