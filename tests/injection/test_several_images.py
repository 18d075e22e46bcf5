"""An injected model of several images: masks, raw inputs and references of each."""

from __future__ import annotations

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import medcam
from medcam.errors import InputError, MedcamWarning


class Pair(nn.Module):
    """Two images, with an encoder each."""

    def __init__(self, rank: int):
        super().__init__()
        torch.manual_seed(0)
        conv = nn.Conv2d if rank == 2 else nn.Conv3d
        self.mr, self.ct = conv(1, 4, 3, 2, 1), conv(1, 4, 3, 2, 1)
        self.head = nn.Linear(8, 2)
        self.head.weight.data.abs_()  # no blank map

    def forward(self, mr: Tensor, ct: Tensor) -> Tensor:
        features = [
            e(x).relu().flatten(2).mean(2) for e, x in ((self.mr, mr), (self.ct, ct))
        ]  # fmt: skip
        return self.head(torch.cat(features, 1))


def affine(size: float) -> np.ndarray:
    return np.diag([size, size, 3.0, 1.0])


@pytest.fixture
def volumes():
    torch.manual_seed(1)
    return torch.rand(1, 1, 8, 12, 10), torch.rand(1, 1, 6, 16, 14)


def saved(folder, layer):
    (path,) = (folder / layer).glob("*.nii.gz")
    return nibabel.load(path)


ASK = {"layer": {"mr", "ct"}, "label": 1}


@pytest.mark.parametrize("per_call", [False, True])
def test_each_image_has_its_reference(tmp_path, volumes, per_call):
    references = {"ct": affine(2.0), "mr": affine(0.5)}
    model = medcam.inject(
        Pair(3), tmp_path, save_maps=True, reference=None if per_call else references, **ASK
    )
    model(*volumes, **({"reference": references} if per_call else {}))
    for layer, volume in zip(("mr", "ct"), volumes, strict=True):
        image = saved(tmp_path, layer)
        assert image.shape == tuple(volume.shape[2:])
        np.testing.assert_allclose(image.affine, references[layer])


@pytest.mark.filterwarnings("ignore:The map is saved without its image's geometry")
@pytest.mark.parametrize("per_call", [False, True])
def test_one_reference_holds_for_the_first_image_and_says_so(tmp_path, volumes, per_call):
    reference = affine(0.5)
    model = medcam.inject(
        Pair(3), tmp_path, save_maps=True, reference=None if per_call else reference, **ASK
    )
    call = {"reference": reference} if per_call else {}
    with pytest.warns(MedcamWarning, match=r"reference= holds for 'mr' only.*reference=\{'mr'"):
        model(*volumes, **call)
    np.testing.assert_allclose(saved(tmp_path, "mr").affine, reference)
    np.testing.assert_allclose(np.abs(saved(tmp_path, "ct").affine[:3, :3]), np.eye(3))
    model(*volumes, **call)  # said once


def test_one_reference_holds_for_the_image_that_was_chosen(tmp_path, volumes):
    reference = affine(0.5)
    model = medcam.inject(
        Pair(3), tmp_path, save_maps=True, layer="ct", label=1, image="ct", reference=reference
    )
    model(*volumes)
    np.testing.assert_allclose(saved(tmp_path, "ct").affine, reference)


def test_each_image_is_scored_by_its_mask(tmp_path, volumes):
    masks = {
        "ct": torch.rand(1, 1, 6, 16, 14) > 0.5,
        "mr": torch.rand(1, 1, 8, 12, 10) > 0.5,
    }
    model = medcam.inject(Pair(3), tmp_path, evaluate=True, return_score=True, **ASK)
    _, scores = model(*volumes, mask=masks)
    explanation = medcam.explain(Pair(3), *volumes, layer={"mr", "ct"}, target=1)
    evaluator = medcam.Evaluator(tmp_path / "alone")
    for name, mask in masks.items():
        attention = explanation.of_image(name).map.attention()[0, 0]
        assert scores[name] == pytest.approx([evaluator.comp_score(attention, mask[0, 0])])
    model.dump()
    table = pd.read_excel(next(tmp_path.glob("*.xlsx")), sheet_name=None)
    assert "ct" in str(table)
    assert "mr" in str(table)


def test_masks_by_name_may_be_positional(tmp_path):
    """Of a model of one image, whose own forward takes one tensor."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    x = torch.rand(1, 1, 8, 8)
    net(x)
    model = medcam.inject(net, tmp_path, evaluate=True, return_score=True, layer="0", label=1)
    mask = torch.rand(1, 1, 8, 8) > 0.5
    assert model(x, {"input": mask})[1] == model(x, mask)[1]


def test_one_mask_scores_the_first_image_and_says_so(tmp_path, volumes):
    model = medcam.inject(Pair(3), tmp_path, evaluate=True, return_score=True, **ASK)
    with pytest.warns(MedcamWarning, match="mask= holds for 'mr' only"):
        _, scores = model(*volumes, mask=torch.ones(1, 1, 8, 12, 10))
    assert list(scores) == ["mr"]


def test_layers_that_saw_several_images_keep_their_name_in_the_scores(tmp_path):
    class Shared(Pair):
        def forward(self, mr: Tensor, ct: Tensor) -> Tensor:
            features = [self.mr(x).relu().flatten(2).mean(2) for x in (mr, ct)]
            return self.head(torch.cat(features, 1))

    torch.manual_seed(2)
    x, y = torch.rand(1, 1, 12, 10), torch.rand(1, 1, 12, 10)
    model = medcam.inject(
        Shared(2), tmp_path, evaluate=True, return_score=True, layer="mr", label=1
    )
    masks = {"mr": torch.rand(12, 10) > 0.5, "ct": torch.rand(12, 10) > 0.5}
    _, scores = model(x, y, mask=masks)
    assert list(scores) == ["mr"]
    assert len(scores["mr"]) == 2
    model.dump()


def test_each_picture_is_drawn_over_its_raw_input(tmp_path):
    model = medcam.inject(Pair(2), tmp_path, save_maps=True, **ASK)
    x, y = torch.rand(1, 1, 16, 16), torch.rand(1, 1, 12, 12)
    black, white = np.zeros((16, 16)), np.full((12, 12), 255.0)
    white[0, 0] = 254.0
    model(x, y, raw_input={"mr": black, "ct": white})
    means = {}
    for layer, size in (("mr", 16), ("ct", 12)):
        (path,) = (tmp_path / layer).glob("*.png")
        with Image.open(path) as picture:
            assert picture.size == (size, size)
            means[layer] = np.asarray(picture.convert("RGB"), float).mean()
    assert means["mr"] < means["ct"]


@pytest.mark.parametrize("argument", ["mask", "raw_input", "reference"])
def test_a_name_that_is_no_image_is_refused_before_the_run(tmp_path, volumes, argument):
    model = medcam.inject(Pair(3), tmp_path, evaluate=argument == "mask", **ASK)
    with pytest.raises(InputError, match=rf"{argument}= names \['pet'\].*\['mr', 'ct'\]"):
        model(*volumes, **{argument: {"pet": affine(1.0)}})


def test_a_mapping_for_one_image(tmp_path):
    net = nn.Sequential(nn.Conv3d(1, 2, 3, 2, 1), nn.Flatten(), nn.LazyLinear(2)).eval()
    x = torch.rand(1, 1, 8, 8, 8)
    net(x)
    model = medcam.inject(net, tmp_path, save_maps=True, layer="0", label=1)
    model(x, reference={"input": affine(0.5)})
    np.testing.assert_allclose(saved(tmp_path, "0").affine, affine(0.5))


def test_the_mask_of_a_bag_has_the_axes_of_the_bag(tmp_path):
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.encoder, self.head = nn.Conv2d(1, 4, 3, 2, 1), nn.Linear(4, 2)
            self.head.weight.data.abs_()

        def forward(self, x):
            return self.head(self.encoder(x).relu().mean((2, 3)).amax(0, True))

    model = medcam.inject(
        Bag().eval(), tmp_path, evaluate=True, return_score=True, layer="encoder", label=1
    )
    x, mask = torch.rand(5, 1, 16, 16), torch.rand(5, 1, 16, 16) > 0.5
    scores = [model(x, mask=given)[1] for given in (mask, mask[:, 0], mask[:, 0][None, None])]
    assert scores[0] == scores[1] == scores[2]
