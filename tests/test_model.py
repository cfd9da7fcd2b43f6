"""Loading checkpoints: what works, and one clear line for what doesn't."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import zs2kit
from zs2kit import Model
from zs2kit.control import Control
from zs2kit.errors import ModelError, UsageError
from zs2kit.networks.loading import only_variant
from zs2kit.noise import MAX_DIVERGENCE, dependency_noise
from zs2kit.testing import chunks, drawn_clip, edited_pixels, make_scan, tiny_model
from zs2kit_plugins.instruct import Instruct


def test_a_folder_loads_with_its_geometry(tiny_folders):
    model = Model.load(tiny_folders["epsilon"])
    assert model.native_size == (32, 32)
    assert model.vae_scale == 4 and model.multiple == 8
    assert model.latent_shape(32, 64) == (4, 8, 16)
    assert model.dtype == torch.float32 and model.device.type == "cpu"


def test_threads_may_load_at_once(tiny_folders):
    """While they load, the libraries replace parts of torch: two at once left them replaced."""

    def load(_):
        assert Model.load(tiny_folders["epsilon"]).unet.device.type == "cpu"

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(load, range(6)))
    load(None)


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
            list(zs2kit.edit(drawn_clip(1), plugins=(), model=model, num_inference_steps=1))
        assert "fused" in one_line(error)
    finally:
        model.unet.unfuse_qkv_projections()


def test_unknown_device_and_dtype(tiny_folders):
    with pytest.raises(UsageError):
        Model.load(tiny_folders["epsilon"], device="abacus")
    with pytest.raises(UsageError):
        Model.load(tiny_folders["epsilon"], dtype="float12")


@pytest.mark.parametrize(("kind", "dtype"), [("sdxl", torch.float32), ("epsilon", torch.float16)])
def test_the_autoencoder_of_xl_which_overflows_stays_in_float32(tiny_folders, kind, dtype):
    model = Model.load(tiny_folders[kind], dtype="float16")
    assert model.dtype == torch.float16
    assert model.vae.config.force_upcast and model.vae.dtype == dtype


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
        zs2kit.edit(drawn_clip(1), plugins=(), model=tiny_folders["epsilon"], **settings)
    one_line(error)


def test_a_clip_of_one_frame_and_of_another_shape(tiny_folders):
    frames = list(
        zs2kit.edit(
            drawn_clip(1, width=50, height=20),
            plugins=(),
            model=tiny_folders["epsilon"],
            num_inference_steps=2,
        )
    )
    assert len(frames) == 1 and frames[0].image.shape == (20, 50, 3)


@dataclass(eq=False)
class Picture(Control):
    """Steers with the source's own pixels as the map."""

    def controlnet(self, model):
        return model.bundled("controlnet_pose")

    def detect(self, images, chunk):
        return images


def drawn(model: Model, plugins=(), **settings) -> torch.Tensor:
    """Two frames as an edit draws them without momentum and with independent noise."""
    scan = make_scan(model, plugins, momentum=0, divergence=MAX_DIVERGENCE, **settings)
    return edited_pixels(scan, chunks(drawn_clip(2), [2], model))


PARTS = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "scheduler")


def by_the_pipeline(model: Model, controlnet: Any = None, guidance_scale: float = 5.0) -> torch.Tensor:
    """The same two frames by the checkpoint's own pipeline."""
    pipeline, further = model.pipeline, [{}, {}]
    if controlnet is not None:
        parts = {each: getattr(pipeline, each) for each in PARTS}
        pipeline = diffusers.StableDiffusionXLControlNetPipeline(**parts, controlnet=controlnet)
        maps = chunks(drawn_clip(2), [2], model)[0].pixels / 2 + 0.5
        further = [{"image": each[None]} for each in maps]
    pipeline.set_progress_bar_config(disable=True)
    noise = dependency_noise(model.latent_shape(32, 32), range(2), MAX_DIVERGENCE, 0)
    how = {"num_inference_steps": 8, "guidance_scale": guidance_scale, "output_type": "pt"}
    images = [
        pipeline("a red robot", latents=each[None], height=32, width=32, **how, **more).images
        for each, more in zip(noise, further, strict=True)
    ]
    return torch.cat(images)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def test_sdxl_is_what_its_pipeline_draws(tiny_folders):
    model = Model.load(tiny_folders["sdxl"])
    embeds, negative = model.embed("a cat", "", 32, 48)
    assert embeds.prompt_embeds.shape[-1] == model.unet.config.cross_attention_dim
    assert embeds.conditions["time_ids"].tolist() == [[32, 48, 0, 0, 32, 48]]
    assert not torch.equal(embeds.conditions["text_embeds"], negative.conditions["text_embeds"])
    assert difference(drawn(model), by_the_pipeline(model)) <= 1e-3
    assert difference(drawn(model, guidance_scale=2), by_the_pipeline(model)) > 1e-2


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sdxl"])
def test_a_guidance_scale_of_1_or_less_is_none(tiny_folders, kind, scale):
    """The prompt alone, as in the pipelines; cards of distilled models ask for 0."""
    model = Model.load(tiny_folders[kind])
    ours = drawn(model, guidance_scale=scale)
    assert difference(ours, by_the_pipeline(model, guidance_scale=scale)) <= 1e-3
    assert difference(ours, drawn(model, guidance_scale=scale, prompt="a dog on a tree")) > 1e-2
    with pytest.warns(match="`negative_prompt` has no effect, since a guidance scale of"):
        drawn(model, guidance_scale=scale, negative_prompt="blue")


def test_sdxl_with_a_controlnet_is_what_its_pipeline_draws(tiny_folders):
    model = Model.load(tiny_folders["sdxl"])
    controlnet = model.load_network(diffusers.ControlNetModel, model.bundled("controlnet_pose"))
    steered = drawn(model, [Picture()])
    assert difference(steered, by_the_pipeline(model, controlnet)) <= 1e-3
    assert difference(steered, drawn(model)) > 1e-2


@pytest.fixture(scope="module")
def refiner(tiny_folders, tmp_path_factory):
    """As SDXL's: one text encoder, the second, and five numbers, of which one is an aesthetic score."""
    parts = Model.load(tiny_folders["sdxl"]).pipeline.components
    torch.manual_seed(0)
    narrow = {"cross_attention_dim": 16, "projection_class_embeddings_input_dim": 5 * 8 + 16}
    parts["unet"] = diffusers.UNet2DConditionModel.from_config({**parts["unet"].config, **narrow})
    parts |= {"text_encoder": None, "tokenizer": None}
    folder = tmp_path_factory.mktemp("refiner")
    pipeline = diffusers.StableDiffusionXLImg2ImgPipeline(**parts, requires_aesthetics_score=True)
    pipeline.save_pretrained(folder)
    return Model.load(folder)


def test_a_refiner_is_what_its_pipeline_draws(refiner):
    noise = dependency_noise(refiner.latent_shape(32, 32), range(2), MAX_DIVERGENCE, 0)
    refiner.pipeline.set_progress_bar_config(disable=True)
    how = {"strength": 1.0, "denoising_start": 0.0, "num_inference_steps": 8, "output_type": "pt"}
    theirs = torch.cat(
        [
            refiner.pipeline("a red robot", image=each[None], guidance_scale=5.0, **how).images
            for each in noise
        ]
    )
    assert difference(drawn(refiner), theirs) <= 1e-3
    assert difference(drawn(refiner, guidance_scale=2), theirs) > 1e-2


def test_a_refiner_edits_and_says_what_it_cuts(refiner):
    with pytest.warns(UserWarning, match="strength is used|tokens of a prompt"):
        edited = zs2kit.edit(drawn_clip(1), "a" * 40, model=refiner, num_inference_steps=2)
        assert len(list(edited)) == 1


@pytest.mark.parametrize("scheduler", [diffusers.EDMEulerScheduler, diffusers.EDMDPMSolverMultistepScheduler])
def test_noise_levels_of_edm_are_refused(tiny_folders, tmp_path, scheduler):
    """As Playground 2.5 and CosXL have them; sampled with those of DDIM, they would draw noise."""
    folder = shutil.copytree(tiny_folders["sdxl"], tmp_path / "edm")
    scheduler().save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps(index | {"scheduler": ["diffusers", scheduler.__name__]})
    )
    with pytest.raises(ModelError) as error:
        Model.load(folder)
    assert "EDM" in one_line(error)


def test_an_autoencoder_that_normalises_its_latents(tiny_folders):
    """As Playground's does: a mean and a standard deviation for each channel."""
    model = Model.load(tiny_folders["sdxl"])
    before = drawn(model)
    mean, std = [0.5, -1.0, 0.0, 2.0], [1.5, 0.5, 1.0, 2.0]
    model.vae.register_to_config(latents_mean=mean, latents_std=std)
    assert difference(drawn(model), by_the_pipeline(model)) <= 1e-3
    assert difference(drawn(model), before) > 1e-2
    # As StableDiffusionXLImg2ImgPipeline does it: (latents - mean) * scaling factor / std.
    scale = model.vae.config.scaling_factor
    mean, std = (torch.tensor(each)[:, None, None] for each in (mean, std))
    torch.manual_seed(0)
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    normalised = model.encode(pixels)
    model.vae.register_to_config(latents_mean=None, latents_std=None)
    assert torch.allclose(normalised, (model.encode(pixels) - mean * scale) / std, atol=1e-5)


def test_an_autoencoder_that_shifts_its_latents(tiny_folders):
    """As those of Stable Diffusion 3 and FLUX do: (latents - shift) * scaling factor."""
    model = Model.load(tiny_folders["epsilon"])
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    plain = model.encode(pixels)
    model.vae.register_to_config(shift_factor=0.1)
    shifted = model.encode(pixels)
    assert torch.allclose(shifted, plain - 0.1 * model.vae.config.scaling_factor, atol=1e-6)
    decoded = model.decode(shifted)
    model.vae.register_to_config(shift_factor=None)
    assert torch.allclose(decoded, model.decode(plain), atol=1e-5)


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 5.0])
def test_a_distilled_denoiser_takes_the_guidance_scale_as_an_input(tiny_folders, tmp_path, guidance_scale):
    base = Model.load(tiny_folders["epsilon"])
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel.from_config({**base.unet.config, "time_cond_proj_dim": 16})
    base.pipeline.register_modules(unet=unet)
    base.pipeline.save_pretrained(tmp_path)
    model = Model.load(tmp_path)
    theirs = by_the_pipeline(model, guidance_scale=guidance_scale)
    assert difference(drawn(model, guidance_scale=guidance_scale), theirs) <= 1e-3
    assert difference(drawn(model, guidance_scale=50.0), theirs) > 1e-2


@pytest.mark.parametrize(("kind", "dtype"), [("epsilon", "float16"), ("sdxl", "bfloat16")])
def test_half_precision_draws_nearly_the_same(tiny_folders, kind, dtype):
    def psnr(a, b):
        return -10 * (a - b).square().mean().log10().item()

    whole = drawn(Model.load(tiny_folders[kind]), [Picture()])
    half = psnr(whole, drawn(Model.load(tiny_folders[kind], dtype=dtype), [Picture()]))
    print(f"{kind} in {dtype}: {half:.1f} dB of float32")
    assert half >= 40
    assert psnr(whole, drawn(Model.load(tiny_folders[kind]), [Picture()], seed=1)) < 20


def test_what_of_a_prompt_is_cut_is_said_once(tiny_folders):
    model = Model.load(tiny_folders["epsilon"])
    read = model.pipeline.tokenizer.model_max_length - 2
    with pytest.warns(UserWarning) as warned:
        list(
            zs2kit.edit(
                drawn_clip(3),
                "a" * read + "xyz",
                plugins=(),
                model=model,
                num_inference_steps=1,
                chunk_size=1,
            )
        )
    (warning,) = warned
    assert f"{read} tokens" in str(warning.message) and str(warning.message).endswith("'xyz'")
    with pytest.warns(UserWarning, match="'no'"):
        model.embed("a" * read, "b" * read + "no", 32, 32)


def test_prompts_may_be_empty(tiny_folders):
    model = Model.load(tiny_folders["epsilon"])
    embeds, negative = model.embed("", "", 32, 32)
    assert torch.equal(embeds.prompt_embeds, negative.prompt_embeds)
    assert len(list(zs2kit.edit(drawn_clip(1), "", plugins=(), model=model, num_inference_steps=1))) == 1


def test_a_folder_with_one_variant_alone_loads(tmp_path, tiny_folders):
    import shutil

    folder = shutil.copytree(tiny_folders["epsilon"], tmp_path / "half")
    for each in [*folder.glob("*/*.safetensors")]:
        each.rename(each.with_name(each.name.replace(".safetensors", ".fp16.safetensors")))
    half, whole = Model.load(folder), Model.load(tiny_folders["epsilon"])
    for name, tensor in half.unet.state_dict().items():
        assert torch.equal(tensor, whole.unet.state_dict()[name])


def halved(folder: Path, *parts: str, variant: str = "fp16") -> None:
    for part in parts:
        for each in (folder / part).glob("*.safetensors"):
            each.rename(each.with_name(each.name.replace(".safetensors", f".{variant}.safetensors")))


def test_a_name_with_a_hyphen_is_no_variant(tmp_path):
    """Such as that of the bundled model's IP-Adapter, which lies beside the parts of its pipeline."""
    for name in ("reference/ip-adapter", "unet/diffusion_pytorch_model-00001-of-00002"):
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir()
        path.touch()
    assert only_variant(tmp_path, "reference", "unet") is None
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "model.fp16-00001-of-00002.safetensors").touch()
    assert only_variant(tmp_path, "reference", "unet", "vae") == "fp16"


def test_a_folder_of_which_some_parts_are_there_in_one_variant(tmp_path, tiny_folders):
    """Downloaded to save space: the U-Net in half precision, also in several files, and the rest as it is."""
    whole = Model.load(tiny_folders["epsilon"])
    folder = shutil.copytree(tiny_folders["epsilon"], tmp_path / "half")
    (folder / "adapters").mkdir()  # of other programs
    (folder / "adapters" / "ip-adapter.safetensors").touch()
    assert torch.equal(Model.load(folder).unet.conv_in.weight, whole.unet.conv_in.weight)
    halved(folder, "unet")
    assert torch.equal(Model.load(folder).unet.conv_in.weight, whole.unet.conv_in.weight)
    shutil.rmtree(folder / "unet")
    whole.unet.save_pretrained(folder / "unet", max_shard_size="20KB", variant="fp16")
    assert len(list((folder / "unet").glob("*.fp16-0*"))) > 1
    assert torch.equal(Model.load(folder).unet.conv_in.weight, whole.unet.conv_in.weight)
    halved(folder, "vae", variant="bf16")
    with pytest.raises(ModelError, match="different variants; download one of them"):
        Model.load(folder)


def test_a_model_is_not_pickled_and_says_what_to_do(tiny):
    import pickle

    with pytest.raises(ModelError, match=r"can't be pickled.*Model\.load"):
        pickle.dumps(tiny)


@pytest.mark.parametrize("kind, plugins", [("epsilon", []), ("instruct", [Instruct()])])
def test_a_prompt_is_embedded_once_in_an_edit(tiny_folders, kind, plugins):
    model = Model.load(tiny_folders[kind])
    seen: list[int] = []
    model.pipeline.text_encoder.register_forward_hook(lambda *call: seen.append(1))
    edited = zs2kit.edit(
        drawn_clip(3), "a cat", plugins=plugins, model=model, num_inference_steps=1, chunk_size=1
    )
    assert len(list(edited)) == 3
    assert len(seen) == 2  # the prompt and the negative one
    before = model.embed("a cat", "", 32, 32)[0].prompt_embeds
    model.pipeline.text_encoder.get_input_embeddings().weight.data *= 2
    assert not torch.equal(model.embed("a cat", "", 32, 32)[0].prompt_embeds, before)  # nothing is left
