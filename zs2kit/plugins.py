"""Plugins, and what filters share with them.

What is installed, how a plugin or filter is built from strings, and how the files of a new one are written.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import keyword
import logging
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, TypeVar, overload

import pluggy

from zs2kit import hookspecs, returns
from zs2kit.errors import PluginError, UsageError, Zs2Error, first_line, is_out_of_memory
from zs2kit.files import fingerprint
from zs2kit.settings import check as check_options
from zs2kit.settings import nearest, options, parsed, suggestion

trace = logging.getLogger("zs2kit.hooks")  # one line for every call of a hook, at level DEBUG

RESERVED = ("new", "none")  # words of the command line, which can't be names
BY_DEFAULT = ("strength", "instruct")  # one of them is added to an edit that wouldn't follow its clip


class Extension:
    """The base of plugins and filters: dataclasses whose fields are options, named by entry points."""

    _group: ClassVar[str]  # their entry-point group
    _word: ClassVar[str]  # what one is called in messages
    # Its name if several of one kind are used; None means the name of its kind
    _called: str | None = None


class Plugin(Extension):
    """The base of all plugins, which are dataclasses: their fields are options, their methods hooks.

    The attributes below tell zs2kit what it needs to know about a plugin besides its hooks. To change one, a
    plugin sets an attribute of the same name, without an annotation, or defines a property.
    """

    # Whether the result moves as the source does: True if it does, False if it has a motion of its own, None
    # if that doesn't depend on this plugin. Flow momentum is on if some plugin says True and none says False.
    follows_source: ClassVar[bool | None] = True
    # Whether the first frame of each shot should be drawn in advance, for `Chunk.first`
    wants_first: ClassVar[bool] = False
    # The checkpoint to use if the user names none, as `zs2kit.Model.load` takes it
    default_model: ClassVar[str | None] = None
    _group, _word = "zs2kit", "plugin"


E = TypeVar("E", bound=Extension)


def installed(base: type[Extension] = Plugin) -> dict[str, EntryPoint]:
    """Return the entry points of the installed plugins by name, in alphabetical order; none is imported.

    base: `zs2kit.Filter` for filters.
    """
    found = entry_points(group=base._group)
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}


def summary(entry: EntryPoint) -> str:
    """Return the first line of a plugin's docstring, read from its source without importing it.

    Empty if the source can't be read.
    """
    package, *inside = entry.module.split(".")
    try:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            return ""
        file = Path(spec.origin).parent.joinpath(*inside).with_suffix(".py") if inside else Path(spec.origin)
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (ImportError, OSError, SyntaxError, ValueError):
        return ""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == entry.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


@overload
def load(name: str) -> type[Plugin]: ...
@overload
def load(name: str, base: type[E]) -> type[E]: ...
def load(name: str, base: type[Extension] = Plugin) -> type[Extension]:
    """Import the plugin class called ``name``, or the filter class if ``base`` is `zs2kit.Filter`.

    Raises `UsageError` if there is none, `PluginError` if it can't be imported or two have that name.
    """
    word, known = base._word, installed(base)
    if name not in known:
        raise UsageError(f"no {word} is called '{name}'", suggestion(name, known))
    if len(claims := {entry.value for entry in entry_points(group=base._group, name=name)}) > 1:
        raise PluginError(
            f"two {word}s are called '{name}': {' and '.join(sorted(claims))}", "uninstall one of them"
        )
    try:
        cls = known[name].load()
    except (Exception, SystemExit) as error:  # a third party's module may raise anything
        raise PluginError(f"{word} '{name}' can't be imported: {_named_error(error)}") from error
    if not (isinstance(cls, type) and issubclass(cls, base) and dataclasses.is_dataclass(cls)):
        raise PluginError(
            f"{word} '{name}' ({known[name].value}) is not a dataclass derived from zs2kit.{base.__name__}",
            f"put @dataclass(eq=False) above the class, and derive it from {base.__name__}",
        )
    return cls


def fault(name: str, base: type[Extension] = Plugin) -> str | None:
    """Import the plugin ``name``; return what is wrong with its class, options or hooks, or None."""
    try:
        built = load(name, base)()
        check(built, base)
        if isinstance(built, Plugin):
            manager([built])
    except Zs2Error as error:
        return str(error)
    except Exception as error:
        return f"{base._word} '{name}' can't be created: {_named_error(error)}"
    return None


def _named_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def kind_of(it: Extension) -> str:
    """Return the name of a plugin's or filter's entry point, or else that of its class in lower case."""
    cls = type(it)
    value = f"{cls.__module__}:{cls.__qualname__}"
    return next(
        (entry.name for entry in entry_points(group=it._group) if entry.value == value), cls.__name__.lower()
    )


def parted(text: str) -> tuple[str, str]:
    """Split KIND or KIND:NAME, as a plugin or filter is written, into its kind and its name."""
    kind, _, name = text.partition(":")
    return kind, name or kind


def name_of(it: Extension) -> str:
    """Return what messages call a plugin or filter: its own name, or else that of its kind."""
    return it._called or kind_of(it)


def described(it: Extension) -> dict[str, Any]:
    """Return the options of a plugin or filter, with a fingerprint of each file they name."""
    values = {each.name: getattr(it, each.name) for each in options(type(it))}
    files = {
        name: value for name, value in values.items() if isinstance(value, str) and Path(value).is_file()
    }
    return values | {f"{name}'s file": fingerprint([Path(value)]) for name, value in files.items()}


@overload
def build(name: str, settings: Mapping[str, str], called: str | None = None) -> Plugin: ...
@overload
def build(name: str, settings: Mapping[str, str], called: str | None, base: type[E]) -> E: ...
def build(
    name: str,
    settings: Mapping[str, str],
    called: str | None = None,
    base: type[Extension] = Plugin,
) -> Extension:
    """Return the plugin called ``name`` with its options set from strings.

    called: its own name, if several of its kind are used. base: `zs2kit.Filter` for a filter.

    Raises `UsageError` for an unknown plugin or option, and for a value that is not allowed.
    """
    cls = load(name, base)
    shown = called or name
    built = cls(**parsed(cls, settings, f"{base._word} '{shown}'", f"{shown}."))
    built._called = called
    check(built, base)
    return built


def check(it: object, base: type[Extension] = Plugin) -> None:
    """Raise an error if ``it`` can't be used as a plugin, or as a filter if ``base`` is `zs2kit.Filter`.

    That is a `UsageError` if it isn't one, or if an option has a value that is not allowed, and a
    `PluginError` if one of its attributes looks like a misspelt attribute of the base.
    """
    if not isinstance(it, base) or not dataclasses.is_dataclass(it):
        such = "Pose" if base is Plugin else "Smooth"
        raise UsageError(
            f"{it!r} is not a {base._word}", f"give an instance of a {base._word} class, such as {such}()"
        )
    name, cls = name_of(it), type(it)
    declared = [each for each in vars(base) if not each.startswith("_")]
    ours = {*declared, *vars(hookspecs), *(each.name for each in dataclasses.fields(cls))}
    for attribute in {each for cls in cls.__mro__[:-1] for each in vars(cls)} - ours:
        if not attribute.startswith("_") and (meant := nearest(attribute, declared)):
            raise PluginError(f"{base._word} '{name}' has a {attribute}, which zs2kit doesn't know", meant)
    check_options(it, f"{name}.")


def named(plugins: Sequence[Plugin]) -> list[tuple[str, Plugin]]:
    """Return the plugins of an edit with their names, numbered where two would have the same.

    If two plugins are called control, the second becomes control2. Raises `PluginError` if the same object is
    given twice.
    """
    names: dict[str, Plugin] = {}
    for plugin in plugins:
        name = name_of(plugin)
        if any(plugin is each for each in names.values()):
            raise PluginError(f"plugin '{name}' is given twice", "give it once")
        names[numbered(name, names)] = plugin
    return list(names.items())


def numbered(name: str, taken: Collection[str]) -> str:
    """Return ``name``, with a number from 2 up if it is among those that are ``taken``."""
    names = (name if number == 1 else f"{name}{number}" for number in count(1))
    return next(each for each in names if each not in taken)


def manager(plugins: Sequence[Plugin]) -> pluggy.PluginManager:
    """Return a pluggy manager over fresh copies of ``plugins``, for one edit.

    The copies keep an edit's state out of the caller's objects; `named` names them. Raises `PluginError` for
    a method that is marked as a hook but isn't one, for a hook that asks for arguments it isn't given, and
    for two plugins that both provide what only one may provide.
    """
    hooks = pluggy.PluginManager("zs2kit")
    hooks.add_hookspecs(hookspecs)
    callers = vars(hooks.hook)
    known = {name: callers[name].spec.argnames for name in vars(hookspecs) if name in callers}  # in order
    for name, plugin in reversed(named(plugins)):  # pluggy runs the last registered first
        copy: Plugin = dataclasses.replace(plugin)  # type: ignore[type-var]
        copy._called = name
        marked = _marked(hooks, copy)
        _check_marked(name, marked, known)
        try:
            hooks.register(copy, name)
        except pluggy.PluginValidationError as error:
            raise PluginError(f"plugin '{name}': {' '.join(str(error).split())}") from error
        for caller in (each for each in hooks.get_hookcallers(copy) or () if each.name in known):
            for impl in (impl for impl in caller.get_hookimpls() if impl.plugin is copy):
                _watch(impl, name, caller.name, known[caller.name])
        for hook in (each for each in known if hasattr(copy, each) and each not in marked):
            raise PluginError(f"plugin '{name}': {hook}() is not marked as a hook", "put @hookimpl above it")
        if not marked:
            raise PluginError(f"plugin '{name}' has no hooks", f"the hooks are {', '.join(known)}")
    for hook in ("guidance", "initial_latents", "channels"):
        providers = [impl.plugin_name for impl in getattr(hooks.hook, hook).get_hookimpls()]
        if len(providers) > 1:
            raise PluginError(f"only one plugin may provide {hook}, not {' and '.join(sorted(providers))}")
    return hooks


def _marked(hooks: pluggy.PluginManager, plugin: Plugin) -> dict[str, Callable[..., Any]]:
    """Return the plugin's methods that are marked as hooks, by the names of the hooks."""
    marked = {name: hooks.parse_hookimpl_opts(plugin, name) for name in dir(plugin)}
    return {
        how["specname"] or name: getattr(plugin, name)
        for name, how in marked.items()
        if how and not how["optionalhook"]
    }


def _check_marked(
    plugin: str, marked: Mapping[str, Callable[..., Any]], known: Mapping[str, Sequence[str]]
) -> None:
    """Raise `PluginError` if there is no such hook, or if a method asks for what the hook isn't given."""
    for hook, method in marked.items():
        if hook not in known:
            meant = nearest(hook, known), f"the hooks are {', '.join(known)}"
            raise PluginError(f"plugin '{plugin}': unknown hook '{hook}'", " ".join(filter(None, meant)))
        for each in inspect.signature(method).parameters.values():
            needed = each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
            if needed and each.name not in known[hook]:
                meant = nearest(each.name, known[hook]), f"it is given {', '.join(known[hook])}"
                raise PluginError(
                    f"plugin '{plugin}': {hook}() asks for '{each.name}', which that hook isn't given",
                    " ".join(filter(None, meant)),
                )


def _watch(impl: pluggy.HookImpl, plugin: str, hook: str, known: Sequence[str]) -> None:
    """Route calls of ``impl`` through `_named`, with all arguments of its ``hook``."""
    wanted = impl.argnames, impl.kwargnames
    checked = not (impl.wrapper or impl.hookwrapper)  # wrappers return generators
    # pluggy only reads these
    impl.function = _named(impl.function, plugin, hook, known, *wanted, checked=checked)  # type: ignore[misc]
    impl.argnames, impl.kwargnames = tuple(known), ()  # type: ignore[misc]


def _named(
    function: Callable[..., Any],
    plugin: str,
    hook: str,
    known: Sequence[str],
    wanted: Sequence[str],
    optional: Sequence[str],
    *,
    checked: bool,
) -> Callable[..., Any]:
    """Return a function that takes all ``known`` arguments of a hook and calls the plugin's ``function``.

    It passes on the ``wanted`` and ``optional`` ones. If the plugin's function fails, or returns something
    that the hook can't use, the error names the plugin and the hook. Each call is logged in the log of hooks.
    """

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        given = dict(zip(known, arguments, strict=True))
        asked = [given[each] for each in wanted]
        began = _now()
        try:
            result = function(*asked, **{each: given[each] for each in optional if each in given})
        except Exception as error:  # a third party's code may raise anything
            if isinstance(error, Zs2Error) or is_out_of_memory(error):
                raise
            from zs2kit.clip import Chunk  # here, since listing plugins needs no numpy

            if any(isinstance(each, Chunk) and each.frames is None for each in asked):
                raise UsageError(
                    f"plugin '{plugin}' looks at the source's frames, but a clip made from text alone has "
                    "none",
                    "use it to edit a clip",
                ) from error
            raise PluginError(f"plugin '{plugin}' failed in {hook}(): {_named_error(error)}") from error
        if checked:
            returns.check(plugin, hook, result, given)
        if trace.isEnabledFor(logging.DEBUG):
            seconds = _now() - began
            told = ", ".join(map(_in_short, asked))
            trace.debug("%s.%s(%s) -> %s, %.1f ms", plugin, hook, told, _in_short(result), 1000 * seconds)
        return result

    return call


def _now() -> float:
    """Return the time, for the log of hooks; if that is on, wait for the GPU first."""
    torch = sys.modules.get("torch")
    if trace.isEnabledFor(logging.DEBUG) and torch and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return perf_counter()


def _in_short(value: Any) -> str:
    """Return a hook's argument or result in a few words, for the log of hooks."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):  # torch's tensors and NumPy's arrays
        device = getattr(value, "device", "cpu")
        shape = "x".join(map(str, value.shape))
        return f"{str(value.dtype).removeprefix('torch.')} {shape} on {device}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_in_short, value))}]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Of Branch, Step, Chunk and DenoiserInputs
        told = ("name", "index", "down", "mid", "conditions", "network", "inputs")
        inside = [getattr(value, each, None) for each in told]
        shown = [_in_short(each) for each in inside if each is not None and each not in ({}, ())]
        return f"{type(value).__name__}({', '.join(shown)})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_in_short(each)}' for key, each in value.items())}}}"
    return repr(value) if isinstance(value, str | int | float | None) else type(value).__name__


def default_model(plugins: Sequence[Plugin]) -> str | None:
    """Return the checkpoint that the plugins ask for; raise `PluginError` if two of them disagree."""
    wanted = {each.default_model: name_of(each) for each in plugins if each.default_model}
    if len(wanted) > 1:
        who = " and ".join(f"{name} wants {model}" for model, name in sorted(wanted.items()))
        raise PluginError(f"plugins disagree on the model: {who}", "use only one of them, or give `model`")
    return next(iter(wanted), None)


def write_new(name: str, folder: Path, base: type[Extension] = Plugin) -> None:
    """Write a package with a new plugin called ``name`` to ``folder``, which must be new or empty.

    The package is complete: it can be installed, the plugin works, and its test passes. base: `zs2kit.Filter`
    for a new filter. Raises `UsageError` for a name or a folder that can't be used.
    """
    cls = "".join(part.capitalize() for part in name.split("_"))
    fits = re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) and len(name) <= 64
    if not fits or keyword.iskeyword(cls) or name in RESERVED:
        raise UsageError(
            f"a {base._word} can't be called '{name:.70}'",
            "use up to 64 lower-case letters, digits and _, such as soft_edges",
        )
    if name in installed(base) or find_spec(f"zs2kit_{name}"):
        raise UsageError(f"there is already a {base._word} called '{name}'", "choose another name")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder} already exists", "choose another folder: `out=FOLDER`")
    template = files("zs2kit") / "template" / base._word
    for source in ("pyproject.toml", "README.md", "zs2kit_example.py", "tests/test_example.py"):
        text = (template / source).read_text(encoding="utf-8")
        target = folder / source.replace("example", name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text.replace("example", name).replace("Example", cls), encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"{target} can't be written: {error.strerror}", "choose another folder: `out=FOLDER`"
            ) from error
