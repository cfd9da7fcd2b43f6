"""Pictures of more than 8 bits, with alpha, scene-linear or in HDR: what stays keeps its numbers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from zoo import LIMITED, drawn, make

from zs2kit import Model, edit, io, journal
from zs2kit.clip import Clip, Color, Frame
from zs2kit.encoding import Encoding
from zs2kit.errors import ClipError, UsageError
from zs2kit.verify import verify
from zs2kit_plugins.mask import Mask

KINDS: dict[
    str, tuple[Encoding, float]
] = {  # by the name of a sequence; the largest difference after a round
    "shot.%04d.png": (Encoding(16), 0),
    "shot.%03d.png": (Encoding(16, alpha=True), 0),
    "shot.%02d.png": (Encoding(8, alpha=True), 0),
    "shot.#.tif": (Encoding(16), 0),
    "shot.##.tiff": (Encoding(16, alpha=True), 0),
    "shot.###.tif": (Encoding(8), 0),
    "shot.####.dpx": (Encoding(16), 0),
    "shot.#.dpx": (Encoding(10), 0),
    "shot.##.dpx": (Encoding(12), 0),
    "shot.####.exr": (Encoding(32, floating=True, light="linear"), 0),
    "shot.##.exr": (Encoding(32, floating=True, alpha=True, light="linear"), 0),
    "shot.#.exr": (Encoding(16, floating=True, alpha=True, light="linear"), 0),
    "shot.%d.jpg": (Encoding(8), 12),
    "a.mkv": (Encoding(16, alpha=True), 0),
    "b.mkv": (Encoding(10, light="pq"), 0),
}


def numbers(encoding: Encoding, count: int = 3, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Noise, in all levels of an encoding."""
    dice = np.random.default_rng(0)
    shape = (height, width, encoding.channels)
    if encoding.floating:
        found = [dice.normal(0.4, 2, shape).astype(np.float32) for _ in range(count)]
        return (
            [each.astype(np.float16).astype(np.float32) for each in found] if encoding.bits == 16 else found
        )
    levels = dice.integers(0, 1 << encoding.bits, (count, *shape))
    largest = np.iinfo(encoding.dtype).max
    return list(np.rint(levels * (largest / ((1 << encoding.bits) - 1))).astype(encoding.dtype))


def clip_of(encoding: Encoding, stored: list[np.ndarray], **facts: Any) -> Clip:
    plain = encoding.is_plain
    frames = [
        Frame(encoding.image(each), index, 1, None if plain else each) for index, each in enumerate(stored)
    ]
    clip = Clip.from_images([frame.image for frame in frames], 25).with_frames(frames)
    clip.encoding = encoding
    for name, value in facts.items():
        setattr(clip, name, value)
    return clip


def quiet_read(path: Path, **how: Any) -> Clip:
    return heard(lambda: io.read(path, **how))[0]


def heard(work: Any) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = work()
    return found, [str(each.message) for each in said]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_goes_out_and_comes_back_to_the_bit(tmp_path: Path, name: str) -> None:
    encoding, loss = KINDS[name]
    stored = [drawn(index) for index in range(3)] if loss else numbers(encoding)
    color = Color(9, 9, 16, LIMITED) if encoding.is_hdr else Color()
    codec = "ffv1" if name.endswith(".mkv") else None
    io.write(tmp_path / name, clip_of(encoding, stored, color=color), codec=codec)
    clip = quiet_read(tmp_path / name)
    assert clip.encoding == encoding
    for frame, source in zip(clip, stored, strict=True):
        found = frame.image if encoding.is_plain else frame.stored
        assert found is not None and found.dtype == source.dtype
        assert np.abs(found.astype(float) - source).max() <= loss
        assert np.abs(frame.image.astype(int) - encoding.image(source)).max() <= loss
    again = io.write(
        tmp_path / f"again{Path(name).suffix}" if codec else tmp_path / f"again_{name}", clip, codec=codec
    )
    if not codec and not loss:
        for one, two in zip(sorted(tmp_path.glob("shot*")), sorted(tmp_path.glob("again_*")), strict=True):
            assert one.read_bytes() == two.read_bytes()
    assert all(check.ok for check in heard(lambda: verify(tmp_path / name, again))[0])


@pytest.mark.parametrize("name", [each for each, (encoding, loss) in KINDS.items() if not loss])
def test_a_mask_keeps_numbers_to_the_bit_and_alpha_everywhere(tiny: Model, tmp_path: Path, name: str) -> None:
    encoding = KINDS[name][0]
    stored = numbers(encoding, width=40, height=40)
    color = Color(9, 9, 16, LIMITED) if encoding.is_hdr else Color()
    codec = "ffv1" if name.endswith(".mkv") else None
    source = io.write(tmp_path / name, clip_of(encoding, stored, color=color), codec=codec)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    plugin = Mask(clip=str(tmp_path / "mask.png"), grow=0.0, feather=0.0)
    made = edit(
        quiet_read(source), "a disc", plugins=[plugin], model=tiny, num_inference_steps=1, flow_momentum=0.0
    )
    out = io.write(tmp_path / f"out-{name}", made, codec=codec)
    inside = mask > 0
    for frame, before in zip(quiet_read(out), stored, strict=True):
        after = frame.image if encoding.is_plain else frame.stored
        assert after is not None
        np.testing.assert_array_equal(after[~inside], before[~inside])
        if encoding.alpha:
            np.testing.assert_array_equal(after[..., 3], before[..., 3])
        assert (after[inside][:, :3] != before[inside][:, :3]).mean() > 0.9


def test_what_is_drawn_has_the_depth_of_the_source(tiny: Model, tmp_path: Path) -> None:
    stored = numbers(Encoding(16), 1)
    source = io.write(tmp_path / "a.%d.png", clip_of(Encoding(16), stored))
    made = edit(quiet_read(source), "x", plugins=(), model=tiny, num_inference_steps=1)
    (frame,) = made
    assert frame.stored is not None and len(np.unique(frame.stored)) > 300
    np.testing.assert_array_equal(frame.image, np.rint(frame.stored / 257).astype(np.uint8))


def test_an_interrupted_edit_of_floats_goes_on(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SEGMENT", 4)
    monkeypatch.setattr(journal, "SHARE", 1.0)
    encoding = Encoding(32, floating=True, alpha=True, light="linear")
    source = io.write(tmp_path / "in.%d.exr", clip_of(encoding, numbers(encoding, 7, 16, 16)))

    def written(folder: str, **how: Any) -> dict[str, bytes]:
        (tmp_path / folder).mkdir(exist_ok=True)
        clip = quiet_read(source)
        made = edit(clip, "a disc", plugins=(), model=tiny, num_inference_steps=1, chunk_size=2)
        io.write(tmp_path / folder / "out.%d.exr", made, **how)
        return {path.name: path.read_bytes() for path in (tmp_path / folder).glob("*.exr")}

    def stop(done: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    whole = written("whole")
    with pytest.raises(KeyboardInterrupt):
        written("ended", progress=stop)
    assert written("ended", resume=True) == whole and len(whole) == 7


# ---- HDR


@pytest.mark.parametrize(("light", "trc"), [("pq", 16), ("hlg", 18)])
def test_tone_mapping_comes_back(light: Any, trc: int) -> None:
    """From all colours of BT.709; PQ's and HLG's codes of white and of mid-grey are those of BT.2408."""
    encoding = Encoding(10, light=light)
    levels = np.linspace(0, 1, 17, dtype=np.float32)
    shown = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(17, -1, 3)
    back = encoding.shown(encoding.stored(shown))
    assert np.abs(back - shown).max() < 0.02  # dark saturated ones, which have few levels
    assert np.abs(back - shown).mean() < 0.0005
    reference = {"pq": 0.58, "hlg": 0.75}[light]  # 203 cd/m2
    white = encoding.shown(np.full((1, 1, 3), round(reference * 65535), np.uint16))
    assert white.min() == pytest.approx(white.max(), abs=1e-3) and 0.88 < white.min() < 0.93
    peak = encoding.shown(np.full((1, 1, 3), round({"pq": 0.7518, "hlg": 1.0}[light] * 65535), np.uint16))
    assert peak.min() == pytest.approx(1, abs=1e-3)


def test_pq_is_that_of_the_standard() -> None:
    from zs2kit.encoding import _nits, _pq

    table = {
        0.0: 0.0,
        0.1: 0.0623,
        1.0: 0.1499,
        100.0: 0.5081,
        203.0: 0.5807,
        1000.0: 0.7518,
        1e4: 1.0,
    }
    for nits, code in table.items():
        assert float(_pq(np.array(nits))) == pytest.approx(code, abs=6e-5)
        assert float(_nits(_pq(np.array(nits)))) == pytest.approx(nits, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("trc", [16, 18])
@pytest.mark.parametrize(
    ("name", "codec", "tags"), [("o.mp4", None, 1), ("o.mov", "prores", 0), ("o.mkv", "ffv1", 0)]
)
def test_hdr_comes_out_as_hdr_or_as_sdr_that_is_said(
    tmp_path: Path, trc: int, name: str, codec: str | None, tags: int
) -> None:
    source = make(
        tmp_path / "hdr.mov",
        frames=3,
        codec="libx265",
        pix_fmt="yuv420p10le",
        options={"x265-params": "log-level=none"},
        color=Color(9, 9, trc, LIMITED),
        matrix=9,
    )
    clip, said = heard(lambda: io.read(source))
    assert any("is HDR" in each and "BT.2390" in each for each in said)
    out, said = heard(lambda: io.write(tmp_path / name, clip, codec=codec))
    assert any("is SDR" in each for each in said) == bool(tags)
    with av.open(str(out)) as container:
        context = container.streams.video[0].codec_context
        expected = (1, 1) if tags else (9, trc)
        assert (context.color_primaries, context.color_trc) == expected
    result = quiet_read(out)
    for ours, theirs in zip(result, clip, strict=True):  # players show what the model saw
        assert np.abs(ours.image.astype(int) - theirs.image).mean() < 2
    assert [check for check in heard(lambda: verify(source, out))[0] if not check.ok] == []


def test_hdr_that_is_not_edited_keeps_its_numbers(tmp_path: Path) -> None:
    """4:2:0 of 10 bits, within BT.2020's limited range, to the bit."""
    dice = np.random.default_rng(0)
    planes = [dice.integers(300, 600, (48, 64)), *(dice.integers(480, 544, (24, 32)) for _ in range(2))]
    picture = av.VideoFrame(64, 48, "yuv420p10le")
    for plane, values in zip(picture.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
        rows[:, : plane.width] = values
        plane.update(rows.tobytes())
    color = Color(9, 9, 16, LIMITED)
    picture.pts, picture.colorspace, picture.color_range = 0, 9, LIMITED
    picture.color_trc, picture.color_primaries = 16, 9
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        video = container.add_stream("ffv1", 25, width=64, height=48)
        video.pix_fmt = "yuv420p10le"
        context = video.codec_context
        context.colorspace, context.color_range, context.color_trc, context.color_primaries = (
            9,
            LIMITED,
            16,
            9,
        )
        container.mux(video.encode(picture))
        container.mux(video.encode())
    (frame,) = quiet_read(tmp_path / "a.mkv")
    clip = quiet_read(tmp_path / "a.mkv")
    back = io.writing._picture(
        frame, clip, Encoding(10, light="pq"), color, "yuv420p10le", (clip.width, clip.height)
    )
    for plane, values in zip(back.planes, planes, strict=True):
        found = np.frombuffer(plane, np.uint16).reshape(plane.height, -1)[:, : plane.width]
        np.testing.assert_array_equal(found, values)


# ---- what is lost, and what is wrong


def test_what_a_codec_can_not_store_is_said(tmp_path: Path) -> None:
    linear = Encoding(32, floating=True, alpha=True, light="linear")
    _, said = heard(lambda: io.write(tmp_path / "a.mkv", clip_of(linear, numbers(linear)), codec="ffv1"))
    assert any("is stored as a display shows it" in each for each in said)
    _, said = heard(lambda: io.write(tmp_path / "a.mp4", clip_of(Encoding(16), numbers(Encoding(16)))))
    assert any("stores 8 bits per colour, but the clip has 16" in each for each in said)
    rgba = Encoding(alpha=True)
    _, said = heard(lambda: io.write(tmp_path / "b.mp4", clip_of(rgba, numbers(rgba))))
    assert any("the clip is transparent in places" in each for each in said)


def test_a_video_becomes_scene_linear(tmp_path: Path) -> None:
    io.write(tmp_path / "a.#.exr", Clip.from_images([drawn(0)], 25))
    clip = quiet_read(tmp_path / "a.#.exr")
    assert clip.encoding == Encoding(16, floating=True, light="linear")
    assert np.abs(next(iter(clip)).image.astype(int) - drawn(0)).max() == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_one_line(tmp_path: Path, value: float) -> None:
    encoding = Encoding(32, floating=True, light="linear")
    stored = numbers(encoding, 1)
    clip = clip_of(encoding, stored)
    stored[0][3, 5, 1] = value
    io.write(tmp_path / "a.#.exr", clip)
    with pytest.raises(ClipError, match=r"has 1 pixels that are infinite or not a number \(NaN\)"):
        list(quiet_read(tmp_path / "a.#.exr"))


@pytest.mark.parametrize("suffix", ["png", "tif", "dpx", "exr", "jpg"])
def test_files_that_are_something_else(tmp_path: Path, suffix: str) -> None:
    for content in (b"", b"no picture", bytes(3000)):
        (tmp_path / f"a.1.{suffix}").write_bytes(content)
        with pytest.raises(ClipError, match=r"is not an? [A-Z]+ picture, or is damaged"):
            io.read(tmp_path / f"a.%d.{suffix}")
    kind = {"tif": "a.##.tif", "dpx": "a.##.dpx", "exr": "a.##.exr"}.get(suffix, f"a.##.{suffix}")
    io.write(tmp_path / kind, Clip.from_images([drawn(0)], 25))
    whole = (tmp_path / f"a.01.{suffix}").read_bytes()
    (tmp_path / f"a.01.{suffix}").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ClipError, match="is damaged"):
        list(quiet_read(tmp_path / kind))


def test_a_named_range_says_what_is_missing_at_its_ends(tmp_path: Path) -> None:
    io.write(tmp_path / "a.%d.png", Clip.from_images([drawn(0)] * 4, 25), start_number=1001)
    assert len(list(io.read(tmp_path / "a.1002-1003#.png"))) == 2
    with pytest.raises(ClipError, match="has gaps: 1005 of 1002-1005"):
        io.read(tmp_path / "a.1002-1005#.png")


def test_a_frame_that_is_stored_otherwise_is_refused(tmp_path: Path) -> None:
    clip = clip_of(Encoding(16), numbers(Encoding(16)))
    frames = list(clip)
    wrong = [frames[0]._replace(stored=frames[0].image), *frames[1:]]
    with pytest.raises(ClipError, match="frame 0 is stored as uint8 of shape"):
        io.write(tmp_path / "a.%d.png", clip.with_frames(wrong))


# ---- interlaced pictures


def test_interlaced_pictures_become_whole_ones(tmp_path: Path) -> None:
    """A bar that moves from field to field: as it is, its edges are combs, and deinterlaced, straight."""
    path = tmp_path / "i.mp4"
    fields = [np.zeros((64, 96, 3), np.uint8) for _ in range(20)]
    for index, each in enumerate(fields):
        each[:, 4 * index : 4 * index + 16] = 255
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", 25, width=96, height=64)
        video.pix_fmt, video.options = "yuv420p", {"crf": "4", "flags": "+ildct+ilme", "x264-params": "tff=1"}
        for index in range(10):
            image = fields[2 * index].copy()
            image[1::2] = fields[2 * index + 1][1::2]
            picture = av.VideoFrame.from_ndarray(image).reformat(format="yuv420p")
            picture.pts = index
            container.mux(video.encode(picture))
        container.mux(video.encode())
    combed, said = heard(lambda: list(io.read(path)))
    assert any("`deinterlace=True`" in each for each in said)
    clip, said = heard(lambda: io.read(path, deinterlace=True))
    whole = list(clip)
    assert said == [] and [frame.pts for frame in whole] == [frame.pts for frame in combed]

    def comb(frames: list[Frame]) -> float:
        rows = np.stack([frame.image[..., 1].astype(int) for frame in frames[2:8]])
        return float(np.abs(rows[:, 1:-1] * 2 - rows[:, :-2] - rows[:, 2:]).mean())

    assert comb(whole) < comb(combed) / 4
    with pytest.raises(UsageError, match="`deinterlace` is for videos"):
        io.read(io.write(tmp_path / "a.%d.png", Clip.from_images([drawn(0)], 25)), deinterlace=True)
