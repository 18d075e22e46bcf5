"""Whether maps tell the truth: criteria and verdicts (`medcam.check`); it writes no file."""

from __future__ import annotations

from medcam.trust.agreeing import Agreement
from medcam.trust.artefact import MarkerVerdict, PlantedArtefact
from medcam.trust.result import CheckedMap, Recommendation, TrustCheck
from medcam.trust.stages import LayerShare
from medcam.trust.verdict import Verdict

__all__ = [
    "Agreement",
    "CheckedMap",
    "LayerShare",
    "MarkerVerdict",
    "PlantedArtefact",
    "Recommendation",
    "TrustCheck",
    "Verdict",
]
