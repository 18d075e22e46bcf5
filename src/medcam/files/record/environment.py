"""What else a map depends on: versions of packages, the device, and the modes of PyTorch."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

_ALWAYS = {"medcam": "m3d-cam", "torch": "torch", "numpy": "numpy"}
# Packages whose code may take part in a map: their distributions by the module's name.
_IF_IMPORTED = {
    "nnunetv2": "nnunetv2",
    "dynamic_network_architectures": "dynamic-network-architectures",
    "monai": "monai",
    "torchio": "torchio",
    "torchvision": "torchvision",
    "timm": "timm",
    "SimpleITK": "SimpleITK",
}


def installed_versions() -> dict[str, str]:
    """Return the versions of Python, medcam and its core packages, and of networks' packages.

    Packages of networks and formats are listed if they are imported.

    Example:
        >>> {"medcam", "numpy", "python", "torch"} <= set(installed_versions())
        True
    """
    imported = {name: package for name, package in _IF_IMPORTED.items() if name in sys.modules}
    versions = {name: _version(package) for name, package in {**_ALWAYS, **imported}.items()}
    versions["python"] = platform.python_version()
    return {name: version for name, version in versions.items() if version is not None}


def _version(package: str) -> str | None:
    """Return the version of an installed package; None if it is not a distribution."""
    if package == "torch":
        return str(torch.__version__)  # with its build, as in 2.4.0+cu121
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def environment_of(model: nn.Module, values: Iterable[Tensor]) -> dict[str, Any]:
    """Return the device and the modes of PyTorch that the last bits of a map depend on.

    Args:
        model: The model that was explained.
        values: The values of its maps.
    """
    parameters = [*model.parameters(), *model.buffers()]
    tensors = [*values, *parameters[:1]]
    # A volume's sums may lie in the main memory, while the network is on a GPU.
    device = next((t.device for t in tensors if t.device.type != "cpu"), torch.device("cpu"))
    environment = {
        "device": str(device),
        "processor": _processor(device),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
        "dtype": str(parameters[0].dtype).removeprefix("torch.") if parameters else None,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    if device.type == "cuda":
        environment["cuda"] = torch.version.cuda or torch.version.hip
        environment["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        environment["cudnn_tf32"] = bool(torch.backends.cudnn.allow_tf32)
        environment["cudnn_benchmark"] = bool(torch.backends.cudnn.benchmark)
    return environment


def _processor(device: torch.device) -> str:
    """Return the GPU's name, or the CPU's architecture and the instructions that PyTorch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capability = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "")()
    return f"{platform.machine()} {capability}".strip()
