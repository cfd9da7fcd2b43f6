"""Progress: how far a piece of work has come, as callbacks are told."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter


class Progress(int):
    """How many frames are done, as a number, with further details as attributes.

    stage: "reading", "drawing" or "writing". total: how many frames there will be; None if unknown. step,
    steps: how many denoising steps of the current chunk are taken, and how many there are. fraction: of the
    whole, with the current chunk; 0 if ``total`` is unknown. seconds_left: by the pace so far; None before
    anything is done, and if ``total`` is unknown.
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


class Pace:
    """Estimates how long the rest of a piece of work takes, by how long it took so far.

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
