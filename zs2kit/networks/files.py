"""Weights in one .safetensors file, as most programs have them: where it is, and what is in it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open

from zs2kit.errors import ModelError
from zs2kit.networks.hub import ON_THE_HUB, check_whole, folder_with


class Kind(NamedTuple):
    """What a file may hold: its name in messages, parts of its tensors' names, and what to do with it."""

    title: str
    marks: tuple[str, ...]
    use: str


_PLAIN_LORA = "use a plain LoRA"
_PLAIN_CONTROLNET = "use a plain ControlNet"
LORA = Kind("a LoRA", ("lora_down", "lora_A", ".lora.down", "_lora.down"), "give it with `loras`")
CONTROLNET = Kind(
    "a ControlNet",
    ("controlnet_cond_embedding.conv_in.weight", "input_hint_block.0.weight", "controlnet_x_embedder"),
    "give it to the plugin control",
)
# Of FLUX, Stable Diffusion 3, Z-Image or Qwen-Image, by the names of the original code or of diffusers
TRANSFORMER = Kind(
    "a transformer in a single file",
    ("double_blocks.0.", "joint_blocks.0.", "noise_refiner.0.", "transformer_blocks.0.attn.add_"),
    "give such a model in diffusers' format: a folder, or its name on the hub",
)
VAE_ALONE = Kind("a VAE", ("decoder.conv_in.weight",), "give it with `vae`")
CHECKPOINT = Kind("a whole checkpoint", ("cond_stage_model.", "conditioner.embedders."), "give it as `model`")
# The first kind of which a file has a mark is the file's. Of LyCORIS's many kinds of LoRAs, diffusers loads
# none, or only a part.
_KINDS = (
    CHECKPOINT,
    Kind("a Control-LoRA", ("lora_controlnet",), _PLAIN_CONTROLNET),
    Kind("a ControlNet-LLLite", ("lllite_",), _PLAIN_CONTROLNET),
    Kind("a ControlNet-Union", ("control_add_embedding.",), _PLAIN_CONTROLNET),
    Kind("a DoRA", ("dora_scale",), _PLAIN_LORA),
    Kind("a LoHa", ("hada_w1",), _PLAIN_LORA),
    Kind("a LoKr", ("lokr_w1",), _PLAIN_LORA),
    Kind("a LoRA in three parts (LoCon with Tucker)", ("lora_mid",), _PLAIN_LORA),
    Kind("a LoRA as peft saves it", ("base_model.model.",), "save it by diffusers: save_lora_weights"),
    Kind("an IP-Adapter", ("ip_adapter.", "image_proj."), "give it to the plugin reference"),
    LORA,
    Kind("a ControlNet that was saved as a difference", ("difference",), _PLAIN_CONTROLNET),
    CONTROLNET,
    Kind("a T2I-Adapter", ("body.0.resnets.", "body.0.block1", "adapter.body."), "use a ControlNet instead"),
    Kind("a textual inversion", ("emb_params", "string_to_param"), "give it with `embeddings`"),
    TRANSFORMER,
    Kind(
        "a denoiser alone",
        ("diffusion_model.", "input_blocks.0.", "time_embedding.linear_1", "x_embedder"),
        "a checkpoint has a text encoder and a VAE, too",
    ),
    VAE_ALONE,
)


def kind_of(keys: Collection[str]) -> Kind | None:
    """Return what a file holds, by the names of its tensors; None if it is nothing that is known here."""
    return next((kind for kind in _KINDS if any(mark in key for mark in kind.marks for key in keys)), None)


def of_another_kind(name: str | Path, keys: Collection[str], wanted: Kind) -> ModelError:
    """Return the error for a file that is not of the kind that is wanted."""
    found = kind_of(keys)
    if found in (None, wanted):
        return ModelError(f"{name}: this file is not {wanted.title}")
    assert found is not None
    return ModelError(f"{name} is {found.title}, not {wanted.title}", found.use)


def weights_file(
    name: str | Path, usual: str, bundled: Iterable[str] = (), *, option: str | None = None
) -> Path:
    """Return the .safetensors file called ``name``; in a folder or a repository, the one called ``usual``.

    option: what names it, such as pose.model, for messages.
    """
    path = Path(name)
    if path.is_dir():
        found = [path / usual] if (path / usual).is_file() else list(path.glob("*.safetensors"))
        if not found:
            raise ModelError(f"{name}: this folder has no .safetensors file")
        if len(found) > 1:
            raise ModelError(f"{name}: this folder has {len(found)} .safetensors files", "name one of them")
        return found[0]
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt") or (path.is_file() and path.suffix != ".safetensors"):
        raise ModelError(f"{name}: weights load from .safetensors files only", "convert it first")
    if path.is_file():
        return path
    on_the_hub = re.fullmatch(rf"({ON_THE_HUB})(?:/(.+\.safetensors))?", str(name))
    if not on_the_hub:
        known = f"bundled are: {', '.join(sorted(bundled))}" if bundled else ""
        raise ModelError(f"{name}: no such file, folder or name on the hub", known)
    file = on_the_hub[2] or usual
    return folder_with(on_the_hub[1], [file], option, inside=file) / file


def keys_in(path: Path) -> list[str]:
    """Return the names of the tensors in a file; raise `ModelError` if it is not a safetensors file."""
    if path.suffix != ".safetensors":
        raise ModelError(f"{path}: weights load from .safetensors files only", "convert it first")
    check_whole(path)
    with safe_open(path, framework="pt") as tensors:
        return list(tensors.keys())
