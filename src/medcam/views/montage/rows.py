"""Build the rows of a montage: slices of a volume, image beside map, or a tile for each map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medcam.views.montage.panels import Panel, PanelRow, Style, View
from medcam.views.montage.slices import (
    Cut,
    crop_margins,
    describe_position,
    side_letters,
    stored_index,
)
from medcam.views.scene.grey_windows import is_ct
from medcam.views.scene.grid import Grid, Plane
from medcam.views.scene.values import Scene, SceneMap
from medcam.views.texts import short_number


class RowBuilder:
    """Builder of the rows of a montage; caches the scene's arrays on the grid.

    Args:
        scene: The scene.
        grid: The grid that it is shown on.
        style: The style that all panels share.
        maps_only: Whether the maps are drawn without the image.
    """

    def __init__(self, scene: Scene, grid: Grid, style: Style, maps_only: bool) -> None:
        self.scene, self.grid, self.style, self.maps_only = scene, grid, style, maps_only
        self.image = grid.arrange(scene.image)
        self.maps = [grid.arrange(scene_map.values) for scene_map in scene.maps]
        self.tops = [scene_map.scale_top for scene_map in scene.maps]
        self.mask = None if scene.mask is None else grid.arrange(scene.mask)

    def slice_rows(self, cuts: list[Cut], view: View) -> list[PanelRow]:
        """Return a row of slices of the image, and one of each map."""
        rows: list[PanelRow] = [] if self.maps_only else [self._slice_row(cuts, view, titled=True)]
        for number in range(len(self.maps)):
            rows.append(self._slice_row(cuts, view, number, titled=not rows))
        return rows

    def picture_rows(self, cut: Cut, view: View) -> list[PanelRow]:
        """Return a row for each map: image, map and overlay."""
        rows = []
        for number, scene_map in enumerate(self.scene.maps):
            panels = [self._panel(f"map:{number}", "map", cut, view, number, over_image=False)]
            if not self.maps_only:
                panels.insert(0, self._panel(f"image:{number}", "image", cut, view))
                panels.append(self._panel(f"overlay:{number}", "overlay", cut, view, number))
            if number == 0 and not self.maps_only:
                panels = [replace(panel, title=panel.label.title()) for panel in panels]
            legend = self._mask_legend() if number == 0 else ""
            rows.append(self._scaled_row(number, _heading(scene_map) + legend, panels))
        return rows

    def tile_rows(self, cut: Cut, view: View) -> list[PanelRow]:
        """Return rows of tiles: the image, and one tile for each map.

        There is a row for each method. If each method has one map only, they share a row, but
        signed and unsigned maps do not, because a row has one colour bar.
        """
        methods = [scene_map.method for scene_map in self.scene.maps]
        one_map_each = len(set(methods)) == len(methods)
        keys = [
            scene_map.signed if one_map_each else scene_map.method for scene_map in self.scene.maps
        ]
        groups = [
            [number for number, key in enumerate(keys) if key == row_key]
            for row_key in dict.fromkeys(keys)
        ]
        return [
            self._tile_row(numbers, cut, view, first=index == 0)
            for index, numbers in enumerate(groups)
        ]

    def view(self, plane: Plane, cuts: list[Cut]) -> View:
        """Return the part of the slices to show: of a volume, without its empty margins."""
        height, width = (self.grid.shape[axis] for axis in (plane.down, plane.across))
        if self.maps_only or not self.scene.is_volume:
            return 0, height, 0, width
        low, high = self.style.window
        greys = [(cut.of(self.image).astype(np.float64) - low) / (high - low) for cut in cuts]
        scaled_maps = [
            cut.of(values) / top
            for values, top in zip(self.maps, self.tops, strict=True)
            for cut in cuts
        ]
        masks = [] if self.mask is None else [cut.of(self.mask) for cut in cuts]
        return crop_margins([np.nan_to_num(grey) for grey in greys], scaled_maps, masks)

    def _slice_row(
        self, cuts: list[Cut], view: View, number: int | None = None, *, titled: bool
    ) -> PanelRow:
        """Return a row of slices of one map, or of the image if the number is None."""
        gid, heading, label = "image", "Image", "image"
        if number is not None:
            gid, heading = f"map:{number}", _heading(self.scene.maps[number])
            label = heading
        panels = [self._panel(gid, label, cut, view, number) for cut in cuts]
        if titled:
            heading = f"{heading} · {cuts[0].plane.name.lower()}"
            panels = [
                replace(panel, title=describe_position(self.grid, cut))
                for panel, cut in zip(panels, cuts, strict=True)
            ]
        if number is None:
            return PanelRow("", f"{heading} · {self._image_legend()}", panels)
        return self._scaled_row(number, heading, panels)

    def _tile_row(self, numbers: list[int], cut: Cut, view: View, *, first: bool) -> PanelRow:
        """Return one row of tiles; what its maps have in common stands in the heading."""
        maps = [self.scene.maps[number] for number in numbers]
        heading_parts = _shared_parts(maps)
        if self.scene.is_volume:
            heading_parts += [cut.plane.name.lower(), describe_position(self.grid, cut)]
        heading = " · ".join(heading_parts) + (self._mask_legend() if first else "")
        panels = [
            self._panel(f"map:{number}", _heading(scene_map), cut, view, number)
            for number, scene_map in zip(numbers, maps, strict=True)
        ]
        image = None if self.maps_only else self._panel("image", "image", cut, view)
        if len(maps) == 1:
            panels = panels if image is None else [image, *panels]
            return self._scaled_row(numbers[0], heading, panels)
        tiles = [
            replace(panel, title=self._tile_title(number, heading_parts), scale=self.tops[number])
            for number, panel in zip(numbers, panels, strict=True)
        ]
        if image is not None:  # its second title line is blank, so that all tiles are aligned
            tiles.insert(0, replace(image, title="image\n "))
        clipped = any(self._is_clipped(number) for number in numbers)
        return PanelRow("", heading, tiles, 1.0, maps[0].signed, clipped, "share of own scale")

    def _tile_title(self, number: int, heading_parts: Sequence[str]) -> str:
        """Return what the heading does not say of a map, and the value of its strongest colour."""
        scene_map = self.scene.maps[number]
        name = " · ".join(part for part in _parts(scene_map) if part not in heading_parts)
        strongest = (
            f"1 = {short_number(self.tops[number])}" if scene_map.values.any() else "all zero"
        )
        return f"{name}\n{strongest}"

    def _scaled_row(self, number: int, heading: str, panels: Sequence[Panel]) -> PanelRow:
        """Return a row with the colour bar of one map."""
        scene_map = self.scene.maps[number]
        units = scene_map.units
        if units == f"raw {scene_map.method} units":  # the heading names the method already
            units = "raw units"
        clipped = self._is_clipped(number)
        return PanelRow("", heading, panels, self.tops[number], scene_map.signed, clipped, units)

    def _is_clipped(self, number: int) -> bool:
        """Return whether a map has values beyond its strongest colour."""
        return bool(np.abs(self.scene.maps[number].values).max() > self.tops[number] * (1 + 1e-6))

    def _panel(
        self, gid: str, label: str, cut: Cut, view: View,
        number: int | None = None, *, over_image: bool = True,
    ) -> Panel:  # fmt: skip
        """Return the panel of one slice: the image, and the map of the number if it is not None."""
        plane = cut.plane
        if self.scene.is_volume:
            label = f"{label}, {plane.name.lower()}, {describe_position(self.grid, cut)}"
            gid = f"{gid}:{plane.name.lower()}:{stored_index(self.grid, cut)}"
        return Panel(
            gid,
            label,
            "",
            (self.grid.spacing[plane.across], self.grid.spacing[plane.down]),
            view,
            grey=cut.of(self.image) if over_image and not self.maps_only else None,
            values=None if number is None else cut.of(self.maps[number]),
            mask=None if self.mask is None else cut.of(self.mask),
            letters=side_letters(self.grid, plane) if self.scene.is_volume else None,
        )

    def _image_legend(self) -> str:
        low, high = self.style.window
        unit = " HU" if is_ct(self.scene.image, modality=self.scene.modality) else ""
        return f"grey from {short_number(low)} to {short_number(high)}{unit}{self._mask_legend()}"

    def _mask_legend(self) -> str:
        return "" if self.mask is None else " · white line: mask"


def _parts(scene_map: SceneMap) -> list[str]:
    """Return a map's method, layer and target, without those it does not have."""
    return [part for part in (scene_map.method, scene_map.layer, scene_map.target) if part]


def _heading(scene_map: SceneMap) -> str:
    layer = "" if scene_map.layer is None else f"layer {scene_map.layer}"
    return " · ".join(part for part in (scene_map.method, layer, scene_map.target) if part)


def _shared_parts(maps: Sequence[SceneMap]) -> list[str]:
    """Return the parts that all maps have in common."""
    return [part for part in _parts(maps[0]) if all(part in _parts(other) for other in maps)]
