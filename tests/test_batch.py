"""Several clips in one command: each has its own result and its own error."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from shell import run

from zs2kit import io
from zs2kit.model import Model
from zs2kit.testing import drawn_clip

TINY = ["--plugin", "none", "--steps", "1", "--prompt", "a disc"]


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    first = io.write(tmp_path / "clip 0.mp4", drawn_clip(2))
    others = [tmp_path / f"clip {number}.mp4" for number in range(1, 20)]
    for each in others:
        shutil.copy(first, each)
    return [first, *others]


def test_twenty_clips_two_of_which_are_broken(
    clips: list[Path], tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clips[3].write_bytes(b"no video")
    clips[12].unlink()
    loads: list[object] = []
    load = Model.load
    monkeypatch.setattr(Model, "load", lambda *args, **extra: loads.append(args) or load(*args, **extra))
    result = run("edit", *clips, "--model", tiny_folders["epsilon"], *TINY)
    good = [each for each in clips if each not in (clips[3], clips[12])]
    made = [each.with_name(f"{each.stem}-edit.mp4") for each in good]
    assert result.stdout.splitlines() == [str(each) for each in made]
    assert all(len(list(io.read(each))) == 2 for each in made)
    first, second, last = result.stderr.splitlines()
    assert first.startswith(f"zs2kit: error: {clips[3]} is not a video")
    assert second == f"zs2kit: error: no such file: {clips[12]}"
    assert last == f"zs2kit: error: 2 of 20 clips failed: {clips[3]}, {clips[12]}"
    assert (result.exit_code, len(loads)) == (1, 1)


def test_one_that_fails_while_it_is_drawn_does_not_end_the_others(
    clips: list[Path], tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = io.writing.write

    def full(output: io.Output, *args: object, **extra: object) -> Path:
        if "clip 0" in output.path.name:
            raise io.writing.ClipError(f"no space left for {output.path}", "free some space")
        return write(output, *args, **extra)

    monkeypatch.setattr(io.writing, "write", full)
    result = run("edit", *clips[:2], "--model", tiny_folders["epsilon"], *TINY)
    assert result.stdout.splitlines() == [str(clips[1].with_name("clip 1-edit.mp4"))]
    assert f"error: {clips[0]}: no space left for" in result.stderr
    assert result.exit_code == 1


def test_results_sheets_and_reports_go_into_folders(
    clips: list[Path], tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    into = [word for name in ("-o", "--sheet", "--report") for word in (name, folder)]
    result = run("edit", *clips[:2], *into, "--model", tiny_folders["epsilon"], *TINY)
    assert result.exit_code == 0, result.output
    kinds = (".json", ".mp4", ".png")
    assert sorted(each.name for each in folder.iterdir()) == [
        f"clip {number}-edit{kind}" for number in (0, 1) for kind in kinds
    ]
    said = json.loads((folder / "clip 1-edit.json").read_text())
    assert said["result"] == str(folder / "clip 1-edit.mp4")


def test_a_batch_is_resumed(clips: list[Path], tiny_folders: dict[str, Path]) -> None:
    words = [*clips[:3], "--model", tiny_folders["epsilon"], *TINY]
    first = clips[0].with_name("clip 0-edit.mp4")
    assert run("edit", clips[0], *words[3:]).exit_code == 0
    drawn = first.read_bytes()
    result = run("edit", *words, "--resume")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [str(each.with_name(f"{each.stem}-edit.mp4")) for each in clips[1:3]]
    assert f"{first} already exists, so {clips[0]} is skipped" in result.stderr
    assert first.read_bytes() == drawn
    assert run("edit", *words, "--resume").exit_code == 0


def test_a_batch_of_sequences_is_resumed(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    shots = [tmp_path / f"{name}.%04d.png" for name in ("shot", "take")]
    for shot in shots:
        io.write(shot, drawn_clip(2))
    words = [*shots, "--fps", 12, "--model", tiny_folders["epsilon"], *TINY]
    assert run("edit", *words).exit_code == 0
    pictures = {each: each.read_bytes() for each in tmp_path.glob("*-edit*.png")}
    again = run("edit", *words, "--resume")
    assert (again.exit_code, again.stdout) == (0, ""), again.output
    assert again.stderr.count("already exists, so") == 2
    assert len(pictures) == 4 and all(each.read_bytes() == data for each, data in pictures.items())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["clip 0.mp4", "clip 0.mp4"], "would both become"),
        (["clip 0.mp4", "other/clip 0.mp4", "-o", "other"], "would both become"),
        (["clip 0.mp4", "clip 0-edit.mp4", "--overwrite"], "which is one of the clips"),
        (["clip 0.mp4", "clip 1.mp4", "-o", "out.mp4"], "--out: out.mp4 is not a folder"),
        (["clip 0.mp4", "clip 1.mp4", "--report", "x.json"], "--report: x.json is not a folder"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    before = sorted(tmp_path.rglob("*"))
    result = run("edit", *words, "--model", "nosuch", *TINY)
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_plan_of_several_clips(clips: list[Path], tiny_folders: dict[str, Path]) -> None:
    clips[1].write_bytes(b"no video")
    words = ["plan", *clips[:3], "--model", tiny_folders["epsilon"], *TINY]
    result = run(*words)
    rows = result.stdout.splitlines()
    assert [row for row in rows if row.endswith(":")] == [f"{clips[0]}:", f"{clips[2]}:"]
    assert next(row for row in rows if row.startswith("together")).startswith(
        "together    2 clips, 4 frames,"
    )
    assert f"error: {clips[1]} is not a video" in result.stderr
    assert result.stderr.splitlines()[-1] == f"zs2kit: error: 1 of 3 clips failed: {clips[1]}"
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (None, 1, r"prompts\.csv can't be read \(No such file or directory\); check its name"),
        (b"a disc\n", 2, "is not a table of prompts; its first line must be: clip,prompt"),
        (b"clip,prompt\na,\xff\n", 2, r"is not a table of prompts \(.*\); save it as CSV, in UTF-8"),
        (b"clip,prompt\nclip 99.mp4,a disc\n", 2, r"has prompts for clips that aren't there: clip 99\.mp4; "),
    ],
)
def test_a_wrong_table_of_prompts_is_told(
    clips: list[Path], tmp_path: Path, content: bytes | None, code: int, told: str
) -> None:
    table = tmp_path / "prompts.csv"
    if content is not None:
        table.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    result = run("edit", *clips, *TINY, "--prompts", table)
    assert result.exit_code == code and re.search(told, result.stderr) and result.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
