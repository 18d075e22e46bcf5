# %% [markdown]
# # Segment a 3D head
#
# A trained 3D U-Net finds the brain in a T1 scan of a head. Where does it look? Scan, mask and network
# come with the package. On two CPU cores the notebook takes about half a minute.

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
# `inject` gives a model that works as before and makes maps beside. Here it also saves them, in the place of
# the scan, and scores them against the brain's mask.

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

found = logits > 0
dice = 2 * (found & mask).sum() / (found.sum() + mask.sum())
print(f"Dice of the prediction: {dice:.3f}")

# %% [markdown]
# The scores are in `attention_maps/scores.xlsx`. `chance` is what a map that looks everywhere alike would
# have: the brain's share of the volume.

# %%
import pandas as pd

pd.read_excel("attention_maps/scores.xlsx").iloc[:, :8]

# %% [markdown]
# ## Ask once
#
# Without files: `explain`. Nothing was said about the target, so it is the mean logit of all voxels
# predicted as brain. Several layers share one forward pass.

# %%
explanation = medcam.explain(model, head.image, layer=["encoder3", "decoder3"])
print(explanation.maps["decoder3"])

# %%
medcam.montage(explanation, mask=mask, affine=head.network_affine, slices=5)

# %% [markdown]
# The two layers answer differently. The encoder's map is smooth. The decoder's has the checkerboard of the
# network's transposed convolutions. Neither outlines the brain: parts without colour are segmented right all
# the same, since Grad-CAM at one layer is one view of the network. [Choose a layer](../how-to/layer.md).
#
# ## One voxel
#
# The map of everything looks like everything. How far does the network look to decide about *one* voxel at
# the border of the brain? `saliency` is the size of the gradient at each input voxel.

# %%
inside = found[0, 0, 64, 64].nonzero()[:, 0]
place = (64, 64, int(inside.max()))  # the uppermost brain voxel of this column
point = medcam.explain(model, head.image, target=medcam.targets.voxel(place, 1), method="saliency")
reach = point.map.values[0, 0].nonzero()
low, high = reach.min(0).values.tolist(), reach.max(0).values.tolist()
print(f"voxel {place} depends on voxels {low} to {high}")

# %%
medcam.montage(point, affine=head.network_affine, plane="sagittal", slices=[place[0]])

# %% [markdown]
# ## Look at it
#
# As the last line of a cell an explanation draws itself. `explanation.show()` opens the full report in a
# browser tab: three linked planes, window, opacity and threshold, the positions in mm.

# %%
point

# %% [markdown]
# ## Save
#
# The raw map as float32 NIfTI in the place of the scan, a montage, the report, and a record.

# %%
from medcam.files import Image

scan = Image(head.image[0].numpy(), head.network_affine)
written = point.save("out/head", image=scan)
[path.as_posix() for path in written]

# %% [markdown]
# ## A volume in the notebook
#
# With `pip install 'm3d-cam[jupyter]'` there is ipyniivue, which draws volumes by WebGL. It is alive only
# while the notebook runs, so nothing of it is stored here.

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
