"""Layout of a layer's output on the image: channels first, channels last, or tokens.

The layout follows from the operations that made the tensor (`medcam.engine.model.placement`). Only
where an operation is unknown is it inferred from the shape, and the map's grid says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Shaped
from torch import Tensor, nn

from medcam.engine.model.placement.arrangement import Arrangement
from medcam.engine.model.placement.runs import Joined, see_apart, stack_arrangements
from medcam.errors import NoMapError
from medcam.maps import LayerGrid


@dataclass(frozen=True)
class Layout:
    """How to read a tensor as ``[samples, channels, *space]``, and where its cells lie.

    Attributes:
        kind: As in `medcam.engine.model.placement.arrangement.Arrangement`.
        space: The spatial extents of the evidence.
        channels: The number of channels.
        grid: Where the cells of the map lie on the image.
        arrangement: How to read the tensor, if that is known from the operations.
    """

    kind: str
    space: tuple[int, ...]
    channels: int
    grid: LayerGrid
    arrangement: Arrangement | None = None

    @staticmethod
    def of_arrangement(arrangement: Arrangement) -> Layout:
        """Return the layout of a tensor whose operations are known."""
        return Layout(
            arrangement.kind, arrangement.evidence[2:], arrangement.evidence[1], arrangement.grid,
            arrangement=arrangement,
        )  # fmt: skip

    def channels_first(
        self, values: Shaped[Tensor, "..."]
    ) -> Shaped[Tensor, "samples channels *space"]:
        """Return the tensor as ``[samples, channels, *space]``; a view where possible."""
        if self.arrangement is not None:
            return self.arrangement.of(values)
        if self.kind == "channels first":
            return values
        return values.movedim(-1, 1)

    def map_of(self, values: Shaped[Tensor, "samples *space"]) -> Shaped[Tensor, "batch *map"]:
        """Return a map of the evidence as a map of the image."""
        return values if self.arrangement is None else self.arrangement.map_of(values)

    def missing_samples(self, *, is_bag: bool) -> str:
        """Return why there is no map of each sample; empty if there is.

        Args:
            is_bag: Whether the samples are slices or views of one case: some may be unused.
        """
        return "" if self.arrangement is None else self.arrangement.missing_samples(is_bag=is_bag)

    @property
    def samples(self) -> int:
        """The number of samples that a tensor of this layout holds."""
        return -1 if self.arrangement is None else self.arrangement.batch

    @property
    def is_beside(self) -> bool:
        """Whether the tensor also holds features of other images, beside these."""
        return self.arrangement is not None and self.arrangement.is_beside

    @property
    def map_space(self) -> tuple[int, ...]:
        """The extents of the map of the layer's own shape."""
        return self.space if self.arrangement is None else self.arrangement.map_space

    def as_bag(self) -> Layout:
        """Return the layout for an input whose first axis is slices of one case."""
        if self.arrangement is None:
            raise NoMapError(
                "The input's first axis is slices or views of one case, but an operation before "
                f"the layer is not followed ({self.grid.reason}): choose a layer before it."
            )
        bag = self.arrangement.as_bag()
        return replace(self, arrangement=bag, grid=bag.grid)


def stacked(layouts: Sequence[Layout]) -> Joined | None:
    """Return several runs together, each of which saw a part of the image.

    Args:
        layouts: The layouts of the runs.

    Returns:
        None if the parts do not lie evenly beside each other.
    """
    arrangements = _arrangements(layouts)
    if len(arrangements) < 2 or len(arrangements) < len(layouts):
        return None
    return stack_arrangements(arrangements)


def see_different_views(layouts: Sequence[Layout]) -> bool:
    """Return whether runs saw different samples or views of an image."""
    arrangements = _arrangements(layouts)
    return len(arrangements) > 1 and see_apart(arrangements)


def _arrangements(layouts: Sequence[Layout]) -> list[Arrangement]:
    """Return the arrangements of layouts, where they are known."""
    return [layout.arrangement for layout in layouts if layout.arrangement is not None]


def inferred_layout(
    shape: Sequence[int],
    batch: int,
    space: Sequence[int],
    reason: str,
    *,
    module: nn.Module | None = None,
) -> Layout | None:
    """Return the layout of a tensor by its shape; None if it does not lie on the input.

    For tensors after an operation that medcam does not follow. The module's last weights are asked
    first whether channels are last; extents beyond the input's are refused, and so are tokens,
    whose grid cannot be seen.

    Args:
        shape: The shape of the tensor.
        batch: The batch size of the input.
        space: The spatial extents of the input.
        reason: Why the operations do not tell.
        module: The layer.

    Example:
        >>> inferred_layout((2, 768, 7, 7), 2, (224, 224), "...").kind
        'channels first'
        >>> inferred_layout((2, 7, 7, 768), 2, (224, 224), "...").kind
        'channels last'
    """
    shape, space = tuple(shape), tuple(space)
    if len(shape) != len(space) + 2 or shape[0] != batch or 0 in shape:
        return None
    is_last = None if module is None else _puts_channels_last(module, shape)
    for kind, extents, channels in (
        ("channels last", shape[1:-1], shape[-1]),
        ("channels first", shape[2:], shape[1]),
    ):
        fits = all(small <= large for small, large in zip(extents, space, strict=True))
        if kind == "channels last" and not is_last:
            first_fits = all(small <= large for small, large in zip(shape[2:], space, strict=True))
            fits = fits and is_last is None and not first_fits
        if fits:
            return Layout(kind, extents, channels, LayerGrid.of_extents(extents, space, reason))
    return None


def _puts_channels_last(module: nn.Module, shape: tuple[int, ...]) -> bool | None:
    """Return whether a module's last layer with weights puts channels last; None without one.

    A linear layer or a layer norm puts them last if its features are as many as the last axis.
    """
    for submodule in reversed(list(module.modules())):
        if isinstance(
            submodule, (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
        ):
            return False
        if isinstance(submodule, nn.Linear):
            return submodule.out_features == shape[-1]
        if isinstance(submodule, nn.LayerNorm):
            return submodule.normalized_shape[-1] == shape[-1]
        if isinstance(submodule, nn.RNNBase):
            features = submodule.proj_size or submodule.hidden_size
            return features * (1 + submodule.bidirectional) == shape[-1]
    return None
