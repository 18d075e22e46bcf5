"""Fabricated nnU-Net folders, each made once, and nnU-Net's own predictions with them."""

from __future__ import annotations

import contextlib
import io
import os
import warnings

os.environ.setdefault("nnUNet_def_n_proc", "1")  # eight threads on two cores are slow

import pytest
import torch

from support.nnunet_toy import make_folder, make_image, oblique, write_case


@pytest.fixture(autouse=True)
def _nnunets_own_warnings():
    """Ignore the warnings of nnU-Net and the packages that it uses."""
    with warnings.catch_warnings():
        for module in ("nnunetv2", "batchgenerators", "acvl_utils", "torch", "skimage"):
            warnings.filterwarnings("ignore", module=module)
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Return a function that makes a trained folder, cached by its options."""
    made = {}

    def make(**options):
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = make_folder(tmp_path_factory.mktemp("trained") / "model", **options)
        return made[key]

    return make


@pytest.fixture(scope="session")
def case(tmp_path_factory):
    """Return the first file of a case: two channels, oblique, left-handed, an empty margin."""
    return write_case(tmp_path_factory.mktemp("case"), make_image(), oblique())


@pytest.fixture(scope="session")
def predicted_by_nnunet():
    """Return a function that writes the prediction of nnU-Net's own predictor."""

    def predict(folder, files, out, *, folds=(0, 1), tta=True, previous=None):
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

            predictor = nnUNetPredictor(
                use_mirroring=tta, perform_everything_on_device=False,
                device=torch.device("cpu"), allow_tqdm=False,
            )  # fmt: skip
            predictor.initialize_from_trained_model_folder(str(folder), folds)
            predictor.predict_from_files_sequential(
                [[str(file) for file in files]], [str(out)],
                folder_with_segs_from_prev_stage=None if previous is None else str(previous),
            )  # fmt: skip

    return predict
