"""An evaluator with four known scores."""

from __future__ import annotations

import numpy as np

from medcam.evaluation.evaluator import Evaluator

MAP = np.array([[0.0, 4.0], [2.0, 2.0]])
MASK = np.array([[0, 1], [1, 0]])
EMPTY = np.zeros((2, 2))


def filled(folder, **options) -> Evaluator:
    """Return an evaluator with relevance masses.

    Layer b, class 1: .75, NaN, .5. Layer a, class 0: .25.
    """
    evaluator = Evaluator(folder, "relevance_mass", **options)
    for mask, layer, label, name in (
        (MASK, "b", 1, "first"),
        (EMPTY, "b", 1, "empty"),
        ([[0, 1], [0, 0]], "b", 1, "second"),
        ([[0, 0], [0, 1]], "a", 0, None),
    ):
        evaluator.comp_score(MAP, mask, layer=layer, class_label=label, name=name)
    return evaluator
