"""The filter diffuse: Stable Diffusion's x4 upscaler, sampled like an edit."""

from __future__ import annotations

from functools import cache
from zlib import crc32

import numpy as np
import pytest
import torch

import zs2kit
from zs2kit.carry import Carry
from zs2kit.errors import ModelError, PluginError, UsageError
from zs2kit.filters import Diffuse, diffuse
from zs2kit.filters.base import Passage
from zs2kit.noise import MAX_DIVERGENCE, draw
from zs2kit.testing import check_filter, drawn_clip, two_shots

HEIGHT, WIDTH, FRAMES = 16, 24, 3
QUICK = {"num_inference_steps": 3, "flow_momentum": 0.0}


@pytest.fixture
def upscaler(tiny_folders):
    return str(tiny_folders["upscaler"])


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch):
    """Loading takes longer than drawing, and `check_filter` makes many filters."""
    monkeypatch.setattr(diffuse.Model, "load", cache(diffuse.Model.load))


def clip(frames=FRAMES, height=HEIGHT, width=WIDTH):
    return drawn_clip(frames, height=height, width=width)


def passage_of(clip, index=0, count=None):
    images = np.stack([frame.image for frame in clip])[index : None if count is None else index + count]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    return Passage(index, pixels, pixels[:0])


@torch.no_grad()
def drawn(upscaler, given=None, **options):
    """What the filter makes of the frames together, in one call."""
    given = given or clip()
    filter = Diffuse(4.0, upscaler, **{**QUICK, **options})(given).filter
    return filter.run(passage_of(given), Carry())


def seeded(generator_of):
    """A generator that draws what `zs2kit.noise.draw` draws for a purpose and a frame."""
    entropy = np.random.SeedSequence([0, *generator_of])
    return torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0]))


@pytest.mark.parametrize(("guidance_scale", "noise_level"), [(9.0, 20), (1.0, 0), (4.0, 300)])
def test_parity_with_the_diffusers_pipeline(upscaler, guidance_scale, noise_level):
    negative = "a cat" if guidance_scale > 1 else ""
    ours = drawn(
        upscaler,
        prompt="a disc",
        negative_prompt=negative,
        guidance_scale=guidance_scale,
        noise_level=noise_level,
        momentum=0.0,
        divergence=MAX_DIVERGENCE,
    )
    pipeline = zs2kit.Model.load(upscaler).pipeline
    pipeline.set_progress_bar_config(disable=True)
    theirs = []
    for index, frame in enumerate(clip()):
        made = pipeline(
            "a disc",
            image=torch.from_numpy(frame.image).permute(2, 0, 1)[None] / 255,
            negative_prompt=negative,
            num_inference_steps=3,
            guidance_scale=guidance_scale,
            noise_level=noise_level,
            latents=draw((4, HEIGHT, WIDTH), 0, "initial", index)[None],
            generator=seeded([crc32(b"small"), index, 0]),
            output_type="pt",
        )
        theirs.append(made.images[0])
    assert ours.shape == (FRAMES, 3, 4 * HEIGHT, 4 * WIDTH)
    worst = (ours - torch.stack(theirs)).abs().max().item()
    print(f"largest difference, guidance {guidance_scale}, noise level {noise_level}: {worst:.1e}")
    assert worst <= 1e-3


def test_parity_would_notice_another_noise_level(upscaler):
    how = {"momentum": 0.0, "divergence": MAX_DIVERGENCE}
    assert (
        drawn(upscaler, noise_level=20, **how) - drawn(upscaler, noise_level=60, **how)
    ).abs().max() > 1e-2


def test_each_of_the_three_recursions_acts(upscaler):
    moving = clip(height=32, width=32)
    plain = {"momentum": 0.0, "divergence": MAX_DIVERGENCE}
    alone = drawn(upscaler, moving, **plain)
    for name, value in (("momentum", 0.9), ("divergence", 0.1), ("flow_momentum", 0.9)):
        changed = drawn(upscaler, moving, **{**plain, name: value})
        torch.testing.assert_close(changed[0], alone[0], atol=1e-4, rtol=0)
        assert (changed[1:] - alone[1:]).abs().max() > 1e-3, name


def test_it_keeps_the_laws(upscaler):
    check_filter(
        Diffuse(4.0, upscaler, momentum=0.9, divergence=0.4, num_inference_steps=1, flow_momentum=0.0),
        clip=two_shots(side=16),
    )


def test_sizes_that_its_network_cannot_divide_are_padded(upscaler):
    made = Diffuse(2.0, upscaler, **QUICK)(clip(2, 15, 21))
    assert (made.width, made.height) == (42, 30)
    assert [frame.image.shape for frame in made] == [(30, 42, 3)] * 2


def test_after_an_edit_the_result_has_the_size_of_the_clip(upscaler, tiny_folders):
    edit = zs2kit.edit(
        drawn_clip(2, height=96, width=80),
        "a robot",
        model=tiny_folders["epsilon"],
        plugins=[],
        num_inference_steps=2,
        flow_momentum=0.0,
    )
    made = list(Diffuse(model=upscaler, **QUICK)(edit))
    assert [frame.image.shape for frame in made] == [(96, 80, 3)] * 2
    plain = list(edit)
    assert np.abs(made[0].image.astype(int) - plain[0].image).max() > 8


def test_another_model_is_no_upscaler(tiny_folders, tmp_path):
    (tmp_path / "file.safetensors").touch()
    with pytest.raises(ModelError, match=r"file.safetensors: this is a file; give a folder"):
        Diffuse(2.0, str(tmp_path / "file.safetensors"))(clip())
    with pytest.raises(ModelError, match="is not an x4 upscaler"):
        Diffuse(2.0, str(tiny_folders["epsilon"]))(clip())


def test_too_much_noise_is_an_error(upscaler):
    with pytest.raises(UsageError, match=r"`diffuse.noise_level` is at most 350"):
        Diffuse(2.0, upscaler, noise_level=351)(clip())


def test_an_upscaler_edits_nothing(upscaler):
    with pytest.raises(PluginError, match="use it in diffuse"):
        list(zs2kit.edit(clip(), model=upscaler, plugins=[]))


def test_overflow_is_an_error(upscaler, monkeypatch):
    made = Diffuse(2.0, upscaler, **QUICK)(clip(1))
    weight = made.filter._scan.model.vae.decoder.conv_out.weight
    monkeypatch.setattr(weight, "data", torch.full_like(weight, 3e38))
    with pytest.raises(ModelError, match="overflows at frame 0, even in float32"):
        list(made)
