"""The six kinds of figure: heads, chests, hands and shoes tell the kind, the body has the asked-for colour.

Lengths are in figure units: a bare-headed figure standing upright is about one unit tall. The figure's own
right is on the left of the picture, as it faces us.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .canvas import Canvas, Colour, Points, blend, box, capsule, disc, grow, polygon

COLOUR_VALUES: dict[str, Colour] = {
    "red": (216, 36, 40),
    "orange": (246, 128, 16),
    "yellow": (252, 216, 40),
    "green": (28, 140, 62),
    "blue": (38, 92, 226),
    "purple": (134, 58, 190),
    "pink": (250, 128, 186),
    "white": (246, 247, 250),
}
COLOURS = tuple(COLOUR_VALUES)

# keypoints, in the order of OpenPose's 18-point body
NOSE, NECK, R_SHOULDER, R_ELBOW, R_WRIST, L_SHOULDER, L_ELBOW, L_WRIST = range(8)
R_HIP, R_KNEE, R_ANKLE, L_HIP, L_KNEE, L_ANKLE, R_EYE, L_EYE, R_EAR, L_EAR = range(8, 18)

SHOULDER, HIP, SPINE = 0.118, 0.07, 0.25
UPPER_ARM, FOREARM, THIGH, SHIN, SOLE = 0.145, 0.135, 0.145, 0.145, 0.052
HEAD, HEAD_RADIUS = 0.165, 0.175  # neck to the middle of the head
HAND_RADIUS = 0.052
TURN = 0.03  # how far the face moves sideways when the head turns fully
FACE = {  # around the middle of the head
    NOSE: (0.0, 0.035),
    R_EYE: (-0.062, -0.02),
    L_EYE: (0.062, -0.02),
    R_EAR: (-0.165, 0.0),
    L_EAR: (0.165, 0.0),
}
ABOVE = {"robot": 0.13, "knight": 0.155, "astronaut": 0.03, "clown": 0.075, "wizard": 0.235, "pirate": 0.09}
"""How far hats and antennas reach above the head's own radius."""

INK: Colour = (44, 40, 58)
SKIN: Colour = (250, 206, 170)
STEEL: Colour = (182, 190, 204)


@dataclass
class Puppet:
    """A figure about to be painted: its joints in frame units, and its own places to paint in."""

    canvas: Canvas
    joints: Points  # (18, 2)
    head: Points  # middle of the head
    unit: float  # frame units in a figure unit
    lean: float  # radians, of the torso
    tilt: float  # radians, of the head
    turn: float  # -1..1
    colour: Colour
    near: float

    @property
    def ink(self) -> Colour:
        return blend(self.colour, (40, 36, 70), 0.55 if min(self.colour) > 200 else 0.6)

    @property
    def line(self) -> float:
        """Width of the contours: never so thin that a small picture loses them."""
        return max(0.017 * self.unit, 0.0095)

    def put(self, shape: Points, colour: Colour, ink: Colour | None = None, *, convex: bool = True) -> None:
        """Paint a shape given in frame units, with a contour if ink is given."""
        if ink is not None:
            self.canvas.fill(grow(shape, self.line), ink, convex=convex)
        self.canvas.fill(shape, colour, convex=convex)

    def on_head(
        self,
        shape: Points,
        colour: Colour,
        ink: Colour | None = None,
        *,
        face: bool = False,
        convex: bool = True,
    ) -> None:
        """Paint a shape given around the middle of the head; what is part of the face follows its turning."""
        offset = np.array([self.turn * TURN if face else 0.0, 0.0])
        self.put(self.head + self.unit * (shape + offset) @ _rotation(self.tilt), colour, ink, convex=convex)

    def on_chest(self, shape: Points, colour: Colour, ink: Colour | None = None) -> None:
        """Paint a shape given around the neck, down the leaning torso."""
        self.put(self.joints[NECK] + self.unit * shape @ _rotation(self.lean), colour, ink)


def _rotation(angle: float) -> Points:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, s], [-s, c]])


def _eyes(p: Puppet, colour: Colour, r: float = 0.024) -> None:
    for key in (R_EYE, L_EYE):
        p.on_head(disc(*FACE[key], r, r * 1.25), colour, face=True)


def _robot_head(p: Puppet) -> None:
    p.on_head(box(-0.014, -0.24, 0.014, -0.13, 0.01), (110, 118, 132), INK)
    p.on_head(disc(0, -0.25, 0.034), (255, 214, 70), INK)
    for x in (-0.18, 0.18):
        p.on_head(box(x - 0.03, -0.05, x + 0.03, 0.05, 0.02), (110, 118, 132), INK)
    p.on_head(box(-0.17, -0.155, 0.17, 0.15, 0.045), (170, 180, 192), INK)
    p.on_head(box(-0.132, -0.095, 0.132, 0.06, 0.04), (34, 44, 62), face=True)
    _eyes(p, (110, 240, 250), 0.034)
    p.on_head(box(-0.07, 0.088, 0.07, 0.118, 0.012), (78, 88, 104), face=True)


def _robot_chest(p: Puppet) -> None:
    p.on_chest(box(-0.075, 0.06, 0.075, 0.17, 0.02), (170, 180, 192), p.ink)
    p.on_chest(disc(-0.032, 0.115, 0.026), (110, 240, 250))
    p.on_chest(disc(0.036, 0.115, 0.026), (255, 214, 70))


_PLUME = polygon(
    (-0.02, -0.14),
    (-0.03, -0.25),
    (0.03, -0.3),
    (0.12, -0.29),
    (0.19, -0.2),
    (0.2, -0.1),
    (0.15, -0.12),
    (0.1, -0.17),
    (0.04, -0.16),
)
_HELMET = polygon(
    (-0.155, -0.02),
    (-0.13, -0.115),
    (-0.07, -0.165),
    (0, -0.178),
    (0.07, -0.165),
    (0.13, -0.115),
    (0.155, -0.02),
    (0.15, 0.08),
    (0.1, 0.145),
    (0, 0.185),
    (-0.1, 0.145),
    (-0.15, 0.08),
)
_SHIELD = polygon(
    (-0.075, 0.06), (0.075, 0.06), (0.072, 0.13), (0.04, 0.185), (0, 0.21), (-0.04, 0.185), (-0.072, 0.13)
)


def _knight_head(p: Puppet) -> None:
    p.on_head(_PLUME, p.colour, p.ink, convex=False)
    p.on_head(_HELMET, STEEL, INK)
    p.on_head(box(-0.125, -0.062, 0.125, 0.022, 0.03), (36, 38, 54), face=True)
    _eyes(p, (252, 250, 240), 0.024)
    p.on_head(box(-0.014, 0.022, 0.014, 0.15, 0.01), (122, 130, 150), face=True)
    for x in (-0.065, 0.065):
        p.on_head(disc(x, 0.085, 0.017), (92, 98, 118), face=True)


def _knight_chest(p: Puppet) -> None:
    p.on_chest(_SHIELD, STEEL, INK)
    p.on_chest(box(-0.015, 0.075, 0.015, 0.19), (196, 150, 40))
    p.on_chest(box(-0.055, 0.1, 0.055, 0.13), (196, 150, 40))


def _astronaut_back(p: Puppet) -> None:
    p.on_chest(box(-0.165, -0.02, 0.165, 0.2, 0.04), (150, 158, 174), INK)


def _astronaut_head(p: Puppet) -> None:
    for x in (-0.175, 0.175):
        p.on_head(disc(x, 0.0, 0.04, 0.055), (150, 158, 174), INK)
    p.on_head(disc(0, 0, 0.188, 0.182), (240, 243, 248), INK)
    p.on_head(disc(0, 0.005, 0.142, 0.118), (255, 186, 60), face=True)
    p.on_head(disc(0, 0.005, 0.124, 0.1), (30, 40, 74), face=True)
    p.on_head(disc(-0.055, -0.05, 0.035, 0.02), (130, 160, 205), face=True)
    _eyes(p, (232, 240, 250), 0.022)


def _astronaut_chest(p: Puppet) -> None:
    p.on_chest(box(-0.1, -0.012, 0.1, 0.028, 0.018), (150, 158, 174), INK)
    p.on_chest(box(-0.065, 0.08, 0.065, 0.16, 0.015), (232, 236, 242), p.ink)
    p.on_chest(disc(-0.03, 0.12, 0.02), (226, 70, 70))
    p.on_chest(disc(0.03, 0.12, 0.02), (60, 130, 220))


_HAIR: Colour = (38, 196, 186)
_PUFFS = [
    (side * x, y, r)
    for side in (-1, 1)
    for x, y, r in ((0.1, -0.125, 0.085), (0.185, -0.05, 0.09), (0.17, 0.055, 0.075))
] + [(0.0, -0.15, 0.07)]


def _clown_head(p: Puppet) -> None:
    for grown, colour in ((0.017, (18, 96, 104)), (0.0, _HAIR)):
        for x, y, r in _PUFFS:
            p.on_head(disc(x, y, r + grown), colour)
    p.on_head(disc(0, 0.01, 0.15, 0.148), (255, 232, 214), (120, 70, 60))
    for x in (-0.062, 0.062):
        p.on_head(disc(x, -0.03, 0.042, 0.052), (255, 255, 255), face=True)
    _eyes(p, INK, 0.022)
    p.on_head(disc(0, 0.09, 0.085, 0.042), (214, 40, 50), face=True)
    p.on_head(disc(0, 0.078, 0.07, 0.028), (255, 232, 214), face=True)
    p.on_head(disc(0, 0.035, 0.042), (232, 44, 44), (140, 20, 30), face=True)


def _clown_chest(p: Puppet) -> None:
    for x, y in ((-0.125, 0.02), (0.125, 0.02), (-0.07, 0.045), (0.07, 0.045), (0.0, 0.055)):
        p.on_chest(disc(x, y, 0.052), (252, 252, 250), (110, 112, 140))
    for y in (0.15, 0.22):
        p.on_chest(disc(0, y, 0.028), _HAIR, p.ink)


_BEARD = polygon(
    (-0.15, 0.03),
    (-0.09, 0.068),
    (0, 0.08),
    (0.09, 0.068),
    (0.15, 0.03),
    (0.15, 0.13),
    (0.1, 0.23),
    (0.03, 0.31),
    (-0.03, 0.31),
    (-0.1, 0.23),
    (-0.15, 0.13),
)
_POINTED_HAT = polygon(
    (-0.13, -0.11),
    (-0.085, -0.22),
    (-0.03, -0.32),
    (0.04, -0.375),
    (0.085, -0.365),
    (0.07, -0.31),
    (0.1, -0.2),
    (0.13, -0.11),
)


def _wizard_head(p: Puppet) -> None:
    p.on_head(disc(0, 0.01, 0.145), SKIN, (120, 70, 60))
    _eyes(p, INK)
    for s in (-1, 1):
        brow = capsule(np.array([s * 0.035, -0.062]), np.array([s * 0.1, -0.066]), 0.013)
        p.on_head(brow, (250, 250, 252), face=True)
    p.on_head(_BEARD, (250, 250, 252), (128, 130, 158), convex=False)
    p.on_head(disc(0, 0.04, 0.03, 0.026), (240, 178, 146), face=True)
    p.on_head(_POINTED_HAT, p.colour, p.ink, convex=False)
    p.on_head(disc(0.005, -0.2, 0.032), (255, 220, 90), p.ink)
    p.on_head(disc(0, -0.112, 0.205, 0.04), p.colour, p.ink)


def _wizard_chest(p: Puppet) -> None:
    p.on_chest(box(-0.105, 0.19, 0.105, 0.225, 0.01), (255, 206, 80), p.ink)


_SHORT_BEARD = polygon(
    (-0.148, 0.02),
    (-0.09, 0.065),
    (0, 0.07),
    (0.09, 0.065),
    (0.148, 0.02),
    (0.14, 0.11),
    (0.08, 0.18),
    (0, 0.205),
    (-0.08, 0.18),
    (-0.14, 0.11),
)
_COCKED_HAT = polygon(
    (-0.245, -0.06),
    (-0.2, -0.13),
    (-0.12, -0.205),
    (0, -0.24),
    (0.12, -0.205),
    (0.2, -0.13),
    (0.245, -0.06),
    (0.12, -0.085),
    (0, -0.092),
    (-0.12, -0.085),
)


def _pirate_head(p: Puppet) -> None:
    hair: Colour = (84, 52, 36)
    for s in (-1, 1):
        p.on_head(box(s * 0.13 - 0.04, -0.1, s * 0.13 + 0.04, 0.12, 0.035), hair, INK)
    p.on_head(disc(0, 0.01, 0.148), (240, 184, 142), (110, 60, 50))
    p.on_head(_SHORT_BEARD, hair, convex=False)
    p.on_head(disc(0, 0.11, 0.05, 0.022), (226, 90, 86), face=True)
    p.on_head(disc(0, 0.042, 0.03, 0.026), (222, 150, 116), face=True)
    p.on_head(disc(*FACE[R_EYE], 0.024, 0.03), INK, face=True)
    p.on_head(capsule(np.array([-0.11, -0.09]), np.array([0.13, 0.0]), 0.012), INK)
    p.on_head(disc(0.062, -0.018, 0.045), INK, face=True)
    p.on_head(_COCKED_HAT, (46, 42, 56), (222, 186, 92), convex=False)
    p.on_head(disc(0, -0.162, 0.04, 0.036), (250, 248, 240))
    p.on_head(box(-0.018, -0.14, 0.018, -0.112, 0.006), (250, 248, 240))


def _pirate_chest(p: Puppet) -> None:
    strap = polygon((-0.11, 0.03), (-0.07, 0.02), (0.105, 0.17), (0.1, 0.2), (0.085, 0.205))
    p.on_chest(strap, (96, 62, 42))
    p.on_chest(box(-0.106, 0.185, 0.106, 0.228, 0.01), (66, 44, 36), p.ink)
    p.on_chest(box(-0.036, 0.178, 0.036, 0.236, 0.01), (255, 212, 80), INK)


def _nothing(p: Puppet) -> None:
    pass


@dataclass(frozen=True)
class Kind:
    """What sets a kind of figure apart."""

    head: Callable[[Puppet], None]
    chest: Callable[[Puppet], None]
    hand: Colour
    shoe: Colour
    back: Callable[[Puppet], None] = _nothing
    shoulder: Colour | None = None  # plates on the shoulders
    foot: float = 0.07  # half the length of a shoe
    robe: bool = False  # wide, down to the thighs


KIND_VALUES: dict[str, Kind] = {
    "robot": Kind(_robot_head, _robot_chest, (150, 160, 174), (110, 118, 132)),
    "knight": Kind(_knight_head, _knight_chest, STEEL, (128, 136, 156), shoulder=STEEL),
    "astronaut": Kind(
        _astronaut_head, _astronaut_chest, (226, 230, 238), (150, 158, 174), back=_astronaut_back
    ),
    "clown": Kind(_clown_head, _clown_chest, (252, 252, 250), _HAIR, foot=0.1),
    "wizard": Kind(_wizard_head, _wizard_chest, SKIN, (122, 80, 54), robe=True),
    "pirate": Kind(_pirate_head, _pirate_chest, (240, 184, 142), (66, 46, 40)),
}
KINDS = tuple(KIND_VALUES)


def _bones(p: Puppet, first: int, thick: float, thin: float) -> list[Points]:
    a, b, c = p.joints[first : first + 3]
    middle = (thick + thin) / 2
    return [capsule(a, b, thick * p.unit, middle * p.unit), capsule(b, c, middle * p.unit, thin * p.unit)]


def _seamless(p: Puppet, shapes: list[Points]) -> None:
    """Paint body parts as one: the contours of all, then the inside of all."""
    for shape in shapes:
        p.canvas.fill(grow(shape, p.line), p.ink)
    for shape in shapes:
        p.canvas.fill(shape, p.colour)


def _torso(hem: float, low: float) -> Points:
    """A torso around the neck; its lower end is 2 hem wide and lies low beneath the neck."""
    left = [(-0.1, 0.0), (-0.13, 0.03), (-0.118, 0.12), (-hem, low - 0.03), (-hem + 0.035, low)]
    right = [(-x, y) for x, y in reversed(left)]
    return polygon(*left, (0, low + 0.005), *right)


_TORSO, _ROBE = _torso(0.105, 0.3), _torso(0.15, 0.365)


def _body(p: Puppet, kind: Kind) -> None:
    torso = p.joints[NECK] + p.unit * (_ROBE if kind.robe else _TORSO) @ _rotation(p.lean)
    for hip in (R_HIP, L_HIP):
        _seamless(p, _bones(p, hip, 0.05, 0.042))
    p.canvas.fill(grow(torso, p.line), p.ink)
    if not kind.robe:
        for hip in (R_HIP, L_HIP):  # legs grow out of the torso without a seam
            start, knee = p.joints[hip], p.joints[hip + 1]
            thigh = capsule(start, start + 0.6 * (knee - start), 0.05 * p.unit, 0.0475 * p.unit)
            p.canvas.fill(thigh, p.colour)
    p.canvas.fill(torso, p.colour)
    for ankle, side in ((R_ANKLE, -1), (L_ANKLE, 1)):
        x, y = p.joints[ankle] + p.unit * np.array([0.0, 0.014])
        heel = np.array([x - side * 0.02 * p.unit, y])
        toe = np.array([x + side * (kind.foot - 0.03) * p.unit, y])
        p.put(capsule(heel, toe, 0.038 * p.unit), kind.shoe, INK)


def _arm(p: Puppet, kind: Kind, shoulder: int) -> None:
    _seamless(p, _bones(p, shoulder, 0.045, 0.038))
    if kind.shoulder:
        x, y = p.joints[shoulder]
        p.put(disc(x, y, 0.055 * p.unit), kind.shoulder, INK)
    x, y = p.joints[shoulder + 2]
    p.put(disc(x, y, HAND_RADIUS * p.unit), kind.hand, INK)


def paint(p: Puppet, name: str) -> None:
    """Paint the figure: what is on its back, legs, torso, head, and arms over everything."""
    kind = KIND_VALUES[name]
    p.canvas.figure = True
    p.canvas.near = min(1.0, p.near)
    kind.back(p)
    _body(p, kind)
    p.canvas.near = min(1.0, p.near + 0.02)
    kind.chest(p)
    p.canvas.near = min(1.0, p.near + 0.04)
    kind.head(p)
    p.canvas.near = min(1.0, p.near + 0.06)
    for shoulder in (R_SHOULDER, L_SHOULDER):
        _arm(p, kind, shoulder)
