"""The nodes for ComfyUI, in a stub of its API.

The stub takes the arguments that ComfyUI 0.33.0 takes, and refuses any other. `samples/try_comfyui.py` runs
the nodes in ComfyUI itself.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import tomllib
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import zs2kit
from zs2kit import filters, io, verify
from zs2kit.bench.kills import with_sound
from zs2kit.settings import options
from zs2kit.testing import drawn_clip

FOLDER = Path(__file__).parents[1] / "samples" / "comfyui"
QUICK = {"num_inference_steps": 1}
COMMON = {"display_name", "optional", "tooltip", "lazy", "extra_dict", "raw_link", "advanced"}
WIDGET = COMMON | {"default", "socketless", "force_input"}
ARGUMENTS = {
    "BOOLEAN": WIDGET | {"label_on", "label_off"},
    "INT": WIDGET | {"min", "max", "step", "control_after_generate", "display_mode"},
    "FLOAT": WIDGET | {"min", "max", "step", "round", "display_mode", "gradient_stops"},
    "STRING": WIDGET | {"multiline", "placeholder", "dynamic_prompts"},
    "COMBO": (WIDGET - {"force_input"})
    | {"options", "control_after_generate", "upload", "image_folder", "remote"},
}
SCHEMA = {"node_id", "display_name", "category", "inputs", "outputs", "hidden", "description"}
SCHEMA |= {"is_input_list", "is_output_node", "is_deprecated", "is_experimental", "is_api_node"}
SCHEMA |= {"search_aliases", "is_dev_only", "not_idempotent", "enable_expand", "accept_all_inputs"}


class Interrupted(BaseException):
    """What ComfyUI raises in a node when somebody interrupts."""


class Video:
    """A VIDEO of a file, perhaps a part of it; if it is not ``filed``, its bytes are in memory."""

    def __init__(self, path: str, start: float = 0.0, duration: float = 0.0, *, filed: bool = True) -> None:
        assert isinstance(path, str)
        self.path, self.window, self.filed = path, (start, duration), filed

    def get_stream_source(self) -> Any:
        return self.path if self.filed else BytesIO(Path(self.path).read_bytes())

    def get_active_trim_window(self) -> tuple[float, float]:
        return self.window

    def save_to(self, path: str) -> None:
        assert self.window == (0, 0)  # ComfyUI encodes a part again, which a file in memory needs
        Path(path).write_bytes(Path(self.path).read_bytes())


class Pictures(Video):
    """A VIDEO of pictures in memory, perhaps with the sound of a file."""

    def __init__(self, images: torch.Tensor, rate: Fraction, sounding: Path | None = None) -> None:
        super().__init__(str(sounding))
        self.parts = SimpleNamespace(images=images, audio=sounding and object(), frame_rate=rate)

    def get_components(self) -> Any:
        return self.parts


def comfy_type(name: str) -> Any:
    def made(id: str, *positional: Any, **about: Any) -> Any:
        allowed = ARGUMENTS.get(name, COMMON)
        assert about.keys() <= allowed, about.keys() - allowed
        if positional:
            (about["options"],) = positional
        return SimpleNamespace(id=id, type=name, **about)

    def output(id: str | None = None, display_name: str | None = None) -> Any:
        return SimpleNamespace(type=name, display_name=display_name)

    return SimpleNamespace(Input=made, Output=output)


class Comfy(SimpleNamespace):
    """The nodes, in the stub. told: the values of progress. noticed: what a node shows below itself."""

    nodes: dict[str, Any]
    told: list[float]
    noticed: list[str]
    interrupted: bool = False

    def run(self, node: str, **inputs: Any) -> Any:
        cls = self.nodes[node]
        known = {each.id: each for each in cls.define_schema().inputs}
        usual = {name: each.default for name, each in known.items() if hasattr(each, "default")}
        assert inputs.keys() <= known.keys()
        assert {name for name, each in known.items() if not getattr(each, "optional", False)} <= {
            *usual,
            *inputs,
        }
        hidden = SimpleNamespace(**dict.fromkeys(cls.define_schema().hidden, node))
        locked = type(node, (cls,), {"hidden": hidden})
        (found,) = locked.execute(**{**usual, **inputs}).args
        return found


@pytest.fixture(scope="module")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    found = Comfy(told=[], noticed=[])

    def schema(**about: Any) -> Any:
        assert about.keys() <= SCHEMA
        ids = [each.id for each in about["inputs"]]
        assert len(set(ids)) == len(ids)  # which ComfyUI checks as well
        return SimpleNamespace(**about)

    def check() -> None:
        if found.interrupted:
            raise Interrupted

    def module(name: str, **contents: Any) -> ModuleType:
        made = ModuleType(name)
        vars(made).update(contents)
        return made

    def set_progress(value: float, max_value: float) -> None:
        assert max_value == 1
        found.told.append(value)

    kinds = {"Boolean": "BOOLEAN", "Int": "INT", "Float": "FLOAT", "String": "STRING", "Combo": "COMBO"}
    kinds |= {"Image": "IMAGE", "Video": "VIDEO"}
    api = module(
        "comfy_api.latest",
        io=SimpleNamespace(
            ComfyNode=object,
            Custom=comfy_type,
            Hidden=SimpleNamespace(unique_id="unique_id"),
            Schema=schema,
            NodeOutput=lambda *args, ui=None: SimpleNamespace(args=args, ui=ui),
            **{name: comfy_type(kind) for name, kind in kinds.items()},
        ),
        ComfyExtension=object,
        ComfyAPISync=lambda: SimpleNamespace(execution=SimpleNamespace(set_progress=set_progress)),
        InputImpl=SimpleNamespace(VideoFromFile=Video, VideoFromComponents=Pictures),
        ui=SimpleNamespace(PreviewText=lambda text: {"text": (text,)}),
    )
    folder = tmp_path_factory.mktemp("comfyui")
    temporary = folder / "temp"

    def full_path(kind: str, name: str) -> str | None:
        path = folder / "models" / kind / name.lstrip("/")
        return str(path) if path.is_file() else None

    def send_progress_text(text: str, node_id: str) -> None:
        assert node_id in found.nodes
        found.noticed.append(text)

    stubs = {
        "comfy_api": module("comfy_api", latest=api),
        "comfy_api.latest": api,
        "comfy": module("comfy"),
        "comfy.model_management": module(
            "comfy.model_management", throw_exception_if_processing_interrupted=check
        ),
        "folder_paths": module(
            "folder_paths",
            get_temp_directory=lambda: str(temporary),
            get_input_directory=lambda: str(folder / "input"),
            get_full_path=full_path,
            exists_annotated_filepath=lambda name: (folder / "input" / name).exists(),
            get_annotated_filepath=lambda name: str(folder / "input" / name),
        ),
        "server": module(
            "server",
            PromptServer=SimpleNamespace(instance=SimpleNamespace(send_progress_text=send_progress_text)),
        ),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, stub in stubs.items():
            patch.setitem(sys.modules, name, stub)
        spec = importlib.util.spec_from_file_location("zs2kit_nodes", FOLDER / "__init__.py")
        assert spec and spec.loader
        package = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "zs2kit_nodes", package)
        spec.loader.exec_module(package)
        listed = asyncio.run(asyncio.run(package.comfy_entrypoint()).get_node_list())
        found.nodes = {each.define_schema().node_id: each for each in listed}
        yield found


@pytest.fixture(scope="module")
def model(comfy: Comfy, tiny_folders: dict[str, Path]) -> Any:
    return comfy.run("Zs2kitLoadModel", name=str(tiny_folders["epsilon"]))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return io.write(tmp_path / "clip.mp4", drawn_clip(4, rate=Fraction(30000, 1001)))


def test_every_plugin_and_filter_is_a_node_made_of_its_options(comfy: Comfy) -> None:
    from zs2kit import plugins
    from zs2kit.filters import Filter

    assert len(comfy.nodes) == 6 + len(plugins.installed(plugins.Plugin)) + len(plugins.installed(Filter))
    for word, base in {"Plugin": plugins.Plugin, "Filter": Filter}.items():
        for kind in plugins.installed(base):
            names = [each.id for each in comfy.nodes[f"Zs2kit{word}_{kind}"].define_schema().inputs]
            assert names == [*(each.name for each in options(plugins.load(kind, base))), "before"]
    (chosen,) = comfy.run("Zs2kitPlugin_pose", scale=0.5)
    assert (chosen.scale, chosen.model) == (0.5, type(chosen)().model)
    both = comfy.run("Zs2kitPlugin_colour", before=[chosen])
    assert [type(each).__name__ for each in both] == ["Pose", "Colour"]


def test_an_edit_keeps_times_and_tells_how_far_it_is(comfy: Comfy, model: Any, clip: Path) -> None:
    comfy.told.clear()
    plugins = comfy.run("Zs2kitPlugin_strength", strength=1.0)
    video = comfy.run("Zs2kitEdit", video=Video(str(clip)), model=model, prompt="x", plugins=plugins, **QUICK)
    assert all(check.ok for check in verify.verify(clip, video.path))
    assert comfy.told == sorted(comfy.told) and comfy.told[-1] == 1
    told = comfy.run("Zs2kitMetrics", video=video, source=Video(str(clip)))
    assert json.loads(told)["frames"] == 4


def test_a_part_of_a_file_and_a_video_without_a_file(comfy: Comfy, clip: Path) -> None:
    smooth = comfy.run("Zs2kitFilter_smooth", factor=2)
    part = comfy.run("Zs2kitFilter", video=Video(str(clip), 1 / 29.97, 2 / 29.97), filters=smooth)
    assert len(list(io.read(part.path))) == 4
    whole = comfy.run("Zs2kitFilter", video=Video(str(clip), filed=False), filters=smooth)
    assert len(list(io.read(whole.path))) == 8


def test_pictures_in_memory_keep_their_values_and_their_sound(comfy: Comfy, tmp_path: Path) -> None:
    drawn = drawn_clip(4, rate=Fraction(30000, 1001))
    sounding = with_sound(io.write(tmp_path / "drawn.mp4", drawn))
    images = torch.from_numpy(np.stack([frame.image for frame in drawn])).float() / 255
    smooth = comfy.run("Zs2kitFilter_smooth", factor=2)
    made = comfy.run("Zs2kitFilter", video=Pictures(images, drawn.rate, sounding), filters=smooth)
    expected = io.write(tmp_path / "expected.mp4", filters.through(drawn, smooth))
    assert np.array_equal(pixels(made.path), pixels(expected))
    checks = {each.name: each.ok for each in verify.verify(sounding, made.path, filters=smooth)}
    del checks["times"]  # the file's ticks are finer than those of pictures alone
    assert "sound" in checks and all(checks.values())
    alone = comfy.run("Zs2kitFilter", video=Pictures(images, drawn.rate), filters=smooth)
    assert np.array_equal(pixels(alone.path), pixels(expected)) and not verify.examine(alone.path).sounds


def pixels(path: str | Path) -> Any:
    return np.stack([frame.image for frame in io.read(path)])


def test_files_lie_in_comfyui_s_folders(comfy: Comfy, tmp_path: Path) -> None:
    paths = sys.modules["folder_paths"]
    folder = Path(paths.get_input_directory())
    folder.mkdir(exist_ok=True)
    mask = io.write(folder / "mask.mp4", drawn_clip(2))
    assert comfy.run("Zs2kitPlugin_mask", clip="mask.mp4")[0].clip == str(mask)
    assert comfy.run("Zs2kitPlugin_mask", clip=str(tmp_path / "x.mp4"))[0].clip == str(tmp_path / "x.mp4")
    controlnet = folder.parent / "models" / "controlnet" / "pose.safetensors"
    controlnet.parent.mkdir(parents=True, exist_ok=True)
    controlnet.touch()
    assert comfy.run("Zs2kitPlugin_pose", model="pose.safetensors")[0].model == str(controlnet)
    assert comfy.run("Zs2kitPlugin_pose", model="controlnet_pose")[0].model == "controlnet_pose"


def test_notices_are_below_the_node(comfy: Comfy, model: Any, clip: Path) -> None:
    comfy.noticed.clear()
    comfy.run("Zs2kitEdit", video=Video(str(clip)), model=model, prompt="x", **QUICK)
    assert "strength is used" in comfy.noticed[-1]


def test_batches_of_images(comfy: Comfy, model: Any) -> None:
    images = torch.from_numpy(np.stack([frame.image for frame in drawn_clip(3)])).float() / 255
    quick = {"model": model, "prompt": "x", **QUICK}
    made = comfy.run("Zs2kitEditImages", images=images, plugins=[], **quick)
    assert made.shape == images.shape and made.min() >= 0 and made.max() <= 1
    same = zs2kit.edit(drawn_clip(3, rate=Fraction(25)), "x", plugins=(), model=model, **QUICK)
    assert torch.equal(made, torch.from_numpy(np.stack([each.image for each in same])).float() / 255)


def test_text_alone(comfy: Comfy, model: Any) -> None:
    made = comfy.run("Zs2kitGenerate", model=model, prompt="x", frames=3, size="32x32", **QUICK)
    clip = io.read(made.path)
    assert (clip.width, clip.height, clip.rate, len(list(clip))) == (32, 32, 12, 3)


def test_an_interruption_leaves_nothing(comfy: Comfy, model: Any, clip: Path) -> None:
    folder = Path(sys.modules["folder_paths"].get_temp_directory())
    before = sorted(folder.iterdir()) if folder.exists() else []
    comfy.interrupted = True
    try:
        with pytest.raises(Interrupted):
            comfy.run("Zs2kitEdit", video=Video(str(clip)), model=model, prompt="x", plugins=[], **QUICK)
        with pytest.raises(Interrupted):
            comfy.run("Zs2kitMetrics", video=Video(str(clip)))
    finally:
        comfy.interrupted = False
    assert [each for each in sorted(folder.iterdir()) if not each.name.startswith(".")] == before


def test_the_registry_is_told_what_it_wants() -> None:
    about = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    assert about["project"]["version"] == zs2kit.__version__
    assert {"PublisherId", "DisplayName"} <= about["tool"]["comfy"].keys()
    assert about["project"]["dependencies"] == ["zs2kit>=0.2"]
