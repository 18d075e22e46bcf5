"""Registry of methods: one dict by name, and the look-up by name or title."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from medcam.errors import InputError, InputTypeError, unknown_name
from medcam.maps import ResolvedTarget
from medcam.methods.eigen_cam import EIGEN_WEIGHTS, eigen_cam
from medcam.methods.evidence_names import EVIDENCE
from medcam.methods.grad_cam import MEAN_GRADIENTS, grad_cam, grad_cam_weights
from medcam.methods.grad_cam_pp import POSITIVE_GRADIENTS, grad_cam_pp
from medcam.methods.guided import guided_backpropagation, guided_grad_cam, weighted_by_cam
from medcam.methods.hires_cam import hires_cam
from medcam.methods.layer_cam import layer_cam
from medcam.methods.method import Agreement, FromCam, Method
from medcam.methods.occluding import occlusion_map
from medcam.methods.path_gradients import change_of_score, integrated_gradients
from medcam.methods.random_masks import rise_map
from medcam.methods.saliency import input_x_gradient, saliency
from medcam.methods.score_cam import ablation_cam, score_cam
from medcam.methods.seg_xres_cam import seg_xres_cam
from medcam.methods.smooth_grad import smooth_grad
from medcam.methods.x_grad_cam import ACTIVATION_WEIGHTED_GRADIENTS, x_grad_cam, x_grad_cam_weights

MethodLike = str | Method
"""What ``method=`` takes: "auto", a name, or a `Method`."""

_WITH_SEG_XRES_CAM = Agreement(seg_xres_cam, "Seg-XRes-CAM", "segxrescam", 0.3)
_GRAD_CAM = Method(
    "gcam", grad_cam, "Grad-CAM", shared=MEAN_GRADIENTS, weights=grad_cam_weights,
    per_channel=True, agreement=_WITH_SEG_XRES_CAM,
)  # fmt: skip
_SALIENCY = Method("saliency", saliency, "Saliency", reduction="magnitude")

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        _GRAD_CAM,
        Method(
            "gcampp", grad_cam_pp, "Grad-CAM++", shared=POSITIVE_GRADIENTS, per_channel=True,
        ),
        Method("gbp", guided_backpropagation, "Guided Backpropagation", signed=True),
        Method(
            "ggcam", guided_grad_cam, "Guided Grad-CAM", signed=True, weights=grad_cam_weights,
            from_cam=FromCam(_GRAD_CAM, weighted_by_cam),
        ),
        Method("hirescam", hires_cam, "HiResCAM", signed=True, positive_part=True, stitched="sum"),
        Method(
            "layercam", layer_cam, "LayerCAM",
            agreement=Agreement(grad_cam_pp, "Grad-CAM++", "gcampp", 0.5),
        ),
        Method(
            "xgradcam", x_grad_cam, "XGrad-CAM", weights=x_grad_cam_weights, per_channel=True,
            shared=ACTIVATION_WEIGHTED_GRADIENTS,
            agreement=_WITH_SEG_XRES_CAM,
        ),
        Method(
            "segxrescam", seg_xres_cam, "Seg-XRes-CAM",
            agreement=Agreement(hires_cam, "HiResCAM", "hirescam", 0.6),
        ),
        Method(
            "eigencam", eigen_cam, "Eigen-CAM", signed=True, positive_part=True,
            stitched="shared", shared=EIGEN_WEIGHTS,
        ),
        _SALIENCY,
        Method("inputxgradient", input_x_gradient, "Input x Gradient", signed=True),
        Method(
            "smoothgrad", smooth_grad, "SmoothGrad", reduction="magnitude", repeated=_SALIENCY,
        ),
        Method(
            "intgrad", integrated_gradients, "Integrated Gradients", signed=True,
            total=change_of_score,
        ),
        Method("occlusion", occlusion_map, "Occlusion", signed=True, positive_part=True),
        Method("rise", rise_map, "RISE", signed=True, positive_part=True),
        Method("scorecam", score_cam, "Score-CAM", per_channel=True),
        Method("ablationcam", ablation_cam, "Ablation-CAM", per_channel=True),
    )
}  # fmt: skip


AUTO = Method("auto", hires_cam, "automatic")
"""Stands for the method that suits what is explained, see `for_target`."""


def for_target(methods: Sequence[Method], target: ResolvedTarget) -> tuple[Method, ...]:
    """Return methods with `AUTO` replaced by the one that suits a target.

    That is Grad-CAM for a classification and a detection, LayerCAM for a class of a segmentation,
    and Seg-XRes-CAM for a part of one: Grad-CAM has one weight per channel, so it cannot tell one
    structure from another. docs/methods.md has the measurements.

    Example:
        >>> lesion = ResolvedTarget("one lesion", "segmentation", is_part=True)
        >>> [method.name for method in for_target([AUTO], lesion)]
        ['segxrescam']
    """
    if target.task != "segmentation":
        chosen = METHODS["gcam"]
    else:
        chosen = METHODS["segxrescam" if target.is_part else "layercam"]
    return tuple(dict.fromkeys(chosen if method == AUTO else method for method in methods))


def get(method: MethodLike, **options: Any) -> Method:
    """Return a method by name, optionally with options, e.g. ``get("segxrescam", pool=4)``.

    Args:
        method: A name of ``METHODS``, a title such as "Grad-CAM++", or a `Method`. "auto" is
            the one that suits what is explained (`for_target`).
        **options: Further parameters of the method's function.

    Raises:
        UnknownNameError: No method has this name.
        InputTypeError: ``method`` is neither a name nor a `Method`.
        InputError: The method has no such option.

    Example:
        >>> get("gcam").title
        'Grad-CAM'
    """
    if method == "auto":
        method = AUTO
    if isinstance(method, str):
        method = METHODS.get(method) or _by_name_or_title(method)
    if not isinstance(method, Method):
        raise InputTypeError(
            f"method={method!r} is not a method: give 'auto', a name ({', '.join(METHODS)}) or a "
            "medcam.methods.Method."
        )
    known = set(inspect.signature(method.function).parameters) - set(EVIDENCE)
    if not set(options) <= known:
        raise InputError(
            f"{method.title} has no option {', '.join(sorted(set(options) - known))}; "
            f"it has {', '.join(sorted(known)) or 'none'}."
        )
    if options.get("rectify") is False:
        method = method.signed_form()
    return _with_options(method, options) if options else method


def _with_options(method: Method, options: dict[str, Any]) -> Method:
    """Return a method with options of its function, also of what its map sums to."""
    total = method.total
    if total is not None:
        names = set(inspect.signature(total).parameters) & set(options)
        total = partial(total, **{name: options[name] for name in names})
    return replace(method, function=partial(method.function, **options), total=total)


def title_of(name: str) -> str:
    """Return the title of a method by its name; the name itself if it is not registered.

    Example:
        >>> title_of("gcampp"), title_of("mine")
        ('Grad-CAM++', 'mine')
    """
    return METHODS[name].title if name in METHODS else name


def _by_name_or_title(name: str) -> Method:
    """Return a method by its name or title; case, spaces, hyphens and underscores are ignored."""

    def folded(text: str) -> str:
        return text.lower().replace("plusplus", "++").translate(str.maketrans("", "", " -_"))

    for method in METHODS.values():
        if folded(name) in (folded(method.name), folded(method.title)):
            return method
    if folded(name) in ("expgrad", "expectedgradients"):
        raise InputError(
            "Expected Gradients need images of other patients: pass "
            "medcam.methods.expgrad(references), a tensor [references, channels, *space]; on the "
            "command line a method of your own code, --method path/to/file.py:name."
        )
    raise unknown_name("Method", name, METHODS)
