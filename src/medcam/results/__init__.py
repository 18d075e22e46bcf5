"""What an explanation leaves on disk: raw maps, a montage, a report, and a record, the last.

``medcam report FOLDER`` makes the pages anew from these files, wherever the folder is moved to.
"""

from __future__ import annotations

import os
import tempfile
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from medcam.attention import Explanation
from medcam.errors import InputError, warn
from medcam.files import Image
from medcam.results.case import Mask, Scores, ending_of, record_of, save_case, told
from medcam.results.names import after, as_prefix
from medcam.views.images import image_of, labels_of, mask_of
from medcam.views.inline import inline_html
from medcam.views.montage import case_of
from medcam.views.report import write_report
from medcam.views.selection import on_grid

__all__ = [
    "as_prefix",
    "ending_of",
    "inline_html",
    "save_case",
    "save_explanation",
    "show_explanation",
]


def save_explanation(
    explanation: Explanation,
    prefix: str | os.PathLike[str],
    *,
    image: object = None,
    model: nn.Module | None = None,
    mask: object = None,
    segmentation: object = None,
    scores: Scores = (),
    name: str | None = None,
    montage: bool = True,
    report: bool = True,
    extra: Mapping[str, object] | None = None,
) -> list[Path]:
    """Writes an explanation's maps, a montage, a report and the record of how they were made.

    Volumes, for ``prefix="out/case"``: ``out/case_gcam.nii.gz`` (float32, raw units),
    ``out/case_montage.png``, ``out/case.html`` and ``out/case.json``. Pictures:
    ``out/case_gcam.tif`` (float32, raw units), ``out/case_gcam.png`` (over the image) and the same
    three. Names go on with ``_LAYER`` for several layers and ``_classK`` for several targets. Of
    several samples each is a case of its own, ``out/case_0_...``. An image, mask or
    segmentation that is no file yet is saved beside the maps.

    Maps of another size than the image are resized to it linearly where they are known to cover it
    (as those of ``shape=None`` do the input).

    Args:
        explanation: The explanation.
        prefix: Where to, without an ending; folders are made, and the last part is made one that
            every file system takes.
        image: What the maps are laid over, and whose geometry they take, see `medcam.montage`; of
            several samples a batch, or a list. None: the input that was explained. Without an
            affine NIfTI files get the identity, with one warning per process.
        model: The model, for the record. None: the one that was explained, if it still exists.
        mask: A region, 0/1, drawn as a line; a path, or as `image`.
        segmentation: What the model predicted, labels, drawn as a line of another colour; as
            `mask`.
        scores: The rows of a table, one mapping a row; of several samples, a row with a "sample"
            is of that one.
        name: The title; None: the last part of ``prefix``.
        montage: Whether to write the montage.
        report: Whether to write the report.
        extra: What else the record says; a "modality" such as "CT" names the units of the image.

    Returns:
        The files, the record last.

    Raises:
        InputError: Something given does not fit; the message says what is allowed.
        SaveError: A file could not be written. There is no record then, not even an earlier one.

    Example:
        >>> import torch, medcam
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> explanation = medcam.explain(net, torch.rand(1, 1, 8, 8), target=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in save_explanation(explanation, f"{folder}/a", montage=False)]
        ['a_gcam.tif', 'a_gcam.png', 'a_image.tif', 'a.html', 'a.json']
    """
    title = name or Path(prefix).name
    prefix = as_prefix(prefix)
    maps = list(explanation.maps.values())
    batch, axes = len(maps[0].values), maps[0].values.ndim - 2
    given = explanation.inputs if image is None else image
    if given is None:
        raise InputError(
            "This explanation does not hold its input (an injected model keeps none): give "
            "the image that the maps are laid over, save(prefix, image=...)."
        )
    if batch > 1 and isinstance(given, str | os.PathLike | Image):
        raise InputError(f"There are {batch} samples: give a list of {batch} images, or a batch.")
    places = [prefix] if batch == 1 else [after(prefix, f"_{n}") for n in range(batch)]
    files: list[Path] = []
    for sample, place in enumerate(places):
        under = image_of(given, axes, sample=sample, batch=batch)
        files += save_case(
            place,
            on_grid(maps, under.space, sample=sample, covers=_space(explanation)),
            under,
            model=model or explanation.model,
            kind=explanation._model.kind,
            inputs=_inputs(explanation, None if image is None else under, sample),
            mask=_of_sample(mask, axes, sample, batch, mask_of),
            segmentation=_of_sample(segmentation, axes, sample, batch, labels_of),
            scores=[row for row in scores if row.get("sample", sample) == sample],
            name=title if batch == 1 else f"{title}, sample {sample}",
            montage=montage,
            report=report,
            sample=sample,
            record={"windows": explanation.details or None},
            extra=extra,
        )
    return files


def show_explanation(
    explanation: Explanation,
    image: object = None,
    *,
    browser: bool = True,
    mask: object = None,
    segmentation: object = None,
    scores: Scores = (),
    name: str = "Explanation",
    sample: int = 0,
) -> Path:
    """Opens a report of one sample in the browser; see `medcam.Explanation.show`.

    Returns:
        The page, in a temporary folder of its own, which the system clears.

    Raises:
        InputError: Something given does not fit.

    Example:
        >>> import torch, medcam
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> explanation = medcam.explain(net, torch.rand(1, 1, 8, 8), target=1)
        >>> show_explanation(explanation, browser=False).name
        'report.html'
    """
    case, under = case_of(
        explanation, image, mask=mask, segmentation=segmentation, sample=sample, name=name,
        scores=list(scores),
    )  # fmt: skip
    if under is None:
        raise InputError(
            "This explanation does not hold its input (an injected model keeps none): give "
            "the image that the maps are laid over, show(image)."
        )
    record = record_of(
        explanation.model, kind=explanation._model.kind, maps=explanation, folder=Path.cwd(),
        affine=under.affine, inputs=_inputs(explanation, None if image is None else under, sample),
        windows=explanation.details or None,
    )  # fmt: skip
    record["maps"] = [entry for entry in record["maps"] if entry["sample"] == sample]
    folder = Path(tempfile.mkdtemp(prefix="medcam-"))
    page = write_report(folder / "report.html", replace(case, provenance=told(record)))
    if browser and not webbrowser.open(page.as_uri()):
        warn(f"No browser could be opened; the report is '{page}'.")
    return page


def _space(explanation: Explanation) -> tuple[int, ...] | None:
    return None if explanation.inputs is None else tuple(explanation.inputs.shape[2:])


def _inputs(explanation: Explanation, image: Image | None, sample: int) -> list[object]:
    """What the model was given, as far as it is known, and the image that stands for it."""
    seen = explanation.inputs
    return [
        *([] if seen is None else [seen[sample : sample + 1]]),
        *([] if image is None else [image]),
    ]


def _of_sample(
    given: object, axes: int, sample: int, batch: int, read: Callable[..., NDArray[Any]]
) -> Mask:
    if isinstance(given, list | tuple) and len(given) == batch and batch > 1:
        given, batch = given[sample], 1
    if given is None or isinstance(given, str | os.PathLike):
        return given
    return read(given, axes, sample=sample, batch=batch)
