"""Frames are read ahead, and encoded afterwards, in threads; to the caller it looks as if there were none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import zs2kit
from zs2kit.ahead import MOST, Worker, ahead
from zs2kit.errors import ClipError, Notice, notify, receiving
from zs2kit.testing import drawn_clip


def counted(count: int, taken: list[int], fails: int | None = None) -> Iterator[int]:
    for number in range(count):
        if number == fails:
            raise ClipError(f"{number} can't be read")
        if number == 2:
            notify("odd", "2 is odd")
        taken.append(number)
        yield number


@pytest.mark.parametrize("count", [0, 1, MOST - 1, MOST, 3 * MOST])
def test_all_items_come_in_order(count: int) -> None:
    with receiving(lambda notice: None):
        assert list(ahead(counted(count, []))) == list(range(count))


def test_some_are_taken_ahead_but_not_all() -> None:
    taken: list[int] = []
    with receiving(lambda notice: None):
        items = ahead(counted(100, taken))
        assert next(items) == 0
        items.close()  # waits for the one that is being taken, and drops the others
    assert 1 <= len(taken) <= MOST + 1


def test_errors_and_notices_come_where_their_item_would() -> None:
    told: list[Notice] = []
    done = []
    with receiving(told.append), pytest.raises(ClipError, match="4 can't be read"):
        for number in ahead(counted(9, [], fails=4)):
            assert bool(told) == (number >= 2)
            done.append(number)
    assert done == [0, 1, 2, 3]
    assert [notice.kind for notice in told] == ["odd"]


def test_a_worker_drops_what_is_not_started() -> None:
    started, going_on, done = threading.Event(), threading.Event(), []

    def first() -> None:
        started.set()
        going_on.wait()
        done.append("first")

    with pytest.raises(InterruptedError), Worker() as worker:
        worker.do(first)
        worker.do(lambda: done.append("second"))
        started.wait()
        threading.Timer(0.1, going_on.set).start()
        raise InterruptedError
    assert done == ["first"]


def test_an_edit_reads_ahead_and_ends_its_thread(tiny_folders, tmp_path: Path) -> None:
    zs2kit.write(tmp_path / "clip.mkv", drawn_clip(20), codec="ffv1")
    model = zs2kit.Model.load(tiny_folders["epsilon"], device="cpu")
    before = threading.active_count()
    clip = zs2kit.edit(
        tmp_path / "clip.mkv", "a cat", plugins=(), model=model, num_inference_steps=1, chunk_size=1
    )
    frames = iter(clip)
    next(frames)
    assert threading.active_count() == before + 1
    frames.close()
    assert threading.active_count() == before


def test_a_picture_may_be_drawn_over_the_one_before(tmp_path: Path) -> None:
    """As cameras and games do it."""

    def pictures() -> Iterator[np.ndarray]:
        picture = np.zeros((16, 16, 3), np.uint8)
        for number in range(20):
            picture[:] = 10 * number
            yield picture

    zs2kit.write(tmp_path / "out.mkv", zs2kit.Clip.from_images(pictures(), 25), codec="ffv1")
    assert [frame.image[0, 0, 0] for frame in zs2kit.read(tmp_path / "out.mkv")] == list(range(0, 200, 10))
