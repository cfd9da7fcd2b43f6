"""Progress: how far a piece of work has come, for callbacks."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter


class Progress(int):
    """How many frames are done, as a number, with further details as attributes.

    stage: "reading", "drawing" or "writing".
    total: how many frames there will be; None if unknown.
    step, steps: how many denoising steps of the current chunk are taken, and how many it has.
    fraction: how much of the whole is done, counting the current chunk's steps; 0 if ``total`` is unknown.
    seconds_left: an estimate from the pace so far; None before anything is done, or if ``total`` is unknown.
    """

    stage: str
    total: int | None
    step: int
    steps: int
    seconds_left: float | None
    fraction: float

    def __new__(
        cls,
        done: int,
        stage: str,
        total: int | None = None,
        *,
        step: int = 0,
        steps: int = 0,
        under_way: float = 0.0,
        seconds_left: float | None = None,
    ) -> Progress:
        """``under_way``: how many frames the steps of the chunk under way are worth."""
        progress = super().__new__(cls, done)
        progress.stage, progress.total, progress.seconds_left = stage, total, seconds_left
        progress.step, progress.steps = step, steps
        progress.fraction = min(1.0, (done + under_way) / total) if total else 0.0
        return progress


Report = Callable[[Progress], object]


class ProgressBar:
    """A progress bar for scripts and notebooks: pass one as ``progress`` to `zs2kit.edit` or `zs2kit.write`.

    In a notebook it is a widget if ipywidgets is installed, and text if not.
    """

    def __init__(self) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(unit="frame", bar_format="{desc}{percentage:3.0f}%|{bar}| {postfix}")

    def __call__(self, progress: Progress) -> None:
        """Show the progress."""
        self._bar.total = progress.total
        self._bar.set_description(progress.stage, refresh=False)
        self._bar.set_postfix_str(in_words(progress), refresh=False)
        self._bar.n = max(int(progress), progress.fraction * (progress.total or 0))
        self._bar.refresh()
        if progress.total is not None and progress >= progress.total:
            self._bar.close()


def in_words(progress: Progress) -> str:
    """Return progress as text: 12 of 48 frames, step 3 of 20, about 0:32 left."""
    of = "" if progress.total is None else f" of {progress.total}"
    words = [f"{int(progress)}{of} frames"]
    if progress.steps:
        words.append(f"step {progress.step} of {progress.steps}")
    if progress.seconds_left is not None:
        words.append(f"about {clock(progress.seconds_left)} left")
    return ", ".join(words)


def clock(seconds: float) -> str:
    """Return a time as H:MM:SS or M:SS."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Pace:
    """Estimates how long the rest of a piece of work will take, from how long it has taken so far.

    done: how much was done when it started, in any unit.
    """

    def __init__(self, done: float) -> None:
        self._first = done
        self._started = perf_counter()

    def seconds_left(self, done: float, total: float | None) -> float | None:
        """Return the seconds from ``done`` to ``total``; None if that can't be estimated."""
        if total is None or done <= self._first:
            return None
        return (perf_counter() - self._started) / (done - self._first) * max(0.0, total - done)
