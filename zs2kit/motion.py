"""Flow momentum: each denoising step aims at a running average of pictures along the source's motion.

It is the third recursion, beside dependency noise and temporal momentum attention, and like these looks back
one frame. Rerender A Video (Yang et al. 2023) also fuses warped pictures, but between keyframes and in
several passes.
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

MOMENTUM = 0.95  # the default for edits
# It acts in the steps that come after these shares of all steps. The early ones settle what the figures look
# like, the late ones how they move; the steps after the last one draw details afresh. Each time costs one
# decoding and two encodings by the VAE.
SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# How many levels of 255 the source may be lighter or darker than its own average and still show the same
TOLERANCE = 10
AGREEMENT = 24  # the same for details, of the source and of finished frames

Picture = NDArray[np.float32]  # (height, width, channels)
Flow = tuple[Picture, Picture]  # the flow to the frame before; how sure it is: (height, width, 1) in [0, 1]


class FlowMomentum:
    """The running averages of one chunk's pictures, one for each step in which flow momentum acts.

    images: (frames, height, width, 3) RGB uint8, the source as the model gets it. The averages are read from
    ``carry`` and written to ``following`` for the next chunk.
    """

    def __init__(
        self, momentum: float, model: Model, images: NDArray[np.uint8], carry: Carry, following: Carry
    ) -> None:
        self.momentum = momentum
        self.model = model
        self.carry = carry
        self.following = following
        self.flows: list[Flow | None] = []
        known = carry.get("flow/source")  # the source's frame before this chunk, and the source's own average
        last = None if known is None else known.cpu().numpy()
        for image in images.astype(np.float32):
            found, average = None, image
            if last is not None and min(image.shape[:2]) >= SMALLEST:
                motion, seen = _flow(last[0], image)
                moved = _moved(last[1], motion)
                # Where the source's average lags behind the source, as in a fade, the result's would lag too.
                # The blur leaves out resampled edges, which are lighter on one side and darker on the other.
                lag = np.abs(cv2.GaussianBlur(moved - image, (0, 0), 2.5)).max(axis=2)
                sure = seen * _small(lag, TOLERANCE) * _small(_apart(moved, image), AGREEMENT)
                found = motion, sure
                average = _mixed(image, moved, momentum * sure)
            last = np.stack([image, average])
            self.flows.append(found)
        following["flow/source"] = torch.from_numpy(last)

    def __call__(self, index: int, count: int, denoised: torch.Tensor) -> torch.Tensor:
        """Average the latents ``denoised`` (frames, channels, height, width) that step ``index`` aims at.

        Returns them as they are in steps in which flow momentum doesn't act. ``count``: of all steps.
        """
        if not acts(index, count):
            return denoised
        # A tiny VAE leaves some flicker, which the next average takes away; after the last there is no other.
        vae = self.model if index == max(_acting(count)) else self.model.estimates
        pixels = vae.decode(denoised)
        averaged = self.average(f"flow/{index}", pixels)
        # Only the difference is added, so that what the VAE loses is not lost each time.
        return denoised + vae.encode(averaged * 2 - 1) - vae.encode(pixels * 2 - 1)

    def finish(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the finished frames (frames, 3, height, width) in [0, 1] averaged once more.

        No further step can repair what the flow gets wrong, so v (see `average`) is 0 where a frame shows
        something else than the average: small flickers go, and a hand that moved stays where it is.
        """
        return self.average("flow/finished", pixels, AGREEMENT / 255)

    def average(self, key: str, pixels: torch.Tensor, agreement: float = math.inf) -> torch.Tensor:
        """Return the running average of ``pixels`` (frames, 3, height, width), float32.

        y_0 = x_0, y_k = v m W(y_(k-1)) + (1 - v m) x_k, where W moves a picture along the flow, and v is 1
        where the flow is sure and x_k lies within ``agreement`` of W(y_(k-1)).
        """
        before = self.carry.get(key)
        last = None if before is None else before.cpu().numpy()
        averages = []
        for frame, found in zip(pixels.permute(0, 2, 3, 1).cpu().numpy(), self.flows, strict=True):
            if found is not None and last is not None:
                motion, sure = found
                moved = _moved(last, motion)
                same = _small(_apart(moved, frame), agreement)
                frame = _mixed(frame, moved, self.momentum * sure * same)
            last = frame
            averages.append(frame)
        averaged = torch.from_numpy(np.stack(averages))
        self.following[key] = averaged[-1].clone()
        return averaged.permute(0, 3, 1, 2).to(pixels)


def acts(index: int, count: int) -> bool:
    """Whether flow momentum acts in step ``index`` of ``count``."""
    return index in _acting(count)


def _acting(count: int) -> set[int]:
    return {min(round(share * count), count - 1) for share in SHARES}


def _moved(picture: Picture, motion: Picture) -> Picture:
    """Return ``picture`` moved along a flow that leads to it.

    Linear interpolation would blur a little each time. Cubic interpolation overshoots beside edges, a little
    more each time, so it is clipped to the darkest and the lightest value around each pixel.
    """
    around = np.ones((3, 3), np.uint8)
    low, high = (
        warp(bound(picture, around), motion, cv2.INTER_NEAREST)  # type: ignore[arg-type, unused-ignore]
        for bound in (cv2.erode, cv2.dilate)
    )
    moved: Picture = warp(picture, motion, cv2.INTER_CUBIC).clip(low, high)
    return moved


def _apart(a: Picture, b: Picture) -> Picture:
    """Return how much two pictures differ around each pixel: (height, width)."""
    apart: Picture = np.abs(a - b).max(axis=2)
    return np.asarray(cv2.GaussianBlur(apart, (0, 0), 1.5), np.float32)


def _small(apart: Picture, bound: float) -> Picture:
    """Return 1 where ``apart`` (height, width) is within ``bound``, 0 from twice that on.

    In between it falls linearly. The shape is (height, width, 1).
    """
    small: Picture = np.clip(2 - apart / bound, 0, 1)[..., None]
    return small


def _mixed(frame: Picture, moved: Picture, weight: Picture) -> Picture:
    return weight * moved + (1 - weight) * frame


def _flow(a: Picture, b: Picture) -> Flow:
    """Return the flow from ``b`` back to ``a``, pictures of 0 to 255, and how sure it is."""
    before, now = a.astype(np.uint8), b.astype(np.uint8)
    backward, forward = flow(now, before), flow(before, now)
    seen = cv2.GaussianBlur(visible(backward, forward).astype(np.float32), (0, 0), 1.0)
    return backward, np.asarray(seen, np.float32)[..., None]
