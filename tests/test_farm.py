"""Farms: two workers draw what one machine draws, to the bit, and a worker's death costs its shot at most."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import save_file
from shell import run
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

import zs2kit
from zs2kit import io
from zs2kit.errors import ClipError, UsageError, Zs2Error, receiving
from zs2kit.farm import Farm, _connect, _ray
from zs2kit.filters import Smooth, Upscale
from zs2kit.testing import drawn_clip

HOW = {"plugins": (), "num_inference_steps": 2, "size": (32, 32), "chunk_size": 2}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _ray()  # with the environment that farms need
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def farm(cluster: None, tiny_folders: dict[str, Path]) -> Iterator[Farm]:
    with Farm(name=tiny_folders["epsilon"], device="cpu") as farm:
        assert len({each.pid for each in farm.workers} - {os.getpid()}) == 2
        yield farm


@pytest.fixture(scope="module")
def model(cluster: None, tiny_folders: dict[str, Path]) -> zs2kit.Model:
    return zs2kit.Model.load(tiny_folders["epsilon"], device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shots of different lengths, cut by `CUTS`."""
    path = tmp_path_factory.mktemp("farm") / "clip.mp4"
    return io.write(path, drawn_clip(18, rate=Fraction(12)))


CUTS = (5 / 12, 8 / 12, 15 / 12)


def same(one: zs2kit.Clip, other: zs2kit.Clip) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a.pts == b.pts and a.cut == b.cut and np.array_equal(a.image, b.image) for a, b in pairs)


def test_the_frames_are_those_of_one_machine(farm: Farm, model: zs2kit.Model, clip: Path) -> None:
    alone = zs2kit.edit(clip, "a disc", model=model, cuts=CUTS, **HOW)
    together = farm.edit(clip, "a disc", cuts=CUTS, **HOW)
    assert together.describe() == alone.describe()
    assert same(together, alone)
    assert same(together, alone)  # and again
    other = farm.edit(clip, "a disc", cuts=CUTS, **HOW, seed=1)
    assert not same(other, alone)


def test_a_part_of_a_clip_with_filters(farm: Farm, model: zs2kit.Model, clip: Path, tmp_path: Path) -> None:
    part = io.read(clip, start=2 / 12, end=16 / 12)
    alone, together = (
        Smooth(2)(draw(part, "a disc", cuts=CUTS, **HOW))
        for draw in (lambda *args, **how: zs2kit.edit(*args, model=model, **how), farm.edit)
    )
    results = [io.write(tmp_path / f"{number}.mkv", made) for number, made in enumerate((alone, together))]
    assert results[0].read_bytes() == results[1].read_bytes()


def test_an_enlarger_on_a_farm(farm: Farm, model: zs2kit.Model, clip: Path, tmp_path: Path) -> None:
    network = tmp_path / "tiny.safetensors"
    save_file(SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2).state_dict(), network)
    together = farm.edit(clip, "a disc", cuts=CUTS, **HOW)
    alone = zs2kit.edit(clip, "a disc", model=model, cuts=CUTS, **HOW)
    assert same(Upscale(1.0, str(network))(together), Upscale(1.0, str(network))(alone))
    with pytest.raises(UsageError, match="has no network: the model's own one is on the farm; name one"):
        Upscale()(together)


@pytest.mark.parametrize("moment", [0, pytest.param(1, marks=pytest.mark.slow), 7])
def test_a_worker_may_be_killed_at_any_moment(
    farm: Farm, model: zs2kit.Model, clip: Path, moment: int
) -> None:
    said: list[zs2kit.Notice] = []
    alone = zs2kit.edit(clip, "a disc", model=model, cuts=CUTS, **HOW)
    pids = {each.pid for each in farm.workers}

    def kill(done: int) -> None:
        if done == moment:
            os.kill(farm.workers[0].pid, signal.SIGKILL)

    together = farm.edit(clip, "a disc", cuts=CUTS, **HOW, progress=kill, notices=said.append)
    if not moment:
        together.begin()
        farm._turn(None)  # which gives both workers a shot
        kill(0)
    assert same(together, alone)
    assert moment or [each.kind for each in said] == ["worker-lost"]
    assert same(together, alone)  # whoever is left, and whoever came
    assert {each.pid for each in farm.workers} != pids


@pytest.mark.slow
def test_a_shot_that_ends_every_worker_is_an_error(farm: Farm, clip: Path) -> None:
    together = farm.edit(clip, "a disc", cuts=CUTS, **HOW, notices=lambda notice: None)
    together.begin()
    over = pytest.raises(
        Zs2Error, match=r"3 workers died while drawing the shot from frame 0 of .*, the last one on"
    )
    with over, receiving(lambda notice: None):
        for _ in range(1000):
            farm._give()
            for each in farm.workers:  # before it can finish
                if each.task is not None and each.task.index == 0:
                    os.kill(each.pid, signal.SIGKILL)
            farm._turn(None)


def test_an_edit_that_was_stopped_is_resumed(
    farm: Farm, model: zs2kit.Model, clip: Path, tmp_path: Path
) -> None:
    def edits() -> zs2kit.Clip:
        return farm.edit(clip, "a disc", cuts=CUTS, **HOW)

    whole = io.write(tmp_path / "whole.mkv", zs2kit.edit(clip, "a disc", model=model, cuts=CUTS, **HOW))
    stopped = edits()

    def stop(done: int) -> None:
        if done == 10:
            stopped.stop()

    with pytest.raises(zs2kit.Stopped) as caught:
        io.write(tmp_path / "out.mkv", stopped, progress=stop)
    saved = int(caught.value.__notes__[0].partition(" of 18 frames are saved")[0])
    assert saved in (5, 8)  # whole shots
    drawn: list[int] = []
    again = farm.edit(clip, "a disc", cuts=CUTS, **HOW, progress=drawn.append)
    out = io.write(tmp_path / "out.mkv", again, resume=True)
    assert drawn == list(range(saved + 1, 19))
    assert out.read_bytes() == whole.read_bytes()


def test_what_one_machine_has_begun_a_farm_goes_on_with(
    farm: Farm, model: zs2kit.Model, clip: Path, tmp_path: Path
) -> None:
    whole = io.write(tmp_path / "whole.mkv", zs2kit.edit(clip, "a disc", model=model, cuts=CUTS, **HOW))
    begun = zs2kit.edit(clip, "a disc", model=model, cuts=CUTS, **HOW)
    with pytest.raises(zs2kit.Stopped):
        io.write(tmp_path / "out.mkv", begun, progress=lambda done: done == 2 and begun.stop())
    together = farm.edit(clip, "a disc", cuts=CUTS, **HOW)  # from the middle of a shot on
    assert io.write(tmp_path / "out.mkv", together, resume=True).read_bytes() == whole.read_bytes()


def test_errors_of_workers_are_those_of_one_machine(
    farm: Farm, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="the prompt at frame 99 comes after the end"):
        farm.edit(clip, {0: "a disc", 99: "a ball"}, **HOW)
    with pytest.raises(UsageError, match="a farm edits only clips that its workers can read from a file"):
        farm.edit(drawn_clip(2), "a disc", **HOW)
    moved = io.read(io.write(tmp_path / "moved.mp4", drawn_clip(2)))
    io.write(tmp_path / "moved.mp4", drawn_clip(3), overwrite=True)
    monkeypatch.setattr("zs2kit.farm.described", lambda clip: {"source": "as it was"})
    with pytest.raises(ClipError, match=r"a worker finds a different file at .*moved\.mp4"):
        farm.edit(moved, "a disc", **HOW)


@pytest.mark.slow
def test_a_question_that_ends_every_worker_is_an_error(farm: Farm) -> None:
    asked: list[int] = []

    def die(actor: Any) -> Any:
        (pid,) = (each.pid for each in farm.workers if each.actor is actor)
        asked.append(pid)
        os.kill(pid, signal.SIGKILL)
        return actor.finish.remote(0)

    with pytest.raises(Zs2Error, match="3 workers died while preparing an edit"):
        farm.ask(die)
    assert len(set(asked)) == 3


def test_a_clip_that_is_gone_stops_no_other_edit(
    farm: Farm, model: zs2kit.Model, clip: Path, tmp_path: Path
) -> None:
    other = io.write(tmp_path / "other.mp4", drawn_clip(3))
    first = farm.edit(clip, "a disc", cuts=CUTS, **HOW)
    second = farm.edit(other, "a disc", **HOW)
    other.unlink()
    first.begin()
    second.begin()
    assert same(first, zs2kit.edit(clip, "a disc", model=model, cuts=CUTS, **HOW))
    with pytest.raises(ClipError, match=r"other\.mp4"):
        list(second)


def test_farms_that_cannot_be_are_one_line(farm: Farm, tiny_folders: dict[str, Path]) -> None:
    with pytest.raises(
        Zs2Error, match=r"the farm 127\.0\.0\.1:1 can't be reached \(Connection refused\); is Ray started"
    ):
        _connect(ray, "127.0.0.1:1")
    for address in ("nowhere", "127.0.0.1", ":6379", "127.0.0.1:99999"):
        with pytest.raises(UsageError, match=f"'{address}' is not the address of a farm; write HOST:PORT"):
            _connect(ray, address)
    old = ("0.0.1", torch.__version__)
    with pytest.raises(Zs2Error, match=r"the worker on .* has zs2kit .*, but this is zs2kit 0\.0\.1 with"):
        farm.ask(lambda worker: worker.start.remote(old, 1, "", {}))
    farm.ask(lambda worker: worker.finish.remote(0))  # which is still there
    with pytest.raises(Zs2Error, match="the farm local has no machine with 1 free cores; try again later"):
        Farm(name=tiny_folders["epsilon"], device="cpu")


@pytest.mark.slow
def test_a_worker_of_another_version_is_left_out(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose() -> None:
        hand = farm.workers[0]
        os.kill(hand.pid, signal.SIGKILL)
        farm._bury(hand)
        while farm._starting:
            farm._turn(None)

    said: list[zs2kit.Notice] = []
    with monkeypatch.context() as patch, receiving(said.append):
        patch.setattr("zs2kit.farm.__version__", "0.0.1")
        lose()
        assert len(farm.workers) == 1 and [each.kind for each in said] == ["worker-missing"]
        assert re.match(r"the farm goes on without a worker: the worker on .* has zs2kit", said[0].message)
        with pytest.raises(Zs2Error, match=r"^the worker on .* but this is zs2kit 0\.0\.1 with"):
            lose()
    farm._hire()
    farm._hire()
    while farm._starting:
        farm._turn(None)
    assert len(farm.workers) == 2


class Ray:
    """A Ray cluster of its own: its head and other nodes, each with one core."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0" * 64,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "OMP_NUM_THREADS": "1",
        }
        self.address = ""

    def start(self) -> None:
        """Start the head, or else a node that joins it."""
        head = ["--head", f"--port={self.port}", f"--temp-dir={self.folder}", "--include-dashboard=false"]
        log = self.folder / f"{len(self.nodes)}.txt"
        with log.open("wb") as out:
            node = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
                + ([f"--address={self.address}"] if self.address else head),
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.nodes.append(node)
        until(lambda: "Ray runtime started" in log.read_text() or node.poll() is not None)
        found = re.search(r"Local node IP: (\S+)", log.read_text())
        assert found and node.poll() is None, log.read_text()
        self.address = f"{found[1]}:{self.port}"

    def stop(self) -> None:
        """End all of it, as `ray stop` does."""
        for node in reversed(self.nodes):
            node.terminate()
            node.wait(60)

    def edit(self, *args: object, **environment: str) -> subprocess.Popen[str]:
        """Begin `zs2kit edit --farm` with this cluster."""
        command = [sys.executable, "-m", "zs2kit", "edit", "--farm", self.address, *map(str, args)]
        return subprocess.Popen(
            command,
            cwd=self.folder,  # Ray lets workers import what is in the directory in which a command is started
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


def until(happens: Callable[[], object]) -> None:
    for _ in range(3000):
        if happens():
            return
        time.sleep(0.1)
    raise AssertionError("it never happens")


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Ray]:
    with TemporaryDirectory(prefix="r") as folder:  # whose path must be short, since Ray has sockets there
        made = Ray(Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.stop()


@pytest.mark.slow
def test_a_farm_that_cannot_be_started(clip: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "zs2kit", "edit", "--farm", "local", "--plugin", "none", str(clip)]
    (folder := tmp_path / ("long" * 30)).mkdir()  # too long for Ray's sockets
    result = subprocess.run(
        words, env={**os.environ, "RAY_TMPDIR": str(folder)}, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert re.match(
        r"zs2kit: error: Ray can't be started on this machine \(.*\); try again; it may be too busy\n$",
        result.stderr,
    )


@pytest.mark.slow
def test_a_cluster_that_cannot_be_joined(elsewhere: Ray, clip: Path) -> None:
    result = elsewhere.edit(clip, "--plugin", "none", "--prompt", "a disc", RAY_AUTH_TOKEN="1" * 64)
    said = result.communicate()[1].splitlines()
    assert result.returncode == 1
    assert re.match(r"zs2kit: error: the farm \S+ can't be joined \(.*\); start Ray on this", said[-1])


@pytest.mark.slow
def test_a_cluster_by_its_address(
    elsewhere: Ray, tiny_folders: dict[str, Path], clip: Path, tmp_path: Path
) -> None:
    words = [clip, "--model", tiny_folders["epsilon"], "--device", "cpu", "--size", "32x32"]
    words += ["--plugin", "none", "--prompt", "a disc", "--cuts", "0:00.4167,0:00.6667,0:01.25"]
    words += ["--chunk-size", "2", "--steps", "2", "-o"]
    alone = tmp_path / "alone.mkv"
    assert run("edit", *words, alone).exit_code == 0
    for number in (1, 2):
        if number == 2:
            elsewhere.start()
        result = elsewhere.edit(*words, out := tmp_path / f"{number}.mkv")
        said = result.communicate()[1]
        assert result.returncode == 0 and "zs2kit:" not in said, said
        assert out.read_bytes() == alone.read_bytes()


def test_a_missing_extra_says_what_to_install(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run("edit", clip, "--plugin", "none", "--farm", "local")
    assert result.stderr.splitlines()[-1] == "zs2kit: error: farms need Ray; pip install 'zs2kit[farm]'"
    assert result.exit_code == 2


def test_a_farm_may_be_started_as_soon_as_another_is_closed(
    farm: Farm, tiny_folders: dict[str, Path]
) -> None:
    farm.close()
    for _ in range(2):
        with Farm(name=tiny_folders["epsilon"], device="cpu") as another:
            assert another.workers


def test_several_clips_and_their_reports(
    farm: Farm, tiny_folders: dict[str, Path], clip: Path, tmp_path: Path
) -> None:
    farm.close()  # the command starts workers of its own
    other = io.write(tmp_path / "other.mp4", drawn_clip(3))
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    words = ["--model", tiny_folders["epsilon"], "--device", "cpu", "--steps", "1", "--plugin", "none"]
    words += ["--prompt", "a disc", "--cuts", "0:00.5", "--chunk-size", "8"]
    made = []
    for name, further in {"farm": ["--farm", "local"], "alone": []}.items():
        (folder := tmp_path / name).mkdir()
        result = run("edit", clip, other, bad, "-o", folder, "--report", folder, *words, *further)
        assert f"error: {bad} is not a video" in result.stderr and result.exit_code == 1
        made.append([folder / "clip-edit.mp4", folder / "other-edit.mp4"])
        assert result.stdout.splitlines() == [str(each) for each in made[-1]], result.stderr
    for ours, theirs in zip(*made, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()
        reports = [json.loads(each.with_suffix(".json").read_text()) for each in (ours, theirs)]
        assert reports[0]["model"] == reports[1]["model"]
        assert reports[0]["metrics"] == reports[1]["metrics"]


def test_a_closed_farm_says_so(farm: Farm, clip: Path) -> None:
    farm.close()
    with pytest.raises(Zs2Error, match="the farm has no worker left; start it again"):
        farm.edit(clip, "a disc", **HOW)
