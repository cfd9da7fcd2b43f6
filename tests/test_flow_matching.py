"""Flow matching in the sampler: its schedulers, noise levels and guidance."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

import zs2kit
from zs2kit import Model
from zs2kit.errors import ModelError, UsageError
from zs2kit.noise import MAX_DIVERGENCE, dependency_noise
from zs2kit.schedule import (
    FLOW_SCHEDULERS,
    SCHEDULERS,
    add_noise,
    advance,
    begin,
    estimate,
    levels,
    line,
    make_scheduler,
    steps_of,
    with_levels_of,
)
from zs2kit.testing import SAME, chunks, drawn_clip, edited_pixels, make_scan
from zs2kit_plugins.invert import Invert
from zs2kit_plugins.strength import Strength

CPU = torch.device("cpu")
CONFIG = FlowMatchEulerDiscreteScheduler(shift=3.0).config
FRAMES = 4
NOISE = torch.linspace(-2, 2, 9).view(9, 1, 1, 1)


@pytest.fixture(scope="module")
def flow(tiny_folders) -> Model:
    """A U-Net whose checkpoint says that it was trained by flow matching."""
    model = Model.load(tiny_folders["epsilon"])
    model.pipeline.register_modules(scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    return model


def pixels(model, plugins=(), sizes=(FRAMES,), *, carried=True, **settings) -> torch.Tensor:
    scan = make_scan(model, plugins, **settings)
    return edited_pixels(scan, chunks(drawn_clip(FRAMES), sizes, model), carried=carried)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scheduler", FLOW_SCHEDULERS)
def test_chunk_size_does_not_matter(flow, scheduler):
    whole = pixels(flow, scheduler=scheduler)
    assert difference(pixels(flow, sizes=[3, 1], scheduler=scheduler), whole) <= SAME
    assert difference(pixels(flow, sizes=[3, 1], scheduler=scheduler, carried=False), whole) > 10 * SAME


def test_euler_is_the_default_and_takes_the_steps_of_diffusers(flow):
    """Without momentum and guidance, an edit is a loop of x + (s' - s) v."""
    scan = make_scan(flow, momentum=0, divergence=MAX_DIVERGENCE, guidance_scale=1.0)
    assert scan.settings.scheduler == "euler"
    (chunk,) = chunks(drawn_clip(2), [2], flow)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(8)
    latents = dependency_noise(flow.latent_shape(32, 32), range(2), MAX_DIVERGENCE, 0)
    embeds = flow.embed("a red robot", "", 32, 32)[0].prompt_embeds.expand(2, -1, -1)
    with torch.no_grad():
        for t in scheduler.timesteps:
            velocity = flow.unet(latents, t, encoder_hidden_states=embeds).sample
            latents = scheduler.step(velocity, t, latents).prev_sample
    assert difference(edited_pixels(scan, [chunk]), flow.decode(latents)) <= 1e-5


def drawn_by(name: str, steps: int) -> torch.Tensor:
    """Where a scheduler takes noise, with the exact velocity for pictures that are N(2, 0.5^2)."""
    scheduler = make_scheduler(name, FlowMatchEulerDiscreteScheduler().config, steps)
    latents = NOISE
    for step in steps_of(scheduler):
        if step.index == 0:
            begin(scheduler, step)
        sigma = levels(scheduler, step)[1]
        a, b = 1 - sigma, sigma  # latents = a picture + b noise
        gain = (0.25 * a) / (0.25 * a * a + b * b)
        picture = 2 + gain * (latents - 2 * a)
        velocity = (latents - picture) / max(sigma, 1e-9)
        latents = advance(scheduler, velocity, step, latents, lambda _: torch.zeros(9, 1, 1, 1))
    return latents


@pytest.mark.parametrize("name", ["euler", "dpm++", "unipc"])
def test_all_solvers_lead_to_the_same_picture(name):
    """The flow takes noise n to 2 + 0.5 n, and more steps come nearer."""
    few, many = (difference(drawn_by(name, steps), 2 + 0.5 * NOISE) for steps in (20, 200))
    print(f"{name}: {few:.1e} in 20 steps, {many:.1e} in 200")
    assert many < 0.02 and many < few / 4


@pytest.mark.parametrize("name", FLOW_SCHEDULERS)
def test_every_scheduler_has_the_levels_of_the_family(name):
    """A family's own spacing and its shift by the size of the picture are not lost."""
    euler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02)
    euler.set_timesteps(sigmas=[1.0, 0.7, 0.4, 0.1], mu=0.9)
    scheduler = with_levels_of(euler, name)
    assert torch.equal(scheduler.timesteps, euler.timesteps)
    assert torch.allclose(scheduler.sigmas, euler.sigmas, atol=2e-6)
    assert [round(sum(levels(scheduler, each)), 6) for each in steps_of(scheduler)] == [1.0] * 4


def test_noise_is_added_as_by_scale_noise():
    scheduler = make_scheduler("euler", CONFIG, 8)
    latents, noise = random(2, 2, 4, 8, 8)
    for step in steps_of(scheduler):
        theirs = scheduler.scale_noise(latents, step.timestep[None], noise)
        assert torch.allclose(add_noise(scheduler, latents, noise, step), theirs, atol=1e-6)


@pytest.mark.parametrize("name", FLOW_SCHEDULERS)
def test_the_estimate_is_the_picture(name):
    picture, noise = random(2, 1, 4, 8, 8)
    scheduler = make_scheduler(name, CONFIG, 8)
    for step in steps_of(scheduler):
        a, b = estimate(scheduler, step)
        found = a * add_noise(scheduler, picture, noise, step) + b * (noise - picture)
        assert torch.allclose(found, picture, atol=1e-5)


def test_lcm_adds_as_much_noise_as_diffusers_does(monkeypatch):
    """diffusers draws that noise itself; given ours in its place, the steps must be the same."""
    import diffusers.schedulers.scheduling_flow_match_lcm as module

    noise = random(2, 4, 8, 8, seed=1)
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: noise)
    ours, theirs = (make_scheduler("lcm", CONFIG, 4) for _ in range(2))
    a = b = random(2, 4, 8, 8)
    for step in steps_of(ours):
        prediction = torch.tanh(a)
        a = advance(ours, prediction, step, a, lambda _: noise)
        b = theirs.step(prediction, step.timestep, b, return_dict=False)[0]
        assert torch.allclose(a, b, atol=1e-5)


def test_steps_that_a_config_makes_random_get_our_noise():
    """A checkpoint may say `stochastic_sampling`; its noise must follow the chain like any other."""
    config = FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True).config
    scheduler, noise = make_scheduler("euler", config, 4), random(2, 4, 8, 8, seed=1)
    latents, prediction = random(2, 2, 4, 8, 8)
    step = steps_of(scheduler)[1]
    ours = advance(scheduler, prediction, step, latents, lambda _: noise)
    sigma, after = scheduler.sigmas[1:3]
    assert torch.allclose(ours, (1 - after) * (latents - sigma * prediction) + after * noise, atol=1e-6)
    with pytest.raises(UsageError, match="can't be inverted"):
        line(scheduler, step)


def test_a_step_of_euler_is_a_line():
    scheduler = make_scheduler("euler", CONFIG, 8)
    latents, prediction = random(2, 3, 4, 8, 8)
    for step in steps_of(scheduler):
        keep, take = line(scheduler, step)
        assert (keep, take) == pytest.approx(
            (1.0, float(scheduler.sigmas[step.index + 1] - scheduler.sigmas[step.index]))
        )
        fresh = make_scheduler("euler", CONFIG, 8)
        begin(fresh, step)
        stepped = fresh.step(prediction, step.timestep, latents)[0]
        assert torch.allclose(keep * latents + take * prediction, stepped, atol=1e-5)


@pytest.mark.parametrize("name", ["dpm++", "unipc", "lcm"])
def test_other_steps_are_no_lines(name):
    scheduler = make_scheduler(name, CONFIG, 8)
    with pytest.raises(UsageError, match=r"can't be inverted; use `scheduler='euler'`"):
        line(scheduler, steps_of(scheduler)[0])


@pytest.mark.parametrize("plugin", [Strength(0.5), Invert()])
def test_plugins_that_start_from_the_source(flow, plugin):
    whole = pixels(flow, [plugin], guidance_scale=1.0)
    assert difference(pixels(flow, [plugin], [2, 2], guidance_scale=1.0), whole) <= SAME
    assert difference(pixels(flow, guidance_scale=1.0), whole) > 10 * SAME


def test_flow_momentum_acts(flow):
    assert difference(pixels(flow, [Strength()], flow_momentum=0.9), pixels(flow, [Strength()])) > 10 * SAME


def test_ddim_is_refused_in_one_line(flow):
    with pytest.raises(UsageError, match=r"'ddim' can't be used .*; choose from euler") as error:
        zs2kit.edit(drawn_clip(1), plugins=(), model=flow, scheduler="ddim")
    assert "\n" not in str(error.value)


def test_the_defaults_come_from_the_checkpoint(flow, tiny_folders):
    assert zs2kit.edit(drawn_clip(1), plugins=(), model=flow).settings.scheduler == "euler"
    plain = zs2kit.edit(drawn_clip(1), plugins=(), model=tiny_folders["epsilon"])
    assert plain.settings.scheduler == "ddim"


def test_both_kinds_have_the_same_names():
    assert set(FLOW_SCHEDULERS) < set(SCHEDULERS)


@pytest.mark.parametrize(
    ("guided", "settings", "message"),
    [
        ("embedded", {"negative_prompt": "blurry"}, "no use for `negative_prompt`"),
        ("none", {"negative_prompt": "blurry"}, "no use for `negative_prompt`"),
        ("none", {"guidance_scale": 3.5}, "`guidance_scale` can't be 3.5; leave it out"),
    ],
)
def test_guidance_of_distilled_models_is_checked_first(tiny_folders, guided, settings, message):
    model = Model.load(tiny_folders["epsilon"])
    model.network = Distilled(model.network, guided)
    with pytest.raises(UsageError, match=message):
        zs2kit.edit(drawn_clip(1), plugins=(), model=model, **settings)


class Distilled:
    """A network that says how it is guided."""

    def __init__(self, network, guided: str) -> None:
        self.network = network
        self.guided = guided
        self.guidance_scale = 1.0

    def __getattr__(self, name: str):
        return getattr(self.network, name)


def test_a_distilled_network_is_called_once_a_step(tiny_folders):
    model = Model.load(tiny_folders["epsilon"])
    plain = pixels(model, guidance_scale=1.0)
    model.network = Distilled(model.network, "none")
    assert torch.equal(pixels(model), plain)


def test_a_unet_of_flow_matching_says_how_it_is_sampled(flow, tmp_path):
    """The scheduler's config alone says so, and it is seldom the case."""
    flow.pipeline.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="flow matching, since its scheduler is a FlowMatchEuler"):
        model = Model.load(tmp_path)
    assert model.network.scheduler == "euler"


def test_the_shift_counts_whatever_a_scheduler_calls_it():
    config = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ).config
    ours, theirs = (make_scheduler("euler", each, 4).sigmas for each in (config, CONFIG))
    assert torch.equal(ours, theirs)
    unshifted = make_scheduler("euler", FlowMatchEulerDiscreteScheduler().config, 4).sigmas
    assert difference(ours, unshifted) > 0.1


@pytest.mark.parametrize("scheduler", ["EDMEulerScheduler", "IPNDMScheduler", "RePaintScheduler"])
def test_other_noise_levels_are_refused(tiny_folders, scheduler):
    """Not taken for flow matching because their configs don't say what is predicted."""
    pipeline = Model.load(tiny_folders["epsilon"]).pipeline
    pipeline.register_modules(scheduler=getattr(diffusers, scheduler)())
    with pytest.raises(ModelError, match=f"noise levels that zs2kit can't sample, those of a {scheduler}"):
        Model(pipeline, "other")
