"""What `edit` returns: a clip that can be iterated over, asked how far it is, told to stop, and resumed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zs2kit
from zs2kit import Model, Notice, Plugin, Progress, Stopped, hookimpl, io, journal, notify
from zs2kit.clip import Clip, Frame
from zs2kit.editing import Edit
from zs2kit.errors import ClipError
from zs2kit.testing import drawn_clip

FRAMES, STEPS = 7, 3
QUICK: dict[str, Any] = {"num_inference_steps": STEPS, "chunk_size": 2, "flow_momentum": 0.0}


@pytest.fixture(scope="module")
def model(tiny_folders: dict[str, Path]) -> Model:
    return Model.load(tiny_folders["epsilon"], device="cpu", dtype="float32")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return io.write(tmp_path / "clip.mp4", drawn_clip(FRAMES), quality=5)


@pytest.fixture(autouse=True)
def _save_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT", 4)
    monkeypatch.setattr(journal, "SHARE", float("inf"))


def edited(model: Model, clip: Clip | None = None, **settings: Any) -> Edit:
    return zs2kit.edit(clip or drawn_clip(FRAMES), "a red robot", model=model, **(QUICK | settings))


def images(frames: Any) -> np.ndarray:
    return np.stack([frame.image for frame in frames])


# ---- iterating


def test_an_edit_iterated_twice_gives_all_frames_twice(model: Model) -> None:
    edit = edited(model)
    first, second = images(edit), images(edit)
    assert first.shape[0] == FRAMES and np.array_equal(first, second)


def test_what_was_peeked_at_is_written_whole(model: Model, source: Path, tmp_path: Path) -> None:
    edit = edited(model, io.read(source))
    next(iter(edit))
    out = io.write(tmp_path / "out.mkv", edit, codec="ffv1")
    assert np.array_equal(images(io.read(out)), images(edited(model, io.read(source))))


def test_an_edit_goes_in_step_with_its_source_and_with_itself(model: Model, source: Path) -> None:
    clip = io.read(source)
    edit = edited(model, clip)
    expected, originals = images(edit), images(clip)
    pairs = list(zip(clip, edit, edit, strict=True))
    assert np.array_equal([was.image for was, _, _ in pairs], originals)
    for which in (1, 2):  # two iterations at once don't disturb one another
        assert np.array_equal([pair[which].image for pair in pairs], expected)


def test_clips_of_files_and_lists_are_read_again(source: Path, tmp_path: Path) -> None:
    pictures = [frame.image for frame in drawn_clip(3)]
    io.write(tmp_path / "shot.%04d.png", Clip.from_images(pictures, 12))
    for clip in (io.read(source), io.read(tmp_path / "shot.%04d.png"), Clip.from_images(pictures, 12)):
        assert np.array_equal(images(clip), images(clip))
        assert clip.frame_count in (None, len(images(clip)))


def test_frames_of_an_iterator_come_once_and_then_there_is_an_error(model: Model) -> None:
    clip = Clip.from_images((frame.image for frame in drawn_clip(FRAMES)), 12)
    edit = edited(model, clip)
    assert len(images(edit)) == FRAMES
    for again in (edit, clip):
        with pytest.raises(ClipError, match=r"iterated over already.*make it of a file or a list"):
            next(iter(again))


# ---- how far it is


def test_progress_is_told_after_every_step(model: Model) -> None:
    told: list[Progress] = []
    edit = edited(model, progress=told.append)
    list(edit)
    chunks = -(-FRAMES // 2)
    assert [(each.step, each.steps) for each in told] == [(n + 1, STEPS) for n in range(STEPS)] * chunks
    assert [int(each) for each in told] == [2 * chunk for chunk in range(chunks) for _ in range(STEPS)]
    assert {(each.stage, each.total) for each in told} == {("drawing", FRAMES)}
    left = [each.seconds_left for each in told]
    assert all(each is not None and each >= 0 for each in left) and left[-1] < left[0]
    assert edit.index == FRAMES and edit.settings.num_inference_steps == STEPS


def test_writing_tells_the_number_of_frames(model: Model, tmp_path: Path) -> None:
    told: list[int] = []
    io.write(tmp_path / "out.mp4", edited(model), progress=told.append)
    assert told == list(range(FRAMES + 1)) and {each.stage for each in told} == {"writing"}  # type: ignore[attr-defined]


# ---- stopping


def test_an_edit_stopped_before_it_began_draws_nothing(model: Model, tmp_path: Path) -> None:
    told: list[Progress] = []
    edit = edited(model, progress=told.append)
    edit.stop()
    with pytest.raises(Stopped, match="stopped after 0 frames"):
        io.write(tmp_path / "out.mp4", edit)
    assert told == [] and list(tmp_path.iterdir()) == []
    assert len(images(edit)) == FRAMES  # and then it can be begun


def test_an_edit_stopped_by_another_thread_ends_after_the_step_and_is_resumed(
    model: Model, source: Path, tmp_path: Path
) -> None:
    expected = images(edited(model, io.read(source)))
    under_way, go_on = threading.Event(), threading.Event()
    told: list[Progress] = []

    def progress(done: Progress) -> None:
        told.append(done)
        if done == 4 and done.step == 2:
            under_way.set()
            assert go_on.wait(60)

    edit = edited(model, io.read(source), progress=progress)

    def stop() -> None:
        assert under_way.wait(60)
        edit.stop()
        go_on.set()

    other = threading.Thread(target=stop)
    other.start()
    out = tmp_path / "out.mkv"
    with pytest.raises(Stopped, match="stopped after 4 frames") as stopped:
        io.write(out, edit, codec="ffv1")
    other.join()
    assert (told[-1], told[-1].step) == (4, 2)  # no step came after it
    assert stopped.value.__notes__ == ["4 of 7 frames are saved; the same again with `resume=True` goes on"]
    told.clear()
    under_way.clear()
    io.write(out, edited(model, io.read(source), progress=told.append), codec="ffv1", resume=True)
    assert told[0] == 4 and told[0].step == 1  # the chunk that was begun is drawn again
    assert np.array_equal(images(io.read(out)), expected)


@pytest.mark.parametrize("where", ["drawing", "writing"])
def test_a_callback_that_raises_ends_the_edit_and_leaves_the_journal(
    model: Model, source: Path, tmp_path: Path, where: str
) -> None:
    class Mine(Exception):
        pass

    def fail(done: Progress) -> None:
        if done == 4:
            raise Mine

    out = tmp_path / "out.mkv"
    progress = {"drawing": {}, "writing": {"progress": fail}}[where]
    edit = edited(model, io.read(source), **({"progress": fail} if where == "drawing" else {}))
    with pytest.raises(Mine):
        io.write(out, edit, codec="ffv1", **progress)
    assert not out.exists() and not model.lock.locked()
    io.write(out, edited(model, io.read(source)), codec="ffv1", resume=True)
    assert np.array_equal(images(io.read(out)), images(edited(model, io.read(source))))


# ---- two at once


class Says(Plugin):
    """Tells something in every chunk."""

    word = ""

    @hookimpl
    def prepare(self, chunk: Any) -> None:
        notify("word", f"{self.word} {chunk.index}")


def saying(word: str) -> Plugin:
    from dataclasses import dataclass

    return dataclass(eq=False)(type("Says", (Says,), {"word": word, "__annotations__": {}}))()


def test_two_edits_in_two_threads_have_their_own_progress_notices_and_stop(model: Model) -> None:
    words = ("one", "other")
    notices: dict[str, list[Notice]] = {word: [] for word in words}
    progress: dict[str, list[Progress]] = {word: [] for word in words}
    together = threading.Barrier(2)
    ends: dict[str, object] = {}

    def clip(word: str) -> Clip:
        def frames() -> Iterator[Frame]:
            for index, frame in enumerate(drawn_clip(FRAMES)):
                if index < 4:  # so long, both go in step
                    together.wait(60)
                yield frame

        return drawn_clip(FRAMES).with_frames(frames())

    edits = {
        word: edited(
            model,
            clip(word),
            plugins=[saying(word)],
            notices=notices[word].append,
            progress=progress[word].append,
            cuts=(),
            seed=seed,
        )
        for seed, word in enumerate(words)
    }

    def draw(word: str) -> None:
        try:
            ends[word] = len(images(edits[word]))
        except Exception as error:
            ends[word] = error

    threads = [threading.Thread(target=draw, args=[word]) for word in words]
    for thread in threads:
        thread.start()
    while not any(int(each) >= 2 for each in progress["other"]):
        threads[1].join(0.01)
    edits["other"].stop()
    for thread in threads:
        thread.join(120)
    assert ends["one"] == FRAMES and isinstance(ends["other"], Stopped), ends
    for word in words:
        assert {each.kind for each in notices[word]} == {"word"}
        assert {str(each).split()[0] for each in notices[word]} == {word}
    assert [str(each) for each in notices["one"]] == [f"one {index}" for index in range(0, FRAMES, 2)]
    assert len(progress["one"]) == 4 * STEPS > len(progress["other"])


def test_without_a_receiver_notices_are_warnings(model: Model) -> None:
    with pytest.warns(UserWarning, match="alone 0"):
        next(iter(edited(model, plugins=[saying("alone")])))
