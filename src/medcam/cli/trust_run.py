"""A check of the user's model: what ``medcam check`` and ``medcam explain --check`` run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcam.cli.image_run import ReadyImage
from medcam.cli.numbers import extents
from medcam.cli.options import preprocessed, read_image_files
from medcam.cli.output import echo, stdout

if TYPE_CHECKING:
    from torch import Tensor

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
    return check(
        ready.network.to(ready.device),
        images if size is not None else images.to(ready.device),
        target=ready.target, output=settings.selector, spacing=spacing_of(ready.original),
        roi_size=size, progress=progress, **windows, **options,
    )  # fmt: skip


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
        table.add_row(Text(item.name), _styled(item.word), *words)
    console = Console(file=stdout(), width=None if stdout().isatty() else _WIDE)
    console.print(table)
    for share in check.layers:
        if not share.is_used:
            echo(f"layer {share}")
    echo(check.reason if check.recommended is None else check.recommended.sentence)
    for remark in check.remarks:
        echo(remark)


_WIDE = 200  # columns, where the output is no terminal
_STYLES = {"passes": "green", "fails": "bold red", "no better than the image": "red"}


def _styled(word: str) -> Any:
    from rich.text import Text

    return Text(word, _STYLES.get(word, "dim"))
