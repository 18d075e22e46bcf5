"""Curves of 1D signals: what is drawn where, read back from the figure."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

import medcam
from medcam.errors import InputError, MaskError
from medcam.maps import AttentionMap, ResolvedTarget
from medcam.views.figures import save_figure
from medcam.views.scene.values import Scene, SceneMap
from medcam.views.signals.curve import INK, thinned
from medcam.views.signals.drawing import draw_curves

TIME = np.arange(200)
SIGNAL = np.sin(TIME / 9.0)
BUMP = np.where((TIME >= 80) & (TIME < 120), 2.0, 0.0)


def scene(maps=None, signal=SIGNAL[None], **attributes):
    maps = (
        [SceneMap(BUMP, "Grad-CAM", layer="features", target="class 1")] if maps is None else maps
    )
    return Scene("case", signal, maps, is_signal=True, **attributes)


def artist(axes, gid):
    return next(item for item in axes.get_children() if item.get_gid() == gid)


def panel(figure, gid):
    return next(axes for axes in figure.axes if axes.get_gid() == gid)


def texts(figure):
    return [text.get_text() for text in figure.texts]


def test_the_line_is_the_signal_and_its_colours_are_the_attention():
    axes = panel(draw_curves(scene()), "map:0:channel:0")
    lines = artist(axes, "signal")
    points = np.array([segment[0] for segment in lines.get_segments()])
    np.testing.assert_allclose(points, np.column_stack([TIME, SIGNAL])[:-1])
    colours, widths = lines.get_colors()[:, :3], np.array(lines.get_linewidths())
    np.testing.assert_allclose(colours[20], to_rgb(INK))
    assert colours[100][0] > 0.4 > colours[100][1] + colours[100][2]  # dark red
    assert widths[100] > 1.5 * widths[20]


def test_the_shade_is_transparent_where_there_is_no_attention():
    axes = panel(draw_curves(scene()), "map:0:channel:0")
    shade = artist(axes, "shade").get_array()
    assert shade.shape[0] == 1
    places = (np.arange(shade.shape[1]) + 0.5) / shade.shape[1] * 200 - 0.5
    inside = (places > 81) & (places < 118)
    assert (shade[0, inside, 3] > 0.2).all()
    assert (shade[0, (places < 78) | (places > 121), 3] == 0).all()


def test_the_time_axis_is_in_seconds_if_the_sampling_rate_is_known():
    in_samples, in_seconds = draw_curves(scene()), draw_curves(scene(sampling_rate=100))
    axes = panel(in_seconds, "map:0:channel:0")
    assert axes.get_xlabel() == "time (s)"
    np.testing.assert_allclose(axes.get_xlim(), (-0.005, 1.995))
    assert panel(in_samples, "map:0:channel:0").get_xlabel() == "sample"


def test_a_signed_map_has_two_colours():
    signed = SceneMap(np.where(TIME < 100, -1.0, 1.0), "HiResCAM", signed=True)
    figure = draw_curves(scene([signed]))
    colours = artist(panel(figure, "map:0:channel:0"), "signal").get_colors()
    assert colours[20][2] > 2 * colours[20][0]  # blue
    assert colours[180][0] > 2 * colours[180][2]  # red
    assert panel(figure, "colorbar:0").get_ylim() == (-1.0, 1.0)


def test_each_channel_has_a_strip_up_to_twelve():
    leads = np.stack([SIGNAL * (number + 1) for number in range(15)])
    figure = draw_curves(scene(signal=leads))
    strips = [axes for axes in figure.axes if axes.get_gid().startswith("map:")]
    assert len(strips) == 12
    for number, axes in enumerate(strips):
        heights = [segment[0][1] for segment in artist(axes, "signal").get_segments()]
        np.testing.assert_allclose(heights, leads[number, :-1])
        assert [text.get_text() for text in axes.texts] == [str(number + 1)]
    assert any("first 12 of 15" in text for text in texts(figure))


def test_of_many_maps_the_first_channel_is_drawn():
    maps = [SceneMap(BUMP * number, "Grad-CAM", layer=f"layer{number}") for number in range(5)]
    figure = draw_curves(scene(maps, signal=np.stack([SIGNAL, SIGNAL])))
    assert sum(axes.get_gid().startswith("map:") for axes in figure.axes) == 5
    assert sum("channel 1 of 2" in text for text in texts(figure)) == 5


def test_mask_and_prediction_are_bars_over_their_samples():
    mask, predicted = (TIME >= 50) & (TIME < 60), np.where(TIME >= 190, 3, 0)
    figure = draw_curves(scene(mask=mask, segmentation=predicted))
    axes = panel(figure, "map:0:channel:0")
    for gid, span in (("mask", (49.5, 59.5)), ("segmentation", (189.5, 199.5))):
        (path,) = artist(axes, gid).get_paths()
        assert (path.vertices[:, 0].min(), path.vertices[:, 0].max()) == span
    assert "black bar: mask · green bar: prediction" in texts(figure)[0]


def test_the_threshold_hides_weak_attention():
    half = SceneMap(BUMP + np.where(TIME > 150, 0.6, 0.0), "Grad-CAM")
    for threshold, visible in ((0.0, True), (0.5, False)):
        figure = draw_curves(scene([half]), threshold=threshold)
        colours = artist(panel(figure, "map:0:channel:0"), "signal").get_colors()[:, :3]
        assert np.allclose(colours[170], to_rgb(INK)) is not visible
        assert not np.allclose(colours[100], to_rgb(INK))


def test_a_long_signal_keeps_its_peaks():
    signal = np.zeros(100_000)
    signal[[5, 54_321, 99_999]] = 1, -1, 2
    indices, attention = thinned(signal, np.where(np.arange(100_000) == 54_322, 1.0, 0.0))
    assert len(indices) <= 6000
    assert {5, 54_321, 99_999} <= set(indices.tolist())
    assert (np.diff(indices) > 0).all()
    assert attention[indices.tolist().index(54_321)] == 1  # the strongest of its bin


def test_constants_and_single_samples_are_drawn():
    for signal in (np.zeros((1, 9)), np.ones((1, 1))):
        values = SceneMap(np.zeros(signal.shape[1]), "Grad-CAM")
        save_figure(draw_curves(scene([values], signal=signal)), io.BytesIO())


def test_the_same_maps_give_the_same_bytes():
    pictures = []
    for _ in range(2):
        stream = io.BytesIO()
        save_figure(draw_curves(scene(), title="ECG 17"), stream)
        pictures.append(stream.getvalue())
    assert pictures[0] == pictures[1]


def test_a_montage_of_a_signal_is_its_curves():
    values = torch.from_numpy(BUMP).float()[None, None].expand(2, 1, -1)
    item = AttentionMap(values, "gcam", "features", ResolvedTarget("class 1", "classification"))
    signals = np.stack([np.zeros((3, 200)), np.stack([SIGNAL, 2 * SIGNAL, 3 * SIGNAL])])
    figure = medcam.montage([item], signals, sample=1, sampling_rate=50, title="ECG 17")
    axes = panel(figure, "map:0:channel:2")
    heights = [segment[0][1] for segment in artist(axes, "signal").get_segments()]
    np.testing.assert_allclose(heights, 3 * SIGNAL[:-1])
    assert axes.get_xlabel() == "time (s)"
    assert "ECG 17" in texts(figure)


def test_without_the_signal_the_map_itself_is_the_curve():
    axes = panel(medcam.montage(BUMP), "map:0:channel:0")
    heights = [segment[0][1] for segment in artist(axes, "signal").get_segments()]
    np.testing.assert_allclose(heights, BUMP[:-1])


@pytest.mark.parametrize("rate", [0, -5, float("nan"), "500"])
def test_a_wrong_sampling_rate_is_refused(rate):
    with pytest.raises(InputError, match=r"sampling_rate=.*number of samples in a second"):
        scene(sampling_rate=rate)


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(MaskError, match=r"mask is \[199\], the image \[200\]"):
        scene(mask=np.zeros(199))
