"""The original's module of this name: `inject`; its other names are not kept."""

from __future__ import annotations

from medcam.installation import require_whole

require_whole()

from medcam.injection.injecting import inject
from medcam.injection.original import replaced_names

__all__ = ["inject"]

__getattr__ = replaced_names(
    "medcam.medcam_inject",
    {"forward": "call the injected model", "dump": "model.dump()", "test_run": "model.test_run()"},
)
