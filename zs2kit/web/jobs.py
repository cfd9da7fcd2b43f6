"""Jobs: what the page was asked to do, done one after the other, whether or not the page is open.

Each has a folder of its own, with the clip, the result, and all that is needed to resume it. So neither a
closed tab nor a stopped server costs any work.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from queue import SimpleQueue
from threading import Condition, Event, Lock, Thread
from typing import Any, Literal, get_args

import cv2

from zs2kit import io, plugins
from zs2kit.beside import write_beside
from zs2kit.clip import Clip, Frame
from zs2kit.editing import Edit, edit, generate
from zs2kit.errors import (
    ClipError,
    Notice,
    Stopped,
    UsageError,
    Zs2Error,
    first_line,
    is_out_of_memory,
    notify,
    receiving,
)
from zs2kit.filters import Filter, Filtered, declared, through
from zs2kit.io.reading import how_read
from zs2kit.io.showing import write_view
from zs2kit.journal import Left, saved
from zs2kit.model import Model
from zs2kit.networks.loading import BUNDLED
from zs2kit.plan import lines, plan
from zs2kit.plugins import Plugin
from zs2kit.progress import Progress, in_words
from zs2kit.report import drawn_with, filtered_with, report_on, write_report
from zs2kit.settings import Prompts, Settings, parsed
from zs2kit.sheet import write_sheet

log = logging.getLogger(__name__)

Work = Literal["preview", "edit", "generate", "filter"]
State = Literal["waiting", "running", "stopped", "failed", "done"]
Chosen = Mapping[str, Mapping[str, str]]  # plugins or filters by name, and their options as text

RECORD, SHEET, REPORT = "job.json", "sheet.png", "report.json"
PATIENCE = 0.5  # seconds between two checks of whether a job that waits for its model should stop
SOURCE_VIEW, RESULT_VIEW = "source-view.mp4", "result-view.mp4"  # small videos that every browser plays


@dataclass(frozen=True)
class Wanted:
    """What somebody asked for, ready for JSON; the values of options are text, as typed."""

    work: Work
    clip: str | None = None  # the path of an uploaded file
    first: int = 0  # the positions of the first and the last frame that are used
    last: int | None = None  # None: the clip's last
    prompt: str = ""  # empty: the model's own
    later: Sequence[tuple[int, str]] = ()  # further prompts, each with the position of its first frame
    loras: Mapping[str, float] = field(default_factory=dict)  # their weights
    model: str | None = None  # None: the plugins' default model or the bundled one
    plugins: Chosen = field(default_factory=dict)
    filters: Chosen = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    output: Mapping[str, str] = field(default_factory=dict)
    frames: int = 48  # how many, of a clip that is made from text alone
    rate: float = 12  # its frames per second

    def built(self) -> tuple[list[Plugin] | None, list[Filter]]:
        """Return the plugins, None if none is chosen, and the filters; raise `UsageError` for a bad value."""
        chosen = [plugins.build(name, texts) for name, texts in self.plugins.items()]
        filters = [plugins.build(name, texts, None, Filter) for name, texts in self.filters.items()]
        if self.work == "filter" and not filters:
            raise UsageError("no filter is chosen", "choose one below")
        return chosen or None, filters

    def how(self) -> Settings:
        """Return the settings; raise `UsageError` for a value that is not allowed."""
        return Settings(**{"prompt": self._prompts(), **parsed(Settings, self.settings)})

    def _prompts(self) -> Prompts | None:
        """The prompts, by the positions of their first frames in the part that is used."""
        if not self.later:
            return self.prompt or None
        if not self.prompt:
            raise UsageError("there is no prompt for the beginning", "write one above the further prompts")
        count = self.frames if self.clip is None else opened(self.clip).frame_count or sys.maxsize
        last = count - 1 if self.last is None else self.last
        for at, _ in self.later:
            if not self.first < at <= last:
                raise UsageError(
                    f"a further prompt starts at frame {at}, but the frames are {self.first} to {last}",
                    f"use one after {self.first}",
                )
        if len(dict(self.later)) < len(self.later):
            raise UsageError("two further prompts start at the same frame", "give each a frame of its own")
        return {0: self.prompt, **{at - self.first: prompt for at, prompt in self.later}}

    def source(self) -> Clip:
        """Return the part of the clip that is used; raise what `zs2kit.read` raises."""
        if self.clip is None:
            raise UsageError("there is no clip yet", "drop one above")
        clip = opened(self.clip)
        if self.last is not None and self.last < self.first:
            raise UsageError(
                f"the last frame ({self.last}) comes before the first ({self.first})", "move one of them"
            )
        if not self.first and self.last is None:
            return clip
        start = clip.frame(self.first).pts * clip.time_base - clip.origin
        after = None if self.last is None else self.last + 1
        ends = after is None or (clip.frame_count is not None and after >= clip.frame_count)
        end = None if ends or after is None else clip.frame(after).pts * clip.time_base - clip.origin
        return io.read(self.clip, start=start, end=end)

    def output_in(self, folder: Path) -> io.Output:
        """Return where and how the result is written; raise `UsageError` for a value that is not allowed."""
        return io.Output(folder / self.name, **parsed(io.Output, self.output), resume=True)

    @property
    def name(self) -> str:
        """What the result's file is called."""
        codec = self.output.get("codec")
        word = "-".join([*self.plugins, *self.filters]) or "edit"
        if self.clip is None:
            words = "-".join(re.findall(r"\w+", self.prompt)[:12])[:60] or "generated"
            return words + io.CODECS[codec or "h264"].suffixes[0]
        return io.name_beside(Path(Path(self.clip).name), word, codec).name


@lru_cache(maxsize=8)
def opened(path: str) -> Clip:
    """Return an uploaded clip, whose frames can be read in any order."""
    return io.read(path)


class Models:
    """The models that the page may use, fixed at its start. Only one is in memory at a time."""

    def __init__(self, names: Sequence[str] = (), loras: Sequence[str] = (), **how: Any) -> None:
        """``loras``: those that may be added to a model. ``how``: further arguments of `Model.load`."""
        self.names = list(names)
        self.loras = list(loras)
        self.how = how
        self._free = Condition()
        self._loaded: tuple[Any, Model] | None = None  # and what it was loaded with
        self._users = 0  # how many jobs use it

    def load_first(self) -> None:
        """Load the first model, so that nobody has to wait for it; if that fails, the first job says so."""
        with suppress(Exception), self.use(self.names[0] if self.names else None, (), lambda: None):
            pass

    @contextmanager
    def use(
        self,
        name: str | None,
        chosen: Sequence[Plugin],
        waiting: Callable[[], None],
        loras: Mapping[str, float] | None = None,
    ) -> Iterator[Model]:
        """Yield the model of this name, with these LoRAs; without a name, the plugins' or the bundled one.
        While jobs use another model, ``waiting`` is called again and again; it may raise an error to give up.
        """
        name = name or plugins.default_model(chosen) or BUNDLED
        which = name, dict(loras or {})
        with self._free:
            while self._users and self._loaded and self._loaded[0] != which:
                waiting()
                self._free.wait(PATIENCE)
            if self._loaded is None or self._loaded[0] != which:
                self._loaded = None  # before the next one takes its memory
                self._loaded = which, Model.load(name, loras=loras or None, **self.how)
            model = self._loaded[1]
            self._users += 1
        try:
            yield model
        finally:
            with self._free:
                self._users -= 1
                self._free.notify_all()


class Job:
    """One piece of work, in its own ``folder``, and how far it is."""

    def __init__(self, number: int, folder: Path, wanted: Wanted, state: State = "waiting") -> None:
        self.number = number
        self.folder = folder
        self.wanted = wanted
        self.state: State = state
        self.says = ""  # how far it is, or what went wrong
        self.fraction = 0.0
        self.notices: list[Notice] = []
        self.plan: list[str] = []  # of a preview: the lines of the whole edit's plan
        self.shots = 0  # of a preview: how many shots have been drawn
        self.stopping = Event()

    @property
    def result(self) -> Path:
        """The result's file."""
        return self.folder / self.wanted.name

    @property
    def saved(self) -> Left | None:
        """What is saved and needn't be drawn again; None if that is nothing, or can't be read."""
        if self.wanted.work == "preview":
            return None
        try:
            return saved(self.result)
        except ClipError:  # resuming the job tells
            return None

    def files(self) -> dict[str, Path]:
        """Return what can be looked at or downloaded, by name."""
        return {each.name: each for each in self.folder.glob("*") if each.suffix and each.is_file()}

    def record(self) -> None:
        """Save what is wanted, and the state."""
        about = {"wanted": asdict(self.wanted), "state": self.state}
        write_beside(self.folder / RECORD, json.dumps(about, indent=2).encode())

    def stage(self, says: str) -> None:
        """Say what is done now; raise `Stopped` if the job is to stop."""
        self.says, self.fraction = says, 0.0
        if self.stopping.is_set():
            raise Stopped("stopped")

    def update(self, progress: Progress) -> None:
        """Note how far it is; raise `Stopped` if the job is to stop."""
        self.says, self.fraction = in_words(progress), progress.fraction
        if self.stopping.is_set():
            raise Stopped(f"stopped after {progress.numerator} frames")

    def run(self, models: Models) -> None:
        """Do the work, or go on with it, unless it was stopped in the meantime."""
        self.notices.clear()
        self.state, self.fraction = "running", 0.0
        try:
            self.stage("reading the clip")
            with receiving(self.notices.append), ExitStack() as stack:
                self._work(models, stack)
            self.state, self.says = "done", ""
        except Stopped:
            self.state, self.says = "stopped", ""
        except Exception as error:
            self.state, self.says = "failed", told(error)
        with suppress(ClipError):  # the disk may be full; a job whose end isn't recorded can be resumed
            self.record()

    def _work(self, models: Models, stack: ExitStack) -> None:
        wanted = self.wanted
        chosen, filters = wanted.built()
        source = wanted.source() if wanted.work != "generate" else None
        if source is not None:
            declared(source, filters)  # which checks them before anything is loaded
        made: Edit | Filtered
        if wanted.work == "filter":
            assert source is not None
            filtered = through(source, filters, **parsed(Settings, wanted.settings), **models.how)
            assert isinstance(filtered, Filtered)
            edited, made = None, filtered
        else:
            self.stage("loading the model")
            waiting = partial(self.stage, "waiting for a job that uses another model")
            model = stack.enter_context(models.use(wanted.model, chosen or (), waiting, wanted.loras))
            if not wanted.prompt:
                own = f"the model's own: “{model.default_prompt}”" if model.default_prompt else "an empty one"
                notify("default-prompt", f"no prompt; using {own}")
            edited = self._edit(source, chosen, model)
            made = through(edited, filters)
        output = wanted.output_in(self.folder)
        if wanted.work == "preview":
            self._preview(made, output)
            return
        self.stage("starting")
        if not self.result.exists():  # it does if the job was interrupted after this
            io.write(output, made, progress=self.update)
        self._look(made, edited, source)

    def _edit(self, source: Clip | None, chosen: Sequence[Plugin] | None, model: Model) -> Edit:
        wanted = self.wanted
        told: dict[str, Any] = {"model": model, "settings": wanted.how(), "progress": self.update}
        told["notices"] = self.notices.append
        if source is not None:
            return edit(source, plugins=chosen, **told)
        return generate(frames=wanted.frames, rate=wanted.rate, plugins=chosen or (), **told)

    def _preview(self, made: Edit | Filtered, output: io.Output) -> None:
        """Draw the first frame of each shot, and plan the whole edit."""

        def add(source: Frame, result: Frame) -> None:
            for which, frame in (("source", source), ("result", result)):
                _, data = cv2.imencode(".png", frame.image[..., ::-1])  # OpenCV wants BGR
                write_beside(self.folder / f"shot-{self.shots + 1}-{which}.png", data.tobytes())
            self.shots += 1

        self.stage("drawing the first frame")
        found = plan(made, output, progress=self.update, preview=add)
        self.plan = lines(replace(found, result=Path(self.result.name)))

    def _look(self, made: Edit | Filtered, edited: Edit | None, source: Clip | None) -> None:
        """Write what comes with the result: videos to look at, the sheet, the report."""
        self.stage("making the videos for the page")
        rows = {"source": source} if source else {}
        write_view(self.folder / RESULT_VIEW, io.read(self.result), self.update)
        if source:
            write_view(self.folder / SOURCE_VIEW, source, self.update)
        self.stage("drawing the sheet")
        write_sheet(self.folder / SHEET, {**rows, "result": io.read(self.result)})
        self.stage("measuring the result")
        of_source = how_read(source.start, source.end) if source else {}
        if edited:
            about = drawn_with(edited, of_source, loras=self.wanted.loras)
        else:
            about = filtered_with(made, of_source)
        write_report(self.folder / REPORT, ["zs2kit", "web"], report_on(self.result, made, source, about))


def told(error: Exception) -> str:
    """Return an error in one line; an unexpected one goes to the log, too."""
    if isinstance(error, Zs2Error):
        return str(error)
    if is_out_of_memory(error):
        return "out of memory; use a smaller size"
    log.error("a job failed", exc_info=error)
    return f"{type(error).__name__}: {first_line(error)}"


class Jobs:
    """All jobs, in the folder ``root``, and the thread that does them one after the other.

    When a job is added, its files are moved out of the folder ``uploads``. All uploads together take no more
    than ``most`` bytes.
    """

    def __init__(self, root: Path, uploads: Path, models: Models, most: float = math.inf) -> None:
        self.root = root
        self.uploads = uploads
        self.most = most
        self.models = models
        self._jobs = {job.number: job for job in map(_restored, sorted(root.iterdir())) if job}
        self._lock = Lock()
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = [Thread(target=self._work, daemon=True)]
        self._threads[0].start()

    def __iter__(self) -> Any:
        return reversed(list(self._jobs.values()))

    def find(self, number: int | None) -> Job | None:
        """Return a job by its number; None if there is none."""
        return None if number is None else self._jobs.get(number)

    def add(self, wanted: Wanted) -> Job:
        """Add a job, which waits for its turn; a preview starts at once.

        Raises what reading the clip raises, and `UsageError` for a value that is not allowed.
        """
        wanted.built(), wanted.how(), wanted.output_in(Path())
        if wanted.work != "generate":
            wanted.source()
        with self._lock:
            there = [int(each.name) for each in self.root.iterdir() if each.name.isdecimal()]
            number = max([*there, *self._jobs], default=0) + 1  # some folders may hold no readable job
            folder = self.root / f"{number:04}"
            folder.mkdir()
            try:
                job = Job(number, folder, self._moved(wanted, folder / "uploads"))
                job.record()
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._jobs[number] = job
        if wanted.work == "preview":
            for other in [each for each in self if each.wanted.work == "preview" and each is not job]:
                self.remove(other)
            thread = Thread(target=job.run, args=(self.models,), daemon=True)
            thread.start()
            self._threads = [*(each for each in self._threads if each.is_alive()), thread]
        else:
            self._queue.put(job)
        return job

    def resume(self, job: Job) -> None:
        """Go on with a job that was stopped or has failed."""
        if job.state in ("stopped", "failed"):
            job.stopping.clear()
            job.state, job.says, job.fraction = "waiting", "", 0.0
            self._queue.put(job)

    def stop(self, job: Job) -> None:
        """End a job after the current denoising step; what it has done is saved."""
        job.stopping.set()
        if job.state == "waiting":
            job.state = "stopped"

    def remove(self, job: Job) -> None:
        """Delete a job that isn't running, and all of its files."""
        self.stop(job)
        if job.state != "running":
            self._jobs.pop(job.number, None)
            shutil.rmtree(job.folder, ignore_errors=True)

    def room(self) -> float:
        """Return how many bytes can still be uploaded, if uploads that no job uses are deleted."""
        return max(0, self.most - sum(stat.st_size for _, stat in self._used().values()))

    def make_room(self, size: int) -> bool:
        """Make room for ``size`` bytes by deleting uploads that no job uses, the oldest first.

        Returns whether there is enough. An open page whose form names a deleted file asks for it again.
        """
        used, here = self._used(), _stored(self.uploads.rglob("*"))
        taken = sum(stat.st_size for _, stat in {**here, **used}.values())
        unused = [here[each] for each in here.keys() - used.keys()]
        for path, stat in sorted(unused, key=lambda each: each[1].st_mtime):
            if taken + size <= self.most:
                break
            path.unlink(missing_ok=True)
            taken -= stat.st_size
        return taken + size <= self.most

    def _used(self) -> dict[int, tuple[Path, os.stat_result]]:
        return _stored(self.root.glob("*/uploads/*/*"))

    def close(self) -> None:
        """Stop all jobs, and wait until they are saved."""
        self._queue.put(None)
        for job in self:
            if job.state in ("waiting", "running"):
                self.stop(job)
        for thread in self._threads:
            thread.join()

    def _moved(self, wanted: Wanted, folder: Path) -> Wanted:
        """Move uploaded files to the job's own ``folder``; return what is wanted with their new paths."""

        def move(text: str) -> str:
            if not Path(text).is_relative_to(self.uploads):
                return text
            target = folder / Path(text).parent.name / Path(text).name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                try:
                    os.link(text, target)
                except FileNotFoundError:  # uploads are deleted after a day, or to make room
                    name = Path(text).name
                    raise UsageError(f"{name} is no longer here", "upload it again") from None
                except OSError:  # on another disk, or on one without links
                    shutil.copyfile(text, target)
            return str(target)

        def all_of(chosen: Chosen) -> Chosen:
            return {name: {key: move(text) for key, text in texts.items()} for name, texts in chosen.items()}

        return replace(
            wanted,
            clip=wanted.clip and move(wanted.clip),
            plugins=all_of(wanted.plugins),
            filters=all_of(wanted.filters),
        )

    def _work(self) -> None:
        while job := self._queue.get():
            if job.state == "waiting":
                job.run(self.models)


def _stored(paths: Iterable[Path]) -> dict[int, tuple[Path, os.stat_result]]:
    """The files among ``paths``; each only once, if it has several names."""
    found = {}
    for path in paths:
        with suppress(FileNotFoundError):
            if path.is_file():
                stat = path.stat()
                found[stat.st_ino] = path, stat
    return found


def _restored(folder: Path) -> Job | None:
    """Return the job that a folder holds; None if it holds none that can be read, or a preview."""
    if not (folder / RECORD).is_file():
        return None
    try:
        about = json.loads((folder / RECORD).read_text())
        wanted, state = Wanted(**about["wanted"]), about["state"]
        if not wanted.name or wanted.work not in get_args(Work):
            raise ValueError(f"its kind is {wanted.work}")
        number = int(folder.name)
    except Exception as error:  # another version of zs2kit may have written anything
        why = f"{type(error).__name__}: {first_line(error)}"
        notify("unread-job", f"{folder} can't be read as a job, so it is not on the page ({why})")
        return None
    if wanted.work == "preview":
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return Job(number, folder, wanted, "done" if state == "done" else "stopped")
