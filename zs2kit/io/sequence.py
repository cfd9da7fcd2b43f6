"""Sequences of pictures: clips in numbered files, named by a pattern: shot.%04d.png or shot.####.exr."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from zs2kit.clip import Clip, Color, Frame
from zs2kit.encoding import Encoding
from zs2kit.errors import ClipError, UsageError
from zs2kit.io.pictures import DECODERS, decode, encoding_of, head, rgb, tell_left, upright_of

RATE = Fraction(25)  # pictures per second by default, as in FFmpeg


_ENDINGS = "|".join(re.escape(each) for each in DECODERS)
_NUMBER = r"%(?:0(?P<digits>\d{1,2}))?d|(?:(?P<first>\d+)-(?P<last>\d+))?(?P<signs>#+)"
_NAME = re.compile(
    rf"(?P<before>[^%#]*?)(?:{_NUMBER})(?P<after>[^%#]*(?:{_ENDINGS}))", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True)
class Pattern:
    """The name of a sequence: what comes before the number, its minimum of digits, and what comes after."""

    folder: Path
    before: str
    digits: int
    after: str
    only: range | None = None  # the numbers that belong to it, if the name gives them

    @classmethod
    def of(cls, path: str | Path) -> Pattern | None:
        """Read a name such as shot.%04d.png, shot.####.png or shot.1001-1100#.exr; return None for others.

        A single # stands for four digits, several for as many digits as there are signs.
        """
        path = Path(path)
        match = _NAME.fullmatch(path.name)
        if not match:
            return None
        signs = len(match["signs"] or "")
        digits = (4 if signs == 1 else signs) if signs else int(match["digits"] or 1)
        only = range(int(match["first"]), int(match["last"]) + 1) if match["first"] else None
        return cls(path.parent, match["before"], digits, match["after"], only)

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
        found = (number for number in map(self.number, names) if number is not None)
        return sorted(number for number in found if self.only is None or number in self.only)


def read_sequence(
    path: Path, pattern: Pattern, begin: Fraction | None, stop: Fraction | None, rate: Fraction | float | None
) -> Clip:
    """Open the pictures of ``pattern`` as a clip; the one with the lowest number is at time 0.

    Between ``begin`` and ``stop``, in seconds, no picture may be missing, and all must have the same size,
    which is checked here. They are decoded while the clip is iterated over. Raises `ClipError` or
    `UsageError`.
    """
    if rate is not None and not 0.001 <= rate < math.inf:
        raise UsageError(f"`rate` must be at least 0.001 pictures per second, not {float(rate):g}")
    rate = RATE if rate is None else Fraction(rate).limit_denominator(1001)
    numbers = pattern.numbers()
    if not numbers:
        raise ClipError(
            f"there is no picture {path}, such as {pattern.path(1).name}", "check the name and the folder"
        )
    whole = pattern.only or range(numbers[0], numbers[-1] + 1)
    first = whole[0] + (0 if begin is None else math.ceil(begin * rate))
    after = whole[-1] + 1 if stop is None else min(whole[-1], whole[0] + math.ceil(stop * rate) - 1) + 1
    if first >= after:
        seconds = float(len(whole) / rate)
        raise UsageError(
            f"{path} has no picture from start to end: at {float(rate):g} per second it lasts {seconds:g} s",
            "choose `start` and `end` inside the clip",
        )
    missing = sorted(set(range(first, after)).difference(numbers))
    if missing:
        raise ClipError(
            f"{path} has gaps: {_spans(missing)} of {whole[0]}-{whole[-1]}",
            "add what is missing, or choose `start` and `end` so that the gap lies outside",
        )
    pictures = [pattern.path(number) for number in range(first, after)]
    heads = [head(each) for each in pictures]
    for each, found in zip(pictures, heads, strict=True):
        wanted = heads[0]
        if found[:2] != wanted[:2]:
            raise ClipError(
                f"{each} is {found.width}x{found.height} pixels, but {pictures[0].name} is "
                f"{wanted.width}x{wanted.height}",
                "make all pictures the same size",
            )
        if found.kind != wanted.kind:
            raise ClipError(
                f"{each} has {found.kind}, but {pictures[0].name} has {wanted.kind}",
                "make all pictures of the same kind",
            )
    picture, aspect = decode(pictures[0])
    if (picture.width, picture.height) != heads[0][:2]:
        raise ClipError(f"{pictures[0]} is damaged", "make it again")
    tell_left(pictures[0])
    color = Color(
        picture.colorspace if not picture.format.is_rgb else 2,
        picture.color_primaries,
        picture.color_trc,
        picture.color_range if not picture.format.is_rgb else 0,
    ).resolve(picture.width, picture.height)
    encoding = encoding_of(picture)
    upright = upright_of(picture)
    height, width = (picture.width, picture.height) if upright.swap else (picture.height, picture.width)
    return Clip(
        frames=PictureFrames(tuple(pictures), first - whole[0], (height, width), encoding, color, rate),
        width=width,
        height=height,
        rate=rate,
        time_base=1 / rate,
        frame_count=len(pictures),
        source=path,
        start=begin,
        end=stop,
        sample_aspect_ratio=1 / aspect if upright.swap else aspect,
        color=color,
        silent=True,
        pix_fmt=picture.format.name,
        encoding=encoding,
    )


@dataclass(frozen=True)
class PictureFrames:
    """The frames of a sequence of pictures, each in a file of its own; the first has the pts ``first``."""

    pictures: tuple[Path, ...]
    first: int
    size: tuple[int, int]  # (height, width)
    encoding: Encoding
    color: Color
    rate: Fraction

    def __iter__(self) -> Iterator[Frame]:
        return map(self.frame, range(len(self.pictures)))

    def without(self, skip: int) -> PictureFrames:
        """Return these frames without the first ``skip``."""
        return replace(self, pictures=self.pictures[skip:], first=self.first + skip)

    def frame(self, number: int) -> Frame:
        """See `Clip.frame`."""
        if not 0 <= number < len(self.pictures):
            raise UsageError(
                f"there is no frame {number}", f"the sequence has frames 0 to {len(self.pictures) - 1}"
            )
        path, encoding = self.pictures[number], self.encoding
        picture = decode(path)[0]
        pixels = rgb(picture, encoding, self.color, (picture.width, picture.height))
        stored = upright_of(picture).apply(pixels)
        if stored.shape[:2] != self.size:
            raise ClipError(f"{path} has changed its size", "put it back, and run this again")
        if encoding.floating and not np.isfinite(stored).all():
            count = int((~np.isfinite(stored)).any(axis=2).sum())
            raise ClipError(
                f"{path} has {count} pixels that are infinite or not a number (NaN)",
                "repair it, and run this again",
            )
        if encoding.is_plain:
            return Frame(stored, self.first + number, 1)
        return Frame(encoding.image(stored), self.first + number, 1, stored)

    def count(self) -> int:
        """Return how many pictures there are."""
        return len(self.pictures)

    def at(self, seconds: Fraction | float) -> Frame:
        """See `Clip.at`."""
        return self.frame(min(math.floor(seconds * self.rate), len(self.pictures) - 1))


def _spans(numbers: Sequence[int]) -> str:
    """[3, 7, 8, 9] -> 3, 7-9."""
    starts = [each for each in numbers if each - 1 not in set(numbers)]
    ends = [each for each in numbers if each + 1 not in set(numbers)]
    spans = [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    return ", ".join(spans[:8] + ["..."] * (len(spans) > 8))


def first_number(clip: Clip) -> int:
    """Return the number for the clip's first picture: its own if it comes from a sequence, else 1."""
    pattern = Pattern.of(clip.source) if clip.source is not None else None
    if pattern is None or not (numbers := pattern.numbers()):
        return 1
    return (pattern.only or numbers)[0] + math.ceil((clip.start or 0) * clip.rate)


def check_pictures(path: Path, pattern: Pattern, clip: Clip, number: int, overwrite: bool) -> None:
    """Raise `ClipError` if the clip's pictures, from ``number`` on, would replace others, or its source."""
    source = Pattern.of(clip.source) if clip.source is not None else None
    if source and source.folder.resolve() == pattern.folder.resolve():
        names = [source.path(each).name for each in source.numbers()]
        if any(pattern.number(name) is not None for name in names):
            raise ClipError(f"{path} is the source itself", "choose another name")
    end = math.inf if clip.frame_count is None else number + clip.frame_count
    there = [each for each in pattern.numbers() if number <= each < end]
    if there and not overwrite:
        raise ClipError(
            f"{pattern.path(there[0])} exists", "choose another name, or allow overwriting: `overwrite=True`"
        )
