"""Read keypoints off frames with the heatmaps of a small U-Net."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

HEATMAP = 64  # pixels of the side on which the network works
SURE = 0.25  # the least height of a peak that is a keypoint
SPREAD = 1.2  # of a keypoint's bell on the heatmap, in its pixels


def resize(pixels: Tensor) -> Tensor:
    """(frames, 3, H, W) to the network's (frames, 3, HEATMAP, HEATMAP)."""
    if pixels.shape[-1] == pixels.shape[-2] == 2 * HEATMAP:
        return F.avg_pool2d(pixels, 2)
    return F.interpolate(pixels, (HEATMAP, HEATMAP), mode="bilinear", antialias=True, align_corners=False)


@torch.no_grad()
def detect(network: Any, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Find the figure on RGB frames (frames, H, W, 3): (frames, 18, 3), x and y in pixels, confidence in
    0..1.

    0 is the middle of the first pixel. Confidences under `SURE` become 0: no such point is to be seen.
    """
    height, width = frames.shape[1:3]
    weight = next(network.parameters())
    found = []
    # One by one: kernels differ in the last bit between batch sizes, and a skeleton drawn from the points,
    # in whole pixels, would make that visible; frames must not depend on their chunk.
    for frame in np.ascontiguousarray(frames):
        pixels = torch.from_numpy(frame[None]).to(weight.device)
        pixels = pixels.permute(0, 3, 1, 2).to(weight.dtype) / 127.5 - 1
        found.append(peaks(network(resize(pixels), 0).sample.float().sigmoid()))
    points = torch.cat(found).cpu().numpy()
    points[points[..., 2] < SURE, 2] = 0
    points[..., 0] = (points[..., 0] + 0.5) * (width / HEATMAP) - 0.5
    points[..., 1] = (points[..., 1] + 0.5) * (height / HEATMAP) - 0.5
    return np.asarray(points, np.float32)


def peaks(heatmaps: Tensor, radius: int = 2) -> Tensor:
    """Centre of mass around the peak of each (frames, points, H, W), and its height: (frames, points, 3)."""
    height, width = heatmaps.shape[2:]
    highest, where = heatmaps.flatten(2).max(dim=2)
    top, left = where // width, where % width
    rows = torch.arange(height, device=heatmaps.device)
    columns = torch.arange(width, device=heatmaps.device)
    near = ((rows - top[..., None]).abs() <= radius)[..., :, None] & (
        (columns - left[..., None]).abs() <= radius
    )[..., None, :]
    mass = heatmaps * near
    total = mass.sum((2, 3)).clamp(min=1e-6)
    x = (mass.sum(2) * columns).sum(2) / total
    y = (mass.sum(3) * rows).sum(2) / total
    return torch.stack([x, y, highest], dim=2)
