"""Farms: edits whose shots are drawn by several processes, on this machine or on a Ray cluster.

Needs the extra ``farm``. Each shot starts with an empty carry, so it doesn't matter where it is drawn. All
workers use the same chunk size and number of threads, so the frames are the same as on one machine.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, fields, replace
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

import torch

from zs2kit import __version__, io
from zs2kit.carry import Carry
from zs2kit.clip import Clip, Fit, Frame
from zs2kit.editing import MOST, Edit, edit, show_unfitted
from zs2kit.errors import (
    ClipError,
    ModelError,
    Notice,
    Receiver,
    Stopped,
    UsageError,
    Zs2Error,
    first_line,
    notify,
    receiving,
)
from zs2kit.io.reading import described, frames_after, opened
from zs2kit.io.sequence import Pattern
from zs2kit.model import Model
from zs2kit.plugins import Plugin
from zs2kit.progress import Pace, Progress, Report
from zs2kit.settings import Prompts, Settings, changed, takes_fields
from zs2kit.shots import shots

TRIES = 3  # how many workers may die of the same work
AHEAD = 4  # shots per worker that may be drawn before somebody asks for their frames
LATE = 300  # seconds after which the farm begins without workers that haven't started; they may join later
RELEASED = 5  # seconds within which Ray notices that the workers of a closed farm are gone
PATIENCE = 0.2  # seconds between two checks of whether the edit should stop


class _Job(NamedTuple):
    """What a worker is told about an edit."""

    path: Path
    how: dict[str, Any]  # further arguments of `zs2kit.read`
    plugins: Sequence[Plugin] | None
    settings: Settings


class _Facts(NamedTuple):
    """What a worker says about an edit."""

    settings: Settings
    fit: Fit
    described: dict[str, Any]
    source: dict[str, Any] | None
    notices: list[Notice]


class Worker:
    """Draws shots in a process of its own, with one model. Its methods are called by Ray."""

    def __init__(self) -> None:
        self._model: Model | None = None
        self._edited: Edit | None = None  # the latest one, and its number
        self._number = 0
        self._drawn = 0  # how many frames of it

    def start(self, version: tuple[str, str], threads: int, folder: str, load: dict[str, Any]) -> Any:
        """Load the model; return this machine's name, the process's id, the default prompt, and notices.

        Other versions of zs2kit call this, too, so what it takes must never change. Raises `Zs2Error` if the
        worker has another version of zs2kit or torch than the farm.
        """
        here = (__version__, torch.__version__)
        if here != version:
            theirs, ours = (f"zs2kit {each[0]} with torch {each[1]}" for each in (here, version))
            raise Zs2Error(
                f"the worker on {socket.gethostname()} has {theirs}, but this is {ours}",
                "install the same everywhere",
            )
        torch.set_num_threads(threads)
        if os.path.isdir(folder):  # where relative paths lead
            os.chdir(folder)
        notices: list[Notice] = []
        with receiving(notices.append):
            self._model = Model.load(**load)
        return socket.gethostname(), os.getpid(), self._model.default_prompt, notices

    def prepare(self, number: int, job: _Job) -> _Facts:
        """Get ready for an edit; return what there is to know about it."""
        notices: list[Notice] = []
        edited = self._edit(number, job, notices)
        return _Facts(edited.settings, edited.fit, edited.described(), described(edited.clip), notices)

    def draw(
        self, number: int, job: _Job, index: int, count: int, carry: Carry | None, fitted: bool
    ) -> Iterator[tuple[list[Frame], list[Notice]]]:
        """Yield the ``count`` frames of a shot from position ``index`` on, a chunk at a time."""
        notices: list[Notice] = []
        edited = self._edit(number, job, notices)
        edited = edited if fitted else edited.unfitted()
        with receiving(notices.append):
            before = carry is not None
            source = islice(frames_after(edited.clip, index - before), count + before)
            marked = (each._replace(cut=place == 0 and not before) for place, each in enumerate(source))
            frames = edited.shot(index, marked, carry)
            while group := list(islice(frames, edited.chunk_size or MOST)):
                self._drawn += len(group)
                yield group, list(notices)
                notices.clear()

    def finish(self, number: int) -> list[Notice]:
        """Return the last notices of an edit, once all of its frames are drawn."""
        notices: list[Notice] = []
        if self._number == number:
            self._end(notices)
        return notices

    def _end(self, notices: list[Notice]) -> None:
        if self._edited is not None and self._drawn:
            with receiving(notices.append):
                self._edited.scan.hook.finish(frames=self._drawn)
        self._edited, self._number, self._drawn = None, 0, 0

    def _edit(self, number: int, job: _Job, notices: list[Notice]) -> Edit:
        if self._edited is None or self._number != number:
            self._end(notices)
            with receiving(notices.append):
                clip = io.read(job.path, **job.how)
                self._edited = edit(clip, plugins=job.plugins, model=self._model, settings=job.settings)
            self._number = number
        return self._edited


@dataclass(eq=False)
class _Hand:
    """A worker, as the farm knows it."""

    actor: Any
    host: str = ""
    pid: int = 0
    task: _Task | None = None


@dataclass(eq=False)
class _Task:
    """A shot of an edit, from ``index`` on."""

    edit: FarmEdit
    index: int
    count: int
    carry: Carry | None
    taken: int = 0  # how many of its frames were already passed on
    deaths: int = 0  # how many workers died while drawing it
    stream: Any = None  # its frames, as a worker draws them; None while no worker has it
    drawn: bool = False  # whether all of its frames are drawn, and only have to be taken


class Farm:
    """Workers on a Ray cluster, each with one model; use it as a context manager.

    address: "local" starts workers on this machine: one for each GPU or, without GPUs, as many as the cores
    suffice for, each with torch's number of threads. "HOST:PORT" is the head of a cluster that this machine
    belongs to. load: arguments of `Model.load`.

    Raises `UsageError` if the extra ``farm`` is not installed; `Zs2Error` if the cluster can't be reached,
    has nothing free, or has another version of zs2kit; and what `Model.load` raises.
    """

    def __init__(self, address: str = "local", **load: Any) -> None:
        self._ray = _ray()
        self._load = load
        self._own = not self._ray.is_initialized()
        if self._own:
            _connect(self._ray, address)
        self._said: set[Notice] = set()
        self._edits: list[FarmEdit] = []  # those whose shots are to be drawn, in this order
        self._numbers = 0
        self._again: deque[_Task] = deque()
        self._starting: dict[Any, _Hand] = {}
        self._missing: list[Notice] = []  # about workers that couldn't start; sent once others have started
        self.workers: list[_Hand] = []
        self.default_prompt = ""
        self._threads = torch.get_num_threads()
        began = monotonic()
        while not (number := self._room()) and monotonic() < began + RELEASED:
            sleep(PATIENCE)
        if not number:
            self.close()
            raise Zs2Error(
                f"the farm {address} has no machine with {self._threads} free cores", "try again later"
            )
        try:
            for _ in range(number):
                self._hire()
            began = monotonic()
            while self._starting and not (self.workers and monotonic() > began + LATE):
                self._turn(None)
        except BaseException:
            self.close()
            raise

    def _room(self) -> int:
        """Return how many workers there is room for; note how many of them have a GPU."""
        free = self._ray.available_resources()
        self._gpus = int(free.get("GPU", 0)) if self._load.get("device") != "cpu" else 0
        machines = [each["Resources"].get("CPU", 0) for each in self._ray.nodes() if each["Alive"]]
        # All threads of a worker are on one machine.
        most = sum(int(cores) // self._threads for cores in machines)
        return self._gpus or min(most, int(free.get("CPU", 0)) // self._threads)

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, and the connection."""
        for hand in [*self.workers, *self._starting.values()]:
            self._ray.kill(hand.actor)
        self.workers, self._starting = [], {}
        if self._own:
            self._ray.shutdown()

    @takes_fields(Settings)
    def edit(
        self,
        clip: Clip | str | Path,
        prompt: Prompts | None = None,
        *,
        plugins: Sequence[Plugin] | None = None,
        settings: Settings | None = None,
        progress: Report | None = None,
        notices: Receiver | None = None,
        **changes: Any,
    ) -> FarmEdit:
        """Return ``clip`` as `zs2kit.edit` would edit it; it must come from a file that all workers can read.

        Workers draw its shots, several ahead, while you iterate over it or over another edit of this farm.
        Raises what `zs2kit.edit` raises.
        """
        if prompt is not None:
            changes = {"prompt": prompt, **changes}
        with receiving(notices):
            asked = changed(settings or Settings(), changes)
            asked = replace(asked, chunk_size=asked.chunk_size or MOST)
            source = opened(clip)
            if source.source is None or source.blank:
                raise UsageError(
                    "a farm edits only clips that its workers can read from a file",
                    "write it to a file first",
                )
            pattern = None if source.source.is_file() else Pattern.of(source.source)
            how = {
                "start": source.start,
                "end": source.end,
                "rate": source.rate if pattern else None,
                "deinterlace": source.deinterlaced,
                "reader": source.reader,
            }
            job = _Job(source.source.absolute(), how, plugins, asked)
            return FarmEdit(self, self.number(), source, job, progress, notices)

    def ask(self, work: Callable[[Any], Any]) -> Any:
        """Return what a worker's method returns; ``work`` gets an idle worker and calls the method.

        Raises `Zs2Error` if several workers die doing it.
        """
        deaths = 0
        while True:
            hand = next((each for each in self.workers if each.task is None), None)
            if hand is None:
                self._turn(None)
                continue
            try:
                return self._get(work(hand.actor))
            except self._ray.exceptions.RayActorError as error:
                self._bury(hand)
                deaths += 1
                if deaths == TRIES:
                    raise Zs2Error(
                        f"{TRIES} workers died while preparing an edit, the last one on {hand.host}",
                        "they may have too little memory",
                    ) from error

    def tell(self, notices: Sequence[Notice]) -> None:
        """Send notices of workers, each once."""
        for each in notices:
            if each not in self._said:
                self._said.add(each)
                notify(each.kind, each.message, each.remedy)

    def frames(self, task: _Task) -> Iterator[Frame]:
        """Yield the frames of a task, and meanwhile keep all workers busy."""
        stream, passed = None, 0  # the stream that is read, and how many of its frames were seen
        while True:
            task.edit.check_stop()
            if task.stream is not stream:
                stream, passed = task.stream, 0
            if not self._turn(task) or stream is None or task.stream is not stream:
                continue
            try:
                chunk, notices = self._get(next(stream))
            except StopIteration:
                return
            except self._ray.exceptions.RayError:  # the worker died, or the frames that it had drawn are gone
                hand = next((each for each in self.workers if each.task is task), None)
                if hand is not None:
                    self._bury(hand)
                elif task.stream is stream:
                    task.stream, task.drawn = None, False
                    self._again.append(task)
                continue
            self.tell(notices)
            for frame in chunk:
                passed += 1
                if passed > task.taken:
                    task.taken += 1
                    yield frame

    def finish(self, number: int) -> None:
        """Send the workers' last notices, once all frames of an edit are drawn."""
        for hand in self.workers:
            if hand.task is None:
                with suppress(self._ray.exceptions.RayActorError):
                    self.tell(self._get(hand.actor.finish.remote(number)))

    def begin(self, edited: FarmEdit) -> None:
        """Have the shots of an edit drawn after those of earlier edits."""
        self._edits = [each for each in self._edits if each.number != edited.number] + [edited]
        self._edits.sort(key=lambda each: each.number)

    def drop(self, edited: FarmEdit) -> None:
        """Give no more shots of an edit to workers."""
        self._edits = [each for each in self._edits if each.number != edited.number]
        self._again = deque(each for each in self._again if each.edit.number != edited.number)

    def seek(self, edited: FarmEdit) -> bool:
        """Find the next shot of an edit and have it drawn next; return whether there is one."""
        task = edited.find()
        if task is not None:
            self._again.append(task)
        return task is not None

    def number(self) -> int:
        """Return a number for a new edit."""
        self._numbers += 1
        return self._numbers

    def _turn(self, task: _Task | None) -> bool:
        """Give work to idle workers, and wait a moment; return whether ``task`` has frames ready."""
        self._give()
        if task is not None and task.drawn:
            return True
        if (task is None or task.stream is None) and not (self.workers or self._starting):
            raise Zs2Error("the farm has no worker left", "start it again, and resume (`resume=True`)")
        busy = {hand.task.stream.completed(): hand for hand in self.workers if hand.task}
        streams = [task.stream] if task is not None and task.stream is not None else []
        waiting = [*streams, *busy, *self._starting]
        if not waiting:
            return False
        # `wait` returns as soon as one is ready, which may have been so for long. So ask for all that are.
        ready, _ = self._ray.wait(waiting, num_returns=1, timeout=PATIENCE, fetch_local=False)
        more, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
        for each in {*ready, *more}:
            if each in busy:
                self._done(busy[each], each)
            elif each in self._starting:
                self._started(each)
        return bool(streams) and any(each is streams[0] for each in (*ready, *more))

    def _done(self, hand: _Hand, completed: Any) -> None:
        """Free a worker whose shot is drawn. If it died, another one gets the shot."""
        task, hand.task = hand.task, None
        try:
            self._ray.get(completed)
        except self._ray.exceptions.RayActorError:
            hand.task = task
            self._bury(hand)
            return
        except self._ray.exceptions.RayError:
            pass  # it is raised again in place of the next frame
        if task is not None:
            task.drawn = True

    def _bury(self, hand: _Hand) -> None:
        """Remove a dead worker, hire another, and have the shot drawn again."""
        if hand not in self.workers:
            return
        self.workers.remove(hand)
        self._hire()
        task = hand.task
        if task is not None:
            task.stream, task.drawn, task.deaths = None, False, task.deaths + 1
            where = f"the shot from frame {task.index} of {task.edit.clip.source}"
            if task.deaths >= TRIES:
                raise Zs2Error(
                    f"{TRIES} workers died while drawing {where}, the last one on {hand.host}",
                    "they may have too little memory",
                )
            self._again.append(task)
            notify("worker-lost", f"the worker on {hand.host} died; another one draws {where} again")

    def _hire(self) -> None:
        resources = {"num_gpus": 1} if self._gpus else {"num_cpus": self._threads}
        actor = self._ray.remote(Worker).options(max_restarts=0, **resources).remote()
        version = (__version__, torch.__version__)
        self._starting[actor.start.remote(version, self._threads, os.getcwd(), self._load)] = _Hand(actor)

    def _started(self, reference: Any) -> None:
        hand = self._starting.pop(reference)
        try:
            hand.host, hand.pid, self.default_prompt, notices = self._get(reference)
        except (self._ray.exceptions.RayActorError, Zs2Error) as error:
            known = isinstance(error, Zs2Error)
            why = error if known else Zs2Error(f"a worker can't be started ({_last_line(error)})")
            if not self.workers and not self._starting:
                raise why from error
            self._missing.append(Notice("worker-missing", f"the farm goes on without a worker: {why}"))
        else:
            self.tell(notices)
            self.workers.append(hand)
        if self.workers:
            self.tell(self._missing)
            self._missing.clear()

    def _give(self) -> None:
        for hand in self.workers:
            if hand.task is None and (task := self._next()) is not None:
                edited = task.edit
                arguments = (edited.number, edited.job, task.index, task.count, task.carry, edited.fitted)
                task.stream = hand.actor.draw.options(num_returns="streaming").remote(*arguments)
                hand.task = task

    def _next(self) -> _Task | None:
        """Return the next shot to draw: those of the first edit come first."""
        if self._again:
            return self._again.popleft()
        for edited in self._edits:
            drawn = sum(len(each.tasks) for each in self._edits)
            if edited.tasks and drawn >= AHEAD * max(1, len(self.workers)):
                return None
            task = edited.find()
            if task is not None:
                return task
        return None

    def _get(self, reference: Any) -> Any:
        """Return a worker's result; an error that was raised there is raised here."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, Zs2Error):
                raise cause from None
            raise ModelError(f"a worker failed: {type(cause).__name__}: {first_line(cause)}") from error


class FarmEdit(Clip):
    """An edit that a farm draws; see `Farm.edit`. It can be resumed between two shots."""

    def __init__(
        self,
        farm: Farm,
        number: int,
        clip: Clip,
        job: _Job,
        progress: Report | None,
        notices: Receiver | None,
    ) -> None:
        told = {each.name: getattr(clip, each.name) for each in fields(Clip) if each.init}
        super().__init__(**{**told, "frames": self})
        self.clip = clip
        self.number, self.job = number, job
        self.fitted = True
        self.tasks: deque[_Task] = deque()  # shots that are found, but whose frames weren't all asked for
        self._farm = farm
        self._progress, self._notices = progress, notices
        self._stopping = False
        self._index = 0
        self._begun: int | None = None  # from where it is drawn before somebody has asked for frames
        self._found: Iterator[_Task] = iter(())
        self._broken: Zs2Error | None = None  # why no more shots can be found
        self.facts: _Facts = farm.ask(lambda worker: worker.prepare.remote(number, job))
        ours = described(clip)
        if self.facts.source != ours:
            raise ClipError(
                f"a worker finds a different file at {job.path} than this machine does",
                "put clips where all workers can read them, at the same path",
            )
        farm.tell(self.facts.notices)
        self.settings = self.facts.settings
        self.chunk_size: int | None = self.settings.chunk_size

    @property
    def index(self) -> int:
        """How many frames the shots up to the current one have."""
        return self._index

    @property
    def steps(self) -> int:
        """Always 0, since it can only be resumed between two shots."""
        return 0

    @property
    def carry(self) -> Carry:
        """Always empty, since it can only be resumed between two shots."""
        return Carry()

    def __iter__(self) -> Iterator[Frame]:
        return self.frames_from(0)

    def begin(self, index: int = 0, carry: Carry | None = None) -> None:
        """Have the frames from ``index`` on drawn as soon as a worker is idle, before they are asked for."""
        self._begun = index
        self._index = index
        self.tasks.clear()
        self._found, self._broken = self._find(index, carry), None
        self._farm.begin(self)

    def frames_from(
        self, index: int, carry: Carry | None = None, between: Callable[[], object] | None = None
    ) -> Iterator[Frame]:
        """Return the frames from ``index`` on.

        carry: what they must know about the frames before; None at the start. between: never called.
        """
        if self._begun != index or carry:
            self.begin(index, carry or None)
        self._begun = None
        return self._told(self._frames(index))

    def unfitted(self) -> FarmEdit:
        """Return this edit with pictures of the size that the model draws; see `Edit.unfitted`."""
        other = copy(self)
        other.fitted, other.frames, other.tasks = False, other, deque()
        show_unfitted(other, self.facts.fit)
        return other

    def __copy__(self) -> FarmEdit:
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        return other

    def stop(self) -> None:
        """End the current iteration, or else the next one; any thread may call this."""
        self._stopping = True

    def describe(self) -> dict[str, Any] | None:
        """Return all that the frames depend on, for JSON."""
        source = described(self.clip)
        return None if source is None else {**self.facts.described, **source}

    def find(self) -> _Task | None:
        """Return the next shot and append it to ``tasks``; None if there are no more.

        This may be called while frames of another edit are drawn. So if the source can't be read any
        further, the error waits until the frames before have been returned.
        """
        try:
            task = next(self._found, None)
        except Zs2Error as error:
            self._broken, task = error, None
        if task is not None:
            self.tasks.append(task)
        return task

    def _find(self, index: int, carry: Carry | None) -> Iterator[_Task]:
        """Yield the shots from a position on; where they start is found while the source is read."""
        place = 0
        for _, shot in groupby(shots(self.clip, self.job.settings.cuts), key=itemgetter(0)):
            count = sum(1 for _ in shot)
            first, place = place, place + count
            if place > index:
                begin = max(first, index)
                yield _Task(self, begin, place - begin, carry if begin > first else None)

    def check_stop(self) -> None:
        """Raise `Stopped` if `stop` was called."""
        if self._stopping:
            self._stopping = False
            raise Stopped(f"stopped after {self._index} frames")

    def _told(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Yield the frames; notices go to the edit's receiver."""
        while True:
            with receiving(self._notices):
                frame = next(frames, None)
            if frame is None:
                return
            yield frame

    def _frames(self, index: int) -> Iterator[Frame]:
        pace, done = Pace(index), index
        try:
            while self.tasks or self._farm.seek(self):
                task = self.tasks[0]
                self._index = task.index + task.count
                for frame in self._farm.frames(task):
                    done += 1
                    if self._progress is not None:
                        total = self.frame_count
                        left = pace.seconds_left(done, total)
                        self._progress(Progress(done, "drawing", total, seconds_left=left))
                    yield frame
                self.tasks.popleft()
            if self._broken is not None:
                raise self._broken
        finally:
            self._farm.drop(self)
        self._farm.finish(self.number)


def _ray() -> Any:
    # Ray reads these while it is imported: it sends no statistics, prints nothing among our results, and its
    # workers have this process's priority, since this process only waits for them.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError:
        raise UsageError("farms need Ray", "pip install 'zs2kit[farm]'") from None
    return ray


def _connect(ray: Any, address: str) -> None:
    """Start Ray here, or join the cluster at ``address``.

    Raises `UsageError` if that is no address, `Zs2Error` if the cluster can't be reached.
    """
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    if address == "local":
        try:
            ray.init("local", num_cpus=os.cpu_count(), **quiet)
        except Exception as error:  # which is what Ray raises, with no name of its own
            raise Zs2Error(
                f"Ray can't be started on this machine ({' '.join(str(error).split())})",
                "try again; it may be too busy",
            ) from error
        return
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 1 << 16):
        raise UsageError(f"'{address}' is not the address of a farm", "write HOST:PORT, or local")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise Zs2Error(f"the farm {address} can't be reached ({why})", "is Ray started there?") from None
    try:
        ray.init(address, **{**quiet, "include_dashboard": None})
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise Zs2Error(
            f"the farm {address} can't be joined ({' '.join(str(error).split())})",
            "start Ray on this machine first, as a part of that farm; if the farm has a token, set "
            "RAY_AUTH_MODE=token",
        ) from error


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
