"""Integrated Gradients and Expected Gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medcam.errors import InputError
from medcam.methods.changes import (
    Reference,
    at_least_float32,
    per_image,
    portions,
    positive_count,
    reference_of,
)


def integrated_gradients(
    inputs: Float[Tensor, "1 channels *space"],
    input_gradient_at: Callable[..., Tensor],
    baseline: Reference = "zero",
    steps: int = 32,
    batch: int | None = None,
) -> Float[Tensor, "targets channels *space"]:
    """Return Integrated Gradients, ``(x - x') ⊙ ∫₀¹ ∂y/∂x(x' + t (x - x')) dt``.

    Sundararajan et al., ICML 2017, arXiv 1703.01365, Eq. 1. The map sums to ``y(x) - y(x')``
    (completeness); medcam compares the two. The paper approximates the integral by a Riemann sum;
    here it is Gauss-Legendre quadrature, which needs fewer steps.

    Args:
        inputs: The image x.
        input_gradient_at: Function of images that returns the gradients of the scores.
        baseline: The image x' without evidence: "zero", the "mean" of each channel, "blur", a
            number, or a tensor that broadcasts to the image.
        steps: The number of points on the path.
        batch: The number of images that run at a time; None: by their size.

    Raises:
        InputError: An option is not accepted.
    """
    start = reference_of(inputs, baseline, "baseline")
    nodes, weights = np.polynomial.legendre.leggauss(positive_count(steps, "steps"))
    places = torch.from_numpy((nodes + 1) / 2).to(inputs.device)
    shares = torch.from_numpy(weights / 2).to(inputs.device)
    change = at_least_float32(inputs) - at_least_float32(start)
    total = torch.zeros_like(change)
    for portion in portions(len(places), inputs, batch, input_gradient_at):
        images = at_least_float32(start) + per_image(places[portion].to(change), change) * change
        gradients = input_gradient_at(images.to(inputs))
        total = total + torch.einsum("n,n...->...", shares[portion].to(gradients), gradients)
    return total * change


def change_of_score(
    inputs: Float[Tensor, "1 channels *space"],
    score_of: Callable[..., Tensor],
    baseline: Reference = "zero",
) -> Float[Tensor, " targets"]:
    """Return ``y(x) - y(x')``, which Integrated Gradients sum to."""
    start = reference_of(inputs, baseline, "baseline")
    return (score_of(inputs) - score_of(start))[0]


def expected_gradients(
    inputs: Float[Tensor, "1 channels *space"],
    input_gradient_at: Callable[..., Tensor],
    references: Tensor | None = None,
    samples: int = 64,
    seed: int = 0,
    batch: int | None = None,
) -> Float[Tensor, "targets channels *space"]:
    """Return Expected Gradients, ``E_{x', t} [(x - x') ⊙ ∂y/∂x(x' + t (x - x'))]``.

    Erion et al., Nature Machine Intelligence 3 (2021), arXiv 1906.10670, Eq. 3: Integrated
    Gradients averaged over baselines x' from a data set, here images of other patients. The map
    sums to ``y(x) - mean y(x')`` up to the error of sampling. The paper draws x' and t anew each
    time; here every reference has the same number of draws, and the t of a reference lie in equal
    parts of the path, one in each.

    Args:
        inputs: The image x.
        input_gradient_at: Function of images that returns the gradients of the scores.
        references: The baselines, ``[references, channels, *space]``.
        samples: The number of draws, rounded up to a multiple of the references.
        seed: The seed of the draws; the user's random numbers stay as they are.
        batch: The number of images that run at a time; None: by their size.

    Raises:
        InputError: There are no references, or an option is not accepted.
    """
    known = checked_references(references, inputs)
    draws = -(-positive_count(samples, "samples") // len(known))
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.rand(draws * len(known), generator=generator, dtype=torch.float64)
    strata = torch.arange(draws, dtype=torch.float64).repeat_interleave(len(known))
    places = ((strata + offsets) / draws).to(inputs.device)
    numbers = torch.arange(len(known), device=inputs.device).repeat(draws)
    image, total = at_least_float32(inputs), torch.zeros_like(at_least_float32(inputs))
    for portion in portions(len(places), inputs, batch, input_gradient_at):
        starts = at_least_float32(known.to(inputs.device)[numbers[portion]].to(inputs))
        changes = image - starts
        images = starts + per_image(places[portion].to(changes), changes) * changes
        gradients = input_gradient_at(images.to(inputs))
        total = total + (gradients * changes[:, None]).sum(0)
    return total / len(places)


def change_from_references(
    inputs: Float[Tensor, "1 channels *space"],
    score_of: Callable[..., Tensor],
    references: Tensor | None = None,
    batch: int | None = None,
) -> Float[Tensor, " targets"]:
    """Return ``y(x) - mean y(x')``, which Expected Gradients sum to."""
    known = checked_references(references, inputs)
    scores = [score_of(known[portion]) for portion in portions(len(known), inputs, batch, score_of)]
    return score_of(inputs)[0] - torch.cat(scores).mean(0)


def checked_references(references: Tensor | None, inputs: Tensor) -> Tensor:
    """Return the references of Expected Gradients.

    Raises:
        InputError: They are missing, or have other channels or another size than the image.
    """
    if isinstance(references, Tensor) and references.shape[1:] == inputs.shape[1:]:
        if len(references) and references.is_floating_point():
            return references.detach()
        raise InputError("references= has to hold at least one image of floating-point numbers.")
    shape = f"[references, {', '.join(map(str, inputs.shape[1:]))}]"
    known = "nothing" if references is None else "another shape or type"
    raise InputError(
        f"Expected Gradients need images of other patients, but were given {known}: "
        f"method=medcam.methods.expgrad(references), a tensor {shape} prepared as the image is."
    )
