"""Maps of a volume by methods that run the model again, on changed volumes.

The target is fixed on the stitched prediction. Its score is then a sum over the windows, each with
its share, see `medcam.engine.windows.score_gradient`: a changed volume runs only in the windows
that the target depends on and that the change reaches.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from medcam.engine.explained import logits_of_run
from medcam.engine.fixed_target import is_function
from medcam.engine.model import isolation
from medcam.engine.progress import Progress
from medcam.engine.replay_maps import note_options, values_of
from medcam.engine.replay_progress import Reported, functions_of
from medcam.engine.request import Request
from medcam.engine.windows.ensemble import EnsembleMember
from medcam.engine.windows.plan import StitchingPlan
from medcam.engine.windows.prediction import SamplePlace, check_stitchable, cut, groups
from medcam.engine.windows.runner import Runner
from medcam.engine.windows.score_gradient import ScoreGradient
from medcam.engine.windows.stitching import Maps, stitch
from medcam.errors import InputError, MedcamWarning, NoMapError
from medcam.methods import Method


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


def replayed_maps(
    plan: StitchingPlan, logits: Tensor | None, details: dict[str, Any], progress: Progress
) -> Maps:
    """Return the maps of a plan's methods that run the model again.

    Args:
        plan: The plan; its automatic layer is chosen if it was not yet.
        logits: The stitched logits, if they were computed here: the windows have to have their
            score again. None for a prediction of the caller's, or one that holds no logits.
        details: What the methods tell of their maps is added.
        progress: As in `medcam.explain_volume`.

    Raises:
        NoMapError: The windows, run again, have another score.
    """
    maps: Maps = {}
    runner, batch = plan.runner, len(plan.runner.volume)
    samples = [VolumeReplay(plan, number) for number in range(batch)]
    if logits is not None and plan.request.replayed:
        for sample in samples:
            sample.check_score(logits)
    for method in plan.request.replayed:
        note_options(method, details)
        for layer in _layers(plan, method):
            with Reported(progress, method.title, batch) as reported:
                of_layer = [
                    dataclasses.replace(sample, layer=layer, reported=reported)
                    for sample in samples
                ]
                values = torch.stack([sample.map_of(method, details) for sample in of_layer])
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
    named = plan.request.layer
    if isinstance(named, str) and named not in ("auto", "full"):
        return [named]
    request = dataclasses.replace(plan.request, methods=(method.repeated,))
    runner = Runner(plan.runner.volume, plan.runner.gradient, plan.runner.layers)
    maps = stitch(dataclasses.replace(plan, request=request, runner=runner, tick=lambda _: None))
    if not plan.runner.layers:
        plan.runner.layers, plan.runner.details = runner.layers, runner.details
    return list(dict.fromkeys(item.layer for item in maps.values()))


_SAME = 0.05
"""The relative difference up to which the score of windows that run again is the same: groups of
another size may run by other kernels, in half precision."""


@dataclass(eq=False)
class VolumeReplay:
    """The stitched prediction as a function of one sample's volume.

    Attributes:
        plan: The plan.
        number: The number of the sample.
        layer: The layer of the map; None for a map of the input.
        reported: Where progress is reported.
        plain: By network and mirroring, the windows' scores of the volume as it is.
    """

    plan: StitchingPlan
    number: int
    layer: str | None = None
    reported: Reported = field(default_factory=Reported)
    plain: dict[int, list[Tensor]] = field(default_factory=dict)

    @cached_property
    def image(self) -> Float[Tensor, "1 channels *space"]:
        """The volume of the sample."""
        return self.plan.windows.crop(self._padded)

    def map_of(self, method: Method, details: dict[str, Any]) -> Float[Tensor, "targets ..."]:
        """Return a method's map of the sample; zeros if no window holds a voxel of the target.

        Args:
            method: The method.
            details: What the method tells of its map is added.
        """
        count, space = len(self.plan.runner.gradient), tuple(self.image.shape[2:])
        if not self._places:
            of_channels = bool(method.evidence & {"input_gradient_at", "map_at"})
            channels = (self.image.shape[1] if of_channels else 1,) if method.of_input else ()
            return torch.zeros(count, *channels, *space, device=self.plan.device)
        device = next(iter(self.plan.members())).device(self.image.device).type
        scores = {"score_of": self.score_of}
        by_name = functions_of(method, self.map_at, scores, self.reported, device)
        by_name["inputs"] = self.image
        return values_of(method, by_name, count, self.number, details).to(self.plan.device)

    def check_score(self, logits: Tensor) -> None:
        """Check that the windows, run again, have the score that the prediction has.

        Args:
            logits: The stitched logits of all samples.

        Raises:
            NoMapError: They have another one.
        """
        score, crop = self.score_of(self.image)[0], self.plan.windows.crop
        of_sample = logits[self.number].to(score)
        for value, channels, gradient in zip(
            score, self._gradient.channels, self._gradient.values, strict=True
        ):
            used = of_sample[channels.to(of_sample.device)]
            expected = (used * crop(gradient)[0].to(used)).sum()
            size = max(float(expected.abs()), float(used.abs().mean()), 1e-30)
            difference = float((value - expected).abs()) / size
            if difference > _SAME:
                raise NoMapError(
                    f"The windows of sample {self.number}, run again, have another score than the "
                    f"prediction (by {difference:.1%}), so maps of changed volumes would not be "
                    "about it. Does the network draw random numbers or keep values of earlier "
                    "calls? Call model.eval()."
                )

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
        scores = torch.zeros(len(images), targets, dtype=dtype, device=images.device)
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
        return torch.cat(maps).to(images.device)

    @property
    def _padded(self) -> Float[Tensor, "1 channels *padded"]:
        return self.plan.runner.volume[self.number : self.number + 1]

    @cached_property
    def _gradient(self) -> ScoreGradient:
        """The gradient of this sample's score."""
        gradient = self.plan.runner.gradient
        values = [part[self.number : self.number + 1] for part in gradient.values]
        return dataclasses.replace(gradient, values=values)

    @cached_property
    def _shares(self) -> Tensor:
        """The factor from a window's weight to its share of the stitched prediction."""
        return self.plan.shares()

    @cached_property
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
                weights = [windows.weights * self._shares[place] for _, place in group]
                scores = gradient.score(logits, group, weights, member.flips)
                rows += scores.to(padded.device).unbind(0)
        return rows
