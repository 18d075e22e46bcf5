"""The assessment of a network's maps: the figures, the verdicts, the map to use."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medcam import methods as registry
from medcam.engine.model import isolation, layers
from medcam.engine.model.layers import LayerLike
from medcam.engine.model.undo import undoing
from medcam.engine.progress import Progress, progress_of
from medcam.engine.request import Request
from medcam.engine.target.resolution import TargetLike
from medcam.errors import InputError, MedcamWarning, warn
from medcam.maps import ResolvedTarget
from medcam.methods import Method, MethodLike
from medcam.trust import criteria
from medcam.trust.artefact import RATES, STEPS, check_question, plant
from medcam.trust.bank import Bank, fill_bank
from medcam.trust.blocks import FILLS, blocks_for, random_sets, to_numpy
from medcam.trust.controls import NEAR_TARGET, image_controls, near_target
from medcam.trust.costs import replay_cost
from medcam.trust.faithfulness import Faithfulness, is_faithful, least_width
from medcam.trust.hiding import held_out_correlation, hiding_map
from medcam.trust.measuring import (
    MapFunction,
    Measured,
    Measuring,
    check_functions,
    mirror_correlation,
)
from medcam.trust.plan import FEWEST_SETS, NETWORKS, NOISES, SETS, Plan, within
from medcam.trust.preconditions import check_images, check_spacing
from medcam.trust.question import Parts, Question, question_of
from medcam.trust.recommending import recommend
from medcam.trust.result import CheckedMap, TrustCheck
from medcam.trust.stages import shares_of, stages_of
from medcam.trust.subject import MapName, Subject, WholeImages


@dataclass(frozen=True)
class Options:
    """What is checked, and how thoroughly: the arguments of `check`, see there."""

    method: MethodLike | Iterable[MethodLike] = "all"
    layer: LayerLike = "stages"
    target: TargetLike = None
    against: TargetLike = None
    parts: Parts = "auto"
    regions: bool = False
    spacing: tuple[float, ...] | None = None
    maps: Mapping[str, MapFunction] = field(default_factory=dict)
    sets: int = SETS
    networks: int = NETWORKS
    noises: int = NOISES
    budget: int | None = None
    seed: int = 0
    progress: Progress = False
    artefact: bool = False

    def __post_init__(self) -> None:
        check_functions(self.maps)
        for name, least in (("sets", FEWEST_SETS), ("networks", 0), ("noises", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)} is too few: give at least {least}.")


@undoing
def check_subject(subject: Subject, options: Options) -> TrustCheck:
    """Check the maps of a network with images, see `check`."""
    if options.artefact and not isinstance(subject, WholeImages):
        raise InputError("artefact=True needs a classification of whole images: omit roi_size.")
    if isolation.differs_in_training(subject.model):
        warn("The model is in training mode; it is checked in evaluation mode.")
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(isolation.in_eval_mode(subject.model))
        stack.enter_context(isolation.kept_state(isolation.modules_of(subject.model)))
        logits = subject.logits(options.target)
        subject = subject.with_known(logits)
        question = question_of(
            logits, options.target, against=options.against, parts=options.parts,
            regions=options.regions,
        )  # fmt: skip
        if options.artefact:
            check_question(question, has_weights=_has_weights(subject))
        check_spacing(options.spacing, subject.images)
        check_images(subject.images)
        chosen = _methods(options.method, question)
        names = _layers(subject, options.layer, chosen, question)
        plan = _plan(subject, options, chosen, len(names))
        if options.progress is True:
            sys.stderr.write(f"cost: {plan}\n")
        with progress_of(options.progress, "checking", plan.steps) as tick:
            measuring = Measuring(
                subject, question, chosen, names, options.maps, plan, options.seed, tick
            )
            measured, cells = measuring.measure()
            blocks = blocks_for(
                tuple(subject.images.shape[2:]), list(cells.values()), options.spacing
            )
            sets = random_sets(blocks, plan.sets, seed=options.seed)
            bank = fill_bank(subject, question, blocks, sets, logits, tick=tick)
        shares = shares_of(subject, question, names, logits)
        marker = None
        if options.artefact and isinstance(subject, WholeImages):
            run = replace(measuring, tick=lambda _: None).run
            marker = plant(
                subject, question, run, list(cells.values()), seed=options.seed,
                titles={item.name: item.title for item in chosen},
            )  # fmt: skip
    faithful, controls = _faithfulness(subject.images, question, measured, bank, options.seed)
    known = _Known(
        question, {item.name: item.title for item in chosen},
        frozenset(share.layer for share in shares if not share.is_used), controls,
        mirror_correlation(subject.images) if len(subject.images) == 1 else None,
        has_weights=_has_weights(subject),
    )  # fmt: skip
    checked = tuple(_checked(name, item, faithful[name], known) for name, item in measured.items())
    recommended, reason = recommend(checked, marker)
    fill = next(iter(FILLS))
    return TrustCheck(
        question.text, checked, {name: item.bounds(fill) for name, item in controls.items()},
        tuple(shares), recommended, reason, plan, options.seed, blocks.edge,
        tuple(_notes(question, cells)), marker, hiding_map(bank, question, fill),
        held_out_correlation(bank, fill),
    )  # fmt: skip


def _notes(question: Question, cells: Mapping[str, Sequence[float]]) -> list[str]:
    """Return a note for each layer whose cell is larger than the target."""
    if not question.masks:
        return []
    smallest = min(int(mask.sum()) for masks in question.masks for mask in masks)
    return [
        f"The target has {smallest} voxels, a cell of layer {layer!r} {round(math.prod(cell))}: "
        "the map shows its surroundings rather than its parts."
        for layer, cell in cells.items()
        if smallest < math.prod(cell)
    ]


def _has_weights(subject: Subject) -> bool:
    """Return whether there is anything to permute: a file or a function in a module has nothing."""
    return next(subject.model.parameters(), None) is not None


def _plan(subject: Subject, options: Options, chosen: Sequence[Method], names: int) -> Plan:
    """Return what the check does, within its budget."""
    image = subject.images[:1]
    chooses = isinstance(options.layer, str) and options.layer in ("stages", "auto")
    replays = sum(
        replay_cost(method, image) * (names if method.of_layer else 1) for method in chosen
    )
    plan = Plan(
        options.sets, len(FILLS), options.networks if _has_weights(subject) else 0, options.noises,
        len(subject.images), len(chosen) + len(options.maps), names, subject.windows_per_image,
        replays, 1 + (chooses and names > 0), STEPS * len(RATES) if options.artefact else 0,
    )  # fmt: skip
    return within(plan, options.budget)


def _methods(method: MethodLike | Iterable[MethodLike], question: Question) -> list[Method]:
    """Return the methods to check."""
    if isinstance(method, str) and method == "all":
        return [item for item in registry.METHODS.values() if not item.replays]
    if isinstance(method, (str, Method)):
        method = [method]
    request = Request.of(method)
    chosen = request.methods
    if registry.AUTO in chosen:
        resolved = ResolvedTarget(question.text, question.task, is_part=bool(question.masks))
        chosen = registry.for_target(chosen, resolved)
    return list(chosen)


def _layers(
    subject: Subject, layer: LayerLike, chosen: Sequence[Method], question: Question
) -> list[str]:
    """Return the layers to check; none if all methods are of the input."""
    if not any(item.of_layer for item in chosen):
        return []
    if layer == "stages":
        stages = stages_of(subject)
        if stages:
            return stages
        layer = "auto"
    if layer in ("auto", None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MedcamWarning)
            return subject.resolved_layers(question.target)
    if layer == "full":
        raise InputError(
            "layer='full' cannot be checked: give 'stages' for the last layer of each stage, "
            "'auto', or names."
        )
    return list(layers.find(subject.model, layer).modules)


def _faithfulness(
    images: Tensor,
    question: Question,
    measured: Mapping[MapName, Measured],
    bank: Bank,
    seed: int,
) -> tuple[dict[MapName, Faithfulness], dict[str, Faithfulness]]:
    """Return what the bank says of each map and of each control."""
    names = list(measured)
    of_image = image_controls(to_numpy(images), seed=seed)
    stacks: list[Float[np.ndarray, "maps batch *space"]] = []
    controls = list(of_image)
    for number in range(len(question.scores)):
        rows = [measured[name].of_targets[number] for name in names]
        rows += list(of_image.values())
        if question.masks:
            rows.append(near_target(question.masks[number]))
        stacks.append(np.stack(rows))
    if question.masks:
        controls.append(NEAR_TARGET)
    width = least_width(len(bank.sets), len(images) * len(question.scores))
    results: list[dict[str, Any]] = [
        {"correlation": {}, "draws": {}, "width": width} for _ in (*names, *controls)
    ]
    for fill in bank.drops:
        values, draws = bank.correlations(stacks, fill, seed=seed)
        left = bank.infidelity(stacks, fill)
        for index, result in enumerate(results):
            result.setdefault("infidelity", float(left[index]))
            result["correlation"][fill] = float(values[index])
            result["draws"][fill] = draws[:, index]
    faithful = [Faithfulness(**result) for result in results]
    return (
        dict(zip(names, faithful[: len(names)], strict=True)),
        dict(zip(controls, faithful[len(names) :], strict=True)),
    )


@dataclass(frozen=True, eq=False)
class _Known:
    """What is known beside the figures of a map.

    Attributes:
        question: What was asked.
        titles: The titles of the methods by name.
        unused: The layers that the prediction hardly uses.
        controls: What the bank says of the controls.
        alone: For a single image its correlation with its mirror image.
        has_weights: Whether the network has weights to permute.
    """

    question: Question
    titles: Mapping[str, str]
    unused: frozenset[str]
    controls: Mapping[str, Faithfulness]
    alone: float | None
    has_weights: bool


def _checked(name: MapName, item: Measured, faithful: Faithfulness, known: _Known) -> CheckedMap:
    """Return the verdicts of one map."""
    unlike, other = float(item.unlike.mean()), known.question.other_text
    verdicts = [
        criteria.knows_image(item.unlike, mirrored=known.alone),
        criteria.repeats(item.difference),
        criteria.knows_weights(np.asarray(item.permuted), unlike, has_weights=known.has_weights),
        criteria.knows_target(item.other, other, mirrored=item.is_mirrored),
        is_faithful(faithful, known.controls, fills=tuple(FILLS)),
    ]
    if item.is_constant:
        replaced = {verdict.criterion: verdict for verdict in criteria.shows_nothing()}
        verdicts = [replaced.get(verdict.criterion, verdict) for verdict in verdicts]
    method, layer = name
    return CheckedMap(
        method, known.titles.get(method, method), layer,
        {verdict.criterion: verdict for verdict in verdicts},
        None if item.noise is None else float(item.noise.mean()), faithful.infidelity,
        layer in known.unused,
    )  # fmt: skip
