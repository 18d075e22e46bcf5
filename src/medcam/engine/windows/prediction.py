"""The stitched prediction of a volume; groups of windows and their inputs, for all passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medcam.engine.model import outputs
from medcam.engine.model.outputs import Selector
from medcam.engine.progress import Tick
from medcam.engine.windows.ensemble import EnsembleMember
from medcam.engine.windows.tiling import Place, Windows
from medcam.errors import InputError

SamplePlace = tuple[int, Place]
"""A window of a sample: the sample's index and the window's place on the padded grid."""

Recording = Callable[[nn.Module, int, Sequence[SamplePlace]], AbstractContextManager[None]]
"""What the prediction pass runs a group of windows in."""


def groups(places: Sequence[SamplePlace], size: int) -> Iterator[list[SamplePlace]]:
    """Yield the windows in groups of at most ``size``."""
    remaining = iter(places)
    while group := list(islice(remaining, size)):
        yield group


def all_places(batch: int, windows: Windows) -> list[SamplePlace]:
    """Return all windows of all samples."""
    return [(sample, place) for sample in range(batch) for place in windows.places]


def cut(volume: Tensor, places: Sequence[SamplePlace], member: EnsembleMember) -> Tensor:
    """Return the windows ``[windows, channels, *roi]``, mirrored, on the network's device."""
    parts = torch.stack([volume[(sample, slice(None), *place)] for sample, place in places])
    return member.mirror(parts.to(member.device(volume.device)))


def predict(
    members: Iterable[EnsembleMember],
    volume: Float[Tensor, "batch channels *padded"],
    windows: Windows,
    *,
    output: Selector,
    batch_size: int,
    device: torch.device,
    tick: Tick,
    recording: Recording = lambda *_: nullcontext(),
) -> Float[Tensor, "batch classes *space"]:
    """Return the stitched prediction: the mean over the members, cropped to the image.

    Args:
        members: The networks and their mirrorings.
        volume: The padded image.
        windows: The windows.
        output: Which tensor of the model's output holds the logits.
        batch_size: The number of windows that run at once.
        device: The device of the sums.
        tick: Called after each group of windows.
        recording: Returns a context in which a group of windows runs, given the network, the number
            of the member and the group.

    Raises:
        InputError: There is no network, or the output cannot be stitched.
    """
    total, count = None, 0
    weights = windows.weights.to(device)
    for member in members:
        count += 1
        for group in groups(all_places(len(volume), windows), batch_size):
            with torch.no_grad(), recording(member.model, count - 1, group):
                inputs = cut(volume, group, member)
                model_output = member.model(inputs)
            space = tuple(inputs.shape[2:])
            logits = outputs.select(model_output, output, batch=len(group), space=space)
            check_stitchable(logits, space)
            logits = member.mirror(logits).to(device)
            if total is None:
                dtype = torch.promote_types(logits.dtype, weights.dtype)
                total = torch.zeros(
                    (len(volume), logits.shape[1], *windows.shape), dtype=dtype, device=device
                )
            for (sample, place), part in zip(group, logits, strict=True):
                total[(sample, slice(None), *place)] += part.to(total.dtype) * weights
            tick(len(group))
    if total is None:
        raise InputError("No network was given: give at least one.")
    total /= windows.sums(device=device)
    return windows.crop(total / count if count > 1 else total)


def check_stitchable(logits: Tensor, space: tuple[int, ...]) -> None:
    """Raise unless a window's logits have the window's spatial shape.

    Raises:
        InputError: They have another spatial shape, or no spatial axes.
    """
    if tuple(logits.shape[2:]) == space:
        return
    shape = list(logits.shape)
    remedy = (
        "it has no spatial axes, so there is nothing to stitch. Explain the whole volume at once, "
        "or one crop of it, with medcam.explain"
        if logits.ndim == 2
        else "stitching needs one logit per voxel. Choose the full-size tensor with output=, or "
        "upsample the logits in the model"
    )
    raise InputError(
        f"For a window of {list(space)} the model's output has the shape {shape}: {remedy}."
    )
