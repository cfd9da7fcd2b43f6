"""Flow momentum: the picture that a step heads for is a running average along the source's motion.

The third recursion beside dependency noise and temporal momentum attention; it too looks back one frame.
Rerender A Video (Yang et al. 2023) fuses warped pictures as well, between keyframes and in several passes.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from zs2kit.carry import Carry
from zs2kit.flow import SMALLEST, flow, visible, warp
from zs2kit.model import Model

MOMENTUM = 0.95  # of edits, unless told otherwise
# The shares of the steps after which it acts. The early ones settle who is to be seen, the late ones how that
# moves, and what comes after them draws details anew. Each costs a pass through the VAE.
SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TOLERANCE = 16  # levels of 255 by which what the source shows may differ on its way, and still be the same
AGREEMENT = 24  # levels by which a finished frame may differ from the average, and still be the same thing

Picture = NDArray[np.float32]  # (height, width, channels)
Path = tuple[Picture, Picture]  # a flow, and how sure it is: (height, width, 1) in [0, 1]


class FlowMomentum:
    """The running averages of one chunk's pictures, one for each step that has one.

    images: (frames, height, width, 3) RGB uint8, the source as the model gets it. They are read from
    ``carry`` and left in ``following`` for the next chunk.
    """

    def __init__(
        self, momentum: float, model: Model, images: NDArray[np.uint8], carry: Carry, following: Carry
    ) -> None:
        self.momentum = momentum
        self.model = model
        self.carry = carry
        self.following = following
        first = carry.get("flow/source")
        before = [None if first is None else first.cpu().numpy().astype(np.uint8), *images[:-1]]
        self.paths = [None if a is None else _path(a, b) for a, b in zip(before, images, strict=True)]
        following["flow/source"] = torch.from_numpy(images[-1]).float()

    def __call__(self, index: int, count: int, denoised: torch.Tensor) -> torch.Tensor:
        """Return ``denoised``, the latents (frames, channels, height, width) that step ``index`` heads for.

        Averaged, where it is one of the steps that do.
        """
        if not acts(index, count):
            return denoised
        pixels = self.model.decode(denoised)
        averaged = self.average(f"flow/{index}", pixels)
        # The difference that it makes, so that what the VAE loses is not lost at every turn.
        return denoised + self.model.encode(averaged * 2 - 1) - self.model.encode(pixels * 2 - 1)

    def finish(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the finished frames (frames, 3, height, width) in [0, 1] averaged once more.

        No step comes after this one that could mend what the flow does wrong, so v is 0 where a frame shows
        something else than the average: little flickers go, and a hand that moved stays where it is.
        """
        return self.average("flow/finished", pixels, AGREEMENT / 255)

    def average(self, key: str, pixels: torch.Tensor, agreement: float = math.inf) -> torch.Tensor:
        """Return the running average of ``pixels`` (frames, 3, height, width), float32.

        y_0 = x_0, y_k = v m W(y_(k-1)) + (1 - v m) x_k: W moves along the flow, v is 1 where that is sure,
        and x_k within ``agreement`` of W(y_(k-1)).
        """
        before = self.carry.get(key)
        last = None if before is None else before.cpu().numpy()
        averages = []
        for frame, path in zip(pixels.permute(0, 2, 3, 1).cpu().numpy(), self.paths, strict=True):
            if path is not None and last is not None:
                motion, sure = path
                moved = _moved(last, motion)
                weight = self.momentum * sure * _same(frame, moved, agreement)
                frame = weight * moved + (1 - weight) * frame
            last = frame
            averages.append(frame)
        averaged = torch.from_numpy(np.stack(averages))
        self.following[key] = averaged[-1].clone()
        return averaged.permute(0, 3, 1, 2).to(pixels)


def acts(index: int, count: int) -> bool:
    """Whether step ``index`` of ``count`` has an average."""
    return index in {round(share * count) for share in SHARES}


def _moved(picture: Picture, motion: Picture) -> Picture:
    """``picture`` along a flow that leads to it.

    Linear interpolation would blur a little at every turn. Cubic overshoots beside edges, at every turn a
    little more, so it is kept between the darkest and the lightest around.
    """
    around = np.ones((3, 3), np.uint8)
    low, high = (
        warp(bound(picture, around), motion, cv2.INTER_NEAREST)  # type: ignore[arg-type, unused-ignore]
        for bound in (cv2.erode, cv2.dilate)
    )
    moved: Picture = warp(picture, motion, cv2.INTER_CUBIC).clip(low, high)
    return moved


def _same(a: Picture, b: Picture, agreement: float) -> Picture:
    """Where two pictures show the same, (height, width, 1): 1 within ``agreement``, 0 from twice that on."""
    apart = cv2.GaussianBlur(np.abs(a - b).max(axis=2), (0, 0), 1.5)[..., None]
    same: Picture = np.clip(2 - apart / agreement, 0, 1)
    return same


def _path(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Path | None:
    """Return where ``b`` comes from in ``a``; None for pictures that are too small to tell."""
    if min(a.shape[:2]) < SMALLEST:
        return None
    backward, forward = flow(b, a), flow(a, b)
    error = np.abs(warp(a.astype(np.float32), backward) - b).mean(axis=2)
    sure = (visible(backward, forward) & (error < TOLERANCE)).astype(np.float32)
    return backward, cv2.GaussianBlur(sure, (0, 0), 1.0)[..., None]
