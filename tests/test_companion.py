"""The clip that is read beside the source: the same size, the same length, the same frame."""

from __future__ import annotations

from fractions import Fraction
from itertools import repeat

import cv2
import numpy as np
import pytest

import zs2kit
from zs2kit.clip import Chunk
from zs2kit.companion import Companion
from zs2kit.errors import ClipError
from zs2kit.testing import drawn_clip


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Ten frames a second, 12 of them, each 20 levels brighter than the one before."""
    images = (np.full((32, 32, 3), 20 * index, np.uint8) for index in range(12))
    return zs2kit.write(
        tmp_path_factory.mktemp("companion") / "maps.mp4", zs2kit.Clip.from_images(images, Fraction(10))
    )


def levels(companion: Companion, index: int, length: int) -> list[int]:
    """Which of the video's frames the companion hands out, as told by their brightness."""
    images = companion.frames_of(Chunk(index, length, 32, 32))
    return [round(float(image.mean()) / 20) for image in images]


def test_it_stays_in_step_in_chunks_of_any_size(video):
    companion = Companion(video, drawn_clip(12))
    assert levels(companion, 0, 5) == [0, 1, 2, 3, 4]
    assert levels(companion, 5, 3) == [5, 6, 7]
    assert levels(companion, 8, 4) == [8, 9, 10, 11]


def test_a_resumed_edit_skips_to_where_it_goes_on(video):
    companion = Companion(video, drawn_clip(12))
    assert levels(companion, 7, 2) == [7, 8]
    assert levels(companion, 3, 2) == [3, 4]


def test_frames_that_are_not_drawn_are_left_out(video):
    companion = Companion(video, drawn_clip(12))
    for positions in ((0, 2, 4), (7,), (9, 11), (2, 3)):
        chunk = Chunk(positions[0], len(positions), 32, 32, positions=positions)
        images = companion.frames_of(chunk)
        assert [round(float(image.mean()) / 20) for image in images] == list(positions)


def test_it_is_cut_as_the_source_is(video):
    source = zs2kit.read(video, start=0.3, end=0.8)
    assert levels(Companion(video, source), 0, 5) == [3, 4, 5, 6, 7]


def test_a_sequence_of_pictures_has_the_rate_of_the_clip(video, tmp_path):
    maps = zs2kit.write(tmp_path / "map.%03d.png", zs2kit.read(video))
    source = zs2kit.read(video, start=0.3, end=0.8)
    assert levels(Companion(maps, source), 0, 5) == [3, 4, 5, 6, 7]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """12 frames as a phone records them: the fourth is shown five times as long as the others."""
    ticks = [index + 4 * (index > 3) for index in range(12)]
    frames = [
        zs2kit.Frame(np.full((32, 32, 3), 20 * index, np.uint8), pts) for index, pts in enumerate(ticks)
    ]
    clip = zs2kit.Clip(frames, 32, 32, Fraction(10), Fraction(1, 10), 12)
    return zs2kit.write(tmp_path_factory.mktemp("uneven") / "phone.mkv", clip, codec="ffv1")


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, [*range(12)]),
        (0.2, None, [*range(2, 12)]),
        (0.9, None, [5, 6, 7, 8, 9, 10, 11]),
        (0.2, 1.1, [2, 3, 4, 5, 6]),
        (None, 0.85, [0, 1, 2, 3, 4]),
    ],
)
def test_a_sequence_has_a_picture_for_each_frame_whatever_its_time(uneven, tmp_path, start, end, expected):
    pictures = (frame.image for frame in zs2kit.read(uneven))
    maps = zs2kit.write(tmp_path / "map.%03d.png", zs2kit.Clip.from_images(pictures, 10))
    source = zs2kit.read(uneven, start=start, end=end)
    assert [round(float(frame.image.mean()) / 20) for frame in source] == expected
    companion = Companion(maps, source)
    assert levels(companion, 0, len(expected)) == expected
    companion.finish(len(expected))  # no picture of the whole is said to be too many


@pytest.mark.parametrize(("start", "end"), [(None, None), (0.2, None), (0.9, None), (0.2, 1.1), (None, 0.85)])
def test_a_video_has_a_picture_for_each_frame_whatever_its_time(uneven, tmp_path, start, end):
    """Masks of a phone's clip, as programs write them: at a rate of their own."""
    pictures = [frame.image for frame in zs2kit.read(uneven)]
    source = zs2kit.read(uneven, start=start, end=end)
    expected = [round(float(frame.image.mean()) / 20) for frame in source]
    maps = zs2kit.write(tmp_path / "maps.mkv", zs2kit.Clip.from_images(pictures, 30), codec="ffv1")
    companion = Companion(maps, source)
    assert levels(companion, 0, len(expected)) == expected
    companion.finish(len(expected))
    more = zs2kit.write(
        tmp_path / "more.mkv", zs2kit.Clip.from_images(pictures[:1] + pictures, 30), codec="ffv1"
    )
    with pytest.raises(ClipError, match="give one that has a picture for each of the clip's frames"):
        Companion(more, source)


def test_a_sequence_that_is_too_short(uneven, tmp_path):
    maps = zs2kit.write(tmp_path / "map.%03d.png", drawn_clip(10))
    with pytest.raises(ClipError, match="has 8 frames, but the clip has 10"):
        Companion(maps, zs2kit.read(uneven, start=0.2))


@pytest.mark.parametrize("start", [None, 5])
def test_a_picture_holds_for_every_frame(tmp_path, start):
    cv2.imwrite(str(tmp_path / "map.png"), np.full((32, 32, 3), 60, np.uint8))
    source = drawn_clip(3)
    source.start = start
    companion = Companion(tmp_path / "map.png", source)
    assert levels(companion, 0, 2) + levels(companion, 2, 1) == [3, 3, 3]
    companion.finish(3)


def test_another_length_is_said_before_any_work(video):
    for frames in (11, 13):
        with pytest.raises(ClipError, match=f"has 12 frames, but the clip has {frames}"):
            Companion(video, drawn_clip(frames))


def test_another_size_is_said_before_any_work(video):
    with pytest.raises(ClipError, match="is 32x32 pixels, but the clip is 48x40"):
        Companion(video, drawn_clip(12, width=48, height=40))


def test_a_length_that_is_not_known_before_is_said_when_it_shows(video):
    source = zs2kit.Clip.from_images(repeat(np.zeros((32, 32, 3), np.uint8), 13), 10)
    companion = Companion(video, source)
    levels(companion, 0, 10)
    with pytest.raises(ClipError, match="has 12 frames, but the clip has more"):
        levels(companion, 10, 3)
    companion = Companion(video, source)
    levels(companion, 0, 10)
    with pytest.warns(UserWarning, match="more frames than the clip, which has 10"):
        companion.finish(10)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ClipError, match="no such file"):
        Companion(tmp_path / "maps.mp4", drawn_clip(2))
