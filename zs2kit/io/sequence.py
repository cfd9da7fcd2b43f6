"""Sequences of PNG pictures: clips in numbered files, named by a printf pattern such as shot.%04d.png."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from zs2kit.clip import Anew, Clip, Color, Frame
from zs2kit.errors import ClipError, UsageError, notify

RATE = Fraction(25)  # pictures per second by default; FFmpeg's default too

_ALPHA = {"rgba", "rgba64be", "ya8", "ya16be"}
_DEEP = {"rgb48be", "rgba64be", "gray16be", "ya16be"}


@dataclass(frozen=True)
class Pattern:
    """The name of a sequence: what comes before the number, its minimum of digits, and what comes after."""

    folder: Path
    before: str
    digits: int
    after: str

    @classmethod
    def of(cls, path: str | Path) -> Pattern | None:
        """Read a name such as shot.%04d.png or shot.%d.png; return None for any other name."""
        path = Path(path)
        match = re.fullmatch(r"([^%]*)%(?:0(\d{1,2}))?d([^%]*\.png)", path.name, re.IGNORECASE | re.DOTALL)
        return cls(path.parent, match[1], int(match[2] or 1), match[3]) if match else None

    def path(self, number: int) -> Path:
        """Return the path of the file with this number."""
        return self.folder / f"{self.before}{number:0{self.digits}}{self.after}"

    def number(self, name: str) -> int | None:
        """Return the number in a file's name; None if it doesn't belong to this sequence."""
        match = re.fullmatch(rf"{re.escape(self.before)}([0-9]+){re.escape(self.after)}", name)
        return int(match[1]) if match and self.path(int(match[1])).name == name else None

    def numbers(self) -> list[int]:
        """Return the numbers of the files that exist, in order."""
        try:
            names = os.listdir(self.folder)
        except OSError:
            return []
        return sorted(number for number in map(self.number, names) if number is not None)


def read_sequence(
    path: Path, pattern: Pattern, begin: Fraction | None, stop: Fraction | None, rate: Fraction | float | None
) -> Clip:
    """Open the pictures of ``pattern`` as a clip; time 0 is the picture with the lowest number.

    Between ``begin`` and ``stop`` seconds no picture may be missing, and all must have the same size. That is
    checked here; they are decoded while the clip is iterated over. Raises `ClipError` or `UsageError`.
    """
    if rate is not None and not 0.001 <= rate < math.inf:
        raise UsageError(f"`rate` must be at least 0.001 pictures per second, not {float(rate):g}")
    rate = RATE if rate is None else Fraction(rate).limit_denominator(1001)
    numbers = pattern.numbers()
    if not numbers:
        raise ClipError(
            f"there is no picture {path}, such as {pattern.path(1).name}", "check the name and the folder"
        )
    first = numbers[0] + (0 if begin is None else math.ceil(begin * rate))
    after = numbers[-1] + 1 if stop is None else min(numbers[-1], numbers[0] + math.ceil(stop * rate) - 1) + 1
    if first >= after:
        seconds = float((numbers[-1] + 1 - numbers[0]) / rate)
        raise UsageError(
            f"{path} has no picture from start to end: at {float(rate):g} per second it lasts {seconds:g} s",
            "choose `start` and `end` inside the clip",
        )
    missing = sorted(set(range(first, after)).difference(numbers))
    if missing:
        rest = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ClipError(
            f"{pattern.path(missing[0])} is missing{rest}, while {numbers[0]} and {numbers[-1]} are there",
            "add it, or choose `start` and `end` so that the gap lies outside",
        )
    pictures = [pattern.path(number) for number in range(first, after)]
    picture, aspect = _decode(pictures[0])
    for each in pictures:
        if (size := _size(each)) != (picture.width, picture.height):
            raise ClipError(
                f"{each} is {size[0]}x{size[1]} pixels and {pictures[0].name} "
                f"{picture.width}x{picture.height}",
                "make all pictures the same size",
            )
    if picture.format.name in _DEEP:
        notify("depth", f"{path} has 16 bits per colour, but zs2kit works with 8")
    if picture.format.name in _ALPHA:
        notify("transparent", f"{path} is transparent in places; the result will not be")
    return Clip(
        frames=Anew(partial(_frames, pictures, first - numbers[0], (picture.height, picture.width))),
        width=picture.width,
        height=picture.height,
        rate=rate,
        time_base=1 / rate,
        frame_count=len(pictures),
        source=path,
        start=begin,
        end=stop,
        sample_aspect_ratio=aspect,
        color=Color(primaries=picture.color_primaries, trc=picture.color_trc).resolve(
            picture.width, picture.height
        ),
        silent=True,
        pix_fmt=picture.format.name,
    )


def _frames(pictures: Sequence[Path], first: int, size: tuple[int, int]) -> Iterator[Frame]:
    for pts, path in enumerate(pictures, first):
        image = _rgb(_decode(path)[0])
        if image.shape[:2] != size:
            raise ClipError(f"{path} has changed its size", "put it back, and run this again")
        yield Frame(image, pts, 1)


def _read(path: Path, size: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise ClipError(
            f"{path} can't be read ({error.strerror})", "check its name and permissions"
        ) from error


def _size(path: Path) -> tuple[int, int]:
    """Return the (width, height) of a PNG picture, from its first bytes."""
    head = _read(path, 24)
    if len(head) < 24 or head[:8] != b"\x89PNG\r\n\x1a\n":
        raise ClipError(f"{path} is not a PNG picture", "make it again")
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


def _decode(path: Path) -> tuple[VideoFrame, Fraction]:
    """Return a picture, and the shape of its pixels."""
    _size(path)
    decoder = av.CodecContext.create("png", "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.options = {
        "err_detect": "crccheck+explode"
    }  # fail rather than return a picture with a part missing
    try:
        pictures = [*decoder.decode(Packet(_read(path))), *decoder.decode(None)]
    except (av.FFmpegError, ValueError):
        pictures = []
    if not pictures:
        raise ClipError(f"{path} is damaged", "make it again")
    return pictures[0], decoder.sample_aspect_ratio or Fraction(1)


def _rgb(picture: VideoFrame) -> NDArray[np.uint8]:
    """Decoded picture -> (height, width, 3) RGB; 16 bits are rounded to 8."""
    if picture.format.name not in _DEEP:
        return picture.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    deep = picture.to_ndarray(format="rgb48le").astype(np.uint32)
    return ((deep + 128) // 257).astype(np.uint8)


def first_number(clip: Clip) -> int:
    """Return the number for the clip's first picture: its own if it comes from a sequence, else 1."""
    pattern = Pattern.of(clip.source) if clip.source is not None else None
    if pattern is None or not (numbers := pattern.numbers()):
        return 1
    return numbers[0] + math.ceil((clip.start or 0) * clip.rate)


def check_pictures(path: Path, pattern: Pattern, clip: Clip, number: int, overwrite: bool) -> None:
    """Raise `ClipError` if the clip's pictures, from ``number`` on, would replace others, or its source."""
    source = Pattern.of(clip.source) if clip.source is not None else None
    if source and source.folder.resolve() == pattern.folder.resolve():
        names = [source.path(each).name for each in source.numbers()]
        if any(pattern.number(name) is not None for name in names):
            raise ClipError(f"{path} is the input", "write to another name")
    end = math.inf if clip.frame_count is None else number + clip.frame_count
    there = [each for each in pattern.numbers() if number <= each < end]
    if there and not overwrite:
        raise ClipError(
            f"{pattern.path(there[0])} exists", "choose another name, or allow overwriting: `overwrite=True`"
        )
