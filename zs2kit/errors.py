"""Errors and notices: what went wrong or is worth knowing, and what to do about it.

Both serve scripts as well as the command line. Arguments are in backticks and written as in Python:
`overwrite=True`. The command line shows its own options instead (see `zs2kit.cli.terminal.worded`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


class Zs2Error(Exception):
    """An expected failure, described in one line.

    message: what is wrong.
    remedy: what to do about it; empty if the message makes that clear.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.message, self.remedy)))


class UsageError(Zs2Error):
    """A wrong argument or option value: the command line exits with 2."""


class ClipError(Zs2Error):
    """A clip that can't be read or written."""


class DiskError(ClipError):
    """A disk that is full, or too small for a clip and what its edit takes meanwhile."""


class ModelError(Zs2Error):
    """A checkpoint or a side network that can't be loaded or doesn't fit."""


class PluginError(Zs2Error):
    """A plugin that can't be imported, breaks the rules for hooks, or conflicts with another plugin."""


class Stopped(Zs2Error):
    """An edit that ended because its `stop` was called."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out: Python's, or torch's on the CPU or another device."""
    names = {each.__name__ for each in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def first_line(error: BaseException) -> str:
    """Return an error's first line, for messages that quote another library; its type if it has no text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@dataclass(frozen=True)
class Notice:
    """Something that the user should know, though the work goes on.

    kind: a short name for programs to look for, such as "prompt-cut".
    message, remedy: as in `Zs2Error`.
    """

    kind: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.message, self.remedy)))


Receiver = Callable[[Notice], object]

# Each thread has its own receiver, so that two edits at once don't get each other's notices.
_receiver: ContextVar[Receiver | None] = ContextVar("receiver", default=None)


def notify(kind: str, message: str, remedy: str = "") -> None:
    """Send a notice to the current receiver; if there is none, it becomes a Python warning.

    Plugins may use this too.
    """
    notice = Notice(kind, message, remedy)
    receiver = _receiver.get()
    if receiver is None:
        warnings.warn(str(notice), stacklevel=3)
    else:
        receiver(notice)


@contextmanager
def receiving(receiver: Receiver | None) -> Iterator[None]:
    """Within this context, notices of this thread go to ``receiver``; None changes nothing."""
    token = _receiver.set(receiver or _receiver.get())
    try:
        yield
    finally:
        _receiver.reset(token)
