"""Chapters beside a timecode in MP4 and MOV files, in which FFmpeg's muxer refers to the timecode only."""

from __future__ import annotations

from pathlib import Path

_MOVIE, _TRACK, _REFERENCES, _TIMECODE = b"moov", b"trak", b"tref", b"tmcd"


def link_chapters(path: Path, track: int) -> None:
    """Write into a file from FFmpeg that ``track`` holds the chapters of the video, which is the first track.

    Without this, players take the chapters' titles for subtitles. The description of a file usually comes at
    its end, so it can grow. If it doesn't, or if the timecode isn't the video's only reference, the file is
    left as it is.
    """
    with path.open("r+b") as file:
        size, start = path.stat().st_size, 0
        while start < size:
            length, name = _header(file.read(16))
            if name == _MOVIE or length < 8:
                break
            start = file.seek(start + length)
        file.seek(start)
        movie = bytearray(file.read())
        where = [0]
        for name in (_TRACK, _REFERENCES):
            if (inner := _box(movie, where[-1], name)) is None:
                return
            where.append(inner)
        references, content = where[-1], where[-1] + 8
        length, name = _header(movie[content : content + 8])
        if name != _TIMECODE or 8 + length != _header(movie[references:content])[0]:
            return
        movie[content + length : content + length] = (12).to_bytes(4) + b"chap" + track.to_bytes(4)
        for box in where:
            movie[box : box + 4] = (_header(movie[box : box + 8])[0] + 12).to_bytes(4)
        file.seek(start)
        file.write(movie)


def _box(data: bytearray, start: int, name: bytes) -> int | None:
    """Return where the first box called ``name`` starts, inside the one at ``start``."""
    end = start + _header(data[start : start + 8])[0]
    start += 8
    while start < end:
        length, found = _header(data[start : start + 8])
        if found == name:
            return start
        start += max(length, 8)
    return None


def _header(data: bytes | bytearray) -> tuple[int, bytes]:
    """Return the length of a box, and its name."""
    length = int.from_bytes(data[:4])
    return int.from_bytes(data[8:16]) if length == 1 else length, bytes(data[4:8])
