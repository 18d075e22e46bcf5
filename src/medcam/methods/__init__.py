"""Methods: pure functions from evidence to a map, and their registry; they never run a model.

The names of a method's parameters state which evidence it needs:

=================  ======================================================================
activations        ``[batch, channels, *layer]``, the output of the layer
gradients          ``[batch, channels, *layer]``, of the score w.r.t. the activations
inputs             ``[batch, channels, *space]``, the input of the model
input_gradients    ``[batch, channels, *space]``, of the score w.r.t. the input
guided_gradients   ``[batch, channels, *space]``, the same with guided backpropagation
=================  ======================================================================

A method of a layer returns ``[batch, *layer]``; a method of the input returns
``[batch, channels, *space]``, which is reduced over the channels afterwards.

Perturbation and path methods take functions that run the model again, on changes of one sample. The
target is fixed on the original output. Such a method is called once for each sample, with tensors
of a batch of 1, and returns the maps of all targets, ``[targets, *layer]`` or
``[targets, channels, *space]``:

=================  ======================================================================
score_of           images ``[n, channels, *space]`` to scores ``[n, targets]``
input_gradient_at  images to the gradients ``[n, targets, channels, *space]``
score_of_masked    masks ``[n, *layer]``, placed on the image, to scores of what they show
score_without      channels ``[n]`` of the layer that are set to zero, to scores
map_at             images to the maps of `Method.repeated`, ``[n, targets, ...]``
=================  ======================================================================
"""

from __future__ import annotations

from medcam.methods.factories import (
    ablationcam,
    expgrad,
    intgrad,
    occlusion,
    rise,
    scorecam,
    smoothgrad,
)
from medcam.methods.method import FromCam, Method, SharedWeights
from medcam.methods.registry import AUTO, METHODS, MethodLike, for_target, get

__all__ = [
    "AUTO",
    "METHODS",
    "FromCam",
    "Method",
    "MethodLike",
    "SharedWeights",
    "ablationcam",
    "expgrad",
    "for_target",
    "get",
    "intgrad",
    "occlusion",
    "rise",
    "scorecam",
    "smoothgrad",
]
