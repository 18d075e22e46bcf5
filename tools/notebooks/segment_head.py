# %% [markdown]
# # Segment a 3D head
#
# A trained 3D U-Net segments the brain in a T1 scan of a head. Which voxels does it use? Scan, mask
# and network come with the package. The notebook takes about half a minute on two CPU cores.

# %%
# %matplotlib inline
import medcam
from medcam import demo

model = demo.load_brain_segmenter()
head = demo.load_head()
mask = demo.brain_mask_for_network(head)
list(head.image.shape)

# %% [markdown]
# ## The one line
#
# `inject` returns a model that predicts as before and also makes maps. Here it saves them with the
# affine of the scan, and scores them against the brain mask.

# %%
injected = medcam.inject(
    model,
    output_dir="attention_maps",
    layer="decoder3",
    save_maps=True,
    save_scores=True,
    metric="relevance_mass",
    reference=head.network_affine,
)
logits = injected(head.image, mask)
injected.dump()

predicted = logits > 0
dice = 2 * (predicted & mask).sum() / (predicted.sum() + mask.sum())
print(f"Dice of the prediction: {dice:.3f}")

# %% [markdown]
# The scores are in `attention_maps/scores.xlsx`. `chance` is the score of a constant map, which is
# the brain's share of the volume.

# %%
import pandas as pd

pd.read_excel("attention_maps/scores.xlsx").iloc[:, :8]

# %% [markdown]
# ## Explain without files
#
# `explain` returns the maps. Without a target, it explains the mean logit of all voxels predicted as
# brain. Several layers share one forward pass.

# %%
explanation = medcam.explain(model, head.image, layer=["decoder3", "decoder2"])
print(explanation.maps["decoder3"])

# %%
medcam.montage(explanation, mask=mask, affine=head.network_affine, slices=5)

# %% [markdown]
# The maps of the two layers differ. The encoder's map is smooth. The decoder's map has the
# checkerboard pattern of the network's transposed convolutions. Neither outlines the brain: parts
# without colour are segmented correctly, too. Grad-CAM of one layer shows only part of what the
# network uses. See [Choose a layer](../how-to/layer.md).
#
# ## One voxel
#
# A map of all brain voxels covers the whole brain. How large is the region that decides about *one*
# voxel at the border of the brain? `saliency` is the magnitude of the gradient at each input voxel.

# %%
column = predicted[0, 0, 64, 64].nonzero()[:, 0]
index = (64, 64, int(column.max()))  # the uppermost brain voxel of this column
point = medcam.explain(model, head.image, target=medcam.targets.voxel(index, 1), method="saliency")
used = point.map.values[0, 0].nonzero()
low, high = used.min(0).values.tolist(), used.max(0).values.tolist()
print(f"voxel {index} depends on voxels {low} to {high}")

# %%
medcam.montage(point, affine=head.network_affine, plane="sagittal", slices=[index[0]])

# %% [markdown]
# ## View the map
#
# An explanation in the last line of a cell is displayed as a figure. `explanation.show()` opens the
# full report in a browser tab: three linked planes, window, opacity and threshold, positions in mm.

# %%
point

# %% [markdown]
# ## Save
#
# `save` writes the raw map as float32 NIfTI with the affine of the scan, a montage, the report and a
# record.

# %%
from medcam.files import Image

scan = Image(head.image[0].numpy(), head.network_affine)
written = point.save("out/head", image=scan)
[path.as_posix() for path in written]

# %% [markdown]
# ## A volume in the notebook
#
# `pip install 'm3d-cam[jupyter]'` installs ipyniivue, which draws volumes with WebGL. The viewer
# needs a running kernel, so this page does not show it.

# %%
from importlib.util import find_spec

if find_spec("ipyniivue"):
    from ipyniivue import NiiVue
    from IPython.display import display

    viewer = NiiVue()
    viewer.load_volumes(
        [
            {"path": str(head.path)},
            {"path": "out/head_saliency.nii.gz", "colormap": "inferno", "opacity": 0.6},
        ]
    )
    display(viewer)
