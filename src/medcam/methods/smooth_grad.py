"""SmoothGrad, of any method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.errors import InputError
from medcam.methods.changes import at_least_float32, portions, positive_count


def smooth_grad(
    inputs: Float[Tensor, "1 channels *space"],
    map_at: Callable[..., Tensor],
    noise: float = 0.15,
    samples: int = 16,
    seed: int = 0,
    batch: int | None = None,
) -> Float[Tensor, "targets ..."]:
    """Return SmoothGrad: a method's map averaged over noisy images, ``mean_n M(x + ε_n)``.

    Smilkov et al., arXiv 1706.03825, with ε ~ N(0, σ²) and ``σ = noise · (max x - min x)``. The
    range is that of each channel, since MRI sequences have unlike ones; the paper's images have
    one. The paper smooths ∂y/∂x, here it is any method. The layer is that of the image itself.

    Args:
        inputs: The image x.
        map_at: Function of images that returns the method's maps ``[images, targets, ...]``.
        noise: The standard deviation of the noise, as a share of each channel's range; the paper
            recommends 0.1 to 0.2.
        samples: The number of noisy images.
        seed: The seed of the noise, which is the same for every sample of a batch; the user's
            random numbers stay as they are.
        batch: The number of images that run at a time; None: by their size.

    Raises:
        InputError: An option is not accepted.
    """
    if not 0 <= noise < float("inf"):
        raise InputError(f"noise={noise!r}: give a share of the image's range, such as 0.15.")
    count = positive_count(samples, "samples")
    image = at_least_float32(inputs)
    ranges = image.flatten(2).amax(2) - image.flatten(2).amin(2)
    sigma = noise * ranges.reshape(*ranges.shape, *[1] * (inputs.ndim - 2))
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), device=inputs.device)
    for portion in portions(count, inputs, batch, map_at):
        draws = [
            torch.randn(inputs.shape[1:], generator=generator, dtype=torch.float32)
            for _ in range(portion.start, portion.stop)
        ]
        noisy = image + sigma * torch.stack(draws).to(image)
        total = total + map_at(noisy.to(inputs)).sum(0)
    return total / count
