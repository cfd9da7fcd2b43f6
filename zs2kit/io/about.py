"""What a file says besides picture and sound: tags such as its title, chapters, and the timecode."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from zs2kit.clip import Clip

# The tags of streams that are copied. Others, such as Matroska's sizes and durations, change when it is cut.
STREAM_TAGS = {"language", "title", "handler_name"}  # the last is MP4's title
# The tags that are true only of the file itself
_OWN_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}

_TIMECODE_RATES = {24, 25, 30, 48, 50, 60, 100, 120, 150}  # the frame rates that FFmpeg supports
_DROP_RATES = {Fraction(30000, 1001), Fraction(60000, 1001)}


@dataclass(frozen=True)
class About:
    """The tags of a file and of its video, its chapters, and the timecode of its first frame."""

    metadata: dict[str, str] = field(default_factory=dict)
    video: dict[str, str] = field(default_factory=dict)
    chapters: list[dict[str, Any]] = field(default_factory=list)  # as PyAV gives them
    timecode: str | None = None
    begin: Fraction = Fraction(0)  # when the first frame is shown, in seconds

    @classmethod
    def of(cls, source: Path | None) -> About:
        """Read a file; return an empty `About` for one that can't be opened."""
        try:
            container = av.open(f"file:{source}", metadata_errors="replace") if source else None
        except (av.FFmpegError, ValueError):
            container = None
        if container is None:
            return cls()
        with container:
            video = video_of(container)
            if video is None:
                return cls()
            said = [video.metadata, container.metadata, *(each.metadata for each in container.streams.data)]
            codes = [tags[key] for tags in said for key in tags if key.lower() == "timecode"]
            return cls(
                {
                    key: text
                    for key, text in container.metadata.items()
                    if not _is_own(key, container.metadata)
                },
                {key: video.metadata[key] for key in STREAM_TAGS & video.metadata.keys()},
                [dict(chapter) for chapter in container.chapters()],
                codes[0] if codes else None,
                (video.start_time or 0) * (video.time_base or Fraction(0)),
            )

    def chapters_between(self, start: Fraction, end: Fraction | None) -> list[dict[str, Any]]:
        """Return the chapters, cut to ``start`` and ``end`` in seconds; ``start`` becomes time 0."""
        cut = []
        for chapter in self.chapters:
            unit = chapter["time_base"]
            first, last = (chapter[key] * unit - start for key in ("start", "end"))
            first, last = max(first, Fraction(0)), last if end is None else min(last, end - start)
            if first < last:
                cut.append({**chapter, "start": round(first / unit), "end": round(last / unit)})
        return cut


def video_of(container: InputContainer) -> VideoStream | None:
    """Return a file's video, which is neither a cover nor the still that an animated AVIF starts with."""
    videos = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    return next((each for each in videos if each.frames != 1), videos[0] if videos else None)


def is_avif(container: InputContainer) -> bool:
    """Whether a file is an AVIF, still or animated. Its alpha and its first picture count as videos, too."""
    return container.metadata.get("major_brand") in ("avif", "avis")


def _is_own(key: str, tags: dict[str, str]) -> bool:
    name, _, language = key.rpartition("-")
    repeated = len(language) == 3 and name in tags  # MP4 repeats its tags with their language
    return repeated or key.lower() in _OWN_TAGS | {"timecode"}


def timecode_at(about: About, clip: Clip, start: Fraction) -> str | None:
    """Return the timecode of ``clip``, whose first frame is shown at ``start``, in seconds of the source.

    None if the source has no timecode, or if it isn't valid for the clip's rate.
    """
    if not about.timecode:
        return None
    rate = clip.rate / clip.per_frame  # the source's
    skipped = 0 if clip.start is None else round((start - about.begin) * rate)
    first = later(about.timecode, skipped, rate)
    if first is None or clip.per_frame == 1:
        return first
    return later(f"{first[:9]}{int(first[9:]) * clip.per_frame:02}", 0, clip.rate)


def later(timecode: str, frames: int, rate: Fraction) -> str | None:
    """Return the timecode ``frames`` frames later; None if it isn't valid for ``rate`` frames per second.

    In drop-frame timecode, HH:MM:SS;FF, the first numbers of each minute are left out, except in every tenth
    minute, so that 29.97 (or 59.94) frames per second keep up with the clock.
    """
    match = re.fullmatch(r"(\d\d):([0-5]\d):([0-5]\d)([:;.])(\d{2,3})", timecode)
    fps = round(rate)
    if not match or fps not in _TIMECODE_RATES or int(match[5]) >= fps:
        return None
    drops = match[4] != ":"
    if drops and rate not in _DROP_RATES:
        return None
    left_out = fps // 15 if drops else 0
    ten_minutes, minute = 600 * fps - 9 * left_out, 60 * fps - left_out
    minutes = int(match[1]) * 60 + int(match[2])
    number = minutes * 60 * fps + int(match[3]) * fps + int(match[5]) - left_out * (minutes - minutes // 10)
    number = (number + frames) % (144 * ten_minutes)  # a day
    tens, rest = divmod(number, ten_minutes)
    number += left_out * (9 * tens + max(0, rest - left_out) // minute)
    seconds, frame = divmod(number, fps)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{match[4]}{frame:02}"
