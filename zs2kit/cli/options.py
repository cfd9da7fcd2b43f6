"""What `edit`, `plan` and `generate` have in common: their options, and what is done with them.

The options for `Settings` and `Output` are made from the fields of these classes.
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
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from zs2kit.cli import settings_file
from zs2kit.cli.cores import choose_waiting
from zs2kit.cli.display import KINDS, Display, make_display
from zs2kit.cli.terminal import Grouped, given, hush, log, manners, say, stoppable
from zs2kit.errors import UsageError
from zs2kit.io.output import Output
from zs2kit.settings import OF_A_SOURCE, Option, Settings, exact_rate, options, parse_time

if TYPE_CHECKING:
    from zs2kit.clip import Clip
    from zs2kit.editing import Edit
    from zs2kit.farm import Farm, FarmEdit
    from zs2kit.filters import Filter, Filtered
    from zs2kit.model import Model
    from zs2kit.plugins import Plugin
    from zs2kit.progress import Progress

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
    """A value that the function ``parse`` reads from text; ``wanted`` says how to write it."""

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


class Whole(click.ParamType[int]):
    """A whole number from ``least`` up, or to ``most``."""

    def __init__(self, least: int, most: int | None = None) -> None:
        self.least = least
        self.most = most
        self.name = f"whole number from {least} {'up' if most is None else f'to {most}'}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Text or number -> number."""
        try:
            number = int(str(value))
        except ValueError:
            number = self.least - 1
        if number < self.least or (self.most is not None and number > self.most):
            self.fail(f"'{value}' is not a {self.name}.", param, ctx)
        return number


def _rate(text: str) -> Fraction:
    """Read frames per second, a decimal or a fraction; rounded NTSC rates, such as 23.976, become exact."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/([1-9]\d*))?", text)
    if not match or float(match[1]) == 0:
        raise ValueError
    return exact_rate(Fraction(match[1]) / int(match[2] or 1))


def _lora(text: str) -> tuple[str, float]:
    """NAME or NAME:WEIGHT -> name and weight, which is 1 by default."""
    name, colon, weight = text.rpartition(":")
    if not (name and colon):
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError:
        if not re.search(r"[/\\.]", weight):
            raise
        return text, 1.0  # a colon inside the name, as in C:\\looks


LORA = Parsed("LoRA", _lora, "NAME, or NAME:WEIGHT, such as sticker:0.8")
TIME = Parsed("time", parse_time, "seconds (12.5) or [HH:]MM:SS (1:02.5)")
RATE = Parsed("frame rate", _rate, "24, 23.976 or 30000/1001")


class ExtensionName(click.ParamType[str]):
    """The name of a plugin, or of a filter."""

    def __init__(self, *, filters: bool = False) -> None:
        self.name = "filter" if filters else "plugin"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the installed ones whose names start with ``incomplete``."""
        from zs2kit import plugins
        from zs2kit.filters import Filter

        known = plugins.installed(Filter if self.name == "filter" else plugins.Plugin)
        return [CompletionItem(each) for each in known if each.startswith(incomplete)]


class ExtensionOption(click.ParamType[str]):
    """NAME.OPTION=VALUE."""

    name = "setting"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the options of the chosen plugins and filters, or of all; after a =, an option's choices."""
        from zs2kit import plugins
        from zs2kit.filters import Filter

        found = []
        for base, key in ((plugins.Plugin, "plugins"), (Filter, "filters")):
            for chosen in ctx.params.get(key) or plugins.installed(base):
                kind, name = plugins.parted(chosen)
                for each in options(plugins.load(kind, base)):
                    values = [*each.choices, *(["true", "false"] if each.type is bool else [])]
                    start = f"{name}.{each.name}="
                    found += [start + value for value in values] if incomplete.startswith(start) else [start]
        return [CompletionItem(each) for each in found if each.startswith(incomplete)]


def flag(name: str, *also: str, group: str, **about: Any) -> Callable[[Any], Any]:
    """Declare an option. One that takes a single value also has an environment variable, ZS2KIT_..."""
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

PATH = click.Path(path_type=Path)

_SHARED = {
    "settings_file": flag(
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
    "save_settings": flag(
        "--save-settings",
        type=PATH,
        metavar="TOML",
        group=WHAT,
        help="Also write the given options to a file for --settings.",
    ),
    "plugins": flag(
        "--plugin",
        "plugins",
        type=ExtensionName(),
        metavar="NAME",
        multiple=True,
        group=WHAT,
        help="Use a plugin; may be repeated. To use one twice, name each use: control:a, control:b. none "
        "draws from the prompt alone.  [default: strength, or instruct for a model that edits by "
        "instructions]",
    ),
    "filters": flag(
        "--then",
        "filters",
        type=ExtensionName(filters=True),
        metavar="NAME",
        multiple=True,
        group=WHAT,
        help="Apply a filter to the result; may be repeated, and filters are applied in the order given. To "
        "use one twice, name each use: smooth:a, smooth:b.",
    ),
    "sets": flag(
        "--set",
        "sets",
        type=ExtensionOption(),
        metavar="NAME.OPTION=VALUE",
        multiple=True,
        group=WHAT,
        help="Set an option of a plugin or filter, such as pose.scale=0.8 (a.scale=0.8 for control:a); may "
        "be repeated. See 'zs2kit plugins NAME' and 'zs2kit filters NAME'.",
    ),
    "model": flag(
        "--model",
        metavar="NAME",
        group=WHAT,
        help="A diffusers folder, a .safetensors file or a hub name.  [default: puppets, the bundled model]",
    ),
    "config": flag(
        "--config",
        metavar="FOLDER",
        group=WHAT,
        help="Where the configs for a .safetensors file given as --model come from: any checkpoint folder of "
        "the same family.  [default: the hub]",
    ),
    "loras": flag(
        "--lora",
        "loras",
        type=LORA,
        metavar="NAME[:WEIGHT]",
        multiple=True,
        group=WHAT,
        help="Add a LoRA to the model: a .safetensors file, a folder, a hub name, or the name of a bundled "
        "one; may be repeated.",
    ),
    "embeddings": flag(
        "--embedding",
        "embeddings",
        metavar="NAME",
        multiple=True,
        group=WHAT,
        help="Teach the model the token of a textual inversion: a .safetensors file, a folder or a hub "
        "name; may be repeated.",
    ),
    "vae": flag(
        "--vae",
        metavar="NAME",
        group=WHAT,
        help="A VAE in place of the model's own: a .safetensors file, a folder or a hub name.",
    ),
    "tiny_vae": flag(
        "--tiny-vae",
        metavar="NAME",
        default="auto",
        group=MACHINE,
        help="A fast stand-in for the model's VAE in flow momentum's averages: the folder or hub name of an "
        "AutoencoderTiny, or none.  [default: the model's own, else taesd or taesdxl if it is in the hub's "
        "cache]",
    ),
    **{
        name: derived(each, MACHINE if name == "chunk_size" else WHAT if "prompt" in name else HOW)
        for name, each in SETTINGS.items()
        if name not in ("prompt", *OF_A_SOURCE)
    },
    **{name: derived(each, FILES) for name, each in OUTPUT.items()},
    "sheet": flag(
        "--sheet",
        type=PATH,
        metavar="PNG",
        group=FILES,
        help="Also write a contact sheet, with the source above the result; for several clips, a folder.",
    ),
    "report": flag(
        "--report",
        type=PATH,
        metavar="JSON",
        group=FILES,
        help="Also write a report: how good the result is, and everything needed to draw it again; for "
        "several clips, a folder.",
    ),
    "device": flag(
        "--device",
        metavar="NAME",
        group=MACHINE,
        help="Where to compute: cpu, cuda, mps.  [default: the fastest available]",
    ),
    "dtype": flag(
        "--dtype",
        type=click.Choice(["float32", "float16", "bfloat16"]),
        group=MACHINE,
        help="The precision to compute in.  [default: what suits the device]",
    ),
    "graphs": flag(
        "--graphs/--no-graphs",
        is_flag=True,
        default=None,
        group=MACHINE,
        help="Record the networks' calls as CUDA graphs, so that the GPU needn't wait for Python.  "
        "[default: on CUDA]",
    ),
    "compile": flag(
        "--compile",
        is_flag=True,
        group=MACHINE,
        help="Compile the networks with torch.compile: slow at first, faster afterwards. Needs a compiler.",
    ),
    "offload": flag(
        "--offload/--no-offload",
        is_flag=True,
        default=None,
        group=MACHINE,
        help="Keep text encoders in host memory, except while they embed a prompt.  [default: those of "
        "transformers, on CUDA]",
    ),
    "progress": flag(
        "--progress",
        type=click.Choice(KINDS),
        default="auto",
        group=MACHINE,
        help="How to show progress: bar, lines (one every ten seconds), json (one object per line) or none.  "
        "[default: a bar on a terminal, else lines]",
    ),
    "quiet": flag(
        "--quiet", is_flag=True, group=MACHINE, help="Print only errors, warnings and the result's name."
    ),
    "verbose": flag(
        "--verbose", is_flag=True, group=MACHINE, help="Print what is done, and with which settings."
    ),
    "trace_hooks": flag(
        "--trace-hooks",
        is_flag=True,
        group=MACHINE,
        help="Print each call of a plugin's hook: its arguments, its result, and how long it takes.",
    ),
}


@dataclass(frozen=True)
class Common:
    """The values of the options that all commands share that write a clip.

    output: the options of `Output` that were given, by name. sets: those of plugins and filters.
    """

    output: Mapping[str, Any]
    filters: Sequence[str]
    sets: Sequence[str]
    save_settings: Path | None
    sheet: Path | None
    report: Path | None
    device: str | None
    dtype: str | None
    progress: str
    quiet: bool
    verbose: bool

    def manners(self, **extra: Any) -> Any:
        """See `zs2kit.cli.terminal.manners`."""
        return manners(quiet=self.quiet, verbose=self.verbose, **extra)

    @property
    def word(self) -> str:
        """What the result is named after by default."""
        from zs2kit.plugins import parted

        return "-".join(dict.fromkeys(parted(each)[0] for each in self.filters))

    def build_filters(self, plugins: Sequence[str] | None = None) -> list[Filter]:
        """Return the filters, with their options; ``plugins``: an edit's, or None if nothing is edited.

        Everything that is quick to check is checked here, so that a typing error shows before a model loads.
        """
        if self.quiet and self.verbose:
            raise UsageError("--quiet and --verbose can't be used together", "use one of them")
        return build_filters(self.filters, self.sets, plugins)

    def display(self) -> Display:
        """Return the progress display of the command."""
        return make_display(self.progress, self.quiet)

    def opened_output(self, out: Path, display: Display) -> Output:
        """Return the output for ``out``; on a terminal, ask whether to resume an interrupted edit."""
        output = Output(out, **self.output)
        from zs2kit.journal import saved

        done = os.path.exists(out) and not output.overwrite  # an error, which says more
        if output.resume and not self.quiet and not done and not saved(out):
            say(f"there is no saved edit to {out}, so it starts from the beginning")
        on_a_terminal = sys.stdin.isatty() and sys.stderr.isatty()
        if output.resume is not None or not on_a_terminal or not (left := saved(out)):
            return output
        display.stop()
        question = f"An edit to {out} was interrupted, and {left.words()} are saved. Resume it?"
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
        """Write the options that were given to a file, if --save-settings asks for that."""
        if self.save_settings:
            from zs2kit.beside import write_beside

            text = settings_file.saved(click.get_current_context(), list(self.sets))
            write_beside(self.save_settings, text.encode())

    def write(
        self,
        output: Output,
        made: Edit | FarmEdit | Filtered,
        progress: Callable[[Progress], object] | None = None,
    ) -> None:
        """Draw the frames of ``made`` and write them; ``progress`` is called after each."""
        from zs2kit import io

        for kind in ("plugins", "filters"):
            for name, chosen in (made.describe() or {}).get(kind, {}).items():
                log.info("%s %s: %s", kind[:-1], name, ", ".join(f"{k}={v!r}" for k, v in chosen.items()))
        done = 0

        def left() -> int | None:
            return made.index - done or made.chunk_size

        def report(count: Progress) -> None:
            nonlocal done
            done = count
            if progress is not None:
                progress(count)
            if asked() and made.index == done:
                raise click.Abort

        with stoppable(left) as asked:
            io.write(output, made, progress=report)

    def write_sheet(self, out: Path, read_source: Callable[[], Clip] | None) -> None:
        """Write the contact sheet of the result, and of its source if there is one."""
        if self.sheet:
            from zs2kit import io
            from zs2kit.sheet import write_sheet

            source = {"source": read_source()} if read_source else {}
            write_sheet(self.sheet, {**source, "result": io.read(out)})

    def write_report(
        self,
        out: Path,
        made: Edit | FarmEdit | Filtered,
        read_source: Callable[[], Clip] | None,
        about: Mapping[str, Any],
        chunk_size: int | None = None,
    ) -> None:
        """Write the report on the result, with further entries ``about`` it."""
        from zs2kit.report import report_on, write_report

        assert self.report is not None
        source = read_source() if read_source else None
        contents = report_on(out, made, source, about, chunk_size=chunk_size)
        write_report(self.report, ["zs2kit", *click.get_current_context().obj], contents)


AT = flag(
    "--at",
    "prompts",
    type=(Whole(1), str),
    metavar="FRAME PROMPT",
    multiple=True,
    group=WHAT,
    help="Another prompt, from this frame on; until then, the prompt before gradually turns into it. May be "
    "repeated.",
)


@dataclass(frozen=True)
class Shared(Common):
    """The values of the options that all commands share that draw.

    settings: the options of `Settings` that were given, by name.
    """

    settings: Mapping[str, Any]
    plugins: Sequence[str]
    model: str | None
    config: str | None
    loras: Sequence[tuple[str, float]]
    embeddings: Sequence[str]
    vae: str | None
    tiny_vae: str
    graphs: bool | None
    compile: bool
    offload: bool | None
    trace_hooks: bool

    def manners(self, **extra: Any) -> Any:
        """See `zs2kit.cli.terminal.manners`."""
        return super().manners(trace_hooks=self.trace_hooks, **extra)

    @property
    def word(self) -> str:
        """What the result is named after by default."""
        from zs2kit.plugins import parted

        used = dict.fromkeys(parted(each)[0] for each in self.plugins if each != "none")
        return "-".join(filter(None, ["-".join(used) or "edit", super().word]))

    def build(self) -> tuple[list[Plugin] | None, list[Filter]]:
        """Return the plugins, with their options, and the filters; None for plugins if none is named.

        Everything that is quick to check is checked here, so that a typing error shows before a model loads.
        """
        if len(dict(self.loras)) < len(self.loras):
            raise UsageError("--lora names the same LoRA twice", "give it once, with the sum of the weights")
        Settings(**self.settings)
        names = [each for each in self.plugins if each != "none"]
        if names and "none" in self.plugins:
            raise UsageError("--plugin none can't be used with another plugin", "leave it out")
        filters = self.build_filters(names)
        chosen = _chosen(names, self.filters, self.sets)
        from zs2kit import plugins

        named = [plugins.parted(each)[1] for each in names]
        built = [plugins.build(*chosen[name], name) for name in named]
        return (built if self.plugins else None), filters

    def loading(self, plugins: Sequence[Plugin] | None) -> dict[str, Any]:
        """Return the arguments for `Model.load`; the model is the one named, or the plugins' default."""
        from zs2kit import plugins as plugins_
        from zs2kit.networks.loading import BUNDLED

        return {
            "name": self.model or plugins_.default_model(plugins or ()) or BUNDLED,
            "config": self.config,
            "loras": dict(self.loras),
            "embeddings": self.embeddings,
            "device": self.device,
            "dtype": self.dtype,
            "vae": self.vae,
            "tiny_vae": self.tiny_vae,
            "graphs": self.graphs,
            "compile": self.compile,
            "offload": self.offload,
        }

    def load(self, plugins: Sequence[Plugin] | None) -> Model:
        """Load the model."""
        choose_waiting()
        hush()
        from zs2kit.model import Model

        loaded = Model.load(**self.loading(plugins))
        log.info("model %s on %s in %s", loaded.name, loaded.device, loaded.dtype)
        return loaded

    def open_farm(self, address: str, plugins: Sequence[Plugin] | None) -> Farm:
        """Start the workers of a farm, each of which loads the model."""
        choose_waiting()
        from zs2kit.farm import Farm

        farm = Farm(address, **self.loading(plugins))
        log.info("a farm of %d workers: %s", len(farm.workers), ", ".join(each.host for each in farm.workers))
        return farm

    def say_prompt(self, prompt: object, model: Model | Farm) -> None:
        """If no ``prompt`` is given, print which one is used."""
        if prompt is None and not self.quiet:
            default = model.default_prompt
            kind = f"the model's own: '{default}'" if default else "an empty one"
            say(f"no prompt; using {kind}")

    def write_beside(
        self,
        out: Path,
        edited: Edit | FarmEdit,
        made: Edit | FarmEdit | Filtered,
        read_source: Callable[[], Clip] | None = None,
        **about: Any,
    ) -> None:
        """Write the sheet and the report on the result, and on its source if there is one.

        about: further settings for the report.
        """
        self.write_sheet(out, read_source)
        if self.report:
            from zs2kit.report import drawn_with

            contents = drawn_with(
                edited,
                about,
                config=self.config,
                loras=dict(self.loras),
                embeddings=self.embeddings,
                vae=self.vae,
                tiny_vae=self.tiny_vae,
            )
            self.write_report(out, made, read_source, contents, self.settings.get("chunk_size"))


C = TypeVar("C", bound=Common)


def shared(
    kind: type[C] = Shared,  # type: ignore[assignment]
    *,
    without: Sequence[str] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the common options, as its argument ``shared``, except those named in ``without``."""
    of = {each.name for each in fields(kind)}
    names = {"settings_file", "sets", *of, *OUTPUT, *(SETTINGS if "settings" in of else ())}

    def give(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(**values: Any) -> None:
            del values["settings_file"]  # its options are among the others
            used = (*values.get("plugins", ()), *values["filters"])
            values["sets"] = settings_file.with_sets(click.get_current_context(), used, values["sets"])
            if "settings" in of:
                values["settings"] = given(
                    {name: values.pop(name, None) for name in SETTINGS if name != "prompt"}
                )
            values["output"] = given({name: values.pop(name) for name in OUTPUT})
            common = {each.name: values.pop(each.name) for each in fields(kind)}
            command(**values, shared=kind(**common))

        of_a_source = {name: derived(SETTINGS[name], HOW) for name in OF_A_SOURCE}
        for name, option in reversed((_SHARED | of_a_source).items()):
            if name in names and name not in without:
                call = option(call)
        return call

    return give


def build_filters(
    filters: Sequence[str], sets: Sequence[str], plugins: Sequence[str] | None = None
) -> list[Filter]:
    """Return the named filters, with their options; ``plugins``: an edit's, or None if nothing is edited."""
    chosen = _chosen(plugins, filters, sets)
    from zs2kit import plugins as plugins_
    from zs2kit.filters import Filter

    named = [plugins_.parted(each)[1] for each in filters]
    return [plugins_.build(*chosen[name], name, Filter) for name in named]


def _chosen(
    plugins: Sequence[str] | None, filters: Sequence[str], sets: Sequence[str]
) -> dict[str, tuple[str, dict[str, str]]]:
    """Return the kinds and settings of plugins and filters by their names; None: there can be no plugins.

    Raises `UsageError` if names are given twice, or settings don't belong to any of them.
    """
    from zs2kit.plugins import BY_DEFAULT, parted

    taken = set() if plugins is None else {*BY_DEFAULT, *(parted(each)[1] for each in plugins)}
    chosen: dict[str, tuple[str, dict[str, str]]] = {}
    flags = [*(("--plugin", each) for each in plugins or ()), *(("--then", each) for each in filters)]
    for flag, each in flags:
        kind, name = parted(each)
        if name != kind and not re.fullmatch(r"[A-Za-z]\w*", name):
            raise UsageError(f"{flag} {each}: '{name}' is not a valid name", "use letters, digits and _")
        if flag == "--then" and name in taken:
            raise UsageError(
                f"{flag} {each}: a plugin is called {name}, too", f"give it another name: {kind}:a"
            )
        if name in chosen:
            raise UsageError(
                f"{flag} {each} is given twice", f"give it once, or two names: {kind}:a and {kind}:b"
            )
        chosen[name] = kind, {}
    for setting in sets:
        key, equals, value = setting.partition("=")
        name, dot, option = key.partition(".")
        if not (name and dot and option and equals):
            raise UsageError(
                f"--set can't read '{setting}'", "write NAME.OPTION=VALUE, such as pose.scale=0.8"
            )
        if name not in chosen:
            raise _unused(setting, name, with_plugins=plugins is not None)
        values = chosen[name][1]
        if option in values:
            raise UsageError(f"--set {key} is given twice", "give it once")
        values[option] = value
    return chosen


def _unused(setting: str, name: str, *, with_plugins: bool) -> UsageError:
    """Return the error for a setting of what is not used; ``with_plugins``: whether it may be a plugin."""
    from zs2kit.filters import Filter
    from zs2kit.plugins import Extension, Plugin, installed

    bases: dict[str, type[Extension]] = {"--plugin": Plugin} if with_plugins else {}
    bases["--then"] = Filter
    flags = [flag for flag, base in bases.items() if name in installed(base)] or [*bases]
    words = " or ".join(bases[flag]._word for flag in flags)
    return UsageError(
        f"--set {setting} is for a {words} that is not used",
        f"add {' or '.join(f'{flag} {name}' for flag in flags)}",
    )
