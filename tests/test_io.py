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
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.frame import VideoFrame
from zoo import BT601, BT709, FULL, LIMITED, NTSC, SUFFIXES, VFR, assert_drawn, contents, drawn, make

from zs2kit import io, journal
from zs2kit.clip import Clip, Color, Frame
from zs2kit.errors import ClipError, UsageError, Zs2Error
from zs2kit.io import decoding, reading


@pytest.mark.filterwarnings("ignore:.*(is damaged|ends at|left out. sound)")
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


SPANS: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "open-gop.mp4": {"options": {"crf": "8", "x264-params": "open-gop=1"}},
    "variable.mkv": {"pts": [pts // 12 for pts in VFR], "time_base": Fraction(1, 1000)},
    "ntsc.mp4": NTSC,
}


@pytest.mark.parametrize("small", [reading.SMALL, 0], ids=["short", "long"])
@pytest.mark.parametrize("name", SPANS)
def test_start_and_end_keep_the_frames_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, small: int
) -> None:
    monkeypatch.setattr(reading, "SMALL", small)
    settings = SPANS[name] | {"options": {"g": "10", **SPANS[name].get("options", {})}}
    if "pts" not in settings:
        settings["frames"] = 80
    path = make(tmp_path / name, **settings)
    whole = io.read(path)
    frames = list(whole)
    moments = [frame.pts * whole.time_base - whole.origin for frame in frames]
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


@pytest.mark.parametrize("small", [reading.SMALL, 0], ids=["short", "long"])
@pytest.mark.parametrize("name", ["clip.ts", "clip.h264"])
def test_a_start_in_a_container_without_an_index_loses_no_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, small: int
) -> None:
    monkeypatch.setattr(reading, "SMALL", small)
    tick = Fraction(1, 90_000) if name.endswith("ts") else Fraction(1, 25)
    path = make(tmp_path / name, frames=200, time_base=tick, options={"crf": "8", "g": "150"})
    whole = io.read(path)
    frames = list(whole)
    assert len(frames) == 200
    start = frames[100].pts * whole.time_base - whole.origin
    kept = list(io.read(path, start=start))
    assert [frame.pts for frame in kept] == [frame.pts for frame in frames[100:]]
    np.testing.assert_array_equal(kept[0].image, frames[100].image)


def test_reading_is_lazy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SMALL", 0)
    converted = []
    rgb = decoding.rgb
    monkeypatch.setattr(decoding, "rgb", lambda *args: converted.append(1) or rgb(*args))
    clip = io.read(make(tmp_path / "clip.mp4", frames=60))
    assert len(converted) == 0
    frames = iter(clip)
    for count in range(1, 6):
        next(frames)
        assert len(converted) == count


# ---- law 6: the clip is the clip

WRITTEN: dict[str, dict[str, Any]] = {
    "plain.mp4": {"frames": 2 * journal.SEGMENT + 5, "sound": "aac"},
    "ntsc.mov": {"frames": 60, "sound": "aac"} | NTSC,
    "variable.mp4": {"pts": np.cumsum(np.random.default_rng(1).integers(200, 2500, 130)).tolist()},
    "variable.mkv": {"pts": [pts // 12 for pts in VFR], "time_base": Fraction(1, 1000), "sound": "libopus"},
    "one.mp4": {"frames": 1, "sound": "aac"},
    "two.mp4": {"frames": 2},
    "just over a segment.mp4": {"frames": journal.SEGMENT + 1},
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


@pytest.mark.filterwarnings("ignore:.*odd size")
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
    begin = max(0, min([*before.times, *(time for time, _ in before.sound)]))
    assert after.times == pytest.approx([time - begin for time in before.times], abs=tick)
    assert after.end == pytest.approx(before.end - begin, abs=tick)
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
    count = 2 * journal.SEGMENT + 7
    pts = np.cumsum(np.random.default_rng(2).integers(1, 3000, count)).tolist()
    source = io.read(make(tmp_path / "clip.mp4", pts=pts, sound="aac"))
    out = io.write(tmp_path / f"out{suffix}", source)
    with av.open(str(out)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    decoded = [packet.dts for packet in packets if packet.dts is not None]
    assert all(a < b for a, b in pairwise(decoded))
    assert all(packet.dts is None or packet.dts <= packet.pts for packet in packets)
    assert any(a.pts > b.pts for a, b in pairwise(packets)), "without B-frames"
    starts = sorted(packet.pts for packet in packets)[:: journal.SEGMENT]
    assert set(starts) <= {packet.pts for packet in packets if packet.is_keyframe}
    # The second segment on its own, decoded afresh, gives the frames that it gives in its place.
    whole = {frame.pts: frame.image for frame in io.read(out)}
    decoder = av.CodecContext.create("h264", "r")
    with av.open(str(out)) as container:
        decoder.extradata = container.streams.video[0].codec_context.extradata
        alone = [p for p in container.demux(video=0) if p.pts is not None and starts[1] <= p.pts < starts[2]]
        pictures = [picture for packet in [*alone, None] for picture in decoder.decode(packet)]
    assert len(pictures) == journal.SEGMENT
    for picture in pictures:
        image = decoding.rgb(picture, source.encoding, source.color, (64, 48))
        np.testing.assert_array_equal(image, whole[picture.pts])


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
    path = make(tmp_path / "clip.mp4", color=Color(BT709, 9, 14, FULL))
    assert io.read(io.write(tmp_path / "out.mp4", io.read(path))).color == Color(BT709, 9, 14, FULL)


# ---- streaming


def test_writing_holds_few_frames_and_ends_segments_on_the_way(tmp_path: Path) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    class Picture(np.ndarray):
        pass

    def frames() -> Iterator[Frame]:
        nonlocal most, alive
        for index in range(3 * journal.SEGMENT):
            if index == journal.SEGMENT + 1:
                (folder,) = tmp_path.iterdir()
                assert len(list(folder.glob("*.segment"))) >= 1
            image = drawn(index).view(Picture)
            alive = [*(other for other in alive if other() is not None), weakref.ref(image)]
            most = max(most, len(alive))
            yield Frame(image, index)

    clip = Clip(frames(), 64, 48, Fraction(25), Fraction(1, 25))
    assert len(list(io.read(io.write(tmp_path / "out.mp4", clip)))) == 3 * journal.SEGMENT
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
        ({"start": 100}, "no frames from 100 s"),
        ({"start": 0.48}, "no frame"),
        ({"start": -1}, "`start` must be"),
        ({"end": -1.5}, "`end` must be"),
        ({"start": float("nan")}, "`start` must be"),
        ({"end": float("inf")}, "`end` must be"),
        ({"end": 0}, "after `start`"),
        ({"start": 0.2, "end": 0.2}, "after `start`"),
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
        (source, False, ClipError, "is the source itself"),
        (source, True, ClipError, "is the source itself"),
        (tmp_path / "link.mp4", True, ClipError, "is the source itself"),
        (tmp_path / "other.mp4", False, ClipError, "exists"),
        (closed / "out.mp4", False, ClipError, "can't write into"),
    ):
        with pytest.raises(error, match=words) as caught:
            io.Output(path, overwrite=overwrite).check(unread(source=source))
        assert "\n" not in str(caught.value)
        with pytest.raises(error, match=words):
            io.write(path, unread(source=source), overwrite=overwrite)
    with pytest.raises(UsageError, match="quality"):
        io.write(tmp_path / "out.mp4", unread(), quality=52)
    io.Output(tmp_path / "other.mp4", overwrite=True).check(unread(source=source))
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "other.mp4").read_bytes() == b"precious"


def test_names_that_are_too_long_are_said(tmp_path: Path) -> None:
    source = make(tmp_path / "clip.mp4")
    with pytest.raises(ClipError, match="can't be opened"):
        io.read(tmp_path / f"{'long' * 70}.mp4")
    for name in ("long" * 70, "long" * 70 + "/out"):
        with pytest.raises(ClipError, match=r"can't write|no folder"):
            io.Output(tmp_path / f"{name}.mp4").check(unread(source=source))
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
        io.Output(tmp_path / "out.mov").check(unread(source=source))
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mkv"]
    out = io.write(tmp_path / "out.mkv", io.read(source))
    assert [data for _, data in contents(out).sound] == [data for _, data in contents(source).sound]


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt, ClipError])
@pytest.mark.parametrize("after", [0, 5, journal.SEGMENT + 5])
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
        [sys.executable, "-B", "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=True
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
        [sys.executable, "-c", "import sys, zs2kit.io; assert 'torch' not in sys.modules"], check=True
    )
