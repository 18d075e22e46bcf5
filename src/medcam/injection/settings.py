"""The options of an injected model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from medcam.engine.request import Request
from medcam.errors import InputError
from medcam.maps import AttentionMap
from medcam.views.overlays import ChannelOrder, check_channel_order

OnError = Literal["warn", "raise"]
"""What `medcam.inject` does where only a map fails."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of `medcam.inject` under the same names; `request` holds those of one run.

    Raises:
        InputError: Two options contradict each other, or one does not exist.
    """

    request: Request
    output_dir: Path | None = None
    save_maps: bool = False
    save_pickle: bool = False
    save_scores: bool = False
    evaluate: bool = False
    metric: str | Callable[..., float] = "wioa"
    threshold: Literal["otsu"] | float = "otsu"
    by_lesion: bool = False
    return_score: bool = False
    replace: bool = False
    return_attention: bool = False
    normalize: bool = True
    colormap: str | None = None
    reference: Any = None
    raw_input_order: ChannelOrder = "rgb"
    on_error: OnError = "warn"

    def __post_init__(self) -> None:
        if self.request.several:
            raise InputError(
                "inject() takes one backend at a time; medcam.explain takes several, from one "
                "forward pass."
            )
        check_channel_order(self.raw_input_order)
        if self.on_error not in ("warn", "raise"):
            raise InputError(
                f"on_error={self.on_error!r} is not known: choose 'warn', which returns the "
                "prediction where a map cannot be made, or 'raise'."
            )
        without_folder = [
            name
            for name in ("save_maps", "save_pickle", "save_scores", "evaluate")
            if getattr(self, name) and self.output_dir is None
        ]
        if without_folder:
            raise InputError(f"{without_folder[0]}=True needs output_dir, the folder to save to.")
        layer = self.request.layer
        several_maps = layer == "full" or (
            not isinstance(layer, str) and len(list(layer or ())) > 1
        )
        returns_map = self.replace or self.return_attention
        if several_maps and returns_map and self.request.methods[0].of_layer:
            raise InputError(
                f"replace= and return_attention= return one map, layer={layer!r} makes several: "
                "name one layer, or use model.get_attention_map(), which is then a dict by layer."
            )
        if self.return_score and not self.scores:
            raise InputError("return_score=True needs evaluate=True, and a mask with each call.")
        if self.scores:
            from medcam.evaluation.score import check_metric, check_options

            check_metric(self.metric)
            check_options(self.threshold, None, 0.0)

    @property
    def scores(self) -> bool:
        """Whether maps are scored."""
        return self.evaluate or self.save_scores

    def values_of(self, item: AttentionMap) -> Tensor:
        """Return a map as calls return it: scaled for display, or in raw units."""
        return item.normalized() if self.normalize else item.values

    def changed(self, **changes: Any) -> Settings:
        """Return a copy with some options changed."""
        return dataclasses.replace(self, **changes)
