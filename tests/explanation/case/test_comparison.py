"""`Explanation.compare`: maps made again in Python, beside those of a saved case."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import medcam
from medcam.errors import InputError
from medcam.explanation.case.comparison import differences
from medcam.files import save_nifti
from support.nets import Classifier, image


def edited(path, edit):
    record = json.loads(Path(path).read_text())
    edit(record)
    Path(path).write_text(json.dumps(record))


@pytest.mark.filterwarnings("ignore:The map is saved without its image's geometry")
@pytest.mark.parametrize("dims", [2, 3])
def test_every_map_of_every_sample(tmp_path, dims):
    net, x = Classifier(dims).eval(), image(dims, 2)
    options = {"method": ["gcam", "gbp"], "layer": ["features.0", "features"], "target": "all"}
    medcam.explain(net, x, **options).save(tmp_path / "case", report=False, montage=False)
    again = medcam.explain(net, x, **options)
    for sample in (0, 1):
        compared = again.compare(tmp_path / f"case_{sample}.json")
        assert len(compared) == 9
        assert all(item.same and item.difference == 0 for item in compared)
        assert len({item.recorded for item in compared}) == 9
    # The same input in another batch: the maps may differ in rounding, not in what they show.
    alone = medcam.explain(net, x[:1], **options)
    assert all(item.correlation > 0.99 for item in alone.compare(tmp_path / "case_0.json"))
    with pytest.raises(InputError, match=r"is of sample 1; there are 1, counted from 0"):
        alone.compare(tmp_path / "case_1.json")


def test_maps_in_another_order_are_found_by_method_layer_and_target(tmp_path):
    net, x = Classifier().eval(), image(2, 1)
    medcam.explain(net, x, method=["gcam", "hirescam"], layer="features").save(tmp_path / "case")
    again = medcam.explain(net, x, method=["hirescam", "gcam"], layer="features")
    assert [item.same for item in again.compare(tmp_path / "case.json")] == [True, True]
    (first, second) = medcam.explain(net, x, method="gcam", layer="features").compare(
        tmp_path / "case.json"
    )
    assert first.same
    assert (second.method, second.current, second.difference) == ("hirescam", None, None)
    assert not second.same


def test_another_layer_is_compared_and_differs(tmp_path):
    net, x = Classifier().eval(), image(2, 1)
    medcam.explain(net, x, layer="features.0", target=1).save(tmp_path / "case")
    other = medcam.explain(net, x, layer="features.3", target=1)
    (item,) = other.compare(tmp_path / "case.json")
    expected = medcam.explain(net, x, layer="features.0", target=1).map.values
    largest = (expected - other.map.values).abs().max()
    assert not item.same
    assert item.layer == "features.0"
    assert item.difference == pytest.approx(float(largest))
    assert item.relative == pytest.approx(float(largest / expected.abs().max()))


def test_maps_on_an_image_of_a_file(tmp_path):
    net, x = Classifier(3).eval(), image(3, 1)
    path = save_nifti(tmp_path / "t1.nii.gz", x[0, 0], np.diag([1.0, 2, 3, 1]))
    medcam.explain(net, x).save(tmp_path / "out" / "case", image=path, report=False)
    again = medcam.explain(net, x)
    assert all(item.same for item in again.compare(tmp_path / "out" / "case.json", image=path))


class TwoImages(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = Classifier()

    def forward(self, mr, ct):
        return self.net(mr) + 2 * self.net(ct)


def test_several_images_have_a_record_each(tmp_path):
    net, mr, ct = TwoImages().eval(), image(2, 1), image(2, 1).flip(2)[:, :, 2:]
    options = {"layer": "net.features.0", "target": 1}
    medcam.explain(net, mr, ct, **options).save(tmp_path / "case")
    again = medcam.explain(net, mr, ct, **options)
    digests = set()
    for name in ("mr", "ct"):
        compared = again.compare(tmp_path / f"case_{name}.json")
        assert compared
        assert all(item.same for item in compared)
        digests |= {item.recorded for item in compared}
    assert len(digests) == 2


def test_half_precision_is_compared_with_what_was_saved(tmp_path):
    net, x = Classifier().eval().bfloat16(), image(2, 1).bfloat16()
    medcam.explain(net, x, layer="features.0").save(tmp_path / "case", image=x.float())
    again = medcam.explain(net, x, layer="features.0")
    (item,) = again.compare(tmp_path / "case.json", image=x.float())
    assert item.same
    record = json.loads((tmp_path / "case.json").read_text())
    assert record["environment"]["dtype"] == "bfloat16"


def test_a_changed_file_is_noticed_for_every_dtype(tmp_path):
    net, x = Classifier().eval().double(), image(2, 1).double()
    medcam.explain(net, x, layer="features.0").save(tmp_path / "case")
    again = medcam.explain(net, x, layer="features.0")
    (item,) = again.compare(tmp_path / "case.json")
    assert item.same
    other = medcam.explain(net, x, layer="features.3")
    other.save(tmp_path / "other")
    (tmp_path / "other_gcam.tif").replace(tmp_path / "case_gcam.tif")
    (item,) = again.compare(tmp_path / "case.json")
    assert item.recorded == item.current
    assert item.problem == "no longer holds the map of the record"
    assert not item.same


def test_records_without_hashes_and_damaged_ones(tmp_path):
    net, x = Classifier().eval(), image(2, 1)
    explanation = medcam.explain(net, x)
    path = explanation.save(tmp_path / "case")[-1]
    edited(path, lambda record: record["maps"][0].pop("sha256"))
    with pytest.raises(InputError, match=r"holds no hashes of its maps: .* Save the case again"):
        explanation.compare(path)
    for value in (3, [], [3], [{"sample": "x"}], [{"sample": None}], None):
        edited(path, lambda record, value=value: record.update(maps=value))
        with pytest.raises(InputError, match=r"case.json' (is damaged|holds no hashes)"):
            explanation.compare(path)


def test_figures_of_constant_and_of_large_maps():
    zeros, ones = np.zeros((3, 4), np.float32), np.ones((3, 4), np.float32)
    assert differences(zeros, zeros) == {"difference": 0, "relative": None, "correlation": None}
    assert differences(zeros, ones) == {"difference": 1, "relative": None, "correlation": None}
    assert differences(2 * ones, ones) == {"difference": 1, "relative": 0.5, "correlation": None}
    large = np.random.default_rng(0).random((3, 1 << 20), np.float32)
    figures = differences(large, 1 - large)
    assert figures["correlation"] == pytest.approx(-1, abs=1e-6)


def test_a_page_names_no_places_of_the_machine(tmp_path):
    """The record does, to find the files again; a page is given to others."""
    recipe = {"files": {"image": [{"absolute": "/home/somebody/secret.nii"}]}}
    net = Classifier().eval()
    explanation = medcam.explain(net, image(2, 1))
    explanation.save(tmp_path / "case", extra={"recipe": recipe})
    assert "/home/somebody" in (tmp_path / "case.json").read_text()
    assert "/home/somebody" not in (tmp_path / "case.html").read_text()
