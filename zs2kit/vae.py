"""The VAE: turns pictures into latents and back, as many at once as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from zs2kit.errors import is_out_of_memory

AT_ONCE = 8  # pictures, on a GPU, which is faster with several at once; a CPU isn't


class VAE:
    """An autoencoder of diffusers that knows its family's rules: how latents are scaled and packed.

    Latents are (frames, channels, height, width), as the network takes them.
    """

    def __init__(self, module: Any) -> None:
        # Qwen-Image's VAE is made for videos; a picture is a video of one frame.
        self._video = hasattr(module.config, "temperal_downsample")
        # FLUX.2's latents are squares of 2x2, normalised by a layer that has the statistics.
        self._squares = hasattr(module, "bn")
        self.module = module
        self._at_once = 1 if module.device.type == "cpu" else AT_ONCE
        # On a CPU, only a tiny VAE gains much by this layout: it then takes two thirds of the time.
        if not self._video and (module.device.type != "cpu" or isinstance(module, AutoencoderTiny)):
            module.to(memory_format=torch.channels_last)

    @property
    def channels(self) -> int:
        """The number of channels of the latents."""
        config = self.module.config
        if self._video:
            return int(config.z_dim)
        return int(config.latent_channels) * (4 if self._squares else 1)

    @property
    def scale(self) -> int:
        """How many pixels of a picture's side one latent covers."""
        config = self.module.config
        if self._video:
            return int(2 ** len(config.temperal_downsample))
        return int(2 ** (len(config.block_out_channels) - 1)) * (2 if self._squares else 1)

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (frames, 3, height, width) in [-1, 1] -> latents (frames, channels, ...), float32.

        They are the mode of the posterior, so the same pixels always give the same latents.
        """
        # The layout of the pictures would decide that of all convolutions.
        pixels = pixels.to(self.module.device, self.module.dtype).contiguous()
        mean, std = self._mean_and_std()
        return (self._in_parts(self._encoded, pixels).float() - mean) / std * self._scaling_factor

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (frames, channels, ...) -> pixels (frames, 3, height, width) in [0, 1], float32.

        Pixels are NaN where the VAE overflows.
        """
        mean, std = self._mean_and_std()
        latents = (latents / self._scaling_factor * std + mean).to(self.module.dtype)
        pixels = self._in_parts(self._decoded, latents)
        pixels = pixels.float() / 2 + 0.5
        # Infinity must not become black or white.
        return pixels.clamp(0, 1).where(pixels.isfinite(), torch.nan)

    def _encoded(self, pixels: torch.Tensor) -> torch.Tensor:
        encoded: Any = self.module.encode(pixels[:, :, None] if self._video else pixels, return_dict=False)[0]
        # A tiny VAE gives latents, the others give a posterior.
        latents: torch.Tensor = encoded if isinstance(encoded, torch.Tensor) else encoded.mode()
        if self._video:
            return latents[:, :, 0]
        return pixel_unshuffle(latents, 2) if self._squares else latents

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        if self._squares:
            latents = pixel_shuffle(latents, 2)
        pixels: torch.Tensor = self.module.decode(
            latents[:, :, None] if self._video else latents, return_dict=False
        )[0]
        return pixels[:, :, 0] if self._video else pixels

    def _in_parts(self, work: Callable[[torch.Tensor], torch.Tensor], pictures: torch.Tensor) -> torch.Tensor:
        """Do ``work`` with a few of the ``pictures`` at a time, and with fewer once memory runs out.

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
        return float(self.module.config.get("scaling_factor") or 1.0)

    def _mean_and_std(self) -> Sequence[torch.Tensor | float]:
        """Return the latents' mean and standard deviation, (channels, 1, 1); mostly these are 0 and 1."""
        config, device = self.module.config, self.module.device
        if self._squares:
            norm = self.module.bn
            std = torch.sqrt(norm.running_var.float() + config.batch_norm_eps)
            return [each.float().view(-1, 1, 1) for each in (norm.running_mean, std)]
        usual = config.get("shift_factor") or 0.0, 1.0
        given = config.get("latents_mean"), config.get("latents_std")
        # Only where needed, since making a tensor from numbers makes Python wait for the device.
        return [
            torch.tensor(each, device=device).view(-1, 1, 1) if each else other
            for each, other in zip(given, usual, strict=True)
        ]
