"""The original's module of this name: the helpers that programs import; it has no others."""

from __future__ import annotations

from medcam.installation import require_whole

require_whole()

from medcam.engine.model.layers import get_layers
from medcam.injection.original import (
    interpolate,
    normalize,
    replaced_names,
    save_attention_map,
)

__all__ = ["get_layers", "interpolate", "normalize", "save_attention_map"]

__getattr__ = replaced_names(
    "medcam.medcam_utils",
    {
        "overlay": "medcam.save(attention_map, filename, raw_input=image)",
        **dict.fromkeys(
            [
                "generate_attention_map",
                "generate_gcam2d",
                "generate_gcam3d",
                "generate_guided_bp2d",
                "generate_guided_bp3d",
            ],
            "medcam.save(attention_map, filename)",
        ),
        "unpack_tensors_with_gradients": "medcam finds the tensors inside lists and dicts itself",
        "prod": "math.prod",
    },
)
