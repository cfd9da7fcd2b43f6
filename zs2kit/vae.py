"""The VAE: pictures to latents and back, as many at once as there is memory for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from zs2kit.errors import is_out_of_memory

AT_ONCE = 8  # pictures, on a device that is faster the more it gets; a CPU is as fast one by one


class VAE:
    """An autoencoder of diffusers: an ``AutoencoderKL``, or its ``AutoencoderTiny``.

    It computes in the channels_last layout, in which its convolutions are faster on CPUs and GPUs alike.
    """

    def __init__(self, module: Any) -> None:
        self.module = module.to(memory_format=torch.channels_last)
        self._at_once = 1 if module.device.type == "cpu" else AT_ONCE

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (frames, 3, height, width) in [-1, 1] -> latents (frames, channels, ...), float32.

        They are the mode of the posterior, so that the same pixels give the same latents.
        """
        pixels = pixels.to(self.module.device, self.module.dtype)
        mean, std = self._mean_and_std()
        return (self._in_parts(self._encoded, pixels).float() - mean) / std * self._scaling_factor

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (frames, channels, ...) -> pixels (frames, 3, height, width) in [0, 1], float32.

        They are NaN where the VAE overflows.
        """
        mean, std = self._mean_and_std()
        latents = (latents / self._scaling_factor * std + mean).to(self.module.dtype)
        pixels = self._in_parts(lambda each: self.module.decode(each, return_dict=False)[0], latents)
        pixels = pixels.float() / 2 + 0.5
        # Infinity must not become black or white.
        return pixels.clamp(0, 1).where(pixels.isfinite(), torch.nan)

    def _encoded(self, pixels: torch.Tensor) -> torch.Tensor:
        encoded: Any = self.module.encode(pixels, return_dict=False)[0]
        # A tiny VAE gives latents, the others give a posterior.
        latents: torch.Tensor = encoded if isinstance(encoded, torch.Tensor) else encoded.mode()
        return latents

    def _in_parts(self, work: Callable[[torch.Tensor], torch.Tensor], pictures: torch.Tensor) -> torch.Tensor:
        """Do ``work`` with some of the ``pictures`` at a time, and with fewer from when memory runs out.

        At SDXL's size, the activations of a whole chunk would fill a graphics card.
        """
        done: list[torch.Tensor] = []
        while (first := sum(map(len, done))) < len(pictures):
            try:
                done.append(work(pictures[first : first + self._at_once]))
                continue
            except Exception as error:
                if self._at_once == 1 or not is_out_of_memory(error):
                    raise
            self._at_once //= 2
            if pictures.device.type == "cuda":
                torch.cuda.empty_cache()
        return torch.cat(done)

    @property
    def _scaling_factor(self) -> float:
        return float(self.module.config.scaling_factor)

    def _mean_and_std(self) -> Sequence[torch.Tensor]:
        """The mean and the deviation of the latents, (channels, 1, 1); 0 and 1 for most checkpoints."""
        config, device = self.module.config, self.module.device
        mean = config.get("latents_mean") or [0.0] * config.latent_channels
        std = config.get("latents_std") or [1.0] * config.latent_channels
        return [torch.tensor(each, device=device).view(-1, 1, 1) for each in (mean, std)]
