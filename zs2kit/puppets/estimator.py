"""Tell how near every pixel is and whether it belongs to the figure, with a small U-Net."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .networks import SIZE


@torch.no_grad()
def estimate(network: Any, frames: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Depth and the figure's mask of RGB frames (frames, H, W, 3), each (frames, H, W) in 0..1.

    Depth is nearness, as depth ControlNets take it: 1 is near, 0 infinitely far. The mask is how sure the
    network is that a pixel shows the figure; cut it at 0.5.
    """
    weight = next(network.parameters())
    found = []
    # One by one, as in the detector: frames must not depend on their chunk.
    for frame in np.ascontiguousarray(frames):
        pixels = torch.from_numpy(frame[None]).to(weight.device)
        pixels = pixels.permute(0, 3, 1, 2).to(weight.dtype) / 127.5 - 1
        maps = estimate_logits(network, _resize(pixels, (SIZE, SIZE))).float().sigmoid()
        found.append(_resize(maps, frame.shape[:2]))
    depth, mask = torch.cat(found).clamp(0, 1).cpu().numpy().transpose(1, 0, 2, 3)
    return depth, mask


def estimate_logits(network: Any, pixels: Tensor) -> Tensor:
    """Logits of depth and mask (frames, 2, SIZE, SIZE) for pixels (frames, 3, SIZE, SIZE) in -1..1."""
    # Four pixels side by side are one to the network, which costs a quarter of working at full size.
    logits: Tensor = F.pixel_shuffle(network(F.pixel_unshuffle(pixels, 2), 0).sample, 2)
    return logits


def _resize(pictures: Tensor, size: tuple[int, ...]) -> Tensor:
    if pictures.shape[2:] == size:
        return pictures
    return F.interpolate(pictures, size, mode="bilinear", antialias=True, align_corners=False)
