"""The overlay that adds attention maps to an inference bundle of MONAI."""

from __future__ import annotations

from pathlib import Path

from monai.transforms.post.array import Activations
from monai.transforms.post.dictionary import Activationsd


def bundle_overlay() -> Path:
    """Return the path of a configuration file that adds maps to the outputs of a MONAI bundle.

    Name it after the bundle's own configuration on the command line::

        OVERLAY=$(python -c "import medcam; print(medcam.monai.bundle_overlay())")
        python -m monai.bundle run --config_file "['configs/inference.json','$OVERLAY']"

    It wraps the evaluator's inferer in `AttentionInferer`, adds `AttentionHandler` to ``handlers``
    and, at the end of ``postprocessing``, ``Invertd`` and `SaveAttentionMapd` for the map: a
    float32 file of the source's shape and affine, or pictures for a picture. The bundle has to have
    the ids ``preprocessing``, ``inferer``, ``evaluator``, ``handlers`` and ``postprocessing``, as
    MONAI's specification names them, and ``postprocessing`` a list of ``transforms``.

    These options can be set on the command line, e.g. ``--attention_target 1``. Defaults are in
    parentheses:

    - ``attention_method`` (auto), ``attention_layer`` (auto), ``attention_target`` (the
      prediction), ``attention_output`` (automatic): as in `medcam.explain`.
    - ``attention_regions`` (whether ``postprocessing`` has an ``Activations`` or ``Activationsd``
      with ``sigmoid``): whether the channels are regions that may overlap.
    - ``attention_dir`` (the bundle's ``output_dir``): the folder for the maps.
    - ``attention_postfix`` (attention): the last part of the maps' file names.
    - ``attention_image`` (image): the key of the image.

    Example:
        >>> bundle_overlay().name
        'attention.json'
    """
    return Path(__file__).with_name("attention.json")


def predicts_regions(postprocessing: object) -> bool:
    """Return whether a bundle's channels are regions that may overlap, by its postprocessing.

    That is so if it applies a sigmoid to the logits. A single channel is no matter of overlap.

    Args:
        postprocessing: A transform, or a ``Compose`` of them.

    Example:
        >>> from monai.transforms import Activationsd, Compose
        >>> predicts_regions(Compose([Activationsd("pred", sigmoid=True)]))
        True
    """
    parts = getattr(postprocessing, "transforms", None)
    if parts is not None:
        return any(predicts_regions(part) for part in parts)
    sigmoid = getattr(postprocessing, "sigmoid", False)
    if isinstance(postprocessing, (Activations, Activationsd)):
        return bool(any(sigmoid) if isinstance(sigmoid, (tuple, list)) else sigmoid)
    return False
