"""The six places: a sky, a ground, and a few big things that tell where we are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .canvas import Canvas, Colour, Points, box, capsule, disc, polygon

PERIOD = 2.0  # things come round again after this many frame widths of panning


@dataclass
class Stage:
    """One place about to be painted: where the horizon lies, how far we have panned, and its own dice."""

    canvas: Canvas
    rng: np.random.Generator
    horizon: float
    pan: float

    def across(self, x: float, parallax: float = 1.0) -> float:
        """Where a thing at x (frame widths) is seen after panning, between -0.5 and 1.5."""
        return (x - self.pan * parallax + 0.5) % PERIOD - 0.5

    def nearness(self, y: float) -> float:
        """Nearness of the ground seen at y: the inverse depth of a plane grows linearly below its horizon."""
        return 0.1 + 0.8 * max(0.0, y - self.horizon) / (1.0 - self.horizon)

    def sides(self, spread: float = 0.1) -> Iterator[float]:
        """Places for big things: left and right of the figure, and one beyond the frame for when we pan."""
        for x in (0.13, 0.87, 1.5):
            yield x + float(self.rng.uniform(-spread, spread))

    def sky(self, top: Colour, low: Colour) -> None:
        self.canvas.gradient(0.0, self.horizon, top, low, (0.0, 0.0))

    def ground(self, far: Colour, close: Colour, start: float | None = None) -> None:
        y = self.horizon if start is None else start
        self.canvas.gradient(y, 1.0, far, close, (self.nearness(y), 0.9))

    def ridge(self, height: float, swing: float, waves: float, parallax: float, colour: Colour) -> None:
        """Hills or dunes along the horizon, rising to `height` above it on average."""
        x = np.linspace(0.0, 1.0, 33)
        phase = float(self.rng.uniform(0, 2 * np.pi))
        y = self.horizon - height - swing * np.sin(2 * np.pi * waves * (x + self.pan * parallax) + phase)
        crest = np.stack([x * 1.04 - 0.02, y], axis=1)
        foot = [[1.02, self.horizon + 0.005], [-0.02, self.horizon + 0.005]]
        self.canvas.near = 0.08
        self.canvas.fill(np.concatenate([crest, foot]), colour, convex=False)


def _cloud(stage: Stage, x: float, y: float, size: float, colour: Colour) -> None:
    stage.canvas.near = 0.0
    for dx, dy, r in ((-0.9, 0.1, 0.55), (0.0, -0.15, 0.8), (0.9, 0.1, 0.6)):
        stage.canvas.fill(disc(x + dx * size, y + dy * size, r * size * 1.2, r * size), colour)


def _grass(stage: Stage) -> None:
    rng, canvas = stage.rng, stage.canvas
    stage.sky((116, 190, 243), (208, 234, 250))
    for x in stage.sides(0.12):
        _cloud(stage, stage.across(x, 0.15), float(rng.uniform(0.08, 0.22)), 0.065, (248, 251, 254))
    stage.ridge(0.09, 0.05, 0.9, 0.3, (150, 205, 135))
    stage.ground((178, 222, 116), (140, 202, 88))
    for x in stage.sides():
        foot, tall = stage.horizon + float(rng.uniform(0.02, 0.06)), float(rng.uniform(0.85, 1.15))
        x = stage.across(x, 0.7)
        canvas.near = stage.nearness(foot)
        canvas.fill(capsule(np.array([x, foot]), np.array([x, foot - 0.16 * tall]), 0.022), (134, 92, 62))
        for dx, dy, r in ((-0.06, -0.21, 0.075), (0.06, -0.21, 0.075), (0.0, -0.3, 0.085)):
            canvas.fill(disc(x + dx * tall, foot + dy * tall, r * tall), (86, 160, 92))
    for i in range(8):
        x, y = 0.25 * i + float(rng.uniform(0, 0.2)), float(rng.uniform(stage.horizon + 0.12, 0.97))
        petal = ((255, 250, 245), (250, 225, 110), (246, 170, 190))[i % 3]
        canvas.decal(disc(stage.across(x), y, 0.015), petal)


def _beach(stage: Stage) -> None:
    rng, canvas, horizon = stage.rng, stage.canvas, stage.horizon
    stage.sky((104, 196, 240), (206, 240, 250))
    x = stage.across(float(rng.uniform(0.2, 0.8)), 0.1)
    _cloud(stage, x, float(rng.uniform(0.1, 0.2)), 0.06, (248, 252, 254))
    shore = horizon + 0.13
    canvas.gradient(horizon, shore, (34, 140, 190), (92, 200, 212), (0.1, stage.nearness(shore)))
    boat = stage.across(float(rng.uniform(0.15, 0.85)), 0.3)
    canvas.near = 0.12
    canvas.fill(polygon((boat, horizon - 0.1), (boat + 0.07, horizon), (boat, horizon)), (252, 250, 244))
    canvas.fill(
        polygon(
            (boat - 0.05, horizon + 0.005),
            (boat + 0.085, horizon + 0.005),
            (boat + 0.055, horizon + 0.035),
            (boat - 0.025, horizon + 0.035),
        ),
        (150, 98, 70),
    )
    stage.ground((250, 234, 186), (240, 214, 154), shore)
    canvas.near = stage.nearness(shore)
    foam = np.linspace(0.0, 1.0, 33)
    wave = shore + 0.008 * np.sin(2 * np.pi * 1.5 * (foam + stage.pan * 0.8))
    edge, half = np.stack([foam * 1.04 - 0.02, wave], axis=1), np.array([0, 0.012])
    canvas.fill(np.concatenate([edge - half, edge[::-1] + half]), (250, 252, 248), convex=False)
    for x in stage.sides():
        bend = 0.05 if x < 0.5 or x > 1.0 else -0.05
        foot, tall = shore + float(rng.uniform(0.05, 0.1)), float(rng.uniform(0.9, 1.15))
        x = stage.across(x, 0.9)
        canvas.near = stage.nearness(foot)
        lower = x - 0.03 * np.sign(bend)
        joints = [np.array([lower + bend * t * t, foot - 0.5 * tall * t]) for t in (0, 0.35, 0.7, 1)]
        for p, q, r in zip(joints, joints[1:], (0.028, 0.025, 0.022), strict=False):
            canvas.fill(capsule(p, q, r, r - 0.003), (156, 112, 76))
        for angle, length in ((-160, 0.2), (-20, 0.2), (-120, 0.17), (-60, 0.17), (160, 0.17), (20, 0.17)):
            _leaf(canvas, joints[-1], angle, length * tall)


def _leaf(canvas: Canvas, root: Points, angle: float, length: float) -> None:
    turn = np.deg2rad(angle)
    along = np.array([np.cos(turn), np.sin(turn)])
    tip = root + along * length + np.array([0.0, 0.06])
    middle = (root + tip) / 2 + np.array([0.0, -0.03])
    shade: Colour = (62, 150, 84)
    canvas.fill(capsule(root, middle, 0.014, 0.024), shade)
    canvas.fill(capsule(middle, tip, 0.024, 0.006), shade)


def _spike(canvas: Canvas, x: float, base: float, top: float, half: float, colour: Colour) -> None:
    canvas.fill(polygon((x, top), (x + half, base), (x - half, base)), colour)


def _snow(stage: Stage) -> None:
    rng, canvas, horizon = stage.rng, stage.canvas, stage.horizon
    stage.sky((150, 184, 222), (222, 232, 244))
    for x in stage.sides(0.15):
        x, tall = stage.across(x + 0.12, 0.2), float(rng.uniform(0.22, 0.32))
        canvas.near = 0.05
        canvas.fill(polygon((x, horizon - tall), (x + 0.32, horizon), (x - 0.32, horizon)), (164, 184, 212))
        snowline = horizon - tall * 0.66
        canvas.fill(polygon((x, horizon - tall), (x + 0.11, snowline), (x - 0.11, snowline)), (246, 249, 253))
    stage.ridge(0.015, 0.02, 0.8, 0.5, (226, 235, 246))
    stage.ground((236, 242, 250), (216, 228, 244))
    for x in stage.sides():
        foot, tall = horizon + float(rng.uniform(0.04, 0.09)), float(rng.uniform(0.9, 1.2))
        x = stage.across(x, 0.8)
        canvas.near = stage.nearness(foot)
        canvas.fill(box(x - 0.02, foot - 0.07, x + 0.02, foot), (112, 84, 72))
        for base, top, half in ((0.06, 0.26, 0.13), (0.17, 0.36, 0.105), (0.27, 0.46, 0.08)):
            _spike(canvas, x, foot - base * tall, foot - top * tall, half * tall, (58, 112, 104))
        _spike(canvas, x, foot - 0.375 * tall, foot - 0.47 * tall, 0.04 * tall, (246, 249, 253))


def _desert(stage: Stage) -> None:
    rng, canvas, horizon = stage.rng, stage.canvas, stage.horizon
    stage.sky((240, 176, 128), (254, 232, 188))
    sun = stage.across(float(rng.choice([0.2, 0.8]) + rng.uniform(-0.08, 0.08)), 0.05)
    height = float(rng.uniform(0.14, 0.24))
    canvas.near = 0.0
    canvas.fill(disc(sun, height, 0.115), (252, 214, 150))
    canvas.fill(disc(sun, height, 0.085), (255, 246, 214))
    stage.ridge(0.06, 0.045, 0.7, 0.3, (226, 172, 116))
    stage.ground((240, 204, 144), (222, 174, 108))
    for x in stage.sides():
        foot, tall = horizon + float(rng.uniform(0.05, 0.12)), float(rng.uniform(0.85, 1.1))
        left, right = float(rng.uniform(0.13, 0.2)), float(rng.uniform(0.17, 0.25))
        x = stage.across(x, 0.8)
        canvas.near = stage.nearness(foot)
        shade: Colour = (74, 132, 96)
        at = [
            np.array([x + dx, foot - dy * tall])
            for dx, dy in (
                (0, 0.0),
                (0, 0.36),
                (0, left),
                (-0.085, left),
                (-0.085, left + 0.1),
                (0, right),
                (0.085, right),
                (0.085, right + 0.08),
            )
        ]
        canvas.fill(capsule(at[0], at[1], 0.036), shade)
        for p, q in ((2, 3), (3, 4), (5, 6), (6, 7)):
            canvas.fill(capsule(at[p], at[q], 0.024), shade)


def _city(stage: Stage) -> None:
    rng, canvas, horizon = stage.rng, stage.canvas, stage.horizon
    stage.sky((24, 28, 74), (118, 84, 150))
    moon, height = stage.across(float(rng.uniform(0.1, 0.9)), 0.05), float(rng.uniform(0.1, 0.18))
    canvas.near = 0.0
    canvas.fill(disc(moon, height, 0.075), (246, 238, 208))
    canvas.fill(disc(moon - 0.02, height - 0.015, 0.02), (226, 216, 184))
    canvas.near = 0.08
    for i in range(8):
        x, tall = stage.across(i * 0.25 + 0.12, 0.3), float(rng.uniform(0.22, 0.38))
        canvas.fill(box(x - 0.13, horizon - tall, x + 0.13, horizon), (62, 56, 116))
    canvas.near = 0.1
    lit = rng.random((8, 4, 2)) < 0.7
    for i in range(8):
        x, tall = stage.across(i * 0.25 + float(rng.uniform(-0.03, 0.03)), 0.6), float(rng.uniform(0.2, 0.5))
        if not -0.12 < x < 1.12:
            continue
        canvas.fill(box(x - 0.1, horizon - tall, x + 0.1, horizon), (34, 34, 72))
        for row in range(int((tall - 0.04) / 0.1)):
            for side in (0, 1):
                if lit[i, row, side]:
                    wx, wy = x - 0.045 + 0.09 * side, horizon - tall + 0.07 + row * 0.1
                    canvas.fill(box(wx - 0.02, wy - 0.026, wx + 0.02, wy + 0.026), (255, 212, 112))
    stage.ground((104, 102, 128), (88, 86, 112))
    kerb = horizon + 0.1
    canvas.gradient(kerb, 1.0, (66, 66, 86), (56, 56, 74), (stage.nearness(kerb), 0.9))
    y = float(rng.uniform(0.86, 0.92))
    for i in range(5):
        x = stage.across(i * 0.4)
        dash = polygon((x - 0.08, y), (x + 0.1, y), (x + 0.11, y + 0.026), (x - 0.085, y + 0.026))
        canvas.decal(dash, (206, 198, 150))


def _space(stage: Stage) -> None:
    rng, canvas, horizon = stage.rng, stage.canvas, stage.horizon
    stage.sky((14, 10, 34), (58, 30, 92))
    canvas.near = 0.0
    for i in range(16):
        x = stage.across(0.125 * i + float(rng.uniform(0, 0.1)), 0.05)
        y = float(rng.uniform(0.03, horizon - 0.05))
        canvas.fill(disc(x, y, 0.009 if i % 3 else 0.013), (246, 242, 224))
    side = float(rng.choice([0.18, 0.82]) + rng.uniform(-0.06, 0.06))
    x, y, r = stage.across(side, 0.05), float(rng.uniform(0.17, 0.27)), float(rng.uniform(0.1, 0.13))
    slant = np.array([[0.94, -0.34], [0.34, 0.94]])
    ring, hole = disc(0.0, 0.0, 1.75, 0.42) @ slant, disc(0.0, 0.0, 1.35, 0.26) @ slant
    centre, half = np.array([x, y]), len(ring) // 2
    behind = np.concatenate([ring[half:], hole[half:][::-1]])
    before = np.concatenate([ring[: half + 1], hole[: half + 1][::-1]])
    canvas.fill(centre + r * behind, (222, 196, 232), convex=False)
    canvas.fill(disc(x, y, r), (96, 172, 196))
    canvas.fill(disc(x - 0.25 * r, y - 0.3 * r, 0.5 * r, 0.42 * r), (128, 198, 212))
    canvas.fill(centre + r * before, (236, 212, 242), convex=False)
    stage.ridge(0.01, 0.018, 0.8, 0.5, (154, 150, 172))
    stage.ground((164, 160, 180), (134, 130, 154))
    for i in range(6):
        x, y = i / 3 + float(rng.uniform(0, 0.2)), float(rng.uniform(horizon + 0.06, 0.95))
        r = 0.05 + 0.06 * (y - horizon)
        canvas.decal(disc(stage.across(x), y, r * 1.25, r * 0.5), (116, 112, 138))


_PAINTERS: dict[str, Callable[[Stage], None]] = {
    "grass": _grass,
    "beach": _beach,
    "snow": _snow,
    "desert": _desert,
    "city": _city,
    "space": _space,
}
PLACES = tuple(_PAINTERS)
_SHADOWS: dict[str, Colour] = {
    "grass": (108, 166, 74),
    "beach": (214, 186, 130),
    "snow": (178, 194, 220),
    "desert": (190, 142, 88),
    "city": (38, 38, 56),
    "space": (96, 92, 118),
}


def paint(canvas: Canvas, place: str, seed: int, pan: float) -> Stage:
    """Paint a place. The seed decides where its things stand; pan moves the view right, in frame widths."""
    rng = np.random.default_rng(seed)
    stage = Stage(canvas, rng, horizon=float(rng.uniform(0.56, 0.64)), pan=pan)
    canvas.figure = False
    _PAINTERS[place](stage)
    return stage


def shadow(stage: Stage, place: str, x: float, y: float, width: float, lift: float) -> None:
    """The soft spot below a figure, smaller the higher it has jumped."""
    r = width * (1.0 - min(0.5, lift))
    stage.canvas.decal(disc(x, y, r, r * 0.2), _SHADOWS[place])
