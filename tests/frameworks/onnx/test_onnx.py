"""An ONNX model is explained as the same network in PyTorch is, or the error says why not."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import warnings

import nibabel as nib
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from typer.testing import CliRunner

import medcam
from medcam import methods
from medcam.cli import app
from medcam.cli.model import load_model
from medcam.errors import (
    InputError,
    InputTypeError,
    MissingPackageError,
    NoMapError,
    UnknownNameError,
)
from support.nets import Classifier
from support.onnx_models import Segmenter, write, write_classifier, write_segmenter

FREE = ["batch", 1, "height", "width"]


@pytest.fixture
def net():
    return Classifier().eval()


@pytest.fixture
def path(net, tmp_path):
    return write_classifier(net, tmp_path / "model.onnx", FREE)


@pytest.fixture
def model(path):
    return medcam.onnx.load(path, output="logits")


def assert_same_map(found, expected):
    """The two libraries add in another order; nothing else differs."""
    assert expected.abs().max() > 0
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def assert_close(found, expected, tolerance=1e-6):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=tolerance)


# ------------------------------------------------------------------------------------- the maps


@pytest.mark.parametrize("method", [methods.occlusion(size=4, stride=3), methods.rise(masks=40)])
def test_maps_of_a_2d_classifier_are_those_of_pytorch(net, model, method):
    image = torch.rand(2, 1, 12, 16)
    found = medcam.explain(model, image, method=method, target=1).map.values
    expected = medcam.explain(net, image, method=method, target=1).map.values
    assert_same_map(found, expected)


@pytest.mark.parametrize("method", [methods.occlusion(size=3), methods.rise(masks=40)])
def test_maps_of_a_3d_segmentation_are_those_of_pytorch(tmp_path, method):
    net = Segmenter().eval()
    model = medcam.onnx.load(write_segmenter(net, tmp_path / "m.onnx", ["d", "h", "w"]))
    image = torch.rand(1, 1, 6, 7, 8)
    found = medcam.explain(model, image, method=method, target=2).map.values
    expected = medcam.explain(net, image, method=method, target=2).map.values
    assert_same_map(found, expected)


@pytest.mark.parametrize("fixed", [1, 3])
def test_a_fixed_batch_runs_as_often_as_needed(net, tmp_path, fixed):
    path = write_classifier(net, tmp_path / "m.onnx", [fixed, 1, 12, 12], fixed)
    model = medcam.onnx.load(path, output=0)
    images = torch.rand(5, 1, 12, 12)
    assert_close(model(images), net(images).detach())
    found = medcam.explain(model, images, method="occlusion", target=0).map.values
    assert_close(found, medcam.explain(net, images, method="occlusion", target=0).map.values)


def test_an_injected_model_and_a_check(net, model):
    images = torch.rand(1, 1, 16, 16)
    injected = medcam.inject(copy.deepcopy(model), backend="occlusion", label=1)
    injected(images)
    expected = medcam.explain(model, images, method="occlusion", target=1).map.values
    assert_same_map(injected.get_explanation().map.values, expected)
    assert_same_map(copy.deepcopy(injected)(images), model(images))
    of_file, of_network = (
        medcam.check(checked, images, method=["occlusion"], target=1, networks=networks)
        for checked, networks in ((model, 5), (net, 0))
    )
    assert of_file.of("occlusion").verdicts["T2"].word == "does not apply"  # it has no weights
    assert "no weights that could be permuted" in of_file.maps[0].verdicts["T2"].sentence
    assert of_network.of("occlusion").verdicts["T2"].word == "undecided"
    assert "networks=0" in of_network.of("occlusion").verdicts["T2"].sentence
    assert of_network.of("occlusion").word in ("undecided", "fails", "no better than the image")
    for key in ("T0", "T1", "T3", "T4"):
        assert of_file.maps[0].verdicts[key].word == of_network.maps[0].verdicts[key].word


# ------------------------------------------------------------------------- inputs and outputs


def test_inputs_by_name_and_outputs_by_name(net, path):
    images = torch.rand(2, 1, 12, 12)
    result = medcam.onnx.load(path)(image=images)
    logits = net(images).detach()
    assert list(result) == ["logits", "probabilities", "label"]
    assert_close(result["logits"], logits)
    assert_close(result["probabilities"], logits.softmax(1))
    assert torch.equal(result["label"], logits.argmax(1))
    assert_close(medcam.onnx.load(path, output=-2)(images), logits.softmax(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_outputs_have_the_type_of_the_image(net, model, dtype):
    images = torch.rand(2, 1, 12, 12).to(dtype)
    found = model(images)
    assert found.dtype == dtype
    torch.testing.assert_close(found, net(images.float()).detach().to(dtype))


def test_the_image_is_left_alone_and_several_inputs_keep_their_order(tmp_path):
    kinds = [("ct", TensorProto.FLOAT, ["n", 1, 4, 4]), ("age", TensorProto.INT64, ["n", 1, 1, 1])]
    nodes = [
        helper.make_node("Cast", ["age"], ["years"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["ct", "years"], ["difference"]),
    ]
    outputs = [("difference", TensorProto.FLOAT, ["n", 1, 4, 4])]
    model = medcam.onnx.load(write(nn.Module(), tmp_path / "m.onnx", nodes, kinds, outputs))
    ct, age = torch.rand(2, 1, 4, 4).transpose(2, 3), torch.tensor([3, 5]).reshape(2, 1, 1, 1)
    before = ct.clone()
    for result in (model(ct, age), model(age=age, ct=ct), model(ct, age=age)):
        assert torch.equal(result, ct - age)
    assert torch.equal(ct, before)
    with pytest.raises(InputError, match=r"takes 2 input\(s\), 'ct' \[n, 1, 4, 4\], 'age'"):
        model(ct)
    with pytest.raises(InputError, match="1 by position and 'ct' by name"):
        model(ct, ct=ct)
    with pytest.raises(InputError, match="2 by position and 'ct' by name"):
        model(ct, age, ct=ct)


# -------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    "method", ["auto", "gcam", "saliency", "gbp", "intgrad", "smoothgrad", "scorecam", "eigencam"]
)
def test_methods_with_a_gradient_or_a_layer_name_those_that_work(model, method):
    for layer in ("auto", "full"):
        with pytest.raises(NoMapError, match=r"cannot be differentiated.*'occlusion' or 'rise'"):
            medcam.explain(model, torch.rand(1, 1, 12, 12), method=method, layer=layer, target=1)


class Partly(nn.Module):
    """A network one branch of which is opaque: its gradient without that branch is wrong."""

    def __init__(self, opaque):
        super().__init__()
        self.conv, self.opaque = nn.Conv2d(1, 1, 3, padding=1), opaque
        self.other = Classifier()

    def forward(self, x):
        features = self.conv(x)
        return self.other(features) + self.opaque(features)


@pytest.mark.parametrize("method", ["gcam", "saliency", "intgrad", "smoothgrad"])
def test_a_model_that_is_opaque_in_part_has_no_wrong_map(model, method):
    image = torch.rand(1, 1, 12, 12)
    whole = Partly(model).eval()
    with pytest.raises(NoMapError, match=r"OnnxModel as a part.*'occlusion' or 'rise'"):
        medcam.explain(whole, image, method=method, layer="conv", target=1)
    plain = Partly(Classifier()).eval()
    plain.conv, plain.other = whole.conv, whole.other
    found = medcam.explain(whole, image, method="occlusion", target=1).map.values
    assert not torch.equal(
        found, medcam.explain(plain, image, method="occlusion", target=1).map.values
    )


def test_files_that_are_no_model(tmp_path, path):
    with pytest.raises(InputError, match=r"none.onnx' is not a file"):
        medcam.onnx.load(tmp_path / "none.onnx")
    for damaged in (path.read_bytes()[:200], b"", b"PK\x03\x04 something else"):
        (tmp_path / "damaged.onnx").write_bytes(damaged)
        with pytest.raises(InputError, match=r"damaged.onnx' cannot be read as an ONNX model"):
            medcam.onnx.load(tmp_path / "damaged.onnx")


def test_names_that_do_not_exist(path):
    with pytest.raises(UnknownNameError, match="Did you mean 'logits'"):
        medcam.onnx.load(path, output="logit")
    with pytest.raises(InputError, match="output=3: the model has 3: logits, prob"):
        medcam.onnx.load(path, output=3)
    with pytest.raises(UnknownNameError, match="CPUExecutionProvider"):
        medcam.onnx.load(path, providers=["CpuExecutionProvider"])


def test_operators_of_other_libraries_are_not_loaded(tmp_path):
    node = helper.make_node("Custom", ["image"], ["out"], domain="com.example")
    kinds = [("image", TensorProto.FLOAT, [1, 1, 4, 4])]
    graph = helper.make_graph(
        [node], "net", [helper.make_tensor_value_info(*item) for item in kinds],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.example", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(InputError, match=r"com.example"):
        medcam.onnx.load(tmp_path / "m.onnx")


def test_images_that_do_not_fit(net, tmp_path):
    path = write_classifier(net, tmp_path / "m.onnx", ["batch", 1, 12, 12])
    model = medcam.onnx.load(path, output="logits")
    for shape in [(1, 1, 12, 16), (1, 2, 12, 12), (1, 1, 12, 12, 12)]:
        with pytest.raises(
            InputError, match=r"takes 'image' as \[batch, 1, 12, 12\]; it was given"
        ):
            medcam.explain(model, torch.rand(shape), method="occlusion", target=1)
    with pytest.raises(InputTypeError, match="ndarray: give a tensor"):
        model(np.zeros((1, 1, 12, 12)))


def test_the_package_may_be_missing(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'm3d-cam\[onnx\]'"):
        medcam.onnx.load(path)
    assert medcam.onnx.from_callable(abs)  # needs no package


def test_importing_the_interface_does_not_import_the_package():
    code = "import sys, medcam; medcam.onnx; print('onnxruntime' in sys.modules)"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_copies_share_the_session_and_pickles_are_refused(model):
    image = torch.rand(1, 1, 12, 12)
    twin = copy.deepcopy(nn.ModuleList([model.eval(), model]))
    assert twin[0] is twin[1] is not model
    assert twin[0].training is False
    assert torch.equal(twin[0](image), model(image))
    with pytest.raises(InputTypeError, match=r"pass the path, and call medcam.onnx.load\("):
        pickle.dumps(model)


# ------------------------------------------------------------------------------- functions


def brightness(images):
    return images[:, 0, 2:6, 2:6].mean((1, 2))


@pytest.mark.parametrize("takes", ["array", "tensor"])
def test_a_function_is_explained_as_a_module(takes):
    kinds = []

    def function(images):
        kinds.append(type(images))
        score = brightness(images)
        images[:] = 0  # a copy
        return score

    model = medcam.onnx.from_callable(function, takes=takes)
    image = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    before = image.clone()
    found = medcam.explain(model, image, method=methods.occlusion(size=2), target=1).map.values

    class Module(nn.Module):
        def forward(self, x):
            return brightness(x)[:, None]

    expected = medcam.explain(Module(), image, method=methods.occlusion(size=2), target=1)
    assert torch.equal(image, before)
    assert set(kinds) == {np.ndarray if takes == "array" else torch.Tensor}
    assert_close(found, expected.map.values, 1e-12)
    with pytest.raises(NoMapError, match=r"CallableModel.*'occlusion' or 'rise'"):
        medcam.explain(model, image, method="saliency", target=0)


def test_a_classifier_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    images = np.random.default_rng(0).random((40, 1, 6, 6))
    labels = (images[:, 0, :3, :3].mean((1, 2)) > 0.5).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        classifier = LogisticRegression().fit(images.reshape(40, -1), labels)
    model = medcam.onnx.from_callable(lambda x: classifier.decision_function(x.reshape(len(x), -1)))
    image = torch.from_numpy(images[:1])
    method = methods.occlusion(size=1, fill="zero")
    found = medcam.explain(model, image, method=method, target=1).map.values
    expected = torch.from_numpy(classifier.coef_.reshape(6, 6)) * image[0, 0]  # it is linear
    assert_close(found[0, 0], expected, 1e-12)


def test_functions_that_return_something_else():
    image = torch.rand(2, 1, 8, 8)
    for function, error in [
        (lambda _: 1.0, r"returned the shape \[\] for 2 image"),
        (lambda _: np.zeros((1, 3)), r"returned the shape \[1, 3\] for 2 image"),
    ]:
        with pytest.raises(InputError, match=error):
            medcam.onnx.from_callable(function)(image)
    with pytest.raises(InputTypeError, match="has to return numbers"):
        medcam.onnx.from_callable(lambda _: ["a", "b"])(image)
    with pytest.raises(InputTypeError, match="takes a function, not int"):
        medcam.onnx.from_callable(3)
    with pytest.raises(InputError, match="takes='list'"):
        medcam.onnx.from_callable(abs, takes="list")
    result = medcam.onnx.from_callable(lambda x: {"a": [1, 2], "b": x})(image)
    assert torch.equal(result["a"], torch.tensor([[1], [2]]))
    assert torch.equal(result["b"], image)


# ------------------------------------------------------------------------------ command line


def test_the_command_line_takes_a_file(net, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seg = Segmenter().eval()
    write_segmenter(seg, tmp_path / "seg.onnx", ["d", "h", "w"])
    values = np.random.default_rng(0).random((6, 7, 8), dtype=np.float32)
    nib.Nifti1Image(values, np.eye(4)).to_filename("head.nii")
    base = ["explain", "--model", "seg.onnx", "--image", "head.nii", "--target", "1", "-o", "out"]
    done = CliRunner().invoke(app, [*base, "--method", "occlusion"])
    assert done.exit_code == 0, done.output
    expected = medcam.explain(
        seg, torch.from_numpy(values)[None, None], method="occlusion", target=1
    ).map.values
    found = nib.load("out/head_occlusion.nii.gz").get_fdata(dtype=np.float32)
    assert_close(torch.from_numpy(found), expected[0, 0], 1e-5)
    record = json.loads((tmp_path / "out" / "head.json").read_text())
    assert "seg.onnx" in json.dumps(record)
    again = CliRunner().invoke(app, ["reproduce", "out/head.json"])  # data: no --trust
    assert again.exit_code == 0, again.output
    refused = CliRunner().invoke(app, base)
    assert refused.exit_code != 0
    assert "'occlusion' or 'rise'" in " ".join(refused.output.split())
    with pytest.raises(InputError, match="holds its weights"):
        load_model("seg.onnx", args=["a=1"])
