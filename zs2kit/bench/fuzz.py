"""What hostile input does: each case is damaged at random, and taken in by a process that may die of it."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import psutil

from zs2kit.bench import hostile
from zs2kit.errors import Zs2Error, is_out_of_memory

Make = Callable[[Path], hostile.Attempt]  # called with a folder for what its cases share

LIMIT = 10.0  # seconds that a case may take
MEMORY = 4 << 30  # bytes of address space that it may ask for: what is over-reported doesn't fill the machine

# What nothing that reads may do, by the names of Python's audit events; "open" is looked at by itself
_FORBIDDEN = {
    "os.exec",
    "os.posix_spawn",
    "os.system",
    "pickle.find_class",
    "socket.connect",
    "subprocess.Popen",
}
_CHANGES = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Outcome(NamedTuple):
    """How a case ended: ``refused`` by a message, ``survived``, or a fault."""

    kind: str
    says: str
    seconds: float


@dataclass
class Found:
    """What the cases of one kind did; ``faults`` say which case it was and what is wrong."""

    kind: str
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0  # seconds

    def add(self, case: str, outcome: Outcome) -> None:
        """Count a case."""
        self.counts[outcome.kind] += 1
        self.slowest = max(self.slowest, outcome.seconds)
        if outcome.kind not in ("refused", "survived"):
            self.faults.append(f"{case}: {outcome.kind}: {outcome.says}")

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items()))
        return f"{self.kind}: {self.counts.total()} cases, {counts}; the slowest took {self.slowest:.2f} s"


class _Watch:
    """Sees what a case does that it must not, from Python's audit events and by listing the folder.

    A case may write to ``out`` alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.seen: list[str] | None = None  # by the case under way
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.seen is None:
            return
        if event in _FORBIDDEN:
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event in _CHANGES or (event == "open" and arguments[2] & _WRITES):
            names = (
                slice(1, 2) if event in ("os.link", "os.symlink") else slice(2 if event == "os.rename" else 1)
            )
            for path in arguments[names]:
                if isinstance(path, int) or os.fsdecode(path) == os.devnull:
                    continue
                # Relative names are those of `out`, or of a folder in it that is being removed.
                inside = os.path.abspath(self.out / os.fsdecode(path)).startswith(str(self.out))
                if not inside:
                    self.seen.append(f"{event} {path!r:.200}")

    def listing(self) -> dict[str, tuple[int, int]]:
        """Size and time of all files outside of ``out``."""
        files: dict[str, tuple[int, int]] = {}
        for folder, _, names in os.walk(self.folder):
            if not Path(folder).is_relative_to(self.out):
                stats = ((name, os.lstat(os.path.join(folder, name))) for name in names)
                files |= {
                    os.path.join(folder, name): (each.st_size, each.st_mtime_ns) for name, each in stats
                }
        return files


def _attempt(case: str, attempt: hostile.Attempt, watch: _Watch) -> Outcome:
    """Try one case, in this process."""
    with suppress(FileNotFoundError):
        shutil.rmtree(watch.out)
    watch.out.mkdir()
    os.chdir(watch.out)
    before = watch.listing()
    began = perf_counter()
    watch.seen = []
    try:
        attempt(random.Random(case))
        kind, says = "survived", ""
    except Zs2Error as error:
        kind, says = ("refused", str(error)) if str(error).strip() else ("no message", repr(error))
    except BaseException as error:  # such as SystemExit, or those of Rust
        if is_out_of_memory(error):
            kind, says = "refused", "out of memory"
        else:
            last = traceback.extract_tb(error.__traceback__)[-1]
            kind = "traceback"
            says = f"{type(error).__name__}: {error!s:.300} ({Path(last.filename).name}, {last.lineno})"
    seen, watch.seen = watch.seen, None
    seconds = perf_counter() - began
    after = watch.listing()
    seen += [f"file {name}" for name, _ in before.items() ^ after.items()]
    if seen:
        kind, says = "escape", "; ".join(seen)
    return Outcome(kind, says, seconds)


def _work(make: Make, folder: Path, cases: Sequence[str], results: Connection) -> None:
    """Try cases one after the other, in a process of its own, and send how each ended."""
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # native libraries write there
        os.dup2(silence, stream)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # until the process ends
    warnings.simplefilter("ignore")
    sys.dont_write_bytecode = True  # a late import would count as a write
    shutil.rmtree(folder, ignore_errors=True)  # of a process that died
    folder.mkdir()
    attempt = make(folder)
    watch = _Watch(folder)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY, most))
    results.send(None)  # ready
    for case in cases:
        results.send(_attempt(case, attempt, watch))


def fuzz(kind: str, make: Make, cases: Sequence[str], folder: Path | None = None) -> Found:
    """Have ``make`` make a kind's attempt, and try cases, each a text that decides all; return what they did.

    A process that dies of a case, or takes longer than `LIMIT` for it, is replaced. Raises RuntimeError if it
    can't even begin.
    """
    if folder is None:
        with TemporaryDirectory(prefix="zs2kit-fuzz-") as name:
            return fuzz(kind, make, cases, Path(name))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # which imports torch once, whatever dies
    found = Found(kind)
    while rest := cases[found.counts.total() :]:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(make, folder / kind, rest, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            ours.recv()
        except EOFError:
            raise RuntimeError(f"{kind}: a process died before its first case") from None
        for case in rest:
            try:
                if ours.poll(LIMIT):
                    found.add(case, ours.recv())
                    continue
                outcome = Outcome("hang", f"more than {LIMIT:g} s", LIMIT)
            except EOFError:
                process.join()
                outcome = Outcome("crash", f"exit code {process.exitcode}", 0)
            found.add(case, outcome)
            break
        process.kill()
        process.join()
        ours.close()
    return found


def run(kinds: Sequence[str], cases: int, seed: int) -> list[Found]:
    """Try so many cases of each of these kinds, print what they did, and return it.

    Raises `Zs2Error` if one of them was neither refused nor survived.
    """
    found = []
    for kind in kinds:
        found.append(fuzz(kind, hostile.KINDS[kind], [f"{kind} {seed} {number}" for number in range(cases)]))
        print("\n  ".join([str(found[-1]), *found[-1].faults]), flush=True)
    if faults := sum(len(each.faults) for each in found):
        raise Zs2Error(f"{faults} cases were neither refused nor survived")
    return found
