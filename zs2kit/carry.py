"""The carry: all that the next chunk of a clip must know of the chunks before it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

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

    def fetch(self, name: str, device: torch.device) -> torch.Tensor | None:
        """Return what is kept under ``name``, on ``device``; None if there is nothing."""
        tensor = self.get(name)
        return None if tensor is None else tensor.to(device)

    def keep(self, name: str, tensor: torch.Tensor) -> None:
        """Keep a copy of ``tensor``."""
        self[name] = tensor.clone()

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file."""
        save_file({name: tensor.contiguous() for name, tensor in self.items()}, path)

    @classmethod
    def load(cls, path: str | Path) -> Carry:
        """Read a file that `save` wrote; its tensors go to the model's device as they are used."""
        return Carry(load_file(path))


class HostCarry(Carry):
    """A carry that lies in host memory, for a ``device`` that is short of its own.

    Copies run beside the computing: what a layer keeps leaves while those after it compute, and what it
    fetches comes while the one before computes, since a chunk asks in the order in which the last one kept.
    Who reads it in another way synchronizes the device before.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._backend: Any = torch.get_device_module(device)
        self._pinned = device.type == "cuda"
        self._beside = self._backend.Stream()
        self._kept: list[str] = []  # in order
        self._next: dict[str, str] = {}  # what is asked for after what
        self._coming: dict[str, torch.Tensor] = {}
        self._leaving: torch.Tensor | None = None  # its memory must not be another's before it has left

    @classmethod
    def of(cls, carry: Carry, device: torch.device) -> HostCarry:
        """Return what ``carry`` holds, in host memory."""
        moved = cls(device)
        for name, tensor in carry.items():
            moved.keep(name, tensor)
        return moved

    def fetch(self, name: str, device: torch.device) -> torch.Tensor | None:
        """As `Carry.fetch`, and let what is asked for next come already."""
        if name not in self:
            return None
        self._next = self._next or dict(pairwise(self._kept))
        tensor = self._coming[name] if name in self._coming else self._copied(self[name], device)
        self._backend.current_stream().wait_stream(self._beside)
        following = self._next.get(name)
        self._coming = {following: self._copied(self[following], device)} if following else {}
        return tensor

    def keep(self, name: str, tensor: torch.Tensor) -> None:
        """As `Carry.keep`."""
        self._backend.current_stream().wait_stream(self._beside)  # what was leaving has left
        self._leaving = tensor.clone()
        self[name] = self._copied(self._leaving, torch.device("cpu"))
        self._kept.append(name)

    def save(self, path: str | Path) -> None:
        """As `Carry.save`."""
        self._backend.synchronize()
        super().save(path)

    def _copied(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Return what will be a copy of ``tensor`` once the stream beside has come so far."""
        pinned = self._pinned and device.type == "cpu"
        copy = torch.empty_like(tensor, device=device, pin_memory=pinned)
        self._beside.wait_stream(self._backend.current_stream())
        with self._backend.stream(self._beside):
            copy.copy_(tensor, non_blocking=True)
        return copy
