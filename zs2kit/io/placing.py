"""Finished files get their names: all of them or none, and not before they are on the disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from zs2kit.errors import ClipError
from zs2kit.journal import sync


def place(finished: Mapping[Path, Path], overwrite: bool) -> None:
    """Move each finished file to its path, on the same disk; if one can't be moved, none is.

    After a power cut a name stands for the whole file or, with ``overwrite``, for the one that was there.
    Without ``overwrite`` no file is replaced, even one that has only just appeared: ClipError. Raises OSError
    where the disk does not let us.
    """
    for made in finished:
        sync(made)
    begun: list[tuple[Path, Path, Path | None]] = []
    try:
        for made, path in finished.items():
            before = _second_name(path, made) if overwrite and len(finished) > 1 else None
            begun.append((made, path, before))
            _move(made, path, overwrite)
    except BaseException:
        for made, path, before in reversed(begun):
            if before is not None:
                before.replace(path)
            elif not overwrite and (not made.exists() or (path.exists() and made.samefile(path))):
                path.unlink()
        raise
    for folder in {path.parent for path in finished.values()}:
        with suppress(OSError):  # not every system can
            sync(folder)


def _second_name(path: Path, made: Path) -> Path | None:
    """A second name, beside ``made``, of the file that is there; None if there is none, or can't be."""
    before = made.with_name(f"{made.name}.before")
    with suppress(OSError):
        os.link(path, before)
        return before
    return None


def _move(made: Path, path: Path, overwrite: bool) -> None:
    if not overwrite:
        with suppress(OSError):  # a file has appeared there, or the disk knows no links
            os.link(made, path)
            return
        if os.path.lexists(path):
            raise ClipError(
                f"{path} exists by now", "choose another name, or allow overwriting: `overwrite=True`"
            )
    made.replace(path)
