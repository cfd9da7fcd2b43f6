"""Families whose denoiser is a transformer: parity with their pipelines, the laws, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

import zs2kit
from zs2kit import Model, Plugin, cli, hookimpl
from zs2kit.attention import TemporalMomentum, attached, self_attention
from zs2kit.carry import Carry
from zs2kit.errors import ModelError, PluginError, UsageError
from zs2kit.networks.base import Branch, DenoiserInputs, per_frame
from zs2kit.networks.families import FAMILIES
from zs2kit.noise import MAX_DIVERGENCE, dependency_noise
from zs2kit.schedule import steps_of
from zs2kit.testing import SAME, check_plugin, chunks, drawn_clip, edited_pixels, make_scan, tiny_models
from zs2kit_plugins.colour import Colour
from zs2kit_plugins.instruct import Instruct
from zs2kit_plugins.invert import Invert
from zs2kit_plugins.reference import Reference
from zs2kit_plugins.strength import Strength

FRAMES = 3
SIZE = (64, 80)
STEPS = 3
PROMPT = "a red robot"
# Families that draw from text alone -> what their pipelines are called with for a guidance scale of 3
DRAWN: dict[str, dict[str, Any]] = {
    "z-image": {"guidance_scale": 3.0, "negative_prompt": "blue"},
    "flux-dev": {"guidance_scale": 3.0},
    "flux-schnell": {},
    "flux-kontext": {"guidance_scale": 3.0, "max_area": SIZE[0] * SIZE[1]},
    "flux2-dev": {"guidance_scale": 3.0},
    "flux2-klein": {},
    "flux2-klein-base": {"guidance_scale": 3.0},
    "sd3": {"guidance_scale": 3.0, "negative_prompt": "blue"},
    "sd3.5": {"guidance_scale": 3.0, "negative_prompt": "blue"},
    "qwen-image": {"true_cfg_scale": 3.0, "negative_prompt": "blue"},
}


@cache
def load(kind: str) -> Model:
    return Model.load(tiny_models()[kind])


def cut(model: Model, sizes=(FRAMES,)) -> list:
    return chunks(drawn_clip(sum(sizes), width=SIZE[1], height=SIZE[0]), sizes, model, SIZE)


def pixels(model: Model, plugins=(), sizes=(FRAMES,), *, carried=True, **settings) -> torch.Tensor:
    how = {"num_inference_steps": STEPS, "size": SIZE} | settings
    return edited_pixels(make_scan(model, plugins, **how), cut(model, sizes), carried=carried)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def noise(model: Model) -> torch.Tensor:
    return dependency_noise(model.latent_shape(*SIZE), range(FRAMES), MAX_DIVERGENCE, 0)


def by_the_pipeline(model: Model, images: Sequence[Any] = (None,) * FRAMES, **how: Any) -> torch.Tensor:
    """The same frames, one by one, by the checkpoint's own pipeline; ``images``: what it edits."""
    pipeline, network = model.pipeline, model.network
    pipeline.set_progress_bar_config(disable=True)
    made = []
    for each, image in zip(noise(model), images, strict=True):
        latents = each[None]
        shown = {} if image is None else {"image": image}
        if type(pipeline).__name__.startswith(("FluxPipeline", "FluxKontext", "QwenImage")):
            latents = network._pack(latents)
        made.append(
            pipeline(
                prompt=PROMPT,
                height=SIZE[0],
                width=SIZE[1],
                num_inference_steps=STEPS,
                latents=latents,
                output_type="pt",
                **shown,
                **how,
            ).images
        )
    return torch.cat(made)


@pytest.mark.parametrize("kind", DRAWN)
def test_parity_with_the_pipeline(kind):
    model, how = load(kind), DRAWN[kind]
    ours = {"momentum": 0, "divergence": MAX_DIVERGENCE, "negative_prompt": how.get("negative_prompt", "")}
    if how:
        ours["guidance_scale"] = 3.0
    theirs = by_the_pipeline(model, **how)
    found = difference(pixels(model, **ours), theirs)
    print(f"{kind}: largest difference {found:.1e}")
    assert found <= 1e-5
    assert difference(pixels(model, **{**ours, "momentum": 0.9}), theirs) > 1e-3


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("kind", [kind for kind, how in DRAWN.items() if how])
def test_parity_with_the_pipeline_at_little_guidance(kind, scale):
    """Most pipelines take 1 or less for no guidance, some 0 alone, and some show the model the number."""
    model, how = load(kind), dict(DRAWN[kind])
    guides = kind == "z-image" and scale > 0
    negative = {"negative_prompt": "blue"} if guides else {}
    how |= {name: scale for name in how if name.endswith("_scale")}
    how.pop("negative_prompt", None)
    theirs = by_the_pipeline(model, **how, **negative)
    ours = pixels(model, momentum=0, divergence=MAX_DIVERGENCE, guidance_scale=scale, **negative)
    assert difference(ours, theirs) <= 1e-5
    assert difference(pixels(model, momentum=0, divergence=MAX_DIVERGENCE, guidance_scale=3), theirs) > 1e-3


# Editing: the source as further tokens, of each frame its own

# Families that edit -> what their pipelines are called with for a guidance scale of 3
EDITED: dict[str, dict[str, Any]] = {
    "flux-kontext": {"guidance_scale": 3.0, "max_area": SIZE[0] * SIZE[1], "_auto_resize": False},
    "flux2-dev": {"guidance_scale": 3.0},
    "flux2-klein": {},
    "flux2-klein-base": {"guidance_scale": 3.0},
    "qwen-image-edit": {"true_cfg_scale": 3.0, "negative_prompt": "blue"},
    "qwen-image-edit-plus": {"true_cfg_scale": 3.0, "negative_prompt": "blue"},
}


@pytest.fixture
def small_sources(monkeypatch):
    """Qwen's editing pipelines enlarge every source to a million pixels; here, to this test's size."""
    from diffusers.modular_pipelines.qwenimage import encoders
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus

    def small(area: int, ratio: float) -> tuple[int, int, None]:
        return SIZE[1], SIZE[0], None

    monkeypatch.setattr(encoders, "calculate_dimensions", small)
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", small)
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "calculate_dimensions", lambda *args: small(*args)[:2])


@pytest.mark.parametrize("kind", EDITED)
def test_parity_with_the_pipeline_that_edits(kind, small_sources):
    model, how = load(kind), EDITED[kind]
    ours = {"momentum": 0, "divergence": MAX_DIVERGENCE, "negative_prompt": how.get("negative_prompt", "")}
    if how:
        ours["guidance_scale"] = 3.0
    (chunk,) = cut(model)
    images = [Image.fromarray(each) for each in chunk.images]
    theirs = by_the_pipeline(model, images, **how)
    found = difference(pixels(model, [Instruct()], **ours), theirs)
    print(f"{kind}: largest difference {found:.1e}")
    assert found <= 1e-5
    assert difference(pixels(model, [Instruct()], **{**ours, "momentum": 0.9}), theirs) > 1e-3
    # Each frame sees its own source.
    assert difference(by_the_pipeline(model, images[:1] * FRAMES, **how), theirs) > 1e-3


@pytest.mark.parametrize("kind", ["flux-kontext", "flux2-klein", "qwen-image-edit"])
def test_instruct_keeps_the_laws(kind):
    quick = {"size": (32, 32), "num_inference_steps": 2}
    if load(kind).network.edits:  # it draws nothing without the plugin
        whole = pixels(load(kind), [Instruct()])
        assert difference(pixels(load(kind), [Instruct()], [2, 1]), whole) <= SAME
        assert difference(pixels(load(kind), [Instruct()], [2, 1], carried=False), whole) > 10 * SAME
    else:
        check_plugin(Instruct(), model=load(kind), **quick)


def test_what_edits_is_used_to_edit():
    with pytest.warns(UserWarning, match="so instruct is used"):
        zs2kit.edit(drawn_clip(1), PROMPT, model=load("flux-kontext"))


def test_what_only_edits_needs_a_source():
    for how in ({"plugins": ()}, {"plugins": [Strength()]}):
        with pytest.raises(ModelError, match="draws nothing from text alone; use the plugin instruct"):
            zs2kit.edit(drawn_clip(1), PROMPT, model=load("qwen-image-edit"), **how)


def test_options_of_other_models_are_refused():
    with pytest.raises(UsageError, match="image_guidance_scale` has no effect"):
        plugin = Instruct(image_guidance_scale=2.0)
        zs2kit.edit(drawn_clip(1), PROMPT, model=load("flux-kontext"), plugins=[plugin])
    with pytest.raises(ModelError, match="instruct needs an Instruct-Pix2Pix model"):
        zs2kit.edit(drawn_clip(1), PROMPT, model=load("z-image"), plugins=[Instruct()])


# Reference: a picture as further tokens, too


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)).save(path)
    return str(path)


@pytest.mark.parametrize("kind", ["flux-kontext", "flux2-dev", "flux2-klein-base"])
def test_a_reference_is_shown_as_the_pipeline_does(kind, picture):
    model = load(kind)
    ours = {"momentum": 0, "divergence": MAX_DIVERGENCE, "guidance_scale": 3.0}
    shown = Image.open(picture)
    theirs = by_the_pipeline(model, [shown] * FRAMES, **EDITED[kind])
    assert difference(pixels(model, [Reference(image=picture)], **ours), theirs) <= 1e-5
    assert difference(pixels(model, [Reference(image=picture, scale=0)], **ours), theirs) > 1e-3


def test_a_reference_comes_after_the_source(picture):
    model, plugins = load("flux2-klein"), [Reference(image=picture), Instruct()]
    (chunk,) = cut(model)
    both = [[Image.fromarray(each), Image.open(picture)] for each in chunk.images]
    theirs = by_the_pipeline(model, both)
    assert difference(pixels(model, plugins, momentum=0, divergence=MAX_DIVERGENCE), theirs) <= 1e-5
    with pytest.raises(PluginError, match="can be shown one picture only"):
        pixels(load("flux-kontext"), plugins)


def test_without_a_picture_the_first_frame_of_a_shot_is_the_reference():
    model = load("flux2-klein")
    plain, referred = pixels(model, sizes=[2, 1]), pixels(model, [Reference()], [2, 1])
    assert difference(referred, plain) > 1e-3
    assert difference(referred, pixels(model, [Reference()])) <= SAME


def test_a_reference_of_any_size_is_fitted(tmp_path):
    """A larger picture gets as many pixels as a frame has, a smaller one keeps its size."""
    from zs2kit_plugins.reference import _encoded

    model = load("flux2-klein")
    shapes = [
        tuple(_encoded(Image.new("RGB", size), model, SIZE[0] * SIZE[1]).shape[2:])
        for size in [(800, 400), (32, 48), (3000, 10)]
    ]
    pixels = [(height * model.vae_scale, width * model.vae_scale) for height, width in shapes]
    assert pixels == [(48, 104), (48, 32), (8, 1240)]


@pytest.mark.parametrize(
    ("kind", "plugin", "message"),
    [
        ("qwen-image-edit-plus", Reference(), "zs2kit shows it the source only; use FLUX.2"),
        ("flux2-klein", Reference(scale=0.5), "`reference.scale` can't be 0.5"),
        ("flux2-klein", Reference(adapter="a.safetensors"), "`reference.adapter` has no effect"),
    ],
)
def test_references_that_can_not_be_shown_are_refused(kind, plugin, message):
    with pytest.raises((ModelError, UsageError), match=message):
        pixels(load(kind), [Instruct(), plugin])


# The laws, edit by edit


@pytest.mark.parametrize("kind", DRAWN)
def test_the_chunk_size_does_not_matter(kind):
    """With guidance where there is some, and momentum in all layers."""
    model = load(kind)
    whole = pixels(model, seed=3)
    assert torch.equal(pixels(model, seed=3), whole)
    assert difference(pixels(model, sizes=[2, 1], seed=3), whole) <= SAME
    assert difference(pixels(model, sizes=[2, 1], seed=3, carried=False), whole) > 10 * SAME


@pytest.mark.parametrize("scheduler", ["dpm++", "unipc", "lcm"])
def test_the_other_schedulers(scheduler):
    model = load("flux-dev")
    whole = pixels(model, scheduler=scheduler)
    assert difference(pixels(model, sizes=[2, 1], scheduler=scheduler), whole) <= SAME
    assert difference(pixels(model), whole) > 10 * SAME


@pytest.mark.parametrize("kind", ["z-image", "qwen-image"])
def test_prompts_of_different_lengths_turn_into_one_another(kind):
    model = load(kind)
    prompts = {0: PROMPT, 2: "a blue knight on the beach"}
    lengths = [model.embed(each, "", *SIZE)[0].prompt_embeds.shape[1] for each in prompts.values()]
    assert lengths[0] < lengths[1]
    alone = {"seed": 3, "momentum": 0}
    turning = pixels(model, prompt=prompts, **alone)
    first, last = (pixels(model, prompt=each, **alone) for each in prompts.values())
    assert difference(turning[0], first[0]) <= 1e-5
    assert difference(turning[2], last[2]) <= 1e-5
    assert difference(turning[0], last[0]) > 1e-2
    # The one in between has steps of both.
    assert min(difference(turning[1], each[1]) for each in (first, last)) > 1e-3
    whole = pixels(model, prompt=prompts)
    assert difference(pixels(model, sizes=[2, 1], prompt=prompts), whole) <= SAME


# The laws, call by call: what momentum does in one call of each transformer


@contextmanager
def hooked(module: Any, hook: Any) -> Iterator[None]:
    """Within this context ``hook`` gets every projection to keys and values, of pictures and of text."""
    names = r"(to_k|to_v|add_k_proj|add_v_proj|to_qkv_mlp_proj)$"
    with ExitStack() as stack:
        for name, each in module.named_modules():
            if re.search(names, name):
                stack.callback(each.register_forward_hook(hook(name)).remove)
        yield


class Call:
    """One call of a model's transformer, as an edit makes it."""

    def __init__(self, model: Model, frames: int = 4) -> None:
        self.model = model
        self.latents = dependency_noise(model.latent_shape(*SIZE), range(frames), MAX_DIVERGENCE, 1)
        self.step = steps_of(model.network.begin("euler", STEPS, *self.latents.shape[2:]))[1]
        self.embeds, _ = model.embed(PROMPT, "", *SIZE)

    @torch.no_grad()
    def __call__(self, frames: slice = slice(None)) -> torch.Tensor:
        latents, (embeds, conditions) = self.latents[frames], self.embeds
        given = {name: per_frame(value, len(latents)) for name, value in conditions.items()}
        embeds = per_frame(embeds, len(latents))
        branch = Branch("text", 1.0, *self.embeds)
        return self.model.network.predict(latents, self.step, [branch], embeds, given, [])

    def averaged(self, momentum: float, carry: Carry | None = None, frames: slice = slice(None)) -> Any:
        """The same with momentum, and the carry that it leaves."""
        average = TemporalMomentum(momentum, carry or Carry(), Carry())
        average.scopes = ["text/1"]
        average.tokens = self.model.network.tokens(self.latents, self.embeds.prompt_embeds)
        with attached({"transformer": self.model.network.module}, average):
            return self(frames), average.following


@pytest.mark.parametrize("kind", [each for each in DRAWN if each != "flux-schnell"])
def test_momentum_in_joint_attention(kind):
    model = load(kind)
    call = Call(model)
    plain = call()
    scale = plain.abs().max().item()
    half, carry = call.averaged(0.5)
    layers = [module for module, _ in self_attention(model.network.module).values()]
    # FLUX.2's single blocks compute keys and values together with all else.
    widths = [2 * it.inner_dim if hasattr(it, "to_qkv_mlp_proj") else it.to_k.in_features for it in layers]
    picture = call.model.network.tokens(call.latents, call.embeds.prompt_embeds).picture
    assert len(layers) > 1 and [len(each) for each in carry.values()] == [sum(widths) * picture]
    assert difference(half, plain) > 1e-3 * scale
    # Chunks don't show, and a carry that is dropped does.
    first, between = call.averaged(0.5, frames=slice(2))
    second, _ = call.averaged(0.5, between, slice(2, None))
    assert difference(torch.cat([first, second]), half) <= 1e-5 * scale
    assert difference(call.averaged(0.5, frames=slice(2, None))[0], half[2:]) > 1e-3 * scale
    # Momentum 0 is no momentum, to the bit, and there is no trace afterwards.
    assert torch.equal(call.averaged(0.0)[0], plain)
    assert torch.equal(call(), plain)
    # Momentum 1 is attention to the first frame: to all of its keys and values, those of the text among them.
    kept: dict[str, torch.Tensor] = {}
    with hooked(model.network.module, lambda name: lambda _, __, out: kept.update({name: out})):
        call(slice(1))
    modules = dict(model.network.module.named_modules())

    def put(name: str) -> Any:
        def hook(module: Any, inputs: Any, out: torch.Tensor) -> torch.Tensor:
            first = kept[name].expand_as(out)
            if not name.endswith("to_qkv_mlp_proj"):
                return first
            width = modules[name.rpartition(".")[0]].inner_dim
            return torch.cat([out[..., :width], first[..., width : 3 * width], out[..., 3 * width :]], -1)

        return hook

    with hooked(model.network.module, put):
        first_frames = call()
    assert difference(call.averaged(1.0)[0], first_frames) <= 1e-5 * scale
    assert difference(half, first_frames) > 1e-3 * scale


def test_momentum_acts_on_the_picture_alone():
    """The text, which comes before it in FLUX's single blocks, reaches the keys as it is."""
    model = load("flux-dev")
    call = Call(model)
    name = "single_transformer_blocks.0.attn"
    attention = model.network.module.get_submodule(name)
    given: list[torch.Tensor] = []
    average = TemporalMomentum(0.5, Carry(), Carry())
    average.scopes = ["text/1"]
    average.tokens = model.network.tokens(call.latents, call.embeds.prompt_embeds)
    with attached({"transformer": model.network.module}, average):
        for layer in (attention.to_q, attention.to_k):  # these hooks come after those of momentum
            layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        call()
    for layer in (attention.to_q, attention.to_k):
        layer._forward_pre_hooks.clear()
    as_they_are, averaged = given
    text = call.embeds.prompt_embeds.shape[1]
    assert averaged.shape[1] == text + average.tokens.picture
    assert torch.equal(averaged[:, :text], as_they_are[:, :text])
    assert torch.equal(averaged[0], as_they_are[0])
    assert not torch.equal(averaged[1, text:], as_they_are[1, text:])


# VAEs: each as the family's own pipeline uses it (parity covers decoding)


def test_latents_of_sources_are_scaled_as_the_pipelines_do():
    pixels = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def theirs(pixels):  # one by one as here, since some processors round a batch differently
        made = [model.pipeline._encode_vae_image(each, generator=None) for each in pixels.split(1)]
        return torch.cat(made)

    with torch.no_grad():
        for name in ("flux-kontext", "flux2-klein"):
            model = load(name)
            assert torch.allclose(model.encode(pixels), theirs(pixels), atol=1e-6)
        model = load("qwen-image-edit")
        assert torch.allclose(model.encode(pixels), theirs(pixels[:, :, None])[:, :, 0], atol=1e-6)


def test_tokens_are_packed_as_the_pipelines_do():
    latents = torch.randn(2, 4, 8, 12)
    network = load("flux-dev").network
    theirs = diffusers.FluxPipeline._pack_latents(latents, 2, 4, 8, 12)
    assert torch.equal(network._pack(latents), theirs)
    assert torch.equal(network._unpack(theirs, (8, 12)), latents)
    network = load("flux2-klein").network
    assert torch.equal(network._pack(latents), diffusers.Flux2KleinPipeline._pack_latents(latents))
    assert torch.equal(network._unpack(network._pack(latents), (8, 12)), latents)


# What the model says of itself


def test_defaults_come_from_the_checkpoint():
    found = {}
    for kind in ("z-image", "flux-dev", "flux-schnell", "flux2-klein", "flux2-klein-base", "sd3"):
        how = zs2kit.edit(drawn_clip(1), plugins=(), model=load(kind)).settings
        found[kind] = how.num_inference_steps, how.guidance_scale, how.scheduler
    assert found == {
        "z-image": (8, 0.0, "euler"),
        "flux-dev": (28, 3.5, "euler"),
        "flux-schnell": (4, 1.0, "euler"),
        "flux2-klein": (4, 1.0, "euler"),
        "flux2-klein-base": (50, 4.0, "euler"),
        "sd3": (28, 7.0, "euler"),
    }


@pytest.mark.parametrize(("kind", "tokens"), [("qwen-image", 1024), ("flux-dev", 512), ("sd3", 256)])
def test_what_of_a_prompt_is_cut_is_said(kind, tokens):
    model = load(kind)
    with pytest.warns(UserWarning, match=rf"reads {tokens} tokens of a prompt.*'xyz'"):
        model.embed("a" * (tokens - (kind != "qwen-image")) + "xyz", "", *SIZE)


def test_no_more_is_read_than_the_tokenizer_says():
    model = Model.load(tiny_models()["flux-dev"])
    model.pipeline.tokenizer_2.model_max_length = 9
    embeds, _ = model.network.embed("a red robot", "", 32, 32)
    assert embeds.prompt_embeds.shape[1] == 9 and model.network.cut("a " * 20)[0] == 9


def test_without_the_largest_text_encoder_others_say_what_is_cut():
    model = Model.load(tiny_models()["sd3"])
    model.pipeline.register_modules(text_encoder_3=None, tokenizer_3=None)
    assert model.network.cut("a" * 80) == (75, "aaaaa")


# zs2kit models


def test_the_families_are_listed():
    listed = CliRunner().invoke(cli.main, ["models"])
    assert listed.exit_code == 0
    assert all(family.title in listed.output.splitlines() for family in FAMILIES.values())
    assert "only the models that come with zs2kit" in listed.output
    rows = json.loads(CliRunner().invoke(cli.main, ["models", "--json"]).output)
    does = {row["family"]: row["does"].split(", ") for row in rows}
    assert "instruct" in does["FLUX.1 Kontext"] and "instruct" not in does["FLUX.1"]
    assert "text" not in does["Qwen-Image-Edit"]


def test_a_model_is_described_by_its_index(tmp_path):
    def said(model: Any) -> str:
        run = CliRunner().invoke(cli.main, ["models", str(model)])
        return f"{run.exit_code} {run.output}"

    assert said(changed(tmp_path)).startswith("0 Z-Image\n    text, ")
    assert said(tiny_models()["epsilon"]).startswith("0 Stable Diffusion 1, 2 and XL\n")
    assert said("puppets-flow").startswith("0 FLUX.1 Kontext\n")
    found = json.loads(CliRunner().invoke(cli.main, ["models", "puppets", "--json"]).stdout)
    assert (found["model"], found["family"]) == ("puppets", "Stable Diffusion 1, 2 and XL")
    file = tmp_path / "checkpoint.safetensors"
    save_file({"cond_stage_model.transformer.weight": torch.zeros(1)}, file)
    assert said(file).startswith("0 Stable Diffusion 1, 2 and XL\n")
    save_file({"double_blocks.0.weight": torch.zeros(1)}, file)
    assert said(file).startswith("1 ") and "give such a model in diffusers' format" in said(file)
    with pytest.raises(ModelError, match="a transformer in a single file"):
        Model.load(file)
    (tmp_path / "changed" / "model_index.json").write_text(json.dumps({"_class_name": "Lumina2Pipeline"}))
    assert "a Lumina2Pipeline can't be used" in said(tmp_path / "changed")
    (tmp_path / "changed" / "model_index.json").write_text("{")
    assert said(tmp_path / "changed").startswith("1 ")
    assert "not a checkpoint" in said(tmp_path)
    assert "there is no such model" in said("puppet")


# Plugins that serve any model


@pytest.mark.parametrize("kind", ["z-image", "flux-dev", "flux2-klein", "sd3", "qwen-image"])
def test_strength_keeps_the_laws(kind):
    check_plugin(Strength(0.7), model=load(kind), size=(32, 32), num_inference_steps=3)


@dataclass(eq=False)
class Shows(Plugin):
    """Shows the source, from a step on."""

    since: int = zs2kit.option(0, "The step.")

    @hookimpl
    def prepare(self, chunk, model):
        self._source = model.encode(chunk.pixels)

    @hookimpl
    def denoiser_inputs(self, step):
        return DenoiserInputs(shown=[self._source]) if step.index >= self.since else None


def test_pictures_can_be_shown_in_some_steps_only():
    model = load("flux-kontext")
    parts = chunks(drawn_clip(1), [1], model)
    always, late, never = (
        edited_pixels(make_scan(model, [Shows(since)], num_inference_steps=2), parts) for since in (0, 1, 2)
    )
    for one, other in ((always, late), (late, never), (always, never)):
        assert (one - other).abs().max() > 10 * SAME


@dataclass(eq=False)
class Keeps(Plugin):
    """Keeps the left half of the picture."""

    @hookimpl
    def keep(self, chunk):
        height, width = chunk.fit.source
        columns = (np.arange(width) < width // 2).astype(np.float32)
        return np.broadcast_to(columns, (chunk.length, height, width))


@pytest.mark.parametrize("plugin", [Invert(), Colour(), Keeps()])
def test_other_plugins_keep_the_laws(plugin):
    check_plugin(plugin, model=load("z-image"), num_inference_steps=3)


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Reference(), "has no default IP-Adapter for models like"),
    ],
)
def test_plugins_that_need_a_u_net_say_so(plugin, message):
    with pytest.raises(ModelError, match=message) as error:
        zs2kit.edit(drawn_clip(1), model=load("z-image"), plugins=[plugin])
    assert "\n" not in str(error.value)


# Bad input, one line each


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("flux-schnell", {"guidance_scale": 3.5}, "was distilled to need no guidance"),
        ("flux2-klein", {"guidance_scale": 3.5}, "was distilled to need no guidance"),
        ("flux-schnell", {"negative_prompt": "blurry"}, "no use for `negative_prompt`"),
        ("flux-dev", {"negative_prompt": "blurry"}, "no use for `negative_prompt`"),
        ("flux-dev", {"scheduler": "ddim"}, "'ddim' can't be used with this model.*choose from euler"),
        ("flux-dev", {"num_inference_steps": 2000}, "at most 1000 steps"),
    ],
)
def test_settings_that_do_not_go_with_the_model(kind, settings, message):
    with pytest.raises(UsageError, match=message) as error:
        zs2kit.edit(drawn_clip(1), plugins=(), model=load(kind), **settings)
    assert "\n" not in str(error.value)


def changed(tmp_path: Path, kind: str = "z-image", **index: Any) -> Path:
    """A copy of a checkpoint whose index says something else, and that has no weights to read."""
    folder = shutil.copytree(
        tiny_models()[kind], tmp_path / "changed", ignore=shutil.ignore_patterns("*.safetensors")
    )
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | index))
    return folder


def refused(name: Any, **how: Any) -> str:
    with pytest.raises(ModelError) as error:
        Model.load(name, **how)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_family_that_is_not_supported_is_refused_before_its_weights_are_read(tmp_path):
    said = refused(changed(tmp_path, _class_name="Lumina2Pipeline"))
    assert "a Lumina2Pipeline can't be used" in said and all(each.title in said for each in FAMILIES.values())


@pytest.mark.parametrize(
    "index",
    [
        {"_class_name": ["block", "B"]},
        {"transformer": ["block", "B"]},
        {"auto_map": {"ModularPipelineBlocks": "block.B"}},
    ],
)
def test_code_in_a_folder_is_refused_and_not_run(tmp_path, index):
    folder = changed(tmp_path, **index)
    ran = tmp_path / "ran"
    for where in (folder, folder / "transformer"):
        (where / "block.py").write_text(f"open({str(ran)!r}, 'w')\nclass B: pass\n")
    assert "comes with code of its own" in refused(folder)
    assert not ran.exists()


def test_other_entries_of_an_index_are_no_code(tmp_path):
    """A safety checker, whose module is one of diffusers' own, and entries that aren't parts."""
    folder = tmp_path / "epsilon"
    shutil.copytree(tiny_models()["epsilon"], folder)
    path = folder / "model_index.json"
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    more = {"safety_checker": checker, "image_encoder": [None, None], "sizes": [512, 768]}
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    assert Model.load(folder).native_size == (32, 32)


def test_blocks_in_a_folder_are_refused_and_not_run(tmp_path):
    folder = changed(tmp_path)
    ran = tmp_path / "ran"
    (folder / "block.py").write_text(f"open({str(ran)!r}, 'w')\nclass B: pass\n")
    auto_map = {"_class_name": "B", "auto_map": {"ModularPipelineBlocks": "block.B"}}
    (folder / "modular_config.json").write_text(json.dumps(auto_map))
    assert "comes with code of its own" in refused(folder)
    assert not ran.exists()


def test_pickled_weights_are_refused(tmp_path):
    folder = changed(tmp_path)
    torch.save({}, folder / "transformer" / "diffusion_pytorch_model.bin")
    assert "safetensors" in refused(folder)


def test_textual_inversions_are_refused(tmp_path):
    file = tmp_path / "word.safetensors"
    file.write_bytes(b"")
    assert "doesn't support textual inversions" in refused(changed(tmp_path), embeddings=[file])


def test_fused_projections_are_refused():
    model = Model.load(tiny_models()["flux-dev"])
    model.network.module.fuse_qkv_projections()
    with pytest.raises(ModelError, match="fused"):
        zs2kit.edit(drawn_clip(1), plugins=(), model=model)


# LoRA


@pytest.mark.parametrize("kind", ["z-image", "flux-dev", "flux2-klein", "sd3", "qwen-image"])
def test_a_lora_is_added_to_the_weights(kind, tmp_path):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    model = Model.load(tiny_models()[kind])
    plain = pixels(model)
    network = model.network.module
    targets = "attention.to_q" if kind == "z-image" else "attn.to_q"
    network.add_adapter(
        LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=rf".*{targets}$")
    )
    matrices = get_peft_model_state_dict(network)
    cls = type(model.pipeline)
    cls.save_lora_weights(tmp_path, transformer_lora_layers=matrices)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    by_peft = pixels(model)
    network.delete_adapters("default")
    added = Model.load(tiny_models()[kind], loras={file: 1.0})
    assert difference(pixels(added), by_peft) <= SAME
    assert difference(by_peft, plain) > 10 * SAME
    other = tiny_models()["sd3" if kind == "z-image" else "z-image"]
    assert "another family" in refused(other, loras={file: 1.0})
