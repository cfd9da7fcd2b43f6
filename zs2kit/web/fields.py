"""Fields: what you fill in on the page, one for each option that a dataclass declares."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from zs2kit import plugins
from zs2kit.errors import PluginError, UsageError, notify
from zs2kit.filters import Filter
from zs2kit.settings import FILE, MODEL, Option, options, suggestion

Values = Mapping[Component, Any]  # what the page's fields hold
DEFAULT = "default"
Given = Mapping[str, Sequence[str]]  # the models that were named when the page was started, by NAME.OPTION


def check(given: Given) -> None:
    """Raise `UsageError` unless each key is an option, of a plugin or filter, that names a model."""
    for key in given:
        name, _, chosen = key.partition(".")
        base = Filter if name in plugins.installed(Filter) else plugins.Plugin
        declared = {each.name: each for each in options(plugins.load(name, base))}
        if chosen not in declared:
            raise UsageError(f"'{name}' has no option '{chosen}'", suggestion(chosen, declared))
        if declared[chosen].kind is not MODEL:
            raise UsageError(f"{key} doesn't name a model", "leave it out, and set it on the page")


def upload(**about: Any) -> gr.File:
    """Return a field for uploading a file; it takes no address, since Gradio would fetch it."""
    field = gr.File(**about)
    move = field.async_move_resource_to_block_cache

    async def move_file(path: str | Path | None) -> str | None:
        if re.match(r"\w+://", str(path or "")):
            raise gr.Error("only files can be uploaded, not addresses")
        return await move(path)

    field.async_move_resource_to_block_cache = move_file  # type: ignore[method-assign,assignment]
    return field


class Fields:
    """The fields for options, in the order in which these are declared, in the current block of Gradio's.

    prefix: what comes before an option's name in messages and in ``given``.
    """

    def __init__(self, declared: Sequence[Option], prefix: str = "", given: Given | None = None) -> None:
        self.prefix = prefix
        self.declared = {each.name: each for each in declared}
        self.fields = {
            each.name: _field(each, prefix, (given or {}).get(prefix + each.name, ())) for each in declared
        }

    def texts(self, values: Values) -> dict[str, str]:
        """Return the options that are set, as text; raise `UsageError` for a text that could be a path."""
        found = {}
        for name, field in self.fields.items():
            value = values[field]
            if value in (None, "") or (value == DEFAULT and isinstance(field, gr.Dropdown)):
                continue
            declared = self.declared[name]
            # A plugin may do anything with a text, such as open a file. So it must not be a path.
            if self.prefix and declared.type is str and declared.kind is None and re.search(r"[/\\]", value):
                raise UsageError(
                    f"`{self.prefix}{name}` can't have a slash on this page",
                    "files are uploaded, and models are named when the page is started",
                )
            found[name] = str(value)
        return found


def _field(option: Option, prefix: str, given: Sequence[str]) -> Component:
    label = (option.flag or option.name).replace("_", " ").capitalize()
    about: dict[str, Any] = {"label": label, "info": option.help}
    usual = option.shown or option.default
    hint = "" if usual in (None, "") else f"default: {usual}"
    if option.kind is FILE:
        return upload(label=f"{label}: {option.help}", height=110)
    if option.kind is MODEL:
        if not given:
            about["info"] += (
                f" Name some to choose from with {prefix}{option.name}=… when you start the page."
            )
        return gr.Dropdown([DEFAULT, *given], value=DEFAULT, interactive=bool(given), **about)
    if option.type is bool:
        return gr.Checkbox(value=bool(option.default), **about)
    if option.choices:
        choices = [*([DEFAULT] if option.default is None else []), *option.choices]
        about["info"] += f" ({hint})" if option.default is None and hint else ""
        return gr.Dropdown(choices, value=option.default or DEFAULT, interactive=True, **about)
    if option.type in (int, float):
        low, high = option.minimum, option.maximum
        if low is not None and high is not None and option.default is not None:
            step = 1 if option.type is int else 0.01
            return gr.Slider(low, high, option.default, step=step, buttons=[], **about)
    # For numbers too, since Gradio's own field for them takes an empty one as 0.
    return gr.Textbox("" if option.default is None else str(option.default), placeholder=hint, **about)


class Chooser:
    """A list of all installed plugins or filters, each with its options, which appear once it is chosen."""

    def __init__(self, base: type[plugins.Extension], given: Given, chosen: Collection[str] = ()) -> None:
        self.boxes: dict[str, gr.Checkbox] = {}
        self.fields: dict[str, Fields] = {}
        with gr.Column(elem_classes="choices"):
            self._list(base, given, chosen)

    def _list(self, base: type[plugins.Extension], given: Given, chosen: Collection[str]) -> None:
        for name in plugins.installed(base):
            try:
                cls = plugins.load(name, base)
                declared = options(cls)
            except PluginError as error:
                notify("broken-plugin", f"{name} is not on the page: {error}")
                continue
            about = re.split(r"(?<=\.)\s", " ".join((cls.__doc__ or "").split()))[0]
            box = gr.Checkbox(name in chosen, label=name, info=about, elem_classes="choice")
            with gr.Accordion(
                f"Options of {name}",
                open=False,
                visible=name in chosen and bool(declared),
                elem_classes="options",
            ) as folded:
                self.fields[name] = Fields(declared, f"{name}.", given)
            self.boxes[name] = box
            if declared:
                how: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
                box.change(_shown, box, folded, queue=False, **how)

    @property
    def components(self) -> set[Component]:
        """All of its fields."""
        return {*self.boxes.values(), *(each for it in self.fields.values() for each in it.fields.values())}

    def chosen(self, values: Values) -> dict[str, dict[str, str]]:
        """Return the chosen ones by name, with their options as text."""
        return {name: self.fields[name].texts(values) for name, box in self.boxes.items() if values[box]}


def _shown(on: bool) -> Any:
    return gr.update(visible=on)
