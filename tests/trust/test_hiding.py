"""The map that the bank of T4 gives for free, and the infidelity of other maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import medcam
from medcam import demo
from medcam.trust.bank import Bank
from medcam.trust.blocks import Blocks, random_sets
from medcam.trust.hiding import block_importance, held_out_correlation


def bank_of(weights, count, noise=0.0):
    """Return a bank whose drops are the sums of weights of the blocks of each set."""
    blocks = Blocks((2, 2), (12, 10))
    sets = random_sets(blocks, count, seed=3)
    rng = np.random.default_rng(0)
    drops = sets @ weights + noise * rng.normal(size=count)
    return Bank(blocks, sets, {"mean": drops[:, None, None]})


def test_enough_sets_give_the_weights_of_the_blocks_back():
    weights = np.random.default_rng(1).normal(size=30)
    bank = bank_of(weights, 4000)
    found = block_importance(bank.sets, bank.drops["mean"][:, :, 0])[0]
    np.testing.assert_allclose(found, weights, atol=0.02)
    assert held_out_correlation(bank, "mean") > 0.999


def test_noise_is_not_predicted():
    bank = bank_of(np.zeros(30), 96, noise=1.0)
    assert abs(held_out_correlation(bank, "mean")) < 0.25
    few = bank_of(np.ones(30), 12)
    assert np.isnan(held_out_correlation(few, "mean"))


class Corner(nn.Module):
    """Class 1 is the sum of the first eight rows and columns."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        score = self.scale * x[:, 0, :8, :8].sum((1, 2))
        return torch.stack([-score, score], 1)


def test_the_map_of_a_check_lies_where_hiding_costs_most():
    torch.manual_seed(0)
    images = torch.rand(2, 1, 32, 32)
    images[:, :, :8, :8] += 1
    check = medcam.check(
        Corner().eval(), images, method="saliency", target=1, sets=96, networks=2, noises=0
    )
    hiding = check.hiding
    assert hiding.values.shape == (2, 1, 32, 32)
    assert hiding.signed
    inside = hiding.values[..., :8, :8]
    assert float(inside.min()) > float(hiding.values[..., 9:, 9:].max())
    assert float(inside.mean()) > 5 * float(hiding.values[..., 9:, 9:].abs().mean())
    assert check.hiding_correlation > 0.5
    assert check.to_dict()["hiding_correlation"] == pytest.approx(
        check.hiding_correlation, abs=1e-3
    )


def test_the_map_of_parts_finds_each_part():
    model, images = demo.load_nuclei_segmenter(), demo.load_nuclei().images[:1]
    check = medcam.check(
        model, images, method="hirescam", layer="decoder2", sets=96, networks=2, noises=0
    )
    values = check.hiding.values.numpy()
    assert values.shape == (1, 2, *images.shape[2:])
    assert np.corrcoef(values[0, 0].ravel(), values[0, 1].ravel())[0, 1] < 0.5


def test_infidelity_of_a_map_that_the_drops_are_sums_of_is_zero():
    weights = np.abs(np.random.default_rng(1).normal(size=30))
    bank = bank_of(weights, 50)
    right = bank.blocks.spread(weights.reshape(bank.blocks.grid))[None, None]
    wrong = np.roll(right, 4, -1)
    nothing = np.zeros_like(right)
    values = bank.infidelity([np.concatenate([3 * right, wrong, nothing])], "mean")
    assert values[0] == pytest.approx(0, abs=1e-12)
    assert 0.05 < values[1] < 1
    assert values[2] == pytest.approx(1)
