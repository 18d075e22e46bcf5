"""Methods: pure functions from evidence to a map, and their registry; they never run a model.

The evidence that a method needs is the names of its parameters:

=================  ====================================================================
activations        ``[batch, channels, *layer]``, the layer's output
gradients          ``[batch, channels, *layer]``, of the score with respect to it
inputs             ``[batch, channels, *space]``, the model's input
input_gradients    ``[batch, channels, *space]``, of the score with respect to it
guided_gradients   ``[batch, channels, *space]``, the same by guided backpropagation
=================  ====================================================================

A method of a layer returns ``[batch, *layer]``; a method of the input returns
``[batch, channels, *space]``, which is reduced over the channels afterwards.
"""

from __future__ import annotations

from medcam.methods.method import FromCam, Method, SharedWeights
from medcam.methods.registry import METHODS, MethodLike, get

__all__ = ["METHODS", "FromCam", "Method", "MethodLike", "SharedWeights", "get"]
