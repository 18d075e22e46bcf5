# %% [markdown]
# # Whole-volume nnU-Net
#
# The input is a trained nnU-Net v2 folder and an image. The output is a map on the voxels of the
# original image. The windows are stitched exactly, and every step of nnU-Net's preprocessing is
# undone.
#
# **The network here is a toy.** [`toy_nnunet.py`](toy_nnunet.py) trains it for a few seconds on the
# one packaged head, at 4 mm, to segment the brain in that same head. It has nnU-Net's architecture,
# plans and checkpoint, so the calls are the same for your own folder. But its maps say nothing
# about brains.

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
# The folder is the one that `nnUNetv2_train` writes to `nnUNet_results`. The label is a name of
# `dataset.json`. Mirroring (`tta`) is off to save time. With it, prediction and maps are means over
# eight mirrorings.

# %%
model = medcam.nnunet.load(folder, tta=False)
result = medcam.nnunet.explain(model, [image], label="brain", layer="bottleneck", method="gcam")
print(result.status, result.map.dtype, result.map.shape)
print(result.explanation.target)
print({key: result.explanation.details[key] for key in ("windows", "windows_explained", "roi")})

# %% [markdown]
# Windows without a voxel of the label contribute exactly zero, so they are skipped.
# `result.segmentation` is the segmentation of `nnUNetv2_predict`, voxel by voxel.

# %%
from medcam import demo

truth = demo.load_head().mask
predicted = result.segmentation == 1
dice = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
print(f"Dice on the training head: {dice:.2f}")

# %%
scan = nib.load(image)
anatomy = scan.get_fdata(dtype=np.float32)
medcam.montage(result.map, anatomy, affine=result.affine, mask=predicted, slices=5)

# %% [markdown]
# The map is that of the bottleneck, whose cells are 16 mm wide here, so it is blurred. The white
# contour is the segmentation.
#
# ## One structure, one voxel
#
# `target=` selects what is explained: `"predicted"` (all voxels of the label), `"component"`, a mask
# file, or a point. Methods of the input, such as `saliency`, have the network's full resolution.
# They show the receptive field of the target.

# %%
point = medcam.nnunet.explain(
    model, [image], label="brain", target="mm 0,-20,60", method="saliency"
)
indices = np.argwhere(point.map > 0.05 * point.map.max())
extent = (indices.max(0) - indices.min(0) + 1) * nib.affines.voxel_sizes(point.affine)
print(f"extent around the point: {' × '.join(f'{length:.0f}' for length in extent)} mm")
medcam.montage(point.map, anatomy, affine=point.affine, plane="sagittal", slices=3)

# %% [markdown]
# ## Save
#
# The saved map has the grid and the affine of the image file. Its values are raw, in float32.

# %%
written = result.save("out/head")
saved = nib.load(written[0])
assert np.array_equal(saved.affine, scan.affine)
assert np.array_equal(saved.get_fdata(dtype=np.float32), result.map)
[path.as_posix() for path in written]

# %% [markdown]
# ## On the command line
#
# ```bash
# medcam nnunet explain -m nnUNetTrainer__nnUNetPlans__3d_fullres -i images -o out --label brain --report
# ```
#
# For folds, mirroring, regions and cascades, see [nnU-Net](../nnunet.md).
