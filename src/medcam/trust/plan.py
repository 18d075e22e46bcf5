"""The plan of a check: how many sets and networks, what that costs, and what a budget cuts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from medcam.errors import InputError
from medcam.trust.costs import FORWARDS_PER_PASS

SETS = 96
NETWORKS = 5
FEWEST_SETS = 8
"""The fewest sets that say anything."""

NOISES = 8
_STEPS = ((0.67, 0.8), (0.5, 0.6), (0.34, 0.4), (0.25, 0.4))
"""What a budget leaves of the sets and of the networks, in steps."""


@dataclass(frozen=True)
class Plan:
    """How much a check does.

    Attributes:
        sets: The number of random sets of blocks.
        fills: The number of values that blocks are replaced by.
        networks: The number of networks with permuted weights.
        noises: The number of noisy copies of each image.
        images: The number of images.
        methods: The number of methods.
        layers: The number of layers.
        windows: The number of windows that one image is predicted in.
        replays: What methods that run the model again cost more, for each run and image, in forward
            passes.
        predictions: The number of predictions that come first: that to explain, and the one that
            layers are chosen by.
        marker: The most training steps that a planted marker takes, beside the cost; 0 without one.
        cut: What a budget took away, in words; empty if nothing.
    """

    sets: int
    fills: int
    networks: int
    noises: int
    images: int
    methods: int
    layers: int
    windows: int = 1
    replays: int = 0
    predictions: int = 1
    marker: int = 0
    cut: str = ""

    @property
    def runs(self) -> int:
        """The number of runs of the network itself that make maps."""
        return 4 + (self.images == 1) + self.noises

    @property
    def steps(self) -> int:
        """The number of images that run, with maps or without."""
        return (self.sets * self.fills + self.runs + self.networks) * self.images

    @property
    def forward_passes(self) -> int:
        """The number of forward passes of one image or window that make no map."""
        return (
            (self.sets * self.fills + self.layers + self.predictions) * self.images * self.windows
        )

    @property
    def map_passes(self) -> int:
        """The number of runs of one image or window that make maps, each of all methods."""
        return (self.runs + self.networks) * self.images * self.windows

    @property
    def cost(self) -> int:
        """The cost as a number of forward passes."""
        return self.forward_passes + (FORWARDS_PER_PASS + self.replays) * self.map_passes

    def __str__(self) -> str:
        images = _counted(self.images, "image")
        if self.windows > 1:
            images += f" in {self.windows} windows"
        single = [f"{self.sets} sets x {self.fills} fills"]
        single.append(_counted(self.predictions, "prediction"))
        maps = _counted(self.methods, "method")
        if self.layers:
            single.append(f"{_counted(self.layers, 'layer')} left out")
            maps += f" at {_counted(self.layers, 'layer')}"
        again, marker = "", ""
        if self.marker:
            marker = f"; beside that, up to {self.marker} training steps for the planted marker"
        if self.replays:
            again = (
                f", and up to {self.replays * self.map_passes:,} forward passes of the methods "
                "that run the model again"
            )
        return (
            f"{' + '.join(single)}, each of {images}: {self.forward_passes:,} forward passes; "
            f"{self.runs} runs + {_counted(self.networks, 'network')} with permuted weights, each "
            f"with the maps of {maps}: {self.map_passes:,} passes that count as "
            f"{FORWARDS_PER_PASS} each{again}: {self.cost:,} in all{marker}"
        )


def _counted(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}{'s' * (number != 1)}"


def within(plan: Plan, budget: int | None) -> Plan:
    """Return the plan cut to a budget of forward passes.

    Args:
        plan: The plan.
        budget: The largest cost; None: no limit.

    Raises:
        InputError: Even the smallest plan costs more.
    """
    if budget is None or plan.cost <= budget:
        return plan
    quiet = replace(
        plan, noises=0,
        cut=f"The budget of {budget:,} forward passes leaves no noise: T5 is not measured.",
    )  # fmt: skip
    if quiet.cost <= budget:
        return quiet
    for share, nets in _STEPS:
        sets = min(plan.sets, max(FEWEST_SETS, math.ceil(plan.sets * share)))
        networks = min(plan.networks, max(2, round(plan.networks * nets)))
        cut = (
            f"The budget of {budget:,} forward passes leaves {sets} of {plan.sets} sets and "
            f"{networks} of {plan.networks} networks, and no noise: the bounds of T4 are about "
            f"{math.sqrt(plan.sets / sets):.1f} times as wide"
        )
        if networks:
            cut += f", those of T2 about {math.sqrt(plan.networks / networks):.1f} times"
        cut += ", so more verdicts are undecided."
        smaller = replace(quiet, sets=sets, networks=networks, cut=cut)
        if smaller.cost <= budget:
            return smaller
    raise InputError(
        f"budget={budget:,} forward passes is too small: the least check costs {smaller.cost:,}. "
        "Check fewer images, in fewer windows, or fewer methods that run the model again."
    )
