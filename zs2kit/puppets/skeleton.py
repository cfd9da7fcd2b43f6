"""Skeletons as OpenPose draws them: the pictures that pose ControlNets are conditioned on."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .canvas import disc

# pairs of keypoints, in the order in which OpenPose colours and paints them (later ones on top)
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
    (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
LIMB_COLOURS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0),
    (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255),
    (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
"""Red, green, blue of each limb, and of the keypoint with the same number."""

_STARTS, _ENDS = (np.array(ends) for ends in zip(*LIMBS, strict=True))
_LIMB_BRIGHTNESS = 0.6
_SHIFT = 4
_JITTER = 0.02  # the largest error of a detector's points, as a standard deviation in figure heights


def draw_skeleton(keypoints: NDArray[np.floating], height: int, width: int) -> NDArray[np.uint8]:
    """Draw the skeleton of (18, 3) keypoints (x, y in pixels, visibility) on black: (height, width, 3) RGB.

    Keypoints of visibility 0, and limbs that end in one, are left out. Sticks are as thick as OpenPose's on
    frames of 512 pixels and more, thicker by comparison on small ones, where they would be lost.
    """
    picture = np.zeros((height, width, 3), np.uint8)
    radius = max(2.0, min(height, width) / 128)
    points, visible = np.asarray(keypoints[:, :2], np.float64), keypoints[:, 2] > 0
    start, end = points[_STARTS], points[_ENDS]
    half = (end - start) / 2
    length = np.maximum(np.hypot(half[:, 0], half[:, 1]), 1e-6)[:, None]
    across = half[:, ::-1] / length * (-radius, radius)
    ellipse = disc(0.0, 0.0, 1.0)[None]  # (1, corners, 2)
    sticks = (start + half)[:, None] + ellipse[..., :1] * half[:, None] + ellipse[..., 1:] * across[:, None]
    _fill(picture, sticks, visible[_STARTS] & visible[_ENDS], _LIMB_BRIGHTNESS)
    _fill(picture, points[:, None] + ellipse * radius, visible, 1.0)
    return picture


def seen_skeleton(keypoints: NDArray[np.floating], size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The skeleton of (18, 3) keypoints as a detector might see it, to learn from: (size, size, 3) RGB."""
    points = np.array(keypoints)
    if rng.random() < 0.5:
        height = np.ptp(points[:, 1])
        points[:, :2] += rng.normal(0, rng.uniform(0, _JITTER) * height, (len(points), 2))
    return draw_skeleton(points, size, size)


def _fill(
    picture: NDArray[np.uint8], shapes: NDArray[np.float64], shown: NDArray[np.bool_], brightness: float
) -> None:
    fixed = np.rint(shapes * (1 << _SHIFT)).astype(np.int32)
    for i in np.flatnonzero(shown):
        red, green, blue = LIMB_COLOURS[i]
        colour = (int(red * brightness), int(green * brightness), int(blue * brightness))
        cv2.fillConvexPoly(picture, fixed[i], colour, cv2.LINE_AA, _SHIFT)
