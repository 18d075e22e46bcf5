"""What a network predicted, as an image of labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from medcam.explanation.explanation import Explanation
    from medcam.files import Image


def segmentation_of(explanation: Explanation, selector: Any, image: Image) -> NDArray[Any] | None:
    """Return the predicted labels; None if the output is not on the image's grid."""
    from medcam.engine.model import outputs

    logits = outputs.select(explanation.output, selector, batch=1, space=image.space)
    if tuple(logits.shape[2:]) != image.space:
        return None
    is_probability = explanation.details.get("model_ends_in") == "sigmoid"
    positive = (logits > (0.5 if is_probability else 0.0))[0]
    if explanation.target.regions:
        return _painted(positive.cpu().numpy())
    predicted = logits.argmax(1)[0] if logits.shape[1] > 1 else positive[0]
    labels: NDArray[Any] = predicted.cpu().numpy()
    return labels


def _painted(regions: NDArray[np.bool_]) -> NDArray[Any]:
    """Return regions that may overlap as labels: region k is k + 1, small ones over large ones."""
    import numpy as np

    labels = np.zeros(regions.shape[1:], np.uint8)
    for k in np.argsort(-regions.reshape(len(regions), -1).sum(1), kind="stable"):
        labels[regions[k]] = k + 1
    return labels
