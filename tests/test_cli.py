"""The command line: what it says, its exit codes, and what it leaves behind."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from time import sleep

import av
import click
import numpy as np
import pytest
from click.testing import CliRunner
from shell import run

from zs2kit import cli, io, plugins
from zs2kit.cli import terminal
from zs2kit.cli.options import OUTPUT, RATE, SETTINGS
from zs2kit.clip import Clip, Frame
from zs2kit.editing import Edit
from zs2kit.settings import parse_time
from zs2kit.testing import drawn_clip, tiny_model

TINY = ["--plugin", "none", "--steps", "2", "--chunk-size", "4"]


@pytest.fixture
def checkpoint(tiny_folders: dict[str, Path]) -> Path:
    return tiny_folders["epsilon"]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return io.write(tmp_path / "clip.mp4", drawn_clip(6))


def files(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def refused(folder: Path, *args: object, code: int = 1) -> str:
    """Run an edit that must fail in one line and leave ``folder`` as it is; return that line."""
    before = files(folder)
    result = run("edit", *args)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    (line,) = result.stderr.strip().splitlines()  # click ends the line of a ^C
    assert line.startswith("zs2kit: error: ")
    assert files(folder) == before
    return line


# What is asked for


def test_an_edit_is_written_beside_the_clip_and_printed(clip: Path, checkpoint: Path) -> None:
    result = run("edit", clip, "--model", checkpoint, "--prompt", "a disc", *TINY)
    out = clip.with_name("clip-edit.mp4")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{out}\n", "")
    edited, source = io.read(out), io.read(clip)
    assert [frame.pts for frame in edited] == [frame.pts for frame in source]
    assert (edited.width, edited.height, edited.rate) == (source.width, source.height, source.rate)


def test_the_name_says_which_plugins_made_it(clip: Path, checkpoint: Path) -> None:
    options = ["--model", checkpoint, "--prompt", "x", "--plugin", "pose", "--set", "pose.scale=0", *TINY[2:]]
    assert run("edit", clip, *options).stdout == f"{clip.with_name('clip-pose.mp4')}\n"


def test_every_setting_reaches_the_edit(clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    """The same edit through the library, with no setting at its default, gives the same frames."""
    import zs2kit

    out = tmp_path / "out.mp4"
    result = run(
        *[
            "edit",
            clip,
            "--plugin",
            "none",
            "--prompt",
            "a disc",
            "--negative-prompt",
            "dark",
            "-o",
            out,
            "--model",
            checkpoint,
        ],
        *["--scheduler", "euler", "--steps", 3, "--guidance-scale", 2.5, "--momentum", 0.5],
        *["--noise", "mixed", "--divergence", 0.2, "--flow-momentum", 0.3, "--size", "48x24"],
        *["--chunk-size", 3, "--start", 0.08, "--end", "0:00.4"],
        *["--seed", 7, "--device", "cpu", "--dtype", "float32", "--quality", 0],
    )
    assert result.exit_code == 0, result.output
    expected = zs2kit.edit(
        io.read(clip, start=Fraction(8, 100), end=Fraction(4, 10)),
        "a disc",
        plugins=(),
        model=zs2kit.Model.load(checkpoint, device="cpu", dtype="float32"),
        negative_prompt="dark",
        scheduler="euler",
        num_inference_steps=3,
        guidance_scale=2.5,
        noise="mixed",
        momentum=0.5,
        divergence=0.2,
        flow_momentum=0.3,
        size=(24, 48),
        chunk_size=3,
        seed=7,
    )
    io.write(tmp_path / "expected.mp4", expected, quality=0)
    assert out.read_bytes() == (tmp_path / "expected.mp4").read_bytes()


def test_a_clip_of_one_frame(tmp_path: Path, checkpoint: Path) -> None:
    one = io.write(tmp_path / "one.mp4", drawn_clip(1))
    result = run("edit", one, "--model", checkpoint, "--prompt", "x", *TINY)
    assert result.exit_code == 0, result.output
    assert len(list(io.read(tmp_path / "one-edit.mp4"))) == 1


def test_an_existing_result_is_replaced_when_asked(clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"before")
    result = run("edit", clip, "-o", out, "--overwrite", "--model", checkpoint, "--prompt", "x", *TINY)
    assert (result.exit_code, result.stdout) == (0, f"{out}\n"), result.output
    assert len(list(io.read(out))) == 6


def test_the_sheet_shows_source_above_result(clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    import cv2

    from zs2kit.sheet import CAPTION, GAP, HEIGHT

    sheet = tmp_path / "sheet.png"
    result = run("edit", clip, "--model", checkpoint, "--prompt", "x", "--sheet", sheet, *TINY)
    assert result.exit_code == 0, result.output
    picture = cv2.imread(str(sheet))
    assert picture.shape == (2 * (CAPTION + HEIGHT + GAP), 6 * (HEIGHT + GAP) - GAP, 3)
    for row, path in enumerate([clip, clip.with_name("clip-edit.mp4")]):
        top = row * (CAPTION + HEIGHT + GAP) + CAPTION
        for column, frame in enumerate(io.read(path)):  # all six
            left = column * (HEIGHT + GAP)
            shown = picture[top : top + HEIGHT, left : left + HEIGHT, ::-1]
            assert (
                np.abs(
                    cv2.resize(shown, (32, 32), interpolation=cv2.INTER_AREA) - frame.image.astype(float)
                ).mean()
                < 8
            )


def test_the_result_is_named_though_its_sheet_fails(
    clip: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    sheet = clip.with_name("sheet.png")
    result = run("edit", clip, "--model", checkpoint, "--prompt", "x", "--sheet", sheet, *TINY)
    assert (result.exit_code, result.stdout) == (1, f"{clip.with_name('clip-edit.mp4')}\n")
    assert len(result.stderr.splitlines()) == 1 and "No space left" in result.stderr
    assert sorted(each.name for each in clip.parent.iterdir()) == ["clip-edit.mp4", "clip.mp4"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
def test_a_result_whose_name_is_no_text_is_named(clip: Path, checkpoint: Path) -> None:
    named = clip.rename(clip.with_name(os.fsdecode(b"caf\xe9.mp4")))
    result = run("edit", named, "--model", checkpoint, "--prompt", "x", *TINY)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout_bytes == os.fsencode(named.with_name(os.fsdecode(b"caf\xe9-edit.mp4"))) + b"\n"


def test_quiet_says_nothing_and_verbose_the_settings(clip: Path, checkpoint: Path) -> None:
    options = ["edit", clip, "--model", checkpoint, "--overwrite", *TINY]
    assert run(*options, "--quiet").stderr == ""
    said = run(*options, "--verbose").stderr
    assert all(line.startswith("zs2kit: ") for line in said.splitlines())
    assert str(checkpoint) in said and "cpu" in said and "float32" in said
    assert logging.getLogger("zs2kit").handlers == []  # the library is as silent as before


def test_without_a_prompt_it_says_which_is_used(clip: Path, checkpoint: Path) -> None:
    (line,) = run("edit", clip, "--model", checkpoint, *TINY).stderr.splitlines()
    assert "prompt" in line


# Text alone


def test_a_clip_is_generated_as_the_library_does_and_named_after_its_prompt(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zs2kit

    monkeypatch.chdir(tmp_path)
    options = ["--frames", 5, "--fps", 23.976, "--at", 3, "in space", "--size", "40x24", "--seed", 7]
    options += ["--noise", "mixed", "--divergence", 0.2, "--momentum", 0.5, "--quality", 0]
    result = run("generate", "A red robot: dancing!", "--model", checkpoint, *options, *TINY)
    out = Path("A-red-robot-dancing.mp4")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{out}\n", "")
    assert list(files(tmp_path)) == [out.name]
    expected = zs2kit.generate(
        {0: "A red robot: dancing!", 3: "in space"},
        frames=5,
        rate=Fraction(24000, 1001),
        model=checkpoint,
        num_inference_steps=2,
        noise="mixed",
        divergence=0.2,
        momentum=0.5,
        size=(24, 40),
        chunk_size=4,
        seed=7,
    )
    io.write(tmp_path / "expected.mp4", expected, quality=0)
    assert out.read_bytes() == (tmp_path / "expected.mp4").read_bytes()


def test_without_a_prompt_the_models_own_is_used_and_said(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    result = run("generate", "--frames", 1, "-o", out, "--model", checkpoint, *TINY)
    assert (result.exit_code, result.stdout) == (0, f"{out}\n")
    assert result.stderr == "zs2kit: no prompt; using an empty one\n"
    assert io.read(out).frame_count == 1


def test_what_of_a_prompt_is_cut_is_said_in_a_line(checkpoint: Path, tmp_path: Path) -> None:
    """Also of one that holds from a later frame on."""
    out = tmp_path / "out.mp4"
    result = run(
        *("generate", "a robot", "--at", 1, "a" * 50, "--frames", 2, "-o", out),
        *("--model", checkpoint, *TINY),
    )
    assert (result.exit_code, result.stdout) == (0, f"{out}\n") and out.exists()
    (line,) = result.stderr.splitlines()
    assert line.startswith("zs2kit: warning: ") and line.endswith(f"'{'a' * 20}'")


@pytest.mark.parametrize(
    ("wrong", "code", "words"),
    [
        (["--frames", 0], 2, "--frames"),
        (["--frames", -5], 2, "--frames"),
        (["--fps", 0], 2, "'0' is not a frame rate"),
        (["--fps", "fast"], 2, "'fast' is not a frame rate"),
        (["--at", 4, "x"], 2, "--at 4 comes after the end"),
        (["--at", 1, "x", "--at", 1, "y"], 2, "--at names a frame twice"),
        (
            ["--plugin", "strength"],
            2,
            "looks at the source's frames, but a clip made from text alone has none",
        ),
        (["-o", "out.avi"], 2, "can't write out.avi"),
        (["-o", "no/out.mp4"], 1, "there is no folder no"),
    ],
)
def test_what_cannot_be_generated_is_said_in_a_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: list, code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("generate", "x", "--frames", 4, "--model", checkpoint, *TINY[2:], *wrong)
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (code, "") and words in line
    assert not files(tmp_path)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("12", 12), ("29.97", Fraction(30000, 1001)), ("23.976", Fraction(24000, 1001)),
     ("12.5", Fraction(25, 2)),
     ("30000/1001", Fraction(30000, 1001)), ("60", 60)],
)  # fmt: skip
def test_rates(text: str, rate: Fraction) -> None:
    assert RATE.convert(text, None, None) == rate


# Bad input


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--plugin", "poze"], "did you mean pose?"),
        (
            ["--plugin", "pose", "--plugin", "pose"],
            "given twice; give it once, or two names: pose:a and pose:b",
        ),
        (["--plugin", "pose:a", "--plugin", "depth:a"], "depth:a is given twice"),
        (["--plugin", "pose:a", "--set", "pose.scale=1"], "add --plugin pose"),
        (["--plugin", "pose:a", "--set", "a.scale=much"], "a.scale must be a number from 0"),
        (["--plugin", "pose:1.5"], "'1.5' is not a valid name"),
        (["--set", "pose.scale=1"], "add --plugin pose"),
        (["--plugin", "pose", "--set", "pose.nosuch=1"], "pose' has no option 'nosuch'; choose from model, "),
        (["--plugin", "pose", "--set", "pose.scale=-1"], "a number from 0"),
        (["--plugin", "pose", "--set", "pose.scale=much"], "a number from 0"),
        (["--plugin", "pose", "--set", "pose.hands=perhaps"], "true or false"),
        (["--plugin", "pose", "--set", "pose.detector=eyes"], "puppets, person, openpose, dwpose"),
        (["--plugin", "pose", "--set", "pose.scale=1", "--set", "pose.scale=2"], "given twice"),
        (["--plugin", "pose", "--set", "scale=1"], "NAME.OPTION=VALUE"),
        (["--scheduler", "nosuch"], "ddim, euler, dpm++, unipc, lcm"),
        (["--divergence", "-0.1"], "--divergence"),
        (["--divergence", "1.7"], "--divergence"),
        (["--divergence", "nan"], "not nan"),
        (["--momentum", "1.1"], "--momentum"),
        (["--momentum", "nan"], "not nan"),
        (["--steps", "0"], "--steps"),
        (["--steps", "100000"], "steps"),
        (["--steps", "many"], "--steps"),
        (["--guidance-scale", "-1"], "--guidance-scale"),
        (["--guidance-scale", "inf"], "not inf"),
        (["--guidance-scale", "nan"], "not nan"),
        (["--chunk-size", "0"], "--chunk-size"),
        (["--seed", "-1"], "--seed"),
        (["--quality", "52"], "--quality"),
        (["--size", "64"], "--size must be a size such as 512x288"),
        (["--size", "0x64"], "--size must be a size such as 512x288"),
        (["--size", "1x1"], "size must be at least"),
        (["--start", "soon"], "MM:SS"),
        (["--start", "1:75"], "MM:SS"),
        (["--start", "1", "--end", "1"], "--end (1 s) must come after --start (1 s)"),
        (["--start", "60"], "choose --start and --end inside the clip"),
        (["--device", "abacus"], "device 'abacus'"),
        (["--dtype", "int8"], "'float32', 'float16', 'bfloat16'"),
        (["--quiet", "--verbose"], "can't be used together"),
        (["--nosuch"], "See 'zs2kit edit --help'."),
        (["--lora", "sticker:much"], "'sticker:much' is not a LoRA; write NAME, or NAME:WEIGHT"),
        (["--handles", "-1"], "'-1' is not a whole number from 0 up. See"),
        (["--handles", "some"], "'some' is not a whole number from 0 up. See"),
    ],
    ids=" ".join,
)
def test_wrong_use(args: list[str], says: str, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert says in refused(tmp_path, clip, "--model", checkpoint, "--prompt", "x", *args, code=2)


def test_no_clip() -> None:
    result = run("edit")
    assert (result.exit_code, result.stderr) == (
        2,
        "zs2kit: error: Missing argument 'CLIP...'. See 'zs2kit edit --help'.\n",
    )


def test_a_clip_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name, says in [
        ("missing.mp4", "no such file"),
        (".", "folder"),
        ("notes.mp4", "notes.mp4"),
        ("empty.mp4", "empty.mp4"),
    ]:
        assert says in refused(tmp_path, tmp_path / name)


def test_a_video_of_which_no_frame_decodes(clip: Path, tmp_path: Path) -> None:
    """The container is intact; every picture in it is noise."""
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        packets = [(each.pos, each.size) for each in container.demux(video=0) if each.size]
    for position, size in packets:
        data[position : position + size] = bytes(size)
    (tmp_path / "noise.mp4").write_bytes(data)
    assert "noise.mp4" in refused(tmp_path, tmp_path / "noise.mp4")


def test_an_output_that_cannot_be(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "there.mp4").write_bytes(b"mine")
    (tmp_path / "there.png").write_bytes(b"mine")
    for args, says in [
        (["-o", tmp_path / "nosuch" / "out.mp4"], "nosuch"),
        (["-o", clip], "clip.mp4"),
        (["-o", clip, "--overwrite"], "clip.mp4"),
        (["-o", tmp_path / "there.mp4"], "--overwrite"),
        (["-o", "/proc/out.mp4"], "/proc"),
        (["--sheet", tmp_path / "nosuch" / "sheet.png"], "nosuch"),
        (["--sheet", tmp_path / "there.png"], "--overwrite"),
    ]:
        assert says in refused(tmp_path, clip, *args)
    too_long = "long" * 70
    assert "can't write" in refused(tmp_path, clip, "-o", tmp_path / f"{too_long}.mp4")
    assert "can't be written" in refused(tmp_path, clip, "--sheet", tmp_path / f"{too_long}.png")
    assert "can't be written" in refused(tmp_path, clip, "--sheet", "/proc/sheet.png")
    assert "can't be opened" in refused(tmp_path, f"{too_long}.mp4")
    assert ".mp4" in refused(tmp_path, clip, "-o", tmp_path / "out.txt", code=2)
    assert ".png" in refused(tmp_path, clip, "--sheet", tmp_path / "sheet.jpg", code=2)


def test_a_full_disk(clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    """A limit on the size of files fails a write as a full disk does."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)); "
    # -B: Python doesn't notice that the bytecode which it keeps was cut short, and others read it.
    command = [sys.executable, "-B", "-c", limited + "from zs2kit.cli import main; main()", "edit", str(clip)]
    before = files(tmp_path)
    done = subprocess.run(
        [*command, "--model", checkpoint, "--prompt", "x", *TINY], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    warning, line = done.stderr.splitlines()
    assert warning.startswith("zs2kit: warning: what is done can't be saved in ")
    assert line.startswith("zs2kit: error: ") and "clip-edit.mp4" in line
    assert files(tmp_path) == before


def test_a_model_that_is_none(clip: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "weights.ckpt").write_bytes(b"pickle")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    for model, says in [
        ("nosuch", "puppets"),
        (empty, "not a checkpoint"),
        (tmp_path / "weights.ckpt", ".safetensors"),
        (tmp_path / "broken.safetensors", "broken.safetensors"),
    ]:
        assert says in refused(tmp_path, clip, "--model", model)


def test_a_denoiser_without_self_attention(clip: Path, tmp_path: Path) -> None:
    config = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    plain = tiny_model(tmp_path / "plain", unet={**config, "mid_block_type": "UNetMidBlock2D"})
    assert "Stable Diffusion" in refused(tmp_path, clip, "--model", plain)


def test_ctrl_c_leaves_nothing(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted while frames are made: one line, 130, no file."""

    def interrupted(edit: Edit, place: object) -> Iterator[Frame]:
        yield from list(edit.clip)[:3]
        raise KeyboardInterrupt

    monkeypatch.setattr(Edit, "_frames", interrupted)
    model = tiny_model(tmp_path / "tiny")
    asked = ["--plugin", "none", "--model", model, "--prompt", "x"]
    assert "interrupted" in refused(tmp_path, clip, *asked, code=130)


ENDLESS = """
import sys
from itertools import repeat
import numpy as np
from zs2kit import cli, io
from zs2kit.clip import Clip

@cli.main.command()
def endless():
    io.write(sys.argv[1], Clip.from_images(repeat(np.zeros((48, 64, 3), np.uint8)), 25))

cli.main(["endless"])
"""


def test_an_order_to_end_leaves_nothing(clip: Path) -> None:
    before = files(clip.parent)
    command = [sys.executable, "-c", ENDLESS, str(clip.with_name("out.mp4"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as edit:
        while not list(clip.parent.glob(".zs2kit-*/*.segment")):  # until the first frame is there
            assert edit.poll() is None, edit.communicate()
            sleep(0.05)
        edit.terminate()
        said = edit.communicate()
    assert (edit.returncode, said) == (130, ("", "\nzs2kit: error: interrupted\n"))
    assert files(clip.parent) == before
    assert [each.name for each in clip.parent.iterdir()] == [clip.name]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal")
def test_what_others_do_on_an_order_to_end_is_left_alone() -> None:
    def during() -> list[object]:
        with terminal._interruptible():
            return [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)]

    default = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        terminate, hangup = during()
    finally:
        signal.signal(signal.SIGHUP, default)
    assert callable(terminate) and terminate != signal.SIG_DFL and hangup == signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


class OutOfMemoryError(RuntimeError):
    """Named as torch's own."""


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=lambda error: type(error).__name__,
)
def test_too_little_memory(clip: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*args: object, **settings: object) -> Clip:
        raise error

    monkeypatch.setattr(io, "read", exhausted)
    assert "use a smaller --size" in refused(clip.parent, clip)


def test_plugins_are_checked_before_the_clip_and_without_torch(tmp_path: Path) -> None:
    for setting in ["--plugin=nosuch", "--plugin=pose --set=pose.scale=-1"]:
        assert "pose" in refused(tmp_path, tmp_path / "missing.mp4", *setting.split(), code=2)
    script = (
        "import sys\nfrom zs2kit.cli import main\n"
        "try: main(['edit', 'missing.mp4', '--plugin', 'pose', '--set', 'pose.scale=-1'])\n"
        "finally: print({'torch', 'diffusers'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "set()\n"), done.stderr


def test_on_a_terminal_an_error_is_the_only_line(tmp_path: Path) -> None:
    """What the display of progress draws, it takes away again."""
    pty = pytest.importorskip("pty", reason="no terminals of this kind")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "zs2kit", "edit", str(tmp_path / "missing.mp4")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "ZS2KIT_PROGRESS": "auto"}
    shown = b""
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as done:
        os.close(theirs)
        with suppress(OSError):  # there is nothing more to come
            while data := os.read(ours, 1000):
                shown += data
    os.close(ours)
    drawn, _, error = shown.decode().rpartition("\x1b[2K")
    assert done.returncode == 1 and drawn  # it was there, and its line is erased
    assert error == f"zs2kit: error: no such file: {tmp_path / 'missing.mp4'}\r\n"


def test_a_bug_keeps_its_traceback(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **settings: object) -> Clip:
        raise ZeroDivisionError

    monkeypatch.setattr(io, "read", broken)
    with pytest.raises(ZeroDivisionError):
        run("edit", clip)


# Warnings, plugins, help


def test_warnings_are_single_lines_and_others_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.manners():
        warnings.warn("no figure was found\nin 3 frames", stacklevel=1)
        warnings.warn("an interface will change", FutureWarning, stacklevel=1)
        warnings.warn_explicit("about torch", UserWarning, "x.py", 1, module="torch.nn")
    assert capsys.readouterr().err == "zs2kit: warning: no figure was found in 3 frames\n"


def test_plugins_are_listed_and_described() -> None:
    assert ["pose", "zs2kit"] in [line.split()[:2] for line in run("plugins").stdout.splitlines()]
    assert [each["name"] for each in json.loads(run("plugins", "--json").stdout)] == [*plugins.installed()]
    described = json.loads(run("plugins", "pose", "--json").stdout)
    assert described == json.loads(run("plugins", "--json", "pose").stdout)
    text = run("plugins", "pose").stdout
    scale = next(each for each in described["options"] if each["name"] == "scale")
    assert scale | {"help": ""} == {
        "name": "scale",
        "type": "float",
        "optional": False,
        "choices": [],
        "default": 1.0,
        "help": "",
        "minimum": 0,
        "maximum": None,
    }
    for option in described["options"]:
        assert option["help"] and f"{option['name']}: " in text and option["help"] in text
    unknown = run("plugins", "nosuch")
    assert (unknown.exit_code, unknown.stderr) == (
        2,
        f"zs2kit: error: no plugin is called 'nosuch'; choose from {', '.join(plugins.installed())}\n",
    )


@pytest.mark.parametrize(
    "args",
    [["--help"], ["--version"], [], ["models"], ["plugins"], ["plugins", "--json"], ["edit", "--help"]],
)
def test_light_commands_import_nothing_heavy(args: list[str]) -> None:
    """They answer at once: no torch, not even numpy; a plugin is not imported to be listed."""
    script = (
        "import runpy, sys\n"
        "try: runpy.run_module('zs2kit', run_name='__main__')\n"
        "finally: print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, check=True)
    assert done.stdout
    imported = set(eval(done.stderr))
    assert not imported & {
        "av",
        "cv2",
        "diffusers",
        "numpy",
        "rich",
        "torch",
        "transformers",
        "zs2kit_plugins",
    }


def test_every_command_and_option_has_help() -> None:
    for name, command in [*cli.main.commands.items(), *cli.plugins.commands.items()]:
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"
    listed = run("--help").stdout
    assert listed == run().stdout and "..." not in listed.partition("Commands:")[2]  # no line is cut


def test_the_command_line_offers_the_schedulers_noises_and_codecs_that_there_are() -> None:
    from zs2kit.noise import NOISES
    from zs2kit.schedule import SCHEDULERS

    assert SETTINGS["scheduler"].choices == tuple(SCHEDULERS)
    assert SETTINGS["noise"].choices == NOISES
    assert OUTPUT["codec"].choices == tuple(io.CODECS)


@pytest.mark.parametrize("name", ["edit", "generate"])
def test_default_settings_are_those_of_the_library(name: str) -> None:
    import inspect

    import zs2kit

    ours = cli.main.commands[name].make_context(name, ["x"]).params
    signature = inspect.signature(getattr(zs2kit, name)).parameters
    for each in SETTINGS:
        assert signature[each].default == getattr(zs2kit.Settings(), each), each
        assert each == "prompt" or ours.get(each) is None, each
    if name == "generate":
        assert (ours["frames"], ours["fps"]) == (signature["frames"].default, signature["rate"].default)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5), ("5.25", Fraction(21, 4)), (".5", Fraction(1, 2)), ("1:02.5", Fraction(125, 2)),
     ("90:00", 5400), ("1:02:03.25", Fraction(14893, 4))],
)  # fmt: skip
def test_times(text: str, seconds: Fraction) -> None:
    assert parse_time(text) == seconds


def test_options_are_parsed_by_their_type() -> None:
    pose = plugins.build("pose", {"scale": "0.8", "hands": "yes", "detector": "openpose", "model": "none"})
    assert (pose.scale, pose.hands, pose.detector, pose.model) == (0.8, True, "openpose", None)


def test_prompts_along_an_edit(clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    import zs2kit

    command = ["edit", clip, "--model", checkpoint, "--plugin", "none", "--steps", 2, "--codec", "ffv1"]
    along = ["--prompt", "a cat", "--at", 2, "a dog on a tree", "-o", tmp_path / "a.mkv"]
    result = CliRunner().invoke(cli.main, [str(each) for each in (*command, *along)])
    assert result.exit_code == 0, result.output
    prompts = {0: "a cat", 2: "a dog on a tree"}
    wanted = zs2kit.edit(io.read(clip), prompts, plugins=(), model=checkpoint, num_inference_steps=2)
    for ours, theirs in zip(io.read(tmp_path / "a.mkv"), wanted, strict=True):
        assert np.array_equal(ours.image, theirs.image)
    twice = [*command, "--at", 1, "a", "--at", 1, "b"]
    result = CliRunner().invoke(cli.main, [str(each) for each in twice])
    assert result.exit_code == 2 and "names a frame twice" in result.output


def test_the_web_page_says_which_extra_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = run("web", "-o", tmp_path / "web")
    assert result.exit_code == 2
    assert result.stderr == "zs2kit: error: the web page needs Gradio; pip install 'zs2kit[web]'\n"
    assert not (tmp_path / "web").exists()
