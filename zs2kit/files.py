"""Files: locked, synced, told apart by fingerprints, and the errors of those that can't be written."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zs2kit.errors import ClipError, DiskError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the errors of a full disk
_ENDS = 1 << 16  # bytes at each end of a file that its fingerprint covers


def fingerprint(paths: Sequence[Path]) -> str:
    """Return a fingerprint of files: their number, their size, a checksum of their first and last bytes."""
    size = value = 0
    for path in paths:
        with path.open("rb") as file:
            size += os.fstat(file.fileno()).st_size
            value = zlib.crc32(file.read(_ENDS), value)
            file.seek(max(0, os.fstat(file.fileno()).st_size - _ENDS))
            value = zlib.crc32(file.read(), value)
    return f"{len(paths)} files, {size} bytes, {value:08x}"


def checksum(path: Path) -> int:
    """Return the CRC-32 of a whole file."""
    value = 0
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            value = zlib.crc32(data, value)
    return value


def sync(path: Path) -> None:
    """Make sure that the contents of a file, or the list of a folder's files, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def locked(file: int) -> bool:
    """Lock an open file; return False if another process has locked it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # other errors mean that the disk has no locks
        return error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
    return True


@contextmanager
def workfolder(path: Path) -> Iterator[Path]:
    """Within this context there is a folder next to ``path``, from which files can move there in one step."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=".zs2kit-", dir=path.parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise unwritable_folder(path, error) from error
    with folder as name:
        yield Path(name)


def unwritable(path: Path, error: Any) -> ClipError:
    """Return the error that tells the user about an OSError while ``path`` was written."""
    if error.errno in _FULL:
        return DiskError(f"no space left for {path}", "free some space on its disk, and run this again")
    return ClipError(f"can't write {path}: {error.strerror}")


def unwritable_folder(path: Path, error: OSError) -> ClipError:
    """Return the error that tells the user about an OSError while ``path``'s folder was used."""
    return ClipError(f"can't write into {path.parent} ({error.strerror})", "choose another folder")
