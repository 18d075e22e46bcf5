"""ONNX files of small networks, written node by node with the weights of a PyTorch network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from support.nets import Classifier, conv


class Segmenter(nn.Module):
    """Two convolutions at the resolution of the image."""

    def __init__(self, dims: int = 3, classes: int = 3) -> None:
        super().__init__()
        self.first = conv(dims, 1, 4, 3, padding=1)
        self.head = conv(dims, 4, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.first(x)))


def convolution(name: str, module: Any, source: str, result: str) -> Any:
    dims = len(module.kernel_size)
    return helper.make_node(
        "Conv", [source, f"{name}.weight", f"{name}.bias"], [result],
        kernel_shape=list(module.kernel_size), pads=[*module.padding] * 2, strides=[1] * dims,
    )  # fmt: skip


def write_classifier(net: Classifier, path: Path, shape: list[Any], batch: Any = "batch") -> Path:
    """Write a `Classifier`; ``shape`` is that of its input."""
    nodes = [
        convolution("features.0", net.features[0], "image", "a"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        convolution("features.3", net.features[3], "c", "d"),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "head.weight", "head.bias"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [
        ("logits", TensorProto.FLOAT, [batch, net.head.out_features]),
        ("probabilities", TensorProto.FLOAT, [batch, net.head.out_features]),
        ("label", TensorProto.INT64, [batch]),
    ]
    return write(net, path, nodes, [("image", TensorProto.FLOAT, shape)], outputs)


def write_segmenter(net: Segmenter, path: Path, space: list[Any]) -> Path:
    """Write a `Segmenter` that takes a batch of any size."""
    nodes = [
        convolution("first", net.first, "image", "a"),
        helper.make_node("Relu", ["a"], ["b"]),
        convolution("head", net.head, "b", "logits"),
    ]
    inputs = [("image", TensorProto.FLOAT, ["batch", 1, *space])]
    outputs = [("logits", TensorProto.FLOAT, ["batch", net.head.out_channels, *space])]
    return write(net, path, nodes, inputs, outputs)


def write(net: nn.Module, path: Path, nodes: Any, inputs: Any, outputs: Any) -> Path:
    """Write a graph whose initializers are the parameters of a network."""
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info(*item) for item in outputs],
        [numpy_helper.from_array(v.numpy(), name) for name, v in net.state_dict().items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path
