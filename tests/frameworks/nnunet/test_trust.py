"""Checks of a trained folder, through nnU-Net's own grid and windows."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import medcam
from medcam.cli import app
from medcam.frameworks.nnunet.cases import case_from_files
from medcam.frameworks.nnunet.preprocessing import prepare
from medcam.methods import METHODS

FEW = {"sets": 8, "networks": 1, "method": ["hirescam", "saliency"]}


def state(network):
    return [tensor.detach().clone() for tensor in network.state_dict().values()]


@pytest.mark.parametrize("options", [{}, {"configuration": "2d"}, {"regions": True}], ids=str)
def test_a_label_is_checked_in_nnunets_windows(options, trained, case):
    model = medcam.nnunet.load(trained(**options))
    before, rng = state(model.network), torch.get_rng_state()
    label = "whole" if options.get("regions") else "PZ"
    if label not in model.labels:
        label = next(name for name in model.labels if name not in ("background", "ignore"))
    check = medcam.nnunet.check_maps(model, case, label, **FEW)
    assert all(torch.equal(a, b) for a, b in zip(before, state(model.network), strict=True))
    assert torch.equal(rng, torch.get_rng_state())
    prepared = prepare(model, case_from_files(model, case))
    data = prepared.data
    padded = [
        max(n, size) for n, size in zip(data.shape[1:], (1, *model.patch_size)[-3:], strict=True)
    ]
    assert check.plan.windows == len(model.window_slicers(padded))
    lengths = [n * mm for n, mm in zip(check.edge, prepared.grid_spacing, strict=True)]
    several = [length for n, length in zip(check.edge, lengths, strict=True) if n > 2]
    assert max(several, default=1) < 2 * min(several, default=1)
    assert {item.method for item in check.maps} == {"hirescam", "saliency"}
    assert all(share.layer.startswith(("encoder", "decoder")) for share in check.layers)
    for item in check.maps:
        assert item.verdicts["T1"].word == "passes"


def test_the_maps_are_those_of_explain_for_one_fold(trained, case):
    """The whole label has the voxels that explain takes, and so the same map."""
    folder = trained()
    model = medcam.nnunet.load(folder, folds=0, tta=False)
    seen = {}

    def own(network, images, target):
        explanation = medcam.nnunet.explain(model, case, "PZ", method="saliency")
        seen.setdefault("map", explanation.explanation.map.values[:, 0])
        seen.setdefault("target", target)
        return seen["map"]

    from medcam.frameworks.nnunet.prediction import nnunet_windows
    from medcam.trust.assessment import Options, check_subject
    from medcam.trust.subject import InWindows

    data = torch.from_numpy(prepare(model, case_from_files(model, case)).data)
    subject = InWindows(model.network, data[None], nnunet_windows(model, data))
    options = Options("saliency", "auto", model.channel_of("PZ"), parts="whole",
                      maps={"own": own}, sets=8, networks=0, noises=0)  # fmt: skip
    check = check_subject(subject, options)
    ours, theirs = (check.of(name).verdicts["T1"] for name in ("saliency", "own"))
    assert seen["map"].any()
    assert ours.estimate.value == theirs.estimate.value == 0
    largest = subject.maps([METHODS["saliency"]], [], seen["target"]).values["saliency", None]
    # nnU-Net sums its logits in half precision, so that a voxel on the border may be another's
    assert np.corrcoef(largest.ravel(), seen["map"].numpy().ravel())[0, 1] > 0.995
    assert largest.sum() == pytest.approx(float(seen["map"].sum()), rel=0.02)


def test_a_region_of_the_users(trained, case, tmp_path):
    model = medcam.nnunet.load(trained())
    image = nib.load(case)
    mask = np.zeros(image.shape, np.uint8)
    mask[6:12, 6:14, 5:11] = 1
    nib.save(nib.Nifti1Image(mask, image.affine), tmp_path / "region.nii.gz")
    check = medcam.nnunet.check_maps(model, case, "PZ", target=tmp_path / "region.nii.gz", **FEW)
    assert "given region" in check.target


def test_the_command(trained, case):
    arguments = [
        "nnunet", "check", "-m", str(trained()), "-i", str(case), "--label", "PZ", "--sets", "8",
        "--networks", "1", "--method", "hirescam", "--layer", "bottleneck",
    ]  # fmt: skip
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert [item["method"] for item in record["maps"]] == ["hirescam"]
    printed = CliRunner().invoke(app, arguments)
    assert "HiResCAM" in printed.stdout
    assert "cost: 8 sets" in printed.stderr
    wrong = CliRunner().invoke(app, [*arguments, "--layer", "nonsense"])
    assert wrong.exit_code == 2
    assert "nonsense" in wrong.stderr
