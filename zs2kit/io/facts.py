"""What a file stores that must not change in an edit, for `zs2kit.verify` to compare."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
from av.video.format import VideoFormat

from zs2kit.clip import Clip
from zs2kit.errors import ClipError
from zs2kit.io.about import video_of
from zs2kit.io.decoding import demux, seek, shown
from zs2kit.io.output import CODECS, codec_for
from zs2kit.io.pictures import is_turned
from zs2kit.io.reading import read
from zs2kit.io.seeking import FileFrames
from zs2kit.io.streams import codec_of


@dataclass
class Sound:
    """A stream of sound as it is stored; times are in seconds from the start of the clip."""

    codec: str
    tick: Fraction  # the unit in which times are stored, in seconds
    digest: Any = field(default_factory=sha256)  # of the bytes of all packets
    times: list[Fraction] = field(default_factory=list)  # of the packets
    end: Fraction = Fraction(0)


@dataclass
class Facts:
    """A clip as it is stored; times are in seconds from its start."""

    clip: Clip  # its frames are used up
    codec: str
    is_rgb: bool  # stored as RGB, which has no matrix and no range
    times: list[Fraction]  # of the frames
    end: Fraction  # of the last frame
    turned: bool  # a tag tells players to turn or mirror the pictures
    undecodable: int  # how many frames are replaced by their neighbours
    sounds: list[Sound] | None  # None for sequences of pictures and animations, which can't have any


def examine(
    path: str | Path,
    *,
    start: Fraction | float | None = None,
    end: Fraction | float | None = None,
    rate: Fraction | None = None,
) -> Facts:
    """Look at every frame and every packet of sound between ``start`` and ``end`` seconds.

    Time 0 is the first picture or sound; if the clip is cut at its start, the first frame. ``rate`` is for
    sequences of pictures. Raises what `zs2kit.read` raises.
    """
    is_sequence = not os.path.lexists(path)
    clip = read(path, start=start, end=end, rate=rate if is_sequence else None)
    if not isinstance(clip.frames, FileFrames):  # it isn't PyAV that reads this file
        moments = [(frame.pts, frame.duration, True) for frame in clip]
        codec, turned = Path(path).suffix[1:].lower(), False
    else:
        pictures = shown(clip)
        first = next(pictures)
        codec, turned = _codec(path), is_turned(first.picture)
        moments = [(first.pts, first.duration, first.own)]
        moments += [(pts, duration, own) for _, pts, duration, own in pictures]
    first_shown = moments[0][0] * clip.time_base
    sounds = None if is_sequence or CODECS[codec_for(Path(path))].animation else _sounds(clip, first_shown)
    begin = first_shown
    if clip.start is None and begin >= 0:
        begin = max(Fraction(0), min([begin, *(each.times[0] for each in sounds or [] if each.times)]))
    for sound in sounds or []:
        sound.times = [time - begin for time in sound.times]
        sound.end -= begin
    return Facts(
        clip=clip,
        codec=codec,
        is_rgb=VideoFormat(clip.pix_fmt).is_rgb,
        times=[pts * clip.time_base - begin for pts, _, _ in moments],
        end=(moments[-1][0] + moments[-1][1]) * clip.time_base - begin,
        turned=turned,
        undecodable=sum(not own for _, _, own in moments),
        sounds=sounds,
    )


def _codec(path: str | Path) -> str:
    with av.open(f"file:{path}", metadata_errors="replace") as container:
        video = video_of(container)
        return video.codec_context.name if video and video.codec_context else "unknown"


def _sounds(clip: Clip, begin: Fraction) -> list[Sound]:
    """Return the streams of sound, from ``begin`` on if the clip is cut, with times of the file's own clock.

    Packets that go back in time are damaged, and are left out.
    """
    if clip.silent:
        return []
    stop = None if clip.end is None else clip.origin + clip.end
    sounds: dict[int, Sound] = {}
    decoded: dict[int, int] = {}
    try:
        with av.open(f"file:{clip.source}", metadata_errors="replace") as container:
            for stream in container.streams.audio:
                codec = codec_of(stream) or "unknown"
                sounds[stream.index] = Sound(codec, stream.time_base or Fraction(1))
            if clip.start is not None:
                seek(container, container.streams.audio[0], begin)
            for packet in demux(container, *container.streams.audio):
                index, pts, dts = packet.stream_index, packet.pts, packet.dts
                if pts is None or dts is None or pts < dts or dts <= decoded.get(index, dts - 1):
                    continue
                decoded[index] = dts
                time = pts * packet.time_base
                if (clip.start is not None and time < begin) or (stop is not None and time >= stop):
                    continue
                sound = sounds[index]
                sound.digest.update(_payload(sound.codec, bytes(packet)))
                sound.times.append(time)
                sound.end = time + (packet.duration or 0) * packet.time_base
    except (av.FFmpegError, ValueError) as error:
        raise ClipError(
            f"the sound of {clip.source} can't be read to its end", "get a complete copy of the file"
        ) from error
    return [sound for sound in sounds.values() if sound.times]


def _payload(codec: str, data: bytes) -> bytes:
    """Return a packet without the ADTS header, which AAC has in MPEG-TS but not in other containers."""
    if codec == "aac" and len(data) > 9 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:
        return data[7 if data[1] & 1 else 9 :]
    return data
