"""The runs of a check: the maps that are compared, reduced to what the criteria need."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from medcam.engine.progress import Tick
from medcam.engine.target.resolution import TargetLike
from medcam.errors import InputError, MedcamWarning, NoMapError
from medcam.methods import Method
from medcam.trust.blocks import noisy, to_numpy
from medcam.trust.permuted import permuted_networks
from medcam.trust.plan import Plan
from medcam.trust.question import Question
from medcam.trust.statistics import rank_correlation
from medcam.trust.subject import MapName, Maps, Subject

MapFunction = Callable[[nn.Module, Tensor, TargetLike], object]
"""A function of the user's: the network, the images and the target to maps ``[batch, *space]``."""

_NOISE = 0.05
"""The standard deviation of the noise of T5, as a share of that of each image."""


@dataclass(eq=False)
class Measured:
    """The figures of one map.

    Attributes:
        of_targets: The map of each target that is tested for faithfulness, ``[batch, *space]``.
        difference: Of two runs, relative to the map.
        unlike: The rank correlations of the maps of unlike images.
        permuted: The rank correlation with the maps of each network of permuted weights.
        other: The rank correlations with the map of another target, for each image.
        is_mirrored: Whether the map is a magnitude that two opposite logits have in common.
        is_constant: Whether the map has one value everywhere, in all images.
        noise: The largest relative change under noise, for each image.
    """

    of_targets: list[Float[np.ndarray, "batch *space"]] = field(default_factory=list)
    difference: float = 0.0
    unlike: Float[np.ndarray, " pairs"] = field(default_factory=lambda: np.zeros(0))
    permuted: list[float] = field(default_factory=list)
    other: Float[np.ndarray, " images"] | None = None
    is_mirrored: bool = False
    is_constant: bool = False
    noise: Float[np.ndarray, " images"] | None = None


@dataclass(frozen=True, eq=False)
class Measuring:
    """Makes the maps of all methods at all layers, again and again.

    Attributes:
        subject: The network and its images.
        question: What is asked.
        methods: The registered methods.
        layers: The layers.
        functions: Maps that functions of the user's make, by name.
        plan: How often.
        seed: The seed of the random numbers.
        tick: Called after each run, with the number of images.
    """

    subject: Subject
    question: Question
    methods: Sequence[Method]
    layers: Sequence[str]
    functions: Mapping[str, MapFunction]
    plan: Plan
    seed: int
    tick: Tick

    def measure(self) -> tuple[dict[MapName, Measured], Mapping[str, tuple[float, ...]]]:
        """Return the figures of each map but its faithfulness, and the cells of the layers."""
        question, subject = self.question, self.subject
        first = self.run(subject, question.target)
        measured = {
            name: Measured(
                [values], is_constant=not np.ptp(values.reshape(len(values), -1), 1).any()
            )
            for name, values in first.values.items()
        }
        again = self.run(subject, question.target)
        for name, item in measured.items():
            item.difference = _relative(again.values[name], item.of_targets[0]).max().item()
        self._against_other(measured, first)
        anywhere = self.run(subject, question.anywhere)
        self._against_unlike(measured, anywhere)
        self._against_permuted(measured, anywhere)
        self._under_noise(measured, first)
        return measured, subject.cells(first)

    def run(self, subject: Subject, target: TargetLike) -> Maps:
        """Return the maps of all methods and functions."""
        maps = Maps({}, {}, {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MedcamWarning)
            if self.methods:
                maps = subject.maps(self.methods, self.layers, target)
        own: dict[MapName, NDArray[Any]] = {
            (name, None): of_callable(function, subject, target)
            for name, function in self.functions.items()
        }
        self.tick(len(subject.images))
        return Maps({**maps.values, **own}, maps.cells, maps.signed)

    def _against_other(self, measured: Mapping[MapName, Measured], first: Maps) -> None:
        """Compare with the maps of another target (T3)."""
        question = self.question
        if question.other is None:
            self.tick(len(self.subject.images))
            return
        others = self.run(self.subject, question.other)
        opposite = question.mirrored or _are_opposite(first, others)
        magnitudes = {
            method.name
            for method in self.methods
            if method.of_input and not method.positive_part
            and (method.signed or method.reduction == "magnitude")
        }  # fmt: skip
        for name, item in measured.items():
            item.other = rank_correlation(item.of_targets[0], others.values[name])
            item.is_mirrored = opposite and name[0] in magnitudes
            if len(question.scores) > 1:
                item.of_targets.append(others.values[name])

    def _against_unlike(self, measured: Mapping[MapName, Measured], anywhere: Maps) -> None:
        """Compare with the maps of unlike images (T0); a single image with its mirror image."""
        if len(self.subject.images) > 1:
            for name, item in measured.items():
                values = anywhere.values[name]
                item.unlike = rank_correlation(values, np.roll(values, 1, 0))
            return
        mirrored = self.subject.with_images(self.subject.images.flip(-1))
        others = self.run(mirrored, self.question.anywhere)
        for name, item in measured.items():
            item.unlike = rank_correlation(anywhere.values[name], others.values[name])

    def _against_permuted(self, measured: Mapping[MapName, Measured], anywhere: Maps) -> None:
        """Compare with the maps of networks with permuted weights (T2)."""
        if not self.plan.networks:
            return
        networks = permuted_networks(self.subject.model, self.plan.networks, seed=self.seed)
        for network in networks:
            try:
                others = self.run(self.subject.with_model(network), self.question.anywhere)
            except NoMapError:  # values that overflow
                self.tick(len(self.subject.images))
                continue
            for name, item in measured.items():
                correlation = rank_correlation(anywhere.values[name], others.values[name])
                item.permuted.append(float(correlation.mean()))

    def _under_noise(self, measured: Mapping[MapName, Measured], first: Maps) -> None:
        """Compare with the maps of noisy images (T5)."""
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.plan.noises):
            images = noisy(self.subject.images, _NOISE, generator)
            others = self.run(self.subject.with_images(images), self.question.target)
            for name, item in measured.items():
                change = _relative(others.values[name], first.values[name])
                item.noise = change if item.noise is None else np.maximum(item.noise, change)


def _relative(
    second: Float[np.ndarray, "batch *space"], first: Float[np.ndarray, "batch *space"]
) -> Float[np.ndarray, " batch"]:
    """Return the difference of two maps relative to the norm of the first."""
    axes = tuple(range(1, first.ndim))
    scale = np.sqrt((first**2).sum(axes))
    difference = np.sqrt(((second - first) ** 2).sum(axes))
    relative: Float[np.ndarray, " batch"] = np.where(
        scale > 0, difference / np.where(scale > 0, scale, 1), np.where(difference > 0, np.inf, 0)
    )
    return relative


def _are_opposite(first: Maps, second: Maps) -> bool:
    """Return whether the gradients of the input for two targets are opposite everywhere."""
    for name, a in first.signed.items():
        b = second.signed.get(name)
        if b is None:
            continue
        scale = np.sqrt((a**2).sum() * (b**2).sum())
        if scale > 0 and float((a * b).sum() / scale) < _OPPOSITE:
            return True
    return False


_OPPOSITE = -0.95


def mirror_correlation(images: Tensor) -> float:
    """Return the rank correlation of the first image with its mirror image."""
    values = images[:1].detach().cpu().double().mean(1).numpy()
    return float(rank_correlation(values, values[..., ::-1])[0])


def check_functions(functions: Mapping[str, MapFunction]) -> None:
    """Raise unless ``maps=`` holds functions by name."""
    for name, function in functions.items():
        if not isinstance(name, str) or not callable(function):
            raise InputError(
                f"maps={{{name!r}: ...}}: give functions (model, images, target) by a name."
            )


def of_callable(
    function: Callable[[nn.Module, Tensor, TargetLike], Any], subject: Subject, target: TargetLike
) -> Float[np.ndarray, "batch *space"]:
    """Return the maps that a function of the user's makes.

    Raises:
        InputError: It returns no map for each image.
    """
    result = torch.as_tensor(function(subject.model, subject.images, target))
    images = subject.images
    if result.ndim == images.ndim and result.shape[1] == 1:
        result = result[:, 0]
    if result.shape != (len(images), *images.shape[2:]):
        raise InputError(
            f"A function in maps= returned {list(result.shape)}: it has to return one map for each "
            f"image, [{len(images)}, {', '.join(map(str, images.shape[2:]))}]."
        )
    if not result.isfinite().all():
        raise InputError("A function in maps= returned NaN or infinite values.")
    return to_numpy(result)
