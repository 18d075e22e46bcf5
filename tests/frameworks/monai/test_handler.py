"""The handler adds maps to what MONAI's engines put out, and changes nothing else."""

from __future__ import annotations

import copy

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.transforms import AsDiscreted, Compose, Invertd, SaveImaged
from torch import nn

import medcam
from medcam.errors import InputError
from support.monai_cases import SHAPE, Finder, centre_mm, inside, oblique, spot_mm, write_volume

from .test_transforms import preprocessing

# Loading any image makes MONAI look for a decoder of DICOM files that is not installed here.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")

ONE = medcam.targets.class_score(1)
CPU = torch.device("cpu")
AttentionHandler, AttentionInferer = medcam.monai.AttentionHandler, medcam.monai.AttentionInferer


class Net(nn.Module):
    """A network with all kinds of state that a further forward pass could change in training."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.drop = nn.Dropout(0.3)
        self.head = nn.Conv2d(6, 2, 1)
        self.fine[1].eval()

    def forward(self, x):
        return self.head(self.drop(self.fine(x)))


class Random(Net):
    """A network that draws random numbers in evaluation mode, too."""

    def forward(self, x):
        return super().forward(x + 0.01 * torch.rand_like(x))


def items(count=4, size=12):
    torch.manual_seed(2)
    found = []
    for k in range(count):
        image = MetaTensor(
            torch.rand(1, size, size), affine=torch.diag(torch.tensor([k + 1.0] * 4))
        )
        image.meta["filename_or_obj"] = f"/data/case_{k}.nii.gz"
        found.append({"image": image, "label": (image.as_tensor() > 0.5).long()})
    return found


def evaluator(network, handlers, *, batch_size=2, data=None, **options):
    loader = DataLoader(data or items(), batch_size=batch_size)
    return SupervisedEvaluator(CPU, loader, network, val_handlers=handlers, **options)


def train(network, handlers, **options):
    """Train for two epochs; return the losses, the trainer and random numbers drawn afterwards."""
    torch.manual_seed(11)
    loader = DataLoader(items(), batch_size=2, shuffle=True)
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    losses = []

    class Losses:
        def attach(self, engine):
            from monai.engines import IterationEvents

            engine.add_event_handler(
                IterationEvents.LOSS_COMPLETED,
                lambda e: losses.append(e.state.output["loss"].item()),
            )

    trainer = SupervisedTrainer(
        CPU, 2, loader, network, optimizer,
        lambda out, label: nn.functional.cross_entropy(out, label[:, 0]),
        train_handlers=[Losses(), *handlers], **options,
    )  # fmt: skip
    trainer.run()
    return losses, trainer, torch.rand(4)


@pytest.mark.parametrize("decollate", [True, False])
@pytest.mark.parametrize(
    "inferer",
    [
        AttentionInferer(layer="fine.2", method="hirescam", target=ONE),
        AttentionInferer(
            SlidingWindowInferer(8), layer="fine.2", method=medcam.methods.get("gbp"), target=ONE
        ),
    ],
)
def test_training_is_bit_for_bit_as_without_it(decollate, inferer):
    torch.manual_seed(0)
    plain = Random()
    watched = copy.deepcopy(plain)
    expected, _, drawn = train(plain, [], decollate=decollate)
    handler = AttentionHandler(inferer)
    losses, trainer, drawn_too = train(watched, [handler], decollate=decollate)
    assert losses == expected
    assert torch.equal(drawn, drawn_too)
    for name, value in plain.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value), name
    for ours, theirs in zip(watched.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
        assert ours.requires_grad
    assert [m.training for m in watched.modules()] == [m.training for m in plain.modules()]
    assert handler.attention.any()
    output = trainer.state.output
    attention = output["attention"] if not decollate else [o["attention"] for o in output]
    assert all(torch.equal(a, b) for a, b in zip(attention, handler.attention, strict=True))


def test_maps_in_training_are_those_of_the_network_after_the_step():
    network = Net()
    handler = AttentionHandler(AttentionInferer(layer="fine.2", method="hirescam", target=ONE))
    _, trainer, _ = train(network, [handler], decollate=False)
    images = trainer.state.batch["image"]
    network.eval()
    expected = medcam.explain(network, images, layer="fine.2", method="hirescam", target=ONE)
    assert expected.map.values.any()
    assert torch.equal(handler.attention.as_tensor(), expected.map.values)


def test_every_third_iteration(tmp_path):
    network = Net().eval()
    handler = AttentionHandler(
        AttentionInferer(layer="fine.2", target=ONE), every=3, key="cam", output_dir=tmp_path
    )
    seen = []
    engine = evaluator(network, [handler], batch_size=1, data=items(7))
    from ignite.engine import Events

    engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: seen.append("cam" in e.state.output[0])
    )
    engine.run()
    assert seen == [False, False, True, False, False, True, False]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "case_2_cam.nii.gz", "case_5_cam.nii.gz",
    ]  # fmt: skip


def test_evaluation_gives_the_maps_of_each_image():
    network = Net().eval()
    maps = {}

    class Collect:
        def attach(self, engine):
            from ignite.engine import Events

            def collect(e):
                for item in e.state.output:
                    maps[item["image"].meta["filename_or_obj"]] = item["attention"]

            engine.add_event_handler(Events.ITERATION_COMPLETED, collect)

    own = AttentionInferer(SlidingWindowInferer(8), layer="fine.2", target=ONE)
    engine = evaluator(network, [AttentionHandler(own), Collect()], inferer=SimpleInferer())
    engine.run()
    assert len(maps) == 4
    for item in items():
        found = maps[item["image"].meta["filename_or_obj"]]
        expected = medcam.explain_volume(
            network, item["image"][None], 8, mode="constant", layer="fine.2", target=ONE
        ).map.values[0]
        assert expected.any()
        torch.testing.assert_close(found.as_tensor(), expected)
        assert torch.equal(found.affine, item["image"].affine)


def test_postprocessing_finds_the_maps_of_the_engines_own_inferer(tmp_path):
    source = write_volume(tmp_path / "in" / "case.nii.gz")
    pre = preprocessing()
    engine = evaluator(
        Finder(),
        [AttentionHandler()],
        batch_size=1,
        data=[pre({"image": str(source)})],
        inferer=AttentionInferer(
            SlidingWindowInferer(16, overlap=0.5), layer="features.1", target=1, method="hirescam"
        ),
        postprocessing=Compose([
            AsDiscreted("pred", argmax=True),
            Invertd("attention", pre, orig_keys="image", nearest_interp=False),
            SaveImaged(
                "attention", output_dir=tmp_path, output_postfix="cam", resample=False,
                separate_folder=False, print_log=False,
            ),
        ]),
    )  # fmt: skip
    engine.run()
    saved = nibabel.load(tmp_path / "case_cam.nii.gz")
    assert saved.shape == SHAPE
    np.testing.assert_allclose(saved.affine, oblique(), atol=1e-4)
    assert np.linalg.norm(centre_mm(saved) - spot_mm()) < 0.7
    assert inside(saved) > 0.8
    assert engine.state.output[0]["attention"].shape == (1, *SHAPE)


def test_saved_maps_lie_where_the_network_saw_the_image(tmp_path):
    source = write_volume(tmp_path / "in" / "a b(1).nii.gz")
    pre = preprocessing()
    own = AttentionInferer(layer="features.1", target=medcam.targets.classes(0, 1))
    handler = AttentionHandler(own, output_dir=tmp_path / "out")
    engine = evaluator(Finder(), [handler], batch_size=1, data=[pre({"image": str(source)})])
    engine.run()
    (first, second) = sorted((tmp_path / "out").iterdir())
    assert first.name.endswith("_attention_0.nii.gz")
    assert first.name.startswith("a b_1~")
    saved = nibabel.load(second)
    image = pre({"image": str(source)})["image"]
    np.testing.assert_allclose(saved.affine, image.affine, atol=1e-4)
    np.testing.assert_array_equal(saved.get_fdata(), handler.attention[0, 1])
    assert np.linalg.norm(centre_mm(saved) - spot_mm()) < 0.7
    assert not np.array_equal(nibabel.load(first).get_fdata(), saved.get_fdata())


def test_images_of_one_name_in_several_folders_do_not_overwrite_each_other(tmp_path):
    data = items(3)
    for k, item in enumerate(data):
        item["image"].meta["filename_or_obj"] = f"/data/case_{k}/image.nii.gz"
    handler = AttentionHandler(AttentionInferer(layer="fine.2", target=ONE), output_dir=tmp_path)
    network = Net().eval()
    for _ in range(2):  # the second run writes the same files again
        evaluator(network, [handler], batch_size=1, data=data).run()
    assert len(list(tmp_path.iterdir())) == 3
    affines = {nibabel.load(path).affine[0, 0] for path in tmp_path.iterdir()}
    assert affines == {1.0, 2.0, 3.0}


def test_plain_tensors_are_named_by_iteration_and_place(tmp_path):
    data = [{"image": torch.rand(1, 12, 12, 4), "label": torch.zeros(1)} for _ in range(3)]
    network = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv3d(3, 2, 1))
    handler = AttentionHandler(AttentionInferer(layer="1", target=ONE), output_dir=tmp_path)
    with pytest.warns(UserWarning, match="identity affine"):
        evaluator(network, [handler], data=data).run()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "1_0_attention.nii.gz", "1_1_attention.nii.gz", "2_0_attention.nii.gz",
    ]  # fmt: skip


def test_further_inputs_of_prepare_batch_reach_the_network():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, x, scale, *, sign):
            return self.net(x * scale * sign)

    def prepare(batch, device, non_blocking, **kwargs):
        return batch["image"].to(device), None, (3.0,), {"sign": -1.0}

    network = Scaled().eval()
    handler = AttentionHandler(AttentionInferer(method="saliency", target=ONE))
    evaluator(network, [handler], prepare_batch=prepare, batch_size=4, data=items(4)).run()
    x = torch.stack([item["image"].as_tensor() for item in items(4)])
    expected = medcam.explain(network, x, 3.0, sign=-1.0, method="saliency", target=ONE)
    assert expected.map.values.any()
    assert torch.equal(handler.attention.as_tensor(), expected.map.values)


def test_an_output_of_another_kind_is_left_alone():
    handler = AttentionHandler(AttentionInferer(layer="fine.2", target=ONE))
    engine = evaluator(
        Net().eval(), [handler], iteration_update=lambda engine, batch: batch["image"].mean()
    )
    engine.run()
    assert engine.state.output.ndim == 0
    assert handler.attention.shape == (2, 1, 12, 12)


def test_what_cannot_work_is_refused():
    with pytest.raises(InputError, match="every=0"):
        AttentionHandler(every=0)
    with pytest.raises(InputError, match="one method and one layer"):
        AttentionHandler(AttentionInferer(layer="full"))
    with pytest.raises(InputError, match="inferer is SimpleInferer, which makes no maps"):
        evaluator(Net(), [AttentionHandler()]).run()
    several = AttentionInferer(method=["gcam", "gbp"])
    with pytest.raises(InputError, match="one method and one layer"):
        evaluator(Net(), [AttentionHandler()], inferer=several).run()
