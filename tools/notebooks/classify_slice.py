# %% [markdown]
# # Classify a 2D slice
#
# Does this head slice hold a lesion, and where did the network look? The network is small but really
# trained. The slices are real, of a head it never saw; the lesions are bright ellipses that were inserted, so
# their masks are exact. Everything comes with the package.

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
# One call: the prediction and the maps. With no target given, the predicted class of each slice is
# explained, and `layer="auto"` takes the deepest features that are still spatial.

# %%
explanation = medcam.explain(model, images[1:2])
prediction = explanation.output.softmax(1)[0, 1]
print(f"lesion: {prediction:.2f}, truth: {labels[1]}")
print(explanation.map)

# %% [markdown]
# As the last line of a cell, an explanation draws itself.

# %%
explanation

# %% [markdown]
# ## Several methods from one forward pass
#
# `montage` draws them beside each other. The white line is the lesion. Positive maps are scaled from 0;
# signed ones are symmetric about 0: red speaks for the class, blue against it.

# %%
methods = ["gcam", "hirescam", "gbp"]
several = medcam.explain(model, images[1:2], target=1, method=methods)
medcam.montage(several, mask=masks[1:2])

# %% [markdown]
# Grad-CAM and HiResCAM are as coarse as their layer (16×16 here). Guided Backpropagation is fine. But it
# changes little when the network's last layers are made random:
# [check whether to trust a map](../how-to/trust.md).
#
# ## The other class
#
# What speaks for *no lesion*? Grad-CAM ends in a ReLU and may find nothing; HiResCAM keeps the sign. What
# speaks for one class speaks against the other, though not by the same amount everywhere.

# %%
both = medcam.explain(model, images[1:2], target="all", method="hirescam")
medcam.montage(both, mask=masks[1:2])

# %% [markdown]
# ## Which depth looks where
#
# `layer="full"` makes a map of every layer that has one.

# %%
depths = medcam.explain(model, images[1:2], target=1, method="hirescam", layer="full")
medcam.montage(depths, mask=masks[1:2])

# %% [markdown]
# ## Score
#
# How much of the map lies inside the lesion (`relevance_mass`)? By chance it would be the lesion's share of
# the image. And is the maximum inside (`pointing_game`)? All slices with a lesion at once, each by itself.

# %%
import pandas as pd

sick = labels == 1
maps = medcam.explain(model, images[sick], target=1, method=["gcam", "ggcam", "gbp"])
rows = []
for (method, _), found in maps.maps.items():
    for one, mask in zip(found.attention(), masks[sick], strict=True):
        rows.append(
            {
                "method": method,
                "relevance_mass": medcam.compute_score(one[0], mask[0], "relevance_mass"),
                "by chance": float(mask.float().mean()),
                "pointing_game": medcam.compute_score(one[0], mask[0], "pointing_game"),
            }
        )
table = pd.DataFrame(rows).groupby("method", sort=False).mean()
assert (table["relevance_mass"] > 10 * table["by chance"]).all()
table.round(3)

# %% [markdown]
# A high score says that the map is where the lesion is. It does not say that the network is right, nor how
# sure it is.
#
# ## What is a lesion to the network?
#
# The lesions are bright ellipses inside the brain. A map shows what one prediction depends on; what the
# network has *learnt* has to be tried. A slice without a lesion, a bright square in its corner, and one in the
# brain:

# %%
healthy = images[2:3]
corner, brain = healthy.clone(), healthy.clone()
corner[..., 3:9, 3:9] = 4.0
brain[..., 30:36, 30:36] = 4.0
tried = torch.cat([healthy, corner, brain])
trial = medcam.explain(model, tried, target=1, method="hirescam")
print([round(p, 2) for p in trial.output.softmax(1)[:, 1].tolist()])
medcam.montage(trial, sample=2)

# %% [markdown]
# Brightness alone is not enough, but a bright thing in the brain is a lesion, whatever its shape. The map of
# the square is as convincing as that of a lesion. A map does not tell what the network does not know.
#
# %% [markdown]
# ## Save
#
# Raw values, pictures, a page for the browser and a record of how they were made; the record is written last.

# %%
written = explanation.save("out/slice", mask=masks[1:2])
[path.as_posix() for path in written]
