"""Blocks, sets, fills and controls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medcam.trust.blocks import Blocks, blocks_for, mean_fill, random_sets, shifted_fill
from medcam.trust.controls import image_controls, near_target

spaces = st.lists(st.integers(1, 40), min_size=1, max_size=3)


@given(spaces, st.data())
def test_sums_are_those_of_the_masks(space, data):
    edge = tuple(data.draw(st.integers(1, n)) for n in space)
    blocks = Blocks(edge, tuple(space))
    values = np.random.default_rng(0).normal(size=(2, *space))
    chosen = np.random.default_rng(1).random(len(blocks)) < 0.5
    mask = blocks.mask(chosen).numpy()
    assert mask.shape == tuple(space)
    expected = [v[mask].sum() for v in values]
    assert blocks.sums(values) @ chosen == pytest.approx(expected, abs=1e-9)


def test_each_block_is_one_box():
    blocks = Blocks((2, 3), (5, 7))
    for number in range(len(blocks)):
        chosen = np.zeros(len(blocks), bool)
        chosen[number] = True
        rows, columns = np.nonzero(blocks.mask(chosen).numpy())
        row, column = divmod(number, 3)
        assert set(rows) == set(range(2 * row, min(2 * row + 2, 5)))
        assert set(columns) == set(range(3 * column, min(3 * column + 3, 7)))


@pytest.mark.parametrize(
    ("space", "cells", "spacing", "edge"),
    [
        ((64, 64), [], None, (5, 5)),
        ((64, 64), [(8.0, 8.0), (2.0, 2.0)], None, (8, 8)),
        ((224, 224), [(32.0, 32.0)], None, (28, 28)),  # 1/8 at most: 64 blocks
        ((128, 128, 40), [], (1.0, 1.0, 3.0), (11, 11, 4)),
        ((128, 128, 40), [(16.0, 16.0, 4.0)], (1.0, 1.0, 3.0), (16, 16, 5)),
        ((512,), [(16.0,)], None, (31,)),
        ((1, 64, 64), [], None, (1, 5, 5)),
    ],
)
def test_blocks_have_one_length_in_mm_and_are_no_smaller_than_a_cell(space, cells, spacing, edge):
    assert blocks_for(space, cells, spacing).edge == edge


def test_sets_hold_2_to_15_per_cent_of_the_blocks():
    blocks = Blocks((2, 2), (64, 64))
    shares = random_sets(blocks, 200).mean(1)
    assert shares.min() >= 0.019
    assert shares.max() <= 0.151
    assert shares.min() < 0.03
    assert shares.max() > 0.14
    assert np.array_equal(random_sets(blocks, 5, seed=3), random_sets(blocks, 5, seed=3))
    assert not np.array_equal(random_sets(blocks, 5, seed=3), random_sets(blocks, 5, seed=4))


def test_fills():
    images = torch.arange(32.0).reshape(1, 2, 4, 4)
    assert mean_fill(images)[0, :, 0, 0].tolist() == [7.5, 23.5]
    assert shifted_fill(images)[0, 0, 0].tolist() == [10, 11, 8, 9]
    assert torch.equal(shifted_fill(images).sort().values.sum(), images.sum())


def test_controls_know_the_image_only():
    images = np.zeros((2, 1, 16, 16))
    images[0, 0, :8] = 10.0
    controls = image_controls(images)
    assert controls["edges"][0].max(1).argmax() in (7, 8)
    assert not controls["edges"][1].any()
    assert np.unravel_index(controls["centre"][0].argmax(), (16, 16)) in {
        (7, 7), (7, 8), (8, 7), (8, 8),
    }  # fmt: skip
    assert controls["random"].shape == (2, 16, 16)
    images[0, 0, 8:] = -1.0
    images[0, 0, 15, 15] = 50.0
    assert np.unravel_index(image_controls(images)["intensity"][0].argmax(), (16, 16)) == (15, 15)


def test_channels_count_alike_whatever_their_units():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(1, 2, 16, 16))
    scaled = images * np.array([1.0, 1e4])[:, None, None]
    for name in ("edges", "intensity"):
        first, second = image_controls(images)[name], image_controls(scaled)[name]
        assert np.corrcoef(first.ravel(), second.ravel())[0, 1] == pytest.approx(1, abs=0.02)


def test_near_the_target_is_highest_inside():
    mask = np.zeros((1, 32, 32), bool)
    mask[0, 10:16, 20:26] = True
    blurred = near_target(mask)
    assert mask[0][np.unravel_index(blurred[0].argmax(), (32, 32))]
    assert blurred[0, 17, 23] > blurred[0, 25, 5]
