"""The families of checkpoints whose denoiser is a transformer, by what their configs don't say."""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """A family of checkpoints, all of one pipeline class of diffusers."""

    title: str
    blocks: str  # the family's blocks in diffusers.modular_pipelines
    num_inference_steps: int  # the default
    guidance_scale: float  # the default, unless the checkpoint was distilled to need no guidance
    side: int = 2  # how many latents a token covers along one side
    packed: bool = True  # whether the transformer takes tokens, rather than latents as the VAE gives them
    tokenizer: str = "tokenizer"  # which of the pipeline's tokenizers reads the whole prompt
    tokens: int = 512  # how many tokens of a prompt are read
    distilled_steps: int = 4  # the default for a checkpoint that was distilled to need no guidance
    shows: bool = False  # whether it can be shown pictures, such as the source, as further tokens
    edits: bool = False  # whether it can't do without such a picture, which its text encoder sees, too
    rescales: bool = False  # whether guidance keeps the norm of the conditional prediction


# Pipeline class of diffusers -> its family
FAMILIES = {
    "ZImagePipeline": Family("Z-Image", "ZImageAutoBlocks", 8, 1.0, packed=False),
    "FluxPipeline": Family("FLUX.1", "FluxAutoBlocks", 28, 3.5, tokenizer="tokenizer_2"),
    "FluxKontextPipeline": Family(
        "FLUX.1 Kontext", "FluxKontextAutoBlocks", 28, 2.5, tokenizer="tokenizer_2", shows=True
    ),
    "Flux2Pipeline": Family("FLUX.2", "Flux2AutoBlocks", 28, 4.0, side=1, shows=True),
    "Flux2KleinPipeline": Family("FLUX.2 klein", "Flux2KleinAutoBlocks", 50, 4.0, side=1, shows=True),
    "StableDiffusion3Pipeline": Family(
        "Stable Diffusion 3", "StableDiffusion3AutoBlocks", 28, 7.0, packed=False, tokenizer="tokenizer_3"
    ),
    "QwenImagePipeline": Family("Qwen-Image", "QwenImageAutoBlocks", 50, 4.0, tokens=1024, rescales=True),
    "QwenImageEditPipeline": Family(
        "Qwen-Image-Edit",
        "QwenImageEditAutoBlocks",
        50,
        4.0,
        tokens=1024,
        shows=True,
        edits=True,
        rescales=True,
    ),
    "QwenImageEditPlusPipeline": Family(
        "Qwen-Image-Edit-Plus",
        "QwenImageEditPlusAutoBlocks",
        40,
        4.0,
        tokens=1024,
        shows=True,
        edits=True,
        rescales=True,
    ),
}


def known() -> str:
    """Return which families can be used, in words."""
    return ", ".join(["Stable Diffusion 1, 2 or XL", *(each.title for each in FAMILIES.values())])
