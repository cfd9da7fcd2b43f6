"""The codecs that `write` offers beside H.264, and what each of them keeps."""

from __future__ import annotations

import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from zoo import BT601, BT709, FULL, LIMITED, VFR, contents, drawn, make

from zs2kit import io, journal
from zs2kit.clip import Clip, Color, Frame
from zs2kit.errors import ClipError, UsageError, receiving

PAIRS = [("ffv1", ".mkv"), ("prores", ".mov"), ("prores", ".mkv")]


def clip_of(images: list[np.ndarray], **fields: Any) -> Clip:
    return replace(Clip.from_images(images, 25), **fields)


def noise(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def psnr(clip: Clip, images: list[np.ndarray]) -> float:
    errors = [np.square(a.image - b.astype(float)).mean() for a, b in zip(clip, images, strict=True)]
    return float(10 * np.log10(255**2 / max(1e-3, np.mean(errors))))


@pytest.mark.parametrize(("width", "height"), [(64, 48), (63, 47), (1, 1)])
@pytest.mark.parametrize("matrix", [2, BT709, 9])
def test_ffv1_gives_back_every_bit(tmp_path: Path, matrix: int, width: int, height: int) -> None:
    images = noise(journal.SEGMENT + 3, width, height)
    clip = clip_of(images, color=Color(matrix, 2, 2, LIMITED))
    result = io.read(io.write(tmp_path / "out.mkv", clip, codec="ffv1"))
    for ours, theirs in zip(result, images, strict=True):
        np.testing.assert_array_equal(ours.image, theirs)


@pytest.mark.parametrize(
    ("stored", "columns", "tag"),
    [("yuv420p", 2, "apch"), ("yuv422p10le", 2, "apch"), ("yuv444p", 1, "ap4h"), ("rgb24", 1, "ap4h")],
)
def test_prores_has_enough_samples_of_colour(tmp_path: Path, stored: str, columns: int, tag: str) -> None:
    """Colours change with every column or, where that is all that the source can hold, every second one."""
    red = np.where(np.arange(64) // columns % 2, 90, 150).astype(np.uint8) * np.ones((48, 1), np.uint8)
    image = np.stack([red, np.full_like(red, 120), 240 - red], -1)
    out = io.write(tmp_path / "out.mov", clip_of([image] * 3, pix_fmt=stored), codec="prores")
    with av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.codec_tag == tag
    assert psnr(io.read(out), [image] * 3) > 45
    halved = io.write(tmp_path / "half.mov", clip_of([image] * 3, pix_fmt="yuv420p"), codec="prores")
    assert (psnr(io.read(halved), [image] * 3) < 30) == (columns == 1), "these pictures can't tell"


@pytest.mark.parametrize(("codec", "suffix"), PAIRS)
@pytest.mark.parametrize(
    "color",
    [
        Color(BT709, 1, 1, LIMITED),
        Color(BT709, 9, 16, FULL),
        Color(BT601, 6, 6, LIMITED),
        Color(5, 5, 6, FULL),
        Color(7, 7, 7, LIMITED),
        Color(9, 9, 18, LIMITED),
    ],
)
def test_colours_and_their_tags_are_kept(tmp_path: Path, codec: str, suffix: str, color: Color) -> None:
    images = [drawn(index) for index in range(3)]
    out = io.write(tmp_path / f"out{suffix}", clip_of(images, color=color), codec=codec)
    with receiving(lambda notice: None):  # that HDR is tone-mapped
        found = io.read(out).color
        written = [frame.image if frame.stored is None else frame.stored / 257 for frame in io.read(out)]
    error = np.mean([np.square(a - b.astype(float)) for a, b in zip(written, images, strict=True)])
    assert 10 * np.log10(255**2 / max(1e-3, error)) > 60
    assert (found.primaries, found.trc) == (color.primaries, color.trc)
    with av.open(str(out)) as container:
        context = container.streams.video[0].codec_context
        if codec == "ffv1":
            assert (context.colorspace, context.color_range) == (0, FULL)  # RGB
        else:
            expected = {5: BT601, 7: BT601}.get(color.colorspace, color.colorspace)
            assert (context.colorspace, context.color_range) == (expected, LIMITED)


@pytest.mark.filterwarnings("ignore:.*odd size")
@pytest.mark.parametrize(("codec", "suffix"), [*PAIRS, ("h264", ".mkv")])
@pytest.mark.parametrize("aspect", [Fraction(16, 15), Fraction(10, 11), Fraction(1, 3), Fraction(1001, 1000)])
def test_the_shape_of_pixels_is_kept(tmp_path: Path, codec: str, suffix: str, aspect: Fraction) -> None:
    for width, height in ((64, 48), (63, 47), (720, 576)):
        images = [drawn(index, width, height) for index in range(2)]
        clip = clip_of(images, sample_aspect_ratio=aspect)
        out = io.write(tmp_path / f"out{suffix}", clip, codec=codec, overwrite=True)
        with av.open(str(out), options={"err_detect": "crccheck+explode"}) as container:
            assert container.streams.video[0].sample_aspect_ratio == aspect
            assert len(list(container.decode(video=0))) == 2


@pytest.mark.parametrize(("codec", "suffix"), PAIRS)
def test_times_and_sound_are_kept(tmp_path: Path, codec: str, suffix: str) -> None:
    source = make(tmp_path / "clip.mp4", pts=VFR, sound="aac")
    out = io.write(tmp_path / f"out{suffix}", io.read(source), codec=codec)
    before, after = contents(source), contents(out)
    assert after.times == pytest.approx(before.times, abs=1.001 * max(before.tick, after.tick))
    *_, last = io.read(source)
    assert after.end == pytest.approx((last.pts + last.duration) * before.tick, abs=1.001 * after.tick)
    assert [data for _, data in after.sound] == [data for _, data in before.sound]
    with av.open(str(out)) as container:  # editors jump to any frame, and show it at once
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert all(packet.is_keyframe and packet.dts == packet.pts for packet in packets)


@pytest.mark.parametrize(("codec", "suffix"), [*PAIRS, ("h264", ".mov"), ("h264", ".mkv")])
def test_the_same_frames_give_the_same_file(tmp_path: Path, codec: str, suffix: str) -> None:
    images = [drawn(index) for index in range(60)]
    path = tmp_path / f"out{suffix}"
    files = {
        io.write(path, Clip.from_images(images, 25), codec=codec, overwrite=True).read_bytes()
        for _ in range(5)
    }
    assert len(files) == 1


def test_wrong_pairs_are_said_before_the_first_frame(tmp_path: Path) -> None:
    def unread() -> Any:
        raise AssertionError("pulled a frame")
        yield Frame(drawn(0), 0)

    for name, how, says in (
        ("out.mp4", {"codec": "ffv1"}, r"ffv1 goes into \.mkv; change the name's ending, or the codec"),
        ("out.mov", {"codec": "ffv1"}, r"ffv1 goes into \.mkv; change the name's ending, or the codec"),
        (
            "out.mp4",
            {"codec": "prores"},
            r"prores goes into \.mov or \.mkv; change the name's ending, or the codec",
        ),
        (
            "out.mp4",
            {"codec": "vp9"},
            "`codec` must be one of h264, ffv1, prores, png, tiff, dpx, exr, jpeg, gif, webp, or none, not",
        ),
        ("out.mkv", {"codec": "ffv1", "quality": 0}, "`quality` is for h264, but ffv1 has only one quality"),
        (
            "out.mov",
            {"codec": "prores", "quality": 18},
            "`quality` is for h264, but prores has only one quality",
        ),
    ):
        with pytest.raises(UsageError, match=says) as caught:
            io.write(tmp_path / name, clip_of([drawn(0)], frames=unread()), **how)
        assert "\n" not in str(caught.value)
        with pytest.raises(UsageError, match=says):
            io.Output(tmp_path / name, **how)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*odd size")
def test_fewer_samples_of_colour_than_the_source_has_are_said(tmp_path: Path) -> None:
    """And only then: not of 4:2:0, of grey, of what is no file, nor where H.264 keeps all of them."""
    full = make(tmp_path / "full.mkv", pix_fmt="yuv444p", time_base=Fraction(1, 1000))
    with pytest.warns(
        UserWarning, match=r"out\.mp4 has one colour sample .* but .*full\.mkv has more; .* `codec='ffv1'`"
    ):
        io.write(tmp_path / "out.mp4", io.read(full))
    io.write(tmp_path / "out.mkv", io.read(full), codec="ffv1")
    odd = make(tmp_path / "odd.mp4", width=63, pix_fmt="yuv444p")
    grey = make(tmp_path / "grey.mp4", pix_fmt="gray")
    half = make(tmp_path / "half.mp4")
    for source in (odd, grey, half):
        io.write(tmp_path / "out.mp4", io.read(source), overwrite=True)


# ---- sound


def samples(path: Path) -> tuple[np.ndarray, int]:
    """The sound of a file, one channel, from time 0 on, and its rate."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        rate, found = stream.rate, np.zeros(0, np.float32)
        for frame in container.decode(stream):
            first = round(float(frame.pts * frame.time_base) * rate)
            part = frame.to_ndarray()
            part = part[0] if frame.format.is_planar else part.reshape(-1, len(frame.layout.channels))[:, 0]
            part = part.astype(np.float32) / (1 if part.dtype.kind == "f" else np.iinfo(part.dtype).max)
            found = np.pad(found, (0, max(0, first + len(part) - len(found))))
            found[max(0, first) : first + len(part)] = part[max(0, -first) :]
        return found, rate


@pytest.mark.parametrize(("start", "end"), [(None, None), (Fraction(1, 2), Fraction(3, 2))])
def test_sound_is_encoded_as_aac_where_that_is_asked_for(tmp_path: Path, start, end) -> None:
    source = make(tmp_path / "clip.mkv", frames=50, sound="flac", time_base=Fraction(1, 1000))
    clip = io.read(source, start=start, end=end)
    out = io.write(tmp_path / "out.mp4", clip, sound="aac")  # which .mp4 can't do with flac
    with av.open(str(out)) as container:
        assert [each.codec_context.name for each in container.streams.audio] == ["aac"]
    (was, rate), (now, other) = samples(source), samples(out)
    assert rate == other
    begins = next(iter(clip)).pts * clip.time_base  # with its first picture
    first = 0 if start is None else round(float(begins) * rate)
    stop = len(was) if end is None else round(float(clip.origin + end) * rate)
    was = was[first:stop]
    assert abs(len(now) - len(was)) <= 2048
    length = min(len(was), len(now)) - 2000
    lags = [np.dot(was[500 : 500 + length - 500], now[500 + lag : lag + length]) for lag in range(-400, 400)]
    assert abs(int(np.argmax(lags)) - 400) <= 2 or abs(lags[400] - max(lags)) < 1e-2 * max(lags)  # in step
    assert np.corrcoef(was[500:length], now[500:length])[0, 1] > 0.9


def test_sound_is_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    source = make(tmp_path / "clip.mkv", sound="flac", time_base=Fraction(1, 1000))
    output = io.Output(tmp_path / "out.mov", sound="none")
    assert output.copied(io.read(source)) == []
    with av.open(str(io.write(output, io.read(source)))) as container:
        assert len(container.streams.audio) == 0


def test_a_disk_that_is_too_small_is_said_before_the_first_frame(tmp_path: Path, monkeypatch) -> None:
    clip = clip_of([drawn(0)] * 3)
    needed = 2 * (io.Output(tmp_path / "out.mp4").bytes(clip, 3) + 3 * 64 * 48 * 3)
    for free, enough in ((needed - 1, False), (needed, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: SimpleNamespace(free=free))
        if enough:
            io.write(tmp_path / "out.mp4", Clip.from_images([drawn(0)] * 3, 25))
            continue
        with pytest.raises(
            ClipError, match=r"out\.mp4 needs about .* its disk has only .* MB free; free some"
        ):
            io.write(tmp_path / "out.mp4", Clip.from_images([drawn(0)] * 3, 25))
        assert list(tmp_path.iterdir()) == []
