"""The hooks: the moments of an edit at which a plugin may act.

A plugin is a subclass of `zs2kit.Plugin`: a dataclass whose fields are its options. Those of its methods that
are marked with `zs2kit.hookimpl` are its hooks. A hook may leave out arguments that it doesn't need. What
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
    ``scheduler`` has the same settings as the schedulers that the chunks will get. ``clip`` is the clip to be
    edited: you may look at its size, rate and number of frames, but not at its frames. Check here that the
    options fit all of these, and raise a `zs2kit.Zs2Error` if they don't.
    """


@hookspec
def guidance(
    prompt: str | None, negative_prompt: str, guidance_scale: float, model: Model, chunk: Chunk
) -> list[Branch] | None:
    """Return the branches of the guidance for this chunk, or None; called once per chunk.

    Their weights must add up to 1. At most one plugin may implement this; if none does, classifier-free
    guidance is used.
    """


@hookspec
def prepare(
    chunk: Chunk, model: Model, carry: Mapping[str, torch.Tensor], whole: Chunk
) -> Mapping[str, torch.Tensor] | None:
    """Look at the chunk's frames before it is drawn, and store on self what later hooks need.

    If what you do with a frame depends on earlier frames, return what the next chunk needs to know about
    them, as tensors by name; begin each name with the plugin's name. ``carry`` is what the plugins returned
    for the chunk before; it is empty at the start of a shot. It is saved with the edit, so a resumed edit
    gives the same frames. ``whole`` is the chunk that `keep` gets: with the setting ``every``, it has more
    frames than ``chunk``.

    This is called again if a chunk is drawn again: in smaller parts because memory ran out, or in float32
    (see ``model.dtype``) because numbers overflowed in half precision. With very large models, it is called
    for all chunks of a shot before their first step; later hooks then find on self what was stored for their
    chunk. If any plugin wants a shot's first frame, that frame comes first, as a chunk of its own, for all
    plugins.
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

    Called once per chunk. ``noise`` (frames, channels, height, width) is the chunk's correlated noise, of
    unit variance; ``scheduler`` is the chunk's own, with its ``steps``. The latents must have the noise level
    of the first step; `zs2kit.schedule.add_noise` adds that much noise to a picture's latents. At most one
    plugin may implement this; if none does, sampling starts from the noise, at step 0.

    A plugin that takes all steps by itself returns the finished latents and ``len(steps)``. For that it is
    given the ``branches`` of the guidance, for `denoiser.guided`; ``step_noise``, which returns a step's own
    correlated noise; and ``average``, which takes a step's estimate of the finished latents and returns its
    running average along the source's motion.
    """


@hookspec
def denoiser_inputs(step: Step, branch: Branch, latents: torch.Tensor) -> DenoiserInputs | None:
    """Return what to add to this call of the network, or None; called for every step and branch.

    ``latents`` (frames, channels, height, width) are already scaled for the model by the scheduler.
    """


@hookspec
def channels(step: Step, branch: Branch, latents: torch.Tensor) -> torch.Tensor | None:
    """Return what to append to the latents (frames, channels, height, width) in this call of the network.

    Called for every step and branch. This is for networks that have more input channels than latents have.
    ``latents`` are already scaled for the model by the scheduler. At most one plugin may implement this.
    """


@hookspec
def estimate(step: Step, estimate: torch.Tensor, chunk: Chunk) -> torch.Tensor | None:
    """Return a difference to add to the step's estimate of the final latents, or None; called for every step.

    ``estimate`` (frames, channels, height, width) is what the latents would be if this were the last step:
    blurred in early steps, sharp in late ones. All plugins are given the same tensor, and each returns one of
    the same shape. The differences are added to the estimate. Then flow momentum averages it, and the step
    goes on from the result.
    """


@hookspec
def keep(chunk: Chunk) -> NDArray[np.float32] | None:
    """Return a mask of what stays as it is in the source, or None; called once per chunk, after `prepare`.

    The mask is (frames, height, width), at the source's size, in [0, 1]: where it is 1, the source stays,
    bit for bit; where it is 0, the result is drawn; in between, the two are blended. Of several plugins'
    masks, the maximum counts.

    With the setting ``every``, this chunk has more frames than the chunk that other hooks get, since it
    includes the frames that are filled in between the drawn ones. So look at ``chunk`` here, not at what
    `prepare` stored.
    """


@hookspec
def decoded(chunk: Chunk, pixels: torch.Tensor) -> torch.Tensor | None:
    """Return a difference to add to the finished frames, or None; called once per chunk.

    ``pixels`` (frames, 3, height, width) in [0, 1] are the frames at the model's size. All plugins are given
    the same tensor, and each returns one of the same shape. The differences are added to the frames, and the
    result is clipped to [0, 1]. This comes after flow momentum, which would blur what a plugin adds, and
    carry it over into the next frame.
    """


@hookspec
def finish(frames: int) -> None:
    """Send notices about the whole edit; called once, after the last of its ``frames`` frames.

    `zs2kit.notify` sends one.
    """
