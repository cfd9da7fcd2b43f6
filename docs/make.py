"""Writes the pages that are made from the code: `python docs/make.py` makes hooks.md and options.md anew."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from pathlib import Path
from typing import Any

from zs2kit import clip, denoiser, hookspecs, model, plugins

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

OPTIONS = """# The plugins that come along, and their options

This page is made from `plugins/` by `python docs/make.py`; `zs2kit plugins NAME` says the same.

{plugins}"""

# What authors of plugins use of the classes that the hooks are given.
TYPES = [
    (hookspecs.DenoiserInputs, []),
    (denoiser.Branch, []),
    (denoiser.Step, []),
    (clip.Chunk, ["indices", "images"]),
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
    return OPTIONS.format(plugins="\n".join(described_plugin(name) for name in ours))


def described_type(cls: type, methods: list[str]) -> str:
    """A class by its docstring, its fields as they are in its source, and the methods named."""
    lines = [f"### {cls.__name__}\n", f"{text(cls)}\n"]
    if dataclasses.is_dataclass(cls):
        lines.append(f"```python\n{fields(cls)}\n```\n")
    for name in methods:
        member = inspect.getattr_static(cls, name)
        if isinstance(member, property):
            lines.append(f"**{name}**: {text(member)}\n")
        else:
            lines.append(f"{code(member)}\n{text(member)}\n")
    return "\n".join(lines)


def fields(cls: type) -> str:
    """The lines of a dataclass's source that declare its fields, with their comments."""
    source = textwrap.dedent(inspect.getsource(cls))
    declared = [each for each in ast.parse(source).body[0].body if isinstance(each, ast.AnnAssign)]
    lines = source.splitlines()
    return "\n".join(line.strip() for each in declared for line in lines[each.lineno - 1 : each.end_lineno])


def described_plugin(name: str) -> str:
    """A plugin by its docstring and a table of its options."""
    cls = plugins.load(name)
    lines = [f"## {name}\n", f"{text(cls)}\n", "| option | takes | default | |", "|---|---|---|---|"]
    for each in plugins.options(cls):
        default = str(each.default).lower() if each.default in (None, True, False) else each.default
        lines.append(f"| `{name}.{each.name}` | {each.kind} | {default} | {each.help} |")
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
