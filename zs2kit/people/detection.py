"""Find people in a picture: where each one's hips are, how tall they are, and which way is up."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .network import Network

SURE = 0.5  # the least score of a detection
SAME = 0.3  # boxes that share this much of their area are the same person's
MARGIN = 1.25  # how much larger than the person the region is on which landmarks are looked for
NEARLY_SQUARE = 1.2  # times as long as wide: a picture of that shape, or more, is looked at in squares, too,
STRIP = 4.0  # and one of this shape, or more, isn't
_FROM = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP  # the matrix leads from the result to the picture
GRIDS = ((28, 2), (14, 2), (7, 6))  # cells along a side, and anchors in each cell, in the network's order
ANCHORS = np.concatenate(
    [np.repeat(np.indices((side, side)).reshape(2, -1)[::-1].T + 0.5, each, 0) / side for side, each in GRIDS]
)
"""Middle (x, y) of the cell that each of the network's candidates belongs to, in shares of the picture."""


@dataclass(frozen=True)
class Region:
    """A square in a picture, in pixels, where 0 is the middle of the first one.

    ``angle`` is in radians: how far the square is turned clockwise.
    """

    x: float
    y: float
    side: float
    angle: float

    @classmethod
    def around(cls, middle: NDArray[np.floating], edge: NDArray[np.floating]) -> Region:
        """The square around the circle with this middle; ``edge``, on the circle, is above the head."""
        across, up = float(edge[0] - middle[0]), float(middle[1] - edge[1])
        side = 2 * math.hypot(across, up) * MARGIN
        return cls(float(middle[0]), float(middle[1]), side, math.atan2(across, up))

    def cut(self, image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
        """Return the square, upright, as a picture of (size, size) pixels; black beyond the image."""
        finer = max(1, round(self.side / size))  # shrunk by that first, so that nothing flickers
        corners = self.place(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]))
        height, width = image.shape[:2]
        left, top = (corners.min(axis=0).astype(int) - 2 * finer).clip(0, (width - 1, height - 1)).tolist()
        right, bottom = (corners.max(axis=0).astype(int) + 3 * finer).clip((left + 1, top + 1)).tolist()
        part = image[top:bottom, left:right]
        if finer > 1:
            part = resize(part, 1 / finer)
        matrix = self._matrix(size)
        scale = np.divide(part.shape[1::-1], np.minimum((right, bottom), (width, height)) - (left, top))
        matrix[:, 2] = (matrix[:, 2] + 0.5 - (left, top)) * scale - 0.5
        matrix[:, :2] *= scale[:, None]
        return np.asarray(cv2.warpAffine(part, matrix, (size, size), flags=_FROM), np.uint8)

    def paste(self, square: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        """Return ``square`` (size, size) where it lies in a picture (height, width) that is 0 elsewhere."""
        placed = cv2.warpAffine(square, self._matrix(len(square)), (width, height), flags=cv2.INTER_LINEAR)
        return np.asarray(placed, np.float32)

    def place(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return where points (..., 2) lie in the picture; in the square, they run from 0 to 1."""
        offsets = (np.asarray(points, np.float64) - 0.5) * self.side
        return offsets @ self._turn().T + (self.x, self.y)

    def _matrix(self, size: int) -> NDArray[np.float64]:
        """What leads from the pixels of a square picture of this size to those of the picture around it."""
        turn = self._turn() * (self.side / size)
        return np.column_stack([turn, (self.x, self.y) - turn.sum(axis=1) * (size - 1) / 2])

    def _turn(self) -> NDArray[np.float64]:
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return np.array([[cosine, -sine], [sine, cosine]])


@dataclass(frozen=True, eq=False)
class Detection:
    """What the detector says of one person."""

    score: float
    box: NDArray[np.float64]  # (2, 2): the upper left and the lower right corner around the head, in pixels
    region: Region


def tiles(height: int, width: int, fine: bool = False) -> list[tuple[int, int, int, int]]:
    """Return the parts of a picture to look at: all of it, and squares that lie half over one another.

    Each is (top, bottom, left, right). The detector sees 224 by 224 pixels, on which people are too small
    where a wide picture is shrunk as a whole. If ``fine``, there are also squares half as long.
    """
    short, long = sorted((height, width))
    parts = [(0, height, 0, width)]
    if long / short >= STRIP:
        return parts
    for side in (short, math.ceil(short / 2)) if fine else (short,):
        if side == short and long / short < NEARLY_SQUARE:
            continue
        parts += [
            (top, top + side, left, left + side)
            for top in _starts(height, side)
            for left in _starts(width, side)
        ]
    return parts


def _starts(length: int, side: int) -> list[int]:
    """Where squares along a length begin that lie half over one another, or more."""
    count = math.ceil(2 * (length - side) / side) + 1
    return [round(each) for each in np.linspace(0, length - side, count).tolist()]


def detect(network: Network, image: NDArray[np.uint8], fine: bool = False) -> list[Detection]:
    """Find the people in an RGB image (height, width, 3), the surest first; ``fine`` is as in `tiles`."""
    size, (height, width) = network.size, image.shape[:2]
    scale = size * (2 if fine else 1) / min(height, width)
    if scale < 1 and len(tiles(height, width, fine)) > 1:  # shrink it once for all of its squares
        image = resize(image, scale)
    parts = tiles(image.shape[0], image.shape[1], fine)
    boxed = [letterbox(image[top:bottom, left:right], size) for top, bottom, left, right in parts]
    boxes, logits = network(torch.cat([picture for picture, _, _ in boxed]), "boxes", "scores")
    scores = logits[..., 0].double().sigmoid().cpu().numpy()
    points = boxes.double().cpu().numpy().reshape(*scores.shape, 6, 2)  # middle and size of a box, 4 points
    points[..., [0, 2, 3, 4, 5], :] += ANCHORS[:, None] * size
    # Who is larger than a fine square is seen whole, and better, in others
    tall = 2 * np.linalg.norm(points[..., 3, :] - points[..., 2, :], axis=-1)
    coarse = [
        bottom - top == image.shape[0] or right - left == image.shape[1] for top, bottom, left, right in parts
    ]
    sure = (scores >= SURE) & ((tall <= size) | np.array(coarse)[:, None])
    middle, half = points[..., 0, :].copy(), points[..., 1, :] / 2
    points[..., 0, :], points[..., 1, :] = middle - half, middle + half
    for each, (_, scale, offset), (top, _, left, _) in zip(points, boxed, parts, strict=True):
        each[:] = (each - offset) / scale + (left, top)
    points = points * (width / image.shape[1], height / image.shape[0]) - 0.5
    return merge(scores[sure], points[sure])


def resize(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Return an image ``scale`` times as large."""
    height, width = image.shape[:2]
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    resized = cv2.resize(image, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def letterbox(image: NDArray[np.uint8], size: int) -> tuple[Tensor, float, tuple[int, int]]:
    """Shrink an image to (1, 3, size, size) in -1..1, with black beside it.

    Also returns by how much it is shrunk, and how many pixels (x, y) are beside it.
    """
    scale = size / max(image.shape[:2])
    small = resize(image, scale)
    height, width = small.shape[:2]
    left, top = (size - width) // 2, (size - height) // 2
    picture = np.zeros((size, size, 3), np.uint8)
    picture[top : top + height, left : left + width] = small
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1, scale, (left, top)


def merge(scores: NDArray[np.float64], points: NDArray[np.float64]) -> list[Detection]:
    """Make one detection of those whose boxes overlap: their average, weighted by score."""
    found = []
    left = np.argsort(-scores, kind="stable")
    while len(left):
        best = left[0]
        same = overlap(points[best, :2], points[left, :2]) > SAME
        same[0] = True  # even if its box has no area
        group, left = left[same], left[~same]
        mean = np.average(points[group], axis=0, weights=scores[group])
        found.append(Detection(float(scores[best]), mean[:2], Region.around(mean[2], mean[3])))
    return found


def overlap(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much of their joint area a box (2, 2) has in common with each of (boxes, 2, 2)."""
    common = np.minimum(box[1], boxes[:, 1]) - np.maximum(box[0], boxes[:, 0])
    shared = common.clip(min=0).prod(axis=1)
    joint = (box[1] - box[0]).prod() + (boxes[:, 1] - boxes[:, 0]).prod(axis=1) - shared
    return np.asarray(shared / np.maximum(joint, 1e-9))
