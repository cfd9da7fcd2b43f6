"""What a file says besides picture and sound comes along: tags, timecode, chapters, subtitles."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from zoo import SUFFIXES, make

from zs2kit import Filter, io
from zs2kit.io.about import later
from zs2kit.io.quicktime import link_chapters

TAGS = {
    "title": "Dance",
    "artist": "Ada",
    "comment": "take 3: {good}",
    "creation_time": "2024-05-06T07:08:09.000000Z",
    "location": "+12.3456-098.7654/",
}
NTSC = Fraction(30000, 1001)


def film(
    path: Path,
    *,
    timecode: str = "",
    rate: Fraction = Fraction(25),
    tags: dict[str, str] | None = None,
    chapters: bool = False,
    subtitles: tuple[tuple[int, int, str], ...] = (),  # from when, for how long, in ms
) -> Path:
    """Three seconds of video, and what is said of it."""
    text = path.suffix == ".mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate, width=64, height=48)
        if subtitles:
            written = container.add_mux_stream("subrip" if text else "mov_text")
            written.time_base = Fraction(1, 1000)
            written.metadata["language"] = "deu"
        container.metadata.update(tags or {})
        if timecode:
            video.metadata["timecode"] = timecode
        if chapters:
            titles = ("arrival", "dance", "bow")
            container.set_chapters(
                [
                    {"id": n + 1, "start": n * 1000, "end": n * 1000 + 1000, "time_base": Fraction(1, 1000),
                     "metadata": {"title": title}}
                    for n, title in enumerate(titles)
                ]
            )  # fmt: skip
        for index in range(round(3 * rate)):
            picture = VideoFrame.from_ndarray(np.full((48, 64, 3), index, np.uint8), format="rgb24")
            picture.pts, picture.time_base = index, 1 / rate
            container.mux(video.encode(picture))
        container.mux(video.encode())
        for begin, duration, line in subtitles:
            data = line.encode()
            packet = av.Packet(data if text else len(data).to_bytes(2) + data)
            packet.pts = packet.dts = begin
            packet.duration, packet.time_base, packet.stream = duration, Fraction(1, 1000), written
            container.mux(packet)
    if timecode and chapters and path.suffix != ".mkv":
        link_chapters(path, 2)  # as other programs than FFmpeg write both
    return path


class Said(NamedTuple):
    tags: dict[str, str]
    timecode: str | None
    chapters: list[tuple[float, float, str]]
    subtitles: list[tuple[float, float, str]]  # when, for how long, in s
    language: str | None


def said(path: Path) -> Said:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        lines, language = [], None
        if container.streams.subtitles:
            (stream,) = container.streams.subtitles
            language = stream.metadata.get("language")
            for packet in container.demux(stream):
                tick = float(packet.time_base)
                data = bytes(packet) if path.suffix == ".mkv" else bytes(packet)[2:]
                if data:
                    lines.append((packet.pts * tick, packet.duration * tick, data.decode()))
        return Said(
            {key.lower(): text for key, text in container.metadata.items()},
            {key.lower(): text for key, text in video.metadata.items()}.get("timecode"),
            [
                (float(each["start"] * each["time_base"]), float(each["end"] * each["time_base"]),
                 each["metadata"]["title"])
                for each in container.chapters()
            ],
            lines,
            language,
        )  # fmt: skip


def near(found: list[tuple[float, float, str]], *expected: tuple[float, float, str]) -> bool:
    return len(found) == len(expected) and all(
        a[2] == b[2] and abs(a[0] - b[0]) < 0.0021 and abs(a[1] - b[1]) < 0.0021
        for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("after", SUFFIXES)
@pytest.mark.parametrize("before", SUFFIXES)
def test_tags_timecode_and_chapters_come_along(tmp_path: Path, before: str, after: str) -> None:
    source = film(tmp_path / f"film{before}", tags=TAGS, timecode="01:02:03:04", chapters=True)
    found = said(io.write(tmp_path / f"out{after}", io.read(source)))
    assert found.tags.items() >= TAGS.items()
    assert not found.tags.keys() & {"location-eng", "compatible_brands"} or after != ".mkv"
    assert found.timecode == "01:02:03:04"
    assert near(found.chapters, (0, 1, "arrival"), (1, 2, "dance"), (2, 3, "bow"))
    assert found.subtitles == []  # MP4 keeps chapters as a track of text, which are no subtitles


@pytest.mark.parametrize(("codec", "suffix"), [("ffv1", ".mkv"), ("prores", ".mov"), ("h264", ".mp4")])
def test_with_a_cut_they_shift(tmp_path: Path, codec: str, suffix: str) -> None:
    source = film(tmp_path / "film.mov", rate=NTSC, timecode="00:00:59;20", chapters=True)
    cut = io.read(source, start=Fraction(3, 2), end=Fraction(5, 2))
    found = said(io.write(tmp_path / f"out{suffix}", cut, codec=codec))
    begin = 45 * 1001 / 30000
    assert found.timecode == "00:01:01;07"  # 45 frames later, and two numbers are left out at the minute
    assert near(found.chapters, (0, 2 - begin, "dance"), (2 - begin, 1001 / 1000, "bow"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_subtitles_come_along(tmp_path: Path, suffix: str) -> None:
    lines = ((0, 800, "Hello"), (1000, 1500, "how are"), (2600, 300, "you?"))
    source = film(tmp_path / f"film{suffix}", subtitles=lines)
    found = said(io.write(tmp_path / f"out{suffix}", io.read(source)))
    assert near(found.subtitles, *((begin / 1000, duration / 1000, line) for begin, duration, line in lines))
    assert found.language == ("deu" if suffix != ".mov" else None)  # MOV has other codes for languages
    cut = said(io.write(tmp_path / f"cut{suffix}", io.read(source, start=1.2, end=2.4)))
    assert near(cut.subtitles, (0, 1.2, "how are"))


def test_subtitles_that_the_file_cannot_hold_are_said(tmp_path: Path) -> None:
    source = film(tmp_path / "film.mp4", subtitles=((0, 500, "Hello"),))
    with pytest.warns(
        UserWarning, match=r"\.mkv can't hold everything in .*; left out: subtitle track 1 \(mov"
    ):
        out = io.write(tmp_path / "out.mkv", io.read(source))
    assert said(out).subtitles == []


@pytest.mark.parametrize("timecode", ["01:00:00;00", "01:00:00:99", "one o'clock {x}"])
def test_a_timecode_that_is_none_is_said(tmp_path: Path, timecode: str) -> None:
    source = film(tmp_path / "film.mkv", timecode=timecode)  # Matroska holds any text
    with pytest.warns(
        UserWarning, match=r"the timecode .* isn't valid for 25 frames per second, so .*out\.mp4 has"
    ):
        out = io.write(tmp_path / "out.mp4", io.read(source))
    assert said(out).timecode is None


def test_of_what_is_no_file_nothing_is_said(tmp_path: Path) -> None:
    source = film(tmp_path / "film.mp4", tags=TAGS, chapters=True)
    clip = io.read(source)
    clip.frames = list(clip)
    source.unlink()
    assert "title" not in said(io.write(tmp_path / "out.mp4", clip)).tags
    assert said(io.write(tmp_path / "b.mkv", io.read(make(tmp_path / "a.mp4")))).chapters == []


# ---- timecodes


def every(fps: int, dropped: int) -> list[str]:
    """Timecodes of the first 21 minutes, by counting."""
    counted = []
    for minute in range(21):
        for frame in range(dropped if minute % 10 else 0, 60 * fps):
            mark = ";" if dropped else ":"
            counted.append(f"00:{minute:02}:{frame // fps:02}{mark}{frame % fps:02}")
    return counted


@pytest.mark.parametrize(
    ("rate", "fps", "dropped"),
    [(NTSC, 30, 2), (2 * NTSC, 60, 4), (NTSC, 30, 0), (Fraction(25), 25, 0), (Fraction(24000, 1001), 24, 0)],
)
def test_timecodes_count_frames(rate: Fraction, fps: int, dropped: int) -> None:
    codes = every(fps, dropped)
    assert all(later(codes[0], frames, rate) == code for frames, code in enumerate(codes))
    assert all(later(codes[index], 97, rate) == codes[index + 97] for index in range(0, len(codes) - 97, 11))
    mark = ";" if dropped else ":"
    assert later(f"23:59:59{mark}{fps - 1}", 1, rate) == f"00:00:00{mark}00"


@pytest.mark.parametrize(
    ("timecode", "rate"),
    [
        ("01:00:00;00", 25),
        ("01:00:00:25", 25),
        ("01:60:00:00", 25),
        ("1:00", 25),
        ("", 25),
        ("01:00:00:00", 12),
    ],
)
def test_others_are_none(timecode: str, rate: Any) -> None:
    assert later(timecode, 0, Fraction(rate)) is None


@pytest.mark.parametrize(
    "rate, timecode, start, after",
    [
        (Fraction(25), "01:02:03:04", None, "01:02:03:08"),
        (Fraction(25), "01:02:03:04", 0.4, "01:02:03:28"),
        (NTSC, "00:01:00;02", None, "00:01:00;04"),  # the first number of its minute that is not left out
        (Fraction(24), "01:00:00:00", None, "01:00:00:00"),
    ],
)
def test_a_timecode_counts_twice_as_many_frames(tmp_path, rate, timecode, start, after):
    source = film(tmp_path / "film.mp4", timecode=timecode, rate=rate)
    clip = Repeats()(io.read(source, start=start, end=1))
    assert said(io.write(tmp_path / "out.mp4", clip)).timecode == after


@dataclass(eq=False)
class Repeats(Filter):
    """Shows each frame twice."""

    per_frame = 2

    def run(self, passage, carry):
        return passage.pixels.repeat_interleave(2, 0)
