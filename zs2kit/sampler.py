"""The denoising loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from zs2kit.denoiser import Denoiser
from zs2kit.motion import FlowMomentum
from zs2kit.networks.base import Branch
from zs2kit.schedule import Step, add_noise, advance, begin, estimate, steps_of


class Kept(NamedTuple):
    """What stays as in the source: put back after every step, as noisy as the rest then is."""

    latents: torch.Tensor  # (frames, channels, height, width)
    noise: torch.Tensor  # of the same shape, unit variance
    mask: torch.Tensor  # (frames, 1, height, width) in [0, 1]; 1 stays


def sample(
    denoiser: Denoiser,
    scheduler: Any,
    latents: torch.Tensor,
    branches: Sequence[Branch],
    step_noise: Callable[[Step], torch.Tensor],
    first: int = 0,
    kept: Kept | None = None,
    motion: FlowMomentum | None = None,
    after_step: Callable[[Step], object] = lambda step: None,
) -> torch.Tensor:
    """Denoise ``latents`` (frames, channels, height, width) from step ``first`` on; return them.

    latents: float32, at the noise level of step ``first``. step_noise: gives the noise of a step, of
    the latents' shape, to schedulers that add some. kept: what of another picture stays. motion: averages
    what each step takes for the finished picture. after_step: called after every step; may raise.
    """
    steps = steps_of(scheduler)
    begin(scheduler, steps[first])
    for step in steps[first:]:
        scaled = scheduler.scale_model_input(latents, step.timestep)
        prediction = denoiser.guided(scaled, step, branches)
        if motion is not None:
            a, b = estimate(scheduler, step)
            averaged = motion(step.index, step.count, a * latents + b * prediction)
            prediction = (averaged - a * latents) / b
        latents = advance(scheduler, prediction, step, latents, step_noise)
        if kept is not None:
            source = kept.latents
            if step.index < step.count - 1:
                source = add_noise(scheduler, source, kept.noise, steps[step.index + 1])
            latents = torch.lerp(latents, source, kept.mask)
        after_step(step)
    return latents
