"""Makes the figures of docs/how-to/trust.md: ``python tools/trust_figures.py [TABLE ...]``.

Each seed draws its own images, sets of blocks, noise and permuted weights. Cells are the mean and
the standard deviation over the seeds. ``packaged``: the check on the packaged networks that the
thresholds were read off. ``heldout``: the check on networks that they were not read off, trained
by the tests. ``others``: criteria that tell right maps from fakes on neither network. ``cascade``:
weights replaced from the top. ``leak``: T2 with a structure as the target. ``completeness``: how
far HiResCAM is from adding up to the logit.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor, nn

import medcam
from medcam import demo
from medcam.trust import CheckedMap, TrustCheck
from medcam.trust.bank import fill_bank
from medcam.trust.blocks import blocks_for, mean_fill, random_sets, to_numpy
from medcam.trust.controls import image_controls
from medcam.trust.permuted import permuted_networks
from medcam.trust.question import Question, question_of
from medcam.trust.statistics import partial_correlation, rank_correlation
from medcam.trust.subject import WholeImages

TESTS = Path(__file__).parents[1] / "tests"
STEPS, MOST = 10, 0.5
LOCAL = ("hirescam", "layercam", "segxrescam")
ONE_WEIGHT = ("gcam", "gcampp", "xgradcam")
COMPARED = ("gcam", "hirescam", "layercam", "eigencam", "gbp", "saliency")


@dataclass(frozen=True)
class Case:
    """A network, a way to draw images, the layer of its maps, and the options of a check."""

    title: str
    model: nn.Module
    images: Callable[[int], Tensor]
    layer: str
    options: dict[str, Any]


def of_tests(name: str) -> Any:
    """Return a module of tests/trust: the fakes, and the networks that the tests train."""
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    return importlib.import_module(f"trust.{name}")


def drawn(images: Tensor, count: int) -> Callable[[int], Tensor]:
    """Return a function that draws images by seed."""
    return lambda seed: images[np.random.default_rng(seed).choice(len(images), count, False)]


def packaged() -> list[Case]:
    """Return the packaged networks."""
    slices = demo.load_lesion_slices()
    lesions = drawn(slices.images[slices.labels == 1], 6)
    classifier, segmenter = demo.load_lesion_classifier(), demo.load_nuclei_segmenter()
    nuclei = drawn(demo.load_nuclei().images, 3)
    return [
        Case("lesion, relu6", classifier, lesions, "relu6", {"target": 1}),
        Case("lesion, relu4", classifier, lesions, "relu4", {"target": 1}),
        Case("one nucleus, decoder2", segmenter, nuclei, "decoder2", {}),
        Case("all nuclei, decoder2", segmenter, nuclei, "decoder2", {"parts": "whole"}),
    ]


def held_out() -> Iterable[Case]:
    """Yield the networks that the tests train, with new images for each seed."""
    trained, tests = of_tests("_trained"), of_tests("test_held_out_networks")
    for name in tests.NAMES:
        start = time.perf_counter()
        model, unseen, layer, options = tests.case(name)
        rank, count, side = unseen.ndim - 2, len(unseen), unseen.shape[-1]

        def images(seed: int, rank: int = rank, count: int = count, side: int = side) -> Tensor:
            values: Tensor = trained.shapes(count, rank=rank, side=side, seed=100 + seed)[0]
            return values

        print(f"{name}: ready after {time.perf_counter() - start:.0f} s", file=sys.stderr)
        yield Case(f"{name}, {layer}", model, images, layer, options)


def checks(case: Case, seeds: int, **options: Any) -> list[TrustCheck]:
    """Return a check for each seed, with the fakes."""
    fakes = of_tests("_fakes").fakes(case.layer)
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        found.append(
            medcam.check(
                case.model, case.images(seed), layer=case.layer, maps=fakes, seed=seed,
                **case.options, **options,
            )
        )  # fmt: skip
    return found


def cell(values: Iterable[float]) -> str:
    """Return the mean and the standard deviation of values."""
    array = np.array(list(values), float)
    finite = array[np.isfinite(array)]
    return f"{finite.mean():.2f} ± {finite.std(ddof=1):.2f}" if len(finite) > 1 else "-"


def marked(text: str, items: Sequence[CheckedMap], criterion: str) -> str:
    """Return a text in bold if a map fails by the criterion with all seeds."""
    fails = all(item.verdicts[criterion].word == "fails" for item in items)
    return f"**{text}**" if fails else text


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print(f"\n### {title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()


def check_table(case: Case, found: Sequence[TrustCheck]) -> None:
    """Print the verdicts and values of all maps of a case."""
    head = ["map", "T0", "T2", "T3", "T4", "gain", "T5", "verdicts"]
    rows = []
    for number, item in enumerate(found[0].maps):
        items = [check.maps[number] for check in found]
        values = [
            marked(cell(item.verdicts[key].estimate.value for item in items), items, key)
            for key in ("T0", "T2", "T3")
        ]
        faithful = [item.verdicts["T4"] for item in items]
        rho = np.array([verdict.estimate.value for verdict in faithful])
        gains = [(verdict.gains or {})["best of the image"].value for verdict in faithful]
        noise = cell(np.nan if item.sensitivity is None else item.sensitivity for item in items)
        words = Counter(item.word for item in items)
        text = marked(f"{cell(rho)} [{rho.min():.2f}, {rho.max():.2f}]", items, "T4")
        rows.append([
            item.title, *values, text, cell(gains), noise,
            ", ".join(f"{word} {count}" for word, count in words.most_common()),
        ])  # fmt: skip
    table(f"{case.title}, {len(found)} seeds", head, rows)
    names = found[0].controls
    beside = ", ".join(f"{n} {cell(c.controls[n].value for c in found)}" for n in names)
    print(f"\nControls, T4: {beside}.")


def show_packaged(seeds: int) -> None:
    """Print the check of the packaged networks."""
    for case in packaged():
        check_table(case, checks(case, seeds, noises=4 if case.layer == "relu6" else 0))


def show_held_out(seeds: int) -> None:
    """Print the check of the networks that the thresholds were not read off."""
    for case in held_out():
        methods = (*LOCAL, *ONE_WEIGHT, "eigencam", "gbp", "saliency", "inputxgradient")
        check_table(case, checks(case, seeds, method=methods, noises=0))


@dataclass(frozen=True)
class Compared:
    """Maps of one set of images: of methods and of what knows the image only."""

    subject: WholeImages
    question: Question
    maps: dict[str, NDArray[Any]]


def compared(case: Case, seed: int) -> Compared:
    """Return the maps of methods and controls."""
    images = case.images(seed)
    subject = WholeImages(case.model, (images,), {}, {})
    target = case.options.get("target")
    question = question_of(subject.logits(target), target)
    maps = maps_of(case, subject, question.target)
    controls = image_controls(to_numpy(images), seed=seed)
    return Compared(subject, question, maps | {f"fake {k}": v for k, v in controls.items()})


def maps_of(case: Case, subject: WholeImages, target: Any) -> dict[str, NDArray[Any]]:
    """Return the maps of the methods that are compared."""
    methods = [medcam.methods.METHODS[name] for name in COMPARED]
    values = subject.maps(methods, [case.layer], target).values
    return {name: item for (name, _), item in values.items()}


def changed(
    of: Compared, values: NDArray[Any], *, inserted: bool = False, least: bool = False
) -> float:
    """Return the mean fall of the score, in logits, while pixels are replaced by the mean.

    Args:
        of: The network and its images.
        values: The map that orders the pixels.
        inserted: Whether pixels are put into the mean image instead; then by how much it rises.
        least: Whether the pixels with the smallest values come first.
    """
    images, score = of.subject.images, of.question.scores[0]
    flat = torch.from_numpy(values if least else -values).flatten(1)
    rank = flat.argsort(dim=1, stable=True).argsort(1).reshape(len(values), 1, *values.shape[1:])
    filled = mean_fill(images)

    def at(image: Tensor) -> NDArray[Any]:
        return np.asarray(score(of.subject.with_images(image).logits()))

    before = at(filled if inserted else images)
    changes = []
    for step in range(1, STEPS + 1):
        chosen = rank < MOST * step / STEPS * flat.shape[1]
        if inserted:
            changes.append(at(torch.where(chosen, images, filled)) - before)
        else:
            changes.append(before - at(torch.where(chosen, filled, images)))
    return float(np.mean(changes))


def similarity(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the structural similarity of maps scaled to [0, 1], over the images."""
    rows = []
    for a, b in zip(first, second, strict=True):
        scaled = [(v - v.min()) / (np.ptp(v) or 1.0) for v in (a, b)]
        value = structural_similarity(*scaled, data_range=1.0)  # type: ignore[no-untyped-call]
        rows.append(value)
    return float(np.mean(rows))


def show_others(seeds: int) -> None:
    """Print criteria from which no verdict follows."""
    cases = packaged()
    for case in (cases[0], cases[2]):
        columns: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for seed in range(seeds):
            of = compared(case, seed)
            images = of.subject.images
            blocks = blocks_for(tuple(images.shape[2:]))
            sets = random_sets(blocks, 96, seed=seed)
            drops = fill_bank(of.subject, of.question, blocks, sets, fills=["mean"]).drops["mean"]
            (network,) = permuted_networks(case.model, 1, seed=seed)
            of_permuted = maps_of(case, of.subject.with_model(network), of.question.anywhere)
            anywhere = maps_of(case, of.subject, of.question.anywhere)
            for name, values in of.maps.items():
                column = columns[name]
                column["deletion"].append(changed(of, values))
                column["insertion"].append(changed(of, values, inserted=True))
                column["most - least"].append(changed(of, values) - changed(of, values, least=True))
                plain, partial = [], []
                for image in range(len(images)):
                    sums = blocks.sums(values[image : image + 1]) @ sets.T
                    sizes = sets.sum(1).astype(float)
                    drop = drops[:, 0, image]
                    plain.append(partial_correlation(sums, drop, np.zeros_like(sizes))[0, 0])
                    partial.append(partial_correlation(sums, drop, sizes)[0, 0])
                column["sets of any size"].append(float(np.mean(plain)))
                column["size partialled out (T4)"].append(float(np.mean(partial)))
                if name in anywhere:
                    column["SSIM, permuted"].append(similarity(anywhere[name], of_permuted[name]))
                elif name != "fake random":
                    column["SSIM, permuted"].append(1.0)
        head = list(next(iter(columns.values())))
        rows = [
            [name, *(cell(column.get(h, [])) for h in head)] for name, column in columns.items()
        ]
        table(f"{case.title}, {seeds} seeds", ["map", *head], rows)


def show_cascade(seeds: int) -> None:
    """Print how alike maps stay if layers get new weights from the top, and all at once."""
    case = packaged()[0]
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    names = [name for name, module in case.model.named_modules() if hasattr(module, "weight")]
    for seed in range(seeds):
        torch.manual_seed(seed)
        subject = WholeImages(case.model, (case.images(seed),), {}, {})
        own, twin = maps_of(case, subject, 1), copy.deepcopy(case.model)
        for count, name in enumerate(reversed(names), start=1):
            twin.get_submodule(name).reset_parameters()  # type: ignore[operator]  # a convolution
            if count in (1, 2, len(names)):
                column = "all layers" if count == len(names) else f"from {name}"
                for method, maps in maps_of(case, subject.with_model(twin), 1).items():
                    found[method][column].append(float(rank_correlation(own[method], maps).mean()))
    for columns in found.values():
        more = np.mean(np.array(columns["all layers"]) > np.array(found["gcam"]["all layers"]))
        columns["more alike than gcam"] = [float(more)] * seeds
    head = list(next(iter(found.values())))
    rows = [[name, *(cell(column[h]) for h in head)] for name, column in found.items()]
    table(f"lesion network, new weights from the top, {seeds} seeds", ["map", *head], rows)


def show_leak(seeds: int) -> None:
    """Print how alike maps of networks with permuted weights are if the target has a place."""
    case = packaged()[2]
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(seeds):
        of = compared(case, seed)
        (network,) = permuted_networks(case.model, 1, seed=seed)
        targets = {"the nucleus": of.question.target, "the whole channel": of.question.anywhere}
        for title, target in targets.items():
            own = maps_of(case, of.subject, target)
            for method, maps in maps_of(case, of.subject.with_model(network), target).items():
                found[method][title].append(float(rank_correlation(own[method], maps).mean()))
    head = list(next(iter(found.values())))
    rows = [[name, *(cell(column[h]) for h in head)] for name, column in found.items()]
    table(f"T2 by target, one nucleus, {seeds} seeds", ["map", *head], rows)


def show_completeness(seeds: int) -> None:
    """Print how far HiResCAM's sum is from the logit without its bias."""
    case = packaged()[0]
    bias = dict(case.model.named_parameters())["classifier.bias"][1].item()
    found: dict[str, list[float]] = defaultdict(list)
    for seed in range(seeds):
        images = case.images(seed)
        for layer in ("relu6", "relu4", "relu2"):
            result = medcam.explain(
                case.model, images, method="hirescam", layer=layer, target=1, shape=None
            )
            logits = result.output[:, 1] - bias
            total = result.map.values.flatten(1).sum(1)
            found[layer].append(float(((total - logits).abs() / logits.abs()).mean()))
    rows = [[layer, f"{np.mean(v):.2g}", f"{np.std(v, ddof=1):.1g}"] for layer, v in found.items()]
    table(f"|sum - (y - b)| / |y - b|, {seeds} seeds", ["layer", "mean", "SD"], rows)


TABLES = {
    "packaged": show_packaged, "heldout": show_held_out, "others": show_others,
    "cascade": show_cascade, "leak": show_leak, "completeness": show_completeness,
}  # fmt: skip


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "tables", nargs="*", choices=[[], *TABLES], metavar="TABLE", help=", ".join(TABLES)
    )
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in arguments.tables or TABLES:
        TABLES[name](arguments.seeds)


if __name__ == "__main__":
    main()
