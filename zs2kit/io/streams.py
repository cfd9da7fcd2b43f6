"""The streams that are copied from a clip's source unchanged: sound, subtitles and others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import chain, islice
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import AttachmentStream, DataStream, Disposition, Stream
from av.subtitles.stream import SubtitleStream
from av.video.stream import VideoStream
from numpy.typing import NDArray

from zs2kit.clip import Clip
from zs2kit.errors import ClipError, notify
from zs2kit.io.about import STREAM_TAGS, is_avif, video_of
from zs2kit.io.decoding import demux, seek
from zs2kit.io.output import FORMATS

_AAC_RATES = {8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000}
# Layouts by their number of channels: those that AAC has, also for sound of which only this number is known
_AAC_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}


@dataclass(frozen=True)
class Track:
    """A stream of a clip's source other than its pictures."""

    index: int
    kind: str  # sound, subtitles, data, cover, attachment or video
    codec: str  # FFmpeg's name; empty if it is unknown
    held: bool  # whether the file of the result can hold it
    name: str = ""  # of a cover's or an attachment's file
    mimetype: str = ""
    data: bytes = b""  # of that file

    def __str__(self) -> str:
        """Describe it."""
        if self.kind == "attachment":
            return f"attachment {self.name}"
        kind = "subtitle" if self.kind == "subtitles" else self.kind
        track = "" if kind == "cover" else f" track {self.index}"
        return f"{kind}{track} ({self.codec or 'of an unknown codec'})"


def tracks(clip: Clip, suffix: str, sound: str = "keep") -> list[Track]:
    """Return what a clip's source has besides its pictures, without the sound unless ``sound`` is "keep".

    suffix: that of the result's file, which decides what it can hold; empty for a result that holds only
    pictures. Raises `ClipError` if the source's sound can't be read any more.
    """
    with opened_source(clip) as container:
        if container is None:
            return []
        streams = [
            (kind, stream) for kind, stream in _beside(container, clip) if kind != "sound" or sound == "keep"
        ]
        first = _first_packets(container, [each for kind, each in streams if kind in _COMES_EARLY])
        found = []
        for kind, stream in streams:
            packet = first.get(stream.index)
            if kind in ("data", "video") and packet is None:  # chapters, or a stream that damage has emptied
                continue
            name = stream.metadata.get("filename", f"cover.{_ENDINGS.get(codec_of(stream), 'jpg')}")
            data = stream.data if isinstance(stream, AttachmentStream) else b""
            found.append(
                Track(
                    stream.index,
                    kind,
                    codec_of(stream),
                    _holds(suffix, kind, stream, packet),
                    name,
                    stream.metadata.get("mimetype", f"image/{'png' if name.endswith('png') else 'jpeg'}"),
                    bytes(packet) if packet and kind == "cover" else data,
                )
            )
        return found


@contextmanager
def opened_source(clip: Clip) -> Iterator[InputContainer | None]:
    """Within this context a clip's source is open; yields None if it isn't a file that PyAV can open."""
    container = None
    if clip.source is not None and (os.path.isfile(clip.source) or not clip.silent):
        try:
            container = av.open(f"file:{clip.source}", metadata_errors="replace")
        except (av.FFmpegError, ValueError) as error:
            if not clip.silent:
                raise soundless(clip) from error
    with container or nullcontext():
        yield container


def _beside(container: InputContainer, clip: Clip) -> Iterator[tuple[str, Stream]]:
    """Yield the streams other than the pictures, each with its kind."""
    pictures = video_of(container)
    for stream in container.streams:
        if stream.type == "audio":
            if not clip.silent:
                yield "sound", stream
        elif stream.type == "subtitle":
            yield "subtitles", stream
        elif stream.type == "attachment":
            yield "attachment", stream
        elif stream.type == "data":
            if "timecode" not in stream.metadata:  # which is copied with the tags
                yield "data", stream
        elif isinstance(stream, VideoStream) and stream is not pictures:
            if stream.disposition & Disposition.attached_pic:
                yield "cover", stream
            elif not is_avif(container) and stream.frames != 1:  # else a thumbnail
                yield "video", stream


_COMES_EARLY = {"sound", "data", "cover", "video"}  # kinds of streams; a subtitle may come at any time
_ENOUGH = 2_000  # packets of these
_ENDINGS = {"png": "png"}  # of covers, by codec; the others are JPEG


def _first_packets(container: InputContainer, streams: list[Stream]) -> dict[int, Packet[Any]]:
    """Return the first packet of each stream, by the stream's index."""
    found: dict[int, Packet[Any]] = {}
    with suppress(av.FFmpegError):
        for packet in islice(demux(container, *streams) if streams else (), _ENOUGH):
            found.setdefault(packet.stream_index, packet)
            if len(found) == len(streams):
                break
    return found


def _holds(suffix: str, kind: str, stream: Stream, packet: Packet[Any] | None) -> bool:
    """Whether a file can hold a stream. Most kinds have to be tried, since muxers' own lists are wrong."""
    if not suffix or kind == "video" or (kind == "data" and not codec_of(stream)):
        return False
    if kind in ("attachment", "cover"):
        return suffix == ".mkv" or (suffix == ".mp4" and kind == "cover")
    try:
        with av.open(BytesIO(), "w", format=FORMATS[suffix]) as output:
            copy = added(output, stream)
            if packet is None:
                output.start_encoding()
            else:
                packet.stream, packet.pts, packet.dts = copy, 0, 0
                output.mux(packet)
    except (av.FFmpegError, ValueError):
        return False
    return True


def added(output: OutputContainer, stream: Stream) -> Stream:
    """Add a stream like ``stream`` to ``output``, for the same packets."""
    copy = output.add_stream_from_template(stream)
    copy.metadata.update({key: stream.metadata[key] for key in STREAM_TAGS & stream.metadata.keys()})
    copy.disposition = stream.disposition
    if isinstance(copy, AudioStream) and copy.layout.name.endswith("channels"):
        copy.layout = _AAC_LAYOUTS.get(copy.layout.nb_channels, copy.layout)
    return copy


def codec_of(stream: Stream) -> str:
    """Return FFmpeg's name for a stream's codec; empty if it is unknown."""
    if stream.codec_context:
        return stream.codec_context.codec.canonical_name
    return (stream.name or "") if isinstance(stream, DataStream) else ""


def sound_size(clip: Clip) -> int:
    """Return the size in bytes of the file that the sound comes from; 0 if there is no sound."""
    if clip.source is None or clip.silent:
        return 0
    try:
        return os.path.getsize(clip.source)
    except OSError:
        return 0


def soundless(clip: Clip) -> ClipError:
    """Return the error for a source that has lost its sound since it was opened."""
    return ClipError(
        f"the sound of {clip.source} can't be read any more", "put the file back, and run this again"
    )


def copied(
    clip: Clip, tracks: list[Track], origin: Fraction, output: OutputContainer
) -> list[Iterator[Packet[Any]]]:
    """Add the streams to ``output`` that it can hold; return their packets. ``origin`` becomes time 0."""
    covers, copies = [], dict[int, Stream]()
    with opened_source(clip) as source:
        for track in tracks:
            if source is None or not track.held:
                continue
            if track.data and output.format.name == "matroska":
                output.add_attachment(track.name, track.mimetype, track.data)
                continue
            stream = added(output, source.streams[track.index])
            if not track.data:
                copies[track.index] = stream
                continue
            cover = Packet(track.data)
            cover.pts, cover.dts, cover.time_base, cover.stream = 0, 0, Fraction(1, 90_000), stream
            covers.append(cover)
    return [iter(covers), _copied_packets(clip, origin, copies)]


def _copied_packets(clip: Clip, origin: Fraction, copies: dict[int, Stream]) -> Iterator[Packet[Any]]:
    """Yield the source's packets between the clip's start and end, with times at which ``origin`` is 0.

    Subtitles that are already shown at the start, or are still shown at the end, are cut off there.
    """
    start, stop = (
        (None if clip.start is None else origin),
        (None if clip.end is None else clip.origin + clip.end),
    )
    over: set[int] = set()
    last: dict[int, int] = {}
    try:
        with opened_source(clip) as source:
            streams = [source.streams[index] for index in copies] if source else []
            sounds = [stream for stream in streams if stream.type == "audio"]
            if source and start is not None and sounds and sounds == streams:
                seek(source, sounds[0], origin)  # not with subtitles, which may start long before
            for packet in demux(source, *streams) if source and streams else ():
                packet.dts = packet.pts if packet.dts is None else packet.dts
                if packet.pts is None or packet.dts is None:
                    continue
                if packet.dts <= last.get(packet.stream_index, packet.dts - 1) or packet.pts < packet.dts:
                    continue  # damaged: it goes back in time
                last[packet.stream_index] = packet.dts
                if isinstance(packet.stream, SubtitleStream):
                    if codec_of(packet.stream) == "mov_text" and not any(bytes(packet)[:2]):
                        continue  # empty: MP4 fills pauses this way, and the muxer does so again in the copy
                    _cut(packet, start, stop)
                time = packet.pts * packet.time_base
                if start is not None and time < start:
                    continue
                if stop is not None and time >= stop:
                    over.add(packet.stream_index)
                    if over.issuperset(stream.index for stream in sounds or streams):
                        return
                    continue
                shift = round(origin / packet.time_base)
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = copies[packet.stream_index]
                yield packet
    except av.FFmpegError as error:
        raise soundless(clip) from error


def encoded_sound(clip: Clip, origin: Fraction, output: OutputContainer) -> list[Iterator[Packet[Any]]]:
    """Add a stream of AAC to ``output`` for each of the source's sound streams; return their packets.

    The packets are those between the clip's start and end. ``origin``, in seconds of the source, becomes time
    0. Notices name sound that can't be decoded.
    """
    found = []
    with opened_source(clip) as container:
        for kind, stream in _beside(container, clip) if container else ():
            if kind != "sound":
                continue
            context: Any = stream.codec_context
            layout = context and _AAC_LAYOUTS.get(context.layout.nb_channels)
            if not layout or "ambisonic" in context.layout.name:
                why = f"be AAC ({context.layout.name})" if context else "be decoded"
                notify("sound-lost", f"a sound stream of {clip.source} can't {why}, so it is left out")
                continue
            rate = context.sample_rate if context.sample_rate in _AAC_RATES else 48_000
            encoded = output.add_stream("aac", rate, layout=layout)
            encoded.metadata.update(
                {key: stream.metadata[key] for key in STREAM_TAGS & stream.metadata.keys()}
            )
            found.append(_encoded_packets(clip, origin, stream.index, encoded, rate, layout))
    return found


def _encoded_packets(
    clip: Clip, origin: Fraction, index: int, encoded: Any, rate: int, layout: str
) -> Iterator[Packet[Any]]:
    """Yield the packets of one sound stream. Gaps become silence, so that it stays in sync."""
    stop = None if clip.end is None else round((clip.origin + clip.end - origin) * rate)
    position = 0  # how many samples are encoded
    try:
        with av.open(f"file:{clip.source}", metadata_errors="replace") as container:
            stream = container.streams[index]
            if clip.start is not None:
                seek(container, stream, origin)
            for samples, time in _samples(container, stream, rate, layout):
                first = round((time - origin) * rate)
                if position and abs(first - position) < rate // 50:
                    first = position  # Matroska's times are rounded, and every one of them would be a click
                if first > position:
                    samples = np.pad(samples, ((first - position, 0), (0, 0)))
                samples = samples[max(0, position - first) :]
                if stop is not None:
                    samples = samples[: max(0, stop - position)]
                if not len(samples):
                    continue
                packed = np.ascontiguousarray(samples).reshape(1, -1)
                frame = AudioFrame.from_ndarray(packed, format="flt", layout=layout)
                frame.sample_rate, frame.pts, frame.time_base = rate, position, Fraction(1, rate)
                position += len(samples)
                yield from encoded.encode(frame)
        yield from encoded.encode(None)
    except av.FFmpegError as error:
        raise soundless(clip) from error


def _samples(
    container: InputContainer, stream: Stream, rate: int, layout: str
) -> Iterator[tuple[NDArray[np.float32], Fraction]]:
    """Yield decoded sound, (samples, channels), and the second at which each piece starts."""
    # Packed, since PyAV reads past the end of the planes of 8 channels
    resampler = av.AudioResampler(format="flt", layout=layout, rate=rate)
    channels = len(av.AudioLayout(layout).channels)
    time = Fraction(0)
    for packet in chain(demux(container, stream), [None]):
        try:
            frames: Any = stream.decode(packet)  # type: ignore[attr-defined]
        except av.FFmpegError:
            continue  # damaged: leave it silent
        for frame in frames:
            if frame.pts is not None:
                time = frame.pts * frame.time_base
            for part in resampler.resample(frame):
                yield part.to_ndarray().reshape(-1, channels).astype(np.float32, copy=False), time
                time += Fraction(part.samples, rate)


def _cut(packet: Packet[Any], start: Fraction | None, stop: Fraction | None) -> None:
    """Cut a subtitle to start no earlier than ``start`` and end no later than ``stop``, in seconds."""
    assert packet.pts is not None
    begin, end = packet.pts, packet.pts + (packet.duration or 0)
    if start is not None and begin < (first := round(start / packet.time_base)) < end:
        begin = first
    if stop is not None and begin < (after := round(stop / packet.time_base)) < end:
        end = after
    packet.pts, packet.dts, packet.duration = begin, begin, end - begin
