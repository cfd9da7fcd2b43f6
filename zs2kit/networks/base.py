"""What zs2kit asks of a network that denoises, whatever its family, and what it is called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch

    from zs2kit.schedule import Step


class Embeds(NamedTuple):
    """A prompt as the network takes it."""

    prompt_embeds: torch.Tensor  # (1 or frames, tokens, channels)
    conditions: Mapping[str, torch.Tensor]  # what the network takes beside it; SDXL's has two


@dataclass(eq=False)
class Branch:
    """One call of the network per step; the guidance is the sum of weight x prediction over branches.

    prompt_embeds: (1 or frames, tokens, channels). conditions: further entries of a U-Net's
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


@dataclass(eq=False)
class DenoiserInputs:
    """What a plugin adds to one call of the network.

    ``down`` and ``mid`` are residuals as a diffusers ControlNet returns them (already scaled); those
    of several plugins are added up. ``conditions`` join those of the branch.
    """

    down: Sequence[torch.Tensor] = ()
    mid: torch.Tensor | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)


class Network(Protocol):
    """A family of denoisers. A new one is a class like this, in a file of its own."""

    module: Any  # the torch module; momentum hangs on its self-attention
    name: str  # of that part in the checkpoint's pipeline, such as unet
    num_inference_steps: int  # unless the user says how many
    guidance_scale: float  # likewise

    @property
    def guided(self) -> Literal["cfg", "embedded"]:
        """How it is guided: by a branch with the prompt and one without, or by the scale as an input."""
        ...

    @property
    def channels(self) -> int:
        """The channels that it takes, latents included."""
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
        """Return both prompts as the network takes them, for pictures of ``height`` x ``width`` pixels."""
        ...

    def cut(self, prompt: str) -> tuple[int, str]:
        """Return how many tokens of a prompt are read, and the text after them, which has no effect."""
        ...

    def begin(self, scheduler: str, num_inference_steps: int) -> Any:
        """Return a fresh scheduler, its timesteps set; called once a chunk."""
        ...

    def embedded_guidance(self, scale: float) -> torch.Tensor:
        """Return a guidance scale as the network takes it, where it is ``guided`` so."""
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

        conditions: those of the branch and of what plugins have ``given`` together.
        """
        ...

    def rescale(self, total: torch.Tensor, conditional: torch.Tensor) -> torch.Tensor:
        """Return the guided prediction ``total`` as it is to be used, given the ``conditional`` one alone."""
        ...


def per_frame(value: Any, frames: int) -> Any:
    """(1 or frames, ...) -> (frames, ...); lists, as IP-Adapter's embeds are, item by item."""
    if isinstance(value, list):
        return [per_frame(each, frames) for each in value]
    return value if len(value) == frames else value.expand(frames, *value.shape[1:])
