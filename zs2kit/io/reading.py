"""Opening clips: videos, sequences of pictures, cameras and streams, and pictures in memory."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from av.video.frame import VideoFrame

from zs2kit.clip import Anew, Clip, Color, Frame
from zs2kit.encoding import Encoding
from zs2kit.errors import ClipError, UsageError, notify
from zs2kit.files import fingerprint
from zs2kit.io import cameras, pillow
from zs2kit.io import showing as showing  # so that clips show themselves in notebooks
from zs2kit.io.cameras import address_of, capture, captured
from zs2kit.io.decoding import (
    Composed,
    Undecodable,
    decode,
    frame_times,
    opened_video,
    packets_of,
    shown,
    ticks,
)
from zs2kit.io.pictures import DECODERS, check_kind, encoding_of, is_turned, rgb, upright_of
from zs2kit.io.seeking import DecordFrames, FileFrames
from zs2kit.io.sequence import RATE, Pattern, PictureFrames, read_sequence
from zs2kit.settings import suggestion

READERS = ("pyav", "decord")

# If a file has more bytes or packets than this, its frames are not counted beforehand.
SMALL, SHORT = 64 << 20, 5_000

_ANIMATIONS = {"gif", "apng"}


def read(
    path: str | Path,
    *,
    start: Fraction | float | None = None,
    end: Fraction | float | None = None,
    rate: Fraction | float | None = None,
    skip: int = 0,
    deinterlace: bool = False,
    reader: str = "pyav",
) -> Clip:
    """Open a video, a picture or a sequence of pictures as a clip.

    Frames are decoded while you iterate over the clip; each iteration starts with the first frame. One frame
    is decoded right away, so that a file without any fails here rather than later.

    path: a file; a sequence of pictures, named by a pattern such as shot.%04d.png or shot.####.exr; or the
    address of a stream, rtsp://..., which is read as it comes, until ``end``.
    start, end: in seconds from the file's first picture or sound, as players count; the clip has the frames
    with start <= time < end.
    rate: frames per second of a sequence, 25 by default; a video has its own frame rate.
    skip: how many of the frames from ``start`` on to leave out. They are still decoded, which costs little.
    deinterlace: turn the fields of interlaced pictures into whole pictures, by FFmpeg's bwdif. The number of
    frames stays the same.
    reader: "pyav", which is exact, or "decord", whose pictures are up to half a level darker, and which reads
    only pictures of 8 bits without rotation.

    Frames are RGB and upright: rotation tags are applied. Colours are converted by the file's colour tags or,
    if it has none, as players guess. What the source stores beyond that is kept, too: see `Clip.encoding`.
    Notices say if the model is shown something else, as with HDR and scene-linear pictures, and if pictures
    are interlaced.

    A packet that can't be decoded costs at most its own picture. The picture before is shown in its place, so
    the number of frames and their times stay the same. Once all frames are read, a notice says how many were
    damaged, and which was the first.

    Raises `ClipError` for a file that can't be read, and `UsageError` for a start, end or skip that leaves no
    frame.
    """
    if address := address_of(path):
        return capture(address, end=end)
    source = Path(path)
    pattern = None if os.path.lexists(source) else Pattern.of(source)
    if pattern is None:
        _require_file(source)
    begin, stop = _seconds("start", start), _seconds("end", end)
    if stop is not None and stop <= (begin or 0):
        raise UsageError(f"`end` ({float(stop):g} s) must come after `start` ({float(begin or 0):g} s)")
    if pattern is None and rate is not None:
        raise UsageError(
            f"{source} has its own frame rate", "`rate` is for sequences of pictures (shot.%04d.png)"
        )
    if reader not in READERS:
        raise UsageError(f"there is no reader '{reader}'", suggestion(reader, READERS))
    frames: Iterable[Frame]
    try:
        if pattern:
            if deinterlace:
                raise UsageError(f"{source} is pictures", "`deinterlace` is for videos")
            clip = read_sequence(source, pattern, begin, stop, rate)
            tell_view(source, clip.encoding)
            assert isinstance(clip.frames, PictureFrames)
            frames = clip.frames.without(skip)
            shows: Iterator[object] = iter(clip)
        else:
            clip = replace(_describe(source, deinterlace), start=begin, end=stop)
            clip.frame_count = _count(clip)
            if reader == "decord":
                clip.reader = reader
                _check_for_decord(clip)
                frames = DecordFrames(clip, skip)
            else:
                frames = FileFrames(clip, skip)
            shows = shown(clip)
    except Undecodable as error:
        whole = pillow.described(source) or (
            None if isinstance(error, Composed) else cameras.described(source)
        )
        if whole is None:
            raise
        clip = replace(whole, start=begin, end=stop)
        clip.frame_count = whole.frame_count if (begin, stop) == (None, None) else None
        frames = Anew(partial(_part, clip, skip))
        shows = _part(clip)
    count = None if clip.frame_count is None else max(1, clip.frame_count - skip)
    opened = replace(clip, frames=frames, frame_count=count)
    if (begin, stop, skip) != (None, None, 0) and next(islice(shows, skip, None), None) is None:
        after = f" after the first {skip}" if skip else ""
        raise UsageError(
            f"{source} has no frames {_span_text(clip)}{after}", "choose `start` and `end` inside the clip"
        )
    return opened


def opened(clip: Any) -> Clip:
    """Return ``clip`` as a clip: it may be one, or a path, a reader, or pictures in a list, array or tensor.

    Pictures are shown at 25 per second, and a notice says so; a ``decord.VideoReader`` and a
    ``cv2.VideoCapture`` have rates of their own. Raises `UsageError` for anything else.
    """
    if isinstance(clip, str | Path):
        return read(clip)
    if isinstance(clip, Clip):
        return clip
    if hasattr(clip, "get_avg_fps"):  # decord's
        return Clip.from_images(clip, clip.get_avg_fps())
    if type(clip).__name__ == "VideoCapture":  # OpenCV's
        return captured(clip)
    if hasattr(clip, "__len__") and hasattr(clip, "__getitem__") and not isinstance(clip, bytes | Mapping):
        made = Clip.from_images(clip, RATE)
        notify(
            "default-rate",
            f"pictures have no frame rate, so {RATE} are shown per second",
            "zs2kit.Clip.from_images(pictures, rate) shows more or fewer",
        )
        return made
    if isinstance(clip, bytes) or hasattr(clip, "read"):
        raise UsageError(
            f"a {type(clip).__name__} is not a clip", "write it to a file, and give that file's path"
        )
    raise UsageError(
        f"a {type(clip).__name__} is not a clip",
        "give a path, a clip from zs2kit.read, or pictures with zs2kit.Clip.from_images",
    )


def how_read(
    start: Fraction | None = None,
    end: Fraction | None = None,
    rate: Fraction | None = None,
    deinterlace: bool = False,
    reader: str = "pyav",
) -> dict[str, Any]:
    """Return the arguments with which `read` read a source, for JSON, without those at their defaults."""
    found = {
        "start": None if start is None else float(start),
        "end": None if end is None else float(end),
        "rate": None if rate is None else str(rate),
        "deinterlace": deinterlace or None,
        "reader": None if reader == "pyav" else reader,
    }
    return {name: value for name, value in found.items() if value is not None}


def described(clip: Clip) -> dict[str, Any] | None:
    """Return which frames of which files ``clip`` has, for JSON; None if it has no file."""
    if clip.source is None and not clip.blank:
        return None
    pattern = Pattern.of(clip.source) if clip.source else None
    files = [pattern.path(each) for each in pattern.numbers()] if pattern else [clip.source]
    return {
        "source": fingerprint([file for file in files if file]),
        "start": clip.start,
        "end": clip.end,
        "deinterlaced": clip.deinterlaced,
        "reader": clip.reader,
        "frames": clip.frame_count,
    }


def _named_in(folder: Path) -> str:
    """Say what to do about a folder that was given as a clip: name a file in it, or the pictures in it."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # we may not look into it
        names = []
    for name in names:
        match = re.fullmatch(r"(.*?)(\d+)(\.\w+)", name)
        if match and match[3].lower() in DECODERS:
            digits = len(match[2])
            pattern = f"%0{digits}d" if digits > 1 else "%d"
            return f"for its pictures, give {folder / (match[1] + pattern + match[3])}"
    return "name one video file in it"


def _require_file(source: Path) -> None:
    # Unlike Path's methods, these don't raise for a name that is too long, or in a folder we may not read.
    if os.path.isdir(source):
        raise ClipError(f"{source} is a folder", _named_in(source))
    if "%" in source.name and not os.path.exists(source):
        raise ClipError(
            f"{source} is not a sequence that zs2kit can read",
            f"name pictures like shot.%04d.png, of these kinds: {', '.join(DECODERS)}",
        )
    if os.path.exists(source) and not os.path.isfile(source):
        raise ClipError(f"{source} is not a regular file", "copy its contents into one")
    try:
        source.open("rb").close()
    except FileNotFoundError:
        raise ClipError(f"no such file: {source}") from None
    except OSError as error:
        raise ClipError(
            f"{source} can't be opened ({error.strerror})", "check its name and permissions"
        ) from error


def _seconds(name: str, value: Fraction | float | None) -> Fraction | None:
    """Return exact seconds; floats are rounded so that 0.1 is 1/10, and 7 * 1001 / 30000 a frame's time."""
    if value is None:
        return None
    if not math.isfinite(value) or value < 0:
        raise UsageError(f"`{name}` must be seconds from the start of the clip, 0 or more, not {value}")
    return Fraction(value).limit_denominator(1_000_000) if isinstance(value, float) else Fraction(value)


def _span_text(clip: Clip) -> str:
    words = [f"from {float(clip.start or 0):g} s on"]
    if clip.end is not None:
        words.append(f"before {float(clip.end):g} s")
    return " ".join(words)


def _describe(source: Path, deinterlace: bool = False) -> Clip:
    """Return a clip without frames that describes a file by its header and first frame."""
    check_kind(source)
    with opened_video(source) as (container, stream):
        frame = next(decode(container, stream), None)
        if frame is None:
            raise Undecodable(f"no frame of {source} can be decoded: it is damaged, cut short or encrypted")
        upright = upright_of(frame)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        height, width = (frame.width, frame.height) if upright.swap else (frame.height, frame.width)
        told = [(each, each.start_time) for each in (stream, *container.streams.audio)]
        found = [(stream, frame.pts)]
        starts = [pts * each.time_base for each, pts in told + found if pts is not None and each.time_base]
        encoding = encoding_of(frame)
        color = _color(frame).resolve(frame.width, frame.height)
        if encoding.alpha:
            # An animation may become transparent later; in a video, the first frame decides.
            others = decode(container, stream) if container.format.name in _ANIMATIONS else ()
            encoding = replace(
                encoding, alpha=any(_is_clear(each, encoding, color) for each in chain([frame], others))
            )
        tell_view(source, encoding)
        if frame.interlaced_frame and not deinterlace:
            notify(
                "interlaced",
                f"{source} is interlaced, and each frame is edited as one picture",
                "to turn its fields into whole pictures, use `deinterlace=True`",
            )
        return Clip(
            frames=(),
            width=width,
            height=height,
            rate=stream.average_rate or stream.guessed_rate or Fraction(25),
            time_base=stream.time_base or Fraction(1, 90_000),
            frame_count=stream.frames or None,
            source=source,
            origin=max(Fraction(0), min(starts, default=Fraction(0))),
            sample_aspect_ratio=1 / aspect if upright.swap else aspect,
            color=color,
            silent=not container.streams.audio,
            pix_fmt=frame.format.name,
            encoding=encoding,
            deinterlaced=deinterlace,
        )


def _is_clear(picture: VideoFrame, encoding: Encoding, color: Color) -> bool:
    """Whether a picture is transparent anywhere."""
    alpha = rgb(picture, encoding, color, (picture.width, picture.height))[..., 3]
    return bool(alpha.min() < (1 if encoding.floating else np.iinfo(alpha.dtype).max))


def tell_view(source: Path, encoding: Encoding) -> None:
    """Send a notice if the model is shown something other than what pictures store."""
    if encoding.light != "display":
        kind = f"HDR ({encoding.light.upper()})" if encoding.is_hdr else "scene-linear"
        notify("view", f"{source} is {kind}, and shown to the model {encoding.view}")


def _count(clip: Clip) -> int | None:
    """Count the frames by their packets if the file is small; else return what the file says."""
    assert clip.source is not None
    said = clip.frame_count if clip.start is None and clip.end is None else None
    if clip.source.stat().st_size > SMALL:
        return said
    begin, stop = ticks(clip)
    count = 0
    with opened_video(clip.source) as (container, stream):
        for index, (packet, is_shown) in enumerate(packets_of(container, stream)):
            if packet.pts is None:
                return None
            if index == SHORT:
                return said
            count += is_shown and begin <= packet.pts < stop
    return count or None


def frames_before(clip: Clip) -> int:
    """Return how many frames of a clip's file come before its start."""
    if clip.start is None or clip.source is None:
        return 0
    if not os.path.lexists(clip.source):  # a sequence of pictures
        return math.ceil(clip.start * clip.rate)
    begin, _ = ticks(clip)
    with opened_video(clip.source) as (container, stream):
        times = [packet.pts for packet, is_shown in packets_of(container, stream) if is_shown]
    return sum(pts is not None and pts < begin for pts in times)


def frames_in_file(clip: Clip) -> int | None:
    """Return how many frames a clip's whole file has, regardless of start and end; None if not known."""
    if clip.source is None or not os.path.lexists(clip.source):
        return clip.frame_count
    return _count(replace(clip, start=None, end=None))


def read_from(source: Path, number: int) -> Clip:
    """Read a video from frame ``number`` on, counted from 0.

    Earlier frames aren't decoded if the file's times tell where that frame is.

    Raises what `read` raises.
    """
    clip = read(source)
    times = frame_times(clip) if number and isinstance(clip.frames, FileFrames) else None
    if times is None or number >= len(times):
        return read(source, skip=number) if number else clip
    return read(source, start=times[number] * clip.time_base - clip.origin)


def frames_after(clip: Clip, index: int) -> Iterator[Frame]:
    """Return the frames of a clip from a position on.

    Earlier frames aren't decoded if the file's times tell where that position is.
    """
    # Deinterlacing needs the pictures before.
    times = frame_times(clip) if isinstance(clip.frames, FileFrames) and not clip.deinterlaced else None
    if not index or times is None or index >= len(times):
        return islice(clip, index, None)
    start = times[index] * clip.time_base - clip.origin
    if start < 0 or clip.source is None:
        return islice(clip, index, None)
    return iter(read(clip.source, start=start, end=clip.end, reader=clip.reader))


def _check_for_decord(clip: Clip) -> None:
    """Raise `UsageError` for pictures that decord can't read exactly."""
    assert clip.source is not None
    with opened_video(clip.source) as (container, stream):
        turned = is_turned(next(decode(container, stream)))
    if turned or clip.deinterlaced or not clip.encoding.is_plain:
        raise UsageError(
            f"decord reads upright pictures of 8 bits only, and those of {clip.source} are not",
            "use the other reader: `reader='pyav'`",
        )


def _color(frame: VideoFrame) -> Color:
    if frame.format.is_rgb:
        return Color(primaries=frame.color_primaries, trc=frame.color_trc)
    return Color(frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range)


def _part(clip: Clip, skip: int = 0) -> Iterator[Frame]:
    """Yield the frames between the clip's start and end; ``clip.frames`` are those of its whole file."""
    begin, stop = ticks(clip)
    within = takewhile(lambda frame: frame.pts < stop, clip.frames)
    return islice((frame for frame in within if frame.pts >= begin), skip, None)
