"""Clips as they come: through every reader, through read and write, and through an edit."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from zoo import ZOO, Animal, assert_drawn, drawn, large

import zs2kit
from zs2kit import io
from zs2kit.verify import verify


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Each clip, made once."""
    folder = tmp_path_factory.mktemp("zoo")

    def find(name: str) -> Path:
        path = folder / name
        return path if path.exists() else ZOO[name].make(path)

    return find


@contextmanager
def said(animal: Animal) -> Iterator[None]:
    """Within this context what is to be said of the animal is said, and nothing else of what is read."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        yield
    said = [str(each.message) for each in heard]
    known = f"{animal.says}|is damaged|breaks off" if animal.says else "$."
    assert not animal.says or any(re.search(animal.says, each) for each in said), said
    assert all(re.search(f"{known}|as players expect", each) and "\n" not in each for each in said), said


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
    described = io.reading._describe_with_opencv(path)
    assert described is not None
    others = list(io.reading._opencv_frames(described))
    assert len(others) == len(frames)
    for ours, theirs in zip(frames, others, strict=True):
        assert np.abs(ours.image.astype(int) - theirs.image).max() <= animal.opencv
        passed = (ours.pts - frames[0].pts) * clip.time_base
        assert passed == pytest.approx(float((theirs.pts - others[0].pts) * described.time_base), abs=0.001)


@pytest.mark.parametrize("name", ZOO)
def test_it_comes_back_whole(found: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    path, animal = found(name), ZOO[name]
    out = tmp_path / f"out{animal.out}"
    with said(animal):
        frames = list(io.read(path))
        io.write(out, io.read(path), quality=0)
        assert_kept(path, out)
    for ours, theirs in zip(frames, io.read(out), strict=True):
        assert np.abs(ours.image.astype(int) - theirs.image).mean() <= animal.loss


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
    with said(animal):
        edited = zs2kit.edit(
            io.read(path), "a cat", model=tiny_folders["epsilon"], num_inference_steps=1, size=(16, 16)
        )
        io.write(out, edited)
        assert_kept(path, out)


@pytest.mark.slow
def test_8k_is_no_more_than_large(tmp_path: Path) -> None:
    path = large(tmp_path / "8k.mov")
    out = io.write(tmp_path / "out.mp4", io.read(path))
    assert_kept(path, out)
    for index, frame in enumerate(io.read(out)):
        assert np.abs(frame.image[::90, ::120].astype(int) - drawn(3 * index)).mean() < 5
