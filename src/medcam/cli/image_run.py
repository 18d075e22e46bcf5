"""One image through the user's model: what ``medcam explain`` and ``medcam reproduce`` run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from medcam.cli.model import has_weights, load_model
from medcam.cli.numbers import extents
from medcam.cli.options import methods_of, one_or_several, preprocessed, read_image_files, target_of
from medcam.cli.own_code import called_exit

if TYPE_CHECKING:
    from torch import Tensor, device, nn

    from medcam.engine.target.resolution import TargetLike
    from medcam.explanation.explanation import Explanation
    from medcam.files import Image

_REGION = "region "


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """The options of ``medcam explain`` that the maps depend on, named as there.

    ``channels`` is ``--channels/--slices``.
    """

    model: str
    image: tuple[Path, ...]
    arg: tuple[str, ...] = ()
    weights: Path | None = None
    method: tuple[str, ...] = ()
    layer: tuple[str, ...] = ()
    target: str = "predicted"
    regions: bool = False
    select: str | None = None
    roi: str | None = None
    overlap: float = 0.25
    mode: str = "gaussian"
    channel_weights: str = "volume"
    placement: str = "features"
    slice_axis: int | None = None
    scale: str = "none"
    prepare: str | None = None
    volume: int | None = None
    channels: bool | None = None

    @property
    def recorded(self) -> dict[str, Any]:
        """The options that were given, for the record."""
        values: dict[str, Any] = {name.name: getattr(self, name.name) for name in fields(self)}
        del values["image"]
        values["weights"] = None if self.weights is None else self.weights.name
        values["regions"] = self.regions or None
        lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        values.update({name: value or None for name, value in lists.items()})
        return {name: value for name, value in values.items() if value is not None}

    @property
    def in_windows(self) -> bool:
        """Whether the model sees windows or slices, not the whole image at once."""
        return self.roi is not None or self.slice_axis is not None

    @property
    def selector(self) -> str | int | None:
        """Which part of the model's output is explained: an index or a key."""
        is_index = self.select is not None and self.select.lstrip("-").isdigit()
        return int(self.select or 0) if is_index else self.select

    @property
    def region(self) -> Path | None:
        """The file of ``--target 'region FILE K'``; None for other targets."""
        words = self.target.split()
        return Path(" ".join(words[1:-1])) if self.target.startswith(_REGION) else None

    def with_region(self, path: Path) -> ImageOptions:
        """Return the options with the region's file at another path."""
        return replace(self, target=f"{_REGION}{path} {self.target.split()[-1]}")


@dataclass(frozen=True, kw_only=True)
class ReadyImage:
    """A model and an image that fit together, before the model runs.

    Attributes:
        options: The options.
        network: The model.
        original: The image as its files hold it.
        inputs: The model's input, ``[1, channels, *space]``.
        device: The network's device.
        target: The target.
    """

    options: ImageOptions
    network: nn.Module
    original: Image
    inputs: Tensor
    device: device
    target: TargetLike

    def explain(self, *, progress: bool) -> Explanation:
        """Return the explanation of the whole image, or of its windows or slices.

        Raises:
            InputError: The model does not run on the image.
        """
        with self.model_errors():
            return self._explain(progress)

    @contextmanager
    def model_errors(self) -> Iterator[None]:
        """Raise what the user's model raises as one line that says what may be wrong.

        Raises:
            InputError: The model does not run on the image.
        """
        from medcam.errors import InputError, MedcamError, MedcamWarning

        try:
            yield
        except (MedcamError, MedcamWarning):
            raise
        except SystemExit as error:
            raise InputError(f"The model does not run: {called_exit(error)}") from error
        except Exception as error:  # the user's model may raise anything
            reason = (str(error).strip() or "no message").splitlines()[0].rstrip(".")
            raise InputError(
                f"The model does not run on an input of shape {list(self.inputs.shape)}: "
                f"{type(error).__name__}: {reason}. Does it need extents that are multiples of its "
                "stride (--roi 64 64 64), another number of channels (--image several times), or "
                "slices (--slice-axis)?"
            ) from error

    def _explain(self, progress: bool) -> Explanation:
        from medcam.explanation.call import explain as explain_once
        from medcam.explanation.volume import explain_volume

        options, network = self.options, self.network.to(self.device)
        shared: dict[str, Any] = {
            "method": methods_of(options.method),
            "layer": one_or_several(options.layer, "auto"),
            "placement": options.placement,
            "output": options.selector,
            "target": self.target,
        }
        if not options.in_windows:
            return explain_once(network, self.inputs.to(self.device), progress=progress, **shared)
        stitching: Any = {
            "overlap": options.overlap, "mode": options.mode,
            "channel_weights": options.channel_weights, "slice_axis": options.slice_axis,
        }  # fmt: skip
        size = extents(options.roi, "--roi") if options.roi is not None else -1
        return explain_volume(network, self.inputs, size, progress=progress, **stitching, **shared)


def get_ready(options: ImageOptions, *, trust: bool, device: str | None) -> ReadyImage:
    """Load the model and the image; what is wrong with an option is raised before anything runs.

    Args:
        options: The options.
        trust: Whether files are unpickled that can run code.
        device: The network's device; None: the GPU, if there is one.

    Raises:
        InputError: An option or a file does not fit.
    """
    import torch

    from medcam.engine.model.devices import usable_device
    from medcam.engine.model.layers import find

    network = load_model(
        options.model, weights=options.weights, trust=trust, args=list(options.arg)
    )
    if options.weights is None and not has_weights(options.model):
        typer.echo(
            f"Warning: without --weights the model has those that {options.model} gives it: random "
            "ones, if it does not load its own.",
            err=True,
        )
    network_device = usable_device(device)
    find(network, one_or_several(options.layer, "auto"))
    methods_of(options.method)
    original = read_image_files(options.image, options.volume, options.channels)
    values = preprocessed(original, options.scale, options.prepare)
    return ReadyImage(
        options=options,
        network=network,
        original=original,
        inputs=torch.from_numpy(values)[None],
        device=network_device,
        target=target_of(options.target, original, regions=options.regions),
    )
