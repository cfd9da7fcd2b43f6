"""How far a command is, as it is shown: lines for logs, JSON for programs, nothing when told so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from zs2kit import cli, io, progress
from zs2kit.cli import cores, display
from zs2kit.progress import Pace, Progress
from zs2kit.testing import drawn_clip


def test_progress_in_words() -> None:
    half = Progress(8, "drawing", 48, step=3, steps=20, under_way=1.2, seconds_left=92.4)
    assert progress.in_words(half) == "8 of 48 frames, step 3 of 20, about 1:32 left"
    assert half.fraction == pytest.approx(9.2 / 48)
    assert progress.in_words(Progress(8, "writing")) == "8 frames"
    assert [progress.clock(seconds) for seconds in (0, 59.6, 3725)] == ["0:00", "1:00", "1:02:05"]


def test_the_time_left_is_measured_over_the_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("zs2kit.progress.perf_counter", lambda: now[0])
    pace = Pace(10)  # resumed: ten frames were there before
    assert pace.seconds_left(10, 50) is None
    now[0] += 8
    assert pace.seconds_left(12, 50) == pytest.approx(4 * 38)
    assert pace.seconds_left(12, None) is None


def test_lines_come_at_their_time_and_at_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(display, "EVERY", 0.05)
    with display.Lines() as lines:
        lines.stage("loading the model")
        time.sleep(0.08)
        lines.stage("editing")
        lines.update(Progress(2, "drawing", 6, step=1, steps=4, seconds_left=3.0))
        time.sleep(0.08)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "zs2kit: loading the model"
    assert said[-1] == "zs2kit: editing: 2 of 6 frames, step 1 of 4, about 0:03 left"
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_what_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(display.make_display("auto", quiet=False)) is display.Lines  # pytest's stderr is no terminal
    assert type(display.make_display("auto", quiet=True)) is display.Display
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert type(display.make_display("auto", quiet=False)) is display.Bar


def test_a_program_is_told_in_json(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    source = io.write(tmp_path / "clip.mp4", drawn_clip(4), quality=5)
    asked = ["edit", source, "--plugin=none", "--model", tiny_folders["epsilon"], "--prompt=x", "--steps=3"]
    done = CliRunner().invoke(
        cli.main, [*map(str, asked), "--chunk-size=2", "--cuts=none", "--progress=json"]
    )
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.exit_code == 0, done.output
    assert [each["stage"] for each in told if "frames" not in each] == [
        *("looking at the clip", "loading the model", "editing")
    ]
    steps = [each for each in told if "frames" in each]
    assert steps and {(each["stage"], each["total"], each["steps"]) for each in steps} == {("editing", 4, 3)}
    silent = CliRunner().invoke(cli.main, [*map(str, asked), "--overwrite", "--progress=none"])
    assert (silent.exit_code, silent.stderr) == (0, "")


# ---- busy cores


@pytest.mark.parametrize(
    ("busy", "given", "chosen"), [(0.1, None, None), (1.2, None, "PASSIVE"), (1.2, "ACTIVE", "ACTIVE")]
)
def test_threads_wait_passively_where_others_are_busy(
    busy: float, given: str | None, chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "busy_cores", lambda: busy)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(os, "environ", {} if given is None else {cores.POLICY: given})
    cores.choose_waiting()
    assert os.environ.get(cores.POLICY) == chosen


def test_a_busy_core_is_seen() -> None:
    spin = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert cores.busy_cores(0.3) >= cores.BUSY
    finally:
        spin.kill()
        spin.wait()
