"""The command line: `zs2kit edit`, `plan`, `generate`, `metrics`, `verify` and `plugins`.

Torch, PyAV and diffusers take seconds to import, so only the commands that need them do.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import math
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from zs2kit import __version__
from zs2kit.errors import ClipError, PluginError, UsageError, Zs2Error, is_out_of_memory

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from zs2kit.clip import Clip
    from zs2kit.model import Model

log = logging.getLogger("zs2kit")

# Those of zs2kit.sampler, zs2kit.noise and zs2kit.io, which import torch or PyAV; a test says so
SCHEDULERS = ("ddim", "euler", "dpm++", "unipc", "lcm")
NOISES = ("dependency", "orbit", "mixed", "progressive", "independent", "shared")
CODECS = ("h264", "ffv1", "prores", "png")

# Libraries whose warnings are about their own code, and nothing that a user of zs2kit can act on.
NOISY = ("controlnet_aux", "diffusers", "huggingface_hub", "timm", "torch", "torchvision", "transformers")


class Commands(click.Group):
    """A group of commands in which every expected failure is one line on stderr."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command and exit: 0, 1 (failed), 2 (used wrongly) or 130 (interrupted)."""
        words = args[0] if args else extra.get("args")
        words = list(sys.argv[1:] if words is None else words)  # as they were typed, for reports
        try:
            with _interruptible():
                code = super().main(*args, **{**extra, "obj": words, "standalone_mode": False})
        except click.Abort as error:
            code = _fail("interrupted", 130, error)
        except click.UsageError as error:
            asked = error.ctx.command_path if error.ctx else "zs2kit"
            code = _fail(f"{error.format_message()} See '{asked} --help'.", 2)
        except UsageError as error:
            code = _fail(str(error), 2, error)
        except Zs2Error as error:
            code = _fail(str(error), 1, error)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            code = _fail("out of memory; use a smaller --size", 1, error)
        sys.exit(code)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Within this context an order to end is as good as Ctrl-C, the one that ends everything at once."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        ends = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        # What nohup, or a program of which we are a part, has set stays.
        ours = [each for each in ends if signal.getsignal(each) is signal.SIG_DFL]
        before = {each: signal.signal(each, interrupt) for each in ours}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def _stoppable(left: Callable[[], int | None]) -> Iterator[Callable[[], bool]]:
    """Within this context a first Ctrl-C only makes what is yielded return True, and a second one is one.

    ``left`` says how many frames are made until anybody asks, if that is known.
    """
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        frames = left()
        _say(f"stopping after {frames or 'a few'} more frames; press Ctrl-C again to stop at once")

    main_thread = threading.current_thread() is threading.main_thread()  # no other may set handlers
    ours = main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _fail(message: str, code: int, error: BaseException | None = None) -> int:
    """Say what went wrong and what is noted on the error, or on that which it came from; return ``code``."""
    causes = (error, getattr(error, "__cause__", None))
    _say(
        "; ".join(
            [f"error: {message}", *(note for each in causes for note in getattr(each, "__notes__", ()))]
        )
    )
    return code


def _say(message: str) -> None:
    print("zs2kit:", " ".join(message.split()), file=sys.stderr)  # one line, whatever the message


class Finite(click.FloatRange):
    """A number in a range, where click's own type lets infinity and NaN through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Text -> number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def time(text: str) -> Fraction:
    """Seconds, or [HH:]MM:SS, with decimals -> seconds."""
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):(?=[0-5]?\d\b))?(\d*\.?\d+)", text)
    if not match:
        raise click.BadParameter(f"'{text}' is no time; write seconds (12.5) or [HH:]MM:SS (1:02.5).")
    hours, minutes, seconds = match.groups(default="0")
    return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)


def size(text: str) -> tuple[int, int]:
    """Width and height as video people write them, 512x288 -> (height, width), the order of arrays."""
    match = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text)
    if not match:
        raise click.BadParameter(f"'{text}' is no size; write WIDTHxHEIGHT, such as 512x288.")
    return int(match[2]), int(match[1])


def rate(text: str) -> Fraction:
    """Frames per second, as a decimal or a fraction; those of NTSC are what everybody rounds them from."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/([1-9]\d*))?", text)
    if not match or float(match[1]) == 0:
        raise click.BadParameter(f"'{text}' is no frame rate; write 24, 23.976 or 30000/1001.")
    value = Fraction(match[1]) / int(match[2] or 1)
    ntsc = Fraction(round(value) * 1000, 1001)
    return ntsc if abs(value - ntsc) < Fraction(1, 1000) else value


def cuts(text: str) -> Literal["auto"] | tuple[float, ...]:
    """Auto, none, or times with commas in between -> as `zs2kit.edit` takes them."""
    if text == "auto":
        return "auto"
    return () if text == "none" else tuple(float(time(each)) for each in text.split(","))


def lora(text: str) -> tuple[str, float]:
    """NAME or NAME:WEIGHT -> name and weight, by default 1."""
    name, colon, weight = text.rpartition(":")
    if not (name and colon):
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError:  # a colon inside the name, as in C:\looks
        return text, 1.0


@click.group(
    name="zs2kit",
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="zs2kit")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Edit video with image diffusion models, without training."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


# What `edit` and `generate` have in common, in the order of their help
_SAMPLING = (
    click.option("--negative-prompt", default="", help="What the result should not show."),
    click.option("--overwrite", is_flag=True, help="Replace files that exist."),
    click.option(
        "--resume/--no-resume",
        default=None,
        help="Go on where an interrupted command with the same result ended, or begin anew.  [default: ask]",
    ),
    click.option("--plugin", "names", metavar="NAME", multiple=True, help="Use a plugin; may be repeated."),
    click.option(
        "--set",
        "settings",
        metavar="PLUGIN.OPTION=VALUE",
        multiple=True,
        help="Set an option of a plugin, as pose.scale=0.8; may be repeated. See 'zs2kit plugins NAME'.",
    ),
    click.option(
        "--model",
        metavar="NAME",
        help="A diffusers folder, a .safetensors file or a hub name.  [default: puppets, the bundled model]",
    ),
    click.option(
        "--config",
        metavar="FOLDER",
        help="The configs of a .safetensors file given as --model: any checkpoint folder of its family. "
        "[default: from the hub]",
    ),
    click.option(
        "--lora",
        "loras",
        type=lora,
        metavar="NAME[:WEIGHT]",
        multiple=True,
        help="Add a LoRA to the model: a .safetensors file, a folder, a hub name, or a bundled one's name; "
        "may be repeated.",
    ),
    click.option(
        "--embedding",
        "embeddings",
        metavar="NAME",
        multiple=True,
        help="Teach the model the token of a textual inversion: a .safetensors file, a folder or a hub "
        "name; may be repeated.",
    ),
    click.option("--scheduler", type=click.Choice(SCHEDULERS), default="ddim", help="The sampler."),
    click.option("--steps", metavar="N", type=click.IntRange(1), default=20, help="Denoising steps."),
    click.option(
        "--guidance-scale",
        metavar="X",
        type=Finite(0),
        default=5.0,
        help="How strongly the prompt is followed.",
    ),
    click.option(
        "--noise",
        type=click.Choice(NOISES),
        default="dependency",
        help="How the noise of the frames is correlated; --divergence counts for the first three.",
    ),
    click.option(
        "--momentum",
        metavar="X",
        type=Finite(0, 1),
        default=0.98,
        help="How much of the frames before it a frame attends to: 0 none, 1 only the first.",
    ),
    click.option(
        "--divergence",
        metavar="X",
        type=Finite(0, math.sqrt(math.e)),
        default=0.01,
        help="How much the noise changes from frame to frame: 0 not at all, 1.65 entirely.",
    ),
    click.option("--size", type=size, metavar="WxH", help="The size to work at.  [default: the model's own]"),
    click.option(
        "--chunk-size",
        metavar="N",
        type=click.IntRange(1),
        help="Frames sampled at once: more is faster and takes more memory.  [default: 8, or what fits]",
    ),
    click.option(
        "--seed", metavar="N", type=click.IntRange(0), default=0, help="Another seed, another result."
    ),
    click.option(
        "--device", metavar="NAME", help="Where to compute: cpu, cuda, mps.  [default: the fastest here]"
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float16", "bfloat16"]),
        help="The precision to compute in.  [default: what suits the device]",
    ),
    click.option(
        "--codec",
        type=click.Choice(CODECS),
        help="How the result is stored: h264, for players; ffv1, lossless, in .mkv; prores, for editors, in "
        ".mov or .mkv; png, pictures named as NAME.%04d.png.  [default: h264, or png for such a name]",
    ),
    click.option(
        "--quality",
        metavar="N",
        type=click.IntRange(0, 51),
        help="The constant rate factor of h264: 0 lossless, 51 worst.  [default: 18]",
    ),
    click.option(
        "--start-number",
        metavar="N",
        type=click.IntRange(0),
        help="The number of the result's first picture.  [default: as in CLIP if it is pictures, else 1]",
    ),
    click.option(
        "--sheet",
        type=click.Path(path_type=Path),
        metavar="PNG",
        help="Also write a contact sheet, with the source above the result.",
    ),
    click.option(
        "--report",
        type=click.Path(path_type=Path),
        metavar="JSON",
        help="Also write how good the result is, and all that is needed to make it again.",
    ),
    click.option("--quiet", is_flag=True, help="Say only what is wrong, and the result's name."),
    click.option("--verbose", is_flag=True, help="Say what is done, and with which settings."),
)


@dataclass(frozen=True)
class _Sampling:
    """The values of the options `_SAMPLING`."""

    negative_prompt: str
    overwrite: bool
    resume: bool | None
    names: Sequence[str]
    settings: Sequence[str]
    model: str | None
    config: str | None
    loras: Sequence[tuple[str, float]]
    embeddings: Sequence[str]
    scheduler: str
    steps: int
    guidance_scale: float
    noise: str
    momentum: float
    divergence: float
    size: tuple[int, int] | None
    chunk_size: int | None
    seed: int
    device: str | None
    dtype: str | None
    codec: str | None
    quality: int | None
    start_number: int | None
    sheet: Path | None
    report: Path | None
    quiet: bool
    verbose: bool

    def build(self) -> list[object]:
        """Return the plugins, with their settings.

        What is quickly checked is checked here: a typing error must not cost the loading of a model.
        """
        if self.quiet and self.verbose:
            raise UsageError("--quiet and --verbose exclude each other; use one of them")
        if len(dict(self.loras)) < len(self.loras):
            raise UsageError("--lora names one twice; give it once, with the sum of the weights")
        chosen = _settings(self.names, self.settings)
        from zs2kit import plugins

        return [plugins.build(name, chosen[name]) for name in self.names]

    def load(self, built: Sequence[object]) -> Model:
        """Return the loaded model: the one that is named, or the plugins' own."""
        _hush()
        from zs2kit import plugins
        from zs2kit.model import BUNDLED, Model

        loaded = Model.load(
            self.model or plugins.default_model(built) or BUNDLED,
            config=self.config,
            loras=dict(self.loras),
            embeddings=self.embeddings,
            device=self.device,
            dtype=self.dtype,
        )
        log.info("model %s on %s in %s", loaded.name, loaded.device, loaded.dtype)
        return loaded

    def how(self, prompt: object, model: Model, built: Sequence[object], **own: Any) -> dict[str, Any]:
        """Return the settings as `zs2kit.edit` and `zs2kit.generate` take them, and say them.

        own: those that only one of the two has.
        """
        if prompt is None and not self.quiet:
            default = model.default_prompt
            kind = f"the model's own: '{default}'" if default else "an empty one"
            _say(f"no prompt; using {kind}")
        how: dict[str, Any] = {
            "negative_prompt": self.negative_prompt,
            "scheduler": self.scheduler,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "noise": self.noise,
            "momentum": self.momentum,
            "divergence": self.divergence,
            "size": self.size,
            "chunk_size": self.chunk_size,
            "seed": self.seed,
            **own,
        }
        log.info("settings: %s", ", ".join(f"{key}={value!r}" for key, value in how.items()))
        for plugin in built:
            log.info("plugin: %s", plugin)
        return {**how, "model": model, "plugins": built}

    def decided(self, out: Path, progress: Progress) -> _Sampling:
        """Return these options, with whether to resume what was interrupted: on a terminal that is asked."""
        from zs2kit.journal import kept

        if self.resume and not self.quiet and not kept(out):
            _say(f"nothing is kept of an edit to {out}, so it is begun")
        if self.resume is not None or not (sys.stdin.isatty() and sys.stderr.isatty()) or not kept(out):
            return self
        progress.stop()
        question = (
            f"{out} was interrupted, and {kept(out)} frames are kept. Go on with it, rather than begin anew?"
        )
        resume = click.confirm(question, default=True, err=True)
        progress.start()
        return replace(self, resume=resume)

    def check_output(self, out: Path, clip: Clip) -> None:
        """Raise an error if ``clip`` can't be written to ``out``."""
        from zs2kit import io

        io.check_output(
            out,
            clip,
            self.overwrite,
            codec=self.codec,
            quality=self.quality,
            start_number=self.start_number,
            resume=self.resume,
        )

    def check_beside(self, clips: Sequence[Path]) -> None:
        """Raise an error if what is to be written beside the result can't be, or would replace ``clips``."""
        from zs2kit.beside import check_beside

        if self.sheet:
            check_beside(self.sheet, ".png", "sheet", clips, self.overwrite)
        if self.report:
            check_beside(self.report, ".json", "report", clips, self.overwrite)

    def write_beside(
        self, out: Path, made: Clip, how: Mapping[str, Any], read_source: Callable[[], Clip] | None = None
    ) -> None:
        """Write the sheet and the report: of the result, of its source if there is one, and of ``how``.

        made: the clip that was written to ``out``.
        """
        from zs2kit import io

        with _manners(self.verbose):
            if self.sheet:
                from zs2kit.sheet import write_sheet

                source = {"source": read_source()} if read_source else {}
                write_sheet(self.sheet, {**source, "result": io.read(out)})
            if self.report:
                from zs2kit.metrics import measure
                from zs2kit.report import described, write_report

                model: Model = how["model"]
                frames: Any = made.frames
                known = frames.describe()
                about = {
                    "result": os.fspath(out),
                    **({"source": known["source"]} if read_source else {}),
                    "settings": {key: value for key, value in how.items() if key not in ("model", "plugins")},
                    "model": {
                        "name": model.name,
                        "weights": known["weights"],
                        "config": self.config,
                        "loras": dict(self.loras),
                        "embeddings": self.embeddings,
                        "device": str(model.device),
                        "dtype": str(model.dtype).removeprefix("torch."),
                    },
                    "plugins": described(known["plugins"]),
                    "metrics": measure(
                        io.read(out), read_source() if read_source else None, chunk_size=self.chunk_size
                    ),
                }
                write_report(self.report, ["zs2kit", *click.get_current_context().obj], about)

    def write(self, out: Path, clip: Clip, progress: Progress, task: TaskID) -> None:
        """Make the frames of ``clip`` and write them to ``out``."""
        from zs2kit import io

        frames: Any = clip.frames
        done = 0

        def left() -> int | None:
            under_way: int = frames.index - done
            return under_way or frames.chunk_size

        def report(count: int) -> None:
            nonlocal done
            if done == 0:
                progress.reset(task, total=clip.frame_count, completed=count)
            done = count
            progress.update(task, completed=done)
            if asked() and frames.index == done:
                raise click.Abort

        with _stoppable(left) as asked:
            io.write(
                out,
                clip,
                codec=self.codec,
                quality=self.quality,
                start_number=self.start_number,
                overwrite=self.overwrite,
                resume=self.resume,
                progress=report,
            )


def _sampling(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` the options `_SAMPLING`, as one `_Sampling` after its own."""

    @functools.wraps(command)
    def call(**values: Any) -> None:
        shared = {field.name: values.pop(field.name) for field in fields(_Sampling)}
        command(**values, sampling=_Sampling(**shared))

    for option in reversed(_SAMPLING):
        call = option(call)
    return call


@main.command(context_settings={"show_default": True})
@click.argument("clip", type=click.Path(path_type=Path))
@click.option("--prompt", help="What the result shows.  [default: the bundled model has one of its own]")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="The result.  [default: beside CLIP, named after the plugins: CLIP-pose.mp4]",
)
@click.option(
    "--start",
    type=time,
    metavar="TIME",
    help="Where in CLIP to begin: seconds or [HH:]MM:SS.  [default: its start]",
)
@click.option("--end", type=time, metavar="TIME", help="Where in CLIP to stop.  [default: its end]")
@click.option(
    "--cuts",
    type=cuts,
    metavar="TIMES",
    default="auto",
    help="Where CLIP cuts to another shot, which is then edited afresh: auto, none, or 12.5,1:02.5,...",
)
@click.option(
    "--flow-momentum",
    metavar="X",
    type=Finite(0, 1),
    help="How much a frame takes over from the one before it, moved as the source moves: 0 nothing.  "
    "[default: 0.95; 0 where no plugin follows the source, or one moves things itself]",
)
@click.option(
    "--fps",
    type=rate,
    metavar="X",
    help="Frames per second of a CLIP that is pictures, shot.%04d.png: 24, 23.976, 30000/1001.  "
    "[default: 25]",
)
@_sampling
def edit(
    clip: Path,
    prompt: str | None,
    out: Path | None,
    start: Fraction | None,
    end: Fraction | None,
    fps: Fraction | None,
    cuts: Literal["auto"] | tuple[float, ...],
    flow_momentum: float | None,
    sampling: _Sampling,
) -> None:
    """Make a new video out of CLIP, with its motion and its sound.

    CLIP is a video, or a sequence of PNG pictures, shot.%04d.png.

    The result's name is printed once it is complete, and alone on standard output.
    """
    if start is not None and end is not None and start >= end:
        raise UsageError("--start must lie before --end")
    with _manners(sampling.verbose), _progress(sampling.quiet) as progress:
        task = progress.add_task("looking at the clip", total=None)
        built = sampling.build()
        from zs2kit import io

        read_source = functools.partial(io.read, clip, start=start, end=end, rate=fps)
        source = read_source()
        out = out or io.name_beside(clip, "-".join(sampling.names or ["edit"]), sampling.codec)
        sampling = sampling.decided(out, progress)
        sampling.check_output(out, source)
        sampling.check_beside([clip, out])
        progress.update(task, description="loading the model")
        model = sampling.load(built)
        from zs2kit.scan import default_flow_momentum, edit

        if flow_momentum is None:
            flow_momentum = default_flow_momentum(built)
        how = sampling.how(prompt, model, built, cuts=cuts, flow_momentum=flow_momentum)
        edited = edit(source, prompt, **how)
        progress.update(task, description="editing")
        sampling.write(out, edited, progress, task)
    # First, as the rest may yet fail. In bytes: a name needs not be text, nor fit the output's encoding.
    click.echo(os.fsencode(out))
    shown = model.default_prompt if prompt is None else prompt
    sampling.write_beside(out, edited, {"prompt": shown, **how}, read_source)


# A source moves by itself; what is made of text alone moves with its noise, and steadily.
_ALONE = {"noise": "orbit", "divergence": 0.02}


@main.command(context_settings={"show_default": True, "default_map": _ALONE})
@click.argument("prompt", required=False)
@click.option("--frames", metavar="N", type=click.IntRange(1), default=48, help="How many frames to make.")
@click.option(
    "--fps", type=rate, metavar="X", default="12", help="Frames per second: 12, 23.976, 30000/1001."
)
@click.option(
    "--at",
    "prompts",
    type=(click.IntRange(1), str),
    metavar="FRAME PROMPT",
    multiple=True,
    help="Another prompt from this frame on; in between, one turns into the other. May be repeated.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="The result.  [default: named after the prompt, here]",
)
@_sampling
def generate(
    prompt: str | None,
    frames: int,
    fps: Fraction,
    prompts: Sequence[tuple[int, str]],
    out: Path | None,
    sampling: _Sampling,
) -> None:
    """Make a video of PROMPT alone.

    The result's name is printed once it is complete, and alone on standard output.
    """
    if len(dict(prompts)) < len(prompts):
        raise UsageError("--at names a frame twice; give each frame one prompt")
    if late := [frame for frame, _ in prompts if frame >= frames]:
        raise UsageError(
            f"--at {late[0]} comes after the end; the last of {frames} frames is {frames - 1}, the first 0"
        )
    with _manners(sampling.verbose), _progress(sampling.quiet) as progress:
        task = progress.add_task("loading the model", total=None)
        built = sampling.build()
        from zs2kit import io
        from zs2kit.clip import Clip

        name = "-".join(re.findall(r"\w+", prompt or "")[:12])[:60] or "generated"
        out = out or Path(name + io.CODECS[sampling.codec or "h264"].suffixes[0])
        sampling = sampling.decided(out, progress)
        sampling.check_output(out, Clip((), 2, 2, fps, 1 / fps))
        sampling.check_beside([out])
        model = sampling.load(built)
        from zs2kit.scan import generate

        how = sampling.how(prompt, model, built)
        along = {0: model.default_prompt if prompt is None else prompt, **dict(prompts)}
        made = generate(along, frames=frames, rate=fps, **how)
        progress.update(task, description="generating")
        sampling.write(out, made, progress, task)
    click.echo(os.fsencode(out))
    sampling.write_beside(out, made, {"prompt": along, "frames": frames, "rate": str(fps), **how})


def _settings(names: Sequence[str], settings: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return every chosen plugin's settings by option; `UsageError` if they don't fit together."""
    chosen: dict[str, dict[str, str]] = {}
    for name in names:
        if name in chosen:
            raise UsageError(f"--plugin {name} is given twice; give it once")
        chosen[name] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        name, dot, option = key.partition(".")
        if not (name and dot and option and equals):
            raise UsageError(f"--set takes PLUGIN.OPTION=VALUE, such as pose.scale=0.8, not '{setting}'")
        if name not in chosen:
            raise UsageError(f"--set {setting} is for a plugin that is not used; add --plugin {name}")
        if option in chosen[name]:
            raise UsageError(f"--set {key} is given twice; give it once")
        chosen[name][option] = value
    return chosen


class _Lines(logging.Handler):
    """Prints records as the command line prints everything."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage())


@contextmanager
def _manners(verbose: bool) -> Iterator[None]:
    """Within this context zs2kit's log and all warnings for users are single lines on stderr."""
    handler = _Lines()
    log.addHandler(handler)
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            warnings.filterwarnings("ignore", module=rf"({'|'.join(NOISY)})(\.|$)")
            warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
            yield
    except PluginError as error:
        if verbose and error.__cause__:  # for the plugin's author: where it failed
            traceback.print_exception(error.__cause__)
        raise
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)


def _hush() -> None:
    """Keep what the libraries that load models would log for their own developers off the terminal."""
    from diffusers.utils import logging as diffusers_log
    from huggingface_hub.utils import logging as hub_log
    from transformers.utils import logging as transformers_log

    for library in (diffusers_log, hub_log, transformers_log):
        library.set_verbosity_error()


def _progress(quiet: bool) -> Progress:
    """Return a progress display on stderr: frames done, time left. Silent if stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
        transient=True,  # an error is then the only line
        speed_estimate_period=600,  # frames come a chunk at a time: average over several chunks
        disable=quiet or not sys.stderr.isatty(),
    )


@main.command()
@click.argument("result", type=click.Path(path_type=Path))
@click.option(
    "--source", metavar="CLIP", type=click.Path(path_type=Path), help="What was edited, to compare with."
)
@click.option(
    "--region",
    metavar="CLIP",
    type=click.Path(path_type=Path),
    help="Masks, white where something was to change: is the rest as it was?",
)
@click.option("--chunk-size", metavar="N", type=click.IntRange(1), help="That of the edit: are there seams?")
@click.option(
    "--features",
    metavar="NAME",
    multiple=True,
    help="Folder or hub name of a CLIP or DINO model for transformers; may be repeated.",
)
@click.option("--prompt", help="What RESULT is to show, for CLIP.")
@click.option("--source-prompt", help="What the source shows, for CLIP.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def metrics(
    result: Path,
    source: Path | None,
    region: Path | None,
    chunk_size: int | None,
    features: Sequence[str],
    prompt: str | None,
    source_prompt: str | None,
    as_json: bool,
) -> None:
    """Measure the clip RESULT; docs/metrics.md says what the numbers mean."""
    if region and not source:
        raise UsageError("--region needs --source: what is outside of it is compared with the source")
    if (prompt or source_prompt) and not features:
        raise UsageError("prompts are measured by a CLIP model; name one by --features")
    if source_prompt and not prompt:
        raise UsageError("--source-prompt is compared with --prompt; give both")
    with _manners(False):
        from zs2kit import io
        from zs2kit.metrics import TransformersFeatures, measure

        clips = [None if each is None else io.read(each) for each in (source, region)]
        numbers = measure(
            io.read(result),
            *clips[:1],
            region=clips[1],
            chunk_size=chunk_size,
            features=[TransformersFeatures(each) for each in features],
            prompt=prompt,
            source_prompt=source_prompt,
        )
    lines = [f"{name:24}{value:12.5g}" for name, value in numbers.items()]
    click.echo(json.dumps(numbers, indent=2) if as_json else "\n".join(lines))


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--start", type=time, metavar="TIME", help="That of the edit.")
@click.option("--end", type=time, metavar="TIME", help="That of the edit.")
@click.option("--fps", type=rate, metavar="X", help="That of the edit.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(
    source: Path,
    result: Path,
    start: Fraction | None,
    end: Fraction | None,
    fps: Fraction | None,
    as_json: bool,
) -> None:
    """Check that RESULT is as whole as SOURCE: frames, times, size, aspect, colour tags and sound.

    Pictures are not compared. Prints a line for every check, and exits with 1 if one of them fails.
    """
    with _manners(False):
        from zs2kit.verify import verify

        checks = verify(source, result, start=start, end=end, rate=fps)
    lines = [f"{'ok' if each.ok else 'WRONG':7}{each.name}: {each.says}" for each in checks]
    click.echo(json.dumps([each._asdict() for each in checks], indent=2) if as_json else "\n".join(lines))
    if wrong := [each.name for each in checks if not each.ok]:
        raise ClipError(f"{result} differs from {source} in: {', '.join(wrong)}")


@main.command(params=list(edit.params), context_settings={"show_default": True})
@click.option(
    "--preview",
    type=click.Path(path_type=Path),
    metavar="PNG",
    help="Also edit the first frame of each shot, and write these to a sheet, the source above the result.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    clip: Path,
    prompt: str | None,
    out: Path | None,
    start: Fraction | None,
    end: Fraction | None,
    fps: Fraction | None,
    cuts: Literal["auto"] | tuple[float, ...],
    flow_momentum: float | None,
    preview: Path | None,
    as_json: bool,
    **shared: Any,
) -> None:
    """Say what `zs2kit edit`, with the same options, will do, take and make of CLIP.

    Reads CLIP once and takes one denoising step to tell how long all of them take. Of the result nothing
    is written. Exits with 1 if the edit could not begin.
    """
    sampling = _Sampling(**shared)
    said: list[str] = []
    with _manners(sampling.verbose), _progress(sampling.quiet) as progress:
        warnings.showwarning = lambda message, *_, **__: said.append(str(message))
        task = progress.add_task("looking at the clip", total=None)
        built = sampling.build()
        from zs2kit import io

        source = io.read(clip, start=start, end=end, rate=fps)
        out = out or io.name_beside(clip, "-".join(sampling.names or ["edit"]), sampling.codec)
        obstacles: tuple[str, ...] = ()
        try:
            sampling.check_beside([clip, out])
        except ClipError as error:
            obstacles = (str(error),)
        if preview:
            from zs2kit.beside import check_beside

            check_beside(preview, ".png", "sheet", [clip, out], sampling.overwrite)
        progress.update(task, description="loading the model", total=source.frame_count)
        model = sampling.load(built)
        from zs2kit.plan import lines, plan
        from zs2kit.scan import edit
        from zs2kit.sheet import Sheet

        how = sampling.how(prompt, model, built, cuts=cuts, flow_momentum=flow_momentum)
        edited = edit(source, prompt, **how)
        progress.update(task, description="planning")
        sheet = Sheet(edited)
        found = plan(
            edited,
            out,
            codec=sampling.codec,
            quality=sampling.quality,
            start_number=sampling.start_number,
            overwrite=sampling.overwrite,
            resume=sampling.resume,
            progress=lambda done: progress.update(task, completed=done),
            preview=sheet.add if preview else None,
        )
        found = replace(found, obstacles=(*found.obstacles, *obstacles))
        if preview:
            sheet.write(preview)
    about = {**asdict(found), "warnings": said}
    warned = [f"{'warning':12}{each}" for each in said]
    click.echo(json.dumps(about, indent=2, default=str) if as_json else "\n".join([*lines(found), *warned]))
    if found.obstacles:
        raise ClipError(f"the edit can't begin: {'; '.join(found.obstacles)}")


class PluginCommands(click.Group):
    """The commands about plugins. A plugin's name is one too: it describes the plugin."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        """Return the command called ``name``, or else one that describes the plugin of that name."""
        before_the_name = ctx.params.get("as_json", False)
        json = click.Option(["--json", "as_json"], is_flag=True, default=before_the_name, help="Print JSON.")
        about = f"Describe the plugin {name} and its options."
        return super().get_command(ctx, name) or click.Command(
            name, callback=functools.partial(_describe, name), params=[json], help=about
        )


@main.group(cls=PluginCommands, invoke_without_command=True, subcommand_metavar="[NAME | new NAME]")
@click.option("--check", is_flag=True, help="Import every plugin, and say which can't be used, and why.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def plugins(ctx: click.Context, check: bool, as_json: bool) -> None:
    """List the installed plugins, or describe the one called NAME."""
    from zs2kit import plugins

    if ctx.invoked_subcommand is not None:
        if check:
            raise UsageError("--check looks at every plugin; give it no name")
        return
    found: list[dict[str, Any]] = [
        {"name": name, **_origin(entry)} for name, entry in plugins.installed().items()
    ]
    for each in found if check else ():
        each["fault"] = plugins.fault(each["name"])
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for each in found:
            origin = f"{each['distribution']} {each['version']}"
            state = f"  {' '.join((each['fault'] or 'works').split())}" if check else ""
            click.echo(f"{each['name']:16}{origin}{state}")
    if faulty := [each["name"] for each in found if each.get("fault")]:
        raise PluginError(f"{len(faulty)} of {len(found)} plugins can't be used: {', '.join(faulty)}")


@plugins.command()
@click.argument("name")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to write it.  [default: zs2kit-NAME, here]",
)
def new(name: str, out: Path | None) -> None:
    """Write a new plugin called NAME: a package that installs and works, with its test.

    The folder's name is printed.
    """
    from zs2kit import plugins

    folder = out or Path(f"zs2kit-{name}")
    plugins.write_new(name, folder)
    click.echo(os.fsencode(folder))


def _describe(name: str, as_json: bool) -> None:
    """Say what the plugin called ``name`` does, and which options it has."""
    from zs2kit import plugins

    cls = plugins.load(name)
    about = inspect.cleandoc(cls.__doc__ or "")
    origin = _origin(plugins.installed()[name])
    options = plugins.options(cls)
    if as_json:
        described = [{**asdict(option), "type": option.type.__name__} for option in options]
        click.echo(json.dumps({"name": name, **origin, "help": about, "options": described}, indent=2))
        return
    click.echo(f"{name} ({origin['distribution']} {origin['version']})\n\n{about}\n")
    click.echo(f"Options, each set as --set {name}.OPTION=VALUE:" if options else "It has no options.")
    for option in options:
        click.echo(
            f"\n  {option.name}: {option.kind}  [default: {_written(option.default)}]\n      {option.help}"
        )


def _origin(entry: EntryPoint) -> dict[str, str]:
    """The distribution that brought a plugin."""
    assert entry.dist is not None  # entry_points() always sets it
    return {"distribution": entry.dist.name, "version": entry.dist.version}


def _written(value: Any) -> str:
    """A value of an option as --set takes it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
