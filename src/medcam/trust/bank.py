"""The bank: by how much the scores fall if random sets of blocks are replaced.

One bank of forward passes serves all methods and controls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medcam.engine.progress import Tick
from medcam.trust.blocks import FILLS, Blocks
from medcam.trust.question import Question
from medcam.trust.statistics import bootstrap_counts, partial_correlation
from medcam.trust.subject import Subject


@dataclass(frozen=True, eq=False)
class Bank:
    """Random sets of blocks, and what they cost each score.

    Attributes:
        blocks: The blocks.
        sets: Which blocks are in each set.
        drops: By fill, for each set, target and image, by how much the score falls.
    """

    blocks: Blocks
    sets: Bool[np.ndarray, "sets blocks"]
    drops: dict[str, Float[np.ndarray, "sets targets batch"]]

    def correlations(
        self, maps: Sequence[Float[np.ndarray, "maps batch *space"]], fill: str, *, seed: int = 0
    ) -> tuple[Float[np.ndarray, " maps"], Float[np.ndarray, "draws maps"]]:
        """Return how faithful maps are, and the same for bootstrap samples of the sets.

        That is the correlation of a map's sum in a set with the drop of the score without it, the
        size of the set partialled out, as the mean over images and targets.

        Args:
            maps: For each target, its maps.
            fill: What the blocks are replaced by.
            seed: Of the bootstrap.
        """
        sizes = self.sets.sum(1).astype(float)
        counts = bootstrap_counts(len(self.sets), seed=seed)
        values, draws = [], []
        for target, of_target in enumerate(maps):
            for image in range(of_target.shape[1]):
                sums = self.blocks.sums(of_target[:, image]) @ self.sets.T
                drops = self.drops[fill][:, target, image]
                values.append(partial_correlation(sums, drops, sizes)[0])
                draws.append(partial_correlation(sums, drops, sizes, counts))
        return np.mean(values, 0), np.mean(draws, 0)

    def infidelity(
        self, maps: Sequence[Float[np.ndarray, "maps batch *space"]], fill: str
    ) -> Float[np.ndarray, " maps"]:
        """Return the infidelity of maps: what they leave unexplained of the drops, from 0 to 1.

        That is ``E[(β s - d)²] / E[d²]`` with the best β ≥ 0, of the sums s in the sets and the
        drops d, as the mean over images and targets: the infidelity of Yeh et al. 2019 (arXiv
        1901.09392, Eq. 2) for the sets' indicators, at the best scale (captum's normalize=True,
        which allows a negative scale, too).

        Args:
            maps: For each target, its maps.
            fill: What the blocks are replaced by.
        """
        values = []
        for target, of_target in enumerate(maps):
            for image in range(of_target.shape[1]):
                sums = self.blocks.sums(of_target[:, image]) @ self.sets.T
                drops = self.drops[fill][:, target, image]
                size, total = (sums**2).sum(1), (drops**2).sum()
                explained = (sums @ drops).clip(0) ** 2 / np.where(size > 0, size, 1)
                values.append(1 - explained / total if total else np.full(len(sums), np.nan))
        mean: Float[np.ndarray, " maps"] = np.mean(values, 0)
        return mean


def fill_bank(
    subject: Subject,
    question: Question,
    blocks: Blocks,
    sets: Bool[np.ndarray, "sets blocks"],
    before: Tensor,
    *,
    fills: Sequence[str] = tuple(FILLS),
    tick: Tick = lambda _: None,
) -> Bank:
    """Run the network once for each set and fill, on all images at once.

    Args:
        subject: The network and its images.
        question: What is asked.
        blocks: The blocks.
        sets: Which blocks are in each set.
        before: The logits of the images as they are.
        fills: What blocks are replaced by.
        tick: Called after each run, with the number of images.
    """
    images = subject.images
    scores = _scores(question, before)
    drops = {}
    for fill in fills:
        filled = FILLS[fill](images)
        rows = []
        for chosen in sets:
            mask = blocks.mask(chosen).to(images.device)
            perturbed = subject.with_images(torch.where(mask, filled, images))
            rows.append(scores - _scores(question, perturbed.logits(question.target)))
            tick(len(images))
        drops[fill] = np.stack(rows)
    return Bank(blocks, sets, drops)


def _scores(question: Question, logits: Tensor) -> Float[np.ndarray, "targets batch"]:
    """Return the scores of each target."""
    return np.stack([score(logits) for score in question.scores])
