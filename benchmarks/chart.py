"""Chart of time and saved bytes: one row per network, one colour per library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLORS = {
    "medcam": "#c62828",
    "medcam, all CAMs": "#ef9a9a",
    "floor": "#000000",
    "captum": "#1565c0",
    "torchcam": "#00838f",
    "pytorch-grad-cam": "#ef6c00",
    "MONAI": "#6a1b9a",
}


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw the chart and save it as PNG.

    Args:
        rows: The cells of each network by library; None if a library failed.
        path: The PNG file.
    """
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.55 * len(rows) + 1.9), sharey=True)
    heights = {row: len(rows) - index for index, row in enumerate(rows)}
    for library, color in COLORS.items():
        cells = [(heights[row], cells[library]) for row, cells in rows.items() if cells[library]]
        style = {"color": color, "marker": "|" if library == "floor" else "o",
                 "s": 220 if library == "floor" else 46, "label": library,
                 "zorder": 4 if library == "medcam" else 3}  # fmt: skip
        left.scatter([cell["ratio"] for _, cell in cells], [y for y, _ in cells], **style)
        right.scatter([cell["saved"] / 1e6 for _, cell in cells], [y for y, _ in cells], **style)
    left.axvline(1, color="#999999", linewidth=0.8, zorder=1)
    left.set_xlabel("time of one call, in plain forward passes")
    left.set_xlim(left=0.8)
    right.set_xlabel("MB kept for the backward pass (logarithmic)")
    right.set_xscale("log")
    left.set_yticks(list(heights.values()), list(heights))
    left.set_ylim(0.4, len(rows) + 0.6)
    for axes in (left, right):
        axes.grid(axis="both", color="#e5e5e5", linewidth=0.7, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.92))
    figure.savefig(path, dpi=130)
    plt.close(figure)
