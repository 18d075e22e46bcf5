"""The automatic layer of a segmentation is one that the prediction uses, or is said not to be."""

from __future__ import annotations

import copy
import itertools
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import medcam
from medcam.engine.layer_use import MEMORY, LayerUse
from medcam.errors import MedcamWarning
from medcam.targets import region
from support.nets import Classifier


def block(dims: int, inside: int, out: int) -> nn.Sequential:
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    return nn.Sequential(conv(inside, out, 3, padding=1), nn.ReLU())


class Skipped(nn.Module):
    """A U-Net of three levels; `shares` say how much of each level the prediction uses.

    The image is bright inside a box, which is class 1; every level sees it.
    """

    def __init__(self, shares: tuple[float, ...], dims: int = 2, classes: int = 2) -> None:
        super().__init__()
        self.shares, self.dims = shares, dims
        self.e1, self.e2, self.e3 = block(dims, 1, 4), block(dims, 4, 8), block(dims, 8, 16)
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.head = conv(28, classes, 1)
        for module in self.modules():
            if isinstance(module, conv):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
                middle = [slice(k // 2, k // 2 + 1) for k in module.weight.shape[2:]]
                module.weight.data[(slice(None), slice(0, 1), *middle)] = 1.0
        with torch.no_grad():
            self.head.weight.zero_()
            for channel, share in zip((0, 4, 12), shares, strict=True):
                self.head.weight[1, channel] = 8 * share
            self.head.bias[1] = -2.0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        pool = F.max_pool2d if self.dims == 2 else F.max_pool3d
        e1 = self.e1(x)
        e2 = self.e2(pool(e1, 2))
        e3 = self.e3(pool(e2, 2))
        size = x.shape[2:]
        ups = [e1, F.interpolate(e2, size), F.interpolate(e3, size)]
        return self.head(torch.cat(ups, 1))


def bright(dims: int = 2, batch: int = 1) -> Tensor:
    x = torch.zeros(batch, 1, *[16] * dims)
    x[(..., *[slice(4, 12)] * dims)] = 1.0
    return x


def forwards(net: nn.Module) -> list[int]:
    counted: list[int] = []
    net.register_forward_hook(lambda *_: counted.append(1))
    return counted


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("shares", "layer", "passed"),
    [
        ((0.0, 0.0, 1.0), "e3", []),
        ((0.0, 1.0, 0.0), "e2", ["e3"]),
        ((1.0, 0.0, 0.0), "e1", ["e3", "e2"]),
        ((1.0, 0.01, 0.01), "e1", ["e3", "e2"]),
    ],
)
def test_the_deepest_layer_that_the_prediction_uses(shares, layer, passed, dims):
    net, x = Skipped(shares, dims), bright(dims)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = medcam.explain(net, x)
    assert found.layer == layer
    assert found.map.values.any()
    use = found.details["automatic_layer"]
    assert use["layer"] == layer
    assert use["dice_without"] <= 0.5
    listed = [item["layer"] for item in found.details.get("layers_passed_over", [])]
    assert listed == passed
    assert all(item["dice_without"] > 0.9 for item in found.details.get("layers_passed_over", []))
    texts = [str(item.message) for item in told]
    assert any("hardly uses layer 'e3' (Dice coefficient 1.00" in text for text in texts) == bool(
        passed
    )
    named = medcam.explain(net, x, layer=layer)
    assert torch.equal(named.map.values, found.map.values)


def test_a_layer_whose_silence_moves_the_score_too_little_is_passed_over():
    net = Skipped((1.0, 0.0, 0.05))  # without it the score is 97 %, and no voxel changes
    with pytest.warns(MedcamWarning, match="hardly uses layer 'e3'"):
        assert medcam.explain(net, bright()).layer == "e1"


def test_the_check_is_made_once_for_the_weights_and_the_target():
    net, x = Skipped((1.0, 0.0, 0.0)), bright()
    counted = forwards(net)
    with pytest.warns(MedcamWarning, match="hardly uses"):
        first = medcam.explain(net, x)
    assert len(counted) == 1 + 3 + 1  # the call, three layers without which it was run, the map
    counted.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once
        again = medcam.explain(net, x)
    assert len(counted) == 1
    assert again.layer == first.layer
    assert again.details == first.details
    assert torch.equal(again.map.values, first.map.values)
    with torch.no_grad():  # another epoch: the bottleneck is used now
        net.head.weight[1] = net.head.weight[1].roll(12)
    assert medcam.explain(net, x).layer == "e3"


def test_a_used_layer_costs_one_more_forward_pass_in_the_first_call():
    net, x = Skipped((0.0, 0.0, 1.0)), bright()
    counted = forwards(net)
    medcam.explain(net, x)
    medcam.explain(net, x, target=1)  # another target: checked, too
    assert len(counted) == 4
    medcam.explain(net, x, method=["gcam", "hirescam"])
    assert len(counted) == 5


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("method", ["gcam", "gbp", "ggcam", ["auto", "saliency"]])
def test_the_output_is_that_of_the_first_run_and_the_layer_the_same(method, grad):
    net, x = Skipped((1.0, 0.0, 0.0)), bright()
    with torch.set_grad_enabled(grad), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if method == "gbp":
            assert medcam.explain(net, x, method=method).layer is None
        else:
            assert medcam.explain(net, x, method=method).layer == "e1"
        if not isinstance(method, list):
            model = medcam.inject(net, backend=method)
            output = model(x)
            assert torch.equal(output, net(x))
            assert output.requires_grad == grad
            if grad:
                output.sum().backward()  # the graph is whole
                assert net.e3[0].weight.grad is not None


def test_volumes_and_windows_are_checked_in_the_first_window():
    net, x = Skipped((1.0, 0.0, 0.0), 3), bright(3)
    with pytest.warns(MedcamWarning, match="hardly uses layer 'e3'") as told:
        found = medcam.explain_volume(net, x, 8, overlap=0.5)
    assert found.layer == "e1"
    assert found.details["layers_passed_over"][0]["layer"] == "e3"
    assert len([item for item in told if "hardly uses" in str(item.message)]) == 1


def test_a_region_is_checked_by_its_own_score():
    class Two(Skipped):
        """The left half is decided by the first level, the right one by the last."""

        def forward(self, x):
            near, far = super().forward(x), x
            del far
            weights = torch.zeros_like(near)
            weights[..., :8] = 1
            deep = F.interpolate(self.e3(F.max_pool2d(self.e2(F.max_pool2d(self.e1(x), 2)), 2)), 16)
            right = torch.cat([torch.zeros_like(deep[:, :1]), 8 * deep[:, :1] - 2], 1)
            return near * weights + right * (1 - weights)

    net, x = Two((1.0, 0.0, 0.0)), bright()
    left, right = torch.zeros(16, 16), torch.zeros(16, 16)
    left[4:12, 4:8], right[4:12, 8:12] = 1, 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert medcam.explain(net, x, target=region(left, 1)).layer == "e1"
        MEMORY.forget(net)  # the description of another region is the same
        assert medcam.explain(net, x, target=region(right, 1)).layer == "e3"


def test_what_the_model_keeps_is_as_after_one_call():
    class Counting(Skipped):
        def __init__(self, shares):
            super().__init__(shares)
            self.calls, self.seen = 0, None
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            self.count += 1
            self.seen = torch.rand(1)
            return super().forward(x)

    net = Counting((1.0, 0.0, 0.0))
    other = copy.deepcopy(net)
    x = bright()
    torch.manual_seed(0)
    with pytest.warns(MedcamWarning, match="hardly uses"):
        medcam.explain(net, x)
    after = torch.rand(3)
    torch.manual_seed(0)
    with torch.no_grad():
        other(x)
    assert torch.equal(after, torch.rand(3))
    assert (net.calls, net.count, net.seen) == (1, 1, other.seen)
    assert not net.e1._forward_hooks


def test_where_nothing_leads_around_the_layer_there_is_no_check():
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 2, 1), nn.Upsample(scale_factor=2)
    ).eval()
    counted = forwards(net)
    found = medcam.explain(net, torch.rand(1, 1, 12, 12), target=0)
    assert len(counted) == 1
    assert "automatic_layer" not in found.details


def test_classifications_are_not_checked():
    net = Classifier().eval()
    counted = forwards(net)
    medcam.explain(net, torch.rand(1, 1, 12, 12))
    assert len(counted) == 1


def test_a_class_that_is_nowhere_predicted_is_not_checked():
    net = Skipped((1.0, 0.0, 0.0), classes=3)
    with pytest.warns(MedcamWarning, match="nowhere predicted"):
        found = medcam.explain(net, bright(), target=2)
    assert found.layer == "e3"


def test_a_model_in_training_mode_is_not_run_again():
    net = nn.Sequential(Skipped((1.0, 0.0, 0.0)), nn.BatchNorm2d(2)).train()
    counted = forwards(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        medcam.explain(net, bright(batch=2))
    assert len(counted) == 1


def test_it_is_said_if_no_layer_is_used():
    net = Skipped((0.0, 0.0, 0.0))
    with torch.no_grad():
        net.head.bias[1] = 3.0
        net.head.weight[1, 0] = 0.01
    with pytest.warns(MedcamWarning, match="hardly uses layer 'e3' .* No earlier layer was found"):
        assert medcam.explain(net, bright()).layer == "e3"


class Strideless(nn.Module):
    """A network without strides, as MeshNet and HighResNet are."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        sizes = [1, *[8] * depth]
        self.blocks = nn.Sequential(
            *[
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU())
                for a, b in itertools.pairwise(sizes)
            ]
        )
        self.head = nn.Conv2d(8, 2, 1)
        for module in self.blocks.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.uniform_(module.weight, 0, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


def test_without_strides_a_layer_in_the_middle_is_taken():
    net = Strideless().eval()
    found = medcam.explain(net, torch.rand(1, 1, 16, 16))
    assert found.layer in ("blocks.2", "blocks.3")
    assert found.details["automatic_layer"]["layer"] == found.layer


# ------------------------------------------------------------------------------- side branches


class Gated(nn.Module):
    """K4: a U-Net whose attention gate is steered by a 1x1 projection of the bottleneck."""

    def __init__(self, same: bool = True) -> None:
        super().__init__()
        conv = lambda i, o, k=3: nn.Sequential(  # noqa: E731
            nn.Conv2d(i, o, k, padding=k // 2), nn.BatchNorm2d(o), nn.ReLU()
        )
        self.enc, self.center = conv(1, 16), conv(16, 32)
        self.gating = conv(32, 32 if same else 48, 1)
        self.att = nn.Conv2d(32 if same else 48, 1, 1)
        self.up, self.dec = nn.ConvTranspose2d(32, 16, 2, 2), conv(32, 16)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        e = self.enc(x)
        c = self.center(F.max_pool2d(e, 2))
        a = torch.sigmoid(F.interpolate(self.att(self.gating(c)), scale_factor=2))
        return self.head(self.dec(torch.cat([e * a, self.up(c)], 1)))


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("method", ["gcam", ["gcam", "saliency"]])
def test_a_gating_signal_is_a_side_branch(method, seed, same, unchecked_layer):
    torch.manual_seed(seed)
    net = Gated(same).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = medcam.explain(net, torch.rand(1, 1, 32, 32), target=1, method=method)
    assert found.layer == "center"


def test_members_of_an_ensemble_are_named():
    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList(Classifier(classes=3) for _ in range(3))

        def forward(self, x):
            return torch.stack([member(x) for member in self.members]).mean(0)

    net, x = Ensemble().eval(), torch.rand(2, 1, 12, 12)
    with pytest.warns(MedcamWarning, match="also depends on") as told:
        found = medcam.explain(net, x, target=1)
    names = {f"members.{number}.features" for number in range(3)} - {found.layer}
    text = next(str(item.message) for item in told if "also depends on" in str(item.message))
    assert all(repr(name) in text for name in names)
    assert set(found.details["other_branches"]) == names
    every = [*names, found.layer]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = medcam.explain(net, x, target=1, layer=every, method="hirescam").maps
    assert set(maps) == set(every)


# ------------------------------------------------------------------------ what could go wrong


def test_a_model_that_writes_to_its_input_is_run_once():
    class Writing(Skipped):
        def forward(self, x):
            return super().forward(x.sub_(0.0).add_(0.0))

    net, x = Writing((1.0, 0.0, 0.0)), bright()
    counted = forwards(net)
    before = x._version
    medcam.explain(net, x)
    assert len(counted) == 1
    assert x._version == before + 2


def test_lists_and_dicts_of_the_model_are_put_back():
    class Listing(Skipped):
        def __init__(self, shares):
            super().__init__(shares)
            self.seen, self.by_name, self.kinds = [], {}, set()

        def forward(self, x):
            self.seen.append(1)
            self.by_name[len(self.by_name)] = 1
            self.kinds.add(len(self.kinds))
            return super().forward(x)

    net = Listing((1.0, 0.0, 0.0))
    with pytest.warns(MedcamWarning, match="hardly uses"):
        medcam.explain(net, bright())
    assert (net.seen, net.by_name, net.kinds) == ([1], {0: 1}, {0})


def test_another_thread_gets_right_predictions_meanwhile():
    net, x = Skipped((1.0, 0.0, 0.0)), bright()
    with torch.no_grad():
        expected = net(x)
    wrong: list[bool] = []
    stop = threading.Event()

    def predict() -> None:
        with torch.no_grad():
            while not stop.is_set():
                wrong.append(not torch.equal(net(x), expected))

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        for _ in range(20):
            MEMORY.forget(net)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                medcam.explain(net, x)
    finally:
        stop.set()
        thread.join()
    assert wrong
    assert not any(wrong)


def test_weights_that_change_through_data_are_checked_again():
    net, x = Skipped((0.0, 1.0, 0.0)), bright()
    with pytest.warns(MedcamWarning, match="hardly uses"):
        assert medcam.explain(net, x).layer == "e2"
    net.head.weight.data.copy_(net.head.weight.data.roll(8, 1))  # no version is counted
    net.head.bias.data[-1] = -1.9
    assert medcam.explain(net, x).layer == "e3"


def test_every_region_is_checked():
    net, x = Skipped((1.0, 0.0, 0.0)), bright()
    counted = forwards(net)
    mask = torch.zeros(16, 16)
    mask[5, 5] = 1
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            medcam.explain(net, x, target=region(mask, 1))
    assert len(counted) == 2 * 5


def test_the_second_call_names_the_other_branches_too():
    class Parallel(Skipped):
        """Two branches of the same extents, and a skip connection around both."""

        def __init__(self) -> None:
            super().__init__((0.0, 0.0, 1.0))
            self.twin = copy.deepcopy(self.e3)
            self.head.bias.data[1] = -10.0  # both are needed

        def forward(self, x):
            e1 = self.e1(x)
            e2 = self.e2(F.max_pool2d(e1, 2))
            pooled = F.max_pool2d(e2, 2)
            both = self.e3(pooled) + self.twin(pooled)
            ups = [e1, F.interpolate(e2, 16), F.interpolate(both, 16)]
            return self.head(torch.cat(ups, 1))

    net, x = Parallel(), bright()
    with pytest.warns(MedcamWarning, match="also depends on"):
        first = medcam.explain(net, x)
    assert first.details["other_branches"]
    assert medcam.explain(net, x).details == first.details


@pytest.mark.parametrize("target", [1, 0, "all", None])
def test_one_channel_as_a_region(target):
    from medcam.engine.target.resolution import for_regions

    class One(Skipped):
        def forward(self, x):
            return super().forward(x)[:, 1:]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = medcam.explain(One((1.0, 0.0, 0.0)), bright(), target=for_regions(target))
    assert found.layer == "e1" or target == 0  # the background


@pytest.mark.parametrize(
    ("dice", "score", "is_used"),
    [
        (0.4, 0.5, True), (0.9, 0.9, True), (0.91, 0.1, False), (0.4, 0.91, False),
        (0.4, 1.5, False), (0.4, -2.0, True), (None, 1.0, True),
    ],
)  # fmt: skip
def test_a_layer_without_which_the_score_stays_or_rises_is_not_used(dice, score, is_used):
    assert LayerUse("layer", dice, score).is_used == is_used
