"""Jobs: a clip, several clips or the cuts of a timeline, each of which gets a result."""

from __future__ import annotations

import csv
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import click

from zs2kit.cli.options import FILES, PATH, WHAT, Common, Whole, flag
from zs2kit.cli.terminal import say_failure
from zs2kit.errors import ClipError, UsageError, Zs2Error, first_line, is_out_of_memory, notify

if TYPE_CHECKING:
    from zs2kit.cli.display import Display
    from zs2kit.clip import Clip
    from zs2kit.filters import Filter
    from zs2kit.io import Output
    from zs2kit.timelines import Cut, Timeline

T = TypeVar("T")
C = TypeVar("C", bound=Common)  # the options that the command has

STANDARD = Path("-")  # standard input, or output
HANDLES = flag(
    "--handles",
    metavar="N",
    type=Whole(0),
    group=FILES,
    help="For a timeline: how many extra frames each cut gets at each end, so that it can be trimmed later.  "
    "[default: 0]",
)
PROMPTS = flag(
    "--prompts",
    "table",
    type=PATH,
    metavar="CSV",
    group=WHAT,
    help="A table with a prompt for each clip, or for each cut of a timeline: CSV, with the columns clip and "
    "prompt.",
)


@dataclass(frozen=True)
class Job(Generic[C]):
    """A clip, or a cut of a timeline, and where its result goes.

    how: what `zs2kit.read` is given. prompts: the clip's own, by frame; empty if it has none.
    """

    clip: Path
    out: Path
    shared: C  # with the paths of this clip's sheet and report
    how: Mapping[str, Any]
    prompts: Mapping[int, str]
    cut: Cut | None = None

    @property
    def name(self) -> str:
        """What errors and progress call it."""
        return f"{self.cut.name} ({self.clip})" if self.cut else os.fspath(self.clip)


@dataclass
class Jobs(Generic[C]):
    """All jobs of a command; if ``written`` is a path, a timeline there will show the results."""

    jobs: Sequence[Job[C]]
    source: Timeline | None = None  # the one whose cuts are edited
    written: Path | None = None
    folder: Path | None = None  # for the results, if it is to be made
    failed: list[Job[C]] = field(default_factory=list)

    def attempt(self, job: Job[C], work: Callable[[], T]) -> T | None:
        """Do ``work``. If it fails and there are several jobs, print the error and return None, and go on."""
        try:
            return work()
        except Exception as error:
            if len(self.jobs) == 1 or not (isinstance(error, Zs2Error) or is_out_of_memory(error)):
                raise
            self.failed.append(job)
            say_failure(error, about=job.name)
            return None

    def numbered(self, job: Job[C]) -> str:
        """Return the job's name and number, to put after what is being done; empty if it is the only job."""
        return f" {job.name} ({self.jobs.index(job) + 1} of {len(self.jobs)})" if len(self.jobs) > 1 else ""

    def end(self) -> None:
        """Raise `ClipError` if any of several jobs failed."""
        if self.failed:
            names = ", ".join(job.name for job in self.failed)
            raise ClipError(f"{len(self.failed)} of {len(self.jobs)} clips failed: {names}")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Within this context, the folder for the results exists; it stays only if there are results."""
        if self.folder is not None:
            try:
                self.folder.mkdir(exist_ok=True)
            except OSError as error:
                raise ClipError(f"the folder {self.folder} can't be made ({error.strerror})") from error
        try:
            yield
        finally:
            if self.folder is not None:
                with suppress(OSError):
                    self.folder.rmdir()

    def unfinished(self) -> list[Job[C]]:
        """Return the jobs that an interrupted command has left."""
        from zs2kit import journal
        from zs2kit.io.sequence import Pattern

        unfinished = []
        for job in self.jobs:
            pattern = Pattern.of(job.out)
            there = pattern.numbers() if pattern else os.path.exists(job.out)
            if there and not journal.saved(job.out):
                notify("finished", f"{job.out} already exists, so {job.name} is skipped")
            else:
                unfinished.append(job)
        return unfinished

    def write_timeline(self, by_frame: Mapping[int, str]) -> Path | None:
        """Write the timeline that shows the results, if one is asked for; return its path.

        Cuts whose edit failed show what they showed before. by_frame: the prompts for jobs without prompts.
        """
        done = [job for job in self.jobs if job not in self.failed]
        if self.written is None or not done:
            return None
        from zs2kit import timelines

        if self.source is None:
            timelines.assembled({job.out: job.prompts or by_frame for job in done}).write(self.written)
        else:
            for job in done:
                assert job.cut is not None
                job.cut.replace(job.out)
            self.source.write(self.written)
        return self.written


@contextmanager
def begun(
    shared: Common, clips: Sequence[Path], out: Path | None
) -> Iterator[tuple[Display, Sequence[Path], Path | None]]:
    """Within this context a command writes clips: yield what shows how far it is, its clips and its result.

    In place of standard input and output, these are temporary files.
    """
    with shared.manners(), shared.display() as display, ExitStack() as stack:
        if STANDARD in clips and (out is None or len(clips) > 1):
            raise UsageError("standard input is a single clip without a name", "name the result: `out`")
        if out == STANDARD and (shared.sheet or shared.report):
            raise UsageError("nothing can be written beside standard output", "name the result: `out`")
        if STANDARD in (*clips, out):
            folder = stack.enter_context(TemporaryDirectory(prefix="zs2kit-"))
        if STANDARD in clips:
            display.stage("reading standard input")
            from zs2kit.io.pipes import collect

            clips = [collect(sys.stdin.buffer, Path(folder, "standard input"))]
        if out == STANDARD:
            out = Path(folder, "standard output.mkv")
        display.stage("looking at the clip" if len(clips) == 1 else "looking at the clips")
        yield display, clips, out


def look(
    job: Job[C],
    filters: Sequence[Filter],
    display: Display,
    read: Callable[[], Clip],
    *,
    live: bool = False,
) -> tuple[Clip, Output]:
    """Check all that can be checked before anything is loaded; return the job's clip, and its output.

    live: whether the clip is a camera.
    """
    from zs2kit.filters import declared

    check_live(job, live=live)
    source = read()
    output = job.shared.opened_output(job.out, display)
    output.check(declared(source, filters))
    job.shared.check_beside([job.clip, job.out])
    return source, output


def hand_over(result: Path, named: Path | None) -> None:
    """Print the name of a finished result; if ``named`` is standard output, write its bytes there."""
    if named == STANDARD:
        with result.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
    else:  # in bytes, since a name may not be text, or not fit the encoding
        click.echo(os.fsencode(result))


class _Entry(NamedTuple):
    """A clip, what its result is named after, and how it is read."""

    clip: Path
    like: Path
    how: Mapping[str, Any]
    cut: Cut | None = None


def jobs_of(
    clips: Sequence[Path],
    out: Path | None,
    shared: C,
    how: Mapping[str, Any],
    *,
    handles: int | None = None,
    table: Path | None = None,
) -> Jobs[C]:
    """Return what is to be done with ``clips``; ``how`` is what `zs2kit.read` is given.

    With several clips, all paths of results are folders, and the results are named after the clips. If
    ``out`` is a timeline, they go into a folder next to it, which has its name; so do those of a timeline's
    cuts. Raises `UsageError` if two results would have the same name.
    """
    from zs2kit.io.cameras import address_of
    from zs2kit.timelines import is_timeline

    source = next(filter(is_timeline, clips), None)
    if source is None:
        if handles is not None:
            raise UsageError("`handles` is for timelines", "leave it out")
        timeline, written = None, out if out is not None and is_timeline(out) else None
        if written is not None:
            check_timeline(written, shared, clips)
        entries = [_Entry(each, Path(each.name) if address_of(each) else each, how) for each in clips]
    elif len(clips) > 1:
        raise UsageError(f"{source} is a timeline, which is edited by itself", "leave out the other clips")
    else:
        timeline, written = _opened(source, out, shared, how, handles or 0)
        entries = [_entry(cut, how) for cut in timeline.cuts]
    several = timeline is not None or len(clips) > 1
    folder = written.with_suffix("") if written and several else None
    if written and not several:
        out = shown_by(written, shared)
    _check_folders(entries, None if folder else out, shared, several=several)
    jobs = _jobs(entries, folder or out, shared, several=several)
    return Jobs(_with_prompts(jobs, table), timeline, written, folder)


def check_live(job: Job[C], *, live: bool = False) -> None:
    """Raise `UsageError` for what can't be done with a camera's frames, since they come only once.

    live: whether the job's clip is a camera; cameras on the network are recognised by their addresses.
    """
    from zs2kit.io.cameras import address_of

    if not (live or address_of(job.clip)):
        return
    if job.shared.sheet or job.shared.report:
        raise UsageError(f"{job.clip} can't be read again for a sheet or a report", "leave it out")
    if job.how["start"] is not None:
        raise UsageError(f"`start` is for files, not for {job.clip}", "leave it out")


def check_timeline(path: Path, shared: Common, others: Sequence[Path]) -> None:
    """Raise an error if a timeline can't be written to ``path``, or would replace one of ``others``."""
    from zs2kit.beside import check_beside

    replaces = bool(shared.output.get("overwrite") or shared.output.get("resume"))
    check_beside(path, path.suffix.lower(), "timeline", others, replaces)


def shown_by(written: Path, shared: Common) -> Path:
    """Return where the single result goes that the timeline ``written`` shows."""
    from zs2kit import io

    return io.name_beside(written, "", shared.output.get("codec"))


def _opened(
    source: Path, out: Path | None, shared: Common, how: Mapping[str, Any], handles: int
) -> tuple[Timeline, Path]:
    """Return the timeline ``source``, and where that of the results goes."""
    from zs2kit import timelines

    if how["start"] is not None or how["end"] is not None:
        raise UsageError("`start` and `end` are for clips, not for timelines", "leave them out")
    written = out or source.with_name(f"{source.stem}-{shared.word}{source.suffix}")
    if not timelines.is_timeline(written):
        raise UsageError(f"{written} is not the name of a timeline", "end it in .otio or .edl")
    check_timeline(written, shared, [source])
    timeline = timelines.read(source, rate=how["rate"], handles=handles)
    timeline.check(written)
    return timeline, written


def _entry(cut: Cut, how: Mapping[str, Any]) -> _Entry:
    """Return a cut's entry; its result has the cut's number, since cuts may share a name."""
    from zs2kit.io.sequence import Pattern

    name = re.sub(r"[^\w.-]+", "-", cut.name).strip("-.")[:60]
    pattern = None if os.path.isfile(cut.media) else Pattern.of(cut.media)
    ending = f".%04d{cut.media.suffix}" if pattern else ".mov"
    stem = name.removesuffix(cut.media.suffix)
    like = Path(f"{cut.number:03}-{stem}{ending}")
    return _Entry(cut.media, like, {**how, "start": cut.start, "end": cut.end, "rate": cut.rate}, cut)


def _check_folders(entries: Sequence[_Entry], out: Path | None, shared: Common, *, several: bool) -> None:
    """Raise `UsageError` if a place for several results is not a folder."""
    for option, folder in {"out": out, "sheet": shared.sheet, "report": shared.report}.items():
        if several and folder is not None and not os.path.isdir(folder):
            raise UsageError(
                f"`{option}`: {folder} is not a folder", "for several clips, name a folder that exists"
            )


def _jobs(entries: Sequence[_Entry], out: Path | None, shared: C, *, several: bool) -> list[Job[C]]:
    from zs2kit import io

    clips = [each.clip for each in entries]
    named = [io.name_beside(each.like, shared.word, shared.output.get("codec")) for each in entries]
    if not several:
        (entry,) = entries
        return [Job(entry.clip, out or named[0], shared, entry.how, {})]
    jobs, taken = [], dict[str, Path]()
    for (clip, _, how, cut), name in zip(entries, named, strict=True):
        path = name if out is None else out / name.name
        stem = path.stem.partition("%")[0].rstrip("._-")
        sheet = shared.sheet and shared.sheet / f"{stem}.png"
        report = shared.report and shared.report / f"{stem}.json"
        own = {} if cut is None else cut.prompts
        jobs.append(Job(clip, path, replace(shared, sheet=sheet, report=report), how, own, cut))
        for place in filter(None, (path, sheet, report)):
            if os.path.realpath(place) in map(os.path.realpath, clips):
                raise UsageError(
                    f"the result of {clip} would replace {place}, which is one of the clips",
                    "name a folder for the results with `out`",
                )
            if os.path.abspath(place) in taken:
                raise UsageError(
                    f"{taken[os.path.abspath(place)]} and {clip} would both become {place}",
                    "edit one of them by itself, with `out`",
                )
            taken[os.path.abspath(place)] = clip
    return jobs


def _with_prompts(jobs: Sequence[Job[C]], table: Path | None) -> list[Job[C]]:
    """Return the jobs with the prompts from a table, which names cuts by name or by number."""
    if table is None:
        return list(jobs)
    prompts, used, found = _prompt_table(table), set[str](), []
    for job in jobs:
        cut = job.cut
        names = [str(cut.number), cut.name] if cut else [os.fspath(job.clip), job.clip.name]
        name = next((each for each in names if each in prompts), None)
        used.update([] if name is None else [name])
        found.append(job if name is None else replace(job, prompts={0: prompts[name]}))
    if unused := [each for each in prompts if each not in used]:
        raise UsageError(
            f"{table} has prompts for clips that aren't there: {', '.join(unused)}",
            "use the names of the clips, or the numbers of the cuts",
        )
    return found


def _prompt_table(path: Path) -> dict[str, str]:
    """Read a table of prompts, which is CSV with the columns clip and prompt; return the prompts by clip.

    Raises `ClipError` if it can't be read, `UsageError` if it has other columns.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            if not {"clip", "prompt"} <= set(table.fieldnames or ()):
                raise UsageError(f"{path} is not a table of prompts", "its first line must be: clip,prompt")
            return {row["clip"].strip(): (row["prompt"] or "").strip() for row in table if row["clip"]}
    except OSError as error:
        raise ClipError(f"{path} can't be read ({error.strerror})", "check its name") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path} is not a table of prompts ({first_line(error)})", "save it as CSV, in UTF-8"
        ) from error
