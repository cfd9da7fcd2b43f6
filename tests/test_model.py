"""Loading checkpoints: what works, and one clear line for what doesn't."""

from __future__ import annotations

import shutil

import diffusers
import pytest
import torch

import zs2kit
from zs2kit import Model
from zs2kit.errors import ModelError, UsageError
from zs2kit.testing import drawn_clip, tiny_model


def test_a_folder_loads_with_its_geometry(tiny_folders):
    model = Model.load(tiny_folders["epsilon"])
    assert model.native_size == (32, 32)
    assert model.vae_scale == 4 and model.multiple == 8
    assert model.latent_shape(32, 64) == (4, 8, 16)
    assert model.dtype == torch.float32 and model.device.type == "cpu"


def test_pixels_survive_encode_and_decode_in_shape_and_range(tiny_folders):
    model = Model.load(tiny_folders["epsilon"])
    latents = model.encode(torch.rand(2, 3, 32, 32) * 2 - 1)
    assert latents.shape == (2, 4, 8, 8)
    pixels = model.decode(latents)
    assert pixels.shape == (2, 3, 32, 32) and pixels.min() >= 0 and pixels.max() <= 1


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_unknown_model():
    with pytest.raises(ModelError) as error:
        Model.load("no-such-model")
    assert "puppets" in one_line(error)


def test_a_hub_name_that_can_not_be_had():
    with pytest.raises(ModelError) as error:
        Model.load("nobody/nothing")
    assert "nobody/nothing" in one_line(error)


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(ModelError) as error:
        Model.load(tmp_path)
    assert "model_index.json" in one_line(error)


def test_a_pickle_is_refused(tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save({}, path)
    with pytest.raises(ModelError) as error:
        Model.load(path)
    assert "safetensors" in one_line(error)


def test_a_folder_of_pickled_weights_is_refused(tiny_folders, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_folders["epsilon"], folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ModelError) as error:
        Model.load(folder)
    assert "safetensors" in one_line(error)


def test_a_file_that_only_claims_to_be_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not weights")
    with pytest.raises(ModelError) as error:
        Model.load(path)
    assert "safetensors" in one_line(error)


def test_a_denoiser_without_self_attention(tmp_path):
    folder = tiny_model(
        tmp_path / "convolutions",
        unet={
            "down_block_types": ("DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D"),
            "mid_block_type": "UNetMidBlock2D",
        },
    )
    with pytest.raises(ModelError) as error:
        Model.load(folder)
    assert "attn1" in one_line(error) and "Stable Diffusion" in str(error.value)


def test_fused_projections_are_refused(tiny_folders):
    model = Model.load(tiny_folders["epsilon"])
    model.unet.fuse_qkv_projections()
    try:
        with pytest.raises(ModelError) as error:
            list(zs2kit.edit(drawn_clip(1), model=model, num_inference_steps=1))
        assert "fused" in one_line(error)
    finally:
        model.unet.unfuse_qkv_projections()


def test_unknown_device_and_dtype(tiny_folders):
    with pytest.raises(UsageError):
        Model.load(tiny_folders["epsilon"], device="abacus")
    with pytest.raises(UsageError):
        Model.load(tiny_folders["epsilon"], dtype="float12")


def test_an_autoencoder_that_overflows_stays_in_float32(tiny_folders):
    model = Model.load(tiny_folders["epsilon"], dtype="float16")
    assert model.dtype == torch.float16
    assert model.vae.config.force_upcast and model.vae.dtype == torch.float32


@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 1.1},
        {"momentum": -0.1},
        {"divergence": 2.0},
        {"divergence": -1.0},
        {"num_inference_steps": 0},
        {"chunk_size": 0},
        {"guidance_scale": -1.0},
        {"seed": -1},
        {"size": (4, 4)},
        {"scheduler": "abacus"},
        {"scheduler": "lcm", "num_inference_steps": 500},
    ],
)
def test_values_out_of_range_are_refused_before_any_work(tiny_folders, settings):
    with pytest.raises(UsageError) as error:
        zs2kit.edit(drawn_clip(1), model=tiny_folders["epsilon"], **settings)
    one_line(error)


def test_a_clip_of_one_frame_and_of_another_shape(tiny_folders):
    frames = list(
        zs2kit.edit(
            drawn_clip(1, width=50, height=20), model=tiny_folders["epsilon"], num_inference_steps=2
        )
    )
    assert len(frames) == 1 and frames[0].image.shape == (20, 50, 3)


def test_sdxl_takes_its_conditions_and_agrees_with_its_pipeline(tmp_path):
    """A tiny SDXL: two text encoders, pooled embeddings, size conditions."""
    import transformers

    from zs2kit.noise import MAX_DIVERGENCE, dependency_noise

    base = diffusers.StableDiffusionPipeline.from_pretrained(
        tiny_model(tmp_path / "base", unet={"cross_attention_dim": 32}), safety_checker=None
    )
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=2,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    settings = base.text_encoder.config.to_dict() | {"projection_dim": 32}
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=base.vae,
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler.from_config(base.scheduler.config),
        tokenizer=base.tokenizer,
        tokenizer_2=base.tokenizer,
        text_encoder=transformers.CLIPTextModel(transformers.CLIPTextConfig(**settings)).eval(),
        text_encoder_2=transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(**settings)
        ).eval(),
    )
    pipeline.save_pretrained(tmp_path / "xl")
    model = Model.load(tmp_path / "xl")
    frames = list(
        zs2kit.edit(
            drawn_clip(2),
            "a cat",
            model=model,
            num_inference_steps=4,
            momentum=0,
            divergence=MAX_DIVERGENCE,
            scheduler="euler",
        )
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = dependency_noise(model.latent_shape(32, 32), range(2), MAX_DIVERGENCE, 0)
    for frame, start in zip(frames, noise, strict=True):
        image = pipeline(
            "a cat",
            latents=start[None],
            num_inference_steps=4,
            guidance_scale=5.0,
            output_type="pt",
            height=32,
            width=32,
        ).images[0]
        ours = torch.from_numpy(frame.image).permute(2, 0, 1) / 255
        assert (ours - image).abs().max() <= 1 / 255
