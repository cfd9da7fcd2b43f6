"""Instruct: the prompt says what to change, and the rest stays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zs2kit import Plugin, hookimpl, notify, option
from zs2kit.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch

    from zs2kit.clip import Chunk
    from zs2kit.model import Model
    from zs2kit.networks.base import Branch


@dataclass(eq=False)
class Instruct(Plugin):
    """Changes the source as the prompt says (such as "make it night") and leaves the rest alone.

    This needs a model that edits pictures: puppets-instruct, unless you name another, such as
    timbrooks/instruct-pix2pix (Stable Diffusion 1), diffusers/sdxl-instructpix2pix-768 (XL), or one of FLUX.1
    Kontext, FLUX.2 and Qwen-Image-Edit. The edit's guidance scale says how strongly the instruction acts:
    raise it if nothing changes. If too much changes, raise the image guidance scale, which only
    Instruct-Pix2Pix models have.
    """

    default_model = "puppets-instruct"

    image_guidance_scale: float | None = option(
        None,
        "How closely the result of an Instruct-Pix2Pix model follows the source; 1 switches this guidance "
        "off.",
        minimum=1,
        shown="1.5",
    )

    @hookimpl
    def setup(self, model: Model) -> None:
        self._told = False  # that there is no guidance
        self._beside = not model.network.shows  # whether the source's latents are further channels
        if model.network.shows:
            if self.image_guidance_scale is not None:
                raise UsageError(
                    f"`instruct.image_guidance_scale` has no effect with {model.name}", "leave it out"
                )
            return
        channels = model.network.channels
        if channels != 2 * model.latent_channels or model.network.takes_maps:
            raise ModelError(
                f"instruct needs an Instruct-Pix2Pix model, which takes the source as further channels, "
                f"but {model.name} doesn't",
                f"use {self.default_model}, timbrooks/instruct-pix2pix, diffusers/sdxl-instructpix2pix-768, "
                "or a model that is shown the source, such as FLUX.1 Kontext",
            )

    @hookimpl
    def prepare(self, chunk: Chunk, model: Model) -> None:
        self._source = model.encode(chunk.pixels)
        if self._beside:  # Instruct-Pix2Pix was trained on latents as the VAE gives them
            self._source = self._source / model.vae.config.scaling_factor

    @hookimpl
    def guidance(
        self, prompt: str | None, negative_prompt: str, guidance_scale: float, model: Model, chunk: Chunk
    ) -> list[Branch]:
        from zs2kit.guidance import branches_of
        from zs2kit.networks.base import Branch

        images = chunk.images if model.network.edits else None
        embeds, negative = model.embed(prompt or "", negative_prompt, chunk.height, chunk.width, images)
        if not self._beside:
            branches = branches_of(model, guidance_scale, embeds, negative)
            source = {"image_latents": [self._source]}
            return [replace(each, conditions={**each.conditions, **source}) for each in branches]
        if guidance_scale <= model.network.unguided:  # as in StableDiffusionInstructPix2PixPipeline
            if (self.image_guidance_scale or 1) > 1 and not self._told:
                self._told = True
                notify(
                    "no-guidance",
                    "`instruct.image_guidance_scale` has no effect, since a guidance scale of "
                    f"{guidance_scale:g} means no guidance",
                    "leave it out, or raise `guidance_scale`",
                )
            return [Branch("text", 1.0, *embeds)]
        image_scale = 1.5 if self.image_guidance_scale is None else self.image_guidance_scale
        # Equation 3 of Instruct-Pix2Pix (arXiv 2211.09800), with its terms grouped by prediction.
        weights = {
            "text": guidance_scale,  # the instruction and the source
            "image": image_scale - guidance_scale,  # the source alone
            "negative": 1 - image_scale,  # neither
        }
        given = {"text": embeds, "image": negative, "negative": negative}
        return [
            Branch(name, weight, *given[name], conditional=name == "text")
            for name, weight in weights.items()
            if weight
        ]

    @hookimpl
    def channels(self, branch: Branch) -> torch.Tensor | None:
        if not self._beside:
            return None
        # In branches that other plugins add for calls of their own, the model is to see the source.
        return self._source.new_zeros(self._source.shape) if branch.name == "negative" else self._source
