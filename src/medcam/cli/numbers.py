"""Options that take as many numbers as there are axes: ``--shape 1 1 96 96 96``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from typer.core import TyperCommand

from medcam.errors import InputError

_SEVERAL = frozenset({"--shape", "--roi"})
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


class NumbersCommand(TyperCommand):
    """A command whose ``--shape`` and ``--roi`` take all the numbers that follow."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Joins those numbers to one value before the options are read."""
        return super().parse_args(ctx, joined(args, _SEVERAL))


def joined(args: Sequence[str], options: Iterable[str]) -> list[str]:
    """The arguments, with the numbers after each of the options in one, between commas.

    Example:
        >>> joined(["--shape", "1", "96", "96", "--json"], ["--shape"])
        ['--shape', '1,96,96', '--json']
    """
    names, rest, found = frozenset(options), list(args), list[str]()
    while rest:
        found.append(rest.pop(0))
        if found[-1] in names:
            numbers = list(itertools.takewhile(_NUMBER.fullmatch, rest))
            if len(numbers) > 1:
                found.append(",".join(numbers))
                del rest[: len(numbers)]
    return found


def extents(text: str, option: str) -> tuple[int, ...]:
    """The numbers of such an option: positive whole ones, between commas, spaces or ``x``.

    Raises:
        InputError: Something else.

    Example:
        >>> extents("1,1,96,96", "--shape"), extents("96x96", "--roi")
        ((1, 1, 96, 96), (96, 96))
    """
    parts = re.split(r"\s*[,x]\s*|\s+", text.strip())
    if not all(re.fullmatch(r"[1-9]\d*", part) for part in parts):
        raise InputError(
            f"{option} {text!r} is not a shape: give positive whole numbers, {option} 96 96 96."
        )
    return tuple(int(part) for part in parts)
