"""Clips as they come: through every reader, through read and write, and through an edit."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from zoo import LIMITED, ZOO, Animal, assert_drawn, drawn, large

import zs2kit
from zs2kit import io
from zs2kit.errors import UsageError
from zs2kit.io import cameras, decoding, reading
from zs2kit.verify import verify
from zs2kit_plugins.mask import Mask


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Each clip, made once."""
    folder = tmp_path_factory.mktemp("zoo")

    def find(name: str) -> Path:
        path = folder / name
        return path if path.exists() else ZOO[name].make(path)

    return find


@contextmanager
def said(animal: Animal, *, lost: str = "") -> Iterator[None]:
    """Within this context what is to be said of the animal is said, and nothing else of what is read.

    lost: what is to be said of writing it.
    """
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        yield
    said = [str(each.message) for each in heard]
    known = f"{animal.says}|is damaged|ends at" if animal.says else "$."
    for wanted in filter(None, (animal.says, lost)):
        assert any(re.search(wanted, each) for each in said), said
        known += f"|{wanted}"
    assert all(re.search(f"{known}|one colour sample", each) and "\n" not in each for each in said), said


def assert_kept(source: Path, result: Path) -> None:
    assert [check for check in verify(source, result) if not check.ok] == []


@pytest.mark.parametrize("name", ZOO)
def test_every_reader_sees_it(found: Callable[[str], Path], name: str) -> None:
    path, animal = found(name), ZOO[name]
    with said(animal):
        clip = io.read(path)
        frames = list(clip)
    assert len(frames) == (animal.frames or len(frames))
    assert clip.frame_count in (len(frames), None)
    assert all(a.pts < b.pts and a.image.shape == b.image.shape for a, b in pairwise(frames))
    assert_drawn(frames, animal.turn, animal.spoilt)
    if animal.opencv is None:
        return
    described = cameras.described(path)
    assert described is not None
    others = list(described)
    assert len(others) == len(frames)
    for ours, theirs in zip(frames, others, strict=True):
        assert np.abs(ours.image.astype(int) - theirs.image).max() <= animal.opencv
        passed = (ours.pts - frames[0].pts) * clip.time_base
        assert passed == pytest.approx(float((theirs.pts - others[0].pts) * described.time_base), abs=0.001)


@pytest.mark.parametrize("name", ZOO)
def test_it_comes_back_whole(found: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    path, animal = found(name), ZOO[name]
    out = tmp_path / f"out{animal.out}"
    with said(animal, lost=animal.lost):
        frames = list(io.read(path))
        io.write(out, io.read(path), quality=0)
        assert_kept(path, out)
    for ours, theirs in zip(frames, io.read(out), strict=True):
        assert np.abs(ours.image.astype(int) - theirs.image).mean() <= animal.loss


FORMATS = ["h264.mp4", "h264.mov", "h264.mkv", "ffv1.mkv", "prores.mov", "prores.mkv", "gif.gif", "webp.webp"]
FORMATS += ["png.##.png", "tiff.##.tif", "dpx.##.dpx", "exr.##.exr", "jpeg.##.jpg"]
KINDS = ["plain.mp4", "alpha.mov", "16 bits.mkv", "10 bits.mp4", "animated.webp", "apng.apng"]


@pytest.mark.filterwarnings("ignore")  # of what formats lose, which has tests of its own
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_goes_out_and_in(
    found: Callable[[str], Path], tmp_path: Path, kind: str, name: str
) -> None:
    """And out again, in the same format, without changing much."""
    clip = io.read(found(kind))
    for source, folder in ((clip, tmp_path / "one"), (None, tmp_path / "two")):
        folder.mkdir()
        again = io.read(tmp_path / "one" / name, rate=25 if "#" in name else None) if source is None else clip
        io.write(folder / name, again, codec=name.partition(".")[0])
        frames = list(io.read(folder / name))
        assert len(frames) == ZOO[kind].frames
        assert_drawn(frames)
    result = io.read(tmp_path / "two" / name)
    codec = name.partition(".")[0]
    # A GIF has no half of transparency.
    assert result.encoding.alpha == (clip.encoding.alpha and codec not in ("h264", "jpeg", "gif"))
    if codec in ("h264", "gif", "webp", "jpeg"):
        assert result.encoding.bits == 8
    elif codec not in ("prores", "exr"):
        assert result.encoding.bits >= clip.encoding.bits


EDITED = [
    "variable.mkv",
    "ten hours late.ts",
    "odd and halved.webm",
    "turned, wide pixels.mp4",
    "one pixel.mp4",
    "pq.mp4",
    "alpha.mov",
    "picture called.mp4",
    "two sounds.mkv",
    "spoilt.mp4",
    "cut short.mp4",
]


@pytest.mark.parametrize("name", EDITED)
def test_its_edit_is_whole(
    found: Callable[[str], Path], tiny_folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    path, animal = found(name), ZOO[name]
    out = tmp_path / f"out{animal.out}"
    with said(animal, lost=animal.lost):
        edited = zs2kit.edit(
            io.read(path),
            "a cat",
            plugins=(),
            model=tiny_folders["epsilon"],
            num_inference_steps=1,
            size=(16, 16),
        )
        io.write(out, edited)
        assert_kept(path, out)


UNEVEN = [
    "uneven and turned.mp4",
    "uneven, wide pixels.mkv",
    "uneven and late.mp4",
    "uneven b-frames.mp4",
    "a frame left out.mp4",
    "slow motion.mp4",
]


@pytest.mark.parametrize("name", UNEVEN)
def test_masks_stay_with_their_frames(
    found: Callable[[str], Path], tiny_folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """Of a part with a cut: masks for each frame of the whole, as a video of another rate and as pictures."""
    path = found(name)
    whole = io.read(path)
    times = [(frame.pts * whole.time_base) - whole.origin for frame in whole]
    part = range(3, 9)
    source = io.read(path, start=times[part.start], end=times[part.stop])
    masks = [np.zeros((whole.height, whole.width, 3), np.uint8) for _ in times]
    for index, mask in enumerate(masks):
        mask[8:-8, 3 * index : 3 * index + 8] = 255
    for file in ("masks.mkv", "mask.%03d.png"):
        codec = {"codec": "ffv1"} if file.endswith("mkv") else {}
        mask = io.write(tmp_path / file, zs2kit.Clip.from_images(masks, 10), **codec)
        edited = zs2kit.edit(
            source,
            "a cat",
            plugins=[Mask(clip=str(mask), grow=0, feather=0)],
            model=tiny_folders["epsilon"],
            num_inference_steps=1,
            size=(16, 16),
            chunk_size=4,
            cuts=(times[6],),
        )
        for index, before, after in zip(part, source, edited, strict=True):
            changed = (before.image != after.image).any(axis=2)
            assert not (changed & (masks[index][..., 0] == 0)).any() and changed.sum() > 100, index


@pytest.mark.slow
def test_8k_is_no_more_than_large(tmp_path: Path) -> None:
    path = large(tmp_path / "8k.mov")
    out = io.write(tmp_path / "out.mp4", io.read(path))
    assert_kept(path, out)
    for index, frame in enumerate(io.read(out)):
        assert np.abs(frame.image[::90, ::120].astype(int) - drawn(3 * index)).mean() < 5


def test_what_cannot_be_decoded_shows_its_neighbour(found: Callable[[str], Path]) -> None:
    for name, lost, neighbour in (
        ("spoilt.mp4", 7, 6),
        ("spoilt end.mp4", 19, 17),
        ("spoilt first.mp4", 0, 5),
    ):
        with pytest.warns(UserWarning, match="is damaged"):
            frames = list(io.read(found(name)))
        np.testing.assert_array_equal(frames[lost].image, frames[neighbour].image)
        assert [frame.pts for frame in frames] == [512 * index for index in range(20)]


def test_a_mirror_is_applied(found: Callable[[str], Path]) -> None:
    frames = [frame._replace(image=frame.image[:, ::-1]) for frame in io.read(found("mirrored.mp4"))]
    assert_drawn(frames)


@pytest.mark.parametrize("name", ["a packet far ahead.mkv", "a packet far behind.mkv"])
def test_a_time_that_is_damaged_is_guessed(found: Callable[[str], Path], name: str) -> None:
    assert [frame.pts for frame in io.read(found(name))] == [40 * index for index in range(12)]


@pytest.mark.parametrize(("name", "begin"), [("ten hours late.ts", 0.0), ("late picture.mp4", 0.5)])
def test_seconds_count_from_the_first_picture_or_sound(
    found: Callable[[str], Path], name: str, begin: float
) -> None:
    path = found(name)
    whole = [frame.pts for frame in io.read(path)]
    assert [frame.pts for frame in io.read(path, start=begin + 0.2, end=begin + 0.4)] == whole[5:10]


def test_streams_that_were_joined_go_on_together(found: Callable[[str], Path], tmp_path: Path) -> None:
    out = io.write(tmp_path / "out.mp4", io.read(found("joined.ts")))
    with av.open(str(out)) as container:
        video, audio = (float(stream.duration * stream.time_base) for stream in container.streams)
    assert video == pytest.approx(2 * 12 / 25)
    assert audio == pytest.approx(video, abs=0.05)


@pytest.mark.parametrize("name", ["b-frames.mp4", "stream.ts", "no clock.h264"])
def test_skipped_frames_are_not_converted(
    found: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = list(io.read(found(name)))
    converted: list[int] = []
    rgb = decoding.rgb
    monkeypatch.setattr(decoding, "rgb", lambda *args: converted.append(1) or rgb(*args))
    clip = io.read(found(name), skip=7)
    rest = list(clip)
    assert len(converted) == len(rest) == len(whole) - 7
    assert clip.frame_count in (len(rest), None)
    for ours, theirs in zip(rest, whole[7:], strict=True):
        assert ours.pts == theirs.pts
        np.testing.assert_array_equal(ours.image, theirs.image)
    with pytest.raises(UsageError, match="no frames from 0 s on after the first 30"):
        io.read(found(name), skip=30)


def test_a_count_that_is_too_high_is_not_waited_for(
    found: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SMALL", 0)  # believes the file
    assert len(list(io.read(found("too many.mp4")))) == 12


@pytest.mark.parametrize("matrix", [1, 6, 9])
def test_colours_are_exact_and_come_back_to_the_bit(tmp_path: Path, matrix: int) -> None:
    """Every grey of limited range, and colours inside of RGB, as planes of 4:2:0."""
    dice = np.random.default_rng(0)
    luma = np.tile(np.clip(np.arange(256), 16, 235).astype(np.uint8), (48, 1))
    luma[24:] = dice.integers(80, 170, (24, 256))
    chroma = np.full((2, 24, 128), 128, np.uint8)
    chroma[:, 12:] = dice.integers(108, 148, (2, 12, 128))
    planes = np.concatenate([luma, chroma.reshape(-1, 256)])
    source = tmp_path / "source.mkv"
    with av.open(str(source), "w") as container:
        video = container.add_stream("ffv1", 25, width=256, height=48)
        video.pix_fmt = "yuv420p"
        video.codec_context.colorspace, video.codec_context.color_range = matrix, LIMITED
        picture = VideoFrame.from_ndarray(planes, "yuv420p")
        picture.pts, picture.colorspace, picture.color_range = 0, matrix, LIMITED
        container.mux(video.encode(picture))
        container.mux(video.encode())
    (frame,) = io.read(source)
    greys = np.rint((luma[:24].astype(float) - 16) * 255 / 219)
    np.testing.assert_array_equal(frame.image[:24], greys[..., None].repeat(3, axis=-1))
    with av.open(str(io.write(tmp_path / "out.mp4", io.read(source), quality=0))) as container:
        (back,) = container.decode(video=0)
        np.testing.assert_array_equal(back.to_ndarray(), planes)
