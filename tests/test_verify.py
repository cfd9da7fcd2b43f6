"""zs2kit verify: what was kept is confirmed, and what was not is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from click.testing import CliRunner
from zoo import BT709, FULL, LIMITED, TS, make, spoilt

from zs2kit import cli, io
from zs2kit.clip import Clip, Color, Frame
from zs2kit.verify import verify

SOURCE: dict[str, Any] = {"sound": "aac libmp3lame", "color": Color(BT709, 1, 1, LIMITED)}


def changed(**fields: Any) -> Callable[[Clip, Path], None]:
    """A result with other properties than the source's."""

    def change(clip: Clip, out: Path) -> None:
        io.write(out, replace(clip, **fields))

    return change


def edited(edit: Callable[[list[Frame]], list[Frame]]) -> Callable[[Clip, Path], None]:
    """A result with other frames than the source's."""

    def change(clip: Clip, out: Path) -> None:
        frames = edit(list(clip))
        height, width, _ = frames[0].image.shape
        io.write(out, replace(clip, frames=frames, width=width, height=height))

    return change


def made(maker: Callable[..., Path] = make, **settings: Any) -> Callable[[Clip, Path], None]:
    """A result that is encoded as the source is, but for these settings."""

    def change(_: Clip, out: Path) -> None:
        maker(out, **(SOURCE | settings))

    return change


def sound_changed(late: int = 0, noise: bool = False) -> Callable[[Clip, Path], None]:
    """A result whose second stream of sound comes late by so many ticks, or in which one byte differs."""

    def change(clip: Clip, out: Path) -> None:
        nonlocal noise
        whole = io.write(out.with_name("whole.mp4"), clip)
        with av.open(str(whole)) as source, av.open(str(out), "w") as target:
            copies = [target.add_stream_from_template(each, opaque=True) for each in source.streams]
            for packet in source.demux():
                if not packet.size:
                    continue
                if packet.stream.index == 2:
                    packet.pts, packet.dts = packet.pts + late, packet.dts + late
                    if noise and packet.pts > 4000:
                        np.frombuffer(packet, np.uint8)[-1] ^= 1
                        noise = False
                packet.stream = copies[packet.stream.index]
                target.mux(packet)

    return change


def moved(frames: list[Frame]) -> list[Frame]:
    return [*frames[:5], frames[5]._replace(pts=frames[5].pts + 100), *frames[6:]]


def cropped(frames: list[Frame]) -> list[Frame]:
    return [frame._replace(image=frame.image[:, :60]) for frame in frames]


WRONG: dict[str, tuple[Callable[[Clip, Path], None], set[str]]] = {
    "a frame is lost": (edited(lambda frames: frames[:-1]), {"frames"}),
    "a frame is early": (edited(moved), {"times"}),
    "the last frame stays": (
        edited(lambda frames: [*frames[:-1], frames[-1]._replace(duration=5000)]),
        {"duration"},
    ),
    "cropped": (edited(cropped), {"size", "aspect"}),
    "wide": (changed(sample_aspect_ratio=Fraction(4, 3)), {"aspect"}),
    "on its head": (made(turn=180), {"orientation"}),
    "on its side": (made(turn=90), {"orientation", "size", "aspect"}),
    "other primaries": (changed(color=Color(BT709, 9, 14, LIMITED)), {"colour"}),
    "other range": (changed(color=Color(BT709, 1, 1, FULL)), {"colour"}),
    "silent": (changed(silent=True), {"sound"}),
    "another sound": (made(sound="aac aac"), {"sound"}),
    "damaged sound": (sound_changed(noise=True), {"sound 2 bytes"}),
    "late sound": (sound_changed(late=100), {"sound 2 times"}),
    "damaged": (made(spoilt, packets=(11,), options={"bf": "0"}), {"frames that can't be decoded"}),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_what_is_wrong_is_named(tmp_path: Path, case: str) -> None:
    change, names = WRONG[case]
    source, out = make(tmp_path / "clip.mp4", **SOURCE), tmp_path / "out.mp4"
    change(io.read(source), out)
    assert {check.name for check in verify(source, out) if not check.ok} == names


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.ts"])
def test_a_cut_is_compared_with_what_was_cut_out(tmp_path: Path, name: str, suffix: str) -> None:
    tick = {"time_base": TS} if name.endswith("ts") else {}
    source = make(tmp_path / name, frames=60, sound="aac", **tick)
    span = {"start": Fraction(1), "end": Fraction("1.6")}
    clip = io.read(source, **span)
    assert clip.frame_count == 15  # seconds count from the first picture or sound
    out = io.write(tmp_path / f"out{suffix}", clip)
    checks = verify(source, out, **span)
    assert [check for check in checks if not check.ok] == []
    assert {check.name for check in verify(source, out) if not check.ok} >= {
        "frames",
        "duration",
        "sound 1 bytes",
    }


@pytest.mark.parametrize(
    ("codec", "out"), [("ffv1", "out.mkv"), ("prores", "out.mov"), ("png", "out.%03d.png")]
)
def test_every_kind_of_result_is_known(tmp_path: Path, codec: str, out: str) -> None:
    source = make(
        tmp_path / "clip.mp4", color=Color(BT709, 1, 1, LIMITED), sound="" if codec == "png" else "aac"
    )
    settings = {} if codec == "png" else {"codec": codec}
    io.write(tmp_path / out, io.read(source), **settings)
    checks = verify(source, tmp_path / out)
    assert [check for check in checks if not check.ok] == []


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli.main, ["verify", *map(str, arguments)])


def test_the_command_prints_a_line_for_each_check(tmp_path: Path) -> None:
    source = make(tmp_path / "clip.mp4", **SOURCE)
    out = io.write(tmp_path / "out.mp4", io.read(source))
    good = run(source, out)
    assert (good.exit_code, good.stderr) == (0, "")
    lines = good.stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert "ok     frames: 12" in lines and "ok     colour: BT.709, BT.709, BT.709, limited" in lines
    bad = run(source, make(tmp_path / "bad.mp4", frames=11))
    assert bad.exit_code == 1
    assert "WRONG  frames: 11 instead of 12" in bad.stdout.splitlines()
    assert "WRONG  sound: none instead of aac, mp3" in bad.stdout.splitlines()
    (line,) = bad.stderr.splitlines()
    assert line.startswith("zs2kit: error: ") and "frames" in line
    found = json.loads(run(source, tmp_path / "bad.mp4", "--json").stdout)
    assert {"name": "frames", "ok": False, "says": "11 instead of 12"} in found
    assert run(source, tmp_path / "none.mp4").exit_code == 1
    assert run(source, out, "--start", "9").exit_code == 2


def test_a_sequence_has_the_rate_that_is_said(tmp_path: Path) -> None:
    pictures = io.write(tmp_path / "in.%02d.png", io.read(make(tmp_path / "clip.mp4", frames=60)))
    out = io.write(tmp_path / "out.mkv", io.read(pictures, rate=24), codec="ffv1")
    for fps, code in (("24", 0), ("25", 1)):
        asked = ["verify", "--fps", fps, str(pictures), str(out)]
        assert CliRunner().invoke(cli.main, asked).exit_code == code
