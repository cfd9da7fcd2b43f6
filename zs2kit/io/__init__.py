"""Reading and writing of clips: the only part of zs2kit that uses PyAV and OpenCV's VideoCapture.

PyAV gives the times, counts, rotation, colour tags and sound of a file, and decodes its frames; OpenCV is
used if PyAV finds no picture. Only a few frames are in memory at a time, when reading and when writing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zs2kit.io.cameras import capture as capture
    from zs2kit.io.output import CODECS as CODECS
    from zs2kit.io.output import Output as Output
    from zs2kit.io.output import name_beside as name_beside
    from zs2kit.io.reading import read as read
    from zs2kit.io.writing import write as write

# Looked up on first use, since the command line reads the options of an Output before PyAV is imported.
_MODULES = {
    "capture": "cameras",
    "CODECS": "output",
    "Output": "output",
    "name_beside": "output",
    "read": "reading",
    "write": "writing",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'zs2kit.io' has no attribute {name!r}")
    return getattr(import_module(f"zs2kit.io.{_MODULES[name]}"), name)
