"""Progress: how far a piece of work is, as its callbacks are told."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter


class Progress(int):
    """How many frames are done, as a number, and beside it what else is known.

    stage: "drawing" or "writing". total: how many frames there will be; None where that isn't known.
    step, steps: of the denoising steps of the chunk under way, those that are taken and all of them.
    fraction: of the whole, with the chunk under way; 0 where ``total`` isn't known.
    seconds_left: by the pace so far; None before there is one, and where ``total`` isn't known.
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
    """Tells how long the rest of a piece of work takes, by how long it took so far.

    done: how much was done before it began, in any unit.
    """

    def __init__(self, done: float) -> None:
        self._first = done
        self._began = perf_counter()

    def seconds_left(self, done: float, total: float | None) -> float | None:
        """Return the seconds until ``total`` is done, now that ``done`` is; None if that can't be told."""
        if total is None or done <= self._first:
            return None
        return (perf_counter() - self._began) / (done - self._first) * max(0.0, total - done)
