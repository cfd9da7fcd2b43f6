"""Matroska files: whether they are whole, and the shape of pixels, which FFmpeg doesn't write for PyAV."""

from __future__ import annotations

import zlib
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

_HEAD = 1 << 16  # bytes at the start of a file, in which its tracks are described
_SEGMENT, _TRACKS, _TRACK, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0xE0
_DISPLAY_UNIT, _CRC, _VOID = 0x54B2, 0xBF, 0xEC
_DISPLAY_WIDTH, _DISPLAY_HEIGHT = b"\x54\xb0", b"\x54\xba"
_ASPECT = 3  # the display unit that says: only the ratio of width and height counts


class _Element(NamedTuple):
    name: int
    start: int  # where its name starts
    content: int  # where its content starts
    end: int


def write_aspect(path: Path, aspect: Fraction) -> None:
    """Write into a file from FFmpeg that its video, the first stream, is displayed at the ratio ``aspect``.

    FFmpeg leaves eleven bytes unused in each track, after the size of the picture. If they aren't there, the
    file is left as it is.
    """
    aspect = aspect.limit_denominator(0xFFFF)
    with path.open("r+b") as file:
        data = bytearray(file.read(_HEAD))
        segment = _child(data, 0, len(data), _SEGMENT)
        tracks = segment and _child(data, segment.content, len(data), _TRACKS)
        track = tracks and _child(data, tracks.content, tracks.end, _TRACK)
        video = track and _child(data, track.content, track.end, _VIDEO)
        void = track and _child(data, track.content, track.end, _VOID)
        unit = video and _child(data, video.content, video.end, _DISPLAY_UNIT)
        if not (tracks and video and void and unit) or void.start < video.end or tracks.end > len(data):
            return
        said = _DISPLAY_WIDTH + b"\x83" + aspect.numerator.to_bytes(3)
        said += _DISPLAY_HEIGHT + b"\x82" + aspect.denominator.to_bytes(2)
        size = video.end - video.content + len(said)
        if void.end - void.start != len(said) or size > 126 or video.content - video.start != 2:
            return
        data[unit.content] = _ASPECT
        data[video.start + 1] = 0x80 | size
        data[video.end : void.end] = said + data[video.end : void.start]
        if crc := _child(data, tracks.content, tracks.end, _CRC):  # a checksum of all that follows it
            data[crc.content : crc.end] = zlib.crc32(data[crc.end : tracks.end]).to_bytes(4, "little")
        file.seek(0)
        file.write(data)


def is_whole(path: Path) -> bool:
    """Whether the last element of a file ends with the file."""
    size = path.stat().st_size
    place = 0
    with path.open("rb") as file:
        while place < size:
            file.seek(place)
            head = bytearray(file.read(12).ljust(12, b"\0"))
            if not head[0]:
                return False
            name, at = _number(head, 0, keep_length=True)
            length, content = _number(head, at)
            unknown = length == (1 << 7 * (content - at)) - 1
            # A segment, and a cluster whose length wasn't known when it was started, are entered.
            place += content if unknown or name == _SEGMENT else content + length
    return place == size


def _child(data: bytearray, start: int, end: int, name: int) -> _Element | None:
    """Return the first element called ``name`` among those from ``start`` to ``end``."""
    while start < end:
        found, size_at = _number(data, start, keep_length=True)
        size, content = _number(data, size_at)
        if found == name:
            return _Element(found, start, content, content + size)
        start = content + size
    return None


def _number(data: bytearray, start: int, keep_length: bool = False) -> tuple[int, int]:
    """Return a number, whose leading zero bits say how many bytes it has, and where it ends."""
    length = 9 - data[start].bit_length()
    value = int.from_bytes(data[start : start + length])
    return value if keep_length else value & ((1 << 7 * length) - 1), start + length
