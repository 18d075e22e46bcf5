"""The state of an injected model between calls, and the flow of one call."""

from __future__ import annotations

import dataclasses
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcam.engine.model import isolation
from medcam.engine.notices import Notices
from medcam.engine.request import Request
from medcam.engine.run import run
from medcam.engine.target.resolution import TargetLike
from medcam.errors import InputError, MedcamError, NoMapError, reason_of, warn
from medcam.explanation.explanation import Explanation, explanation_of
from medcam.injection.arguments import validate
from medcam.injection.failures import REPLICA, Remembering, concerns_map_only, without_map
from medcam.injection.recording import Recording
from medcam.injection.settings import Settings
from medcam.injection.wrappers import explained_model, through_wrapper
from medcam.maps import AttentionMap

_MAX_PENDING = 64
"""The number of calls, at most, whose notices wait for the device."""

_Pending = deque[tuple[Callable[[], bool], Notices]]


class Session:
    """The state of an injected model.

    Args:
        settings: The options of `medcam.inject`.
        enabled: Whether calls make maps.
        layer_ordering: The order of the layers in the score table.

    Attributes:
        settings: The options of `medcam.inject`.
        enabled: Whether calls make maps.
        last: The last call's explanation; None before the first call, and in a copy.
    """

    def __init__(self, settings: Settings, *, enabled: bool, layer_ordering: Sequence[str]) -> None:
        self.settings = settings
        self.enabled = enabled
        self.last: Explanation | None = None
        self._automatic_layers: dict[tuple[int, ...], str] = {}
        self._pending: _Pending = deque(maxlen=_MAX_PENDING)
        self._recording = Recording(settings, layer_ordering)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "last": None, "_pending": deque(maxlen=_MAX_PENDING)}

    def run(
        self,
        model: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        label: TargetLike = None,
        mask: Any = None,
        raw_input: Any = None,
        reference: Any = None,
        data_shape: Any = ...,
    ) -> Any:
        """Run one call of the injected model, record it, and return what the settings ask for.

        Args:
            model: The injected model.
            forward: The model's own forward.
            args: The model's positional inputs.
            kwargs: The model's keyword inputs.
            label: As in `InjectedModel.forward`.
            mask: As in `InjectedModel.forward`.
            raw_input: As in `InjectedModel.forward`.
            reference: As in `InjectedModel.forward`.
            data_shape: As in `InjectedModel.forward`; an ellipsis: that of `medcam.inject`.
        """
        self._report_earlier_calls()
        arguments = validate(
            self.settings, model, args, kwargs, label=label, mask=mask, raw_input=raw_input,
            reference=reference,
        )  # fmt: skip
        request = self.settings.request
        if label is not None:
            request = dataclasses.replace(request, target=label)
        if data_shape is not ...:
            request = dataclasses.replace(request, shape=data_shape)
        call = self._recording.reserve()
        if self.settings.on_error == "warn":
            request = dataclasses.replace(request, by_sample=f"Call {call}: ")
        keep_graph = isolation.keeps_graph(model, (args, dict(kwargs)))
        run_model = Remembering(through_wrapper(model, forward, keep_graph=keep_graph), keep_graph)
        explanation, scores, failed = None, None, False
        try:
            explanation = self._explain(
                model, run_model, args, kwargs, request, arguments.space, keep_graph
            )
            self._remember(explanation)
            scores = self._recording.record(explanation, arguments, call)
        except BaseException as error:
            if not self._costs_only_the_map(error):
                if explanation is None:
                    self._recording.release(call)
                raise
            warn(without_map(error, call, is_made=explanation is not None))
            failed = explanation is None or isinstance(error, NoMapError)
            traceback.clear_frames(error.__traceback__)  # activations, if the model runs again
        if failed or explanation is None:
            self.last = None
            self._recording.record_failure(arguments, call)
            output = run_model.output if run_model.has_run else forward(*args, **kwargs)
            return self._returned_without_map(output)
        return self._returned(explanation, scores)

    def _costs_only_the_map(self, error: BaseException) -> bool:
        """Return whether a call goes on with its prediction after an error."""
        if self.settings.on_error == "raise" or self.settings.replace:
            return False
        return concerns_map_only(error)

    def refuse_replica(self) -> None:
        """Warn that copies of the model on several devices make no maps.

        Raises:
            InputError: Errors are to be raised, or the map is asked for.
        """
        settings = self.settings
        returns_map = settings.replace or settings.return_attention or settings.return_score
        if settings.on_error == "raise" or returns_map:
            raise InputError(REPLICA)
        warn(REPLICA)

    def test_run(self, model: nn.Module, forward: Callable[..., Any], batch: Any) -> list[str]:
        """Return the layers that maps can be made of; write them to the output folder."""
        request = dataclasses.replace(self.settings.request, layer="full", shape=None)
        if not request.methods[0].of_layer:
            request = Request.of(
                "gcam", layer="full", shape=None, output=request.output, memory=request.memory
            )
        call = through_wrapper(model, forward, keep_graph=False)
        layer = run(request, explained_model(model), call, (batch,), {}).layer
        names = [layer] if isinstance(layer, str) else list(layer or ())
        self._recording.write_layers(names)
        return names

    def attention_map(self) -> Any:
        """Return the last call's map as a numpy array, or a dict of these by layer."""
        if self.last is None:
            return None
        maps = {
            key: self.settings.values_of(item).detach().cpu().numpy()
            for key, item in self.last.maps.items()
        }
        return next(iter(maps.values())) if len(maps) == 1 else maps

    @property
    def calls(self) -> int:
        """The number of calls so far."""
        return self._recording.calls

    def change_target(self, target: TargetLike) -> None:
        """Explain another target from now on."""
        request = dataclasses.replace(self.settings.request, target=target)
        self.settings = self.settings.changed(request=request)

    def save_user_map(self, attention_map: Any, raw_input: Any) -> Path:
        """Save a map of the user's own beside those of the last call."""
        key = None if self.last is None else next(iter(self.last.maps), None)
        return self._recording.save_user_map(attention_map, raw_input, key)

    def dump(self) -> None:
        """Write what was collected over the calls."""
        self._recording.dump()

    def _report_earlier_calls(self) -> None:
        """Report notices of earlier calls that the device has finished."""
        while self._pending and self._pending[0][0]():
            notices = self._pending.popleft()[1]
            try:
                notices.report()
            except MedcamError as error:  # of that call, whose prediction has been returned
                if not self._costs_only_the_map(error):
                    raise
                warn(f"{notices.by_sample}the map could not be made: {reason_of(error)}")

    def _explain(
        self,
        model: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        request: Request,
        size: tuple[int, ...],
        keep_graph: bool,
    ) -> Explanation:
        """Run the model and return its maps; the automatic layer is chosen once per input size."""
        automatic = request.chooses_layer
        if automatic and size in self._automatic_layers:
            request = dataclasses.replace(request, layer=self._automatic_layers[size])
        explained = explained_model(model)
        result = run(request, explained, forward, args, kwargs, keep_graph=keep_graph)
        is_checked = "automatic_layer" in result.details  # remembered by the engine
        if automatic and isinstance(result.layer, str) and result.names_run and not is_checked:
            self._automatic_layers[size] = result.layer
        return explanation_of(result, model=model)

    def _remember(self, explanation: Explanation) -> None:
        """Keep a call's maps, and its notices until the device has finished the call.

        The output's graph and the inputs belong to the caller: they are not kept.
        """
        self.last = dataclasses.replace(explanation, output=None, inputs=None)
        notices = explanation._notices
        if notices.pending:  # never on the CPU
            self._pending.append((_completion_query(explanation), notices))

    def _returned(self, explanation: Explanation, scores: Mapping[str, list[float]] | None) -> Any:
        """Return the output, the map and the scores, as the settings ask for them."""
        settings, value = self.settings, explanation.output
        if settings.replace:
            value = self._single_map(explanation)
        elif settings.return_attention:
            value = value, self._single_map(explanation)
        return (value, scores) if settings.return_score else value

    def _returned_without_map(self, output: Any) -> Any:
        """Return the output, with None in place of the map and the scores that were asked for."""
        value = (output, None) if self.settings.return_attention else output
        return (value, None) if self.settings.return_score else value

    def _single_map(self, explanation: Explanation) -> Tensor:
        """Return the values of the only map, without waiting for the device.

        Raises:
            InputError: There are several maps.
        """
        items: list[AttentionMap] = list(explanation.unchecked.values())
        if len(items) != 1:
            raise InputError(
                f"replace= and return_attention= return one map, but layer="
                f"{self.settings.request.layer!r} makes {len(items)}: name one layer, or use "
                "model.get_attention_map(), which is then a dict by layer."
            )
        return self.settings.values_of(items[0])


def _completion_query(explanation: Explanation) -> Callable[[], bool]:
    """Return a non-blocking query for completion of a call.

    On a device without events the query is always False: notices are then reported when the maps
    are read.
    """
    device = next(iter(explanation.unchecked.values())).values.device
    backend: Any = getattr(torch, device.type, None)
    if not hasattr(backend, "Event"):
        return lambda: False
    with backend.device(device):
        event = backend.Event()
        event.record()
    query: Callable[[], bool] = event.query
    return query
