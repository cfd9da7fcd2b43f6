"""What an edit takes beyond the networks that it calls."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from statistics import median
from time import perf_counter
from typing import Any

import torch

from zs2kit import plugins
from zs2kit.carry import Carry
from zs2kit.clip import Clip, Fit
from zs2kit.editing import edit, settled
from zs2kit.model import Model
from zs2kit.networks.base import Branch
from zs2kit.networks.loading import BUNDLED
from zs2kit.puppets.world import Scene, motion_scenes, render
from zs2kit.sampler import sample
from zs2kit.scan import Drawn, Scan, chunk_of
from zs2kit.schedule import steps_of
from zs2kit.settings import Settings

FRAMES, STEPS, GUIDANCE, SIDE = 8, 20, 5.0, 256
PROMPT = "a blue knight on the beach"


@torch.no_grad()
def measure(name: str | None, repeats: int) -> None:
    """Print how long a whole edit, and then the sampler loop, take over their bare calls.

    Both are the median over alternating pairs of timings, of one chunk with the pose plugin.
    """
    model = Model.load(name or BUNDLED)
    scenes = motion_scenes(Scene("robot", "red", "city"), "dance", FRAMES)
    clip = Clip.from_images([render(scene, SIDE).image for scene in scenes], 12)
    frames = list(clip)
    chunk = chunk_of(clip, frames, 0, Fit.into((SIDE, SIDE), model.native_size, model.multiple))

    pose: Any = plugins.build("pose", {})
    pose.load_detector(model, clip)
    maps = torch.from_numpy(pose.detect(chunk.images, chunk)).permute(0, 3, 1, 2)
    maps = maps.to(model.device, model.dtype) / 255
    how = Settings(prompt=PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE, flow_momentum=0.0)
    scan = Scan(model, plugins.manager([pose]), clip, settled(how, model))
    drawn = scan(Carry(), chunk)  # what a later chunk starts from; it also warms the networks up
    assert isinstance(drawn, Drawn)
    controlnet = scan.denoiser.networks["pose"]
    maps = controlnet.controlnet_cond_embedding.embed(maps)  # once, as the plugin does
    text, empty = (each.prompt_embeds for each in model.embed(PROMPT, "", chunk.height, chunk.width))
    branches = [Branch("negative", 1 - GUIDANCE, empty), Branch("text", GUIDANCE, text)]
    noise = torch.randn(FRAMES, *model.latent_shape(chunk.height, chunk.width)).to(model.device)
    latents = noise.to(model.dtype)
    embeds = [each.expand(FRAMES, -1, -1) for each in (empty, text)]

    def sampler_loop() -> None:
        scheduler = model.network.begin("ddim", STEPS, *noise.shape[2:])
        with scan.denoiser.sampling(drawn.carry, Carry()):
            steps = steps_of(scheduler)
            for _ in sample(scan.denoiser, scheduler, noise, branches, lambda step: noise, steps):
                pass

    def bare_calls() -> None:
        for timestep in model.network.begin("ddim", STEPS, *noise.shape[2:]).timesteps:
            for each in embeds:
                down, mid = controlnet(latents, timestep, each, maps, return_dict=False)
                model.unet(
                    latents,
                    timestep,
                    each,
                    down_block_additional_residuals=down,
                    mid_block_additional_residual=mid,
                    return_dict=False,
                )

    def bare_edit() -> None:
        pose.detect(chunk.images, chunk)
        bare_calls()
        model.decode(noise)

    def timed(work: Callable[..., Any], *args: Any) -> float:
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        start = perf_counter()
        work(*args)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return perf_counter() - start

    edits, loops = [], []
    for _ in range(repeats):
        clip = Clip(frames, SIDE, SIDE, Fraction(12), Fraction(1, 12), FRAMES)
        edited = edit(
            clip,
            PROMPT,
            plugins=[pose],
            model=model,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            chunk_size=FRAMES,
        )
        edits.append((timed(list, edited), timed(bare_edit)))
        loops.append((timed(sampler_loop), timed(bare_calls)))
    print(f"{model.name} on {model.device}, {FRAMES} frames, {STEPS} steps, {repeats} repeats")
    _report("the whole edit over bare model calls, VAE decode and detector", edits)
    _report("the sampler loop over bare U-Net and ControlNet calls", loops)


def _report(what: str, pairs: list[tuple[float, float]]) -> None:
    ours, bare = (median(times) for times in zip(*pairs, strict=True))
    print(f"{what}: {ours:.2f} s over {bare:.2f} s = {median(a / b for a, b in pairs):.3f}")
