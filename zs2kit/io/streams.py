"""The streams that are copied from a clip's source without change: sound and subtitles."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.subtitles.stream import SubtitleStream
from numpy.typing import NDArray

from zs2kit.clip import Clip
from zs2kit.errors import ClipError, notify
from zs2kit.io.about import STREAM_TAGS
from zs2kit.io.output import FORMATS
from zs2kit.io.reading import demux, seek

_AAC_RATES = {8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000}
_AAC_LAYOUTS = {"mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1"}


@contextmanager
def copied(clip: Clip, sound: str = "keep") -> Iterator[tuple[InputContainer | None, list[Stream]]]:
    """Within this context a clip's source is open; yields its container and the streams that are copied."""
    container = None
    if clip.source is not None and (os.path.isfile(clip.source) or not clip.silent):
        try:
            container = av.open(f"file:{clip.source}", metadata_errors="replace")
        except (av.FFmpegError, ValueError) as error:
            if not clip.silent:
                raise soundless(clip) from error
    if container is None:
        yield None, []
        return
    with container:
        sounds = () if clip.silent or sound != "keep" else container.streams.audio
        yield container, [*sounds, *container.streams.subtitles]


def holds(path: Path, stream: Stream) -> bool:
    """Whether a file called ``path`` can hold a stream: only trying tells, as muxers' own lists are wrong."""
    try:
        with av.open(BytesIO(), "w", format=FORMATS[path.suffix.lower()]) as output:
            output.add_stream_from_template(stream)
            output.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def codec_of(stream: Stream) -> str:
    """Return FFmpeg's name of a stream's codec."""
    return stream.codec_context.name if stream.codec_context else "of an unknown codec"


def sound_size(clip: Clip) -> int:
    """Return the bytes of the file that the sound comes from; 0 if there is none."""
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


def copied_packets(
    source: InputContainer, clip: Clip, origin: Fraction, copies: dict[int, Stream]
) -> Iterator[Packet[Any]]:
    """Yield the source's packets between the clip's start and end, unchanged but for times; ``origin`` is 0.

    Subtitles that are already shown at the start, or still shown at the end, are cut to the time between.
    """
    streams = [source.streams[index] for index in copies]
    sounds = [stream for stream in streams if stream.type == "audio"]
    if clip.start is not None and sounds == streams:  # else a subtitle may start long before
        seek(source, sounds[0], origin)
    start, stop = (
        (None if clip.start is None else origin),
        (None if clip.end is None else clip.origin + clip.end),
    )
    over: set[int] = set()
    last: dict[int, int] = {}
    try:
        for packet in demux(source, *streams):
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
    """Add a stream of AAC to ``output`` for each of the source's sounds; return their packets.

    Those between the clip's start and end; ``origin``, in seconds of the source, is time 0. A notice tells of
    sound that can't be decoded.
    """
    found = []
    with copied(clip) as (_, streams):
        for stream in streams:
            if stream.type != "audio":
                continue
            if not stream.codec_context:
                notify("sound-lost", f"a sound stream of {clip.source} can't be decoded, so it is left out")
                continue
            context: Any = stream.codec_context
            rate = context.sample_rate if context.sample_rate in _AAC_RATES else 48_000
            layout = context.layout.name if context.layout.name in _AAC_LAYOUTS else "stereo"
            encoded = output.add_stream("aac", rate, layout=layout)
            encoded.metadata.update(
                {key: stream.metadata[key] for key in STREAM_TAGS & stream.metadata.keys()}
            )
            found.append(_encoded_packets(clip, origin, stream.index, encoded, rate, layout))
    return found


def _encoded_packets(
    clip: Clip, origin: Fraction, index: int, encoded: Any, rate: int, layout: str
) -> Iterator[Packet[Any]]:
    """Yield the packets of one sound. Gaps become silence, so that it stays with the picture."""
    stop = None if clip.end is None else round((clip.origin + clip.end - origin) * rate)
    position = 0  # samples that are encoded
    try:
        with av.open(f"file:{clip.source}", metadata_errors="replace") as container:
            stream = container.streams[index]
            if clip.start is not None:
                seek(container, stream, origin)
            for samples, time in _samples(container, stream, rate, layout):
                first = round((time - origin) * rate)
                if first > position:
                    samples = np.pad(samples, ((0, 0), (first - position, 0)))
                samples = samples[:, max(0, position - first) :]
                if stop is not None:
                    samples = samples[:, : max(0, stop - position)]
                if not samples.shape[1]:
                    continue
                frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
                frame.sample_rate, frame.pts, frame.time_base = rate, position, Fraction(1, rate)
                position += samples.shape[1]
                yield from encoded.encode(frame)
        yield from encoded.encode(None)
    except av.FFmpegError as error:
        raise soundless(clip) from error


def _samples(
    container: InputContainer, stream: Stream, rate: int, layout: str
) -> Iterator[tuple[NDArray[np.float32], Fraction]]:
    """Yield decoded sound, (channels, samples), and the second at which each piece starts."""
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    time = Fraction(0)
    for packet in chain(demux(container, stream), [None]):
        try:
            frames: Any = stream.decode(packet)  # type: ignore[attr-defined]
        except av.FFmpegError:
            continue  # damaged: it is silent
        for frame in frames:
            if frame.pts is not None:
                time = frame.pts * frame.time_base
            for part in resampler.resample(frame):
                yield part.to_ndarray().astype(np.float32, copy=False), time
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
