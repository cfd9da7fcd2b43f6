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
    """Changes the source as the prompt says (such as "make it night") and leaves the rest alone.

    This needs an Instruct-Pix2Pix model: puppets-instruct, unless you name another, such as
    timbrooks/instruct-pix2pix (Stable Diffusion 1) or diffusers/sdxl-instructpix2pix-768 (XL). The edit's
    guidance scale says how strongly the instruction acts: raise it if nothing changes. If too much changes,
    raise the image guidance scale.
    """

    default_model = "puppets-instruct"

    image_guidance_scale: float = option(
        1.5, "How closely the result follows the source; 1 switches this guidance off.", minimum=1
    )

    @hookimpl
    def setup(self, model: Model) -> None:
        channels = model.unet.config.in_channels
        if channels != 2 * model.latent_channels:
            raise ModelError(
                f"instruct needs an Instruct-Pix2Pix model, whose U-Net takes {2 * model.latent_channels} "
                f"channels, but the U-Net of {model.name} takes {channels}",
                f"use {self.default_model}, timbrooks/instruct-pix2pix or diffusers/sdxl-instructpix2pix-768",
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

        # Equation 3 of Instruct-Pix2Pix (arXiv 2211.09800), with its terms grouped by prediction.
        weights = {
            "text": guidance_scale,  # the instruction and the source
            "image": self.image_guidance_scale - guidance_scale,  # the source alone
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
        # In branches that other plugins add for calls of their own, the model is to see the source.
        return self._source.new_zeros(self._source.shape) if branch.name == "negative" else self._source
