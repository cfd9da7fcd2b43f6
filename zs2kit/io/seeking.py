"""The frames of a file, in order or one at a time from anywhere."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path

from zs2kit.clip import Clip, Frame
from zs2kit.errors import ClipError, UsageError
from zs2kit.io.decoding import frame_times, frames_of
from zs2kit.io.decord_process import DecordProcess


@dataclass(frozen=True)
class FileFrames:
    """The frames of ``clip``, a file, without the first ``skip``."""

    clip: Clip
    skip: int

    def __iter__(self) -> Iterator[Frame]:
        return frames_of(self.clip, self.skip)

    def frame(self, number: int) -> Frame:
        """See `Clip.frame`. Only the frames from the last keyframe on are decoded."""
        times = frame_times(self.clip)
        if times is not None and 0 <= number < len(times) - self.skip:
            place = number + self.skip
            # Deinterlacing needs the neighbouring pictures.
            first = max(0, place - 2) if self.clip.deinterlaced else place
            start = times[first] * self.clip.time_base - self.clip.origin
            if start >= 0:
                near = replace(self.clip, start=start, end=None)
                found = next(islice(frames_of(near), place - first, None), None)
                if found is not None and found.pts == times[place]:
                    return found
        found = None if number < 0 else next(islice(self, number, None), None)
        if found is None:
            raise UsageError(f"{self.clip.source} has no frame {number}", "its first frame is 0")
        return found

    def count(self) -> int | None:
        """Return how many frames there are by their packets; None if these have no times."""
        times = frame_times(self.clip)
        return None if times is None else max(0, len(times) - self.skip)

    def at(self, seconds: Fraction | float) -> Frame:
        """See `Clip.at`."""
        times = frame_times(self.clip)
        if times is None:
            return self.clip.with_frames(list(self)).at(seconds)
        first = times[min(self.skip, len(times) - 1)]
        after = bisect_right(times, first + seconds / self.clip.time_base)
        return self.frame(max(0, after - 1 - self.skip))


@dataclass(frozen=True)
class DecordFrames:
    """The same frames, decoded by decord in a process of its own."""

    clip: Clip
    skip: int

    def __iter__(self) -> Iterator[Frame]:
        for number in range(len(self._known) - self.skip):
            yield self.frame(number)

    def frame(self, number: int) -> Frame:
        """See `Clip.frame`."""
        known = self._known
        place = number + self.skip
        if not self.skip <= place < len(known):
            raise UsageError(f"{self.clip.source} has no frame {number}", "its first frame is 0")
        assert self.clip.source is not None
        process = _process(os.fspath(self.clip.source), os.stat(self.clip.source).st_mtime_ns, os.getpid())
        whole = frame_times(replace(self.clip, start=None, end=None))
        assert whole is not None
        # Only frames that have a packet are asked for, since decord may wait forever for others.
        image, seconds = process.frame(bisect_left(whole, known[place]))
        wanted = float((known[place] - whole[0]) * self.clip.time_base)
        if image.shape[:2] != (self.clip.height, self.clip.width) or abs(
            seconds - process.first - wanted
        ) > max(0.002, float(self.clip.time_base)):
            raise ClipError(
                f"decord's frame {number} of {self.clip.source} isn't the one that its packets say",
                "use the other reader: `reader='pyav'`",
            )
        following = known[place + 1] if place + 1 < len(known) else None
        nominal = max(1, round(1 / (self.clip.rate * self.clip.time_base)))
        return Frame(image, known[place], nominal if following is None else following - known[place])

    def count(self) -> int:
        """Return how many frames there are by their packets."""
        return len(self._known) - self.skip

    def at(self, seconds: Fraction | float) -> Frame:
        """See `Clip.at`."""
        known = self._known
        after = bisect_right(known, known[self.skip] + seconds / self.clip.time_base)
        return self.frame(max(0, after - 1 - self.skip))

    @property
    def _known(self) -> array[int]:
        times = frame_times(self.clip)
        if not times:
            raise ClipError(
                f"the packets of {self.clip.source} have no times, and decord needs them",
                "use the other reader: `reader='pyav'`",
            )
        return times


@lru_cache(maxsize=2)
def _process(path: str, changed: int, of: int) -> DecordProcess:
    """Return the process that has a file open. Forked processes have one of their own."""
    return DecordProcess(Path(path))
