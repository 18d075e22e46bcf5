"""medcam: attention maps of CNN-based PyTorch models, 2D and 3D, in one line.

``model = medcam.inject(model)`` and go on as usual; or ask once: ``medcam.explain(model, image)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medcam import errors, methods, targets
from medcam.attention import AttentionMap, Explanation
from medcam.explain import explain
from medcam.inject import inject
from medcam.injected import eject
from medcam.layers import get_layers
from medcam.volume import explain_volume

if TYPE_CHECKING:
    from medcam.evaluation import compute_score
    from medcam.evaluator import Evaluator
    from medcam.saving import save
    from medcam.views.montage import montage

__version__ = "1.0.0.dev0"

__all__ = [
    "AttentionMap",
    "Evaluator",
    "Explanation",
    "compute_score",
    "eject",
    "errors",
    "explain",
    "explain_volume",
    "get_layers",
    "inject",
    "methods",
    "montage",
    "save",
    "targets",
]

_LAZY = {
    "Evaluator": "medcam.evaluator",
    "compute_score": "medcam.evaluation",
    "montage": "medcam.views.montage",
    "save": "medcam.saving",
}


_LAZY_MODULES = {
    "monai": "medcam.frameworks.monai",
    "nnunet": "medcam.frameworks.nnunet",
    "torchio": "medcam.frameworks.torchio",
}


def __getattr__(name: str) -> Any:
    """Imports what writes files, or needs pandas or another framework, when it is first used."""
    from importlib import import_module

    if name in _LAZY_MODULES:
        return import_module(_LAZY_MODULES[name])
    if name not in _LAZY:
        raise AttributeError(f"module 'medcam' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
