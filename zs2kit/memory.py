"""Memory: how much is free on a device, and how much a piece of work takes at its peak."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

_SELF = Path("/proc/self")
_GROUP = Path("/sys/fs/cgroup")  # where Linux keeps the memory limit of a container


def free(device: torch.device) -> int:
    """Return how many bytes are free on ``device``, or in host memory if it is not a CUDA device."""
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle
    available: int = psutil.virtual_memory().available
    limit = _GROUP / "memory.max"
    if limit.is_file() and (most := limit.read_text().strip()).isdigit():
        used = re.search(r"^anon (\d+)", (_GROUP / "memory.stat").read_text(), re.M)
        available = min(available, int(most) - int(used[1] if used else 0))
    return available


def copied(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a ``tensor`` from host memory to ``device``.

    For CUDA, it is copied from pinned memory. With any other copy, Python would wait until it is done, and
    until everything is done that was started on the device before.
    """
    cuda = device.type == "cuda"
    return (tensor.pin_memory() if cuda else tensor).to(device, non_blocking=cuda)


def peak_of(work: Callable[[], object], device: torch.device) -> int | None:
    """Do ``work``; return the most bytes that it took at once, or None if that can't be measured.

    It can be measured on CUDA and, for the whole process, on Linux.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    gc.collect()  # memory that is freed during the work would hide some that is taken
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # so would memory that the process has freed but not given back
    try:
        (_SELF / "clear_refs").write_text("5")  # resets the peak
    except OSError:
        work()
        return None
    before = resident_peak()
    work()
    return resident_peak() - before


def resident_peak() -> int:
    """Return the most bytes of host memory that this process has held at once; on Linux only."""
    found = re.search(r"^VmHWM:\s*(\d+) kB", (_SELF / "status").read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024
