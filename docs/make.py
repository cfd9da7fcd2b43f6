"""Writes what is made from the code: hooks.md, options.md, cli.md, python.md, models.md, and pictures (SVG).

Run `python docs/make.py` after a change of hooks, options, commands or public names. The examples of
python.md are in examples.py, beside this file.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import json
import re
import runpy
import textwrap
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from zs2kit import cli, clip, denoiser, hookspecs, model, plugins, schedule, settings
from zs2kit.filters import Filter
from zs2kit.io import Output
from zs2kit.networks import base, families

HOOKS = """# The hooks

A hook is a method of a plugin that is called at a certain moment of an edit. This page lists every hook with
its exact arguments. To write a plugin from start to finish, read [the guide](plugins.md) first.

(Made from `zs2kit/hookspecs.py` by `python docs/make.py`.)

{about}

This is the order in which they are called (`python docs/make.py` draws it):

![In an edit: setup first, finish last. In each chunk: prepare, guidance, keep and initial_latents, then the
steps, then decoded. In each step: denoiser_inputs and channels for each call of the network, then
estimate](hooks.svg)

| hook | |
|---|---|
{table}

## Each hook

Put `@hookimpl` (from `zs2kit`) above each method that is a hook.

{hooks}
## What they are given and return

{types}"""

OPTIONS = """# Options

Every option of an edit, of the result file and of the plugins that come with zs2kit, with its default. The
names are those of Python. On the command line they are written with dashes: `--flow-momentum` for
`flow_momentum`, and `--steps` for `num_inference_steps`. Mind the order of a size: the command line takes
width x height, as in `512x288`; Python takes (height, width), as in `(288, 512)`. [The command
line](cli.md) has the remaining options, such as `--model`, and the environment variables.

(Made from the code by `python docs/make.py`.)

## How the result is drawn

{text_of_settings}

{settings}
## Where and how the result is written

{text_of_output}

{output}
# Plugins that come with zs2kit

`zs2kit plugins NAME` prints the same. Set an option with `--set pose.scale=0.8` on the command line, or
with `Pose(scale=0.8)` in Python. Here `strength.strength` has four values, with the prompt "a red robot on
the beach" (`python samples/pictures.py options` makes this picture):

![A green knight in the desert. First it becomes a red robot, then the desert becomes a beach](options.webp)

{plugins}
# Filters that come with zs2kit

`zs2kit filters NAME` prints the same. [Filters](filters.md) says how they are used.

{filters}"""

CLI = """# The command line

All commands with their options. `zs2kit COMMAND --help` prints the same; `zs2kit --version` prints the
version.

(Made from the code by `python docs/make.py`.)

| command | |
|---|---|
{table}

{commands}
## What is printed, and exit codes

`edit` and `generate` print the name of the finished file on standard output, and nothing else. Everything
else (progress, warnings, errors) goes to standard error, one line each, beginning with `zs2kit:`. So this
works in a script:

```sh
result=$(zs2kit edit --plugin pose --prompt "a red robot" --quiet clip.mp4)
```

**Progress.** On a terminal, a bar shows the stage, the frames that are done, the denoising step and the time
left (`python samples/pictures.py cli` makes this picture):

![zs2kit plan prints what an edit takes: frames, shots, memory, time. Below it, zs2kit edit shows a
bar](cli.svg)

Elsewhere, such as in a log, a line says the same every ten seconds. `--progress` chooses: `bar`,
`lines`, `json` (a JSON object on each line, for other programs), `none`, or `auto`, the default. `--quiet`
shows no progress.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | it failed, and the last line says why; or `verify`, `plan` or `plugins --check` found something wrong |
| 2 | wrong usage: an unknown option, a value that is not allowed |
| 130 | interrupted: Ctrl-C, or the signals SIGTERM and SIGHUP |

## Files of settings

`--settings FILE.toml` reads options from a file. There, options have no dashes in front of their names, and
each plugin has a table, which also chooses that plugin. `--save-settings FILE.toml` writes such a file, with
the options that you give.

```toml
prompt = "a red robot on the beach"
steps = 30
seed = 3

[pose]
scale = 0.8
```

```sh
zs2kit edit --settings look.toml clip.mp4
zs2kit edit --settings look.toml --seed 7 --save-settings look-7.toml --report clip.json clip.mp4
zs2kit edit --settings clip.json -o again.mp4 clip.mp4
```

A report (`--report`) is accepted, too: the same clip then gives the same frames. Options on the command line
and environment variables override those of the file.

## Several clips

```sh
zs2kit edit --plugin pose --prompt "a red robot" *.mp4
mkdir -p results && zs2kit edit --plugin pose --prompt "a red robot" -o results --report results *.mp4
```

The model is loaded once, and each clip gets a result of its own, next to the clip or in the folder that `-o`
names. If a clip fails, its error is printed and the next one is edited; the last line names those that
failed, and the exit code is 1. If two results would have the same name, zs2kit says so before any work
begins.

After an interruption, give the same command again with `--resume`: it skips the clips whose results are
there, and continues with the others.

## Interrupting and resuming

Press Ctrl-C once, and zs2kit finishes the chunk that it is drawing, saves it and stops. Press Ctrl-C a
second time to stop right away; the frames drawn since the last save are then lost. SIGTERM and SIGHUP also
stop it right away.

What has been saved is in a hidden folder next to the result: `.clip-pose.mp4.zs2kit` for `clip-pose.mp4`.
To continue, repeat the same command with `--resume`:

```sh
zs2kit edit --plugin pose --prompt "a red robot" clip.mp4
zs2kit edit --plugin pose --prompt "a red robot" --resume clip.mp4
```

The frames are then the same, bit for bit, as without the interruption. This also works after an error, a
full disk, a crash or a power cut.

- On a terminal, zs2kit asks whether to resume if you leave `--resume` out. In a script it stops with an
  error that says so.
- `--no-resume` throws away what was saved and starts again.
- All settings, the source file, the model and the versions of zs2kit and torch must be the same as before.
  If they are not, zs2kit says what differs and does not mix the two.
- If nothing was saved, `--resume` starts from the beginning. So you can always use it.
- The folder is removed when the result is finished. To give up an edit for good, delete the folder yourself.

## Environment variables

An option that takes a single value can also be set by an environment variable: `ZS2KIT_` and the option's
name in capitals, with `_` for each dash. The option on the command line overrides it. Options that may be
repeated (`--plugin`, `--then`, `--set`, `--lora`, `--embedding`, `--at`) and switches (`--overwrite`,
`--quiet`) have no variable, and neither do those of `metrics`, `verify`, `plugins` and `filters`.

```sh
export ZS2KIT_MODEL=~/models/sd15 ZS2KIT_STEPS=30
zs2kit edit --plugin pose --prompt "a red robot" clip.mp4
```

{environment}

Some variables of other libraries matter, too: `HF_HUB_OFFLINE=1` keeps zs2kit from downloading anything from
the Hugging Face hub, `HF_HOME` is the folder for downloaded models, and `OMP_NUM_THREADS` limits the CPU
cores that are used.

`OMP_WAIT_POLICY` says what the threads do while they wait for one another. If other programs keep the cores
busy, zs2kit sets it to `PASSIVE`, which is faster in that case but slower on an idle machine. If you set it
yourself, zs2kit leaves it alone. Your own scripts have to set it before torch is imported.

## Completion in your shell

The shell can complete commands, options, plugin names and plugin options when you press Tab. For bash, add
this to `~/.bashrc`:

```sh
eval "$(_ZS2KIT_COMPLETE=bash_source zs2kit)"
```

For zsh, add this to `~/.zshrc`:

```zsh
eval "$(_ZS2KIT_COMPLETE=zsh_source zs2kit)"
```

For fish, add this to `~/.config/fish/completions/zs2kit.fish`:

```fish
_ZS2KIT_COMPLETE=fish_source zs2kit | source
```
"""

PYTHON = """# Python

Every public name of zs2kit, with its arguments, its errors and an example. `import zs2kit` is all you need,
even for `zs2kit.metrics` and the other modules. It is quick, since slow modules are imported only when you
first use them.

(Made from the code by `python docs/make.py`. The examples are in `docs/examples.py`, and the tests run
them.)

In short, you read a clip, say what it should become, and write it:

```python
{first}
edited = zs2kit.edit(clip, "a blue knight on the beach", plugins=[Pose()], model=model)
zs2kit.write("knight.mp4", edited)
```

![Above: a red robot dances in the city. Below: a blue knight dances the same dance on the beach](pose.png)

The picture is a contact sheet that `zs2kit edit --sheet` made from `samples/robot-dance.mp4`, with `seed=3`.

Each example below works after the first four lines of code above (up to `model = ...`), in a folder with a
short video called `clip.mp4`. To be quick, they take only one denoising step, `num_inference_steps=1`: leave
that out for a good picture.

The plugins ({plugins}, ...) decide what the result keeps of the clip. If you give none, `Strength` is used;
`plugins=[]` draws from the prompt alone. [Options](options.md) lists the plugins and their options.

{contents}

## How an edit works

- **Nothing is drawn until you ask for frames.** `edit` and `generate` check their arguments and return right
  away. `write`, or a `for` loop over the clip, draws the frames chunk by chunk. Memory use doesn't grow with
  the length of the clip.
- **Iterating twice draws twice.** Each iteration starts with the first frame and draws everything again,
  with the same result. If you need the frames more than once, keep them in a list, or write them to a file
  and `read` that.
- **`edited.index`** is the number of frames that the latest iteration has drawn. It counts whole chunks, so
  it may be ahead of the frames that you have received.
- **`edited.settings`** is a `Settings` with every value filled in: where you gave none, it has the value that
  is used.
- **`edited.describe()`** returns everything that the frames depend on (settings, plugins, weights,
  versions, a fingerprint of the source) as a dictionary for JSON. It is None if the source is not
  a file but, for example, a list of pictures; such an edit can't be resumed.
- **`edited.stop()`** ends an iteration from another thread: the current denoising step is finished, and then
  the iteration raises `Stopped`. If no iteration is running, the next one raises it.
- **`progress=` of `edit` and `generate`** is called with a `Progress` after every denoising step;
  **`progress=` of `write`** after every frame that is written. An exception that it raises ends the work.
- **In a notebook**, a clip in the last line of a cell is shown as a small video with sound: its first ten
  seconds. For an edit, the first 48 frames are drawn; to keep the result, write it to a file, and show
  `zs2kit.read("knight.mp4")`. `progress=zs2kit.ProgressBar()` shows a progress bar.
  [samples/tour.ipynb](../samples/tour.ipynb) is a tour.
- **`notices=`** is called with a `Notice` for everything that you should know but that doesn't stop the work.
  Without it, notices are Python warnings.
- **Resuming.** `write` saves what is done in a hidden folder next to the result. After an error or
  `stop()`, call `edit` and `write` again with the same arguments and `resume=True`. With `resume=False`,
  `write` starts again; with None, the default, it raises `ClipError` if something is saved.
- **Threads.** Several edits can run with one model in several threads, each with its own notices. They take
  turns with the model, chunk by chunk.

## Types in the signatures

```py
{types}
```

Pictures are NumPy arrays (height, width, 3) in RGB, `uint8`, unless stated otherwise.

{sections}"""

# What python.md shows, by heading: the module, and names of it; None stands for all of a module.
SECTIONS: dict[str, tuple[str, Sequence[str] | None]] = {
    "Editing": ("zs2kit", ["edit", "generate", "Edit", "Settings"]),
    "Clips and files": ("zs2kit", ["read", "write", "Clip", "Frame", "Output"]),
    "Models": ("zs2kit", ["Model"]),
    "Progress, notices and errors": (
        "zs2kit",
        ["Progress", "ProgressBar", "Notice", "notify", "Zs2Error", "Stopped"],
    ),
    "Plugins": ("zs2kit", ["Plugin", "option", "hookimpl"]),
    "Filters": ("zs2kit", ["Filter", "Filtered"]),
    "zs2kit.metrics": ("zs2kit.metrics", None),
    "zs2kit.plan": ("zs2kit.plan", None),
    "zs2kit.verify": ("zs2kit.verify", None),
    "zs2kit.testing": ("zs2kit.testing", None),
}
NOTES = {
    "zs2kit.metrics": "How good a clip is, in numbers. [Metrics](metrics.md) says what each of them means. A "
    "`Picture` is a float32 array (height, width, 3), RGB in [0, 1].",
    "zs2kit.plan": "What an edit will do and what it needs, before it begins. `zs2kit plan` prints this.",
    "zs2kit.verify": "Whether a result has everything that its source has. `zs2kit verify` prints this.",
    "zs2kit.testing": "For tests of plugins: [the guide](plugins.md#test) shows how.",
    "Plugins": "[Write a plugin](plugins.md) is the guide; [Hooks](hooks.md) lists the hooks.",
    "Filters": "[Filters](filters.md) says which filters there are, and how to write one.",
    "Models": "[Models](models.md) says what can be loaded.",
}
# Members of the classes that python.md shows.
MEMBERS = {
    "Edit": ["stop", "describe", "frames_from", "index", "carry"],
    "Settings": ["prompts", "described", "restored"],
    "Clip": ["from_images", "with_frames", "frame", "at", "chunks"],
    "Output": ["check", "copied", "tell_losses", "left"],
    "Filter": ["size", "prepare", "run", "declared", "__call__"],
    "Model": ["load", "device", "dtype", "native_size", "multiple"],
}
ALIASES = {
    "Prompts": "zs2kit.settings",
    "Cuts": "zs2kit.settings",
    "Scheduler": "zs2kit.settings",
    "Noise": "zs2kit.settings",
    "Report": "zs2kit.progress",
    "Receiver": "zs2kit.errors",
}

# What authors of plugins use of the classes that the hooks are given.
TYPES = [
    (plugins.Plugin, []),
    (base.DenoiserInputs, []),
    (base.Branch, []),
    (schedule.Step, []),
    (clip.Chunk, ["indices", "images", "pixels"]),
    (clip.Clip, []),
    (clip.Fit, ["apply", "undo"]),
    (denoiser.Denoiser, ["attach", "within", "__call__"]),
    (model.Model, ["embed", "encode", "decode", "bundled", "load_network"]),
]


def hooks_page() -> str:
    """Return docs/hooks.md."""
    hooks = {name: each for name, each in vars(hookspecs).items() if hasattr(each, "zs2kit_spec")}
    about = text(hookspecs).partition("\n\n")[2]
    table = [f"| [`{name}`](#{name}) | {text(each).splitlines()[0]} |" for name, each in hooks.items()]
    described = [f"### {name}\n\n{code(each)}\n{text(each)}\n" for name, each in hooks.items()]
    types = [described_type(cls, methods) for cls, methods in TYPES]
    return HOOKS.format(
        about=about, table="\n".join(table), hooks="\n".join(described), types="\n".join(types)
    )


def hooks_picture() -> str:
    """The picture of hooks.md: a box for each part of an edit that is repeated, and in it what is called."""
    call = ["each call of the network", "denoiser_inputs  channels"]
    step = ["each denoising step", call, "estimate"]
    chunk = ["each chunk", "prepare  guidance  keep  initial_latents", step, "decoded"]
    whole = ["an edit", "setup", chunk, "finish"]
    named = set(re.findall(r"\w+_?\w+", " ".join(_rows(whole))))
    assert named == {name for name, each in vars(hookspecs).items() if hasattr(each, "zs2kit_spec")}
    drawn, height = _nested(whole, 8, 8, 504)
    about = f'xmlns="http://www.w3.org/2000/svg" width="520" height="{height + 16}"'
    white = '<rect width="100%" height="100%" fill="#fff"/>'
    return "\n".join([f'<svg {about} font-family="monospace" font-size="13">', white, *drawn, "</svg>", ""])


def _rows(box: Sequence[Any]) -> Iterator[str]:
    """The rows of names in a box of `hooks_picture`, and in those inside it, in their order."""
    for each in box[1:]:
        yield from [each] if isinstance(each, str) else _rows(each)


def _nested(box: Sequence[Any], left: int, upper: int, width: int) -> tuple[list[str], int]:
    """A box: its title, then rows of names and further boxes; return how it is drawn, and its height."""
    title, *parts = box
    high, gap, letter = 24, 8, 8  # pixels: the height of a row, between rows, the width of a letter
    inside, lower = [], upper + high
    for each in parts:
        if isinstance(each, str):
            place = left + 12
            for name in each.split():
                wide = letter * (len(name) + 2)
                inside.append(
                    f'<rect x="{place}" y="{lower}" width="{wide}" height="{high}" rx="4" fill="#dff0ec"/>'
                    f'<text x="{place + wide // 2}" y="{lower + 16}" text-anchor="middle">{name}</text>'
                )
                place += wide + gap
            lower += high + gap
        else:
            drawn, height = _nested(each, left + 12, lower, width - 24)
            inside += drawn
            lower += height + gap
    height = lower - upper
    return [
        f'<rect x="{left}" y="{upper}" width="{width}" height="{height}" rx="6" fill="none" stroke="#999"/>',
        f'<text x="{left + 12}" y="{upper + 16}" fill="#555">{title}</text>',
        *inside,
    ], height


def memory_picture() -> str:
    """The picture of gpu.md: its estimates as bars, and how much memory cards have."""
    page = (Path(__file__).parent / "gpu.md").read_text(encoding="utf-8")
    lines = page.partition("## What models need")[2].splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.endswith(" GB |")]
    gigabytes = [[float(cell.removesuffix(" GB")) for cell in row[1:]] for row in cells]
    weights, _, net, _, carry, _, small = gigabytes  # rows of the table; those with a ControlNet count here
    models = [("Stable Diffusion 1.5", 0), ("XL", 1)]
    bars = [
        (f"{name}, {how}", [weights[at], net[at], 2 * kept[at]])
        for name, at in models
        for how, kept in (("20 steps", carry), ("LCM", small))
    ]
    colours = {"weights": "#0f766e", "ControlNet": "#5eb5a8", "carry, twice": "#e5b567"}
    left, scale, high, top = 215, 6, 22, 40  # pixels: of the margin, of a GB, of a bar, above the bars
    drawn = ['<rect width="100%" height="100%" fill="#fff"/>']
    for place, (name, colour) in enumerate(colours.items()):
        drawn.append(f'<rect x="{left + 130 * place}" y="8" width="12" height="12" fill="{colour}"/>')
        drawn.append(f'<text x="{left + 130 * place + 18}" y="19">{name}</text>')
    for row, (name, sizes) in enumerate(bars):
        upper, start = top + row * (high + 8), left
        drawn.append(f'<text x="{left - 8}" y="{upper + 16}" text-anchor="end">{name}</text>')
        for size, colour in zip(sizes, colours.values(), strict=True):
            drawn.append(
                f'<rect x="{start:g}" y="{upper}" width="{size * scale:g}" height="{high}" fill="{colour}"/>'
            )
            start += size * scale
        drawn.append(f'<text x="{start + 6:g}" y="{upper + 16}" fill="#555">{sum(sizes):.1f} GB</text>')
    bottom = top + len(bars) * (high + 8)
    for card in (8, 12, 16, 24, 80):
        place = left + card * scale
        drawn.append(
            f'<path d="M{place} {top - 6}V{bottom}" stroke="#999" stroke-dasharray="3"/>'
            f'<text x="{place}" y="{bottom + 16}" text-anchor="middle" fill="#555">{card}</text>'
        )
    about = f'xmlns="http://www.w3.org/2000/svg" width="{left + 83 * scale}" height="{bottom + 26}"'
    return "\n".join([f'<svg {about} font-family="sans-serif" font-size="13">', *drawn, "</svg>", ""])


def options_page() -> str:
    """Return docs/options.md."""
    ours = [name for name, entry in plugins.installed().items() if entry.value.startswith("zs2kit_plugins.")]
    from_here = plugins.installed(Filter).items()
    filters = [name for name, entry in from_here if entry.value.startswith("zs2kit.filters.")]
    return OPTIONS.format(
        text_of_settings=text(settings.Settings),
        settings=table(settings.Settings),
        text_of_output=text(Output),
        output=table(Output),
        plugins="\n".join(described_plugin(name) for name in ours),
        filters="\n".join(described_plugin(name, Filter) for name in filters),
    )


def described_type(cls: type, methods: list[str]) -> str:
    """A class by its docstring, its fields as they are in its source, and the methods named."""
    lines = [f"### {cls.__name__}\n", f"{text(cls)}\n"]
    if declared := fields(cls):
        lines.append(f"```python\n{declared}\n```\n")
    for name in methods:
        member = inspect.getattr_static(cls, name)
        if isinstance(member, property | functools.cached_property):
            lines.append(f"**{name}**: {text(member)}\n")
        else:
            lines.append(f"{code(member)}\n{text(member)}\n")
    return "\n".join(lines)


def fields(cls: type) -> str:
    """The lines of a class's source that declare its fields, with their comments."""
    source = textwrap.dedent(inspect.getsource(cls))
    declared = [each for each in ast.parse(source).body[0].body if isinstance(each, ast.AnnAssign)]
    declared = [each for each in declared if not ast.unparse(each.target).startswith("_")]
    lines = source.splitlines()
    shown = []
    for each in declared:
        first = each.lineno - 1
        while lines[first - 1].strip().startswith("# "):
            first -= 1
        shown += [line.strip() for line in lines[first : each.end_lineno]]
    return "\n".join(shown)


def described_plugin(name: str, kind: type[plugins.Extension] = plugins.Plugin) -> str:
    """A plugin, or a filter, by its docstring and a table of its options."""
    cls = plugins.load(name, kind)
    return f"## {name}\n\n{text(cls)}\n\n{table(cls, f'{name}.')}"


def table(cls: type, prefix: str = "") -> str:
    """The options that a class declares, a row each; ``prefix`` comes before their names."""
    lines = ["| option | takes | default | |", "|---|---|---|---|"]
    for each in settings.options(cls):
        default = str(each.default).lower() if each.default in (None, True, False) else each.default
        lines.append(f"| `{prefix}{each.name}` | {each.takes} | {each.shown or default} | {each.help} |")
    return "\n".join(lines) + "\n"


def code(function: Any) -> str:
    """A method's exact signature as a block of code, an argument a line where it is long."""
    signature = inspect.signature(function)
    arguments = [str(each) for each in signature.parameters.values() if each.name != "self"]
    inside = ", ".join(["self", *arguments])
    if len(inside) > 80:
        inside = "".join(f"\n    {each}," for each in ["self", *arguments]) + "\n"
    returns = inspect.formatannotation(signature.return_annotation)
    return f"```python\ndef {function.__name__}({inside}) -> {returns}: ...\n```\n".replace("'", "")


def text(thing: Any) -> str:
    """A docstring as Markdown."""
    return inspect.cleandoc(thing.__doc__ or "").replace("``", "`")


def cli_page() -> str:
    """Return docs/cli.md."""
    commands = dict(cli.main.commands)
    rows = [f"| [`zs2kit {name}`](#zs2kit-{name}) | {_sentence(each)} |" for name, each in commands.items()]
    shown = [described_command(f"zs2kit {name}", each) for name, each in commands.items()]
    return CLI.format(table="\n".join(rows), commands="\n".join(shown), environment=_variables())


def _sentence(command: click.Command) -> str:
    """The first sentence of a command's help."""
    return " ".join(_help(command).partition("\n\n")[0].split())


def _help(command: click.Command) -> str:
    """What a command's help says, as Markdown."""
    return inspect.cleandoc(command.help or "").replace("``", "`")


def _variables() -> str:
    """Markdown: the options of the commands that can be given by environment variables."""
    known: dict[str, str] = {}
    for command in cli.main.commands.values():
        for each in command.params:
            if isinstance(each, click.Option) and each.envvar:
                known[str(each.envvar)] = max(each.opts, key=len)
    rows = [f"| `{variable}` | `{name}` |" for variable, name in sorted(known.items())]
    return "\n".join(["| variable | option |", "|---|---|", *rows])


def described_command(path: str, command: click.Command) -> str:
    """A command as its --help has it: usage, help, and its options under their headings."""
    main = click.Context(cli.main, info_name="zs2kit", **cli.main.context_settings)
    context = click.Context(command, info_name=path, parent=main)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## {path}\n", f"```text\n{path} {usage}\n```\n", f"{_help(command)}\n"]
    groups: dict[str, list[str]] = {}
    for each in command.get_params(context):
        record = each.get_help_record(context)
        if record and isinstance(each, click.Option):
            names, says = (cell.replace("|", "\\|") for cell in record)
            says = re.sub(r"\s+", " ", says)
            groups.setdefault(getattr(each, "group", "Options"), []).append(f"| `{names}` | {says} |")
    for heading, rows in groups.items():
        lines.append("\n".join([f"| {heading} | |", "|---|---|", *rows]) + "\n")
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            lines.append(described_command(f"{path} {name}", each).replace("## ", "### ", 1))
    return "\n".join(lines)


def python_page() -> str:
    """Return docs/python.md."""
    examples = runpy.run_path(str(Path(__file__).with_name("examples.py")))
    sections, headings = [], []
    for heading, (module, names) in SECTIONS.items():
        about = f"{NOTES[heading]}\n\n" if heading in NOTES else ""
        here = list(names or public(module))
        headings += [heading, *(f"{module}.{name}" for name in here)]
        prefix = "" if module == "zs2kit" else f"{module.removeprefix('zs2kit.')}."
        shown = [
            described_name(getattr(import_module(module), name), module, examples["EXAMPLES"][prefix + name])
            for name in here
        ]
        extra = f"\n{_errors()}" if "Zs2Error" in here else ""
        sections.append(f"## {heading}\n\n{about}" + "\n".join(shown) + extra)
    contents: list[str] = []
    for heading, anchor in zip(headings, anchors(headings), strict=True):
        if heading in SECTIONS:
            contents.append(f"- **[{heading}](#{anchor})**:")
        else:
            comma = "" if contents[-1].endswith(":") else ","
            contents[-1] += f"{comma} [`{heading.rpartition('.')[2]}`](#{anchor})"
    return PYTHON.format(
        first=examples["FIRST"].strip(),
        plugins=", ".join(f"`{name}`" for name in ("pose", "depth", "edges", "strength")),
        contents="\n".join(contents),
        types="\n".join(f"{name} = {_alias(module, name)}" for name, module in ALIASES.items()),
        sections="\n".join(sections),
    )


def public(module: str) -> list[str]:
    """The functions and classes that a module defines for others, in the order of its source."""
    found = [
        (inspect.getsourcelines(each)[1], name)
        for name, each in vars(import_module(module)).items()
        if not name.startswith("_")
        and (inspect.isfunction(each) or inspect.isclass(each) or hasattr(each, "__wrapped__"))
        and each.__module__ == module
    ]
    return [name for _, name in sorted(found)]


def anchors(headings: Sequence[str]) -> list[str]:
    """What GitHub makes of a page's headings, in their order: the second of two that are alike ends in -1."""
    found: list[str] = []
    for heading in headings:
        name = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        alike = sum(re.fullmatch(rf"{re.escape(name)}(-\d+)?", each) is not None for each in found)
        found.append(f"{name}-{alike}" if alike else name)
    return found


def _alias(module: str, name: str) -> str:
    """What a type alias of a module stands for."""
    tree = ast.parse(inspect.getsource(import_module(module)))
    return next(
        ast.unparse(each.value).replace("'", '"')
        for each in tree.body
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == name
    )


def described_name(thing: Any, module: str, example: str) -> str:
    """A function or a class: its signature, what it says of itself, its members, and an example."""
    name = "hookimpl" if isinstance(thing, hookspecs.pluggy.HookimplMarker) else thing.__name__
    lines = [f"### {module}.{name}\n"]
    if name == "hookimpl":
        lines.append(
            "```py\n@hookimpl\n```\n\nMarks a method of a plugin as a hook. The method's name is the "
            "hook's name, and it may leave out\narguments that it doesn't need.\n"
        )
    else:
        listed = fields(thing) if inspect.isclass(thing) else ""
        typed = name in ("Settings", "Output")
        plain = ("Edit", "Filter", "Plugin", "Model", "Stopped", "Features")
        if name not in plain and not (listed and not typed):
            lines.append(signature(thing, name))
        lines.append(f"{listed_text(thing)}\n")
        if typed:
            lines.append(
                f"[Options](options.md) describes each {'setting' if name == 'Settings' else 'option'}.\n"
            )
        elif listed and name != "Progress":  # whose attributes its docstring lists
            lines.append(f"```py\n{listed}\n```\n")
        for member in MEMBERS.get(name, []):
            lines.append(described_member(thing, member))
    lines.append(f"```python\n{example.strip()}\n```\n")
    return "\n".join(lines)


def described_member(cls: type, name: str) -> str:
    """A method or a property of a class."""
    member = inspect.getattr_static(cls, name)
    if isinstance(member, property | functools.cached_property):
        return f"**{cls.__name__}.{name}**: {text(member)}\n"
    function = getattr(cls, name)
    return f"{signature(function, f'{cls.__name__}.{name}')}\n{listed_text(function)}\n"


def signature(function: Any, name: str) -> str:
    """A signature as a block of code, an argument a line where it is long."""
    shown = inspect.signature(function)
    parts = list(_arguments(shown))
    inside = ", ".join(parts)
    if len(name) + len(inside) > 90:
        inside = "".join(f"\n    {each}," for each in parts) + "\n"
    returns = (
        ""
        if shown.return_annotation in (inspect.Signature.empty, "None", None)
        else (f" -> {_type(shown.return_annotation)}")
    )
    return f"```py\n{name}({inside}){returns}\n```\n"


def _arguments(shown: inspect.Signature) -> Iterator[str]:
    """The arguments of a signature, with their types and defaults."""
    kinds, star = inspect.Parameter, False
    for each in shown.parameters.values():
        if each.name in ("self", "cls"):
            continue
        if each.kind is kinds.KEYWORD_ONLY and not star:
            star = True
            yield "*"
        prefix = {kinds.VAR_POSITIONAL: "*", kinds.VAR_KEYWORD: "**"}.get(each.kind, "")
        star = star or prefix == "*"
        typed = "" if each.annotation is kinds.empty else f": {_type(each.annotation)}"
        if each.default is None and typed and "None" not in typed:
            typed += " | None"
        default = "" if each.default is kinds.empty else f" = {_default(each.default)}"
        yield f"{prefix}{each.name}{typed}{default}"


def _default(value: Any) -> str:
    if isinstance(value, dataclasses.Field):
        value = value.default
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _type(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation.replace("'", '"')
    return inspect.formatannotation(annotation).replace("'", "")


def listed_text(thing: Any) -> str:
    """A docstring as Markdown, its descriptions of arguments as a list."""
    try:
        known = set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        known = set()
    if inspect.isclass(thing):
        known |= {each for cls in thing.__mro__ for each in getattr(cls, "__annotations__", {})}
        known |= set(getattr(thing, "_fields", ())) | {"message", "remedy"}
    word = "|".join(sorted(map(re.escape, known), key=len, reverse=True)) or "$."
    begins = re.compile(rf"(?:(?<=\n)|(?<=\A)|(?<=[.;] ))((?:{word})(?:(?:,\s+|\s+and\s+)(?:{word}))*): ")
    shown = []
    for paragraph in re.sub(r"(?<=[.;])\s+(?=Raises `)", "\n\n", text(thing)).split("\n\n"):
        first, *pieces = begins.split(paragraph)
        first = first.rstrip().rstrip(";")
        bullets = [
            f"- **{' '.join(names.split())}**: {' '.join(says.split()).rstrip(';')}"
            for names, says in zip(pieces[::2], pieces[1::2], strict=True)
        ]
        shown.append("\n\n".join(filter(None, [first, "\n".join(bullets)])))
    return "\n\n".join(shown)


def _errors() -> str:
    """Markdown: all kinds of errors, with what they say of themselves."""
    errors = import_module("zs2kit.errors")
    kinds = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, Exception)]
    rows = [
        f"| `zs2kit.errors.{each.__name__}` | {' '.join(text(each).splitlines()[0].split())} |"
        for each in kinds
    ]
    return "\n".join(["All errors, each a `Zs2Error`:\n", "| error | |", "|---|---|", *rows]) + "\n"


def models_page() -> str:
    """Return docs/models.md with its table of families made anew."""
    page = (Path(__file__).parent / "models.md").read_text(encoding="utf-8")
    before, rest = page.split("<!-- families -->\n")
    _, after = rest.split("<!-- end of families -->\n")
    rows = [f"| {' | '.join(each)} |" for each in families.rows()]
    table = "\n".join(["| family | what works | defaults | for example |", "|---|---|---|---|", *rows])
    return f"{before}<!-- families -->\n{table}\n\n{families.TRIED}\n<!-- end of families -->\n{after}"


def layers_picture() -> str:
    """The picture of architecture.md: a row for each layer of tests/test_layout.py, the topmost first."""
    layout = runpy.run_path(str(Path(__file__).parents[1] / "tests" / "test_layout.py"))
    rows = [sorted(each) for each in reversed(layout["LAYERS"])]
    letter, high, gap = 8, 24, 6  # pixels: the width of a letter, the height of a box, between boxes
    widths = [sum(letter * (len(name) + 2) + gap for name in names) + gap for names in rows]
    width, height = max(widths), len(rows) * (high + gap) + gap
    drawn = [f'<rect width="{width}" height="{height}" fill="#fff"/>']
    for row, names in enumerate(rows):
        left, upper = (width - widths[row]) // 2 + gap, row * (high + gap) + gap
        for name in names:
            box = letter * (len(name) + 2)
            drawn.append(
                f'<rect x="{left}" y="{upper}" width="{box}" height="{high}" rx="4" fill="#dff0ec"/>'
                f'<text x="{left + box // 2}" y="{upper + 16}">{name}</text>'
            )
            left += box + gap
    about = f'xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    style = 'font-family="monospace" font-size="13" text-anchor="middle"'
    return "\n".join([f"<svg {about} {style}>", *drawn, "</svg>", ""])


PAGES = {
    "hooks.md": hooks_page,
    "options.md": options_page,
    "cli.md": cli_page,
    "python.md": python_page,
    "models.md": models_page,
    "layers.svg": layers_picture,
    "hooks.svg": hooks_picture,
    "gpu.svg": memory_picture,
}


def main() -> None:
    """Write the pages beside this file."""
    for name, page in PAGES.items():
        (Path(__file__).parent / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
