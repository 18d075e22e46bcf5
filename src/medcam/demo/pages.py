"""The demo's pages: one report per image, and the index that links to all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcam.demo.assets import load_head
from medcam.demo.index import Link, Section, write_demo_index
from medcam.demo.results import HOW_TO_READ, METRICS, MethodResult, group_by_task, layer_names
from medcam.files.record.contents import provenance
from medcam.views.report import index_entry, write_report
from medcam.views.scene.values import Scene, SceneMap

_LISTED_FILES = (".png", ".nii.gz", ".xlsx")


@dataclass(frozen=True)
class WrittenPages:
    """The files that `write_pages` wrote.

    Attributes:
        index: The index.
        pages: The page of each image.
    """

    index: Path
    pages: Sequence[Path]


def write_pages(results: Sequence[MethodResult], output: Path) -> WrittenPages:
    """Write a report of each image, and ``index.html`` with the figure, the scores and all files.

    Args:
        results: The results of `medcam.demo.results.run_tasks`, all methods of each task.
        output: The folder of these results, which already holds ``gallery.png``.

    Returns:
        The paths of the index and the reports.

    Raises:
        SaveError: A page could not be written.
    """
    sections, pages = [], []
    for group in group_by_task(results):
        task, links = group[0].task, []
        record = _record(group, output)
        for sample, name in enumerate(task.samples):
            scene = _scene(group, sample, record)
            page = output / task.name / f"{name.replace(' ', '_')}.html"
            pages.append(write_report(page, scene))
            entry = index_entry(scene, page.relative_to(output).as_posix())
            links.append(Link(name, entry.report or "", entry.picture))
        sections.append(
            Section(
                f"{task.title}: {task.question[0].lower()}{task.question[1:]}",
                f"Explained and scored: {task.explained}. Layer: {layer_names(group)}.",
                [_mean_scores(result) for result in group],
                links,
                _file_links(output, task.name),
            )
        )
    top = [Link(name, name) for name in ("gallery.png", "scores.xlsx") if (output / name).is_file()]
    gallery = output / "gallery.png"
    index = write_demo_index(output / "index.html", gallery, sections, HOW_TO_READ, top)
    return WrittenPages(index, pages)


def _scene(group: Sequence[MethodResult], sample: int, record: dict[str, Any]) -> Scene:
    task = group[0].task
    if task.raw_input is None:
        head = load_head()
        image, affine, modality = head.volume, head.affine, "MR"
    else:
        image, affine, modality = task.raw_input[sample, 0].numpy(), None, None
    maps = [
        SceneMap(
            result.maps[sample, 0],
            result.title,
            layer=result.layer,
            target=result.target,
            signed=result.signed,
            units=f"raw {result.title} units",
        )
        # the page opens with the first map: a positive one, Grad-CAM
        for result in sorted(group, key=lambda result: result.signed)
    ]
    scores = [
        {
            "Method": result.title,
            **{METRICS[metric]: float(values[sample]) for metric, values in result.scores.items()},
            "By chance": float(result.chance[sample]),
        }
        for result in group
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


def _record(group: Sequence[MethodResult], output: Path) -> dict[str, Any]:
    """Return the provenance of a task's maps."""
    task = group[0].task
    record = provenance(model=task.load(), inputs=task.inputs.numpy(), maps=(), folder=output)
    general = {name: record[name] for name in ("created", "versions", "model", "inputs")}
    maps = {
        result.title: f"layer {result.layer}" if result.layer else "the input" for result in group
    }
    return {**general, "target": task.explained, "maps of": maps, "task": task.question}


def _mean_scores(result: MethodResult) -> dict[str, Any]:
    """Return a row of the index's table: the mean scores of a method."""
    means = result.means
    return {
        "Method": result.title,
        "Layer": result.layer or "(input)",
        **{title: means[metric] for metric, title in METRICS.items()},
        "By chance": means["chance"],
    }


def _file_links(output: Path, task_name: str) -> list[Link]:
    """Return links to the maps and tables of a task, sorted by path."""
    folder = output / task_name
    paths = sorted(
        path for path in folder.rglob("*") if path.name.endswith(_LISTED_FILES) and path.is_file()
    )
    return [
        Link(path.relative_to(folder).as_posix(), path.relative_to(output).as_posix())
        for path in paths
    ]
