"""Maps of a volume by methods that run the model again, on changed volumes.

The target is fixed on the stitched prediction. Its score is then a sum over the windows, each with
its share, see `medcam.engine.windows.score_gradient`: a changed volume runs only in the windows
that the target depends on and that the change reaches.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.engine.explained import logits_of_run
from medcam.engine.fixed_target import is_function
from medcam.engine.model import isolation
from medcam.engine.progress import Progress
from medcam.engine.replay_maps import note_options, values_of
from medcam.engine.replay_progress import Reported, ReportedFunction
from medcam.engine.request import Request
from medcam.engine.windows.ensemble import EnsembleMember
from medcam.engine.windows.plan import StitchingPlan
from medcam.engine.windows.prediction import SamplePlace, check_stitchable, cut, groups
from medcam.engine.windows.runner import Runner
from medcam.engine.windows.stitching import Maps, stitch
from medcam.errors import InputError, MedcamWarning, NoMapError
from medcam.methods import METHODS, Method


def check_replayed(request: Request) -> None:
    """Raise for methods that change the features of a layer: windows have no features in common.

    Raises:
        InputError: There is one.
    """
    titles = [
        method.title for method in request.replayed if method.of_layer and method.repeated is None
    ]
    if titles:
        raise InputError(
            f"{', '.join(titles)}: changed features of a layer cannot be explained window by "
            "window. Explain the whole image, or a crop of a window's size, with medcam.explain "
            "(without --roi), or take another method, such as layercam or occlusion."
        )


def check_linear(request: Request, logits: Tensor) -> None:
    """Raise if a score is no sum over the windows, and a method runs the model again.

    Raises:
        NoMapError: The target is a function of the whole prediction.
    """
    if request.replayed and is_function(request.target, logits):
        titles = ", ".join(method.title for method in request.replayed)
        raise NoMapError(
            f"{titles}: the target is a function of the whole prediction, which is no sum over "
            "windows: give a class or a target of medcam.targets, or a method that runs the model "
            "once, such as layercam."
        )


def replayed_maps(plan: StitchingPlan, details: dict[str, Any], progress: Progress) -> Maps:
    """Return the maps of a plan's methods that run the model again.

    Args:
        plan: The plan; its automatic layer is chosen if it was not yet.
        details: What the methods tell of their maps is added.
        progress: As in `medcam.explain_volume`.
    """
    maps: Maps = {}
    runner, batch = plan.runner, len(plan.runner.volume)
    for method in plan.request.replayed:
        note_options(method, details)
        for layer in _layers(plan, method):
            with Reported(progress, method.title, batch) as reported:
                samples = [VolumeReplay(plan, number, layer, reported) for number in range(batch)]
                values = torch.stack(
                    [
                        values_of(
                            method, sample.evidence_of(method), len(runner.gradient),
                            sample.number, details,
                        )
                        for sample in samples
                    ]
                )  # fmt: skip
            channels = None
            if method.of_input:
                values, channels = method.reduced(values)
            item = method.map_of(values, layer, runner.gradient.target, channels)
            maps[method.name, item.layer] = item
    return maps


def _layers(plan: StitchingPlan, method: Method) -> list[str | None]:
    """Return the layers that a method has maps of; None for a map of the input."""
    if not method.of_layer or method.repeated is None:
        return [None]
    request = dataclasses.replace(plan.request, methods=(method.repeated,))
    maps = stitch(dataclasses.replace(plan, request=request, tick=lambda _: None))
    return list(dict.fromkeys(item.layer for item in maps.values()))


@dataclass(eq=False)
class VolumeReplay:
    """The stitched prediction as a function of one sample's volume.

    Attributes:
        plan: The plan.
        number: The number of the sample.
        layer: The layer of the map; None for a map of the input.
        reported: Where progress is reported.
        plain: By network, the windows' scores of the volume as it is.
    """

    plan: StitchingPlan
    number: int
    layer: str | None = None
    reported: Reported = field(default_factory=Reported)
    plain: dict[int, list[Tensor]] = field(default_factory=dict)

    def evidence_of(self, method: Method) -> dict[str, Any]:
        """Return the evidence that a method takes, by name."""
        functions: dict[str, Callable[..., Tensor]] = {
            "score_of": self.score_of,
            "input_gradient_at": partial(self.map_at, method=METHODS["saliency"]),
        }
        if method.repeated is not None:
            functions["map_at"] = partial(self.map_at, method=method.repeated)
        by_name: dict[str, Any] = {"inputs": self.plan.windows.crop(self._padded)}
        for name, function in functions.items():
            by_name[name] = ReportedFunction(name, function, self.reported)
        return by_name

    def score_of(
        self, images: Float[Tensor, "images channels *space"]
    ) -> Float[Tensor, "images targets"]:
        """Return the scores of changed volumes of the sample."""
        rows: list[list[Tensor]] = [[] for _ in images]
        for number, member in enumerate(self.plan.members()):
            if number not in self.plain:
                self.plain[number] = self._scores(member, self._padded, self._places)
            for of_image, image in zip(rows, images, strict=True):
                of_image += self._scores_of(member, image[None], self.plain[number])
        targets, dtype = len(self.plan.runner.gradient), self.plan.windows.weights.dtype
        scores = torch.zeros(len(images), targets, dtype=dtype, device=self.plan.device)
        for score, of_image in zip(scores, rows, strict=True):
            for row in of_image:
                score += row
        return scores / self.plan.count

    def map_at(
        self, images: Float[Tensor, "images channels *space"], method: Method
    ) -> Float[Tensor, "images targets ..."]:
        """Return a method's maps of changed volumes of the sample."""
        request = dataclasses.replace(self.plan.request, methods=(method,))
        if self.layer is not None:
            request = dataclasses.replace(request, layer=self.layer)
        maps = []
        for image in images:
            runner = Runner(self.plan.windows.pad(image[None]), self._gradient)
            plan = dataclasses.replace(
                self.plan, request=request, runner=runner, kept=None, tick=lambda _: None
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", MedcamWarning)
                (item,) = stitch(plan).values()
            maps.append(item.values if item.channels is None else item.channels)
        return torch.cat(maps)

    @property
    def _padded(self) -> Float[Tensor, "1 channels *padded"]:
        return self.plan.runner.volume[self.number : self.number + 1]

    @property
    def _gradient(self) -> Any:
        """The gradient of this sample's score."""
        gradient = self.plan.runner.gradient
        values = [part[self.number : self.number + 1] for part in gradient.values]
        return dataclasses.replace(gradient, values=values)

    @property
    def _places(self) -> list[SamplePlace]:
        """The windows of the sample that a target depends on."""
        touched = self.plan.touched_places
        return [(0, place) for sample, place in touched if sample == self.number]

    def _scores_of(
        self, member: EnsembleMember, image: Tensor, plain: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return the windows' scores of a changed volume by one network.

        Args:
            member: The network.
            image: The changed volume.
            plain: The windows' scores of the volume as it is, which windows keep that the change
                does not reach.
        """
        padded, rows = self.plan.windows.pad(image), list(plain)
        changed = {
            index: (sample, place)
            for index, (sample, place) in enumerate(self._places)
            if not torch.equal(
                padded[(0, slice(None), *place)], self._padded[(0, slice(None), *place)]
            )
        }
        scores = self._scores(member, padded, list(changed.values()))
        for index, row in zip(changed, scores, strict=True):
            rows[index] = row
        return rows

    def _scores(
        self, member: EnsembleMember, padded: Tensor, places: Sequence[SamplePlace]
    ) -> list[Tensor]:
        """Return each window's share of the score by one network, ``[targets]``."""
        windows, gradient = self.plan.windows, self._gradient
        shares = self.plan.shares()
        request = dataclasses.replace(self.plan.request, of_output=gradient.of_output)
        rows: list[Tensor] = []
        with ExitStack() as stack:
            stack.enter_context(isolation.kept_state(isolation.modules_of(member.model)))
            stack.enter_context(torch.no_grad())
            for group in groups(places, self.plan.batch_size):
                inputs = cut(padded, group, member)
                logits = logits_of_run(
                    request, inputs, partial(member.model, inputs), batch=len(group)
                )
                check_stitchable(logits, tuple(inputs.shape[2:]))
                weights = [windows.weights * shares[place] for _, place in group]
                scores = gradient.score(logits, group, weights, member.flips)
                rows += scores.to(self.plan.device).unbind(0)
        return rows
