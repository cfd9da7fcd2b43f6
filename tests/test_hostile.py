"""Hostile input ends in a message or in a result, and never in a crash, a hang or code that it brings."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from zs2kit import Model, io
from zs2kit.bench import fuzz, hostile
from zs2kit.editing import generate
from zs2kit.errors import ClipError, ModelError, UsageError, Zs2Error
from zs2kit.plugins import write_new

CASES = 1000


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_each_case_is_refused_or_survived(kind: str) -> None:
    """Longer: python -m zs2kit.bench fuzz --cases 100000."""
    found = fuzz.fuzz(kind, hostile.KINDS[kind], [f"{kind} 0 {number}" for number in range(CASES)])
    print(found)
    assert found.faults == []
    assert found.counts.total() == CASES
    assert min(found.counts["refused"], found.counts["survived"]) > CASES / 20, "they all end alike"


def test_what_is_wrong_is_seen(tmp_path: Path) -> None:
    """The control: cases that do what none may."""

    def fail(dice: Random) -> None:
        raise KeyError("a traceback")

    def leave(dice: Random) -> None:
        Path("../beside").touch()

    def unpickle(dice: Random) -> None:
        pickle.loads(pickle.dumps(hostile.Bomb()))

    def say_nothing(dice: Random) -> None:
        raise Zs2Error("")

    watch = fuzz._Watch(tmp_path)
    here = Path.cwd()
    try:
        for attempt, kind in (
            (fail, "traceback"),
            (leave, "escape"),
            (unpickle, "escape"),
            (say_nothing, "no message"),
        ):
            assert fuzz._attempt("a case", attempt, watch).kind == kind
        assert (tmp_path / "BOMB").exists()
    finally:
        os.chdir(here)


def deadly(folder: Path) -> hostile.Attempt:
    def attempt(dice: Random) -> None:
        chosen = dice.random()
        if chosen == Random("die").random():
            os.abort()
        if chosen == Random("sleep").random():
            time.sleep(60)

    return attempt


@pytest.mark.parametrize(("case", "kind"), [("die", "crash"), ("sleep", "hang")])
def test_a_process_that_dies_or_hangs_is_replaced(
    monkeypatch: pytest.MonkeyPatch, case: str, kind: str
) -> None:
    monkeypatch.setattr(fuzz, "LIMIT", 2.0)
    found = fuzz.fuzz("control", deadly, ["well", case, "well"])
    assert found.counts == {"survived": 2, kind: 1}
    assert found.faults[0].startswith(f"{case}: {kind}: ")


# ---- what the fuzz found


def test_a_config_of_endless_layers_is_refused(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_folders["epsilon"], tmp_path / "model"))
    path = model / "unet" / "config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "transformer_layers_per_block": [1, [10**9]]})
    )
    with pytest.raises(ModelError, match="unet: its config says transformer_layers_per_block"):
        Model.load(model)


def test_a_size_or_a_name_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at most 16384x16384"):
        generate(size=(32, 10**30))
    with pytest.raises(UsageError, match="up to 64 lower-case letters"):
        write_new("a" * 300, tmp_path / "new")


class Interrupted(Exception):
    pass


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a journal that knows six frames, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zs2kit.journal.SEGMENT", 4)
    monkeypatch.setattr("zs2kit.journal.SHARE", float("inf"))
    return hostile.interrupted(Path("a.mkv"), 6)


@pytest.mark.parametrize("name", ["journal.json", "lock", "journal.new", "000000008.segment"])
@pytest.mark.parametrize("away", ["../away", "/dev/zero"])
def test_no_link_of_a_journal_is_followed(kept: Path, name: str, away: str) -> None:
    link = kept / name
    link.unlink(missing_ok=True)
    link.symlink_to(away)
    with suppress(ClipError):
        io.write("a.mkv", hostile.Drawn(), resume=True)
    assert not Path("away").exists()


@pytest.mark.parametrize("name", ["journal.json", "000000000.segment", "000000006.safetensors"])
def test_no_pipe_in_a_journal_is_waited_for(kept: Path, name: str) -> None:
    (kept / name).unlink()
    os.mkfifo(kept / name)
    with pytest.raises(ClipError, match="is damaged; start again"):
        io.write("a.mkv", hostile.Drawn(), resume=True)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("name", ["journal.new", "a.mkv"])
def test_what_lies_where_a_file_comes_is_removed(kept: Path, name: str, make: Callable[[Path], None]) -> None:
    edit = json.loads((kept / "journal.json").read_text())["edit"]
    hostile.write_journal(kept, {**edit, "checksums": {**edit["checksums"], name: 0}})
    make(kept / name)
    io.write("a.mkv", hostile.Drawn(), resume=True)


@pytest.mark.parametrize(
    ("entry", "value"),
    [("times", None), ("duration", "1"), ("chunk_size", 0), ("chunk_size", 1e300), ("checksums", [1])],
)
def test_a_journal_that_lies_is_damaged(kept: Path, entry: str, value: object) -> None:
    hostile.write_journal(kept, {**json.loads((kept / "journal.json").read_text())["edit"], entry: value})
    with pytest.raises(ClipError, match="is damaged; start again"):
        io.write("a.mkv", hostile.Drawn(), resume=True)


# ---- code in a checkpoint


@pytest.mark.parametrize("how", range(hostile.TRAPS))
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_no_code_of_a_checkpoint_runs(
    tiny_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: int, part: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    model = Path(shutil.copytree(tiny_folders["epsilon"], "model"))
    hostile.booby_trapped(model, how, part, Random(0))
    with suppress(ModelError):  # what only looks like remote code is left out, and the rest loads
        Model.load(model)
        assert how == hostile.HARMLESS
    assert not (tmp_path / "BOMB").exists()


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt", ".safetensors"])
def test_no_pickle_is_opened(tiny_folders: dict[str, Path], tmp_path: Path, suffix: str) -> None:
    bomb = tmp_path / f"look{suffix}"
    bomb.write_bytes(pickle.dumps(hostile.Bomb()))
    for given in ({"loras": {bomb: 1.0}}, {"embeddings": [bomb]}):
        with pytest.raises(ModelError, match="safetensors"):
            Model.load(tiny_folders["epsilon"], **given)
    assert not (tmp_path.parent / "BOMB").exists() and not (tmp_path / "BOMB").exists()
