"""`placement=` reaches every way in: the two placements differ, and each is the layer's own map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import medcam
from medcam.errors import InputError
from medcam.files import Image


class Strided(nn.Module):
    """A segmentation network whose coarse features lie half a cell beside their stretched map."""

    def __init__(self, rank: int = 3):
        super().__init__()
        convolution = getattr(nn, f"Conv{rank}d")
        self.coarse = nn.Sequential(
            convolution(1, 6, 3, 2, 1), nn.ReLU(), convolution(6, 6, 3, 2, 1), nn.ReLU()
        )
        mode = {2: "bilinear", 3: "trilinear"}[rank]
        self.up = nn.Upsample(scale_factor=4, mode=mode)
        self.head = convolution(6, 2, 1)

    def forward(self, x):
        return self.head(self.up(self.coarse(x)))


@pytest.fixture
def case():
    torch.manual_seed(0)
    return Strided().eval(), torch.rand(1, 1, 16, 16, 16)


ASK = {"layer": "coarse", "target": medcam.targets.class_score(1)}


def ways(net, x):
    """Return the map of each way in, by its name, as functions of the placement."""
    import torchio

    from medcam.frameworks.monai import AttentionInferer, AttentionMapTransform
    from medcam.frameworks.torchio import explain_subject

    def injected(placement):
        model = medcam.inject(
            net, layer="coarse", label=ASK["target"], normalize=False, placement=placement
        )
        model(x)
        return torch.from_numpy(model.get_attention_map())

    def monai(placement):
        inferer = AttentionInferer(placement=placement, **ASK)
        inferer(x, net)
        return inferer.attention

    def torchio_map(placement):
        subject = torchio.Subject(t1=torchio.ScalarImage(tensor=x[0]))
        sampler = torchio.GridSampler(subject, 16, 0)
        return explain_subject(net, sampler, placement=placement, **ASK).map.values

    return {
        "explain": lambda p: medcam.explain(net, x, placement=p, **ASK).map.values,
        "inject": injected,
        "explain_volume": lambda p: (
            medcam.explain_volume(net, x, 16, placement=p, **ASK).map.values
        ),
        "monai": monai,
        "monai transform": lambda p: AttentionMapTransform(net, placement=p, **ASK)(x[0])[None],
        "torchio": torchio_map,
    }


@pytest.mark.parametrize(
    "name", ["explain", "inject", "explain_volume", "monai", "monai transform", "torchio"]
)
def test_both_placements(case, name):
    net, x = case
    own = medcam.explain(net, x, shape=None, **ASK).map
    stretched = medcam.maps.resample(own.values, x.shape[2:])
    way = ways(net, x)[name]
    torch.testing.assert_close(way("features"), own.at(x.shape[2:]), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(way("resize"), stretched, rtol=1e-5, atol=1e-9)
    assert not torch.allclose(own.at(x.shape[2:]), stretched, rtol=0.1)
    with pytest.raises(InputError, match="placement='stretch' is not known"):
        way("stretch")


def test_guided_grad_cam_weighs_by_the_placed_map(case):
    net, x = case
    maps = medcam.explain(net, x, method=["ggcam", "gbp", "gcam"], **ASK).maps
    expected = maps["gbp", None].channels * maps["gcam", "coarse"].values[:, :, None]
    torch.testing.assert_close(maps["ggcam", "coarse"].channels, expected)


def test_a_map_of_the_layer_s_own_shape_is_saved_with_its_own_affine(case, tmp_path):
    import nibabel

    net, x = case
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 2], [0, 0, 0, 1.0]])
    own = medcam.explain(net, x, shape=None, **ASK).map
    medcam.save(own, tmp_path / "map.nii.gz", reference=affine)
    model = medcam.inject(
        net, tmp_path, layer="coarse", label=ASK["target"], data_shape=None, save_maps=True,
        reference=affine,
    )  # fmt: skip
    model(x)
    for path in (tmp_path / "map.nii.gz", tmp_path / "coarse" / "attention_map_0_0_0.nii.gz"):
        saved = nibabel.load(path)
        assert saved.shape == (4, 4, 4)
        np.testing.assert_allclose(saved.affine, affine @ np.diag([4.0, 4, 4, 1]), atol=1e-5)


def test_scores_pictures_and_cases_place_maps_of_the_layer_s_own_shape(case, tmp_path):
    import nibabel

    net, x = case
    mask = torch.zeros(1, 1, 16, 16, 16)
    mask[..., 4:9, 6:12, 3:8] = 1
    scores = []
    for shape in ("default", None):
        model = medcam.inject(
            net, tmp_path / str(shape), layer="coarse", label=ASK["target"], data_shape=shape,
            evaluate=True, return_score=True, metric="relevance_mass",
        )  # fmt: skip
        scores.append(model(x, mask=mask)[1]["coarse"][0])
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
    own, placed = (medcam.explain(net, x, shape=shape, **ASK) for shape in (None, "input"))
    image = Image(x[0].numpy(), np.eye(4))
    own.save(tmp_path / "own", image=image, model=net, report=False, montage=False)
    saved = nibabel.load(tmp_path / "own_layercam.nii.gz").get_fdata()
    np.testing.assert_allclose(saved, placed.map.values[0, 0].numpy(), rtol=1e-5, atol=1e-9)


def test_a_picture_of_a_layer_s_own_map_is_placed(tmp_path):
    from PIL import Image as Picture

    torch.manual_seed(0)
    net, x = Strided(2).eval(), torch.rand(1, 1, 32, 32)
    pictures = []
    for shape in ("default", None):
        model = medcam.inject(
            net, tmp_path / str(shape), layer="coarse", label=ASK["target"], data_shape=shape,
            save_maps=True,
        )  # fmt: skip
        model(x, raw_input=x)
        path = tmp_path / str(shape) / "coarse" / "attention_map_0_0_0.png"
        pictures.append(np.asarray(Picture.open(path)).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
