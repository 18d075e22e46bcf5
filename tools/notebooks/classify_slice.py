# %% [markdown]
# # Classify a 2D slice
#
# Is there a lesion in this head slice, and which pixels does the network use? The network is small
# but trained. The slices are real ones of a held-out head. The lesions are inserted bright
# ellipses, so their masks are exact. Everything comes with the package.

# %%
# %matplotlib inline
import torch

import medcam
from medcam import demo

model = demo.load_lesion_classifier()
slices = demo.load_lesion_slices()
images, labels, masks = slices.images, slices.labels, slices.masks
list(images.shape), int(labels.sum())

# %% [markdown]
# ## Explain
#
# One call returns the prediction and the maps. Without a target, the predicted class of each slice
# is explained. The default `layer="auto"` takes the deepest features that still have spatial axes.

# %%
explanation = medcam.explain(model, images[1:2])
prediction = explanation.output.softmax(1)[0, 1]
print(f"lesion: {prediction:.2f}, truth: {labels[1]}")
print(explanation.map)

# %% [markdown]
# An explanation in the last line of a cell is displayed as a figure.

# %%
explanation

# %% [markdown]
# ## Several methods from one forward pass
#
# `montage` draws them side by side. The white contour is the lesion. Positive maps are scaled from
# 0. The scale of signed maps is symmetric about 0: red is evidence for the class, blue against it.

# %%
methods = ["gcam", "hirescam", "gbp"]
several = medcam.explain(model, images[1:2], target=1, method=methods)
medcam.montage(several, mask=masks[1:2])

# %% [markdown]
# Grad-CAM and HiResCAM are as coarse as their layer (16×16 here). Guided Backpropagation has the
# resolution of the input. But it changes little when the network's last layers are randomised:
# [check whether to trust a map](../how-to/trust.md).
#
# ## The other class
#
# What is the evidence for *no lesion*? Grad-CAM ends in a ReLU, so its map may be zero. HiResCAM
# keeps the sign. Evidence for one class is evidence against the other, though not by the same
# amount everywhere.

# %%
both = medcam.explain(model, images[1:2], target="all", method="hirescam")
medcam.montage(both, mask=masks[1:2])

# %% [markdown]
# ## Maps of all layers
#
# `layer="full"` makes a map of every layer that can have one.

# %%
depths = medcam.explain(model, images[1:2], target=1, method="hirescam", layer="full")
medcam.montage(depths, mask=masks[1:2])

# %% [markdown]
# ## Score
#
# Which share of the map is inside the lesion (`relevance_mass`)? For a random map, it is the
# lesion's share of the image. Is the maximum inside (`pointing_game`)? One call explains all slices
# with a lesion; each map depends on its own slice only.

# %%
import pandas as pd

present = labels == 1
scored = medcam.explain(model, images[present], target=1, method=["gcam", "ggcam", "gbp"])
rows = []
for (method, _), maps in scored.maps.items():
    for map_, mask in zip(maps.attention(), masks[present], strict=True):
        rows.append(
            {
                "method": method,
                "relevance_mass": medcam.compute_score(map_[0], mask[0], "relevance_mass"),
                "by chance": float(mask.float().mean()),
                "pointing_game": medcam.compute_score(map_[0], mask[0], "pointing_game"),
            }
        )
table = pd.DataFrame(rows).groupby("method", sort=False).mean()
assert (table["relevance_mass"] > 10 * table["by chance"]).all()
table.round(3)

# %% [markdown]
# A high score means that the map is where the lesion is. It does not mean that the network is right
# or certain.
#
# ## What does the network take for a lesion?
#
# The lesions are bright ellipses inside the brain. A map shows what one prediction depends on. What
# the network has *learnt* takes experiments: a slice without a lesion, the same slice with a bright
# square in its corner, and with a bright square in the brain.

# %%
healthy = images[2:3]
corner, brain = healthy.clone(), healthy.clone()
corner[..., 3:9, 3:9] = 4.0
brain[..., 30:36, 30:36] = 4.0
squares = torch.cat([healthy, corner, brain])
experiment = medcam.explain(model, squares, target=1, method="hirescam")
print([round(p, 2) for p in experiment.output.softmax(1)[:, 1].tolist()])
medcam.montage(experiment, sample=2)

# %% [markdown]
# Brightness alone is not enough, but any bright shape in the brain is classified as a lesion. The
# map of the square is as convincing as that of a lesion: a map does not show what the network has
# failed to learn.
#
# %% [markdown]
# ## Save
#
# `save` writes the raw values, pictures, a page for the browser, and last a record of how they were
# made.

# %%
written = explanation.save("out/slice", mask=masks[1:2])
[path.as_posix() for path in written]
