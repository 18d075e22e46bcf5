"""`Explanation`: the output and the attention maps of one call of a model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from medcam.engine.notices import Notices
from medcam.engine.result import Run
from medcam.errors import InputError
from medcam.explanation.model_reference import ModelReference
from medcam.maps import AttentionMap, ImageName, MapKey, ResolvedTarget

if TYPE_CHECKING:
    from medcam.explanation.case.comparison import MapComparison


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """Output and attention maps of one call of a model.

    Attributes:
        output: The model's output, as the model returned it.
        target: The target that was explained.
        layer: The layer, or layers, of the maps, after "auto" and "full" were resolved.
        unchecked: Maps before the finiteness check has been read back from the device; use `maps`
            instead.
        skipped: Layers without a map, with the reason (``layer="full"``).
        details: Further facts for the record, e.g. the windows over a volume.
        inputs: The input whose grid the maps are on, ``[batch, channels, *space]``: the caller's
            tensor, not a copy. None if it was not kept, as in an injected model.
        images: The inputs that maps lie on, by name, if the target depends on several images.
    """

    output: Any = field(repr=False)
    target: ResolvedTarget
    layer: str | tuple[str, ...] | None
    unchecked: Mapping[MapKey, AttentionMap] = field(repr=False)
    skipped: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    inputs: Tensor | None = field(default=None, repr=False)
    images: Mapping[ImageName, Tensor] = field(default_factory=dict, repr=False)
    _notices: Notices = field(default_factory=Notices, repr=False)
    _model: ModelReference = field(default_factory=ModelReference, repr=False)

    @property
    def model(self) -> nn.Module | None:
        """The model that was explained; None if it no longer exists."""
        return self._model()

    @property
    def maps(self) -> Mapping[MapKey, AttentionMap]:
        """The maps by layer name, or by ``(method, layer)`` if several methods were asked for.

        Raises:
            NoMapError: A map is not finite.
        """
        self._notices.report()
        return MappingProxyType(_Maps(self.unchecked))

    @property
    def map(self) -> AttentionMap:
        """The map, if the explanation holds exactly one.

        Raises:
            InputError: There are several; choose one from `maps`.
        """
        maps = self.maps
        if len(maps) != 1:
            raise InputError(
                f"This explanation holds {len(maps)} maps: choose one, explanation.maps[key], "
                f"with key one of {list(maps)[:6]}{' ...' if len(maps) > 6 else ''}."
                + (
                    f" For one image: explanation.of_image({next(iter(self.images))!r})."
                    if len(self.images) > 1
                    else ""
                )
            )
        return next(iter(maps.values()))

    def of_image(self, image: ImageName) -> Explanation:
        """Return the explanation of one of several images: its maps, and itself as ``inputs``.

        Args:
            image: The name of the image, one of `images`: its parameter, key or position.

        Raises:
            InputError: No map lies on this image.
        """
        maps = {key: item for key, item in self.unchecked.items() if item.image == image}
        if not maps:
            names = list(dict.fromkeys(item.image for item in self.unchecked.values()))
            raise InputError(f"No map lies on the image {image!r}; there are maps on {names}.")
        return replace(self, unchecked=maps, inputs=self.images.get(image, self.inputs), images={})

    def image_of(self, item: AttentionMap) -> Tensor | None:
        """Return the input that a map lies on; None if it was not kept."""
        return self.inputs if item.image is None else self.images.get(item.image, self.inputs)

    @property
    def _parts(self) -> dict[ImageName, Explanation]:
        """The explanations of each image, if there are several."""
        names = [item.image for item in self.unchecked.values()]
        several = [name for name in dict.fromkeys(names) if name is not None]
        return {name: self.of_image(name) for name in several} if len(several) > 1 else {}

    def save(
        self,
        prefix: str | os.PathLike[str],
        *,
        image: object = None,
        model: nn.Module | None = None,
        mask: object = None,
        segmentation: object = None,
        scores: Sequence[Mapping[str, Any]] = (),
        name: str | None = None,
        montage: bool = True,
        report: bool = True,
        extra: Mapping[str, object] | None = None,
    ) -> list[Path]:
        """Write the raw maps, a montage, a report and the record of how the maps were made.

        The files of a volume are ``out/case_gcam.nii.gz`` (float32, raw), ``out/case_montage.png``,
        ``out/case.html`` and ``out/case.json``. A picture has ``out/case_gcam.tif`` (float32, raw),
        ``out/case_gcam.png`` (the map over the image), and the same last three. A 1D signal has
        ``out/case_gcam.npy`` (float32, raw) and curves as its pictures. The names of maps
        end in ``_LAYER`` if there are several layers, and in ``_classK`` if there are several
        targets. In a batch each sample is a case, ``out/case_0_...``. An image, mask or
        segmentation that is not a file yet is saved, too. The record is written last; ``medcam
        report out`` makes the pages again from the record and the files that it names. If there are
        maps on several images, each image is a case, ``out/case_IMAGE_...``, and ``image``,
        ``mask`` and ``segmentation`` are mappings by the image's name.

        Args:
            prefix: The path of the files without an ending: ``"out/case"``.
            image: The image to draw the maps on, whose affine the maps' files get: a path, an
                `Image` of `medcam.files`, a nibabel image, an array or tensor, a MetaTensor; for
                several samples a batch, or a list. None: the input that was explained. If no affine
                is known, NIfTI files get the identity, with one warning per process.
            model: The model, for the record. None: the one that was explained, if it still exists.
            mask: A region, 0/1, drawn as an outline; a path, or as `image`.
            segmentation: The labels that the model predicted, outlined in green in the report; as
                `mask`, e.g. ``explanation.output.argmax(1)``.
            scores: The rows of a table, each a mapping of column to value. For several samples,
                a row with a column "sample" belongs to that sample only.
            name: The title. None: the last part of the prefix.
            montage: Whether to write the montage.
            report: Whether to write the report.
            extra: Further entries of the record. A "modality" such as "CT" sets the units of the
                image, a "sampling_rate" in Hz makes the time axis of a signal one of seconds, and a
                "check", from ``medcam.check(...).to_dict()``, is shown as a table; the page opens
                on the map that it recommends.

        Returns:
            The paths of the files, the record last.

        Raises:
            InputError: An argument does not fit; the message says what is allowed.
            SaveError: A file could not be written. There is no record then, not even an earlier
                one.
        """
        from medcam.explanation.case.saving import save_maps, save_of_images

        if parts := self._parts:
            return save_of_images(
                parts, prefix, image=image, mask=mask, segmentation=segmentation, model=model,
                scores=scores, name=name, montage=montage, report=report, extra=extra,
            )  # fmt: skip
        return save_maps(
            list(self.maps.values()), prefix, inputs=self.inputs, details=self.details,
            model=model or self.model, model_kind=self._model.kind, image=image, mask=mask,
            segmentation=segmentation, scores=scores, name=name, montage=montage, report=report,
            extra=extra,
        )  # fmt: skip

    def compare(
        self, record: str | os.PathLike[str], *, image: object = None
    ) -> list[MapComparison]:
        """Compare the maps with those of a saved case, bit for bit and by value.

        Args:
            record: The record that `save` wrote, ``out/case.json``; the files of its maps lie
                beside it. Of a batch, that of one sample.
            image: As it was given to `save`.

        Returns:
            A comparison for each map of the record; ``.same`` says whether it is the same.

        Raises:
            InputError: The record cannot be read, or is of a version without hashes of maps.
        """
        from medcam.explanation.case.comparison import compare_saved

        return compare_saved(
            list(self.unchecked.values()),
            record,
            inputs=self.inputs,
            images=self.images,
            image=image,
        )

    def show(
        self,
        image: object = None,
        *,
        browser: bool = True,
        mask: object = None,
        segmentation: object = None,
        scores: Sequence[Mapping[str, Any]] = (),
        name: str = "Explanation",
        sample: int = 0,
        sampling_rate: float | None = None,
    ) -> Path:
        """Open a report in the browser: image and maps in linked planes, and the record.

        Args:
            image: As in `save`.
            browser: Whether to open the report; False: only write it.
            mask: As in `save`.
            segmentation: As in `save`.
            scores: As in `save`.
            name: The title.
            sample: The index of the sample in the batch.
            sampling_rate: Of a 1D signal, the number of samples in a second.

        Returns:
            The path of the page, in a temporary folder.

        Raises:
            InputError: An argument does not fit; the message says what is allowed.
        """
        from medcam.explanation.case.showing import show_maps

        if parts := self._parts:
            raise InputError(
                f"There are maps on the images {list(parts)}: show one, "
                f"explanation.of_image({next(iter(parts))!r}).show()."
            )
        return show_maps(
            list(self.maps.values()), image, inputs=self.inputs, details=self.details,
            model=self.model, model_kind=self._model.kind, browser=browser, mask=mask,
            segmentation=segmentation, scores=scores, name=name, sample=sample,
            sampling_rate=sampling_rate,
        )  # fmt: skip

    def _repr_html_(self) -> str:
        """Return the maps as a picture with a caption, which notebooks display."""
        from medcam.explanation.inline import inline_html

        if parts := self._parts:
            return "".join(
                f"<p><b>{escape(str(name))}</b></p>{part._repr_html_()}"
                for name, part in parts.items()
            )
        return inline_html(self, str(self.target), self.inputs)


class _Maps(dict[MapKey, AttentionMap]):
    """Maps by key; a missing key raises an error that lists the keys."""

    def __missing__(self, key: object) -> AttentionMap:
        raise InputError(f"There is no map {key!r}; the keys are {', '.join(map(repr, self))}.")


def explanation_of(
    run: Run, *, model: nn.Module | None = None, inputs: Tensor | None = None
) -> Explanation:
    """Return the `Explanation` of a run.

    Args:
        run: The run of the engine.
        model: The model; None if there are several.
        inputs: The input as the caller passed it, e.g. a MetaTensor. None: that of the run.
    """
    return Explanation(
        output=run.output,
        target=run.target,
        layer=run.layer,
        unchecked=run.maps,
        skipped=run.skipped,
        details=run.details,
        inputs=run.inputs if inputs is None else inputs,
        images=run.images if len(run.images) > 1 else {},
        _notices=run.notices,
        _model=ModelReference(model),
    )
