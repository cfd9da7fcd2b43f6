"""What an edit loses when it is killed: it is, at named points and at random moments, and then goes on."""

from __future__ import annotations

import faulthandler
import math
import mmap
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from hashlib import sha256
from itertools import count, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import IO, Any

import av
import cv2
import numpy as np
import torch

import zs2kit
from zs2kit import io, journal, sampler
from zs2kit.bench.memory import all_filters
from zs2kit.carry import Carry
from zs2kit.errors import Zs2Error
from zs2kit.filters import Filter, Smooth, Steady, through
from zs2kit.io import streams, writing
from zs2kit.model import Model
from zs2kit.testing import drawn_clip, tiny_model
from zs2kit.verify import Check, verify

FRAMES, CHUNK, STEPS, SEGMENT = 26, 4, 2, 10
CHUNKS = -(-FRAMES // CHUNK)


@dataclass(frozen=True)
class Point:
    """A call at which to kill: the ``call``-th of ``owner.name`` that is ``meant``, before it or after.

    Of a generator, ``items`` are counted.
    """

    owner: Any
    name: str
    call: int = 1
    after: bool = False
    items: bool = False
    rows: bool = False  # of an edit that takes each step for the whole shot before the next one
    meant: Callable[..., bool] = lambda *_: True

    def arm(self) -> None:
        """Kill this process when it comes there."""
        original = getattr(self.owner, self.name)
        calls = count(1)

        def strike(*arguments: Any) -> bool:
            return self.meant(*arguments) and next(calls) == self.call

        def call(*arguments: Any, **named: Any) -> Any:
            due = strike(*arguments)
            if due and not self.after:
                kill()
            result = original(*arguments, **named)
            if due:
                kill()
            return result

        def items(*arguments: Any, **named: Any) -> Iterator[Any]:
            for item in original(*arguments, **named):
                if strike(*arguments):
                    kill()
                yield item

        setattr(self.owner, self.name, items if self.items else call)


def kill() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def _of(suffix: str) -> Callable[..., bool]:
    """Whether a call is about a file that ends so."""
    return lambda *arguments: str(arguments[-1]).endswith(suffix)


POINTS: dict[str, Point | None] = {
    "import": None,  # of torch, by the command line
    "first step": Point(sampler, "advance"),
    "last step": Point(sampler, "advance", CHUNKS * STEPS, after=True),
    "decode": Point(Model, "decode", 8),
    "frame encode": Point(writing, "_picture", SEGMENT + 3),
    "pictures write": Point(journal.Journal, "_add", SEGMENT + 5, after=True),
    "segment close": Point(journal, "sync", meant=_of(".segment")),
    "carry write": Point(Carry, "save", 4, after=True),
    "carry rename, before": Point(Path, "replace", 4, meant=_of(".safetensors")),
    "carry rename, after": Point(Path, "replace", 4, after=True, meant=_of(".safetensors")),
    "journal rename, before": Point(Path, "replace", 4, meant=_of("journal.json")),
    "journal rename, after": Point(Path, "replace", 4, after=True, meant=_of("journal.json")),
    "final join": Point(writing, "_join"),
    "packet write": Point(writing, "_video_packets", FRAMES // 2, items=True),
    "audio copy": Point(streams, "_copied_packets", 20, items=True),
    "final rename, before": Point(writing, "place"),
    "final rename, after": Point(writing, "place", after=True),
    "clean-up": Point(shutil, "rmtree", meant=_of(".zs2kit")),
    "step in rows": Point(sampler, "advance", CHUNKS + 2, rows=True),
    "row rename, before": Point(Path, "replace", 2, meant=_of(".safetensors"), rows=True),
    "row decode": Point(Model, "decode", 3, rows=True),
    # These are of edits that go through both filters.
    "filter steady": Point(Steady, "run", 4),
    "filter smooth": Point(Smooth, "run", FRAMES // 2, after=True),
}


@dataclass(frozen=True)
class Kill:
    """What a kill did: where it hit, frames that were done and kept by then, and whether all is the same.

    ``failed`` are the names of those checks of `verify` that the resumed result doesn't pass.
    """

    where: str
    done: int
    kept: int
    frames_differ: int
    packets_differ: int
    failed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.where:50} {self.done:3} frames done, {self.kept:3} kept; afterwards "
            f"{self.frames_differ} frames and {self.packets_differ} packets of sound differ"
            + (f", and verify finds fault with {', '.join(self.failed)}" if self.failed else "")
        )


class Range:
    """A place to kill edits of one clip in, over and over, in forks of this process.

    The edits save after each chunk, whatever it costs, lest there be nothing to hit. The clip is a drawn one,
    or the first seconds of a given one, which goes through all filters if ``filtered``.
    """

    def __init__(
        self, folder: Path, clip: Path | None = None, end: float | None = None, filtered: bool = False
    ) -> None:
        torch.set_num_threads(1)  # other threads don't come along into a fork
        cv2.setNumThreads(1)
        journal.SHARE, journal.SEGMENT = math.inf, SEGMENT
        self.folder = folder
        self.checkpoint = tiny_model(folder / "model")
        self.model = Model.load(self.checkpoint)
        self.source = clip or with_sound(io.write(folder / "picture.mp4", drawn_clip(FRAMES), quality=5))
        self.end, self._filtered = end, filtered
        self.filters: list[Filter] = all_filters(folder, 1.0) if filtered else [Steady(), Smooth(2)]
        self.out = folder / "out.mp4"
        self.done = mmap.mmap(-1, 8)  # which outlives who writes it
        began = perf_counter()
        self._expected = {filtered: self._undisturbed(filtered)}
        self.seconds = perf_counter() - began
        self.frames = len(self._expected[filtered][0])  # of the result

    def _undisturbed(self, filtered: bool) -> list[list[tuple[int | None, bytes]]]:
        self._fork(lambda: self.edit(None, filtered))
        made, self.checks = contents(self.out), self._verified(filtered)
        self.out.unlink()
        if failed := [each.name for each in self.checks if not each.ok]:
            raise Zs2Error(f"an undisturbed result differs from its source in: {', '.join(failed)}")
        return made

    def _verified(self, filtered: bool) -> list[Check]:
        return verify(self.source, self.out, end=self.end, filters=self.filters if filtered else [])

    def edit(self, resume: bool | None, filtered: bool = False, rows: bool = False) -> None:
        """Edit the clip, in this process; filtered: through two filters; rows: in this order."""
        edited = zs2kit.edit(
            io.read(self.source, end=self.end),
            "a red robot",
            plugins=(),
            model=self.model,
            num_inference_steps=STEPS,
            chunk_size=CHUNK,
            guidance_scale=1,
        )
        edited.scan.in_rows = rows
        made = through(edited, self.filters if filtered else [])
        io.write(self.out, made, resume=resume, progress=lambda done: self.done.__setitem__(0, done))

    def at(self, name: str) -> Kill:
        """Kill an edit at the point of this name, and let another one go on."""
        point = POINTS[name]
        filtered = point is not None and point.owner in (Steady, Smooth)
        if filtered not in self._expected:
            self._expected[filtered] = self._undisturbed(filtered)

        def edit() -> None:
            assert point is not None
            point.arm()
            self.edit(None, filtered, point.rows)

        if point is None:
            self._kill_import()
        else:
            self._fork(edit)
        return self._resumed(name, filtered)

    def near(self, frame: int, seconds: float) -> Kill:
        """Kill an edit so long after ``frame`` frames are done, and let another go on; say where that was."""
        with (self.folder / "stack").open("w+") as stack:
            faulthandler.register(signal.SIGUSR1, stack, all_threads=False)
            ended = self._fork(
                lambda: self.edit(None, self._filtered), lambda: self._stop(frame, seconds, stack)
            )
            stack.seek(0)
            lines = re.findall(r'zs2kit/([\w/]+\.py)", line \d+ in (\w+)', stack.read())
        where = "after its end" if ended else ", ".join(lines[0]) if lines else "elsewhere"
        return self._resumed(f"frame {frame} and {seconds:.2f} s: {where}", self._filtered)

    def _fork(self, edit: Callable[[], object], stop: Callable[[], bool] = lambda: False) -> bool:
        """Call ``edit`` in a fork, and kill that once ``stop`` says so; return whether it came to its end."""
        self.done[0] = 0
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                edit()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        self.child = child
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if stop():
                os.kill(child, signal.SIGKILL)
            sleep(0.002)
        if os.WIFEXITED(ended[1]) and os.WEXITSTATUS(ended[1]):
            raise RuntimeError("an edit failed by itself")
        return os.WIFEXITED(ended[1])

    def _stop(self, frame: int, seconds: float, stack: IO[str]) -> bool:
        """Wait for the moment, and have the child write to ``stack`` where it is; True if it has."""
        if self.done[0] < frame:
            return False
        sleep(seconds)
        os.kill(self.child, signal.SIGUSR1)
        until = perf_counter() + 1
        while not os.fstat(stack.fileno()).st_size and perf_counter() < until:
            sleep(0.001)
        return True

    def _kill_import(self) -> None:
        """Kill the command line's edit while it imports torch."""
        self.done[0] = 0
        command = [
            "edit",
            self.source,
            "-o",
            self.out,
            "--model",
            self.checkpoint,
            "--plugin=none",
            "--prompt=x",
        ]
        subprocess.run([sys.executable, "-c", _KILLED_IMPORT, *map(str, command)], check=False)

    def _resumed(self, where: str, filtered: bool = False) -> Kill:
        """Let an edit go on, and compare what it makes with what is expected."""
        done, left = self.done[0], journal.saved(self.out)
        kept = left.frames if left else 0
        if self.out.exists():  # it was over when it was killed
            kept = done
        else:
            self._fork(lambda: self.edit(True, filtered))
        found, checks = contents(self.out), self._verified(filtered)
        self.out.unlink()
        if beside := [path.name for path in self.folder.iterdir() if path.name.startswith(".")]:
            raise RuntimeError(f"a kill at {where} leaves {beside}")
        frames, packets = map(_differing, found, self._expected[filtered])
        failed = tuple(each.name for each in checks if not each.ok)
        return Kill(where, done, kept, frames, packets, failed)


_KILLED_IMPORT = """
import os, signal, sys

class Killer:
    def find_spec(self, name, *_):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGKILL)

sys.meta_path.insert(0, Killer())
from zs2kit.cli import main
main(sys.argv[1:])
"""


def with_sound(path: Path) -> Path:
    """Write the video of ``path`` once more beside it, with sound of the same length; return that file."""
    sounding = path.with_stem(f"{path.stem}-sounding")
    noise = np.random.default_rng(0).integers(-9000, 9000, (1, 48_000 * 3), dtype=np.int16)
    with av.open(str(path)) as picture, av.open(str(sounding), "w") as output:
        seconds = Fraction(picture.duration or 0, av.time_base)
        video = output.add_stream_from_template(picture.streams.video[0])
        sound = output.add_stream("aac", rate=48_000)
        frame = av.AudioFrame.from_ndarray(noise[:, : int(seconds * 48_000)], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        for packet in picture.demux(video=0):
            if packet.size:
                packet.stream = video
                output.mux(packet)
        output.mux([*sound.encode(frame), *sound.encode(None)])
    return sounding


def contents(path: Path) -> list[list[tuple[int | None, bytes]]]:
    """Return the frames of a video, hashed, and its packets of sound, each with its pts."""
    frames: list[tuple[int | None, bytes]] = [
        (each.pts, sha256(each.image.tobytes()).digest()) for each in io.read(path)
    ]
    with av.open(str(path)) as container:
        packets = container.demux(audio=0) if container.streams.audio else ()
        return [frames, [(packet.pts, bytes(packet)) for packet in packets if packet.size]]


def _differing(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many of two lists' entries are not the same."""
    return sum(one != other for one, other in zip_longest(a, b))


def run(points: Sequence[str], moments: int, seed: int) -> None:
    """Kill an edit at each of these of `POINTS`, and at so many random moments; print what it did.

    Raises `Zs2Error` if a result was changed.
    """
    with TemporaryDirectory() as folder:
        place = Range(Path(folder))
        print(f"{FRAMES} frames, chunks of {CHUNK}, segments of {SEGMENT}; {place.seconds:.1f} s undisturbed")
        _tell([*(partial(place.at, name) for name in points), *_at_random(place, moments, seed)])


def run_clips(clips: Sequence[Path], end: float, filtered: bool, moments: int, seed: int) -> None:
    """Kill edits of the first seconds of ``clips`` at random moments each, as `run` does.

    filtered: the edits go through all four filters.
    """
    for clip in clips:
        with TemporaryDirectory() as folder:
            place = Range(Path(folder), clip.absolute(), end, filtered)
            print(
                f"{clip.name}: {place.frames} frames in the result, which is verified; {place.seconds:.1f} s "
                "undisturbed"
            )
            _tell(_at_random(place, moments, seed))


def _at_random(place: Range, moments: int, seed: int) -> list[Callable[[], Kill]]:
    rng, chunks = random.Random(seed), place.frames / CHUNK
    return [
        partial(place.near, rng.randrange(place.frames + 1), rng.uniform(0, place.seconds / chunks))
        for _ in range(moments)
    ]


def _tell(kills: Sequence[Callable[[], Kill]]) -> None:
    done = []
    for kill_ in kills:
        done.append(kill_())
        print(done[-1], flush=True)
    lost = [each for each in done if each.frames_differ or each.packets_differ or each.failed]
    again = max((each.done - each.kept for each in done), default=0)
    print(
        f"{len(done)} kills, {len(lost)} results that differ from the undisturbed one; "
        f"at most {again} finished frames were made again"
    )
    if lost:
        raise Zs2Error("a kill has changed a result")
