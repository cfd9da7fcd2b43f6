"""Sequences of PNG pictures as clips, in and out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from zoo import BT709, FULL, contents, drawn, make

from zs2kit import Model, cli, edit, io, journal
from zs2kit.clip import Clip, Color, Frame
from zs2kit.errors import ClipError, UsageError
from zs2kit.io.sequence import Pattern


def shot(folder: Path, first: int = 1001, count: int = 10, name: str = "shot.%04d.png") -> Path:
    """Drawn pictures, numbered from ``first`` on; the pattern of their names."""
    folder.mkdir(exist_ok=True)
    for index in range(count):
        cv2.imwrite(str(folder / (name % (first + index))), drawn(index)[..., ::-1])
    return folder / name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def clip_of(images: list[np.ndarray], **fields: Any) -> Clip:
    return replace(Clip.from_images(images, 25), **fields)


# ---- names


@pytest.mark.parametrize(
    ("name", "number", "file"),
    [
        ("shot.%04d.png", 7, "shot.0007.png"),
        ("shot.%04d.png", 12345, "shot.12345.png"),
        ("%d.PNG", 0, "0.PNG"),
        ("a(1)+_%03d_b.png", 12, "a(1)+_012_b.png"),
        ("shot.####.exr", 7, "shot.0007.exr"),
        ("shot.#.tif", 7, "shot.0007.tif"),
        ("shot.##.JPG", 7, "shot.07.JPG"),
        ("shot.1001-1100#.dpx", 1002, "shot.1002.dpx"),
    ],
)
def test_names_and_numbers(name: str, number: int, file: str) -> None:
    pattern = Pattern.of(Path("folder") / name)
    assert pattern is not None
    assert pattern.path(number) == Path("folder") / file
    assert pattern.number(file) == number


@pytest.mark.parametrize(
    "name", ["shot.png", "shot.%04d.psd", "%d.%d.png", "%s.png", "%x4d.png", "%d/a.png", "%4d.png"]
)
def test_other_names_are_no_sequences(name: str) -> None:
    assert Pattern.of(name) is None


def test_files_of_other_names_are_not_of_the_sequence(tmp_path: Path) -> None:
    path = shot(tmp_path, first=1, count=2)
    for other in ("shot.001.png", "shot.00003.png", "shot.+004.png", "shot.0004.png~", "ashot.0004.png"):
        (tmp_path / other).write_bytes(b"")
    assert io.read(path).frame_count == 2


# ---- reading


def test_a_sequence_is_a_clip(tmp_path: Path) -> None:
    clip = io.read(shot(tmp_path), rate=24)
    assert (clip.rate, clip.time_base, clip.frame_count) == (24, Fraction(1, 24), 10)
    for index, frame in enumerate(clip):
        assert (frame.pts, frame.duration) == (index, 1)
        np.testing.assert_array_equal(frame.image, drawn(index))
    assert index == 9
    assert io.read(tmp_path / "shot.%04d.png").rate == 25


def test_start_and_end_count_from_the_first_picture(tmp_path: Path) -> None:
    path = shot(tmp_path)
    cut = io.read(path, rate=24, start=2 / 24, end=Fraction(5, 24))
    frames = list(cut)
    assert [frame.pts for frame in frames] == [2, 3, 4] and cut.frame_count == 3
    np.testing.assert_array_equal(frames[0].image, drawn(2))
    assert [frame.pts for frame in io.read(path, rate=24, start=0.3, end=100)] == [8, 9]


def test_pictures_are_decoded_one_by_one(tmp_path: Path) -> None:
    frames = iter(io.read(shot(tmp_path)))
    next(frames)
    (tmp_path / "shot.1003.png").write_bytes((tmp_path / "shot.1003.png").read_bytes()[:-30])
    next(frames)
    with pytest.raises(ClipError, match=r"shot\.1003\.png is damaged.*; make it again"):
        next(frames)


@pytest.mark.parametrize("kind", ["16 bits", "alpha", "grey", "palette", "16 bits grey"])
def test_all_kinds_of_png(tmp_path: Path, kind: str) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (48, 64, 3)).astype(np.uint16)
    expected = np.round(deep / 257).astype(np.uint8)
    grey = np.repeat(expected[..., :1], 3, axis=-1)
    path = tmp_path / "a1.png"
    held = None
    if kind == "palette":
        from PIL import Image

        Image.fromarray(drawn(0)).convert("P", palette=Image.Palette.ADAPTIVE).save(path)
        expected = np.asarray(Image.open(path).convert("RGB"))
    else:
        stored, expected, held = {
            "16 bits": (deep[..., ::-1], expected, deep),
            "alpha": (
                np.dstack([expected[..., ::-1], grey[..., 0]]),
                expected,
                np.dstack([expected, grey[..., 0]]),
            ),
            "grey": (grey[..., 0], grey, None),
            "16 bits grey": (deep[..., 0], grey, deep[..., :1].repeat(3, axis=2)),
        }[kind]
        cv2.imwrite(str(path), stored)
    (frame,) = io.read(tmp_path / "a%d.png")
    np.testing.assert_array_equal(frame.image, expected)
    if held is None:
        assert frame.stored is None
    else:
        np.testing.assert_array_equal(frame.stored, held)
        assert frame.stored is not None and frame.stored.dtype == held.dtype


def without(*numbers: int) -> Any:
    def spoil(folder: Path) -> None:
        for number in numbers:
            (folder / f"shot.{number}.png").unlink()

    return spoil


def other_size(folder: Path) -> None:
    cv2.imwrite(str(folder / "shot.1005.png"), drawn(0, 32, 48))


def other_kind(folder: Path) -> None:
    cv2.imwrite(str(folder / "shot.1005.png"), drawn(0).astype(np.uint16))


def no_picture(folder: Path) -> None:
    (folder / "shot.1005.png").write_bytes(b"GIF89a" + bytes(100))


def nothing(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "how", "says"),
    [
        (without(1004), {}, r"shot\.%04d\.png has gaps: 1004 of 1001-1010; add what is missing"),
        (without(1004, 1006, 1007), {}, r"shot\.%04d\.png has gaps: 1004, 1006-1007 of 1001-1010"),
        (other_kind, {}, r"shot\.1005\.png has 16 bits, RGB, but shot\.1001\.png has 8 bits, RGB"),
        (without(1004), {"end": 0.12}, ""),
        (without(1004), {"start": 0.16}, ""),
        (other_size, {}, r"shot\.1005\.png is 32x48 pixels, but shot\.1001\.png is 64x48"),
        (no_picture, {}, r"shot\.1005\.png is not a PNG picture"),
        (without(*range(1001, 1011)), {}, r"there is no picture .*shot\.%04d\.png, such as shot\.0001\.png"),
        (nothing, {"rate": 0}, "`rate` must be"),
        (nothing, {"rate": -24}, "`rate` must be"),
        (nothing, {"start": 3}, r"no picture from start to end: at 25 per second it lasts 0\.4 s"),
        (nothing, {"start": 0.1, "end": 0.11}, "no picture from start to end"),
        (nothing, {"end": 0}, "after `start`"),
    ],
)  # fmt: skip
def test_bad_sequences_are_said_in_a_line(tmp_path: Path, spoil: Any, how: dict[str, Any], says: str) -> None:
    path = shot(tmp_path)
    spoil(tmp_path)
    if not says:
        assert len(list(io.read(path, **how))) in (3, 6)
        return
    with pytest.raises((ClipError, UsageError), match=says) as caught:
        io.read(path, **how)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_a_rate_is_a_number(tmp_path: Path, rate: float) -> None:
    with pytest.raises(UsageError, match="`rate` must be"):
        io.read(shot(tmp_path), rate=rate)


def test_a_video_has_its_own_rate(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has its own frame rate"):
        io.read(make(tmp_path / "clip.mp4"), rate=24)


# ---- writing


def test_a_sequence_goes_through_as_it_is(tmp_path: Path) -> None:
    source = io.read(shot(tmp_path / "in"), start=0.12, end=0.24)
    (tmp_path / "out").mkdir()
    io.write(tmp_path / "out" / "new_%05d.png", source)
    assert names(tmp_path / "out") == ["new_01004.png", "new_01005.png", "new_01006.png"]
    for index, frame in enumerate(io.read(tmp_path / "out" / "new_%05d.png"), 3):
        np.testing.assert_array_equal(frame.image, drawn(index))


@pytest.mark.parametrize(("start_number", "first"), [(None, 1), (0, 0), (86400, 86400)])
def test_a_video_becomes_a_sequence(tmp_path: Path, start_number: int | None, first: int) -> None:
    source = make(
        tmp_path / "clip.mp4", frames=20, sound="aac", sar=Fraction(16, 15), color=Color(BT709, 9, 14, FULL)
    )
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "new.%04d.png"
    with pytest.warns(
        UserWarning,
        match=r"new.* is a sequence of pictures, which can't hold the sound and the subtitles of .*clip\.mp4",
    ):
        io.write(path, io.read(source), start_number=start_number)
    assert names(path.parent) == [f"new.{first + index:04}.png" for index in range(20)]
    result = io.read(path)
    assert result.sample_aspect_ratio == Fraction(16, 15)
    assert (result.color.primaries, result.color.trc) == (9, 14)
    for ours, theirs in zip(result, io.read(source), strict=True):
        np.testing.assert_array_equal(ours.image, theirs.image)
    other = cv2.imread(str(path.parent / f"new.{first:04}.png"))  # others read these files as well
    np.testing.assert_array_equal(other[..., ::-1], next(iter(io.read(source))).image)


@pytest.mark.parametrize(("codec", "suffix"), [("ffv1", ".mkv"), ("prores", ".mov"), ("h264", ".mp4")])
def test_a_sequence_becomes_a_video(tmp_path: Path, codec: str, suffix: str) -> None:
    source = shot(tmp_path / "in", count=60)
    out = tmp_path / f"out{suffix}"
    if codec == "h264":
        with pytest.warns(
            UserWarning, match="one colour sample for each 2x2 pixels.* `codec='ffv1'` or `codec='prores'`"
        ):
            io.write(out, io.read(source, rate=Fraction(24000, 1001)), codec=codec)
    else:
        io.write(out, io.read(source, rate=Fraction(24000, 1001)), codec=codec)
    found = contents(out)
    assert found.rate == Fraction(24000, 1001) and found.times[0] == 0
    assert found.times == pytest.approx([index * 1001 / 24000 for index in range(60)], abs=found.tick)


def test_uneven_times_are_said(tmp_path: Path) -> None:
    images = [drawn(index) for index in range(6)]
    frames = [Frame(image, pts) for image, pts in zip(images, (0, 1, 2, 7, 8, 9), strict=True)]
    with pytest.warns(
        UserWarning, match=r"pictures such as .*a\.1\.png have no times of their own.* 0\.16 s off"
    ):
        io.write(tmp_path / "a.%d.png", clip_of(images, frames=frames))
    assert len(names(tmp_path)) == 6


def test_what_cannot_be_written_is_said_before_the_first_frame(tmp_path: Path) -> None:
    source = shot(tmp_path)
    (tmp_path / "there.0003.png").write_bytes(b"precious")
    before = names(tmp_path)

    def unread(**fields: Any) -> Clip:
        def frames() -> Iterator[Frame]:
            raise AssertionError("pulled a frame")
            yield

        return clip_of([drawn(0)], frames=frames(), **{"frame_count": None, **fields})

    for path, clip, how, says in (
        (source, io.read(source), {"overwrite": True}, "is the source itself"),
        (tmp_path / "shot.%d.png", io.read(source), {"overwrite": True}, "is the source itself"),
        (tmp_path / "there.%04d.png", unread(), {}, r"there\.0003\.png exists"),
        (tmp_path / "there.%04d.png", unread(frame_count=3), {}, r"there\.0003\.png exists"),
        (tmp_path / "there.%04d.png", unread(), {"start_number": 3}, r"there\.0003\.png exists"),
        (tmp_path / "nowhere" / "a.%d.png", unread(), {}, "no folder .*nowhere; create it"),
        (tmp_path / "a.png", unread(), {}, r"pictures are numbered; name them a\.%04d\.png"),
        (tmp_path / "a.%d.png", unread(), {"codec": "h264"}, "h264 goes into"),
        (tmp_path / "a.mp4", unread(), {"codec": "png"}, r"png goes into \.%04d\.png"),
        (tmp_path / "a.%d.png", unread(), {"quality": 3}, "`quality` is for h264"),
        (tmp_path / "a.%d.png", unread(), {"start_number": -1}, "from 0 up"),
        (tmp_path / "a.mp4", unread(), {"start_number": 1}, "is for sequences of pictures"),
        (tmp_path / ("long" * 70 + "%d.png"), unread(), {}, "can't write"),
    ):  # fmt: skip
        with pytest.raises((ClipError, UsageError), match=says) as caught:
            io.write(path, clip, **how)
        assert "\n" not in str(caught.value)
    assert names(tmp_path) == before
    # Numbers before and after those that are written are nobody's business.
    io.write(tmp_path / "there.%04d.png", clip_of([drawn(0)] * 2, frame_count=2))
    io.write(tmp_path / "there.%04d.png", clip_of([drawn(0)] * 2), start_number=4)
    assert (tmp_path / "there.0003.png").read_bytes() == b"precious"


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("overwrite", [True, False])
def test_all_pictures_are_written_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool, links: bool
) -> None:
    def no_link(*_: object) -> None:
        raise PermissionError

    if not links:
        monkeypatch.setattr(os, "link", no_link)
    if overwrite:
        shot(tmp_path, first=1, count=3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def frames() -> Iterator[Frame]:
        for index in range(6):
            yield Frame(drawn(index + 1), index, 1)
        (tmp_path / "shot.0004.png").mkdir()  # in the way of the fourth

    clip = clip_of([drawn(0)], frames=frames())
    with pytest.raises(ClipError, match=r"can't write|exists by now"):
        io.write(tmp_path / "shot.%04d.png", clip, overwrite=overwrite)
    (tmp_path / "shot.0004.png").rmdir()
    if links or not overwrite:  # a disk without links can't give back what was replaced
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert len(names(tmp_path)) == len(before)


def test_pictures_are_replaced_when_asked(tmp_path: Path) -> None:
    path = shot(tmp_path, first=1, count=3)
    io.write(path, clip_of([drawn(index + 1) for index in range(4)]), overwrite=True)
    assert len(names(tmp_path)) == 4
    for index, frame in enumerate(io.read(path)):
        np.testing.assert_array_equal(frame.image, drawn(index + 1))
    with pytest.warns(
        UserWarning, match=r"shot\.0003\.png and the pictures after it are from an earlier result"
    ):
        io.write(path, clip_of([drawn(0)] * 2), overwrite=True)
    assert len(names(tmp_path)) == 4


@pytest.mark.parametrize(
    ("clip", "codec", "result"),
    [
        ("a/clip.mp4", None, "a/clip-pose.mp4"),
        ("clip.MOV", "prores", "clip-pose.MOV"),
        ("clip.mp4", "ffv1", "clip-pose.mkv"),
        ("clip.avi", None, "clip-pose.mp4"),
        ("clip.mp4", "png", "clip-pose.%04d.png"),
        ("a/shot.%05d.png", None, "a/shot-pose.%05d.png"),
        ("shot_%04d.png", "png", "shot-pose_%04d.png"),
        ("shot.%04d.png", "h264", "shot-pose.mp4"),
        ("%d.png", None, "pose%d.png"),
    ],
)
def test_results_are_named_after_their_source(clip: str, codec: str | None, result: str) -> None:
    assert io.name_beside(Path(clip), "pose", codec) == Path(result)


# ---- edits


def test_a_sequence_is_edited_into_one(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    source = shot(tmp_path, count=3)
    options = [
        "--model",
        tiny_folders["epsilon"],
        "--steps",
        2,
        "--prompt",
        "a disc",
        "--fps",
        "24",
        source,
        "--plugin",
        "none",
    ]
    result = CliRunner().invoke(cli.main, ["edit", *map(str, options)])
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}/shot-edit.%04d.png\n"), result.output
    assert {f"shot-edit.{number}.png" for number in (1001, 1002, 1003)} < set(names(tmp_path))


@pytest.mark.parametrize(("name", "codec"), [("%d.png", "png"), ("a.mov", "prores"), ("a.mkv", "ffv1")])
def test_an_edit_that_was_ended_goes_on_in_every_codec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folders: dict[str, Path], name: str, codec: str
) -> None:
    source = shot(tmp_path / "in", count=10)
    model = Model.load(tiny_folders["epsilon"])

    def written(folder: str, **how: Any) -> dict[str, bytes]:
        (tmp_path / folder).mkdir(exist_ok=True)
        edited = edit(io.read(source), "a disc", plugins=(), model=model, num_inference_steps=1, chunk_size=4)
        io.write(tmp_path / folder / name, edited, codec=codec, **how)
        return {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}

    def stop(done: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(journal, "SEGMENT", 4)
    monkeypatch.setattr(journal, "SHARE", 1.0)  # it saves after every chunk
    whole = written("whole")
    with pytest.raises(KeyboardInterrupt):
        written("ended", progress=stop)
    made: list[int] = []
    assert written("ended", resume=True, progress=made.append) == whole
    assert made[0] >= 4, "it began anew"


@pytest.mark.parametrize(("first", "named"), [("shot.0001.png", r"shot\.%04d\.png"), ("7.png", r"%d\.png")])
def test_a_folder_of_pictures_suggests_their_name(tmp_path: Path, first: str, named: str) -> None:
    (tmp_path / first).touch()
    with pytest.raises(ClipError, match=rf"is a folder; for its pictures, give .*{named}"):
        io.read(tmp_path)


def test_a_sequence_that_is_not_read_says_which_are(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"shot\.%04d\.psd is not a sequence .* of these kinds: \.png, \.tif"):
        io.read(tmp_path / "shot.%04d.psd")


# ---- kinds that are read rightly, or refused in one line


def test_floats_of_a_tiff_keep_their_numbers(tmp_path: Path) -> None:
    numbers = (np.random.default_rng(0).random((48, 64, 3)) * 3).astype(np.float32)
    cv2.imwrite(str(tmp_path / "a.0001.tif"), numbers[..., ::-1])
    with pytest.warns(UserWarning, match="scene-linear"):
        clip = io.read(tmp_path / "a.####.tif")
    (frame,) = clip
    np.testing.assert_array_equal(frame.stored, numbers)
    out = io.write(tmp_path / "out.####.exr", clip)
    with pytest.warns(UserWarning, match="scene-linear"):
        (back,) = io.read(out)
    np.testing.assert_array_equal(back.stored, numbers)


@pytest.mark.parametrize("transfer", [1, 3])
def test_log_encoded_dpx_is_refused(tmp_path: Path, transfer: int) -> None:
    path = io.write(tmp_path / "a.####.dpx", Clip.from_images([drawn(0)], 25)).parent / "a.0001.dpx"
    data = bytearray(path.read_bytes())
    data[801] = transfer
    path.write_bytes(data)
    with pytest.raises(ClipError, match=r"a\.0001\.dpx is log-encoded; convert it to OpenEXR"):
        io.read(tmp_path / "a.####.dpx")
    with pytest.raises(ClipError, match="is log-encoded"):
        io.read(path.rename(tmp_path / "one.dpx"))


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_is_refused(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(drawn(0)).convert("CMYK").save(tmp_path / f"a.0001{suffix}")
    with pytest.raises(ClipError, match=r"a\.0001.* is CMYK; convert it to RGB"):
        io.read(tmp_path / f"a.####{suffix}")
    with pytest.raises(ClipError, match="is CMYK"):
        io.read((tmp_path / f"a.0001{suffix}").rename(tmp_path / "one.png"))
