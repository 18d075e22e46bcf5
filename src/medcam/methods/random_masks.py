"""RISE: the score under random masks, averaged where they let the image through."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.errors import InputError
from medcam.maps import resample
from medcam.methods.changes import (
    Reference,
    at_least_float32,
    portions,
    positive_count,
    reference_of,
)


def rise_map(
    inputs: Float[Tensor, "1 channels *space"],
    score_of: Callable[..., Tensor],
    masks: int = 512,
    cells: int = 8,
    keep: float = 0.5,
    fill: Reference = "zero",
    seed: int = 0,
    batch: int | None = None,
) -> Float[Tensor, "targets 1 *space"]:
    """Return RISE, ``(1 / (N p)) Σ_i (y_i - ȳ) M_i`` with ``y_i = y(x ⊙ M_i)``.

    Petsiuk et al., BMVC 2018, arXiv 1806.07421, Eq. 6; masks by their section 3.2: random cells
    that are kept with probability p, interpolated linearly, and cropped at a random place. The
    paper explains probabilities, here it is a logit, whose constant part would cover the map in
    the noise of the masks: so the mean score ȳ is subtracted, and the map is signed.

    Args:
        inputs: The image x.
        score_of: Function of images that returns their scores.
        masks: The number of masks N.
        cells: The number of cells along each axis.
        keep: The probability p that a cell is kept.
        fill: What shows where the image does not: "zero", the "mean" of each channel, "blur", a
            number, or a tensor that broadcasts to the image.
        seed: The seed of the masks, which are the same for every sample of a batch; the user's
            random numbers stay as they are.
        batch: The number of images that run at a time; None: by their size.

    Raises:
        InputError: An option is not accepted.
    """
    if not 0 < keep < 1:
        raise InputError(f"keep={keep!r}: give a probability above 0 and below 1.")
    count, space = positive_count(masks, "masks"), tuple(inputs.shape[2:])
    sides = [min(positive_count(cells, "cells"), extent) for extent in space]
    generator = torch.Generator().manual_seed(seed)
    image = at_least_float32(inputs)
    filled = at_least_float32(reference_of(inputs, fill, "fill"))
    score = score_of(inputs)[0]
    weighted = torch.zeros(len(score), *space, dtype=score.dtype, device=score.device)
    total, sums = torch.zeros(space, dtype=score.dtype, device=score.device), score * 0
    for portion in portions(count, inputs, batch, score_of):
        drawn = [
            random_mask(space, sides, keep, generator) for _ in range(portion.start, portion.stop)
        ]
        shown = torch.stack(drawn).to(image)
        images = shown[:, None] * image + (1 - shown[:, None]) * filled
        scores = score_of(images.to(inputs)) - score
        weighted = weighted + torch.einsum("nt,n...->t...", scores, shown.to(scores))
        total, sums = total + shown.to(total).sum(0), sums + scores.sum(0)
    mean = (sums / count).reshape(-1, *[1] * len(space))
    return ((weighted - mean * total) / (count * keep))[:, None]


def random_mask(
    space: tuple[int, ...], cells: list[int], keep: float, generator: torch.Generator
) -> Float[Tensor, "*space"]:
    """Return a smooth random mask with values from 0 to 1.

    Args:
        space: The extents of the image.
        cells: The number of cells along each axis.
        keep: The probability that a cell is 1.
        generator: The source of random numbers.
    """
    grid = (torch.rand(cells, generator=generator) < keep).float()
    steps = [-(-extent // side) for extent, side in zip(space, cells, strict=True)]
    whole = [(side + 1) * step for side, step in zip(cells, steps, strict=True)]
    mask = resample(grid[None, None], whole)[0, 0]
    for axis, (extent, step) in enumerate(zip(space, steps, strict=True)):
        start = int(torch.randint(step + 1, (), generator=generator))
        mask = mask.narrow(axis, min(start, mask.shape[axis] - extent), extent)
    return mask
