"""What zs2kit needs from a network that denoises, whatever its family, and what it calls it with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from zs2kit.attention import Tokens
    from zs2kit.schedule import Step


MASK = "prompt_embeds_mask"


class Embeds(NamedTuple):
    """A prompt in the form that the network takes."""

    prompt_embeds: torch.Tensor  # (1 or frames, tokens, channels)
    # Further inputs of the network; SDXL's U-Net has two. Where longer prompts have more tokens, MASK (1 or
    # frames, tokens) says which are the prompt's.
    conditions: Mapping[str, torch.Tensor]


@dataclass(eq=False)
class Branch:
    """One call of the network per step; the guided prediction is the branches' sum of weight x prediction.

    prompt_embeds: (1 or frames, tokens, channels). conditions: further entries of a U-Net's
    ``added_cond_kwargs``, each (1 or frames, ...), and its ``class_labels`` (1 or frames,); for a
    transformer, further inputs of its blocks, of which ``image_latents`` is a list of latents that it is
    shown as further tokens. guidance_scale: for models that take it as an input; None is none. conditional:
    whether the branch draws what the user asks for; if it draws what guidance leads away from, or the source
    itself, it doesn't, and gets no reference picture.
    """

    name: str
    weight: float
    prompt_embeds: torch.Tensor
    conditions: Mapping[str, Any] = field(default_factory=dict)
    guidance_scale: float | None = None
    conditional: bool = True

    def at(self, step: Step) -> Branch:
        """Return the branch as it is in a step."""
        return self


@dataclass(eq=False)
class DenoiserInputs:
    """What a plugin adds to one call of the network.

    ``down`` and ``mid`` are residuals as a diffusers ControlNet returns them (already scaled); those of
    several plugins are added up. ``conditions`` are added to those of the branch. ``shown``: latents of
    pictures that the network is shown as further tokens, (1 or frames, channels, height, width) each, if its
    `Network.shows` says that it can be; they come after those of the branch. With a transformer, both may be
    given in some steps only, but must be the same in all of these, since they are prepared once.
    ``channels``: what comes after the latents as further channels, (frames, channels, height, width) each.

    Instead of residuals a plugin may give the ``network`` that makes them: a ControlNet of the model's family
    that it has attached to the denoiser. It is called with ``inputs``, such as ``controlnet_cond``, of which
    each tensor has one entry per frame, and with what the model's own network is called with: latents, the
    timestep, the prompt. All branches of a step then share one call.
    """

    down: Sequence[torch.Tensor] = ()
    mid: torch.Tensor | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    shown: Sequence[torch.Tensor] = ()
    channels: Sequence[torch.Tensor] = ()
    network: Any = None
    inputs: Mapping[str, Any] = field(default_factory=dict)


class Side(NamedTuple):
    """A ControlNet that is called before the network, which gets what it returns."""

    network: Any
    inputs: Mapping[str, Any]  # what a plugin gives for it
    prompt_embeds: torch.Tensor  # the prompt that it sees: (frames, tokens, channels)
    conditions: Mapping[str, Any]  # those of the branch with this prompt, each (frames, ...)


# From pixels (frames, 3, height, width) in [-1, 1] to latents
Encode = Callable[["torch.Tensor"], "torch.Tensor"]


class Network(Protocol):
    """A family of denoisers. For a new family, write a class like this in a file of its own."""

    module: Any  # the torch module, whose self-attention gets momentum
    name: str  # the module's name in the checkpoint's pipeline, such as unet

    @property
    def num_inference_steps(self) -> int:
        """The default number of denoising steps."""
        ...

    @property
    def scheduler(self) -> str:
        """The default scheduler, by zs2kit's name for it."""
        ...

    @property
    def guidance_scale(self) -> float:
        """The default guidance scale."""
        ...

    @property
    def momentum(self) -> float:
        """The default of temporal momentum, from 0 to 1."""
        ...

    @property
    def unguided(self) -> float:
        """The guidance scale up to which there is no guidance, as the family counts it: 1, or 0."""
        ...

    @property
    def guided(self) -> Literal["cfg", "embedded", "none"]:
        """How it is guided.

        "cfg": by two branches, with and without prompt; "embedded": by an input; "none": not at all, since it
        was distilled to need no guidance.
        """
        ...

    @property
    def channels(self) -> int:
        """The number of input channels, those of the latents included."""
        ...

    @property
    def shows(self) -> bool:
        """Whether it can be shown pictures, such as the source, as further tokens."""
        ...

    @property
    def edits(self) -> bool:
        """Whether it draws nothing without such a picture, which its text encoder sees, too."""
        ...

    @property
    def takes_maps(self) -> bool:
        """Whether it takes the latents of a map, such as depth, as further channels."""
        ...

    @property
    def controlnet(self) -> str | None:
        """The class of diffusers of which its ControlNets are; None if it takes none."""
        ...

    @property
    def of_controlnets(self) -> Mapping[str, Any]:
        """What the config of a ControlNet must say for it to fit this network."""
        ...

    @property
    def one_prompt_steers(self) -> bool:
        """Whether ControlNets see the prompt in all branches of a step, rather than each branch's own."""
        ...

    @property
    def multiple(self) -> int:
        """What the sides of the latents must be divisible by."""
        ...

    @property
    def native_size(self) -> tuple[int, int]:
        """(height, width) of the latents that it was trained on."""
        ...

    def embed(
        self,
        prompt: str,
        negative_prompt: str,
        height: int,
        width: int,
        images: NDArray[np.uint8] | None = None,
    ) -> tuple[Embeds, Embeds]:
        """Return both prompts, embedded, for pictures of ``height`` x ``width`` pixels.

        images: (frames, height, width, 3) RGB, for a text encoder that sees what is edited (see `edits`).
        """
        ...

    def cut(self, prompt: str) -> tuple[int, str]:
        """Return how many tokens of a prompt are read, and the text that comes after and has no effect."""
        ...

    def begin(self, scheduler: str, num_inference_steps: int, height: int, width: int) -> Any:
        """Return a fresh scheduler with its timesteps set for latents of ``height`` x ``width``.

        It is called once per chunk. Raises `UsageError` if the network can't be used with this scheduler, or
        not with as many steps.
        """
        ...

    def adopt(self, controlnet: Any) -> None:
        """Give a ControlNet, once, what it shares with the network. The model's lock is held meanwhile."""
        ...

    def condition(self, controlnet: Any, maps: torch.Tensor, encode: Encode) -> Mapping[str, Any]:
        """Return what a ControlNet is given for ``maps`` (frames, 3, height, width) in [0, 1]."""
        ...

    def tokens(self, latents: torch.Tensor, prompt_embeds: torch.Tensor) -> Tokens | None:
        """Return how many tokens the keys of self-attention come from; None if all are the picture's."""
        ...

    def predict(
        self,
        latents: torch.Tensor,
        step: Step,
        branches: Sequence[Branch],
        prompt_embeds: torch.Tensor,
        conditions: Mapping[str, Any],
        given: Sequence[DenoiserInputs],
        sides: Sequence[Side] = (),
    ) -> torch.Tensor:
        """Return the prediction for ``latents`` (frames, channels, height, width), in the network's dtype.

        The frames are those of ``branches``, whose guidance scales are the same, one after the other; so are
        the prompts' embeds (frames, tokens, channels), and the conditions: the branches' and the plugins',
        together. given: what plugins add beside conditions. sides: ControlNets to be called first.
        """
        ...

    def rescale(self, total: torch.Tensor, conditional: torch.Tensor) -> torch.Tensor:
        """Return the guided prediction ``total``, rescaled if need be by the ``conditional`` prediction."""
        ...


def per_frame(value: Any, frames: int) -> Any:
    """(1 or frames, ...) -> (frames, ...); a list, such as an IP-Adapter's embeds, item by item."""
    if isinstance(value, list):
        return [per_frame(each, frames) for each in value]
    return value if len(value) == frames else value.expand(frames, *value.shape[1:])
