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
"""

from __future__ import annotations

from medcam.methods.method import FromCam, Method, SharedWeights
from medcam.methods.registry import AUTO, METHODS, MethodLike, for_target, get

__all__ = [
    "AUTO",
    "METHODS",
    "FromCam",
    "Method",
    "MethodLike",
    "SharedWeights",
    "for_target",
    "get",
]
