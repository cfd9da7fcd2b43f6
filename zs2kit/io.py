"""Reading and writing of clips: the only module that knows PyAV, decord and OpenCV's VideoCapture.

PyAV's packets are the clock: timestamps, counts, rotation, colour tags, sound. decord supplies the pixels
of short files that it is known to get right, PyAV those of all others, and OpenCV steps in where PyAV
finds no picture. Only a few frames are in memory at a time, in either direction.
"""

from __future__ import annotations

import errno
import math
import os
import sys
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from heapq import merge
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from zs2kit.clip import Clip, Color, Frame
from zs2kit.errors import ClipError, UsageError

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}  # suffix -> muxer; all of them hold H.264
SEGMENT = 48  # frames encoded together: a segment starts with a keyframe and needs no other segment
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
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SOUND_TAGS = {"language", "title", "handler_name"}  # the last is MP4's title
_REORDER = 2  # x264 emits a frame at most this many frames before its turn (b-pyramid)


# ---- reading


def read(
    path: str | Path, *, start: Fraction | float | None = None, end: Fraction | float | None = None
) -> Clip:
    """Open a video; its frames are decoded while the clip is iterated over.

    ``start`` and ``end`` are seconds on the file's own clock: frames with start <= time < end are kept.
    Pictures are upright (rotation tags are applied), RGB by the file's colour tags or, where it has none,
    as players guess. One frame is decoded here, so a file that has none fails now rather than later.

    Raises ClipError for a file that can't be read, UsageError for a start or end that leaves no frame.
    """
    source = Path(path)
    _require_file(source)
    begin, stop = _seconds("start", start), _seconds("end", end)
    if stop is not None and stop <= (begin or 0):
        raise UsageError(f"end ({float(stop):g} s) must come after start ({float(begin or 0):g} s)")
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


def _demux(container: InputContainer, *streams: Stream) -> Iterator[Packet[Any]]:
    """The packets of these streams, without the empty ones that PyAV appends.

    Appending them, it fails on damaged files in which more streams turn up than there were at first.
    """
    with suppress(IndexError):
        for packet in container.demux(*streams):
            if packet.size:
                yield packet


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Decode what can be decoded: a damaged packet costs its own frames, and not those after it."""
    for packet in chain(_demux(container, stream), [None]):
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
    nominal = _frame_ticks(clip)
    with _open(clip.source) as (container, stream):
        if clip.start is not None:
            _seek(container, stream, clip.start)
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


def _frame_ticks(clip: Clip) -> int:
    """The nominal duration of a frame."""
    return max(1, round(1 / (clip.rate * clip.time_base)))


def _seek(container: InputContainer, stream: Stream, start: Fraction) -> None:
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
        for packet in _demux(container, stream):
            if packet.pts is None or packet.is_discard or packet.is_corrupt:
                sure = False
                continue
            sure &= packet.pts > packets[0][0] if packets else packet.is_keyframe
            packets.append((packet.pts, packet.duration or _frame_ticks(clip)))
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
                yield Frame(image[:, :, ::-1].astype(np.uint8), last, _frame_ticks(clip))
    finally:
        capture.release()


# ---- writing


def write(path: str | Path, clip: Clip, *, quality: int = 18, overwrite: bool = False) -> Path:
    """Encode the clip's frames to H.264 and copy the sound of its source beside them; return the path.

    Frames are pulled from the clip one by one. Their timing, size, sample aspect ratio, colour matrix and
    range are kept; a clip that was cut at its start begins at 0. ``quality`` is x264's CRF: 0 (lossless)
    to 51, lower is better. Until all is done, everything lies in a hidden folder beside ``path``, which is
    gone afterwards, come what may.

    Raises ClipError or UsageError before the first frame is pulled if ``path`` can't be written
    (see `check_output`), ClipError if the disk fills up, and whatever iterating over the clip raises.
    """
    path = Path(path)
    if not 0 <= quality <= 51:
        raise UsageError(f"quality must lie between 0 (lossless) and 51, not {quality}")
    check_output(path, clip, overwrite)
    size = _sound_size(clip)
    with _workfolder(path) as folder:
        joined = folder / path.name
        try:
            times, last_duration = _encode(clip, folder, quality)
            if _sound_size(clip) < size:  # a file that was cut may still open, and just end early
                raise _soundless(clip)
            _join(joined, clip, folder, times, last_duration)
        except av.FFmpegError as error:
            raise _unwritable(path, error) from error
        try:
            _place(joined, path, overwrite)
        except OSError as error:
            raise _unwritable(path, error) from error
    return path


def _place(joined: Path, path: Path, overwrite: bool) -> None:
    """Move the finished file to ``path``; without ``overwrite``, never onto a file."""
    if not overwrite:
        with suppress(OSError):  # a file has appeared there, or the disk knows no links
            os.link(joined, path)
            return
        if os.path.lexists(path):
            raise ClipError(f"{path} exists by now; choose another name, or allow overwriting (--overwrite)")
    joined.replace(path)


def check_output(path: str | Path, clip: Clip, overwrite: bool) -> None:
    """Raise ClipError or UsageError, in one line, if `write` could not put this clip there."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"can't write {path.name}: its name must end in {', '.join(FORMATS)}")
    if os.path.isdir(path):
        raise ClipError(f"{path} is a folder; name a file in it")
    if not os.path.isdir(path.parent):
        raise ClipError(f"there is no folder {path.parent}; create it first")
    if os.path.lexists(path):
        source = clip.source if clip.source and os.path.exists(clip.source) else None
        if source and os.path.exists(path) and path.samefile(source):
            raise ClipError(f"{path} is the input; write to another name")
        if not overwrite:
            raise ClipError(f"{path} exists; choose another name, or allow overwriting (--overwrite)")
    with _workfolder(path) as folder, _sound(clip) as (_, sounds):
        try:
            (folder / path.name).touch()
        except OSError as error:  # too long a name
            raise _unwritable(path, error) from error
        for sound in sounds:
            try:  # Only an attempt tells: muxers refuse some of the codecs that they say they support.
                with _output(folder / path.name) as output:
                    output.add_stream_from_template(sound)
                    output.start_encoding()
            except (av.FFmpegError, ValueError) as error:
                if getattr(error, "errno", None) in _FULL:
                    raise _unwritable(path, error) from error
                codec = sound.codec_context.name if sound.codec_context else "of an unknown codec"
                advice = (
                    "convert it to AAC first" if path.suffix.lower() == ".mkv" else "write to a .mkv file"
                )
                raise ClipError(
                    f"{path.suffix} can't hold the sound of {clip.source} ({codec}); {advice}"
                ) from error


def _unwritable(path: Path, error: Any) -> ClipError:
    if error.errno in _FULL:
        return ClipError(f"no space left for {path}; free some on its disk and run again")
    return ClipError(f"can't write {path}: {error.strerror}")


@contextmanager
def _workfolder(path: Path) -> Iterator[Path]:
    """A folder beside ``path``, so that what is made in it is moved to ``path`` in one step."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=".zs2kit-", dir=path.parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise ClipError(
            f"can't write into {path.parent} ({error.strerror}); choose another folder"
        ) from error
    with folder as name:
        yield Path(name)


def _output(path: Path) -> OutputContainer:
    # FFmpeg would delay everything so that no time is negative, as those of decoding early and of the
    # sound that an audio decoder starts up with are.
    options = {"avoid_negative_ts": "disabled"}
    return av.open(f"file:{path}", "w", format=FORMATS.get(path.suffix.lower()), container_options=options)


@contextmanager
def _sound(clip: Clip) -> Iterator[tuple[InputContainer | None, tuple[AudioStream, ...]]]:
    """The source, opened, and its streams of sound."""
    if clip.source is None or clip.silent:
        yield None, ()
        return
    try:
        container = av.open(f"file:{clip.source}", metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise _soundless(clip) from error
    with container:
        yield container, container.streams.audio


def _sound_size(clip: Clip) -> int:
    """The bytes of the file that the sound comes from; 0 where there is none."""
    if clip.source is None or clip.silent:
        return 0
    try:
        return os.path.getsize(clip.source)
    except OSError:
        return 0


def _soundless(clip: Clip) -> ClipError:
    return ClipError(f"the sound of {clip.source} can't be read any more; put the file back and run again")


def _encode(clip: Clip, folder: Path, quality: int) -> tuple[array[int], int]:
    """Encode the frames to segments in ``folder``.

    Return the pts of all frames and the duration of the last; those in the segments start at 0.
    """
    color = clip.color.resolve(clip.width, clip.height)
    times: array[int] = array("q")
    frames = _checked(clip)
    duration = 0
    while (first := next(frames, None)) is not None:
        with _output(folder / f"{len(times):09}.nut") as output:
            stream = output.add_stream("libx264", clip.rate, width=clip.width, height=clip.height)
            stream.pix_fmt = "yuv444p" if clip.width % 2 or clip.height % 2 else "yuv420p"
            stream.codec_context.time_base = clip.time_base
            stream.codec_context.sample_aspect_ratio = clip.sample_aspect_ratio
            stream.codec_context.colorspace = color.colorspace
            stream.codec_context.color_primaries = color.primaries
            stream.codec_context.color_trc = color.trc
            stream.codec_context.color_range = color.range
            # With its macroblock tree, x264 gives one of several results at random, in small pictures often.
            stream.options = {"crf": str(quality), "mbtree": "0"}
            for frame in chain([first], islice(frames, SEGMENT - 1)):
                picture = _yuv(frame.image, color, stream.pix_fmt)
                times.append(frame.pts)
                duration = frame.duration
                picture.pts, picture.time_base = frame.pts - times[0], clip.time_base
                output.mux(stream.encode(picture))
            output.mux(stream.encode())
    if not times:
        raise ClipError("the clip has no frame, so there is nothing to write")
    if not duration:
        duration = times[-1] - times[-2] if len(times) > 1 else _frame_ticks(clip)
    return times, duration


def _checked(clip: Clip) -> Iterator[Frame]:
    last = None
    for index, frame in enumerate(clip):
        if frame.image.shape != (clip.height, clip.width, 3) or frame.image.dtype != np.uint8:
            raise ClipError(
                f"frame {index} is {frame.image.dtype} of shape {frame.image.shape}, "
                f"not uint8 of shape ({clip.height}, {clip.width}, 3)"
            )
        if last is not None and frame.pts <= last:
            raise ClipError(f"frame {index} has pts {frame.pts}, which does not come after {last}")
        last = frame.pts
        yield frame


def _yuv(image: NDArray[np.uint8], color: Color, pix_fmt: str) -> VideoFrame:
    """(height, width, 3) RGB -> a picture for the encoder.

    Readers repeat the chroma of 4:2:0 over 2x2 pixels; averaging over these gives it back unchanged.
    """
    picture = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return picture.reformat(
        format=pix_fmt,
        dst_colorspace=5 if color.colorspace == 6 else color.colorspace,  # both are BT.601, swscale knows 5
        dst_color_range=color.range,
        interpolation=Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
    )


def _join(target: Path, clip: Clip, folder: Path, times: array[int], last_duration: int) -> None:
    """Write the packets of all segments, and those of the source's sound, into one file."""
    segments = sorted(folder.glob("*.nut"))
    # A clip keeps its clock, unless it was cut at the start or begins before 0, which files can't say.
    origin = times[0] if clip.start is not None or times[0] < 0 else 0
    with (
        _output(target) as output,
        _sound(clip) as (source, sounds),
        av.open(f"file:{segments[0]}") as template,
    ):
        video = output.add_stream_from_template(template.streams.video[0], opaque=True)
        video.time_base = clip.time_base
        video.codec_context.framerate = clip.rate  # a segment doesn't say
        packets = [_video_packets(segments, clip, times, last_duration, origin, video)]
        if source is not None and sounds:
            copies = {}
            for sound in sounds:
                copies[sound.index] = output.add_stream_from_template(sound)
                # Not all that is said of it: sizes and durations, as Matroska has them, change with a cut.
                copies[sound.index].metadata.update(
                    {key: sound.metadata[key] for key in _SOUND_TAGS & sound.metadata.keys()}
                )
                copies[sound.index].disposition = sound.disposition
            packets.append(_audio_packets(source, clip, origin * clip.time_base, copies))
        begun: set[Stream] = set()
        for packet in merge(*packets, key=_decoding_time):
            try:
                output.mux(packet)
                begun.add(packet.stream)
            except (av.InvalidDataError, av.PatchWelcomeError):
                if packet.stream is video or packet.stream not in begun:
                    raise  # else a damaged packet of sound: it costs itself


def _decoding_time(packet: Packet[Any]) -> float:
    assert packet.dts is not None
    return packet.dts * float(packet.time_base)


def _video_packets(
    segments: list[Path], clip: Clip, times: array[int], last_duration: int, origin: int, stream: VideoStream
) -> Iterator[Packet[Any]]:
    """The packets of all segments on one clock.

    Each encoder counts decoding times for itself, and those of two segments may overlap. So they are set
    anew: a packet is decoded when the frame _REORDER places earlier is shown. The first ones come before
    all frames, by so much that decoding takes as long as the display, since MP4 stores the former's length.
    """
    end = times[-1] + last_duration

    def duration(pts: int) -> int:
        following = bisect_right(times, pts)
        return (times[following] if following < len(times) else end) - pts

    *_, (_, last) = _segment_packets(segments[-1], clip, times[0])
    rest = end - duration(last)
    lead = max(rest - times[-1 - _REORDER] if len(times) > _REORDER else 2 * (rest - times[0]), _REORDER)
    packets = chain.from_iterable(_segment_packets(segment, clip, times[0]) for segment in segments)
    for position, (packet, pts) in enumerate(packets):
        early = _REORDER - position
        decoded = times[0] - lead * early // _REORDER if early > 0 else times[-early]
        packet.time_base = clip.time_base
        packet.pts, packet.dts, packet.duration = pts - origin, decoded - origin, duration(pts)
        packet.stream = stream
        yield packet


def _segment_packets(segment: Path, clip: Clip, first: int) -> Iterator[tuple[Packet[Any], int]]:
    """A segment's packets, each with the pts of its frame in the clip, whose first is ``first``."""
    with av.open(f"file:{segment}") as container:
        for packet in _demux(container, container.streams.video[0]):
            assert packet.pts is not None
            # The segment's time base is finer than the clip's.
            yield packet, first + round(packet.pts * packet.time_base / clip.time_base)


def _audio_packets(
    source: InputContainer, clip: Clip, origin: Fraction, copies: dict[int, AudioStream]
) -> Iterator[Packet[Any]]:
    """The source's packets of sound, as they are, between the clip's start and end; ``origin`` is time 0."""
    sounds = source.streams.audio
    if clip.start is not None:
        _seek(source, sounds[0], origin)
    over: set[int] = set()
    last: dict[int, int] = {}
    try:
        for packet in _demux(source, *sounds):
            if packet.pts is None or packet.dts is None:
                continue
            if packet.dts <= last.get(packet.stream_index, packet.dts - 1) or packet.pts < packet.dts:
                continue  # damaged: no file may go back in time
            last[packet.stream_index] = packet.dts
            time = packet.pts * packet.time_base
            if clip.start is not None and time < origin:
                continue
            if clip.end is not None and time >= clip.end:
                over.add(packet.stream_index)
                if len(over) == len(sounds):
                    return
                continue
            shift = round(origin / packet.time_base)
            packet.pts -= shift
            packet.dts -= shift
            packet.stream = copies[packet.stream_index]
            yield packet
    except av.FFmpegError as error:
        raise _soundless(clip) from error
