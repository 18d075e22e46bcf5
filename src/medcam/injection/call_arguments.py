"""medcam's arguments of one call, and for which of several images they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from medcam.engine.target.resolution import TargetLike
from medcam.errors import warn
from medcam.explanation.explanation import Explanation
from medcam.maps import AttentionMap, ImageName


class ByImage(dict[ImageName, Any]):
    """Values for the images of a call, by the images' names."""


@dataclass(frozen=True, eq=False)
class CallArguments:
    """The arguments of one call that are medcam's, validated.

    The mask, the raw inputs and the references hold for the first image with a map, unless they
    were given by image (`ByImage`).

    Attributes:
        image: The first image among the model's inputs, ``[batch, channels, *space]``; None if
            there is none.
        label: What is explained in this call; None: the target of `medcam.inject`.
        mask: The ground truth, or None.
        raw_input: The images that 2D maps are drawn over, one for each sample, or None.
        references: What 3D maps take their geometry from in this call, one for each sample; None:
            the reference of `medcam.inject`, or the image.
        name: The image's name, after `on`; None if it is the only one.
        is_first: Whether it is the first image with a map.
    """

    image: Tensor | None
    label: TargetLike = None
    mask: Any = None
    raw_input: Any = None
    references: Any = None
    name: ImageName | None = None
    is_first: bool = True

    def on(
        self, image: Tensor | None, name: ImageName | None = None, *, is_first: bool = True
    ) -> CallArguments:
        """Return the arguments for the maps of one image.

        Args:
            image: The image; None for the first.
            name: Its name; None if it is the only one.
            is_first: Whether it is the first image with a map.
        """

        def held(value: Any) -> Any:
            if isinstance(value, ByImage):
                return value.get(name) if name is not None else next(iter(value.values()), None)
            return value if is_first else None

        return CallArguments(
            self.image if image is None else image, self.label, held(self.mask),
            held(self.raw_input), held(self.references), name, is_first,
        )  # fmt: skip

    @property
    def of_first_image(self) -> list[str]:
        """The names of the arguments that were given for one image."""
        values = {"mask": self.mask, "raw_input": self.raw_input, "reference": self.references}
        return [
            name
            for name, value in values.items()
            if value is not None and not isinstance(value, ByImage)
        ]

    @property
    def space(self) -> tuple[int, ...]:
        """The spatial shape of the image; empty without an image."""
        return () if self.image is None else tuple(self.image.shape[2:])


def arguments_on(
    item: AttentionMap, explanation: Explanation, arguments: CallArguments
) -> CallArguments:
    """Return the arguments of a call that hold for the image of a map."""
    first = next(iter(explanation.images), item.image)
    return arguments.on(explanation.image_of(item), item.image, is_first=item.image == first)


def warn_of_first_image(explanation: Explanation, arguments: CallArguments, reference: Any) -> bool:
    """Warn if maps lie on several images, but arguments hold for the first; return whether.

    Args:
        explanation: The maps of a call.
        arguments: The arguments of the call.
        reference: ``reference`` of `medcam.inject`.
    """
    names = list(explanation.images)
    of_first = arguments.of_first_image
    if reference is not None and not isinstance(reference, Mapping) and "reference" not in of_first:
        of_first.append("reference")
    if len(names) < 2 or not of_first:
        return False
    holding = " and ".join(f"{argument}=" for argument in of_first)
    warn(
        f"There are maps on the images {names}: {holding} holds for {names[0]!r} only. Give a "
        f"mapping by name, {of_first[0]}={{{names[0]!r}: ..., {names[1]!r}: ...}}, or choose one "
        "image, inject(..., image=...)."
    )
    return True
