"""Schedulers and their steps: the one place that knows the differences of diffusers' scheduler classes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import diffusers
import torch

from zs2kit.errors import UsageError
from zs2kit.quiet import quiet

# name -> diffusers' class, and what it needs beside the checkpoint's own scheduler config
SCHEDULERS: dict[str, tuple[type, dict[str, Any]]] = {
    "ddim": (diffusers.DDIMScheduler, {}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "dpm++": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "lcm": (diffusers.LCMScheduler, {}),
}


@dataclass(frozen=True)
class Step:
    """A denoising step. What identifies it is its index, since timesteps may be fractional or repeat."""

    index: int
    timestep: torch.Tensor
    count: int  # of all steps


class Line(NamedTuple):
    """A step of a scheduler without memory: next = keep * latents + take * prediction."""

    keep: float
    take: float


def make_scheduler(name: str, config: Any, num_inference_steps: int, device: torch.device) -> Any:
    """Return a fresh scheduler with its timesteps set.

    It is made from the checkpoint's scheduler config, so it has the right prediction type and noise schedule.
    Every chunk needs its own, since multistep schedulers keep a history. Raises `UsageError` for more steps
    than the scheduler offers.
    """
    cls, settings = SCHEDULERS[name]
    # Latents are not pixels: they must not be clipped, which DDIM does unless it is told not to.
    given = {"clip_sample": False, **config}
    with quiet():  # schedulers log which entries of another scheduler's config they don't use
        scheduler = cls.from_config(given, **settings)  # type: ignore[attr-defined]
    most = scheduler.config["original_inference_steps" if name == "lcm" else "num_train_timesteps"]
    if num_inference_steps > most:
        raise UsageError(
            f"scheduler '{name}' takes at most {most} steps with this model, not {num_inference_steps}",
            f"take fewer: `num_inference_steps={most}`",
        )
    scheduler.set_timesteps(num_inference_steps, device=device)
    return scheduler


def steps_of(scheduler: Any) -> list[Step]:
    """Return the denoising steps of a scheduler whose timesteps are set."""
    return [Step(index, t, len(scheduler.timesteps)) for index, t in enumerate(scheduler.timesteps)]


def begin(scheduler: Any, step: Step) -> None:
    """Have the scheduler start with ``step``, which it can't find by itself where timesteps repeat."""
    if hasattr(scheduler, "set_begin_index"):  # DDIM doesn't count its steps
        scheduler.set_begin_index(step.index)


def add_noise(scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, step: Step) -> torch.Tensor:
    """Return ``latents`` (frames, channels, height, width) with as much ``noise`` as ``step`` expects.

    noise: of unit variance and the latents' shape. step: the first one, before any is taken, or the next one.
    """
    if getattr(scheduler, "step_index", None) is None:
        begin(scheduler, step)
    return scheduler.add_noise(latents, noise, step.timestep[None])  # type: ignore[no-any-return]


def levels(scheduler: Any, step: Step) -> tuple[float, float]:
    """Return the amplitudes of signal and noise, in latents of unit variance, before ``step``."""
    if hasattr(scheduler, "sigmas"):
        sigma = float(scheduler.sigmas[step.index])
        return 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
    power = float(scheduler.alphas_cumprod[int(step.timestep)])
    return math.sqrt(power), math.sqrt(1 - power)


def estimate(scheduler: Any, step: Step) -> tuple[float, float]:
    """Return a and b: ``a * latents + b * prediction`` is what ``step`` estimates the final latents to be."""
    signal, noise = levels(scheduler, step)
    # Euler's latents grow with the noise; those of the other schedulers have unit variance.
    scale = signal if isinstance(scheduler, diffusers.EulerDiscreteScheduler) else 1.0
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
    """Take one step of the scheduler; if it adds noise, it is ours, so that frames stay correlated."""
    if not isinstance(scheduler, diffusers.LCMScheduler):
        return scheduler.step(prediction, step.timestep, latents, return_dict=False)[0]  # type: ignore[no-any-return]
    # LCM would add independent noise: take its denoised estimate and add the same amount of our noise.
    unused = torch.Generator(latents.device).manual_seed(0)
    _, denoised = scheduler.step(prediction, step.timestep, latents, generator=unused, return_dict=False)
    if step.index == step.count - 1:
        return denoised  # type: ignore[no-any-return]
    alpha = scheduler.alphas_cumprod[int(scheduler.timesteps[step.index + 1])].to(latents)
    return alpha.sqrt() * denoised + (1 - alpha).sqrt() * step_noise(step)  # type: ignore[no-any-return]


def line(scheduler: Any, step: Step) -> Line:
    """Return ``step`` of the scheduler as a `Line`, found by taking it with 0 and 1 on a copy.

    Raises `UsageError` for schedulers whose steps depend on the steps before them, or add noise.
    """
    if hasattr(scheduler, "model_outputs") or isinstance(scheduler, diffusers.LCMScheduler):
        raise UsageError("the steps of this scheduler can't be inverted", "use `scheduler='ddim'`")
    zero, one = torch.zeros(()), torch.ones(())

    def taken(prediction: torch.Tensor, latents: torch.Tensor) -> float:
        fresh = copy.deepcopy(scheduler)
        begin(fresh, step)
        return float(fresh.step(prediction, step.timestep, latents, return_dict=False)[0])

    return Line(taken(zero, one), taken(one, zero))


def inverse(scheduler: Any) -> Any:
    """Return a scheduler that inverts the steps of ``scheduler`` (DDIM inversion).

    Raises `UsageError` for any scheduler but ddim.
    """
    if not isinstance(scheduler, diffusers.DDIMScheduler):
        raise UsageError("only the steps of ddim can be inverted", "use `scheduler='ddim'`")
    back = diffusers.DDIMInverseScheduler.from_config(scheduler.config)
    back.num_inference_steps = len(scheduler.timesteps)  # so that it can take any of these timesteps
    return back
