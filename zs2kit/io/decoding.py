"""Decoding of video files with PyAV: their pictures in order, each with its time, even in damaged files."""

from __future__ import annotations

import math
import os
import re
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.codec import CodecContext
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from zs2kit.clip import Clip, Frame
from zs2kit.errors import ClipError, notify
from zs2kit.io.about import is_avif, video_of
from zs2kit.io.filters import graph, pulled
from zs2kit.io.pictures import rgb, upright_of

# Containers with an index. In others, such as MPEG-TS, a seek may end at any packet, not just at a keyframe.
_INDEXED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_JOINED = {"mpegts", "mpeg"}  # files of these kinds can be joined by appending one to the other
_SECOND = 90_000  # in ticks, in all streams of such files
# FFmpeg draws text as a picture and opens the files in a list; nobody who names such a file means that.
_TEXT_FORMATS = {"tty", "concat", "dash", "hls", "sdp"}


class Undecodable(ClipError):
    """PyAV can't decode a picture of the file, but another reader may be able to."""


class Composed(Undecodable):
    """The file is a photo or an animation that consists of several parts, which PyAV decodes separately."""


def _check_composed(source: Path, container: InputContainer, video: VideoStream) -> None:
    """Raise `Composed` for an AVIF or HEIF that consists of tiles, and for an AVIF with alpha."""
    kinds = [each.codec_context.format for each in container.streams.video if each.codec_context]
    if video.disposition & Disposition.dependent:
        parts = "tiles"
    elif is_avif(container) and len({kind and len(kind.components) for kind in kinds}) > 1:
        parts = "a picture and its alpha"
    else:
        return
    if any(part.bits > 8 for kind in kinds if kind for part in kind.components):
        raise ClipError(f"{source} consists of {parts}, of more than 8 bits", "convert it to PNG of 16 bits")
    raise Composed(
        f"{source} consists of {parts}", "convert it to PNG, or install pillow-heif, which reads it"
    )


@contextmanager
def opened_video(source: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Within this context a file and its first video stream are open. A sound file's cover doesn't count.

    Errors while it is read, for example because the file breaks off, become `ClipError`, too.
    """
    try:
        # "file:" keeps a colon in the name from being taken for a protocol.
        container = av.open(f"file:{source}", metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise Undecodable(
            f"{source} is not a video, or is damaged", "name a file that players can play"
        ) from error
    with container:
        if container.format.name in _TEXT_FORMATS:
            raise ClipError(f"{source} is text, not a video", "name a video file")
        video = video_of(container)
        if video is None and container.streams.audio:
            raise ClipError(f"{source} has sound but no picture", "name a video file")
        if video is None:
            raise Undecodable(
                f"{source} has no picture, or is cut short before the first one", "name a video file"
            )
        if not video.codec_context:
            raise Undecodable(f"{source} is encoded in a way that FFmpeg doesn't know", "convert it to H.264")
        _check_composed(source, container, video)
        try:
            yield container, video
        except av.FFmpegError as error:
            raise ClipError(
                f"{source} can't be read to its end ({error.strerror})", "get a complete copy of it"
            ) from error


def demux(container: InputContainer, *streams: Stream) -> Iterator[Packet[Any]]:
    """Yield the packets of these streams, without the empty ones that PyAV appends.

    PyAV fails to append them to damaged files in which further streams turn up later.
    """
    joins = _Joins() if container.format.name in _JOINED else None
    with suppress(IndexError):
        # Joins are looked for in all streams, not just in those asked for, so that streams stay in sync.
        for packet in container.demux(*(container.streams if joins else streams)):
            if not packet.size:
                continue
            if joins:
                joins.correct(packet)
            if packet.stream in streams:
                yield packet


class _Joins:
    """Corrects the times in a file that was joined from several, where they start anew at each join."""

    def __init__(self) -> None:
        self.shift = 0  # of everything after the latest join, in ticks, for all streams
        self.shifts: dict[int, int] = {}  # the current shift of each stream
        self.last: dict[int, tuple[int, int]] = {}  # the times of each stream's last two packets

    def correct(self, packet: Packet[Any]) -> None:
        """Change a packet's times to those since the start of the first file."""
        index = packet.stream_index
        shift = self.shifts.setdefault(index, self.shift)
        if packet.dts is not None:
            before, last = self.last.get(index, (packet.dts, packet.dts))
            # Earlier than the last packet but not than the one before it: the last one's time is damaged.
            if packet.dts + shift < min(before, last):
                goes_on = last + (packet.duration or last - before) - packet.dts
                # Whether this join was already found in another stream
                known = self.shift > shift and abs(self.shift - goes_on) < _SECOND
                self.shift = self.shifts[index] = shift = self.shift if known else goes_on
            packet.dts += shift
            self.last[index] = (last, packet.dts)
        if packet.pts is not None:
            packet.pts += shift


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[tuple[Packet[Any], bool]]:
    """Yield the packets of a video, each with whether it should give a picture that is shown at its pts.

    In a recording that starts in the middle of a broadcast, packets before the first keyframe give none, nor
    do later packets that would be shown before it.
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
    """The pictures that should come out of the packets that were decoded so far."""

    def __init__(self) -> None:
        self.packets = 0
        self.times: list[tuple[int, int]] = []  # a heap of the (pts, duration) of pictures that are due
        self.known = True  # False if packets have no pts, as in AVI, where the decoder makes up the times

    def add(self, packet: Packet[Any], shown: bool) -> None:
        """Count a packet; if it is ``shown``, expect its picture."""
        self.packets += 1
        self.known &= packet.pts is not None
        if self.known and shown:
            heappush(self.times, (packet.pts or 0, packet.duration or 0))

    def drop(self, pts: int | None) -> None:
        """No longer expect pictures at ``pts``, since that time is wrong."""
        self.times = [each for each in self.times if each[0] != pts]
        heapify(self.times)

    def pop(self, pts: float) -> Iterator[tuple[int, int]]:
        """Remove and yield the pictures that should have come up to ``pts``, as (pts, duration)."""
        while self.known and self.times and self.times[0][0] <= pts:
            yield heappop(self.times)


def decode(container: InputContainer, stream: VideoStream, due: _Due | None = None) -> Iterator[VideoFrame]:
    """Decode what can be decoded: a damaged packet costs its picture and those predicted from it, no more."""
    decoder = _decoder(stream)
    for packet, shown in chain(packets_of(container, stream), [(None, False)]):
        if due and packet:
            due.add(packet, shown)
        try:
            pictures = decoder.decode(packet)
        except av.FFmpegError:
            continue
        yield from pictures


def _decoder(stream: VideoStream) -> VideoCodecContext:
    """Return a video's decoder; for VP8 and VP9 with alpha, libvpx, since FFmpeg's own drops alpha."""
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
    own: bool = True  # False: the picture that belongs here can't be decoded, so this is a neighbour's


def shown(clip: Clip) -> Iterator[Shown]:
    """Yield the decoded pictures of a clip from its start to its end, in order.

    After the last one, notices say what was damaged and what is missing at the end.
    """
    assert clip.source is not None
    begin, stop = ticks(clip)
    spacing = frame_ticks(clip)  # the longest time between two pictures so far
    lost = marred = index = 0
    last, first_fault = None, ""
    with opened_video(clip.source) as (container, stream):
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
    """Yield all pictures in the order of display, with rising times and without gaps.

    A time counts as damaged if it isn't between its neighbours' times. A picture counts as missing if its
    packet has been decoded and a later picture has come out; then the picture before is shown again or, at
    the start, the one after.
    """
    nominal = frame_ticks(clip)
    due = _Due()
    last: Shown | None = None
    for picture, following in pairwise(chain(decode(container, stream, due), [None])):
        assert picture is not None
        pts = _between(last, picture.pts, following.pts if following else None, nominal)
        if pts != picture.pts:
            due.drop(picture.pts)
        # In MPEG-TS, each field of an interlaced picture may have a packet of its own.
        apart = nominal * 3 // 4 if picture.interlaced_frame else 1
        for missing, duration in due.pop(pts):
            if missing < pts and (last is None or missing >= last.pts + apart):
                last = Shown(last.picture if last else picture, missing, duration or nominal, own=False)
                yield last
        duration = picture.duration or nominal
        if following is None and due.packets == stream.frames:
            # MP4's durations are those between decodings, so only the file's end tells the last one.
            rest = round(_declared_end(stream) / clip.time_base) - pts
            duration = rest if rest > 0 else duration
        last = Shown(picture, pts, duration)
        yield last
    longest = max(2 * nominal, math.ceil(1 / clip.time_base))  # since a damaged time may be far off
    for missing, duration in due.pop(math.inf):
        if last and last.pts < missing <= last.pts + longest:
            last = last._replace(pts=missing, duration=duration or nominal, own=False)
            yield last


def _between(last: Shown | None, pts: int | None, after: int | None, nominal: int) -> int:
    """Return the time of a picture: its pts if that is between ``last`` and ``after``, the next pts.

    If it isn't, a time between them is guessed.
    """
    if last is None:
        if pts is None or (after is not None and pts >= after):
            return 0 if after is None else after - nominal
        return pts
    if after is not None and after <= last.pts:  # then ``after`` is the one that is wrong
        after = None
    if pts is not None and last.pts < pts and (after is None or pts < after):
        return pts
    guess = last.pts + last.duration
    return guess if after is None else max(last.pts + 1, min(guess, after - 1))


def _declared_end(stream: VideoStream) -> Fraction:
    """Return when the pictures end according to the file; 0 if it doesn't say."""
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))  # Matroska's
    if tag:
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + Fraction(tag[3])
    if stream.duration is None or stream.time_base is None:
        return Fraction(0)
    return ((stream.start_time or 0) + stream.duration) * stream.time_base


def frames_of(clip: Clip, skip: int = 0) -> Iterator[Frame]:
    """Decode the frames of a clip of a video file, in order, without the first ``skip``."""
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
    """Turn the fields of each picture into a whole picture, with the help of its neighbours."""
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


def frame_times(clip: Clip) -> array[int] | None:
    """Return the pts of all frames of a clip's file, in order, by its packets; None if these have none."""
    assert clip.source is not None
    found = os.stat(clip.source)
    times = _packet_times(clip.source, found.st_size, found.st_mtime_ns)
    if times is None:
        return None
    begin, stop = ticks(clip)
    return times[bisect_left(times, begin) : bisect_left(times, stop)]


@lru_cache(maxsize=4)
def _packet_times(source: Path, size: int, changed: int) -> array[int] | None:
    with opened_video(source) as (container, stream):
        packets = [(packet.pts, shown) for packet, shown in packets_of(container, stream)]
    if not packets or any(pts is None for pts, _ in packets):
        return None
    return array("q", sorted({pts for pts, shown in packets if shown and pts is not None}))


def ticks(clip: Clip) -> tuple[float, float]:
    """Return the clip's start and end as begin and stop: its frames have begin <= pts < stop."""
    begin = -math.inf if clip.start is None else math.ceil((clip.origin + clip.start) / clip.time_base)
    stop = math.inf if clip.end is None else math.ceil((clip.origin + clip.end) / clip.time_base)
    return begin, stop


def frame_ticks(clip: Clip) -> int:
    """Return the nominal duration of a frame, in ticks."""
    return max(1, round(1 / (clip.rate * clip.time_base)))


def seek(container: InputContainer, stream: Stream, start: Fraction) -> None:
    """Go to a keyframe before ``start``, in seconds, if the file has an index; else do nothing.

    Seeking goes by decoding times, which are earlier than display times, so it aims a second earlier.
    """
    assert stream.time_base is not None
    if start > 1 and container.format.name in _INDEXED:
        with suppress(av.FFmpegError):
            container.seek(math.floor((start - 1) / stream.time_base), stream=stream)
