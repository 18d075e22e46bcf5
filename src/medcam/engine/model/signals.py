"""Recognise models of 1D signals, such as an ECG or EEG: inputs ``[batch, channels, time]``.

A floating-point tensor of three axes can also be a picture without its batch axis, or embedded
tokens ``[batch, tokens, channels]``. Its shape does not tell, so the model's layers decide.
"""

from __future__ import annotations

from torch import Tensor, nn

_ALONG_ONE_AXIS = (
    *(nn.Conv1d, nn.ConvTranspose1d, nn.LazyConv1d, nn.LazyConvTranspose1d),
    *(nn.MaxPool1d, nn.AvgPool1d, nn.LPPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
)
_ALONG_SEVERAL_AXES = (
    *(nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


def reads_signals(model: nn.Module) -> bool:
    """Return whether a model reads 1D signals.

    It does if it holds convolutions or poolings along one axis, and no layer for two or three.
    Batch norms do not count, because those of vectors are the same modules.

    Example:
        >>> reads_signals(nn.Conv1d(12, 4, 3)), reads_signals(nn.Conv2d(1, 4, 3))
        (True, False)
    """
    modules = list(model.modules())
    if any(isinstance(module, _ALONG_SEVERAL_AXES) for module in modules):
        return False
    return any(isinstance(module, _ALONG_ONE_AXIS) for module in modules)


def is_signal(value: object, model: nn.Module) -> bool:
    """Return whether an input of a model is a batch of 1D signals ``[batch, channels, time]``.

    Args:
        value: The input.
        model: The model.
    """
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.ndim == 3
        and reads_signals(model)
        and not has_channels_last(value, model)
    )


def has_channels_last(tensor: Tensor, model: nn.Module) -> bool:
    """Return whether a tensor fits a model's convolutions as ``[batch, time, channels]`` only.

    The model transposes such an input, e.g. embedded tokens: its last axis has the channels of the
    first convolution, and its second axis those of none.
    """
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv1d))
    channels = [convolution.in_channels for convolution in convolutions]
    return bool(channels) and tensor.shape[2] == channels[0] and tensor.shape[1] not in channels
