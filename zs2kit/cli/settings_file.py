"""Settings files: TOML with a command's options, written by hand or by --save-settings; or a report."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from zs2kit.errors import ClipError, UsageError, first_line
from zs2kit.settings import options, suggestion

# Options of a single run: where its files are, and what it prints
_OF_A_RUN = {
    *("start", "end", "fps", "out", "sheet", "report", "preview", "as_json", "resume", "overwrite"),
    *("start_number", "progress", "quiet", "verbose", "trace_hooks", "settings_file", "save_settings"),
}
_SETS = "zs2kit.sets"  # the entry of a context's meta: options of plugins, {"pose.scale": "0.8"}


def load(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Make a file's settings the command's defaults. This is the callback of the option that names the file.

    Raises `UsageError` for a file that can't be read, and for an unknown option.
    """
    if path is None:
        return None
    content = _read(path)
    is_report = path.suffix.lower() == ".json"
    values, sets = (
        _of_report(path, content, context.command) if is_report else _of_toml(path, content, context)
    )
    context.default_map = {**(context.default_map or {}), **values}
    context.meta[_SETS] = sets
    return path


def with_sets(context: click.Context, plugins: Sequence[str], given: Sequence[str]) -> list[str]:
    """Return the options of plugins, PLUGIN.OPTION=VALUE: first those of the file, then those ``given``.

    Of those in the file, only options of the chosen ``plugins`` count that aren't given as well.
    """
    from zs2kit.plugins import parted

    keys = {each.partition("=")[0] for each in given}
    names = {parted(each)[1] for each in plugins}
    sets: Mapping[str, str] = context.meta.get(_SETS, {})
    of_file = [
        f"{key}={value}" for key, value in sets.items() if key not in keys and key.partition(".")[0] in names
    ]
    return [*of_file, *given]


def filters_of(path: Path) -> tuple[list[str], list[str]]:
    """Return the filters that a report names, and their options as one would type them."""
    content = _read(path)
    filters = content.get("filters", [])
    try:
        return [each["name"] for each in filters], [f"{k}={v}" for k, v in _sets_of(path, filters, "filters")]
    except (AttributeError, LookupError, TypeError) as error:
        raise UsageError(f"{path} is not a report", "give one that an edit has written") from error


def saved(context: click.Context, sets: Sequence[str]) -> str:
    """Return the options that were given as TOML; ``sets`` are those of plugins, PLUGIN.OPTION=VALUE."""
    lines = []
    names = {name: key for key, name in _keys(context.command).items()}
    for parameter in context.command.params:
        name = parameter.name or ""
        by_default = context.get_parameter_source(name) in (None, ParameterSource.DEFAULT)
        if name in _OF_A_RUN or name not in names or name == "sets" or by_default:
            continue
        if (value := context.params[name]) is not None:
            lines.append(f"{names[name]} = {_toml(_plain(name, value))}")
    tables: dict[str, list[str]] = {}
    for each in sets:
        key, _, value = each.partition("=")
        plugin, _, option = key.partition(".")
        tables.setdefault(plugin, []).append(f"{option} = {_literal(value)}")
    for plugin, rows in tables.items():
        lines += ["", f"[{plugin}]", *rows]
    return "\n".join(lines).strip() + "\n"


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ClipError(f"{path} can't be read ({error.strerror})", "check its name") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} can't be read as settings: {first_line(error)}",
            "write NAME = VALUE in each line, as TOML; or give a report, which ends in .json",
        ) from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not a report", "give a file that the option for reports has written")
    return content


def _keys(command: click.Command) -> dict[str, str]:
    """Return the names of parameters by their keys in a file, such as "steps" for --steps."""
    keys = {}
    for each in command.params:
        if isinstance(each, click.Option) and each.name:
            keys[max(each.opts, key=len).removeprefix("--")] = each.name
        elif each.name == "prompt":
            keys["prompt"] = each.name
    return {key: name for key, name in keys.items() if name != "settings_file"}


def _of_toml(
    path: Path, content: dict[str, Any], context: click.Context
) -> tuple[dict[str, Any], dict[str, str]]:
    from zs2kit import plugins
    from zs2kit.filters import Filter

    known = _keys(context.command)
    parameters = {each.name: each for each in context.command.params}
    values: dict[str, Any] = {}
    sets: dict[str, str] = {}
    bases: dict[str, type[plugins.Extension]] = {"plugins": plugins.Plugin, "filters": Filter}
    bases = {name: base for name, base in bases.items() if name in parameters}
    chosen: dict[str, list[str]] = {name: [] for name in bases}
    for key, value in content.items():
        if isinstance(value, dict):
            kinds = {
                called: (kind, name)
                for name in bases
                for kind, called in map(plugins.parted, values.get(name, []))
            }
            of = [name for name, base in bases.items() if key in plugins.installed(base)]
            if key not in kinds and len(of) > 1:
                raise UsageError(
                    f"{path}: there are a plugin and a filter called '{key}'",
                    f'say which one is meant, in a line above all tables: plugin = "{key}" or then = "{key}"',
                )
            if key not in kinds and not of:
                every = [each for base in bases.values() for each in plugins.installed(base)]
                words = " or ".join(base._word for base in bases.values())
                raise UsageError(f"{path}: there is no {words} '{key}'", suggestion(key, every))
            kind, group = kinds.get(key) or (key, of[0])
            chosen[group] += [] if key in kinds else [key]
            names = [each.name for each in options(plugins.load(kind, bases[group]))]
            for option, given in value.items():
                if option not in names:
                    raise UsageError(f"{path}: {key} has no option '{option}'", suggestion(option, names))
                sets[f"{key}.{option}"] = _text(path, option, given)
            continue
        name = known.get(key.replace("_", "-"))
        if name is None:
            raise UsageError(f"{path}: there is no option '{key}'", suggestion(key, known))
        if parameters[name].multiple:
            given = value if isinstance(value, list) else [value]
            values[name] = [
                [_text(path, key, part) for part in each]
                if isinstance(each, list)
                else _text(path, key, each)
                for each in given
            ]
        else:
            values[name] = _text(path, key, value)
    for name, further in chosen.items():
        if further:
            values[name] = [*values.get(name, []), *further]
    return values, sets


def _of_report(
    path: Path, content: dict[str, Any], command: click.Command
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what a report says as options of ``command``; those that it hasn't are left out."""
    names = {each.name for each in command.params}
    try:
        values = (_of_drawing if "plugins" in names else _of_settings)(path, content)
        values["filters"] = [each["name"] for each in content.get("filters", [])]
        sets = dict(_sets_of(path, content.get("filters", []), "filters"))
        if "plugins" in names:
            sets |= _sets_of(path, content["plugins"], "plugins")
    except (AttributeError, LookupError, TypeError) as error:
        raise UsageError(f"{path} is not a report", f"give one that {command.name} has written") from error
    if command.name == "generate" and values["plugins"] == ["none"]:
        values["plugins"] = []
    return {name: it for name, it in values.items() if name in names and it is not None}, sets


def _sets_of(path: Path, used: list[dict[str, Any]], group: str) -> Iterator[tuple[str, str]]:
    """Yield the options of a report's plugins, or filters, by their names: "pose.scale", "0.8"."""
    from zs2kit import plugins
    from zs2kit.filters import Filter

    for each in used:
        kind, called = plugins.parted(each["name"])
        base = Filter if group == "filters" else plugins.Plugin
        known = {option.name for option in options(plugins.load(kind, base))}
        for name, value in each["options"].items():
            if name in known:  # beside them are fingerprints of files
                yield f"{called}.{name}", "none" if value is None else _text(path, name, value)


def _of_drawing(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return what the report on an edit or a generated clip says as options, but for those of filters."""
    prompts, model = content["settings"]["prompt"], content["model"]
    prompts = dict(prompts) if isinstance(prompts, dict) else {"0": prompts}
    return _of_settings(path, content) | {
        "prompt": prompts.pop("0"),
        "prompts": [[frame, text] for frame, text in prompts.items()],
        "model": model["name"],
        "config": model["config"],
        "loras": [f"{name}:{weight!r}" for name, weight in model["loras"].items()],
        "embeddings": list(model["embeddings"]),
        "vae": model.get("vae"),
        "tiny_vae": model.get("tiny_vae"),
        "plugins": [each["name"] for each in content["plugins"]] or ["none"],
    }


def _of_settings(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return what a report says of how a clip was read and where it was made, as options."""
    settings = dict(content["settings"])
    settings.pop("prompt", None)
    settings |= {name: content["model"][name] for name in ("device", "dtype") if "model" in content}
    values = {"fps": settings.pop("rate", None)}
    if size := settings.pop("size", None):
        values["size"] = f"{size[1]}x{size[0]}"
    cuts = settings.pop("cuts")
    values["cuts"] = cuts if isinstance(cuts, str) else ",".join(map(str, cuts)) or "none"
    return values | {name: _text(path, name, value) for name, value in settings.items() if value is not None}


def _text(path: Path, key: str, value: Any) -> str:
    """Return a value as it would be typed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise UsageError(f"{path}: {key} can't be {value!r}", "give text, a number, true or false")


def _plain(name: str, value: Any) -> Any:
    """Return the value of an option as it would stand in a file."""
    if name == "size":
        return f"{value[1]}x{value[0]}"
    if name == "cuts" and not isinstance(value, str):
        return ",".join(map(str, value)) or "none"
    if name == "loras":
        return [f"{each}:{weight!r}" for each, weight in value]
    return value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Fraction):
        value = str(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _literal(text: str) -> str:
    """Return text that was typed as a number or a boolean of TOML if it is one, else as text."""
    is_plain = re.fullmatch(r"true|false|-?(0|[1-9]\d*)(\.\d+)?", text)
    return text if is_plain else _toml(text)
