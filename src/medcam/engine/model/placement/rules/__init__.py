"""Rules: the geometry of an operation's result from that of its inputs. It never runs one.

One rule per operation of PyTorch's operator library (``torch.ops.aten``), to which every call of
``torch``, ``torch.nn`` and ``Tensor`` comes down.
"""
