"""The denoising loop, and the schedulers that it runs with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffusers
import torch

from zs2kit.denoiser import Branch, Denoiser, Step
from zs2kit.errors import UsageError
from zs2kit.model import quiet
from zs2kit.motion import FlowMomentum

# name -> diffusers class and what it needs beside the checkpoint's own scheduler config
SCHEDULERS: dict[str, tuple[type, dict[str, Any]]] = {
    "ddim": (diffusers.DDIMScheduler, {}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "dpm++": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "lcm": (diffusers.LCMScheduler, {}),
}


def make_scheduler(name: str, config: Any, num_inference_steps: int, device: torch.device) -> Any:
    """Return a fresh scheduler with its timesteps set.

    Made from the checkpoint's scheduler config, so that its prediction type and noise schedule hold.
    Every chunk needs its own: multistep schedulers keep a history. Raises `UsageError` for a number
    of steps that the scheduler doesn't offer.
    """
    cls, settings = SCHEDULERS[name]
    # Latents are no pixels: they must not be clipped, which DDIM does unless it is told not to.
    given = {"clip_sample": False, **config}
    with quiet():  # they say which entries of another scheduler's config they don't use
        scheduler = cls.from_config(given, **settings)  # type: ignore[attr-defined]
    most = scheduler.config["original_inference_steps" if name == "lcm" else "num_train_timesteps"]
    if num_inference_steps > most:
        raise UsageError(
            f"scheduler '{name}' takes at most {most} steps with this model, not {num_inference_steps}"
        )
    scheduler.set_timesteps(num_inference_steps, device=device)
    return scheduler


def steps_of(scheduler: Any) -> list[Step]:
    """Return the denoising steps of a scheduler whose timesteps are set."""
    return [Step(index, t, len(scheduler.timesteps)) for index, t in enumerate(scheduler.timesteps)]


def add_noise(scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, step: Step) -> torch.Tensor:
    """Return ``latents`` (frames, channels, height, width), with ``noise`` added as ``step`` expects it.

    noise: of unit variance and the latents' shape. For the first step to be taken, before it is, or for the
    next step.
    """
    if getattr(scheduler, "step_index", None) is None:
        _begin(scheduler, step)
    return scheduler.add_noise(latents, noise, step.timestep[None])  # type: ignore[no-any-return]


def _begin(scheduler: Any, step: Step) -> None:
    """Have the scheduler count its steps from ``step``, which it can't tell by timesteps that repeat."""
    if hasattr(scheduler, "set_begin_index"):  # DDIM doesn't count
        scheduler.set_begin_index(step.index)


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
    start: int = 0,
    kept: Kept | None = None,
    motion: FlowMomentum | None = None,
) -> torch.Tensor:
    """Denoise ``latents`` (frames, channels, height, width) from step ``start`` on; return them.

    latents: float32, at the noise level of step ``start``. step_noise: gives the noise of a step, of
    the latents' shape, to schedulers that add some. kept: what of another picture stays. motion: averages
    what each step takes for the finished picture.
    """
    steps = steps_of(scheduler)
    _begin(scheduler, steps[start])
    for step in steps[start:]:
        scaled = scheduler.scale_model_input(latents, step.timestep)
        prediction = sum(
            (branch.weight * denoiser(scaled, step, branch) for branch in branches),
            start=torch.zeros_like(latents),
        )
        if motion is not None:
            a, b = _denoised(scheduler, step)
            averaged = motion(step.index, step.count, a * latents + b * prediction)
            prediction = (averaged - a * latents) / b
        latents = advance(scheduler, prediction, step, latents, step_noise)
        if kept is not None:
            source = kept.latents
            if step.index < step.count - 1:
                source = add_noise(scheduler, source, kept.noise, steps[step.index + 1])
            latents = torch.lerp(latents, source, kept.mask)
    return latents


def _denoised(scheduler: Any, step: Step) -> tuple[float, float]:
    """Return a and b: a * latents + b * prediction is what ``step`` takes for the finished latents."""
    if hasattr(scheduler, "sigmas"):
        sigma = float(scheduler.sigmas[step.index])
        signal, noise = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
        # Euler's latents grow with the noise; those of the other schedulers have unit variance.
        scale = signal if isinstance(scheduler, diffusers.EulerDiscreteScheduler) else 1.0
    else:
        power = float(scheduler.alphas_cumprod[int(step.timestep)])
        signal, noise, scale = math.sqrt(power), math.sqrt(1 - power), 1.0
    kind = scheduler.config.prediction_type
    if kind == "v_prediction":
        return signal * scale, -noise
    return (scale / signal, -noise / signal) if kind == "epsilon" else (0.0, 1.0)


def advance(
    scheduler: Any,
    prediction: torch.Tensor,
    step: Step,
    latents: torch.Tensor,
    step_noise: Callable[[Step], torch.Tensor],
) -> torch.Tensor:
    """Take one step of the scheduler. Noise that it adds is ours, so that frames stay correlated."""
    if not isinstance(scheduler, diffusers.LCMScheduler):
        return scheduler.step(prediction, step.timestep, latents, return_dict=False)[0]  # type: ignore[no-any-return]
    # LCM draws its own, independent noise: take its denoised estimate and add ours in the same amount.
    unused = torch.Generator(latents.device).manual_seed(0)
    _, denoised = scheduler.step(prediction, step.timestep, latents, generator=unused, return_dict=False)
    if step.index == step.count - 1:
        return denoised  # type: ignore[no-any-return]
    alpha = scheduler.alphas_cumprod[int(scheduler.timesteps[step.index + 1])].to(latents)
    return alpha.sqrt() * denoised + (1 - alpha).sqrt() * step_noise(step)  # type: ignore[no-any-return]
