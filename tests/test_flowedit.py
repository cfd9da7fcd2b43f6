"""The flowedit plugin: what both prompts say alike stays, for all kinds of models."""

from __future__ import annotations

import pytest
import torch

import zs2kit
from zs2kit import Model
from zs2kit.errors import UsageError
from zs2kit.schedule import SCHEDULERS, add_noise, flow_level, flow_velocity, levels, make_scheduler, steps_of
from zs2kit.testing import SAME, check_plugin, chunks, drawn_clip, edited_pixels, make_scan, tiny_models
from zs2kit_plugins.flowedit import FlowEdit

PROMPT = "a red robot"


def drawn(model, plugin, **settings):
    scan = make_scan(model, [plugin], **({"prompt": PROMPT, "guidance_scale": 3.0} | settings))
    (chunk,) = chunks(drawn_clip(2), [2], model)
    return edited_pixels(scan, [chunk]), model.decode(model.encode(chunk.pixels))


def difference(a, b):
    return (a - b).abs().max().item()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flux-dev", "z-image"])
def test_equal_prompts_give_the_source(kind):
    """To what the VAE makes of it, in however many steps, and with momentum."""
    model = Model.load(tiny_models()[kind])
    for steps in (3, 6):
        found, source = drawn(model, FlowEdit(PROMPT, guidance_scale=3.0), num_inference_steps=steps)
        assert difference(found, source) <= SAME
    found, source = drawn(model, FlowEdit("a blue knight", guidance_scale=3.0), num_inference_steps=3)
    assert difference(found, source) > 10 * SAME


@pytest.mark.parametrize(
    ("kind", "strength", "scale", "source"),
    [("epsilon", 0.7, 5.0, 1.5), ("flux-dev", 0.85, 2.0, 0.6), ("z-image", 0.85, 2.0, 0.6)],
)
def test_the_defaults_suit_the_model_and_the_edits_guidance_scale(kind, strength, scale, source):
    model = Model.load(tiny_models()[kind])
    how = {"num_inference_steps": 7, "guidance_scale": scale}
    found, _ = drawn(model, FlowEdit("a blue knight"), **how)
    same, _ = drawn(model, FlowEdit("a blue knight", strength=strength, guidance_scale=source), **how)
    other, _ = drawn(model, FlowEdit("a blue knight", guidance_scale=2 * source), **how)
    assert torch.equal(found, same) and difference(found, other) > SAME
    assert int(7 * 0.85) != int(7 * 0.7)


@pytest.mark.parametrize("kind", ["epsilon", "flux-dev"])
def test_the_laws(kind):
    check_plugin(FlowEdit("a blue knight"), model=tiny_models()[kind], num_inference_steps=4)


def test_all_schedulers_can_be_used():
    model = Model.load(tiny_models()["epsilon"])
    found = [drawn(model, FlowEdit("blue"), scheduler=name, num_inference_steps=8)[0] for name in SCHEDULERS]
    assert all(each.isfinite().all() for each in found)
    assert difference(found[0], found[1]) < 0.1  # their steps lie at nearly the same noise


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_velocity_is_noise_minus_picture(kind):
    """For a network that is right about both."""
    config = Model.load(tiny_models()[kind]).pipeline.scheduler.config
    picture, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for name in ("ddim", "euler"):
        scheduler = make_scheduler(name, config, 8)
        step = steps_of(scheduler)[3]
        signal, amount = levels(scheduler, step)
        right = {"epsilon": noise, "v_prediction": signal * noise - amount * picture}[kind]
        seen = []

        def predict(latents, right=right, seen=seen):
            seen.append(latents)
            return right

        level = flow_level(scheduler, step)
        mixed = (1 - level) * picture + level * noise
        assert torch.allclose(flow_velocity(scheduler, step, mixed, predict), noise - picture, atol=1e-5)
        if name == "ddim":
            assert torch.allclose(seen[0], add_noise(scheduler, picture, noise, step), atol=1e-5)


def test_too_few_steps_are_refused():
    with pytest.raises(UsageError, match="less than one step"):
        zs2kit.edit(
            drawn_clip(1),
            model=tiny_models()["epsilon"],
            plugins=[FlowEdit(strength=0.1)],
            num_inference_steps=4,
        )
