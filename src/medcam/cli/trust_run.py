"""A check of the user's model: what ``medcam check`` and ``medcam explain --check`` run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcam.cli.image_run import ReadyImage
from medcam.cli.numbers import extents
from medcam.cli.options import methods_of, preprocessed, read_image_files
from medcam.cli.output import echo, stdout

if TYPE_CHECKING:
    from rich.text import Text
    from torch import Tensor

    from medcam.explanation.explanation import Explanation
    from medcam.files import Image
    from medcam.trust import TrustCheck


def check_ready(ready: ReadyImage, images: Tensor, *, progress: bool, **options: Any) -> TrustCheck:
    """Check the maps of a model on an image, and on further ones.

    Args:
        ready: The model and the image.
        images: The image and further ones, from `images_to_check`.
        progress: Whether to state the cost and show a bar.
        **options: Further options of `medcam.check`.
    """
    from medcam.trust.checking import check

    settings = ready.options
    size = None if settings.roi is None else extents(settings.roi, "--roi")
    windows: dict[str, Any] = {} if size is None else {"overlap": settings.overlap}
    with ready.model_errors():
        return check(
            ready.network.to(ready.device),
            images if size is not None else images.to(ready.device),
            target=ready.target, output=settings.selector, spacing=spacing_of(ready.original),
            roi_size=size, progress=progress, **windows, **options,
        )  # fmt: skip


def check_written(
    ready: ReadyImage, images: Tensor, explanation: Explanation, *, progress: bool, **options: Any
) -> tuple[TrustCheck | None, BaseException | None]:
    """Check the methods and layers of maps that are about to be written.

    Args:
        ready: The model and the image.
        images: The image and further ones, from `images_to_check`.
        explanation: The maps.
        progress: Whether to state the cost and show a bar.
        **options: Further options of `medcam.check`.

    Returns:
        The check; or why there is none, an error or the user's Ctrl-C, to be raised once the maps
        are written.
    """
    from medcam.errors import MedcamError
    from medcam.methods import Method, for_target

    methods = methods_of(ready.options.method)
    asked = [methods] if isinstance(methods, Method) else methods
    try:
        checked = check_ready(
            ready, images, progress=progress, method=for_target(asked, explanation.target),
            layer=explanation.layer or "auto", **options,
        )  # fmt: skip
    except MedcamError as error:
        return None, type(error)(f"The maps are written, but could not be checked: {error}")
    except KeyboardInterrupt as stop:
        return None, stop
    return checked, None


def images_to_check(ready: ReadyImage, also: Sequence[Path]) -> Tensor:
    """Return the image with further ones, before the model runs.

    Args:
        ready: The model and the image.
        also: Images of other patients, one file each; they are prepared as the first.

    Raises:
        InputError: An image does not fit the first one, or an option asks for maps that are not
            those of a check.
    """
    import torch

    from medcam.errors import InputError

    settings = ready.options
    if settings.slice_axis is not None:
        raise InputError(
            "A check runs the model on images or in windows, not slice by slice: give one slice as "
            "an image, or leave out --slice-axis."
        )
    others = (settings.placement, settings.mode, settings.channel_weights)
    if others != ("features", "gaussian", "volume"):
        raise InputError(
            "A check is of maps with --placement features, --mode gaussian and --channel-weights "
            "volume: leave out these options."
        )
    batch = [ready.inputs]
    for path in also:
        other = read_image_files([path], settings.volume, settings.channels)
        values = torch.from_numpy(preprocessed(other, settings.scale, settings.prepare))[None]
        if values.shape != ready.inputs.shape:
            raise InputError(
                f"'{path}' is {list(values.shape[1:])} after preprocessing, the first image "
                f"{list(ready.inputs.shape[1:])}: images that are checked together have one shape."
            )
        batch.append(values)
    return torch.cat(batch)


def spacing_of(image: Image) -> tuple[float, ...] | None:
    """Return the size of an image's voxels in mm; None if it is unknown."""
    from medcam.files.formats.nifti import voxel_sizes

    if image.affine is None or len(image.space) != 3:
        return None
    return voxel_sizes(image.affine)


def print_check(check: TrustCheck) -> None:
    """Print the verdicts as a table, with the map to use below."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("map", "verdict", *(v.title for v in check.maps[0].verdicts.values()))
    for item in check.maps:
        words = [_styled(verdict.word) for verdict in item.verdicts.values()]
        verdict = _styled(item.word).append(item.remark, "dim")
        table.add_row(Text(item.name), verdict, *words)
    console = Console(file=stdout(), width=None if stdout().isatty() else _WIDE)
    echo(f"checked: {check.checked}")
    console.print(table)
    for item in check.maps:
        against = [v for v in item.verdicts.values() if v.word == item.word]
        if item.word in _AGAINST and against:
            echo(f"{item.name}: {against[0].sentence}")
    for share in check.layers:
        if not share.is_used:
            echo(f"layer {share}")
    echo(check.advice)
    for remark in check.remarks:
        echo(remark)


_WIDE = 200  # columns, where the output is no terminal
_AGAINST = ("fails", "no better than the image")
_STYLES = {"passes": "green", "fails": "bold red", "no better than the image": "red"}


def _styled(word: str) -> Text:
    from rich.text import Text

    return Text(word, _STYLES.get(word, "dim"))
