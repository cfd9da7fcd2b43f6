"""Timelines: which frames each cut needs, what the new timeline shows, and what can't be is said."""

from __future__ import annotations

import json
import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import opentimelineio as otio
import pytest
from shell import run
from test_about import film

from zs2kit import io, timelines
from zs2kit.errors import ClipError, UsageError, receiving
from zs2kit.testing import drawn_clip

TINY = ["--plugin", "none", "--steps", "1", "--prompt", "a disc"]


def span(start: float, length: float, rate: float = 24) -> Any:
    time = otio.opentime.RationalTime
    return otio.opentime.TimeRange(time(start, rate), time(length, rate))


def cut(media: Path | str, start: float, length: float, *effects: Any, known: Any = None) -> Any:
    name = Path(media).stem
    return otio.schema.Clip(
        name, otio.schema.ExternalReference(str(media), known), span(start, length), effects=list(effects)
    )


def marker(frame: int, text: str, comment: str = "") -> Any:
    return otio.schema.Marker(text, span(frame, 1), comment=comment)


def saved(path: Path, *children: Any) -> Path:
    timeline = otio.schema.Timeline("cut")
    track = otio.schema.Track(kind="Video", children=list(children))
    timeline.tracks.append(track)
    otio.adapters.write_to_file(timeline, str(path))
    return path


def frames_of(each: timelines.Cut) -> tuple[int, int]:
    """The numbers of the first and the last frame that a cut needs."""
    clip = each.read()
    times = [round(frame.pts * clip.time_base * clip.rate) for frame in clip]
    return times[0], times[-1]


@pytest.fixture
def media(tmp_path: Path) -> Path:
    return io.write(tmp_path / "disc.mp4", drawn_clip(48, rate=Fraction(24)))


def dissolve(before: int, after: int) -> Any:
    time = otio.opentime.RationalTime
    return otio.schema.Transition("mix", "SMPTE_Dissolve", time(before, 24), time(after, 24))


def test_each_cut_needs_its_range_its_transitions_and_its_handles(media: Path, tmp_path: Path) -> None:
    path = saved(
        tmp_path / "cut.otio",
        cut("disc.mp4", 4, 8),
        dissolve(2, 3),
        cut("disc.mp4", 20, 10),
        otio.schema.Gap(source_range=span(0, 5)),
        cut("disc.mp4", 44, 4),
    )
    assert [frames_of(each) for each in timelines.read(path).cuts] == [(4, 14), (18, 29), (44, 47)]
    wide = timelines.read(path, handles=6).cuts
    assert [frames_of(each) for each in wide] == [(0, 20), (12, 35), (38, 47)]
    assert [each.early * 24 for each in wide] == [4, 8, 6]


@pytest.mark.parametrize(("speed", "needed"), [(2, (10, 21)), (0.5, (10, 15)), (-1, (4, 15)), (0, (10, 10))])
def test_a_speed_needs_other_frames(
    media: Path, tmp_path: Path, speed: float, needed: tuple[int, int]
) -> None:
    warp = otio.schema.LinearTimeWarp(time_scalar=speed) if speed else otio.schema.FreezeFrame()
    path = saved(tmp_path / "cut.otio", cut("disc.mp4", 10, 6, warp))
    assert frames_of(timelines.read(path).cuts[0]) == needed


@pytest.mark.parametrize(
    ("start", "length", "rate", "frames"),
    [(119, 1, 60, (47, 47)), (0, 1, 120, (0, 0)), (-9, 10, 1000, (0, 0))],
)
def test_less_than_a_frame_still_needs_one(
    media: Path, tmp_path: Path, start: int, length: int, rate: int, frames: tuple[int, int]
) -> None:
    short = otio.schema.Clip("short", otio.schema.ExternalReference("disc.mp4"), span(start, length, rate))
    (found,) = timelines.read(saved(tmp_path / "cut.otio", short)).cuts
    assert frames_of(found) == frames


def test_frames_are_counted_as_the_timeline_says_or_by_timecode(tmp_path: Path) -> None:
    coded = film(tmp_path / "coded.mov", rate=Fraction(24), timecode="01:00:00:00")
    hour = 24 * 3600
    path = saved(
        tmp_path / "cut.otio",
        cut(coded, hour + 5, 4),  # by the file's timecode
        cut(coded, 5, 4),  # or from its first frame, if that is what fits
        cut(coded, 105, 4, known=span(100, 72)),
        cut(coded.as_uri(), 5, 4),
    )
    assert [frames_of(each) for each in timelines.read(path).cuts] == [(5, 8)] * 4


def test_markers_are_prompts(media: Path, tmp_path: Path) -> None:
    clip = cut("disc.mp4", 4, 12)
    notes = [marker(9, "x", "Prompt: a red disc"), marker(6, "prompt: a blue disc"), marker(7, "nice")]
    clip.markers.extend([*notes, marker(40, "prompt: too late")])
    (found,) = timelines.read(saved(tmp_path / "cut.otio", clip), handles=2).cuts
    assert found.prompts == {0: "a blue disc", 7: "a red disc"}


def test_a_result_takes_the_place_of_its_cut(media: Path, tmp_path: Path) -> None:
    warp = otio.schema.LinearTimeWarp(time_scalar=2)
    clip = cut("disc.mp4", 10, 6, warp)
    clip.markers.append(marker(12, "here"))
    path = saved(tmp_path / "cut.otio", clip, dissolve(2, 3), cut("disc.mp4", 20, 10))
    timeline = timelines.read(path, handles=3)
    for each in timeline.cuts:
        each.replace(io.write(tmp_path / f"result {each.number}.mp4", each.read()))
    timeline.write(str(tmp_path / "new.otio"))
    track = otio.adapters.read_from_file(str(tmp_path / "new.otio")).video_tracks()[0]
    first, mix, second = track
    assert first.source_range == span(3, 6) and second.source_range == span(5, 10)
    assert first.markers[0].marked_range == span(5, 1)
    assert first.effects[0].time_scalar == 2
    assert (mix.in_offset.value, mix.out_offset.value) == (2, 3)
    assert first.media_reference.available_range == span(0, 24)
    assert first.media_reference.target_url == (tmp_path / "result 1.mp4").as_uri()
    assert first.metadata["zs2kit"]["source"] == "disc.mp4"
    again = timelines.read(tmp_path / "new.otio").cuts  # the results have all the frames that are needed
    assert [each.media.name for each in again] == ["result 1.mp4", "result 2.mp4"]


def test_a_result_with_timecode_is_counted_by_it(tmp_path: Path) -> None:
    coded = film(tmp_path / "coded.mov", rate=Fraction(24), timecode="01:00:00:00")
    hour = 24 * 3600
    timeline = timelines.read(saved(tmp_path / "cut.otio", cut(coded, hour + 5, 4)), handles=2)
    timeline.cuts[0].replace(io.write(tmp_path / "result.mov", timeline.cuts[0].read()))
    clip = timeline.timeline.find_clips()[0]
    assert clip.media_reference.available_range == span(hour + 3, 8)
    assert clip.source_range == span(hour + 5, 4)  # as it was


def test_pictures_are_media_too(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    io.write(tmp_path / "in" / "shot.%04d.png", drawn_clip(12, rate=Fraction(24)), start_number=1001)
    reference = otio.schema.ImageSequenceReference(
        "in/", "shot.", ".png", start_frame=1001, frame_step=1, rate=24, frame_zero_padding=4,
        available_range=span(1001, 12),
    )  # fmt: skip
    path = saved(tmp_path / "cut.otio", otio.schema.Clip("shot", reference, span(1004, 5)))
    timeline = timelines.read(path)
    (found,) = timeline.cuts
    assert len(list(found.read())) == 5 and found.start == Fraction(3, 24)
    (tmp_path / "out").mkdir()
    found.replace(io.write(tmp_path / "out" / "shot.%04d.png", found.read()))
    new = found.clip.media_reference
    assert (new.start_frame, new.name_prefix, new.frame_zero_padding) == (1004, "shot.", 4)
    assert found.clip.source_range == span(0, 5)


EDL = """TITLE: cut
FCM: {fcm}

001  disc     V     C        {0} {1} 00:00:00:00 {2}
* FROM CLIP NAME:  disc.mov
* LOC: {0} RED     prompt: a blue disc
"""


@pytest.mark.parametrize(
    ("rate", "timecode", "start", "end", "length", "needed"),
    [
        (Fraction(24), "01:00:00:00", "01:00:01:00", "01:00:02:00", "00:00:01:00", (24, 47)),
        (Fraction(25), "10:00:00:00", "10:00:00:20", "10:00:01:00", "00:00:00:05", (20, 24)),
        (Fraction(30000, 1001), "00:00:59;20", "00:01:00:02", "00:01:00:12", "00:00:00:10", (10, 19)),
        (Fraction(60000, 1001), "00:00:59;40", "00:01:00:04", "00:01:00:14", "00:00:00:10", (20, 29)),
    ],
)
def test_an_edl_of_any_rate(
    tmp_path: Path,
    rate: Fraction,
    timecode: str,
    start: str,
    end: str,
    length: str,
    needed: tuple[int, int],
) -> None:
    film(tmp_path / "disc.mov", rate=rate, timecode=timecode)
    path, drops = tmp_path / "cut.edl", ";" in timecode
    path.write_text(EDL.format(start, end, length, fcm="DROP FRAME" if drops else "NON-DROP FRAME"))
    timeline = timelines.read(path, rate=round(float(rate), 2))
    (found,) = timeline.cuts
    assert frames_of(found) == needed and found.prompts == {0: "a blue disc"}
    result = io.write(tmp_path / "result.mov", found.read())
    found.replace(result)
    timeline.write(tmp_path / "new.edl")
    mark = ";" if drops else ":"
    begins, ends, lasts = (f"{code[:8]}{mark}{code[9:]}" for code in (start, end, length))
    assert (tmp_path / "new.edl").read_text() == (
        f"TITLE: cut\nFCM: {'' if drops else 'NON-'}DROP FRAME\n\n"
        f"001  result   V     C        {begins} {ends} 00:00:00{mark}00 {lasts}\n"
        f"* FROM CLIP NAME:  disc.mov\n* FROM CLIP: {result}\n"
        f"* LOC: {start} RED     prompt: a blue disc\n"
    )
    (again,) = timelines.read(tmp_path / "new.edl", rate=rate).cuts
    assert len(list(again.read())) == needed[1] - needed[0] + 1 and again.prompts == found.prompts


def test_an_edl_holds_speeds_stills_gaps_and_transitions(media: Path, tmp_path: Path) -> None:
    path = saved(
        tmp_path / "cut.otio",
        cut("disc.mp4", 10, 6, otio.schema.LinearTimeWarp(time_scalar=2)),
        otio.schema.Gap(source_range=span(0, 5)),
        cut("disc.mp4", 4, 8),
        dissolve(2, 3),
        cut("disc.mp4", 20, 10),
        cut("disc.mp4", 30, 7, otio.schema.FreezeFrame()),
    )
    timeline = timelines.read(path)
    timeline.write(tmp_path / "cut.edl")
    text = (tmp_path / "cut.edl").read_text()
    assert re.findall(r"^(?:\d|M2|\* FREEZE).*", text, re.M) == [
        "001  disc     V     C        00:00:00:10 00:00:00:22 00:00:00:00 00:00:00:06",
        "M2   disc     048.0  00:00:00:10",
        "002  disc     V     C        00:00:00:04 00:00:00:10 00:00:00:11 00:00:00:17",
        "003  disc     V     C        00:00:00:10 00:00:00:10 00:00:00:17 00:00:00:17",
        "003  disc     V     D    005 00:00:00:18 00:00:01:06 00:00:00:17 00:00:01:05",
        "004  disc     V     C        00:00:01:06 00:00:01:07 00:00:01:05 00:00:01:12",
        "M2   disc     000.0  00:00:01:06",
        "* FREEZE FRAME",
    ]
    found = [frames_of(each) for each in timelines.read(tmp_path / "cut.edl", rate=24).cuts]
    assert found == [frames_of(each) for each in timeline.cuts]


def test_an_edl_holds_a_clip_without_a_file(media: Path, tmp_path: Path) -> None:
    bars = otio.schema.Clip("bars", otio.schema.GeneratorReference(generator_kind="SMPTEBars"), span(0, 4))
    with pytest.warns(UserWarning, match="left as they are"):
        timeline = timelines.read(saved(tmp_path / "cut.otio", cut("disc.mp4", 0, 4), bars))
    timeline.write(tmp_path / "new.edl")
    assert "BARS     V     C" in (tmp_path / "new.edl").read_text()


def test_a_file_s_name_may_have_any_sign(media: Path, tmp_path: Path) -> None:
    named = media.rename(tmp_path / "take #2; 50%25?.mp4")
    timeline = timelines.read(saved(tmp_path / "cut.otio", cut(named.as_uri(), 10, 6)))
    timeline.write(tmp_path / "cut.edl")
    assert f"FROM CLIP: {named}\n" in (tmp_path / "cut.edl").read_text()
    (found,) = timelines.read(tmp_path / "cut.edl", rate=24).cuts
    assert found.media == named and frames_of(found) == frames_of(timeline.cuts[0])


def test_what_an_edl_cannot_hold_is_refused(media: Path, tmp_path: Path) -> None:
    wiped = otio.schema.Transition("odd", "Custom", *[otio.opentime.RationalTime(1, 24)] * 2)
    endless = otio.schema.Clip("bars", otio.schema.GeneratorReference(generator_kind="SMPTEBars"))
    for children, why in (
        ([cut("disc.mp4", 0, 4), wiped], "a transition called Custom"),
        ([otio.schema.Stack()], "a Stack in a track"),
        ([endless], "Cannot compute available range.*"),
    ):
        path = saved(tmp_path / "cut.otio", *children, cut("disc.mp4", 4, 4))
        with receiving(lambda notice: None):
            timeline = timelines.read(path)
        with pytest.raises(
            UsageError, match=rf"new\.edl: an EDL can't hold this timeline \({why}\); name it"
        ):
            timeline.check(tmp_path / "new.edl")


def test_what_cannot_be_read_is_said(media: Path, tmp_path: Path) -> None:
    def error(path: Path, **how: Any) -> str:
        with pytest.raises((ClipError, UsageError)) as caught:
            timelines.read(path, **how)
        return str(caught.value)

    missing = cut("gone.mp4", 0, 4), cut("elsewhere/lost.mov", 0, 4), cut("disc.mp4", 0, 4)
    unnamed = otio.schema.Clip("mystery", otio.schema.MissingReference(), span(0, 4))
    empty = otio.schema.Clip("riddle", otio.schema.ExternalReference(""), span(0, 4))
    path = saved(tmp_path / "cut.otio", *missing, unnamed, empty)
    assert error(path) == (
        f"{path} needs media that is missing: gone.mp4, elsewhere/lost.mov, mystery (no file is named), "
        f"riddle (no file is named); put it there, or into {tmp_path}"
    )
    path = saved(tmp_path / "cut.otio", cut("disc.mp4", 60, 4))
    assert f"disc is 2.50 to 2.67 s of {media}, which lasts 2.00 s" in error(path)
    path = saved(tmp_path / "cut.otio", otio.schema.Clip("all", otio.schema.ExternalReference("disc.mp4")))
    assert error(path) == f"all doesn't say which part of {media} it shows"
    path.write_text("{}")
    assert "cut.otio holds no timeline; export a single timeline" in error(path)
    path.write_text("no timeline")
    assert "cut.otio is not a timeline, or is damaged" in error(path)
    assert "no such file" in error(tmp_path / "none.otio")
    edl = tmp_path / "cut.edl"
    edl.write_text("TITLE: x\n001 what\n")
    assert "doesn't say its frame rate; give it: `rate`" in error(edl)
    assert "cut.edl is not a timeline, or is damaged" in error(edl, rate=25)


def test_what_is_left_or_guessed_is_said(media: Path, tmp_path: Path) -> None:
    off = cut("disc.mp4", 0, 4)
    off.enabled = False
    bars = otio.schema.Clip("bars", otio.schema.GeneratorReference(generator_kind="SMPTEBars"), span(0, 9))
    moved = cut("/nosuch/disc.mp4", 40, 20)
    with pytest.warns(UserWarning) as said:
        timelines.read(saved(tmp_path / "cut.otio", off, bars, moved))
    texts = [str(each.message) for each in said]
    assert texts == [
        f"/nosuch/disc.mp4 isn't there, so {media} is used",
        f"{media} doesn't have all frames of disc; those that it has are edited",
        f"clips of {tmp_path / 'cut.otio'} that are left as they are: disc (disabled), bars (SMPTEBars)",
    ]


def test_a_missing_extra_says_what_to_install(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentimelineio", None)
    result = run("edit", media.with_name("cut.otio"), *TINY)
    assert result.stderr == "zs2kit: error: timelines need OpenTimelineIO; pip install 'zs2kit[timeline]'\n"
    assert result.exit_code == 2


# ---- the command line


@pytest.fixture
def timeline(tmp_path: Path) -> Path:
    io.write(tmp_path / "disc.mp4", drawn_clip(8, rate=Fraction(24)))
    first = cut("disc.mp4", 2, 2)
    first.markers.append(marker(2, "prompt: a blue disc"))
    return saved(tmp_path / "cut.otio", first, cut("disc.mp4", 5, 2))


def test_the_command_edits_each_cut(timeline: Path, tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    table, reports = tmp_path / "prompts.csv", tmp_path / "reports"
    table.write_text("clip,prompt\n2,a red disc\n")
    reports.mkdir()
    words = [timeline, "--model", tiny_folders["epsilon"], *TINY, "--handles", "1", "--prompts", table]
    planned = run("plan", *words, "--json")
    assert [each["frames"] for each in json.loads(planned.stdout)] == [4, 4]
    assert not (tmp_path / "cut-edit").exists()
    result = run("edit", *words, "--report", reports)
    assert result.exit_code == 0, result.output
    made = [tmp_path / "cut-edit" / f"00{number}-disc-edit.mov" for number in (1, 2)]
    assert result.stdout.splitlines() == [*map(str, made), str(tmp_path / "cut-edit.otio")]
    assert [each.media for each in timelines.read(tmp_path / "cut-edit.otio").cuts] == made
    assert [len(list(io.read(each))) for each in made] == [4, 4]
    said = [json.loads((reports / f"{each.stem}.json").read_text())["settings"] for each in made]
    assert [each["prompt"] for each in said] == ["a blue disc", "a red disc"]
    assert "cut-edit.otio exists" in run("edit", *words).stderr
    again = run("edit", *words, "--resume")  # nothing is left to do but the timeline
    assert again.stdout.splitlines() == [str(tmp_path / "cut-edit.otio")]


def test_a_cut_that_fails_shows_what_it_showed(
    timeline: Path, tiny_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = io.writing.write

    def full(output: io.Output, *args: object, **extra: object) -> Path:
        if "001" in output.path.name:
            raise ClipError("no space left")
        return write(output, *args, **extra)

    monkeypatch.setattr(io.writing, "write", full)
    result = run("edit", timeline, "--model", tiny_folders["epsilon"], *TINY)
    assert result.exit_code == 1
    assert f"error: disc ({tmp_path / 'disc.mp4'}): no space left" in result.stderr
    shown = [each.media.name for each in timelines.read(tmp_path / "cut-edit.otio").cuts]
    assert shown == ["disc.mp4", "002-disc-edit.mov"]


def test_results_become_a_timeline(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    clips = [io.write(tmp_path / f"{name}.mp4", drawn_clip(2)) for name in ("one", "two")]
    words = ["--model", tiny_folders["epsilon"], *TINY]
    alone = run("edit", clips[0], *words, "-o", tmp_path / "alone.otio")
    assert alone.stdout.splitlines() == [str(tmp_path / "alone.mp4"), str(tmp_path / "alone.otio")]
    assert run("edit", *clips, *words, "-o", tmp_path / "both.otio").exit_code == 0
    cuts = timelines.read(tmp_path / "both.otio").cuts
    assert [each.media for each in cuts] == [
        tmp_path / "both" / f"{name}-edit.mp4" for name in ("one", "two")
    ]
    assert [each.prompts for each in cuts] == [{0: "a disc"}] * 2
    rest = ["--model", tiny_folders["epsilon"], "--steps", "1", "--size", "32x32"]
    made = run("generate", "a disc", "--frames", "3", *rest, "-o", tmp_path / "text.otio")
    assert made.stdout.splitlines() == [str(tmp_path / "text.mp4"), str(tmp_path / "text.otio")]
    (only,) = timelines.read(tmp_path / "text.otio").cuts
    assert only.media == tmp_path / "text.mp4" and only.prompts == {0: "a disc"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["cut.otio", "disc.mp4"], "is a timeline, which is edited by itself"),
        (["cut.otio", "--start", "1"], "--start and --end are for clips, not for timelines"),
        (["cut.otio", "-o", "new.mp4"], "is not the name of a timeline"),
        (["cut.otio", "-o", "cut.otio"], "cut.otio is one of the clips"),
        (["cut.otio", "--fps", "24"], "says its frame rate itself; leave out --fps"),
        (["disc.mp4", "--handles", "3"], "--handles is for timelines"),
        (["cut.otio", "--prompts", "other.csv"], "has prompts for clips that aren't there: 9"),
        (["cut.otio", "--prompts", "cut.otio"], "its first line must be: clip,prompt"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    timeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.csv").write_text("clip,prompt\n9,a red disc\n")
    before = sorted(tmp_path.rglob("*"))
    result = run("edit", *words, "--model", "nosuch", *TINY)
    assert result.exit_code in (1, 2)
    assert says in result.stderr
    assert sorted(tmp_path.rglob("*")) == before
