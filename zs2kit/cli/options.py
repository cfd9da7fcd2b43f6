"""What `edit`, `plan` and `generate` have in common: their options, and what is done with them.

Those of `Settings` and `Output` are made from their fields.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from zs2kit.cli import settings_file
from zs2kit.cli.cores import choose_waiting
from zs2kit.cli.display import KINDS, Display, make_display
from zs2kit.cli.terminal import Grouped, given, hush, log, manners, say, stoppable
from zs2kit.errors import UsageError
from zs2kit.io.output import Output
from zs2kit.settings import Option, Settings, options, parse_time

if TYPE_CHECKING:
    from zs2kit.clip import Clip
    from zs2kit.editing import Edit
    from zs2kit.model import Model
    from zs2kit.plugins import Plugin

WHAT, HOW, FILES, MACHINE = "What to draw", "How to draw it", "Input and output", "Machine and messages"


class Value(click.ParamType[Any]):
    """The values that an option of `Settings` or `Output` takes."""

    def __init__(self, option: Option) -> None:
        self.option = option
        self.name = option.name

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return N or X for numbers, or the choices if there are any."""
        if self.option.kind:
            return self.option.kind.metavar
        if self.option.choices:
            return f"[{'|'.join(self.option.choices)}]"
        return {int: "N", float: "X"}.get(self.option.type, "TEXT")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Text -> value; raises `UsageError` if it is not allowed."""
        try:
            value = self.option.parse(value)
            self.option.check(value)
        except ValueError as error:
            raise UsageError(f"`{self.name}` {error}, not {value!r}") from None
        return value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the choices that start with ``incomplete``."""
        return [CompletionItem(each) for each in self.option.choices if each.startswith(incomplete)]


class Parsed(click.ParamType[Any]):
    """A value that the function ``parse`` reads from text; ``wanted`` says what to write."""

    def __init__(self, name: str, parse: Callable[[str], Any], wanted: str) -> None:
        self.name = name
        self.parse = parse
        self.wanted = wanted

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Text -> value."""
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except ValueError:
            self.fail(f"'{value}' is not a {self.name}; write {self.wanted}.", param, ctx)


def _rate(text: str) -> Fraction:
    """Read frames per second, a decimal or a fraction; rounded NTSC rates, such as 23.976, become exact."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/([1-9]\d*))?", text)
    if not match or float(match[1]) == 0:
        raise ValueError
    value = Fraction(match[1]) / int(match[2] or 1)
    ntsc = Fraction(round(value) * 1000, 1001)
    return ntsc if abs(value - ntsc) < Fraction(1, 1000) else value


def _lora(text: str) -> tuple[str, float]:
    """NAME or NAME:WEIGHT -> name and weight, which is 1 by default."""
    name, colon, weight = text.rpartition(":")
    if not (name and colon):
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError:  # a colon inside the name, as in C:\\looks
        return text, 1.0


TIME = Parsed("time", parse_time, "seconds (12.5) or [HH:]MM:SS (1:02.5)")
RATE = Parsed("frame rate", _rate, "24, 23.976 or 30000/1001")


class PluginName(click.ParamType[str]):
    """The name of a plugin."""

    name = "plugin"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the installed plugins whose names start with ``incomplete``."""
        from zs2kit import plugins

        return [CompletionItem(each) for each in plugins.installed() if each.startswith(incomplete)]


class PluginOption(click.ParamType[str]):
    """PLUGIN.OPTION=VALUE."""

    name = "setting"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the options of the chosen plugins, or of all; after a =, the choices of that option."""
        from zs2kit import plugins

        found = []
        for plugin in ctx.params.get("plugins") or plugins.installed():
            kind, name = plugins.parted(plugin)
            for each in options(plugins.load(kind)):
                values = [*each.choices, *(["true", "false"] if each.type is bool else [])]
                key = f"{name}.{each.name}="
                found += [key + value for value in values] if incomplete.startswith(key) else [key]
        return [CompletionItem(each) for each in found if each.startswith(incomplete)]


def flag(name: str, *also: str, group: str, **about: Any) -> Callable[[Any], Any]:
    """Declare an option; one that takes a single value also reads an environment variable, ZS2KIT_..."""
    if not about.get("multiple") and not about.get("is_flag"):
        long = max((name, *also), key=lambda each: each.startswith("--"))
        about["envvar"] = "ZS2KIT_" + long.removeprefix("--").upper().replace("-", "_")
    return click.option(name, *also, cls=Grouped, group=group, **about)


def derived(option: Option, group: str) -> Callable[[Any], Any]:
    """Declare the option for a field of `Settings` or `Output`."""
    name = f"--{(option.flag or option.name).replace('_', '-')}"
    if option.type is bool:
        switch = f"{name}/--no-{option.name}" if option.optional else name
        shown = f"  [default: {option.shown}]" if option.shown else ""
        return flag(
            switch,
            option.name,
            group=group,
            is_flag=True,
            default=None if option.optional else False,
            help=option.help + shown,
        )
    default = option.shown or (f"{option.default:g}" if option.type is float else option.default)
    shown = "" if default == "" else f"  [default: {default}]"
    return flag(name, option.name, group=group, type=Value(option), help=option.help + shown)


SETTINGS = {each.name: each for each in options(Settings)}
OUTPUT = {each.name: each for each in options(Output)}
OF_A_SOURCE = ("flow_momentum", "cuts")  # settings that have no use without a source

PATH = click.Path(path_type=Path)

_SHARED = (
    flag(
        "--settings",
        "settings_file",
        type=PATH,
        metavar="FILE",
        group=WHAT,
        is_eager=True,
        callback=settings_file.load,
        help="Read options from a file: TOML, as --save-settings writes it, or a report, to draw with the "
        "same settings again. Options on the command line override those of the file.",
    ),
    flag(
        "--save-settings",
        type=PATH,
        metavar="TOML",
        group=WHAT,
        help="Also write the given options to a file for --settings.",
    ),
    flag(
        "--plugin",
        "plugins",
        type=PluginName(),
        metavar="NAME",
        multiple=True,
        group=WHAT,
        help="Use a plugin; may be repeated. To use one twice, name each use: control:a, control:b. none "
        "draws from the prompt alone.  [default: strength, or instruct for a model that edits by "
        "instructions]",
    ),
    flag(
        "--set",
        "settings",
        type=PluginOption(),
        metavar="PLUGIN.OPTION=VALUE",
        multiple=True,
        group=WHAT,
        help="Set an option of a plugin, such as pose.scale=0.8 (a.scale=0.8 for control:a); may be "
        "repeated. See 'zs2kit plugins NAME'.",
    ),
    flag(
        "--model",
        metavar="NAME",
        group=WHAT,
        help="A diffusers folder, a .safetensors file or a hub name.  [default: puppets, the bundled model]",
    ),
    flag(
        "--config",
        metavar="FOLDER",
        group=WHAT,
        help="Where the configs for a .safetensors file given as --model come from: any checkpoint folder of "
        "the same family.  [default: the hub]",
    ),
    flag(
        "--lora",
        "loras",
        type=_lora,
        metavar="NAME[:WEIGHT]",
        multiple=True,
        group=WHAT,
        help="Add a LoRA to the model: a .safetensors file, a folder, a hub name, or the name of a bundled "
        "one; may be repeated.",
    ),
    flag(
        "--embedding",
        "embeddings",
        metavar="NAME",
        multiple=True,
        group=WHAT,
        help="Teach the model the token of a textual inversion: a .safetensors file, a folder or a hub "
        "name; may be repeated.",
    ),
    flag(
        "--vae",
        metavar="NAME",
        group=WHAT,
        help="A VAE in place of the model's own: a .safetensors file, a folder or a hub name.",
    ),
    flag(
        "--tiny-vae",
        metavar="NAME",
        default="auto",
        group=MACHINE,
        help="A fast stand-in for the model's VAE in flow momentum's averages: the folder or hub name of an "
        "AutoencoderTiny, or none.  [default: the model's own, else taesd or taesdxl if it is in the hub's "
        "cache]",
    ),
    *(
        derived(each, MACHINE if name == "chunk_size" else WHAT if "prompt" in name else HOW)
        for name, each in SETTINGS.items()
        if name not in ("prompt", *OF_A_SOURCE)
    ),
    *(derived(each, FILES) for each in OUTPUT.values()),
    flag(
        "--sheet",
        type=PATH,
        metavar="PNG",
        group=FILES,
        help="Also write a contact sheet, with the source above the result; for several clips, a folder.",
    ),
    flag(
        "--report",
        type=PATH,
        metavar="JSON",
        group=FILES,
        help="Also write a report: how good the result is, and everything needed to draw it again; for "
        "several clips, a folder.",
    ),
    flag(
        "--device",
        metavar="NAME",
        group=MACHINE,
        help="Where to compute: cpu, cuda, mps.  [default: the fastest available]",
    ),
    flag(
        "--dtype",
        type=click.Choice(["float32", "float16", "bfloat16"]),
        group=MACHINE,
        help="The precision to compute in.  [default: what suits the device]",
    ),
    flag(
        "--progress",
        type=click.Choice(KINDS),
        default="auto",
        group=MACHINE,
        help="How to show progress: bar, lines (one every ten seconds), json (one object per line) or none.  "
        "[default: a bar on a terminal, else lines]",
    ),
    flag("--quiet", is_flag=True, group=MACHINE, help="Print only errors, warnings and the result's name."),
    flag("--verbose", is_flag=True, group=MACHINE, help="Print what is done, and with which settings."),
    flag(
        "--trace-hooks",
        is_flag=True,
        group=MACHINE,
        help="Print each call of a plugin's hook: its arguments, its result, and how long it takes.",
    ),
)


@dataclass(frozen=True)
class Shared:
    """The values of the options that the commands have in common.

    settings, output: the options of `Settings` and `Output` that were given, by name.
    """

    settings: Mapping[str, Any]
    output: Mapping[str, Any]
    plugins: Sequence[str]
    plugin_settings: Sequence[str]
    model: str | None
    config: str | None
    loras: Sequence[tuple[str, float]]
    embeddings: Sequence[str]
    vae: str | None
    tiny_vae: str
    save_settings: Path | None
    sheet: Path | None
    report: Path | None
    device: str | None
    dtype: str | None
    progress: str
    quiet: bool
    verbose: bool
    trace_hooks: bool

    def manners(self, **extra: Any) -> Any:
        """See `zs2kit.cli.terminal.manners`."""
        return manners(quiet=self.quiet, verbose=self.verbose, trace_hooks=self.trace_hooks, **extra)

    @property
    def word(self) -> str:
        """What the result is named after by default."""
        from zs2kit.plugins import parted

        return "-".join(dict.fromkeys(parted(each)[0] for each in self.plugins if each != "none")) or "edit"

    def build(self) -> list[Plugin] | None:
        """Return the plugins, with their options; None if none is named.

        Everything that is quick to check is checked here, so that a typing error shows before a model loads.
        """
        if self.quiet and self.verbose:
            raise UsageError("--quiet and --verbose can't be used together", "use one of them")
        if len(dict(self.loras)) < len(self.loras):
            raise UsageError("--lora names the same LoRA twice", "give it once, with the sum of the weights")
        Settings(**self.settings)
        names = [each for each in self.plugins if each != "none"]
        if names and "none" in self.plugins:
            raise UsageError("--plugin none can't be used with another plugin", "leave it out")
        chosen = _by_plugin(names, self.plugin_settings)
        from zs2kit import plugins

        built = [plugins.build(kind, values, name) for name, (kind, values) in chosen.items()]
        return built if self.plugins else None

    def load(self, plugins: Sequence[Plugin] | None) -> Model:
        """Load the model: the one that is named, or the plugins' default, or the bundled one."""
        choose_waiting()
        hush()
        from zs2kit import plugins as plugins_
        from zs2kit.model import Model
        from zs2kit.networks.loading import BUNDLED

        loaded = Model.load(
            self.model or plugins_.default_model(plugins or ()) or BUNDLED,
            config=self.config,
            loras=dict(self.loras),
            embeddings=self.embeddings,
            device=self.device,
            dtype=self.dtype,
            vae=self.vae,
            tiny_vae=self.tiny_vae,
        )
        log.info("model %s on %s in %s", loaded.name, loaded.device, loaded.dtype)
        return loaded

    def display(self) -> Display:
        """Return what shows how far the command is."""
        return make_display(self.progress, self.quiet)

    def say_prompt(self, prompt: object, model: Model) -> None:
        """Print which prompt is used if no ``prompt`` is given."""
        if prompt is None and not self.quiet:
            default = model.default_prompt
            kind = f"the model's own: '{default}'" if default else "an empty one"
            say(f"no prompt; using {kind}")

    def opened_output(self, out: Path, display: Display) -> Output:
        """Return the output for ``out``; on a terminal, ask whether to resume an interrupted edit."""
        output = Output(out, **self.output)
        from zs2kit.journal import saved

        if output.resume and not self.quiet and not saved(out):
            say(f"there is no saved edit to {out}, so it starts from the beginning")
        on_a_terminal = sys.stdin.isatty() and sys.stderr.isatty()
        if output.resume is not None or not on_a_terminal or not saved(out):
            return output
        display.stop()
        question = f"An edit to {out} was interrupted, and {saved(out)} frames are saved. Resume it?"
        resume = click.confirm(question, default=True, err=True)
        display.start()
        return replace(output, resume=resume)

    def check_beside(self, clips: Sequence[Path]) -> None:
        """Raise an error if the sheet or the report can't be written, or would replace one of ``clips``."""
        from zs2kit.beside import check_beside

        overwrite = self.output.get("overwrite", False)
        if self.sheet:
            check_beside(self.sheet, ".png", "sheet", clips, overwrite)
        if self.report:
            check_beside(self.report, ".json", "report", clips, overwrite)
        if self.save_settings:
            check_beside(self.save_settings, ".toml", "file of settings", clips, overwrite)

    def save(self) -> None:
        """Write the options that are given, if that is asked for."""
        if self.save_settings:
            from zs2kit.beside import write_beside

            text = settings_file.saved(click.get_current_context(), list(self.plugin_settings))
            write_beside(self.save_settings, text.encode())

    def write(self, output: Output, edited: Edit) -> None:
        """Draw the frames of ``edited`` and write them."""
        from zs2kit import io

        log.info("settings: %s", ", ".join(f"{k}={v!r}" for k, v in edited.settings.described().items()))
        for name, chosen in edited.plugins.items():
            log.info("plugin %s: %s", name, ", ".join(f"{k}={v!r}" for k, v in chosen.items()))
        done = 0

        def left() -> int | None:
            return edited.index - done or edited.chunk_size

        def report(count: int) -> None:
            nonlocal done
            done = count
            if asked() and edited.index == done:
                raise click.Abort

        with stoppable(left) as asked:
            io.write(output, edited, progress=report)

    def write_beside(
        self, out: Path, edited: Edit, read_source: Callable[[], Clip] | None = None, **about: Any
    ) -> None:
        """Write the sheet and the report on the result, and on its source if there is one.

        about: further settings for the report.
        """
        from zs2kit import io

        if self.sheet:
            from zs2kit.sheet import write_sheet

            source = {"source": read_source()} if read_source else {}
            write_sheet(self.sheet, {**source, "result": io.read(out)})
        if self.report:
            from zs2kit.metrics import measure
            from zs2kit.report import described, write_report

            model, known = edited.scan.model, edited.describe() or {}
            contents = {
                "result": os.fspath(out),
                **({"source": known["source"]} if read_source else {}),
                "settings": {**edited.settings.described(), **about},
                "model": {
                    "name": model.name,
                    "weights": known["weights"],
                    "config": self.config,
                    "loras": dict(self.loras),
                    "embeddings": self.embeddings,
                    "vae": self.vae,
                    "tiny_vae": self.tiny_vae,
                    "device": str(model.device),
                    "dtype": str(model.dtype).removeprefix("torch."),
                },
                "plugins": described(edited.plugins),
                "metrics": measure(
                    io.read(out),
                    read_source() if read_source else None,
                    chunk_size=self.settings.get("chunk_size"),
                ),
            }
            write_report(self.report, ["zs2kit", *click.get_current_context().obj], contents)


def shared(*, without: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the common options, as an argument ``shared``, ``without`` the named settings."""

    def give(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(**values: Any) -> None:
            del values["settings_file"]  # its options are among the others
            values["plugin_settings"] = settings_file.with_sets(
                click.get_current_context(), values["plugins"], values.pop("settings")
            )
            values["settings"] = given(
                {name: values.pop(name, None) for name in SETTINGS if name != "prompt"}
            )
            values["output"] = given({name: values.pop(name) for name in OUTPUT})
            common = {each.name: values.pop(each.name) for each in fields(Shared)}
            command(**values, shared=Shared(**common))

        of_a_source = (derived(SETTINGS[name], HOW) for name in OF_A_SOURCE if name not in without)
        for option in reversed((*_SHARED, *of_a_source)):
            call = option(call)
        return call

    return give


def _by_plugin(plugins: Sequence[str], settings: Sequence[str]) -> dict[str, tuple[str, dict[str, str]]]:
    """Return the plugins' kinds and settings by their names; raise `UsageError` if they don't fit."""
    from zs2kit.plugins import parted

    chosen: dict[str, tuple[str, dict[str, str]]] = {}
    for plugin in plugins:
        kind, name = parted(plugin)
        if name != kind and not re.fullmatch(r"[A-Za-z]\w*", name):
            raise UsageError(f"--plugin {plugin}: '{name}' is not a valid name", "use letters, digits and _")
        if name in chosen:
            raise UsageError(
                f"--plugin {plugin} is given twice", f"give it once, or two names: {kind}:a and {kind}:b"
            )
        chosen[name] = kind, {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        name, dot, option = key.partition(".")
        if not (name and dot and option and equals):
            raise UsageError(
                f"--set can't read '{setting}'", "write PLUGIN.OPTION=VALUE, such as pose.scale=0.8"
            )
        if name not in chosen:
            raise UsageError(f"--set {setting} is for a plugin that is not used", f"add --plugin {name}")
        values = chosen[name][1]
        if option in values:
            raise UsageError(f"--set {key} is given twice", "give it once")
        values[option] = value
    return chosen
