"""Read keypoints off frames with the heatmaps of a small U-Net."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .estimator import estimate

HEATMAP = 64  # pixels of the side on which the network works
SURE = 0.25  # the least height of a peak that is a keypoint
POINTS = 9  # a figure among several has at least so many of the 18
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


def detect_each(network: Any, estimator: Any, frames: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Find all figures that stand apart on RGB frames (frames, H, W, 3): (figures, 18, 3) for each frame.

    The points are those of `detect`. It looks at the whole frame for one figure; several are told apart by
    ``estimator``, which finds what is figure in the picture, and each is then looked at from near by.
    """
    _, masks = estimate(estimator, frames)
    found = []
    for frame, mask in zip(frames, masks, strict=True):
        near = [_look_at(network, frame, region) for region in _regions(mask > 0.5)]
        figures = [points for points in near if (points[:, 2] > 0).sum() >= POINTS]
        found.append(np.stack(figures) if len(figures) > 1 else detect(network, frame[None]))
    return found


def _regions(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Return the parts of a mask that don't touch, without small ones; none if there is but one."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    large = [index for index in range(1, count) if areas[index - 1] >= max(areas.max() / 4, mask.size / 100)]
    return [labels == index for index in large] if len(large) > 1 else []


def _look_at(network: Any, frame: NDArray[np.uint8], region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Find the figure whose pixels are ``region`` (H, W): (18, 3), in pixels of the frame."""
    rows, columns = np.where(region.any(axis=1))[0], np.where(region.any(axis=0))[0]
    side = round(1.4 * max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1)  # figures fill most of a frame
    top, left = (rows[0] + rows[-1] - side) // 2, (columns[0] + columns[-1] - side) // 2
    around = np.asarray(cv2.copyMakeBorder(frame, side, side, side, side, cv2.BORDER_REPLICATE), np.uint8)
    crop = around[side + top : 2 * side + top, side + left : 2 * side + left]
    points: NDArray[np.float32] = detect(network, crop[None])[0]
    points[:, :2] += (left, top)
    # What lies outside of it, beyond what the estimator leaves out of hats and hands, is somebody else's.
    grown = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= side / 16
    x, y = points[:, :2].round().astype(int).T.clip(0, np.array([[frame.shape[1] - 1], [frame.shape[0] - 1]]))
    points[~grown[y, x], 2] = 0
    return points


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
