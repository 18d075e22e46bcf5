"""Whether a map finds a marker, on maps that are made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, zoom

from medcam.trust import MarkerVerdict, PlantedArtefact
from medcam.trust.artefact import verdict_of
from medcam.trust.marker import boxes_below, marker_place, share_in

SPACES = [(64, 64), (24, 32, 20), (64,)]
SEEDS = range(5)


def place(space, seed=0):
    return marker_place(space, [], seed=seed).numpy()


def noise(space, seed=0, count=3):
    return np.random.default_rng(seed).random((count, *space))


def chequer(space):
    return (np.indices(space) // 2).sum(0) % 2


def test_boxes_are_those_that_a_loop_finds():
    rng = np.random.default_rng(0)
    for space in [(9, 12), (7, 9, 8)]:
        where = marker_place(space, [(3.0,) * len(space)]).numpy()
        values = rng.integers(0, 3, space).astype(float)
        edge = np.ptp(np.argwhere(where), 0) + 1
        counts = []
        for corner in np.ndindex(*(np.array(space) - edge + 1)):
            box = np.zeros(space, bool)
            box[tuple(slice(a, a + k) for a, k in zip(corner, edge, strict=True))] = True
            if not (box & where).any():
                difference = values[where].sum() - values[box].sum()
                counts.append(0.5 if difference == 0 else float(difference > 0))
        assert len(counts) > 10
        assert boxes_below(values, where) == pytest.approx(np.mean(counts))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("space", SPACES)
def test_a_sparse_map_of_the_bright_squares_finds_it(space, seed):
    where = place(space, seed)
    before = 0.2 * noise(space)
    sparse = np.where(where & (chequer(space) == 0), 20.0, before)
    assert np.median(sparse[0][where]) < 20  # half of the box is as everywhere
    verdict = verdict_of(sparse, before, where)
    assert verdict.word == "finds the marker"
    assert verdict.boxes_below == 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("space", SPACES)
def test_a_coarse_blob_over_it_finds_it(space, seed):
    where = place(space, seed)
    middle = np.argwhere(where).mean(0).round().astype(int)
    point = np.zeros((2, *space))
    point[(slice(None), *middle)] = 1
    blob = np.stack([gaussian_filter(values, min(space) / 8, mode="nearest") for values in point])
    assert verdict_of(blob, noise(space, count=2), where).word == "finds the marker"


def test_cells_as_large_as_the_box_find_it():
    where = marker_place((64, 64), [(16.0, 16.0)]).numpy()  # half a cell off the cells' grid
    cells = np.stack([where.reshape(4, 16, 4, 16).mean((1, 3))] * 2)
    coarse = zoom(cells, (1, 16, 16), order=1, grid_mode=True, mode="nearest")
    assert verdict_of(coarse, noise((64, 64), count=2), where).word == "finds the marker"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("space", SPACES)
def test_maps_of_something_else_miss_it(space, seed):
    where = place(space, seed)
    before = noise(space, seed)
    elsewhere = np.flip(np.where(where, 1.0, 0.0), -1)[None].repeat(3, 0)
    for values in (np.zeros_like(before), np.ones_like(before), elsewhere):
        assert verdict_of(values, before, where).word == "misses the marker"
    assert verdict_of(noise(space, seed + 1), before, where).word == "misses the marker"


def test_a_map_of_one_value_has_what_is_expected_by_chance():
    where = place((64, 64))
    for value in (0.0, 1.0, 0.1):
        constant = np.full((2, 64, 64), value)
        verdict = verdict_of(constant, noise((64, 64), count=2), where)
        assert verdict.is_constant
        assert verdict.boxes_below == 0.5
        assert verdict.share == pytest.approx(verdict.chance)
        assert verdict.sentence.startswith("The map misses the marker: it has one value everywhere")


def test_a_map_that_has_almost_nothing_in_the_box_misses_it():
    """Nearly all other boxes have nothing at all, so that their number alone says little."""
    where = place((64, 64))
    values = np.zeros((1, 64, 64))
    values[0, 30:34, 30:34] = 1
    values[:, where] = 1e-4
    assert boxes_below(values[0], where) > 0.9
    assert verdict_of(values, np.zeros((1, 64, 64)), where).word == "misses the marker"


def test_strong_structures_elsewhere_are_allowed_but_not_on_a_tenth_of_the_image():
    where = place((64, 64))
    before = noise((64, 64))
    structure = before.copy()
    structure[:, where] = 3
    structure[:, 30:36, 30:36] = 50
    assert verdict_of(structure, before, where).word == "finds the marker"
    structure[:, 24:40, 24:40] = 12
    assert verdict_of(structure, before, where).word == "misses the marker"


def test_a_share_that_does_not_grow_marks_it_in_any_case():
    where = place((64, 64))
    before = noise((64, 64))
    before[:, where] = 5
    assert verdict_of(before, before, where).word == "marks it in any case"
    for factor, word in ((1.4, "marks it in any case"), (1.8, "finds the marker")):
        after = before.copy()
        after[:, where] *= factor
        verdict = verdict_of(after, before, where)
        assert verdict.boxes_below == 1
        assert verdict.word == word
        assert verdict.before == pytest.approx(np.mean([share_in(v, where) for v in before]))


def test_all_images_count():
    where = place((64, 64))
    values = noise((64, 64), count=4)
    values[0][where] = 9
    assert verdict_of(values[:1], noise((64, 64), 1, 1), where).word == "finds the marker"
    values[1:, ~where] += 1
    assert verdict_of(values, noise((64, 64), 1, 4), where).word == "misses the marker"


def test_a_map_that_learning_does_not_change_never_finds_it():
    for seed in range(40):
        where = place((32, 32), seed)
        values = noise((32, 32), seed) ** 8
        values[:, where] *= seed
        assert verdict_of(values, values, where).word != "finds the marker"


def test_values_below_0_count_in_the_boxes_and_not_in_the_share():
    where = place((64, 64))
    values = -noise((64, 64))
    values[:, where] = 1
    verdict = verdict_of(values, noise((64, 64)), where)
    assert (verdict.word, verdict.share) == ("finds the marker", 1)


def test_the_text_has_titles_units_and_thresholds():
    verdict = MarkerVerdict("misses the marker", 0.034, 0.0156, 0.004, 0.299)
    planted = PlantedArtefact({("gcampp", "relu4"): verdict, ("mine", None): verdict}, 1.0, 9, 8)
    figures = "its box holds 3.4% of the map (0.4% before the network learnt it), more than 29%"
    threshold, *lines = str(planted).splitlines()
    assert threshold == (
        "Planted marker: The marker is 1.6% of the image. A map finds it if its box holds more "
        "than 90% of the other boxes do, at least 2.3% of the map, and 1.5 times what it held "
        "before."
    )
    assert lines == [
        f"{name} misses the marker: {figures} of the other boxes of this size do."
        for name in ("Grad-CAM++ (relu4)", "mine (input)")
    ]
    own = PlantedArtefact({("mine", None): verdict}, 1.0, 9, 8, {"mine": "My map"})
    assert "My map (input) misses" in str(own)
    assert own.to_dict()["maps"][0]["title"] == "My map"
    assert "90%" in own.to_dict()["maps"][0]["sentence"]
    first = MarkerVerdict("finds the marker", 0.43, 0.0156, 0.004, 1.0)
    assert "more than any other box of this size." in first.sentence
