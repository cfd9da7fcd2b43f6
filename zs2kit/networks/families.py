"""The families of checkpoints that can be used, with what the configs of transformers don't say."""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """A family of checkpoints whose denoiser is a transformer, all of one pipeline class of diffusers."""

    title: str
    blocks: str  # the family's blocks in diffusers.modular_pipelines
    num_inference_steps: int  # the default
    guidance_scale: float  # the default, unless the checkpoint was distilled to need no guidance
    hub: tuple[str, ...]  # checkpoints on the hub, and their licences
    side: int = 2  # how many latents a token covers along one side
    packed: bool = True  # whether the transformer takes tokens, rather than latents as the VAE gives them
    listed: bool = False  # whether the transformer takes prompts as a list, rather than padded to one length
    tokenizer: str = "tokenizer"  # which of the pipeline's tokenizers reads the whole prompt
    tokens: int = 512  # how many tokens of a prompt are read
    distilled_steps: int = 4  # the default for a checkpoint that was distilled to need no guidance
    shows: bool = False  # whether it can be shown pictures, such as the source, as further tokens
    edits: bool = False  # whether it can't do without such a picture, which its text encoder sees, too
    maps: bool = False  # whether it takes the latents of a map, such as depth, as further channels
    controlnet: str | None = None  # the class of diffusers of which its ControlNets are, if it takes some
    unguided: float = 1.0  # the guidance scale that means no guidance
    rescales: bool = False  # whether guidance keeps the norm of the conditional prediction


_OF_BFL = "FLUX non-commercial license"
# Pipeline class of diffusers -> its family
FAMILIES = {
    "ZImagePipeline": Family(
        "Z-Image",
        "ZImageAutoBlocks",
        8,
        0.0,
        ("Tongyi-MAI/Z-Image-Turbo (Apache-2.0)",),
        packed=False,
        controlnet="ZImageControlNetModel",
        unguided=0.0,
        listed=True,
    ),
    "FluxPipeline": Family(
        "FLUX.1",
        "FluxAutoBlocks",
        28,
        3.5,
        (
            "black-forest-labs/FLUX.1-schnell (Apache-2.0)",
            f"black-forest-labs/FLUX.1-dev ({_OF_BFL})",
        ),
        tokenizer="tokenizer_2",
        controlnet="FluxControlNetModel",
    ),
    "FluxKontextPipeline": Family(
        "FLUX.1 Kontext",
        "FluxKontextAutoBlocks",
        28,
        2.5,
        (f"black-forest-labs/FLUX.1-Kontext-dev ({_OF_BFL})",),
        tokenizer="tokenizer_2",
        controlnet="FluxControlNetModel",
        shows=True,
    ),
    "FluxFillPipeline": Family(
        "FLUX.1 Fill",
        "FluxAutoBlocks",
        50,
        30.0,
        (f"black-forest-labs/FLUX.1-Fill-dev ({_OF_BFL})",),
        tokenizer="tokenizer_2",
    ),
    "FluxControlPipeline": Family(
        "FLUX.1 Control",
        "FluxAutoBlocks",
        28,
        10.0,
        (
            f"black-forest-labs/FLUX.1-Depth-dev ({_OF_BFL})",
            f"black-forest-labs/FLUX.1-Canny-dev ({_OF_BFL})",
        ),
        tokenizer="tokenizer_2",
        maps=True,
    ),
    "Flux2KleinPipeline": Family(
        "FLUX.2 klein",
        "Flux2KleinAutoBlocks",
        50,
        4.0,
        (
            "black-forest-labs/FLUX.2-klein-4B (Apache-2.0)",
            f"black-forest-labs/FLUX.2-klein-9B ({_OF_BFL})",
        ),
        side=1,
        shows=True,
    ),
    "Flux2Pipeline": Family(
        "FLUX.2",
        "Flux2AutoBlocks",
        28,
        4.0,
        (f"black-forest-labs/FLUX.2-dev ({_OF_BFL})",),
        side=1,
        shows=True,
    ),
    "StableDiffusion3Pipeline": Family(
        "Stable Diffusion 3",
        "StableDiffusion3AutoBlocks",
        28,
        7.0,
        ("stabilityai/stable-diffusion-3.5-medium (Stability AI Community License)",),
        packed=False,
        tokenizer="tokenizer_3",
        tokens=256,
        controlnet="SD3ControlNetModel",
    ),
    "QwenImagePipeline": Family(
        "Qwen-Image",
        "QwenImageAutoBlocks",
        50,
        4.0,
        ("Qwen/Qwen-Image (Apache-2.0)",),
        tokens=1024,
        controlnet="QwenImageControlNetModel",
        rescales=True,
    ),
    "QwenImageEditPipeline": Family(
        "Qwen-Image-Edit",
        "QwenImageEditAutoBlocks",
        50,
        4.0,
        ("Qwen/Qwen-Image-Edit (Apache-2.0)",),
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
        ("Qwen/Qwen-Image-Edit-2509 (Apache-2.0)", "Qwen/Qwen-Image-Edit-2511 (Apache-2.0)"),
        tokens=1024,
        shows=True,
        edits=True,
        rescales=True,
    ),
}


class Row(NamedTuple):
    """What can be done with a family, in words."""

    family: str
    does: str
    defaults: str
    hub: str


# What was tried, and with what
TRIED = (
    "Of all of these, only the models that come with zs2kit were tried with trained weights. All others were "
    "tried with tiny checkpoints whose weights are random; those with a transformer are compared with their "
    "own pipelines in diffusers, and give the same pictures to 1e-5. Their default of `momentum`, 0.25, is "
    "what suits `puppets-flow`: lower it if a result sticks to the first frame."
)


# Of checkpoints whose denoiser is a U-Net
UNETS = Row(
    "Stable Diffusion 1, 2 and XL",
    "text, strength, invert, flowedit, mask, colour, pose, depth, edges, control, reference, instruct (with "
    "Instruct-Pix2Pix models), LoRA",
    "20 steps, guidance 5",
    "stable-diffusion-v1-5/stable-diffusion-v1-5 (CreativeML Open RAIL-M)",
)


def rows() -> list[Row]:
    """Return what can be done with each family."""
    return [UNETS, *map(row_of, FAMILIES.values())]


def row_of(family: Family) -> Row:
    """Return what can be done with a family."""
    does = ["instruct"] if family.shows else []
    if not family.edits:  # or it draws nothing without its source
        does = ["text", *does, *(["reference"] if family.shows else []), "strength", "invert", "flowedit"]
    does += ["mask", "colour"]
    if family.controlnet or family.maps:
        does += ["pose", "depth", "edges", "control"]
    if family.maps:  # or it draws nothing without one of these
        does.remove("text")
    does.append("LoRA")
    guided = family.guidance_scale > family.unguided
    guidance = f"guidance {family.guidance_scale:g}" if guided else "no guidance"
    defaults = f"{family.num_inference_steps} steps, {guidance}"
    if family.title in ("FLUX.1", "FLUX.2 klein"):
        defaults += f"; if distilled, {family.distilled_steps} steps, no guidance"
    return Row(family.title, ", ".join(does), defaults, ", ".join(family.hub))


def known() -> str:
    """Return which families can be used, in words."""
    return ", ".join(["Stable Diffusion 1, 2 or XL", *(each.title for each in FAMILIES.values())])
