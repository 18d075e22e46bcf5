"""Show an explanation: write a report to a temporary folder and open it in the browser."""

from __future__ import annotations

import tempfile
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medcam.errors import warn
from medcam.explanation.case.record import build_record, record_for_page, split_details
from medcam.explanation.case.saving import recorded_inputs, unknown_input
from medcam.explanation.case.writing import TableRows
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
    scores: TableRows = (),
    name: str = "Explanation",
    sample: int = 0,
    sampling_rate: float | None = None,
) -> Path:
    """Open the report of `medcam.Explanation.show` in the browser.

    Args:
        maps: The maps of a batch.
        image: As in `medcam.Explanation.show`, like all arguments that are not described here.
        inputs: The input that was explained; None if it is unknown.
        details: The explanation's details, for the record.
        model: The model; None if it no longer exists.
        model_kind: The model's class.
        browser: See `medcam.Explanation.show`.
        mask: See `medcam.Explanation.show`.
        segmentation: See `medcam.Explanation.show`.
        scores: See `medcam.Explanation.show`.
        name: See `medcam.Explanation.show`.
        sample: See `medcam.Explanation.show`.
        sampling_rate: See `medcam.Explanation.show`.

    Returns:
        The path of the page, in a new temporary folder, which the operating system clears.

    Raises:
        InputError: An argument does not fit.
    """
    scene, background = scene_of(
        maps, image, inputs=inputs, mask=mask, segmentation=segmentation, sample=sample, name=name,
        scores=list(scores), sampling_rate=sampling_rate,
    )  # fmt: skip
    if background is None:
        raise unknown_input("show(image)")
    windows, explained = split_details(details)
    record = build_record(
        model, model_kind=model_kind, maps=maps, folder=Path.cwd(), affine=background.affine,
        inputs=recorded_inputs(inputs, None if image is None else background, sample),
        windows=windows or None, extra={"explained": explained} if explained else None,
    )  # fmt: skip
    record["maps"] = [entry for entry in record["maps"] if entry["sample"] == sample]
    folder = Path(tempfile.mkdtemp(prefix="medcam-"))
    page = write_report(folder / "report.html", replace(scene, provenance=record_for_page(record)))
    if browser and not webbrowser.open(page.as_uri()):
        warn(f"No browser could be opened; the report is '{page}'.")
    return page
