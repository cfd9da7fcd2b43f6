"""For tests: tiny models of the real classes, made on the spot, a drawn clip, and edits before 8 bits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zs2kit.carry import Carry
from zs2kit.clip import Chunk, Clip, Fit, Frame
from zs2kit.model import Model
from zs2kit.plugins import manager
from zs2kit.scan import Scan, chunk_of


def tiny_model(
    folder: Path, prediction_type: str = "epsilon", *, unet: dict[str, Any] | None = None, seed: int = 0
) -> Path:
    """Save a Stable Diffusion checkpoint of random weights to ``folder``; return it.

    Real diffusers and transformers classes, for pictures of 32x32 pixels and 8x8 latents. Inside lies
    a ControlNet (``controlnet_pose``) that has an effect, unlike an untrained one. ``unet`` overrides
    entries of the U-Net's config.
    """
    import diffusers
    import transformers

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    } | (unet or {})
    network = diffusers.UNet2DConditionModel(**config)
    for name, layer in network.named_modules():
        if name.endswith("attn1.to_out.0"):
            layer.weight.data *= 4  # untrained attention hardly shows; tests need it to
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=4,
            sample_size=32,
        ),
        text_encoder=transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=300,
                hidden_size=config["cross_attention_dim"],
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=16,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        ).eval(),
        tokenizer=_tokenizer(folder),
        unet=network,
        scheduler=diffusers.DDIMScheduler(
            prediction_type=prediction_type,
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            steps_offset=1,
            rescale_betas_zero_snr=prediction_type == "v_prediction",
            timestep_spacing="trailing",
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    if config.get("in_channels", 4) == 4:
        controlnet = diffusers.ControlNetModel.from_unet(
            network, conditioning_embedding_out_channels=(8, 8, 8)
        )  # a copy of the U-Net's first half, strong attention included
        for layer in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
            torch.nn.init.normal_(layer.weight, std=0.3)  # untrained, these are zero: no effect
        torch.nn.init.normal_(controlnet.controlnet_cond_embedding.conv_out.weight, std=0.3)
        controlnet.save_pretrained(folder / "controlnet_pose")
    return folder


def _tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer that knows single characters only."""
    import transformers

    characters = [chr(code) for code in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *characters, *(each + "</w>" for each in characters)]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=16)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    return tokenizer


def drawn_clip(frames: int = 6, *, width: int = 32, height: int = 32, rate: Fraction = Fraction(12)) -> Clip:
    """Return a clip of a disc that moves over a gradient."""
    import cv2

    def draw() -> Iterator[Frame]:
        shade = np.linspace(40, 200, width, dtype=np.uint8)
        for index in range(frames):
            image = np.repeat(np.repeat(shade[None, :, None], height, 0), 3, 2)
            x = round(width * (index + 1) / (frames + 1))
            cv2.circle(image, (x, height // 2), min(width, height) // 5, (220, 60, 40), -1)
            yield Frame(image, index)

    return Clip(draw(), width, height, rate, 1 / rate, frames)


def make_scan(
    model: Model, plugins: Sequence[object] = (), clip: Clip | None = None, **settings: Any
) -> Scan:
    """Return an edit under way; its settings are those of `zs2kit.edit`, by default quick ones."""
    quick: dict[str, Any] = {
        "prompt": "a red robot",
        "negative_prompt": "",
        "scheduler": "ddim",
        "num_inference_steps": 8,
        "guidance_scale": 5.0,
        "momentum": 0.9,
        "divergence": 0.4,
        "seed": 0,
    }
    return Scan(model, manager(plugins), clip or drawn_clip(), **(quick | settings))


def chunks(clip: Clip, sizes: Sequence[int], model: Model) -> list[Chunk]:
    """Cut a clip into chunks of the given numbers of frames, as `zs2kit.edit` hands them to plugins."""
    frames = list(clip)[: sum(sizes)]
    fit = Fit.into((clip.height, clip.width), model.native_size, model.multiple)
    starts = np.cumsum([0, *sizes]).tolist()
    return [chunk_of(frames[start:end], start, clip.time_base, fit) for start, end in pairwise(starts)]


def edited_pixels(scan: Scan, chunks: Sequence[Chunk], *, carried: bool = True) -> torch.Tensor:
    """Return the edited frames (frames, 3, height, width) in [0, 1] as they are before they become 8-bit.

    ``carried=False`` starts every chunk afresh, which breaks the law that chunks don't show.
    """
    carry, made = Carry(), []
    for chunk in chunks:
        carry, pixels = scan(carry if carried else Carry(), chunk)
        made.append(pixels)
    return torch.cat(made)
