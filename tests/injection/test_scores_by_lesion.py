"""`inject(by_lesion=True)`: the scores of a call are those of the lesions, with sizes in mm."""

from __future__ import annotations

import math

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

import medcam
from medcam.errors import MedcamWarning
from support.nets import UNet

SPACE = (8, 12, 4)
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
pytestmark = pytest.mark.filterwarnings("ignore:.*(below chance|hardly agree|Everything at layer)")


def scored(folder, calls=1, **options):
    """Return the scores of the last call, and the map and mask of it."""
    torch.manual_seed(0)
    model = medcam.inject(
        UNet(3).eval(), folder, layer="bottleneck", label=medcam.targets.class_score(1),
        evaluate=True, metric="relevance_mass", return_score=True, normalize=False, **options,
    )  # fmt: skip
    mask = torch.zeros(1, 1, *SPACE)
    mask[0, 0, :2, :2, 0] = 1
    mask[0, 0, 5, 5, 3] = mask[0, 0, 6, 6, 3] = 1  # over a corner
    for _ in range(calls):
        _, scores = model(torch.randn(1, 1, *SPACE), mask)
    attention = model.get_attention_map()[0, 0]
    model.dump()
    return scores["bottleneck"], np.asarray(attention), mask[0, 0].numpy() == 1


def test_the_score_of_a_call_is_the_mean_of_its_lesions(tmp_path):
    scores, attention, mask = scored(tmp_path, reference=AFFINE, by_lesion=True)
    large, small = mask.copy(), mask.copy()
    large[4:], small[:4] = False, False
    expected = [
        attention[lesion].sum() / attention[~other].sum()
        for lesion, other in ((large, small), (small, large))
    ]
    assert scores == pytest.approx([np.mean(expected)], rel=1e-5)
    sheets = pd.read_excel(tmp_path / "scores.xlsx", sheet_name=None)
    assert list(sheets) == ["Scores", "Mean Scores", "By Size", "About"]
    assert sheets["Scores"]["evaluation"].tolist() == pytest.approx(expected, rel=1e-5)
    assert sheets["Scores"]["diameter_mm"].tolist() == pytest.approx(
        [(6 * voxels * 12 / math.pi) ** (1 / 3) for voxels in (4, 2)]
    )
    # 4.5 mm and 3.6 mm
    assert sheets["By Size"]["count"].tolist() == [2, 0, 0, 0]


def test_without_it_the_masks_are_scored_whole(tmp_path):
    scores, attention, mask = scored(tmp_path, reference=AFFINE)
    assert scores == pytest.approx([attention[mask].sum() / attention.sum()], rel=1e-5)
    assert "By Size" not in pd.read_excel(tmp_path / "scores.xlsx", sheet_name=None)


def test_a_reference_of_another_case_is_warned_of_as_sizes_depend_on_it(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros(SPACE), AFFINE), tmp_path / "case.nii.gz")
    with pytest.warns(MedcamWarning, match="another input than the first"):
        scored(tmp_path, 2, reference=tmp_path / "case.nii.gz", by_lesion=True)
