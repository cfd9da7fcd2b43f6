"""What zs2kit needs from a network that denoises, whatever its family, and what it calls it with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch

    from zs2kit.schedule import Step


class Embeds(NamedTuple):
    """A prompt in the form that the network takes."""

    prompt_embeds: torch.Tensor  # (1 or frames, tokens, channels)
    conditions: Mapping[str, torch.Tensor]  # further inputs of the network; SDXL's U-Net has two


@dataclass(eq=False)
class Branch:
    """One call of the network per step; the guided prediction is the branches' sum of weight x prediction.

    prompt_embeds: (1 or frames, tokens, channels). conditions: further entries of a U-Net's
    ``added_cond_kwargs``, each (1 or frames, ...). timestep_cond: (1 or frames, channels), for models that
    take the guidance scale as an input. conditional: whether the branch draws what the user asks for; if it
    draws what guidance leads away from, or the source itself, it doesn't, and gets no reference picture.
    """

    name: str
    weight: float
    prompt_embeds: torch.Tensor
    conditions: Mapping[str, torch.Tensor] = field(default_factory=dict)
    timestep_cond: torch.Tensor | None = None
    conditional: bool = True


@dataclass(eq=False)
class DenoiserInputs:
    """What a plugin adds to one call of the network.

    ``down`` and ``mid`` are residuals as a diffusers ControlNet returns them (already scaled); those of
    several plugins are added up. ``conditions`` are added to those of the branch.
    """

    down: Sequence[torch.Tensor] = ()
    mid: torch.Tensor | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)


class Network(Protocol):
    """A family of denoisers. For a new family, write a class like this in a file of its own."""

    module: Any  # the torch module, whose self-attention gets momentum
    name: str  # the module's name in the checkpoint's pipeline, such as unet
    num_inference_steps: int  # the default
    guidance_scale: float  # the default

    @property
    def guided(self) -> Literal["cfg", "embedded"]:
        """How it is guided: "cfg" by two branches, with and without prompt, "embedded" by an input."""
        ...

    @property
    def channels(self) -> int:
        """The number of input channels, those of the latents included."""
        ...

    @property
    def multiple(self) -> int:
        """What the sides of the latents must be divisible by."""
        ...

    @property
    def native_size(self) -> tuple[int, int]:
        """(height, width) of the latents that it was trained on."""
        ...

    def embed(self, prompt: str, negative_prompt: str, height: int, width: int) -> tuple[Embeds, Embeds]:
        """Return both prompts, embedded, for pictures of ``height`` x ``width`` pixels."""
        ...

    def cut(self, prompt: str) -> tuple[int, str]:
        """Return how many tokens of a prompt are read, and the text that comes after and has no effect."""
        ...

    def begin(self, scheduler: str, num_inference_steps: int) -> Any:
        """Return a fresh scheduler with its timesteps set; called once per chunk."""
        ...

    def embedded_guidance(self, scale: float) -> torch.Tensor:
        """Return a guidance scale as the network's input; only if ``guided`` is "embedded"."""
        ...

    def predict(
        self,
        latents: torch.Tensor,
        step: Step,
        branch: Branch,
        conditions: Mapping[str, Any],
        given: Sequence[DenoiserInputs],
    ) -> torch.Tensor:
        """Return the prediction for ``latents`` (frames, channels, height, width), in the network's dtype.

        given: what plugins add. conditions: the branch's and the plugins', together.
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
