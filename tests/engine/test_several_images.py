"""Several images: every map lies on the image that its layer saw, on that image's grid."""

from __future__ import annotations

import nibabel
import pytest
import torch
from torch import Tensor, nn

import medcam
from medcam.errors import InputError


def encoder(rank: int = 2) -> nn.Module:
    convolution = getattr(nn, f"Conv{rank}d")
    return nn.Sequential(
        convolution(1, 8, 3, 2, 1), nn.ReLU(), convolution(8, 8, 3, 2, 1), nn.ReLU()
    )


class Siamese(nn.Module):
    """Prior and current scan through one encoder."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = encoder(), nn.Linear(16, 2)

    def forward(self, prior: Tensor, current: Tensor) -> Tensor:
        return self.head(torch.cat([self.encoder(v).mean((2, 3)) for v in (prior, current)], 1))


class Fusion(nn.Module):
    """MR and CT with an encoder each, on grids of their own."""

    def __init__(self, rank: int = 3):
        super().__init__()
        self.mr, self.ct, self.head = encoder(rank), encoder(rank), nn.Linear(16, 2)

    def forward(self, mr: Tensor, ct: Tensor) -> Tensor:
        features = [e(x).flatten(2).mean(2) for e, x in ((self.mr, mr), (self.ct, ct))]
        return self.head(torch.cat(features, 1))


class Batched(Siamese):
    """Both scans in one batch through the encoder."""

    def forward(self, prior: Tensor, current: Tensor) -> Tensor:
        both = self.encoder(torch.cat([prior, current])).mean((2, 3))
        return self.head(torch.cat(both.chunk(2), 1))


class Stacked(Siamese):
    """Both scans as pairs in one batch."""

    def forward(self, prior: Tensor, current: Tensor) -> Tensor:
        pairs = torch.stack([prior, current], 1)
        features = self.encoder(pairs.flatten(0, 1)).mean((2, 3))
        return self.head(features.view(len(prior), -1))


class Nested(nn.Module):
    """Images inside a dict, next to other inputs."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = encoder(), nn.Linear(16, 2)

    def forward(self, batch: dict) -> Tensor:
        views = [batch["images"]["cc"], batch["images"]["mlo"]]
        features = torch.cat([self.encoder(view).mean((2, 3)) for view in views], 1)
        return self.head(features) + batch["age"][:, None]


def by_hand(net: nn.Module, inputs: tuple, name: str) -> list[Tensor]:
    """Return activations times gradients, summed over channels, of each run of a layer."""
    runs: list[Tensor] = []
    handle = net.get_submodule(name).register_forward_hook(lambda m, i, o: runs.append(o))
    output = net(*inputs)
    handle.remove()
    gradients = torch.autograd.grad(output[:, 1].sum(), runs)
    return [(a * g).sum(1, keepdim=True).detach() for a, g in zip(runs, gradients, strict=True)]


ASK = {"target": 1, "method": "hirescam", "shape": None}


@pytest.fixture
def scans():
    torch.manual_seed(0)
    return torch.rand(2, 1, 32, 32).double(), torch.rand(2, 1, 32, 32).double()


@pytest.mark.parametrize("layer", ["auto", "encoder"])
def test_one_map_for_each_image_through_one_encoder(scans, layer):
    net = Siamese().double().eval()
    explanation = medcam.explain(net, *scans, layer=layer, **ASK)
    assert list(explanation.maps) == [("encoder", "prior"), ("encoder", "current")]
    for key, expected in zip(explanation.maps, by_hand(net, scans, "encoder"), strict=True):
        torch.testing.assert_close(explanation.maps[key].values, expected, rtol=0, atol=1e-15)
        assert explanation.maps[key].image == key[1]
    assert explanation.of_image("current").inputs is scans[1]
    with pytest.raises(InputError, match=r"\('encoder', 'prior'\), \('encoder', 'current'\)"):
        _ = explanation.map


@pytest.mark.parametrize(("image", "number"), [("prior", 0), ("current", 1), (0, 0), (1, 1)])
def test_image_chooses_by_name_or_position(scans, image, number):
    net = Siamese().double().eval()
    explanation = medcam.explain(net, *scans, layer="encoder", image=image, **ASK)
    expected = by_hand(net, scans, "encoder")[number]
    torch.testing.assert_close(explanation.map.values, expected, rtol=0, atol=1e-15)
    assert explanation.inputs is scans[number]
    assert list(explanation.maps) == ["encoder"]


def test_an_unknown_image_is_refused_with_the_names(scans):
    with pytest.raises(InputError, match=r"image='old'.*0: 'prior', 1: 'current'"):
        medcam.explain(Siamese().double().eval(), *scans, image="old")
    with pytest.raises(InputError, match="image=2"):
        medcam.explain(Siamese().double().eval(), *scans, image=2)


@pytest.mark.parametrize("kind", [Batched, Stacked])
def test_images_that_share_a_batch_have_their_own_maps(scans, kind):
    net = kind().double().eval()
    explanation = medcam.explain(net, *scans, layer="encoder", **ASK)
    (both,) = by_hand(net, scans, "encoder")
    expected = both.chunk(2) if kind is Batched else both.unflatten(0, (2, 2)).unbind(1)
    for name, values in zip(("prior", "current"), expected, strict=True):
        torch.testing.assert_close(
            explanation.maps["encoder", name].values, values, rtol=0, atol=1e-15
        )


def test_images_inside_a_dict_have_the_names_of_their_keys(scans):
    net = Nested().double().eval()
    batch = {"age": torch.rand(2).double(), "images": {"cc": scans[0], "mlo": scans[1]}}
    explanation = medcam.explain(net, batch, layer="encoder", **ASK)
    expected = by_hand(net, (batch,), "encoder")
    assert list(explanation.maps) == [("encoder", "cc"), ("encoder", "mlo")]
    for item, values in zip(explanation.maps.values(), expected, strict=True):
        torch.testing.assert_close(item.values, values, rtol=0, atol=1e-15)
    for method in ("gbp", "ggcam", "saliency", "inputxgradient"):
        both = medcam.explain(net, batch, method=method, target=1)
        assert {item.image for item in both.maps.values()} == {"cc", "mlo"}
        one = medcam.explain(net, batch, method=method, target=1, image="mlo")
        assert one.inputs is scans[1]
        torch.testing.assert_close(one.map.values, both.of_image("mlo").map.values, rtol=0, atol=0)


def test_gradients_of_each_image_are_those_of_autograd(scans):
    net = Siamese().double().eval()
    explanation = medcam.explain(net, *scans, method="saliency", target=1)
    leaves = [scan.clone().requires_grad_() for scan in scans]
    gradients = torch.autograd.grad(net(*leaves)[:, 1].sum(), leaves)
    for name, gradient in zip(("prior", "current"), gradients, strict=True):
        item = explanation.maps[None, name]
        torch.testing.assert_close(item.channels[:, 0], gradient, rtol=0, atol=1e-15)


def test_an_image_that_the_target_ignores_has_no_map(scans):
    class Ignores(Siamese):
        def forward(self, prior, current):
            self.encoder(current)
            return self.head(self.encoder(prior).mean((2, 3)).repeat(1, 2))

    net = Ignores().double().eval()
    for ask in ({"layer": "encoder"}, {"layer": "auto"}, {"method": "saliency"}):
        explanation = medcam.explain(net, *scans, target=1, **ask)
        assert explanation.inputs is scans[0]
        assert len(explanation.maps) == 1


def test_fused_features_lie_on_the_first_image_unless_another_is_chosen():
    class Early(nn.Module):
        def __init__(self):
            super().__init__()
            self.low, self.high = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(1, 4, 3, 4, 1)
            self.both = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, fine, coarse):
            return self.both(torch.cat([self.high(fine), self.low(coarse)], 1)).mean((2, 3))

    fine, coarse = torch.rand(1, 1, 32, 32), torch.rand(1, 1, 16, 16)
    net = Early().eval()
    first = medcam.explain(net, fine, coarse, layer="both", target=1).map
    second = medcam.explain(net, fine, coarse, layer="both", target=1, image="coarse").map
    assert first.values.shape[2:] == (32, 32)
    assert first.grid.step == (4.0, 4.0)
    assert second.values.shape[2:] == (16, 16)
    assert second.grid.step == (2.0, 2.0)


def test_maps_are_saved_on_the_grid_of_their_own_image(tmp_path):
    from monai.data import MetaTensor

    torch.manual_seed(0)
    affines = torch.eye(4).double(), torch.diag(torch.tensor([2.0, 2, 4, 1])).double()
    affines[1][:3, 3] = torch.tensor([-50.0, 10, 5])
    mr = MetaTensor(torch.rand(1, 1, 32, 32, 32), affine=affines[0])
    ct = MetaTensor(torch.rand(1, 1, 16, 16, 8), affine=affines[1])
    net = Fusion().eval()
    medcam.inject(net, tmp_path / "injected", label=1, save_maps=True)(mr, ct)
    explanation = medcam.explain(net, mr, ct, target=1)
    assert [item.image for item in explanation.maps.values()] == ["mr", "ct"]
    explanation.save(tmp_path / "case")
    for name, image, affine in (("mr", mr, affines[0]), ("ct", ct, affines[1])):
        layer = next(key for key, item in explanation.maps.items() if item.image == name)
        (injected,) = (tmp_path / "injected" / str(layer)).glob("*.nii.gz")
        for path in (injected, tmp_path / f"case_{name}_gcam.nii.gz"):
            saved = nibabel.load(path)
            assert saved.shape == tuple(image.shape[2:])
            assert torch.allclose(torch.from_numpy(saved.affine).double(), affine, atol=1e-5)


def test_a_mapping_by_name_is_needed_to_save_maps_of_several_images(tmp_path, scans):
    net = Siamese().double().eval()
    explanation = medcam.explain(net, *scans, target=1)
    with pytest.raises(InputError, match=r"give image= as a mapping"):
        explanation.save(tmp_path / "case", image=scans[0])
    with pytest.raises(InputError, match=r"of_image\('prior'\)\.show"):
        explanation.show(browser=False)
    with pytest.raises(InputError, match=r"montage\(explanation\.of_image\('prior'\)\)"):
        medcam.montage(explanation)
    explanation.of_image("current").save(tmp_path / "current", report=False, montage=False)
    assert (tmp_path / "current_0_gcam.tif").exists()
    assert explanation._repr_html_().count("<img") == 2


@pytest.mark.parametrize("order", [("mr", "ct"), ("ct", "mr")])
def test_the_order_of_keywords_changes_nothing(order):
    torch.manual_seed(0)
    images = {"mr": torch.rand(1, 1, 16, 16, 16), "ct": torch.rand(1, 1, 8, 8, 8)}
    net = Fusion().eval()
    explanation = medcam.explain(net, target=1, **{name: images[name] for name in order})
    for name in order:
        item = explanation.of_image(name).map
        assert item.values.shape[2:] == images[name].shape[2:]
        assert item.layer.startswith(name)


def test_the_second_call_of_an_injected_model_gives_the_same_maps(scans):
    net = Siamese().double().eval()
    model = medcam.inject(net, label=1)
    model(*scans)
    first = model.get_attention_map()
    model(*scans)
    second = model.get_attention_map()
    assert list(first) == [("encoder", "prior"), ("encoder", "current")]
    assert all((first[key] == second[key]).all() for key in first)


def test_wrong_names_of_images_are_told_with_the_right_ones(scans, tmp_path):
    net = Siamese().double().eval()
    with pytest.raises(InputError, match=r"0: 'prior', 1: 'current'.*Did you mean 'current'"):
        medcam.explain(net, *scans, layer="encoder", target=1, image="curent")
    explanation = medcam.explain(net, *scans, layer="encoder", target=1)
    with pytest.raises(InputError, match=r"explanation\.of_image\('prior'\)"):
        _ = explanation.map
    image = torch.rand(32, 32)
    for mapping in ({"prior": image}, {"prior": image, "curent": image}):
        with pytest.raises(InputError, match=r"image= has the keys .*\['prior', 'current'\]"):
            explanation.save(tmp_path / "case", image=mapping)


def test_a_layer_of_another_image_says_which(scans):
    net = Fusion(2).double().eval()
    with pytest.raises(medcam.errors.NoMapError, match="does not depend on the image 'ct'"):
        medcam.explain(net, *scans, layer="mr", target=1, image="ct")
