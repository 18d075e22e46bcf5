"""nnU-Net v2: maps of whole cases on the original image's grid; it never reimplements nnU-Net.

`explain` is the one call: ``medcam.nnunet.explain(folder, files, label="tumour")``. `load` keeps
the network for several cases.
"""

from __future__ import annotations

from medcam.frameworks.nnunet.cases import Case, find_cases
from medcam.frameworks.nnunet.loading import load
from medcam.frameworks.nnunet.result import CaseExplanation
from medcam.frameworks.nnunet.run import check, explain, explain_case
from medcam.frameworks.nnunet.trained_model import TrainedModel
from medcam.frameworks.nnunet.trust import check_maps

__all__ = [
    "Case",
    "CaseExplanation",
    "TrainedModel",
    "check",
    "check_maps",
    "explain",
    "explain_case",
    "find_cases",
    "load",
]
