"""Reading of clips: PyAV's packets are the clock; PyAV, decord or OpenCV give the pixels."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from zs2kit.clip import Clip, Color, Frame
from zs2kit.errors import ClipError, UsageError
from zs2kit.io.sequence import Pattern, read_sequence

SMALL = 64 << 20  # bytes; larger files are not read through before their first frame

# decord agrees with PyAV to the bit in these pixel formats, whatever the colour tags, and not in 10 bits.
# It takes the next picture for the next packet's: so only codecs in which every packet is a picture.
_DECORD_FORMATS = {f"yuv{j}{layout}p" for j in ("", "j") for layout in ("420", "422", "444")}
_DECORD_CODECS = {"h264", "hevc"}
# Containers with an index. In others, such as MPEG-TS, a seek ends at any packet, not at a keyframe's, and
# decord repeats frames.
_INDEXED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
# FFmpeg draws text as a picture and follows lists of other files; neither is a video that somebody names.
_TEXT_FORMATS = {"tty", "concat", "dash", "hls", "sdp"}


def read(
    path: str | Path,
    *,
    start: Fraction | float | None = None,
    end: Fraction | float | None = None,
    rate: Fraction | float | None = None,
) -> Clip:
    """Open a video, or a sequence of PNG pictures; frames are decoded while the clip is iterated over.

    A sequence is named by a printf pattern, shot.%04d.png, and shows ``rate`` pictures a second (25 if it
    is not said); a video has its own. ``start`` and ``end`` are seconds on the file's own clock: frames with start <= time < end are kept.
    Pictures are upright (rotation tags are applied), RGB by the file's colour tags or, where it has none,
    as players guess. One frame is decoded here, so a file that has none fails now rather than later.

    Raises ClipError for a file that can't be read, UsageError for a start or end that leaves no frame.
    """
    source = Path(path)
    pattern = None if os.path.lexists(source) else Pattern.of(source)
    if pattern is None:
        _require_file(source)
    begin, stop = _seconds("start", start), _seconds("end", end)
    if stop is not None and stop <= (begin or 0):
        raise UsageError(f"end ({float(stop):g} s) must come after start ({float(begin or 0):g} s)")
    if pattern:
        return read_sequence(source, pattern, begin, stop, rate)
    if rate is not None:
        raise UsageError(f"{source} has its own rate; a rate is for sequences of pictures (shot.%04d.png)")
    try:
        clip, fits_decord = _describe(source)
    except _Undecodable:
        described = _describe_with_opencv(source)
        if described is None:
            raise
        clip = replace(described, start=begin, end=stop)
        frames = _opencv_frames(clip)
    else:
        clip = replace(clip, start=begin, end=stop)
        if source.stat().st_size > SMALL:
            frames = _pyav_frames(clip)
            clip.frame_count = clip.frame_count if begin is None and stop is None else None
        else:
            packets, sure = _packets(clip)
            earliest, latest = _ticks(clip)
            clip.frame_count = sum(earliest <= pts < latest for pts, _ in packets) or None
            frames = _decord_frames(clip, packets) if fits_decord and sure else _pyav_frames(clip)
    first = next(frames, None)
    if first is None:
        raise UsageError(f"{source} has no frame {_span_text(clip)}; choose start and end inside the clip")
    clip.frames = chain([first], frames)
    return clip


def _require_file(source: Path) -> None:
    # Unlike Path's own, these tests don't raise for a name that is too long, or in a folder that is closed.
    if os.path.isdir(source):
        raise ClipError(f"{source} is a folder; name one video file in it")
    if os.path.exists(source) and not os.path.isfile(source):
        raise ClipError(f"{source} is not a regular file; copy its contents into one")
    try:
        source.open("rb").close()
    except FileNotFoundError:
        raise ClipError(f"no such file: {source}") from None
    except OSError as error:
        raise ClipError(f"{source} can't be opened ({error.strerror}); check name and permissions") from error


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


def _upright(frame: VideoFrame) -> _Upright:
    """Read the display matrix; it maps (column, row) by [[a, b], [c, d]], of which we keep the signs."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return _Upright()
    (a, b, _), (c, d, _), _ = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)
    swap = abs(int(b)) > abs(int(a))
    column, row = (c, b) if swap else (a, d)
    return _Upright(swap, -1 if row < 0 else 1, -1 if column < 0 else 1)


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
            f"{source} is not a video, or is damaged; name a file that a player plays"
        ) from error
    with container:
        if container.format.name in _TEXT_FORMATS:
            raise ClipError(f"{source} is text and not a video; name a video file")
        videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not videos and container.streams.audio:
            raise ClipError(f"{source} has sound but no picture; name a video file")
        if not videos:
            raise _Undecodable(f"{source} has no picture, or is cut short before it; name a video file")
        videos[0].thread_type = "AUTO"
        try:
            yield container, videos[0]
        except av.FFmpegError as error:
            raise ClipError(f"{source} can't be read to its end ({error.strerror}); get it whole") from error


def demux(container: InputContainer, *streams: Stream) -> Iterator[Packet[Any]]:
    """The packets of these streams, without the empty ones that PyAV appends.

    Appending them, it fails on damaged files in which more streams turn up than there were at first.
    """
    with suppress(IndexError):
        for packet in container.demux(*streams):
            if packet.size:
                yield packet


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Decode what can be decoded: a damaged packet costs its own frames, and not those after it."""
    for packet in chain(demux(container, stream), [None]):
        try:
            frames = stream.decode(packet)
        except av.FFmpegError:
            continue
        yield from frames


def _describe(source: Path) -> tuple[Clip, bool]:
    """Read what the file says of itself, and from its first frame what only pictures tell.

    The second result says whether decord gets this file right.
    """
    with _open(source) as (container, stream):
        frame = next(_decode(container, stream), None)
        if frame is None:
            raise _Undecodable(f"no frame of {source} can be decoded; it is damaged, cut short or encrypted")
        codec, muxing = stream.codec_context.name, container.format.name
        upright = _upright(frame)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        height, width = (frame.width, frame.height) if upright.swap else (frame.height, frame.width)
        tags = _color(frame)
        clip = Clip(
            frames=(),
            width=width,
            height=height,
            rate=stream.average_rate or stream.guessed_rate or Fraction(25),
            time_base=stream.time_base or Fraction(1, 90_000),
            frame_count=stream.frames or None,
            source=source,
            sample_aspect_ratio=1 / aspect if upright.swap else aspect,
            color=tags.resolve(frame.width, frame.height),
            silent=not container.streams.audio,
            pix_fmt=frame.format.name,
        )
    fits_decord = (
        muxing in _INDEXED
        and codec in _DECORD_CODECS
        and frame.format.name in _DECORD_FORMATS
        and upright == _Upright()
        # What has no tag that it knows, decord takes for BT.601.
        and clip.color.colorspace in (tags.colorspace, 6)
    )
    return clip, fits_decord


def _color(frame: VideoFrame) -> Color:
    if frame.format.is_rgb:
        return Color(primaries=frame.color_primaries, trc=frame.color_trc)
    return Color(frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range)


def _ticks(clip: Clip) -> tuple[float, float]:
    """The pts from which on, and before which, frames are kept."""
    begin = -math.inf if clip.start is None else math.ceil(clip.start / clip.time_base)
    stop = math.inf if clip.end is None else math.ceil(clip.end / clip.time_base)
    return begin, stop


def _pyav_frames(clip: Clip) -> Iterator[Frame]:
    assert clip.source is not None
    begin, stop = _ticks(clip)
    nominal = frame_ticks(clip)
    with _open(clip.source) as (container, stream):
        if clip.start is not None:
            seek(container, stream, clip.start)
        upright = None
        following = -math.inf  # the least pts that the next frame may have
        for picture in _decode(container, stream):
            pts = picture.pts if picture.pts is not None else max(0, following)
            pts = int(max(pts, following))
            duration = picture.duration or nominal
            following = pts + (duration if picture.pts is None else 1)
            if pts < begin:
                continue
            if pts >= stop:
                return
            upright = upright or _upright(picture)
            size = (clip.height, clip.width) if upright.swap else (clip.width, clip.height)
            yield Frame(upright.apply(_rgb(picture, clip.color, size)), pts, duration)


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
        picture.colorspace = color.colorspace
    return picture.to_ndarray(format="rgb24", width=size[0], height=size[1])


def _packets(clip: Clip) -> tuple[list[tuple[int, int]], bool]:
    """The (pts, duration) of all packets of the source, by pts, and whether each is sure to give a picture.

    It may not if it has no time or shares it, if it is to be dropped, if the first keyframe does not come
    before it in both orders, or if its time is out of line with what is decoded around it.
    """
    assert clip.source is not None
    packets: list[tuple[int, int]] = []
    sure = True
    with _open(clip.source) as (container, stream):
        for packet in demux(container, stream):
            if packet.pts is None or packet.is_discard or packet.is_corrupt:
                sure = False
                continue
            sure &= packet.pts > packets[0][0] if packets else packet.is_keyframe
            packets.append((packet.pts, packet.duration or frame_ticks(clip)))
    shown = sorted(range(len(packets)), key=packets.__getitem__)
    sure &= all(abs(index - rank) <= 16 for rank, index in enumerate(shown))  # as far as H.264 may reorder
    packets.sort()
    return packets, sure and all(a[0] < b[0] for a, b in pairwise(packets))


def _decord() -> Any:
    """Import decord, but not the CUDA libraries that it would load on the way and that it doesn't need.

    It loads all that lie in nvidia/*/lib for the whole process to link with. One of them, libnvblas,
    takes the place of torch's own matrix products, and crashes where there is no GPU.
    """
    known = "nvidia" in sys.modules
    nvidia = sys.modules.get("nvidia")
    sys.modules["nvidia"] = None  # type: ignore[assignment]  # "there is no such package"
    try:
        import decord
    finally:
        del sys.modules["nvidia"]
        if known:
            sys.modules["nvidia"] = nvidia  # type: ignore[assignment]
    return decord


def _decord_frames(clip: Clip, packets: list[tuple[int, int]]) -> Iterator[Frame]:
    """Frames with the clock of PyAV and the pixels of decord; where decord fails, PyAV goes on."""
    decord = _decord()

    begin, stop = _ticks(clip)
    skipped = sum(pts < begin for pts, _ in packets)
    rest = clip
    decord.logging.set_level(decord.logging.QUIET)
    # The one for Unicode: decord takes no name that isn't UTF-8.
    failures = (decord.DECORDError, RuntimeError, AssertionError, StopIteration, UnicodeEncodeError)
    with suppress(*failures, _Disagreement):
        reader = decord.VideoReader(f"file:{clip.source}")
        if len(reader) != len(packets):
            raise _Disagreement
        for _ in range(skipped):  # its ways of seeking and skipping both lose frames of open GOPs
            reader.next()
        for pts, duration in packets[skipped:]:
            if pts >= stop:
                break
            image = reader.next().asnumpy()
            if image.shape != (clip.height, clip.width, 3):
                raise _Disagreement
            yield Frame(image, pts, duration)
            rest = replace(clip, start=(pts + 1) * clip.time_base)
        return
    yield from _pyav_frames(rest)


class _Disagreement(Exception):
    """decord sees other frames than PyAV."""


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


def _opencv_frames(clip: Clip) -> Iterator[Frame]:
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
