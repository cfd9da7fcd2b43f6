"""An edit is a scan over the chunks of a clip: (carry, chunk) -> (carry, pixels)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pluggy import PluginManager

from zs2kit import plugins as plugins_
from zs2kit.carry import Carry
from zs2kit.clip import Chunk, Clip, Fit, Frame
from zs2kit.denoiser import Branch, Denoiser
from zs2kit.errors import ModelError, UsageError
from zs2kit.model import BUNDLED, Model
from zs2kit.noise import MAX_DIVERGENCE, dependency_noise
from zs2kit.sampler import SCHEDULERS, Kept, make_scheduler, sample, steps_of

log = logging.getLogger(__name__)


class Scan:
    """One edit under way: its settings, and the function that takes it one chunk further."""

    def __init__(
        self,
        model: Model,
        hooks: PluginManager,
        clip: Clip,
        *,
        prompt: str | None,
        negative_prompt: str,
        scheduler: str,
        num_inference_steps: int,
        guidance_scale: float,
        momentum: float,
        divergence: float,
        seed: int,
    ) -> None:
        self.hook: Any = hooks.hook
        self.model = model
        self.denoiser = Denoiser(model, hooks.hook, momentum)
        self.prompt = model.default_prompt if prompt is None else prompt
        self.negative_prompt = negative_prompt
        self.scheduler = scheduler
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale
        self.divergence = divergence
        self.seed = seed
        self.hook.setup(model=model, denoiser=self.denoiser, scheduler=self._scheduler(), clip=clip)

    @torch.no_grad()
    def __call__(self, carry: Carry, chunk: Chunk) -> tuple[Carry, torch.Tensor]:
        """Return what the next chunk needs, and this chunk's pixels (frames, 3, height, width) in [0, 1]."""
        following = Carry()
        with self.model.lock, self.denoiser.sampling(carry, following):
            self.hook.prepare(chunk=chunk, model=self.model)
            branches = self.hook.guidance(
                prompt=self.prompt,
                negative_prompt=self.negative_prompt,
                guidance_scale=self.guidance_scale,
                model=self.model,
                chunk=chunk,
            )
            scheduler = self._scheduler()
            noise = self._noise(carry, following, chunk, "initial")
            kept = self._kept(chunk, noise)
            start = self.hook.initial_latents(
                chunk=chunk,
                noise=noise,
                scheduler=scheduler,
                steps=steps_of(scheduler),
                model=self.model,
                denoiser=self.denoiser,
            )
            latents, first = start[0] if start else (noise * scheduler.init_noise_sigma, 0)
            latents = sample(
                self.denoiser,
                scheduler,
                latents,
                branches[0] if branches else self._classifier_free(chunk),
                lambda step: self._noise(carry, following, chunk, "step", step.index),
                first,
                kept,
            )
            pixels = self.model.decode(latents)
            if not pixels.isfinite().all():  # they would become black frames
                raise ModelError(
                    f"{self.model.name} overflows in {self.model.dtype} at frames {chunk.index} to "
                    f"{chunk.indices[-1]}; use bfloat16 or float32, or a lower guidance scale"
                )
            return following, pixels

    def _scheduler(self) -> Any:
        return make_scheduler(
            self.scheduler, self.model.scheduler_config, self.num_inference_steps, self.model.device
        )

    def _noise(
        self, carry: Carry, following: Carry, chunk: Chunk, purpose: str, step: int = 0
    ) -> torch.Tensor:
        key = f"noise/{purpose}/{step}"
        previous = carry.get(key)
        noise = dependency_noise(
            self.model.latent_shape(chunk.height, chunk.width),
            chunk.indices,
            self.divergence,
            self.seed,
            None if previous is None else previous.cpu(),
            purpose=purpose,
            step=step,
        )
        following[key] = noise[-1].clone()
        return noise.to(self.model.device)

    def _kept(self, chunk: Chunk, noise: torch.Tensor) -> Kept | None:
        """What the plugins keep of the source, for the sampler here and for `finished` in ``chunk.kept``."""
        masks = self.hook.keep(chunk=chunk)
        if not masks:
            return None
        assert chunk.fit is not None and chunk.pixels is not None
        chunk.kept = np.maximum.reduce(masks)
        mask = torch.from_numpy(np.stack([chunk.fit.apply(each) for each in chunk.kept]))[:, None]
        # A latent stays only where all of its pixels do, or what is drawn anew would be cut short.
        mask = -torch.nn.functional.max_pool2d(-mask, self.model.vae_scale)
        return Kept(self.model.encode(chunk.pixels), noise, mask.clamp(0, 1).to(noise))

    def _classifier_free(self, chunk: Chunk) -> list[Branch]:
        """Classifier-free guidance: s times the prediction with the prompt, 1 - s times that without."""
        embeds, negative = self.model.embed(
            self.prompt or "", self.negative_prompt, chunk.height, chunk.width
        )
        width = self.model.unet.config.time_cond_proj_dim
        if width is not None:  # a distilled model, which takes the scale as an input
            scale = torch.tensor([self.guidance_scale - 1])
            cond = self.model.pipeline.get_guidance_scale_embedding(scale, embedding_dim=width)
            cond = cond.to(self.model.device, self.model.dtype)
            return [Branch("text", 1.0, embeds.prompt_embeds, embeds.conditions, cond)]
        text = Branch("text", self.guidance_scale, embeds.prompt_embeds, embeds.conditions)
        if self.guidance_scale == 1:
            return [text]
        empty = Branch(
            "negative",
            1 - self.guidance_scale,
            negative.prompt_embeds,
            negative.conditions,
            conditional=False,
        )
        return [empty, text]


def edit(
    clip: Clip,
    prompt: str | None = None,
    *,
    plugins: Sequence[object] = (),
    model: str | Path | Model | None = None,
    negative_prompt: str = "",
    scheduler: str = "ddim",
    num_inference_steps: int = 20,
    guidance_scale: float = 5.0,
    momentum: float = 0.98,
    divergence: float = 0.01,
    size: tuple[int, int] | None = None,
    chunk_size: int = 8,
    seed: int = 0,
) -> Clip:
    """Return ``clip`` edited: the same frames' times, other pictures.

    Everything is checked here; frames are made while the returned clip is iterated over, a chunk at
    a time, so memory doesn't grow with the clip.

    prompt: what to draw; None is the model's default prompt.
    plugins: instances, such as ``Pose(scale=0.8)``; they are copied, and not changed.
    model: a `Model`, or what `Model.load` takes; None is the plugins' default model or the bundled one.
    scheduler: ddim, euler, dpm++, unipc or lcm.
    guidance_scale: of classifier-free guidance; 1 is none.
    momentum: mu in [0, 1] of temporal momentum attention; 0 is plain self-attention.
    divergence: lambda in [0, sqrt(e)] of the dependency noise; 0 is a still, sqrt(e) independent.
    size: (height, width) to fit the frames into for the model; None is its native size.
    chunk_size: frames at a time; more is faster and takes more memory, and doesn't change the picture.
    seed: not negative; the same seed and settings give the same frames.

    Raises `UsageError` for a value out of range, `ModelError` and `PluginError` where those don't load
    or don't fit.
    """
    _check(0 <= momentum <= 1, f"momentum must be 0 to 1, not {momentum}")
    _check(
        0 <= divergence <= MAX_DIVERGENCE,
        f"divergence must be 0 to {MAX_DIVERGENCE:.4f} (the square root of e), not {divergence}",
    )
    _check(num_inference_steps >= 1, f"steps must be at least 1, not {num_inference_steps}")
    _check(0 <= guidance_scale < math.inf, f"guidance scale must be at least 0, not {guidance_scale}")
    _check(chunk_size >= 1, f"chunk size must be at least 1, not {chunk_size}")
    _check(seed >= 0, f"seed must be at least 0, not {seed}")
    _check(
        scheduler in SCHEDULERS,
        f"no scheduler is called '{scheduler}'; choose from {', '.join(SCHEDULERS)}",
    )
    for plugin in plugins:
        plugins_.check(plugin)
    hooks = plugins_.manager(plugins)
    if not isinstance(model, Model):
        model = Model.load(model or plugins_.default_model(plugins) or BUNDLED)
    smallest = model.multiple
    _check(
        size is None or min(size) >= smallest,
        f"size must be at least {smallest}x{smallest} for {model.name}",
    )
    fit = Fit.into(
        (clip.height, clip.width), size or model.native_size, model.multiple, clip.sample_aspect_ratio
    )
    scan = Scan(
        model,
        hooks,
        clip,
        prompt=prompt,
        negative_prompt=negative_prompt,
        scheduler=scheduler,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        momentum=momentum,
        divergence=divergence,
        seed=seed,
    )
    return replace(clip, frames=_edited(clip, scan, fit, chunk_size))


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message)


def _edited(clip: Clip, scan: Scan, fit: Fit, chunk_size: int) -> Iterator[Frame]:
    carry = Carry()
    index = 0
    for frames in clip.chunks(chunk_size):
        chunk = chunk_of(frames, index, clip.time_base, fit)
        carry, pixels = scan(carry, chunk)
        if index == 0:
            log.info("the carry between chunks takes %.1f MB", carry.nbytes / 1e6)
        for frame, image in zip(frames, finished(chunk, pixels), strict=True):
            yield frame._replace(image=image)
        index += len(frames)
    scan.hook.finish(frames=index)


def chunk_of(frames: Sequence[Frame], index: int, time_base: Fraction, fit: Fit) -> Chunk:
    """Return the chunk that starts with frame ``index`` of the clip, its pixels fitted to the model."""
    images = [frame.image for frame in frames]
    stack = np.stack([fit.apply(image) for image in images])  # (frames, height, width, 3)
    pixels = torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1
    times = tuple(frame.pts * time_base for frame in frames)
    return Chunk(index, len(images), *fit.padded, times, images, pixels, fit)


def finished(chunk: Chunk, pixels: torch.Tensor) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames at the source's size, with what is kept of the source in its place.

    pixels: (frames, 3, height, width) in [0, 1], what was made of ``chunk``.
    """
    assert chunk.fit is not None and chunk.frames is not None
    for index, image in enumerate(to_images(pixels)):
        image = chunk.fit.undo(image)
        if chunk.kept is not None:
            mask, source = chunk.kept[index, :, :, None], chunk.frames[index]
            image = (mask * source + (1 - mask) * image).round().astype(np.uint8)
        yield image


def to_images(pixels: torch.Tensor) -> NDArray[np.uint8]:
    """(frames, 3, height, width) in [0, 1] -> (frames, height, width, 3) uint8."""
    return (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
