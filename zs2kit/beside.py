"""Files beside a result, such as its contact sheet: checked before the work, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from zs2kit.errors import ClipError, UsageError


def check_beside(path: Path, suffix: str, kind: str, others: Sequence[Path], overwrite: bool) -> None:
    """Raise `ClipError` or `UsageError` if a file of this ``kind`` can't be written to ``path``.

    Its name must end in ``suffix``, and it must not replace one of ``others``.
    """
    if path.suffix.lower() != suffix:
        raise UsageError(f"{path}: a {kind} must be a {suffix} file", f"give it a name that ends in {suffix}")
    if not os.path.isdir(path.parent):
        raise ClipError(f"{path}: there is no folder {path.parent}", "create it first")
    if os.path.isdir(path):
        raise ClipError(f"{path} is a folder", f"choose another name for the {kind}")
    try:
        with suppress(FileNotFoundError):
            path.lstat()  # fails on a name that is too long
        tempfile.TemporaryFile(dir=path.parent).close()  # an attempt tells more than permissions
    except OSError as error:
        raise ClipError(
            f"{path} can't be written ({error.strerror})", "choose another name or folder"
        ) from error
    if os.path.realpath(path) in [os.path.realpath(other) for other in others]:
        raise ClipError(f"{path} is one of the clips", f"choose another name for the {kind}")
    if os.path.lexists(path) and not overwrite:
        raise ClipError(f"{path} exists", "choose another name, or allow overwriting: `overwrite=True`")


def write_beside(path: Path, data: bytes) -> None:
    """Write a file that appears only when it is complete. Raises `ClipError` if it can't be written."""
    temporary = path.with_name(f".zs2kit-{uuid4().hex[:8]}{path.suffix}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise ClipError(f"{path} can't be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
