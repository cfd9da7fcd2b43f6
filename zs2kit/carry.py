"""The carry: all that the next chunk of a clip must know of the chunks before it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


class Carry(dict[str, torch.Tensor]):
    """Named float32 tensors: the last frame of each noise chain and of each running average.

    Empty at the start of a clip and after a scene cut. Float32, because a running average at
    momentum .98 stagnates in half precision.
    """

    @property
    def nbytes(self) -> int:
        """Bytes that the tensors take."""
        return sum(tensor.nbytes for tensor in self.values())

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file."""
        save_file({name: tensor.contiguous() for name, tensor in self.items()}, path)

    @classmethod
    def load(cls, path: str | Path) -> Carry:
        """Read a file that `save` wrote; its tensors go to the model's device as they are used."""
        return cls(load_file(path))
