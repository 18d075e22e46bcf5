"""Gallery: square tiles of one size, undistorted pictures, reproducible bytes."""

from __future__ import annotations

from itertools import combinations
from operator import itemgetter

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from medcam.demo.gallery import GalleryRow, GalleryTile, draw_gallery, save_gallery
from medcam.demo.gallery_table import ScoreTable

TABLE = ScoreTable(
    ["2D classification", "3D segmentation"],
    ["WIoA", "Mass"],
    [("Grad-CAM", [0.25, 0.5, 0.75, float("nan")]), ("Guided Backpropagation", [1, 0, 0.125, 0.2])],
    ("By chance", [0.01, 0.02, 0.03, 0.04]),
    ["How to read it."],
)


def image(*shape):
    return np.random.default_rng(0).random(shape)


def rows(mask=True):
    """A wide, a high and an anisotropic image, each with a positive and a signed map."""
    gallery_rows = []
    for height, width, aspect in ((40, 60, 1.0), (60, 40, 1.0), (20, 40, 2.0)):
        values = image(height, width)
        truth = np.zeros((height, width), bool)
        truth[5:12, 8:20] = True
        tiles = [GalleryTile("Grad-CAM", values, False), GalleryTile("Guided", values - 0.5, True)]
        gallery_rows.append(
            GalleryRow(
                f"{height}", values, truth if mask else None, tiles, "a note", aspect, ("R", "L")
            )
        )
    return gallery_rows


def pictures(figure, columns=3):
    return [axes for axes in figure.axes[: 3 * columns] if axes.images]


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(float)


def test_the_same_rows_make_the_same_bytes_whatever_the_users_settings(tmp_path):
    first = save_gallery(tmp_path / "a.png", draw_gallery(rows(), TABLE)).read_bytes()
    settings = {
        "font.size": 30,
        "axes.facecolor": "red",
        "savefig.bbox": "tight",
        "lines.color": "b",
    }
    with mpl.rc_context({**settings, "savefig.facecolor": "black", "font.family": "monospace"}):
        second = save_gallery(tmp_path / "b.png", draw_gallery(rows(), TABLE)).read_bytes()
    assert first == second
    with Image.open(tmp_path / "a.png") as picture:
        assert set(picture.info) <= {"dpi"}
        assert picture.info["dpi"][0] == pytest.approx(180, abs=0.1)
        assert picture.convert("RGB").getpixel((2, 2)) == (255, 255, 255)


def test_tiles_are_squares_of_one_size():
    figure = draw_gallery(rows(), TABLE)
    pixels(figure)  # the positions of the axes are final after drawing
    sizes = np.array([axes.get_window_extent().size for axes in pictures(figure)])
    assert len(sizes) == 9
    np.testing.assert_allclose(sizes, 360, atol=0.5)


def test_pictures_are_whole_and_undistorted():
    figure = draw_gallery(rows())
    pixels(figure)  # the positions of the axes are final after drawing
    for number, axes in enumerate(pictures(figure)):
        height, width = axes.images[0].get_array().shape[:2]
        corners = axes.transData.transform([(-0.5, height - 0.5), (width - 0.5, -0.5)])
        wide, high = corners[1] - corners[0]
        aspect = (1.0, 1.0, 2.0)[number // 3]
        assert high / wide == pytest.approx(aspect * height / width)
        box = axes.get_window_extent()
        assert max(wide, high) == pytest.approx(box.width, abs=0.5)
        np.testing.assert_allclose(corners.mean(0), [(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])


def test_the_ground_truth_is_a_white_line_where_the_mask_ends():
    dark = np.zeros((20, 20))
    dark[0, 0] = 1.0
    truth = np.zeros((20, 20), bool)
    truth[5:15, 5:15] = True
    lined, plain = (
        pixels(draw_gallery([GalleryRow("a", dark, mask, [GalleryTile("b", dark, False)])]))
        for mask in (truth, None)
    )
    changed = np.abs(lined - plain).max(-1)
    figure = draw_gallery([GalleryRow("a", dark, truth, [GalleryTile("b", dark, False)])])
    pixels(figure)  # the positions of the axes are final after drawing
    for axes in figure.axes[:2]:
        at = axes.transData.transform([(4.5, 10), (10, 10), (2, 10)]).round().astype(int)
        values = [changed[changed.shape[0] - y - 3 : changed.shape[0] - y + 3, x - 3 : x + 3].max()
                  for x, y in at]  # fmt: skip
        assert values[0] > 150
        assert values[1:] == [0, 0]


def test_a_single_large_value_does_not_fade_a_signed_map():
    values = np.ones((20, 20))
    values[0, 0] = 1e6
    figure = draw_gallery(
        [GalleryRow("a", np.zeros((20, 20)), None, [GalleryTile("b", values, True)])]
    )
    red, _, blue = figure.axes[1].images[0].get_array()[10, 10].astype(int)
    assert red - blue > 60


def test_positive_maps_and_signed_maps_have_a_key_of_their_own():
    def keys(*signed):
        tiles = [GalleryTile("b", image(9, 9), value) for value in signed]
        figure = draw_gallery([GalleryRow("a", image(9, 9), None, tiles)])
        return [image.get_cmap().name for image in figure.axes[-1].images]

    assert keys(False) == ["inferno"]
    assert keys(True) == ["coolwarm"]
    assert keys(False, True) == ["inferno", "coolwarm"]


def test_letters_of_the_sides_are_at_their_edges():
    figure = draw_gallery(rows())
    placed = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts}
    assert placed["R"] < 0.1
    assert placed["L"] > 0.9


def test_the_table_holds_every_number_under_its_title():
    axes = draw_gallery(rows(), TABLE).axes[-1]
    at = [(text.get_text(), *text.get_position()) for text in axes.texts]

    def line(y):
        return [(text, x) for text, x, text_y in sorted(at, key=itemgetter(1)) if text_y == y]

    lines = [line(y) for y in sorted({y for _, _, y in at})]
    texts = [[text for text, _ in line] for line in lines]
    assert texts == [
        ["2D classification", "3D segmentation"],
        ["WIoA", "Mass", "WIoA", "Mass"],
        ["Grad-CAM", "0.25", "0.50", "0.75", "–"],
        ["Guided Backpropagation", "1.00", "0.00", "0.12", "0.20"],
        ["By chance", "0.01", "0.02", "0.03", "0.04"],
        ["How to read it."],
    ]
    titles = [x for _, x in lines[1]]
    for row in lines[2:5]:
        assert [x for _, x in row[1:]] == titles


def test_a_row_of_another_length_is_refused():
    short = ScoreTable(["a"], ["x", "y"], [("b", [0.5])])
    with pytest.raises(ValueError, match="shorter"):
        draw_gallery(rows(), short)


def test_no_text_overlaps_another_or_is_cut_off():
    table = ScoreTable(
        ["2D classification", "2D segmentation", "3D segmentation"],
        ["WIoA", "Mass", "Pointing"],
        [("Guided Backpropagation", [0.5] * 9)] * 4,
        ("By chance", [0.1] * 9),
        ["Shares of a map inside the ground truth. WIoA: of what is above a threshold; mass: all."],
    )
    names = ("Guided Backpropagation", "Grad-CAM", "Guided Grad-CAM", "Grad-CAM++")
    tiles = [GalleryTile(name, image(9, 9), number % 2 == 0) for number, name in enumerate(names)]
    row = GalleryRow(
        "2D classification", image(9, 9), image(9, 9) > 0.5, tiles, "Where are the lungs?"
    )
    figure = draw_gallery([row, row], table)
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [text for axes in figure.axes for text in (*axes.texts, axes.title) if text.get_text()]
    boxes = [text.get_window_extent(renderer) for text in texts]
    for box in boxes:
        assert figure.bbox.contains(box.x0, box.y0)
        assert figure.bbox.contains(box.x1, box.y1)
    assert len(boxes) > 60
    for first, second in combinations(boxes, 2):
        assert not first.overlaps(second)
