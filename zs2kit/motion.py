"""Flow momentum: what a step takes for the finished picture is a running average along the source's motion.

The third recursion beside dependency noise and temporal momentum attention; it too looks back one frame.
Rerender A Video (Yang et al. 2023) fuses warped estimates as well, between keyframes and in several passes.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from zs2kit.carry import Carry
from zs2kit.flow import SMALLEST, flow, visible, warp

# The shares of the steps between which is averaged: before, there is no picture yet; after, details are free.
START, END = 0.05, 0.45
TOLERANCE = 16  # levels of 255 by which what has moved may differ, and still be the same


class FlowMomentum:
    """The running averages of the denoised estimates of one chunk, one per step, along its source's motion.

    images: (frames, height, width, 3) RGB uint8, the source as the model gets it. They are read from
    ``carry`` and left in ``following`` for the next chunk.
    """

    def __init__(self, momentum: float, images: NDArray[np.uint8], carry: Carry, following: Carry) -> None:
        self.momentum = momentum
        self.carry = carry
        self.following = following
        before = carry.get("flow/source")
        neighbours: list[NDArray[np.uint8] | None] = [None if before is None else before.byte().cpu().numpy()]
        neighbours += list(images[:-1])
        self.paths = [None if a is None else _path(a, b) for a, b in zip(neighbours, images, strict=True)]
        following["flow/source"] = torch.from_numpy(images[-1]).float()

    def __call__(self, index: int, count: int, denoised: torch.Tensor) -> torch.Tensor:
        """Return ``denoised`` (frames, channels, height, width), the estimate of step ``index``, averaged.

        y_0 = x_0, y_k = v m W(y_(k-1)) + (1 - v m) x_k, where W moves along the flow and v is 1 where that
        is sure.
        """
        if not START <= index / count < END:
            return denoised
        key = f"flow/{index}"
        previous = self.carry.get(key)
        averages = []
        for frame, path in zip(denoised, self.paths, strict=True):
            if path is not None and previous is not None:
                motion, seen = (_resized(each, frame.shape[-2:]).to(frame) for each in path)
                moved = _moved(previous.to(frame), motion)
                frame = torch.lerp(frame, moved, self.momentum * seen)
            previous = frame
            averages.append(frame)
        self.following[key] = averages[-1].clone()
        return torch.stack(averages)


def _path(
    a: NDArray[np.uint8], b: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Where ``b`` comes from in ``a``, (height, width, 2) in shares of the sides, and where that is sure."""
    if min(a.shape[:2]) < SMALLEST:
        return None
    backward, forward = flow(b, a), flow(a, b)
    error = np.abs(warp(a.astype(np.float32), backward) - b).mean(axis=2)
    sure = visible(backward, forward) & (error < TOLERANCE)
    sides = np.array(a.shape[1::-1], np.float32)
    return backward / sides, sure.astype(np.float32)


def _resized(values: NDArray[np.float32], size: Sequence[int]) -> torch.Tensor:
    """(source height, source width, ...) -> (channels, height, width)."""
    resized = cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.atleast_3d(resized)).permute(2, 0, 1)


def _moved(frame: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
    """``frame`` (channels, height, width) along ``motion`` (2, height, width), in shares of the sides."""
    height, width = frame.shape[-2:]
    y, x = ((torch.arange(side, device=frame.device) + 0.5) / side for side in (height, width))
    places = torch.stack([x.expand(height, width), y[:, None].expand(height, width)]) + motion
    grid = (places * 2 - 1).permute(1, 2, 0)[None]
    return torch.nn.functional.grid_sample(frame[None], grid, "bicubic", "border", align_corners=False)[0]
