"""The denoiser: the one place that calls the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

import torch

from zs2kit.attention import TemporalMomentum, attached, directly, self_attention
from zs2kit.carry import Carry
from zs2kit.errors import PluginError
from zs2kit.model import Model
from zs2kit.networks.base import Branch, DenoiserInputs, Side, per_frame
from zs2kit.schedule import Step


class Denoiser:
    """Calls the network with what the plugins add, and with temporal momentum in its self-attention.

    hook: pluggy's relay, which calls a hook of all plugins.
    """

    def __init__(self, model: Model, hook: Any, momentum: float) -> None:
        self.model = model
        self.hook = hook
        self.momentum = momentum
        # Whether a step's branches share one call of each network, which takes more memory
        self.together = True
        self.launches = model.launches()
        self.networks: dict[str, Any] = {}
        self._contexts: list[Callable[[], AbstractContextManager[Any]]] = []
        self.attach(model.network.name, model.network.module)
        self._average = TemporalMomentum(momentum, Carry(), Carry())
        # Of a chunk, for a model that inpaints: where it is to draw, and the rest (frames, channels, ...)
        self.surroundings: torch.Tensor | None = None

    def attach(self, name: str, network: Any) -> None:
        """Give a side network's self-attention the same momentum, under its own ``name``.

        Raises `PluginError` if the name or the network is attached already, `ModelError` if the
        network's attention can't be given momentum.
        """
        if name in self.networks or any(network is each for each in self.networks.values()):
            raise PluginError(
                f"the network called '{name}' is attached twice", "use only one of the two plugins"
            )
        if self.momentum:
            self_attention(network)  # if it raises an error, then now rather than in the middle of the work
        self.networks[name] = network

    def within(self, context: Callable[[], AbstractContextManager[Any]]) -> None:
        """Enter ``context()`` whenever a chunk is sampled, and leave it before its frames are returned.

        This is for plugins that must change the model, as adapters do. Between chunks, other edits may use
        the model, so the context must undo what it changes. The model's lock is held meanwhile.
        """
        self._contexts.append(context)

    @contextmanager
    def sampling(self, carry: Carry, following: Carry, *, recording: bool = True) -> Iterator[None]:
        """Within this context calls read running averages from ``carry`` and write them to ``following``.

        recording: whether calls may be recorded, see `zs2kit.launches`.
        """
        self.use(carry, following)
        with ExitStack() as stack:
            for context in self._contexts:
                stack.enter_context(context())
            how = self.launches.run if recording else directly
            stack.enter_context(attached(self.networks, self._average, how))
            yield

    @property
    def carried(self) -> int:
        """The bytes that the current chunk leaves for the next one so far."""
        return self._average.following.nbytes

    def use(self, carry: Carry, following: Carry) -> None:
        """Have calls read running averages from ``carry`` and write them to ``following`` from here on."""
        self._average.carry, self._average.following = carry, following

    def __call__(self, latents: torch.Tensor, step: Step, branch: Branch) -> torch.Tensor:
        """Return the network's prediction (frames, channels, height, width) in float32.

        latents: (frames, channels, height, width), scaled for ``step`` by the scheduler.
        """
        return self._predicted(self._call(latents, step, branch, branch), step, [branch])

    def guided(self, latents: torch.Tensor, step: Step, branches: Sequence[Branch]) -> torch.Tensor:
        """Return the guided prediction: the weighted sum of the predictions for each of ``branches``.

        They are made by one call of the network, if ``together`` and if all branches have inputs of the same
        shapes; else by a call for each.
        """
        branches = [branch.at(step) for branch in branches]
        prompted = next((branch for branch in branches if branch.conditional), None)
        if not self.model.network.one_prompt_steers:
            prompted = None
        made = (self._call(latents, step, branch, prompted or branch) for branch in branches)
        if self.together:
            calls = list(made)
            if all(_shapes(each) == _shapes(calls[0]) for each in calls):
                joined = _Call(*_joined(calls))
                predictions = self._predicted(joined, step, branches).chunk(len(branches))
            else:
                pairs = zip(calls, branches, strict=True)
                predictions = tuple(self._predicted(call, step, [branch]) for call, branch in pairs)
        else:
            pairs = zip(made, branches, strict=True)
            predictions = tuple(self._predicted(call, step, [branch]) for call, branch in pairs)
        total = torch.zeros_like(latents)
        conditional = total
        for branch, prediction in zip(branches, predictions, strict=True):
            total = total + branch.weight * prediction
            if branch.conditional:
                conditional = prediction
        return self.model.network.rescale(total, conditional)

    def _call(self, latents: torch.Tensor, step: Step, branch: Branch, prompted: Branch) -> _Call:
        """Return what the network is called with, asking the plugins for what they add.

        prompted: the branch with the prompt that ControlNets see.
        """
        network = self.model.network
        # For plugins that call networks of their own
        self._average.scopes = [_scope(branch, step)]
        self._average.tokens = network.tokens(latents, branch.prompt_embeds)
        latents = latents.to(self.model.dtype)
        given: list[DenoiserInputs] = self.hook.denoiser_inputs(step=step, branch=branch, latents=latents)
        conditions = dict(branch.conditions)
        for each in given:
            if both := conditions.keys() & each.conditions.keys():
                raise PluginError(
                    f"the condition '{min(both)}' is given twice", "use only one of the two plugins"
                )
            conditions.update(each.conditions)
        if shown := [picture for each in given for picture in each.shown]:
            conditions["image_latents"] = [*conditions.get("image_latents", []), *shown]
        if "image_latents" in conditions and not network.shows:
            raise PluginError(f"{self.model.name} can't be shown pictures", "use another model")
        extra: list[torch.Tensor] = self.hook.channels(step=step, branch=branch, latents=latents)
        extra = [*extra, *(picture for each in given for picture in each.channels)]
        if self.surroundings is not None:
            extra = [*extra, self.surroundings]
        inputs = torch.cat([latents, *(each.to(latents) for each in extra)], dim=1)
        if inputs.shape[1] != network.channels:
            made_for = {
                2 * self.model.latent_channels: "use it with instruct, the plugin that it was made for",
                self.model.latent_channels + 3: "use it in diffuse, the filter that it was made for",
            }
            remedy = made_for.get(network.channels, "use another model")
            if network.takes_maps:
                remedy = "use it with one of depth, edges, pose and control, which give it a map"
            raise PluginError(
                f"{self.model.name} takes {network.channels} channels, not {inputs.shape[1]}", remedy
            )
        frames = len(latents)
        return _Call(
            inputs,
            per_frame(branch.prompt_embeds, frames),
            branch.guidance_scale,
            {name: per_frame(value, frames) for name, value in conditions.items()},
            [(each.down, each.mid) for each in given if each.network is None],
            {
                self._name(each.network): {
                    "inputs": each.inputs,
                    "prompt_embeds": per_frame(prompted.prompt_embeds, frames),
                    "conditions": {
                        name: per_frame(value, frames) for name, value in prompted.conditions.items()
                    },
                }
                for each in given
                if each.network is not None
            },
        )

    def _name(self, network: Any) -> str:
        """Return under which name a plugin has attached a network."""
        for name, each in self.networks.items():
            if each is network:
                return name
        raise PluginError(
            f"a plugin gives a network, {type(network).__name__}, that is not attached",
            "give it to denoiser.attach() in the plugin's setup",
        )

    def _predicted(self, call: _Call, step: Step, branches: Sequence[Branch]) -> torch.Tensor:
        """Return the prediction (branches x frames, channels, height, width) in float32."""
        network = self.model.network
        self._average.scopes = [_scope(branch, step) for branch in branches]
        self._average.tokens = network.tokens(call.inputs, call.prompt_embeds)
        given = [DenoiserInputs(down, mid) for down, mid in call.given]
        sides = [Side(self.networks[name], **each) for name, each in call.sides.items()]
        embeds, conditions = call.prompt_embeds, call.conditions
        return network.predict(call.inputs, step, branches, embeds, conditions, given, sides).float()


class _Call(NamedTuple):
    """What the network is called with, for the frames of one branch or of several."""

    inputs: torch.Tensor  # the latents and further channels
    prompt_embeds: torch.Tensor
    guidance_scale: float | None
    conditions: Mapping[str, Any]
    given: Sequence[tuple[Sequence[torch.Tensor], torch.Tensor | None]]  # the plugins' residuals
    sides: Mapping[str, Mapping[str, Any]]  # ControlNets that give further ones: see `Side`


def _scope(branch: Branch, step: Step) -> str:
    return f"{branch.name}/{step.index}"


def _shapes(value: Any) -> object:
    """Return what is equal for two values if they can be joined."""
    if isinstance(value, torch.Tensor):
        return value.shape
    if isinstance(value, Mapping):
        return {name: _shapes(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_shapes(each) for each in value]
    return value if value is None or isinstance(value, float | int | str) else object()


def _joined(values: Sequence[Any]) -> Any:
    """Join tensors along their first dimension, and all tensors in values of other kinds."""
    first = values[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(list(values))
    if isinstance(first, Mapping):
        return {name: _joined([each[name] for each in values]) for name in first}
    if isinstance(first, Sequence) and not isinstance(first, str):
        return [_joined(each) for each in zip(*values, strict=True)]
    return first
