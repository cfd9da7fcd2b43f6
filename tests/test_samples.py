"""The sample clips are what their script draws, with sound."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

import zs2kit
from zs2kit.puppets.world import motion_scenes

SAMPLES = Path(__file__).parents[1] / "samples"
sys.path.insert(0, str(SAMPLES))
import make  # noqa: E402


def test_the_table_names_the_files() -> None:
    found = {path.stem for path in SAMPLES.glob("*.mp4") if "-pose" not in path.stem}
    assert found == {*make.SAMPLES, "skeleton-jump"}


def test_maps_and_picture_are_what_the_script_draws() -> None:
    read, drawn = zs2kit.read(SAMPLES / "skeleton-jump.mp4"), make.skeleton()
    assert read.frame_count == make.SAMPLES["robot-dance"][2]
    for a, b in zip(read, drawn, strict=True):
        assert np.abs(a.image.astype(float) - b.image).mean() < 3
    assert np.array_equal(cv2.imread(str(SAMPLES / "pink-wizard.png"))[..., ::-1], make.picture())


@pytest.mark.parametrize("name", make.SAMPLES)
def test_samples_are_what_the_script_draws(name: str) -> None:
    scene, motion, count, rate, pan, *_ = make.SAMPLES[name]
    path = SAMPLES / f"{name}.mp4"
    clip = zs2kit.read(path)
    assert (clip.frame_count, clip.rate, clip.width, clip.height) == (count, rate, make.SIZE, make.SIZE)
    drawn = make.frames(motion_scenes(scene, motion, count, fps=float(rate), pan=pan))
    for read, frame in zip(clip, drawn, strict=True):
        assert np.abs(read.image.astype(float) - frame.image).mean() < 3
    with av.open(str(path)) as container:
        (sound,) = container.streams.audio
        assert abs(float(sound.duration * sound.time_base) - count / rate) < 0.1
    assert path.stat().st_size < 1_000_000
