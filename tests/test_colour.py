"""Colour: the low frequencies of what is drawn are those of the source, and the rest is the prompt's."""

from __future__ import annotations

import re

import pytest
import torch

import zs2kit
from zs2kit.errors import UsageError
from zs2kit.puppets.world import Scene, motion_scenes, render
from zs2kit.schedule import SCHEDULERS, Step
from zs2kit.testing import check_plugin, chunks, drawn_clip, edited_pixels, make_scan, tiny_models
from zs2kit_plugins.colour import Colour, low_pass

FRAMES = 2
BOUND = 1 / 255  # of a patch's mean colour, in [0, 1]


def coarse(pictures: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The means of patches, by other means than the plugin's."""
    return torch.nn.functional.adaptive_avg_pool2d(pictures, (rows, columns))


@pytest.mark.parametrize("size", [(32, 32), (36, 64), (40, 24)])
@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (3, 7)])
def test_what_is_coarse_is_a_projection_that_keeps_the_means_of_patches(size, grid):
    pictures = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    once = low_pass(pictures, grid)
    assert (low_pass(once, grid) - once).abs().max() <= 1e-5
    assert (coarse(once, *grid) - coarse(pictures, *grid)).abs().max() <= 1e-5
    assert once.std() < pictures.std() / 2
    assert torch.allclose(low_pass(torch.full_like(pictures, 0.3), grid), torch.tensor(0.3))


def test_patches_as_small_as_pixels_are_the_picture():
    pictures = torch.rand(1, 4, 8, 6)
    assert torch.allclose(low_pass(pictures, (20, 20)), pictures)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_to_the_end_the_patches_have_the_colours_of_the_source(tiny, scheduler):
    (chunk,) = chunks(drawn_clip(FRAMES), [FRAMES], tiny)
    source = coarse(chunk.pixels / 2 + 0.5, 4, 4)

    def off(*plugins):
        scan = make_scan(tiny, plugins, scheduler=scheduler, flow_momentum=0.5)
        return (coarse(edited_pixels(scan, [chunk]), 4, 4) - source).abs().max().item()

    apart = [off(Colour(patch=25, end=1)), off(Colour(patch=25, end=1, scale=0.5)), off()]
    print(f"{scheduler}: patches are off by up to", apart)
    assert apart[0] <= BOUND < 0.1 < apart[2]
    assert apart[0] < apart[1] < apart[2]


@pytest.fixture(scope="module")
def desert() -> tuple[zs2kit.Model, list]:
    """The bundled model, for what is untrained draws no deserts, and two frames in one."""
    model = zs2kit.Model.load()
    scenes = motion_scenes(Scene("robot", "red", "desert", background=2), "walk", FRAMES)
    clip = zs2kit.Clip.from_images([render(each, 128).image for each in scenes], 12)
    return model, chunks(clip, [FRAMES], model)


@pytest.mark.slow
def test_a_desert_stays_one_and_a_prompt_chooses_the_figure(desert):
    model, (chunk,) = desert
    source = coarse(chunk.pixels / 2 + 0.5, 8, 8)

    def off(*plugins):
        """How far the patches beside the figure, at both edges, are from the source's."""
        scan = make_scan(model, plugins, prompt="a blue knight", num_inference_steps=20, guidance_scale=5.0)
        return (coarse(edited_pixels(scan, [chunk]), 8, 8) - source)[..., [0, 1, 6, 7]].abs().mean().item()

    apart = [off(Colour()), off(Colour(patch=50)), off(Colour(scale=0.02)), off()]
    print("patches beside the figure are off by", apart)
    assert apart[0] <= 0.06 and apart[3] > 2 * apart[0]
    assert apart[0] < apart[1] < apart[3] and apart[0] < apart[2] < apart[3]


@pytest.mark.parametrize("options", [{"end": 1.0}, {"start": 0.25, "end": 0.75, "scale": 0.7}])
def test_it_keeps_the_laws(options):
    check_plugin(Colour(patch=25, **options), neutral={"scale": 0.0}, model=tiny_models()["v_prediction"])


def test_at_scale_0_nothing_changes_to_the_bit(tiny):
    cut = chunks(drawn_clip(FRAMES), [FRAMES], tiny)
    none, neutral, act = (
        edited_pixels(make_scan(tiny, plugins, flow_momentum=0.9), cut)
        for plugins in ([], [Colour(scale=0, end=1)], [Colour(scale=0.1)])
    )
    assert torch.equal(none, neutral) and not torch.equal(none, act)


@pytest.mark.parametrize("first, acted", [(0, [2, 3, 4, 5]), (4, [5, 6])])
def test_it_acts_between_start_and_end_of_the_steps_that_are_taken(tiny, first, acted):
    (chunk,) = chunks(drawn_clip(FRAMES), [FRAMES], tiny)
    plugin = Colour(start=0.25, end=0.75)
    plugin.prepare(chunk, tiny)
    steps = [Step(index, torch.tensor(0), 8, first) for index in range(first, 8)]
    estimate = torch.zeros(FRAMES, 4, 8, 8)
    assert [each.index for each in steps if plugin.estimate(each, estimate) is not None] == acted
    assert plugin.decoded(chunk, torch.zeros(FRAMES, 3, 32, 32)) is None


def test_frames_that_are_not_square():
    model = zs2kit.Model.load(tiny_models()["epsilon"])
    clip = drawn_clip(1, width=72, height=40)
    settings = {"model": model, "num_inference_steps": 2, "size": (40, 72), "notices": lambda _: None}
    (edited,) = zs2kit.edit(clip, "a cat", plugins=[Colour(patch=50, end=1)], **settings)
    (source,) = clip
    means = [
        coarse(torch.from_numpy(each.image).permute(2, 0, 1)[None].float(), 2, 4) for each in (edited, source)
    ]
    assert (means[0] - means[1]).abs().max() <= 1.5  # of 255


def test_a_start_after_the_end_is_one_line():
    with pytest.raises(UsageError, match=re.escape("`colour.start` must be before `colour.end`, but they")):
        zs2kit.edit(drawn_clip(1), model=tiny_models()["epsilon"], plugins=[Colour(start=0.6)])


def test_text_alone_has_no_colours_to_keep():
    with pytest.raises(UsageError, match="plugin 'colour' looks at the source's frames"):
        list(zs2kit.generate("a cat", frames=1, model=tiny_models()["epsilon"], plugins=[Colour()]))
