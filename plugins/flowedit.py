"""FlowEdit: from the source straight to the result, by how the model's directions for two prompts differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from zs2kit import Plugin, hookimpl, option
from zs2kit.errors import UsageError

if TYPE_CHECKING:
    import torch

    from zs2kit.clip import Chunk
    from zs2kit.denoiser import Denoiser
    from zs2kit.model import Model
    from zs2kit.networks.base import Branch
    from zs2kit.schedule import Step


@dataclass(eq=False)
class FlowEdit(Plugin):
    """Changes what differs between two prompts: the edit's, and its own, which says what the source shows.

    What both prompts say stays, so repeat in the edit's prompt whatever should stay. In each step, the model
    is asked which way each of the two prompts leads, and the source moves by the difference (FlowEdit, arXiv
    2412.08629). Nothing is inverted, so any scheduler can be used, and where nothing changes, nothing is
    lost. Each step takes two calls of the model, each with its own guidance.
    """

    prompt: str = option("", "What the source shows.")
    strength: float | None = option(
        None,
        "The fraction of the steps that are taken; with less, more of the source's shapes stay. none means "
        "0.85 for a transformer, and 0.7 for a U-Net.",
        minimum=0,
        maximum=1,
    )
    guidance_scale: float | None = option(
        None,
        "The guidance scale for the source's prompt, which should be lower than the edit's. none means 0.3 "
        "times the edit's.",
        minimum=0,
    )

    @hookimpl
    def setup(self, model: Model, scheduler: Any) -> None:
        steps = len(scheduler.timesteps)
        # A transformer settles what is where in earlier steps than a U-Net does.
        usual = 0.85 if model.network.name == "transformer" else 0.7
        self._strength = usual if self.strength is None else self.strength
        if self._first(steps) == steps:
            raise UsageError(
                f"`flowedit.strength`: {self._strength:g} of {steps} steps is less than one step",
                "raise the strength or the number of steps",
            )

    @hookimpl
    def initial_latents(
        self,
        chunk: Chunk,
        scheduler: Any,
        steps: Sequence[Step],
        model: Model,
        denoiser: Denoiser,
        branches: Sequence[Branch],
        step_noise: Callable[[Step], torch.Tensor],
        average: Callable[[Step, torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, int]:
        from zs2kit.guidance import branches_of, scale_of
        from zs2kit.schedule import flow_level, flow_velocity

        scale = self.guidance_scale
        if scale is None:
            scale = 0.3 * scale_of(model, branches)
        embedded = model.embed(self.prompt, "", chunk.height, chunk.width)
        # None of the source's is conditional: they must not see a reference picture.
        source = [
            replace(each, name=f"source-{each.name}", conditional=False)
            for each in branches_of(model, scale, *embedded)
        ]
        shown = drawn = model.encode(chunk.pixels)
        levels = [*(flow_level(scheduler, step) for step in steps), 0.0]
        for step in steps[self._first(len(steps)) :]:
            level, following = levels[step.index : step.index + 2]
            noised = (1 - level) * shown + level * step_noise(step)
            # Both have the same noise, which cancels out wherever both prompts mean the same.
            away, toward = (
                flow_velocity(scheduler, step, latents, partial(denoiser.guided, step=step, branches=which))
                for latents, which in ((noised, source), (drawn - shown + noised, branches))
            )
            picture = average(step, drawn - level * (toward - away))  # what the step heads for
            drawn = picture + following / level * (drawn - picture)
        return drawn, len(steps)

    def _first(self, steps: int) -> int:
        return steps - int(steps * self._strength)
