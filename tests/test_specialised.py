"""Specialised models: LoRA, textual inversion, single files, and checkpoints that somebody trained on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import accelerate
import diffusers
import huggingface_hub
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import zs2kit
from zs2kit import Model, cli, io
from zs2kit.cli.options import _lora
from zs2kit.errors import ModelError, UsageError
from zs2kit.noise import MAX_DIVERGENCE, dependency_noise
from zs2kit.testing import chunks, drawn_clip, edited_pixels, make_scan, tiny_model

LAYERS = {  # of which a LoRA has matrices, by the part of the pipeline: attention, a convolution, an MLP
    "unet": ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1", "ff.net.2"),
    "text_encoder": ("q_proj", "fc1"),
    "text_encoder_2": ("k_proj", "fc2"),
}


@pytest.fixture(scope="module")
def sd(tiny_folders) -> Path:
    return tiny_folders["epsilon"]


@pytest.fixture(scope="module")
def sdxl(tiny_folders) -> Path:
    return tiny_folders["sdxl"]


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """A checkpoint of another family: as SD 2 differs from SD 1, by the width of its text encoder."""
    return tiny_model(tmp_path_factory.mktemp("wide"), unet={"cross_attention_dim": 32})


def lora(model: Model, seed: int = 0, rank: int = 2, strength: float = 0.1) -> dict[str, torch.Tensor]:
    """A LoRA for ``model``, under the names that diffusers writes."""
    generator = torch.Generator().manual_seed(seed)
    matrices = {}
    for part, endings in LAYERS.items():
        for name, layer in getattr(model.pipeline, part, torch.nn.Module()).named_modules():
            if not name.endswith(endings):
                continue
            out, into, *kernel = layer.weight.shape
            down = torch.randn(rank, into, *kernel, generator=generator)
            up = torch.randn(out, rank, *(1 for _ in kernel), generator=generator)
            matrices[f"{part}.{name}.lora_A.weight"] = strength * down
            matrices[f"{part}.{name}.lora_B.weight"] = up
    return matrices


def change(matrices: dict[str, torch.Tensor], weight: str) -> torch.Tensor:
    """What a LoRA adds to the weight called so, up times down; 0 to those that it doesn't touch."""
    layer = weight.removesuffix(".weight")
    if f"{layer}.lora_A.weight" not in matrices:
        return torch.zeros(())
    down, up = matrices[f"{layer}.lora_A.weight"], matrices[f"{layer}.lora_B.weight"]
    return (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def weights(model: Model) -> dict[str, torch.Tensor]:
    parts = (part for part in LAYERS if hasattr(model.pipeline, part))
    return {f"{each}.{k}": v for each in parts for k, v in getattr(model.pipeline, each).state_dict().items()}


def saved(tensors: dict[str, torch.Tensor], path: Path) -> str:
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return str(path)


def refused(*args: object, **how: object) -> str:
    with pytest.raises(ModelError) as error:
        Model.load(*args, **how)
    assert "\n" not in str(error.value)
    return str(error.value)


def frames(model: Model, **settings: object) -> torch.Tensor:
    return edited_pixels(make_scan(model, **settings), chunks(drawn_clip(2), [2], model))


# LoRA


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_loras_add_their_matrices_by_their_weights(sd, tmp_path, dtype):
    base = Model.load(sd)
    first, second = lora(base, seed=1), lora(base, seed=2, rank=3)
    files = {saved(first, tmp_path / "1.safetensors"): 0.7, saved(second, tmp_path / "2.safetensors"): -0.3}
    model = Model.load(sd, loras=files, dtype=dtype)
    made = weights(model)
    assert made.keys() == weights(base).keys()  # peft's layers are gone
    largest = 0.0
    for name, before in weights(base).items():
        added = 0.7 * change(first, name) - 0.3 * change(second, name)
        largest = max(largest, added.abs().max().item())
        # Both additions round once to the model's data type, and so do what they add and the weights.
        error = (made[name].float() - (before + added)).abs() / torch.maximum(
            before.abs(), added.abs() + before.abs()
        ).clamp(min=0.1)
        assert error.max() <= 4 * torch.finfo(model.dtype).eps, name
    assert largest > 0.1
    assert {type(each) for each in model.unet.attn_processors.values()} == {
        type(each) for each in base.unet.attn_processors.values()
    }


def test_a_lora_of_weight_0_is_none(sd, tmp_path):
    model = Model.load(sd, loras={saved(lora(Model.load(sd)), tmp_path / "a.safetensors"): 0})
    assert torch.equal(frames(model), frames(Model.load(sd)))


def test_an_edit_with_a_lora_is_what_the_pipeline_makes_of_it(sd, tmp_path):
    """Of one that isn't merged: peft's own layers run beside the base's."""
    file = saved(lora(Model.load(sd)), tmp_path / "a.safetensors")
    settings = {"momentum": 0, "divergence": MAX_DIVERGENCE}
    ours = frames(Model.load(sd, loras={file: 0.5}), **settings)
    model = Model.load(sd)
    assert (ours - frames(model, **settings)).abs().max() > 1e-2
    model.pipeline.load_lora_weights(file, adapter_name="a")
    model.pipeline.set_adapters("a", 0.5)
    assert (ours - pipeline(model)).abs().max() <= 1e-3


def pipeline(model: Model, prompt: str = "a red robot") -> torch.Tensor:
    """The frames that the checkpoint's own pipeline draws with the settings and the noise of `frames`."""
    model.pipeline.set_progress_bar_config(disable=True)
    height, width = model.native_size
    noise = dependency_noise(model.latent_shape(height, width), range(2), MAX_DIVERGENCE, 0)
    how = {"num_inference_steps": 8, "guidance_scale": 5.0, "output_type": "pt"}
    return torch.cat([model.pipeline(prompt, latents=each[None], **how).images for each in noise])


def as_kohya(matrices: dict[str, torch.Tensor], *, xl: bool = False) -> dict[str, torch.Tensor]:
    """Other names, for SDXL those of the original code, and an alpha by which the matrices are scaled."""
    kohya = {}
    parts = {"unet": "unet", "text_encoder": "te1" if xl else "te", "text_encoder_2": "te2"}
    for key, value in matrices.items():
        part, _, rest = key.removesuffix(".weight").partition(".")
        layer, _, matrix = rest.rpartition(".")
        if part == "unet" and xl:
            layer = renamed(unet_name(layer + "."), UNET).removesuffix(".")
        if part != "unet" and not layer.startswith("text_model."):  # which older versions of the library say
            layer = f"text_model.{layer}"
        layer = f"lora_{parts[part]}_{layer.replace('.', '_')}"
        kohya[f"{layer}.{'lora_down' if matrix == 'lora_A' else 'lora_up'}.weight"] = value
        kohya[f"{layer}.alpha"] = torch.tensor(1.0)  # of rank 2: half
    return kohya


@pytest.mark.parametrize("kind", ["epsilon", "sdxl"])
def test_loras_as_kohya_writes_them(tiny_folders, tmp_path, kind, monkeypatch):
    whole = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")  # as it always trains a text encoder
    monkeypatch.setitem(LAYERS, "text_encoder", whole)
    monkeypatch.setitem(LAYERS, "text_encoder_2", whole)
    folder = tiny_folders[kind]
    base = Model.load(folder)
    matrices = lora(base)
    kohya = as_kohya(matrices, xl=kind == "sdxl")
    made = weights(Model.load(folder, loras={saved(kohya, tmp_path / "kohya.safetensors"): 1}))
    for name, before in weights(base).items():
        assert torch.allclose(made[name], before + 0.5 * change(matrices, name), atol=1e-6), name


def test_textual_inversions_in_a_lora_are_left_out_and_named(sd, tmp_path):
    """As A1111 bundles them."""
    matrices = {key: it for key, it in lora(Model.load(sd)).items() if key.startswith("unet.")}
    for number, each in enumerate((matrices, as_kohya(matrices))):
        wanted = weights(Model.load(sd, loras={saved(each, tmp_path / "plain.safetensors"): 1}))
        more = each | {"bundle_emb.robot.string_to_param.*": torch.randn(1, 16)}
        with pytest.warns(UserWarning, match="textual inversions, which are left out: robot; save each"):
            made = weights(Model.load(sd, loras={saved(more, tmp_path / f"{number}.safetensors"): 1}))
        assert all(torch.equal(made[name], wanted[name]) for name in wanted)


def test_a_lora_of_sdxl_reaches_both_text_encoders(sdxl, tmp_path):
    base = Model.load(sdxl)
    matrices = lora(base)
    assert {key.partition(".")[0] for key in matrices} == set(LAYERS)
    made = weights(Model.load(sdxl, loras={saved(matrices, tmp_path / "a.safetensors"): 1}))
    for name, before in weights(base).items():
        assert torch.allclose(made[name], before + change(matrices, name), atol=1e-6), name


def test_loras_are_found_in_folders_and_on_the_hub(sd, tmp_path, monkeypatch):
    matrices = lora(Model.load(sd))
    # A hub's cache, which serves offline what was fetched before.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--somebody--looks"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    folder = repository / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    saved(matrices, folder / "pytorch_lora_weights.safetensors")
    usual = weights(Model.load(sd, loras={folder: 1}))
    saved({key: 2 * value for key, value in matrices.items()}, folder / "chalk.safetensors")
    for name in (folder, "somebody/looks"):
        assert all(torch.equal(v, usual[k]) for k, v in weights(Model.load(sd, loras={name: 1})).items())
    named = weights(Model.load(sd, loras={"somebody/looks/chalk.safetensors": 1}))
    assert any(not torch.equal(value, usual[key]) for key, value in named.items())
    assert "not on this machine" in refused(sd, loras={"somebody/looks/ink.safetensors": 1})
    (folder / "pytorch_lora_weights.safetensors").rename(folder / "ink.safetensors")
    assert "2 .safetensors files" in refused(sd, loras={folder: 1})


def test_bundled_loras_are_found_by_their_names(sd, tmp_path, monkeypatch):
    base = Model.load()
    (tmp_path / "loras").mkdir()
    matrices = lora(base)
    file = saved(matrices, tmp_path / "loras" / "chalk.safetensors")
    monkeypatch.setattr("zs2kit.networks.loading._WEIGHTS", tmp_path)
    made = weights(Model.load(loras={"chalk": 0.5}))
    for name, before in weights(base).items():
        assert torch.allclose(made[name], before + 0.5 * change(matrices, name), atol=1e-6), name
    assert "bundled are: chalk" in refused("puppets", loras={"ink": 1})
    assert "no such file" in refused(sd, loras={"chalk": 1})  # it is for the bundled models
    assert "another family" in refused(sd, loras={file: 1})


def test_a_lora_for_another_family_is_refused(sd, wide, sdxl, tmp_path):
    for number, other in enumerate((wide, sdxl)):
        file = saved(lora(Model.load(other)), tmp_path / f"{number}.safetensors")
        assert re.search("another family .* choose a LoRA", refused(sd, loras={file: 1}))
    file = saved(lora(Model.load(sd)), tmp_path / "sd.safetensors")
    assert "another family" in refused(sdxl, loras={file: 1})


@pytest.mark.parametrize(
    "change_key",
    [
        lambda key: key.replace("unet.", "transformer.").replace("text_encoder.", "text_encoder_9."),
        lambda key: key.replace("mid_block", "mid_block.blocks"),
        lambda key: key.replace("layers.1", "layers.7"),
    ],
    ids=["every layer", "a block of the U-Net", "a layer of the text encoder"],
)
def test_a_lora_of_which_something_finds_no_layer_is_refused(sd, tmp_path, change_key):
    """diffusers only logs it."""
    matrices = {change_key(key): value for key, value in lora(Model.load(sd)).items()}
    assert "another family" in refused(sd, loras={saved(matrices, tmp_path / "a.safetensors"): 1})


def test_what_is_no_lora(sd, tmp_path):
    matrices = lora(Model.load(sd))
    dora = matrices | {"unet.conv_in.dora_scale": torch.ones(8)}
    assert "DoRA" in refused(sd, loras={saved(dora, tmp_path / "dora.safetensors"): 1})
    unet = sd / "unet" / "diffusion_pytorch_model.safetensors"
    assert "is a denoiser alone, not a LoRA" in refused(sd, loras={unet: 1})
    assert "is not a LoRA" in refused(sd, loras={saved({}, tmp_path / "empty.safetensors"): 1})
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    assert "is not a safetensors file" in refused(sd, loras={tmp_path / "torn.safetensors": 1})
    torch.save(matrices, tmp_path / "pickle.bin")
    assert "safetensors" in refused(sd, loras={tmp_path / "pickle.bin": 1})
    assert "no such file" in refused(sd, loras={"chalk": 1})
    assert "no .safetensors file" in refused(sd, loras={tmp_path.parent: 1})


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "a LoHa"),
        ("lycoris_transformer_blocks_0_attn_to_k.lokr_w1", "a LoKr"),
        ("lora_unet_conv_in.lora_mid.weight", "a LoRA in three parts"),
        ("unet.conv_in.dora_scale", "a DoRA"),
        ("base_model.model.conv_in.lora_A.weight", "a LoRA as peft saves it"),
    ],
)
def test_loras_of_other_kinds_are_named(sd, tmp_path, key, kind):
    """diffusers can't load them, or loads a part."""
    file = saved(lora(Model.load(sd)) | {key: torch.ones(2, 2)}, tmp_path / "a.safetensors")
    assert f"is {kind}" in (text := refused(sd, loras={file: 1})) and text.endswith(
        ("a plain LoRA", "weights")
    )


def test_files_in_the_wrong_place_are_named(sd, tmp_path):
    model = Model.load(sd)
    controlnet = diffusers.ControlNetModel.from_pretrained(sd / "controlnet_edges")
    files = {
        name: saved(tensors, tmp_path / f"{name}.safetensors")
        for name, tensors in {
            "a LoRA": as_kohya(lora(model)),
            "a VAE": model.vae.state_dict(),
            "a ControlNet": controlnet.state_dict(),
            "a denoiser alone": model.unet.state_dict(),
            "a whole checkpoint": single_file(model),
        }.items()
    }
    for name, file in files.items():
        if name != "a whole checkpoint":
            assert f"is {name}, not a whole checkpoint" in refused(file, config=sd)
        if name != "a LoRA":
            assert f"is {name}, not a LoRA" in refused(sd, loras={file: 1})
        if name not in ("a VAE", "a whole checkpoint"):
            assert f"is {name}, not a VAE" in refused(sd, vae=file)


# Textual inversion


def vectors(number: int = 1, width: int = 16) -> torch.Tensor:
    return torch.randn(number, width, generator=torch.Generator().manual_seed(number))


def test_an_embedding_is_called_by_its_own_token_or_by_its_files_name(sd, tmp_path):
    own = saved({"<robot>": vectors(3)}, tmp_path / "own.safetensors")
    other = saved({"emb_params": vectors()}, tmp_path / "sketchy.safetensors")
    model = Model.load(sd, embeddings=[own, other])
    settings = {"momentum": 0, "divergence": MAX_DIVERGENCE}
    for prompt in ("a red <robot>", "a sketchy cat"):
        ours = frames(model, prompt=prompt, **settings)
        assert (ours - frames(Model.load(sd), prompt=prompt, **settings)).abs().max() > 1e-3
        assert (ours - pipeline(model, prompt)).abs().max() <= 1e-3
    # All three vectors take part, each as a token of its own.
    tokenizer = model.pipeline.tokenizer
    tokens = tokenizer(model.pipeline.maybe_convert_prompt("<robot>", tokenizer)).input_ids[1:-1]
    learned = model.pipeline.text_encoder.get_input_embeddings().weight[tokens]
    assert torch.equal(learned, vectors(3))


def test_an_embedding_of_sdxl_teaches_both_text_encoders(sdxl, tmp_path):
    both = {"clip_l": vectors(2), "clip_g": vectors(1)}
    model = Model.load(sdxl, embeddings=[saved(both, tmp_path / "chalky.safetensors")])
    base = Model.load(sdxl)
    ours, theirs = (each.embed("a chalky cat", "", 32, 32)[0] for each in (model, base))
    assert not torch.allclose(ours.prompt_embeds[..., :16], theirs.prompt_embeds[..., :16], atol=1e-3)
    assert not torch.allclose(ours.prompt_embeds[..., 16:], theirs.prompt_embeds[..., 16:], atol=1e-3)


def test_an_embedding_for_another_family_is_refused(sd, sdxl, tmp_path):
    wide = saved({"<robot>": vectors(width=32)}, tmp_path / "wide.safetensors")
    of_sd = saved({"<robot>": vectors()}, tmp_path / "sd.safetensors")
    of_sdxl = saved({"clip_l": vectors(), "clip_g": vectors()}, tmp_path / "sdxl.safetensors")
    for model, file in ((sd, wide), (sdxl, of_sd), (sd, of_sdxl)):
        assert "another family" in refused(model, embeddings=[file])


def test_what_is_no_embedding(sd, tmp_path):
    files = [saved({"<robot>": vectors()}, tmp_path / f"{number}.safetensors") for number in (1, 2)]
    assert "already knows '<robot>'" in refused(sd, embeddings=files)
    assert "no such file" in refused(sd, embeddings=["robot"])
    torch.save({}, tmp_path / "robot.pt")
    assert "safetensors" in refused(sd, embeddings=[tmp_path / "robot.pt"])


# Checkpoints


def test_a_checkpoint_that_was_trained_on_and_saved(sd, tmp_path):
    model = Model.load(sd)
    model.unet.conv_out.bias.data += 0.5
    model.pipeline.save_pretrained(tmp_path / "tuned")
    tuned = Model.load(tmp_path / "tuned")
    assert torch.equal(frames(tuned), frames(model))
    assert not torch.allclose(frames(tuned), frames(Model.load(sd)), atol=1e-2)


def test_a_checkpoint_loads_without_its_safety_checker(sd, tmp_path):
    shutil.copytree(sd, tmp_path / "whole")
    index = tmp_path / "whole" / "model_index.json"
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index.write_text(json.dumps(json.loads(index.read_text()) | {"safety_checker": checker}))
    model = Model.load(tmp_path / "whole")  # its folder was left out, as one may to save space
    assert model.pipeline.safety_checker is None


def test_a_checkpoint_for_another_task_embeds_as_any_other(tmp_path):
    """Published Instruct-Pix2Pix checkpoints name a pipeline of their own."""
    folder = tiny_model(tmp_path / "edits", unet={"in_channels": 8, "out_channels": 4})
    plain = Model.load(folder)
    index = folder / "model_index.json"
    entries = json.loads(index.read_text()) | {"_class_name": "StableDiffusionInstructPix2PixPipeline"}
    index.write_text(json.dumps(entries))
    model = Model.load(folder, dtype="bfloat16")
    assert model.unet.config.in_channels == 8 and model.dtype == model.vae.dtype == torch.bfloat16
    ours, theirs = (Model.load(folder), plain)
    assert torch.equal(
        ours.embed("a cat", "", 32, 32)[0].prompt_embeds, theirs.embed("a cat", "", 32, 32)[0].prompt_embeds
    )


def single_file(model: Model) -> dict[str, torch.Tensor]:
    """The weights of a tiny checkpoint under the names of the original Stable Diffusion code."""
    text_encoder = model.pipeline.text_encoder.state_dict()
    unet, vae = model.unet.state_dict(), model.vae.state_dict()
    for name, value in vae.items():
        if "attentions" in name and value.ndim == 2:
            vae[name] = value[:, :, None, None]  # what is linear was a convolution
    return {
        **{f"cond_stage_model.transformer.text_model.{name}": value for name, value in text_encoder.items()},
        **{f"model.diffusion_model.{renamed(unet_name(name), UNET)}": unet[name] for name in unet},
        **{f"first_stage_model.{renamed(vae_name(name), VAE)}": vae[name] for name in vae},
    }


def renamed(name: str, pairs: dict[str, str]) -> str:
    for pattern, replacement in pairs.items():
        name = re.sub(pattern, replacement, name)
    return name


UNET = {
    r"^conv_in": "input_blocks.0.0",
    r"^time_embedding.linear_1": "time_embed.0",
    r"^time_embedding.linear_2": "time_embed.2",
    r"^conv_norm_out": "out.0",
    r"^conv_out": "out.2",
    r"^mid_block.resnets.0": "middle_block.0",
    r"^mid_block.attentions.0": "middle_block.1",
    r"^mid_block.resnets.1": "middle_block.2",
    # Inside residual blocks, which are the places 0, and 2 in the middle.
    r"^(\w+(?:\.\d)?\.[02])\.norm1": r"\1.in_layers.0",
    r"^(\w+(?:\.\d)?\.[02])\.conv1": r"\1.in_layers.2",
    r"^(\w+(?:\.\d)?\.[02])\.time_emb_proj": r"\1.emb_layers.1",
    r"^(\w+(?:\.\d)?\.[02])\.norm2": r"\1.out_layers.0",
    r"^(\w+(?:\.\d)?\.[02])\.conv2": r"\1.out_layers.3",
    r"conv_shortcut": "skip_connection",
}
VAE = {
    r"down_blocks\.(\d)": r"down.\1",
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0": "mid.attn_1",
    r"resnets\.": "block.",
    r"(down|up)samplers\.0": r"\1sample",
    r"conv_shortcut": "nin_shortcut",
    r"conv_norm_out": "norm_out",
    r"group_norm": "norm",
    r"to_([qkv])\.": r"\1.",
    r"to_out\.0": "proj_out",
}


def unet_name(name: str) -> str:
    """Every layer of the ways down and up has a number of its own; these are for one layer a block."""
    found = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", name)
    if not found:
        return name
    way, block, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if kind == "downsamplers":
        return f"input_blocks.{2 * block + 2}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        return f"output_blocks.{2 * block + 1}.1.{rest}"
    number = 2 * block + layer + (way == "down")
    return f"{'input' if way == 'down' else 'output'}_blocks.{number}.{int(kind == 'attentions')}.{rest}"


def vae_name(name: str) -> str:
    """The way up is counted from its end."""
    return re.sub(r"up_blocks\.(\d)", lambda found: f"up.{2 - int(found[1])}", name)


def test_a_single_file_is_what_its_folder_is(sd, tmp_path):
    model = Model.load(sd)
    file = saved(single_file(model), tmp_path / "model.safetensors")
    loaded = Model.load(file, config=sd)
    assert weights(loaded).keys() == weights(model).keys()
    assert torch.equal(frames(loaded), frames(model))


def test_a_single_file_takes_a_lora_too(sd, tmp_path):
    model = Model.load(sd)
    file = saved(single_file(model), tmp_path / "model.safetensors")
    loras = {saved(lora(model), tmp_path / "lora.safetensors"): 0.5}
    ours, theirs = Model.load(file, config=sd, loras=loras), Model.load(sd, loras=loras)
    assert torch.equal(frames(ours), frames(theirs))


@pytest.mark.parametrize("marks", [{"v_pred"}, {"v_pred", "ztsnr"}])
def test_a_single_file_says_what_its_network_predicts(sd, tmp_path, marks):
    """As files of SDXL's fine-tunes do, whose family predicts noise."""
    model = Model.load(sd)
    tensors = single_file(model) | {each: torch.zeros(0) for each in marks}
    found = Model.load(saved(tensors, tmp_path / "v.safetensors"), config=sd).pipeline.scheduler.config
    assert (
        found.prediction_type == "v_prediction"
        and model.pipeline.scheduler.config.prediction_type == "epsilon"
    )
    assert found.rescale_betas_zero_snr == ("ztsnr" in marks)


# A VAE in place of the checkpoint's own


def other_vae(own: diffusers.AutoencoderKL) -> diffusers.AutoencoderKL:
    """One whose decoder was trained on, as those that people use have: its latents are the same."""
    vae = diffusers.AutoencoderKL.from_config(own.config)
    vae.load_state_dict(own.state_dict())
    vae.decoder.conv_out.weight.data *= -1
    return vae


@pytest.mark.parametrize("kind", ["epsilon", "sdxl"])
def test_a_vae_may_be_another(tiny_folders, tmp_path, kind):
    """As a folder, and as files with all names in use, alone and in a whole checkpoint."""
    model = Model.load(tiny_folders[kind])
    before = frames(model)
    other = other_vae(model.vae)
    other.save_pretrained(tmp_path / "vae")
    model.pipeline.register_modules(vae=other)
    swapped = Model(model.pipeline, "swapped")
    wanted = frames(swapped)
    assert (wanted - before).abs().max() > 1e-2
    whole = {key: it for key, it in single_file(swapped).items() if kind == "epsilon" or "first_stage" in key}
    alone = {key.removeprefix("first_stage_model."): it for key, it in whole.items() if "first_stage" in key}
    old = {r"to_q\.": "query.", r"to_k\.": "key.", r"to_v\.": "value.", r"to_out\.0\.": "proj_attn."}
    files = {
        "alone": alone,
        "whole": whole,
        "half": {key: it.half().float() for key, it in alone.items()},
        "ours": other.state_dict(),
        "old": {renamed(key, old): it.clone() for key, it in other.state_dict().items()},
    }
    names = {name: saved(tensors, tmp_path / f"{name}.safetensors") for name, tensors in files.items()}
    for name, vae in {**names, "folder": tmp_path / "vae"}.items():
        found = frames(Model.load(tiny_folders[kind], vae=vae))
        assert (found - wanted).abs().max() <= (0.05 if name == "half" else 0), name


def test_a_vae_of_another_family_is_refused(sd, tmp_path):
    torch.manual_seed(1)
    own = Model.load(sd).vae
    other = diffusers.AutoencoderKL.from_config(own.config)  # other latents
    wide = diffusers.AutoencoderKL.from_config({**own.config, "latent_channels": 16})
    for number, vae in enumerate((other, wide)):
        vae.save_pretrained(tmp_path / str(number))
        file = saved(vae.state_dict(), tmp_path / f"{number}.safetensors")
        for name in (tmp_path / str(number), file):
            assert "made for another family of models" in refused(sd, vae=name)
    assert "is a UNet2DConditionModel" in refused(sd, vae=sd / "unet")
    assert "no such folder" in refused(sd, vae=tmp_path / "nothing")


# A pipeline that a script has loaded


def test_a_pipeline_is_a_model(sd):
    """With what the script did to it: here a LoRA that isn't merged, and a VAE in tiles."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(sd, safety_checker=None)
    how = {"plugins": (), "num_inference_steps": 2}
    plain = [each.image for each in zs2kit.edit(drawn_clip(2), "a", model=sd, **how)]
    ours = [each.image for each in zs2kit.edit(drawn_clip(2), "a", model=pipeline, **how)]
    assert np.array_equal(ours, plain)
    assert Model(pipeline).name == str(sd)
    for cls in (diffusers.StableDiffusionImg2ImgPipeline, diffusers.StableDiffusionInpaintPipeline):
        other = cls(**pipeline.components, requires_safety_checker=False)
        again = [each.image for each in zs2kit.edit(drawn_clip(2), "a", model=other, **how)]
        assert np.array_equal(again, plain)


def test_what_a_script_did_to_its_pipeline_is_kept_or_refused(sd, tmp_path):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(sd, safety_checker=None)
    matrices = lora(Model.load(sd))
    file = saved(
        {key: it for key, it in matrices.items() if key.startswith("unet.")}, tmp_path / "a.safetensors"
    )
    pipeline.load_lora_weights(file, adapter_name="a")
    pipeline.vae.enable_slicing()
    assert (frames(Model(pipeline)) - frames(Model.load(sd, loras={file: 1}))).abs().max() <= 1e-4
    accelerate.cpu_offload_with_hook(pipeline.unet, "cpu")
    with pytest.raises(ModelError, match="moves its parts between devices"):
        Model(pipeline)
    controlnet = diffusers.ControlNetModel.from_pretrained(sd / "controlnet_edges")
    steered = diffusers.StableDiffusionControlNetPipeline.from_pretrained(
        sd, controlnet=controlnet, safety_checker=None
    )
    with pytest.warns(UserWarning, match="the ControlNet of this pipeline isn't used; give it to the plugin"):
        Model(steered)


def test_a_single_file_needs_its_configs(sd, wide, tmp_path):
    tensors = single_file(Model.load(sd))
    file = saved(tensors, tmp_path / "model.safetensors")
    assert "config=" in refused(file)
    for other in (wide, tmp_path):  # of another family, and no checkpoint at all
        assert f"configs of {other}" in refused(file, config=other)
    part = {key: value for key, value in tensors.items() if not key.startswith("first_stage_model")}
    assert "AutoencoderKL" in refused(saved(part, tmp_path / "part.safetensors"), config=sd)
    with pytest.raises(UsageError, match="config"):
        Model.load(sd, config=sd)


# The command line


def test_they_reach_the_edit_from_the_command_line(sd, tmp_path):
    model = Model.load(sd)
    clip = tmp_path / "clip.mp4"
    io.write(clip, drawn_clip(2))
    file = saved(single_file(model), tmp_path / "model.safetensors")
    first, second = (saved(lora(model, seed), tmp_path / f"{seed}.safetensors") for seed in (1, 2))
    token = saved({"<robot>": vectors()}, tmp_path / "robot.safetensors")
    options = ["--config", sd, "--lora", f"{first}:0.5", "--lora", second, "--embedding", token]
    command = [
        "edit",
        clip,
        "--plugin",
        "none",
        "--model",
        file,
        *options,
        "--prompt",
        "a <robot>",
        "--steps",
        "2",
    ]
    result = CliRunner().invoke(cli.main, [str(each) for each in (*command, "--quality", "0")])
    assert result.exit_code == 0, result.output
    there = Model.load(file, config=sd, loras={first: 0.5, second: 1}, embeddings=[token])
    made = zs2kit.edit(io.read(clip), "a <robot>", plugins=(), model=there, num_inference_steps=2)
    io.write(tmp_path / "wanted.mp4", made, quality=0)
    assert (tmp_path / "clip-edit.mp4").read_bytes() == (tmp_path / "wanted.mp4").read_bytes()


@pytest.mark.parametrize(
    ("text", "name", "weight"),
    [
        ("chalk", "chalk", 1.0),
        ("chalk:0.6", "chalk", 0.6),
        ("looks/chalk.safetensors:-1", "looks/chalk.safetensors", -1.0),
        (r"C:\looks\chalk.safetensors", r"C:\looks\chalk.safetensors", 1.0),
        (r"C:\looks\chalk.safetensors:2", r"C:\looks\chalk.safetensors", 2.0),
    ],
)
def test_a_lora_and_its_weight(text, name, weight):
    assert _lora(text) == (name, weight)


def test_wrong_loras_are_wrong_use(sd):
    result = CliRunner().invoke(cli.main, ["edit", "clip.mp4", "--lora", "chalk", "--lora", "chalk:0.5"])
    assert result.exit_code == 2 and "--lora" in result.output and result.output.count("\n") == 1
    with pytest.raises(UsageError, match="finite"):
        Model.load(sd, loras={"chalk": float("nan")})
