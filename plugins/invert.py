"""Invert: start from the noise from which the sampler would draw the source itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zs2kit import Plugin, hookimpl, option

if TYPE_CHECKING:
    import torch

    from zs2kit.clip import Chunk
    from zs2kit.denoiser import Denoiser
    from zs2kit.model import Model
    from zs2kit.schedule import Step


@dataclass(eq=False)
class Invert(Plugin):
    """Starts from the noise that the sampler would turn into the source itself (DDIM inversion).

    The scheduler must be ddim or euler, since the steps of the others can't be inverted.

    Say what the source shows in this plugin's own prompt. If the edit's prompt says the same, and the
    guidance scale is 1 (no guidance), the result is the source again. With another prompt, layout, posture
    and movement mostly stay. The more you change, and the higher the guidance scale, the less they stay; add
    `depth` or `pose` to keep them. Each step takes 1 + iterations more calls of the model.
    """

    prompt: str = option("", "What the source shows.")
    iterations: int = option(1, "How often each inverted step is corrected; 0 is plain inversion.", minimum=0)

    @hookimpl
    def setup(self, scheduler: Any) -> None:
        from zs2kit.schedule import line, steps_of

        line(scheduler, steps_of(scheduler)[0])  # raises an error for schedulers that can't be inverted

    @hookimpl
    def initial_latents(
        self, chunk: Chunk, scheduler: Any, steps: Sequence[Step], model: Model, denoiser: Denoiser
    ) -> tuple[torch.Tensor, int]:
        from zs2kit.networks.base import Branch
        from zs2kit.schedule import line, scaled

        embeds, _ = model.embed(self.prompt, "", chunk.height, chunk.width)
        # A branch for each call in a step, since each call has running averages of its own. None of them is
        # conditional: they draw the source, and must not see a reference picture.
        branches = [
            Branch(f"invert{call}", 1.0, *embeds, conditional=False) for call in range(1 + self.iterations)
        ]
        latents = model.encode(chunk.pixels)
        for step in reversed(steps):
            # Solve nearer = keep * latents + take * prediction(latents) for the latents. First, assume that
            # the model predicts the same before the step as after it, then correct that by what it really
            # predicts there. A fixed point is exact, running averages included (fixed-point inversion,
            # arXiv 2309.04907 and 2312.12540).
            nearer, (keep, take) = latents, line(scheduler, step)
            for branch in branches:
                prediction = denoiser(scaled(scheduler, latents, step), step, branch)
                latents = (nearer - take * prediction) / keep
        return latents, 0
