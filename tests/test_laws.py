"""The laws that every change must keep, on tiny real models, each beside a control that breaks it."""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import diffusers.schedulers.scheduling_lcm as lcm
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DModel

import zs2kit
from zs2kit import Plugin, attention, option
from zs2kit.attention import TemporalMomentum, at_start, attached, running_average, self_attention
from zs2kit.carry import Carry
from zs2kit.control import Control
from zs2kit.denoiser import Denoiser
from zs2kit.errors import ModelError, PluginError, UsageError
from zs2kit.hookspecs import hookimpl
from zs2kit.model import Model
from zs2kit.networks.base import Branch
from zs2kit.noise import MAX_DIVERGENCE, dependency_noise
from zs2kit.schedule import SCHEDULERS, advance, begin, line, make_scheduler, steps_of
from zs2kit.testing import chunks, drawn_clip, edited_pixels, make_scan, tiny_model
from zs2kit_plugins.instruct import Instruct

SAME = 1e-4  # of decoded frames in [0, 1], float32
FRAMES = 5


@dataclass(eq=False)
class Picture(Control):
    """Steers with the source's own pixels as the map."""

    def controlnet(self, model: Model) -> Path:
        return model.bundled("controlnet_pose")

    def detect(self, images, chunk):
        return images


@dataclass(eq=False)
class Raises(Plugin):
    """Fails at the third call of the denoiser."""

    @hookimpl
    def setup(self):
        self.calls = 0

    @hookimpl
    def denoiser_inputs(self):
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("on purpose")


def cut(model: Model, sizes=(FRAMES,)) -> list:
    return chunks(drawn_clip(sum(sizes)), sizes, model)


def pixels(model: Model, plugins=(), sizes=(FRAMES,), *, carried=True, **settings) -> torch.Tensor:
    return edited_pixels(make_scan(model, plugins, **settings), cut(model, sizes), carried=carried)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


# 1. Same twice.


def test_the_same_seed_gives_the_same_frames_to_the_bit(tiny):
    assert torch.equal(pixels(tiny), pixels(tiny))
    assert difference(pixels(tiny), pixels(tiny, seed=1)) > 10 * SAME


# 2. Chunk size does not matter.


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_chunk_size_does_not_matter(tiny, scheduler):
    plugins = [Picture()]
    whole = pixels(tiny, plugins, scheduler=scheduler)
    for sizes in ([1] * FRAMES, [2, 2, 1], [3, 2]):
        assert difference(pixels(tiny, plugins, sizes, scheduler=scheduler), whole) <= SAME
    assert difference(pixels(tiny, plugins, [2, 2, 1], scheduler=scheduler, carried=False), whole) > 10 * SAME


def test_the_running_average_itself_is_carried(tiny):
    """Noise is carried in the control, attention isn't: the law must notice that alone."""
    scan = make_scan(tiny)
    carry, result = Carry(), []
    for chunk in cut(tiny, [2, 2, 1]):
        carry, made, _ = scan(Carry({k: v for k, v in carry.items() if k.startswith("noise")}), chunk)
        result.append(made)
    assert difference(torch.cat(result), pixels(tiny)) > 10 * SAME


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_chunk_size_does_not_matter_in_half_precision(tiny_folders, dtype):
    model = Model.load(tiny_folders["epsilon"], dtype=dtype)

    def psnr(a, b):
        return -10 * math.log10(max((a - b).square().mean().item(), 1e-12))

    whole = pixels(model, [Picture()])
    assert psnr(pixels(model, [Picture()], [2, 2, 1]), whole) >= 40
    assert psnr(pixels(model, [Picture()], [2, 2, 1], carried=False), whole) < 30


# 3. Neutral is neutral.


def test_scale_0_is_no_plugin(tiny):
    assert torch.equal(pixels(tiny, [Picture(scale=0)]), pixels(tiny))
    assert difference(pixels(tiny, [Picture(scale=0.5)]), pixels(tiny)) > 10 * SAME


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
# LCM is left out: its pipeline draws noise of its own.
@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if name != "lcm"])
def test_parity_with_the_diffusers_pipeline(tiny, scheduler, guidance_scale):
    ours = pixels(
        tiny, momentum=0, divergence=MAX_DIVERGENCE, scheduler=scheduler, guidance_scale=guidance_scale
    )
    theirs = reference(tiny, diffusers.StableDiffusionPipeline, scheduler, guidance_scale)
    worst = difference(ours, theirs)
    kind = tiny.pipeline.scheduler.config["prediction_type"]
    print(f"largest difference, {kind}, {scheduler}, guidance {guidance_scale}: {worst:.1e}")
    assert worst <= 1e-3
    averaged = pixels(tiny, divergence=MAX_DIVERGENCE, scheduler=scheduler, guidance_scale=guidance_scale)
    assert difference(averaged, theirs) > 1e-2


def test_parity_would_notice_unscaled_model_input(tiny, monkeypatch):
    """The control of parity: breaking the real scheduler on purpose must show."""
    settings = {"momentum": 0, "divergence": MAX_DIVERGENCE, "scheduler": "euler"}
    right = pixels(tiny, **settings)
    # The real scheduler without its scaling: a fault that parity has to see
    monkeypatch.setattr(diffusers.EulerDiscreteScheduler, "scale_model_input", lambda self, x, t: x)
    assert difference(pixels(tiny, **settings), right) > 1e-2


@pytest.mark.parametrize("scheduler", ["ddim", "euler"])
def test_parity_with_the_diffusers_controlnet_pipeline(tiny, scheduler):
    plugin = Picture(scale=0.7, start=0.2, end=0.8)
    ours = pixels(tiny, [plugin], momentum=0, divergence=MAX_DIVERGENCE, scheduler=scheduler)
    maps = (cut(tiny)[0].pixels + 1) / 2
    theirs = reference(tiny, diffusers.StableDiffusionControlNetPipeline, scheduler, 5.0, maps)
    worst = difference(ours, theirs)
    print(f"largest difference, ControlNet, {scheduler}: {worst:.1e}")
    assert worst <= 1e-3
    uncontrolled = pixels(tiny, momentum=0, divergence=MAX_DIVERGENCE, scheduler=scheduler)
    assert difference(uncontrolled, theirs) > 1e-2


def reference(model: Model, cls, scheduler: str, guidance_scale: float, maps=None) -> torch.Tensor:
    """Frame by frame, what diffusers' own pipeline makes of the same noise."""
    components = {name: part for name, part in model.pipeline.components.items() if name != "image_encoder"}
    components["scheduler"] = make_scheduler(scheduler, model.pipeline.scheduler.config, 8)
    settings = {"requires_safety_checker": False}
    if maps is not None:
        folder = model.bundled("controlnet_pose")
        components["controlnet"] = diffusers.ControlNetModel.from_pretrained(folder)
    pipeline = cls(**components, **settings)
    pipeline.set_progress_bar_config(disable=True)
    noise = dependency_noise(model.latent_shape(32, 32), range(FRAMES), MAX_DIVERGENCE, 0)
    made = []
    for index in range(FRAMES):
        control = {}
        if maps is not None:
            control = {
                "image": maps[index : index + 1],
                "controlnet_conditioning_scale": 0.7,
                "control_guidance_start": 0.2,
                "control_guidance_end": 0.8,
            }
        made.append(
            pipeline(
                "a red robot",
                num_inference_steps=8,
                guidance_scale=guidance_scale,
                latents=noise[index : index + 1],
                output_type="pt",
                height=32,
                width=32,
                **control,
            ).images
        )
    return torch.cat(made)


class FirstFrame:
    """Attention of every frame to the first, written out: the reference for momentum 1."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        branches = hidden_states.unflatten(0, (-1, FRAMES))  # those of one call
        first = branches[:, :1].expand_as(branches).flatten(0, 1)
        return diffusers.models.attention_processor.AttnProcessor()(attn, hidden_states, first)


def first_frame(model: Model) -> dict[str, FirstFrame]:
    """Such a processor for every self-attention."""
    return {f"{name}.processor": FirstFrame() for name in self_attention(model.unet)}


def test_momentum_1_is_attention_to_the_first_frame(tiny):
    ours = pixels(tiny, momentum=1)
    originals = dict(tiny.unet.attn_processors)
    tiny.unet.set_attn_processor(
        originals | {f"{name}.processor": FirstFrame() for name in self_attention(tiny.unet)}
    )
    try:
        theirs = pixels(tiny, momentum=0)
    finally:
        tiny.unet.set_attn_processor(originals)
    assert difference(ours, theirs) <= SAME
    assert difference(pixels(tiny, momentum=0.9), theirs) > 10 * SAME


def test_momentum_acts_in_the_controlnet_too(tiny, monkeypatch):
    both = pixels(tiny, [Picture()])
    found = self_attention

    def found_in_the_unet(network: Any) -> Any:
        return {} if isinstance(network, ControlNetModel) else found(network)

    monkeypatch.setattr(attention, "self_attention", found_in_the_unet)
    assert difference(pixels(tiny, [Picture()]), both) > 10 * SAME


def test_lcm_adds_as_much_noise_as_diffusers_does(tiny, monkeypatch):
    """diffusers draws that noise itself; given ours in its place, the steps must be the same."""
    noise = dependency_noise(tiny.latent_shape(32, 32), range(2), MAX_DIVERGENCE, 1)
    monkeypatch.setattr(lcm, "randn_tensor", lambda *_, **__: noise)
    ours, theirs = (make_scheduler("lcm", tiny.pipeline.scheduler.config, 4) for _ in range(2))
    a = b = dependency_noise(tiny.latent_shape(32, 32), range(2), MAX_DIVERGENCE, 2)
    for step in steps_of(ours):
        prediction = torch.tanh(a)
        a = advance(ours, prediction, step, a, lambda _: noise)
        b = theirs.step(prediction, step.timestep, b, return_dict=False)[0]
        assert torch.allclose(a, b, atol=1e-5)


# 4. No trace.


def state(model: Model):
    weights = {name: copy.deepcopy(tensor) for name, tensor in model.unet.state_dict().items()}
    return dict(model.unet.attn_processors), weights, dict(model.pipeline.scheduler.config)


def assert_untouched(model: Model, before) -> None:
    processors, weights, scheduler = before
    now = model.unet.attn_processors
    assert list(now) == list(processors) and all(now[name] is processors[name] for name in processors)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.unet.state_dict().items())
    assert dict(model.pipeline.scheduler.config) == scheduler
    assert not model.lock.locked()


def test_an_edit_leaves_no_trace(tiny):
    before = state(tiny)
    list(zs2kit.edit(drawn_clip(3), model=tiny, plugins=[Picture()], num_inference_steps=2))
    assert_untouched(tiny, before)


def test_an_edit_left_half_way_leaves_no_trace(tiny):
    before = state(tiny)
    grad = torch.is_grad_enabled()
    frames = iter(zs2kit.edit(drawn_clip(4), plugins=(), model=tiny, num_inference_steps=2, chunk_size=2))
    next(frames)
    assert_untouched(tiny, before)
    assert torch.is_grad_enabled() == grad
    frames.close()
    assert_untouched(tiny, before)


def test_an_edit_that_fails_leaves_no_trace(tiny):
    before = state(tiny)
    with pytest.raises(PluginError, match=r"plugin 'raises' failed in denoiser_inputs\(\).*on purpose"):
        list(zs2kit.edit(drawn_clip(2), model=tiny, plugins=[Raises()], num_inference_steps=4))
    assert_untouched(tiny, before)


def test_a_trace_would_be_seen(tiny):
    """The control of law 4: a processor that stays behind."""
    before = state(tiny)
    tiny.unet.set_attn_processor(
        before[0] | {f"{name}.processor": FirstFrame() for name in self_attention(tiny.unet)}
    )
    with pytest.raises(AssertionError):
        assert_untouched(tiny, before)
    tiny.unet.set_attn_processor(dict(before[0]))
    assert_untouched(tiny, before)


def test_plugins_are_not_changed(tiny):
    plugin = Picture(scale=0.5)
    pixels(tiny, [plugin])
    assert vars(plugin) == vars(Picture(scale=0.5))


# 5. Killed is not lost: a carry on disk is all that the rest of a clip needs.


def test_a_saved_carry_goes_on_where_it_was_left(tiny, tmp_path):
    first, second = cut(tiny, [3, 2])
    scan = make_scan(tiny, [Picture()])
    carry, *_ = scan(Carry(), first)
    _, expected, _ = scan(carry, second)
    carry.save(tmp_path / "carry.safetensors")
    resumed = make_scan(tiny, [Picture()])
    restored = Carry.load(tmp_path / "carry.safetensors")
    assert restored.nbytes == carry.nbytes > 0
    assert torch.equal(resumed(restored, second)[1], expected)
    assert difference(resumed(Carry(), second)[1], expected) > 10 * SAME


# The method's own promises.


def test_step_noise_keeps_frames_correlated(tiny):
    """LCM adds noise at each step; it must follow the chain, or the frames fall apart."""

    def neighbours(divergence):
        made = pixels(tiny, scheduler="lcm", divergence=divergence, momentum=0)
        return (made[1:] - made[:-1]).abs().mean().item()

    still = pixels(tiny, scheduler="lcm", divergence=0, momentum=0)
    assert difference(still, still[:1].expand_as(still)) <= SAME
    assert neighbours(MAX_DIVERGENCE) > 3 * neighbours(0.01)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_come_from_the_checkpoint(tiny, name):
    scheduler = make_scheduler(name, tiny.pipeline.scheduler.config, 4)
    assert scheduler.config.prediction_type == tiny.pipeline.scheduler.config["prediction_type"]
    assert len(scheduler.timesteps) == 4


def test_latents_are_never_clipped(tiny):
    """DDIM clips unless it is told not to, and a config saved by another scheduler doesn't say."""
    config = dict(diffusers.EulerDiscreteScheduler().config)
    assert not make_scheduler("ddim", config, 4).config.clip_sample


def test_what_overflows_is_said_and_not_written_as_black(tiny_folders):
    model = Model.load(tiny_folders["epsilon"])
    model.unet.conv_out.bias.data[:] = float("nan")
    with pytest.raises(ModelError, match="overflows at frame 0, even in float32"):
        list(zs2kit.edit(drawn_clip(2), plugins=(), model=model, num_inference_steps=2))


# Branches in one call of the network


@dataclass(eq=False)
class Leaning(Picture):
    """Steers one branch only, so branches differ in what they are called with."""

    @hookimpl
    def denoiser_inputs(self, step, branch, latents):
        return super().denoiser_inputs(step, branch, latents) if branch.conditional else None


@pytest.mark.parametrize(
    ("kind", "plugins", "calls"),
    [
        ("epsilon", [], 1),
        ("v_prediction", [Picture()], 1),
        ("sdxl", [Picture(end=0.5)], 1),
        ("instruct", [Instruct()], 1),  # of three
        ("epsilon", [Leaning()], 2),
    ],
)
def test_branches_in_one_call_are_those_of_a_call_each(tiny_folders, kind, plugins, calls, monkeypatch):
    model = Model.load(tiny_folders[kind])
    seen: list[int] = []

    def drawn(together: bool) -> tuple[torch.Tensor, Carry]:
        scan = make_scan(model, plugins)
        scan.denoiser.together = together
        carry, made = Carry(), []
        counting = model.unet.register_forward_hook(lambda *_: seen.append(1))
        for chunk in cut(model, (3, 2)):
            carry, pixels, _ = scan(carry, chunk)
            made.append(pixels)
        counting.remove()
        return torch.cat(made), carry

    (joined, carry), count = drawn(True), len(seen)
    apart, other = drawn(False)
    branches = 3 if kind == "instruct" else 2
    assert (len(seen) - count) * calls == count * branches
    assert difference(joined, apart) <= 1e-5
    assert carry.keys() == other.keys()
    assert all(torch.allclose(carry[name], other[name], atol=1e-4) for name in carry)
    if calls == 1:  # control: averages that go from one branch to the next
        own = attention.running_average
        monkeypatch.setattr(
            attention,
            "running_average",
            lambda frames, momentum, previous=None: (
                own(frames.transpose(0, 1).flatten(0, 1), momentum)
                .unflatten(0, frames.shape[1::-1])
                .transpose(0, 1)
            ),
        )
        assert difference(drawn(True)[0], apart) > 10 * SAME


# What plugins give: guidance, latents, channels; and two that give the same.


@dataclass(eq=False)
class TwoPrompts(Plugin):
    """Half of each of two prompts, which change from frame to frame."""

    @hookimpl
    def guidance(self, model, chunk):
        cat, dog = (model.embed(text, "", 32, 32)[0].prompt_embeds for text in ("a cat", "a dog"))
        share = torch.tensor([index / FRAMES for index in chunk.indices])[:, None, None]
        return [Branch("mixed", 0.5, (1 - share) * cat + share * dog), Branch("cat", 0.5, cat)]


@dataclass(eq=False)
class HalfWay(Plugin):
    """Starts from the noised source at half of the steps."""

    @hookimpl
    def initial_latents(self, chunk, noise, scheduler, steps, model):
        middle = len(steps) // 2
        return scheduler.add_noise(model.encode(chunk.pixels), noise, steps[middle].timestep[None]), middle


@dataclass(eq=False)
class Channels(Plugin):
    """The source's latents beside the noisy ones, as Instruct-Pix2Pix has them."""

    @hookimpl
    def prepare(self, chunk, model):
        self.latents = model.encode(chunk.pixels)

    @hookimpl
    def channels(self):
        return self.latents


class MoreChannels(Channels):
    pass


@dataclass(eq=False)
class Keeps(Plugin):
    """Keeps the left part of the picture, softly bounded."""

    share: float = option(0.5, "How much of the picture stays.")

    @hookimpl
    def keep(self, chunk):
        height, width = chunk.fit.source
        columns = np.clip(self.share * width - np.arange(width), 0, 4) / 4
        return np.broadcast_to(columns.astype(np.float32), (chunk.length, height, width))


@dataclass(eq=False)
class Doubles(Plugin):
    """Changes the model while it samples, and undoes that."""

    @hookimpl
    def setup(self, model, denoiser):
        @contextmanager
        def doubled():
            model.unet.conv_out.weight.data *= 2
            yield
            model.unet.conv_out.weight.data /= 2

        denoiser.within(doubled)


@pytest.mark.parametrize("plugin", [TwoPrompts(), HalfWay()])
def test_providers_act_and_keep_the_chunk_law(tiny, plugin):
    whole = pixels(tiny, [plugin])
    assert difference(pixels(tiny, [plugin], [2, 2, 1]), whole) <= SAME
    assert difference(pixels(tiny), whole) > 10 * SAME


def test_a_denoiser_of_eight_channels_takes_them_from_a_plugin(tmp_path):
    model = Model.load(tiny_model(tmp_path / "eight", unet={"in_channels": 8, "out_channels": 4}))
    whole = pixels(model, [Channels()])
    assert difference(pixels(model, [Channels()], [2, 2, 1]), whole) <= SAME
    with pytest.raises(PluginError, match="takes 8 channels, not 4"):
        pixels(model)
    with pytest.raises(PluginError, match="only one plugin may provide channels"):
        pixels(model, [Channels(), MoreChannels()])


def test_what_is_kept_is_the_source_to_the_bit(tiny):
    source = [frame.image for frame in drawn_clip(3)]
    edited = [frame.image for frame in edit_whole(tiny, [Keeps()])]
    plain = [frame.image for frame in edit_whole(tiny, [])]
    for was, now, drawn in zip(source, edited, plain, strict=True):
        assert np.array_equal(now[:, :12], was[:, :12])
        assert not np.array_equal(now[:, 16:], was[:, 16:]) and not np.array_equal(drawn[:, :12], was[:, :12])


def test_keeping_reaches_the_sampler_and_keeps_the_chunk_law(tiny):
    """What is drawn anew beside it sees what is kept: it is not only pasted over."""
    whole = pixels(tiny, [Keeps()])
    assert difference(pixels(tiny, [Keeps()], [2, 2, 1]), whole) <= SAME
    assert difference(pixels(tiny)[..., 20:], whole[..., 20:]) > 10 * SAME


def test_keeping_nothing_is_no_plugin(tiny):
    assert torch.equal(pixels(tiny, [Keeps(share=0.0)]), pixels(tiny))


def test_a_plugin_may_change_the_model_while_it_samples(tiny):
    before = state(tiny)
    assert difference(pixels(tiny, [Doubles()]), pixels(tiny)) > 10 * SAME
    assert_untouched(tiny, before)


def edit_whole(model: Model, plugins) -> list:
    return list(zs2kit.edit(drawn_clip(3), model=model, plugins=plugins, num_inference_steps=4))


@dataclass(eq=False)
class Unmarked(Plugin):
    """Its author forgot @hookimpl."""

    def prepare(self, chunk):
        pass


@pytest.mark.parametrize(
    "plugins, message",
    [
        ([TwoPrompts(), TwoPrompts()], "may provide guidance, not twoprompts and twoprompts2"),
        ([HalfWay(), type("Other", (HalfWay,), {})()], "only one plugin may provide initial_latents"),
        ([Unmarked()], "not marked"),
    ],
)
def test_conflicts_are_errors_before_any_work(tiny, plugins, message):
    with pytest.raises(PluginError, match=message):
        zs2kit.edit(drawn_clip(1), model=tiny, plugins=plugins)


# Momentum by hooks on keys and values


class MomentumProcessor:
    """How momentum was attached before it was hooks: a processor around each self-attention's own."""

    def __init__(self, inner: Any, averages: Any) -> None:
        self.inner = inner
        self.averages = averages

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        if encoder_hidden_states is None:
            encoder_hidden_states = self.averages.average(hidden_states, at_start)
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, **kwargs)


@pytest.mark.parametrize("network", ["unet", "controlnet"])
def test_momentum_by_hooks_is_that_by_processors_to_the_bit(tiny: Model, network: str) -> None:
    module = tiny.unet
    extra: dict[str, Any] = {}
    if network == "controlnet":
        module = tiny.load_network(ControlNetModel, tiny.bundled("controlnet_pose"))
        extra = {"controlnet_cond": torch.rand(4, 3, 32, 32), "conditioning_scale": 1.0}
    generator = torch.Generator().manual_seed(0)
    latents, embeds = (torch.randn(4, *shape, generator=generator) for shape in ((4, 8, 8), (32, 16)))

    def call() -> torch.Tensor:
        with torch.no_grad():
            found = module(latents, 500, encoder_hidden_states=embeds, return_dict=False, **extra)
        return torch.cat([each.flatten() for each in ([found[-1]] if network == "controlnet" else found)])

    plain = call()
    average = TemporalMomentum(0.9, Carry(), Carry())
    average.scopes = ["text/0"]
    with attached({network: module}, average):
        hooked = call()
    before, averages = dict(module.attn_processors), TemporalMomentum(0.9, Carry(), Carry()).of(network)
    names = [f"{name}.processor" for name in self_attention(module)]
    module.set_attn_processor(before | {name: MomentumProcessor(before[name], averages) for name in names})
    averages.begin([None], None)
    try:
        wrapped = call()
    finally:
        module.set_attn_processor(before)
    assert torch.equal(hooked, wrapped) and torch.equal(call(), plain)
    assert not torch.equal(hooked, plain)
    assert torch.equal(average.following[f"attention/{network}/text/0"], *averages.end())


def test_a_branch_that_begins_later_than_another_has_an_average_of_its_own() -> None:
    first, second = torch.randn(2, 4, 6, 3, generator=torch.Generator().manual_seed(0))
    averages = TemporalMomentum(0.9, Carry(), Carry()).of("unet")

    def averaged(frames: torch.Tensor, *previous: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        averages.begin(previous, None)
        return averages.average(frames, at_start), *averages.end()

    _, old = averaged(first, None)
    joined, *_ = averaged(torch.cat([first, second]), None, old)
    assert torch.equal(averaged(first, None)[0], joined[:4])
    assert torch.equal(averaged(second, old)[0], joined[4:])
    assert torch.equal(joined[:4], running_average(first, 0.9))
    assert not torch.equal(averaged(second, None)[0], joined[4:])


def test_momentum_on_a_network_that_is_not_known_is_refused(tiny: Model) -> None:
    with pytest.raises(ModelError, match="UNet2DModel can't be given temporal momentum"):
        Denoiser(tiny, None, 0.5).attach("other", UNet2DModel(block_out_channels=(32, 32), sample_size=8,
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2))  # fmt: skip


@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_a_step_is_a_line(tiny: Model, name: str) -> None:
    scheduler = tiny.network.begin(name, 8, 8, 8)
    generator = torch.Generator().manual_seed(0)
    latents, prediction = torch.randn(2, 3, 4, 8, 8, generator=generator)
    for step in steps_of(scheduler):
        keep, take = line(scheduler, step)
        fresh = tiny.network.begin(name, 8, 8, 8)
        begin(fresh, step)
        stepped = fresh.step(prediction, step.timestep, latents)[0]
        assert torch.allclose(keep * latents + take * prediction, stepped, atol=1e-5)
    assert getattr(scheduler, "step_index", None) is None  # it was not used up


@pytest.mark.parametrize("name", ["dpm++", "unipc", "lcm"])
def test_steps_with_a_memory_or_noise_are_no_lines(tiny: Model, name: str) -> None:
    scheduler = tiny.network.begin(name, 8, 8, 8)
    with pytest.raises(UsageError, match=r"can't be inverted; use `scheduler='ddim'`"):
        line(scheduler, steps_of(scheduler)[0])
