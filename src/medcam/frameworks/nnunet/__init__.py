"""nnU-Net v2: maps of whole cases, in the geometry of the original image.

``medcam.nnunet.explain(folder, files, label="tumour")`` is the one call; `load` keeps the network
for several cases.
"""

from __future__ import annotations

from medcam.frameworks.nnunet.cases import Case, find_cases
from medcam.frameworks.nnunet.loading import TrainedModel, load
from medcam.frameworks.nnunet.result import CaseExplanation
from medcam.frameworks.nnunet.run import check, explain, explain_case

__all__ = [
    "Case",
    "CaseExplanation",
    "TrainedModel",
    "check",
    "explain",
    "explain_case",
    "find_cases",
    "load",
]
