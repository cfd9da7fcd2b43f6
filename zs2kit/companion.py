"""A second clip that the user gives, read in step with the source: control maps or masks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zs2kit.clip import Chunk, Clip, Frame
from zs2kit.errors import ClipError, notify
from zs2kit.io import read
from zs2kit.io.reading import frames_before, frames_in_file, read_from
from zs2kit.io.sequence import Pattern

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}  # a single picture, for all frames


class Companion:
    """A video with a picture for every frame of ``clip``, or one picture for all of them.

    Its pictures belong to the frames of the clip's file in order, regardless of their times: a video may have
    another frame rate, and a sequence such as mask.%04d.png has none. A plugin opens it in `setup`, so that
    sizes and, if both are known, lengths are compared before any work. Raises `ClipError` if they differ, or
    if the file can't be read.
    """

    def __init__(self, path: str | Path, clip: Clip) -> None:
        self.path = Path(path)
        self.is_sequence = Pattern.of(self.path) is not None and not self.path.exists()
        self.is_picture = self.path.suffix.lower() in PICTURES and not self.is_sequence
        self.clip = clip
        self._skipped = 0 if self.is_picture else frames_before(clip)
        opened = self._read()
        if (opened.width, opened.height) != (clip.width, clip.height):
            raise ClipError(
                f"{path} is {opened.width}x{opened.height} pixels, but the clip is "
                f"{clip.width}x{clip.height}",
                "give one that has the clip's size",
            )
        ours, clips = opened.frame_count, clip.frame_count
        self._goes_on = clip.end is not None  # then the companion may go on after the clip's end, too
        self._compared = bool(ours and clips)
        if not self.is_picture and ours and clips:
            if not self.is_sequence and self._goes_on:  # a video is as long as the clip's whole file
                clips = max(clips, (frames_in_file(clip) or 0) - self._skipped)
            if ours < clips or (ours > clips and not (self.is_sequence and self._goes_on)):
                raise self._other_length(ours, clips)
        self.encoding = opened.encoding
        self.has_palette = opened.pix_fmt == "pal8"  # its numbers are classes rather than colours
        self._frames: Iterator[Frame] = iter(opened)
        self._picture = next(self._frames).image if self.is_picture else None
        # The last chunk's pictures, all or some of which may be asked for again; the position of the first
        self._held: deque[NDArray[np.uint8]] = deque()
        self._position = 0

    def first(self, count: int) -> list[Frame]:
        """Return the first ``count`` pictures, or fewer if there aren't as many."""
        return list(islice(self._read(), count))

    def frames_of(self, chunk: Chunk) -> list[NDArray[np.uint8]]:
        """Return the pictures for the chunk's frames, each (source height, source width, 3) RGB.

        Raises `ClipError` if the video ends before the chunk does.
        """
        if self._picture is not None:
            return [self._picture] * chunk.length
        first, end = chunk.indices[0], chunk.indices[-1] + 1
        if first < self._position:
            self._frames, self._position = iter(self._read()), 0
            self._held.clear()
        while self._position < first and self._held:
            self._held.popleft()
            self._position += 1
        skipped = first - self._position  # a resumed edit doesn't start with frame 0
        missing = max(0, end - first - len(self._held))
        self._held += [frame.image for frame in islice(self._frames, skipped, skipped + missing)]
        self._position = first
        if len(self._held) < end - first:
            raise self._other_length(first + len(self._held), self.clip.frame_count)
        return [self._held[index - first] for index in chunk.indices]

    def finish(self, frames: int) -> None:
        """Send a notice if pictures are left after ``frames`` frames; call it in a plugin's `finish`."""
        if self._compared or self._goes_on or self._picture is not None:
            return
        if next(self._frames, None) is not None:
            notify(
                "companion-longer",
                f"{self.path} has more frames than the clip, which has {frames}; the rest was not used",
            )

    def _read(self) -> Clip:
        if self.is_picture:
            return read(self.path)
        if self.is_sequence:
            return read(self.path, rate=self.clip.rate, skip=self._skipped)
        return read_from(self.path, self._skipped)

    def _other_length(self, ours: int, clips: int | None) -> ClipError:
        return ClipError(
            f"{self.path} has {ours} frames, but the clip has {clips or 'more'}",
            "give one that has a picture for each of the clip's frames",
        )
