"""Law 5: an edit that was killed anywhere and goes on gives the frames that it would have given."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

import zs2kit
from zs2kit import cli, io, journal
from zs2kit.bench.kills import contents, with_sound
from zs2kit.carry import Carry
from zs2kit.clip import Clip, Frame
from zs2kit.errors import ClipError
from zs2kit.io import output, writing
from zs2kit.model import Model
from zs2kit.testing import drawn_clip, tiny_model
from zs2kit_plugins.mask import Mask
from zs2kit_plugins.pose import Pose

FRAMES, CHUNK, SEGMENT = 10, 3, 4


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT", SEGMENT)
    monkeypatch.setattr(journal, "SHARE", math.inf)  # save after each chunk, whatever it costs


class Blurred(Clip):
    """A clip, each frame mixed with all before it: as quick a `Resumable` as there is."""

    def __init__(self, clip: Clip, **settings: Any) -> None:
        facts = {each.name: getattr(clip, each.name) for each in fields(Clip) if each.init}
        super().__init__(**{**facts, "frames": self})
        self.clip = clip
        self.settings = settings
        self.index = 0
        self.carry = Carry()
        self.steps = 0
        self.chunk_size: int | None = CHUNK

    def __iter__(self) -> Iterator[Frame]:
        return self.frames_from(0)

    def frames_from(self, index: int, carry: Carry | None = None, between: object = None) -> Iterator[Frame]:
        self.index, self.carry = index, carry or Carry(sum=torch.zeros(self.height, self.width, 3))
        frames = islice(self.clip, self.index, None)
        while group := list(islice(frames, self.chunk_size)):
            images = []
            for frame in group:
                total = self.carry["sum"] / 2 + torch.from_numpy(frame.image) / 2
                self.carry = Carry(sum=total)
                images.append(total.to(torch.uint8).numpy())
            self.index += len(group)
            for frame, image in zip(group, images, strict=True):
                yield frame._replace(image=image)

    def stop(self) -> None:
        raise AssertionError("these tests stop whoever takes the frames instead")

    def describe(self) -> dict[str, Any] | None:
        return self.settings


@dataclass
class Edit:
    """What makes a clip and writes it to ``out``, again and again."""

    out: Path
    clip: Callable[[], Clip]
    written: dict[str, Any] = field(default_factory=dict)

    def __call__(self, resume: bool | None = None, progress: Any = lambda done: None) -> Path:
        return io.write(self.out, self.clip(), resume=resume, progress=progress, **self.written)

    def stop(self, after: int, error: BaseException | None = None, resume: bool | None = None) -> str | None:
        """Fail after so many frames; return what is noted on the error."""
        error = error or RuntimeError("stop")

        def fail(done: int) -> None:
            if done == after:
                raise error

        with pytest.raises(type(error)) as caught:
            self(resume, progress=fail)
        assert not self.out.exists()
        return next(iter(getattr(caught.value, "__notes__", ())), None)

    @property
    def folder(self) -> Path:
        return self.out.with_name(f".{self.out.name}.zs2kit")

    @property
    def beside(self) -> list[str]:
        return sorted(path.name for path in self.out.parent.iterdir())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_sound(io.write(tmp_path_factory.mktemp("source") / "clip.mp4", drawn_clip(FRAMES), quality=5))


@pytest.fixture
def edit(tmp_path: Path, source: Path) -> Edit:
    def clip() -> Clip:
        read = io.read(source)
        return Blurred(read, seed=0, pose={"scale": 1.0})

    return Edit(tmp_path / "out.mp4", clip)


@pytest.fixture
def whole(edit: Edit) -> list[Any]:
    """What comes of it if nothing stops it."""
    found = contents(edit())
    edit.out.unlink()
    return found


@pytest.fixture(scope="module")
def checkpoint(tiny_folders: dict[str, Path]) -> Path:
    return tiny_folders["epsilon"]


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Model:
    return Model.load(checkpoint)


QUICK: dict[str, Any] = {
    "plugins": (),
    "num_inference_steps": 2,
    "guidance_scale": 1,
    "flow_momentum": 0,
    "chunk_size": CHUNK,
}


def edited(source: Path, model: Model, **settings: Any) -> Clip:
    return zs2kit.edit(io.read(source), "a red robot", model=model, **(QUICK | settings))


# ---- killed


def killed(*options: str) -> list[str]:
    """Kill edits in forks of a process that has one thread."""
    command = [sys.executable, "-m", "zs2kit.bench", "kills", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return done.stdout.splitlines()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork, starting many takes too long")
def test_killed_is_not_lost() -> None:
    points = [
        "segment close",
        "carry rename, before",
        "audio copy",
        "final rename, after",
        "row rename, before",
    ]
    lines = killed(*(f"--at={point}" for point in points), "--moments=1")
    assert lines[-1].startswith("6 kills, 0 results that differ")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork, starting many takes too long")
def test_killed_everywhere_is_not_lost() -> None:
    assert killed()[-1].startswith("43 kills, 0 results that differ")


# ---- stopped, and taken up again


@pytest.mark.parametrize("after", [CHUNK, 2 * CHUNK, 3 * CHUNK, FRAMES])
def test_an_error_keeps_what_is_done(edit: Edit, whole: list[Any], after: int) -> None:
    assert (
        edit.stop(after)
        == f"{after} of {FRAMES} frames are saved; to resume, run the same with `resume=True`"
    )
    seen: list[int] = []
    edit(True, progress=seen.append)
    assert seen == list(range(after, FRAMES + 1))
    assert contents(edit.out) == whole
    assert edit.beside == ["out.mp4"]


def test_what_is_carried_is_needed(edit: Edit, whole: list[Any]) -> None:
    """The control: without it, the frames that follow are others."""
    edit.stop(2 * CHUNK)
    clip = edit.clip()
    frames = clip.frames_from(2 * CHUNK, Carry(sum=torch.zeros(32, 32, 3)))  # type: ignore[attr-defined]
    assert [frame.image.tobytes() for frame in frames] != [image for _, image in whole[0][2 * CHUNK :]]


def test_an_error_within_a_chunk_keeps_those_before_it(edit: Edit, whole: list[Any]) -> None:
    assert "6 of 10 frames" in str(edit.stop(7))
    assert "9 of 10 frames" in str(edit.stop(9, resume=True))
    assert contents(edit(True)) == whole


def test_what_was_never_kept_leaves_nothing(edit: Edit) -> None:
    assert edit.stop(1) is None
    assert edit.beside == []
    assert edit(True) == edit.out  # there is nothing to go on with, so it is begun


def test_an_interruption_loses_what_was_not_saved_and_nothing_else(edit: Edit, whole: list[Any]) -> None:
    assert "3 of 10 frames are saved" in str(edit.stop(CHUNK + 1, KeyboardInterrupt()))
    assert contents(edit(True)) == whole


def test_it_is_gone_on_with_or_begun_anew_as_one_says(edit: Edit, whole: list[Any]) -> None:
    edit.stop(CHUNK)
    with pytest.raises(ClipError, match=r"out\.mp4 was interrupted.* 3 frames.*resume=True.*resume=False"):
        edit()
    with pytest.raises(ClipError, match="interrupted"):
        io.Output(edit.out).check(edit.clip())
    with pytest.raises(ClipError, match="interrupted"):
        io.write(edit.out, drawn_clip(2), resume=True)  # which is no edit
    seen: list[int] = []
    edit(False, progress=seen.append)
    assert seen[0] == 0 and contents(edit.out) == whole


def test_the_size_of_chunks_is_kept_as_it_was_last(edit: Edit) -> None:
    clip = edit.clip()
    clip.chunk_size = 2  # type: ignore[attr-defined]  # as if memory had run out
    resumed = edit.clip()
    before, edit.clip = edit.clip, lambda: clip
    edit.stop(4)
    edit.clip = lambda: resumed
    edit(True)
    assert resumed.frames.chunk_size == 2  # type: ignore[attr-defined]
    edit.clip = before


def test_saving_takes_its_share_and_no_more(edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SHARE", 0)
    assert edit.stop(2 * CHUNK + 1) is None
    monkeypatch.setattr(journal, "SHARE", math.inf)
    assert "6 of 10 frames" in str(edit.stop(2 * CHUNK + 1))


def test_what_does_not_describe_itself_is_kept_nowhere(edit: Edit) -> None:
    """It would not be known again, and could be mixed with another."""
    clip = edit.clip()
    clip.settings = None  # type: ignore[attr-defined]
    edit.clip = lambda: clip
    assert edit.stop(2 * CHUNK) is None
    assert edit.beside == []


@pytest.mark.parametrize("plugin", [Pose(), Mask(), None], ids=["pose", "mask", "flow"])
def test_edits_go_on(tmp_path: Path, source: Path, model: Model, plugin: object) -> None:
    how: dict[str, Any] = {"plugins": [plugin]} if plugin else {"flow_momentum": 0.9}
    edit = Edit(tmp_path / "out.mp4", lambda: edited(source, model, **how))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no figure in a disc
        expected = contents(edit())
        edit.out.unlink()
        edit.stop(2 * CHUNK)
        assert contents(edit(True)) == expected


def test_shots_stay_apart(tmp_path: Path, source: Path, model: Model) -> None:
    edit = Edit(tmp_path / "out.mp4", lambda: edited(source, model, cuts=[Fraction(5, 12)]))
    expected = contents(edit())
    for after in (3, 5):  # before the cut, and at it
        edit.out.unlink()
        edit.stop(after)
        assert contents(edit(True)) == expected


def test_a_generated_clip_goes_on(tmp_path: Path, model: Model) -> None:
    settings = {name: value for name, value in QUICK.items() if name != "flow_momentum"}

    def clip() -> Clip:
        prompts = {0: "a red robot", 6: "a blue robot"}
        return zs2kit.generate(prompts, frames=FRAMES, model=model, size=(32, 32), **settings)

    edit = Edit(tmp_path / "out.mp4", clip)
    expected = [frame.image for frame in io.read(edit())]
    edit.out.unlink()
    edit.stop(2 * CHUNK)
    assert np.array_equal([frame.image for frame in io.read(edit(True))], expected)


# ---- never mixed


@pytest.mark.parametrize(
    ("settings", "written", "words"),
    [
        ({"seed": 3}, {}, "seed 0, not 3"),
        ({"pose": {"scale": 0.5}}, {}, r"pose\.scale 1\.0, not 0\.5"),
        ({"pose": {}}, {}, r"pose\.scale 1\.0, not None"),
        ({}, {"quality": 9}, "quality 18, not 9"),
        ({"seed": 3}, {"codec": "prores"}, "codec 'h264', not 'prores'.*; seed 0, not 3"),
    ],
)
def test_another_edit_is_never_mixed_in(
    edit: Edit, settings: dict[str, Any], written: dict[str, Any], words: str
) -> None:
    edit.out = edit.out.with_suffix(".mov")
    edit.stop(2 * CHUNK)
    before = {path.name: path.read_bytes() for path in edit.folder.iterdir()}
    clip = edit.clip()
    clip.settings.update(settings)  # type: ignore[attr-defined]
    edit.clip, edit.written = lambda: clip, written
    with pytest.raises(
        ClipError, match=rf"out\.mov was started with .*{words}.*; use these settings again, or start again"
    ) as caught:
        edit(True)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in edit.folder.iterdir()} == before
    assert len(list(io.read(edit(False)))) == FRAMES


def test_another_version_is_never_mixed_in(edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    edit.stop(2 * CHUNK)
    monkeypatch.setattr(output, "__version__", "9.9")
    with pytest.raises(ClipError, match=rf"started with zs2kit '{zs2kit.__version__}', not '9\.9'"):
        edit(True)


def described(source: Path, model: Model, **settings: Any) -> dict[str, Any]:
    frames: Any = edited(source, model, **settings).frames
    found: dict[str, Any] = frames.describe()
    return found


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seed": 3}, "seed 0, not 3"),
        ({"negative_prompt": "blue", "guidance_scale": 2}, "negative_prompt '', not 'blue'"),
        ({"chunk_size": 2}, "chunk_size 3, not 2"),
        ({"plugins": [Pose()]}, "plugins.pose.scale None, not 1.0"),
        ({"size": (24, 24)}, "size [32, 32], not [24, 24]"),
        ({"cuts": [Fraction(1, 3)]}, "cuts 'auto', not "),
    ],
)
def test_an_edit_knows_its_settings(source: Path, model: Model, settings: dict[str, Any], words: str) -> None:
    assert described(source, model) == described(source, model)
    assert words in journal._difference(described(source, model), described(source, model, **settings))


def test_an_edit_knows_its_files(tmp_path: Path, source: Path, model: Model) -> None:
    other = io.write(tmp_path / "other.mp4", drawn_clip(FRAMES), quality=9)
    difference = journal._difference(described(source, model), described(other, model))
    assert difference.startswith("source '1 files, ") and ";" not in difference
    weights = Model.load(tiny_model(tmp_path / "model", seed=1))
    weights.name = model.name
    difference = journal._difference(described(source, model), described(source, weights))
    assert difference.startswith("weights '") and ";" not in difference
    masks = tmp_path / "masks.mkv"
    found = []
    for level in (0, 255):
        pictures = [np.full((32, 32, 3), level, np.uint8)] * FRAMES
        io.write(masks, Clip.from_images(pictures, 12), codec="ffv1", overwrite=True)
        found.append(described(source, model, plugins=[Mask(clip=str(masks))]))
    assert journal._difference(*found).startswith("plugins.mask.clip's file '1 files, ")


def test_pictures_of_ones_own_are_not_known_again(model: Model) -> None:
    clip = Clip.from_images([frame.image for frame in drawn_clip(2)], 12)
    frames: Any = zs2kit.edit(clip, "x", plugins=(), model=model).frames
    assert frames.describe() is None


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flipped, cut, empty, Path.unlink])
@pytest.mark.parametrize(
    "file", ["journal.json", "000000004.rgb", "000000006.safetensors", "000000000.segment"]
)
def test_what_is_damaged_is_not_trusted(
    edit: Edit, whole: list[Any], file: str, damage: Callable[[Path], object]
) -> None:
    edit.stop(2 * CHUNK)
    damage(edit.folder / file)
    if (file, damage) != ("journal.json", Path.unlink):  # without it, nothing was kept
        with pytest.raises(
            ClipError, match=r"interrupted edit to .*out\.mp4 is damaged; start again \(`resume=False`\)"
        ):
            edit(True)
        assert (edit.folder / "journal.json").exists()
    assert contents(edit(False)) == whole
    assert edit.beside == ["out.mp4"]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{}",
        "[]",
        "null",
        '{"edit": {}, "checksum": 0}',
        '{"edit": 3, "checksum": 3}',
        "\0",
        "1" * 9999,
    ],
)
def test_a_journal_that_is_none_is_said(edit: Edit, text: str) -> None:
    edit.stop(2 * CHUNK)
    (edit.folder / "journal.json").write_text(text)
    for resume in (None, True):
        with pytest.raises(ClipError, match="is damaged; start again"):
            edit(resume)


def test_links_are_not_followed(edit: Edit) -> None:
    elsewhere = edit.out.parent / "elsewhere"
    edit.stop(2 * CHUNK)
    pictures = edit.folder / "000000004.rgb"
    elsewhere.write_bytes(pictures.read_bytes() + b"more")
    pictures.unlink()
    pictures.symlink_to(elsewhere)
    with pytest.raises(ClipError, match="damaged"):
        edit(True)
    assert elsewhere.read_bytes().endswith(b"more")
    edit.folder.rename(edit.out.parent / "moved")
    edit.folder.symlink_to(edit.out.parent / "moved")
    with pytest.raises(ClipError, match=r"\.out\.mp4\.zs2kit is a link; remove it"):
        edit(True)


# ---- two at once, full disks, the end


def test_two_at_once_do_not_meet(edit: Edit) -> None:
    def second(done: int) -> None:
        for resume in (None, True, False):
            with pytest.raises(ClipError, match=r"another process is writing .*out\.mp4; wait"):
                edit(resume)

    edit(progress=second)
    assert len(list(io.read(edit.out))) == FRAMES


def test_no_room_to_keep_anything_is_said_and_no_reason_to_stop(
    edit: Edit, whole: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.warns(
            UserWarning, match=r"can't be saved .*No space left.* all frames after the first 0 have"
        ),
        monkeypatch.context() as only,
    ):
        only.setattr(
            writing, "place", lambda files, overwrite: [made.replace(at) for made, at in files.items()]
        )
        edit()
    assert contents(edit.out) == whole


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_full_disk_loses_nothing(edit: Edit, whole: list[Any]) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(done: int) -> None:
        if done == FRAMES:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))

    try:
        with (
            pytest.warns(UserWarning, match="can't be saved"),
            pytest.raises(ClipError, match="no space left") as caught,
        ):
            edit(progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "9 of 10 frames are saved" in caught.value.__notes__[0]
    assert contents(edit(True)) == whole


def ended_when_all_was_done(edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill between the moment when the result has its name and the end."""

    def fail(*_: object) -> None:
        raise RuntimeError("stop")

    with monkeypatch.context() as patched:
        patched.setattr(writing, "place", fail)
        with pytest.raises(RuntimeError):
            edit()
    io.write(edit.folder / "out.mp4", drawn_clip(2))
    os.link(edit.folder / "out.mp4", edit.out)


def test_a_result_that_has_its_name_is_made_once_more(
    edit: Edit, whole: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_when_all_was_done(edit, monkeypatch)
    made: list[int] = []
    edit(True, progress=made.append)
    assert made == [] and contents(edit.out) == whole
    assert not edit.folder.exists()


def test_a_result_that_has_its_name_is_a_result(edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    ended_when_all_was_done(edit, monkeypatch)
    with pytest.raises(ClipError, match=r"out\.mp4 exists"):
        edit()
    assert not edit.folder.exists()


# ---- on the command line


@dataclass
class Command:
    """`zs2kit edit`, and what it has made."""

    out: Path
    arguments: list[str]

    def __call__(self, *further: str) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.main([*self.arguments, *further])
        return int(ended.value.code or 0)


@pytest.fixture
def command(tmp_path: Path, source: Path, checkpoint: Path) -> Command:
    out = tmp_path / "out.mp4"
    files = ["edit", str(source), f"--out={out}", f"--model={checkpoint}", "--prompt=a red robot"]
    quick = ["--plugin=none", "--steps=2", "--guidance-scale=1", "--flow-momentum=0", f"--chunk-size={CHUNK}"]
    return Command(out, [*files, *quick])


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, source: Path, model: Model) -> list[Any]:
    """What the command makes if nothing stops it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(journal, "SEGMENT", SEGMENT)
        return contents(io.write(tmp_path_factory.mktemp("whole") / "out.mp4", edited(source, model)))


@pytest.fixture(autouse=True)
def _heeding_ctrl_c() -> Iterator[None]:
    """A shell that starts something in the background has it ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def signalled(monkeypatch: pytest.MonkeyPatch, *signals: int) -> None:
    """Have these signals sent to this process while the second chunk is made."""
    decode, calls = Model.decode, count(1)

    def decoded(*arguments: Any) -> Any:
        if next(calls) == 2:
            for each in signals:
                signal.raise_signal(each)
        return decode(*arguments)

    monkeypatch.setattr(Model, "decode", decoded)


def test_ctrl_c_ends_the_chunk_and_says_how_to_go_on(
    command: Command, expected: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with monkeypatch.context() as patched:
        signalled(patched, signal.SIGINT)
        assert command() == 130
    assert capsys.readouterr() == (
        "",
        "zs2kit: stopping after 3 more frames; press Ctrl-C again to stop at once\n"
        "zs2kit: error: interrupted; 6 of 10 frames are saved; to resume, run the same with --resume\n",
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert command() == 1
    said = capsys.readouterr().err
    assert "6 frames" in said and "--resume" in said and "--no-resume" in said and said.count("\n") == 1
    assert command("--resume") == 0
    assert contents(command.out) == expected
    assert [path.name for path in command.out.parent.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)])
def test_a_second_ctrl_c_and_an_order_to_end_end_it_at_once(
    command: Command,
    expected: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    signals: tuple[int, ...],
) -> None:
    with monkeypatch.context() as patched:
        signalled(patched, *signals)
        assert command() == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "zs2kit: error: interrupted; 3 of 10 frames are saved; to resume, run the same with --resume"
    )
    assert command("--resume", "--quiet") == 0
    assert contents(command.out) == expected


@pytest.mark.parametrize("answer", ["y", "n"])
def test_on_a_terminal_it_is_asked(
    command: Command, expected: list[Any], monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    pty = pytest.importorskip("pty", reason="no terminals of this kind")
    with monkeypatch.context() as patched:
        signalled(patched, signal.SIGINT)
        assert command() == 130
    decoded = count()
    decode = Model.decode
    monkeypatch.setattr(Model, "decode", lambda *arguments: (next(decoded), decode(*arguments))[1])
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def watch() -> None:  # a terminal that nobody reads stops who writes to it
        with suppress(OSError):  # which is how a terminal ends
            while data := os.read(ours, 1000):
                shown.append(data)

    watching = Thread(target=watch)
    watching.start()
    with os.fdopen(os.dup(theirs), "w") as terminal, os.fdopen(theirs) as keyboard:
        monkeypatch.setattr(sys, "stdin", keyboard)
        monkeypatch.setattr(sys, "stderr", terminal)
        os.write(ours, f"{answer}\n".encode())
        assert command() == 0
    watching.join()
    os.close(ours)
    said = b"".join(shown).decode(errors="replace")
    assert "6 frames are saved. Resume it" in " ".join(said.split())
    assert next(decoded) == (2 if answer == "y" else 4)  # chunks that were made
    assert contents(command.out) == expected


def test_nothing_to_resume_is_said(command: Command, capsys: Any) -> None:
    assert command("--resume") == 0
    assert "there is no saved edit" in capsys.readouterr().err
    assert command("--resume") == 1
    said = capsys.readouterr().err
    assert "exists and nothing is left to resume; choose another name" in said and said.count("\n") == 1


def test_a_usage_error_leaves_nothing(command: Command) -> None:
    assert command("--plugin=invert", "--scheduler=euler") == 2
    assert list(command.out.parent.iterdir()) == []
