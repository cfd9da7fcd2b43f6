"""Schedulers and their steps: the one place that knows how diffusers' scheduler classes differ."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import diffusers
import torch

from zs2kit.errors import UsageError
from zs2kit.memory import copied
from zs2kit.quiet import quiet

# name -> diffusers' class, and what it needs besides the checkpoint's scheduler config
SCHEDULERS: dict[str, tuple[type, dict[str, Any]]] = {
    "ddim": (diffusers.DDIMScheduler, {}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "dpm++": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "lcm": (diffusers.LCMScheduler, {}),
}
_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
# The same for flow matching. ddim has no counterpart there, since its steps would be those of euler.
FLOW_SCHEDULERS: dict[str, tuple[type, dict[str, Any]]] = {
    "euler": (diffusers.FlowMatchEulerDiscreteScheduler, {}),
    "dpm++": (diffusers.DPMSolverMultistepScheduler, {**_FLOW, "algorithm_type": "dpmsolver++"}),
    "unipc": (diffusers.UniPCMultistepScheduler, _FLOW),
    "lcm": (diffusers.FlowMatchLCMScheduler, {}),
}


@dataclass(frozen=True)
class Step:
    """A denoising step. It is identified by its index, since timesteps may be fractional or repeat."""

    index: int
    timestep: torch.Tensor  # a number, in host memory
    count: int  # how many steps there are
    first: int = 0  # the index of the first step that is taken: `strength` skips the steps before it


class Line(NamedTuple):
    """A step of a scheduler that remembers nothing: next = keep * latents + take * prediction."""

    keep: float
    take: float


def make_scheduler(name: str, config: Any, num_inference_steps: int) -> Any:
    """Return a fresh scheduler with its timesteps set.

    It is made from the checkpoint's scheduler config, so it has the right prediction type and noise schedule.
    Its timesteps are in host memory, since it reads them in each step, and would have to wait for a device.
    Every chunk needs a scheduler of its own, since multistep schedulers keep a history. Raises `UsageError`
    for more steps than the scheduler offers, and for ddim with flow matching.
    """
    if is_flow(config):
        euler = flow_euler(name, config, num_inference_steps)
        euler.set_timesteps(num_inference_steps)
        return with_levels_of(euler, name)
    cls, settings = SCHEDULERS[name]
    # Latents are not pixels and must not be clipped, which DDIM does by default.
    given = {"clip_sample": False, **config}
    with quiet():  # a scheduler logs which entries of another one's config it doesn't use
        scheduler = cls.from_config(given, **settings)  # type: ignore[attr-defined]
    most = scheduler.config["original_inference_steps" if name == "lcm" else "num_train_timesteps"]
    _check_steps(name, num_inference_steps, most)
    scheduler.set_timesteps(num_inference_steps)
    return scheduler


def _check_steps(name: str, num_inference_steps: int, most: int) -> None:
    if num_inference_steps > most:
        raise UsageError(
            f"scheduler '{name}' takes at most {most} steps with this model, not {num_inference_steps}",
            f"take fewer: `num_inference_steps={most}`",
        )


def is_flow(config: Any) -> bool:
    """Whether a scheduler with this config is for flow matching: the network predicts noise minus picture."""
    # FlowMatchEuler and FlowMatchLCM know no other prediction, so their configs don't name it.
    return bool(
        config.get("prediction_type", "flow_prediction" if "shift" in config else "") == "flow_prediction"
    )


def is_known(config: Any) -> bool:
    """Whether models with this scheduler config can be sampled. With EDM's noise levels, they can't."""
    return "sigma_data" not in config and (is_flow(config) or "prediction_type" in config)


def flow_euler(name: str, config: Any, num_inference_steps: int) -> Any:
    """Return a FlowMatchEuler scheduler with the checkpoint's config, whose timesteps are not set yet.

    name: the scheduler that will get its noise levels. Raises `UsageError` if there is no such scheduler for
    flow matching, and for more steps than there are levels.
    """
    if name not in FLOW_SCHEDULERS:
        raise UsageError(
            f"scheduler '{name}' can't be used with this model, which was trained by flow matching",
            f"choose from {', '.join(FLOW_SCHEDULERS)}",
        )
    shift = {"shift": config["flow_shift"]} if "flow_shift" in config else {}  # as other solvers call it
    with quiet():
        euler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config, **shift)
    _check_steps(name, num_inference_steps, euler.config.num_train_timesteps)
    return euler


def with_levels_of(euler: Any, name: str) -> Any:
    """Return the scheduler ``name`` with the timesteps and the noise levels of ``euler`` (a FlowMatchEuler).

    Each family of models spaces its noise levels in its own way, and expects them whatever the scheduler. The
    other schedulers' own `set_timesteps` would space them differently.
    """
    cls, settings = FLOW_SCHEDULERS[name]
    # In host memory, as in all other schedulers, so that reading one doesn't wait for a device
    euler.sigmas, euler.timesteps = euler.sigmas.cpu(), euler.timesteps.cpu()
    if cls is type(euler):
        return euler
    with quiet():
        # The levels are shifted already; and shifting by the picture's size would need that size.
        scheduler = cls.from_config(  # type: ignore[attr-defined]
            {**euler.config, "use_dynamic_shifting": False, "shift_terminal": None}, **settings
        )
    scheduler.set_timesteps(len(euler.timesteps))
    scheduler.timesteps = euler.timesteps
    scheduler.sigmas = euler.sigmas
    if hasattr(scheduler, "model_outputs"):
        # For pure noise, multistep solvers would take the logarithm of 0.
        scheduler.sigmas = scheduler.sigmas.clamp(max=1 - 1e-6)
    return scheduler


def steps_of(scheduler: Any, first: int = 0) -> list[Step]:
    """Return the denoising steps of a scheduler whose timesteps are set.

    first: the index of the first step that is taken.
    """
    return [Step(index, t, len(scheduler.timesteps), first) for index, t in enumerate(scheduler.timesteps)]


def begin(scheduler: Any, step: Step) -> None:
    """Make the scheduler go on with ``step``, which it can't find by itself if timesteps repeat."""
    if hasattr(scheduler, "set_begin_index"):  # DDIM doesn't count its steps
        scheduler.set_begin_index(step.index)
        scheduler._step_index = None  # or it would go on counting from where it was


# The attributes in which multistep schedulers remember earlier steps
_MEMORY = ("model_outputs", "last_sample", "lower_order_nums", "this_order")


def memory_of(scheduler: Any) -> dict[str, torch.Tensor]:
    """Return what a scheduler remembers of the steps it has taken: tensors (frames, ...), or numbers.

    Empty for schedulers that remember nothing.
    """
    found = {}
    for name in _MEMORY:
        value = getattr(scheduler, name, None)
        parts = {f"{name}/{place}": it for place, it in enumerate(value)} if isinstance(value, list) else {}
        found.update(parts or {name: value})
    return {name: torch.as_tensor(it) for name, it in found.items() if it is not None}


def remember(scheduler: Any, memory: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Make a scheduler for latents on ``device`` remember what `memory_of` returned for the same frames."""
    for name, tensor in memory.items():
        attribute, _, place = name.partition("/")
        if place:
            getattr(scheduler, attribute)[int(place)] = tensor.to(device)
        else:
            whole = tensor.ndim == 0  # a count of steps
            setattr(scheduler, attribute, int(tensor) if whole else tensor.to(device))


def add_noise(scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, step: Step) -> torch.Tensor:
    """Return ``latents`` (frames, channels, height, width) with as much ``noise`` as ``step`` expects.

    noise: of unit variance and the latents' shape. step: the next one to be taken.
    """
    if is_flow(scheduler.config):
        signal, level = levels(scheduler, step)
        return signal * latents + level * noise
    if getattr(scheduler, "step_index", None) is None:
        begin(scheduler, step)
    return scheduler.add_noise(latents, noise, copied(step.timestep[None], latents.device))  # type: ignore[no-any-return]


def from_noise(scheduler: Any, noise: torch.Tensor) -> torch.Tensor:
    """Return the latents to start from: ``noise`` of unit variance, scaled to what the first step expects."""
    return noise * getattr(scheduler, "init_noise_sigma", 1.0)  # flow matching takes the noise as it is


def scaled(scheduler: Any, latents: torch.Tensor, step: Step) -> torch.Tensor:
    """Return ``latents`` as the network takes them in ``step``."""
    if not hasattr(scheduler, "scale_model_input"):  # flow matching takes them as they are
        return latents
    if getattr(scheduler, "step_index", None) != step.index:
        begin(scheduler, step)
    return scheduler.scale_model_input(latents, step.timestep)  # type: ignore[no-any-return]


def levels(scheduler: Any, step: Step) -> tuple[float, float]:
    """Return the amplitudes of signal and noise before ``step``.

    This is for latents of unit variance; with flow matching, the amplitudes are 1 - sigma and sigma.
    """
    if is_flow(scheduler.config):
        sigma = float(scheduler.sigmas[step.index])
        return 1 - sigma, sigma
    if hasattr(scheduler, "sigmas"):
        sigma = float(scheduler.sigmas[step.index])
        return 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
    power = float(scheduler.alphas_cumprod[int(step.timestep)])
    return math.sqrt(power), math.sqrt(1 - power)


def estimate(scheduler: Any, step: Step) -> tuple[float, float]:
    """Return a and b, where ``a * latents + b * prediction`` is the step's estimate of the final latents."""
    a, b = _estimate(scheduler, step)
    # Euler's latents grow with the noise; those of the other schedulers have unit variance.
    grows = isinstance(scheduler, diffusers.EulerDiscreteScheduler)
    return a * (levels(scheduler, step)[0] if grows else 1.0), b


def _estimate(scheduler: Any, step: Step) -> tuple[float, float]:
    """Return the same a and b, but for latents of unit variance."""
    signal, noise = levels(scheduler, step)
    if is_flow(scheduler.config):
        return 1.0, -noise  # prediction = noise - picture
    kind = scheduler.config.prediction_type
    if kind == "v_prediction":
        return signal, -noise
    return (1 / signal, -noise / signal) if kind == "epsilon" else (0.0, 1.0)


def flow_level(scheduler: Any, step: Step) -> float:
    """Return how much noise there is before ``step``, in flow matching's terms: from 0 to 1 (all noise).

    At level t, latents are (1 - t) * picture + t * noise. The latents of other models differ by a factor.
    """
    signal, noise = levels(scheduler, step)
    return noise / (signal + noise)


def flow_velocity(
    scheduler: Any, step: Step, latents: torch.Tensor, predict: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return noise minus picture, as the model sees them in ``latents`` of the step's `flow_level`.

    predict: calls the network, with latents as it expects them.
    """
    signal, noise = levels(scheduler, step)
    latents = latents * (signal + noise)
    prediction = predict(latents)
    a, b = _estimate(scheduler, step)
    picture = a * latents + b * prediction
    return (latents - (signal + noise) * picture) / noise


def advance(
    scheduler: Any,
    prediction: torch.Tensor,
    step: Step,
    latents: torch.Tensor,
    step_noise: Callable[[Step], torch.Tensor],
) -> torch.Tensor:
    """Take one step of the scheduler. If the step adds noise, it is ours, so that frames stay correlated."""
    if not _adds_noise(scheduler):
        return scheduler.step(prediction, step.timestep, latents, return_dict=False)[0]  # type: ignore[no-any-return]
    if is_flow(scheduler.config):
        a, b = estimate(scheduler, step)
        sigma = float(scheduler.sigmas[step.index + 1])  # 0 after the last step
        return (1 - sigma) * (a * latents + b * prediction) + sigma * step_noise(step)
    # LCM would add independent noise. So take its denoised estimate, and add as much of our own noise.
    unused = torch.Generator(latents.device).manual_seed(0)
    _, denoised = scheduler.step(prediction, step.timestep, latents, generator=unused, return_dict=False)
    if step.index == step.count - 1:
        return denoised  # type: ignore[no-any-return]
    alpha = scheduler.alphas_cumprod[int(scheduler.timesteps[step.index + 1])]
    return alpha.sqrt() * denoised + (1 - alpha).sqrt() * step_noise(step)  # type: ignore[no-any-return]


def _adds_noise(scheduler: Any) -> bool:
    """Whether the scheduler's steps add noise."""
    consistency = isinstance(scheduler, diffusers.LCMScheduler | diffusers.FlowMatchLCMScheduler)
    return consistency or bool(scheduler.config.get("stochastic_sampling"))


def line(scheduler: Any, step: Step) -> Line:
    """Return ``step`` of the scheduler as a `Line`, found by trying it out with 0 and 1 on a copy.

    Raises `UsageError` for schedulers whose steps depend on earlier steps, or add noise.
    """
    if hasattr(scheduler, "model_outputs") or _adds_noise(scheduler):
        usable = "'euler'" if is_flow(scheduler.config) else "'ddim'"
        raise UsageError("the steps of this scheduler can't be inverted", f"use `scheduler={usable}`")
    zero, one = torch.zeros(()), torch.ones(())

    def taken(prediction: torch.Tensor, latents: torch.Tensor) -> float:
        fresh = copy.deepcopy(scheduler)
        begin(fresh, step)
        scaled(fresh, latents, step)  # or Euler would warn
        return float(fresh.step(prediction, step.timestep, latents, return_dict=False)[0])

    return Line(taken(zero, one), taken(one, zero))
