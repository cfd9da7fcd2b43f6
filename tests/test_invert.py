"""The invert plugin: the source comes back."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch

import zs2kit
from zs2kit.denoiser import Denoiser
from zs2kit.errors import PluginError, UsageError
from zs2kit.plugins import manager
from zs2kit.puppets.world import Scene, motion_scenes, render
from zs2kit.schedule import make_scheduler, steps_of
from zs2kit.testing import chunks, drawn_clip, edited_pixels, make_scan
from zs2kit_plugins.invert import Invert
from zs2kit_plugins.pose import Pose
from zs2kit_plugins.strength import Strength

pytestmark = pytest.mark.slow

PROMPT = "a blue knight on the beach"


@pytest.fixture(scope="module")
def puppets():
    """The bundled model: it takes a trained one to predict alike before and after a step."""
    return zs2kit.Model.load()


@pytest.fixture(scope="module")
def chunk(puppets):
    images = [render(each, 128).image for each in motion_scenes(Scene("knight", "blue", "beach"), "wave", 2)]
    (cut,) = chunks(zs2kit.Clip.from_images(images, 12), [2], puppets)
    return cut


def psnr(a, b):
    return -10 * math.log10((a - b).square().mean().item())


def returned(model, chunk, plugins, **settings):
    """How near what is drawn comes to what the VAE alone makes of the source, in dB."""
    settings = {"prompt": PROMPT, "guidance_scale": 1.0} | settings
    drawn = edited_pixels(make_scan(model, plugins, **settings), [chunk])
    return psnr(drawn, model.decode(model.encode(chunk.pixels)))


def test_the_source_comes_back(puppets, chunk):
    """At 50 steps, guidance 1, an empty prompt and defaults for the rest: as good as the VAE."""
    source = (chunk.pixels + 1) / 2
    best = psnr(puppets.decode(puppets.encode(chunk.pixels)), source)
    made = []
    for iterations in (0, 1):
        defaults = {"num_inference_steps": 50, "momentum": 0.98, "divergence": 0.01}
        scan = make_scan(puppets, [Invert(iterations=iterations)], prompt="", guidance_scale=1.0, **defaults)
        made.append(psnr(edited_pixels(scan, [chunk]), source))
    print(f"VAE {best:.2f} dB, inverted {made[1]:.2f} dB, without corrections {made[0]:.2f} dB")
    assert made[1] >= best - 0.5 and made[1] > made[0]


def test_the_more_corrections_the_nearer(puppets, chunk):
    plain, once, often = (returned(puppets, chunk, [Invert(PROMPT, count)]) for count in (0, 1, 4))
    print(f"plain {plain:.1f}, corrected once {once:.1f}, four times {often:.1f} dB")
    assert plain < once < often and often > 40


def test_another_prompt_or_guidance_leads_elsewhere(puppets, chunk):
    """The controls; but guidance from the source's own prompt to itself leads nowhere."""
    assert returned(puppets, chunk, [Invert("a red robot in the city", 4)]) < 35
    assert returned(puppets, chunk, [Invert(PROMPT, 4)], guidance_scale=5.0) < 35
    assert returned(puppets, chunk, [Invert(PROMPT, 4)], guidance_scale=5.0, negative_prompt=PROMPT) > 40


def test_a_control_acts_on_the_way_back_too(puppets, chunk, monkeypatch):
    assert returned(puppets, chunk, [Invert(PROMPT, 4), Pose()]) > 40
    acts = Pose.denoiser_inputs

    def not_on_the_way_back(self, step, branch, latents):
        return None if branch.name.startswith("invert") else acts(self, step, branch, latents)

    monkeypatch.setattr(Pose, "denoiser_inputs", zs2kit.hookimpl(not_on_the_way_back))
    assert returned(puppets, chunk, [Invert(PROMPT, 4), Pose()]) < 35


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_without_corrections_it_is_ddim_inversion_as_in_diffusers(tiny_folders, spacing):
    """The loop of diffusers' own pipelines that invert (DiffEdit, Pix2PixZero), frame by frame.

    That is so for models that predict the noise. Where v is predicted, these take it for that of the step
    after, which comes out less near the source.
    """
    tiny = zs2kit.Model.load(tiny_folders["epsilon"])
    config = {**tiny.pipeline.scheduler.config, "timestep_spacing": spacing}
    scheduler = make_scheduler("ddim", config, 8)
    (chunk,) = chunks(drawn_clip(2), [2], tiny)
    denoiser = Denoiser(tiny, manager([]).hook, momentum=0)
    with torch.no_grad():
        ours, first = Invert(PROMPT, 0).initial_latents(chunk, scheduler, steps_of(scheduler), tiny, denoiser)
        inverse = diffusers.DDIMInverseScheduler.from_config(config)
        inverse.set_timesteps(8)
        embeds = tiny.embed(PROMPT, "", 32, 32)[0].prompt_embeds
        for index, latents in enumerate(tiny.encode(chunk.pixels)):
            latents = latents[None]
            for t in inverse.timesteps:
                prediction = tiny.unet(latents, t, encoder_hidden_states=embeds).sample
                latents = inverse.step(prediction, t, latents).prev_sample
            assert torch.allclose(ours[index], latents[0], atol=1e-4)
    assert first == 0


@pytest.mark.parametrize("scheduler", ["dpm++", "unipc", "lcm"])
def test_other_schedulers_are_refused_in_one_line(tiny, scheduler):
    with pytest.raises(UsageError, match="use `scheduler='ddim'`") as error:
        zs2kit.edit(drawn_clip(1), model=tiny, plugins=[Invert()], scheduler=scheduler)
    assert "\n" not in str(error.value)


def test_euler_is_inverted_too(puppets, chunk):
    once, often = (returned(puppets, chunk, [Invert(PROMPT, count)], scheduler="euler") for count in (1, 4))
    print(f"euler: corrected once {once:.1f}, four times {often:.1f} dB")
    assert often > 40 and often > once


def test_flow_matching_is_inverted_too(tiny_folders):
    """A random network takes more corrections than a trained one."""
    model = zs2kit.Model.load(tiny_folders["epsilon"])
    model.pipeline.register_modules(scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    (cut,) = chunks(drawn_clip(2), [2], model)
    once, often = (returned(model, cut, [Invert(PROMPT, count)], num_inference_steps=20) for count in (1, 8))
    print(f"flow matching: corrected once {once:.1f}, eight times {often:.1f} dB")
    assert often > 30 and often > once + 10


def test_bad_options_are_refused(tiny):
    with pytest.raises(UsageError, match=r"`invert\.iterations` must be a whole number from 0 up, not -1"):
        zs2kit.edit(drawn_clip(1), model=tiny, plugins=[Invert(iterations=-1)])


def test_only_one_plugin_says_where_to_begin(tiny):
    with pytest.raises(PluginError, match="only one plugin may provide initial_latents"):
        zs2kit.edit(drawn_clip(1), model=tiny, plugins=[Invert(), Strength()])
