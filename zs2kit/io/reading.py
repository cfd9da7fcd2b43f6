"""Reading of clips: PyAV's packets give the times, and its pictures are the frames."""

from __future__ import annotations

import math
import os
import re
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache, partial
from heapq import heapify, heappop, heappush
from itertools import chain, islice, pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.codec import CodecContext
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from zs2kit.clip import Anew, Clip, Color, Frame
from zs2kit.encoding import Encoding
from zs2kit.errors import ClipError, UsageError, notify
from zs2kit.io import cameras, pillow
from zs2kit.io import showing as showing  # so that clips show themselves in notebooks
from zs2kit.io.about import is_avif, video_of
from zs2kit.io.cameras import address_of, capture, captured
from zs2kit.io.filters import graph, pulled
from zs2kit.io.pictures import DECODERS, Upright, check_kind, encoding_of, rgb, upright_of
from zs2kit.io.seeking import DecordFrames, FileFrames, PictureFrames
from zs2kit.io.sequence import RATE, Pattern, read_sequence
from zs2kit.journal import fingerprint
from zs2kit.settings import suggestion

READERS = ("pyav", "decord")

# If a file has more bytes or packets than this, its frames are not counted beforehand.
SMALL, SHORT = 64 << 20, 5_000

# Containers with an index. In others, such as MPEG-TS, a seek may end at any packet, not only at keyframes.
_INDEXED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_JOINED = {"mpegts", "mpeg"}  # files that can be joined by just appending their bytes
_SECOND = 90_000  # ticks of all streams of such files
# FFmpeg draws text as a picture and follows lists of other files, but neither is meant when a user names one.
_ANIMATIONS = {"gif", "apng"}
_TEXT_FORMATS = {"tty", "concat", "dash", "hls", "sdp"}


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
    """Open a video, a picture or a sequence of pictures; frames are decoded while the clip is iterated over.

    Each iteration decodes them again, from the first on.

    A sequence is named by a pattern, shot.%04d.png or shot.####.exr, and shows ``rate`` pictures per second
    (25 by default); a video has its own frame rate. ``start`` and ``end`` are seconds from the file's first
    picture or sound, as players count: the clip has the frames with start <= time < end. The first ``skip``
    of these are left out; they are decoded, which costs little. Pictures are upright (rotation tags are
    applied) and RGB, by the file's colour tags or, if it has none, as players guess. One frame is decoded
    here, so that a file that has none fails now rather than later.

    A packet that can't be decoded costs at most its own picture. The picture before is shown in its place, so
    that the number of frames and their times stay the same, and once all are read, a notice says which
    frames, and how many.

    Frames have what the source has: see `Clip.encoding`. Notices say if a model is shown something else, as
    with HDR and scene-linear pictures, and that pictures are interlaced. ``deinterlace`` makes whole pictures
    of them, by FFmpeg's bwdif, as many as there are frames.

    ``reader``: "pyav", which is exact, or "decord", whose pictures are up to half a level darker, and which
    reads upright pictures of 8 bits only. A stream, rtsp://..., is read as it comes, until ``end``.

    Raises `ClipError` for a file that can't be read, `UsageError` for a start, end or skip that leaves no
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
            frames = PictureFrames(partial(islice, clip, skip, None))
            shows: Iterator[object] = iter(clip)
        else:
            clip = replace(_describe(source, deinterlace), start=begin, end=stop)
            clip.frame_count = _count(clip)
            if reader == "decord":
                clip.reader = reader
                _check_for_decord(clip)
                frames = DecordFrames(clip, skip, frame_times)
            else:
                frames = FileFrames(clip, skip, _pyav_frames, frame_times)
            shows = shown(clip)
    except _Undecodable as error:
        whole = pillow.described(source) or (
            None if isinstance(error, _Composed) else cameras.described(source)
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
    """Return ``clip``, or make one: of a path, of pictures in a list, an array or a tensor, or of a reader.

    Pictures are shown 25 a second, and a notice says so; a ``decord.VideoReader`` and a ``cv2.VideoCapture``
    have rates of their own. Raises `UsageError` for anything else.
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
            f"pictures have no rate, so {RATE} are shown per second",
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
    """Return for JSON how a source was read, as `read` takes it, without what is so by default."""
    found = {
        "start": None if start is None else float(start),
        "end": None if end is None else float(end),
        "rate": None if rate is None else str(rate),
        "deinterlace": deinterlace or None,
        "reader": None if reader == "pyav" else reader,
    }
    return {name: value for name, value in found.items() if value is not None}


def described(clip: Clip) -> dict[str, Any] | None:
    """Return which frames of which files ``clip`` has, for JSON; None if it is of no file."""
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
    """What to do about a folder given as a clip: name a file in it, or the pictures that it holds."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # it is closed to us
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
    """Take floats to the microsecond, so that 0.1 is 1/10 and 7 * 1001 / 30000 is the time of a frame."""
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


def is_turned(picture: VideoFrame) -> bool:
    """Whether a tag tells players to turn or mirror the picture."""
    return upright_of(picture) != Upright()


class _Undecodable(ClipError):
    """PyAV finds no picture in the file, but another reader may."""


class _Composed(_Undecodable):
    """The file is a photo, or an animation, that consists of parts, of which PyAV sees each by itself."""


def _check_composed(source: Path, container: InputContainer, video: VideoStream) -> None:
    """Raise `_Composed` for an AVIF or HEIF that consists of tiles, and for an AVIF with alpha."""
    kinds = [each.codec_context.format for each in container.streams.video if each.codec_context]
    if video.disposition & Disposition.dependent:
        parts = "tiles"
    elif is_avif(container) and len({kind and len(kind.components) for kind in kinds}) > 1:
        parts = "a picture and its alpha"
    else:
        return
    if any(part.bits > 8 for kind in kinds if kind for part in kind.components):
        raise ClipError(f"{source} consists of {parts}, of more than 8 bits", "convert it to PNG of 16 bits")
    raise _Composed(
        f"{source} consists of {parts}", "convert it to PNG, or install pillow-heif, which reads it"
    )


@contextmanager
def _open(source: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Within this context a file and its first video stream are open; a sound file's cover is no video.

    Reading errors inside, such as when a file breaks off or its disk is gone, become `ClipError` too.
    """
    try:
        # With "file:", a colon in the name is not taken for a protocol.
        container = av.open(f"file:{source}", metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise _Undecodable(
            f"{source} is not a video, or is damaged", "name a file that players can play"
        ) from error
    with container:
        if container.format.name in _TEXT_FORMATS:
            raise ClipError(f"{source} is text, not a video", "name a video file")
        video = video_of(container)
        if video is None and container.streams.audio:
            raise ClipError(f"{source} has sound but no picture", "name a video file")
        if video is None:
            raise _Undecodable(
                f"{source} has no picture, or is cut short before the first one", "name a video file"
            )
        if not video.codec_context:
            raise _Undecodable(
                f"{source} is encoded in a way that FFmpeg doesn't know", "convert it to H.264"
            )
        _check_composed(source, container, video)
        try:
            yield container, video
        except av.FFmpegError as error:
            raise ClipError(
                f"{source} can't be read to its end ({error.strerror})", "get a complete copy of it"
            ) from error


def demux(container: InputContainer, *streams: Stream) -> Iterator[Packet[Any]]:
    """Yield the packets of these streams, without the empty ones that PyAV appends.

    Appending these, PyAV fails on damaged files in which further streams turn up later.
    """
    joins = _Joins() if container.format.name in _JOINED else None
    with suppress(IndexError):
        # Joins are looked for in all streams, whichever are asked for, so that the streams stay in sync.
        for packet in container.demux(*(container.streams if joins else streams)):
            if not packet.size:
                continue
            if joins:
                joins.correct(packet)
            if packet.stream in streams:
                yield packet


class _Joins:
    """Corrects times in a file that was joined from several, each of which starts its times again."""

    def __init__(self) -> None:
        self.shift = 0  # of everything after the latest join, in ticks; the same for all streams
        self.shifts: dict[int, int] = {}  # the current shift of each stream
        self.last: dict[int, tuple[int, int]] = {}  # the times of each stream's last two packets

    def correct(self, packet: Packet[Any]) -> None:
        """Change a packet's times to those since the start of the first file."""
        index = packet.stream_index
        shift = self.shifts.setdefault(index, self.shift)
        if packet.dts is not None:
            before, last = self.last.get(index, (packet.dts, packet.dts))
            # If it is earlier than the last packet but not the one before, the last one's time is damaged.
            if packet.dts + shift < min(before, last):
                goes_on = last + (packet.duration or last - before) - packet.dts
                # Whether another stream has already found this join
                known = self.shift > shift and abs(self.shift - goes_on) < _SECOND
                self.shift = self.shifts[index] = shift = self.shift if known else goes_on
            packet.dts += shift
            self.last[index] = (last, packet.dts)
        if packet.pts is not None:
            packet.pts += shift


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[tuple[Packet[Any], bool]]:
    """Yield the packets of a video, and whether each should give a picture that is shown at its pts.

    In a recording that starts in the middle of a broadcast, packets before the first keyframe don't, and
    neither do later ones that are shown before it.
    """
    packets = demux(container, stream)
    whole = container.format.name in _INDEXED
    vp8 = stream.codec_context.name == "vp8"
    keyframe = None
    while True:
        try:
            packet = next(packets, None)
        except av.InvalidDataError:  # the rest can't be read, so this is the end
            return
        if packet is None:
            return
        if keyframe is None and (packet.is_keyframe or whole):
            keyframe = packet.pts
        hidden = packet.is_discard or (vp8 and not memoryview(packet)[0] & 0x10)  # VP8's bit "show_frame"
        yield packet, not (hidden or packet.pts is None or keyframe is None or packet.pts < keyframe)


class _Due:
    """The pictures that are due to come, by the packets that were decoded so far."""

    def __init__(self) -> None:
        self.packets = 0
        self.times: list[tuple[int, int]] = []  # a heap of the (pts, duration) of pictures that are due
        self.known = True  # False if packets have no pts, as in AVI, where the decoder makes times up

    def add(self, packet: Packet[Any], shown: bool) -> None:
        """Count a packet; if it is ``shown``, its picture is due."""
        self.packets += 1
        self.known &= packet.pts is not None
        if self.known and shown:
            heappush(self.times, (packet.pts or 0, packet.duration or 0))

    def drop(self, pts: int | None) -> None:
        """Remove the pictures at a time that is wrong."""
        self.times = [each for each in self.times if each[0] != pts]
        heapify(self.times)

    def pop(self, pts: float) -> Iterator[tuple[int, int]]:
        """Remove and yield the pictures that are due up to ``pts``."""
        while self.known and self.times and self.times[0][0] <= pts:
            yield heappop(self.times)


def _decode(container: InputContainer, stream: VideoStream, due: _Due | None = None) -> Iterator[VideoFrame]:
    """Decode what can be decoded: a damaged packet costs at most its picture and those predicted from it."""
    decoder = _decoder(stream)
    for packet, shown in chain(_packets(container, stream), [(None, False)]):
        if due and packet:
            due.add(packet, shown)
        try:
            pictures = decoder.decode(packet)
        except av.FFmpegError:
            continue
        yield from pictures


def _decoder(stream: VideoStream) -> VideoCodecContext:
    """Return what decodes a video; for VP8 and VP9 with alpha, libvpx, as FFmpeg's own leave that out."""
    wanted = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if wanted is None or stream.metadata.get("alpha_mode") != "1":
        return stream.codec_context
    decoder = CodecContext.create(wanted, "r")
    assert isinstance(decoder, VideoCodecContext)
    return decoder


class Shown(NamedTuple):
    """A decoded picture and when it is shown, in ticks of its clip's time_base."""

    picture: VideoFrame
    pts: int
    duration: int
    own: bool = True  # False: the picture that belongs here can't be decoded, and this is a neighbour


def shown(clip: Clip) -> Iterator[Shown]:
    """Yield the decoded pictures of a clip from its start to its end, each later than the one before.

    After the last one, notices say what was damaged, and what is missing at the end.
    """
    assert clip.source is not None
    begin, stop = _ticks(clip)
    spacing = frame_ticks(clip)  # the longest time from one picture to the next
    lost = marred = index = 0
    last, first_fault = None, ""
    with _open(clip.source) as (container, stream):
        if clip.start is not None:
            seek(container, stream, clip.origin + clip.start)
        for each in _timed(container, stream, clip):
            if each.pts >= stop:
                break
            spacing = max(spacing, each.pts - last.pts) if last else spacing
            last = each
            if each.pts < begin:
                continue
            if not each.own or each.picture.is_corrupt:
                lost, marred = lost + (not each.own), marred + each.own
                seconds = float(each.pts * clip.time_base - clip.origin)
                first_fault = first_fault or f"the first is frame {index}, at {seconds:.2f} s"
            index += 1
            yield each
        else:
            end = (last.pts + last.duration) * clip.time_base if last else clip.origin
            declared = _declared_end(stream)
            if last and declared - end > 2 * spacing * clip.time_base:
                there, all_ = float(end - clip.origin), float(declared - clip.origin)
                notify(
                    "breaks-off",
                    f"{clip.source} ends at {there:.2f} s instead of {all_:.2f} s; what is there is used",
                )
    if lost or marred:
        faults = [f"frames replaced by their neighbour: {lost}"] if lost else []
        faults += [f"frames with errors: {marred}"] if marred else []
        notify("damaged", f"{clip.source} is damaged; {'; '.join(faults)}; {first_fault}")


def _timed(container: InputContainer, stream: VideoStream, clip: Clip) -> Iterator[Shown]:
    """Yield all pictures in the order of display, with increasing times and none missing.

    A time is damaged if it doesn't lie between its neighbours'. A picture is missing if its packet has come,
    and so has a later picture; then the one before is shown again or, at the start, the one after.
    """
    nominal = frame_ticks(clip)
    due = _Due()
    last: Shown | None = None
    for picture, following in pairwise(chain(_decode(container, stream, due), [None])):
        assert picture is not None
        pts = _between(last, picture.pts, following.pts if following else None, nominal)
        if pts != picture.pts:
            due.drop(picture.pts)
        # In MPEG-TS, each half of an interlaced picture may have a packet of its own.
        apart = nominal * 3 // 4 if picture.interlaced_frame else 1
        for missing, duration in due.pop(pts):
            if missing < pts and (last is None or missing >= last.pts + apart):
                last = Shown(last.picture if last else picture, missing, duration or nominal, own=False)
                yield last
        duration = picture.duration or nominal
        if following is None and due.packets == stream.frames:
            # In MP4, packets tell the time between decodings: only the file's end gives the last duration.
            rest = round(_declared_end(stream) / clip.time_base) - pts
            duration = rest if rest > 0 else duration
        last = Shown(picture, pts, duration)
        yield last
    longest = max(2 * nominal, math.ceil(1 / clip.time_base))  # a damaged time may be anywhere
    for missing, duration in due.pop(math.inf):
        if last and last.pts < missing <= last.pts + longest:
            last = last._replace(pts=missing, duration=duration or nominal, own=False)
            yield last


def _between(last: Shown | None, pts: int | None, after: int | None, nominal: int) -> int:
    """Return the time of a picture: its pts, if that lies between ``last`` and the next one's pts, ``after``.

    If not, a time between them is guessed.
    """
    if last is None:
        if pts is None or (after is not None and pts >= after):
            return 0 if after is None else after - nominal
        return pts
    if after is not None and after <= last.pts:  # then it is ``after`` that is wrong
        after = None
    if pts is not None and last.pts < pts and (after is None or pts < after):
        return pts
    guess = last.pts + last.duration
    return guess if after is None else max(last.pts + 1, min(guess, after - 1))


def _declared_end(stream: VideoStream) -> Fraction:
    """Return when the pictures end as the file declares it; 0 if it doesn't."""
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))  # Matroska's
    if tag:
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + Fraction(tag[3])
    if stream.duration is None or stream.time_base is None:
        return Fraction(0)
    return ((stream.start_time or 0) + stream.duration) * stream.time_base


def _describe(source: Path, deinterlace: bool = False) -> Clip:
    """Describe a file without its frames, by its header and its first frame."""
    check_kind(source)
    with _open(source) as (container, stream):
        frame = next(_decode(container, stream), None)
        if frame is None:
            raise _Undecodable(f"no frame of {source} can be decoded: it is damaged, cut short or encrypted")
        upright = upright_of(frame)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        height, width = (frame.width, frame.height) if upright.swap else (frame.height, frame.width)
        told = [(each, each.start_time) for each in (stream, *container.streams.audio)]
        found = [(stream, frame.pts)]
        starts = [pts * each.time_base for each, pts in told + found if pts is not None and each.time_base]
        encoding = encoding_of(frame)
        color = _color(frame).resolve(frame.width, frame.height)
        if encoding.alpha:
            # An animation may become transparent later; of a video, the first frame tells.
            others = _decode(container, stream) if container.format.name in _ANIMATIONS else ()
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
    """Send a notice if pictures are not shown to the model as they are."""
    if encoding.light != "display":
        kind = f"HDR ({encoding.light.upper()})" if encoding.is_hdr else "scene-linear"
        notify("view", f"{source} is {kind}, and shown to the model {encoding.view}")


def _count(clip: Clip) -> int | None:
    """Count the frames by their packets if the file is small; else return what the file says of itself."""
    assert clip.source is not None
    said = clip.frame_count if clip.start is None and clip.end is None else None
    if clip.source.stat().st_size > SMALL:
        return said
    begin, stop = _ticks(clip)
    count = 0
    with _open(clip.source) as (container, stream):
        for index, (packet, shown) in enumerate(_packets(container, stream)):
            if packet.pts is None:
                return None
            if index == SHORT:
                return said
            count += shown and begin <= packet.pts < stop
    return count or None


def frames_before(clip: Clip) -> int:
    """Return how many frames of a clip's file come before its start, by their packets."""
    if clip.start is None or clip.source is None:
        return 0
    if not os.path.lexists(clip.source):  # a sequence of pictures
        return math.ceil(clip.start * clip.rate)
    begin, _ = _ticks(clip)
    with _open(clip.source) as (container, stream):
        times = [packet.pts for packet, shown in _packets(container, stream) if shown]
    return sum(pts is not None and pts < begin for pts in times)


def frames_in_file(clip: Clip) -> int | None:
    """Return how many frames a clip's file has, also outside its start and end; None if not known."""
    if clip.source is None or not os.path.lexists(clip.source):
        return clip.frame_count
    return _count(replace(clip, start=None, end=None))


def read_from(source: Path, number: int) -> Clip:
    """Read a video from a frame on, counted from 0, without decoding those before if the times tell where.

    Raises what `read` raises.
    """
    clip = read(source)
    times = frame_times(clip) if number and isinstance(clip.frames, FileFrames) else None
    if times is None or number >= len(times):
        return read(source, skip=number) if number else clip
    return read(source, start=times[number] * clip.time_base - clip.origin)


def frames_after(clip: Clip, index: int) -> Iterator[Frame]:
    """Return the frames of a clip from a position on; those before aren't decoded if the times tell where."""
    # Halves of pictures are made whole with the help of the pictures before.
    times = frame_times(clip) if isinstance(clip.frames, FileFrames) and not clip.deinterlaced else None
    if not index or times is None or index >= len(times):
        return islice(clip, index, None)
    start = times[index] * clip.time_base - clip.origin
    if start < 0 or clip.source is None:
        return islice(clip, index, None)
    return iter(read(clip.source, start=start, end=clip.end, reader=clip.reader))


def frame_times(clip: Clip) -> array[int] | None:
    """Return the pts of all of a file's frames by its packets, in order; None if packets have none."""
    assert clip.source is not None
    found = os.stat(clip.source)
    times = _packet_times(clip.source, found.st_size, found.st_mtime_ns)
    if times is None:
        return None
    begin, stop = _ticks(clip)
    return times[bisect_left(times, begin) : bisect_left(times, stop)]


@lru_cache(maxsize=4)
def _packet_times(source: Path, size: int, changed: int) -> array[int] | None:
    with _open(source) as (container, stream):
        packets = [(packet.pts, shown) for packet, shown in _packets(container, stream)]
    if not packets or any(pts is None for pts, _ in packets):
        return None
    return array("q", sorted({pts for pts, shown in packets if shown and pts is not None}))


def _check_for_decord(clip: Clip) -> None:
    """Raise `UsageError` for pictures that decord doesn't read as they are."""
    assert clip.source is not None
    with _open(clip.source) as (container, stream):
        turned = is_turned(next(_decode(container, stream)))
    if turned or clip.deinterlaced or not clip.encoding.is_plain:
        raise UsageError(
            f"decord reads upright pictures of 8 bits only, and those of {clip.source} are not",
            "use the other reader: `reader='pyav'`",
        )


def _color(frame: VideoFrame) -> Color:
    if frame.format.is_rgb:
        return Color(primaries=frame.color_primaries, trc=frame.color_trc)
    return Color(frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range)


def _ticks(clip: Clip) -> tuple[float, float]:
    """Return the clip's start and end in pts: begin <= pts < stop."""
    begin = -math.inf if clip.start is None else math.ceil((clip.origin + clip.start) / clip.time_base)
    stop = math.inf if clip.end is None else math.ceil((clip.origin + clip.end) / clip.time_base)
    return begin, stop


def _pyav_frames(clip: Clip, skip: int = 0) -> Iterator[Frame]:
    upright = image = stored = None
    pictures = _deinterlaced(shown(clip)) if clip.deinterlaced else shown(clip)
    for picture, pts, duration, own in islice(pictures, skip, None):
        if own or image is None:
            upright = upright or upright_of(picture)
            size = (clip.height, clip.width) if upright.swap else (clip.width, clip.height)
            stored = upright.apply(rgb(picture, clip.encoding, clip.color, size))
            image = stored if clip.encoding.is_plain else clip.encoding.image(stored)
        yield Frame(image, pts, duration, None if clip.encoding.is_plain else stored)


def _deinterlaced(pictures: Iterator[Shown]) -> Iterator[Shown]:
    """Make a whole picture of each, from its own halves and its neighbours'."""
    bwdif: Any = None
    kind = None
    waiting: deque[Shown] = deque()

    def done() -> Iterator[Shown]:
        for picture in pulled(bwdif):
            yield waiting.popleft()._replace(picture=picture, own=True)

    for number, each in enumerate(pictures):
        found = each.picture.width, each.picture.height, each.picture.format.name
        each.picture.pts, each.picture.time_base = number * 3600, Fraction(1, 90_000)
        if found != kind:
            if bwdif is not None:
                bwdif.push(None)
                yield from done()
            bwdif, kind = graph("bwdif", "mode=send_frame:deint=all", each.picture), found
        waiting.append(each)
        bwdif.push(each.picture)
        yield from done()
    if bwdif is not None:
        bwdif.push(None)
        yield from done()


def frame_ticks(clip: Clip) -> int:
    """Return the nominal duration of a frame, in ticks."""
    return max(1, round(1 / (clip.rate * clip.time_base)))


def seek(container: InputContainer, stream: Stream, start: Fraction) -> None:
    """Go to a keyframe before ``start`` if the file has an index; else stay where it is.

    A seek goes by decoding times, which are earlier than display times, so it aims a second earlier.
    """
    assert stream.time_base is not None
    if start > 1 and container.format.name in _INDEXED:
        with suppress(av.FFmpegError):
            container.seek(math.floor((start - 1) / stream.time_base), stream=stream)


def _part(clip: Clip, skip: int = 0) -> Iterator[Frame]:
    """Yield the frames between the clip's start and end, of a clip whose ``frames`` are all of its file's."""
    begin, stop = _ticks(clip)
    within = takewhile(lambda frame: frame.pts < stop, clip.frames)
    return islice((frame for frame in within if frame.pts >= begin), skip, None)
