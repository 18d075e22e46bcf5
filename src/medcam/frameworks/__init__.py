"""nnU-Net, MONAI, TorchIO and ONNX Runtime; it never reimplements what these frameworks do.

Their own code reads, predicts and brings results back to the image. Each is imported on first use:
``medcam.nnunet``, ``medcam.monai``, ``medcam.torchio``, ``medcam.onnx``.
"""

from __future__ import annotations
