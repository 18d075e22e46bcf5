"""A damaged nnU-Net folder is a model or an error of ours: 300 seeded mutations."""

from __future__ import annotations

import contextlib
import io
import os

os.environ.setdefault("nnUNet_def_n_proc", "1")

import shutil

import pytest

import medcam
from support.mutations import failures_of
from support.nnunet_toy import make_folder, make_image, oblique, write_case

pytestmark = pytest.mark.slow

PARTS = {
    "plans.json": "plans.json",
    "dataset.json": "dataset.json",
    "checkpoint.pth": "fold_0/checkpoint_final.pth",
}


def explain_with(path):
    """Explain a case with a folder of which one part is the given file."""
    folder = path.parent / "model"
    part = next(place for name, place in PARTS.items() if path.name.endswith(name))
    kept = (folder / part).read_bytes()
    try:
        shutil.copy(path, folder / part)
        with contextlib.redirect_stderr(io.StringIO()):
            medcam.nnunet.explain(folder, path.parent / "case_0000.nii.gz", "PZ", tta=False)
    finally:
        (folder / part).write_bytes(kept)


def test_damaged_folders(tmp_path):
    folder = make_folder(tmp_path / "model", folds=(0,), features=(2, 3, 4))
    write_case(tmp_path, make_image(), oblique())
    files = {name: (folder / place).read_bytes() for name, place in PARTS.items()}
    failures = failures_of(explain_with, files, tmp_path, range(300))
    assert not failures, "\n".join(failures)
