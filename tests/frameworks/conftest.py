"""ignite is imported before MONAI, which would do without it where its import warns."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torch.distributed.optim, in torch 2.13
    import ignite.engine  # noqa: F401
