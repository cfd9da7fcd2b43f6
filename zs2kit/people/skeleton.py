"""People as the skeletons that OpenPose draws, which pose ControlNets are conditioned on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from zs2kit.puppets.skeleton import draw_skeleton

VISIBLE = 0.3  # the least visibility of a point that is drawn
LEFT_SHOULDER, RIGHT_SHOULDER = 11, 12
ORDER = (0, 0, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
"""Which of BlazePose's points each of OpenPose's 18 is; the neck, at 1, is none of them."""


def to_openpose(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return OpenPose's 18 points (18, 3) for BlazePose's (33, 3); the neck is between the shoulders.

    Points that aren't seen get visibility 0, which leaves them out of drawings.
    """
    body = np.asarray(points, np.float32)[list(ORDER)]
    shoulders = np.asarray(points, np.float32)[[LEFT_SHOULDER, RIGHT_SHOULDER]]
    body[1] = shoulders.mean(axis=0)
    body[1, 2] = shoulders[:, 2].min()
    body[body[:, 2] < VISIBLE, 2] = 0
    return body


def draw_skeletons(skeletons: Iterable[NDArray[np.floating]], height: int, width: int) -> NDArray[np.uint8]:
    """Draw skeletons, each (18, 3), on black: (height, width, 3) RGB; the lighter one where two cross."""
    picture = np.zeros((height, width, 3), np.uint8)
    for skeleton in skeletons:
        picture = np.maximum(picture, draw_skeleton(skeleton, height, width))
    return picture
