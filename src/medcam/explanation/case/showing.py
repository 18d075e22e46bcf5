"""Show an explanation: a report in the browser, in a temporary folder."""

from __future__ import annotations

import tempfile
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medcam.errors import InputError, warn
from medcam.explanation.case.saving import seen_by_model
from medcam.explanation.case.writing import ScoreRows, record_for_page, record_of
from medcam.maps import AttentionMap
from medcam.views.report import write_report
from medcam.views.scene.scene import scene_of


def show_maps(
    maps: Sequence[AttentionMap],
    image: object = None,
    *,
    inputs: Tensor | None,
    details: Mapping[str, Any],
    model: nn.Module | None,
    model_kind: str | None,
    browser: bool = True,
    mask: object = None,
    segmentation: object = None,
    scores: ScoreRows = (),
    name: str = "Explanation",
    sample: int = 0,
) -> Path:
    """Open a report of one sample in the browser.

    Args:
        maps: The maps.
        image: As all others below, see `medcam.Explanation.show`.
        inputs: The input that was explained; None: it is not known.
        details: How the maps were made, for the provenance.
        model: The model; None: it no longer exists.
        model_kind: Its class.
        browser: See there.
        mask: See there.
        segmentation: See there.
        scores: See there.
        name: See there.
        sample: See there.

    Returns:
        The page, in a temporary folder of its own, which the system clears.

    Raises:
        InputError: Something given does not fit.
    """
    scene, under = scene_of(
        maps, image, inputs=inputs, mask=mask, segmentation=segmentation, sample=sample, name=name,
        scores=list(scores),
    )  # fmt: skip
    if under is None:
        raise InputError(
            "This explanation does not hold its input (an injected model keeps none): give "
            "the image that the maps are laid over, show(image)."
        )
    record = record_of(
        model, kind=model_kind, maps=maps, folder=Path.cwd(), affine=under.affine,
        inputs=seen_by_model(inputs, None if image is None else under, sample),
        windows=details or None,
    )  # fmt: skip
    record["maps"] = [entry for entry in record["maps"] if entry["sample"] == sample]
    folder = Path(tempfile.mkdtemp(prefix="medcam-"))
    page = write_report(folder / "report.html", replace(scene, provenance=record_for_page(record)))
    if browser and not webbrowser.open(page.as_uri()):
        warn(f"No browser could be opened; the report is '{page}'.")
    return page
