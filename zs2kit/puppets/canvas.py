"""Polygons with soft edges: all that the puppets world is drawn with.

Shapes are arrays of points (n, 2), x to the right and y down. A Canvas takes them in frame units, where the
frame is the square from (0, 0) to (1, 1), so that one drawing serves every size.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (n, 2)
Colour = tuple[float, float, float]  # red, green, blue, 0..255

OVERSAMPLING = 2  # drawn at twice the size and averaged down: edges move smoothly by fractions of a pixel
_SHIFT = 4  # fractional bits of the coordinates given to OpenCV


def _arc(angles: Points) -> Points:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


_CIRCLE = _arc(np.linspace(0, 2 * np.pi, 28, endpoint=False))
_HALF = _arc(np.linspace(0, np.pi, 10))
_QUARTERS = np.split(_arc(np.linspace(0, 2 * np.pi, 24)), 4)


def disc(x: float, y: float, rx: float, ry: float | None = None) -> Points:
    """An ellipse around (x, y) with half-axes rx and ry (a circle without ry)."""
    points: Points = np.array([x, y]) + _CIRCLE * np.array([rx, rx if ry is None else ry])
    return points


def capsule(p: Points, q: Points, rp: float, rq: float | None = None) -> Points:
    """A limb from p to q with rounded ends of radius rp and rq."""
    along = q - p
    length = float(np.hypot(along[0], along[1]))
    ux, uy = along / length if length > 1e-9 else (0.0, 1.0)
    turn = np.array([[-uy, ux], [ux, uy]])  # half circle bulging along u
    end = _HALF @ turn
    return np.concatenate([q + end * (rp if rq is None else rq), p - end * rp])


def box(x0: float, y0: float, x1: float, y1: float, r: float = 0.0) -> Points:
    """An upright rectangle with corners rounded by radius r."""
    if r == 0.0:
        return np.array([[x1, y1], [x0, y1], [x0, y0], [x1, y0]])
    corners = ((x1 - r, y1 - r), (x0 + r, y1 - r), (x0 + r, y0 + r), (x1 - r, y0 + r))
    return np.concatenate([np.array(c) + arc * r for c, arc in zip(corners, _QUARTERS, strict=True)])


def polygon(*points: tuple[float, float]) -> Points:
    """The polygon through these points."""
    return np.array(points, dtype=np.float64)


def grow(points: Points, width: float) -> Points:
    """The polygon moved outward by width on every side, sharp corners cut short."""
    following = np.concatenate([points[1:], points[:1]])
    x, y = (following - points).T
    doubled_area = points[:, 0] @ following[:, 1] - points[:, 1] @ following[:, 0]
    outward = math.copysign(1.0, doubled_area) / np.maximum(np.sqrt(x * x + y * y), 1e-9)
    normals = np.stack([y * outward, -x * outward], axis=1)
    corners = normals + np.concatenate([normals[-1:], normals[:-1]])
    squared = np.maximum(np.einsum("ij,ij->i", corners, corners), 0.5)
    grown: Points = points + corners * (2.0 * width / squared)[:, None]
    return grown


def blend(a: Colour, b: Colour, t: float) -> Colour:
    """The colour a fraction t of the way from a to b."""
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


class Canvas:
    """A square picture being painted, or, with maps, the depth and figure mask of the same strokes.

    Every stroke is given its colour; `near` (0 = infinitely far, 1 = near) and `figure` (is this the figure?)
    are set by whoever paints and end up in the maps. So depth and mask cannot disagree with the picture.
    """

    def __init__(self, size: int, maps: bool = False, like: int | None = None) -> None:
        """Start an empty picture of size x size pixels, or its maps.

        like: draw what a picture of this smaller size shows. OpenCV's shapes reach about a pixel over their
        edges, so the same scene has thicker outlines in a smaller picture.
        """
        side = size * OVERSAMPLING
        self.size = size
        self.side = side
        self.pen = size // (like or size)
        self.maps = maps
        self.near = 0.0
        self.figure = False
        self.pixels: NDArray[Any] = (
            np.zeros((side, side, 2), np.float32) if maps else np.zeros((side, side, 3), np.uint8)
        )

    def fill(self, points: Points, colour: Colour, *, convex: bool = True) -> None:
        """Paint a polygon, given in frame units."""
        # OpenCV's whole coordinates are pixel centres, ours are pixel edges
        fixed = np.rint((points * self.side - 0.5) * (1 << _SHIFT)).astype(np.int32)
        paint = (self.near, float(self.figure)) if self.maps else colour
        if convex:
            cv2.fillConvexPoly(self.pixels, fixed, paint, cv2.LINE_AA, _SHIFT)
        else:
            cv2.fillPoly(self.pixels, [fixed], paint, cv2.LINE_AA, _SHIFT)
        if self.pen > 1:
            cv2.polylines(self.pixels, [fixed], True, paint, self.pen, cv2.LINE_AA, _SHIFT)

    def decal(self, points: Points, colour: Colour) -> None:
        """Paint a convex polygon lying flat on what is there, like a shadow: only the picture shows it."""
        if not self.maps:
            self.fill(points, colour)

    def gradient(
        self, top: float, bottom: float, first: Colour, last: Colour, near: tuple[float, float]
    ) -> None:
        """Paint the full width from y = top to bottom, shading colour and nearness from first to last."""
        start, stop = max(0, round(top * self.side)), min(self.side, round(bottom * self.side))
        t = np.linspace(0.0, 1.0, max(stop - start, 1))[: stop - start, None]
        if self.maps:
            self.pixels[start:stop, :, 0] = near[0] + (near[1] - near[0]) * t
            self.pixels[start:stop, :, 1] = 0.0
        else:
            rows = np.array(first) + (np.array(last) - np.array(first)) * t
            column = np.rint(rows).astype(np.uint8)[:, None]
            self.pixels[start:stop] = cv2.repeat(column, 1, self.side) if len(column) else column

    def finish(self) -> NDArray[Any]:
        """The picture (size, size, 3) uint8, or the maps of depth and figure (size, size, 2) float32."""
        return cv2.resize(self.pixels, (self.size, self.size), interpolation=cv2.INTER_AREA)
