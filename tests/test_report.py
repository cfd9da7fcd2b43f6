"""Reports beside a result: they say how good it is, and make it again."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from shell import run

import zs2kit
from zs2kit import io, metrics
from zs2kit.testing import drawn_clip

TINY = ["--steps", "2", "--chunk-size", "2"]


@pytest.fixture
def checkpoint(tiny_folders: dict[str, Path]) -> Path:
    return tiny_folders["epsilon"]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return io.write(tmp_path / "clip.mp4", drawn_clip(5))


def frames(path: Path) -> np.ndarray:
    return np.stack([frame.image for frame in io.read(path)])


def test_a_report_says_what_was_done_and_does_it_again(clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out.mkv", tmp_path / "out.json"
    options = ["--plugin", "strength", "--set", "strength.strength=0.6", "--model", checkpoint, "--seed", 5]
    made = run("edit", clip, "-o", out, "--prompt", "a disc", "--report", report, *options, *TINY)
    assert (made.exit_code, made.stdout, made.stderr) == (0, f"{out}\n", "")
    said = json.loads(report.read_text())

    assert said["result"] == str(out)
    assert said["settings"] == {
        "prompt": "a disc",
        "negative_prompt": "",
        "scheduler": "ddim",
        "num_inference_steps": 2,
        "guidance_scale": 5.0,
        "noise": "dependency",
        "momentum": 0.98,
        "divergence": 0.01,
        "flow_momentum": 0.95,
        "cuts": "auto",
        "every": 1,
        "size": None,
        "chunk_size": 2,
        "seed": 5,
    }
    assert said["model"]["name"] == str(checkpoint)
    known = zs2kit.edit(io.read(clip), plugins=(), model=checkpoint).frames.describe()
    assert (said["source"], said["model"]["weights"]) == (known["source"], known["weights"])
    assert (said["model"]["device"], said["model"]["dtype"]) == ("cpu", "float32")
    (plugin,) = said["plugins"]
    assert (plugin["name"], plugin["options"]["strength"]) == ("strength", 0.6)
    assert plugin["version"] == zs2kit.__version__
    versions = (zs2kit.__version__, platform.python_version(), torch.__version__, diffusers.__version__)
    found = [said["versions"][name] for name in ("zs2kit", "python", "torch", "diffusers")]
    assert found == [version.partition("+")[0] for version in versions]
    expected = metrics.measure(io.read(out), io.read(clip), chunk_size=2)
    assert said["metrics"] == pytest.approx(expected) and "seam score" in expected

    before = frames(out)
    assert said["command"][0] == "zs2kit"
    again = run(*said["command"][1:], "--overwrite")
    assert again.exit_code == 0, again.output
    assert (frames(out) == before).all()
    assert json.loads(report.read_text())["metrics"] == said["metrics"]


def test_a_report_of_what_text_alone_made(checkpoint: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out.mkv", tmp_path / "report.json"
    options = ["--frames", 3, "--at", 2, "a square", "--model", checkpoint, "-o", out, *TINY]
    made = run("generate", "a disc", "--report", report, *options)
    assert made.exit_code == 0, made.output
    said = json.loads(report.read_text())
    assert said["settings"]["prompt"] == {"0": "a disc", "2": "a square"} and said["plugins"] == []
    assert (said["settings"]["frames"], said["settings"]["rate"]) == (3, "12")
    assert said["metrics"] == pytest.approx(metrics.measure(io.read(out), chunk_size=2))


def test_a_report_that_can_not_be_written_is_refused_before_the_work(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("mine")
    before = sorted(tmp_path.iterdir())
    for path, code, says in [
        (tmp_path / "report.txt", 2, "a report must be a .json file"),
        (tmp_path / "nosuch" / "report.json", 1, "there is no folder"),
        (tmp_path / "there.json", 1, "--overwrite"),
        ("/proc/report.json", 1, "can't be written"),
    ]:
        ended = run("edit", clip, "--report", path)
        assert (ended.exit_code, ended.stdout) == (code, "")
        (line,) = ended.stderr.splitlines()
        assert says in line
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "there.json").read_text() == "mine"
