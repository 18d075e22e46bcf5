"""An explanation holds its input without a copy, and its model by a weak reference."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch

import medcam
from medcam.errors import MedcamWarning
from medcam.files.record.sidecar import read_sidecar
from support.nets import Classifier, image


def test_the_input_is_the_callers_own():
    inputs = image(2, 2)
    explanation = medcam.explain(Classifier().eval(), inputs, method=["gcam", "gbp"])
    assert explanation.inputs is inputs
    assert medcam.explain(Classifier().eval(), x := image(2)).inputs is x


def test_of_several_inputs_it_is_the_one_that_the_maps_lie_on():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Classifier()

        def forward(self, clinical, picture):
            return self.net(picture) + clinical.sum()

    picture = image()
    explanation = medcam.explain(Two().eval(), torch.rand(2, 3), picture)
    assert explanation.inputs is picture


def test_the_model_is_known_as_long_as_it_lives():
    net = Classifier().eval()
    explanation = medcam.explain(net, image())
    assert explanation.model is net
    assert medcam.explain(torch.nn.DataParallel(net), image()).model is net
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None
    assert explanation.model is None


def test_an_explanation_is_copied_and_pickled_without_its_model():
    net = Classifier().eval()
    explanation = medcam.explain(net, image())
    assert copy.deepcopy(explanation).model is net
    assert copy.copy(explanation).model is net
    assert b"support" not in pickle.dumps(explanation).replace(b"support.nets.Classifier", b"")
    file = io.BytesIO()
    torch.save(explanation, file)
    file.seek(0)
    for loaded in (
        pickle.loads(pickle.dumps(explanation)),
        torch.load(file, weights_only=False),
    ):
        assert loaded.model is None
        assert torch.equal(loaded.inputs, explanation.inputs)
        assert torch.equal(loaded.map.values, explanation.map.values)


def test_an_injected_model_does_not_hold_its_input():
    model = medcam.inject(Classifier().eval())
    inputs = image()
    gone = weakref.ref(inputs)
    model(inputs)
    del inputs
    gc.collect()
    assert gone() is None
    assert model.get_explanation().inputs is None
    assert model.get_explanation().model is not None


def test_the_record_of_a_deleted_model_names_its_class(tmp_path):
    explanation = medcam.explain(Classifier().eval(), image(2, 1))
    gc.collect()
    with pytest.warns(MedcamWarning, match="the model no longer exists"):
        files = explanation.save(tmp_path / "c", montage=False, report=False)
    assert read_sidecar(files[-1])["model"] == {
        "class": "support.nets.Classifier", "state_sha256": None,
    }  # fmt: skip
    net = Classifier().eval()
    files = explanation.save(tmp_path / "c", model=net, montage=False, report=False)
    digest = medcam.files.record.digests.sha256_of_model(net)
    assert read_sidecar(files[-1])["model"]["state_sha256"] == digest
