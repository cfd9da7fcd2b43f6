"""The VAE in parts, and the tiny VAE: which one is taken, which is refused, and what it may change."""

from __future__ import annotations

import shutil
from pathlib import Path

import diffusers
import huggingface_hub
import numpy as np
import pytest
import torch

import zs2kit
from zs2kit import Model
from zs2kit.errors import ModelError
from zs2kit.networks import loading
from zs2kit.testing import chunks, drawn_clip, edited_pixels, make_scan
from zs2kit.vae import VAE
from zs2kit_plugins.pose import Pose

WEIGHTS = Path(zs2kit.__file__).parent / "puppets/weights"


def tiny_vae(folder: Path, **config) -> Path:
    """Save a random tiny VAE."""
    widths = {"encoder_block_out_channels": (8, 8, 8, 8), "decoder_block_out_channels": (8, 8, 8, 8)}
    blocks = {"num_encoder_blocks": (1, 1, 1, 1), "num_decoder_blocks": (1, 1, 1, 1)}
    diffusers.AutoencoderTiny(**{**widths, **blocks, **config}).save_pretrained(folder)
    return folder


def test_fewer_at_once_when_memory_runs_out(tiny):
    pixels = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = tiny.encode(pixels), tiny.decode(tiny.encode(pixels))
    vae, seen = VAE(tiny.vae), []
    vae._at_once = 8

    def small(module, inputs):
        seen.append(len(inputs[0]))
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hooks = [each.register_forward_pre_hook(small) for each in (vae.module.encoder, vae.module.decoder)]
    try:
        latents = vae.encode(pixels)
        assert seen == [5, 4, 2, 2, 1] and torch.allclose(latents, expected[0], atol=1e-5)
        seen.clear()
        assert torch.allclose(vae.decode(latents), expected[1], atol=1e-5) and seen == [2, 2, 1]
        vae.module.decoder.register_forward_pre_hook(lambda *_: small(None, [range(3)]), prepend=True)
        with pytest.raises(torch.OutOfMemoryError):  # with one frame, too
            vae.decode(latents)
    finally:
        vae.module.decoder._forward_pre_hooks.clear()
        for each in hooks:
            each.remove()


def test_the_bundled_model_has_one_and_it_hardly_shows():
    ours, whole = Model.load(), Model.load(tiny_vae="none")
    assert type(ours.tiny_vae).__name__ == "AutoencoderTiny" and whole.tiny_vae is None
    clip = zs2kit.read(Path(__file__).parents[1] / "samples/robot-dance.mp4", end=0.25)
    clip = zs2kit.Clip.from_images([frame.image for frame in clip], 12)

    def drawn(model, momentum):
        settings = {"num_inference_steps": 5, "flow_momentum": momentum}
        scan = make_scan(model, [Pose()], clip, **settings)
        return edited_pixels(scan, chunks(clip, [3], model))

    with_it, without = drawn(ours, 0.95), drawn(whole, 0.95)
    apart = (with_it - without).square().mean()
    effect = (without - drawn(whole, 0.0)).square().mean()
    assert 0 < apart < 0.3 * effect
    assert torch.equal(drawn(ours, 0.0), drawn(whole, 0.0))  # it is for flow momentum alone


def test_finished_frames_come_from_the_vae_itself():
    model = Model.load(tiny_vae=WEIGHTS / "tiny_vae")
    latents = torch.randn(1, *model.latent_shape(64, 64), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.decode(latents), Model.load(tiny_vae="none").decode(latents))
    assert not torch.equal(model.decode(latents), model.estimates.decode(latents))


def test_weights_and_float32_include_it():
    """So that an edit isn't resumed with another one, and doesn't overflow in it."""
    model = Model.load(dtype="bfloat16")
    assert model.tiny_vae in model.modules
    with model.in_float32():
        assert {each.dtype for each in model.tiny_vae.parameters()} == {torch.float32}
    assert {each.dtype for each in model.tiny_vae.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("config", "model"), [({}, "puppets"), ({"latent_channels": 16}, "puppets"), ({}, "epsilon")]
)
def test_one_of_another_family_is_refused(tmp_path, tiny_folders, config, model):
    """By what it makes of a picture; the tiny model's VAE has fewer levels."""
    folder = tiny_vae(tmp_path / "other", **config)
    with pytest.raises(ModelError, match=r"other was made for another family of models than") as caught:
        Model.load(tiny_folders.get(model, model), tiny_vae=folder)
    assert "tiny_vae='none'" in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_tiny_vae_is_refused(tmp_path):
    with pytest.raises(ModelError, match="is a UNet2DConditionModel; give a tiny VAE"):
        Model.load(tiny_vae=WEIGHTS / "unet")
    with pytest.raises(ModelError, match=r"`tiny_vae`: .*nothing: there is no such folder"):
        Model.load(tiny_vae=tmp_path / "nothing")


def test_auto_takes_what_the_hubs_cache_has_if_it_fits(tmp_path, monkeypatch):
    """A checkpoint without one of its own, and a cache as the hub's client makes it."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler", "model_index.json"):
        (checkpoint / part).symlink_to(WEIGHTS / part)
    assert Model.load(checkpoint).tiny_vae is None
    factor = Model.load(checkpoint).vae.config.scaling_factor
    monkeypatch.setattr(loading, "_TINY_VAES", {(4, factor): "someone/tiny"})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert Model.load(checkpoint).faster == "someone/tiny"
    cached = tmp_path / "cache/models--someone--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("abc")
    shutil.copytree(WEIGHTS / "tiny_vae", cached / "snapshots/abc")
    model = Model.load(checkpoint)
    assert model.tiny_vae is not None and model.faster is None
    shutil.rmtree(cached / "snapshots/abc")
    tiny_vae(cached / "snapshots/abc")
    assert Model.load(checkpoint).tiny_vae is None


def test_a_notice_says_once_what_would_be_faster(tmp_path, tiny_folders):
    """For a VAE like that of Stable Diffusion, if flow momentum acts."""
    folder = shutil.copytree(tiny_folders["epsilon"], tmp_path / "checkpoint")
    shutil.rmtree(folder / "vae")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = diffusers.AutoencoderKL(block_out_channels=(8,) * 4, norm_num_groups=4, sample_size=64, **blocks)
    vae.save_pretrained(folder / "vae")

    def said(flow_momentum, tiny_vae="auto"):
        notices = []
        settings = {"flow_momentum": flow_momentum, "plugins": (), "notices": notices.append}
        model = Model.load(folder, tiny_vae=tiny_vae)
        edited = zs2kit.edit(
            drawn_clip(2, width=64, height=64),
            "a cat",
            model=model,
            num_inference_steps=2,
            chunk_size=1,
            **settings,
        )
        assert len(np.stack([frame.image for frame in edited])) == 2
        return [notice for notice in notices if notice.kind == "default-tiny-vae"]

    (notice,) = said(0.9)
    assert "tiny_vae='madebyollin/taesd'" in str(notice)
    assert said(0.0) == said(0.9, "none") == []
