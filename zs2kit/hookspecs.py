"""The hooks: the moments of an edit at which a plugin may act.

A plugin is a subclass of `zs2kit.Plugin`, a dataclass whose fields are its options and whose methods,
marked with `zs2kit.hookimpl`, are the hooks that it takes part in. A method may leave out arguments that it
doesn't need. What several plugins return is combined without regard to their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from zs2kit.clip import Chunk, Clip
    from zs2kit.denoiser import Denoiser
    from zs2kit.model import Model
    from zs2kit.networks.base import Branch, DenoiserInputs
    from zs2kit.schedule import Step

hookspec = pluggy.HookspecMarker("zs2kit")
hookimpl = pluggy.HookimplMarker("zs2kit")


@hookspec
def setup(model: Model, denoiser: Denoiser, scheduler: Any, clip: Clip) -> None:
    """Load side networks; called once per edit, before the first chunk.

    ``denoiser.attach(name, network)`` gives a side network's self-attention the same temporal
    momentum as the U-Net's; ``denoiser.within(context)`` is for what must change the model itself
    while it samples. ``scheduler`` is like those that the chunks will get. ``clip`` is what is
    edited: its size, rate and number of frames are here to be read, its frames are not.
    Check here that the options fit all of these, and raise `zs2kit.Zs2Error` if not.
    """


@hookspec
def guidance(
    prompt: str | None, negative_prompt: str, guidance_scale: float, model: Model, chunk: Chunk
) -> list[Branch] | None:
    """Return the branches of the guidance for this chunk, or None; called once per chunk.

    Their weights sum to 1. One plugin at most may implement this; without it, classifier-free
    guidance is used.
    """


@hookspec
def prepare(chunk: Chunk, model: Model) -> None:
    """Look at the chunk's frames before it is sampled, and keep on self what later hooks need.

    Called anew where a chunk is made anew: in parts, since memory ran out, or in float32, as ``model.dtype``
    then says, since numbers broke in half precision. Where a plugin wants a shot's first frame, that one is
    a chunk of its own beforehand, for all plugins.
    """


@hookspec
def initial_latents(
    chunk: Chunk,
    noise: torch.Tensor,
    scheduler: Any,
    steps: Sequence[Step],
    model: Model,
    denoiser: Denoiser,
) -> tuple[torch.Tensor, int] | None:
    """Return the latents to start from and the index of the first step to take, or None.

    ``noise`` (frames, channels, height, width) is the chunk's dependency noise of unit variance,
    ``scheduler`` the chunk's own, with its ``steps``. The latents have the noise level of the first
    step, as `zs2kit.schedule.add_noise` gives it to those of a picture. Called once per chunk; one
    plugin at most may implement it; without it, sampling starts from the noise at step 0.
    """


@hookspec
def denoiser_inputs(step: Step, branch: Branch, latents: torch.Tensor) -> DenoiserInputs | None:
    """Return what to add to this call of the U-Net, or None; called for every step and branch.

    ``latents`` (frames, channels, height, width) are already scaled for the model by the scheduler.
    """


@hookspec
def channels(step: Step, branch: Branch, latents: torch.Tensor) -> torch.Tensor | None:
    """Return what to append to the latents (frames, channels, height, width) in this call of the U-Net.

    For U-Nets with more input channels than latents; called for every step and branch. ``latents`` are
    already scaled for the model by the scheduler. One plugin at most may implement this.
    """


@hookspec
def keep(chunk: Chunk) -> NDArray[np.float32] | None:
    """Return what of the source stays as it is, or None for nothing; called once per chunk, after `prepare`.

    (frames, height, width) of the source's frames, in [0, 1]: 1 stays to the bit, 0 is drawn anew,
    between them both are blended. Several plugins' masks combine by their maximum.
    """


@hookspec
def finish(frames: int) -> None:
    """Say what the user should know of the whole edit; called once, after the last of ``frames`` frames."""
