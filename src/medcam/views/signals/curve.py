"""Values of a curve: what is drawn of a long signal, and the colours of attention on white."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from medcam.views.colors import OPACITY_EXPONENT, SIGNED

INK = "#3d4653"  # a curve without attention
POSITIVE = "YlOrRd"  # from yellow over orange to dark red: legible on white, unlike inferno
_PALEST = 0.25  # the colormap is used from here on; its first colours vanish on white
_MOST_POINTS = 6000  # more samples than this are drawn as the lowest and highest of each bin


def thinned(
    values: Float[np.ndarray, " time"], attention: Float[np.ndarray, " time"]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the indices of the samples to draw, and the attention at each.

    A long signal is cut into bins narrower than a pixel. The lowest and the highest sample of each
    bin are drawn, so that no peak is lost, with the strongest attention of the bin.

    Args:
        values: The signal.
        attention: The map.

    Example:
        >>> signal = np.zeros(60_000)
        >>> signal[777] = 1.0
        >>> indices, _ = thinned(signal, signal)
        >>> len(indices) <= 6000, 777 in indices
        (True, True)
    """
    count = len(values)
    if count <= _MOST_POINTS:
        return np.arange(count), attention.astype(np.float64)
    edges = np.linspace(0, count, _MOST_POINTS // 2 + 1).astype(int)
    indices, strongest = [], []
    for start, end in pairwise(edges.tolist()):
        part = values[start:end]
        pair = sorted({start + int(part.argmin()), start + int(part.argmax())})
        inside = attention[start:end]
        indices += pair
        strongest += [inside[np.abs(inside).argmax()]] * len(pair)
    return np.array(indices), np.array(strongest, np.float64)


def colours_of(
    scaled: Float[np.ndarray, " any"], *, signed: bool, colormap: str | None
) -> NDArray[np.float64]:
    """Return the colours of scaled attention on white, ``[any, 3]``.

    Args:
        scaled: The map divided by the value of its strongest colour, within [-1, 1].
        signed: Whether the colours are symmetric about 0.
        colormap: The name of a matplotlib colormap. None: the default for the map's sign.
    """
    from matplotlib import colormaps

    if signed:
        places = scaled / 2 + 0.5
    else:
        places = scaled if colormap else _PALEST + (1 - _PALEST) * scaled
    colours: NDArray[np.float64] = colormaps[colormap or (SIGNED if signed else POSITIVE)](places)
    return colours[:, :3]


def strength_of(scaled: Float[np.ndarray, " any"], threshold: float) -> NDArray[np.float64]:
    """Return how strongly attention is drawn, in [0, 1]; 0 below the threshold."""
    share = np.abs(scaled)
    return np.where(share < threshold, 0.0, share**OPACITY_EXPONENT)


def blended(colours: NDArray[np.float64], strength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the colours of a line: ink where there is no attention."""
    from matplotlib.colors import to_rgb

    alpha = strength[:, None]
    mixed: NDArray[np.float64] = (1 - alpha) * np.asarray(to_rgb(INK)) + alpha * colours
    return mixed
