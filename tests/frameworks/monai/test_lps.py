"""A MetaTensor of ITK's readers is in LPS: files of its maps lie where the image is."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from monai.utils import SpaceKeys
from torch import nn

import medcam
from medcam.files.geometry import affine_of
from medcam.views.scene.images import image_of
from support.monai_cases import Finder

LPS = np.array([
    [0.9, -0.2, 0.1, 12.0],
    [0.3, 1.4, -0.4, -31.0],
    [-0.1, 0.5, 2.0, 7.0],
    [0.0, 0.0, 0.0, 1.0],
])  # fmt: skip
AS_RAS = np.array([
    [-0.9, 0.2, -0.1, -12.0],
    [-0.3, -1.4, 0.4, 31.0],
    [-0.1, 0.5, 2.0, 7.0],
    [0.0, 0.0, 0.0, 1.0],
])  # fmt: skip
SHAPE = (10, 12, 8)
SPACES = [
    pytest.param("LPS", AS_RAS, id="LPS"),
    pytest.param(SpaceKeys.LPS, AS_RAS, id="SpaceKeys.LPS"),
    pytest.param("RAS", LPS, id="RAS"),
    pytest.param(SpaceKeys.RAS, LPS, id="SpaceKeys.RAS"),
    pytest.param(None, LPS, id="no space"),
]
ONE = medcam.targets.class_score(1)
each_space = pytest.mark.parametrize(("space", "expected"), SPACES)


def image_in(space: object, affine: np.ndarray = LPS, name: str = "/data/a.nrrd") -> MetaTensor:
    image = MetaTensor(torch.rand(1, *SHAPE), affine=torch.from_numpy(affine))
    image.meta.pop("space", None)
    if space is not None:
        image.meta["space"] = space
    image.meta["filename_or_obj"] = name
    return image


def assert_lies_at(path, expected: np.ndarray) -> None:
    np.testing.assert_allclose(nibabel.load(path).affine, expected, atol=1e-4)


@each_space
def test_inject(tmp_path, space, expected):
    options = {"layer": "features.0", "label": ONE, "save_maps": True}
    medcam.inject(Finder().eval(), tmp_path / "a", **options)(image_in(space)[None])
    assert_lies_at(tmp_path / "a/features.0/attention_map_0_0_0.nii.gz", expected)
    # a map on a coarser grid keeps the image's outer borders
    half = medcam.inject(Finder().eval(), tmp_path / "b", data_shape=(5, 6, 4), **options)
    half(image_in(space)[None])
    coarse = expected @ np.diag([2.0, 2, 2, 1])
    coarse[:3, 3] += expected[:3, :3].sum(1) / 2
    assert_lies_at(tmp_path / "b/features.0/attention_map_0_0_0.nii.gz", coarse)


@each_space
def test_each_sample_of_a_collated_batch(tmp_path, space, expected):
    moved = LPS.copy()
    moved[:3, 3] += [5, 6, 7]
    batch = list_data_collate([{"image": image_in(space)}, {"image": image_in(space, moved)}])
    medcam.inject(Finder().eval(), tmp_path, layer="features.0", label=ONE, save_maps=True)(
        batch["image"]
    )
    sign = -1 if expected is AS_RAS else 1
    second = expected + np.pad(np.array([[sign * 5], [sign * 6], [7]]), ((0, 1), (3, 0)))
    assert_lies_at(tmp_path / "features.0/attention_map_0_0_0.nii.gz", expected)
    assert_lies_at(tmp_path / "features.0/attention_map_0_1_0.nii.gz", second)


@each_space
@pytest.mark.parametrize("given", ["the input", "image=", "a batch of one"])
def test_a_saved_case(tmp_path, space, expected, given):
    image = image_in(space)
    x = image[None] if given == "the input" else image.as_tensor()[None]
    net = Finder().eval()
    explanation = medcam.explain(net, x, layer="features.0", target=ONE)
    source = {"the input": None, "image=": image, "a batch of one": image[None]}[given]
    explanation.save(tmp_path / "case", image=source)
    assert_lies_at(tmp_path / "case_layercam.nii.gz", expected)
    assert_lies_at(tmp_path / "case_image.nii.gz", expected)
    background = image_of(image, 3)
    np.testing.assert_allclose(background.affine, expected)


@each_space
def test_a_map_of_ones_own(tmp_path, space, expected):
    image = image_in(space)
    values = torch.rand(SHAPE)
    assert_lies_at(medcam.save(values, tmp_path / "a.nii.gz", reference=image), expected)
    assert_lies_at(medcam.save(values, tmp_path / "b.nii.gz", raw_input=image), expected)
    assert_lies_at(medcam.files.save_nifti(tmp_path / "c.nii.gz", values, image), expected)


@each_space
def test_the_handler(tmp_path, space, expected):
    images = [image_in(space, name=f"/data/{k}.nrrd") for k in range(2)]
    loader = torch.utils.data.DataLoader(
        [{"image": image, "label": image} for image in images], collate_fn=list_data_collate
    )
    evaluator = SupervisedEvaluator(
        torch.device("cpu"), loader, Finder().eval(), inferer=SimpleInferer()
    )
    inferer = medcam.monai.AttentionInferer(layer="features.0", target=ONE)
    medcam.monai.AttentionHandler(inferer, output_dir=tmp_path).attach(evaluator)
    evaluator.run()
    for k in range(2):
        assert_lies_at(tmp_path / f"{k}_attention.nii.gz", expected)


@each_space
def test_the_dictionary_transform_hands_the_space_on(tmp_path, space, expected):
    """The map is in the world of its image, as MONAI's own transforms and writers expect."""
    data = medcam.monai.AttentionMapd("image", Finder().eval(), target=ONE, layer="features.0")(
        {"image": image_in(space)}
    )
    attention = data["image_attention"]
    assert attention.meta.get("space") == space
    np.testing.assert_allclose(attention.affine, LPS)
    path = medcam.save(attention[0].as_tensor(), tmp_path / "a.nii.gz", reference=attention)
    assert_lies_at(path, expected)


def test_a_two_dimensional_image(tmp_path):
    affine = np.array([[0.5, 0, 3], [0, 0.7, 4], [0, 0, 1]])
    image = MetaTensor(torch.rand(1, 6, 8), affine=torch.from_numpy(affine))
    image.meta["space"] = "LPS"
    np.testing.assert_allclose(affine_of(image), np.diag([-1, -1, 1]) @ affine)
    loader = torch.utils.data.DataLoader(
        [{"image": image, "label": image}], collate_fn=list_data_collate
    )
    evaluator = SupervisedEvaluator(torch.device("cpu"), loader, Finder(2).eval())
    inferer = medcam.monai.AttentionInferer(layer="features.0", target=ONE)
    medcam.monai.AttentionHandler(inferer, output_dir=tmp_path).attach(evaluator)
    evaluator.run()
    (path,) = tmp_path.glob("*.nii.gz")
    found = nibabel.load(path).affine
    np.testing.assert_allclose(found[:2, [0, 1, 3]], [[-0.5, 0, -3], [0, -0.7, -4]], atol=1e-5)


def test_distances_do_not_depend_on_the_world(tmp_path):
    scores = {}
    for space in ("LPS", "RAS"):
        torch.manual_seed(0)
        model = medcam.inject(
            Finder().eval(), tmp_path / space, layer="features.0", label=ONE, evaluate=True,
            metric="hd95", return_score=True, threshold=0.5,
        )  # fmt: skip
        mask = torch.zeros(1, 1, *SHAPE)
        mask[..., 2:5, 3:6, 1:4] = 1
        scores[space] = model(image_in(space)[None], mask)[1]
    assert scores["LPS"] == scores["RAS"]
    assert all(np.isfinite(list(scores["LPS"].values())))


def test_a_plain_network_without_monai_is_unaffected():
    assert affine_of(torch.rand(2)) is None
    assert affine_of(nn.Identity()) is None
    assert affine_of(np.eye(4)) is None
