"""Writing of clips: independent segments of video, joined with the source's sound and subtitles."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from heapq import merge
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from zs2kit.ahead import MOST, Worker
from zs2kit.clip import Clip, Color, Frame
from zs2kit.encoding import Encoding
from zs2kit.errors import ClipError, Receiver, notify, receiving
from zs2kit.files import unwritable
from zs2kit.io.about import About, timecode_at
from zs2kit.io.animations import write_animation
from zs2kit.io.decoding import demux, frame_ticks
from zs2kit.io.matroska import write_aspect
from zs2kit.io.output import FORMATS, Output
from zs2kit.io.pictures import SWSCALE_WHITE
from zs2kit.io.placing import place
from zs2kit.io.quicktime import link_chapters
from zs2kit.io.reading import opened as opened_clip
from zs2kit.io.streams import (
    copied,
    encoded_sound,
    sound_size,
    soundless,
)
from zs2kit.journal import Journal, Resumable, opened, segment_file
from zs2kit.progress import Report
from zs2kit.settings import changed, takes_fields

_RGB = 0  # FFmpeg's number


@takes_fields(Output)
def write(
    output: str | Path | Output,
    clip: Clip | str | Path | Any,
    *,
    progress: Report | None = None,
    notices: Receiver | None = None,
    **options: Any,
) -> Path:
    """Write a clip to a file: encode its frames, copy everything else from its source, and return the path.

    Sound, chapters, metadata such as the title, the timecode, and subtitles are copied if the file can hold
    them. The frames keep their times, size, sample aspect ratio, colour matrix and range; a clip that was cut
    at its start starts at 0. Frames are taken from the clip one by one.

    output: a path, or an `Output`. Its options may also be given here by name: ``codec`` is h264 in 4:2:0
    (4:4:4 if a side is odd), ffv1 (lossless), or prores (422 HQ, or 4444 if the source has more colour
    samples). ``quality`` is x264's CRF from 0 (lossless) to 51, by default 18; other codecs have none. If the
    path is a pattern such as out.%04d.png, each frame becomes a picture. Pictures are numbered from
    ``start_number`` on; by default as in the source if that is a sequence, too, and else from 1.
    clip: as for `edit`.
    progress: called with a `Progress` after each frame, which counts the frames written so far; an exception
    that it raises ends the work.
    notices: called with a `Notice` for anything that is lost or goes wrong.

    Until everything is done, the work is in a hidden folder next to the path, which is removed afterwards. If
    the clip is an edit or a generated clip, and something interrupts the work, the folder stays, with what is
    done. Then ``resume=True`` resumes the work if all settings are the same, False starts again, and None
    raises a `ClipError` that says so. If nothing is saved, all three start from the beginning.

    Raises `ClipError` or `UsageError`, before any frame is drawn, if the clip can't be written there;
    `ClipError` if the disk fills up; and whatever iterating over the clip raises.
    """
    output = changed(output if isinstance(output, Output) else Output(Path(output)), options)
    path = output.path
    with receiving(notices):
        clip = opened_clip(clip)
        output.check(clip)
        about = About.of(clip.source)
        output.tell_losses(clip)
        size = sound_size(clip)
        with opened(path, clip, output.described(clip), output.resume) as journal:
            folder = journal.folder
            try:
                if not journal.complete:
                    _encode(clip, journal, output, progress)
                if sound_size(clip) < size:  # it was cut short meanwhile, so it may open but end early
                    raise soundless(clip)
                if output.pattern:
                    finished = _pictures(clip, journal, output)
                else:
                    finished = {folder / path.name: path}
                    if output.is_film:
                        _join(folder / path.name, clip, about, journal, output)
                    else:
                        ends = [*journal.times, journal.times[-1] + journal.duration]
                        write_animation(
                            folder / path.name,
                            output.store.animation,
                            clip,
                            sorted(folder.glob("*.segment")),
                            [pts * clip.time_base for pts in ends],
                        )
            except av.FFmpegError as error:
                raise unwritable(path, error) from error
            try:
                place(finished, output.overwrite)
            except OSError as error:
                raise unwritable(path, error) from error
        if output.pattern and output.overwrite:
            after = output.pattern.path(output.number(clip) + len(finished))
            if os.path.lexists(after):
                notify("earlier-pictures", f"{after} and the pictures after it are from an earlier result")
    return path


def _output(path: Path, muxer: str | None = None) -> OutputContainer:
    # The first decoding times are negative, and so are the times of the sound that an audio decoder starts
    # with. FFmpeg would delay everything to avoid that. It would also give Matroska's streams random numbers.
    options = {"avoid_negative_ts": "disabled", "fflags": "+bitexact"}
    muxer = muxer or FORMATS[path.suffix.lower()]
    if muxer in ("mp4", "mov"):  # for exact delays of streams, which are in milliseconds by default
        options["movie_timescale"] = "90000"
    return av.open(f"file:{path}", "w", format=muxer, container_options=options)


def _encode(clip: Clip, journal: Journal, output: Output, progress: Report | None) -> None:
    """Encode the frames into segments until the journal is complete; each segment's pts start at 0."""
    store = output.store
    pix_fmt, color = output.pix_fmt(clip), _stored_color(output, clip)
    size, encoding = output.size(clip), store.encoding(clip.encoding)
    options: dict[str, Any] = dict(store.options)
    if store.encoder == "exr":
        options["format"] = "half" if encoding.bits == 16 else "float"
    if store.quality is not None:
        options["crf"] = str(store.quality if output.quality is None else output.quality)
    times = journal.times[: journal.finished]
    frames = journal.frames(progress)
    # Pictures that aren't drawn here may be in memory that is reused for the next one.
    behind = MOST if isinstance(clip, Resumable) else 0
    while (first := next(frames, None)) is not None:
        path = segment_file(journal.folder, len(times))
        with _output(path, store.segments) as container, Worker() as worker:
            stream = container.add_stream(store.encoder, clip.rate, width=size[0], height=size[1])
            assert isinstance(stream, VideoStream)
            stream.pix_fmt = pix_fmt
            stream.codec_context.time_base = clip.time_base
            _tag(stream, clip, color)
            stream.options = options

            def encode(frame: Frame, pts: int, container: Any = container, stream: Any = stream) -> None:
                picture = _picture(frame, clip, encoding, color, pix_fmt, size)
                picture.pts, picture.time_base = pts, clip.time_base
                container.mux(stream.encode(picture))

            for frame in chain([first], islice(frames, journal.segment - 1)):
                _check(frame, len(times), clip, times[-1] if times else None)
                times.append(frame.pts)
                worker.do(partial(encode, frame, frame.pts - times[0]))
                if len(worker) > behind:
                    worker.result()
            while worker:
                worker.result()
            container.mux(stream.encode())
    if not times:
        raise ClipError("the clip has no frames, so there is nothing to write")
    if not journal.duration:
        journal.duration = times[-1] - times[-2] if len(times) > 1 else frame_ticks(clip)
    journal.complete = True
    journal.save()


def _tag(stream: VideoStream, clip: Clip, color: Color) -> None:
    """Set the tags that say how the stream's pictures are to be shown."""
    context = stream.codec_context
    context.sample_aspect_ratio = clip.sample_aspect_ratio
    context.colorspace, context.color_range = color.colorspace, color.range
    context.color_primaries, context.color_trc = color.primaries, color.trc


def _check(frame: Frame, index: int, clip: Clip, last: int | None) -> None:
    """Raise `ClipError` for a frame of another size or type than the clip's, or not after ``last``."""
    if frame.image.shape != (clip.height, clip.width, 3) or frame.image.dtype != np.uint8:
        raise ClipError(
            f"frame {index} is {frame.image.dtype} of shape {frame.image.shape}, "
            f"not uint8 of shape ({clip.height}, {clip.width}, 3)"
        )
    stored, encoding = frame.stored, clip.encoding
    shape = (clip.height, clip.width, encoding.channels)
    if stored is not None and (stored.shape, stored.dtype) != (shape, encoding.dtype):
        raise ClipError(
            f"frame {index} is stored as {stored.dtype} of shape {stored.shape}, "
            f"not {encoding.dtype} of shape {shape}"
        )
    if last is not None and frame.pts <= last:
        raise ClipError(f"frame {index} has pts {frame.pts}, which does not come after {last}")


def _stored_color(output: Output, clip: Clip) -> Color:
    """Return the colour tags that are written."""
    color = clip.color.resolve(clip.width, clip.height)
    if clip.encoding.is_hdr and not output.store.encoding(clip.encoding).is_hdr:
        color = Color(1, 1, 1, color.range)  # BT.709, as which HDR is shown
    return output.store.color(color)


def _array(frame: Frame, source: Encoding, target: Encoding, pix_fmt: str) -> tuple[NDArray[Any], str]:
    """Return the frame's numbers as they are to be stored, and FFmpeg's name for such arrays."""
    if target.is_plain:
        return frame.image, "rgb24"
    if frame.stored is None:
        numbers = Encoding().converted(frame.image, target)
    else:
        numbers = source.converted(frame.stored, target)
    if target.floating:
        return numbers, "gbrapf32le" if target.alpha else "gbrpf32le"
    if target.bits <= 8:
        return numbers, "rgba"
    bits = VideoFormat(pix_fmt).components[0].bits
    if bits < 16 and VideoFormat(pix_fmt).is_rgb:  # exactly, unlike swscale
        largest = (1 << bits) - 1
        return np.rint(numbers * (largest / 65535)).astype(np.uint16), pix_fmt
    if not VideoFormat(pix_fmt).is_rgb:
        numbers = np.rint(numbers * np.float32(SWSCALE_WHITE / 65535)).astype(np.uint16)
    return numbers, "rgba64le" if target.alpha else "rgb48le"


def _picture(
    frame: Frame, clip: Clip, target: Encoding, color: Color, pix_fmt: str, size: tuple[int, int]
) -> VideoFrame:
    """Return a frame as the encoder takes it, padded to ``size`` (width, height) by repeating its edges.

    Our reader repeats each colour sample of 4:2:0 over 2x2 pixels; averaging over these gives it back
    unchanged.
    """
    numbers, name = _array(frame, clip.encoding, target, pix_fmt)
    if size != (clip.width, clip.height):
        numbers = np.pad(numbers, ((0, size[1] - clip.height), (0, size[0] - clip.width), (0, 0)), "edge")
    picture = VideoFrame.from_ndarray(np.ascontiguousarray(numbers), format=name)
    if color.colorspace == _RGB:
        if pix_fmt != name:
            picture = picture.reformat(format=pix_fmt, threads=1)
    else:
        picture = picture.reformat(
            format=pix_fmt,
            # 5 and 6 are both BT.601, but swscale only knows 5.
            dst_colorspace=5 if color.colorspace == 6 else color.colorspace,
            dst_color_range=color.range,
            interpolation=Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
            threads=1,
        )
    # Some encoders, such as that for ProRes, write the pictures' tags, not the stream's.
    picture.colorspace, picture.color_range = color.colorspace, color.range
    picture.color_primaries, picture.color_trc = color.primaries, color.trc
    return picture


def _join(target: Path, clip: Clip, about: About, journal: Journal, output: Output) -> None:
    """Write the packets of all segments, and those copied from the source, into one file."""
    segments = sorted(journal.folder.glob("*.segment"))
    times = journal.times
    # The result starts at time 0 with its first picture or sound; if the clip was cut at its start, with its
    # first picture. A picture before time 0 can't be stored.
    origin = times[0]
    if clip.start is None:
        origin = min(origin, round(clip.origin / clip.time_base))
    with (
        _output(target) as container,
        av.open(f"file:{segments[0]}") as template,
    ):
        video = container.add_stream_from_template(template.streams.video[0], opaque=True)
        video.time_base = clip.time_base
        video.codec_context.framerate = clip.rate  # segments lack it, and some of the tags
        _tag(video, clip, _stored_color(output, clip))
        if (
            output.store.encoder == "prores_ks"
        ):  # its profiles differ by a tag that the template doesn't pass on
            video.codec_context.codec_tag = template.streams.video[0].codec_context.codec_tag
        packets = [_video_packets(segments, clip, journal, origin, output.store.reorder, video)]
        packets += copied(clip, output.tracks(clip), origin * clip.time_base, container)
        if output.sound == "aac":
            packets += encoded_sound(clip, origin * clip.time_base, container)
        covers = [each for each in container.streams.video if each.disposition & Disposition.attached_pic]
        chapters = len(container.streams) - len(covers) + 1  # the track that the muxer adds for the chapters
        _describe(container, video, clip, about, origin, times[-1] + journal.duration)
        started: set[Stream] = set()
        for packet in merge(*packets, key=_decoding_time):
            try:
                container.mux(packet)
                started.add(packet.stream)
            except (av.InvalidDataError, av.PatchWelcomeError):
                if packet.stream is video or packet.stream not in started:
                    raise  # otherwise it is a damaged packet of sound, and left out
        both = "timecode" in video.metadata and bool(container.chapters())
    if target.suffix.lower() != ".mkv" and both:
        link_chapters(target, chapters)
    if target.suffix.lower() == ".mkv" and clip.sample_aspect_ratio != 1:
        write_aspect(target, clip.sample_aspect_ratio * Fraction(*output.size(clip)))


def _describe(
    container: OutputContainer, video: VideoStream, clip: Clip, about: About, origin: int, end: int
) -> None:
    """Give the result the source's tags, chapters and timecode; ``origin`` and ``end`` are ticks."""
    container.metadata.update(about.metadata)
    video.metadata.update(about.video)
    start, stop = origin * clip.time_base, None if clip.end is None else end * clip.time_base
    container.set_chapters(about.chapters_between(start, stop))  # type: ignore[arg-type]
    if timecode := timecode_at(about, clip, start):
        video.metadata["timecode"] = timecode


def _pictures(clip: Clip, journal: Journal, output: Output) -> dict[Path, Path]:
    """Make a file of each picture in the segments; return each file's final path."""
    times, folder, pattern, number = journal.times, journal.folder, output.pattern, output.number(clip)
    assert pattern is not None
    late = max(abs((pts - times[0]) * clip.time_base * clip.rate - index) for index, pts in enumerate(times))
    if late > Fraction(1, 2):
        notify(
            "times-lost",
            f"pictures such as {pattern.path(number)} have no times of their own, and the source's frames "
            f"are not evenly spaced: at {float(clip.rate):g} per second they are up to "
            f"{float(late / clip.rate):.2g} s off",
        )
    finished: dict[Path, Path] = {}
    for segment in sorted(folder.glob("*.segment")):
        for packet, _ in _segment_packets(segment, clip, times[0]):
            path = pattern.path(number + len(finished))
            try:
                (folder / path.name).write_bytes(bytes(packet))
            except OSError as error:
                raise unwritable(path, error) from error
            finished[folder / path.name] = path
    return finished


def _decoding_time(packet: Packet[Any]) -> float:
    assert packet.dts is not None
    return packet.dts * float(packet.time_base)


def _video_packets(
    segments: list[Path], clip: Clip, journal: Journal, origin: int, reorder: int, stream: VideoStream
) -> Iterator[Packet[Any]]:
    """Yield the packets of all segments on one clock.

    Each segment's encoder counts decoding times on its own, and those of two segments may overlap. So they
    are set anew: a packet is decoded when the frame ``reorder`` places earlier is shown. The first packets
    are decoded before the first frame is shown, by so much that decoding takes as long as the display, since
    MP4 stores the duration of decoding.
    """
    times = journal.times
    end = times[-1] + journal.duration

    def duration(pts: int) -> int:
        following = bisect_right(times, pts)
        return (times[following] if following < len(times) else end) - pts

    *_, (_, last) = _segment_packets(segments[-1], clip, times[0])
    rest = end - duration(last)
    lead = max(rest - times[-1 - reorder] if len(times) > reorder else 2 * (rest - times[0]), reorder)
    packets = chain.from_iterable(_segment_packets(segment, clip, times[0]) for segment in segments)
    for position, (packet, pts) in enumerate(packets):
        early = reorder - position
        decoded = times[0] - lead * early // reorder if early > 0 else times[-early]
        packet.time_base = clip.time_base
        packet.pts, packet.dts, packet.duration = pts - origin, decoded - origin, duration(pts)
        packet.stream = stream
        yield packet


def _segment_packets(segment: Path, clip: Clip, first: int) -> Iterator[tuple[Packet[Any], int]]:
    """Yield a segment's packets, each with its frame's pts in the clip; ``first`` is the clip's first pts."""
    with av.open(f"file:{segment}") as container:
        for packet in demux(container, container.streams.video[0]):
            assert packet.pts is not None
            # The segment's time base is finer than the clip's.
            yield packet, first + round(packet.pts * packet.time_base / clip.time_base)
