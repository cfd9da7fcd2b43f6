"""Threads that work next to the model: they read the next frames, and encode the finished ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

from zs2kit.errors import Notice, notify, receiving

MOST = 8  # how many frames wait on either side: as many as a chunk has

T = TypeVar("T")


class _Done(NamedTuple):
    value: Any
    error: Exception | None
    notices: list[Notice]


class Worker:
    """A thread that does one piece of work after another.

    `result` returns their results in order. To the caller it looks as if the work were done there: that is
    where errors are raised and notices are sent. When the context ends, work that hasn't started is dropped.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[_Done]] = deque()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def __len__(self) -> int:
        """How many results haven't been asked for."""
        return len(self._waiting)

    def do(self, work: Callable[[], object]) -> None:
        """Do ``work`` in the thread, after everything else."""
        self._waiting.append(self._thread.submit(_done, work))

    def result(self) -> Any:
        """Wait for the earliest work not yet asked for; return its result, or raise its error."""
        value, error, notices = self._waiting.popleft().result()
        for notice in notices:
            notify(notice.kind, notice.message, notice.remedy)
        if error is not None:
            raise error
        return value


def _done(work: Callable[[], object]) -> _Done:
    notices: list[Notice] = []
    with receiving(notices.append):
        try:
            return _Done(work(), None, notices)
        except Exception as error:
            return _Done(None, error, notices)


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the ``items``, none of which is None, while a thread fetches the next `MOST` of them."""
    take = partial(next, items, None)
    with Worker() as worker:
        for _ in range(MOST):
            worker.do(take)
        while (item := worker.result()) is not None:
            worker.do(take)
            yield item
