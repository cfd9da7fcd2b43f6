"""The nodes: each only calls zs2kit. Those of plugins and filters get their inputs from the options."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import folder_paths
import numpy as np
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import ComfyAPISync, ComfyExtension, InputImpl, io, ui
from server import PromptServer

import zs2kit
from zs2kit import filters, metrics, plugins, settings
from zs2kit.clip import Anew, Frame
from zs2kit.errors import receiving
from zs2kit.filters import through
from zs2kit.settings import Option, exact_rate, options, parsed

log = logging.getLogger(__name__)

CATEGORY = "zs2kit"
MODEL, PLUGINS, FILTERS = (io.Custom(f"ZS2KIT_{name}") for name in ("MODEL", "PLUGINS", "FILTERS"))
# Settings that a node has as inputs of another kind, or that another node decides
ELSEWHERE = ("prompt", "size", "cuts")


class Node(io.ComfyNode):
    """A node that shows notices below itself, and writes them to ComfyUI's log."""

    @classmethod
    def execute(cls, **inputs: Any) -> Any:
        said: list[str] = []

        def told(notice: zs2kit.Notice) -> None:
            said.append(str(notice))
            log.warning("zs2kit: %s", notice)
            PromptServer.instance.send_progress_text("\n".join(said), cls.hidden.unique_id)

        with receiving(told):
            return cls.work(**inputs)

    @classmethod
    def work(cls, **inputs: Any) -> Any:
        """Do what the node is for; return an ``io.NodeOutput``."""
        raise NotImplementedError  # each node has its own


def schema(node_id: str, name: str, category: str = CATEGORY, **about: Any) -> Any:
    """Describe a node."""
    hidden = [io.Hidden.unique_id]
    return io.Schema(
        node_id=f"Zs2kit{node_id}", display_name=f"zs2kit{name}", category=category, hidden=hidden, **about
    )


def input_of(option: Option) -> Any:
    """Make the input for an option. If the option may be none, its input is empty by default."""
    default = f" Default: {option.shown}." if option.shown else ""
    about: dict[str, Any] = {"tooltip": option.help + default, "optional": True}
    if option.type is bool and not option.optional:
        return io.Boolean.Input(option.name, default=option.default, **about)
    if option.choices or option.type is bool:
        choices = [*option.choices] or ["true", "false"]
        usual = "" if option.default is None else option.default
        return io.Combo.Input(option.name, [""] * option.optional + choices, default=usual, **about)
    if option.type in (int, float) and not option.optional:
        about["min"] = -(2**31) if option.minimum is None else option.minimum
        about["max"] = 2**31 if option.maximum is None else option.maximum
        if option.type is int:
            return io.Int.Input(option.name, default=option.default, **about)
        return io.Float.Input(option.name, default=option.default, step=0.01, round=0.001, **about)
    return io.String.Input(
        option.name, default="" if option.default is None else str(option.default), **about
    )


def texts(values: Mapping[str, Any]) -> dict[str, str]:
    """What was entered, as texts that options parse; what was left empty is left out."""
    words = {True: "true", False: "false"}
    return {
        name: words[value] if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value not in ("", None)
    }


def settings_inputs() -> list[Any]:
    """The inputs for all settings."""
    return [input_of(each) for each in options(zs2kit.Settings) if each.name not in ELSEWHERE]


def file_of(name: str, folder: str) -> str:
    """The path of a file in one of ComfyUI's folders for models; the name itself if there is no such file."""
    return folder_paths.get_full_path(folder, name) or name


def files_of(values: Mapping[str, str], declared: list[Option]) -> dict[str, str]:
    """The values of options; a name that is a file's in ComfyUI's folders becomes its path."""
    kinds = {each.name: each.kind for each in declared}
    found = dict(values)
    for name, value in values.items():
        if kinds[name] is settings.MODEL:
            found[name] = file_of(value, "controlnet")
        elif kinds[name] is settings.FILE and folder_paths.exists_annotated_filepath(value):
            found[name] = folder_paths.get_annotated_filepath(value)
    return found


def clip_of(video: Any) -> zs2kit.Clip:
    """A VIDEO as a clip, with its times and its sound. Pictures in memory keep their values."""
    if isinstance(video, InputImpl.VideoFromComponents):
        parts = video.get_components()
        clip = zs2kit.Clip.from_images(pictures(parts.images), exact_rate(parts.frame_rate))
        if parts.audio is None:
            return clip
        return clip.with_frames(clip.frames, source=saved(video), pix_fmt="yuv420p")  # for the file's sound
    start, duration = video.get_active_trim_window()
    source = video.get_stream_source()
    path = source if isinstance(source, str) else saved(video)
    return zs2kit.read(path, start=start or None, end=start + duration if duration else None)


def saved(video: Any) -> Path:
    """A file with a VIDEO that has none of its own, or only a part of it."""
    path = temporary(".mp4")
    video.save_to(str(path))
    return path


def pictures(images: torch.Tensor) -> torch.Tensor:
    """An IMAGE without what is no colour of a picture: transparency, values out of range."""
    return images[..., :3].clamp(0, 1)


def temporary(suffix: str) -> Path:
    """A new name in ComfyUI's folder for temporary files."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"zs2kit-{uuid4().hex}{suffix}"


def report() -> Callable[[zs2kit.Progress], None]:
    """Return what tells ComfyUI how far an edit is, and ends it when somebody interrupts it."""
    api = ComfyAPISync()

    def told(progress: zs2kit.Progress) -> None:
        throw_exception_if_processing_interrupted()
        api.execution.set_progress(value=progress.fraction, max_value=1.0)

    return told


def video_of(made: zs2kit.Clip, progress: Callable[[zs2kit.Progress], None] | None = None) -> Any:
    """Write a clip, and return it as a VIDEO. progress: called after each frame."""
    path = zs2kit.write(temporary(".mp4"), made, progress=progress)
    return InputImpl.VideoFromFile(str(path))


def images_of(made: zs2kit.Clip) -> torch.Tensor:
    """Draw a clip, and return it as an IMAGE: (frames, height, width, 3), from 0 to 1."""
    return torch.from_numpy(np.stack([frame.image for frame in made])).float() / 255


def watched(clip: zs2kit.Clip) -> zs2kit.Clip:
    """A clip: while it is read, ComfyUI is told how far that is, and can interrupt it."""

    def frames() -> Iterator[Frame]:
        told = report()
        for number, frame in enumerate(clip, 1):
            told(zs2kit.Progress(number, "reading", clip.frame_count))
            yield frame

    return clip.with_frames(Anew(frames))


class LoadModel(Node):
    """Loads a checkpoint, once."""

    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "LoadModel",
            ": load a model",
            description="A checkpoint for the other nodes of zs2kit.",
            inputs=[
                io.String.Input(
                    "name",
                    default="puppets",
                    tooltip="A diffusers folder, a .safetensors file (a name alone: in ComfyUI's folder for "
                    "checkpoints) or a hub name; puppets is bundled.",
                ),
                io.String.Input(
                    "lora",
                    default="",
                    optional=True,
                    tooltip="A LoRA: a .safetensors file (a name alone: in ComfyUI's folder for LoRAs), or a "
                    "hub name.",
                ),
                io.Float.Input(
                    "lora_weight", default=1.0, min=-10, max=10, step=0.01, round=0.001, optional=True
                ),
                io.Combo.Input("dtype", ["", "float32", "float16", "bfloat16"], default="", optional=True),
            ],
            outputs=[MODEL.Output(display_name="model")],
        )

    @classmethod
    def work(cls, name: str, lora: str = "", lora_weight: float = 1.0, dtype: str = "") -> Any:
        lora = file_of(lora, "loras") if lora else lora
        return io.NodeOutput(loaded(file_of(name, "checkpoints"), lora, lora_weight, dtype))


LOADED: dict[tuple[str, str, float, str], zs2kit.Model] = {}  # the latest model, by what it was loaded with


def loaded(name: str, lora: str, weight: float, dtype: str) -> zs2kit.Model:
    """A model; the latest one stays in memory."""
    which = (name, lora, weight, dtype)
    if which not in LOADED:
        LOADED.clear()  # before the next one takes its memory
        LOADED[which] = zs2kit.Model.load(name, loras={lora: weight} if lora else None, dtype=dtype or None)
    return LOADED[which]


def extension_node(kind: str, base: type, chain: Any, word: str) -> type:
    """Make the node of a plugin or a filter from its options. It can be chained with others of its kind."""
    cls = plugins.load(kind, base)

    def define_schema(node: type) -> Any:
        return schema(
            f"{word.title()}_{kind}",
            f" {word}: {kind}",
            f"{CATEGORY}/{word}s",
            description=(cls.__doc__ or "").split("\n\n")[0],
            inputs=[*map(input_of, options(cls)), chain.Input("before", optional=True)],
            outputs=[chain.Output(display_name=f"{word}s")],
        )

    def work(node: type, before: list[Any] | None = None, **values: Any) -> Any:
        built = plugins.build(kind, files_of(texts(values), options(cls)), None, base)
        return io.NodeOutput([*(before or []), built])

    methods = {"define_schema": classmethod(define_schema), "work": classmethod(work)}
    return type(f"{word.title()}_{kind}", (Node,), methods)


def drawing_inputs() -> list[Any]:
    """The inputs of all nodes that draw."""
    return [
        MODEL.Input("model"),
        io.String.Input("prompt", multiline=True, default="", tooltip="What the result should show."),
        PLUGINS.Input("plugins", optional=True),
        FILTERS.Input("filters", optional=True),
        *settings_inputs(),
    ]


class Edit(Node):
    """Edits a video."""

    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "Edit",
            ": edit a video",
            description="Redraws every frame, and keeps the video's motion, times, size and sound.",
            inputs=[io.Video.Input("video"), *drawing_inputs()],
            outputs=[io.Video.Output(display_name="video")],
        )

    @classmethod
    def work(
        cls,
        video: Any,
        model: zs2kit.Model,
        prompt: str,
        plugins: list[Any] | None = None,
        filters: list[Any] | None = None,
        **values: Any,
    ) -> Any:
        how = {
            "plugins": plugins,
            "model": model,
            "progress": report(),
            **parsed(zs2kit.Settings, texts(values)),
        }
        edited = zs2kit.edit(clip_of(video), prompt or None, **how)
        return io.NodeOutput(video_of(through(edited, filters or ())))


class EditImages(Node):
    """Edits a batch of images, the frames of a clip."""

    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "EditImages",
            ": edit images",
            description="Edits the frames of a clip as a batch of images, all of them in memory at once.",
            inputs=[
                io.Image.Input("images"),
                io.Float.Input("fps", default=25.0, min=0.01, max=1000.0, step=0.01, round=0.001),
                *drawing_inputs(),
            ],
            outputs=[io.Image.Output(display_name="images")],
        )

    @classmethod
    def work(
        cls,
        images: torch.Tensor,
        fps: float,
        model: zs2kit.Model,
        prompt: str,
        plugins: list[Any] | None = None,
        filters: list[Any] | None = None,
        **values: Any,
    ) -> Any:
        clip = zs2kit.Clip.from_images(pictures(images), exact_rate(fps))
        how = {
            "plugins": plugins,
            "model": model,
            "progress": report(),
            **parsed(zs2kit.Settings, texts(values)),
        }
        return io.NodeOutput(images_of(through(zs2kit.edit(clip, prompt or None, **how), filters or ())))


class Generate(Node):
    """Makes a video from text alone."""

    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "Generate",
            ": generate a video",
            description="Makes a video from a prompt alone.",
            inputs=[
                io.Int.Input("frames", default=48, min=1, max=100_000),
                io.Float.Input("fps", default=12.0, min=0.01, max=1000.0, step=0.01, round=0.001),
                io.String.Input(
                    "size", default="", optional=True, tooltip="WIDTHxHEIGHT. Default: the model's."
                ),
                *drawing_inputs(),
            ],
            outputs=[io.Video.Output(display_name="video")],
        )

    @classmethod
    def work(
        cls,
        frames: int,
        fps: float,
        model: zs2kit.Model,
        prompt: str,
        plugins: list[Any] | None = None,
        filters: list[Any] | None = None,
        **values: Any,
    ) -> Any:
        how = {
            "plugins": plugins or (),
            "model": model,
            "progress": report(),
            **parsed(zs2kit.Settings, texts(values)),
        }
        made = zs2kit.generate(prompt or None, frames=frames, rate=exact_rate(fps), **how)
        return io.NodeOutput(video_of(through(made, filters or ())))


class Filter(Node):
    """Takes a video through filters."""

    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "Filter",
            ": filter a video",
            description="Takes a video through filters, without an edit.",
            inputs=[io.Video.Input("video"), FILTERS.Input("filters")],
            outputs=[io.Video.Output(display_name="video")],
        )

    @classmethod
    def work(cls, video: Any, filters: list[Any]) -> Any:
        return io.NodeOutput(video_of(through(clip_of(video), filters), report()))


class Metrics(Node):
    """Measures a video."""

    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "Metrics",
            ": measure a video",
            description="How steady a result is, and how close to its source, as JSON; see docs/metrics.md.",
            inputs=[io.Video.Input("video"), io.Video.Input("source", optional=True)],
            outputs=[io.String.Output(display_name="metrics")],
            is_output_node=True,
        )

    @classmethod
    def work(cls, video: Any, source: Any = None) -> Any:
        found = metrics.measure(watched(clip_of(video)), None if source is None else clip_of(source))
        text = json.dumps(found, indent=2)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


class Extension(ComfyExtension):
    """All nodes, with one for each plugin and filter that is installed."""

    async def get_node_list(self) -> list[type]:
        """Return the nodes."""
        plugin = partial(extension_node, base=plugins.Plugin, chain=PLUGINS, word="plugin")
        filter_ = partial(extension_node, base=filters.Filter, chain=FILTERS, word="filter")
        return [
            *(LoadModel, Edit, EditImages, Generate, Filter, Metrics),
            *map(plugin, plugins.installed(plugins.Plugin)),
            *map(filter_, plugins.installed(filters.Filter)),
        ]


async def comfy_entrypoint() -> Extension:
    """Return what ComfyUI asks for."""
    return Extension()
