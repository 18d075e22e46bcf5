"""What `medcam.check` takes, refuses, costs and says."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import medcam
from medcam import demo, targets
from medcam.errors import InputError
from medcam.trust import CheckedMap, TrustCheck, Verdict
from medcam.trust.parts import two_parts
from medcam.trust.plan import Plan, within
from medcam.trust.question import question_of
from medcam.trust.statistics import Estimate
from medcam.trust.verdict import overall

from .conftest import checked

FEW = {"sets": 8, "networks": 1, "noises": 0}


class Segmenter(nn.Module):
    """A small U-shaped network with several classes."""

    def __init__(self, classes: int = 3, rank: int = 2, channels: int = 1) -> None:
        super().__init__()
        conv, pool = (nn.Conv2d, nn.AvgPool2d) if rank == 2 else (nn.Conv3d, nn.AvgPool3d)
        self.down = nn.Sequential(conv(channels, 6, 3, padding=1), nn.ReLU())
        self.deep = nn.Sequential(pool(2), conv(6, 8, 3, padding=1), nn.ReLU())
        self.up = nn.Upsample(scale_factor=2)
        self.head = conv(14, classes, 1)

    def forward(self, x):
        skip = self.down(x)
        return self.head(torch.cat([skip, self.up(self.deep(skip))], 1))


@pytest.fixture
def segmenter():
    return Segmenter().eval()


def test_every_verdict_has_a_sentence_a_source_and_a_limit(lesion_check):
    for item in lesion_check.maps:
        assert list(item.verdicts) == ["T0", "T1", "T2", "T3", "T4"]
        for verdict in item.verdicts.values():
            assert verdict.sentence.endswith(".")
            assert verdict.cannot_show.endswith(".")
            assert verdict.source
            assert verdict.threshold
            assert verdict.title in str(lesion_check.table().columns)


def test_the_record_is_json(lesion_check):
    record = json.loads(json.dumps(lesion_check.to_dict(), allow_nan=False))
    assert record["target"] == "class 1"
    row = record["maps"][0]
    assert row["criteria"]["T4"]["gains"]["intensity"]["value"] is not None
    assert row["criteria"]["T4"]["second_fill"]["value"] is not None
    assert {"block", "seed", "cost", "recommended", "layers"} <= set(record)


def test_the_recommended_map_passes(lesion_check):
    best = lesion_check.recommended
    assert lesion_check.of(best.method, best.layer).word == "passes"
    gains = {
        (item.method, item.layer): item.verdicts["T4"].gains["best of the image"].low
        for item in lesion_check.maps
        if item.word == "passes"
    }
    assert gains[best.method, best.layer] == max(gains.values())
    assert best.sentence in str(lesion_check)


def test_a_layer_that_the_prediction_hardly_uses_is_told_and_not_recommended():
    model, images = demo.load_nuclei_segmenter(), demo.load_nuclei().images[:3]
    check = checked(model, images, method="layercam", layer=["bottleneck", "decoder3"], **FEW)
    shares = {share.layer: share for share in check.layers}
    assert shares["bottleneck"].dice == pytest.approx(0.97, abs=0.01)
    assert not shares["bottleneck"].is_used
    assert "bottleneck" in str(check)
    row = check.of("layercam", "bottleneck")
    assert row.is_of_unused_layer
    lines = [line for line in str(check).splitlines() if line.startswith(f"{row.name} ")]
    assert lines[0].endswith("; the prediction hardly uses this layer")
    assert "  undecided whether it knows the weights; the" in lines[0]  # of one network
    assert row.to_dict()["layer_is_used"] is False
    assert check.table()["Layer is used"].tolist() == [False, False]
    assert check.recommended is None


def test_a_layer_is_used_if_the_prediction_falls_without_it():
    check = checked(
        demo.load_lesion_classifier(), demo.load_lesion_slices().images[:2], method="gcam",
        layer="relu6", **FEW,
    )  # fmt: skip
    assert check.layers[0].is_used
    assert check.layers[0].dice is None


def test_stages_are_the_last_layers_of_each_resolution():
    model, images = demo.load_nuclei_segmenter(), demo.load_nuclei().images[:1]
    check = checked(model, images, method="gcam", **FEW)
    assert [share.layer for share in check.layers] == [
        "encoder1", "encoder2", "encoder3", "bottleneck", "decoder3", "decoder2", "decoder1",
    ]  # fmt: skip


def test_maps_of_other_libraries_are_checked_too(segmenter):
    def own(model, images, target):
        return images[:, 0].abs()

    check = checked(segmenter, torch.rand(2, 1, 32, 32), method="gcam", maps={"own": own}, **FEW)
    assert check.of("own").layer is None
    with pytest.raises(InputError, match=r"returned \[2\].*\[2, 32, 32\]"):
        checked(segmenter, torch.rand(2, 1, 32, 32), maps={"own": lambda *_: torch.zeros(2)}, **FEW)
    with pytest.raises(InputError, match="functions"):
        checked(segmenter, torch.rand(2, 1, 32, 32), maps={"own": torch.zeros(2)}, **FEW)


def test_a_segmentation_is_checked_by_its_two_largest_components():
    images = torch.zeros(1, 1, 40, 40)
    images[..., 4:14, 4:14] = 1
    images[..., 24:30, 24:34] = 1
    images[..., 36, 36] = 1

    class Threshold(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Conv2d(1, 2, 1, bias=False)
            self.features.weight.data = torch.tensor([[[[1.0]]], [[[-1.0]]]])

        def forward(self, x):
            z = self.features(x)
            return torch.cat([0 * z[:, :1], z[:, :1] - z[:, 1:] - 1], 1)

    seen = []

    def own(model, x, target):
        seen.append(medcam.explain(model, x, layer="features", method="hirescam", target=target))
        return seen[-1].map.attention()[:, 0]

    check = checked(Threshold(), images, method="hirescam", layer="features", maps={"own": own},
                    sets=16, networks=1, noises=0)  # fmt: skip
    voxels = [int(item.target.voxels[0, 0]) for item in seen if item.target.voxels is not None]
    assert {100, 60} <= set(voxels)
    assert "largest structures" in check.target
    assert check.of("hirescam").verdicts["T3"].word == "passes"


def test_a_single_component_is_cut_into_halves():
    mask = torch.zeros(1, 30, 12, dtype=torch.bool)
    mask[0, 3:23, 4:8] = True
    first, second, words = two_parts(mask.numpy())
    assert words == "the other half of the same structure"
    assert (first | second == mask.numpy()).all()
    assert not (first & second).any()
    assert first.sum() == second.sum() == 40
    assert first[0, 3:13].any(1).all()
    whole, other = mask.clone(), torch.zeros_like(mask)
    other[0, 3:9, 2:8] = other[0, 20:25, 2:8] = True
    assert two_parts(other.numpy()).words == "another structure of the same class"
    both = two_parts(torch.cat([whole, other]).numpy()).words
    assert both == "another structure of the same class, or its other half"


def test_halves_of_an_only_structure_are_called_that():
    images = torch.zeros(1, 1, 32, 32)
    images[:, :, 8:20, 10:20] = 1

    class Bright(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 1)
            nn.init.zeros_(self.conv.bias)
            with torch.no_grad():
                self.conv.weight[:, 0, 0, 0] = torch.tensor([-1.0, 1.0])
                self.conv.bias[0] = 0.5

        def forward(self, x):
            return self.conv(x)

    check = checked(Bright().eval(), images, method="gcam", layer="conv", target=1, **FEW)
    assert check.target == "class 1: the halves of its only structure"
    sentence = check.of("gcam").verdicts["T3"].sentence
    assert "the other half of the same structure" in sentence
    assert "another structure" not in sentence


def test_without_a_target_several_images_have_a_class_in_common(segmenter):
    """The class with the most voxels of those in every image, not that of each image."""

    class Grey(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):  # class 1 where the image is 1, class 2 where it is 2
            return torch.cat([-((x - k) ** 2) for k in range(3)], 1) * self.scale

    images = torch.zeros(2, 1, 24, 24)
    images[0, :, 2:14, 2:14], images[0, :, 16:20, 16:20] = 2, 1
    images[1, :, 4:12, 4:12] = 1
    check = checked(Grey().eval(), images, method="saliency", **FEW)
    assert check.target.startswith("class 1:")
    images[1] = 0
    images[1, :, 2:9, 2:9] = 2
    images[0, :, 2:14, 2:14] = 0
    with pytest.raises(InputError, match=r"No class but the background .* in every sample"):
        checked(Grey().eval(), images, method="saliency", **FEW)


def test_the_same_image_twice_is_refused(lesions):
    model = demo.load_lesion_classifier()
    with pytest.raises(InputError, match="Images 0 and 1 are the same"):
        checked(model, torch.cat([lesions[:1], lesions[:1]]), target=1, **FEW)
    with pytest.raises(InputError, match="Images 0 and 2 are the same"):
        checked(model, lesions[[0, 1, 0]], target=1, **FEW)


def test_a_stalk_with_a_plate_has_two_halves():
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 5:30, 20] = True
    mask[0, 29, 5:30] = True
    first, second, _ = two_parts(mask)
    assert first.any()
    assert second.any()
    assert (first | second == mask).all()


@pytest.mark.parametrize(
    ("count", "text"), [(2, "class 1: the largest structure"), (1, "class 1: one half of its only")]
)
def test_with_another_target_the_question_says_which_part_is_tested(count, text):
    logits = torch.zeros(1, 3, 24, 24)
    logits[:, 2, 20:, :6], logits[:, 1, 2:10, 2:10] = 3, 2
    if count == 2:
        logits[:, 1, 14:18, 12:18] = 2
    question = question_of(logits, 1, against=2)
    assert question.text.startswith(text)
    assert len(question.scores) == 1
    assert "one by one" not in question.text


def test_a_marker_cannot_be_taught_to_a_model_without_weights():
    class Mean(nn.Module):
        def forward(self, x):
            value = x.flatten(1).mean(1)
            return torch.stack([value, -value], 1)

    with pytest.raises(InputError, match=r"artefact=True teaches .* holds no weights"):
        medcam.check(
            Mean().eval(), torch.rand(2, 1, 16, 16), method="saliency", target=1, artefact=True
        )


def test_a_budget_takes_the_noise_first():
    plan = Plan(96, 2, 5, 8, 4, 11, 1)
    cut = within(plan, plan.cost - 1)
    assert (cut.sets, cut.networks, cut.noises) == (96, 5, 0)
    assert cut.cut.endswith("no noise: T5 is not measured.")


def test_the_target_cannot_be_told_from_itself(lesions):
    with pytest.raises(medcam.errors.TargetError, match="against= is the target itself in sample"):
        checked(demo.load_lesion_classifier(), lesions[:2], target=1, against=1, **FEW)


def test_a_target_smaller_than_a_cell_is_noted():
    model, images = demo.load_nuclei_segmenter(), demo.load_nuclei().images[:1]
    with torch.no_grad():
        where = (model(images) > 0)[0, 0].nonzero()[0].tolist()
    options = {"method": "hirescam", "layer": ["bottleneck", "decoder1"], **FEW}
    check = checked(model, images, target=targets.voxel(where, 1), **options)
    assert [note for note in check.notes if "bottleneck" in note and "1 voxels" in note]
    assert not [note for note in check.notes if "decoder1" in note]
    assert check.notes[0] in str(check)
    assert check.notes[0] in check.to_dict()["notes"]


def test_a_region_and_a_voxel_are_told_from_another_structure():
    model, images = demo.load_nuclei_segmenter(), demo.load_nuclei().images[:1]
    with torch.no_grad():
        mask = (model(images) > 0)[:, 0]
    region = torch.zeros_like(mask)
    where = mask[0].nonzero()[0]
    region[0, where[0] : where[0] + 6, where[1] : where[1] + 6] = True
    check = checked(
        model, images, method=["gcam", "hirescam"], layer="decoder2",
        target=targets.region(region & mask, 1), **FEW,
    )  # fmt: skip
    assert "given region" in check.target
    assert check.of("gcam").verdicts["T3"].word == "fails"
    assert check.of("hirescam").verdicts["T3"].word == "passes"


def test_a_class_that_is_nowhere_predicted_is_an_error(segmenter):
    images = torch.rand(2, 1, 32, 32)
    predicted = segmenter(images).argmax(1).unique().tolist()
    absent = next((k for k in range(3) if k not in predicted), None)
    if absent is None:
        segmenter.head.bias.data[2] -= 1e3
        absent = 2
    with pytest.raises(InputError, match=rf"Class {absent} is predicted nowhere"):
        checked(segmenter, images, target=absent, **FEW)


def test_multi_label_and_several_classes_per_image():
    model = demo.load_lesion_classifier()
    images = demo.load_lesion_slices().images[:4]
    check = checked(model, images, method="gcam", layer="relu6", target=[0, 1, 0, 1], **FEW)
    assert check.target == "the class of each image"
    check = checked(model, images, method="gcam", layer="relu6", target=1, against=0, **FEW)
    assert "class 0" in check.maps[0].verdicts["T3"].sentence


def test_a_function_of_the_output_is_checked():
    model = demo.load_lesion_classifier()
    images = demo.load_lesion_slices().images[:4]
    check = checked(
        model, images, method="gcam", layer="relu6", target=lambda z: z[:, 1] - z[:, 0], **FEW
    )
    verdict = check.maps[0].verdicts["T3"]
    assert verdict.word == "does not apply"
    assert "against=" in verdict.sentence


def test_a_volume_in_windows_is_the_same_as_whole_if_one_window_holds_it():
    torch.manual_seed(1)
    model, volume = Segmenter(2, rank=3).eval(), torch.rand(1, 1, 16, 16, 12)
    asked = ["hirescam", "saliency", medcam.methods.intgrad(steps=3)]
    options = {"method": asked, "layer": "deep.2", "sets": 12, **FEW}
    whole = checked(model, volume, target=1, **options)
    windows = checked(model, volume, target=1, roi_size=(16, 16, 12), **options)
    for a, b in zip(whole.maps, windows.maps, strict=True):
        for key in ("T0", "T2", "T3", "T4"):
            assert a.verdicts[key].estimate.value == pytest.approx(
                b.verdicts[key].estimate.value, abs=1e-4
            )
    smaller = checked(model, volume, target=1, roi_size=8, overlap=0.5, **options)
    assert smaller.plan.windows == 18
    assert smaller.edge == whole.edge


def test_with_too_few_sets_it_is_undecided():
    model, image = demo.load_nuclei_segmenter(), demo.load_nuclei().images[:1]
    options = {"method": "saliency", "networks": 0, "noises": 0}
    few = checked(model, image, sets=8, **options).of("saliency").verdicts["T4"]
    assert few.word == "undecided"
    assert "more images or sets" in few.sentence
    many = checked(model, image, sets=96, **options).of("saliency").verdicts["T4"]
    assert many.estimate.high - many.estimate.low < few.estimate.high - few.estimate.low


@pytest.mark.slow
def test_a_volume_with_too_few_sets_is_undecided():
    head, model = demo.load_head(), demo.load_brain_segmenter()
    check = checked(model, head.image, method=["hirescam", "gcam"], layer="decoder3", sets=12,
                    networks=0, noises=0)  # fmt: skip
    assert check.of("hirescam").verdicts["T4"].word == "undecided"
    assert check.of("gcam").verdicts["T3"].word == "fails"


def test_one_image_that_is_its_own_mirror_image_is_undecided():
    image = torch.rand(1, 1, 32, 32)
    image = image + image.flip(-1)
    model = demo.load_lesion_classifier()
    check = checked(
        model, image, method="gcam", layer="relu6",
        maps={"centre": lambda m, x, t: torch.ones_like(x[:, 0]).cumsum(1)}, **FEW,
    )  # fmt: skip
    assert check.of("centre").verdicts["T0"].word == "undecided"
    assert "other patients" in check.of("centre").verdicts["T0"].sentence


def test_blocks_are_boxes_in_millimetres():
    model, volume = Segmenter(2, rank=3).eval(), torch.rand(1, 1, 48, 48, 12)
    check = checked(model, volume, method="gcam", layer="down.1", spacing=(1, 1, 4),
                    target=0, **FEW)  # fmt: skip
    assert check.edge == (4, 4, 1)


def test_the_same_seed_gives_the_same_check(lesions):
    options = {"method": "gcam", "layer": "relu6", "sets": 12, "networks": 1, "noises": 1}
    model = demo.load_lesion_classifier()
    first = checked(model, lesions, **options)
    torch.manual_seed(99)
    assert first.to_dict() == medcam.check(model, lesions, **options).to_dict()
    assert first.to_dict() != checked(model, lesions, **options, seed=1).to_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sets": 3}, "sets=3 is too few"),
        ({"networks": -1}, "networks=-1"),
        ({"parts": "all"}, "parts='all'"),
        ({"layer": "full"}, "stages"),
        ({"layer": "nonsense"}, "nonsense"),
        ({"method": "nonsense"}, "nonsense"),
        ({"target": "all"}, "one target|one class"),
        ({"budget": 10}, "budget=10 forward passes is too small"),
    ],
)
def test_refusals(options, message, segmenter):
    with pytest.raises(medcam.MedcamError, match=message):
        medcam.check(segmenter, torch.rand(1, 1, 16, 16), **options)


def test_the_cost_is_stated_before_anything_runs(capsys, lesions):
    model = demo.load_lesion_classifier()
    check = medcam.check(model, lesions, method="gcam", layer="relu6", sets=8, networks=1,
                         noises=0, progress=True)  # fmt: skip
    printed = capsys.readouterr().err
    assert printed.startswith(f"cost: {check.plan}")
    assert "8 sets x 2 fills + 1 prediction + 1 layer left out, each of 6 images: 108 " in printed
    assert (8 * 2 + 1 + 1) * 6 == check.plan.forward_passes == 108
    assert f"passes that count as 4 each: {check.plan.cost} in all" in printed
    assert check.plan.cost == 108 + 4 * check.plan.map_passes


def counted_check(images, **options):
    """Return a check, and its forward passes of single images, counted by a hook of the user's.

    A copy with permuted weights keeps the hook.
    """
    model, seen = demo.load_lesion_classifier(), []
    handle = model.conv1.register_forward_hook(lambda _, args, out: seen.append(len(args[0])))
    steps = []
    check = medcam.check(
        model, images, sets=9, networks=2, noises=3,
        progress=lambda done, total: steps.append((done, total)), **options,
    )  # fmt: skip
    handle.remove()
    assert steps[-1][0] == steps[-1][1]  # the bar ends full
    return check, sum(seen)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("layer", [["relu4", "relu6"], "stages", "auto"])
def test_the_cost_is_what_is_run(images, layer, lesions):
    check, count = counted_check(lesions[:images], method=["gcam", "gbp"], layer=layer)
    assert count == check.plan.forward_passes + check.plan.map_passes


def test_the_cost_counts_the_runs_of_methods_that_run_the_model_again(lesions):
    again = [medcam.methods.occlusion(size=16), medcam.methods.smoothgrad("gcam", samples=3)]
    check, count = counted_check(lesions[:2], method=again, layer="relu6")
    plan = check.plan
    assert plan.replays == (1 + 16) + 3 * 4  # boxes, and noisy images with gradients
    assert count <= plan.cost
    assert count > plan.forward_passes + plan.map_passes
    assert f"up to {plan.replays * plan.map_passes:,} forward passes" in str(plan)
    with pytest.raises(InputError, match="too small"):
        medcam.check(
            demo.load_lesion_classifier(), lesions[:2], method=again, layer="relu6", budget=400
        )


def test_the_bar_ends_full_without_another_target(lesions):
    counted_check(lesions[:2], method="gcam", layer="relu6", target=lambda z: z[:, 1] - z[:, 0])


def test_a_budget_cuts_sets_and_networks_and_says_so(lesions):
    plan = Plan(96, 2, 5, 8, 4, 11, 1)
    cut = within(plan, plan.cost // 2)
    assert cut.cost <= plan.cost // 2
    assert cut.sets < 96
    assert cut.networks < 5
    assert f"{cut.sets} of 96 sets" in cut.cut
    assert f"{math.sqrt(96 / cut.sets):.1f} times" in cut.cut
    assert within(plan, plan.cost) == plan
    model = demo.load_lesion_classifier()
    check = checked(model, lesions, method="gcam", layer="relu6", budget=1000)
    assert check.plan.cost <= 1000
    assert check.plan.cut in str(check)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["passes", "passes"], "passes"),
        (["passes", "does not apply"], "passes"),
        (["passes", "undecided"], "undecided"),
        (["undecided", "no better than the image"], "no better than the image"),
        (["no better than the image", "fails"], "fails"),
    ],
)
def test_the_worst_verdict_counts(words, expected):
    verdicts = [Verdict("T0", word, Estimate(0.0), "", "") for word in words]
    assert overall(verdicts) == expected


def test_what_was_not_checked_is_named(lesion_check):
    with pytest.raises(InputError, match="several layers: name one with 'relu4', 'relu6'"):
        lesion_check.of("gcam")
    with pytest.raises(medcam.errors.UnknownNameError, match="'nonsense' does not exist"):
        lesion_check.of("nonsense")
    with pytest.raises(medcam.errors.UnknownNameError, match="Did you mean 'gcam at relu6'"):
        lesion_check.of("gcam", "relu5")
    assert isinstance(lesion_check, TrustCheck)
    assert isinstance(lesion_check.maps[0], CheckedMap)
