"""The carry: all that the next chunk of a clip must know about the chunks before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file


class Carry(dict[str, torch.Tensor]):
    """Named float32 tensors: the last frame of each noise chain and of each running average.

    Empty at the start of a clip and after a cut. They are float32 because a running average at momentum
    0.98 stagnates in half precision.
    """

    @property
    def nbytes(self) -> int:
        """The bytes that the tensors take."""
        return sum(tensor.nbytes for tensor in self.values())

    def fetch(self, name: str, device: torch.device) -> torch.Tensor | None:
        """Return the tensor called ``name``, on ``device``; None if there is none."""
        tensor = self.get(name)
        return None if tensor is None else tensor.to(device)

    def keep(self, name: str, tensor: torch.Tensor) -> None:
        """Store a copy of ``tensor`` as ``name``."""
        self[name] = tensor.clone()

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file."""
        save_file({name: tensor.contiguous() for name, tensor in self.items()}, path)

    @classmethod
    def load(cls, path: str | Path) -> Carry:
        """Read a file that `save` wrote. Its tensors are in host memory until `fetch` moves them."""
        return Carry(load_file(path))


def within(carry: Carry, prefix: str) -> Carry:
    """Return the tensors whose names begin with ``prefix``, called by the rest of their names."""
    return Carry({name.removeprefix(prefix): it for name, it in carry.items() if name.startswith(prefix)})


_ROW = "row/"  # how the names of a row's tensors begin in a carry


class Row(NamedTuple):
    """A shot's frames that are still to be drawn, between two denoising steps."""

    step: int  # the index of the next step
    latents: torch.Tensor  # (frames, channels, height, width), in host memory
    memory: Mapping[str, torch.Tensor]  # what the schedulers remember, see `zs2kit.schedule.memory_of`

    @classmethod
    def of(cls, carry: Carry) -> Row | None:
        """Return the row in ``carry``; None between two chunks, when there is none."""
        if not is_row(carry):
            return None
        found = {name.removeprefix(_ROW): it for name, it in carry.items() if name.startswith(_ROW)}
        return cls(int(found.pop("step")), found.pop("latents"), found)

    @classmethod
    def joined(cls, rows: Sequence[Row]) -> Row:
        """Return one row with the frames of several."""
        memory = {
            name: torch.cat([each.memory[name] for each in rows]) if it.ndim else it
            for name, it in rows[0].memory.items()
        }
        return cls(min(each.step for each in rows), torch.cat([each.latents for each in rows]), memory)

    def part(self, first: int, count: int | None = None) -> Row:
        """Return the row of ``count`` of its frames from the ``first`` on, or of all from there."""
        some = slice(first, None if count is None else first + count)
        memory = {name: it[some] if it.ndim else it for name, it in self.memory.items()}
        return Row(self.step, self.latents[some], memory)

    def within(self, carry: Carry) -> Carry:
        """Return ``carry`` with this row, or without any row if this one has no frames left."""
        if not len(self.latents):
            return without_row(carry)
        tensors = {"step": torch.tensor(self.step), "latents": self.latents, **self.memory}
        return Carry({**without_row(carry), **{_ROW + name: it for name, it in tensors.items()}})


def is_row(carry: Carry) -> bool:
    """Whether a carry has a row, so that its shot is between two denoising steps."""
    return f"{_ROW}step" in carry


def without_row(carry: Carry) -> Carry:
    """Return all that is in ``carry`` except the row: what frames must know about those before them."""
    return Carry({name: tensor for name, tensor in carry.items() if not name.startswith(_ROW)})


class HostCarry(Carry):
    """A carry in host memory, for a ``device`` that is short of memory.

    Copies run while the device computes: what a layer stores is copied to the host while the next layers
    compute, and what a layer needs is fetched while the layer before computes. This works because each chunk
    fetches tensors in the order in which the chunk before stored them. Before you read tensors in any other
    way, synchronize the device.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._backend: Any = torch.get_device_module(device)
        self._pinned = device.type == "cuda"
        self._copying = self._backend.Stream()
        self._order: list[str] = []  # the names, in the order in which they were stored
        self._next: dict[str, str] = {}  # name -> the name that is fetched after it
        self._fetched: dict[str, torch.Tensor] = {}  # what was fetched ahead of time
        self._leaving: torch.Tensor | None = None  # held so that its memory isn't reused before it is copied

    @classmethod
    def of(cls, carry: Carry, device: torch.device) -> HostCarry:
        """Return a copy of ``carry`` in host memory."""
        moved = cls(device)
        for name, tensor in carry.items():
            moved.keep(name, tensor)
        moved._backend.synchronize()
        return moved

    def fetch(self, name: str, device: torch.device) -> torch.Tensor | None:
        """As `Carry.fetch`; also starts to fetch the tensor that is needed next."""
        if name not in self:
            return None
        self._next = self._next or dict(pairwise(self._order))
        tensor = self._fetched[name] if name in self._fetched else self._copied(self[name], device)
        self._backend.current_stream().wait_stream(self._copying)
        following = self._next.get(name)
        self._fetched = {following: self._copied(self[following], device)} if following else {}
        return tensor

    def keep(self, name: str, tensor: torch.Tensor) -> None:
        """As `Carry.keep`."""
        self._backend.current_stream().wait_stream(self._copying)  # until the tensor before is copied
        self._leaving = tensor.clone()
        self[name] = self._copied(self._leaving, torch.device("cpu"))
        self._order.append(name)

    def save(self, path: str | Path) -> None:
        """As `Carry.save`."""
        self._backend.synchronize()
        super().save(path)

    def _copied(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Return a tensor that will be a copy of ``tensor`` once the copying stream gets there."""
        pinned = self._pinned and device.type == "cpu"
        copy = torch.empty_like(tensor, device=device, pin_memory=pinned)
        self._copying.wait_stream(self._backend.current_stream())
        with self._backend.stream(self._copying):
            copy.copy_(tensor, non_blocking=True)
        return copy
