# %% [markdown]
# # Whole-volume nnU-Net
#
# A trained nnU-Net v2 folder and an image in; a map on the voxels of the original image out. The windows are
# stitched exactly, and every step of nnU-Net's preprocessing is undone.
#
# **The network here is a toy.** [`toy_nnunet.py`](toy_nnunet.py) trains it for a few seconds on the one
# packaged head, at 4 mm, to find the brain in that same head. It has nnU-Net's architecture, plans and
# checkpoint, so all calls are those for your own folder; its maps teach nothing about brains.

# %%
# %matplotlib inline
import nibabel as nib
import numpy as np
import torch
import toy_nnunet

import medcam

torch.manual_seed(0)
folder = toy_nnunet.make_folder("nnUNetTrainer__nnUNetPlans__3d_fullres")
image = toy_nnunet.write_case("images")
sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))

# %% [markdown]
# ## Explain a case
#
# The folder is what `nnUNetv2_train` leaves in `nnUNet_results`. The label is named as in `dataset.json`.
# Mirroring (`tta`) is off to save time; with it, prediction and maps are the means over eight mirrorings.

# %%
model = medcam.nnunet.load(folder, tta=False)
result = medcam.nnunet.explain(model, [image], label="brain")
print(result.status, result.map.dtype, result.map.shape)
print(result.explanation.target)
print({key: result.explanation.details[key] for key in ("windows", "windows_explained", "roi")})

# %% [markdown]
# Windows that hold no voxel of the label contribute exactly zero and are skipped. nnU-Net's own segmentation
# is there, too: it is `nnUNetv2_predict`'s, voxel by voxel.

# %%
from medcam import demo

truth = demo.load_head().mask
found = result.segmentation == 1
dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
print(f"Dice on the head that it was trained on: {dice:.2f}")

# %%
scan = nib.load(image)
anatomy = scan.get_fdata(dtype=np.float32)
medcam.montage(result.map, anatomy, affine=result.affine, mask=found, slices=5)

# %% [markdown]
# The map is of the bottleneck, whose cells are 16 mm wide here; hence its blur. The white line is the
# segmentation.
#
# ## One structure, one voxel
#
# `target=` says what is explained: `"predicted"` (all voxels of the label), `"component"`, a mask file, or a
# point. Methods of the input, such as `saliency`, are at the network's full resolution, and say how far it
# looked.

# %%
point = medcam.nnunet.explain(
    model, [image], label="brain", target="mm 0,-20,60", method="saliency"
)
seen = np.argwhere(point.map > 0.05 * point.map.max())
extent = (seen.max(0) - seen.min(0) + 1) * nib.affines.voxel_sizes(point.affine)
print(f"looked at {' × '.join(f'{length:.0f}' for length in extent)} mm around the point")
medcam.montage(point.map, anatomy, affine=point.affine, plane="sagittal", slices=3)

# %% [markdown]
# ## Save
#
# The map has the grid and the affine of the image file, in raw float32 values.

# %%
written = result.save("out/head")
again = nib.load(written[0])
assert np.array_equal(again.affine, scan.affine)
assert np.array_equal(again.get_fdata(dtype=np.float32), result.map)
[path.as_posix() for path in written]

# %% [markdown]
# ## On the command line
#
# ```bash
# medcam nnunet explain -m nnUNetTrainer__nnUNetPlans__3d_fullres -i images -o out --label brain --report
# ```
#
# Folds, mirroring, regions, cascades and more: [nnU-Net](../nnunet.md).
