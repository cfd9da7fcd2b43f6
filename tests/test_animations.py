"""GIF and WebP as results, and what only Pillow reads."""

from __future__ import annotations

import warnings
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from zoo import VFR, animated, drawn, make, tiled

from zs2kit import cli, io
from zs2kit.clip import Clip, Frame
from zs2kit.encoding import Encoding
from zs2kit.errors import ClipError, UsageError
from zs2kit.verify import verify

WEB = (".gif", ".webp")

# What every GIF and WebP loses has a test of its own.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{lost}") for lost in ("has 256 colours", "one colour sample")
]


def durations(path: Path) -> list[int]:
    """Milliseconds, as Pillow sees them."""
    with Image.open(path) as picture:
        found = []
        for index in range(getattr(picture, "n_frames", 1)):
            picture.seek(index)
            picture.load()
            found.append(int(picture.info["duration"]))
        return found


def plays(path: Path) -> int:
    with Image.open(path) as picture:
        loop = picture.info.get("loop")
        return (1 if loop is None else loop and loop + 1) if picture.format == "GIF" else loop


@pytest.mark.parametrize("suffix", WEB)
def test_times_and_pictures_are_kept(tmp_path: Path, suffix: str) -> None:
    source = make(tmp_path / "a.mp4", pts=VFR)
    out = io.write(tmp_path / f"out{suffix}", io.read(source))
    assert [check for check in verify(source, out) if not check.ok] == []
    *_, last = io.read(source)
    assert durations(out)[-1] == pytest.approx(last.duration * 1000 / 12800, abs=6)
    for ours, theirs in zip(io.read(out), io.read(source), strict=True):
        assert np.abs(ours.image.astype(int) - theirs.image).mean() < 5


@pytest.mark.parametrize("suffix", WEB)
@pytest.mark.parametrize(("name", "count"), [("a.gif", 3), ("a.webp", 2), ("a.png", 5), ("a.gif", 0)])
def test_it_plays_as_often_as_its_source(tmp_path: Path, suffix: str, name: str, count: int) -> None:
    again = {"loop": count - 1 if name == "a.gif" and count else count}
    source = animated(tmp_path / name, **again)
    out = io.write(tmp_path / f"out{suffix}", io.read(source))
    assert plays(out) == count
    assert durations(out) == [40, 80] * 6


def test_a_gif_that_plays_once(tmp_path: Path) -> None:
    once = tmp_path / "once.gif"
    animated(once)
    data = once.read_bytes()
    at = data.index(b"\x21\xff\x0bNETSCAPE2.0")
    once.write_bytes(data[:at] + data[at + 19 :])
    for suffix in WEB:
        assert plays(io.write(tmp_path / f"out{suffix}", io.read(once))) == 1
    film = make(tmp_path / "a.mp4", frames=3)
    assert plays(io.write(tmp_path / "film.gif", io.read(film))) == 0


@pytest.mark.parametrize("suffix", WEB)
def test_alpha_is_kept(tmp_path: Path, suffix: str) -> None:
    source = animated(tmp_path / "a.webp", alpha=128, lossless=True)
    alphas = [frame.stored[..., 3] for frame in io.read(source)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a pixel of .* is transparent or opaque")
        out = io.write(tmp_path / f"out{suffix}", io.read(source))
    again = [frame.stored[..., 3] for frame in io.read(out)] if suffix == ".webp" else None
    assert again is None or all(np.array_equal(a, b) for a, b in zip(again, alphas, strict=True))
    holes = np.dstack([drawn(0), np.full((48, 64), 255, np.uint8)])
    holes[10:20, 10:20, 3] = 0
    clip = replace(
        Clip.from_images([drawn(0)], 25),
        frames=[Frame(drawn(0), 0, 1, holes)],
        encoding=Encoding(alpha=True),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a pixel of .* is transparent or opaque")
        (frame,) = io.read(io.write(tmp_path / f"holes{suffix}", clip))
    assert frame.stored is not None
    np.testing.assert_array_equal(frame.stored[..., 3], holes[..., 3])


def test_what_they_lose_is_said(tmp_path: Path) -> None:
    fast = make(
        tmp_path / "fast.mp4",
        frames=30,
        rate=Fraction(60),
        time_base=Fraction(1, 600),
        sound="aac",
        sar=Fraction(4, 3),
    )
    with pytest.warns(UserWarning) as heard:
        io.write(tmp_path / "out.gif", io.read(fast))
    said = " ".join(str(each.message) for each in heard)
    for wanted in (
        "out.gif is an animation, which can't hold the sound",
        "out.gif has 256 colours; a .webp file has all of them",
        "a .gif file shows at most 50 frames per second, so 5 of 30 are left out",
        "fast.mp4 are not square, but browsers show",
    ):
        assert wanted in said
    assert durations(tmp_path / "out.gif") == [20] * 25
    clear = animated(tmp_path / "a.webp", alpha=128)
    with pytest.warns(UserWarning, match=r"a pixel of .*b\.gif is transparent or opaque"):
        io.write(tmp_path / "b.gif", io.read(clear))
    full = make(tmp_path / "full.mkv", pix_fmt="yuv444p", time_base=Fraction(1, 1000))
    with pytest.warns(UserWarning, match=r"out\.webp has one colour sample .*full\.mkv has more"):
        io.write(tmp_path / "out.webp", io.read(full))


@pytest.mark.parametrize("suffix", WEB)
def test_an_edit_becomes_one(tmp_path: Path, tiny_folders: dict[str, Path], suffix: str) -> None:
    source = make(tmp_path / "a.mp4", frames=4)
    out = tmp_path / f"result{suffix}"
    words = ["edit", source, "-o", out, "--model", tiny_folders["epsilon"], "--plugin", "none", "--steps", 1]
    result = CliRunner().invoke(cli.main, [*map(str, words), "--prompt", "x", "--quiet"])
    assert result.exit_code == 0, result.output
    assert durations(out) == [40] * 4
    with pytest.raises(UsageError, match=r"`quality` is for h264, but .* has only one quality"):
        io.Output(out, quality=3)


def test_the_same_frames_give_the_same_file(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mp4")
    for suffix in WEB:
        files = {
            io.write(tmp_path / f"out{suffix}", io.read(source), overwrite=True).read_bytes()
            for _ in range(3)
        }
        assert len(files) == 1


# ---- what only Pillow reads


@pytest.mark.parametrize("name", ["a.webp", "a.avif", "a.gif", "a.png"])
def test_animations_are_read_whole(tmp_path: Path, name: str) -> None:
    """And any part of them; an animated AVIF starts with a still of its own."""
    clip = io.read(animated(tmp_path / name))
    frames = list(clip)
    assert [float((frame.pts - frames[0].pts) * clip.time_base) for frame in frames] == pytest.approx(
        [0, 0.04, 0.12, 0.16, 0.24, 0.28, 0.36, 0.4, 0.48, 0.52, 0.6, 0.64]
    )
    assert frames[-1].duration * clip.time_base == Fraction(8, 100)
    part = io.read(tmp_path / name, start=0.12, end=0.41, skip=1)
    assert [frame.pts for frame in part] == [frame.pts for frame in frames[3:8]]
    np.testing.assert_array_equal(clip.frame(7).image, frames[7].image)
    with pytest.raises(UsageError, match="has no frame"):
        io.read(tmp_path / name, start=5)


def test_photos_of_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (frame,) = io.read(tiled(tmp_path / "a.avif", codec="libsvtav1"))
    assert np.abs(frame.image.astype(int) - drawn(0, 256, 256)[:248, :248]).mean() < 2
    phone = tiled(tmp_path / "a.heic", codec="libx265")
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)  # as if it weren't installed
    with pytest.raises(ClipError, match=r"a\.heic consists of tiles; convert it to PNG, or install pillow-h"):
        io.read(phone)


def test_a_damaged_animation(tmp_path: Path) -> None:
    whole = animated(tmp_path / "a.webp", lossless=True).read_bytes()
    cut = tmp_path / "cut.webp"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ClipError, match=r"cut\.webp"):
        list(io.read(cut))


# ---- h264 of odd sizes


def test_an_odd_size_is_said_and_can_be_made_even(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mkv", width=63, height=47, codec="ffv1", time_base=Fraction(1, 1000))
    with pytest.warns(UserWarning, match=r"odd size, 63x47, .* 4:4:4, .*; `even_size=True` adds"):
        io.write(tmp_path / "odd.mp4", io.read(source))
    out = io.write(tmp_path / "even.mkv", io.read(source), even_size=True, quality=0)
    with av.open(str(out)) as container:
        video = container.streams.video[0]
        assert (video.codec_context.pix_fmt, video.width, video.height) == ("yuv420p", 64, 48)
    for ours, theirs in zip(io.read(out), io.read(source), strict=True):
        assert np.abs(ours.image[:47, :63].astype(int) - theirs.image).mean() < 2
        np.testing.assert_array_equal(ours.image[47], ours.image[46])
    even = make(tmp_path / "b.mp4")
    io.write(tmp_path / "same.mp4", io.read(even), even_size=True)
    assert io.read(tmp_path / "same.mp4").width == 64
    with pytest.raises(UsageError, match="`even_size` is for h264, but prores stores any size"):
        io.Output(tmp_path / "a.mov", codec="prores", even_size=True)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.avif"])
def test_an_animation_that_becomes_transparent_later(tmp_path: Path, name: str) -> None:
    pictures = [np.dstack([drawn(index), np.full((48, 64), 255, np.uint8)]) for index in range(3)]
    pictures[2][:24, :, 3] = 0
    if name == "a.gif":  # which Pillow writes without it
        made = [Frame(each[..., :3].copy(), index, 1, each) for index, each in enumerate(pictures)]
        frames = replace(Clip.from_images([drawn(0)], 25), frames=made, encoding=Encoding(alpha=True))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "a pixel of .* is transparent or opaque")
            io.write(tmp_path / name, frames)
    else:
        first, *others = map(Image.fromarray, pictures)
        first.save(tmp_path / name, save_all=True, append_images=others, duration=40, quality=95)
    clip = io.read(tmp_path / name)
    assert clip.encoding.alpha
    alphas = [frame.stored[..., 3] for frame in clip if frame.stored is not None]
    assert len(alphas) == 3 and alphas[0].min() == 255
    assert alphas[2][:20].max() < 10 and alphas[2][28:].min() > 245
