"""The hooks that change what is drawn by a difference: estimate and decoded."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from zs2kit import Plugin, hookimpl, option
from zs2kit.carry import Carry
from zs2kit.motion import FlowMomentum
from zs2kit.scan import Broken
from zs2kit.schedule import SCHEDULERS
from zs2kit.testing import check_plugin, chunks, drawn_clip, edited_pixels, make_scan

FRAMES, STEPS = 2, 8  # ddim reaches the end by steps that divide 1000


@dataclass(eq=False)
class Aims(Plugin):
    """Heads for the source from the first step on."""

    share: float = option(1.0, "How much of the way there a step goes.")

    @hookimpl
    def prepare(self, chunk, model):
        self.target = model.encode(chunk.pixels)
        self.seen = []

    @hookimpl
    def estimate(self, step, estimate, chunk):
        assert estimate.shape == self.target.shape and chunk.length == len(estimate)
        self.seen.append((step.index, estimate.clone()))
        return self.share * (self.target - estimate) if self.share else None


@dataclass(eq=False)
class Lightens(Plugin):
    amount: float = option(0.1, "By how much.")

    @hookimpl
    def decoded(self, chunk, pixels):
        assert pixels.shape == (chunk.length, 3, chunk.height, chunk.width)
        self.seen = pixels.clone()
        return pixels.new_tensor(self.amount).expand_as(pixels) if self.amount else None


class Darkens(Lightens):
    pass


class Shifts(Lightens):
    pass


def cut(model):
    return chunks(drawn_clip(FRAMES), [FRAMES], model)


def scan(model, *plugins, **settings):
    return make_scan(model, plugins, drawn_clip(FRAMES), num_inference_steps=STEPS, **settings)


def plugin_of(scan, name):
    """The copy that an edit works with."""
    return next(each for each in scan.hook.prepare._hookimpls if each.plugin_name == name).plugin


def pixels(model, *plugins, **settings):
    return edited_pixels(scan(model, *plugins, **settings), cut(model))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_steps_go_where_a_plugin_aims(tiny, scheduler):
    source = tiny.decode(tiny.encode(cut(tiny)[0].pixels))
    settings = {"scheduler": scheduler, "guidance_scale": 1.0}
    assert (pixels(tiny, Aims(), **settings) - source).abs().max() <= 1e-3
    assert (pixels(tiny, **settings) - source).abs().max() > 1e-2


def test_it_is_asked_at_every_step_and_comes_before_flow_momentum(tiny, monkeypatch):
    averaged = {}
    average = FlowMomentum.__call__

    def call(self, index, count, denoised):
        averaged[index] = denoised.clone()
        return average(self, index, count, denoised)

    monkeypatch.setattr(FlowMomentum, "__call__", call)
    edit = scan(tiny, Aims(0.5), flow_momentum=0.9)
    edited_pixels(edit, cut(tiny))
    aims = plugin_of(edit, "aims")
    assert [index for index, _ in aims.seen] == [*range(STEPS)] == [*averaged]
    for index, estimate in aims.seen:
        assert torch.equal(averaged[index], estimate + 0.5 * (aims.target - estimate))


def test_nothing_given_changes_nothing_to_the_bit(tiny):
    none = pixels(tiny)
    assert torch.equal(pixels(tiny, Aims(0.0), Lightens(0.0)), none)
    assert not torch.equal(pixels(tiny, Aims(0.01)), none)


def test_differences_add_up_in_any_order_and_are_clipped(tiny):
    none = pixels(tiny)
    plugins = [Lightens(0.4), Darkens(-0.7), Shifts(0.2)]
    expected = (none - 0.1).clamp(0, 1)
    assert (pixels(tiny, *plugins) - expected).abs().max() <= 1e-6
    assert (pixels(tiny, *plugins[::-1]) - expected).abs().max() <= 1e-6
    # one after the other, each clipped, would be something else
    assert (((none + 0.4).clamp(0, 1) - 0.7).clamp(0, 1) + 0.2 - expected).abs().max() > 0.1
    assert pixels(tiny, Lightens(9.0)).eq(1).all()


def test_frames_are_changed_after_flow_momentum_and_not_carried_on(tiny):
    edit = scan(tiny, Lightens(), flow_momentum=0.9)
    (chunk,) = cut(tiny)
    drawn = edit(Carry(), chunk)
    plain = make_scan(tiny, [], drawn_clip(FRAMES), num_inference_steps=STEPS, flow_momentum=0.9)
    without = plain(Carry(), chunk)
    assert torch.equal(drawn.pixels, (without.pixels + 0.1).clamp(0, 1))
    assert {*drawn.carry} == {*without.carry}
    assert all(torch.equal(each, without.carry[name]) for name, each in drawn.carry.items())


@pytest.mark.parametrize("amount", [torch.inf, -torch.inf, torch.nan])
def test_what_is_no_number_is_noticed(tiny, amount):
    @dataclass(eq=False)
    class Breaks(Plugin):
        @hookimpl
        def decoded(self, pixels):
            difference = torch.zeros_like(pixels)
            difference[1, 0, 3, 3] = amount
            return difference

    assert scan(tiny, Breaks())(Carry(), cut(tiny)[0]) == Broken(1)


def test_numbers_that_broke_stay_broken(tiny, monkeypatch):
    decode = tiny.decode

    def broken(latents):
        decoded = decode(latents)
        decoded[1, 2, 3, 4] = torch.nan
        return decoded

    monkeypatch.setattr(tiny, "decode", broken)
    assert scan(tiny, Lightens())(Carry(), cut(tiny)[0]) == Broken(1)


@pytest.mark.parametrize("scheduler", ["euler", "unipc", "lcm"])
def test_the_laws_hold(scheduler, tiny):
    check_plugin(Aims(0.05), neutral={"share": 0.0}, model=tiny, scheduler=scheduler)


def test_the_laws_hold_together(tiny):
    check_plugin(Aims(0.05), Lightens(), Darkens(-0.3), model=tiny, flow_momentum=0.9)
