"""A mistake in a plugin is one line that names the plugin, the hook, what it returned and what is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import zs2kit
from zs2kit import Model, Plugin, hookimpl, hookspecs, plugins
from zs2kit.errors import PluginError, UsageError
from zs2kit.networks.base import Branch, DenoiserInputs
from zs2kit.testing import drawn_clip, tiny_models

HOOKS = [name for name, each in vars(hookspecs).items() if hasattr(each, "zs2kit_spec")]
FRAMES = 2
PIXELS = f"{FRAMES}x3x32x32"
LATENTS = f"{FRAMES}x4x8x8"


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {kind: Model.load(tiny_models()[kind]) for kind in ("epsilon", "instruct")}


def mistaken(hook: str, result: Callable[[Any], Any]) -> Plugin:
    """A plugin called 'mistaken' whose ``hook`` returns ``result`` of what it is given."""
    methods = {
        "prepare": lambda self, chunk: result(chunk),
        "keep": lambda self, chunk: result(chunk),
        "estimate": lambda self, estimate: result(estimate),
        "decoded": lambda self, pixels: result(pixels),
        "channels": lambda self, latents: result(latents),
        "initial_latents": lambda self, noise: result(noise),
        "denoiser_inputs": lambda self, latents: result(latents),
        "guidance": lambda self, model: result(model.embed("a cat", "", 32, 32)[0]),
    }
    return dataclass(eq=False)(type("Mistaken", (Plugin,), {hook: hookimpl(methods[hook])}))()


def draw(plugin: Plugin, model: Model) -> list[zs2kit.Frame]:
    """Edit two frames with a plugin."""
    settings = {"num_inference_steps": 2, "flow_momentum": 0.0, "cuts": (), "chunk_size": FRAMES}
    return list(zs2kit.edit(drawn_clip(FRAMES), "a cat", model=model, plugins=[plugin], **settings))


def branch(embeds: Any, name: str = "text", weight: Any = 1.0) -> Branch:
    return Branch(name, weight, embeds)


KEEP = f"return a NumPy array of float32 {FRAMES}x32x32 (frames, height, width) in [0, 1]"
START = (
    f"return a tuple of a tensor of float32 {LATENTS} on cpu, as `noise` is, and a step, an int from 0 to 2"
)
MISTAKES: list[tuple[str, Callable[[Any], Any], str, str]] = [
    ("prepare", lambda _: torch.ones(2), "a tensor of float32 2", "return a dict of tensors by their names"),
    ("prepare", lambda _: {"mistaken.a": 3}, "a dict with 3 as 'mistaken.a'", "a dict of tensors by their"),
    ("keep", lambda _: np.ones((FRAMES, 32, 32)), f"a NumPy array of float64 {FRAMES}x32x32", KEEP),
    ("keep", lambda _: np.ones((FRAMES, 32, 32), bool), f"a NumPy array of bool {FRAMES}x32x32", KEEP),
    ("keep", lambda _: np.ones((32, 32), np.float32), "a NumPy array of float32 32x32", KEEP),
    ("keep", lambda _: torch.ones(FRAMES, 32, 32), f"a tensor of float32 {FRAMES}x32x32", KEEP),
    ("keep", lambda _: np.full((FRAMES, 32, 32), 255, np.float32), "numbers from 255 to 255", KEEP),
    ("keep", lambda _: np.full((FRAMES, 32, 32), np.nan, np.float32), "numbers from nan to nan", KEEP),
    ("keep", lambda _: [True], "a list (True)", KEEP),
    ("estimate", lambda given: given[:1], "a tensor of float32 1x4x8x8", f"a tensor of floats {LATENTS}"),
    (
        "estimate",
        lambda given: given.numpy(),
        f"a NumPy array of float32 {LATENTS}",
        "the difference to `estimate`",
    ),
    ("estimate", lambda _: 0.5, "0.5", f"return a tensor of floats {LATENTS}"),
    ("decoded", lambda given: given.byte(), f"a tensor of uint8 {PIXELS}", f"a tensor of floats {PIXELS}"),
    (
        "decoded",
        lambda given: given.mean(1, keepdim=True),
        f"float32 {FRAMES}x1x32x32",
        "difference to `pixels`",
    ),
    ("channels", lambda given: given[:, :, :4], f"float32 {FRAMES}x4x4x8", f"floats {FRAMES}xchannelsx8x8"),
    (
        "channels",
        lambda given: [given],
        f"a list (a tensor of float32 {LATENTS})",
        "return a tensor of floats",
    ),
    ("initial_latents", lambda noise: noise, f"a tensor of float32 {LATENTS}", START),
    ("initial_latents", lambda noise: (noise, 0.5), f"a tuple (a tensor of float32 {LATENTS}, 0.5)", START),
    ("initial_latents", lambda noise: (noise, 3), f"a tuple (a tensor of float32 {LATENTS}, 3)", START),
    (
        "initial_latents",
        lambda noise: (noise.half(), 0),
        f"a tuple (a tensor of float16 {LATENTS}, 0)",
        START,
    ),
    ("initial_latents", lambda noise: (noise.to("meta"), 0), "latents on meta", START),
    ("guidance", lambda each: branch(*each), "what is of the type Branch", "return a list of Branch"),
    ("guidance", lambda each: [], "an empty list", "return a list of Branch"),
    ("guidance", lambda each: [branch(each[0], weight=2)], "branches whose weights sum to 2", "sum to 1"),
    (
        "guidance",
        lambda each: [branch(each[0], weight="1")],
        "the weights a list (what is of the type str)",
        "number",
    ),
    (
        "guidance",
        lambda each: [branch(each[0][0])],
        "a Branch called 'text' with a tensor of float32",
        "(1 or 2)x",
    ),
    ("guidance", lambda each: [branch(each[0], weight=0.5)] * 2, "called text, text", "a name of its own"),
    ("denoiser_inputs", lambda _: {"down": ()}, "what is of the type dict", "return DenoiserInputs, or None"),
    (
        "denoiser_inputs",
        lambda _: DenoiserInputs(down=[None]),
        "DenoiserInputs with a list",
        "return tensors",
    ),
    ("denoiser_inputs", lambda given: DenoiserInputs(mid=given[:1]), "1x4x8x8 as mid", "floats 2xchannelsx"),
    (
        "denoiser_inputs",
        lambda _: DenoiserInputs(conditions=[]),
        "an empty list as conditions",
        "a dict there",
    ),
]


@pytest.mark.parametrize("hook, result, returned, wanted", MISTAKES)
def test_what_a_hook_cannot_use_is_one_line(hook, result, returned, wanted, models):
    model = models["instruct" if hook == "channels" else "epsilon"]
    with pytest.raises(PluginError) as error:
        draw(mistaken(hook, result), model)
    says = str(error.value)
    print(says)
    assert says.startswith("plugin 'mistaken' returned ") and f" from {hook}(); return " in says
    assert returned in says and wanted in says and says.endswith(", or None for nothing")
    assert "\n" not in says


@pytest.mark.parametrize(
    "hook, result",
    [
        ("keep", lambda chunk: np.full((FRAMES, 32, 32), 0.5, np.float32)),
        ("estimate", lambda given: given.double()),
        ("decoded", lambda given: given.half()),
        ("channels", lambda given: given.half()),
        ("initial_latents", lambda noise: (noise, np.int64(1))),
        ("guidance", lambda each: [branch(each[0], "a", 1.5), branch(each[0], "b", -0.5)]),
        ("denoiser_inputs", lambda given: DenoiserInputs()),
        *((hook, lambda _: None) for hook in ("keep", "estimate", "decoded", "initial_latents", "guidance")),
    ],
)
def test_what_it_can_use_is_none(hook, result, models):
    assert (
        len(draw(mistaken(hook, result), models["instruct" if hook == "channels" else "epsilon"])) == FRAMES
    )


def test_text_alone_has_nothing_to_keep(models):
    plugin = mistaken("keep", lambda chunk: np.ones((1, 32, 32), np.float32))
    with pytest.raises(UsageError, match="plugin 'mistaken' keeps a part of the source"):
        list(
            zs2kit.generate(
                "a cat", frames=1, model=models["epsilon"], plugins=[plugin], num_inference_steps=1
            )
        )


# Mistakes that show before any work


@dataclass(eq=False)
class Keeps(Plugin):
    @hookimpl
    def keeps(self, chunk):
        pass


@dataclass(eq=False)
class Colours(Plugin):
    @hookimpl
    def tint(self):
        pass


@dataclass(eq=False)
class Chunks(Plugin):
    @hookimpl
    def keep(self, chunks, model):
        pass


@dataclass(eq=False)
class Idle(Plugin):
    pass


@pytest.mark.parametrize(
    "plugin, says",
    [
        (
            Keeps(),
            "plugin 'keeps': unknown hook 'keeps'; did you mean keep? the hooks are " + ", ".join(HOOKS),
        ),
        (Colours(), "plugin 'colours': unknown hook 'tint'; the hooks are " + ", ".join(HOOKS)),
        (
            Chunks(),
            "plugin 'chunks': keep() asks for 'chunks', which that hook isn't given; did you mean chunk? "
            "it is given chunk",
        ),
        (Idle(), "plugin 'idle' has no hooks; the hooks are " + ", ".join(HOOKS)),
    ],
)
def test_a_hook_that_is_none_or_is_not_given_that(plugin, says):
    with pytest.raises(PluginError) as error:
        plugins.manager([plugin])
    assert str(error.value) == says


@dataclass(eq=False)
class Free(Plugin):
    """Takes what it likes of a hook's arguments, in any order, and some that the hook doesn't have."""

    @hookimpl
    def denoiser_inputs(self, latents, step, branch=None, other=3):
        assert latents.shape == (FRAMES, 4, 8, 8) and step.index < step.count
        assert branch.name in ("text", "negative") and other == 3


def test_arguments_are_given_by_name(models):
    assert len(draw(Free(), models["epsilon"])) == FRAMES
