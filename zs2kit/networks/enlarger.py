"""A small network that enlarges pictures: the one that comes with the bundled models, in ``enlarger``."""

from __future__ import annotations

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class Enlarger(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Cubic interpolation, and what convolutions add to it.

    They work on the picture folded to half its size (2x2 pixels are four times the channels), which costs a
    quarter and sees twice as far. Pixels are put back in their places by pixel shuffle (Shi et al., 2016).
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, channels: int = 64, blocks: int = 5, fine_channels: int = 32, scale: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(3 * 4, channels, 3, padding=1)
        self.body = nn.ModuleList(Residual(channels) for _ in range(blocks))
        self.unfold = nn.Conv2d(channels, fine_channels * 4, 3, padding=1)
        self.last = nn.Conv2d(fine_channels, 3 * scale**2, 3, padding=1)
        for parameter in self.last.parameters():  # so that it begins as cubic interpolation
            nn.init.zeros_(parameter)

    def forward(self, pixels: Tensor) -> Tensor:
        """Enlarge pictures (pictures, 3, height, width) in [0, 1]; the result may lie a little outside."""
        height, width = pixels.shape[2:]
        pixels = F.pad(pixels * 2 - 1, (0, width % 2, 0, height % 2), "replicate")
        scale = self.config.scale
        larger = F.interpolate(pixels, scale_factor=scale, mode="bicubic")
        larger = larger + F.pixel_shuffle(self.last(self.hidden(pixels)), scale)
        return larger[..., : height * scale, : width * scale] / 2 + 0.5

    def hidden(self, pixels: Tensor) -> Tensor:
        """What the last convolution sees of pictures (pictures, 3, height, width) in -1..1, of even sides."""
        hidden = self.first(F.pixel_unshuffle(pixels, 2))
        for block in self.body:
            hidden = block(hidden)
        return F.silu(F.pixel_shuffle(self.unfold(hidden), 2))


class Residual(nn.Module):
    """Two convolutions whose result is added to what they are given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: (pictures, channels, H, W)."""
        added: Tensor = self.second(F.silu(self.first(hidden)))
        return hidden + added
