"""The pages: each image with its four maps to look through, and the index that leads to all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcam.demo.assets import load_head
from medcam.demo.index import Link, Section, write_demo_index
from medcam.demo.picture import by_task, layers
from medcam.demo.run import METRICS, READING, Result
from medcam.files.record.contents import provenance
from medcam.views.report import index_entry, write_report
from medcam.views.scene.values import Scene, SceneMap

_MAPS = (".png", ".nii.gz")


@dataclass(frozen=True)
class Written:
    """What `write_pages` wrote.

    Attributes:
        index: The page to open.
        pages: The page of each image.
    """

    index: Path
    pages: Sequence[Path]


def write_pages(results: Sequence[Result], output: Path) -> Written:
    """Writes a page for each image, and ``index.html`` with the figure, the scores and all files.

    Args:
        results: Of `medcam.demo.run.run`, all methods of each task.
        output: The folder that they were run into, with ``gallery.png``.

    Raises:
        SaveError: A page could not be written.
    """
    sections, pages = [], []
    for group in by_task(results):
        task, links = group[0].task, []
        record = _record(group, output)
        for sample, name in enumerate(task.samples):
            case = _case(group, sample, record)
            page = output / task.name / f"{name.replace(' ', '_')}.html"
            pages.append(write_report(page, case))
            entry = index_entry(case, page.relative_to(output).as_posix())
            links.append(Link(name, entry.report or "", entry.picture))
        sections.append(
            Section(
                f"{task.title}: {task.question[0].lower()}{task.question[1:]}",
                f"Explained and scored: {task.explained}. Layer: {layers(group)}.",
                [_means(one) for one in group],
                links,
                _files(output, task.name),
            )
        )
    top = [Link(name, name) for name in ("gallery.png", "scores.xlsx") if (output / name).is_file()]
    index = write_demo_index(output / "index.html", output / "gallery.png", sections, READING, top)
    return Written(index, pages)


def _case(group: Sequence[Result], sample: int, record: dict[str, Any]) -> Scene:
    task = group[0].task
    if task.raw_input is None:
        head = load_head()
        image, affine, modality = head.volume, head.affine, "MR"
    else:
        image, affine, modality = task.raw_input[sample, 0].numpy(), None, None
    maps = [
        SceneMap(
            one.maps[sample, 0],
            one.title,
            layer=one.layer,
            target=one.target,
            signed=one.signed,
            units=f"raw {one.title} units",
        )
        # Grad-CAM first, the method that the page opens with
        for one in sorted(group, key=lambda one: one.signed)
    ]
    scores = [
        {
            "Method": one.title,
            **{METRICS[metric]: float(values[sample]) for metric, values in one.scores.items()},
            "By chance": float(one.chance[sample]),
        }
        for one in group
    ]
    return Scene(
        f"{task.title}: {task.samples[sample]}",
        image,
        maps,
        affine=affine,
        mask=task.masks[sample, 0].numpy(),
        segmentation=None if group[0].predicted is None else group[0].predicted[sample],
        scores=scores,
        provenance=record,
        modality=modality,
    )


def _record(group: Sequence[Result], output: Path) -> dict[str, Any]:
    """How the maps of a task came about."""
    task = group[0].task
    whole = provenance(model=task.load(), inputs=task.inputs.numpy(), maps=(), folder=output)
    kept = {name: whole[name] for name in ("created", "versions", "model", "inputs")}
    maps = {one.title: f"layer {one.layer}" if one.layer else "the input" for one in group}
    return {**kept, "target": task.explained, "maps of": maps, "task": task.question}


def _means(one: Result) -> dict[str, Any]:
    means = one.means
    return {
        "Method": one.title,
        "Layer": one.layer or "(input)",
        **{title: means[metric] for metric, title in METRICS.items()},
        "By chance": means["chance"],
    }


def _files(output: Path, task: str) -> list[Link]:
    """The maps and tables of a task, as they lie in the folder."""
    found = sorted(
        path
        for path in (output / task).rglob("*")
        if path.name.endswith((*_MAPS, ".xlsx")) and path.is_file()
    )
    return [
        Link(path.relative_to(output / task).as_posix(), path.relative_to(output).as_posix())
        for path in found
    ]
