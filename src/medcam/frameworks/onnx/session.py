"""Models of ONNX files as modules, which ONNX Runtime runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from medcam.engine.model.opaque import Opaque
from medcam.errors import (
    InputError,
    InputTypeError,
    foreign_errors,
    image_error,
    require,
    unknown_name,
)

if TYPE_CHECKING:
    import onnxruntime

_TYPES = {
    "tensor(float16)": torch.float16, "tensor(float)": torch.float32,
    "tensor(double)": torch.float64, "tensor(bool)": torch.bool, "tensor(uint8)": torch.uint8,
    "tensor(int8)": torch.int8, "tensor(int16)": torch.int16, "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64,
}  # fmt: skip
"""ONNX Runtime's names of types."""


def load(
    path: str | Path,
    *,
    providers: Sequence[str | tuple[str, Mapping[str, Any]]] | None = None,
    output: str | int | None = None,
) -> nn.Module:
    """Return the model of an ONNX file as a module that ONNX Runtime runs.

    Inputs are given in the order of the file, or by their names. They are converted to the types
    that the model wants; floating-point outputs have the type and device of the first input. A
    model exported for a fixed number of samples runs as often as needed. Nothing is unpickled, and
    no library of custom operators is loaded.

    Export the logits: in probabilities, after a softmax, confident predictions hardly change.

    Args:
        path: The file.
        providers: ONNX Runtime's execution providers, in the order of preference; None: the CPU.
        output: The output to return, by name or number; None: the only one, or all, as a dict by
            name.

    Raises:
        InputError: The file is missing, damaged, or no model that ONNX Runtime can run, or there
            is no such provider or output.
        MissingPackageError: onnxruntime is not installed: ``pip install 'm3d-cam[onnx]'``.

    Example:
        >>> load("none.onnx")
        Traceback (most recent call last):
        medcam.errors.InputError: 'none.onnx' is not a file: give the path of an .onnx file.
    """
    runtime = require("onnxruntime", extra="onnx")
    path = Path(path)
    if not path.is_file():
        raise InputError(f"'{path}' is not a file: give the path of an .onnx file.")
    chosen = ["CPUExecutionProvider"] if providers is None else list(providers)
    available = runtime.get_available_providers()
    for provider in chosen:
        name = provider if isinstance(provider, str) else provider[0]
        if name not in available:
            raise unknown_name("Execution provider", name, available)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only: warnings about the graph are not the user's
    with foreign_errors(f"'{path}' cannot be read as an ONNX model", "Is it damaged?"):
        session = runtime.InferenceSession(str(path), options, providers=chosen)
    return OnnxModel(session, path, _chosen_outputs(session, output), output is None)


def _chosen_outputs(session: onnxruntime.InferenceSession, output: str | int | None) -> list[str]:
    """Return the names of the outputs to compute.

    Raises:
        InputError: There is no such output, or it is no tensor.
    """
    kinds = {item.name: item.type for item in session.get_outputs()}
    names = list(kinds)
    if isinstance(output, int) and not -len(names) <= output < len(names):
        raise InputError(f"output={output}: the model has {len(names)}: {', '.join(names)}.")
    if isinstance(output, str) and output not in kinds:
        raise unknown_name("Output", output, names)
    if output is not None:
        names = [output if isinstance(output, str) else names[output]]
    for name in names:
        if not kinds[name].startswith("tensor("):
            raise InputError(
                f"Output {name!r} of the model is {kinds[name]}, not a tensor: choose another one "
                f"of {', '.join(kinds)} with output=."
            )
    return names


class OnnxModel(Opaque):
    """Model that ONNX Runtime runs; see `load`."""

    def __init__(
        self, session: onnxruntime.InferenceSession, path: Path, outputs: list[str], several: bool
    ) -> None:
        super().__init__()
        self._session = session
        self._path = str(path)
        self._outputs = tuple(outputs)
        self._as_dict = several and len(outputs) > 1
        self._wanted = {item.name: (item.type, item.shape) for item in session.get_inputs()}

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Return the output, or all outputs as a dict by name."""
        tensors = self._by_name(inputs, named)
        first = next(iter(tensors.values()))
        arrays = {name: self._array(name, tensor) for name, tensor in tensors.items()}
        values = [self._back(array, first) for array in self._run(arrays)]
        by_name = dict(zip(self._outputs, values, strict=True))
        return self.barred(by_name if self._as_dict else values[0], list(tensors.values()))

    def _by_name(self, inputs: Sequence[Tensor], named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs by name, in the order of the file.

        Raises:
            InputError: There is one too many or too few.
            InputTypeError: One is no tensor.
        """
        names = list(self._wanted)
        tensors = {**dict(zip(names, inputs, strict=False)), **named}
        is_twice = len(tensors) != len(inputs) + len(named)
        if is_twice or set(tensors) != set(names):
            raise InputError(
                f"The ONNX model takes {len(names)} input(s), {self._wishes()}; it was given "
                f"{len(inputs)} by position"
                + (f" and {', '.join(map(repr, named))} by name." if named else ".")
            )
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                raise InputTypeError(
                    f"Input {name!r} of the ONNX model is {type(tensor).__name__}: give a tensor."
                )
        return {name: tensors[name] for name in names}

    def _wishes(self) -> str:
        """Return the inputs as text."""
        return ", ".join(
            f"{name!r} {_shown(shape)}" for name, (_, shape) in self._wanted.items()
        )  # fmt: skip

    def _array(self, name: str, tensor: Tensor) -> np.ndarray[Any, Any]:
        """Return an input as the model wants it.

        Raises:
            InputError: It has other axes or extents than the model takes, or a type without name.
        """
        kind, shape = self._wanted[name]
        if kind not in _TYPES:
            raise InputError(f"Input {name!r} of the ONNX model is {kind}, which has no tensor.")
        pairs = zip(tensor.shape[1:], shape[1:], strict=False)
        differs = any(isinstance(extent, int) and size != extent for size, extent in pairs)
        if shape and (tensor.ndim != len(shape) or differs):  # a model may leave its shape open
            raise image_error(
                f"The ONNX model takes {name!r} as {_shown(shape)}; it was given "
                f"{list(tensor.shape)}. Resample, crop or pad the image to that, or export the "
                "model with free extents."
            )
        plain = tensor.detach().to(device="cpu", dtype=_TYPES[kind])
        array: np.ndarray[Any, Any] = np.ascontiguousarray(plain.numpy())
        return array

    def _run(self, arrays: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """Return the outputs; a model of a fixed number of samples runs on so many at a time."""
        name, first = next(iter(arrays.items()))
        shape = self._wanted[name][1]
        batch, fixed = len(first) if first.ndim else 0, shape[0] if shape else None
        if not isinstance(fixed, int) or fixed < 1 or fixed == batch or not batch:
            return self._outputs_of(arrays)
        parts = []
        for start in range(0, batch, fixed):
            rows = np.minimum(np.arange(start, start + fixed), batch - 1)  # repeats the last one
            part = self._outputs_of(
                {
                    key: value[rows] if value.ndim and len(value) == batch else value
                    for key, value in arrays.items()
                }
            )
            for output, array in zip(self._outputs, part, strict=True):
                if not array.ndim or len(array) != fixed:
                    raise InputError(
                        f"The ONNX model takes {fixed} sample(s) at a time, and output {output!r} "
                        f"has the shape {list(array.shape)}, not one row for each: choose another "
                        "with output=, or export the model with a free batch."
                    )
            parts.append(part)
        return [np.concatenate(arrays)[:batch] for arrays in zip(*parts, strict=True)]

    def _outputs_of(self, arrays: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """Run the session once."""
        with foreign_errors(f"ONNX Runtime cannot run the model, which takes {self._wishes()}"):
            outputs: list[np.ndarray[Any, Any]] = self._session.run(list(self._outputs), arrays)
        return outputs

    @staticmethod
    def _back(array: np.ndarray[Any, Any], like: Tensor) -> Tensor:
        return beside(torch.from_numpy(np.array(array)), like)

    def extra_repr(self) -> str:
        """Return the file and the shapes of the inputs."""
        return f"{self._path!r}, {self._wishes()}"

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxModel:
        """Return a model with the same session, which holds no state."""
        several = self._as_dict
        twin = OnnxModel(self._session, Path(self._path), list(self._outputs), several)
        memo[id(self)] = twin
        return twin.train(self.training)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Raise: a session cannot be pickled."""
        raise InputTypeError(
            "A model of ONNX Runtime cannot be pickled: pass the path, and call "
            f"medcam.onnx.load({self._path!r}) where it is needed."
        )


def beside(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a tensor on the device of another one, and of its type if both are floating."""
    is_float = tensor.is_floating_point() and like.is_floating_point()
    return tensor.to(device=like.device, dtype=like.dtype if is_float else tensor.dtype)


def _shown(shape: Sequence[Any]) -> str:
    """Return a shape as text; extents that are free are named."""
    return f"[{', '.join('any' if extent is None else str(extent) for extent in shape)}]"
