"""Clips in and out, on real files that the tests make with PyAV: no reader or writer is replaced here."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.frame import VideoFrame

from zs2kit import io
from zs2kit.clip import Clip, Color, Frame
from zs2kit.errors import ClipError, UsageError, Zs2Error

BT709, BT601 = 1, 6
LIMITED, FULL = 1, 2
SUFFIXES = (".mp4", ".mov", ".mkv")


def drawn(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Smooth colours, so that what chroma subsampling loses is small, and a bar that tells the frame."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([40 + 160 * x // width, 40 + 160 * y // height, 0 * x + 120], -1).astype(np.uint8)
    image[: height // 4, : max(1, (index * 4) % width)] = (200, 60, 60)
    return image


def make(
    path: Path,
    *,
    frames: int = 12,
    width: int = 64,
    height: int = 48,
    pts: list[int] | None = None,
    time_base: Fraction = Fraction(1, 12800),
    rate: Fraction = Fraction(25),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    color: Color | None = None,
    matrix: int | None = None,
    sar: Fraction = Fraction(1),
    turn: int = 0,
    sound: str | None = None,
    sound_seconds: float | None = None,
    movflags: str = "",
) -> Path:
    """Encode drawn frames, and a tone, in a way of our own."""
    color = color or Color()
    matrix = matrix or (BT709 if color.colorspace == BT709 else 5)
    step = round(1 / (time_base * rate))
    pts = pts if pts is not None else [index * step for index in range(frames)]
    with av.open(str(path), "w", container_options={"movflags": movflags} if movflags else {}) as container:
        video = container.add_stream(codec, rate, width=width, height=height)
        video.pix_fmt = pix_fmt
        context = video.codec_context
        context.time_base, context.sample_aspect_ratio = time_base, sar
        context.colorspace, context.color_range = color.colorspace, color.range
        context.color_primaries, context.color_trc = color.primaries, color.trc
        video.options = {"crf": "8"} if options is None and codec == "libx264" else options or {}
        if turn:
            video.set_display_rotation(turn)
        if sound:
            audio = container.add_stream(sound, 48000)
            audio.layout = "mono"
        for index, moment in enumerate(pts):
            picture = VideoFrame.from_ndarray(drawn(index, width, height), "rgb24").reformat(
                format=pix_fmt, dst_colorspace=matrix, dst_color_range=color.range or LIMITED
            )
            picture.pts, picture.time_base = moment, time_base
            container.mux(video.encode(picture))
        container.mux(video.encode())
        if sound:
            seconds = sound_seconds or float(pts[-1] * time_base + 1 / rate)
            tone = (8000 * np.sin(np.arange(int(seconds * 48000)) * 0.05)).astype(np.int16)[None]
            whole = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
            whole.sample_rate, whole.pts = 48000, 0
            resampler = av.AudioResampler(audio.format, "mono", 48000, audio.codec_context.frame_size or 1024)
            for piece in resampler.resample(whole) + resampler.resample(None):
                container.mux(audio.encode(piece))
            container.mux(audio.encode())
    return path


def assert_drawn(frames: list[Frame], turn: int = 0) -> None:
    """Each frame is what was drawn, nearly, and no other frame."""
    for index, frame in enumerate(frames):
        size = frame.image.shape[1::-1] if not turn else frame.image.shape[:2]
        errors = [
            np.abs(frame.image.astype(int) - np.rot90(drawn(other, *size), turn // 90)).mean()
            for other in range(max(0, index - 2), index + 3)
        ]
        assert np.argmin(errors) == min(index, 2), "another frame"
        assert min(errors) < 5, "far from what was drawn"


class Contents(NamedTuple):
    size: tuple[int, int]
    aspect: Fraction  # of a pixel
    rate: Fraction | None
    times: list[float]  # of the frames, in seconds
    end: float  # of the last frame
    tick: float
    sound: list[tuple[float, bytes]]  # time and packet


def contents(path: Path) -> Contents:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        tick = float(video.time_base)
        packets = [(p.stream, p.pts, p.duration, bytes(p)) for p in container.demux() if p.pts is not None]
        shown = sorted((pts, duration) for stream, pts, duration, _ in packets if stream is video)
        # MP4 stores how long the stream lasts, Matroska how long a frame does.
        mp4 = container.format.name.startswith("mov")
        end = video.start_time + video.duration if mp4 else sum(shown[-1])
        if not shown[-1][1]:  # MPEG-TS says nothing of its last frame
            end += round(1 / (video.average_rate * video.time_base))
        return Contents(
            size=(video.codec_context.width, video.codec_context.height),
            aspect=video.sample_aspect_ratio or Fraction(1),
            rate=video.average_rate,
            times=[pts * tick for pts, _ in shown],
            end=end * tick,
            tick=tick,
            sound=[(float(t * s.time_base), data) for s, t, _, data in packets if s is not video],
        )


def by_pyav(clip: Clip) -> Iterator[Frame]:
    return io.reading._pyav_frames(clip)


def by_decord(clip: Clip) -> Iterator[Frame]:
    return io.reading._decord_frames(clip, io.reading._packets(clip)[0])


def by_opencv(clip: Clip) -> Iterator[Frame]:
    described = io.reading._describe_with_opencv(clip.source)
    assert described is not None
    return io.reading._opencv_frames(described)


VFR = np.cumsum(np.random.default_rng(0).integers(200, 2500, 30)).tolist()
CLIPS: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "b-frames.mp4": {"frames": 40, "options": {"crf": "8", "bf": "3", "b-adapt": "0"}},
    "open-gop.mp4": {"frames": 40, "options": {"crf": "8", "g": "10", "x264-params": "open-gop=1"}},
    "one.mp4": {"frames": 1},
    "odd.mp4": {"width": 63, "height": 47, "pix_fmt": "yuv444p"},
    "422.mov": {"pix_fmt": "yuv422p"},
    "ntsc.mp4": {"rate": Fraction(30000, 1001), "time_base": Fraction(1, 30000)},
    "variable.mp4": {"pts": VFR},
    "variable.mkv": {"pts": [pts // 12 for pts in VFR], "time_base": Fraction(1, 1000)},
    "late.mp4": {"pts": [6400 + 512 * index for index in range(12)]},
    "wide pixels.mp4": {"sar": Fraction(4, 3)},
    "bt709.mp4": {"color": Color(BT709, 1, 1, LIMITED)},
    "bt709 full.mp4": {"color": Color(BT709, 1, 1, FULL)},
    "bt601.mp4": {"color": Color(BT601, 6, 6, LIMITED)},
    "bt601 full.mp4": {"color": Color(BT601, 6, 6, FULL)},
    "hevc.mp4": {"codec": "libx265", "options": {"crf": "8", "x265-params": "log-level=none"}},
}
# Where decord is wrong, or not known to be right: PyAV gives the pixels.
NOT_FOR_DECORD: dict[str, dict[str, Any]] = {
    "10 bits.mp4": {"pix_fmt": "yuv420p10le"},
    "untagged hd.mp4": {"height": 720, "matrix": BT709},
    "turned.mp4": {"turn": 90},
    "stream.ts": {"frames": 40, "time_base": Fraction(1, 90000)},
    "mpeg4.avi": {"codec": "mpeg4", "time_base": Fraction(1, 25), "options": {"b": "4000000"}},
    "png.mov": {"codec": "png", "pix_fmt": "rgb24"},
}


@pytest.mark.parametrize("name", CLIPS)
def test_every_reader_sees_the_same(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / name, **CLIPS[name])
    clip, fits_decord = io.reading._describe(path)
    assert fits_decord and io.reading._packets(clip)[1]
    frames = list(by_pyav(clip))
    assert len(frames) == clip.frame_count or clip.frame_count is None
    assert_drawn(frames)
    for reader, tick in ((by_decord, clip.time_base), (by_opencv, Fraction(1, 90_000))):
        others = list(reader(clip))
        assert len(others) == len(frames)
        for ours, theirs in zip(frames, others, strict=True):
            np.testing.assert_array_equal(ours.image, theirs.image)
            passed = (ours.pts - frames[0].pts) * clip.time_base, (theirs.pts - others[0].pts) * tick
            assert passed[0] == pytest.approx(float(passed[1]), abs=float(max(tick, clip.time_base)))


@pytest.mark.parametrize("name", NOT_FOR_DECORD)
def test_clips_that_decord_gets_wrong_are_not_given_to_it(tmp_path: Path, name: str) -> None:
    settings = NOT_FOR_DECORD[name]
    path = make(tmp_path / name, **settings)
    assert not io.reading._describe(path)[1]
    frames = list(io.read(path))
    assert len(frames) == settings.get("frames", 12)
    assert_drawn(frames, settings.get("turn", 0))


def test_a_damaged_packet_costs_its_own_frames_only(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", frames=30, options={"crf": "8", "g": "1"})
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for position, size in packets[10:12]:
        data[position : position + size] = bytes(size)
    path.write_bytes(data)
    clip = io.read(path)  # by decord, until it gives up
    assert [frame.pts // 512 for frame in clip] == [*range(10), *range(12, 30)]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_damage_costs_a_part_or_ends_in_a_line(tmp_path: Path, name: str) -> None:
    source, out = tmp_path / name, tmp_path / "out.mp4"
    tick = {".mp4": 12800, ".mkv": 1000, ".ts": 90_000}[source.suffix]
    data = make(source, frames=40, sound="aac", time_base=Fraction(1, tick)).read_bytes()
    survived = 0
    for seed in range(16):
        damaged = bytearray(data)
        generator = np.random.default_rng(seed)
        for position in generator.integers(0, len(data), 20):
            damaged[position] = generator.integers(256)
        source.write_bytes(damaged[: len(data) if seed % 2 else generator.integers(1, len(data))])
        try:
            frames = len(list(io.read(source)))
            assert len(list(io.read(io.write(out, io.read(source), overwrite=True)))) == frames
            survived += 1
        except Zs2Error as error:
            assert str(source) in str(error) and "\n" not in str(error)
        assert {path.name for path in tmp_path.iterdir()} <= {source.name, out.name}
    assert survived >= (1 if name.endswith("mp4") else 10)


@pytest.mark.parametrize("small", [io.reading.SMALL, 0], ids=["short", "long"])
@pytest.mark.parametrize("name", ["plain.mp4", "open-gop.mp4", "variable.mkv", "ntsc.mp4"])
def test_start_and_end_keep_the_frames_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, small: int
) -> None:
    monkeypatch.setattr(io.reading, "SMALL", small)
    settings = CLIPS[name] | {"options": {"g": "10", **CLIPS[name].get("options", {})}}
    if "pts" not in settings:
        settings["frames"] = 80
    path = make(tmp_path / name, **settings)
    whole = io.read(path)
    frames = list(whole)
    moments = [frame.pts * whole.time_base for frame in frames]
    for first, last in ((0, 1), (3, 9), (len(frames) - 2, len(frames) - 1), (len(frames) // 2, None)):
        start, end = moments[first], None if last is None else moments[last]
        for cut in (
            io.read(path, start=start, end=end),
            io.read(path, start=float(start), end=end and float(end)),
        ):
            kept = list(cut)
            assert [frame.pts for frame in kept] == [frame.pts for frame in frames[first:last]]
            for ours, theirs in zip(kept, frames[first:last], strict=True):
                np.testing.assert_array_equal(ours.image, theirs.image)
            assert cut.frame_count == (len(kept) if small else None)


@pytest.mark.parametrize("small", [io.reading.SMALL, 0], ids=["short", "long"])
@pytest.mark.parametrize("name", ["clip.ts", "clip.h264"])
def test_a_start_in_a_container_without_an_index_loses_no_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, small: int
) -> None:
    monkeypatch.setattr(io.reading, "SMALL", small)
    tick = Fraction(1, 90_000) if name.endswith("ts") else Fraction(1, 25)
    path = make(tmp_path / name, frames=200, time_base=tick, options={"crf": "8", "g": "150"})
    whole = io.read(path)
    frames = list(whole)
    assert len(frames) == 200
    start = frames[100].pts * whole.time_base
    kept = list(io.read(path, start=start))
    assert [frame.pts for frame in kept] == [frame.pts for frame in frames[100:]]
    np.testing.assert_array_equal(kept[0].image, frames[100].image)


def test_reading_is_lazy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io.reading, "SMALL", 0)
    converted = []
    rgb = io.reading._rgb
    monkeypatch.setattr(io.reading, "_rgb", lambda *args: converted.append(1) or rgb(*args))
    clip = io.read(make(tmp_path / "clip.mp4", frames=60))
    assert len(converted) == 1
    frames = iter(clip)
    for count in range(1, 6):
        next(frames)
        assert len(converted) == count


# ---- law 6: the clip is the clip

WRITTEN: dict[str, dict[str, Any]] = {
    "plain.mp4": {"frames": 2 * io.writing.SEGMENT + 5, "sound": "aac"},
    "ntsc.mov": {"frames": 60, "sound": "aac"} | CLIPS["ntsc.mp4"],
    "variable.mp4": {"pts": np.cumsum(np.random.default_rng(1).integers(200, 2500, 130)).tolist()},
    "variable.mkv": {"pts": [pts // 12 for pts in VFR], "time_base": Fraction(1, 1000), "sound": "libopus"},
    "one.mp4": {"frames": 1, "sound": "aac"},
    "two.mp4": {"frames": 2},
    "just over a segment.mp4": {"frames": io.writing.SEGMENT + 1},
    "odd.mp4": {"width": 63, "height": 47, "pix_fmt": "yuv444p"},
    "one pixel.mp4": {"width": 1, "height": 1, "pix_fmt": "yuv444p"},
    "late.mp4": {"pts": [6400 + 512 * index for index in range(60)], "sound": "aac"},
    "wide pixels.mp4": {"sar": Fraction(4, 3), "sound": "libmp3lame"},
    "long sound.mp4": {"sound": "aac", "sound_seconds": 2},
    "short sound.mp4": {"frames": 60, "sound": "aac", "sound_seconds": 1},
    "stream.ts": {"frames": 60, "time_base": Fraction(1, 90000)},
    "old.avi": {
        "frames": 60,
        "codec": "mjpeg",
        "pix_fmt": "yuvj420p",
        "time_base": Fraction(1, 25),
        "options": {"b": "4000000"},
        "color": Color(5, 2, 2, FULL),
    },
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", WRITTEN)
def test_the_clip_is_the_clip(tmp_path: Path, name: str, suffix: str) -> None:
    settings = WRITTEN[name]
    if settings.get("sound") == "libopus" and suffix == ".mov":
        settings = settings | {"sound": "aac"}
    path = make(tmp_path / name, **settings)
    out = io.write(tmp_path / f"out{suffix}", io.read(path))
    before, after = contents(path), contents(out)
    tick = max(before.tick, after.tick) * 1.001
    assert after.times == pytest.approx(before.times, abs=tick)
    assert after.end == pytest.approx(before.end, abs=tick)
    assert after.size == (settings.get("width", 64), settings.get("height", 48))
    assert after.aspect == settings.get("sar", 1)
    if "pts" not in settings:
        assert after.rate in (settings.get("rate", 25), None)  # None: a single frame in Matroska
    assert [data for _, data in after.sound] == [data for _, data in before.sound]
    sound_tick = 1 / 48000 if suffix != ".mkv" and path.suffix != ".mkv" else 0.001
    assert [t for t, _ in after.sound] == pytest.approx([t for t, _ in before.sound], abs=sound_tick * 1.001)
    if after.size != (1, 1):
        assert_drawn(list(io.read(out)))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted((name, out.name))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_segments_are_closed_and_joined_on_one_clock(tmp_path: Path, suffix: str) -> None:
    count = 2 * io.writing.SEGMENT + 7
    pts = np.cumsum(np.random.default_rng(2).integers(1, 3000, count)).tolist()
    source = io.read(make(tmp_path / "clip.mp4", pts=pts, sound="aac"))
    out = io.write(tmp_path / f"out{suffix}", source)
    with av.open(str(out)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    decoded = [packet.dts for packet in packets if packet.dts is not None]
    assert all(a < b for a, b in pairwise(decoded))
    assert all(packet.dts is None or packet.dts <= packet.pts for packet in packets)
    assert any(a.pts > b.pts for a, b in pairwise(packets)), "without B-frames"
    starts = sorted(packet.pts for packet in packets)[:: io.writing.SEGMENT]
    assert set(starts) <= {packet.pts for packet in packets if packet.is_keyframe}
    # The second segment on its own, decoded afresh, gives the frames that it gives in its place.
    whole = {frame.pts: frame.image for frame in io.read(out)}
    decoder = av.CodecContext.create("h264", "r")
    with av.open(str(out)) as container:
        decoder.extradata = container.streams.video[0].codec_context.extradata
        alone = [p for p in container.demux(video=0) if p.pts is not None and starts[1] <= p.pts < starts[2]]
        pictures = [picture for packet in [*alone, None] for picture in decoder.decode(packet)]
    assert len(pictures) == io.writing.SEGMENT
    for picture in pictures:
        picture.colorspace = BT601
        np.testing.assert_array_equal(picture.to_ndarray(format="rgb24"), whole[picture.pts])


def test_the_same_frames_give_the_same_file(tmp_path: Path) -> None:
    images = [drawn(index) for index in range(60)]
    files = {
        io.write(tmp_path / "out.mp4", Clip.from_images(images, 25), overwrite=True).read_bytes()
        for _ in range(15)
    }
    assert len(files) == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_cut_begins_at_zero_and_takes_its_sound_along(tmp_path: Path, suffix: str) -> None:
    path = make(tmp_path / "clip.mp4", frames=100, sound="aac", options={"g": "10"})
    whole = contents(path)
    start, end = Fraction(151, 100), Fraction(3)  # between two frames, and at one
    out = contents(io.write(tmp_path / f"out{suffix}", io.read(path, start=start, end=end)))
    kept = [time for time in whole.times if start <= time < end]
    assert kept[0] == pytest.approx(1.52) and len(kept) == 37
    assert out.times == pytest.approx([time - kept[0] for time in kept], abs=out.tick)
    assert out.end == pytest.approx(3 - 1.52, abs=out.tick)
    sound = [(time, data) for time, data in whole.sound if kept[0] <= time < end]
    assert [data for _, data in out.sound] == [data for _, data in sound]
    assert [t for t, _ in out.sound] == pytest.approx([t - kept[0] for t, _ in sound], abs=0.001)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_several_streams_of_sound_are_kept_and_what_they_are_called(tmp_path: Path, suffix: str) -> None:
    first = make(tmp_path / "first.mp4", frames=30, sound="aac")
    second = make(tmp_path / "second.mp4", frames=30, sound="libmp3lame")
    both = tmp_path / "both.mkv"
    with av.open(str(first)) as one, av.open(str(second)) as two, av.open(str(both), "w") as target:
        streams = [*one.streams, two.streams.audio[0]]
        copies = [target.add_stream_from_template(stream, opaque=True) for stream in streams]
        copies[1].metadata.update(language="eng", title="the film")
        copies[1].disposition = Disposition(0)
        copies[2].metadata.update(language="deu", title="der Film")
        copies[2].disposition = Disposition.default
        for container, mapping in ((one, copies[:2]), (two, [None, copies[2]])):
            for packet in container.demux():
                if packet.size and mapping[packet.stream_index] is not None:
                    packet.stream = mapping[packet.stream_index]
                    target.mux(packet)
    out = io.write(tmp_path / f"out{suffix}", io.read(both))
    with av.open(str(out)) as container:
        assert [stream.codec_context.name for stream in container.streams.audio] == ["aac", "mp3float"]
        one, two = container.streams.audio
        assert (one.metadata["language"], two.metadata["language"]) == ("eng", "deu")
        if suffix == ".mkv":  # MP4 has no titles of streams
            assert (one.metadata["title"], two.metadata["title"]) == ("the film", "der Film")
        assert [bool(each.disposition & Disposition.default) for each in (one, two)] == [False, True]
    assert sorted(data for _, data in contents(out).sound) == sorted(data for _, data in contents(both).sound)


def moved(source: Path) -> None:
    source.rename(source.with_name("elsewhere.mp4"))


def cut_short(source: Path) -> None:
    os.truncate(source, source.stat().st_size * 3 // 4)


def damaged(source: Path) -> None:
    source.write_bytes(bytes(source.stat().st_size))


@pytest.mark.parametrize("happens", [moved, cut_short, damaged])
def test_sound_that_is_lost_on_the_way_is_said(tmp_path: Path, happens: Callable[[Path], None]) -> None:
    source = make(tmp_path / "clip.mp4", frames=30, sound="aac", movflags="faststart")
    clip = io.read(source)

    def frames() -> Iterator[Frame]:
        yield from clip
        happens(source)

    with pytest.raises(
        ClipError, match=r"the sound of .*clip\.mp4 can't be read any more; put the file back"
    ):
        io.write(tmp_path / "out.mp4", replace(clip, frames=frames()))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_silent_source_may_go_once_it_is_read(tmp_path: Path) -> None:
    source = make(tmp_path / "clip.mp4")
    clip = io.read(source)
    frames = list(clip)
    source.unlink()
    assert len(list(io.read(io.write(tmp_path / "out.mp4", replace(clip, frames=frames))))) == 12


# ---- colour


@pytest.mark.parametrize("range_", [0, LIMITED, FULL])
@pytest.mark.parametrize("matrix", [2, BT709, BT601, 5, 9])
def test_colours_come_back_and_are_tagged(tmp_path: Path, matrix: int, range_: int) -> None:
    blocks = np.random.default_rng(0).integers(30, 226, (3, 6, 8, 3), dtype=np.uint8)
    images = blocks.repeat(8, axis=1).repeat(8, axis=2)  # larger than a sample of chroma
    clip = replace(Clip.from_images(images, 25), color=Color(matrix, 2, 2, range_))
    out = io.write(tmp_path / "out.mp4", clip, quality=0)

    def error(pictures: list[np.ndarray]) -> float:
        return max(np.abs(a.astype(int) - b).mean() for a, b in zip(pictures, images, strict=True))

    assert error([frame.image for frame in io.read(out)]) < 1.3
    with av.open(str(out)) as container:
        context = container.streams.video[0].codec_context
        assert context.colorspace == (BT601 if matrix == 2 else matrix)
        assert (context.color_range or LIMITED) == (range_ or LIMITED)
        pictures = list(container.decode(video=0))
    right = (context.colorspace, context.color_range or LIMITED)
    for wrong in ((BT709 if right[0] in (5, 6) else BT601, right[1]), (right[0], LIMITED + FULL - right[1])):
        misread = []
        for picture in pictures:
            bare = VideoFrame.from_ndarray(picture.to_ndarray(), format="yuv420p")
            bare.colorspace, bare.color_range = wrong
            misread.append(bare.to_ndarray(format="rgb24"))
        assert error(misread) > 4, "these pictures can't tell"


@pytest.mark.parametrize(
    ("width", "height", "matrix"),
    [(64, 48, BT601), (1024, 576, BT601), (64, 720, BT709), (64, 578, BT709), (1280, 544, BT709)],
)
def test_untagged_colours_are_guessed_as_players_do(
    tmp_path: Path, width: int, height: int, matrix: int
) -> None:
    clip = Clip.from_images([drawn(0, width, height)], 25)
    out = io.write(tmp_path / "out.mp4", clip)
    with av.open(str(out)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (matrix, LIMITED)
    assert io.read(out).color == Color(matrix, 2, 2, LIMITED)


def test_colour_tags_are_kept(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", color=Color(BT709, 9, 16, FULL))
    assert io.read(io.write(tmp_path / "out.mp4", io.read(path))).color == Color(BT709, 9, 16, FULL)


# ---- streaming


def test_writing_holds_few_frames_and_ends_segments_on_the_way(tmp_path: Path) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    class Picture(np.ndarray):
        pass

    def frames() -> Iterator[Frame]:
        nonlocal most, alive
        for index in range(3 * io.writing.SEGMENT):
            if index == io.writing.SEGMENT + 1:
                (folder,) = tmp_path.iterdir()
                assert len(list(folder.glob("*.segment"))) >= 1
            image = drawn(index).view(Picture)
            alive = [*(other for other in alive if other() is not None), weakref.ref(image)]
            most = max(most, len(alive))
            yield Frame(image, index)

    clip = Clip(frames(), 64, 48, Fraction(25), Fraction(1, 25))
    assert len(list(io.read(io.write(tmp_path / "out.mp4", clip)))) == 3 * io.writing.SEGMENT
    assert most <= 3


# ---- bad input


def no_picture(tmp_path: Path) -> Path:
    path = tmp_path / "sound.m4a"
    with av.open(str(make(tmp_path / "clip.mp4", sound="aac"))) as source, av.open(str(path), "w") as target:
        copy = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    return path


def no_frame_decodes(tmp_path: Path) -> Path:
    path = make(tmp_path / "clip.mp4")
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for position, size in packets:
        data[position : position + size] = bytes(size)
    path.write_bytes(data)
    return path


def written(name: str, data: bytes) -> Callable[[Path], Path]:
    def write(tmp_path: Path) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


BAD_INPUT: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "missing.mp4", "no such file"),
    "folder": (lambda folder: folder, "is a folder"),
    "empty": (written("clip.mp4", b""), "not a video"),
    "noise": (written("clip.mp4", np.random.default_rng(0).bytes(50_000)), "not a video"),
    "text": (written("notes.txt", b"hello\n" * 100), "text"),
    "program": (written("clip.py", b"print('hello')\n" * 100), "not a video"),
    "cut short": (
        lambda folder: written("cut.mp4", make(folder / "clip.mp4").read_bytes()[:-700])(folder),
        "cut short",
    ),
    "no picture": (no_picture, "sound but no picture"),
    "no frame decodes": (no_frame_decodes, "no frame of"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_what_is_no_clip_is_said_in_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    prepare, words = BAD_INPUT[case]
    path = prepare(tmp_path)
    with pytest.raises(ClipError, match=words) as caught:
        io.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", ""), "a library has printed something"


@pytest.mark.parametrize(
    ("span", "words"),
    [
        ({"start": 100}, "no frame from 100 s"),
        ({"start": 0.48}, "no frame"),
        ({"start": -1}, "start must be"),
        ({"end": -1.5}, "end must be"),
        ({"start": float("nan")}, "start must be"),
        ({"end": float("inf")}, "end must be"),
        ({"end": 0}, "after start"),
        ({"start": 0.2, "end": 0.2}, "after start"),
        ({"start": 0.201, "end": 0.202}, "no frame"),
    ],
)
def test_a_span_without_frames_is_refused(tmp_path: Path, span: dict[str, float], words: str) -> None:
    path = make(tmp_path / "clip.mp4")
    with pytest.raises(UsageError, match=words):
        io.read(path, **span)


def unread(**fields: Any) -> Clip:
    """A clip whose frames must not be asked for."""

    def frames() -> Iterator[Frame]:
        raise AssertionError("pulled a frame")
        yield

    return Clip(frames(), 64, 48, Fraction(25), Fraction(1, 25), **fields)


def test_outputs_are_checked_before_the_first_frame(tmp_path: Path) -> None:
    source = make(tmp_path / "clip.mp4")
    (tmp_path / "link.mp4").symlink_to(source)
    (tmp_path / "other.mp4").write_bytes(b"precious")
    (tmp_path / "folder.mp4").mkdir()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):  # for root, only what the kernel itself refuses
        closed = Path("/proc")
    before = sorted(tmp_path.iterdir())
    for path, overwrite, error, words in (
        (tmp_path / "out.txt", False, UsageError, r"\.mp4, \.mov, \.mkv"),
        (tmp_path / "out", False, UsageError, r"\.mp4, \.mov, \.mkv"),
        (tmp_path / "nowhere" / "out.mp4", False, ClipError, "no folder .*nowhere; create it"),
        (source / "out.mp4", False, ClipError, "no folder"),
        (tmp_path / "folder.mp4", True, ClipError, "is a folder"),
        (source, False, ClipError, "is the input"),
        (source, True, ClipError, "is the input"),
        (tmp_path / "link.mp4", True, ClipError, "is the input"),
        (tmp_path / "other.mp4", False, ClipError, "exists"),
        (closed / "out.mp4", False, ClipError, "can't write into"),
    ):
        with pytest.raises(error, match=words) as caught:
            io.check_output(path, unread(source=source), overwrite)
        assert "\n" not in str(caught.value)
        with pytest.raises(error, match=words):
            io.write(path, unread(source=source), overwrite=overwrite)
    with pytest.raises(UsageError, match="quality"):
        io.write(tmp_path / "out.mp4", unread(), quality=52)
    io.check_output(tmp_path / "other.mp4", unread(source=source), overwrite=True)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "other.mp4").read_bytes() == b"precious"


def test_names_that_are_too_long_are_said(tmp_path: Path) -> None:
    source = make(tmp_path / "clip.mp4")
    with pytest.raises(ClipError, match="can't be opened"):
        io.read(tmp_path / f"{'long' * 70}.mp4")
    for name in ("long" * 70, "long" * 70 + "/out"):
        with pytest.raises(ClipError, match=r"can't write|no folder"):
            io.check_output(tmp_path / f"{name}.mp4", unread(source=source), False)
    longest = tmp_path / f"{'long' * 62}abc.mp4"  # 255 letters: the work folder's own name must not be longer
    assert len(list(io.read(io.write(longest, io.read(source))))) == 12


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_on_the_way_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def no_link(*_: object) -> None:
        raise PermissionError

    if not links:
        monkeypatch.setattr(os, "link", no_link)
    out = tmp_path / "out.mp4"

    def frames() -> Iterator[Frame]:
        yield Frame(drawn(0), 0)
        out.write_bytes(b"precious")

    clip = Clip(frames(), 64, 48, Fraction(25), Fraction(1, 25))
    with pytest.raises(ClipError, match=r"out\.mp4 exists by now; choose another name"):
        io.write(out, clip)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert out.read_bytes() == b"precious"
    out.unlink()
    assert io.write(out, Clip.from_images([drawn(0)], 25)).stat().st_nlink == 1


def test_sound_that_the_output_cannot_hold_is_said_before_the_first_frame(tmp_path: Path) -> None:
    source = make(tmp_path / "clip.mkv", sound="flac", time_base=Fraction(1, 1000))
    with pytest.raises(ClipError, match=r"\.mov can't hold the sound of .*flac.*\.mkv"):
        io.check_output(tmp_path / "out.mov", unread(source=source), False)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mkv"]
    out = io.write(tmp_path / "out.mkv", io.read(source))
    assert [data for _, data in contents(out).sound] == [data for _, data in contents(source).sound]


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt, ClipError])
@pytest.mark.parametrize("after", [0, 5, io.writing.SEGMENT + 5])
def test_a_failure_on_the_way_leaves_nothing_behind(
    tmp_path: Path, error: type[BaseException], after: int
) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"precious")

    def frames() -> Iterator[Frame]:
        for index in range(after):
            yield Frame(drawn(index), index)
        raise error("stop")

    with pytest.raises(error, match="stop"):
        io.write(out, Clip(frames(), 64, 48, Fraction(25), Fraction(1, 25)), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert out.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "no frame"),
        ([Frame(drawn(0, 32), 0)], "frame 0 is uint8 of shape"),
        ([Frame(drawn(0).astype(np.float32), 0)], "frame 0 is float32"),
        ([Frame(drawn(0), 3), Frame(drawn(1), 3)], "frame 1 has pts 3"),
    ],
)
def test_frames_that_make_no_clip_are_refused(tmp_path: Path, frames: list[Frame], words: str) -> None:
    with pytest.raises(Zs2Error, match=words):
        io.write(tmp_path / "out.mp4", Clip(frames, 64, 48, Fraction(25), Fraction(1, 25)))
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, sys
import numpy as np
from zs2kit import io
from zs2kit.clip import Clip
from zs2kit.errors import ClipError

images = list(np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3), dtype=np.uint8))
clip = lambda: Clip.from_images(images, 25)
size = io.write(sys.argv[1] + "/whole.mp4", clip()).stat().st_size
failed = 0
for limit in [100, 5_000, size // 2, *range(size - 1600, size, 200)]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        io.write(sys.argv[1] + "/out.mp4", clip())
    except ClipError as error:
        assert "no space left" in str(error), error
        failed += 1
print(failed)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_full_disk_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=True
    )
    assert run.stdout == "11\n"  # no room for the last bytes is no room either
    assert [path.name for path in tmp_path.iterdir()] == ["whole.mp4"]


# ---- clips of one's own


def test_a_clip_made_of_pictures(tmp_path: Path) -> None:
    images = [drawn(index) for index in range(10)]
    out = contents(io.write(tmp_path / "out.mp4", Clip.from_images(iter(images), 29.97)))
    assert out.rate == Fraction(2997, 100)
    assert len(out.times) == 10 and out.sound == []
    with pytest.raises(ClipError, match="at least one"):
        Clip.from_images([], 25)


def test_a_name_may_hold_what_ffmpeg_takes_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("http:clip.mp4", "-clip.mp4", "50%03d.mp4", "文.mp4"):
        make(tmp_path / "clip.mp4").rename(tmp_path / name)
        assert len(list(io.read(name))) == 12
        assert len(list(io.read(io.write(f"out {name}", io.read(name))))) == 12


@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
def test_a_name_may_be_no_text(tmp_path: Path) -> None:
    source = make(tmp_path / "clip.mp4", sound="aac").rename(tmp_path / os.fsdecode(b"caf\xe9.mp4"))
    out = io.write(tmp_path / os.fsdecode(b"th\xe9.mp4"), io.read(source))
    assert len(list(io.read(out))) == 12 and contents(out).sound
    source.write_bytes(b"no video")
    with pytest.raises(ClipError, match="not a video"):
        io.read(source)


def test_clips_need_no_torch() -> None:
    subprocess.run(
        [sys.executable, "-c", "import sys, zs2kit.io, decord; assert 'torch' not in sys.modules"], check=True
    )
