"""Plugins by name: which are installed, their options, one built from strings, and the files of a new one."""

from __future__ import annotations

import dataclasses
import functools
import keyword
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pluggy

from zs2kit import hookspecs
from zs2kit.errors import PluginError, UsageError, Zs2Error, is_out_of_memory

GROUP = "zs2kit"  # the entry-point group in which distributions name their plugins
RESERVED = ("new",)  # what comes after `zs2kit plugins` and is no plugin's name; a test says so


def option(default: Any, help: str, *, minimum: float | None = None, maximum: float | None = None) -> Any:
    """Declare a plugin's option: a dataclass field with its description and, for numbers, its range."""
    return dataclasses.field(default=default, metadata={"help": help, "minimum": minimum, "maximum": maximum})


@dataclass(frozen=True)
class Option:
    """A plugin's option, as read from its dataclass field."""

    name: str
    type: type  # bool, int, float or str
    optional: bool  # None is allowed
    choices: tuple[str, ...]  # empty: any value
    default: Any
    help: str
    minimum: float | None
    maximum: float | None

    @property
    def kind(self) -> str:
        """What values it takes, in words."""
        if self.choices:
            words = f"one of {', '.join(self.choices)}"
        elif self.type in (int, float):
            words = "a whole number" if self.type is int else "a number"
            if self.minimum is not None and self.maximum is not None:
                words += f" from {self.minimum:g} to {self.maximum:g}"
            elif self.minimum is not None:
                words += f" from {self.minimum:g} up"
            elif self.maximum is not None:
                words += f" up to {self.maximum:g}"
        else:
            words = "true or false" if self.type is bool else "text"
        return f"{words}, or none" if self.optional else words

    def parse(self, text: str) -> Any:
        """Return the value that ``text`` stands for; ValueError if it stands for none."""
        if self.optional and text.lower() == "none":
            return None
        if self.type is bool:
            words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
            if text.lower() not in words:
                raise ValueError(f"expected {self.kind}")
            return words[text.lower()]
        try:
            return self.type(text)
        except ValueError:
            raise ValueError(f"expected {self.kind}") from None

    def check(self, value: Any) -> None:
        """ValueError if ``value`` is not allowed."""
        if value is None and self.optional:
            return
        accepted: Any = (int, float) if self.type is float else self.type
        if (
            not isinstance(value, accepted)
            or (isinstance(value, bool) and self.type is not bool)
            or (self.choices and value not in self.choices)
            or (self.minimum is not None and not value >= self.minimum)
            or (self.maximum is not None and not value <= self.maximum)
            or (self.type is float and not math.isfinite(value))
        ):
            raise ValueError(f"expected {self.kind}")


def installed() -> dict[str, EntryPoint]:
    """Return the installed plugins' entry points by name, sorted, without importing any."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def load(name: str) -> type:
    """Import the plugin class called ``name``.

    Raises `UsageError` if there is none, `PluginError` if it can't be imported or two are called so.
    """
    known = installed()
    if name not in known:
        raise UsageError(f"no plugin is called '{name}'; installed: {', '.join(known) or 'none'}")
    if len(claims := {entry.value for entry in entry_points(group=GROUP, name=name)}) > 1:
        raise PluginError(
            f"two plugins are called '{name}': {' and '.join(sorted(claims))}; uninstall one of them"
        )
    try:
        cls = known[name].load()
    except (Exception, SystemExit) as error:  # a third party's module may raise anything
        raise PluginError(f"plugin '{name}' can't be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise PluginError(f"plugin '{name}' is not a dataclass ({known[name].value})")
    return cls


def fault(name: str) -> str | None:
    """Import the plugin called ``name``; return what is wrong with its class, options or hooks, or None."""
    try:
        cls = load(name)
        options(cls)
        manager([cls()])
    except Zs2Error as error:
        return str(error)
    except Exception as error:
        return f"plugin '{name}' can't be made: {type(error).__name__}: {error}"
    return None


def options(cls: type) -> list[Option]:
    """Return the options that a plugin class declares: its dataclass fields, made with `option`.

    Raises `PluginError` for a field that isn't.
    """
    try:
        hints = typing.get_type_hints(cls)
    except Exception as error:  # names that are imported for the type checker alone, for one
        raise PluginError(f"{cls.__name__}'s types can't be read: {error}; import what they name") from error
    found = []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        if "help" not in field.metadata:
            raise PluginError(
                f"{cls.__name__}.{field.name} is not described; declare it with zs2kit.plugins.option(...)"
            )
        kind = _kind(hints[field.name])
        if kind[0] not in (bool, int, float, str):
            raise PluginError(
                f"{cls.__name__}.{field.name} can't be {hints[field.name]}; options are bool, int, float, "
                "str or a Literal of strings, each perhaps None"
            )
        found.append(Option(field.name, *kind, field.default, **field.metadata))
    return found


def _kind(hint: Any) -> tuple[type, bool, tuple[str, ...]]:
    """Type, whether None is allowed, and choices, of a field's annotation."""
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [each for each in typing.get_args(hint) if each is not type(None)]
        optional = len(rest) < len(typing.get_args(hint))
        hint = rest[0] if len(rest) == 1 else hint
    if typing.get_origin(hint) is Literal:
        return str, optional, typing.get_args(hint)
    return hint, optional, ()


def name_of(plugin: object) -> str:
    """Return the name by which messages call a plugin: its entry point's, else its class's in lower case."""
    cls = type(plugin)
    value = f"{cls.__module__}:{cls.__qualname__}"
    return next(
        (entry.name for entry in entry_points(group=GROUP) if entry.value == value), cls.__name__.lower()
    )


def build(name: str, settings: Mapping[str, str]) -> Any:
    """Return the plugin called ``name`` with its options set from strings.

    Raises `UsageError` for an unknown plugin or option, and for a value that is not allowed.
    """
    cls = load(name)
    known = {each.name: each for each in options(cls)}
    values = {}
    for key, text in settings.items():
        if key not in known:
            raise UsageError(f"plugin '{name}' has no option '{key}'; it has: {', '.join(known) or 'none'}")
        try:
            values[key] = known[key].parse(text)
        except ValueError as error:
            raise UsageError(f"{name}.{key}: {error}, not '{text}'") from None
    plugin = cls(**values)
    check(plugin)
    return plugin


def check(plugin: object) -> None:
    """`UsageError` if ``plugin`` is no plugin, or an option of it has a value that is not allowed."""
    if isinstance(plugin, type) or not dataclasses.is_dataclass(plugin):
        raise UsageError(f"{plugin!r} is no plugin; give an instance of a plugin class, such as Pose()")
    for each in options(type(plugin)):
        value = getattr(plugin, each.name)
        try:
            each.check(value)
        except ValueError as error:
            raise UsageError(f"{name_of(plugin)}.{each.name}: {error}, not {value!r}") from None


def manager(plugins: Sequence[object]) -> pluggy.PluginManager:
    """Return a pluggy manager over fresh copies of ``plugins``, for one edit.

    The copies keep an edit's state out of the caller's objects. Raises `PluginError` where a
    method is marked as a hook but is none, and where two plugins give what only one may.
    """
    hooks = pluggy.PluginManager("zs2kit")
    hooks.add_hookspecs(hookspecs)
    for plugin in reversed(plugins):  # pluggy runs the last registered first
        name = name_of(plugin)
        if hooks.has_plugin(name):
            raise PluginError(f"plugin '{name}' is given twice; give it once")
        copy = dataclasses.replace(plugin)  # type: ignore[type-var]
        try:
            hooks.register(copy, name)
        except pluggy.PluginValidationError as error:
            raise PluginError(f"plugin '{name}': {' '.join(str(error).split())}") from error
        callers = hooks.get_hookcallers(copy) or ()
        for impl in (impl for caller in callers for impl in caller.get_hookimpls() if impl.plugin is copy):
            impl.function = _named(impl.function, name)  # type: ignore[misc]  # pluggy only reads it
        marked = {caller.name for caller in callers}
        for hook in (each for each in vars(hooks.hook) if hasattr(copy, each) and each not in marked):
            raise PluginError(f"plugin '{name}': {hook}() is not marked as a hook; put @hookimpl above it")
        if not marked:
            raise PluginError(f"plugin '{name}' takes part in no hook; those there are: zs2kit/hookspecs.py")
    try:
        hooks.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(" ".join(str(error).split())) from error
    for hook in ("guidance", "initial_latents", "channels"):
        providers = [impl.plugin_name for impl in getattr(hooks.hook, hook).get_hookimpls()]
        if len(providers) > 1:
            raise PluginError(f"only one plugin may give {hook}, not {' and '.join(sorted(providers))}")
    return hooks


def _named(hook: Callable[..., Any], plugin: str) -> Callable[..., Any]:
    """Return ``hook``, which now says whose it is if it fails."""

    @functools.wraps(hook)
    def call(*arguments: Any) -> Any:
        try:
            return hook(*arguments)
        except Exception as error:  # a third party's code may raise anything
            if isinstance(error, Zs2Error) or is_out_of_memory(error):
                raise
            from zs2kit.clip import Chunk  # not above: listing plugins needs no numpy

            if any(isinstance(each, Chunk) and each.pixels is None for each in arguments):
                raise UsageError(
                    f"plugin '{plugin}' looks at the frames of a clip, and text alone has none; "
                    "edit a clip with it"
                ) from error
            raise PluginError(
                f"plugin '{plugin}' failed in {hook.__name__}(): {type(error).__name__}: {error}"
            ) from error

    return call


def default_model(plugins: Sequence[object]) -> str | None:
    """Return the checkpoint that the plugins ask for; `PluginError` if two disagree."""
    wanted = {model: name_of(plugin) for plugin, model in _models(plugins)}
    if len(wanted) > 1:
        who = " and ".join(f"{name} wants {model}" for model, name in sorted(wanted.items()))
        raise PluginError(f"plugins disagree on the model: {who}; use one of them, or set the model")
    return next(iter(wanted), None)


def _models(plugins: Sequence[object]) -> Iterator[tuple[object, str]]:
    for plugin in plugins:
        if model := getattr(plugin, "default_model", None):
            yield plugin, model


def write_new(name: str, folder: Path) -> None:
    """Write the distribution of a new plugin called ``name`` to ``folder``, which is new or empty.

    It is complete: it installs, works, and its test passes. Raises `UsageError` for a name or a folder
    that can't be used.
    """
    cls = "".join(part.capitalize() for part in name.split("_"))
    fits = re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) and len(name) <= 64
    if not fits or keyword.iskeyword(cls) or name in RESERVED:
        raise UsageError(
            f"a plugin can't be called '{name:.70}'; take up to 64 lower-case letters, digits and _, such as "
            "soft_edges"
        )
    if name in installed() or find_spec(f"zs2kit_{name}"):
        raise UsageError(f"there is a plugin called '{name}' already; take another name")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder} is there already; take another folder with --out")
    template = files("zs2kit") / "template"
    for source in ("pyproject.toml", "README.md", "zs2kit_example.py", "tests/test_example.py"):
        text = (template / source).read_text(encoding="utf-8")
        target = folder / source.replace("example", name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text.replace("example", name).replace("Example", cls), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{target} can't be written: {error.strerror}; choose another --out") from error
