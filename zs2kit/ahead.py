"""Threads beside the model: they read the frames that come next, and encode those that are done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

from zs2kit.errors import Notice, notify, receiving

MOST = 8  # frames that wait at each end: those of a chunk

T = TypeVar("T")


class _Done(NamedTuple):
    value: Any
    error: Exception | None
    notices: list[Notice]


class Worker:
    """A thread that does one thing after the other.

    `result` returns what came of them, in this order. To the caller it looks as if the work were done there:
    that is where errors are raised, and notices sent. When the context ends, what isn't started is dropped.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[_Done]] = deque()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def __len__(self) -> int:
        """How many results have not been asked for."""
        return len(self._waiting)

    def do(self, work: Callable[[], object]) -> None:
        """Do ``work`` in the thread, after all else."""
        self._waiting.append(self._thread.submit(_done, work))

    def result(self) -> Any:
        """Wait for the first of these works; return its result, or raise its error."""
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
    """Yield the ``items``, none of which is None; a thread takes the next `MOST` of them meanwhile."""
    take = partial(next, items, None)
    with Worker() as worker:
        for _ in range(MOST):
            worker.do(take)
        while (item := worker.result()) is not None:
            worker.do(take)
            yield item
