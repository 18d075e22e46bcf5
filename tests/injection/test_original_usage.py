"""Programs written for the original package work unchanged."""

from __future__ import annotations

import re

import nibabel as nib
import numpy as np
import openpyxl
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from medcam import medcam
from medcam.errors import InputTypeError
from support.nets import Classifier, UNet, image

METHODS = ["gbp", "gcam", "ggcam", "gcampp"]


def box(x: Tensor) -> Tensor:
    """A mask with its upper left quarter set."""
    mask = torch.zeros_like(x[:, :1])
    quarter = tuple(slice(0, extent // 2) for extent in x.shape[2:])
    mask[(slice(None), slice(None), *quarter)] = 1
    return mask


@pytest.mark.parametrize("backend", METHODS)
def test_the_readme_of_the_original(backend, tmp_path):
    model, x = Classifier(), image()
    model = medcam.inject(model, output_dir=str(tmp_path), backend=backend, save_maps=True)
    model.eval()
    for _ in range(2):
        output = model(x)
    assert output.shape == (2, 3)
    layer = () if backend == "gbp" else ("features",)
    folder = tmp_path.joinpath(*layer)
    names = [f"attention_map_{call}_{sample}_0.png" for call in (0, 1) for sample in (0, 1)]
    assert sorted(path.name for path in folder.glob("*.png")) == names
    with Image.open(folder / names[0]) as picture:
        assert picture.size == (12, 12)


@pytest.mark.parametrize("form", ["position", "keyword", "original order"])
def test_forward_with_a_mask_scores_every_layer(form, tmp_path):
    net, x = Classifier().eval(), image()
    model = medcam.inject(
        net, str(tmp_path), layer="full", evaluate=True, save_scores=True, return_score=True
    )
    mask = box(x)
    output, scores = {
        "position": lambda: model.forward(x, mask),
        "keyword": lambda: model(x, mask=mask),
        "original order": lambda: model(x, None, mask, x),
    }[form]()
    assert torch.equal(output, net(x))
    layers = [name for name in model.get_layers() if name not in ("features.2", "head")]
    assert set(layers) <= set(scores)
    assert all(len(per_layer) == 2 for per_layer in scores.values())
    model.dump()
    book = openpyxl.load_workbook(tmp_path / "scores.xlsx")
    assert book.sheetnames == ["Scores", "Mean Scores", "About"]
    rows = pd.read_excel(tmp_path / "scores.xlsx", sheet_name="Scores")
    assert {"evaluation", "layer", "class_label", "name"} <= set(rows.columns)
    for layer, values in scores.items():
        written = rows.loc[rows["layer"] == layer, "evaluation"].to_numpy(float)
        np.testing.assert_allclose(written, np.asarray(values, float))
    means = pd.read_excel(tmp_path / "scores.xlsx", sheet_name="Mean Scores")
    assert set(means["layer"]) == set(scores)
    assert (tmp_path / "mean_scores.png").stat().st_size > 1000


@pytest.mark.parametrize("positional", [False, True])
def test_masks_may_be_a_list_of_one_for_each_sample(positional, tmp_path):
    net, x, scores = Classifier().eval(), image(), []
    mask = box(x)
    for masks in (mask, list(mask), [item[0].numpy() for item in mask]):
        model = medcam.inject(net, tmp_path, label=0, evaluate=True, return_score=True)
        call = (x, masks) if positional else (x,)
        scores.append(model(*call, **({} if positional else {"mask": masks}))[1])
    assert scores[0] == scores[1] == scores[2]


def test_a_score_is_that_of_the_map_against_the_mask(tmp_path):
    net, x = UNet().eval(), image()
    model = medcam.inject(
        net, tmp_path, layer="bottleneck", metric="relevance_mass", evaluate=True,
        return_score=True, return_attention=True, normalize=False,
    )  # fmt: skip
    mask = box(x)
    (_, attention), scores = model(x, mask)
    for sample, score in enumerate(scores["bottleneck"]):
        values = attention[sample, 0]
        by_hand = (values * mask[sample, 0]).sum() / values.sum()
        assert score == pytest.approx(float(by_hand), rel=1e-5)


@pytest.mark.filterwarnings("ignore:The map is saved without:medcam.errors.MedcamWarning")
def test_gandlf_injects_before_training_and_makes_maps_afterwards(tmp_path):
    """The calls of mlcommons' GaNDLF, in its order."""
    model = medcam.inject(
        UNet(3), output_dir=str(tmp_path), backend="gcam", layer="auto", save_maps=False,
        return_attention=True, enabled=False,
    )  # fmt: skip
    plain = UNet(3)
    plain.load_state_dict(model.state_dict())
    x = image(3, size=8)
    for net in (model, plain):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    trained, expected = model.state_dict(), plain.state_dict()
    assert list(trained) == list(expected)
    assert all(torch.equal(trained[key], expected[key]) for key in trained)

    model.eval()
    model.enable_medcam()
    output, attention_map = model(x)
    model.disable_medcam()
    assert torch.equal(output, plain.eval()(x))
    assert attention_map.shape == (2, 1, 8, 8, 8)
    assert attention_map.min() >= 0
    assert attention_map.max() <= 1
    for index, single in enumerate(attention_map.cpu().detach().numpy()):
        path = model.save_attention_map(single.squeeze(), raw_input=x[index].squeeze(-1))
        np.testing.assert_array_equal(nib.load(path).get_fdata(dtype="f4"), single.squeeze())
    assert model(x).shape == output.shape


def test_no_grad_with_return_attention():
    model = medcam.inject(Classifier(3).eval(), return_attention=True)
    volume = image(3)
    with torch.no_grad():
        out, cam = model(volume)
    assert not out.requires_grad
    assert cam.shape == (2, 1, 12, 12, 12)
    assert cam.any()


def test_best_with_replace():
    net, x = Classifier().eval(), image()
    model = medcam.inject(net, label="best", replace=True, layer="features", normalize=False)
    by_class = medcam.inject(net, replace=True, layer="features", normalize=False)
    best = net(x).argmax(1)
    assert torch.equal(model(x), by_class(x, best))
    model.replace_output(False)
    assert torch.equal(model(x), net(x))


@pytest.mark.parametrize(
    "given", [1, torch.tensor(1), torch.tensor([1, 1]), "all", lambda o: o > 0]
)
def test_a_label_by_position(given):
    net, x = Classifier().eval(), image()
    model = medcam.inject(net, replace=True, layer="features", normalize=False)
    assert torch.equal(model(x, given), model(x, label=given))
    if not isinstance(given, str) and not callable(given):
        default = medcam.inject(net, label=1, replace=True, layer="features", normalize=False)
        assert torch.equal(model(x, given), default(x))


def test_a_discriminator_masks_the_output():
    net, x = UNet().eval(), image()
    model = medcam.inject(
        net, label=lambda out: out > 0.1, replace=True, layer="decoder", backend="hirescam",
        normalize=False,
    )  # fmt: skip

    def by_hand(logits: Tensor) -> Tensor:
        picked = (logits > 0.1).float()
        return (logits * picked).flatten(1).sum(1) / picked.flatten(1).sum(1)

    expected = medcam.inject(
        net, label=by_hand, replace=True, layer="decoder", backend="hirescam", normalize=False
    )
    torch.testing.assert_close(model(x), expected(x))


def test_data_shape_is_the_shape_of_the_maps():
    net, x = Classifier().eval(), image()
    for data_shape, expected in [("default", (12, 12)), (None, (6, 6)), ((5, 9), (5, 9))]:
        model = medcam.inject(net, layer="features", data_shape=data_shape, return_attention=True)
        assert model(x)[1].shape[2:] == expected
        assert model.get_attention_map().shape[2:] == expected


def test_several_layers_come_as_a_dict():
    model = medcam.inject(Classifier().eval(), layer={"features.0", "features"})
    model(image())
    found = model.get_attention_map()
    assert set(found) == {"features.0", "features"}
    assert all(values.shape == (2, 1, 12, 12) for values in found.values())


def test_maps_are_returned_scaled_or_raw():
    net, x = Classifier().eval(), image()
    scaled, raw = medcam.inject(net, label=0), medcam.inject(net, label=0, normalize=False)
    scaled(x), raw(x)
    values = raw.get_attention_map()
    low, high = values.min((1, 2, 3), keepdims=True), values.max((1, 2, 3), keepdims=True)
    assert (high > low).all()
    np.testing.assert_allclose(scaled.get_attention_map(), (values - low) / (high - low), atol=1e-6)
    signed = medcam.inject(net, backend="gbp")
    signed(x)
    assert np.abs(signed.get_attention_map()).max() == 1


def test_3d_maps_take_the_references_place_and_raw_values(tmp_path):
    affine = np.array([[0, -2, 0.1, 5], [1.5, 0, 0, -7], [0, 0.2, 3, 9], [0, 0, 0, 1.0]])
    net, x = Classifier(3).eval(), torch.rand(2, 1, 8, 10, 12)
    model = medcam.inject(
        net, tmp_path, layer="features", save_maps=True, reference=affine, normalize=False
    )
    model(x)
    for sample in (0, 1):
        written = nib.load(tmp_path / "features" / f"attention_map_0_{sample}_0.nii.gz")
        np.testing.assert_allclose(written.affine, affine, atol=1e-6)
        assert written.get_data_dtype() == np.float32
        np.testing.assert_array_equal(
            written.get_fdata(dtype="f4"), model.get_attention_map()[sample, 0]
        )


def test_pickle_holds_every_map(tmp_path):
    import pickle

    model = medcam.inject(Classifier().eval(), tmp_path, save_pickle=True)
    model(image())
    last = model.get_attention_map()
    model(image(batch=1))
    model.dump()
    stored = pickle.loads((tmp_path / "attention_maps.pkl").read_bytes())
    assert len(stored) == 3
    np.testing.assert_array_equal(stored[0], last[0, 0])


def test_functions_as_labels_have_rows_of_their_own(tmp_path):
    def second(output):
        return output[:, 1]

    model = medcam.inject(Classifier().eval(), tmp_path, evaluate=True)
    mask = image(size=12) > 0.5
    for label in (second, lambda output: output[:, 0], lambda output: output > 0):
        model(image(), mask, label=label)
    model.dump()
    means = pd.read_excel(tmp_path / "scores.xlsx", sheet_name="Mean Scores")
    first, *others = means["class_label"]
    assert first == "the score of second"
    here = r"a lambda \(test_original_usage\.py, line \d+\)"
    for text, start in zip(others, ("the score of ", "the logits picked by "), strict=True):
        assert re.fullmatch(start + here, text)


def test_the_third_argument_of_save_may_be_the_raw_input(tmp_path):
    values, raw = torch.rand(8, 8), torch.rand(1, 8, 8)
    by_place = medcam.save(values, tmp_path / "a", raw).read_bytes()
    assert by_place == medcam.save(values, tmp_path / "b", raw_input=raw).read_bytes()
    assert by_place != medcam.save(values, tmp_path / "c", True).read_bytes()


def test_a_path_as_raw_input_is_refused(tmp_path):
    model = medcam.inject(Classifier().eval(), tmp_path, save_maps=True)
    with pytest.raises(InputTypeError, match=r"raw_input='a\.png' is a path"):
        model(image(), raw_input="a.png")


def test_raw_input_is_under_the_map(tmp_path):
    net, x = Classifier().eval(), image(size=16)
    model = medcam.inject(net, tmp_path, layer="features", save_maps=True)
    raw = torch.zeros(2, 1, 16, 16)
    raw[..., 8:] = 1000.0
    model(x, raw_input=raw)
    with Image.open(tmp_path / "features" / "attention_map_0_0_0.png") as picture:
        grey = np.asarray(picture.convert("L"), float)
    assert grey[:, 8:].mean() > grey[:, :8].mean() + 40


def test_test_run_lists_layers_and_saves_nothing(tmp_path):
    model = medcam.inject(Classifier().eval(), tmp_path, save_maps=True)
    assert model.test_run(image()) == [
        "features.0", "features.1", "features.2", "features.3", "features.4", "features",
    ]  # fmt: skip
    (written,) = tmp_path.iterdir()  # the original wrote the names, too
    assert written.name == "registered_layers.txt"
    assert written.read_text().splitlines()[-1] == "features"
    assert model.get_layers(reverse=True) == model.get_layers()[::-1]


def test_retain_graph_and_cudnn_are_accepted():
    model = medcam.inject(Classifier().eval(), retain_graph=True, cudnn=False)
    model(image())
    assert torch.backends.cudnn.enabled
    assert model.get_attention_map().any()


def test_both_imports_are_the_same():
    import medcam as package

    for name in ("inject", "get_layers", "compute_score", "Evaluator", "save"):
        assert getattr(package, name) is getattr(medcam, name)
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_the_automatic_layer_is_chosen_again_for_another_size():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    ).eval()  # fmt: skip
    model = medcam.inject(net)
    for size, layer in [(16, "3"), (3, "1"), (16, "3")]:
        model(image(size=size))
        assert model.get_explanation().layer == layer
