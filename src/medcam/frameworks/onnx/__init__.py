"""Models of ONNX files, and functions of arrays, as modules; it never differentiates them.

Methods that only run the model again, ``occlusion`` and ``rise``, explain such a model. All other
methods raise an error that says so.
"""

from __future__ import annotations

from medcam.frameworks.onnx.function import from_callable
from medcam.frameworks.onnx.session import load

__all__ = ["from_callable", "load"]
