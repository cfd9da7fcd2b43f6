"""Run a small network whose operations and weights lie together in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

WEIGHTS = Path(__file__).parent / "weights"

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda values: values,
    "relu6": lambda values: values.clamp_(0, 6),  # in place, since nobody else has seen them
    "sigmoid": torch.sigmoid,
}


class Network:
    """A network that `zs2kit.people.convert` has written: a list of operations, and what they need.

    Each operation is a dictionary: ``op`` is its name, ``inputs`` and ``output`` name values, and the rest
    are its settings. Values are (pictures, channels, height, width) in float32 or, once flattened,
    (pictures, rows, columns).
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        with safe_open(path, framework="pt") as file:
            self._weights = {name: file.get_tensor(name).float().to(device) for name in file.keys()}  # noqa: SIM118
            graph = json.loads(file.metadata()["graph"])
        self._operations: list[dict[str, Any]] = graph["operations"]
        self.size: int = graph["size"]  # pixels of the side of the square picture that it takes
        self.device = torch.device(device)
        for name, weight in self._weights.items():
            if weight.ndim == 4:
                self._weights[name] = weight.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, pictures: Tensor, *outputs: str) -> list[Tensor]:
        """Return the values called ``outputs`` for pictures (pictures, 3, size, size)."""
        operations = leading_to(outputs, self._operations)
        values = {"picture": pictures.to(self.device).contiguous(memory_format=torch.channels_last)}
        uses = [name for operation in operations for name in operation["inputs"]]
        for operation in operations:
            values[operation["output"]] = self._run(operation, [values[each] for each in operation["inputs"]])
            for name in operation["inputs"]:  # let go of what nobody asks for any more
                uses.remove(name)
                if name not in uses and name not in outputs:
                    values.pop(name, None)
        return [values[name] for name in outputs]

    def _run(self, operation: dict[str, Any], values: list[Tensor]) -> Tensor:
        value, name = values[0], operation["op"]
        if name == "conv":
            weight, bias = self._weights[operation["weight"]], self._weights[operation["bias"]]
            left, right, top, bottom = operation["padding"]
            if left != right or top != bottom:
                value, top, left = F.pad(value, (left, right, top, bottom)), 0, 0
            value = F.conv2d(value, weight, bias, operation["stride"], (top, left), 1, operation["groups"])
        elif name == "add":
            value = value + values[1]
        elif name == "largest":
            value = F.max_pool2d(value, operation["side"])
        elif name == "resize":
            value = F.interpolate(value, operation["size"], mode="bilinear", align_corners=False)
        elif name == "spread":  # channels, those of a block of pixels one after another, become pixels
            side, (frames, channels, height, width) = operation["side"], value.shape
            value = value.reshape(frames, side, side, channels // side**2, height, width)
            value = value.permute(0, 3, 4, 1, 5, 2).reshape(frames, -1, height * side, width * side)
        elif name == "flatten":
            value = value.permute(0, 2, 3, 1).reshape(value.shape[0], -1, operation["columns"])
        elif name == "join":
            value = torch.cat(values, dim=1)
        elif name != "activate":
            raise ValueError(f"no operation is called '{name}'")
        return ACTIVATIONS[operation.get("activation", "none")](value)


def leading_to(outputs: Iterable[str], operations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those of ``operations``, in their order, without which ``outputs`` can't be had."""
    wanted, found = set(outputs), []
    for operation in reversed(operations):
        if operation["output"] in wanted:
            wanted |= set(operation["inputs"])
            found.append(operation)
    return found[::-1]
