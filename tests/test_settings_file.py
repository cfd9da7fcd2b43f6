"""Files of settings: --settings, --save-settings, and reports as settings."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest
from shell import run

from zs2kit import cli, io
from zs2kit.cli.settings_file import _keys, with_sets
from zs2kit.testing import drawn_clip

LOOK = """
prompt = "a disc, \\"round\\""
plugin = "strength"
steps = 2
guidance_scale = 2
size = "48x24"
cuts = "0.2,0.4"
overwrite = true

[strength]
strength = 0.9
"""


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return io.write(tmp_path / "clip.mp4", drawn_clip(6))


@pytest.fixture
def look(tmp_path: Path) -> Path:
    path = tmp_path / "look.toml"
    path.write_text(LOOK)
    return path


def frames(path: Path) -> np.ndarray:
    return np.stack([frame.image for frame in io.read(path)])


def test_a_file_a_saved_one_and_a_report_give_the_same_frames(
    clip: Path, look: Path, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    saved, report = tmp_path / "saved.toml", tmp_path / "report.json"
    outs = [tmp_path / f"{name}.mkv" for name in ("typed", "read", "saved", "reported")]
    typed = ["--prompt", 'a disc, "round"', "--plugin", "strength", "--set", "strength.strength=0.9"]
    typed += ["--steps", 2, "--guidance-scale", 2, "--size", "48x24", "--cuts", "0.2,0.4"]
    more = ["--model", tiny_folders["epsilon"], "--seed", 3, "--start", 0.08]
    also = ["--save-settings", saved, "--report", report]
    runs = [
        run("edit", clip, *typed, *more, "-o", outs[0]),
        run("edit", clip, "--settings", look, *more, *also, "-o", outs[1]),
        run("edit", clip, "--settings", saved, "--start", 0.08, "-o", outs[2]),
        run("edit", clip, "--settings", report, "-o", outs[3]),
    ]
    assert [(each.exit_code, each.stderr) for each in runs] == [(0, "")] * 4
    for out in outs[1:]:
        np.testing.assert_array_equal(frames(out), frames(outs[0]))
    assert saved.read_text().splitlines() == [
        'prompt = "a disc, \\"round\\""',
        'plugin = ["strength"]',
        f'model = "{tiny_folders["epsilon"]}"',
        "steps = 2",
        "guidance-scale = 2.0",
        'size = "48x24"',
        "seed = 3",
        'cuts = "0.2,0.4"',
        "",
        "[strength]",
        "strength = 0.9",
    ]


def test_a_plugin_that_is_used_twice(clip: Path, tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    saved, report = tmp_path / "saved.toml", tmp_path / "report.json"
    outs = [tmp_path / f"{name}.mkv" for name in ("typed", "saved", "reported")]
    typed = ["--plugin", "control:a", "--set", "a.model=controlnet_edges", "--set", "a.detector=canny"]
    typed += [
        "--plugin",
        "control",
        "--set",
        "control.model=controlnet_pose",
        "--set",
        "control.detector=canny",
    ]
    typed += ["--prompt", "x", "--steps", 2, "--model", tiny_folders["epsilon"]]
    runs = [
        run("edit", clip, *typed, "--save-settings", saved, "--report", report, "-o", outs[0]),
        run("edit", clip, "--settings", saved, "-o", outs[1]),
        run("edit", clip, "--settings", report, "-o", outs[2]),
    ]
    assert [(each.exit_code, each.stderr) for each in runs] == [(0, "")] * 3
    for out in outs[1:]:
        np.testing.assert_array_equal(frames(out), frames(outs[0]))
    assert "[a]" in saved.read_text().splitlines()


def sets(context: click.Context) -> list[str]:
    return with_sets(context, context.params["plugins"], context.params["sets"])


def test_what_is_typed_comes_first(look: Path) -> None:
    words = ["--settings", str(look), "--steps", "7", "--set", "strength.strength=0.5", "clip.mp4"]
    context = cli.edit.make_context("edit", words)
    assert (context.params["num_inference_steps"], context.params["guidance_scale"]) == (7, 2.0)
    assert (context.params["size"], context.params["overwrite"]) == ((24, 48), True)
    assert sets(context) == ["strength.strength=0.5"]
    other = cli.edit.make_context("edit", ["--settings", str(look), "--plugin", "pose", "clip.mp4"])
    assert sets(other) == []


def test_a_report_of_text_alone_draws_it_again(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    report, outs = tmp_path / "report.json", [tmp_path / "one.mkv", tmp_path / "two.mkv"]
    words = ["--frames", 3, "--fps", "30000/1001", "--at", 2, "a square", "--steps", 1, "--size", "32x32"]
    made = run(
        "generate", "a disc", *words, "--model", tiny_folders["epsilon"], "-o", outs[0], "--report", report
    )
    again = run("generate", "--settings", report, "-o", outs[1])
    assert (made.exit_code, again.exit_code) == (0, 0), made.output + again.output
    np.testing.assert_array_equal(frames(outs[1]), frames(outs[0]))
    assert io.read(outs[1]).rate == io.read(outs[0]).rate


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stepz = 3", "there is no option 'stepz'; did you mean steps?"),
        ("[poze]\nscale = 1", "there is no plugin or filter 'poze'; did you mean pose?"),
        ("[pose]\nscael = 1", "pose has no option 'scael'; did you mean scale?"),
        ("steps = many", "can't be read as settings: Invalid value (at line 1, column 9)"),
        ("steps = 2023-01-01", "steps can't be datetime.date(2023, 1, 1)"),
        ("steps = 'many'", "--steps must be a whole number from 1 up, or none, not 'many'"),
        ("[strength]\nstrength = 9", "strength.strength must be a number from 0 to 1, not 9"),
    ],
)
def test_a_file_that_is_wrong(clip: Path, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    result = run("edit", clip, "--settings", path, "--model", "nosuch")
    (line,) = result.stderr.splitlines()
    assert says in line and result.exit_code == 2, line


@pytest.mark.parametrize(
    ("name", "text", "says", "code"),
    [
        ("gone.toml", None, "can't be read", 1),
        ("report.json", "[1]", "is not a report", 2),
        ("report.json", json.dumps({"settings": {}}), "is not a report", 2),
        ("report.json", "{", "can't be read as settings", 2),
    ],
)
def test_a_file_of_another_kind(
    clip: Path, tmp_path: Path, name: str, text: str | None, says: str, code: int
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    result = run("edit", clip, "--settings", tmp_path / name)
    assert says in result.stderr and result.exit_code == code


def test_every_option_can_be_in_a_file() -> None:
    """But for those that name the files of settings."""
    for command in (cli.edit, cli.generate, cli.plan):
        options = {max(each.opts, key=len) for each in command.params if isinstance(each, click.Option)}
        assert {f"--{key}" for key in _keys(command)} >= options - {"--settings", "--set"}
