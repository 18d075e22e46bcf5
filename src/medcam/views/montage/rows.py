"""The rows of a montage: slices of a volume, image beside map, or a tile for each map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medcam.views.montage.panels import Panel, Row, Style, short_number
from medcam.views.montage.slices import Cut, crop_of, letters_of, position_of, stored_index
from medcam.views.scene.grey_windows import is_ct
from medcam.views.scene.grid import Grid, Plane
from medcam.views.scene.values import Scene, SceneMap

Box = tuple[int, int, int, int]


class Drawing:
    """The rows of a case; keeps what is looked at more than once.

    Args:
        case: The case.
        grid: The grid that it is shown on.
        style: What is the same in all panels.
        bare: Whether there is no image to show.
    """

    def __init__(self, case: Scene, grid: Grid, style: Style, bare: bool) -> None:
        self.case, self.grid, self.style, self.bare = case, grid, style, bare
        self.image = grid.arrange(case.image)
        self.maps = [grid.arrange(one.values) for one in case.maps]
        self.tops = [one.scale_top for one in case.maps]
        self.mask = None if case.mask is None else grid.arrange(case.mask)

    def slices(self, cuts: list[Cut], box: Box) -> list[Row]:
        """A row of the image, and one for each map."""
        rows: list[Row] = [] if self.bare else [self._row("image", "Image", cuts, box)]
        for number, one in enumerate(self.case.maps):
            heading = _heading(one)
            rows.append(self._row(f"map:{number}", heading, cuts, box, number, titled=not rows))
        return rows

    def pictures(self, cut: Cut, box: Box) -> list[Row]:
        """A row for each map: image, map and overlay."""
        rows = []
        for number, one in enumerate(self.case.maps):
            panels = [self._panel(f"map:{number}", "map", cut, box, number, alone=True)]
            if not self.bare:
                panels.insert(0, self._panel(f"image:{number}", "image", cut, box))
                panels.append(self._panel(f"overlay:{number}", "overlay", cut, box, number))
            if number == 0 and not self.bare:
                panels = [replace(one, title=one.label.title()) for one in panels]
            line = self._line() if number == 0 else ""
            rows.append(self._scaled(number, _heading(one) + line, panels))
        return rows

    def tiles(self, cut: Cut, box: Box) -> list[Row]:
        """The image, and a tile for each map: a row for each method that has several.

        Methods of one map each stand side by side, signed ones in a row of their own.
        """
        methods = [one.method for one in self.case.maps]
        alone = len(set(methods)) == len(methods)
        keys = [one.signed if alone else one.method for one in self.case.maps]
        return [
            self._tiled([n for n, own in enumerate(keys) if own == key], cut, box, first=not row)
            for row, key in enumerate(dict.fromkeys(keys))
        ]

    def _tiled(self, numbers: list[int], cut: Cut, box: Box, *, first: bool) -> Row:
        maps = [self.case.maps[n] for n in numbers]
        shared = _shared(maps)
        if self.case.is_volume:
            shared += [cut.plane.name.lower(), position_of(self.grid, cut)]
        heading = " · ".join(shared) + (self._line() if first else "")
        single = len(maps) == 1
        panels = []
        for n, one in zip(numbers, maps, strict=True):
            panel = self._panel(f"map:{n}", _heading(one), cut, box, n)
            name = " · ".join(part for part in _parts(one) if part not in shared)
            strongest = f"1 = {short_number(self.tops[n])}" if one.values.any() else "all zero"
            title = f"{name}\n{strongest}"
            panels.append(panel if single else replace(panel, title=title, scale=self.tops[n]))
        if not self.bare:
            image = self._panel("image", "image", cut, box)
            panels.insert(0, image if single else replace(image, title="image\n "))
        if single:
            return self._scaled(numbers[0], heading, panels)
        beyond = any(self._beyond(n) for n in numbers)
        return Row("", heading, panels, 1.0, maps[0].signed, beyond, "share of own scale")

    def box(self, plane: Plane, cuts: list[Cut]) -> Box:
        """The rows and columns to show: of a volume, without margins where nothing is."""
        height, width = (self.grid.shape[axis] for axis in (plane.down, plane.across))
        if self.bare or not self.case.is_volume:
            return 0, height, 0, width
        low, high = self.style.window
        greys = [(cut.of(self.image).astype(np.float64) - low) / (high - low) for cut in cuts]
        strong = [
            cut.of(values) / top
            for values, top in zip(self.maps, self.tops, strict=True)
            for cut in cuts
        ]
        masks = [] if self.mask is None else [cut.of(self.mask) for cut in cuts]
        return crop_of([np.nan_to_num(grey) for grey in greys], strong, masks)

    def _row(
        self, gid: str, heading: str, cuts: list[Cut], box: Box,
        number: int | None = None, *, titled: bool = True,
    ) -> Row:  # fmt: skip
        what = "image" if number is None else heading
        panels = [self._panel(gid, what, cut, box, number) for cut in cuts]
        names = [position_of(self.grid, cut) for cut in cuts]
        if titled:
            heading = f"{heading} · {cuts[0].plane.name.lower()}"
            panels = [replace(p, title=name) for p, name in zip(panels, names, strict=True)]
        if number is None:
            return Row("", f"{heading} · {self._said()}", panels)
        return self._scaled(number, heading, panels)

    def _scaled(self, number: int, heading: str, panels: Sequence[Panel]) -> Row:
        """A row with the scale of its map."""
        one = self.case.maps[number]
        beyond = self._beyond(number)
        # the method stands in the heading
        units = "raw units" if one.units == f"raw {one.method} units" else one.units
        return Row("", heading, panels, self.tops[number], one.signed, beyond, units)

    def _beyond(self, number: int) -> bool:
        """Whether a map has values beyond its strongest colour."""
        return bool(np.abs(self.case.maps[number].values).max() > self.tops[number] * (1 + 1e-6))

    def _panel(
        self, gid: str, what: str, cut: Cut, box: Box,
        number: int | None = None, *, alone: bool = False,
    ) -> Panel:  # fmt: skip
        plane = cut.plane
        label, name = what, gid
        if self.case.is_volume:
            label = f"{what}, {plane.name.lower()}, {position_of(self.grid, cut)}"
            name = f"{gid}:{plane.name.lower()}:{stored_index(self.grid, cut)}"
        return Panel(
            name,
            label,
            "",
            (self.grid.spacing[plane.across], self.grid.spacing[plane.down]),
            box,
            grey=None if self.bare or alone else cut.of(self.image),
            values=None if number is None else cut.of(self.maps[number]),
            mask=None if self.mask is None else cut.of(self.mask),
            letters=letters_of(self.grid, plane) if self.case.is_volume else None,
        )

    def _said(self) -> str:
        low, high = self.style.window
        unit = " HU" if is_ct(self.case.image, modality=self.case.modality) else ""
        return f"grey from {short_number(low)} to {short_number(high)}{unit}{self._line()}"

    def _line(self) -> str:
        return "" if self.mask is None else " · white line: mask"


def _parts(one: SceneMap) -> list[str]:
    """What a map is of: its method, its layer, its target."""
    return [part for part in (one.method, one.layer, one.target) if part]


def _heading(one: SceneMap) -> str:
    layer = "" if one.layer is None else f"layer {one.layer}"
    return " · ".join(part for part in (one.method, layer, one.target) if part)


def _shared(maps: Sequence[SceneMap]) -> list[str]:
    """What is the same of several maps, and need not be said of each."""
    return [part for part in _parts(maps[0]) if all(part in _parts(one) for one in maps)]
