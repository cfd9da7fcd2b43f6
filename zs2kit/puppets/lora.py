"""A LoRA for a look that the base never saw: stickers, the figure cut out with a white margin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline, UNet2DModel
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import ResNetForImageClassification

from .captions import caption, load_prompts, one_of
from .diffusion import EMPTY_PROMPTS, Diffusion, load_vae, text_to_image, to_tensor
from .estimator import estimate
from .networks import GROUPS
from .pictures import draw, draw_maps, maps, save_array, shard
from .training import Run, autocast, fit, load_weights
from .yardsticks import Images, Numbers, classify, draw_prompts, grid, save_picture, shares

NAME = "sticker"
MARGIN = 8.0  # pixels
RANK = 8
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]
STEPS, GUIDANCE = 20, 5.0
COUNT = 64  # prompts to judge by
HELD_OUT = range(30_000, 30_064)


def cut_out(images: Images, masks: NDArray[np.bool_]) -> Images:
    """Pictures (pictures, H, W, 3) with a white margin around the figures of the masks (pictures, H, W)."""
    drawn = []
    for image, mask in zip(images, masks, strict=True):
        far = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        white = (np.clip(MARGIN + 0.5 - far, 0, 1) * (far > 0))[..., None]
        drawn.append(np.rint(image + (255 - image.astype(np.float32)) * white).astype(np.uint8))
    return np.stack(drawn)


@torch.no_grad()
def stickers(run: Run) -> NDArray[np.float16]:
    """Latents (scenes, 4, LATENT_SIZE, LATENT_SIZE) of the first file of scenes as stickers, made once."""
    path = run.work / "stickers.npy"
    if not path.exists():
        vae, masks = load_vae(run), maps(run.work, 0)[..., 1] > 127
        images = cut_out(np.asarray(shard(run.work, 0).images), masks)
        encoded = [
            vae.encode(to_tensor(images[start : start + 32], run.device)).latent_dist.mean
            for start in range(0, len(images), 32)
        ]
        save_array(path, torch.cat(encoded).half().cpu().numpy())
    return np.asarray(np.load(path))


def sticker_caption(kind: str, colour: str, place: str, rng: np.random.Generator) -> str:
    """A caption that names the look as well."""
    words = caption(kind, colour, place, rng)
    return one_of(rng, (f"a sticker of {words}", f"{words}, sticker", f"sticker, {words}"))


def attach_lora(unet: Any) -> nn.ModuleList:
    """Put an untrained LoRA into a U-Net's attention and convolutions and return its layers."""
    from peft import LoraConfig  # only needed where a LoRA is

    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=LAYERS))
    return nn.ModuleList(
        module for name, module in unet.named_modules() if name.endswith((".lora_A", ".lora_B"))
    )


def train_lora(run: Run) -> None:
    """The LoRA, on the frozen U-Net."""
    values, labels = stickers(run), shard(run.work, 0).labels
    data, both = Diffusion(run), text_to_image(run)
    load_weights(both, run, "unet")
    both.requires_grad_(False)
    network = attach_lora(both["unet"])

    def loss(rng: np.random.Generator) -> Tensor:
        rows = rng.integers(len(values), size=run.batch or 16)
        texts = []
        for row in rows:
            kind, colour, place = (
                names[label] for names, label in zip(GROUPS.values(), labels[row], strict=True)
            )
            texts.append("" if rng.random() < EMPTY_PROMPTS else sticker_caption(kind, colour, place, rng))
        clean = torch.from_numpy(values[rows].astype(np.float32)).to(run.device)
        noised, timesteps, velocity = data.noise(clean, rng)
        with autocast(run.device):
            embeds = both["text_encoder"](data.tokenize(texts)).last_hidden_state
            predicted = both["unet"](noised, timesteps, encoder_hidden_states=embeds).sample
        return F.mse_loss(predicted.float(), velocity)

    fit("lora", network, loss, run, rate=1e-3)


def export_lora(run: Run, folder: Path) -> dict[str, int]:
    """The LoRA as diffusers loads it: one file in ``loras`` in ``folder``."""
    from peft import get_peft_model_state_dict

    if not run.path("lora").exists():
        return {}
    unet = text_to_image(run)["unet"]
    steps = load_weights(attach_lora(unet), run, "lora")
    StableDiffusionPipeline.save_lora_weights(
        folder / "loras", get_peft_model_state_dict(unet.half()), weight_name=f"{NAME}.safetensors"
    )
    return {"lora": steps}


def measure_lora(folder: Path, docs: Path | None) -> Numbers:
    """How white the margin around the figures is, and what is read off them; the same without the LoRA."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    classifier = ResNetForImageClassification.from_pretrained(folder / "classifier").eval()
    estimator = UNet2DModel.from_pretrained(folder / "estimator").eval()
    prompts = load_prompts()[:COUNT]
    asked = np.array([[names.index(getattr(p, g)) for g, names in GROUPS.items()] for p in prompts])
    rows = [draw_prompts(pipe, prompts, STEPS, GUIDANCE)]
    pipe.load_lora_weights(folder / "loras", weight_name=f"{NAME}.safetensors")
    named = [replace(prompt, prompt=f"a sticker of {prompt.prompt}") for prompt in prompts]
    rows.append(draw_prompts(pipe, named, STEPS, GUIDANCE))
    renders, maps_ = draw(HELD_OUT, "test"), draw_maps(HELD_OUT, "test")
    cut = cut_out(renders.images, maps_[..., 1] > 127)
    numbers: Numbers = {"LoRA, held-out stickers: white of the margin": whiteness(estimator, cut)}
    for name, images in (("LoRA", rows[1]), ("LoRA, without", rows[0])):
        numbers[f"{name}: white of the margin"] = whiteness(estimator, images)
        numbers |= shares(classify(classifier, images) == asked, name)
    if docs:
        save_picture(docs / "puppets-lora.jpg", grid(np.concatenate([each[:16] for each in rows]), 16))
    return numbers


def whiteness(estimator: Any, images: Images) -> float:
    """The share of white among the pixels around the figures, which the estimator finds."""
    masks = estimate(estimator, images)[1] >= 0.5
    white = images.min(axis=-1) >= 208
    far = np.stack([cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5) for mask in masks])
    return float(white[(far >= 2) & (far <= MARGIN - 2)].mean())
