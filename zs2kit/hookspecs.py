"""The hooks: the moments of an edit at which a plugin may act.

A plugin is a subclass of `zs2kit.Plugin`: a dataclass whose fields are its options, and whose methods that
are marked with `zs2kit.hookimpl` are its hooks. A method may leave out arguments that it doesn't need. What
several plugins return is combined in such a way that their order doesn't matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

    ``denoiser.attach(name, network)`` gives a side network's self-attention the same temporal momentum as the
    U-Net's; ``denoiser.within(context)`` is for plugins that must change the model itself while it samples.
    ``scheduler`` has the settings of those that the chunks will get. ``clip`` is the clip that is edited: you
    may read its size, rate and number of frames, but not its frames. Check that the options fit all of these,
    and raise `zs2kit.Zs2Error` if they don't.
    """


@hookspec
def guidance(
    prompt: str | None, negative_prompt: str, guidance_scale: float, model: Model, chunk: Chunk
) -> list[Branch] | None:
    """Return the branches of the guidance for this chunk, or None; called once per chunk.

    Their weights add up to 1. At most one plugin may implement this; without one, classifier-free guidance
    is used.
    """


@hookspec
def prepare(
    chunk: Chunk, model: Model, carry: Mapping[str, torch.Tensor], whole: Chunk
) -> Mapping[str, torch.Tensor] | None:
    """Look at the chunk's frames before it is drawn, and store on self what later hooks need.

    If a frame's results depend on earlier frames, return what the next chunk must know of them, as named
    tensors; begin each name with the plugin's. ``carry`` is what the plugins returned for the chunk before,
    and is empty at the start of a shot. It is saved with the edit, so a resumed one gives the same frames.
    ``whole`` is the chunk that `keep` gets: with the setting ``every``, it has more frames than ``chunk``.

    It is called again when a chunk is drawn again: in parts, if memory ran out, or in float32 (see
    ``model.dtype``), if numbers overflowed in half precision. With very large models, it is called for all
    chunks of a shot before their first step; later hooks then find what was stored for their chunk. If any
    plugin wants a shot's first frame, this frame comes first as a chunk of its own, for all plugins.
    """


@hookspec
def initial_latents(
    chunk: Chunk,
    noise: torch.Tensor,
    scheduler: Any,
    steps: Sequence[Step],
    model: Model,
    denoiser: Denoiser,
    branches: Sequence[Branch],
    step_noise: Callable[[Step], torch.Tensor],
    average: Callable[[Step, torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, int] | None:
    """Return the latents to start from and the index of the first step to take, or None.

    ``noise`` (frames, channels, height, width) is the chunk's correlated noise, of unit variance;
    ``scheduler`` is the chunk's own, with its ``steps``. The latents must have the noise level of the first
    step; `zs2kit.schedule.add_noise` brings a picture's latents to it. Called once per chunk. At most one
    plugin may implement this; without one, sampling starts from the noise at step 0.

    A plugin that takes the steps itself returns the finished latents and ``len(steps)``. It gets the
    ``branches`` of the guidance, for `denoiser.guided`; ``step_noise``, which returns a step's own correlated
    noise; and ``average``, which returns the running average, along the source's motion, of the finished
    latents that a step heads for.
    """


@hookspec
def denoiser_inputs(step: Step, branch: Branch, latents: torch.Tensor) -> DenoiserInputs | None:
    """Return what to add to this call of the U-Net, or None; called for every step and branch.

    ``latents`` (frames, channels, height, width) are already scaled for the model by the scheduler.
    """


@hookspec
def channels(step: Step, branch: Branch, latents: torch.Tensor) -> torch.Tensor | None:
    """Return what to append to the latents (frames, channels, height, width) in this call of the U-Net.

    This is for U-Nets with more input channels than latents have; called for every step and branch.
    ``latents`` are already scaled for the model by the scheduler. At most one plugin may implement this.
    """


@hookspec
def estimate(step: Step, estimate: torch.Tensor, chunk: Chunk) -> torch.Tensor | None:
    """Return a difference to add to the step's estimate of the final latents, or None; called for every step.

    ``estimate`` (frames, channels, height, width) is what the latents would be if this were the last step:
    blurred at first, sharp in the end. Every plugin is given the same tensor, and returns one of the
    same shape. The differences are added up. Flow momentum then averages the sum, and the step continues
    from that.
    """


@hookspec
def keep(chunk: Chunk) -> NDArray[np.float32] | None:
    """Return a mask of what stays as in the source, or None; called once per chunk, after `prepare`.

    The mask is (frames, height, width), the source's size, in [0, 1]: where it is 1, the source stays,
    bit for bit; where it is 0, the result is drawn; in between, both are blended. The masks of several
    plugins are combined by their maximum.

    With the setting ``every``, this chunk has more frames than the chunk that other hooks get: it also has
    those that are filled in between the drawn ones. So look at ``chunk`` here, not at what `prepare` stored.
    """


@hookspec
def decoded(chunk: Chunk, pixels: torch.Tensor) -> torch.Tensor | None:
    """Return a difference to add to the finished frames, or None; called once per chunk.

    ``pixels`` (frames, 3, height, width) in [0, 1] are the frames at the model's size. Every plugin is given
    the same tensor, and returns one of the same shape. The differences are added up, and the result is
    clipped to [0, 1]. This comes after flow momentum, which would average away what a plugin adds
    and carry it into the next frame.
    """


@hookspec
def finish(frames: int) -> None:
    """Send notices about the whole edit; called once, after the last of its ``frames`` frames.

    `zs2kit.notify` sends one.
    """
