"""What `edit` returns: a clip that can be iterated over, asked how far it is, told to stop, and resumed."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import zs2kit
from zs2kit import Model, Notice, Plugin, Progress, Stopped, cli, hookimpl, io, journal, notify
from zs2kit.clip import Clip, Frame
from zs2kit.editing import Edit
from zs2kit.errors import ClipError, UsageError
from zs2kit.testing import drawn_clip
from zs2kit_plugins.mask import Mask
from zs2kit_plugins.reference import Reference

FRAMES, STEPS = 7, 3
QUICK: dict[str, Any] = {"plugins": (), "num_inference_steps": STEPS, "chunk_size": 2, "flow_momentum": 0.0}


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
        with pytest.raises(ClipError, match=r"already iterated over.*make it from a file or a list"):
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
    assert stopped.value.__notes__ == ["4 of 7 frames are saved; to resume, run the same with `resume=True`"]
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


# ---- which plugin is used where none is chosen


def used(edit: Edit) -> list[str]:
    return list(edit.plugins)


def test_without_a_plugin_the_source_is_not_ignored(
    model: Model, tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Notice] = []
    how: dict[str, Any] = {"num_inference_steps": 4, "notices": told.append}
    edit = zs2kit.edit(drawn_clip(2), "x", model=model, **how)
    assert used(edit) == ["strength"] and edit.settings.flow_momentum == 0.95
    (notice,) = told
    assert notice.kind == "default-plugin" and "`plugins=()`" in notice.remedy
    instruct = Model.load(tiny_folders["instruct"], device="cpu")
    assert used(zs2kit.edit(drawn_clip(2), "x", model=instruct, **how)) == ["instruct"]
    with pytest.raises(UsageError, match="several prompts"):
        zs2kit.edit(drawn_clip(2), {0: "x", 1: "y"}, model=instruct, **how)
    assert used(zs2kit.edit(drawn_clip(2), "x", model=model, plugins=[saying("x")], **how)) == ["says"]
    told.clear()
    assert used(zs2kit.edit(drawn_clip(2), "x", model=model, plugins=(), **how)) == []
    assert used(zs2kit.edit(drawn_clip(2), "x", model=model, plugins=[Mask(clip=None)], **how)) == ["mask"]
    assert used(zs2kit.generate("x", frames=2, model=model, **how)) == [] == told
    other = zs2kit.edit(drawn_clip(2), "x", model=model, plugins=[Reference(scale=0.0)], **how)
    assert used(other) == ["reference", "strength"]


def test_the_command_line_takes_the_same_plugin_and_says_so(
    tiny_folders: dict[str, Path], source: Path, tmp_path: Path
) -> None:
    asked = [
        "edit",
        source,
        "--model",
        tiny_folders["epsilon"],
        "--prompt",
        "x",
        "--steps",
        "4",
        "--overwrite",
    ]

    def run(*further: str) -> str:
        done = CliRunner().invoke(cli.main, [*map(str, asked), *further])
        assert done.exit_code == 0, done.output
        return done.stderr

    says = "zs2kit: no plugin that follows the clip was chosen, so strength is used; "
    assert run() == f"{says}--plugin none draws from the text alone\n"
    by_default = images(io.read(tmp_path / "clip-edit.mp4"))
    assert run("--quiet") == "" == run("--plugin", "strength", "-o", str(tmp_path / "strength.mp4"))
    assert np.array_equal(images(io.read(tmp_path / "strength.mp4")), by_default)
    assert run("--plugin", "none") == ""
    assert not np.array_equal(images(io.read(tmp_path / "clip-edit.mp4")), by_default)
    both = CliRunner().invoke(cli.main, [*map(str, asked), "--plugin", "none", "--plugin", "pose"])
    assert both.exit_code == 2 and "--plugin none can't be used with another plugin" in both.stderr


# ---- what is taken for a clip


@pytest.mark.parametrize("form", ["list", "array", "floats", "PIL", "tensor", "channels first", "iterator"])
def test_pictures_of_any_form_are_a_clip(form: str) -> None:
    expected = images(drawn_clip(3))
    given: Any = {
        "list": list(expected),
        "array": expected,
        "floats": expected.astype(np.float32) / 255,
        "PIL": [Image.fromarray(each) for each in expected],
        "tensor": torch.from_numpy(expected),
        "channels first": torch.from_numpy(expected).permute(0, 3, 1, 2) / 255,
        "iterator": iter(expected),
    }[form]
    clip = Clip.from_images(given, 12)
    assert (clip.width, clip.height) == (32, 32)
    assert np.array_equal(images(clip), expected)
    assert form == "iterator" or (clip.frame_count == 3 and np.array_equal(images(clip), expected))


@pytest.mark.parametrize(
    ("pictures", "says"),
    [
        (np.zeros((8, 8, 3), np.uint8), "picture 0 is uint8 of shape"),  # a single picture
        (np.zeros((8, 8, 4), np.uint8), "picture 0 is uint8 of shape"),
        (np.zeros((2, 8, 8, 5), np.uint8), "give RGB pictures of shape"),
        (np.zeros((2, 8, 8, 3), np.int64), "picture 0 is int64"),
        (np.full((2, 8, 8, 3), np.nan), "give floats from 0 to 1"),
        (np.full((2, 8, 8, 3), 2.0), "has numbers from 2 to 2"),
        (
            [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 6, 3), np.uint8)],
            "picture 1 is 6x8 pixels, but the first",
        ),
        ([], "at least one picture"),
    ],
)
def test_what_is_no_picture_is_said_in_a_line(pictures: Any, says: str) -> None:
    with pytest.raises(ClipError, match=says) as error:
        list(Clip.from_images(pictures, 12))
    assert "\n" not in str(error.value)


def test_paths_are_clips_and_other_things_are_not(model: Model, source: Path, tmp_path: Path) -> None:
    edit = zs2kit.edit(str(source), "x", model=model, **QUICK)
    assert np.array_equal(images(edit), images(zs2kit.edit(io.read(source), "x", model=model, **QUICK)))
    out = zs2kit.write(tmp_path / "copy.mkv", source, codec="ffv1")
    assert np.array_equal(images(io.read(out)), images(io.read(source)))
    for wrong in (7, None):
        with pytest.raises(UsageError, match=r"is not a clip; give a path.*Clip\.from_images"):
            zs2kit.edit(wrong, "x", model=model)  # type: ignore[arg-type]
    for wrong in (source.read_bytes(), BytesIO(source.read_bytes())):
        with pytest.raises(UsageError, match="is not a clip; write it to a file, and give that file's path"):
            zs2kit.edit(wrong, "x", model=model)


def test_pictures_of_other_kinds_are_taken(source: Path) -> None:
    frames = list(io.read(source))
    pictures = np.stack([frame.image for frame in frames])
    assert np.array_equal(
        images(Clip.from_images(frames, 12)), pictures
    )  # as list(zs2kit.read(...)) gives them
    assert np.array_equal(images(Clip.from_images(pictures.astype(np.uint16) * 257, 12)), pictures)
    grey = pictures[..., 0]
    assert np.array_equal(images(Clip.from_images(grey, 12)), np.stack([grey] * 3, -1))
    with pytest.warns(UserWarning, match="alpha, which is left out"):
        made = images(Clip.from_images(np.concatenate([pictures, pictures[..., :1]], -1), 12))
    assert np.array_equal(made, pictures)


def test_an_edit_is_not_pickled(model: Model, source: Path) -> None:
    with pytest.raises(UsageError, match="an edit can't be pickled"):
        pickle.dumps(zs2kit.edit(source, "x", model=model, **QUICK))


def test_prompts_along_an_edit_may_have_the_keys_of_json(model: Model, source: Path) -> None:
    prompts = {0: "a cat", 1: "a dog on a tree"}
    ours = zs2kit.edit(source, json.loads(json.dumps(prompts)), model=model, **QUICK)
    assert np.array_equal(images(ours), images(zs2kit.edit(source, prompts, model=model, **QUICK)))
    with pytest.raises(UsageError, match="the prompt at frame 99 comes after the end: the clip has"):
        zs2kit.edit(source, {0: "a", 99: "b"}, model=model, **QUICK)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("a (red:1.3) robot", "'(red:1.3)' in a prompt is read as it stands: weights of words"),
        ("a ((red)) robot", "parentheses don't stress words"),
        ("a robot BREAK on the beach", "BREAK is read as a word"),
        ("a robot <lora:sticker:0.8>", "don't load; give them with `loras`"),
        ("a [cat:dog:0.5]", "doesn't change from step to step"),
    ],
)
def test_the_syntax_of_other_programs_is_said(model: Model, source: Path, prompt: str, says: str) -> None:
    for texts in ({"prompt": prompt}, {"prompt": "a", "negative_prompt": prompt}):
        notices: list[Any] = []
        zs2kit.edit(source, model=model, notices=notices.append, **texts, **QUICK)
        assert sum(says in str(each) for each in notices) == 1
    notices = []
    zs2kit.edit(source, "a robot (smiling) [sic] :)", model=model, notices=notices.append, **QUICK)
    assert not any(each.kind == "prompt-syntax" for each in notices)


def test_importing_zs2kit_is_enough() -> None:
    script = "import zs2kit; print(zs2kit.metrics.measure, zs2kit.plan.plan, zs2kit.verify, zs2kit.testing)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
