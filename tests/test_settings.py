"""Settings and outputs: each option is declared once, and seen everywhere; messages in both wordings."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import runpy
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from shell import run

import zs2kit
from zs2kit import Model, Settings, cli, io, journal, option
from zs2kit.cli.options import HOW, SETTINGS, derived
from zs2kit.cli.terminal import worded
from zs2kit.editing import settled
from zs2kit.errors import UsageError
from zs2kit.motion import MOMENTUM
from zs2kit.plugins import manager
from zs2kit.scan import Scan
from zs2kit.settings import changed, options, takes_fields
from zs2kit.testing import drawn_clip, tiny_models
from zs2kit_plugins.pose import Pose


@dataclasses.dataclass(frozen=True)
class More(Settings):
    """The settings with one more: a field, and nothing else."""

    glow: float = option(0.25, "How much it glows.", minimum=0, maximum=1)


def test_a_new_setting_is_one_field_and_is_seen_everywhere() -> None:
    (glow,) = (each for each in options(More) if each.name == "glow")
    # checked in the library, by its name
    with pytest.raises(UsageError, match=r"`glow` must be a number from 0 to 1, not 1\.5"):
        More(glow=1.5)
    # taken by name, and shown in a function's help
    assert changed(More(), {"glow": 0.5}) == More(glow=0.5)

    @takes_fields(More)
    def edit(clip: object, **changes: Any) -> None: ...

    assert inspect.signature(edit).parameters["glow"].default == 0.25
    # a flag of the command line, with help, a check, and an environment variable
    command = click.Command("draw", callback=lambda **values: click.echo(values["glow"]), params=[])
    command = click.command()(derived(glow, HOW)(command.callback))
    assert CliRunner().invoke(command, ["--glow", "0.5"]).output == "0.5\n"
    assert CliRunner().invoke(command, [], env={"ZS2KIT_GLOW": "0.75"}).output == "0.75\n"
    wrong = CliRunner().invoke(command, ["--glow", "2"]).exception
    assert str(wrong) == "`glow` must be a number from 0 to 1, not 2.0"
    assert "How much it glows.  [default: 0.25]" in CliRunner().invoke(command, ["--help"]).output
    # in the journal and in reports, there and back
    described = json.loads(json.dumps(More(glow=0.5, cuts=(1.5,), size=(32, 64)).described()))
    assert described["glow"] == 0.5
    assert More.restored({**described, "frames": 3}) == More(glow=0.5, cuts=(1.5,), size=(32, 64))
    # and on the page of options
    page = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "make.py"))
    assert "| `glow` | a number from 0 to 1 | 0.25 | How much it glows. |" in page["table"](More)


@pytest.mark.parametrize("command", ["edit", "plan", "generate"])
def test_every_setting_is_an_option_of_the_commands(command: str) -> None:
    names = {each.name for each in cli.main.commands[command].params}
    left_out = {"flow_momentum", "cuts", "every"} if command == "generate" else set()
    assert set(SETTINGS) - left_out <= names


WRONG: dict[str, Any] = {
    "momentum": 1.5,
    "divergence": -0.1,
    "num_inference_steps": 0,
    "seed": -1,
    "flow_momentum": math.inf,
    "chunk_size": 0,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_setting_out_of_range_has_one_message_everywhere(name: str, tmp_path: Path, tiny_folders) -> None:
    """By the library, by the command line, and in a journal that says so: the same words."""
    source = io.write(tmp_path / "clip.mp4", drawn_clip(4), quality=5)
    with pytest.raises(UsageError) as by_library:
        zs2kit.edit(io.read(source), "x", **{name: WRONG[name]})
    message = str(by_library.value)
    assert message.startswith(f"`{name}` must be ") and message.endswith(f", not {WRONG[name]}")

    flag = "--" + (SETTINGS[name].flag or name).replace("_", "-")
    by_command = run("edit", source, flag, WRONG[name])
    assert by_command.exit_code == 2
    assert by_command.stderr == f"zs2kit: error: {message.replace(f'`{name}`', flag)}\n"

    out, model = tmp_path / "out.mp4", Model.load(tiny_folders["epsilon"])
    edit = zs2kit.edit(io.read(source), "x", plugins=(), model=model, num_inference_steps=1, chunk_size=2)

    def stop(done: int) -> None:
        if done == 2:
            raise KeyError

    journal_share, journal.SHARE = journal.SHARE, math.inf
    try:
        with pytest.raises(KeyError):
            io.write(out, edit, progress=stop)
    finally:
        journal.SHARE = journal_share
    file = tmp_path / ".out.mp4.zs2kit" / "journal.json"
    saved = json.loads(file.read_text())["edit"]
    saved["settings"][name] = WRONG[name]
    file.write_text(json.dumps({"edit": saved, "checksum": journal._checksum_of(saved)}))
    with pytest.raises(UsageError) as by_journal:
        io.write(out, edit, resume=True)
    assert str(by_journal.value) == message


def test_what_is_none_is_settled_in_one_place(tiny_folders: dict[str, Path]) -> None:
    model = Model.load(tiny_folders["epsilon"])
    edits, texts = settled(Settings(), model), settled(Settings(), model, blank=True)
    left = {each.name for each in dataclasses.fields(Settings) if getattr(edits, each.name) is None}
    assert left == {"size", "chunk_size", "flow_momentum"}  # by clip, memory, and plugins
    assert Scan(model, manager([Pose()]), drawn_clip(), edits).settings.flow_momentum == MOMENTUM
    assert Scan(model, manager([]), drawn_clip(), edits).settings.flow_momentum == 0
    assert (edits.noise, edits.divergence, edits.num_inference_steps) == ("dependency", 0.01, 20)
    assert (texts.noise, texts.divergence, texts.guidance_scale) == ("orbit", 0.02, 5.0)
    assert edits.momentum == 0.98
    assert settled(Settings(), Model.load(tiny_models()["flux-dev"])).momentum == 0.25


def test_an_unknown_option_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="no option 'momentun'; did you mean momentum"):
        zs2kit.edit(drawn_clip(2), "x", momentun=0.5)
    with pytest.raises(UsageError, match="no option 'codecs'; did you mean codec"):
        io.write("out.mp4", drawn_clip(2), codecs="h264")
    with pytest.raises(UsageError, match="not 'eulers'; did you mean euler"):
        Settings(scheduler="eulers")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("library", "terminal"),
    [
        ("out.mp4 exists; `overwrite=True` replaces it", "out.mp4 exists; --overwrite replaces it"),
        ("go on (`resume=True`) or not (`resume=False`)", "go on (--resume) or not (--no-resume)"),
        ("use `scheduler='ddim'`", "use --scheduler ddim"),
        ("`num_inference_steps` must be 1 up", "--steps must be 1 up"),
        ("set `pose.annotators=FOLDER`", "set --set pose.annotators=FOLDER"),
        (
            "`mask.clip` and `mask.model` can't be used together",
            "mask.clip and mask.model can't be used together",
        ),
        ("`Model.load` is no argument, nor is `clip`", "`Model.load` is no argument, nor is `clip`"),
    ],
)
def test_messages_are_worded_for_the_command_line(library: str, terminal: str) -> None:
    assert worded(library, cli.main) == terminal


def test_help_has_headings() -> None:
    text = run("edit", "--help").stdout
    places = [text.index(f"\n{each}:\n") for each in ("What to draw", "Input and output", "How to draw it")]
    assert places == sorted(places) and text.index("--momentum X") > places[-1]


def completions(*words: str) -> list[str]:
    *before, last = words
    complete = ShellComplete(cli.main, {}, "zs2kit", "_ZS2KIT_COMPLETE")
    return [each.value for each in complete.get_completions(list(before), last)]


def test_the_shell_completes_plugins_options_and_choices() -> None:
    assert completions("edit", "--plugin", "po") == ["pose"]
    assert "pose.scale=" in completions("edit", "--plugin", "pose", "--set", "pose.")
    assert not [each for each in completions("edit", "--plugin", "pose", "--set", "") if "mask" in each]
    assert completions("edit", "--set", "pose.detector=op") == ["pose.detector=openpose"]
    assert completions("edit", "--scheduler", "d") == ["ddim", "dpm++"]


def test_environment_variables_are_options(tmp_path: Path) -> None:
    wrong = run("edit", tmp_path / "clip.mp4", env={"ZS2KIT_STEPS": "0"})
    assert (wrong.exit_code, "--steps must be a whole number" in wrong.stderr) == (2, True)
    assert {each.envvar for each in cli.main.commands["edit"].params if isinstance(each, click.Option)} >= {
        *("ZS2KIT_OUT", "ZS2KIT_DEVICE", "ZS2KIT_FLOW_MOMENTUM", "ZS2KIT_CODEC")
    }


def test_hooks_are_traced(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    source = io.write(tmp_path / "clip.mp4", drawn_clip(2), quality=5)
    asked = ["edit", source, "--plugin", "pose", "--model", tiny_folders["epsilon"], "--prompt", "x"]
    quick = ["--steps", "1", "--chunk-size", "2", "--cuts", "none", "--device", "cpu"]
    lines = run(*asked, *quick, "--overwrite", "--trace-hooks").stderr.splitlines()
    traced = [line.removeprefix("zs2kit: ") for line in lines if line.startswith("zs2kit: pose.")]
    assert [line.split("(")[0] for line in traced] == [
        *("pose.setup", "pose.prepare", "pose.denoiser_inputs", "pose.denoiser_inputs", "pose.finish")
    ]
    assert all(line.endswith(" ms") for line in traced)
    assert "float32 2x4x8x8 on cpu" in traced[2]
    assert "DenoiserInputs(ControlNetModel, {controlnet_cond: float32 2x" in traced[2]
    assert not [line for line in run(*asked, *quick, "--overwrite").stderr.splitlines() if "pose." in line]
