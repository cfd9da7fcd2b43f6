"""The strength plugin: image-to-image as diffusers has it, frame by frame."""

from __future__ import annotations

import diffusers
import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img as img2img
import diffusers.schedulers.scheduling_lcm as lcm
import pytest
import torch

import zs2kit
from zs2kit.errors import UsageError
from zs2kit.noise import MAX_DIVERGENCE, dependency_noise
from zs2kit.puppets.world import Scene, motion_scenes, render
from zs2kit.schedule import SCHEDULERS, add_noise, make_scheduler, steps_of
from zs2kit.testing import check_plugin, chunks, drawn_clip, edited_pixels, make_scan
from zs2kit_plugins.strength import Strength

SAME = 1e-4  # of decoded frames in [0, 1], float32
FRAMES = 2
STEPS = 8


def cut(model):
    return chunks(drawn_clip(FRAMES), [FRAMES], model)


def pixels(model, plugins, **settings):
    return edited_pixels(make_scan(model, plugins, num_inference_steps=STEPS, **settings), cut(model))


def difference(a, b):
    return (a - b).abs().max().item()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_parity_with_the_diffusers_pipeline(tiny, scheduler, strength, monkeypatch):
    settings = {"scheduler": scheduler, "momentum": 0, "divergence": MAX_DIVERGENCE}
    ours = pixels(tiny, [Strength(strength)], **settings)
    other = pixels(tiny, [Strength(0.8)], **settings)
    theirs = reference(tiny, scheduler, strength, monkeypatch)
    worst = difference(ours, theirs)
    kind = tiny.pipeline.scheduler.config["prediction_type"]
    print(f"largest difference, {kind}, {scheduler}, strength {strength}: {worst:.1e}")
    assert worst <= 1e-3
    assert difference(other, theirs) > 1e-2


def reference(model, scheduler, strength, monkeypatch):
    """What StableDiffusionImg2ImgPipeline makes of the same source and noise."""
    components = dict(model.pipeline.components)
    components["scheduler"] = make_scheduler(scheduler, model.pipeline.scheduler.config, STEPS)
    pipeline = diffusers.StableDiffusionImg2ImgPipeline(**components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    shape = model.latent_shape(32, 32)
    noise = dependency_noise(shape, range(FRAMES), MAX_DIVERGENCE, 0)
    first = STEPS - int(STEPS * strength)
    step_noise = [
        dependency_noise(shape, range(FRAMES), MAX_DIVERGENCE, 0, purpose="step", step=step)
        for step in range(first, STEPS - 1)
    ]
    (chunk,) = cut(model)
    made = []
    for frame, latents in enumerate(model.encode(chunk.pixels)):
        # The pipeline draws the first noise itself, and LCM that of its steps: both get ours.
        drawn = iter([each[frame : frame + 1] for each in step_noise])
        monkeypatch.setattr(img2img, "randn_tensor", lambda *_, _of=frame, **__: noise[_of : _of + 1])
        monkeypatch.setattr(lcm, "randn_tensor", lambda *_, _drawn=drawn, **__: next(_drawn))
        made.append(
            pipeline(
                "a red robot",
                image=latents[None],
                strength=strength,
                num_inference_steps=STEPS,
                guidance_scale=5.0,
                output_type="pt",
            ).images
        )
    return torch.cat(made)


def test_strength_1_is_no_plugin_where_the_last_timestep_is_pure_noise(tiny):
    """As it is at zero terminal SNR; elsewhere, as in diffusers, a trace of the source remains."""
    change = difference(pixels(tiny, [Strength(1.0)]), pixels(tiny, []))
    zero_snr = tiny.pipeline.scheduler.config["rescale_betas_zero_snr"]
    assert (change <= SAME) == zero_snr


def test_less_strength_keeps_more_of_the_source():
    """On the bundled model: what is untrained doesn't draw what it is given."""
    model = zs2kit.Model.load()
    images = [render(each, 128).image for each in motion_scenes(Scene("robot", "red", "city"), "dance", 1)]
    cut = chunks(zs2kit.Clip.from_images(images, 12), [1], model)
    away = []
    for strength in (0.2, 0.5, 1.0):
        scan = make_scan(model, [Strength(strength)], prompt="a blue knight on the beach")
        away.append((edited_pixels(scan, cut) * 2 - 1 - cut[0].pixels).abs().mean().item())
    print("mean difference from the source at strength 0.2, 0.5 and 1:", away)
    assert away == sorted(away) and away[0] < away[2] / 4


@pytest.mark.parametrize("scheduler", ["unipc", "lcm"])
def test_it_keeps_the_laws_with_schedulers_that_count_their_steps(scheduler):
    check_plugin(Strength(), scheduler=scheduler)


def test_steps_are_told_apart_where_timesteps_repeat(tiny):
    """Karras' spacing of many steps rounds several to one timestep."""
    config = {**tiny.pipeline.scheduler.config, "use_karras_sigmas": True}
    scheduler = make_scheduler("dpm++", config, 100)
    steps = steps_of(scheduler)
    index = next(i for i in range(1, 100) if steps[i].timestep == steps[i - 1].timestep) - 1
    noise = torch.ones(1, 4, 8, 8)
    noisy = add_noise(scheduler, torch.zeros_like(noise), noise, steps[index])
    sigma = scheduler.sigmas[index]
    assert noisy.mean().item() == pytest.approx((sigma / (1 + sigma**2) ** 0.5).item(), rel=1e-5)
    assert scheduler.sigmas[index + 1] < 0.99 * sigma


@pytest.mark.parametrize(
    "strength, message",
    [(0.1, "less than one step; raise"), (0.0, "less than one step"), (1.5, "`strength.strength` must be")],
)
def test_bad_strengths_are_one_line(tiny, strength, message):
    with pytest.raises(UsageError, match=message) as error:
        zs2kit.edit(drawn_clip(1), model=tiny, plugins=[Strength(strength)], num_inference_steps=8)
    assert "\n" not in str(error.value)
