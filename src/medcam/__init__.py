"""Attention maps of CNN-based PyTorch models, 2D and 3D, in one line.

``model = medcam.inject(model)`` records maps in all later calls of the model;
``medcam.explain(model, image)`` explains a single call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medcam import errors, methods, targets
from medcam.engine.model.layers import get_layers
from medcam.errors import MedcamError, MedcamWarning
from medcam.explanation.call import explain
from medcam.explanation.explanation import Explanation
from medcam.explanation.fusion import fuse
from medcam.explanation.predicted import Prediction
from medcam.explanation.predicting import prediction_of
from medcam.explanation.volume import explain_volume
from medcam.injection.injecting import inject
from medcam.injection.model import eject
from medcam.installation import warn_of_original
from medcam.maps import AttentionMap, LayerGrid

if TYPE_CHECKING:
    from medcam.evaluation import compute_score
    from medcam.evaluation.evaluator import Evaluator
    from medcam.explanation.figure import montage
    from medcam.explanation.single_file import save
    from medcam.trust.agreeing import agreement
    from medcam.trust.checking import check

__version__ = "1.0.0.dev0"

__all__ = [
    "AttentionMap",
    "Evaluator",
    "Explanation",
    "LayerGrid",
    "MedcamError",
    "MedcamWarning",
    "Prediction",
    "agreement",
    "check",
    "compute_score",
    "eject",
    "errors",
    "explain",
    "explain_volume",
    "fuse",
    "get_layers",
    "inject",
    "methods",
    "montage",
    "prediction_of",
    "save",
    "targets",
]

_LAZY = {
    "Evaluator": "medcam.evaluation.evaluator",
    "agreement": "medcam.trust.agreeing",
    "check": "medcam.trust.checking",
    "compute_score": "medcam.evaluation",
    "montage": "medcam.explanation.figure",
    "save": "medcam.explanation.single_file",
}
"""Names and their modules, imported on first use because they load costly packages."""

_LAZY_MODULES = {
    "monai": "medcam.frameworks.monai",
    "nnunet": "medcam.frameworks.nnunet",
    "onnx": "medcam.frameworks.onnx",
    "torchio": "medcam.frameworks.torchio",
}
"""Modules that need an optional package, imported on first use."""


def __getattr__(name: str) -> Any:
    """Import a lazy name or module on first use."""
    from importlib import import_module

    if name in _LAZY_MODULES:
        return import_module(_LAZY_MODULES[name])
    if name not in _LAZY:
        raise AttributeError(f"module 'medcam' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


warn_of_original()
