"""The check tells right maps from fakes, on networks where the truth is known."""

from __future__ import annotations

import pytest

from ._fakes import CAMS, SEVEN


@pytest.mark.parametrize("name", SEVEN)
@pytest.mark.parametrize("case", ["lesion_check", "nucleus_check"])
def test_a_fake_fails(name, case, request):
    item = request.getfixturevalue(case).of(name)
    assert item.word == "fails"


@pytest.mark.parametrize("name", ["fake mirrored", "fake other case"])
def test_what_only_perturbation_sees(name, lesion_check):
    verdicts = lesion_check.of(name).verdicts
    assert [verdicts[key].word for key in ("T0", "T1", "T2", "T3")] == ["passes"] * 4
    assert verdicts["T4"].word == "fails"


def test_a_map_drawn_anew_does_not_repeat(lesion_check):
    verdict = lesion_check.of("fake fresh").verdicts["T1"]
    assert verdict.word == "fails"
    assert verdict.estimate.value > 0.5


@pytest.mark.parametrize("name", ["fake random", "fake centre", "fake lower half"])
def test_a_map_that_never_changes_does_not_know_image_weights_or_target(name, lesion_check):
    verdicts = lesion_check.of(name).verdicts
    for key in ("T0", "T3"):
        assert verdicts[key].word == "fails"
        assert verdicts[key].estimate.value == pytest.approx(1)


@pytest.mark.parametrize("method", CAMS)
def test_cams_pass_at_the_last_layer_of_the_lesion_network(method, lesion_check):
    item = lesion_check.of(method, "relu6")
    assert item.word == "passes"
    assert item.verdicts["T4"].estimate.value > 0.7
    assert item.verdicts["T4"].gains["best of the image"].low > 0.15


@pytest.mark.parametrize("method", ["gcam", "ggcam"])
def test_grad_cam_is_not_faithful_at_relu4(method, lesion_check):
    """There it misses the lesion, see the page on trust."""
    assert lesion_check.of(method, "relu4").verdicts["T4"].word == "fails"
    assert lesion_check.of("hirescam", "relu4").verdicts["T4"].word == "passes"


@pytest.mark.parametrize("method", ["gcam", "gcampp", "xgradcam"])
def test_methods_with_one_weight_per_channel_cannot_tell_one_nucleus(method, nucleus_check):
    verdicts = nucleus_check.of(method).verdicts
    assert verdicts["T3"].word == "fails"
    assert verdicts["T3"].estimate.value > 0.98
    assert verdicts["T4"].word == "fails"
    assert verdicts["T4"].estimate.value < 0.45


@pytest.mark.parametrize("method", ["hirescam", "layercam", "segxrescam"])
def test_local_methods_pass_on_one_nucleus(method, nucleus_check):
    item = nucleus_check.of(method)
    assert item.word == "passes"
    assert item.verdicts["T4"].estimate.value > 0.8


def test_all_nuclei_are_no_better_explained_than_by_intensity(nuclei_check):
    for method in ("gcam", "hirescam", "fake intensity"):
        verdict = nuclei_check.of(method).verdicts["T4"]
        assert verdict.word == "no better than the image"
        assert "intensity" in verdict.sentence
    assert nuclei_check.recommended is None
    assert "no better than the image" in nuclei_check.reason


def test_a_map_near_the_target_is_told_by_the_weights_alone(nucleus_check):
    """Where the target is explains the prediction nearly as well as a faithful map."""
    near = nucleus_check.controls["near the target"]
    assert near.value > 0.6
    gains = nucleus_check.of("hirescam").verdicts["T4"].gains
    assert set(gains) == {
        "random", "edges", "centre", "intensity", "near the target", "best of the image",
    }  # fmt: skip
    assert gains["near the target"].value < gains["best of the image"].value


def test_eigen_cam_does_not_know_the_target(lesion_check):
    assert lesion_check.of("eigencam", "relu6").verdicts["T3"].word == "fails"


def test_magnitudes_of_opposite_logits_are_no_failure(lesion_check):
    for method in ("saliency", "inputxgradient"):
        verdict = lesion_check.of(method).verdicts["T3"]
        assert verdict.word == "does not apply"
        assert "speaks against the other" in verdict.sentence
    assert lesion_check.of("gbp").verdicts["T3"].word == "passes"


def test_unlike_images_are_the_baseline_of_the_weights(lesion_check):
    """Input x gradient of unlike images is as alike as that of permuted networks: air is 0."""
    verdicts = lesion_check.of("inputxgradient").verdicts
    assert verdicts["T2"].estimate.value > 0.6
    assert verdicts["T2"].word == "does not apply"
    assert "Maps of this kind are alike whatever the network sees" in verdicts["T2"].sentence
    assert lesion_check.of("inputxgradient").word == "passes"
