"""The automatic layer on common networks: the choice, its reason, and its cost."""

from __future__ import annotations

import functools
import logging
import re
from collections import Counter
from typing import NamedTuple

import pytest
import torch
from torch import nn

import medcam

from . import networks as nets
from .by_hand import token_hires_cam

pytestmark = [
    pytest.mark.usefixtures("unchecked_layer"),
    pytest.mark.filterwarnings("ignore:The target also depends on"),  # dilated stages of PAN
]

ONE = medcam.targets.class_score(1)  # defined for every network, whatever it predicts


class Case(NamedTuple):
    """A network, the shape of its input, the expected layer, and the reason."""

    name: str
    build: functools.partial
    shape: tuple[int, ...]
    layer: str
    because: str


def case(build, shape, layer, because, *, name=None, **options):
    label = name or "-".join([build.__name__, *map(str, options.values())])
    return Case(label, functools.partial(build, **options), shape, layer, because)


def square(size, channels=3, batch=2):
    return (batch, channels, size, size)


def both(build, size, layer, because, **options):
    """Return the case in 2D and in 3D, with one input channel."""
    return [
        case(
            build, (2 if dims == 2 else 1, 1, *[size] * dims), layer, because, dims=dims, **options
        )
        for dims in (2, 3)
    ]


def smp(name, layer, because, size=64, batch=2):
    build = functools.partial(nets.smp_net, name)
    return Case(f"smp-{name}", build, square(size, batch=batch), layer, because)


LAST_STAGE = "the last residual stage: the deepest features before the pooling"
TRUNK = "the whole convolutional trunk before the pooling"
BOTTLENECK = "the coarsest stage with the most channels; the decoder is finer, the head poorer"
ENCODER_END = "the encoder's deepest stage; all that follows is finer or has fewer channels"
DILATED = "dilation keeps the stride, and no branch or head after it has as many channels"
BEFORE_ATTENTION = (
    "the last tokens before the class token stops reading the patches; later patch tokens have no "
    "influence"
)

BLOCK = "the block's output, not the widened hidden layer inside it, which the skip goes around"

CASES = [
    # inverted bottlenecks
    case(nets.monai_mednext, (2, 1, 32, 32), "bottleneck", BLOCK, dims=2),
    case(nets.timm_convnext, square(64), "stages", BLOCK),
    Case(
        "smp-Unet-efficientnet",
        functools.partial(nets.smp_net, "Unet", "efficientnet-b0"),
        square(64),
        "encoder._blocks.15",
        BLOCK,
    ),
    # classification, torchvision
    case(nets.tv_resnet, square(64), "layer4", LAST_STAGE),
    case(
        nets.tv_resnet, square(32), "layer3", "layer4 is a single voxel at 32²", name="tv_resnet-32"
    ),
    case(nets.tv_densenet, square(64), "features", TRUNK),
    case(nets.tv_efficientnet, square(64), "features", TRUNK),
    case(nets.tv_convnext, square(64), "features", TRUNK),
    case(nets.tv_mobilenet, square(64), "features", TRUNK),
    case(nets.tv_googlenet, square(64), "inception5b", "the last inception block"),
    case(nets.tv_inception, square(107), "Mixed_7c", "the last inception block"),
    case(nets.tv_squeezenet, square(64), "features", TRUNK),
    case(nets.tv_shufflenet, square(64), "conv5", "the last convolution, richer than stage4"),
    case(nets.tv_mnasnet, square(64), "layers", TRUNK),
    case(nets.tv_regnet, square(64), "trunk_output", TRUNK),
    case(nets.tv_r3d, (1, 3, 16, 32, 32), "layer4", LAST_STAGE),
    case(nets.tv_swin, square(64), "permute", "channels-last stages; here they come first again"),
    case(nets.tv_vit, square(32), "encoder.layers.encoder_layer_2.ln_1", BEFORE_ATTENTION),
    case(nets.timm_vit, square(32), "blocks.2.norm1", BEFORE_ATTENTION),
    case(nets.hf_vit, square(32), "vit.layers.2.layernorm_before", BEFORE_ATTENTION),
    # classification, MONAI
    *both(nets.monai_densenet, 64, "class_layers.relu", "the trunk after its last activation"),
    *both(nets.monai_seresnet, 64, "layer4", LAST_STAGE),
    *both(nets.monai_resnet, 64, "layer4", LAST_STAGE),
    *both(nets.monai_efficientnet, 64, "_swish", "the activation after the last convolution"),
    *both(nets.monai_vit, 16, "blocks.2.norm1", BEFORE_ATTENTION),
    # segmentation, nnU-Net
    *both(nets.nnunet_plain, 16, "encoder.stages.3", BOTTLENECK),
    *both(nets.nnunet_residual, 16, "encoder.stages.3", BOTTLENECK),
    # segmentation, MONAI
    *both(nets.monai_dynunet, 16, "bottleneck", BOTTLENECK),
    *both(nets.monai_basic_unet, 32, "down_4", BOTTLENECK),
    *both(nets.monai_basic_unet_pp, 32, "conv_4_0", BOTTLENECK),
    *both(nets.monai_segresnet, 16, "down_layers.3", BOTTLENECK),
    *both(nets.monai_segresnet_ds, 16, "encoder.layers.3.blocks", BOTTLENECK),
    *both(nets.monai_segresnet_vae, 16, "down_layers.3", BOTTLENECK),
    *both(nets.monai_unet, 16, "model.1.submodule.1.submodule.1", "the innermost submodule"),
    *both(
        nets.monai_attention_unet,
        16,
        "model.1.submodule.1.submodule.1.submodule",
        "the innermost submodule",
    ),
    case(nets.monai_swin_unetr, (1, 1, 64, 64), "encoder10", BOTTLENECK, dims=2),
    case(nets.monai_swin_unetr, (1, 1, 64, 64, 32), "encoder10", BOTTLENECK, dims=3),
    *both(
        nets.monai_unetr,
        32,
        "vit.norm",
        "the transformer's last tokens: patches feed the decoder, there is no class token",
    ),
    case(nets.monai_vnet, (1, 1, 32, 32), "down_tr256", BOTTLENECK, dims=2),
    case(nets.monai_vnet, (1, 1, 32, 32, 16), "down_tr256", BOTTLENECK, dims=3),
    # segmentation, torchvision
    case(nets.tv_deeplabv3, square(32), "backbone.layer4", DILATED),
    case(nets.tv_fcn, square(32), "backbone.layer4", DILATED),
    case(nets.tv_lraspp, square(64), "backbone.16", ENCODER_END),
    # segmentation, segmentation-models-pytorch
    smp("Unet", "encoder.layer4", ENCODER_END),
    smp("UnetPlusPlus", "encoder.layer4", ENCODER_END),
    smp("FPN", "encoder.layer4", ENCODER_END),
    smp("Linknet", "encoder.layer4", ENCODER_END),
    smp("PAN", "encoder.layer4", ENCODER_END, size=128, batch=1),
    smp("Segformer", "encoder.layer4", ENCODER_END),
    smp("DeepLabV3", "encoder.layer4", DILATED),
    smp("DeepLabV3Plus", "encoder.layer4", "not a branch of the pyramid, which is poorer"),
    smp("PSPNet", "decoder", "the pyramid joined at 1/8, richer than the encoder; no pooled bin"),
    smp("MAnet", "decoder.blocks.0.hl_conv.0", "the centre's features at the centre's size"),
    smp("UPerNet", "decoder.feature_norms.3", "the encoder's deepest stage, normalised"),
    # Hugging Face
    case(nets.hf_resnet, square(64), "resnet.encoder.stages.2", LAST_STAGE),
    case(nets.hf_convnext, square(64), "convnext.encoder.stages.2", LAST_STAGE),
    case(nets.hf_swin, square(64), "swin.layernorm", "the last tokens, which are then averaged"),
    case(nets.timm_swin, square(64), "norm", "the last of its stages, which are channels last"),
    case(nets.hf_segformer, square(64), "segformer.stages.3", ENCODER_END),
]

# For a transposed 3D input, torch's matmul takes another path if the weight requires gradients,
# even under no_grad. So freezing a network with token layers may change the last bits of its
# prediction, with or without medcam.
ROUNDS_BY_REQUIRES_GRAD = ("vit", "swin", "segformer", "unetr")

# Networks for which another layer would be better.
WRONG = [
    case(
        nets.tv_maxvit,
        square(64),
        "blocks.1",
        "the last block, not the widened hidden layer in its first half",
    ),
    case(
        nets.tv_squeezenet_many_classes,
        square(64),
        "features",
        "with more classes than channels the 1×1 head wins, whose map is the logit again",
    ),
]


@pytest.fixture
def chosen(caplog):
    """Function that returns the layers chosen since its last call, from the log."""
    caplog.set_level(logging.INFO, logger="medcam")

    def read_log():
        layers = re.findall(r"layer chosen automatically: '([^']+)'", caplog.text)
        caplog.clear()
        return layers

    return read_log


class Calls:
    """Counter of the calls of each module of a network."""

    def __init__(self, net):
        self._count = Counter()
        for name, module in net.named_modules():
            module.register_forward_pre_hook(functools.partial(self._add, name))

    def _add(self, name, module, inputs):
        self._count[name] += 1

    def take(self):
        count, self._count = self._count, Counter()
        assert count[""] == 1
        return count


def tensors(output):
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, dict):
        return [tensor for part in output.values() for tensor in tensors(part)]
    if isinstance(output, (tuple, list)):
        return [tensor for part in output for tensor in tensors(part)]
    return []


@pytest.fixture
def _no_fast_attention():
    """Disable the fused path of nn.MultiheadAttention under no_grad: it rounds differently."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def identical(ours, plain):
    ours, plain = tensors(ours), tensors(plain)
    assert len(ours) == len(plain) > 0
    return all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.usefixtures("_no_fast_attention")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:The target also depends on")
def test_right_layer_in_one_forward_pass_that_changes_nothing(case, chosen):
    net, x = case.build().eval(), torch.rand(case.shape)
    if any(kind in case.name.lower() for kind in ROUNDS_BY_REQUIRES_GRAD):
        net.requires_grad_(False)
    calls = Calls(net)
    model = medcam.inject(net, backend="hirescam", target=ONE, normalize=False)
    with torch.no_grad():
        plain = net(x)
        needed = calls.take()

        first = model(x)
        assert chosen() == [case.layer], case.because
        assert calls.take() == needed, "the model ran more than once"
        assert identical(first, plain)
        found = torch.from_numpy(model.get_attention_map())
        assert found.shape == (case.shape[0], 1, *case.shape[2:])
        assert found.isfinite().all()
        low, high = found.flatten(1).aminmax(dim=1)
        assert (low < high).all(), "the map is constant"

        second = model(x)
        assert chosen() == [], "the choice was not remembered"
        assert calls.take() == needed
        assert identical(second, plain)
        assert torch.equal(torch.from_numpy(model.get_attention_map()), found)


def test_attention_predicts_the_same_within_rounding():
    net, x = nets.tv_vit().eval(), torch.rand(square(32))
    model = medcam.inject(net, target=ONE)
    with torch.no_grad():
        torch.testing.assert_close(model(x), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.xfail(reason=c.because), id=c.name) for c in WRONG],
)
def test_choice_that_should_be_another(case):
    with torch.no_grad():
        found = medcam.explain(case.build().eval(), torch.rand(case.shape), target=ONE)
    assert found.layer == case.layer


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.name in {"tv_densenet", "tv_vit", "nnunet_plain-3", "hf_swin"}],
    ids=lambda case: case.name,
)
def test_same_choice_and_map_while_the_caller_keeps_the_graph(case, chosen):
    net, x = case.build().eval(), torch.rand(case.shape)
    model = medcam.inject(net, backend="hirescam", target=ONE, normalize=False)
    with torch.no_grad():
        model(x)
    lean = model.get_attention_map()
    with_graph = medcam.inject(net, backend="hirescam", target=ONE, normalize=False)
    output = with_graph(x)  # gradients are enabled
    assert chosen() == [case.layer] * 2
    assert all(tensor.requires_grad for tensor in tensors(output))
    assert abs(with_graph.get_attention_map() - lean).max() <= 1e-5 * abs(lean).max()


def test_the_choice_belongs_to_an_input_size(chosen):
    model = medcam.inject(nets.tv_resnet().eval(), target=ONE)
    with torch.no_grad():
        for size in (64, 32, 64, 32):
            model(torch.rand(square(size)))
    assert chosen() == ["layer4", "layer3"]


def test_explanation_and_log_name_the_layer(chosen):
    found = medcam.explain(nets.monai_unet(2).eval(), torch.rand(1, 1, 16, 16), target=ONE)
    assert [found.layer] == chosen() == [found.map.layer]
    assert found.layer == "model.1.submodule.1.submodule.1"


@pytest.mark.parametrize("dims", [2, 3])
def test_without_strides_the_log_says_that_the_map_is_the_logits_again(dims, caplog):
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    body = nn.Sequential(conv(1, 8, 3, padding=1), nn.ReLU(), conv(8, 8, 3, padding=1), nn.ReLU())
    net = nn.Sequential(body, conv(8, 2, 1)).eval()
    x = torch.rand(1, 1, *[8] * dims)
    with caplog.at_level(logging.INFO, logger="medcam"):
        found = medcam.explain(net, x, method="gcam", target=ONE)
    assert found.layer == "0"
    assert "little more than the logits again" in caplog.text
    # the message is true: the head's weights are the gradient at every voxel
    logit = found.output[:, 1:] - net[1].bias[1]
    expected = (logit / logit[0, 0].numel()).relu()
    torch.testing.assert_close(found.map.values, expected.detach())


def test_with_strides_the_log_does_not_say_so(caplog):
    with caplog.at_level(logging.INFO, logger="medcam"):
        medcam.explain(nets.monai_unet(2).eval(), torch.rand(1, 1, 16, 16), target=ONE)
    assert "logits again" not in caplog.text


# --------------------------------------------------------------------------------- token layers


def whole(output):
    return output


def first(output):
    return output[0]


def logits_of(output):
    return output.logits


def agrees_with_tokens_by_hand(net, x, layer, prefix, grid, logits):
    """Compare HiResCAM of class 1 with a reference, in float64, at the layer's size."""

    def score(output):
        return logits(output)[:, 1].reshape(len(x), -1).mean(1)

    found = medcam.explain(net, x, method="hirescam", layer=layer, target=ONE, shape=None)
    expected = token_hires_cam(net, layer, x, score, prefix, grid)
    assert expected.any()
    assert found.map.values.shape == expected.shape
    return abs(found.map.values - expected).max() <= 1e-6 * abs(expected).max()


@pytest.mark.parametrize(
    ("build", "shape", "layer", "prefix", "grid", "logits"),
    [
        (
            nets.tv_vit,
            square(32),
            "encoder.layers.encoder_layer_1",
            1,
            (4, 4),
            whole,
        ),
        (nets.timm_vit, square(32), "blocks.1", 1, (4, 4), whole),
        (
            functools.partial(nets.monai_vit, 2),
            (2, 1, 16, 16),
            "blocks.1",
            1,
            (4, 4),
            first,
        ),
        (
            functools.partial(nets.monai_vit, 3),
            (2, 1, 16, 16, 16),
            "blocks.1",
            1,
            (4, 4, 4),
            first,
        ),
        (
            functools.partial(nets.monai_unetr, 3),
            (1, 1, 32, 32, 32),
            "vit.blocks.3",
            0,
            (2, 2, 2),
            whole,
        ),
        (nets.hf_vit, square(32), "vit.layers.1", 1, (4, 4), logits_of),
        (
            nets.hf_swin,
            square(64),
            "swin.encoder.layers.1.blocks.0",
            0,
            (8, 8),
            logits_of,
        ),
    ],
    ids=["tv_vit", "timm_vit", "monai_vit-2", "monai_vit-3", "unetr-3", "hf_vit", "hf_swin"],
)
def test_a_named_token_layer_is_laid_back_on_the_image(build, shape, layer, prefix, grid, logits):
    net, x = build().double().eval(), torch.rand(shape).double()
    assert agrees_with_tokens_by_hand(net, x, layer, prefix, grid, logits)


def small_vit(size, **options):
    net = nets.monai_nets.ViT(
        1, size, 4, 16, 32, 2, 2, classification=True, num_classes=3, spatial_dims=2, **options
    )
    return net.double().eval()


def test_tokens_of_an_oblong_image_keep_rows_and_columns():
    net, x = small_vit((16, 24)), torch.rand(2, 1, 16, 24).double()
    assert agrees_with_tokens_by_hand(net, x, "blocks.0", 1, (4, 6), first)


def test_without_a_patch_convolution_auto_says_what_to_do_and_a_name_works():
    net, x = small_vit((16, 16), proj_type="perceptron"), torch.rand(2, 1, 16, 16).double()
    with pytest.raises(RuntimeError, match=r"name a layer: medcam\.get_layers"):
        medcam.explain(net, x)
    assert agrees_with_tokens_by_hand(net, x, "blocks.0", 1, (4, 4), first)
