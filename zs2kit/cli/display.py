"""The progress of a command, as a bar, in lines, or as JSON for other programs."""

from __future__ import annotations

import json
import sys
from threading import Event, Thread
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any

from zs2kit.cli.terminal import say
from zs2kit.progress import in_words

if TYPE_CHECKING:
    from zs2kit.progress import Progress

KINDS = ("auto", "bar", "lines", "json", "none")
EVERY = 10.0  # seconds between two lines


def make_display(kind: str, quiet: bool) -> Display:
    """Return the display of this ``kind``: auto is a bar on a terminal, lines elsewhere, and none if quiet.

    Where there is no terminal, a bar becomes lines as well.
    """
    if kind == "auto":
        kind = "none" if quiet else "bar"
    if kind == "bar" and not sys.stderr.isatty():
        kind = "lines"
    return {"bar": Bar, "lines": Lines, "json": Json}.get(kind, Display)()


class Display:
    """Shows nothing; the other displays derive from it. All of them write to stderr."""

    def __enter__(self) -> Display:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start to show something."""

    def stop(self) -> None:
        """Remove what is shown; `start` may follow."""

    def stage(self, name: str) -> None:
        """Say what is being done."""

    def update(self, progress: Progress) -> None:
        """Show the progress."""


class Bar(Display):
    """A bar on a terminal. It is gone at the end, so that an error is then the only line."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[says]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=None, says="")

    def start(self) -> None:
        self._bar.start()

    def stop(self) -> None:
        self._bar.stop()

    def stage(self, name: str) -> None:
        self._bar.reset(self._task, total=None, description=name, says="")

    def update(self, progress: Progress) -> None:
        self._bar.update(
            self._task,
            total=progress.total,
            completed=progress.fraction * (progress.total or 0),
            says=in_words(progress),
        )


class Lines(Display):
    """A line every ten seconds, for logs and pipes."""

    def __init__(self) -> None:
        self._stage = "starting"
        self._says = ""
        self._ended = Event()
        self._thread: Thread | None = None

    def start(self) -> None:
        self._ended.clear()
        self._thread = Thread(target=self._speak, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def stage(self, name: str) -> None:
        self._stage, self._says = name, ""

    def update(self, progress: Progress) -> None:
        self._says = in_words(progress)

    def _speak(self) -> None:
        while not self._ended.wait(EVERY):
            say(": ".join(filter(None, (self._stage, self._says))))


class Json(Display):
    """A JSON object per line, for programs: one for each new stage, and up to ten a second in between."""

    def __init__(self) -> None:
        self._stage = "starting"
        self._last = 0.0

    def stage(self, name: str) -> None:
        self._stage = name
        self._print({"stage": name})

    def update(self, progress: Progress) -> None:
        complete = progress.total is not None and progress >= progress.total
        if perf_counter() - self._last >= 0.1 or complete:
            self._print(
                {
                    "stage": self._stage,
                    "frames": int(progress),
                    "total": progress.total,
                    "step": progress.step,
                    "steps": progress.steps,
                    "seconds_left": progress.seconds_left,
                }
            )

    def _print(self, values: dict[str, Any]) -> None:
        self._last = perf_counter()
        print(json.dumps(values), file=sys.stderr, flush=True)
