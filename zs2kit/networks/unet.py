"""Checkpoints whose denoiser is a U-Net: Stable Diffusion 1, 2 and XL, and their fine-tunes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

from zs2kit.attention import self_attention
from zs2kit.errors import ModelError
from zs2kit.memory import copied
from zs2kit.networks.base import Branch, DenoiserInputs, Embeds, Encode, Side
from zs2kit.networks.controlnet import Embedded
from zs2kit.quiet import quiet
from zs2kit.schedule import Step, is_flow, is_known, make_scheduler


class UNet:
    """The `Network` of a pipeline that has a `UNet2DConditionModel`.

    called: the checkpoint's name in messages. Raises `ModelError` if the pipeline has no such U-Net, or if it
    has no self-attention.
    """

    name = "unet"
    num_inference_steps = 20
    guidance_scale = 5.0
    momentum = 0.98
    unguided = 1.0
    controlnet = "ControlNetModel"
    one_prompt_steers = takes_maps = False

    def __init__(self, pipeline: Any, called: str) -> None:
        module = getattr(pipeline, "unet", None)
        if not isinstance(module, diffusers.UNet2DConditionModel) or not self_attention(module):
            raise ModelError(
                f"{called}: its denoiser has no self-attention (attn1) that could be given momentum",
                "use Stable Diffusion 1, 2 or XL, or another checkpoint with a UNet2DConditionModel",
            )
        if not is_known(pipeline.scheduler.config):
            raise ModelError(
                f"{called} was trained with noise levels that zs2kit can't sample, those of a "
                f"{type(pipeline.scheduler).__name__}",
                "use another checkpoint of Stable Diffusion 1, 2 or XL",
            )
        self.module: Any = module
        self.pipeline = pipeline

    @property
    def scheduler(self) -> str:
        """See `Network`; it depends on how the checkpoint was trained."""
        return "euler" if is_flow(self.pipeline.scheduler.config) else "ddim"

    @property
    def guided(self) -> Literal["cfg", "embedded", "none"]:
        """A distilled U-Net takes the guidance scale as an input."""
        return "cfg" if self.module.config.time_cond_proj_dim is None else "embedded"

    @property
    def channels(self) -> int:
        """Input channels."""
        return int(self.module.config.in_channels)

    @property
    def multiple(self) -> int:
        """What it divides the sides of its input by, down to its coarsest level."""
        return int(2 ** (len(self.module.config.block_out_channels) - 1))

    @property
    def native_size(self) -> tuple[int, int]:
        """(height, width), by its config."""
        size = self.module.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height, width

    @property
    def shows(self) -> bool:
        """See `Network`; a U-Net that edits takes the source as further channels."""
        return False

    @property
    def edits(self) -> bool:
        """See `Network`."""
        return False

    @property
    def of_controlnets(self) -> Mapping[str, Any]:
        """See `Network`; a ControlNet takes the latents alone, even if the U-Net takes further channels."""
        config = self.module.config
        return {
            "cross_attention_dim": config.cross_attention_dim,
            "in_channels": self.pipeline.vae.config.latent_channels,
            "block_out_channels": config.block_out_channels,
        }

    @torch.no_grad()
    def embed(
        self,
        prompt: str,
        negative_prompt: str,
        height: int,
        width: int,
        images: NDArray[np.uint8] | None = None,
    ) -> tuple[Embeds, Embeds]:
        """See `Network`. By the checkpoint's pipeline."""
        with quiet():
            embeds, negative, *pooled = self.pipeline.encode_prompt(
                prompt=prompt,
                device=self.module.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=True,
                negative_prompt=negative_prompt or None,
            )
        if not pooled:
            return Embeds(embeds, {}), Embeds(negative, {})
        text, negative_text = pooled
        given: list[list[float]] = [
            [height, width, 0, 0, height, width]
        ] * 2  # original, crop's corner, target
        numbers = self.module.config.projection_class_embeddings_input_dim - text.shape[-1]
        if numbers == 5 * self.module.config.addition_time_embed_dim:
            # SDXL's refiner takes no target but an aesthetic score; these two are its pipeline's.
            given = [[height, width, 0, 0, 6.0], [height, width, 0, 0, 2.5]]
        time_ids, negative_ids = torch.tensor(given, device=self.module.device, dtype=embeds.dtype)[:, None]
        return (
            Embeds(embeds, {"text_embeds": text, "time_ids": time_ids}),
            Embeds(negative, {"text_embeds": negative_text, "time_ids": negative_ids}),
        )

    def cut(self, prompt: str) -> tuple[int, str]:
        """See `Network`."""
        tokenizer = self.pipeline.tokenizer or self.pipeline.tokenizer_2  # SDXL's refiner has but the second
        with quiet():
            tokens = tokenizer(self.pipeline.maybe_convert_prompt(prompt, tokenizer)).input_ids
        rest = tokens[tokenizer.model_max_length - 1 : -1]  # the last token that is read marks the end
        return tokenizer.model_max_length - 2, tokenizer.decode(rest)

    def begin(self, scheduler: str, num_inference_steps: int, height: int, width: int) -> Any:
        """See `Network`. The size doesn't matter."""
        return make_scheduler(scheduler, self.pipeline.scheduler.config, num_inference_steps)

    def adopt(self, controlnet: Any) -> None:
        """See `Network`; nothing is shared, but maps are the same in all steps, so they are embedded once."""
        controlnet.controlnet_cond_embedding = Embedded(controlnet)

    def condition(self, controlnet: Any, maps: torch.Tensor, encode: Encode) -> Mapping[str, Any]:
        """See `Network`; the maps, embedded by the ControlNet."""
        return {"controlnet_cond": controlnet.controlnet_cond_embedding.embed(maps.to(controlnet.dtype))}

    def tokens(self, latents: torch.Tensor, prompt_embeds: torch.Tensor) -> None:
        """See `Network`; text has attention of its own."""

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
        """See `Network`."""
        timestep = copied(step.timestep, latents.device)
        given = [*given, *(self._residuals(side, latents, timestep) for side in sides)]
        down = [each.down for each in given if each.down]
        mid = [each.mid for each in given if each.mid is not None]
        added = {name: value for name, value in conditions.items() if name != "class_labels"}
        prediction: torch.Tensor = self.module(
            latents,
            timestep,
            encoder_hidden_states=prompt_embeds,
            timestep_cond=self._embedded(branches[0].guidance_scale, len(latents)),
            class_labels=conditions.get("class_labels"),
            added_cond_kwargs=added or None,
            down_block_additional_residuals=[_total(each) for each in zip(*down, strict=True)] or None,
            mid_block_additional_residual=_total(mid) if mid else None,
            return_dict=False,
        )[0]
        return prediction

    def _residuals(self, side: Side, latents: torch.Tensor, timestep: torch.Tensor) -> DenoiserInputs:
        network = side.network
        down, mid = network(
            latents[:, : network.config.in_channels],
            timestep,
            encoder_hidden_states=side.prompt_embeds,
            added_cond_kwargs=dict(side.conditions) or None,
            return_dict=False,
            **side.inputs,
        )
        return DenoiserInputs(down, mid)

    def _embedded(self, scale: float | None, frames: int) -> torch.Tensor | None:
        """Return a guidance scale as a distilled U-Net takes it, (frames, channels)."""
        if scale is None:
            return None
        width = self.module.config.time_cond_proj_dim
        # It counts from 0, which is no guidance.
        embedding = self.pipeline.get_guidance_scale_embedding(torch.tensor([scale - 1]), embedding_dim=width)
        return embedding.to(self.module.device, self.module.dtype).expand(frames, -1)  # type: ignore[no-any-return]

    def rescale(self, total: torch.Tensor, conditional: torch.Tensor) -> torch.Tensor:
        """See `Network`; for U-Nets the sum stays as it is."""
        return total


def _total(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return sum(tensors[1:], tensors[0])
