"""Instruct: the prompt says what to change, and the rest stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zs2kit import Plugin, hookimpl, option
from zs2kit.errors import ModelError

if TYPE_CHECKING:
    import torch

    from zs2kit.clip import Chunk
    from zs2kit.model import Model
    from zs2kit.networks.base import Branch


@dataclass(eq=False)
class Instruct(Plugin):
    """Does what the prompt says to the source, such as "make it night"; what it doesn't speak of stays.

    That takes an Instruct-Pix2Pix model: puppets-instruct, unless another is named, such as
    timbrooks/instruct-pix2pix. The edit's guidance scale is how strongly the instruction acts. Where
    nothing changes, raise it; where too much does, raise the image guidance scale.
    """

    default_model = "puppets-instruct"

    image_guidance_scale: float = option(
        1.5, "How closely the result stays with the source; 1 is no guidance by it.", minimum=1
    )

    @hookimpl
    def setup(self, model: Model) -> None:
        channels = model.unet.config.in_channels
        if channels != 2 * model.latent_channels:
            raise ModelError(
                f"instruct needs an Instruct-Pix2Pix model, whose U-Net takes {2 * model.latent_channels} "
                f"channels; that of {model.name} takes {channels}: use {self.default_model} or "
                "timbrooks/instruct-pix2pix"
            )

    @hookimpl
    def prepare(self, chunk: Chunk, model: Model) -> None:
        # These models are trained on the source's latents as the VAE gives them.
        self._source = model.encode(chunk.pixels) / model.vae.config.scaling_factor

    @hookimpl
    def guidance(
        self, prompt: str | None, negative_prompt: str, guidance_scale: float, model: Model, chunk: Chunk
    ) -> list[Branch]:
        from zs2kit.networks.base import Branch

        # Equation 3 of Instruct-Pix2Pix (arXiv 2211.09800), sorted by prediction.
        weights = {
            "text": guidance_scale,  # instruction and source
            "image": self.image_guidance_scale - guidance_scale,  # source alone
            "negative": 1 - self.image_guidance_scale,  # neither
        }
        embeds, negative = model.embed(prompt or "", negative_prompt, chunk.height, chunk.width)
        given = {"text": embeds, "image": negative, "negative": negative}
        return [
            Branch(name, weight, *given[name], conditional=name == "text")
            for name, weight in weights.items()
            if weight
        ]

    @hookimpl
    def channels(self, branch: Branch) -> torch.Tensor:
        # Plugins that call the denoiser in branches of their own mean the source to be seen.
        return self._source.new_zeros(self._source.shape) if branch.name == "negative" else self._source
