"""Reading of clips: PyAV's packets are the clock, and its pictures the frames."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from zs2kit.clip import Anew, Clip, Color, Frame
from zs2kit.errors import ClipError, UsageError, notify
from zs2kit.io.sequence import Pattern, read_sequence

# The frames of files with more bytes or packets are not counted before the first is read.
SMALL, SHORT = 64 << 20, 5_000

# Containers with an index. In others, such as MPEG-TS, a seek ends at any packet, not at a keyframe's.
_INDEXED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_JOINED = {"mpegts", "mpeg"}  # may be joined by their bytes alone; all their streams count time as
_SECOND = 90_000  # ticks
# FFmpeg draws text as a picture and follows lists of other files; neither is a video that somebody names.
_TEXT_FORMATS = {"tty", "concat", "dash", "hls", "sdp"}
# By default swscale takes shortcuts with halved colours, and its pictures are about half a level too dark.
# With these flags every level is the nearest one.
_EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def read(
    path: str | Path,
    *,
    start: Fraction | float | None = None,
    end: Fraction | float | None = None,
    rate: Fraction | float | None = None,
    skip: int = 0,
) -> Clip:
    """Open a video, a picture or a sequence of pictures; frames are decoded while the clip is iterated over.

    Each time, they are decoded anew from the first on.

    A sequence is named by a printf pattern, shot.%04d.png, and shows ``rate`` pictures a second (25 if it
    is not said); a video has its own. ``start`` and ``end`` are seconds from the file's first picture or
    sound, as players count: frames with start <= time < end are kept. Of these the first ``skip`` are left
    out; they are decoded, which costs little. Pictures are upright (rotation tags are applied), RGB by the
    file's colour tags or, where it has none, as players guess. One frame is decoded here, so a file that has
    none fails now rather than later.

    A packet that can't be decoded costs its own picture at most. The one before it is shown in its place, so
    that the number of frames and their times stay, and once all are read, a notice says which and how many.
    Of transparency and of interlaced pictures, which are edited as they are, there is a notice here.

    Raises ClipError for a file that can't be read, UsageError for a start, end or skip that leaves no frame.
    """
    source = Path(path)
    pattern = None if os.path.lexists(source) else Pattern.of(source)
    if pattern is None:
        _require_file(source)
    begin, stop = _seconds("start", start), _seconds("end", end)
    if stop is not None and stop <= (begin or 0):
        raise UsageError(f"end ({float(stop):g} s) must come after start ({float(begin or 0):g} s)")
    if pattern is None and rate is not None:
        raise UsageError(
            f"{source} has a rate of its own", "`rate` is for sequences of pictures (shot.%04d.png)"
        )
    frames: Callable[[], Iterator[Frame]]
    try:
        if pattern:
            clip = read_sequence(source, pattern, begin, stop, rate)
            frames = partial(islice, clip, skip, None)
            shows: Iterator[object] = iter(clip)
        else:
            clip = replace(_describe(source), start=begin, end=stop)
            clip.frame_count = _count(clip)
            frames = partial(_pyav_frames, clip, skip)
            shows = shown(clip)
    except _Undecodable:
        described = _describe_with_opencv(source)
        if described is None:
            raise
        clip = replace(described, start=begin, end=stop)
        frames = partial(_opencv_frames, clip, skip)
        shows = _captured(clip)
    count = None if clip.frame_count is None else max(1, clip.frame_count - skip)
    opened = replace(clip, frames=Anew(frames), frame_count=count)
    if (begin, stop, skip) != (None, None, 0) and next(islice(shows, skip, None), None) is None:
        after = f" after the first {skip}" if skip else ""
        raise UsageError(
            f"{source} has no frame {_span_text(clip)}{after}", "choose start and end inside the clip"
        )
    return opened


def opened(clip: Clip | str | Path) -> Clip:
    """Return ``clip``, read if it is a path; `UsageError` if it is neither."""
    if isinstance(clip, str | Path):
        return read(clip)
    if not isinstance(clip, Clip):
        raise UsageError(
            f"a {type(clip).__name__} is no clip",
            "give a path, what zs2kit.read returns, or pictures by zs2kit.Clip.from_images",
        )
    return clip


def _require_file(source: Path) -> None:
    # Unlike Path's own, these tests don't raise for a name that is too long, or in a folder that is closed.
    if os.path.isdir(source):
        raise ClipError(f"{source} is a folder", "name one video file in it")
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
    """Floats count to the microsecond, so that 0.1 is 1/10 and 7 * 1001 / 30000 is the time of a frame."""
    if value is None:
        return None
    if not math.isfinite(value) or value < 0:
        raise UsageError(f"{name} must be seconds from the beginning of the clip, 0 or more, not {value}")
    return Fraction(value).limit_denominator(1_000_000) if isinstance(value, float) else Fraction(value)


def _span_text(clip: Clip) -> str:
    words = [f"from {float(clip.start or 0):g} s on"]
    if clip.end is not None:
        words.append(f"before {float(clip.end):g} s")
    return " ".join(words)


class _Upright(NamedTuple):
    """How a decoded picture is turned for display: rows and columns swapped, then stepped through."""

    swap: bool = False
    rows: int = 1  # -1: from the bottom up
    columns: int = 1

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.swap:
            image = image.swapaxes(0, 1)
        return np.ascontiguousarray(image[:: self.rows, :: self.columns])


_TURNS = {90: _Upright(True, rows=-1), -90: _Upright(True, columns=-1), 180: _Upright(False, -1, -1)}


def _upright(frame: VideoFrame) -> _Upright:
    """Read the display matrix; it maps (column, row) by [[a, b], [c, d]], of which we keep the signs."""
    try:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV doesn't know what else there is, as in photos
        return _TURNS.get(frame.rotation, _Upright())
    if matrix is None:
        return _Upright()
    (a, b, _), (c, d, _), _ = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)
    swap = abs(int(b)) > abs(int(a))
    column, row = (c, b) if swap else (a, d)
    return _Upright(swap, -1 if row < 0 else 1, -1 if column < 0 else 1)


def is_turned(picture: VideoFrame) -> bool:
    """Whether a tag tells players to turn the picture, or to mirror it."""
    return _upright(picture) != _Upright()


class _Undecodable(ClipError):
    """PyAV finds no picture in the file; another reader may."""


@contextmanager
def _open(source: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and its first video stream; a cover picture in a sound file is none.

    An error on the way, when a file breaks off or its disk is gone, is a ClipError as well.
    """
    try:
        # "file:" keeps a colon in the name from being taken for a protocol.
        container = av.open(f"file:{source}", metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise _Undecodable(
            f"{source} is not a video, or is damaged", "name a file that a player plays"
        ) from error
    with container:
        if container.format.name in _TEXT_FORMATS:
            raise ClipError(f"{source} is text and not a video", "name a video file")
        videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not videos and container.streams.audio:
            raise ClipError(f"{source} has sound but no picture", "name a video file")
        if not videos:
            raise _Undecodable(f"{source} has no picture, or is cut short before it", "name a video file")
        if not videos[0].codec_context:
            raise _Undecodable(
                f"{source} is encoded in a way that FFmpeg doesn't know", "convert it to H.264"
            )
        try:
            yield container, videos[0]
        except av.FFmpegError as error:
            raise ClipError(
                f"{source} can't be read to its end ({error.strerror})", "get it whole"
            ) from error


def demux(container: InputContainer, *streams: Stream) -> Iterator[Packet[Any]]:
    """The packets of these streams, without the empty ones that PyAV appends.

    Appending them, it fails on damaged files in which more streams turn up than there were at first.
    """
    joins = _Joins() if container.format.name in _JOINED else None
    with suppress(IndexError):
        # A join is seen in all streams together, whichever are asked for, so that they stay together.
        for packet in container.demux(*(container.streams if joins else streams)):
            if not packet.size:
                continue
            if joins:
                joins.correct(packet)
            if packet.stream in streams:
                yield packet


class _Joins:
    """Lets time go on where several streams were joined, and each begins anew."""

    def __init__(self) -> None:
        self.shift = 0  # of what comes after the latest join, in ticks, which all streams share
        self.shifts: dict[int, int] = {}  # of each stream by now
        self.last: dict[int, tuple[int, int]] = {}  # the times of its last two packets

    def correct(self, packet: Packet[Any]) -> None:
        """Change a packet's times to those since the beginning of the first stream."""
        index = packet.stream_index
        shift = self.shifts.setdefault(index, self.shift)
        if packet.dts is not None:
            before, last = self.last.get(index, (packet.dts, packet.dts))
            # Were it later than the one before the last, then the last one's time would be damaged.
            if packet.dts + shift < min(before, last):
                goes_on = last + (packet.duration or last - before) - packet.dts
                known = self.shift > shift and abs(self.shift - goes_on) < _SECOND  # by another stream
                self.shift = self.shifts[index] = shift = self.shift if known else goes_on
            packet.dts += shift
            self.last[index] = (last, packet.dts)
        if packet.pts is not None:
            packet.pts += shift


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[tuple[Packet[Any], bool]]:
    """The packets of a video, and whether each is to give a picture that is shown at its pts.

    In a stream that somebody has tuned in to, those before the first keyframe don't, nor those after it
    that are shown before it.
    """
    packets = demux(container, stream)
    whole = container.format.name in _INDEXED
    vp8 = stream.codec_context.name == "vp8"
    keyframe = None
    while True:
        try:
            packet = next(packets, None)
        except av.InvalidDataError:  # what follows can't be read: as good as the end
            return
        if packet is None:
            return
        if keyframe is None and (packet.is_keyframe or whole):
            keyframe = packet.pts
        hidden = packet.is_discard or (vp8 and not memoryview(packet)[0] & 0x10)  # VP8's bit "show_frame"
        yield packet, not (hidden or packet.pts is None or keyframe is None or packet.pts < keyframe)


class _Due:
    """What the packets that were decoded so far promise."""

    def __init__(self) -> None:
        self.packets = 0
        self.times: list[tuple[int, int]] = []  # a heap of the (pts, duration) of pictures that are to come
        self.known = True  # False where packets have no pts, as in AVI: then the decoder makes times up

    def add(self, packet: Packet[Any], shown: bool) -> None:
        """Note a packet, and if it is ``shown``, its picture."""
        self.packets += 1
        self.known &= packet.pts is not None
        if self.known and shown:
            heappush(self.times, (packet.pts or 0, packet.duration or 0))

    def drop(self, pts: int | None) -> None:
        """Forget the pictures of a time that is wrong."""
        self.times = [each for each in self.times if each[0] != pts]
        heapify(self.times)

    def pop(self, pts: float) -> Iterator[tuple[int, int]]:
        """Take out those that are due up to ``pts``."""
        while self.known and self.times and self.times[0][0] <= pts:
            yield heappop(self.times)


def _decode(container: InputContainer, stream: VideoStream, due: _Due | None = None) -> Iterator[VideoFrame]:
    """Decode what can be decoded: a damaged packet costs its own picture, and those drawn upon it at most."""
    for packet, shown in chain(_packets(container, stream), [(None, False)]):
        if due and packet:
            due.add(packet, shown)
        try:
            pictures = stream.decode(packet)
        except av.FFmpegError:
            continue
        yield from pictures


class Shown(NamedTuple):
    """A decoded picture and when it is shown, in ticks of its clip's time_base."""

    picture: VideoFrame
    pts: int
    duration: int
    own: bool = True  # False: what belongs here can't be decoded, and this is a neighbour's


def shown(clip: Clip) -> Iterator[Shown]:
    """The pictures of a clip as they are decoded, from its start to its end, each later than the one before.

    Tells in a notice, after the last of them, what was damaged, or missing at the end.
    """
    assert clip.source is not None
    begin, stop = _ticks(clip)
    spacing = frame_ticks(clip)  # the longest time from one to the next
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
                    f"{clip.source} breaks off at {there:.2f} s of {all_:.2f} s; what is there is used",
                )
    if lost or marred:
        faults = [f"frames in whose place a neighbour is shown: {lost}"] if lost else []
        faults += [f"frames with errors: {marred}"] if marred else []
        notify("damaged", f"{clip.source} is damaged; {'; '.join(faults)}; {first_fault}")


def _timed(container: InputContainer, stream: VideoStream, clip: Clip) -> Iterator[Shown]:
    """All pictures in the order of display, with times that increase, and none missing.

    A damaged time is one that doesn't lie between its neighbours'. A picture is missing when its packet has
    come and a later picture too; then the one before is shown once more, or at the beginning the one after.
    """
    nominal = frame_ticks(clip)
    due = _Due()
    last: Shown | None = None
    for picture, following in pairwise(chain(_decode(container, stream, due), [None])):
        assert picture is not None
        pts = _between(last, picture.pts, following.pts if following else None, nominal)
        if pts != picture.pts:
            due.drop(picture.pts)
        # In MPEG-TS, each half of an interlaced picture may have its packet.
        apart = nominal * 3 // 4 if picture.interlaced_frame else 1
        for missing, duration in due.pop(pts):
            if missing < pts and (last is None or missing >= last.pts + apart):
                last = Shown(last.picture if last else picture, missing, duration or nominal, own=False)
                yield last
        duration = picture.duration or nominal
        if following is None and due.packets == stream.frames:
            # In MP4 packets last as long as their decoding does: only the end tells about the last picture.
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
    """The time of a picture after ``last``: its pts unless that, or the next one's, says that it is wrong."""
    if last is None:
        if pts is None or (after is not None and pts >= after):
            return 0 if after is None else after - nominal
        return pts
    if after is not None and after <= last.pts:  # then that one is wrong
        after = None
    if pts is not None and last.pts < pts and (after is None or pts < after):
        return pts
    guess = last.pts + last.duration
    return guess if after is None else max(last.pts + 1, min(guess, after - 1))


def _declared_end(stream: VideoStream) -> Fraction:
    """When the pictures end by what the file says at its beginning; 0 if it says nothing."""
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))  # Matroska's
    if tag:
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + Fraction(tag[3])
    if stream.duration is None or stream.time_base is None:
        return Fraction(0)
    return ((stream.start_time or 0) + stream.duration) * stream.time_base


def _describe(source: Path) -> Clip:
    """Read what the file says of itself, and from its first frame what only pictures tell."""
    with _open(source) as (container, stream):
        frame = next(_decode(container, stream), None)
        if frame is None:
            raise _Undecodable(f"no frame of {source} can be decoded; it is damaged, cut short or encrypted")
        upright = _upright(frame)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        height, width = (frame.width, frame.height) if upright.swap else (frame.height, frame.width)
        told = [(each, each.start_time) for each in (stream, *container.streams.audio)]
        found = [(stream, frame.pts)]
        starts = [pts * each.time_base for each, pts in told + found if pts is not None and each.time_base]
        if stream.metadata.get("alpha_mode") == "1" or _is_transparent(frame):
            notify("transparent", f"{source} is transparent in places; the result will not be")
        if frame.interlaced_frame:
            notify(
                "interlaced",
                f"{source} is interlaced, and each frame is edited as one picture",
                "deinterlace it first",
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
            color=_color(frame).resolve(frame.width, frame.height),
            silent=not container.streams.audio,
            pix_fmt=frame.format.name,
        )


def _is_transparent(frame: VideoFrame) -> bool:
    has_alpha = any(part.is_alpha for part in frame.format.components)
    return has_alpha and bool(frame.to_ndarray(format="rgba")[..., 3].min() < 255)


def _count(clip: Clip) -> int | None:
    """The number of frames by the packets, of a file that is soon read; else by what a whole file says."""
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


def _color(frame: VideoFrame) -> Color:
    if frame.format.is_rgb:
        return Color(primaries=frame.color_primaries, trc=frame.color_trc)
    return Color(frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range)


def _ticks(clip: Clip) -> tuple[float, float]:
    """The pts from which on, and before which, frames are kept."""
    begin = -math.inf if clip.start is None else math.ceil((clip.origin + clip.start) / clip.time_base)
    stop = math.inf if clip.end is None else math.ceil((clip.origin + clip.end) / clip.time_base)
    return begin, stop


def _pyav_frames(clip: Clip, skip: int = 0) -> Iterator[Frame]:
    upright = image = None
    for picture, pts, duration, own in islice(shown(clip), skip, None):
        if own or image is None:
            upright = upright or _upright(picture)
            size = (clip.height, clip.width) if upright.swap else (clip.width, clip.height)
            image = upright.apply(_rgb(picture, clip.color, size))
        yield Frame(image, pts, duration)


def frame_ticks(clip: Clip) -> int:
    """The nominal duration of a frame."""
    return max(1, round(1 / (clip.rate * clip.time_base)))


def seek(container: InputContainer, stream: Stream, start: Fraction) -> None:
    """Go to a keyframe before ``start`` if the file has an index; else stay at its beginning.

    Files are searched by decoding time, which runs ahead of the time of display: hence a second more.
    """
    assert stream.time_base is not None
    if start > 1 and container.format.name in _INDEXED:
        with suppress(av.FFmpegError):
            container.seek(math.floor((start - 1) / stream.time_base), stream=stream)


def _rgb(picture: VideoFrame, color: Color, size: tuple[int, int]) -> NDArray[Any]:
    """Decoded picture -> (height, width, 3) RGB; ``size`` is (width, height)."""
    if not picture.format.is_rgb:
        picture = _unsited(picture)
        picture.colorspace = color.colorspace
    scaler = Interpolation.POINT if (picture.width, picture.height) == size else Interpolation.BICUBIC
    return picture.to_ndarray(
        format="rgb24",
        width=size[0],
        height=size[1],
        interpolation=scaler | _EXACT,
        threads=1,  # to start more of them, for each picture anew, takes longer than they save
    )


def _unsited(picture: VideoFrame) -> VideoFrame:
    """The picture, but without a word on where its halved colours were sampled; swscale would shift them.

    So a sample counts for its own 2x2 pixels, and `write` gets it back by averaging over these.
    """
    bare = VideoFrame(picture.width, picture.height, picture.format.name)
    planes: Any = zip(bare.planes, picture.planes, strict=True)  # of bytes, with padding at the ends of lines
    for plane in planes:
        target, source = (np.frombuffer(each, np.uint8).reshape(each.height, -1) for each in plane)
        width = min(target.shape[1], source.shape[1])
        target[:, :width] = source[:, :width]
    bare.color_range = picture.color_range
    return bare


def _describe_with_opencv(source: Path) -> Clip | None:
    import cv2

    try:
        os.fspath(source).encode()
    except UnicodeEncodeError:  # in such a name, OpenCV crashes
        return None
    # It would print, in words of its own, what we are about to say; its FFmpeg listens to the environment.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    capture = cv2.VideoCapture(str(source))
    found, image = capture.read()
    if not found:
        return None
    rate = Fraction(capture.get(cv2.CAP_PROP_FPS) or 25).limit_denominator(1001)
    aspect = capture.get(cv2.CAP_PROP_SAR_NUM), capture.get(cv2.CAP_PROP_SAR_DEN)
    capture.release()
    return Clip(
        frames=(),
        width=image.shape[1],
        height=image.shape[0],
        rate=rate,
        time_base=Fraction(1, 90_000),
        source=source,
        sample_aspect_ratio=Fraction(int(aspect[0]), int(aspect[1])) if all(aspect) else Fraction(1),
        color=Color().resolve(image.shape[1], image.shape[0]),
        silent=True,  # as far as OpenCV can tell
    )


def _opencv_frames(clip: Clip, skip: int = 0) -> Iterator[Frame]:
    return islice(_captured(clip), skip, None)


def _captured(clip: Clip) -> Iterator[Frame]:
    import cv2

    begin, stop = _ticks(clip)
    last = -1
    capture = cv2.VideoCapture(str(clip.source))
    try:
        while True:
            found, image = capture.read()
            if not found:
                return
            seconds = Fraction(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
            last = max(last + 1, round(seconds / clip.time_base))
            if last >= stop:
                return
            if last >= begin:
                yield Frame(image[:, :, ::-1].astype(np.uint8), last, frame_ticks(clip))
    finally:
        capture.release()
