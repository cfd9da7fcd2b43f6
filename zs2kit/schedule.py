"""Schedulers and their steps: the one place that knows diffusers' scheduler classes apart."""

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

# name -> diffusers class and what it needs beside the checkpoint's own scheduler config
SCHEDULERS: dict[str, tuple[type, dict[str, Any]]] = {
    "ddim": (diffusers.DDIMScheduler, {}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "dpm++": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "lcm": (diffusers.LCMScheduler, {}),
}


@dataclass(frozen=True)
class Step:
    """A denoising step. Known by its position: timestep values may be fractional, or repeat."""

    index: int
    timestep: torch.Tensor
    count: int  # of steps in all


class Line(NamedTuple):
    """A step of a scheduler without memory: next = keep * latents + take * prediction."""

    keep: float
    take: float


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


def begin(scheduler: Any, step: Step) -> None:
    """Have the scheduler count its steps from ``step``, which it can't tell by timesteps that repeat."""
    if hasattr(scheduler, "set_begin_index"):  # DDIM doesn't count
        scheduler.set_begin_index(step.index)


def add_noise(scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, step: Step) -> torch.Tensor:
    """Return ``latents`` (frames, channels, height, width), with ``noise`` added as ``step`` expects it.

    noise: of unit variance and the latents' shape. For the first step to be taken, before it is, or for the
    next step.
    """
    if getattr(scheduler, "step_index", None) is None:
        begin(scheduler, step)
    return scheduler.add_noise(latents, noise, step.timestep[None])  # type: ignore[no-any-return]


def levels(scheduler: Any, step: Step) -> tuple[float, float]:
    """Return how much signal and noise latents of unit variance have before ``step``."""
    if hasattr(scheduler, "sigmas"):
        sigma = float(scheduler.sigmas[step.index])
        return 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
    power = float(scheduler.alphas_cumprod[int(step.timestep)])
    return math.sqrt(power), math.sqrt(1 - power)


def estimate(scheduler: Any, step: Step) -> tuple[float, float]:
    """Return a and b: ``a * latents + b * prediction`` is what ``step`` takes for the finished latents."""
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


def line(scheduler: Any, step: Step) -> Line:
    """Return ``step`` of the scheduler as a `Line`, found by taking it with 0 and 1 on a copy.

    Raises `UsageError` for schedulers whose steps depend on those before them, or add noise.
    """
    if hasattr(scheduler, "model_outputs") or isinstance(scheduler, diffusers.LCMScheduler):
        raise UsageError("the steps of this scheduler can't be taken back", "use `scheduler='ddim'`")
    zero, one = torch.zeros(()), torch.ones(())

    def taken(prediction: torch.Tensor, latents: torch.Tensor) -> float:
        fresh = copy.deepcopy(scheduler)
        begin(fresh, step)
        return float(fresh.step(prediction, step.timestep, latents, return_dict=False)[0])

    return Line(taken(zero, one), taken(one, zero))


def inverse(scheduler: Any) -> Any:
    """Return the scheduler that takes the steps of ``scheduler`` back (DDIM inversion).

    Raises `UsageError` for others than ddim.
    """
    if not isinstance(scheduler, diffusers.DDIMScheduler):
        raise UsageError("only the steps of ddim can be taken back", "use `scheduler='ddim'`")
    back = diffusers.DDIMInverseScheduler.from_config(scheduler.config)
    back.num_inference_steps = len(scheduler.timesteps)  # its timesteps are the sampler's, which may be any
    return back
