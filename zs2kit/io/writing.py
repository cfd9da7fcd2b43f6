"""Writing of clips: video in segments that need no other, joined with the source's sound and subtitles."""

from __future__ import annotations

import os
import warnings
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from heapq import merge
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.subtitles.stream import SubtitleStream
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from zs2kit import __version__
from zs2kit.clip import Clip, Color, Frame
from zs2kit.errors import ClipError, UsageError
from zs2kit.io.about import STREAM_TAGS, About, later
from zs2kit.io.matroska import write_aspect
from zs2kit.io.placing import place
from zs2kit.io.quicktime import link_chapters
from zs2kit.io.reading import demux, frame_ticks, seek
from zs2kit.io.sequence import Pattern, check_pictures, first_number
from zs2kit.journal import Journal, check, differing, kept, opened, segment_file, unwritable, workfolder

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}  # suffix -> muxer
SEGMENT = 48  # frames encoded together: a segment starts with a keyframe and needs no other segment

_QUALITY = 18  # CRF
_RGB, _LIMITED_RANGE, _FULL_RANGE = 0, 1, 2  # FFmpeg's numbers


@dataclass(frozen=True)
class Codec:
    """A way to store pictures."""

    encoder: str  # FFmpeg's name of it
    suffixes: tuple[str, ...]  # at the end of the names of files that hold it, the usual one first
    options: dict[str, object]  # the encoder's
    segments: str = "nut"  # the muxer of segments: NUT has any clock, but not every codec
    reorder: int = 0  # a frame leaves the encoder at most this many frames before its turn


CODECS = {
    # With its macroblock tree, x264 gives one of several results at random, in small pictures often.
    "h264": Codec("libx264", (".mp4", ".mov", ".mkv"), {"mbtree": "0"}, reorder=2),  # 2: b-pyramid
    # Lossless, in RGB. Every picture on its own, in slices that know when they are damaged.
    "ffv1": Codec("ffv1", (".mkv",), {"g": "1", "slicecrc": "1"}),
    "prores": Codec("prores_ks", (".mov", ".mkv"), {}, "mov"),  # what editors cut with
    "png": Codec("png", (".%04d.png",), {}),  # a sequence of pictures
}


def write(
    path: str | Path,
    clip: Clip,
    *,
    codec: str | None = None,
    quality: int | None = None,
    start_number: int | None = None,
    overwrite: bool = False,
    resume: bool | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> Path:
    """Encode the clip's frames and copy the rest of its source beside them; return the path.

    Copied are sound, chapters, metadata such as the title, the timecode, and those subtitles that the file
    can hold. Frames are pulled from the clip one by one. Their timing, size, sample aspect ratio, colour
    matrix and range are kept; a clip that was cut at its start begins at 0. ``codec`` is one of `CODECS`:
    h264 in 4:2:0 (4:4:4 where a side is odd), ffv1 (lossless), or prores, 422 HQ if the source has as few
    samples of colour, else 4444. ``quality`` is x264's CRF, 0 (lossless) to 51, by default 18; the others
    take none. Where ``path`` is a pattern, out.%04d.png, each frame becomes a PNG picture; they are numbered
    from ``start_number`` on, by default as the source is if that is a sequence too, else from 1.
    ``progress`` is called with the number of frames that are done, once for each; what it raises ends it all.

    Until all is done, everything lies in a hidden folder beside ``path``, which is gone afterwards. Only that
    of an edit, or of a generated clip, stays with what is done if something ends it. Then ``resume`` True
    goes on, if all settings are the same, False begins anew, and None is a ClipError that says so. Where
    nothing was left, all three begin.

    Raises ClipError or UsageError before the first frame is pulled if ``path`` can't be written
    (see `check_output`), ClipError if the disk fills up, and whatever iterating over the clip raises.
    """
    path = Path(path)
    codec = codec or default_codec(path)
    check_output(
        path, clip, overwrite, codec=codec, quality=quality, start_number=start_number, resume=resume
    )
    pattern = Pattern.of(path)
    about = About.of(clip.source)
    say_what_is_lost(path, clip, codec)
    size = _sound_size(clip)
    with opened(path, clip, _described(clip, codec, quality), SEGMENT, resume) as journal:
        folder = journal.folder
        try:
            if not journal.complete:
                _encode(clip, journal, codec, quality, progress)
            if _sound_size(clip) < size:  # a file that was cut may still open, and just end early
                raise _soundless(clip)
            if pattern:
                number = first_number(clip) if start_number is None else start_number
                finished = _pictures(clip, folder, journal.times, pattern, number)
            else:
                finished = {folder / path.name: path}
                _join(folder / path.name, clip, about, folder, codec, journal.times, journal.duration)
        except av.FFmpegError as error:
            raise unwritable(path, error) from error
        try:
            place(finished, overwrite)
        except OSError as error:
            raise unwritable(path, error) from error
    if pattern and overwrite and os.path.lexists(after := pattern.path(number + len(finished))):
        warnings.warn(f"{after} is of an earlier result, and so are those after it", stacklevel=2)
    return path


def check_output(
    path: str | Path,
    clip: Clip,
    overwrite: bool,
    *,
    codec: str | None = None,
    quality: int | None = None,
    start_number: int | None = None,
    resume: bool | None = None,
) -> None:
    """Raise ClipError or UsageError, in one line, if `write` could not put this clip there."""
    path = Path(path)
    _check_settings(path, codec or default_codec(path), quality, start_number)
    if os.path.isdir(path):
        raise ClipError(f"{path} is a folder; name a file in it")
    if not os.path.isdir(path.parent):
        raise ClipError(f"there is no folder {path.parent}; create it first")
    check(path, resume)
    pattern = Pattern.of(path)
    if pattern:
        number = first_number(clip) if start_number is None else start_number
        check_pictures(path, pattern, clip, number, overwrite)
        with workfolder(path) as folder:
            try:
                (folder / pattern.path(number).name).touch()
            except OSError as error:  # too long a name
                raise unwritable(path, error) from error
        return
    if os.path.lexists(path):
        source = clip.source if clip.source and os.path.exists(clip.source) else None
        if source and os.path.exists(path) and path.samefile(source):
            raise ClipError(f"{path} is the input; write to another name")
        if not overwrite:
            raise ClipError(f"{path} exists; choose another name, or allow overwriting (--overwrite)")
    with workfolder(path) as folder, _copied(clip) as (_, streams):
        try:
            (folder / path.name).touch()
        except OSError as error:  # too long a name
            raise unwritable(path, error) from error
        for stream in streams:
            if stream.type == "audio" and not _holds(path, stream):
                advice = (
                    "convert it to AAC first" if path.suffix.lower() == ".mkv" else "write to a .mkv file"
                )
                raise ClipError(
                    f"{path.suffix} can't hold the sound of {clip.source} ({_name(stream)}); {advice}"
                )


def _holds(path: Path, stream: Stream) -> bool:
    """Whether a file so named takes a stream; only an attempt tells, muxers are wrong about themselves."""
    try:
        with av.open(BytesIO(), "w", format=FORMATS[path.suffix.lower()]) as output:
            output.add_stream_from_template(stream)
            output.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def _name(stream: Stream) -> str:
    return stream.codec_context.name if stream.codec_context else "of an unknown codec"


def name_beside(clip: Path, word: str, codec: str | None = None) -> Path:
    """Return the path of a result beside its source: clip-pose.mp4, or shot-pose.%04d.png."""
    pattern = Pattern.of(clip)
    if pattern is None or os.path.lexists(clip):
        stem, suffix = clip.stem, clip.suffix
    else:
        stem = pattern.before.rstrip("._- ")
        suffix = clip.name[len(stem) :]
    suffixes = CODECS[codec or ("png" if pattern else "h264")].suffixes
    if suffix.lower() not in suffixes and not (pattern and codec in (None, "png")):
        suffix = suffixes[0]
    return clip.with_name("-".join(filter(None, [stem, word])) + suffix)


def default_codec(path: Path) -> str:
    """Return how clips are stored in a file so named, unless that is said."""
    return "png" if path.suffix.lower() == ".png" else "h264"


def _check_settings(path: Path, codec: str, quality: int | None, start_number: int | None) -> None:
    """Raise UsageError for settings that exclude one another."""
    if codec not in CODECS:
        raise UsageError(f"there is no codec {codec}; choose one of {', '.join(CODECS)}")
    suffix, suffixes, pattern = path.suffix.lower(), CODECS[codec].suffixes, Pattern.of(path)
    if suffix == ".png" and not pattern:
        raise UsageError(f"can't write {path.name}: pictures are numbered, so name them {path.stem}.%04d.png")
    if suffix not in FORMATS and not pattern:
        raise UsageError(f"can't write {path.name}: its name must end in {', '.join(FORMATS)} or .%04d.png")
    if (codec != "png") if pattern else (suffix not in suffixes):
        raise UsageError(f"can't write {path.name}: {codec} goes into {' or '.join(suffixes)}; name it so")
    if start_number is not None and not pattern:
        raise UsageError(f"a start number is for sequences of pictures (shot.%04d.png), not for {path.name}")
    if start_number is not None and start_number < 0:
        raise UsageError(f"the start number must be 0 or more, not {start_number}")
    if quality is not None and codec != "h264":
        raise UsageError(f"quality is for h264; {codec} has one quality, so leave it out")
    if quality is not None and not 0 <= quality <= 51:
        raise UsageError(f"quality must lie between 0 (lossless) and 51, not {quality}")


def copied(path: Path, clip: Clip) -> list[str]:
    """Return which streams of the clip's source `write` copies to ``path``, such as: sound (aac)."""
    names = {"audio": "sound", "subtitle": "subtitles"}
    with _copied(clip) as (_, streams):
        held = [] if Pattern.of(path) else [each for each in streams if _holds(path, each)]
        return [f"{names[each.type]} ({_name(each)})" for each in held]


def left(path: Path, clip: Clip, codec: str | None = None, quality: int | None = None) -> tuple[int, str]:
    """Return how many frames are kept of an interrupted edit to ``path``, and which settings it had.

    These are told only so far as they are not this clip's.
    """
    frames = kept(path)
    described = _described(clip, codec or default_codec(path), quality)
    return frames, differing(path, clip, described, SEGMENT) if frames else ""


def say_what_is_lost(path: Path, clip: Clip, codec: str | None = None) -> None:
    """Warn of what the source has and the result can't hold."""
    lost, source, codec, about = [], clip.source, codec or default_codec(path), About.of(clip.source)
    with _copied(clip) as (_, streams):
        if codec == "png":
            if streams:
                lost.append(f"pictures have no sound and no subtitles; {path} goes without those of {source}")
        elif unheld := [_name(stream) for stream in streams if not _holds(path, stream)]:
            lost.append(f"{path.suffix} can't hold the subtitles of {source} ({', '.join(unheld)})")
    if codec == "h264" and source is not None and _halved(_pix_fmt(codec, clip)) > _halved(clip.pix_fmt):
        lost.append(
            f"{path} has one sample of colour for 2x2 pixels, as players expect of h264, and {source} has "
            "more; --codec ffv1 or prores keeps them"
        )
    if codec != "png" and about.timecode and later(about.timecode, 0, clip.rate) is None:
        lost.append(
            f"the timecode {about.timecode} of {source} is none for {float(clip.rate):g} frames a second; "
            f"{path} goes without"
        )
    for each in lost:
        warnings.warn(each, stacklevel=3)


def _described(clip: Clip, codec: str, quality: int | None) -> dict[str, Any]:
    """What a file under way is made with, beside what its frames depend on."""
    return {
        "zs2kit": __version__,
        "av": av.__version__,
        "codec": codec,
        "quality": _QUALITY if quality is None else quality,
        "width": clip.width,
        "height": clip.height,
        "rate": str(clip.rate),
        "time base": str(clip.time_base),
        "sample aspect ratio": str(clip.sample_aspect_ratio),
        "color": asdict(clip.color),
    }


def _output(path: Path, muxer: str | None = None) -> OutputContainer:
    # FFmpeg would delay everything so that no time is negative, as those of decoding early and of the
    # sound that an audio decoder starts up with are.
    # And it would number Matroska's streams at random.
    options = {"avoid_negative_ts": "disabled", "fflags": "+bitexact"}
    muxer = muxer or FORMATS[path.suffix.lower()]
    if muxer in ("mp4", "mov"):  # in which a stream's delay is told; by default in milliseconds
        options["movie_timescale"] = "90000"
    return av.open(f"file:{path}", "w", format=muxer, container_options=options)


@contextmanager
def _copied(clip: Clip) -> Iterator[tuple[InputContainer | None, list[Stream]]]:
    """The source, opened, and its streams that are copied: those of sound and of subtitles."""
    container = None
    if clip.source is not None and (os.path.isfile(clip.source) or not clip.silent):
        try:
            container = av.open(f"file:{clip.source}", metadata_errors="replace")
        except (av.FFmpegError, ValueError) as error:
            if not clip.silent:
                raise _soundless(clip) from error
    if container is None:
        yield None, []
        return
    with container:
        yield container, [*(() if clip.silent else container.streams.audio), *container.streams.subtitles]


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


def _encode(
    clip: Clip, journal: Journal, codec: str, quality: int | None, progress: Callable[[int], object]
) -> None:
    """Encode the frames to segments, until the journal is complete; the pts in the segments start at 0."""
    pix_fmt = _pix_fmt(codec, clip)
    color = _stored_color(codec, clip)
    options = dict(CODECS[codec].options)
    if codec == "h264":
        options["crf"] = str(_QUALITY if quality is None else quality)
    times = journal.times[: journal.finished]
    frames = _checked(clip, journal.frames(progress), len(times))
    while (first := next(frames, None)) is not None:
        with _output(segment_file(journal.folder, len(times)), CODECS[codec].segments) as output:
            stream = output.add_stream(CODECS[codec].encoder, clip.rate, width=clip.width, height=clip.height)
            assert isinstance(stream, VideoStream)
            stream.pix_fmt = pix_fmt
            stream.codec_context.time_base = clip.time_base
            _tag(stream, clip, color)
            stream.options = options
            for frame in chain([first], islice(frames, SEGMENT - 1)):
                picture = _picture(frame.image, color, pix_fmt)
                times.append(frame.pts)
                picture.pts, picture.time_base = frame.pts - times[0], clip.time_base
                output.mux(stream.encode(picture))
            output.mux(stream.encode())
    if not times:
        raise ClipError("the clip has no frame, so there is nothing to write")
    if not journal.duration:
        journal.duration = times[-1] - times[-2] if len(times) > 1 else frame_ticks(clip)
    journal.complete = True
    journal.save()


def _tag(stream: VideoStream, clip: Clip, color: Color) -> None:
    """Say how the stream's pictures are to be shown."""
    context = stream.codec_context
    context.sample_aspect_ratio = clip.sample_aspect_ratio
    context.colorspace, context.color_range = color.colorspace, color.range
    context.color_primaries, context.color_trc = color.primaries, color.trc


def _checked(clip: Clip, frames: Iterator[Frame], first: int) -> Iterator[Frame]:
    last = None
    for index, frame in enumerate(frames, first):
        if frame.image.shape != (clip.height, clip.width, 3) or frame.image.dtype != np.uint8:
            raise ClipError(
                f"frame {index} is {frame.image.dtype} of shape {frame.image.shape}, "
                f"not uint8 of shape ({clip.height}, {clip.width}, 3)"
            )
        if last is not None and frame.pts <= last:
            raise ClipError(f"frame {index} has pts {frame.pts}, which does not come after {last}")
        last = frame.pts
        yield frame


def _pix_fmt(codec: str, clip: Clip) -> str:
    """FFmpeg's name of the pixels that are written."""
    if codec in ("ffv1", "png"):
        return "bgr0" if codec == "ffv1" else "rgb24"
    if codec == "prores":
        return "yuv422p10le" if _halved(clip.pix_fmt)[0] and not clip.width % 2 else "yuv444p10le"
    return "yuv444p" if clip.width % 2 or clip.height % 2 else "yuv420p"


def _halved(pix_fmt: str) -> tuple[bool, bool]:
    """Whether pixels of this kind have a sample of colour for every second column, and row, only."""
    kind = VideoFormat(pix_fmt)
    if len(kind.components) < 3 and not kind.has_palette:  # grey
        return True, True
    return kind.chroma_width(8) < 8, kind.chroma_height(8) < 8


def _stored_color(codec: str, clip: Clip) -> Color:
    """The tags of what is written."""
    color = clip.color.resolve(clip.width, clip.height)
    if codec in ("ffv1", "png"):
        return replace(color, colorspace=_RGB, range=_FULL_RANGE)
    if codec == "prores":  # in which limited range is the only one, and these matrices
        matrix = color.colorspace if color.colorspace in (1, 9) else 6
        return replace(color, colorspace=matrix, range=_LIMITED_RANGE)
    return color


def _picture(image: NDArray[np.uint8], color: Color, pix_fmt: str) -> VideoFrame:
    """(height, width, 3) RGB -> a picture for the encoder.

    Readers repeat the chroma of 4:2:0 over 2x2 pixels; averaging over these gives it back unchanged.
    """
    picture = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    if color.colorspace == _RGB:
        picture = picture.reformat(format=pix_fmt, threads=1)
    else:
        picture = picture.reformat(
            format=pix_fmt,
            # Both are BT.601, swscale knows 5.
            dst_colorspace=5 if color.colorspace == 6 else color.colorspace,
            dst_color_range=color.range,
            interpolation=Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
            threads=1,
        )
    # Some encoders, ProRes's among them, write the tags of the pictures and not those of the stream.
    picture.colorspace, picture.color_range = color.colorspace, color.range
    picture.color_primaries, picture.color_trc = color.primaries, color.trc
    return picture


def _join(
    target: Path,
    clip: Clip,
    about: About,
    folder: Path,
    codec: str,
    times: array[int],
    last_duration: int,
) -> None:
    """Write the packets of all segments, and those copied from the source, into one file."""
    segments = sorted(folder.glob("*.segment"))
    # The result begins at 0, with the first picture or sound; a clip that was cut, with its first picture.
    # Files can't say that a picture comes before 0.
    origin = times[0]
    if clip.start is None:
        origin = min(origin, round(clip.origin / clip.time_base))
    reorder = CODECS[codec].reorder
    with (
        _output(target) as output,
        _copied(clip) as (source, streams),
        av.open(f"file:{segments[0]}") as template,
    ):
        video = output.add_stream_from_template(template.streams.video[0], opaque=True)
        video.time_base = clip.time_base
        video.codec_context.framerate = clip.rate  # a segment doesn't say, nor all of the tags
        _tag(video, clip, _stored_color(codec, clip))
        if codec == "prores":  # it comes in several, told apart by the tag, which a template leaves out
            video.codec_context.codec_tag = template.streams.video[0].codec_context.codec_tag
        packets = [_video_packets(segments, clip, times, last_duration, origin, reorder, video)]
        copies = {}
        for stream in streams:
            if stream.type == "subtitle" and not _holds(target, stream):
                continue
            copy = copies[stream.index] = output.add_stream_from_template(stream)
            copy.metadata.update({key: stream.metadata[key] for key in STREAM_TAGS & stream.metadata.keys()})
            copy.disposition = stream.disposition
        if source is not None and copies:
            packets.append(_copied_packets(source, clip, origin * clip.time_base, copies))
        _describe(output, video, clip, about, origin, times[-1] + last_duration)
        begun: set[Stream] = set()
        for packet in merge(*packets, key=_decoding_time):
            try:
                output.mux(packet)
                begun.add(packet.stream)
            except (av.InvalidDataError, av.PatchWelcomeError):
                if packet.stream is video or packet.stream not in begun:
                    raise  # else a damaged packet of sound: it costs itself
        chapters = len(output.streams) + 1  # the track that the muxer adds for them
        both = "timecode" in video.metadata and bool(output.chapters())
    if target.suffix.lower() != ".mkv" and both:
        link_chapters(target, chapters)
    if target.suffix.lower() == ".mkv" and clip.sample_aspect_ratio != 1:
        write_aspect(target, clip.sample_aspect_ratio * clip.width / clip.height)


def _describe(
    output: OutputContainer, video: VideoStream, clip: Clip, about: About, origin: int, end: int
) -> None:
    """Say of the result what is said of the source; ``origin`` and ``end`` are its first and last tick."""
    output.metadata.update(about.metadata)
    video.metadata.update(about.video)
    start, stop = origin * clip.time_base, None if clip.end is None else end * clip.time_base
    output.set_chapters(about.chapters_between(start, stop))  # type: ignore[arg-type]
    skipped = 0 if clip.start is None else round((start - about.begin) * clip.rate)
    if about.timecode and (timecode := later(about.timecode, skipped, clip.rate)):
        video.metadata["timecode"] = timecode


def _pictures(clip: Clip, folder: Path, times: array[int], pattern: Pattern, number: int) -> dict[Path, Path]:
    """Make a file of each picture in the segments; return where each belongs."""
    late = max(abs((pts - times[0]) * clip.time_base * clip.rate - index) for index, pts in enumerate(times))
    if late > Fraction(1, 2):
        warnings.warn(
            f"{pattern.path(number)} and those after it have no times of their own, and those of the source "
            f"are not evenly spaced: at {float(clip.rate):g} a second they are up to "
            f"{float(late / clip.rate):.2g} s off",
            stacklevel=3,
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
    segments: list[Path],
    clip: Clip,
    times: array[int],
    last_duration: int,
    origin: int,
    reorder: int,
    stream: VideoStream,
) -> Iterator[Packet[Any]]:
    """The packets of all segments on one clock.

    Each encoder counts decoding times for itself, and those of two segments may overlap. So they are set
    anew: a packet is decoded when the frame ``reorder`` places earlier is shown. The first ones come before
    all frames, by so much that decoding takes as long as the display, since MP4 stores the former's length.
    """
    end = times[-1] + last_duration

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
    """A segment's packets, each with the pts of its frame in the clip, whose first is ``first``."""
    with av.open(f"file:{segment}") as container:
        for packet in demux(container, container.streams.video[0]):
            assert packet.pts is not None
            # The segment's time base is finer than the clip's.
            yield packet, first + round(packet.pts * packet.time_base / clip.time_base)


def _copied_packets(
    source: InputContainer, clip: Clip, origin: Fraction, copies: dict[int, Stream]
) -> Iterator[Packet[Any]]:
    """The source's packets, as they are, between the clip's start and end; ``origin`` is time 0.

    Subtitles that are shown already at the start, or still at the end, are shown for the time between.
    """
    streams = [source.streams[index] for index in copies]
    sounds = [stream for stream in streams if stream.type == "audio"]
    if clip.start is not None and sounds == streams:  # else a subtitle may begin long before
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
                continue  # damaged: no file may go back in time
            last[packet.stream_index] = packet.dts
            if isinstance(packet.stream, SubtitleStream):
                if _name(packet.stream) == "mov_text" and not any(bytes(packet)[:2]):
                    continue  # nothing is shown; MP4 fills its pauses so, and anew in the copy
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
        raise _soundless(clip) from error


def _cut(packet: Packet[Any], start: Fraction | None, stop: Fraction | None) -> None:
    """Have a subtitle begin no sooner than ``start``, in seconds, and last no longer than to ``stop``."""
    assert packet.pts is not None
    begin, end = packet.pts, packet.pts + (packet.duration or 0)
    if start is not None and begin < (first := round(start / packet.time_base)) < end:
        begin = first
    if stop is not None and begin < (after := round(stop / packet.time_base)) < end:
        end = after
    packet.pts, packet.dts, packet.duration = begin, begin, end - begin
