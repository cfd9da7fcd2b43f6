"""What OpenCV reads: cameras and streams, whose frames come only once, and files that nothing else reads."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from zs2kit.clip import Anew, Clip, Color, Frame
from zs2kit.errors import ClipError, UsageError, notify

_CLOCK = Fraction(1, 90_000)
_ADDRESS = re.compile(r"(rtsps?|rtmps?|https?|udp|tcp|srt):/{1,2}(.+)")  # a Path has lost one of the slashes


def address_of(path: str | Path) -> str | None:
    """Return the address of a stream, rtsp://..., that is given as a path; None if it isn't one."""
    match = _ADDRESS.fullmatch(os.fspath(path))
    return f"{match[1]}://{match[2]}" if match else None


def capture(source: int | str, *, end: Fraction | float | None = None) -> Clip:
    """Open a camera, by its number starting at 0, or a stream, by its address, as a clip.

    Frames have the times at which they arrive; those that arrive while nobody asks for them are left out. The
    clip can be iterated over once. It ends after ``end`` seconds, or earlier if the source does, and an edit
    of it can't be resumed. Raises `ClipError` if it can't be opened, `UsageError` if ``end`` is missing.
    """
    import cv2

    name = f"camera {source}" if isinstance(source, int) else source
    if end is None:
        raise UsageError(f"{name} has no end", "say after how many seconds to stop, with `end`")
    hush()
    opened = cv2.VideoCapture(source)
    if not opened.isOpened():
        raise ClipError(f"there is no {name}" if isinstance(source, int) else f"{name} can't be opened")
    clip = captured(opened, name, float(end))
    notify("live", f"{name} is read as it comes, so an edit of it can't be resumed")
    return clip


def described(path: Path) -> Clip | None:
    """Return a clip of what OpenCV finds in a file; None if it finds nothing."""
    import cv2

    try:
        name = os.fspath(path)
        name.encode()
    except UnicodeEncodeError:  # OpenCV crashes on such a name
        return None
    hush()

    def opened() -> Clip:
        return captured(cv2.VideoCapture(name), name, is_file=True)

    try:
        clip = opened()
    except ClipError:
        return None
    return replace(clip, frames=Anew(lambda: iter(opened())), source=path)


def captured(
    source: Any, name: str = "the capture", end: float | None = None, *, is_file: bool | None = None
) -> Clip:
    """Return a clip of an open ``cv2.VideoCapture``. Frames of a file have the times that it gives."""
    import cv2

    found, first = source.read()
    if not found:
        raise ClipError(f"{name} gives no picture", "check that it is on, and that nobody else uses it")
    height, width = first.shape[:2]
    rate = Fraction(source.get(cv2.CAP_PROP_FPS) or 25).limit_denominator(1001)
    columns, rows = source.get(cv2.CAP_PROP_SAR_NUM), source.get(cv2.CAP_PROP_SAR_DEN)
    aspect = Fraction(int(columns), int(rows)) if columns >= 1 and rows >= 1 else Fraction(1)
    if is_file is None:
        is_file = source.get(cv2.CAP_PROP_FRAME_COUNT) > 0

    def frames() -> Iterator[Frame]:
        image, last, started, count = first, -1, monotonic(), 0
        while True:
            seconds = source.get(cv2.CAP_PROP_POS_MSEC) / 1000 if is_file else monotonic() - started
            last = max(last + 1, round(Fraction(seconds) / _CLOCK))
            if end is not None and last * _CLOCK >= end:
                return
            yield Frame(np.ascontiguousarray(image[..., ::-1]), last, round(1 / (rate * _CLOCK)))
            count += 1
            found, image = source.read()
            if not found or image.shape[:2] != (height, width):
                if not is_file:
                    notify("ended", f"{name} has ended, after {count} frames; what has come is used")
                return

    return Clip(
        frames(),
        width,
        height,
        rate,
        _CLOCK,
        sample_aspect_ratio=aspect,
        color=Color().resolve(width, height),
        silent=True,  # as far as OpenCV can tell
    )


def hush() -> None:
    """Keep OpenCV from printing errors, since we report them ourselves."""
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_VIDEOIO_DEBUG", "0")
