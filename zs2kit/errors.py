"""The errors that somebody catches. Each message is one line that says what to do."""

from __future__ import annotations


class Zs2Error(Exception):
    """An expected failure: the command line prints it as one line and exits with 1."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: for Python, for torch on its device, or for torch on the CPU."""
    names = {each.__name__ for each in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


class UsageError(Zs2Error):
    """A wrong argument or option value: the command line exits with 2."""


class ClipError(Zs2Error):
    """A clip that can't be read or written."""


class ModelError(Zs2Error):
    """A checkpoint, or a side network, that can't be loaded or doesn't fit."""


class PluginError(Zs2Error):
    """A plugin that can't be imported, breaks the hooks' contract or is in conflict with another."""
