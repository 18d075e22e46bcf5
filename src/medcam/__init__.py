"""medcam: attention maps of CNN-based PyTorch models, 2D and 3D.

One line is enough: ``model = medcam.inject(model)``.
"""

from medcam.explain import explain
