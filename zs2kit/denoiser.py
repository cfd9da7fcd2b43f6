"""The denoiser: the one place that calls the U-Net."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from zs2kit.attention import TemporalMomentum, attached, self_attention
from zs2kit.carry import Carry
from zs2kit.errors import PluginError
from zs2kit.hookspecs import DenoiserInputs
from zs2kit.model import Model


@dataclass(frozen=True)
class Step:
    """A denoising step. Known by its position: timestep values may be fractional, or repeat."""

    index: int
    timestep: torch.Tensor
    count: int  # of steps in all


@dataclass(eq=False)
class Branch:
    """One call of the U-Net per step; the guidance is the sum of weight x prediction over branches.

    prompt_embeds: (1 or frames, tokens, channels). conditions: further entries of the U-Net's
    ``added_cond_kwargs``, each (1 or frames, ...). timestep_cond: (1 or frames, channels), for
    models that take the guidance scale as an input. conditional: whether it draws what is asked for.
    What guidance leads away from doesn't, nor the source as it was: no reference is shown to those.
    """

    name: str
    weight: float
    prompt_embeds: torch.Tensor
    conditions: Mapping[str, torch.Tensor] = field(default_factory=dict)
    timestep_cond: torch.Tensor | None = None
    conditional: bool = True


class Denoiser:
    """Calls the U-Net with what the plugins add, and with temporal momentum in its self-attention."""

    def __init__(self, model: Model, hook: Any, momentum: float) -> None:
        self.model = model
        self.hook = hook
        self.momentum = momentum
        self.networks: dict[str, Any] = {}
        self._contexts: list[Callable[[], AbstractContextManager[Any]]] = []
        self.attach("unet", model.unet)
        self._average = TemporalMomentum(momentum, Carry(), Carry())

    def attach(self, name: str, network: Any) -> None:
        """Give a side network's self-attention the same momentum, under its own ``name``.

        Raises `PluginError` if the name or the network is attached already, `ModelError` if the
        network's attention can't be given momentum.
        """
        if name in self.networks or any(network is each for each in self.networks.values()):
            raise PluginError(f"the network called '{name}' is attached twice; use one plugin of the two")
        self_attention(network)
        self.networks[name] = network

    def within(self, context: Callable[[], AbstractContextManager[Any]]) -> None:
        """Have ``context()`` entered whenever a chunk is sampled, and left before the frames are handed out.

        For plugins that must change the model, as adapters do: between chunks it belongs to others, so
        what the context changes it must undo. The model's lock is held meanwhile.
        """
        self._contexts.append(context)

    @contextmanager
    def sampling(self, carry: Carry, following: Carry) -> Iterator[None]:
        """Within this context calls read their running averages from ``carry`` and write ``following``."""
        self._average = TemporalMomentum(self.momentum, carry, following)
        with ExitStack() as stack:
            for context in self._contexts:
                stack.enter_context(context())
            stack.enter_context(attached(self.networks, self._average))
            yield

    def __call__(self, latents: torch.Tensor, step: Step, branch: Branch) -> torch.Tensor:
        """Return the U-Net's prediction (frames, channels, height, width) in float32.

        latents: (frames, channels, height, width), scaled for ``step`` by the scheduler.
        """
        self._average.scope = f"{branch.name}/{step.index}"
        frames = len(latents)
        latents = latents.to(self.model.dtype)
        given: list[DenoiserInputs] = self.hook.denoiser_inputs(step=step, branch=branch, latents=latents)
        conditions = dict(branch.conditions)
        for each in given:
            if both := conditions.keys() & each.conditions.keys():
                raise PluginError(f"the condition '{min(both)}' is given twice; use one plugin of the two")
            conditions.update(each.conditions)
        extra: list[torch.Tensor] = self.hook.channels(step=step, branch=branch, latents=latents)
        inputs = torch.cat([latents, *(each.to(latents) for each in extra)], dim=1)
        if inputs.shape[1] != self.model.unet.config.in_channels:
            raise PluginError(
                f"{self.model.name} takes {self.model.unet.config.in_channels} channels, not "
                f"{inputs.shape[1]}; use it with the plugin that it was made for, or another model"
            )
        prediction = self.model.unet(
            inputs,
            step.timestep,
            encoder_hidden_states=per_frame(branch.prompt_embeds, frames),
            timestep_cond=None if branch.timestep_cond is None else per_frame(branch.timestep_cond, frames),
            added_cond_kwargs={name: per_frame(value, frames) for name, value in conditions.items()} or None,
            down_block_additional_residuals=_summed([each.down for each in given if each.down]),
            mid_block_additional_residual=_total([each.mid for each in given if each.mid is not None]),
            return_dict=False,
        )[0]
        return prediction.float()  # type: ignore[no-any-return]


def per_frame(value: Any, frames: int) -> Any:
    """(1 or frames, ...) -> (frames, ...); lists, as IP-Adapter's embeds are, item by item."""
    if isinstance(value, list):
        return [per_frame(each, frames) for each in value]
    return value if len(value) == frames else value.expand(frames, *value.shape[1:])


def _summed(groups: list[Any]) -> list[torch.Tensor] | None:
    return [sum(residuals[1:], residuals[0]) for residuals in zip(*groups, strict=True)] or None


def _total(residuals: list[torch.Tensor]) -> torch.Tensor | None:
    return sum(residuals[1:], residuals[0]) if residuals else None
