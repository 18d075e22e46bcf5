"""Time `medcam.check` beside Quantus, which answers the nearest questions, in one run.

Both check the same methods at the same layer on the same images. Quantus has one metric at a time,
of one method, without controls: faithfulness correlation (96 runs), MPRT from the bottom up, and
max-sensitivity (8 draws). Its maps are medcam's, so what differs is what is run how often.

    python benchmarks/trust.py            # two minutes on two idle cores
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import medcam
from medcam import demo
from medcam.methods import METHODS

RESULTS = Path(__file__).parent / "results"


def lesions() -> tuple[nn.Module, Tensor, str, Any]:
    """Return 8 slices of 64² for the lesion classifier."""
    slices = demo.load_lesion_slices()
    images = slices.images[slices.labels == 1][:8]
    return demo.load_lesion_classifier(), images, "relu6", 1


def nuclei() -> tuple[nn.Module, Tensor, str, Any]:
    """Return 4 tiles of 128² for the nuclei segmenter."""
    return demo.load_nuclei_segmenter(), demo.load_nuclei().images[:4], "decoder2", None


def seconds(function: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class Logit(nn.Module):
    """A segmenter as the classifier that Quantus needs: its mean logit."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[batch, 2]``."""
        z: Tensor = self.model(x)
        if z.ndim == 2:
            return z
        mean = z.flatten(2).mean(2)
        return torch.cat([-mean, mean], 1)


def by_quantus(model: nn.Module, images: Tensor, layer: str, method: str) -> dict[str, float]:
    """Return the seconds of three metrics of Quantus for one method."""
    import quantus

    wrapped = Logit(model).eval()
    inner = f"model.{layer}"

    def explain(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> Any:
        tensor = torch.as_tensor(np.asarray(inputs), dtype=torch.float32)
        explanation = medcam.explain(model, tensor, method=method, layer=inner, target=1)
        attention = explanation.map.attention().numpy()
        ramp = np.arange(attention[0].size).reshape(attention[0].shape)
        return attention + 1e-9 * ramp  # Quantus refuses constant maps, which random networks have

    labels = np.ones(len(images), int)
    maps = explain(wrapped, images, labels)
    metrics = {
        "faithfulness correlation": quantus.FaithfulnessCorrelation(
            nr_runs=96, subset_size=images[0].numel() // 12, perturb_baseline="mean",
            disable_warnings=True,
        ),
        "MPRT": quantus.MPRT(layer_order="bottom_up", disable_warnings=True),
        "max-sensitivity": quantus.MaxSensitivity(nr_samples=8, disable_warnings=True),
    }  # fmt: skip
    call = {
        "model": wrapped, "x_batch": images.numpy(), "y_batch": labels, "a_batch": maps,
        "device": "cpu", "explain_func": explain,
    }  # fmt: skip
    return {name: seconds(partial(metric, **call)) for name, metric in metrics.items()}


def main() -> None:
    """Print the table, and write it with the date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    methods = [method for method in METHODS.values() if not method.replays]
    lines = [
        f"# Trust checks, {datetime.now(timezone.utc):%Y-%m-%d}",
        "",
        f"torch {torch.__version__}, {arguments.threads} threads, {len(methods)} methods.",
        "",
        "| images | `medcam.check`, methods and controls | Quantus, three metrics, all methods |",
        "|---|---|---|",
    ]
    for title, load in (("8 slices of 64²", lesions), ("4 tiles of 128²", nuclei)):
        model, images, layer, target = load()
        ours = [
            seconds(partial(medcam.check, model, images, layer=layer, target=target))
            for _ in range(3)
        ]
        theirs = {"faithfulness correlation": 0.0, "MPRT": 0.0, "max-sensitivity": 0.0}
        for method in methods:
            for name, value in by_quantus(model, images, layer, method.name).items():
                theirs[name] += value
        parts = ", ".join(f"{name} {value:.1f}" for name, value in theirs.items())
        lines.append(f"| {title} | {min(ours):.1f} s | {sum(theirs.values()):.1f} s ({parts}) |")
    text = "\n".join([*lines, ""])
    print(text)
    RESULTS.joinpath(f"trust-{datetime.now(timezone.utc):%Y-%m-%d}.md").write_text(text)


if __name__ == "__main__":
    main()
