"""The montage: positions of slices, the patient's sides, colours and scales, and no overlaps."""

from __future__ import annotations

import io
import subprocess
import sys

import matplotlib as mpl
import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

import medcam
from medcam.errors import InputError, MaskError, UnknownNameError
from medcam.files import save_nifti
from support.nets import Classifier, UNet, image

SHAPE = (12, 15, 9)
RAS = np.array([[1.5, 0, 0, -8], [0, 1.0, 0, -3], [0, 0, 3.0, -7], [0, 0, 0, 1]])
NOISE = np.random.default_rng(0).random(SHAPE).astype(np.float32) + 0.5
ORIENTATIONS = ["RAS", "LPS", "PIR", "SAL", "ILA", "ASR"]


def stored_as(codes, ras):
    """The same volume in another order of axes, and its affine."""
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(tuple(codes)))
    return apply_orientation(ras, turn), RAS @ inv_ornt_aff(turn, ras.shape)


def block(*, value=1.0, at=((4, 7), (5, 9), (2, 6)), shape=SHAPE):
    values = np.zeros(shape, np.float32)
    values[tuple(slice(*ends) for ends in at)] = value
    return values


def panels(figure, start):
    return [axes for axes in figure.axes if (axes.get_gid() or "").startswith(start)]


def artist(axes, gid):
    return next(one for one in [*axes.images, *axes.collections] if one.get_gid() == gid)


def drawn_texts(figure):
    """Titles, letters, headings, and the numbers and names of colour bars."""
    found = [*figure.texts]
    for axes in figure.axes:
        found += [axes.title, *axes.texts]
        if axes.axison:
            low, high = sorted(axes.get_ylim())
            ticks = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
            found += [axes.yaxis.label, *(text for at, text in ticks if low <= at <= high)]
    return [text for text in found if text.get_text()]


def texts(figure):
    return [text.get_text() for text in drawn_texts(figure)]


def png(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def explained(method="gcam", layer="auto", target=None, dims=3, batch=1, net=None):
    torch.manual_seed(1)
    net = (net or Classifier)(dims).eval()
    return medcam.explain(net, image(dims, batch), method=method, layer=layer, target=target)


# ----------------------------------------------------------------------------- the figure


def test_the_same_maps_give_the_same_bytes():
    explanation = explained(method=["gcam", "gbp"])
    first, second = (png(medcam.montage(explanation, affine=RAS)) for _ in range(2))
    assert first == second
    assert first != png(medcam.montage(explanation, affine=RAS, opacity=0.3))


def test_neither_pyplot_nor_its_settings_are_touched():
    code = (
        "import sys, matplotlib, numpy as np, medcam\n"
        "before = dict(matplotlib.rcParams)\n"
        "figure = medcam.montage(np.ones((4, 5, 6)), np.ones((4, 5, 6)))\n"
        "figure.savefig('/dev/null', format='png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert dict(matplotlib.rcParams) == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603  the code is above


def test_settings_of_the_user_do_not_turn_images_around():
    values = block()
    plain = medcam.montage(values, NOISE, affine=RAS, slices=2)
    with mpl.rc_context({"image.origin": "lower", "image.cmap": "jet", "text.color": "red"}):
        styled = medcam.montage(values, NOISE, affine=RAS, slices=2)
    assert png(plain) == png(styled)


def test_it_can_be_restyled():
    figure = medcam.montage(explained(method=["gcam", "gbp"]), affine=RAS, slices=2)
    assert isinstance(figure.canvas, FigureCanvasAgg)
    first, second = panels(figure, "map:0:")
    assert artist(first, "map").norm is artist(second, "map").norm  # one scale for a row
    before = png(figure)
    artist(first, "map").set_clim(0, 1e6)
    assert artist(second, "map").norm.vmax == 1e6
    after = png(figure)
    for axes in panels(figure, "map:1:"):
        artist(axes, "map").set_cmap("viridis")
    assert len({before, after, png(figure)}) == 3


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"plane": "all", "slices": 4},
        {"columns": 2, "title": "A title"},
        {"slices": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("dims", [2, 3])
def test_nothing_lies_over_another_or_outside(options, dims):
    explanation = explained(method=["gcam", "gbp", "ggcam"], target="all", dims=dims)
    mask = torch.zeros(1, 1, *[12] * dims)
    mask[..., 3:6, 3:8] = 1
    figure = medcam.montage(
        explanation, affine=RAS if dims == 3 else None, mask=mask, **{"target": 2, **options}
    )
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    width, height = figure.canvas.get_width_height()
    boxes = [axes.get_window_extent(renderer) for axes in figure.axes]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
    lines = []
    for text in drawn_texts(figure):
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
        if not (text.get_gid() or "").startswith("side:"):  # letters lie in their panels
            lines.append((text, box))
    for number, (text, box) in enumerate(lines):
        for other, place in lines[number + 1 :]:
            assert not box.overlaps(place), (text, other)
        assert not any(box.overlaps(axes) for axes in boxes), text


def test_any_name_is_written_as_it_is():
    net = torch.nn.Sequential()
    name = "$x_{</i>%s\u202e" + "long" * 60
    net.add_module(name, torch.nn.Conv2d(1, 2, 3))
    net.add_module("pool", torch.nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", torch.nn.Flatten())
    explanation = medcam.explain(net, torch.rand(1, 1, 9, 9), layer=name, target=1)
    figure = medcam.montage(explanation, title="$\\frac{a$ \n b")
    said = texts(figure)
    assert "$\\frac{a$ \ufffd b" in said
    (heading,) = [text for text in said if text.startswith("Grad-CAM · layer $x_{</i>%s\ufffd")]
    assert heading.endswith("longlong · class 1")
    assert len(heading) < 200
    png(figure)


# ----------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_the_patients_right_is_on_the_left_however_it_is_stored(codes):
    """A block in the corner of right, anterior and superior."""
    ras = NOISE.copy()
    corner = block(value=9.0, at=((9, 12), (11, 15), (6, 9)))
    values, affine = stored_as(codes, ras + corner)
    shown, _ = stored_as(codes, corner)
    wanted = {
        "axial": ("RLAP", (corner[:, :, 7] > 0).T[::-1, ::-1]),
        "coronal": ("RLSI", (corner[:, 13, :] > 0).T[::-1, ::-1]),
        "sagittal": ("APSI", (corner[10, :, :] > 0).T[::-1, ::-1]),
    }
    for plane, (letters, picture) in wanted.items():
        figure = medcam.montage(shown, values, affine=affine, plane=plane, slices=1)
        (axes,) = panels(figure, "map:0:")
        np.testing.assert_array_equal(artist(axes, "map").get_array() > 0, picture)
        np.testing.assert_array_equal(artist(axes, "image").get_array() > 5, picture)
        assert picture[0, 0]
        assert not picture[-1, -1]
        (first,) = panels(figure, "image:")
        sides = {}
        for text in first.texts:
            x, y = text.get_position()
            sides["l" if x < 0.3 else "r" if x > 0.7 else "t" if y > 0.7 else "b"] = text.get_text()
        assert "".join(sides[side] for side in "lrtb") == letters


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_slices_say_where_they_are(codes):
    values, affine = stored_as(codes, block())
    figure = medcam.montage(values, values, affine=affine, plane="axial", slices=4)
    axis = [i for i, code in enumerate(codes) if code in "SI"][0]  # noqa: RUF015  # it is one
    for axes in panels(figure, "image:"):
        index = int(axes.get_gid().split(":")[2])
        at = affine[2] @ np.array([*np.eye(3)[axis] * index, 1.0])
        assert axes.get_title() == f"{'S' if at > -0.05 else 'I'} {abs(at):.1f} mm"
        assert axes.get_label() == f"image, axial, {axes.get_title()}"
        stored = np.take(values, index, axis)
        assert (artist(axes, "image").get_array() > 0).sum() == (stored > 0).sum()
    assert len(panels(figure, "image:")) == 4


def test_positions_in_oblique_volumes_are_along_the_normal():
    angle = np.radians(20)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ RAS
    figure = medcam.montage(block(), NOISE, affine=affine, slices=[2, 5])
    normal = turn[:3, 2]
    wanted = [float((affine @ [3, 4, index, 1])[:3] @ normal) for index in (2, 5)]
    found = [axes.get_title() for axes in panels(figure, "image:")]
    minus = "\N{MINUS SIGN}"
    assert found == [f"position {at:.1f} mm, oblique".replace("-", minus) for at in wanted]


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_voxels_have_their_true_proportions(plane):
    figure = medcam.montage(block(), NOISE, affine=RAS, plane=plane, slices=3)
    width, height = figure.get_size_inches()
    sizes = {"axial": (12 * 1.5, 15 * 1.0), "coronal": (12 * 1.5, 9 * 3.0)}
    across, down = sizes.get(plane, (15 * 1.0, 9 * 3.0))
    for axes in panels(figure, "image:") + panels(figure, "map:"):
        box = axes.get_position()
        assert box.width * width / (box.height * height) == pytest.approx(across / down, rel=1e-6)
        assert artist(axes, "image").get_extent() == [0, across, down, 0]
        assert axes.get_xlim() == (0, across)


def test_planes_of_one_figure_have_one_scale():
    figure = medcam.montage(block(), NOISE, affine=RAS, plane="all", slices=2)
    width = figure.get_size_inches()[0]
    scales = {
        round(axes.get_position().width * width / np.ptp(axes.get_xlim()), 6)
        for axes in panels(figure, "image:")
    }
    assert len(scales) == 1
    assert [axes.get_gid().split(":")[1] for axes in panels(figure, "image:")] == [
        "axial", "axial", "coronal", "coronal", "sagittal", "sagittal",
    ]  # fmt: skip


def test_thick_slices_are_drawn_in_their_own_plane():
    for thick, plane in ((0, "sagittal"), (1, "coronal"), (2, "axial")):
        affine = np.diag([*np.where(np.arange(3) == thick, 5.0, 1.0), 1.0])
        figure = medcam.montage(block(), NOISE, affine=affine, slices=2)
        assert all(axes.get_gid().split(":")[1] == plane for axes in panels(figure, "image:"))
    even = medcam.montage(block(), NOISE, affine=np.diag([1, 1.2, 1, 1]), slices=2)
    assert panels(even, "image:axial")


def test_what_is_not_known_is_not_shown():
    figure = medcam.montage(block(), NOISE, slices=3)
    assert [axes.get_title() for axes in panels(figure, "image:")] == ["k 2", "k 4", "k 5"]
    said = " ".join(texts(figure))
    assert "mm" not in said
    assert not any(axes.texts for axes in figure.axes)
    with pytest.raises(InputError, match="plane='coronal': the orientation of this volume"):
        medcam.montage(block(), NOISE, plane="coronal")


def test_slices_are_where_the_map_is():
    values = block(at=((3, 9), (3, 9), (10, 31)), shape=(12, 12, 60))
    noise = np.ones(values.shape)
    figure = medcam.montage(values, noise, affine=np.eye(4), slices=5)
    places = [int(axes.get_gid().split(":")[2]) for axes in panels(figure, "image:")]
    assert places == [11, 16, 20, 24, 29]
    values[5, 5, 45] = 50  # one strong voxel counts more than a large weak region
    (axes,) = panels(medcam.montage(values, noise, affine=np.eye(4), slices=1), "image:")
    assert axes.get_gid() == "image:axial:45"
    blank = medcam.montage(np.zeros((6, 6, 40)), np.ones((6, 6, 40)), affine=np.eye(4), slices=3)
    places = [int(axes.get_gid().split(":")[2]) for axes in panels(blank, "image:")]
    assert places == [1, 19, 37]  # nowhere: all over


def test_one_slice_of_several_maps_is_not_the_border_that_they_share():
    maps = []
    for start in (14, 16, 18):
        values = block(at=((3, 6), (3, 6), (start, start + 8)), shape=(9, 9, 40))
        values[..., 0] = 0.25 * values.max()
        values[..., 0][4, 4] = 3 * values.max()
        maps.append(values)
    figure = medcam.montage(maps, np.ones((9, 9, 40)), affine=np.eye(4), slices=1)
    (axes,) = panels(figure, "image")
    assert 14 <= int(axes.get_gid().split(":")[-1]) < 26


def test_a_map_of_zeros_is_said_to_be_one():
    one = block(at=((3, 6), (3, 6), (3, 6)), shape=(9, 9, 9))
    figure = medcam.montage([one, 0 * one], np.ones(one.shape), slices=1)
    assert [text for text in texts(figure) if "all zero" in text]
    assert len([text for text in texts(figure) if "1 = " in text]) == 1


def test_slices_of_several_maps_are_the_same_and_see_each():
    low, high = (block(at=((3, 6), (3, 6), ends), shape=(9, 9, 40)) for ends in ((3, 6), (33, 36)))
    figure = medcam.montage([low * 1e-9, high], np.ones((9, 9, 40)), affine=np.eye(4), slices=4)
    rows = [
        [axes.get_gid().rsplit(":", 1)[1] for axes in panels(figure, name)]
        for name in ("image:", "map:0:", "map:1:")
    ]
    assert rows[0] == rows[1] == rows[2]
    assert int(rows[0][0]) < 6
    assert int(rows[0][-1]) > 32


@pytest.mark.parametrize("codes", ["RAS", "LPI"])
def test_slices_can_be_named(codes):
    values, affine = stored_as(codes, block())
    figure = medcam.montage(values, values, affine=affine, slices=[6, 2])
    assert [axes.get_gid() for axes in panels(figure, "image")] == [
        "image:axial:6", "image:axial:2",
    ]  # fmt: skip
    first = artist(panels(figure, "image")[0], "image").get_array()
    assert (first > 0).sum() == (values[:, :, 6] > 0).sum()
    as_array = medcam.montage(values, values, affine=affine, slices=np.array([6, 2]))
    assert [axes.get_gid() for axes in as_array.axes] == [axes.get_gid() for axes in figure.axes]
    for wrong in ([9], [-1], [], [1.5], np.array([], int)):
        with pytest.raises(InputError, match="there are 9 along this axis"):
            medcam.montage(values, values, affine=affine, slices=wrong)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 3])
def test_values_that_are_not_finite_are_black(bad, channels):
    image = np.full((6, 8, channels), 0.5).squeeze()
    image[2, 3] = bad
    figure = medcam.montage(np.ones((6, 8)), image, window=(0.0, 1.0))
    drawn = artist(panels(figure, "image")[0], "image")
    shown = drawn.to_rgba(drawn.get_array()) if channels == 1 else drawn.get_array()
    assert (shown[2, 3, :3] == 0).all()
    assert (shown[2, 4, :3] > 0.4).all()


def test_dark_margins_are_out_of_view_but_not_lost():
    picture = np.zeros((40, 50, 6))
    picture[10:20, 30:40] = 1
    weak, strong = np.zeros_like(picture), np.zeros_like(picture)
    weak[12:14, 32:34], weak[0, 0] = 1, 0.1
    strong[12:14, 32:34], strong[0, 45] = 1, 0.9

    def view(values, **more):
        figure = medcam.montage(values, picture, affine=np.eye(4), slices=2, **more)
        axes = panels(figure, "map:0:")[0]
        assert artist(axes, "map").get_array().shape == (50, 40)
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        return left, right, top, bottom

    # columns from the patient's right: 40 - 20 to 40 - 10; rows from the front: 50 - 40 to 50 - 30
    assert view(weak) == (19, 31, 8, 22)
    assert view(strong) == (19, 40, 2, 22)
    mask = np.zeros(picture.shape)
    mask[35:37, 5:7] = 1
    assert view(weak, mask=mask) == (2, 31, 8, 47)


# ----------------------------------------------------------------------------- colours


def test_positive_maps_are_inferno_from_zero():
    values = np.random.default_rng(1).random((20, 20, 20)) * 1e-5
    values[0, 0, 0] = 1.0
    figure = medcam.montage(values, np.ones(values.shape), slices=2, opacity=0.5)
    drawn = artist(panels(figure, "map:0:")[0], "map")
    top = np.percentile(values, 99.9)
    assert (drawn.norm.vmin, drawn.norm.vmax) == (0, pytest.approx(top, rel=1e-6))
    assert drawn.get_cmap().name == "inferno"
    share = np.clip(drawn.get_array() / top, 0, 1)
    np.testing.assert_allclose(drawn.get_alpha(), 0.5 * share**0.7, rtol=1e-5)
    (bar,) = panels(figure, "colorbar")
    assert bar.get_ylabel() == "raw units"


def test_signed_maps_are_coolwarm_about_zero():
    values = np.random.default_rng(1).normal(size=(10, 10, 10)) + 0.5
    figure = medcam.montage(values, np.ones(values.shape), slices=2)
    drawn = artist(panels(figure, "map:0:")[0], "map")
    assert drawn.norm.vmin == -drawn.norm.vmax
    assert drawn.norm.vmax == pytest.approx(np.percentile(np.abs(values), 99.9), rel=1e-5)
    assert drawn.get_cmap().name == "coolwarm"
    share = np.clip(np.abs(drawn.get_array()) / drawn.norm.vmax, 0, 1)
    np.testing.assert_allclose(drawn.get_alpha(), 0.6 * share**0.7, rtol=1e-5)


def test_a_threshold_hides_what_is_weak():
    values = np.tile(np.linspace(0, 1, 101), (4, 4, 1)).transpose(2, 0, 1)
    figure = medcam.montage(values, np.ones(values.shape), slices=1, threshold=0.4)
    drawn = artist(panels(figure, "map:0:")[0], "map")
    share = drawn.get_array() / drawn.norm.vmax
    assert ((drawn.get_alpha() == 0) == (share < 0.4)).all()


def test_a_colormap_by_name():
    figure = medcam.montage(block(), NOISE, colormap="jet", slices=2)
    assert artist(panels(figure, "map")[0], "map").get_cmap() == colormaps["jet"]
    with pytest.raises(
        UnknownNameError, match=r"'viridris' does not exist\. Did you mean 'viridis'"
    ):
        medcam.montage(block(), NOISE, colormap="viridris")


def test_windows():
    def limits(values, **more):
        drawn = artist(
            panels(medcam.montage(block(), values, slices=2, **more), "image")[0], "image"
        )
        return drawn.get_clim()

    assert limits(NOISE) == pytest.approx(tuple(np.percentile(NOISE, (0.5, 99.5))), rel=1e-6)
    hounsfield = np.where(NOISE > 1, 40.0, -1000.0)
    assert limits(hounsfield) == (-160, 240)
    assert limits(hounsfield, window="lung") == (-1350, 150)
    assert limits(NOISE, window="Soft Tissue") == (-160, 240)
    assert limits(NOISE, window=(0.25, 3)) == (0.25, 3)
    figure = medcam.montage(block(), hounsfield, slices=2)
    assert "Image · axes 1, 2 · grey from −160 to 240 HU" in texts(figure)
    with pytest.raises(UnknownNameError, match="Did you mean 'lung'"):
        medcam.montage(block(), NOISE, window="lungs")
    for wrong in ((1, 1), (3, 1), (0, float("nan")), (1, 2, 3)):
        with pytest.raises(InputError, match="black first"):
            medcam.montage(block(), NOISE, window=wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opacity": 1.5}, "opacity=1.5: give a number from 0 to 1"),
        ({"threshold": -0.1}, "threshold=-0.1: give a number from 0 to 1"),
        ({"columns": 0}, "columns=0: give a whole number of at least 1"),
        ({"slices": 0}, "slices=0: give a whole number of at least 1"),
        ({"slices": 2.5}, "slices=2.5: give a whole number of at least 1"),
        ({"plane": "axal"}, "Did you mean 'axial'"),
        ({"sample": 1}, "sample=1: there are 1 samples"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        medcam.montage(block(), NOISE, **options)


# ----------------------------------------------------------------------------- rows


def test_a_row_for_each_method_and_class():
    explanation = explained(method=["gcam", "gbp"], target="all")
    figure = medcam.montage(explanation, slices=2)
    headings = [text for text in texts(figure) if " · " in text]
    layer = explanation.layer
    assert headings[1:] == [
        *(f"Grad-CAM · layer {layer} · class {k}" for k in range(3)),
        *(f"Guided Backpropagation · class {k}" for k in range(3)),
    ]
    for key, start in ((("gcam", layer), 0), (("gbp", None), 3)):
        for k in range(3):
            axes = panels(figure, f"map:{start + k}:")[0]
            index = int(axes.get_gid().rsplit(":", 1)[1])
            wanted = explanation.maps[key].values[0, k, :, :, index].numpy().T[::-1]
            np.testing.assert_array_equal(artist(axes, "map").get_array(), wanted)
    assert len(panels(figure, "colorbar")) == 6


def test_maps_can_be_chosen():
    explanation = explained(method=["gcam", "gbp"], target=medcam.targets.classes(2, 1))

    def headings(**options):
        figure = medcam.montage(explanation, slices=2, **options)
        return [text for text in texts(figure) if " · " in text][1:]

    layer = explanation.layer
    assert headings(target=2, method="gcam") == [f"Grad-CAM · layer {layer} · class 2"]
    assert headings(target=1, method="Guided Backpropagation") == [
        "Guided Backpropagation · class 1"
    ]
    assert len(headings(layer=layer)) == 4
    for options, message in (
        ({"target": 0}, "no map of method=None, layer=None, target=0.*of target 1, 2"),
        ({"method": "layercam"}, "no map of method='layercam'"),
        ({"method": "gcamm"}, "Did you mean 'gcam'"),
        ({"layer": "head"}, "Layer 'head' does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            headings(**options)


def test_rows_go_on_in_the_next_line():
    figure = medcam.montage(block(), NOISE, affine=RAS, slices=4, columns=2)
    places = [axes.get_position() for axes in panels(figure, "map:0:")]
    assert places[0].y0 == places[1].y0 > places[2].y1
    assert places[2].y0 == places[3].y0
    assert places[0].x0 == pytest.approx(places[2].x0)


def test_which_depth_looks_where():
    explanation = explained(layer="full", net=UNet)
    layers = list(explanation.maps)
    assert len(layers) > 6
    figure = medcam.montage(explanation, affine=RAS)
    tiles = panels(figure, "map:")
    energy = np.zeros(12)
    for layer in layers:
        own = np.square(explanation.maps[layer].values[0, 0].double().numpy()).sum((0, 1))
        energy += own / (own.sum() or 1)  # a map may be zero
    best = int(energy.argmax())
    assert [axes.get_gid() for axes in tiles] == [
        f"map:{n}:axial:{best}" for n in range(len(layers))
    ]
    assert [axes.get_title().split("\n")[0] for axes in tiles] == layers
    for axes, layer in zip(tiles, layers, strict=True):
        values = explanation.maps[layer].values[0, 0].numpy()
        top = np.percentile(values[values != 0], 99.9) if values.any() else 1
        drawn = artist(axes, "map").get_array() * top
        np.testing.assert_allclose(drawn, values[:, :, best].T[::-1, ::-1], rtol=1e-4)
        assert artist(axes, "map").norm.vmax == 1
    (bar,) = panels(figure, "colorbar")
    assert bar.get_ylabel() == "share of own scale"
    assert medcam.montage(explanation, slices=2).axes[0].get_gid().startswith("image:")
    assert len(panels(medcam.montage(explanation, slices=2), "map:")) == 2 * len(layers)


def test_methods_side_by_side_on_one_slice():
    explanation = explained(method=["gcam", "gbp", "gcampp", "ggcam"])
    figure = medcam.montage(explanation, slices=1)
    titles = [axes.get_title().split("\n")[0] for axes in panels(figure, "map:")]
    layer = explanation.layer
    assert titles == ["Grad-CAM", "Grad-CAM++", "Guided Backpropagation",
                      f"Guided Grad-CAM · {layer}"]  # fmt: skip
    limits = [artist(axes, "map").norm.vmin for axes in panels(figure, "map:")]
    assert limits == [0, 0, -1, -1]


# ----------------------------------------------------------------------------- pictures


def test_a_picture_its_map_and_both():
    explanation = explained(dims=2, batch=3, target=1)
    figure = medcam.montage(explanation, sample=2)
    gids = [axes.get_gid() for axes in figure.axes]
    assert gids == ["image:0", "map:0", "overlay:0", "colorbar:0"]
    assert [axes.get_title() for axes in figure.axes[:3]] == ["Image", "Map", "Overlay"]
    wanted = explanation.map.values[2, 0].numpy()
    for axes in figure.axes[1:3]:
        np.testing.assert_array_equal(artist(axes, "map").get_array(), wanted)
    assert (artist(figure.axes[1], "map").get_alpha() == 1).all()
    seen = explanation.inputs[2, 0].numpy()
    np.testing.assert_array_equal(artist(figure.axes[0], "image").get_array(), seen)
    np.testing.assert_array_equal(artist(figure.axes[2], "image").get_array(), seen)


def test_colours_stay_as_they_are():
    photo = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    for given in (photo, photo.transpose(2, 0, 1), photo.transpose(2, 0, 1)[None]):
        figure = medcam.montage(np.ones((9, 14)), given)
        drawn = artist(figure.axes[0], "image").get_array()
        np.testing.assert_allclose(drawn, photo / 255)


def test_a_mask_is_a_line():
    mask = np.zeros((20, 30))
    mask[5:10, 8:16] = 1
    figure = medcam.montage(np.ones((20, 30)), np.ones((20, 30)), mask=mask)
    for axes in figure.axes[:3]:
        (line,) = artist(axes, "mask").get_paths()
        low, high = line.vertices.min(0), line.vertices.max(0)
        assert (low.tolist(), high.tolist()) == ([8, 5], [16, 10])  # the edges of the pixels
    assert any("white line: mask" in text for text in texts(figure))
    with pytest.raises(MaskError, match="must be equal"):
        medcam.montage(np.ones((20, 30)), np.ones((20, 30)), mask=mask.T)
    with pytest.raises(MaskError, match="not 0/1"):
        medcam.montage(np.ones((20, 30)), np.ones((20, 30)), mask=mask * 3)


def test_without_an_image_the_map_alone():
    figure = medcam.montage(np.random.default_rng(0).random((9, 14)))
    assert [axes.get_gid() for axes in figure.axes] == ["map:0", "colorbar:0"]
    volume = medcam.montage(block(), affine=RAS, slices=3)
    assert not panels(volume, "image")
    drawn = artist(panels(volume, "map")[0], "map")
    assert (drawn.get_alpha() == 1).all()


# ----------------------------------------------------------------------------- what is given


def test_images_in_every_form_are_the_same(tmp_path):
    path = save_nifti(tmp_path / "image.nii.gz", NOISE, RAS)
    from monai.data.meta_tensor import MetaTensor

    meta = MetaTensor(torch.from_numpy(NOISE)[None], affine=torch.from_numpy(RAS))
    wanted = png(medcam.montage(block(), NOISE, affine=RAS))
    for given in (path, str(path), medcam.files.read_image(path), meta, meta[None]):
        assert png(medcam.montage(block(), given)) == wanted
    assert png(medcam.montage(block(), NOISE)) != wanted
    mask = save_nifti(tmp_path / "mask.nii.gz", block(value=7.0), RAS)
    assert png(medcam.montage(block(), path, mask=mask)) == png(
        medcam.montage(block(), path, mask=block() > 0)
    )


def test_an_image_of_another_grid_is_refused_where_its_place_is_not_known():
    explanation = explained()
    with pytest.raises(InputError, match="unknown whether they cover the same region"):
        medcam.montage(explanation, np.ones((12, 12, 13)))
    with pytest.raises(InputError, match="are \\[12, 15, 9\\], the image \\[12, 15, 10\\]"):
        medcam.montage(block(), np.ones((12, 15, 10)))
    with pytest.raises(InputError, match="same extents in another order"):
        medcam.montage(block(), np.ones((15, 12, 9)))
    coarse = medcam.explain(Classifier(3).eval(), image(3, 1), shape=None)
    assert coarse.map.values.shape[2:] == (6, 6, 6)
    figure = medcam.montage(coarse, slices=2)  # the layer's grid covers the input
    assert artist(panels(figure, "map")[0], "map").get_array().shape == (12, 12)
    picture = medcam.montage(np.ones((6, 6)), np.ones((12, 18)))  # a picture is all there is
    assert artist(picture.axes[1], "map").get_array().shape == (12, 18)


def test_what_is_no_map():
    for given, message in (
        ("map.nii.gz", "not of str"),
        (3, "not of int"),
        ([], "no map to draw"),
        (np.ones([1] * 6), r"\[\*space\] or \[batch, targets, \*space\]"),
        (np.array([[np.nan]]), "NaN"),
        ([np.ones((3, 3)), np.ones((3, 3, 3))], "differ in their samples or axes"),
    ):
        with pytest.raises((InputError, TypeError), match=message):
            medcam.montage(given)


def test_the_affine_of_the_file_is_used(tmp_path):
    """As nibabel reads it, not as the array lies."""
    values, affine = stored_as("PIR", block())
    path = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(values, affine), path)
    figure = medcam.montage(values, path, slices=[3])
    axes = figure.axes[0]
    assert axes.get_gid() == "image:axial:3"
    assert axes.get_title() == f"S {(affine @ [0, 3, 0, 1])[2]:.1f} mm"
