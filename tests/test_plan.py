"""Plans: what an edit will do is said before it is done, and nothing is written but the sheet asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from shell import run

import zs2kit
from zs2kit import Clip, io
from zs2kit.clip import Frame
from zs2kit.errors import UsageError
from zs2kit.model import Model
from zs2kit.plan import Plan, plan
from zs2kit.testing import drawn_clip

SHOTS = (3, 5, 1)  # frames


def film(side: int = 32) -> Clip:
    """Three shots, as different as can be."""
    rng = np.random.default_rng(0)
    images = []
    for frames, colour in zip(SHOTS, (40, 220, 130), strict=True):
        place = np.full((side, side, 3), colour, np.uint8) + rng.integers(0, 30, (side, side, 3), np.uint8)
        images += [
            cv2.circle(place.copy(), (8 + index, 16), 5, (255 - colour, 0, 0), -1) for index in range(frames)
        ]
    return Clip.from_images(images, 12)


def files(folder: Path) -> dict[str, bytes]:
    return {str(each): each.read_bytes() if each.is_file() else b"" for each in folder.rglob("*")}


@pytest.fixture(scope="module")
def model(tiny_folders: dict[str, Path]) -> Model:
    return Model.load(tiny_folders["epsilon"])


def edited(model: Model, clip: Clip | None = None, **settings) -> Clip:
    settings = {"plugins": (), "num_inference_steps": 2, **settings}
    return zs2kit.edit(clip or film(), "a disc", model=model, **settings)


def planned(model: Model, tmp_path: Path, name: str = "out.mp4", **how) -> Plan:
    settings = {key: how.pop(key) for key in ("clip", "size", "chunk_size", "cuts") if key in how}
    return plan(edited(model, **settings), tmp_path / name, **how)


def test_a_plan_says_what_there_is(model: Model, tmp_path: Path) -> None:
    found = planned(model, tmp_path, size=(24, 40))
    assert (found.frames, found.rate, found.duration) == (9, 12, 0.75)
    assert found.shots == pytest.approx((0, 3 / 12, 8 / 12))
    assert found.source_size == (32, 32) and found.scaled_size == (24, 24)
    assert all(side % model.multiple == 0 and side >= 24 for side in found.model_size)
    assert found.chunk_size == 8 and found.model_bytes > 0 and found.carry_bytes > 0
    assert found.seconds > 0 and found.obstacles == () and not found.exists and found.saved == 0
    assert list(tmp_path.iterdir()) == []


def test_shots_and_chunks_as_they_are_given(model: Model, tmp_path: Path) -> None:
    found = planned(model, tmp_path, cuts=(0.5,), chunk_size=2)
    assert (found.shots, found.chunk_size) == ((0, 0.5), 2)


def test_an_edit_begins_each_shot_as_its_preview_shows_it(model: Model, tmp_path: Path) -> None:
    """To the bit with chunks of one frame; larger ones may round differently."""
    pairs: list[tuple[Frame, Frame]] = []
    planned(model, tmp_path, preview=lambda *pair: pairs.append(pair))
    begins = [0, 3, 8]
    assert [source.pts for source, _ in pairs] == [result.pts for _, result in pairs] == begins
    for size, most in ((1, 0), (8, 1)):
        made = [frame.image for frame in edited(model, chunk_size=size)]
        for (source, result), index in zip(pairs, begins, strict=True):
            assert np.abs(result.image.astype(int) - made[index]).max() <= most
            assert not np.array_equal(result.image, source.image)
    # The control: the frame after it is another one
    assert np.abs(pairs[1][1].image.astype(int) - made[4]).max() > 1


def test_what_stands_in_the_way_is_said(model: Model, tmp_path: Path, monkeypatch) -> None:
    io.write(tmp_path / "there.mp4", drawn_clip(2))
    before = files(tmp_path)
    found = planned(model, tmp_path, "there.mp4")
    (obstacle,) = found.obstacles
    assert found.exists and "overwrite=True" in obstacle
    assert planned(model, tmp_path, "there.mp4", overwrite=True).obstacles == ()
    (obstacle,) = planned(model, tmp_path, "nosuch/out.mp4").obstacles
    assert "there is no folder" in obstacle
    with pytest.raises(UsageError, match="give it a name that ends in"):
        planned(model, tmp_path, "out.txt")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    (obstacle,) = planned(model, tmp_path).obstacles
    assert "its disk has only" in obstacle
    assert files(tmp_path) == before


def test_a_longer_clip_takes_longer(model: Model, tmp_path: Path) -> None:
    found = [planned(model, tmp_path, clip=drawn_clip(frames), chunk_size=2) for frames in (4, 400)]
    assert found[1].seconds > 5 * found[0].seconds
    assert found[1].result_bytes == 100 * found[0].result_bytes
    assert found[1].carry_bytes == found[0].carry_bytes
    assert planned(model, tmp_path, "a.mp4", quality=0).result_bytes > found[0].result_bytes


class Stopped(Exception):
    """Ends an edit on its way."""


def interrupted(source: Path, out: Path, model: Model) -> None:
    def stop(done: int) -> None:
        if done == 6:
            raise Stopped

    with pytest.raises(Stopped):
        io.write(out, edited(model, io.read(source), chunk_size=3), progress=stop)


def test_what_is_kept_of_an_interrupted_edit(model: Model, tmp_path: Path) -> None:
    source = io.write(tmp_path / "film.mp4", film(), quality=0)
    out = tmp_path / "out.mp4"
    interrupted(source, out, model)
    before = files(tmp_path)

    def found(resume: bool | None, **settings) -> Plan:
        return plan(edited(model, io.read(source), **{"chunk_size": 3, **settings}), out, resume=resume)

    undecided, resumed, anew = (found(each) for each in (None, True, False))
    assert (undecided.saved, resumed.saved, anew.saved) == (6, 6, 0)
    assert "resume=True" in undecided.obstacles[0] and resumed.obstacles == anew.obstacles == ()
    other = found(True, seed=1)
    assert other.saved == 0 and "seed 0, not 1" in other.obstacles[0]
    assert files(tmp_path) == before
    io.write(out, edited(model, io.read(source), chunk_size=3), resume=True)  # and it still can be


def test_the_command_says_it_and_writes_nothing(tiny_folders, tmp_path: Path) -> None:
    source = io.write(tmp_path / "film.mp4", film(), quality=0)
    before = files(tmp_path)
    asked = [
        "plan",
        source,
        "--plugin",
        "none",
        "--model",
        tiny_folders["epsilon"],
        "--prompt",
        "a disc",
        "--steps",
        2,
    ]
    said = run(*asked)
    assert (said.exit_code, said.stderr) == (0, "")
    assert [line.split()[0] for line in said.stdout.splitlines()] == [
        *("frames", "shots", "size", "chunk", "memory", "time", "result", "disk", "copied")
    ]
    assert "3, at 0.00, 0.25, 0.67 s" in said.stdout and "film-edit.mp4" in said.stdout
    found = json.loads(run(*asked, "--json").stdout)
    assert (found["frames"], found["warnings"], found["obstacles"]) == (9, [], [])
    assert files(tmp_path) == before


def test_the_command_says_what_is_lost_and_fails_where_the_edit_would(tiny_folders, tmp_path: Path) -> None:
    source = io.write(tmp_path / "film.mkv", film(), codec="ffv1")
    sheet = tmp_path / "sheet.png"
    sheet.touch()
    asked = [
        "plan",
        source,
        "--plugin",
        "none",
        "--model",
        tiny_folders["epsilon"],
        "--prompt",
        "a disc",
        "--steps",
        2,
    ]
    said = run(*asked, "-o", source, "--sheet", sheet)
    assert said.exit_code == 1 and "frames      9" in said.stdout
    (line,) = said.stderr.splitlines()
    assert "is the source itself" in line and "sheet.png exists" in line
    (warning,) = json.loads(run(*asked, "-o", tmp_path / "out.mp4", "--json").stdout)["warnings"]
    assert "one colour sample" in warning


def test_a_preview_is_a_sheet_with_a_column_for_each_shot(tiny_folders, tmp_path: Path) -> None:
    source = io.write(tmp_path / "film.mp4", film(), quality=0)
    asked = [
        "plan",
        source,
        "--plugin",
        "none",
        "--model",
        tiny_folders["epsilon"],
        "--prompt",
        "a disc",
        "--steps",
        2,
    ]
    sheet = tmp_path / "sheet.png"
    made = run(*asked, "--preview", sheet)
    assert made.exit_code == 0, made.output
    picture = cv2.imread(str(sheet))
    assert picture.shape == (2 * (24 + 160 + 4), 3 * 164 - 4, 3)
    columns = [picture[24:184, left : left + 160].astype(int).mean() for left in (0, 164, 328)]
    assert columns == pytest.approx([55, 230, 145], abs=15)  # the source's shots
    assert sorted(tmp_path.iterdir()) == [source, sheet]
    again = run(*asked, "--preview", sheet)
    assert again.exit_code == 1 and "sheet.png exists" in again.stderr
