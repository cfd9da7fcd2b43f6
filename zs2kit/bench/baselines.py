"""What zs2kit is held against: other ways to draw a clip with an image model, on the same weights.

Every one draws the frames of a case, (frames, side, side, 3) RGB bytes, at given steps. They are diffusers'
own pipelines wherever there is one, fed with the same prompt, scheduler, guidance scale and skeletons, and
with noise drawn as zs2kit draws it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.pipelines.deprecated.text_to_video_synthesis.pipeline_text_to_video_zero import (
    CrossFrameAttnProcessor2_0,
    TextToVideoZeroPipeline,
)

import zs2kit
from zs2kit import plugins
from zs2kit.attention import self_attention
from zs2kit.bench import averaging
from zs2kit.bench.cases import RATE, Case, source_images
from zs2kit.clip import Chunk, Clip
from zs2kit.model import Model
from zs2kit.noise import draw
from zs2kit.puppets.yardsticks import Images
from zs2kit.quiet import quiet
from zs2kit.scan import to_images
from zs2kit.schedule import make_scheduler

GUIDANCE = 5.0
SD15 = 0.0172, 0.0091  # alphas_cumprod of its schedule at t0 = 44 and t1 = 47 of 50 steps
BATCH = 8  # pictures at a time, where a method doesn't need all of them at once

Draw = Callable[[Model, Case, int], Images]


def zs2(
    model: Model,
    case: Case,
    steps: int,
    *,
    edited: bool,
    reference: bool = False,
    anchored: bool = False,
    tiny_vae: bool = True,
    **settings: Any,
) -> Images:
    """zs2kit itself; ``settings`` are those of `zs2kit.generate` and `zs2kit.edit`.

    reference: the plugin of that name holds the clip to its first frame. anchored: frames attend to it, see
    `averaging`. tiny_vae: flow momentum uses the model's, if it has one.
    """
    if not tiny_vae:
        model = Model(model.pipeline, model.name, model.folders, domain=model.domain)
    given: dict[str, Any] = {
        "model": model,
        "seed": case.seed,
        "num_inference_steps": steps,
        "guidance_scale": GUIDANCE,
    }
    given |= {"size": (case.side, case.side), "chunk_size": BATCH, **settings}
    used = [name for name, asked in (("pose", edited), ("reference", reference)) if asked]
    given["plugins"] = [*settings.get("plugins", ()), *(plugins.load(name)() for name in used)]
    if edited:
        clip = zs2kit.edit(Clip.from_images(source_images(case), RATE), case.prompt, **given)
    else:
        clip = zs2kit.generate(case.prompt, frames=case.frames, rate=RATE, **given)
    with averaging.anchored() if anchored else nullcontext():
        return np.stack([frame.image for frame in clip])


def frame_by_frame(model: Model, case: Case, steps: int, *, edited: bool, shared: bool) -> Images:
    """Every frame a picture of its own; their noise is independent, or one and the same."""
    noise = initial_noise(model, case, shared)
    if shared and not edited:  # all are the same
        return pictures(model, case, steps, noise[:1], None).repeat(case.frames, axis=0)
    control = skeletons(model, case) if edited else None
    parts = [slice(i, i + BATCH) for i in range(0, case.frames, BATCH)]
    drawn = [pictures(model, case, steps, noise[i], None if control is None else control[i]) for i in parts]
    return np.concatenate(drawn)


def first_frame(model: Model, case: Case, steps: int, *, edited: bool) -> Images:
    """All frames attend to the first and share its noise: Text2Video-Zero's recipe with a ControlNet.

    Khachatryan et al. 2023; the attention is diffusers', and all frames are one batch, as there.
    """
    control = skeletons(model, case) if edited else None
    networks = [model.unet, controlnet(model)] if edited else [model.unet]
    with attention(networks, lambda layer: CrossFrameAttnProcessor2_0(batch_size=2)):
        return pictures(model, case, steps, initial_noise(model, case, shared=True), control)


def text_to_video_zero(model: Model, case: Case, steps: int, *, matched: bool = False) -> Images:
    """diffusers' TextToVideoZeroPipeline, whose figures move because latents are shifted.

    Its t0 = 44 and t1 = 47 count from the end of 50 steps; with fewer, the same shares of them. matched: the
    steps that are as noisy as those are with Stable Diffusion 1.5, instead of those with their numbers.
    """
    parts = {name: getattr(model.pipeline, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
    scheduler = make_scheduler("ddim", model.pipeline.scheduler.config, steps)
    first, second = max(1, round(2 / 50 * steps)), max(2, round(5 / 50 * steps))
    if matched:
        signal = scheduler.alphas_cumprod[scheduler.timesteps.cpu()].log()
        second = max(2, int((signal - math.log(SD15[0])).abs().argmin()))
        first = min(second - 1, int((signal - math.log(SD15[1])).abs().argmin()))
    t0, t1 = steps - 1 - second, steps - 1 - first
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and says so
        pipeline = TextToVideoZeroPipeline(
            **parts,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        latents = pipeline(
            case.prompt,
            video_length=case.frames,
            height=case.side,
            width=case.side,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            latents=initial_noise(model, case, shared=True)[:1],
            generator=torch.Generator().manual_seed(case.seed),
            output_type="latent",
            t0=t0,
            t1=t1,
        ).images
    return to_images(model.decode(latents))


def initial_noise(model: Model, case: Case, shared: bool) -> torch.Tensor:
    """Noise (frames, channels, height, width): that of zs2kit's frames, or of its first one for all."""
    frames = [0] * case.frames if shared else range(case.frames)
    shape = model.latent_shape(case.side, case.side)
    return torch.stack([draw(shape, case.seed, "initial", frame) for frame in frames]).to(model.device)


@cache
def controlnet(model: Model) -> Any:
    """The pose ControlNet that the pose plugin takes."""
    pose: Any = plugins.build("pose", {})
    return model.load_network(diffusers.ControlNetModel, pose.controlnet(model))


def skeletons(model: Model, case: Case) -> torch.Tensor:
    """The maps (frames, 3, height, width) in [0, 1] that the pose plugin finds in the source."""
    images = source_images(case)
    pose: Any = plugins.load("pose")()
    pose.load_detector(model, Clip.from_images(images, RATE))
    maps = pose.detect(images, Chunk(0, case.frames, case.side, case.side))
    return torch.from_numpy(maps).permute(0, 3, 1, 2).to(model.device, model.dtype) / 255


def pictures(
    model: Model, case: Case, steps: int, noise: torch.Tensor, control: torch.Tensor | None
) -> Images:
    """What diffusers' StableDiffusionPipeline, or XL's, draws of ``noise``; its ControlNet one with maps."""
    parts = dict(model.pipeline.components)
    parts["scheduler"] = make_scheduler("ddim", model.pipeline.scheduler.config, steps)
    given: dict[str, Any] = {"height": case.side, "width": case.side}
    kind: Any = type(model.pipeline)
    if not hasattr(model.pipeline, "text_encoder_2"):
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if control is not None:
        kind = diffusers.StableDiffusionControlNetPipeline
        parts["controlnet"] = controlnet(model)
        given = {"image": control}
    with quiet():
        pipeline = kind(**parts)
        pipeline.set_progress_bar_config(disable=True)
        latents = pipeline(
            [case.prompt] * len(noise),
            latents=noise,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            output_type="latent",
            **given,
        ).images
    return to_images(model.decode(latents))


@contextmanager
def attention(networks: Sequence[Any], processor: Callable[[str], Any]) -> Iterator[None]:
    """Give self-attention layers other processors by name, for as long as the context lasts."""
    before = [dict(network.attn_processors) for network in networks]
    try:
        for network, processors in zip(networks, before, strict=True):
            own = {f"{layer}.processor": processor(layer) for layer in self_attention(network)}
            network.set_attn_processor(processors | own)
        yield
    finally:
        for network, processors in zip(networks, before, strict=True):
            network.set_attn_processor(processors)
