"""Each call's maps lie where its own case is, also those of a model injected once for many."""

from __future__ import annotations

import warnings

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

import medcam
from medcam.errors import InputError, InputTypeError, MedcamWarning
from support.nets import UNet

SPACE = (8, 12, 4)
FILE = (16, 24, 8)
WHOLE = medcam.targets.class_score(1)
FIRST = np.array([[-2.0, 0, 0, 30], [0, 2, 0, -20], [0, 0, 3, 10], [0, 0, 0, 1]])
SECOND = np.array([[0, 1.0, 0, -5], [-1, 0, 0, 6], [0, 0, 2, 70], [0, 0, 0, 1]])

OF_RANDOM_WEIGHTS = "Everything at layer|.* hardly agree|.* below chance"


@pytest.fixture
def files(tmp_path):
    paths = []
    for index, affine in enumerate((FIRST, SECOND)):
        image = nibabel.Nifti1Image(np.zeros(SPACE, np.float32), affine)
        image.set_sform(affine, 4)
        nibabel.save(image, tmp_path / f"{index}.nii.gz")
        paths.append(tmp_path / f"{index}.nii.gz")
    return paths


@pytest.fixture
def model(tmp_path):
    return injected(tmp_path)


def injected(tmp_path, **options):
    options = {"layer": "bottleneck", "label": WHOLE, "save_maps": True, **options}
    return medcam.inject(UNet(3).eval(), tmp_path / "out", **options)


def scan(seed: int = 0, batch: int = 1) -> Tensor:
    return torch.randn(batch, 1, *SPACE, generator=torch.Generator().manual_seed(seed))


def written(tmp_path, call: int, sample: int = 0):
    return nibabel.load(tmp_path / f"out/bottleneck/attention_map_{call}_{sample}_0.nii.gz")


def half(affine: np.ndarray) -> np.ndarray:
    """Return the affine of twice as many voxels within the same outer borders."""
    result = affine @ np.diag([0.5, 0.5, 0.5, 1])
    result[:3, 3] -= affine[:3, :3].sum(1) / 4
    return result


# ------------------------------------------------------------------------------------- per call


def test_each_call_has_its_own_reference_and_shape(tmp_path, model, files):
    given = [files[0], str(files[1]), nibabel.load(files[0]), SECOND, SECOND.tolist(),
             torch.from_numpy(FIRST), MetaTensor(scan()[0], affine=torch.from_numpy(SECOND)),
             MetaTensor(scan(), affine=torch.from_numpy(FIRST)), [files[1]]]  # fmt: skip
    expected = [FIRST, SECOND, FIRST, SECOND, SECOND, FIRST, SECOND, FIRST, SECOND]
    for call, reference in enumerate(given):
        model(scan(call), reference=reference)
        np.testing.assert_allclose(written(tmp_path, call).affine, expected[call], atol=1e-5)
    assert written(tmp_path, 0).header["sform_code"] == 4  # copied bit by bit
    model(scan(), reference=files[1], data_shape=FILE)
    found = written(tmp_path, len(given))
    assert found.shape == FILE
    np.testing.assert_allclose(found.affine, half(SECOND), atol=1e-5)
    assert model.get_attention_map().shape[2:] == FILE
    model(scan(), reference=files[1], data_shape=None)  # the layer's own: the pooled volume
    assert written(tmp_path, len(given) + 1).shape == (4, 6, 2)
    model(scan(), reference=files[1])  # as given to inject: the input's
    assert written(tmp_path, len(given) + 2).shape == SPACE


def test_the_shape_of_a_call_returns_to_that_of_inject(tmp_path):
    model = injected(tmp_path, data_shape=None)
    model(scan(), reference=FIRST, data_shape="default")
    assert model.get_attention_map().shape[2:] == SPACE
    model(scan(), reference=FIRST)
    assert model.get_attention_map().shape[2:] == (4, 6, 2)


def test_a_call_s_reference_is_above_all_others(tmp_path, files):
    own = MetaTensor(scan(), affine=torch.from_numpy(FIRST))
    for fixed in (None, files[0], FIRST):
        model = injected(tmp_path, reference=fixed)
        model(own, reference=files[1])
        np.testing.assert_allclose(written(tmp_path, 0).affine, SECOND, atol=1e-5)


@pytest.mark.parametrize(
    "given",
    [
        lambda files: [files[0], files[1]],
        lambda files: (FIRST, nibabel.load(files[1])),
        lambda files: np.stack([FIRST, SECOND]),
        lambda files: torch.from_numpy(np.stack([FIRST, SECOND])),
    ],
)
def test_a_batch_takes_one_for_each_sample(tmp_path, model, files, given):
    model(scan(batch=2), reference=given(files))
    for sample, affine in enumerate((FIRST, SECOND)):
        np.testing.assert_allclose(written(tmp_path, 0, sample).affine, affine, atol=1e-5)


def test_an_affine_is_for_every_sample_also_of_four(tmp_path, model):
    model(scan(batch=4), reference=FIRST.tolist())
    for sample in range(4):
        np.testing.assert_allclose(written(tmp_path, 0, sample).affine, FIRST, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (lambda files: files[0], InputError, r"1 image\(s\) for 2 sample"),
        (lambda files: [files[0]] * 3, InputError, r"3 image\(s\) for 2 sample"),
        (lambda files: ["missing.nii.gz"] * 2, InputError, "cannot be read"),
        (lambda files: np.zeros((4, 4)), InputError, "affine"),
        (lambda files: [object()] * 2, InputTypeError, "reference"),
    ],
)
def test_what_does_not_fit_is_said_before_the_model_runs(model, files, given, kind, words):
    ran = []
    handle = model.pool.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(kind, match=words):
        model(scan(batch=2), reference=given(files))
    assert not ran
    handle.remove()


def test_a_shape_that_does_not_fit_is_an_error(model):
    with pytest.raises(InputError, match="positive extents"):
        model(scan(), data_shape=(4, 4))


class OwnParameters(UNet):
    def forward(self, x: Tensor, reference: float = 0.0, data_shape: float = 0.0) -> Tensor:
        return super().forward(x) + reference + data_shape


class AnyKeyword(UNet):
    def forward(self, x: Tensor, **options: float) -> Tensor:
        return super().forward(x) + sum(options.values())


@pytest.mark.parametrize("kind", [OwnParameters, AnyKeyword])
def test_the_model_s_own_parameters_are_the_model_s(tmp_path, files, kind):
    net = kind(3).eval()
    model = medcam.inject(
        net, tmp_path / "out", layer="bottleneck", label=WHOLE, save_maps=True, reference=FIRST
    )
    x = scan()
    given = {"reference": 1.0, "data_shape": 2.0}
    medcams = {"medcam_reference": files[1], "medcam_data_shape": FILE}
    assert torch.equal(model(x, **given, **medcams), net(x, **given))
    np.testing.assert_allclose(written(tmp_path, 0).affine, half(SECOND), atol=1e-5)
    model.disable_medcam()
    assert torch.equal(model(x, **given, **medcams), net(x, **given))


def test_they_are_ignored_for_pictures(tmp_path):
    net = UNet(2).eval()
    model = medcam.inject(net, tmp_path, layer="bottleneck", label=WHOLE, save_maps=True)
    x = torch.rand(1, 1, 8, 8)
    assert torch.equal(model(x, reference="no.png", data_shape=(16, 16)), net(x))
    assert model.get_attention_map().shape[2:] == (16, 16)


# ------------------------------------------------------------------------- fixed by inject()


def test_a_second_case_in_the_place_of_the_first_is_warned_of_once(tmp_path, files):
    model = injected(tmp_path, reference=files[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", OF_RANDOM_WEIGHTS)
        model(scan(0))
        model(scan(0), label=medcam.targets.class_score(0))  # another map of the same case
        model(scan(1), reference=files[1])
    with pytest.warns(MedcamWarning, match=r"holds for all calls.*model\(x, reference=...\)"):
        model(scan(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", OF_RANDOM_WEIGHTS)
        model(scan(2))
    np.testing.assert_allclose(written(tmp_path, 4).affine, FIRST, atol=1e-5)


def test_two_cases_in_one_batch_are_warned_of(tmp_path, files):
    with pytest.warns(MedcamWarning, match="holds for all calls"):
        injected(tmp_path, reference=files[0])(scan(batch=2))


@pytest.mark.parametrize("fixed", [FIRST, FIRST.tolist(), torch.from_numpy(FIRST)])
def test_an_affine_holds_for_all_calls_without_a_word(tmp_path, fixed):
    model = injected(tmp_path, reference=fixed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", OF_RANDOM_WEIGHTS)
        for seed in range(3):
            model(scan(seed, batch=2))
        model(MetaTensor(scan(), affine=torch.from_numpy(SECOND)))
    np.testing.assert_allclose(written(tmp_path, 3).affine, FIRST, atol=1e-5)


def test_nothing_is_said_where_no_geometry_counts(tmp_path, files):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", OF_RANDOM_WEIGHTS)
        model = injected(tmp_path, reference=files[0], save_maps=False, evaluate=True)
        for seed in range(2):
            mask = torch.zeros(1, 1, *SPACE)
            mask[..., 2:5, 3:6, 1:3] = 1
            model(scan(seed), mask)  # the default metric knows no mm


# ------------------------------------------------------------------------- the input's own affine


def test_the_input_s_own_affine_is_above_a_file_of_another_case(tmp_path, files):
    model = injected(tmp_path, reference=files[0])
    with pytest.warns(MedcamWarning, match="own affine places it elsewhere.*reference="):
        model(MetaTensor(scan(), affine=torch.from_numpy(SECOND)))
    with warnings.catch_warnings():  # told once
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", OF_RANDOM_WEIGHTS)
        model(MetaTensor(scan(1), affine=torch.from_numpy(SECOND + np.eye(4, k=3))))
    np.testing.assert_allclose(written(tmp_path, 0).affine, SECOND, atol=1e-5)
    np.testing.assert_allclose(written(tmp_path, 1).affine, SECOND + np.eye(4, k=3), atol=1e-5)


def test_where_they_agree_the_file_s_header_is_copied(tmp_path, files):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", OF_RANDOM_WEIGHTS)
        model = injected(tmp_path, reference=files[0])
        model(MetaTensor(scan(), affine=torch.from_numpy(FIRST)))
        assert written(tmp_path, 0).header["sform_code"] == 4
        # an input that was resampled from the file, and maps that are brought back to it
        small = MetaTensor(scan(), affine=torch.from_numpy(FIRST))
        nibabel.save(nibabel.Nifti1Image(np.zeros(FILE), half(FIRST)), tmp_path / "big.nii.gz")
        model = injected(tmp_path, reference=tmp_path / "big.nii.gz", data_shape=FILE)
        model(small)
    np.testing.assert_allclose(written(tmp_path, 0).affine, half(FIRST), atol=1e-5)


def test_an_identity_affine_says_nothing_of_the_place(tmp_path, files):
    """MONAI's transforms give it to every tensor without a geometry."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", OF_RANDOM_WEIGHTS)
        injected(tmp_path, reference=files[1])(MetaTensor(scan()))
    np.testing.assert_allclose(written(tmp_path, 0).affine, SECOND, atol=1e-5)


def test_without_a_reference_the_input_s_own_is_taken(tmp_path, model):
    for call, affine in enumerate((FIRST, SECOND)):
        model(MetaTensor(scan(), affine=torch.from_numpy(affine)))
        np.testing.assert_allclose(written(tmp_path, call).affine, affine, atol=1e-5)


# ---------------------------------------------------------------------------------- scores in mm


def distance(tmp_path, x: Tensor, mask: Tensor, fixed=None, **call) -> float:
    model = injected(
        tmp_path, reference=fixed, save_maps=False, evaluate=True, metric="hd95",
        return_score=True, threshold=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.3, 0.5)
    _, scores = model(x, mask, **call)
    return scores["bottleneck"][0]


@pytest.mark.parametrize("size", ["input", "map"])
@pytest.mark.parametrize(
    "how", ["call", "call, affine", "inject, affine", "inject", "MetaTensor", "MetaTensor, file"]
)
def test_distances_are_in_the_mm_of_the_same_place(tmp_path, files, how, size):
    """A reference of other voxel sizes scales the distance as it scales the map's file."""
    shape = SPACE if size == "input" else FILE
    call = {} if size == "input" else {"data_shape": FILE}
    mask = torch.zeros(1, 1, *shape)
    mask[(..., *(slice(n // 4, n // 2) for n in shape))] = 1
    cubes = {"one": np.eye(4), "three": np.diag([3.0, 3, 3, 1])}
    found = {}
    for name, affine in cubes.items():
        nibabel.save(nibabel.Nifti1Image(np.zeros(SPACE), affine), tmp_path / f"{name}.nii.gz")
        path, x, fixed, more = tmp_path / f"{name}.nii.gz", scan(), None, {}
        if how.startswith("call"):
            more = {"reference": affine if how.endswith("affine") else path}
        elif how.startswith("inject"):
            fixed = affine if how.endswith("affine") else path
        else:
            x = MetaTensor(scan(), affine=torch.from_numpy(affine))
            fixed = files[0] if how.endswith("file") and name == "three" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MedcamWarning)
            found[name] = distance(tmp_path, x, mask, fixed, **more, **call)
    assert found["one"] > 0
    assert found["three"] == pytest.approx(3 * found["one"])


def test_a_mask_on_the_input_s_grid_and_a_reference_on_the_map_s(tmp_path):
    """The same distance in mm, whichever of the two grids the mask and the reference have."""
    nibabel.save(nibabel.Nifti1Image(np.zeros(FILE), half(FIRST)), tmp_path / "big.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros(SPACE), FIRST), tmp_path / "small.nii.gz")
    mask = torch.zeros(1, 1, *SPACE)
    mask[..., 2:4, 3:6, 1:2] = 1
    found = [
        distance(tmp_path, scan(), mask, reference=tmp_path / name, data_shape=FILE)
        for name in ("big.nii.gz", "small.nii.gz")
    ]
    assert found[0] == pytest.approx(found[1])
    assert found[0] > 0


def test_the_readme_s_program_for_many_patients(tmp_path, files):
    """One injected model, one line in the loop, each map in its patient's place."""
    model = injected(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", OF_RANDOM_WEIGHTS)
        for seed, path in enumerate(files):
            model(scan(seed), reference=path, data_shape=nibabel.load(path).shape)
    for call, affine in enumerate((FIRST, SECOND)):
        np.testing.assert_allclose(written(tmp_path, call).affine, affine, atol=1e-5)
