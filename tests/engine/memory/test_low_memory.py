"""memory="low": the same maps bit for bit, less saved, no block run more than twice."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from monai.networks.nets import SegResNet
from monai.networks.nets import UNet as MonaiUNet
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

import medcam
from medcam.engine.graph import nodes
from medcam.engine.memory import checkpointing
from medcam.engine.memory.lean import LeanBackward
from medcam.errors import InputError, MedcamWarning
from medcam.targets import class_score
from support.nets import image
from support.saved import saved_bytes

pytestmark = pytest.mark.usefixtures("unchecked_layer")

METHODS = ("gbp", "saliency", "ggcam", "hirescam")
FORWARD = "forward"


def plain_unet() -> nn.Module:
    return PlainConvUNet(
        input_channels=1, n_stages=3, features_per_stage=[8, 16, 32], conv_op=nn.Conv3d,
        kernel_sizes=3, strides=[1, 2, 2], num_classes=3, conv_bias=True,
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, n_conv_per_stage=2,
        n_conv_per_stage_decoder=2,
    )  # fmt: skip


def residual_unet() -> nn.Module:
    return ResidualEncoderUNet(
        input_channels=1, n_stages=3, features_per_stage=[8, 16, 32], conv_op=nn.Conv3d,
        kernel_sizes=3, strides=[1, 2, 2], n_blocks_per_stage=2, num_classes=3,
        n_conv_per_stage_decoder=1, conv_bias=True, norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )  # fmt: skip


def residual_net() -> nn.Module:
    from torchvision.models import resnet18

    return resnet18(norm_layer=lambda channels: nn.GroupNorm(4, channels))


class Block(nn.Module):
    """A block that takes a tuple of two tensors and a keyword, and returns two tensors."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(2, channels)
        self.drop = nn.Dropout2d(0.5)

    def forward(self, pair: tuple[Tensor, Tensor], *, scale: Tensor) -> tuple[Tensor, Tensor]:
        x, skip = pair
        y = F.gelu(self.drop(self.norm(self.first(x)))) * scale
        return F.relu(self.second(F.silu(y))) + skip, y


class Pairs(nn.Module):
    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.ModuleList(Block(8) for _ in range(blocks))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pair = (x, x)
        for block in self.blocks:
            pair = block(pair, scale=x.sigmoid())
        return self.head(pair[0])


NETS = {
    "nnU-Net": (plain_unet, (1, 1, 16, 16, 16)),
    "nnU-Net, residual encoder": (residual_unet, (1, 1, 16, 16, 16)),
    "ResNet18": (residual_net, (2, 3, 64, 64)),
    "MONAI's UNet": (
        lambda: MonaiUNet(3, 1, 2, [8, 16, 32], [2, 2], num_res_units=2), (1, 1, 16, 16, 16),
    ),
    "MONAI's SegResNet, with dropout": (
        lambda: SegResNet(3, dropout_prob=0.3), (1, 1, 16, 16, 16),
    ),
    "tuples in and out, and a keyword": (Pairs, (2, 1, 16, 16)),
}  # fmt: skip


@pytest.fixture(params=NETS)
def case(request) -> tuple[nn.Module, Tensor]:
    build, shape = NETS[request.param]
    return build().eval(), torch.rand(shape)


def run(net: nn.Module, x: Tensor, memory: str, method: object = "gbp") -> medcam.Explanation:
    return medcam.explain(net, x, method=method, memory=memory, target=class_score(1))


def blocks_of(net: nn.Module, x: Tensor) -> list[nn.Module]:
    """Return the blocks that a call checkpoints."""
    found = []
    original = checkpointing.chosen_blocks

    def spy(*args: object) -> list[nn.Module]:
        found.extend(original(*args))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpointing, "chosen_blocks", spy)
        run(net, x, "low")
    return found


@pytest.mark.filterwarnings("ignore:The target also depends on")  # a stem that is used twice
def test_the_same_bit_for_bit(case):
    net, x = case
    low, normal = run(net, x, "low", METHODS), run(net, x, "normal", METHODS)
    assert torch.equal(low.output, normal.output)
    assert list(low.maps) == list(normal.maps)
    for key, expected in normal.maps.items():
        assert torch.equal(low.maps[key].values, expected.values)
        assert expected.values.any() or key[0] == "ggcam"  # its Grad-CAM may be all negative


def test_guided_is_guided_inside_the_blocks(case):
    net, x = case
    guided, plain = (run(net, x, "low", method).map.channels for method in ("gbp", "saliency"))
    assert not torch.allclose(guided, plain)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("nnU-Net", 0.4),
        ("nnU-Net, residual encoder", 0.5),
        ("tuples in and out, and a keyword", 0.5),
    ],
)
def test_less_is_saved(name, share):
    build, shape = NETS[name]
    net, x = build().eval(), torch.rand(shape)
    low, normal = (saved_bytes(net, lambda m=m: run(net, x, m)) for m in ("low", "normal"))
    assert low <= share * normal


def runs(net: nn.Module, call: Callable[[], object]) -> Counter[nn.Module]:
    """Count how often each module without children runs in a call."""
    leaves = {part for part in net.modules() if not [*part.children()]}
    counts: Counter[nn.Module] = Counter()
    handle = register_module_forward_pre_hook(lambda module, _: counts.update([module]))
    call()
    handle.remove()
    return Counter({part: counts[part] for part in leaves})


def test_blocks_run_twice_for_one_map_and_all_other_layers_once(case):
    net, x = case
    chosen = blocks_of(net, x)
    assert len(chosen) > 1
    once, found = (runs(net, lambda m=m: run(net, x, m)) for m in ("normal", "low"))
    inside = {part for block in chosen for part in block.modules() if part in once}
    for block in chosen:
        assert any(found[part] == 2 * once[part] > 0 for part in block.modules())
    for part, count in once.items():
        assert found[part] <= 2 * count if part in inside else found[part] == count


def test_a_block_is_run_again_as_lean_as_the_first_time():
    net, x = plain_unet().eval().requires_grad_(False), torch.rand(1, 1, 16, 16, 16)
    with checkpointing.checkpointed(blocks_of(net, x), LeanBackward):
        found = {node.name() for node in nodes(net(x.requires_grad_()).sum().grad_fn)}
    assert "_ConvolutionBackward" in found
    assert "ConvolutionBackward0" not in found


@pytest.mark.filterwarnings("ignore:A requested class is nowhere predicted")
def test_several_targets_share_the_forward_pass(case):
    net, x = case
    options = {"method": "gbp", "target": medcam.targets.classes(0, 1)}
    low, normal = (medcam.explain(net, x, memory=m, **options) for m in ("low", "normal"))
    assert torch.equal(low.map.values, normal.map.values)


@pytest.mark.filterwarnings("ignore:The gradients of each channel cancel")
def test_recorded_layers_inside_blocks(case):
    net, x = case
    block = blocks_of(net, x)[-1]
    names = {id(module): name for name, module in net.named_modules()}
    convs = [part for part in block.modules() if "Conv" in type(part).__name__]
    layer = names[id(convs[-1])] if convs else names[id(block)]
    calls = []
    for method in ("gcam", "ggcam", "hirescam"):
        options = {"method": method, "layer": layer, "target": class_score(1)}
        low, normal = (medcam.explain(net, x, memory=m, **options) for m in ("low", "normal"))
        assert torch.equal(low.map.values, normal.map.values)
        calls.append(low.layer)
    assert calls == [layer] * 3


def test_every_layer(case):
    net, x = case
    options = {"method": ["hirescam", "gbp"], "layer": "full", "target": class_score(1)}
    low, normal = (medcam.explain(net, x, memory=m, **options) for m in ("low", "normal"))
    assert low.layer == normal.layer
    for key, expected in normal.maps.items():
        assert torch.equal(low.maps[key].values, expected.values)


def test_forwards_are_put_back_also_after_an_exception(case):
    net, x = case

    block = blocks_of(net, x)[0]
    original = block.forward
    block.forward = lambda *args, **kwargs: original(*args, **kwargs)  # the user's own
    before = [vars(module).get(FORWARD) for module in net.modules()]
    run(net, x, "low")
    assert [vars(module).get(FORWARD) for module in net.modules()] == before

    def broken(*_: object) -> None:
        raise RuntimeError("my own")

    handle = net.register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="my own"):
        run(net, x, "low")
    handle.remove()
    assert [vars(module).get(FORWARD) for module in net.modules()] == before
    assert before.count(None) == len(before) - 1


def test_the_caller_keeps_the_graph_in_training():
    net, x = plain_unet().eval(), torch.rand(1, 1, 16, 16, 16)
    gradients = []
    for memory in ("normal", "low"):
        model = medcam.inject(net, backend="gbp", label=class_score(1), memory=memory)
        model(x).square().sum().backward()
        gradients.append([p.grad for p in net.parameters() if p.grad is not None])
        net.zero_grad()
    assert gradients[0]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_under_no_grad_an_injected_model_is_the_same():
    net, x = plain_unet().eval(), torch.rand(1, 1, 16, 16, 16)
    outputs, maps = [], []
    for memory in ("normal", "low"):
        model = medcam.inject(net, backend="gbp", label=class_score(1), memory=memory)
        with torch.no_grad():
            outputs.append(model(x))
        maps.append(torch.from_numpy(model.get_attention_map()))
    assert torch.equal(*outputs)
    assert torch.equal(*maps)


# ---------------------------------------------------------- blocks that must not run twice


def deep(*tail: nn.Module) -> nn.Module:
    """Return four blocks of three convolutions with instance norm and activation."""
    unit = [nn.Conv2d(4, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.GELU()]
    block = [*unit, *unit, *unit, *tail]
    return nn.Sequential(*(nn.Sequential(*map(copy.deepcopy, block)) for _ in range(4)))


def test_running_statistics_move_once():
    net, x = deep(nn.BatchNorm2d(4)), image(channels=4)
    net.train()
    twin = copy.deepcopy(net)
    options = {"method": "saliency", "target": class_score(1)}
    with pytest.warns(MedcamWarning) as warned:
        low = medcam.explain(net, x, memory="low", **options)
    assert any("training mode" in str(warning.message) for warning in warned)
    with pytest.warns(MedcamWarning, match="training mode"):
        normal = medcam.explain(twin, x, **options)
    assert torch.equal(low.map.values, normal.map.values)
    for (name, found), expected in zip(net.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(found, expected), name
    assert net[0][-1].num_batches_tracked == 1


def test_random_numbers_are_the_same_again():
    net, x = deep(nn.Dropout(0.5)).train(), image(channels=4)
    maps, drawn = [], []
    for memory in ("normal", "low"):
        torch.manual_seed(3)
        maps.append(run(net, x, memory, "saliency").map.values)
        drawn.append(torch.rand(4))
    assert torch.equal(*maps)
    assert torch.equal(*drawn)
    assert blocks_of(deep(nn.Dropout(0.5)).train(), x)


def test_the_users_hooks_are_called_once():
    net, x = deep().eval(), image(channels=4)
    calls = []
    net[1][0].register_forward_hook(lambda *_: calls.append("inside"))
    net[2].register_forward_hook(lambda *_: calls.append("around"))
    run(net, x, "low")
    assert sorted(calls) == ["around", "inside"]
    chosen = blocks_of(net, x)
    assert net[2] in chosen
    assert net[1] not in chosen


def test_choosing_the_blocks_leaves_no_trace():
    class Counting(nn.Sequential):
        def __init__(self, *parts: nn.Module) -> None:
            super().__init__(*parts)
            self.register_buffer("seen", torch.zeros(()))
            self.calls = []

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            self.calls.append(tuple(x.shape))
            return super().forward(x) + torch.rand(())

    net, x = Counting(*deep()).eval(), image(channels=4)
    outputs = []
    for count, memory in enumerate(("normal", "low"), start=1):
        torch.manual_seed(5)
        outputs.append([run(net, x, memory).output, torch.rand(2)])
        assert net.seen == count
        assert net.calls == count * [tuple(x.shape)]
    for normal, low in zip(*outputs, strict=True):
        assert torch.equal(normal, low)


# ---------------------------------------------------------- models that it does not fit


def test_a_model_without_blocks_gives_a_warning():
    net, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval(), image()
    with pytest.warns(MedcamWarning, match="memory='low' changes nothing"):
        low = run(net, x, "low")
    assert torch.equal(low.map.values, run(net, x, "normal").map.values)


def test_a_model_that_cannot_run_on_shapes_is_divided_by_its_layers():
    class Reading(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum().item() > 0 else -x

    net, x = Reading(*deep()).eval(), image(channels=4)
    chosen = blocks_of(net, x)
    assert chosen == list(net)
    assert torch.equal(run(net, x, "low").map.values, run(net, x, "normal").map.values)


def test_a_block_that_changes_its_input_is_not_checkpointed():
    class PreActivation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = deep()[0]

        def forward(self, x: Tensor) -> Tensor:
            return self.inside(F.relu_(x)) + x

    net = nn.Sequential(nn.Conv2d(4, 4, 1), *(PreActivation() for _ in range(4))).eval()
    x = image(channels=4)
    with pytest.warns(MedcamWarning, match="(?s)does not fit this model.*repeated with"):
        low = run(net, x, "low")
    normal = run(net, x, "normal")
    assert torch.equal(low.output, normal.output)
    assert torch.equal(low.map.values, normal.map.values)


def test_a_block_that_differs_the_second_time_is_not_checkpointed():
    class Alternating(nn.Sequential):
        runs = 0

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            return super().forward(x if self.runs % 2 else x[:, :, 1:])

    net, x = nn.Sequential(*(Alternating(*part) for part in deep())).eval(), image(channels=4)
    with pytest.warns(MedcamWarning, match="(?s)does not fit this model.*repeated with"):
        run(net, x, "low")


@pytest.mark.parametrize("call", [medcam.explain, medcam.inject])
def test_an_unknown_memory_mode_is_refused(call):
    inputs = (image(),) if call is medcam.explain else ()
    with pytest.raises(InputError, match="memory='tiny' is not known"):
        call(deep(), *inputs, memory="tiny")
