"""`zs2kit plugins` and `zs2kit filters`."""

from __future__ import annotations

import functools
import inspect
import json
import os
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zs2kit.cli.options import PATH
from zs2kit.cli.terminal import worded_here
from zs2kit.errors import PluginError, UsageError
from zs2kit.settings import options

if TYPE_CHECKING:
    from zs2kit.plugins import Extension


class Named(click.Group):
    """The commands about plugins or filters. The name of each is a command that describes it."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        """Return the command called ``name``, or else one that describes the plugin or filter with it."""
        before_the_name = ctx.params.get("as_json", False)
        json = click.Option(["--json", "as_json"], is_flag=True, default=before_the_name, help="Print JSON.")
        word = (self.name or "").removesuffix("s")
        return super().get_command(ctx, name) or click.Command(
            name,
            callback=functools.partial(_describe, word, name),
            params=[json],
            help=f"Describe the {word} {name} and its options.",
        )


def _commands(word: str) -> click.Group:
    """Return the group of commands about plugins or filters; ``word`` says which."""

    @click.group(
        f"{word}s",
        cls=Named,
        invoke_without_command=True,
        subcommand_metavar="[NAME | new NAME]",
        help=f"List the installed {word}s, or describe the one called NAME.",
    )
    @click.option(
        "--check", is_flag=True, help=f"Import every {word}, and print which ones can't be used, and why."
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.pass_context
    def group(ctx: click.Context, check: bool, as_json: bool) -> None:
        if ctx.invoked_subcommand is None:
            _list(word, check, as_json)
        elif check:
            raise UsageError(f"--check looks at every {word}", "leave out the name")

    @group.command(
        help=f"Write a new {word} called NAME: a package that installs and works, with a test.\n\n"
        "Prints the folder's name."
    )
    @click.argument("name")
    @click.option(
        "-o",
        "--out",
        type=PATH,
        metavar="DIR",
        help="The folder to write.  [default: zs2kit-NAME, here]",
    )
    def new(name: str, out: Path | None) -> None:
        from zs2kit import plugins

        folder = out or Path(f"zs2kit-{name}")
        plugins.write_new(name, folder, _base(word))
        click.echo(os.fsencode(folder))

    return group


plugins, filters = _commands("plugin"), _commands("filter")


def _base(word: str) -> type[Extension]:
    from zs2kit.filters import Filter
    from zs2kit.plugins import Plugin

    return Plugin if word == "plugin" else Filter


def _list(word: str, check: bool, as_json: bool) -> None:
    """Print the installed plugins or filters; with ``check``, also what is wrong with them."""
    from zs2kit import plugins

    found: list[dict[str, Any]] = [
        {"name": name, **_origin(entry), "summary": plugins.summary(entry)}
        for name, entry in plugins.installed(_base(word)).items()
    ]
    for each in found if check else ():
        each["fault"] = plugins.fault(each["name"], _base(word))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for each in found:
            origin = f"{each['distribution']} {each['version']}"
            state = " ".join((each["fault"] or "works").split()) if check else ""
            click.echo(f"{each['name']:12}{origin:18}{state or each['summary']}")
    if faulty := [each["name"] for each in found if each.get("fault")]:
        raise PluginError(f"{len(faulty)} of {len(found)} {word}s can't be used: {', '.join(faulty)}")


def _describe(word: str, name: str, as_json: bool) -> None:
    """Print what the plugin or filter called ``name`` does, and which options it has."""
    from zs2kit import plugins

    cls = plugins.load(name, _base(word))
    about = inspect.cleandoc(cls.__doc__ or "")
    origin = _origin(plugins.installed(_base(word))[name])
    declared = options(cls)
    if as_json:
        names = ("name", "optional", "choices", "default", "help", "minimum", "maximum")
        described = [
            {**{each: getattr(option, each) for each in names}, "type": option.type.__name__}
            for option in declared
        ]
        click.echo(json.dumps({"name": name, **origin, "help": about, "options": described}, indent=2))
        return
    click.echo(f"{name} ({origin['distribution']} {origin['version']})\n\n{worded_here(about)}\n")
    click.echo(f"Options, each set as --set {name}.OPTION=VALUE:" if declared else "It has no options.")
    for option in declared:
        click.echo(
            f"\n  {option.name}: {option.takes}  [default: {_written(option.default)}]\n      {option.help}"
        )


def _origin(entry: EntryPoint) -> dict[str, str]:
    """Return the name and version of the distribution that a plugin or filter comes with."""
    assert entry.dist is not None  # entry_points() always sets it
    return {"distribution": entry.dist.name, "version": entry.dist.version}


def _written(value: Any) -> str:
    """Return an option's value as --set takes it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
