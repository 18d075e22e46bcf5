"""The benchmark measures what it says; its deterministic figures hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def cell(case: str, library: str) -> dict[str, float]:
    done = subprocess.run(  # noqa: S603  # our own script
        [sys.executable, FOLDER / "measure.py", case, library, "1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "library", "share"),
    [
        ("ResNet50 B=1, layer4", "captum", 0.1),
        ("nnU-Net 64³, last decoder stage", "captum", 0.1),
        ("nnU-Net 64³, bottleneck", "torchcam", 0.5),
    ],
)
def test_bytes_saved_beside_a_peers(case, library, share):
    ours, theirs = cell(case, "medcam"), cell(case, library)
    assert 0 <= ours["saved"] <= share * theirs["saved"]
    assert ours["ratio"] > 0
