"""Strength: start from the noised source instead of from noise alone (image-to-image, SDEdit)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zs2kit import Plugin, hookimpl, option
from zs2kit.errors import UsageError

if TYPE_CHECKING:
    import torch

    from zs2kit.clip import Chunk
    from zs2kit.model import Model
    from zs2kit.schedule import Step


@dataclass(eq=False)
class Strength(Plugin):
    """Starts from the source with some noise added, and takes only the steps from there on (SDEdit).

    The lower the strength, the more of the source's large shapes and colours stay. A lower strength is also
    faster: at 0.5, only half of the steps are taken.
    """

    strength: float = option(
        0.5,
        "The fraction of the steps that are taken: 1 starts from noise alone; near 0, the result is the "
        "source.",
        minimum=0,
        maximum=1,
    )

    @hookimpl
    def setup(self, scheduler: Any) -> None:
        steps = len(scheduler.timesteps)
        if self._first(steps) == steps:
            raise UsageError(
                f"`strength.strength`: {self.strength:g} of {steps} steps is less than one step",
                "raise the strength or the number of steps",
            )

    @hookimpl
    def initial_latents(
        self, chunk: Chunk, noise: torch.Tensor, scheduler: Any, steps: Sequence[Step], model: Model
    ) -> tuple[torch.Tensor, int]:
        from zs2kit.schedule import add_noise

        first = self._first(len(steps))
        return add_noise(scheduler, model.encode(chunk.pixels), noise, steps[first]), first

    def _first(self, steps: int) -> int:
        """The index of the first step to take, counted as StableDiffusionImg2ImgPipeline does."""
        return steps - int(steps * self.strength)
