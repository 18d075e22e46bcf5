"""medcam inside other frameworks: nnU-Net, MONAI, TorchIO.

Each is imported when it is first used: ``medcam.nnunet``, ``medcam.monai``, ``medcam.torchio``.
"""

from __future__ import annotations
