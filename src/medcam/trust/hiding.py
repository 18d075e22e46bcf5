"""What hiding blocks says of an image: a map made of the bank alone, without a further run."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from medcam.maps import AttentionMap, ResolvedTarget
from medcam.trust.bank import Bank
from medcam.trust.question import Question
from medcam.trust.statistics import partial_correlation

_RIDGE = 1.0
"""The weight of the penalty; from 0.3 to 3 the maps of the packaged networks hardly differ."""

_PARTS = 4
"""The number of parts of the sets, of which each is predicted from the others."""


def hiding_map(bank: Bank, question: Question, fill: str) -> AttentionMap:
    """Return by how much the score falls if a block is hidden, ``[batch, targets, *space]``.

    Each fall is written as a sum over the blocks of its set, by ridge regression. RISE (Petsiuk et
    al., BMVC 2018, arXiv 1806.07421) averages the scores instead, which takes more masks: with 96
    sets of the packaged nuclei network the maps have an area under the ROC curve of .93 against
    .90, with 400 .95 against .93.

    Args:
        bank: The bank.
        question: What was asked.
        fill: What the blocks were replaced by.
    """
    drops = bank.drops[fill]
    of_blocks = block_importance(bank.sets, drops.reshape(len(drops), -1))
    grids = of_blocks.reshape(*drops.shape[1:], *bank.blocks.grid)
    values = np.stack([[bank.blocks.spread(grid) for grid in target] for target in grids], 1)
    target = ResolvedTarget(question.text, question.task, is_part=bool(question.masks))
    return AttentionMap(
        torch.from_numpy(values).float(), "hiding", None, target, signed=True, positive_part=True,
        method_title="Hiding blocks",
    )  # fmt: skip


def block_importance(
    sets: Bool[np.ndarray, "sets blocks"], drops: Float[np.ndarray, "sets scores"]
) -> Float[np.ndarray, "scores blocks"]:
    """Return how much of the falls of each score each block takes, by ridge regression.

    Example:
        >>> sets = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool)
        >>> block_importance(sets, np.array([[8.0], [0.0], [8.0], [0.0]])).round(1).tolist()
        [[4.0, 0.0]]
    """
    rows = sets - sets.mean(0)
    kernel = rows @ rows.T + _RIDGE * np.eye(len(rows))
    weights: NDArray[np.float64] = np.linalg.solve(kernel, drops - drops.mean(0)).T @ rows
    return weights


def held_out_correlation(bank: Bank, fill: str) -> float:
    """Return how well the map predicts the falls of sets that it was not made from.

    That is T4's correlation, by cross-validation over four parts of the sets; the mean over images,
    targets and parts. NaN with fewer than 16 sets.
    """
    sets, sizes = bank.sets, bank.sets.sum(1).astype(float)
    if len(sets) < _PARTS**2:
        return float("nan")
    drops = bank.drops[fill].reshape(len(sets), -1)
    part = np.arange(len(sets)) % _PARTS
    values = []
    for number in range(_PARTS):
        out = part == number
        sums = block_importance(sets[~out], drops[~out]) @ sets[out].T
        values += [
            partial_correlation(row[None], column, sizes[out])[0, 0]
            for row, column in zip(sums, drops[out].T, strict=True)
        ]
    return float(np.mean(values))
