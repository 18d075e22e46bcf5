"""Options with one number per axis: ``--shape 1 1 96 96 96``."""

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
        """Join those numbers to one value before the options are parsed."""
        return super().parse_args(ctx, joined(args, _SEVERAL))


def joined(args: Sequence[str], options: Iterable[str]) -> list[str]:
    """Return the arguments with the numbers after each option joined by commas.

    Example:
        >>> joined(["--shape", "1", "96", "96", "--json"], ["--shape"])
        ['--shape', '1,96,96', '--json']
    """
    names, rest, result = frozenset(options), list(args), list[str]()
    while rest:
        result.append(rest.pop(0))
        if result[-1] in names:
            numbers = list(itertools.takewhile(_NUMBER.fullmatch, rest))
            if len(numbers) > 1:
                result.append(",".join(numbers))
                del rest[: len(numbers)]
    return result


def extents(text: str, option: str) -> tuple[int, ...]:
    """Return the positive integers of such an option, separated by commas, spaces or ``x``.

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
