"""The denoising steps of a chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from zs2kit.denoiser import Denoiser
from zs2kit.motion import FlowMomentum
from zs2kit.networks.base import Branch
from zs2kit.schedule import Step, add_noise, advance, begin, estimate, scaled, steps_of


class Kept(NamedTuple):
    """What stays as it is in the source. It is put back after every step, as noisy as the rest is by then."""

    latents: torch.Tensor  # the source's: (frames, channels, height, width)
    noise: torch.Tensor  # of the same shape and unit variance
    mask: torch.Tensor  # (frames, 1, height, width) in [0, 1]; 1 is what stays


def sample(
    denoiser: Denoiser,
    scheduler: Any,
    latents: torch.Tensor,
    branches: Sequence[Branch],
    step_noise: Callable[[Step], torch.Tensor],
    steps: Sequence[Step],
    kept: Kept | None = None,
    motion: FlowMomentum | None = None,
    correct: Callable[[Step, torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[tuple[Step, torch.Tensor]]:
    """Take denoising ``steps``, yielding each with the latents (frames, channels, height, width) after it.

    latents: float32, at the noise level of the first step.
    step_noise: returns a step's noise, of the latents' shape, for schedulers that add some.
    steps: consecutive steps of the scheduler.
    kept: what stays as it is in the source.
    motion: averages each step's estimate of the final latents along the source's motion.
    correct: changes that estimate before; if it returns the same tensor, the step is left as it is.
    """
    if steps:
        begin(scheduler, steps[0])
    for step in steps:
        prediction = denoiser.guided(scaled(scheduler, latents, step), step, branches)
        if correct is not None or motion is not None:
            a, b = estimate(scheduler, step)
            expected = a * latents + b * prediction
            aim = expected if correct is None else correct(step, expected)
            if motion is not None:
                aim = motion(step.index, step.count, aim)
            if motion is not None or aim is not expected:
                prediction = (aim - a * latents) / b
        latents = advance(scheduler, prediction, step, latents, step_noise)
        if kept is not None:
            source = kept.latents
            if step.index < step.count - 1:
                source = add_noise(scheduler, source, kept.noise, steps_of(scheduler)[step.index + 1])
            latents = torch.lerp(latents, source, kept.mask)
        yield step, latents
