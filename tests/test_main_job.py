"""The main job, as a newcomer runs it: `zs2kit edit --plugin pose clip.mp4` in a folder with nothing else."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import zs2kit

SAMPLES = Path(__file__).parents[1] / "samples"
FRAMES = 24  # three chunks: what is carried from one to the next takes part
COMMAND = Path(sys.executable).with_name("zs2kit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    start = zs2kit.read(SAMPLES / "knight-walk.mp4", end=FRAMES * Fraction(1001, 30000))
    zs2kit.write(folder / "clip.mp4", start)
    return folder


@pytest.fixture(scope="module")
def job(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, "edit", "--plugin", "pose", "clip.mp4"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_it_prints_the_result_and_says_which_prompt(
    job: subprocess.CompletedProcess[str], folder: Path
) -> None:
    assert (job.returncode, job.stdout) == (0, "clip-pose.mp4\n"), job.stderr
    (line,) = job.stderr.splitlines()
    assert zs2kit.Model.load().default_prompt in line
    assert {path.name for path in folder.iterdir()} == {"clip.mp4", "clip-pose.mp4"}


def test_the_clip_is_the_clip(job: subprocess.CompletedProcess[str], folder: Path) -> None:
    source, result = zs2kit.read(folder / "clip.mp4"), zs2kit.read(folder / "clip-pose.mp4")
    assert (result.width, result.height, result.sample_aspect_ratio) == (256, 256, 1)
    assert result.rate == source.rate == Fraction(30000, 1001)
    old, new = list(source), list(result)
    assert len(new) == FRAMES
    assert [frame.pts * result.time_base for frame in new] == [frame.pts * source.time_base for frame in old]
    changes = [np.abs(a.image.astype(float) - b.image).mean() for a, b in zip(old, new, strict=True)]
    assert min(changes) > 10  # it is another picture


def test_the_sound_is_copied_packet_by_packet(job: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert sound(folder / "clip-pose.mp4") == sound(folder / "clip.mp4") != []


def sound(path: Path) -> list[tuple[Fraction, bytes]]:
    """The packets of a file's sound: when each is heard, and its bytes."""
    with av.open(str(path)) as container:
        return [(each.pts * each.time_base, bytes(each)) for each in container.demux(audio=0) if each.size]
