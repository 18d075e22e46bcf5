"""Checks of the packaged networks, made once."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import medcam
from medcam import demo
from medcam.trust import TrustCheck

from ._fakes import fakes


def checked(*args: Any, **options: Any) -> TrustCheck:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", medcam.MedcamWarning)
        return medcam.check(*args, **options)


@pytest.fixture(scope="session")
def lesions():
    slices = demo.load_lesion_slices()
    return slices.images[slices.labels == 1][:6]


@pytest.fixture(scope="session")
def lesion_check(lesions):
    return checked(
        demo.load_lesion_classifier(), lesions, target=1, layer=["relu4", "relu6"], noises=2,
        maps=fakes("relu6"),
    )  # fmt: skip


@pytest.fixture(scope="session")
def nucleus_check():
    model, images = demo.load_nuclei_segmenter(), demo.load_nuclei().images[:2]
    return checked(model, images, layer="decoder2", noises=0, sets=64, maps=fakes("decoder2"))


@pytest.fixture(scope="session")
def nuclei_check():
    model, images = demo.load_nuclei_segmenter(), demo.load_nuclei().images[:2]
    return checked(
        model, images, layer="decoder2", noises=0, networks=2, sets=64, parts="whole",
        method=["gcam", "hirescam"],
        maps={"fake intensity": fakes("decoder2")["fake intensity"]},
    )  # fmt: skip
