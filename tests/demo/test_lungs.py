"""Packaged CT slices of a chest and their segmenter: masks, orientation, overlap, attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import medcam
from medcam import demo


@pytest.fixture(scope="module")
def chest() -> demo.LungSlices:
    return demo.load_lung_slices()


def test_lung_slices_hold_the_lungs_and_in_half_of_them_a_tumour(chest: demo.LungSlices) -> None:
    for values in (chest.images, chest.lungs, chest.nodules):
        assert values.shape == (8, 1, 128, 128)
    assert (chest.images.dtype, chest.lungs.dtype) == (torch.float32, torch.bool)
    assert chest.nodules.dtype == torch.bool
    assert chest.images.min() == 0
    assert 0.9 < chest.images.max() <= 1
    assert chest.spacing == pytest.approx((2.508, 2.508), abs=1e-3)
    assert chest.nodules.flatten(1).any(dim=1).tolist() == [True] * 4 + [False] * 4
    assert not (chest.nodules & ~chest.lungs).any()
    # two lungs of an adult: 100 to 300 cm² in each slice
    areas = chest.lungs.flatten(1).sum(dim=1) * np.prod(chest.spacing) / 100
    assert areas.min() > 100
    assert areas.max() < 350


def test_lungs_are_dark_and_the_tumour_is_soft_tissue(chest: demo.LungSlices) -> None:
    hounsfield = chest.images * 1400 - 1000
    assert hounsfield[chest.lungs & ~chest.nodules].median() < -750
    assert -50 < hounsfield[chest.nodules].median() < 100
    around = F.max_pool2d(chest.lungs.float(), kernel_size=5, stride=1, padding=2).bool()
    assert hounsfield[around & ~chest.lungs].median() > -400


def test_lungs_are_drawn_with_the_patients_right_on_the_left(chest: demo.LungSlices) -> None:
    # The heart lies more in the left half of the chest, and the left lung is the smaller one.
    columns = chest.lungs[:4].sum(dim=(0, 1, 2))
    assert columns[:64].sum() > 1.2 * columns[64:].sum()
    # the spine is behind: below the lungs' centre, and bone is the brightest
    rows = torch.arange(128)[:, None]
    bone, lungs = chest.images[:, 0] > 0.9, chest.lungs[:, 0]
    assert (bone * rows).sum() / bone.sum() > (lungs * rows).sum() / lungs.sum()


@torch.no_grad()
def test_lung_segmenter_finds_the_lungs_of_a_patient_it_never_saw(chest: demo.LungSlices) -> None:
    net = demo.load_lung_segmenter()
    assert sum(weight.numel() for weight in net.parameters()) == 96_913
    assert not net.training
    assert {weight.dtype for weight in net.parameters()} == {torch.float32}

    def overlap(net: nn.Module) -> float:
        predicted = net(chest.images) > 0
        return float(2 * (predicted & chest.lungs).sum() / (predicted.sum() + chest.lungs.sum()))

    assert overlap(net) > 0.978 - 0.02
    torch.manual_seed(0)
    assert overlap(demo.LungUNet().eval()) < 0.5


@torch.no_grad()
def test_lung_segmenter_takes_the_tumour_for_other_tissue(chest: demo.LungSlices) -> None:
    predicted = demo.load_lung_segmenter()(chest.images) > 0
    assert predicted[chest.nodules].float().mean() < 0.1
    assert predicted[chest.lungs & ~chest.nodules].float().mean() > 0.95


def test_attention_of_the_lungs_is_low_in_the_tumour(chest: demo.LungSlices) -> None:
    net, shown = demo.load_lung_segmenter(), chest.nodules.flatten(1).any(dim=1)
    values = medcam.explain(net, chest.images, layer="decoder3", method="gcam").map.values[shown]
    nodules, lungs = chest.nodules[shown], chest.lungs[shown]
    assert values[nodules].mean() < 0.5 * values[lungs & ~nodules].mean()
