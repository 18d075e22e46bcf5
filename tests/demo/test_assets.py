"""Packaged scans and networks: affines, masks, and scores on held-out data."""

from __future__ import annotations

from importlib.resources import files

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medcam import demo
from medcam.demo import assets, networks


@pytest.fixture(scope="module")
def head() -> demo.Head:
    return demo.load_head()


def parameters(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


@torch.no_grad()
def dice(net: nn.Module, head: demo.Head) -> float:
    """Return the Dice coefficient on the scan's grid: the logits are resampled, not the mask."""
    logits = F.interpolate(net(head.image), head.volume.shape, mode="trilinear")[0, 0]
    brain = logits.numpy() > 0
    return 2 * (brain & head.mask).sum() / (brain.sum() + head.mask.sum())


def test_public_names() -> None:
    assert sorted([*assets.__all__, *networks.__all__]) == demo.__all__


# --- the head and the brain segmenter ---


def test_segmenter_finds_the_brain(head: demo.Head) -> None:
    net = demo.load_brain_segmenter()
    assert parameters(net) == 171_465
    assert not net.training
    assert dice(net, head) >= 0.95


@pytest.mark.parametrize("seed", [0, 1])
def test_random_weights_do_not_find_the_brain(head: demo.Head, seed: int) -> None:
    # Untrained networks predict brain almost everywhere or almost nowhere. Brain everywhere has a
    # Dice coefficient of 0.42.
    torch.manual_seed(seed)
    assert dice(demo.BrainUNet().eval(), head) < 0.45


def test_segmenter_takes_sides_that_do_not_halve_evenly() -> None:
    net = demo.load_brain_segmenter()
    assert net(torch.rand(2, 1, 9, 14, 23)).shape == (2, 1, 9, 14, 23)


def test_upsampling_crops_as_tensorflow_does() -> None:
    # TensorFlow defines conv3d_transpose(padding="SAME") as the gradient of a stride-2 convolution.
    # Its padding is one zero at the far end, for an even length and kernel size 3.
    decoder = demo.load_brain_segmenter().decoder1
    x = torch.rand(1, 16, 3, 4, 5)
    fine = torch.zeros(1, 8, 6, 8, 10, requires_grad=True)
    coarse = F.conv3d(F.pad(fine, (0, 1) * 3), decoder.up.weight, stride=2)
    (expected,) = torch.autograd.grad(coarse, fine, x)
    inputs: list[Tensor] = []
    handle = decoder.conv.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    decoder(x, torch.zeros_like(fine))
    handle.remove()
    torch.testing.assert_close(inputs[0][:, :8], expected)


def test_head_is_what_other_readers_find(head: demo.Head) -> None:
    scan, mask = SimpleITK.ReadImage(str(head.path)), SimpleITK.ReadImage(str(head.mask_path))
    assert scan.GetPixelID() == SimpleITK.sitkInt16
    assert mask.GetPixelID() == SimpleITK.sitkUInt8
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(scan).T, head.volume)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(mask).T, head.mask)
    index = (10, 20, 30)
    lps = np.array([-1, -1, 1])
    for image in (scan, mask):
        position = np.array(image.TransformIndexToPhysicalPoint(index)) * lps
        np.testing.assert_allclose(position, nib.affines.apply_affine(head.affine, index))


def test_image_is_what_the_segmenter_was_trained_on(head: demo.Head) -> None:
    assert head.image.shape == (1, 1, 128, 128, 128)
    assert head.image.dtype == torch.float32
    assert head.image.min() == 0
    assert head.image.max() == 1


def test_network_grid_covers_the_same_millimetres(head: demo.Head) -> None:
    # the outer corners of the first and the last voxel, in the indices of each grid
    for share, corner in ((0.0, -0.5), (1.0, -0.5)):
        network_index = np.full(3, corner) + share * np.array(head.image.shape[2:])
        stored_index = np.full(3, corner) + share * np.array(head.volume.shape)
        np.testing.assert_allclose(
            nib.affines.apply_affine(head.network_affine, network_index),
            nib.affines.apply_affine(head.affine, stored_index),
        )


def test_network_voxels_lie_where_their_values_come_from(head: demo.Head) -> None:
    # Resampling a volume of coordinates in mm gives the coordinates of the network's voxels.
    indices = np.stack(np.indices(head.volume.shape), axis=-1)
    mm = torch.from_numpy(nib.affines.apply_affine(head.affine, indices)).permute(3, 0, 1, 2)
    resampled = F.interpolate(mm[None], head.image.shape[2:], mode="trilinear")[0]
    network_indices = np.stack(np.indices(head.image.shape[2:]), axis=-1)
    expected = nib.affines.apply_affine(head.network_affine, network_indices)
    inside = np.s_[2:-2, 2:-2, 2:-2]  # beyond the outermost centres nothing can be interpolated
    np.testing.assert_allclose(resampled.permute(1, 2, 3, 0).numpy()[inside], expected[inside])


def test_network_mask_lies_on_the_same_brain(head: demo.Head) -> None:
    mask = demo.brain_mask_for_network(head)
    assert mask.dtype == torch.bool
    assert mask.shape == head.image.shape

    def centre(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
        return nib.affines.apply_affine(affine, np.argwhere(mask).mean(axis=0))

    ours = centre(mask[0, 0].numpy(), head.network_affine)
    np.testing.assert_allclose(ours, centre(head.mask, head.affine), atol=0.1)
    millilitres = abs(np.linalg.det(head.network_affine[:3, :3])) * mask.sum() / 1000
    assert millilitres == pytest.approx(head.mask.sum() * 8 / 1000, rel=0.005)


# --- the lesion slices and their classifier ---


def test_slices_are_labelled_by_their_masks() -> None:
    slices = demo.load_lesion_slices()
    assert slices.images.shape == slices.masks.shape == (32, 1, 64, 64)
    assert (slices.images.dtype, slices.masks.dtype) == (torch.float32, torch.bool)
    assert slices.labels.dtype == torch.int64
    assert torch.equal(slices.masks.flatten(1).any(dim=1), slices.labels == 1)
    assert slices.labels.sum() == 16


def test_lesions_are_brighter_than_what_surrounds_them() -> None:
    slices = demo.load_lesion_slices()
    ring = F.max_pool2d(slices.masks.float(), kernel_size=7, stride=1, padding=3).bool()
    for image, mask, around in zip(slices.images, slices.masks, ring, strict=True):
        if mask.any():
            assert image[mask].mean() > 1.2 * image[around & ~mask].mean()


@torch.no_grad()
def test_classifier_is_right_on_a_head_it_never_saw() -> None:
    slices = demo.load_lesion_slices()
    net = demo.load_lesion_classifier()
    assert not net.training
    right = net(slices.images).argmax(dim=1) == slices.labels
    assert right.float().mean() >= 0.85
    torch.manual_seed(0)
    untrained = demo.LesionNet()(slices.images).argmax(dim=1) == slices.labels
    assert untrained.float().mean() < 0.7


@torch.no_grad()
def test_classifier_needs_the_lesion() -> None:
    slices = demo.load_lesion_slices()
    net = demo.load_lesion_classifier()
    present = slices.labels == 1
    images, masks = slices.images[present], slices.masks[present]
    # replace the lesion and its soft edge by the mean grey level around it
    wide = F.max_pool2d(masks.float(), kernel_size=5, stride=1, padding=2).bool()
    ring = F.max_pool2d(masks.float(), kernel_size=9, stride=1, padding=4).bool() & ~wide
    level = (images * ring).sum(dim=(2, 3)) / ring.sum(dim=(2, 3))
    without = torch.where(wide, level[:, :, None, None], images)
    changed = (net(images).argmax(dim=1) == 1) & (net(without).argmax(dim=1) == 0)
    assert changed.float().mean() >= 0.85


# --- the nuclei and their segmenter ---


def test_nuclei_are_numbered_one_by_one() -> None:
    nuclei = demo.load_nuclei()
    assert nuclei.images.shape == nuclei.instances.shape == (8, 1, 128, 128)
    assert (nuclei.images.dtype, nuclei.masks.dtype) == (torch.float32, torch.bool)
    assert torch.equal(nuclei.masks, nuclei.instances > 0)
    assert len(nuclei.instances.unique()) == 1 + 67
    assert nuclei.masks.float().mean() == pytest.approx(0.214, abs=0.001)


def test_tiles_of_nuclei_are_two_rows_of_four() -> None:
    tiles = demo.load_nuclei().instances[:, 0].unflatten(0, (2, 4))
    beside = (tiles[:, :-1, :, -1], tiles[:, 1:, :, 0])
    below = (tiles[0, :, -1, :], tiles[1, :, 0, :])
    for end, start in (beside, below):
        # a nucleus across the border of two tiles has the same number in both
        both = (end > 0) & (start > 0)
        assert both.sum() > 40
        assert (end == start)[both].float().mean() > 0.9


@torch.no_grad()
def test_nuclei_segmenter_finds_nuclei_it_never_saw() -> None:
    nuclei, net = demo.load_nuclei(), demo.load_nuclei_segmenter()
    assert parameters(net) == 96_913
    assert not net.training

    def overlap(net: nn.Module) -> float:
        predicted = net(nuclei.images) > 0
        return float(2 * (predicted & nuclei.masks).sum() / (predicted.sum() + nuclei.masks.sum()))

    assert overlap(net) >= 0.93
    torch.manual_seed(0)
    assert overlap(demo.NucleiUNet().eval()) < 0.5


@torch.no_grad()
def test_nuclei_segmenter_misses_hardly_any_nucleus() -> None:
    nuclei, net = demo.load_nuclei(), demo.load_nuclei_segmenter()
    predicted = net(nuclei.images) > 0
    numbers = nuclei.instances.unique()[1:]
    shares = [predicted[nuclei.instances == number].float().mean() for number in numbers]
    assert np.mean([share > 0.5 for share in shares]) >= 0.95


def test_nuclei_are_brighter_than_what_surrounds_them() -> None:
    nuclei = demo.load_nuclei()
    near = F.max_pool2d(nuclei.masks.float(), kernel_size=5, stride=1, padding=2).bool()
    assert nuclei.images[nuclei.masks].median() > 2 * nuclei.images[~near].median()
    assert nuclei.images[nuclei.masks].median() == pytest.approx(0.9, abs=0.2)


# --- the files ---


def test_licences_name_every_file() -> None:
    folder = files("medcam.demo") / "data"
    licences = (folder / "LICENSES.md").read_text(encoding="utf-8")
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 10
    for name in names:
        assert f"| `{name}` |" in licences


def test_files_are_a_few_megabytes() -> None:
    folder = files("medcam.demo") / "data"
    assert len((folder / "nuclei_segmenter.pt").read_bytes()) < 5e5
    lungs = [len((folder / name).read_bytes()) for name in ("lungs.npz", "lung_segmenter.pt")]
    assert sum(lungs) < 4e5
    assert sum(len(path.read_bytes()) for path in folder.iterdir()) < 5e6
