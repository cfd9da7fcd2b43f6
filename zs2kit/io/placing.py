"""Giving finished files their final names: all of them or none, and only once they are on the disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from zs2kit.errors import ClipError
from zs2kit.files import sync


def place(finished: Mapping[Path, Path], overwrite: bool) -> None:
    """Move each finished file to its path, on the same disk; if one can't be moved, none is.

    After a power cut, the path holds the whole file or, with ``overwrite``, the file that was there before.
    Without ``overwrite`` no file is replaced, not even one that has only just appeared: that raises
    `ClipError`. Raises `OSError` if the disk refuses.
    """
    for file in finished:
        sync(file)
    moved: list[tuple[Path, Path, Path | None]] = []  # those that may have been moved
    try:
        for file, path in finished.items():
            before = _second_name(path, file) if overwrite and len(finished) > 1 else None
            moved.append((file, path, before))
            _move(file, path, overwrite)
    except BaseException:
        for file, path, before in reversed(moved):
            if before is not None:
                before.replace(path)
            elif not overwrite and (not file.exists() or (path.exists() and file.samefile(path))):
                path.unlink()
        raise
    for folder in {path.parent for path in finished.values()}:
        with suppress(OSError):  # not every system can
            sync(folder)


def _second_name(path: Path, file: Path) -> Path | None:
    """Give what is at ``path`` a second name, beside ``file``; return it, or None if that isn't possible."""
    before = file.with_name(f"{file.name}.before")
    with suppress(OSError):
        os.link(path, before)
        return before
    return None


def _move(file: Path, path: Path, overwrite: bool) -> None:
    if not overwrite:
        with suppress(OSError):  # a file has appeared there, or the disk has no links
            os.link(file, path)
            return
        if os.path.lexists(path):
            raise ClipError(
                f"{path} exists by now", "choose another name, or allow overwriting: `overwrite=True`"
            )
    file.replace(path)
