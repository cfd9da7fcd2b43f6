"""Writes the pages that are made from the code: `python docs/make.py` makes hooks.md and options.md anew."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from pathlib import Path
from typing import Any

from zs2kit import clip, denoiser, hookspecs, model, plugins, schedule, settings
from zs2kit.io import Output
from zs2kit.networks import base

HOOKS = """# The hooks

This page is made from `zs2kit/hookspecs.py` by `python docs/make.py`. How a plugin is written, from start to
finish: [plugins.md](plugins.md).

{about}

| hook | |
|---|---|
{table}

## Each hook

Put `@hookimpl` (from `zs2kit`) above the method.

{hooks}
## What they are given and return

{types}"""

OPTIONS = """# Options

This page is made from the code by `python docs/make.py`. The command line writes an option's name with
dashes, `--flow-momentum` for `flow_momentum` (and `--steps` for `num_inference_steps`), and takes a size as
512x288; a script gives them to `zs2kit.edit`, `zs2kit.generate` and `zs2kit.write` by their names, and a size
as (height, width). Each option that takes a value can also be set by an environment variable, such as
`ZS2KIT_STEPS`.

## How it is drawn

{text_of_settings}

{settings}
## Where and how it is written

{text_of_output}

{output}
# The plugins that come along

`zs2kit plugins NAME` says the same. An option is set by `--set pose.scale=0.8`, or in a script by
`Pose(scale=0.8)`.

{plugins}"""

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


def options_page() -> str:
    """Return docs/options.md."""
    ours = [name for name, entry in plugins.installed().items() if entry.value.startswith("zs2kit_plugins.")]
    return OPTIONS.format(
        text_of_settings=text(settings.Settings),
        settings=table(settings.Settings),
        text_of_output=text(Output),
        output=table(Output),
        plugins="\n".join(described_plugin(name) for name in ours),
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
    lines = source.splitlines()
    shown = []
    for each in declared:
        first = each.lineno - 1
        while lines[first - 1].strip().startswith("# "):
            first -= 1
        shown += [line.strip() for line in lines[first : each.end_lineno]]
    return "\n".join(shown)


def described_plugin(name: str) -> str:
    """A plugin by its docstring and a table of its options."""
    cls = plugins.load(name)
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


def main() -> None:
    """Write the pages beside this file."""
    for name, page in {"hooks.md": hooks_page(), "options.md": options_page()}.items():
        (Path(__file__).parent / name).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
