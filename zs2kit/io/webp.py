"""The times of animated WebP files: where they are stored, which FFmpeg's muxer doesn't write fully."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_HEAD = 16  # bytes of a picture's chunk before its data: place and size, then the duration, of 3 bytes each
_DURATION = slice(12, 15)


def animation(path: Path) -> tuple[list[int], bool]:
    """Return for how many milliseconds each picture is shown, and whether the first is stored without loss.

    A file without animation has one, of no length. As in browsers, up to 10 are 100.
    """
    with path.open("rb") as file:
        found = [(place, file.read(_HEAD + 4)) for place in _pictures(file)]
    lossless = any(data[_HEAD:] == b"VP8L" for _, data in found[:1])
    durations = [int.from_bytes(data[_DURATION], "little") for _, data in found]
    return [each if each > 10 else 100 for each in durations] or [0], lossless


def write_last_duration(path: Path, milliseconds: int) -> None:
    """Write for how long the last picture is shown, which FFmpeg guesses."""
    with path.open("r+b") as file:
        for place in [*_pictures(file)][-1:]:
            file.seek(place + _DURATION.start)
            file.write(milliseconds.to_bytes(3, "little"))


def _pictures(file: BinaryIO) -> Iterator[int]:
    """Yield where the chunk of each picture starts; meanwhile, it may be read."""
    place = 12
    file.seek(place)
    while len(header := file.read(8)) == 8:
        size = int.from_bytes(header[4:], "little")
        if header[:4] == b"ANMF":
            yield place + 8
        place += 8 + size + size % 2
        file.seek(place)
