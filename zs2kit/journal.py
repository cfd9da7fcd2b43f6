"""The journal: what an edit saves next to its output while it works, so that it can be resumed.

It is a hidden folder named after the output. It holds the finished segments of video, the pictures of the
unfinished segment, the carry, and journal.json, which names the files that count. A file is safely on the
disk before journal.json names it, and it stays until another journal.json has replaced that one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO, NamedTuple, Protocol, runtime_checkable

import numpy as np
from safetensors import SafetensorError

from zs2kit.clip import Clip, Frame
from zs2kit.errors import ClipError, first_line, notify
from zs2kit.files import checksum, locked, sync, unwritable_folder, workfolder
from zs2kit.progress import Progress, Report
from zs2kit.settings import Settings

log = logging.getLogger(__name__)

SEGMENT = 48  # frames that are encoded together, and can be decoded without any others
SHARE = 0.02  # the largest share of an edit's time that saving may take
SPEED = 500e6  # bytes per second that a disk is assumed to write, until the first save has measured it

ANEW = "start again (`resume=False`)"  # the remedy if what is saved can't be resumed

_FILE, _LOCK = "journal.json", "lock"
# What reading a file raises if it has changed since it was written
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    SafetensorError,
    TypeError,
    ValueError,
)


class Saved(Protocol):
    """What a journal needs of a carry: named tensors that can be saved."""

    @property
    def nbytes(self) -> int:
        """The bytes that the tensors take."""
        ...

    def items(self) -> Iterable[tuple[str, Any]]:
        """Return the tensors with their names."""
        ...

    def save(self, path: Path) -> None:
        """Write the tensors to a safetensors file."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A clip whose frames are drawn in chunks, and whose drawing can be resumed between any two chunks.

    ``index`` is how many frames the latest iteration has drawn, and ``carry`` is what the next frames need to
    know about them. Whoever has taken ``index`` frames is between two chunks. Chunks have ``chunk_size``
    frames, which may change along the way with the free memory. If the frames of a shot are drawn together,
    drawing can also be resumed between two denoising ``steps``.
    """

    chunk_size: int | None

    @property
    def index(self) -> int:
        """How many frames are drawn."""
        ...

    @property
    def steps(self) -> int:
        """How many denoising steps the next frames have taken; 0 between two chunks."""
        ...

    @property
    def carry(self) -> Saved:
        """What the next frames need to know about those before them."""
        ...

    def frames_from(
        self, index: int, carry: Any = None, between: Callable[[], object] | None = None
    ) -> Iterator[Frame]:
        """Return the frames from position ``index`` on.

        carry: what they need to know about the frames before; None at the start. between: called between two
        steps.
        """
        ...

    def stop(self) -> None:
        """End the current iteration."""
        ...

    def describe(self) -> dict[str, Any] | None:
        """Return everything that the frames depend on, for JSON; None if that isn't known."""
        ...


class Left(NamedTuple):
    """What is saved of an interrupted edit."""

    frames: int
    steps: int  # how many denoising steps of the next frames are saved as well

    def words(self, total: int | None = None) -> str:
        """Return this as text. total: the number of all frames, if that is known."""
        of = f" of {total}" if total else ""
        steps = f" and {self.steps} step{'s' * (self.steps > 1)} of the next ones" if self.steps else ""
        return f"{self.frames}{of} frames{steps}"


class Journal:
    """What is done of one output, in ``folder``, and the frames that are still to be put into segments.

    ``times`` are the pts of the frames that are drawn; the last one is shown for ``duration`` ticks. These
    frames are in segments of ``segment`` frames, except for the last few, which are still pictures. The
    output is ``complete`` once all frames are in segments. Something is saved only if the clip is `Resumable`
    and there are ``settings``, which contain everything that the result depends on.
    """

    def __init__(self, folder: Path, clip: Clip, settings: Mapping[str, Any] | None) -> None:
        self.folder = folder
        self.clip = clip
        self.segment = SEGMENT
        self.settings = settings
        self._work = clip if isinstance(clip, Resumable) and settings is not None else None
        self._carry: Saved | None = None  # the one that was loaded
        self.times: array[int] = array("q")
        self.duration = 0
        self.complete = False
        self._checksums: dict[str, int] = {}  # of the files that journal.json names, or will name
        self._pictures: BinaryIO | None = None
        self._encoded = True  # whether all frames that were yielded are encoded
        self._saved = 0, 0  # frames that journal.json names, and steps of the next ones
        self._started = perf_counter()
        self._spent = self._cost = 0.0  # seconds: of all saves, and of the last one
        self._written = 0.0  # seconds that writing pictures took
        self._warned = False

    @property
    def finished(self) -> int:
        """How many frames are in finished segments."""
        return len(self.times) if self.complete else len(self.times) - len(self.times) % self.segment

    def frames(self, progress: Report | None) -> Iterator[Frame]:
        """Yield the frames that are not in a finished segment, saving them along the way.

        The caller takes ``segment`` frames for each segment. ``progress`` is called with the number of frames
        that are encoded, and may raise an exception.
        """

        def report() -> None:
            if progress is not None:
                progress(Progress(len(self.times), "writing", self.clip.frame_count))

        report()
        yield from self._saved_frames()
        work = self._work
        drawn = work.frames_from(len(self.times), self._carry, self._save_if_due) if work else self.clip
        for frame in drawn:
            self._add(frame)
            self._encoded = False
            yield frame
            self._encoded = True  # and the segment is closed if this was its last frame
            report()
            self._save_if_due()

    def _save_if_due(self) -> None:
        """Save what is done, unless saving would take too large a share of the time."""
        if self._work is not None:
            expected = self._cost or self._work.carry.nbytes / SPEED
            if self._spent + expected <= SHARE * (perf_counter() - self._started):
                self.save()

    def save(self) -> None:
        """Save what is done, if that is possible now: between two chunks or steps, or at the end.

        If saving fails, for example on a full disk, a notice says so and the edit goes on.
        """
        if self._work is None or not (self.complete or self._between_chunks()):
            return
        started = perf_counter()
        try:
            self._save(self._work)
        except (OSError, SafetensorError) as error:
            self._warn(error)
        self._cost = perf_counter() - started
        self._spent += self._cost

    def load(self, path: Path) -> None:
        """Load what is saved of ``path``; raise `ClipError` if it is damaged or has other settings."""
        assert self.settings is not None and self._work is not None
        edit = _read(path, self.folder)
        try:
            if difference := _difference(edit["settings"], self.settings):
                raise ClipError(
                    f"{path} was started with {difference}", f"use these settings again, or {ANEW}"
                )
            self.times.extend(edit["times"])
            self.duration, self.complete = edit["duration"], edit["complete"]
            self._checksums = edit["checksums"]
            self._saved = len(self.times), edit["steps"]
            for first in range(0, self.finished, self.segment):
                self._verify(segment_file(self.folder, first))
            if self.complete:
                return
            if self.finished < len(self.times):
                self._verify(self._picture_file, (len(self.times) - self.finished) * self._picture_size)
            from zs2kit.carry import Carry

            self._verify(self._carry_file(edit["steps"]))
            self._carry = Carry.load(self._carry_file(edit["steps"]))
            self._work.chunk_size = edit["chunk_size"]
            if self.finished < len(self.times):
                self._pictures = self._picture_file.open("ab")
        except _MALFORMED as error:
            raise _damaged(path) from error

    def clear(self) -> None:
        """Remove everything that journal.json doesn't name, and everything that is not a regular file."""
        named = {_LOCK}
        with suppress(ClipError):  # only the file on the disk counts, since saving may have been cut short
            named |= {_FILE, *_read(self.folder, self.folder)["checksums"]}
        for path in self.folder.iterdir():
            if path.name not in named or not _is_own(path):
                with suppress(OSError):
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    else:
                        path.unlink()

    def report(self) -> None:
        """Log how long saving took."""
        seconds, whole = self._spent + self._written, perf_counter() - self._started
        log.info("the journal took %.2f of %.1f s, %.2f%%", seconds, whole, 100 * seconds / whole)

    def close(self) -> None:
        """Close the folder's files."""
        if self._pictures is not None:
            with suppress(OSError):
                self._pictures.close()

    @property
    def _picture_size(self) -> int:
        encoding = self.clip.encoding
        return self.clip.height * self.clip.width * encoding.channels * encoding.dtype.itemsize

    @property
    def _picture_file(self) -> Path:
        return self.folder / f"{self.finished:09}.rgb"

    def _carry_file(self, steps: int) -> Path:
        return self.folder / f"{len(self.times):09}{f'-{steps}' if steps else ''}.safetensors"

    def _between_chunks(self) -> bool:
        """Whether there is something new to save, and all that is needed to resume from it."""
        return (
            self._encoded
            and self._work is not None
            and self._work.index == len(self.times)
            and (self._work.index, self._work.steps) != self._saved
            and (self._pictures is not None or self.finished == len(self.times))
        )

    def _saved_frames(self) -> Iterator[Frame]:
        """Yield the saved frames of the unfinished segment."""
        times = self.times[self.finished :]
        if times:
            with self._picture_file.open("rb") as file:
                clip, encoding = self.clip, self.clip.encoding
                for pts in times:
                    stored = np.frombuffer(file.read(self._picture_size), encoding.dtype)
                    stored = stored.reshape(clip.height, clip.width, encoding.channels)
                    if encoding.is_plain:
                        yield Frame(stored, pts, self.duration)
                    else:
                        yield Frame(encoding.image(stored), pts, self.duration, stored)

    def _add(self, frame: Frame) -> None:
        """Append a frame to the current segment."""
        path = self._picture_file
        if self._work is not None:
            started = perf_counter()
            try:
                if self.finished == len(self.times):  # a segment starts
                    self.close()
                    self._pictures, self._checksums[path.name] = path.open("wb"), 0
                if self._pictures is not None:
                    stored = frame.image if frame.stored is None else frame.stored
                    data = np.ascontiguousarray(stored).view(np.uint8).data
                    self._pictures.write(data)
                    self._checksums[path.name] = zlib.crc32(data, self._checksums[path.name])
            except OSError as error:
                self._pictures = None  # until the next segment starts
                self._warn(error)
            self._written += perf_counter() - started
        self.times.append(frame.pts)
        self.duration = frame.duration

    def _save(self, work: Resumable) -> None:
        files = [segment_file(self.folder, first) for first in range(0, self.finished, self.segment)]
        for path in files:
            if path.name not in self._checksums:
                sync(path)
                self._checksums[path.name] = checksum(path)
        if self._pictures is not None and self.finished < len(self.times):
            self._pictures.flush()
            os.fsync(self._pictures.fileno())
            files.append(self._picture_file)
        if not self.complete:
            files.append(self._carry_file(work.steps))
            with _replaced(files[-1]) as temporary:
                work.carry.save(temporary)
                self._checksums[files[-1].name] = checksum(temporary)
        edit = {
            "settings": self.settings,
            "times": self.times.tolist(),
            "steps": work.steps,
            "duration": self.duration,
            "complete": self.complete,
            "chunk_size": work.chunk_size,
            "checksums": {path.name: self._checksums[path.name] for path in files},
        }
        with _replaced(self.folder / _FILE) as temporary:
            text = json.dumps({"edit": edit, "checksum": _checksum_of(edit)})
            temporary.write_text(text, encoding="utf-8")
        self._saved = len(self.times), work.steps
        for path in [*self.folder.glob("*.rgb"), *self.folder.glob("*.safetensors")]:
            if path not in files:
                path.unlink()

    def _verify(self, path: Path, size: int | None = None) -> None:
        """Raise ValueError if a file isn't as it was saved; it is first cut to ``size`` bytes, if given."""
        if not _is_own(path):
            raise ValueError(path)
        if size is not None:
            os.truncate(path, size)
        if checksum(path) != self._checksums[path.name]:
            raise ValueError(path)

    def _warn(self, error: Exception) -> None:
        """Send a notice, but only once, that an interruption would now lose frames."""
        for path in self.folder.glob("*.new"):
            path.unlink()
        if not self._warned:
            self._warned = True
            why = getattr(error, "strerror", None) or first_line(error)
            notify(
                "not-saved",
                f"what is done can't be saved in {self.folder} ({why}); the edit goes on, but if it is "
                f"interrupted, all frames after the first {self._saved[0]} have to be drawn again",
            )


def segment_file(folder: Path, first: int) -> Path:
    """Return the path of the segment that starts with frame ``first``."""
    return folder / f"{first:09}.segment"


@contextmanager
def opened(path: Path, clip: Clip, settings: Mapping[str, Any], resume: bool | None) -> Iterator[Journal]:
    """Within this context the journal of ``path`` is open; at the end, its folder is removed.

    If an exception ends the edit, the folder stays, with what is saved, and a note on the exception says so.
    That needs a clip that is `Resumable` and describes itself. settings: those of the file, besides the
    clip's. resume: as for `check`.
    """
    described = clip.describe() if isinstance(clip, Resumable) else None
    if described is None:
        if _folder_of(path).exists():  # left by another edit
            with _locked(path) as folder:
                if resume is not False and (folder / _FILE).exists():
                    raise _undecided(path, folder)
                (folder / _FILE).unlink(missing_ok=True)
        with workfolder(path) as folder:
            yield Journal(folder, clip, None)
        return
    with _locked(path) as folder:
        journal = Journal(folder, clip, _everything(settings, described))
        if resume is False:
            (folder / _FILE).unlink(missing_ok=True)
        if (folder / _FILE).exists():
            if resume is None:
                raise _undecided(path, folder)
            journal.load(path)
        journal.clear()
        try:
            yield journal
            (folder / _FILE).unlink(missing_ok=True)
            journal.report()
        except BaseException as error:
            if isinstance(error, Exception):  # unlike Ctrl-C, which must end it at once
                with suppress(Exception):  # the first error is the one that counts
                    journal.save()
            journal.clear()
            if (folder / _FILE).exists():
                done = _left(_read(path, folder)).words(clip.frame_count)
                error.add_note(f"{done} are saved; to resume, run the same with `resume=True`")
            raise
        finally:
            journal.close()


def saved(path: Path) -> Left | None:
    """Return what is saved of an interrupted edit to ``path``; None if nothing is saved.

    Raises `ClipError` if another process is writing ``path``, or if what is saved is damaged.
    """
    folder = _folder_of(path)
    if not folder.exists():
        return None
    with _locked(path):
        if not (folder / _FILE).exists():
            return None
        if _same(folder / path.name, path):  # it was interrupted after all was done
            (folder / _FILE).unlink()
            return None
        return _left(_read(path, folder))


def _left(edit: Mapping[str, Any]) -> Left:
    return Left(len(edit["times"]), edit["steps"])


def differing(path: Path, clip: Clip, settings: Mapping[str, Any]) -> str:
    """Return which saved settings of ``path`` differ from the current ones, with both values; empty if none.

    The parameters are those of `opened`. Raises `ClipError` if nothing is saved, or if it is damaged.
    """
    described = clip.describe() if isinstance(clip, Resumable) else None
    edit = _read(path, _folder_of(path))
    return _difference(edit["settings"], _everything(settings, described or {}))


def _everything(settings: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that a result depends on, as it reads after a round trip through JSON."""
    both = {**settings, "segment": SEGMENT, **described}
    everything: dict[str, Any] = json.loads(json.dumps(both, default=str))
    return everything


def check(path: Path, resume: bool | None) -> None:
    """Raise `ClipError` if ``path`` can't be written because of another process or because of what is saved.

    resume: True to resume an interrupted edit, False to start again; None if that isn't decided, and then it
    is an error if anything is saved.
    """
    folder = _folder_of(path)
    if resume is None and saved(path):
        raise _undecided(path, folder)
    if resume is not None and folder.exists():
        with _locked(path):
            for file in folder.iterdir() if resume else ():
                placed = path.with_name(file.name)
                if _same(file, placed):  # it already has its final name, but will be written again
                    placed.unlink()


def _is_own(path: Path) -> bool:
    """Whether this is a regular file. A link leads elsewhere, and reading a pipe may never end."""
    return path.is_file() and not path.is_symlink()


def _checksum_of(edit: object) -> int:
    return zlib.crc32(json.dumps(edit, sort_keys=True).encode())


def _read(path: Path, folder: Path) -> dict[str, Any]:
    """Return what journal.json says about the edit to ``path``.

    Raises `ClipError` if it is damaged, `UsageError` if a setting in it is not allowed.
    """
    try:
        if not _is_own(folder / _FILE):
            raise ValueError(folder)
        read = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        edit: dict[str, Any] = read["edit"]
        array("q", edit["times"]).append(edit["duration"])  # whole numbers, or it fails
        chunk_size = edit["chunk_size"]
        if (
            _checksum_of(edit) != read["checksum"]
            or not isinstance(edit["settings"], dict)
            or not isinstance(edit["checksums"], dict)
            or not (chunk_size is None or (isinstance(chunk_size, int) and chunk_size >= 1))
            or not (isinstance(edit["steps"], int) and edit["steps"] >= 0)
        ):
            raise ValueError(read)
        Settings.restored(edit["settings"])
    except _MALFORMED as error:
        raise _damaged(path) from error
    return edit


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the settings that differ, with both values; empty if none do."""
    old, new = dict(_flat(before)), dict(_flat(now))
    names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    return "; ".join(f"{name} {old.get(name)!r}, not {new.get(name)!r}" for name in names)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"pose": {"scale": 1}} -> pose.scale, 1."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _undecided(path: Path, folder: Path) -> ClipError:
    done = _left(_read(path, folder)).words()
    return ClipError(
        f"an edit to {path} was interrupted, and {done} are saved",
        f"resume it (`resume=True`), or {ANEW}",
    )


def _damaged(path: Path) -> ClipError:
    return ClipError(f"what is saved of an interrupted edit to {path} is damaged", ANEW)


def _folder_of(path: Path) -> Path:
    name = path.name
    if len(os.fsencode(name)) > 240:  # a file's name can have 255 bytes
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f".{name}.zs2kit")


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Within this context no other process uses the journal's folder of ``path``, which exists.

    At the end it is removed, unless there is a journal.json in it.
    """
    folder = _folder_of(path)
    if folder.is_symlink():
        raise ClipError(f"{folder} is a link", "remove it")
    while True:
        try:
            folder.mkdir(exist_ok=True)
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0))
        except FileNotFoundError:
            if not folder.parent.exists():
                raise
            continue  # another process has just removed it
        except OSError as error:
            raise unwritable_folder(path, error) from error
        if not locked(lock):
            os.close(lock)
            raise ClipError(f"another process is writing {path}", "wait for it, or choose another name")
        with suppress(OSError):
            if os.path.samestat(os.fstat(lock), os.stat(folder / _LOCK)):
                break
        os.close(lock)  # it belonged to a folder that has been removed
    try:
        yield folder
    finally:
        if not (folder / _FILE).exists():
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)  # releases the lock, as the end of the process would


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Within this context a temporary file can be written, which then replaces ``path`` in one step."""
    temporary = path.with_suffix(".new")
    yield temporary
    sync(temporary)
    temporary.replace(path)
    with suppress(OSError):  # not every system can do this
        sync(path.parent)


def _same(file: Path, other: Path) -> bool:
    try:
        return file.samefile(other)
    except OSError:
        return False
