"""Maps that are zero everywhere: the reason for each, in one warning with the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from medcam.engine.activation import Activation, LayerKey
from medcam.engine.notices import Notices
from medcam.maps import ResolvedTarget
from medcam.methods import Method
from medcam.methods.blank import BlankReason, why_blank

BlankKey = tuple[BlankReason, str, LayerKey | None]
"""A reason, the title of a method, and a layer."""

_MOST_LISTED = 3  # layers in one warning


@dataclass(eq=False)
class Blanks:
    """The maps of a run that are zero everywhere.

    Attributes:
        flags: By reason, method and layer the samples that are blank, for each target.
    """

    flags: dict[BlankKey, dict[int, Tensor]] = field(default_factory=dict)

    def note(
        self,
        method: Method,
        target: int,
        layer: LayerKey | None,
        evidence: Mapping[str, Any],
        values: Tensor,
    ) -> None:
        """Record why a map is zero, if it is.

        Args:
            method: The method.
            target: The number of the target.
            layer: The layer; None for a method of the input alone.
            evidence: The evidence by name.
            values: The map, ``[samples, *layer]`` or ``[batch, channels, *space]``.
        """
        for reason, flags in why_blank(method, evidence, values).items():
            self.flags.setdefault((reason, method.title, layer), {})[target] = flags

    def of_samples(
        self, recorded: Mapping[LayerKey, Activation], targets: int
    ) -> dict[BlankKey, Tensor]:
        """Return the flags ``[batch, targets]``.

        A sample with several slices is blank if all of them are.

        Args:
            recorded: What was recorded of each layer.
            targets: The number of targets.
        """
        by_key = {}
        for key, by_target in self.flags.items():
            layer = None if key[2] is None else recorded.get(key[2])
            arrangement = None if layer is None else layer.layout.arrangement
            columns = {
                target: flags if arrangement is None else arrangement.of_samples(flags)
                for target, flags in by_target.items()
            }
            none = torch.zeros_like(next(iter(columns.values())))
            by_key[key] = torch.stack([columns.get(target, none) for target in range(targets)], 1)
        return by_key


@dataclass(frozen=True, eq=False)
class BlankContext:
    """What the remedy for a blank map depends on.

    Attributes:
        automatic: Whether the layer was chosen automatically.
        after_tokens: The layers of tokens among others, such as a class token.
        norms: What subtracts the mean of each channel in this model.
    """

    automatic: bool
    after_tokens: frozenset[str]
    norms: str

    @staticmethod
    def of(
        modules: Iterable[nn.Module], recorded: Mapping[LayerKey, Activation], *, automatic: bool
    ) -> BlankContext:
        """Return the context of a call.

        Args:
            modules: Every module of the model.
            recorded: What was recorded of each layer.
            automatic: Whether the layer was chosen automatically.
        """
        after_tokens = frozenset(
            name
            for (name, _), item in recorded.items()
            if item.layout.arrangement is not None and item.layout.arrangement.has_other_tokens
        )
        return BlankContext(automatic, after_tokens, _norms(modules))


def empty_targets(target: ResolvedTarget) -> Tensor | None:
    """Return which targets ``[batch, targets]`` hold no voxel; None if the output has no space."""
    return None if target.voxels is None else target.voxels == 0


def notice_blanks(
    notices: Notices, flags: Mapping[BlankKey, Tensor], empty: Tensor | None, context: BlankContext
) -> None:
    """Add one warning for each reason; it names the layers.

    On the CPU a reason that holds for no sample is left out. On other devices each layer has its
    own warning, since the flags have not been read yet.

    Args:
        notices: Where the warnings are added.
        flags: As `Blanks.of_samples` returns them.
        empty: The samples ``[batch, targets]`` whose target is empty, which has its own warning.
        context: What the remedies depend on.
    """
    if empty is not None:
        flags = {key: values & ~empty.to(values.device) for key, values in flags.items()}
    for reason, titles, keys in _grouped(flags):
        layers = list(dict.fromkeys(key[2][0] for key in keys if key[2] is not None))
        text = _text(reason, titles, layers, context)
        notices.add(torch.stack([flags[key] for key in keys]).any(0), text)


def _grouped(flags: Mapping[BlankKey, Tensor]) -> Iterator[tuple[BlankReason, str, list[BlankKey]]]:
    """Yield each reason with the titles of the methods and the keys that share a warning."""
    on_cpu: dict[BlankReason, list[BlankKey]] = {}
    for key, values in flags.items():
        if values.device.type != "cpu":
            yield key[0], key[1], [key]
        elif bool(values.any()):
            on_cpu.setdefault(key[0], []).append(key)
    for reason, keys in on_cpu.items():
        yield reason, " and ".join(dict.fromkeys(key[1] for key in keys)), keys


def _text(reason: BlankReason, titles: str, layers: Sequence[str], context: BlankContext) -> str:
    """Return the warning for a reason, with the placeholder ``{samples}``."""
    listed = ", ".join(map(repr, layers[:_MOST_LISTED]))
    listed += ", ..." if len(layers) > _MOST_LISTED else ""
    chosen = ", which was chosen automatically," if context.automatic else ""
    layer = f"layer{'s' * (len(layers) > 1)} {listed}"
    where = f"sample(s) {{samples}}: the map of {titles} is zero there."
    if reason == "no gradient":
        return f"The target's gradient is zero at {layer}{chosen} for {where} " + (
            _TOKENS if context.after_tokens & set(layers) else _BRANCH[context.automatic]
        )
    if reason == "cancelling":
        return (
            f"The gradients of each channel cancel at {layer}{chosen} for {where} Its weights are "
            f"their mean. This happens where a later operation subtracts each channel's mean "
            f"({context.norms}), or the mirror image of the features. {_after_norm(context)}"
        )
    if reason == "no sum":
        return (
            f"The activations of each channel cancel at {layer}{chosen} for {where} Its weights "
            "are divided by their sum. This happens right behind an operation that subtracts each "
            f"channel's mean ({context.norms}). {_after_norm(context)}"
        )
    if reason == "negative":
        return (
            f"Everything at {layer}{chosen} speaks against the target in {where} Only positive "
            "evidence is shown; method='hirescam' keeps the sign."
        )
    if reason == "apart" and not layers:
        return f"The image is zero wherever the target has a gradient, in {where}"
    return _OTHERS[reason].format(layer=layer, where=where, chosen=chosen, samples="{samples}")


_TOKENS = (
    "Only the class token makes this target, and after the last attention no patch token reaches "
    "it: choose an earlier layer, such as the last block's first normalisation, or layer='auto'."
)
_BRANCH = {
    True: "If this target is made by another branch of the model, name a layer of that branch.",
    False: "This target does not depend on these features: choose another layer.",
}
_OTHERS: dict[BlankReason, str] = {
    "no input gradient": (
        "The target's gradient is zero at the input for {where} Every path from the input to this "
        "target is switched off: is the input scaled as in training?"
    ),
    "no guided gradient": (
        "No positive gradient reaches the input for {where} Guided backpropagation stops negative "
        "ones at each rectifier; method='saliency' and 'inputxgradient' keep them."
    ),
    "no activation": (
        "All features are zero at {layer}{chosen} for {where} Choose an earlier layer; is the "
        "input scaled as in training?"
    ),
    "apart": (
        "Where {layer} has a gradient, its features are zero, for {where} Choose an earlier layer."
    ),
    "unchanged": (
        "No changed image raises or lowers the target's score as this method counts it, in {where} "
        "Is the image constant, or does the model take it from elsewhere?"
    ),
    "unknown": "There is evidence, but none that this method shows, for {where}",
    "constant": (
        "The features do not vary between places at {layer}{chosen} for {where} Choose an earlier "
        "layer."
    ),
}
"""The warnings without cases of their own."""


def _after_norm(context: BlankContext) -> str:
    """Return the remedy where the mean of each channel is subtracted."""
    if "training" in context.norms:
        return "Call model.eval() first."
    return (
        "Choose a layer after the operation and its rectifier, or method='hirescam', which "
        "averages nothing."
    )


def _norms(modules: Iterable[nn.Module]) -> str:
    """Return what subtracts the mean of each channel of a sample, in words."""
    names = set()
    for module in modules:
        if isinstance(module, nn.modules.instancenorm._InstanceNorm):
            names.add("instance norm")
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            names.add("batch normalisation in training mode")
    return " or ".join(sorted(names)) or "instance norm"
