"""Optical flow: where the parts of one picture are found in another.

A flow from a to b is (height, width, 2) in pixels, x before y: what is at a(p) is found at b(p + flow(p)).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SMALLEST = 16  # pixels: with a shorter side, there is no optical flow


def flow(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Dense flow from ``a`` to ``b``, (height, width, 3) RGB, by OpenCV's DIS (Kroeger et al. 2016)."""
    grey = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (a, b)]
    finder = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined, unused-ignore]
    return finder.calc(*grey, None)  # type: ignore[no-any-return, unused-ignore]


def warp(
    picture: NDArray[np.float32], motion: NDArray[np.float32], interpolation: int = cv2.INTER_LINEAR
) -> NDArray[np.float32]:
    """Return ``picture`` (height, width, ...), moved along a flow that leads to it."""
    rows, columns = np.indices(motion.shape[:2], np.float32)
    x, y = columns + motion[..., 0], rows + motion[..., 1]
    return cv2.remap(picture, x, y, interpolation, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def visible(forward: NDArray[np.float32], backward: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which pixels are still visible where ``forward`` leads, as ``backward`` leads back from there.

    This is the test of Sundaram et al. (2010).
    """
    returned = warp(backward, forward)
    lengths = np.square(forward).sum(2) + np.square(returned).sum(2)
    rows, columns = np.indices(forward.shape[:2], np.float32)
    x, y = columns + forward[..., 0], rows + forward[..., 1]
    inside = (x >= 0) & (y >= 0) & (x <= forward.shape[1] - 1) & (y <= forward.shape[0] - 1)
    seen: NDArray[np.bool_] = inside & (np.square(forward + returned).sum(2) < 0.01 * lengths + 0.5)
    return seen
