"""Clips and edits in notebooks: what they say of themselves, and what they show."""

from __future__ import annotations

import ast
import json
import re
from base64 import b64decode
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from zoo import make

import zs2kit
from zs2kit.clip import Frame
from zs2kit.progress import Progress
from zs2kit.testing import drawn_clip


def video(html: str | None) -> BytesIO:
    assert html is not None
    found = re.search(r'src="data:video/mp4;base64,([^"]+)"', html)
    assert found
    return BytesIO(b64decode(found[1]))


def test_a_clip_says_what_it_is_and_reads_no_frame(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4")
    clip = zs2kit.read(path)

    def fails() -> Iterator[Frame]:
        raise AssertionError("a frame was read")
        yield

    for frames in (fails(), clip.frames):
        said = repr(clip.with_frames(frames))
        assert said == f"<Clip {path}: 64x48, 12 frames at 25 per second, 0.48 s>"
    clip.frame_count = None
    assert repr(clip) == f"<Clip {path}: 64x48, frames at 25 per second>"


def test_a_clip_shows_itself_small_and_with_sound(tmp_path: Path) -> None:
    path = make(tmp_path / "<a>.mp4", width=960, height=540, sound="aac", frames=50)
    clip = zs2kit.read(path, start=0.2)
    html = clip._repr_html_()
    assert "&lt;a&gt;.mp4" in str(html)
    with av.open(video(html)) as container:
        picture, sound = container.streams
        assert (picture.codec_context.width, picture.codec_context.height) == (456, 256)
        assert picture.frames == 45
        assert float(sound.duration * sound.time_base) == pytest.approx(45 / 25, abs=0.06)
    assert len(str(html)) < 200_000
    assert len(list(clip)) == 45  # it is as it was


def test_of_a_long_clip_the_beginning_is_shown(tmp_path: Path) -> None:
    clip = zs2kit.read(make(tmp_path / "a.mp4", frames=300, sound="aac"))
    html = clip._repr_html_()
    assert "its first 250 frames" in str(html)
    with av.open(video(html)) as container:
        assert container.streams.video[0].frames == 250
        sound = container.streams.audio[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(10, abs=0.06)


def test_pixels_that_are_not_square_and_pictures_of_a_script() -> None:
    clip = zs2kit.Clip.from_images([np.zeros((301, 200, 3), np.uint8)] * 2, 5)
    assert repr(clip) == "<Clip: 200x301, 2 frames at 5 per second, 0.40 s>"
    clip.sample_aspect_ratio *= 2
    with av.open(video(clip._repr_html_())) as container:
        context = container.streams.video[0].codec_context
        assert (context.width, context.height) == (340, 256)


def test_frames_that_come_only_once_are_not_used_up() -> None:
    clip = drawn_clip(3)
    once = clip.with_frames(iter(clip))
    assert once._repr_html_() is None
    assert len(list(once)) == 3


def test_an_edit_is_drawn_to_be_shown(tiny_folders: dict[str, Path]) -> None:
    edited = zs2kit.edit(
        drawn_clip(3), "a disc", model=tiny_folders["epsilon"], plugins=(), num_inference_steps=1
    )
    assert repr(edited).startswith("<Edit: ") and edited.index == 0
    with av.open(video(edited._repr_html_())) as container:
        assert container.streams.video[0].frames == 3


def test_a_bar_for_scripts_and_notebooks(capsys: pytest.CaptureFixture[str]) -> None:
    bar = zs2kit.ProgressBar()
    bar(Progress(1, "drawing", 4, step=1, steps=2, under_way=0.5, seconds_left=63))
    assert "38%" in (said := capsys.readouterr().err)
    assert "drawing" in said and "1 of 4 frames, step 1 of 2, about 1:03 left" in said
    bar(Progress(2, "writing"))
    bar(Progress(4, "writing", 4))
    assert "100%" in capsys.readouterr().err


@pytest.mark.slow
def test_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cell of samples/tour.ipynb, with a single denoising step; clips at the ends of cells are shown."""
    samples = Path(__file__).parents[1] / "samples"
    for each in samples.glob("*.mp4"):
        (tmp_path / each.name).symlink_to(each)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "tour"}
    shown = []
    notebook = json.loads((samples / "tour.ipynb").read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == [] and cell["execution_count"] is None
        *lines, last = ast.parse("".join(cell["source"]).replace("steps = 20", "steps = 1")).body
        exec(compile(ast.Module(lines, []), "tour.ipynb", "exec"), names)
        if isinstance(last, ast.Expr):
            found = eval(compile(ast.Expression(last.value), "tour.ipynb", "eval"), names)
            if isinstance(found, zs2kit.Clip):
                shown.append(found)
                with av.open(video(found._repr_html_())) as container:
                    assert container.streams.video[0].frames == 6
        else:
            exec(compile(ast.Module([last], []), "tour.ipynb", "exec"), names)
    assert [type(each).__name__ for each in shown] == ["Clip", "Clip", "Clip", "Edit"]
