"""The maps of an explanation, ready for a report."""

from __future__ import annotations

from collections.abc import Sequence

from medcam import methods
from medcam.attention import AttentionMap, Explanation, resize
from medcam.views.report.values import ReportMap


def report_maps(
    explanation: Explanation, *, sample: int = 0, shape: Sequence[int] | None = None
) -> list[ReportMap]:
    """Gives the maps of one sample, one for each method, layer and target.

    Args:
        explanation: What `medcam.explain` gave.
        sample: Its place in the batch.
        shape: The extents of the image that the report shows, to which maps of another size are
            resized linearly. None: they stay as they are.

    Example:
        >>> import torch, medcam
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.AdaptiveAvgPool2d(1),
        ...                           torch.nn.Flatten())
        >>> explanation = medcam.explain(net, torch.ones(1, 1, 8, 8), target=1)
        >>> [(shown.method, shown.layer, shown.target) for shown in report_maps(explanation)]
        [('Grad-CAM', '0', 'class 1')]
    """
    shown = []
    for one in explanation.maps.values():
        title = methods.METHODS[one.method].title if one.method in methods.METHODS else one.method
        values = one.values[sample : sample + 1].float()
        if shape is not None:
            values = resize(values, shape)
        shown += [
            ReportMap(
                values[0, target].cpu().numpy(),
                title,
                layer=one.layer,
                target=_label(one, sample, target),
                signed=one.signed,
                units=f"raw {title} units",
            )
            for target in range(values.shape[1])
        ]
    return shown


def _label(one: AttentionMap, sample: int, target: int) -> str:
    """What a map is of, in words: with the class, where it is one."""
    words = one.target.description
    if one.target.classes is None:
        return words if one.values.shape[1] == 1 else f"{words}, {target + 1}"
    named = f"class {int(one.target.classes[sample, target])}"
    return named if one.values.shape[1] > 1 or named in words else f"{words}: {named}"
