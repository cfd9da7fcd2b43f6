"""The page: its fields, its buttons, and what they call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from zs2kit.clip import Clip
from zs2kit.errors import UsageError, Zs2Error
from zs2kit.filters import Filter
from zs2kit.io import CODECS, Output
from zs2kit.plugins import Plugin
from zs2kit.settings import OF_A_SOURCE, Option, Settings, options
from zs2kit.web.fields import Chooser, Fields, Given, Values, upload
from zs2kit.web.jobs import Jobs, Wanted, Work, opened, told
from zs2kit.web.views import WELCOME, error_line, job_list, view, worded

PRIVATE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
DAILY = (3600, 86400)  # seconds: every hour, uploads that are older than a day are deleted
TICK = 1.0  # seconds between two looks at the jobs
FIRST_CHOICE = ("pose",)
EDIT_PROMPT = "a blue knight on the beach"
JOB_LIST = "showJobs(element, () => props.value, watch, trigger);"  # see page.js


def looks(largest: int) -> dict[str, Any]:
    """Return the page's theme, style and script; fonts are those of the visitor's system.

    largest: how many bytes an upload may have.
    """
    here = files("zs2kit.web")
    font = ["system-ui", "-apple-system", "Segoe UI", "Liberation Sans", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="stone",
        font=font,
        font_mono=["ui-monospace", "Liberation Mono", "monospace"],
        text_size="md",
        radius_size="md",
    ).set(  # darker than by default, so that everybody can read it
        body_text_color_subdued="*neutral_500",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        color_accent="*primary_600",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
    )
    return {
        "theme": theme,
        "css": (here / "page.css").read_text(),
        "head": f"<script>const LARGEST = {largest};\n{(here / 'page.js').read_text()}</script>",
    }


def html(value: str = "", **about: Any) -> gr.HTML:
    """Return a piece of the page that is made of HTML; an empty one takes no room."""
    return gr.HTML(value, apply_default_css=False, **{"js_on_load": None, "elem_classes": "z-slot", **about})


class ClipField:
    """The field for the clip, and the two sliders that choose which part of it is used."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = upload(label="Clip", file_types=["video", "image"], height=130)
        self.error = html("")
        with gr.Column(visible=False, elem_classes="trim") as self.trim:
            self.facts = html("")
            self.shown: list[gr.Image] = []
            self.sliders: list[gr.Slider] = []
            with gr.Row(elem_classes="ends"):
                for label in ("First frame", "Last frame"):
                    with gr.Column(min_width=120):
                        still: dict[str, Any] = {"show_label": False, "interactive": False, "buttons": []}
                        self.shown.append(gr.Image(label=label, height=150, format="png", **still))
                        slider = gr.Slider(0, 1, 0, step=1, label=label, interactive=True, buttons=[])
                        self.sliders.append(slider)
        everything = [self.file, self.error, self.trim, self.facts, *self.sliders, *self.shown]
        self.file.upload(self._look, self.file, everything, **PRIVATE)
        self.file.clear(lambda: ("", gr.update(visible=False)), None, [self.error, self.trim], **PRIVATE)
        for slider, image in zip(self.sliders, self.shown, strict=True):
            slider.input(  # not `change`: `_look` sets a new clip's sliders, and shows their frames itself
                self._frame, [self.file, slider], image, trigger_mode="always_last", queue=False, **PRIVATE
            )

    @property
    def components(self) -> set[Component]:
        """All of its fields."""
        return {self.file, *self.sliders}

    def wanted(self, values: Values) -> dict[str, Any]:
        """Return the fields of `Wanted` that say which clip is used, and which part of it."""
        path = values[self.file]
        if path is None:
            return {}
        first, last = (int(values[each]) for each in self.sliders)
        count = opened(path).frame_count
        return {"clip": path, "first": first, "last": None if count is None or last >= count - 1 else last}

    def _look(self, path: str) -> list[Any]:
        """Show what an uploaded clip is, or why it can't be used."""
        try:
            clip = opened(path)
            count = clip.frame_count or 1
            ends = [clip.frame(0).image, clip.frame(count - 1).image]
        except Exception as error:
            why = error_line(worded(told(error), self.root))
            return [None, why, gr.update(visible=False), *[gr.skip()] * 5]
        several: dict[str, Any] = {"maximum": max(1, count - 1), "interactive": count > 1}
        sliders = [gr.update(value=at, **several) for at in (0, count - 1)]
        return [gr.skip(), "", gr.update(visible=True), _facts(clip), *sliders, *ends]

    def _frame(self, path: str | None, number: float) -> Any:
        """Show a frame of the clip."""
        if path is None:
            return gr.skip()
        try:
            return opened(path).frame(int(number)).image
        except Zs2Error:
            return gr.skip()


def _facts(clip: Clip) -> str:
    count = clip.frame_count
    size = f"{clip.width}x{clip.height}"
    if count == 1:
        return f'<p class="z-fact">1 frame, {size}</p>'
    lasts = "" if count is None else f"{count} frames, {float(count / clip.rate):.2f} s, "
    return f'<p class="z-fact">{lasts}{float(clip.rate):.5g} frames per second, {size}</p>'


class Form:
    """The fields for one kind of work, and the buttons that start it."""

    def __init__(self, page: Page, work: Work) -> None:
        self.page = page
        self.work = work
        drawn = work != "filter"
        self.clip = ClipField(page.root) if work != "generate" else None
        self.prompt = self.later = None
        if drawn:
            info = "What the result should show."
            if not page.jobs.models.names:
                info += " The bundled model draws only puppets; name others when you start the page."
            self.prompt = gr.Textbox(label="Prompt", info=info, placeholder=EDIT_PROMPT, lines=2)
            with gr.Accordion("Further prompts along the clip", open=False):
                self.later = gr.Textbox(
                    label="Further prompts",
                    info="One in each line, after the number of the frame at which it starts. Until then, "
                    "the prompt before gradually turns into it.",
                    placeholder="24: a blue knight in the snow",
                    lines=3,
                )
        self.model = self.plugins = None
        self.loras: dict[str, gr.Slider] = {}
        self.length: list[Component] = []
        if work == "generate":
            with gr.Row():
                self.length = [
                    gr.Number(48, label="Frames", precision=0, minimum=1),
                    gr.Number(12, label="Frames per second", minimum=0.001),
                ]
        if drawn and len(page.jobs.models.names) > 1:
            names = page.jobs.models.names
            self.model = gr.Dropdown([(_short(each), each) for each in names], value=names[0], label="Model")
        if drawn and page.jobs.models.loras:
            with gr.Accordion("LoRAs", open=False):
                for name in page.jobs.models.loras:
                    info = "How much it counts; 0 means not at all."
                    self.loras[name] = gr.Slider(
                        0, 2, 0, step=0.05, label=_short(name), info=info, interactive=True, buttons=[]
                    )
        with gr.Row(elem_classes="go"):
            starts = {"edit": "Edit", "generate": "Make the clip", "filter": "Filter"}
            self.buttons: dict[Work, gr.Button] = {}
            if work == "edit":
                self.buttons["preview"] = gr.Button("Preview")
            self.buttons[work] = gr.Button(starts[work], variant="primary")
        self.error = html("")
        if work == "edit":
            html("<h3>What to keep of the clip</h3>")
            self.plugins = Chooser(Plugin, page.given, FIRST_CHOICE)
        if work == "filter":
            html("<h3>Filters, in this order</h3>")
            self.filters = Chooser(Filter, page.given)
        with gr.Accordion("More settings", open=False):
            self.settings = Fields(_settings(work))
            self.output = Fields(_output(work))
        if drawn:
            with gr.Accordion("Filters afterwards, in this order", open=False):
                self.filters = Chooser(Filter, page.given)

    def connect(self) -> None:
        """Connect its buttons, once the whole page is there."""
        page = self.page
        for work, button in self.buttons.items():
            outputs = [self.error, page.selected, page.list, page.view]
            button.click(partial(self._start, work), set[Block](self.components), outputs, **PRIVATE)
        if self.clip:  # it may be what was missing
            self.clip.file.upload(lambda: "", None, self.error, **PRIVATE)

    @property
    def components(self) -> set[Component]:
        """All of its fields."""
        parts = [self.clip, self.plugins, self.filters]
        found = {each for part in parts if part for each in part.components}
        for fields in (self.settings, self.output):
            found |= set(fields.fields.values())
        found |= {*self.length, *self.loras.values()}
        return found | {each for each in (self.prompt, self.later, self.model) if each}

    def _start(self, work: Work, values: Values) -> list[Any]:
        """Start what is wanted and show it, or show why that can't be done."""
        try:
            job = self.page.jobs.add(self._wanted(work, values))
        except Exception as error:
            return [error_line(worded(told(error), self.page.root)), *[gr.skip()] * 3]
        return ["", job.number, *self.page.shown(job.number)]

    def _wanted(self, work: Work, values: Values) -> Wanted:
        wanted = Wanted(
            work=work,
            **(self.clip.wanted(values) if self.clip else {}),
            prompt=(values[self.prompt] or "").strip() if self.prompt else "",
            later=_later(values[self.later] or "") if self.later else (),
            loras={name: float(values[each]) for name, each in self.loras.items() if values[each]},
            model=values[self.model] if self.model else self.page.only_model,
            plugins=self.plugins.chosen(values) if self.plugins else {},
            filters=self.filters.chosen(values),
            settings=self.settings.texts(values),
            output=self.output.texts(values),
        )
        if self.length:
            frames, rate = (values[each] for each in self.length)
            wanted = replace(wanted, frames=int(frames or 0), rate=float(rate or 0))
        return wanted


def _later(text: str) -> list[tuple[int, str]]:
    """The further prompts in a text, one in each line."""
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        number, colon, prompt = line.partition(":")
        if not (colon and number.strip().isdecimal() and prompt.strip()):
            raise UsageError(f"“{line}” is not a further prompt", "write FRAME: PROMPT, like 24: in the snow")
        found.append((int(number), prompt.strip()))
    return found


def _short(name: str) -> str:
    return Path(name).name or name


def _settings(work: Work) -> list[Option]:
    """The options of `Settings` that have no field of their own and make sense for this work."""
    found = [each for each in options(Settings) if each.name not in ("prompt", "chunk_size")]
    if work == "filter":
        return [each for each in found if each.name == "cuts"]
    return [each for each in found if work != "generate" or each.name not in OF_A_SOURCE]


def _output(work: Work) -> list[Option]:
    """The options of `Output` that make sense for a file that is downloaded."""
    names = ["codec", "quality", "even_size", *(["sound"] if work != "generate" else [])]
    films = tuple(name for name, codec in CODECS.items() if "%" not in codec.suffixes[0])
    help = "How the result is stored: h264, for players; ffv1, lossless; prores, for video editors."
    found = {each.name: each for each in options(Output)}
    found["codec"] = replace(found["codec"], choices=films, default="h264", shown=None, help=help)
    return [found[name] for name in names]


class Page:
    """The whole page: forms on the left; jobs and their results on the right."""

    def __init__(self, jobs: Jobs, root: Path, given: Given) -> None:
        self.jobs = jobs
        self.root = root
        self.given = given
        names = jobs.models.names
        self.only_model = names[0] if len(names) == 1 else None
        with gr.Blocks(
            title="zs2kit", analytics_enabled=False, fill_width=True, delete_cache=DAILY
        ) as self.blocks:
            self.selected = gr.State(None)  # the number of the job that is shown
            html('<header class="z-head"><h1>zs2kit</h1><p>Edit video with image models</p></header>')
            forms: list[Form] = []
            with gr.Row(elem_classes="z-columns"):
                with gr.Column(scale=5, min_width=340, elem_classes="z-inputs"), gr.Tabs():
                    for work, title in TITLES.items():
                        with gr.Tab(title):
                            forms.append(Form(self, work))
                with gr.Column(scale=6, min_width=340, elem_classes="z-results"):
                    self.view = html(WELCOME, elem_classes="z-right")
                    self.list = html(
                        html_template='<ol class="z-jobs"></ol>', js_on_load=JOB_LIST, elem_classes="z-list"
                    )
            for form in forms:
                form.connect()
            outputs = [self.list, self.view]
            self.list.click(self._clicked, self.selected, [self.selected, *outputs], **PRIVATE)
            timer = gr.Timer(TICK)
            # Everything is sent each time: the answer to a click can come after that to a later tick, so only
            # the browser knows what it shows. It changes what differs, and leaves the buttons alone.
            timer.tick(self.shown, self.selected, outputs, queue=False, **PRIVATE)
            self.blocks.load(self._opened, None, [self.selected, *outputs], **PRIVATE)
        self.blocks.queue(default_concurrency_limit=4, api_open=False)

    def shown(self, number: int | None) -> list[Any]:
        """Return the list of jobs, and the view of the job with this number."""
        job = self.jobs.find(number)
        rows = job_list(self.jobs, job, self.root)
        return [{"rows": rows, "room": self.jobs.room()}, view(job, self.root)]

    def _opened(self) -> list[Any]:
        """Show the latest job when the page is opened."""
        latest = next(iter(self.jobs), None)
        number = latest.number if latest else None
        return [number, *self.shown(number)]

    def _clicked(self, number: int | None, click: gr.EventData) -> list[Any]:
        """Show, stop, resume or remove the job whose button was clicked."""
        job = self.jobs.find(click.job if isinstance(click.job, int) else None)
        does: dict[str, Callable[[Any], None]] = {
            "stop": self.jobs.stop,
            "resume": self.jobs.resume,
            "remove": self.jobs.remove,
        }
        if job and click.what in does:
            does[click.what](job)
        elif job:
            number = job.number
        return [number, *self.shown(number)]


TITLES: dict[Work, str] = {"edit": "Edit a clip", "generate": "Clip from text", "filter": "Filter a clip"}
