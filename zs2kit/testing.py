"""For tests: tiny models of the real classes, made on the spot, a drawn clip, and edits before 8 bits."""

from __future__ import annotations

import atexit
import functools
import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from zs2kit.carry import Carry
from zs2kit.clip import Chunk, Clip, Fit, Frame
from zs2kit.model import Model, quiet
from zs2kit.plugins import manager
from zs2kit.scan import Scan, chunk_of


@functools.cache
def tiny_models() -> dict[str, Path]:
    """Return a tiny checkpoint of each kind: ``epsilon``, ``v_prediction``, ``instruct`` and ``sdxl``.

    They are made at the first call, in a folder that goes when the process ends. The first two are like
    Stable Diffusion 1.5; ``instruct`` is too, but takes eight channels. Each brings the side networks that
    the bundled model has, so that plugins find theirs.
    """
    folder = TemporaryDirectory(prefix="zs2kit-tiny-")
    atexit.register(folder.cleanup)
    kinds: dict[str, dict[str, Any]] = {
        "epsilon": {},
        "v_prediction": {"prediction_type": "v_prediction"},
        "instruct": {"unet": {"in_channels": 8, "out_channels": 4}},
        "sdxl": {"sdxl": True},
    }
    made = {kind: tiny_model(Path(folder.name) / kind, **how) for kind, how in kinds.items()}
    for path in made.values():
        _detector(18).save_pretrained(path / "detector")  # of a figure's keypoints
        # of depth and mask, with four pixels side by side as one
        _detector(4 * 2, 4 * 3).save_pretrained(path / "estimator")
    return made


def tiny_model(
    folder: Path,
    prediction_type: str = "epsilon",
    *,
    unet: dict[str, Any] | None = None,
    sdxl: bool = False,
    seed: int = 0,
) -> Path:
    """Save a Stable Diffusion checkpoint of random weights to ``folder``; return it.

    Real diffusers and transformers classes, for pictures of 32x32 pixels and 8x8 latents. Inside lie
    ControlNets (``controlnet_pose``, ``controlnet_depth``, ``controlnet_edges``) that have an effect,
    unlike untrained ones. ``unet`` overrides entries of the U-Net's config; ``sdxl`` gives it two text
    encoders and the further conditions of SDXL.
    """
    import diffusers

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
    width = config["cross_attention_dim"]
    if sdxl:
        config |= {
            "cross_attention_dim": 2 * width,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + width,  # six numbers, and the pooled text
        }
    parts: dict[str, Any] = {
        "vae": diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=4,
            sample_size=32,
        ),
        "text_encoder": _text_encoder(width),
        "tokenizer": _tokenizer(folder),
        "unet": _unet(config),
        "scheduler": diffusers.DDIMScheduler(
            prediction_type=prediction_type,
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            steps_offset=1,
            rescale_betas_zero_snr=prediction_type == "v_prediction",
            timestep_spacing="trailing",
        ),
    }
    with quiet():
        if sdxl:
            second = {"text_encoder_2": _text_encoder(width, pooled=True), "tokenizer_2": parts["tokenizer"]}
            pipeline = diffusers.StableDiffusionXLPipeline(**parts, **second)
        else:
            none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            pipeline = diffusers.StableDiffusionPipeline(**parts, **none)
        pipeline.save_pretrained(folder)
        for kind in ("pose", "depth", "edges"):
            _controlnet(config).save_pretrained(folder / f"controlnet_{kind}")
    return folder


def _text_encoder(width: int, *, pooled: bool = False) -> Any:
    """A CLIP text encoder; ``pooled`` is the kind that SDXL has as its second."""
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=300,
        hidden_size=width,
        intermediate_size=32,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    kind = transformers.CLIPTextModelWithProjection if pooled else transformers.CLIPTextModel
    return kind(config).eval()


def _unet(config: dict[str, Any]) -> Any:
    import diffusers

    network = diffusers.UNet2DConditionModel(**config)
    for name, layer in network.named_modules():
        if name.endswith("attn1.to_out.0"):
            layer.weight.data *= 4  # untrained attention hardly shows; tests need it to
    return network


def _controlnet(config: dict[str, Any]) -> Any:
    """A ControlNet for the U-Net of this config."""
    import diffusers

    # Whatever channels the U-Net has beside the latents, a ControlNet takes the latents alone.
    network = diffusers.ControlNetModel.from_unet(
        _unet(config | {"in_channels": 4}), conditioning_embedding_out_channels=(8, 8, 8)
    )
    for layer in (*network.controlnet_down_blocks, network.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight, std=0.3)  # untrained, these are zero: no effect
    torch.nn.init.normal_(network.controlnet_cond_embedding.conv_out.weight, std=0.3)
    return network


def _detector(channels: int, given: int = 3) -> Any:
    """A network that makes maps of so many channels of a picture of ``given`` channels."""
    import diffusers

    return diffusers.UNet2DModel(
        in_channels=given,
        out_channels=channels,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
    )


def _tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer that knows single characters only."""
    import transformers

    characters = [chr(code) for code in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *characters, *(each + "</w>" for each in characters)]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=32)
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
