"""Every plugin that comes along keeps the laws, alone and together with those that it makes sense with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
from test_reference import save_adapter

import zs2kit
from zs2kit import Model, Plugin, hookimpl, plugins
from zs2kit.errors import PluginError
from zs2kit.testing import FRAMES, check_plugin, drawn_clip, tiny_models

pytestmark = pytest.mark.slow

# How each is made, with what lies in a folder of materials, and the options with which it does nothing.
PLUGINS: dict[str, tuple[Callable[[Path], dict], Callable[[Path], dict] | None]] = {
    "colour": (lambda at: {"patch": 25.0}, lambda at: {"scale": 0.0}),
    "control": (
        lambda at: {"model": "controlnet_edges", "maps": str(at / "maps.mkv")},
        lambda at: {"scale": 0.0},
    ),
    "depth": (lambda at: {"scale": 0.8}, lambda at: {"scale": 0.0}),
    "edges": (lambda at: {"low": 20.0, "high": 40.0}, lambda at: {"scale": 0.0}),
    "flowedit": (lambda at: {"prompt": "a knight"}, None),
    "instruct": (lambda at: {}, None),  # its models can't do without it
    "invert": (lambda at: {}, None),
    "mask": (
        lambda at: {"clip": str(at / "left.png"), "grow": 0.0},
        lambda at: {"clip": str(at / "white.png")},
    ),
    "pose": (lambda at: {}, lambda at: {"scale": 0.0}),
    "reference": (
        lambda at: {"image": str(at / "picture.png"), "adapter": str(at / "ip-adapter.safetensors")},
        lambda at: {"scale": 0.0},
    ),
    "strength": (lambda at: {"strength": 0.75}, None),
}
TOGETHER = [
    ("pose", "instruct"),
    ("depth", "edges"),
    ("depth", "invert"),
    ("edges", "strength"),
    ("pose", "reference"),
    ("instruct", "mask"),
    ("pose", "mask"),
    ("mask", "strength"),
    ("mask", "flowedit"),
    ("pose", "colour"),
    ("mask", "colour"),
]


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps, masks, a picture and an adapter."""
    at = tmp_path_factory.mktemp("materials")
    white = np.full((32, 32, 3), 255, np.uint8)
    left = white.copy()
    left[:, 16:] = 0
    for name, image in {"white": white, "left": left, "picture": next(iter(drawn_clip())).image}.items():
        cv2.imwrite(str(at / f"{name}.png"), image[..., ::-1])
    zs2kit.write(at / "maps.mkv", drawn_clip(FRAMES))
    save_adapter(at, Model.load(tiny_models()["epsilon"]).unet)
    return at


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {kind: Model.load(tiny_models()[kind]) for kind in ("epsilon", "instruct")}


@pytest.mark.parametrize("names", [*((name,) for name in PLUGINS), *TOGETHER], ids="+".join)
def test_the_laws_hold(names: tuple[str, ...], materials: Path, models: dict[str, Model]):
    chosen = [plugins.load(name)(**PLUGINS[name][0](materials)) for name in names]
    neutral = PLUGINS[names[0]][1] if len(names) == 1 else None
    model = models["instruct" if "instruct" in names else "epsilon"]
    check_plugin(*chosen, model=model, neutral=neutral and neutral(materials))


@pytest.mark.parametrize(
    "names",
    [("pose", "mask"), ("depth", "invert"), ("pose", "colour"), ("edges", "reference")],
    ids="+".join,
)
def test_the_laws_hold_along_the_motion(names: tuple[str, ...], materials: Path, models: dict[str, Model]):
    """And of a reference without a picture."""
    chosen = [plugins.load(name)(**PLUGINS[name][0](materials)) for name in names]
    if names[-1] == "reference":
        chosen[-1].image = None
    check_plugin(*chosen, model=models["epsilon"], flow_momentum=0.95)


def test_every_plugin_of_ours_is_here():
    assert {*PLUGINS} == {
        name for name, entry in plugins.installed().items() if entry.value.startswith("zs2kit_plugins.")
    }


# Conflicts, said before any work: no model is loaded, no frame is read.


@dataclass(eq=False)
class OtherModel(Plugin):
    """Wants another model than instruct."""

    default_model: ClassVar[str] = "elsewhere/other"

    @hookimpl
    def prepare(self):
        pass


@dataclass(eq=False)
class OtherChannels(Plugin):
    @hookimpl
    def channels(self):
        pass


@dataclass(eq=False)
class OtherGuidance(Plugin):
    @hookimpl
    def guidance(self):
        pass


TWICE = OtherChannels()  # one object


@pytest.mark.parametrize(
    "chosen, says",
    [
        (["invert", "strength"], "only one plugin may provide initial_latents, not invert and strength"),
        (["instruct", OtherGuidance()], "may provide guidance, not instruct and otherguidance"),
        (["instruct", OtherChannels()], "may provide channels, not instruct and otherchannels"),
        (["instruct", OtherModel()], "othermodel wants elsewhere/other and instruct wants puppets-instruct"),
        (["instruct", "instruct"], "may provide guidance, not instruct and instruct2"),
        ([TWICE, TWICE], "plugin 'otherchannels' is given twice"),
    ],
)
def test_conflicts_are_said_before_any_work(chosen: list, says: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Model, "load", None)
    built = [plugins.build(each, {}) if isinstance(each, str) else each for each in chosen]
    with pytest.raises(PluginError, match=says):
        zs2kit.edit(drawn_clip(1), plugins=built)
