"""MONAI: an inferer, transforms, an ignite handler, a bundle overlay; it never inverts a transform.

Every map carries its image's affine and applied operations, so that MONAI's own ``Invertd`` and
``SaveImaged`` bring it back to the scanner's grid.
"""

from __future__ import annotations

from medcam.errors import require

require("monai", extra="monai")

from medcam.frameworks.monai.bundle import bundle_overlay, predicts_regions  # noqa: E402  # after the check above
from medcam.frameworks.monai.handler import AttentionHandler  # noqa: E402
from medcam.frameworks.monai.inferer import AttentionInferer  # noqa: E402
from medcam.frameworks.monai.metatensor import as_metatensor  # noqa: E402
from medcam.frameworks.monai.saving import (  # noqa: E402
    SaveAttentionMapD,
    SaveAttentionMapd,
    SaveAttentionMapDict,
)
from medcam.frameworks.monai.transforms import (  # noqa: E402
    AttentionMapD,
    AttentionMapd,
    AttentionMapDict,
    AttentionMapTransform,
)

__all__ = [
    "AttentionHandler",
    "AttentionInferer",
    "AttentionMapD",
    "AttentionMapDict",
    "AttentionMapTransform",
    "AttentionMapd",
    "SaveAttentionMapD",
    "SaveAttentionMapDict",
    "SaveAttentionMapd",
    "as_metatensor",
    "bundle_overlay",
    "predicts_regions",
]
