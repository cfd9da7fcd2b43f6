"""Standard input as a clip: it is collected in a file, since pictures and sound are read in turn."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO

from zs2kit.errors import ClipError, UsageError, notify
from zs2kit.io.matroska import is_whole

_NUT = b"nut/multimedia container\0"
_NUT_INDEX = bytes.fromhex("4e58dd672f23e64e")  # the last packet of a NUT starts with it


def collect(source: BinaryIO, path: Path) -> Path:
    """Write all that comes from ``source`` to ``path``, and return that.

    A notice says so if it ends in the middle, as far as NUT and Matroska tell. Raises `UsageError` for a
    terminal, `ClipError` if nothing comes.
    """
    if source.isatty():
        raise UsageError("standard input is a terminal", "pipe a video to it")
    with path.open("wb") as file:
        shutil.copyfileobj(source, file)
    if not path.stat().st_size:
        raise ClipError("nothing came on standard input", "see whether the program before the pipe failed")
    if _ends_early(path):
        notify(
            "breaks-off",
            "standard input ends in the middle; what has come is used",
            "see whether the program before the pipe failed",
        )
    return path


def _ends_early(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(len(_NUT))
        if start == _NUT:
            size = file.seek(-12, os.SEEK_END) + 12
            length = int.from_bytes(file.read(8))  # of the last packet, before its checksum
            file.seek(max(0, size - length))
            return file.read(len(_NUT_INDEX)) != _NUT_INDEX
    return start[:4] == b"\x1a\x45\xdf\xa3" and not is_whole(path)
