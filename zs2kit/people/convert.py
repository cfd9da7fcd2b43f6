"""Write the bundled weights from MediaPipe's wheel: ``python -m zs2kit.people.convert WHEEL``.

It takes the wheel of mediapipe 0.10.21 and needs the package ``tflite``, which reads the format; zs2kit
itself needs neither. The weights stay the float16 numbers that they are: only their order changes, from
TensorFlow's to torch's, and sparse ones are written out in full.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from .network import WEIGHTS, leading_to

NETWORKS: dict[str, tuple[str, dict[str, str]]] = {
    "detector": (
        "mediapipe/modules/pose_detection/pose_detection.tflite",
        {"Identity": "boxes", "Identity_1": "scores"},
    ),
    "landmarks": (
        "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
        {"Identity": "points", "Identity_1": "presence", "Identity_2": "shape"},
    ),
}
"""Each network's file in the wheel, and what its outputs are called there and here."""

Level = int | tuple[NDArray[np.int64], NDArray[np.int64]]


class Graph:
    """A tflite file, read into the operations that `zs2kit.people.network.Network` runs."""

    def __init__(self, data: bytes, outputs: dict[str, str]) -> None:
        self._tflite: Any = import_module("tflite")
        self._model = self._tflite.Model.GetRootAsModel(data, 0)
        self._graph = self._model.Subgraphs(0)
        self._constants: dict[int, NDArray[Any]] = {}
        self._paddings: dict[int, tuple[int, list[int]]] = {}  # what was padded, and by how much
        self._names = {int(self._graph.Inputs(0)): "picture"}
        for index in self._graph.OutputsAsNumpy():
            name = self._graph.Tensors(index).Name().decode()
            if name in outputs:
                self._names[int(index)] = outputs[name]
        self.size = self._shape(self._graph.Inputs(0))[1]
        self.operations: list[dict[str, Any]] = []
        self.weights: dict[str, NDArray[np.float16]] = {}
        for index in range(self._graph.OperatorsLength()):
            self._read(self._graph.Operators(index))

    def _read(self, operator: Any) -> None:
        kind = self._kind(operator)
        inputs, output = [int(each) for each in operator.InputsAsNumpy()], int(operator.Outputs(0))
        if kind in ("DEQUANTIZE", "DENSIFY"):  # of float16 weights, and of sparse ones
            self._constants[output] = self._constant(inputs[0])
            return
        if kind == "PAD":
            _, (top, bottom), (left, right), _ = self._constant(inputs[1]).tolist()
            self._paddings[output] = (inputs[0], [left, right, top, bottom])
            return
        settings = self._settings(kind, operator, inputs, output)
        count = {"ADD": 2, "CONCATENATION": len(inputs)}.get(kind, 1)
        sources = [self._paddings.get(each, (each, []))[0] for each in inputs[:count]]
        self.operations.append(
            {"inputs": [self._name(each) for each in sources], "output": self._name(output), **settings}
        )

    def _settings(self, kind: str, operator: Any, inputs: list[int], output: int) -> dict[str, Any]:
        """What an operation is called, and how it is set."""
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            return self._convolution(kind, operator, inputs, output)
        plain: dict[str, Callable[[], dict[str, Any]]] = {
            "ADD": lambda: {"op": "add", **self._activation(self._options("Add", operator))},
            "LOGISTIC": lambda: {"op": "activate", "activation": "sigmoid"},
            "MAX_POOL_2D": lambda: {"op": "largest", "side": 2},
            "RESIZE_BILINEAR": lambda: {"op": "resize", "size": self._shape(output)[1:3]},
            "DEPTH_TO_SPACE": lambda: {"op": "spread", "side": 2},
            "RESHAPE": lambda: {"op": "flatten", "columns": self._shape(output)[-1]},
            "CONCATENATION": lambda: {"op": "join"},
        }
        return plain[kind]()

    def _convolution(self, kind: str, operator: Any, inputs: list[int], output: int) -> dict[str, Any]:
        options = self._options("Conv2D" if kind == "CONV_2D" else "DepthwiseConv2D", operator)
        weight, name = self._constant(inputs[1]), self._name(output)
        stride = options.StrideH()
        groups = weight.shape[3] if kind == "DEPTHWISE_CONV_2D" else 1
        self.weights[name] = weight.transpose((3, 0, 1, 2) if groups > 1 else (0, 3, 1, 2))
        self.weights[name + ".bias"] = self._constant(inputs[2])
        source, padding = self._paddings.get(inputs[0], (inputs[0], [0, 0, 0, 0]))
        if options.Padding() == self._tflite.Padding.SAME:
            assert inputs[0] not in self._paddings
            padding = []
            for axis in (2, 1):  # width, then height
                size, kernel = self._shape(source)[axis], weight.shape[axis]
                missing = max(0, (self._shape(output)[axis] - 1) * stride + kernel - size)
                padding += [missing // 2, missing - missing // 2]
        return {
            "op": "conv",
            "weight": name,
            "bias": name + ".bias",
            "stride": stride,
            "padding": padding,
            "groups": groups,
            **self._activation(options),
        }

    def _activation(self, options: Any) -> dict[str, str]:
        kinds = self._tflite.ActivationFunctionType
        names = {kinds.NONE: "none", kinds.RELU6: "relu6"}
        return {"activation": names[options.FusedActivationFunction()]}

    def _options(self, name: str, operator: Any) -> Any:
        options = getattr(self._tflite, f"{name}Options")()
        options.Init(operator.BuiltinOptions().Bytes, operator.BuiltinOptions().Pos)
        return options

    def _kind(self, operator: Any) -> str:
        code = self._model.OperatorCodes(operator.OpcodeIndex())
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        names: dict[int, str] = {value: name for name, value in vars(self._tflite.BuiltinOperator).items()}
        return names[number]

    def _name(self, index: int) -> str:
        return self._names.get(index, str(index))

    def _shape(self, index: int) -> list[int]:
        return [int(size) for size in self._graph.Tensors(index).ShapeAsNumpy()]

    def _constant(self, index: int) -> NDArray[Any]:
        """The numbers that the file holds for a value."""
        if index not in self._constants:
            tensor, types = self._graph.Tensors(index), self._tflite.TensorType
            kind: Any = {types.FLOAT16: np.float16, types.INT32: np.int32}[tensor.Type()]
            numbers = self._model.Buffers(tensor.Buffer()).DataAsNumpy().view(kind)
            shape, sparsity = self._shape(index), tensor.Sparsity()
            if sparsity:
                axes = sparsity.TraversalOrderAsNumpy().tolist()
                assert axes == list(range(len(shape))), "sparse blocks can't be read"
                levels = [self._level(sparsity.DimMetadata(axis)) for axis in axes]
                self._constants[index] = dense(numbers, shape, levels)
            else:
                self._constants[index] = numbers.reshape(shape)
        return self._constants[index]

    def _level(self, axis: Any) -> Level:
        """Which positions along an axis of a sparse tensor have numbers."""
        if axis.Format() == self._tflite.DimensionType.DENSE:
            return int(axis.DenseSize())
        return self._vector(axis, "ArraySegments"), self._vector(axis, "ArrayIndices")

    def _vector(self, axis: Any, name: str) -> NDArray[np.int64]:
        """A list of whole numbers, which the format keeps in one of three widths."""
        kinds = self._tflite.SparseIndexVector
        names = {kinds.Int32Vector: "Int32", kinds.Uint16Vector: "Uint16", kinds.Uint8Vector: "Uint8"}
        vector = getattr(self._tflite, names[getattr(axis, f"{name}Type")()] + "Vector")()
        table = getattr(axis, name)()
        vector.Init(table.Bytes, table.Pos)
        return np.array([vector.Values(index) for index in range(vector.ValuesLength())], np.int64)


def dense(numbers: NDArray[Any], shape: list[int], levels: list[Level]) -> NDArray[Any]:
    """Write out a sparse tensor, of which ``numbers`` are those that aren't left out.

    A level, one for each axis, is how many positions there are, all with numbers, or which of them have some:
    where those under each position of the level before begin, and end, in a list of positions.
    """
    places = np.zeros((1, 0), np.int64)
    for level in levels:
        if isinstance(level, int):
            under = np.tile(np.arange(level), len(places))
            counts: Any = level
        else:
            segments, under = level
            counts = np.diff(segments)
        places = np.column_stack([np.repeat(places, counts, axis=0), under])
    whole = np.zeros(shape, numbers.dtype)
    whole[tuple(places.T)] = numbers
    return whole


def convert(wheel: Path, folder: Path = WEIGHTS) -> None:
    """Write the two networks in ``wheel`` to ``folder``."""
    with zipfile.ZipFile(wheel) as archive:
        for name, (path, outputs) in NETWORKS.items():
            graph = Graph(archive.read(path), outputs)
            needed = leading_to(outputs.values(), graph.operations)
            weights = {
                operation[each]: np.ascontiguousarray(graph.weights[operation[each]])
                for operation in needed
                for each in ("weight", "bias")
                if each in operation
            }
            content = json.dumps({"size": graph.size, "operations": needed}, separators=(",", ":"))
            save_file(weights, folder / f"{name}.safetensors", {"graph": content})
            print(f"{name}: {len(needed)} operations, {sum(each.nbytes for each in weights.values())} bytes")


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
