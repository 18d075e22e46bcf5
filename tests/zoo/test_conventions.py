"""Conventions of common libraries: kinds of outputs, inputs and wrappers."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
import torch.distributed as dist
from monai.data import MetaTensor
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import medcam
from medcam.errors import MedcamWarning
from support.nets import Classifier, UNet, image

from . import networks as nets
from .by_hand import hires_cam

pytestmark = [
    pytest.mark.usefixtures("unchecked_layer"),
    pytest.mark.filterwarnings("ignore:The model returns several tensors"),
]

ONE = medcam.targets.class_score(1)


def raw(net, x, layer, target=ONE, **options):
    """Return the HiResCAM map of a layer at the layer's size."""
    found = medcam.explain(
        net, x, method="hirescam", layer=layer, target=target, shape=None, **options
    )
    return found.map.values


def over_space(logits):
    """Return the mean logit of class 1."""
    return logits[:, 1].flatten(1).mean(1)


def close(ours, expected):
    assert ours.shape == expected.shape
    assert expected.any(), "the comparison would be of zeros"
    return abs(ours - expected).max() <= 1e-9 * abs(expected).max()


# ------------------------------------------------------------------------------ kinds of output


@pytest.fixture(scope="module")
def fcn():
    torch.manual_seed(0)
    return nets.tv_fcn().double().eval()


def test_torchvision_segmentation_explains_out_and_aux_on_request(fcn):
    x = image(2, size=32, channels=3).double()
    score = {key: lambda output, key=key: over_space(output[key]) for key in ("out", "aux")}
    ours = raw(fcn, x, "backbone.layer3")
    assert close(ours, hires_cam(fcn, "backbone.layer3", x, score["out"]))
    ours = raw(fcn, x, "backbone.layer3", output="aux")
    assert close(ours, hires_cam(fcn, "backbone.layer3", x, score["aux"]))


def test_torchvision_segmentation_returns_its_dict(fcn):
    x = image(2, size=32, channels=3).double()
    with torch.no_grad():
        plain, ours = fcn(x), medcam.inject(fcn, target=ONE)(x)
    assert type(ours) is type(plain)
    assert list(ours) == ["out", "aux"]
    assert all(torch.equal(ours[key], plain[key]) for key in plain)


def test_smp_with_a_label_head_explains_the_mask_and_the_label_on_request():
    net = nets.smp_net("Unet", aux_params={"classes": 4}).double().eval()
    x = image(2, size=64, channels=3).double()
    ours = raw(net, x, "encoder.layer3")
    assert close(ours, hires_cam(net, "encoder.layer3", x, lambda output: over_space(output[0])))
    found = medcam.explain(
        net, x, method="hirescam", layer="encoder.layer3", output=1, target=[3, 0], shape=None
    )
    expected = hires_cam(
        net, "encoder.layer3", x, lambda output: output[1].gather(1, torch.tensor([[3], [0]]))
    )
    assert close(found.map.values, expected)
    assert found.target.task == "classification"
    assert isinstance(found.output, tuple)


def test_hugging_face_logits_at_a_quarter_of_the_size():
    net, x = nets.hf_segformer().double().eval(), image(2, size=64, channels=3).double()
    with torch.no_grad():
        plain = net(x)
    assert plain.logits.shape[2:] == (16, 16)
    inside = plain.logits.argmax(1) == 1
    assert inside.flatten(1).any(1).all()

    def predicted_as_one(output):
        return torch.where(inside, output.logits[:, 1], 0).flatten(1).sum(1) / inside.sum((1, 2))

    ours = raw(net, x, "segformer.stages.3", target=1)
    assert close(ours, hires_cam(net, "segformer.stages.3", x, predicted_as_one))
    found = medcam.explain(net, x, target=1)
    assert found.map.values.shape == (2, 1, 64, 64)
    assert type(found.output) is type(plain)
    torch.testing.assert_close(found.output.logits, plain.logits, rtol=0, atol=1e-15)
    assert found.target.voxels.flatten().tolist() == inside.sum((1, 2)).tolist()


def test_hugging_face_skips_go_through_its_own_hooks():
    net, x = nets.hf_segformer().double().eval(), image(2, size=64, channels=3).double()
    net(x)  # transformers registers its hooks at the first call
    ours = raw(net, x, "segformer.stages.1")
    expected = hires_cam(net, "segformer.stages.1", x, lambda output: over_space(output.logits))
    assert close(ours, expected)


def test_hugging_face_classifier_takes_keyword_inputs():
    net, x = nets.hf_resnet().double().eval(), image(2, size=64, channels=3).double()
    expected = hires_cam(net, "resnet.encoder.stages.1", x, lambda output: output.logits[:, 1])
    found = medcam.explain(
        net,
        pixel_values=x,
        method="hirescam",
        layer="resnet.encoder.stages.1",
        target=1,
        shape=None,
    )
    assert close(found.map.values, expected)


def test_timm_features_are_explained_by_index_and_callable(caplog):
    net, x = nets.timm_features().double().eval(), image(2, size=64, channels=3).double()

    def energy(features):
        return features.square().flatten(1).mean(1)

    ours = raw(net, x, "layer3", output=-1, target=energy)
    assert close(ours, hires_cam(net, "layer3", x, lambda features: energy(features[-1])))
    ours = raw(net, x, "layer2", output=3, target=energy)
    assert close(ours, hires_cam(net, "layer2", x, lambda features: energy(features[3])))
    with caplog.at_level(logging.INFO, logger="medcam"):
        medcam.explain(net, x, target=ONE)
    assert "output explained: output[0], of shape [2, 64, 32, 32]" in caplog.text


class FiveOutputs(nn.Module):
    """Outputs as of Inf-Net: four side outputs, the last one final, and an edge map."""

    def __init__(self):
        super().__init__()
        self.body = UNet(2, classes=4).double()
        self.edge = nn.Conv2d(4, 1, 1).double()

    def forward(self, x):
        maps = self.body(x)
        return (*maps.split(1, dim=1), self.edge(maps))


def test_one_of_five_outputs_by_its_index():
    net, x = FiveOutputs().eval(), image(2).double()
    expected = hires_cam(net, "body.bottleneck", x, lambda five: five[3].flatten(1).mean(1))
    whole = medcam.targets.class_score(0)  # the only channel
    assert close(raw(net, x, "body.bottleneck", output=3, target=whole), expected)
    with torch.no_grad():
        ours = medcam.inject(net, output=3, target=1, layer="body.bottleneck")(x)
        plain = net(x)
    assert len(ours) == 5
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


# ------------------------------------------------------------------------ MONAI's kinds of output


def test_dynunet_in_training_mode_stacks_its_heads_and_one_has_to_be_chosen():
    net = nets.monai_dynunet(2, deep_supervision=True).double().train()
    x = image(2, size=16).double()
    assert net(x).ndim == 5
    with pytest.raises(ValueError, match=r"a stack of heads\? Choose one, e\.g\. output=lambda"):
        medcam.explain(net, x, layer="bottleneck")
    ours = raw(net, x, "bottleneck", output=lambda heads: heads[:, 0])
    assert close(ours, hires_cam(net, "bottleneck", x, lambda heads: over_space(heads[:, 0])))


def test_dynunet_in_evaluation_mode_needs_no_choice():
    net = nets.monai_dynunet(3, deep_supervision=True).double().eval()
    x = image(3, size=16).double()
    assert close(raw(net, x, "bottleneck"), hires_cam(net, "bottleneck", x, over_space))


def test_segresnet_ds_explains_the_finest_of_its_list():
    net = nets.monai_nets.SegResNetDS(2, 8, 1, 3, norm="INSTANCE", dsdepth=3).double().train()
    x = image(2, size=16).double()
    assert [head.shape[2] for head in net(x)] == [16, 8, 4]
    ours = raw(net, x, "encoder.layers.2.blocks")
    expected = hires_cam(net, "encoder.layers.2.blocks", x, lambda heads: over_space(heads[0]))
    assert close(ours, expected)


class CoarseHeads(nn.Module):
    """Two heads, the coarser one first, and none at the input's size."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 2, stride=2)
        self.deep = nn.Conv2d(4, 4, 2, stride=2)
        self.heads = nn.ModuleList([nn.Conv2d(4, 3, 1), nn.Conv2d(4, 3, 1)])

    def forward(self, x):
        x = self.stem(x).tanh()
        return [self.heads[0](self.deep(x).tanh()), self.heads[1](x)]


def test_the_finest_head_is_explained_where_none_has_the_inputs_size():
    net, x = CoarseHeads().double().eval(), image().double()
    assert [head.shape[2] for head in net(x)] == [3, 6]
    ours = raw(net, x, "stem")
    assert close(ours, hires_cam(net, "stem", x, lambda heads: over_space(heads[1])))


def test_nnunet_with_deep_supervision_explains_the_finest():
    net = nets.nnunet_plain(3, deep_supervision=True).double().eval()
    x = image(3, size=16).double()
    ours = raw(net, x, "encoder.stages.2")
    expected = hires_cam(net, "encoder.stages.2", x, lambda heads: over_space(heads[0]))
    assert close(ours, expected)


def test_basic_unet_pp_returns_a_list_of_one():
    net, x = nets.monai_basic_unet_pp(2).double().eval(), image(2, size=32).double()
    ours = raw(net, x, "conv_2_0")
    assert close(ours, hires_cam(net, "conv_2_0", x, lambda heads: over_space(heads[0])))


@pytest.fixture
def supervised():
    net = nets.monai_basic_unet_pp(2, deep_supervision=True).double().eval()
    return net, image(2, size=32).double()


def test_basic_unet_pp_with_deep_supervision_by_index(supervised):
    net, x = supervised
    assert len(net(x)) == 4
    ours = raw(net, x, "conv_1_0", output=-1)
    assert close(ours, hires_cam(net, "conv_1_0", x, lambda heads: over_space(heads[-1])))


def test_of_equally_fine_heads_the_first_is_taken_and_said_so(supervised):
    net, x = supervised
    with pytest.warns(MedcamWarning, match="4 tensors of the same shape.*output="):
        ours = raw(net, x, "conv_1_0")
    assert close(ours, hires_cam(net, "conv_1_0", x, lambda heads: over_space(heads[0])))


def test_segresnet_vae_in_training_mode_returns_a_loss_beside():
    net, x = nets.monai_segresnet_vae(2).train(), image(2, size=16)
    output = medcam.explain(net, x, target=ONE, layer="down_layers.2").output
    assert output[1].ndim == 0
    ours = raw(net, x, "down_layers.2")
    expected = hires_cam(net, "down_layers.2", x, lambda output: over_space(output[0]))
    assert abs(ours - expected).max() <= 1e-4 * abs(expected).max()


def test_monai_vit_returns_logits_and_hidden_states():
    net, x = nets.monai_vit(2).double().eval(), image(2, size=16).double()
    found = medcam.explain(net, x, method="saliency", target=1)
    leaf = x.clone().requires_grad_()
    logits, hidden = net(leaf)
    (expected,) = torch.autograd.grad(logits[:, 1].sum(), leaf)
    assert close(found.map.channels[:, 0], expected)
    assert torch.equal(found.output[0], logits)
    assert all(torch.equal(a, b) for a, b in zip(found.output[1], hidden, strict=True))


# --------------------------------------------------------------------------------- MetaTensors


@pytest.mark.parametrize("dims", [2, 3])
def test_metatensor_in_metatensor_prediction_and_plain_map_out(dims):
    net, x = UNet(dims).double().eval(), image(dims).double()
    affine = torch.diag(torch.tensor([2.0, 3.0, 5.0, 1.0]))
    meta = MetaTensor(x, affine=affine)
    with torch.no_grad():
        plain = net(meta)
        found = medcam.explain(net, meta, method="hirescam", layer="bottleneck", target=ONE)
        called = medcam.inject(net, layer="bottleneck", target=ONE)(meta)
    for output in (found.output, called):
        assert isinstance(output, MetaTensor)
        assert torch.equal(output.affine, plain.affine)
        assert torch.equal(output.as_tensor(), plain.as_tensor())
    assert type(found.map.values) is torch.Tensor
    on_a_tensor = medcam.explain(net, x, method="hirescam", layer="bottleneck", target=ONE)
    assert on_a_tensor.map.values.any()
    assert torch.equal(found.map.values, on_a_tensor.map.values)


@pytest.mark.parametrize("method", ["gbp", "ggcam", "saliency", "inputxgradient"])
def test_metatensor_maps_of_the_input(method):
    net, x = Classifier().double().eval(), image().double()
    with torch.no_grad():
        found = medcam.explain(net, MetaTensor(x), method=method, layer="features.3", target=1)
    expected = medcam.explain(net, x, method=method, layer="features.3", target=1)
    assert type(found.map.channels) is torch.Tensor
    assert expected.map.channels.any()
    assert torch.equal(found.map.channels, expected.map.channels)


# ------------------------------------------------------------------------------------ wrappers


@pytest.fixture
def net():
    return Classifier().double().eval()


@pytest.fixture
def x():
    return image().double()


@pytest.fixture
def ddp(net, tmp_path):
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield DistributedDataParallel(net)
    dist.destroy_process_group()


def behaves_as_the_plain_one(wrapped, net, x, layer="features.3"):
    """Check that explaining and injecting the wrapper equals that of the wrapped model."""
    expected = medcam.explain(net, x, layer=layer, target=1)
    assert expected.map.values.any()
    found = medcam.explain(wrapped, x, layer=layer, target=1)
    assert torch.equal(found.map.values, expected.map.values)
    assert torch.equal(found.output, expected.output)
    assert medcam.explain(wrapped, x, target=1).layer == medcam.explain(net, x, target=1).layer
    assert medcam.get_layers(wrapped) == medcam.get_layers(net)
    model = medcam.inject(wrapped, layer=layer, target=1, normalize=False)
    with torch.no_grad():
        assert torch.equal(model(x), net(x))
    is_parallel = isinstance(wrapped, nn.DataParallel | DistributedDataParallel)
    assert isinstance(model, type(wrapped) if is_parallel else Classifier)
    assert list(model.state_dict()) == list((wrapped if is_parallel else net).state_dict())
    assert torch.equal(torch.from_numpy(model.get_attention_map()), expected.map.values)


def test_data_parallel(net, x):
    behaves_as_the_plain_one(nn.DataParallel(net), net, x)


def test_distributed_data_parallel(ddp, net, x):
    behaves_as_the_plain_one(ddp, net, x)


def test_compiled(net, x):
    compiled = torch.compile(net, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(x), net(x))  # the first call compiles it
    behaves_as_the_plain_one(compiled, net, x)


def test_compiled_inside_data_parallel(net, x):
    behaves_as_the_plain_one(nn.DataParallel(torch.compile(net, backend="eager")), net, x)


def test_layer_names_with_the_wrappers_prefix_are_understood(net, x):
    expected = medcam.explain(net, x, layer="features.3", target=1).map.values
    found = medcam.explain(nn.DataParallel(net), x, layer="module.features.3", target=1).map
    assert torch.equal(found.values, expected)


def test_compiled_in_place(x):
    torch.manual_seed(5)
    net = Classifier().double().eval()
    expected = medcam.explain(net, x, layer="features.3", target=1)
    net.compile(backend="eager")
    with torch.no_grad():
        net(x)
    found = medcam.explain(net, x, layer="features.3", target=1)
    assert torch.equal(found.map.values, expected.map.values)


def test_a_compiled_part_of_a_model(net, x):
    expected = medcam.explain(net, x, layer="features.3", target=1).map.values
    net.features = torch.compile(net.features, backend="eager")
    with torch.no_grad():
        net(x)
    found = medcam.explain(net, x, layer="features._orig_mod.3", target=1)
    assert expected.any()
    assert torch.equal(found.map.values, expected)


@pytest.mark.parametrize("make", [lambda net, x: torch.jit.script(net), torch.jit.trace])
def test_torchscript_is_refused_with_the_remedy(net, x, make):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        scripted = make(net, x)
    for call in (lambda: medcam.explain(scripted, x), lambda: medcam.inject(scripted)):
        with pytest.raises(TypeError, match=r"TorchScript model has no layers.*Python model that"):
            call()
