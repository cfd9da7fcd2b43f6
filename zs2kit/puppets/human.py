"""People's postures for puppets: random ones to train on, and people's skeletons in a puppet's proportions.

A puppet faces us, and its bones keep their lengths in the picture. It takes the directions that a person's
bones have in the picture, whatever way the person faces: in profile its legs cross.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from . import figures
from .canvas import Points
from .figures import L_ANKLE, L_EAR, L_HIP, L_SHOULDER, NECK, NOSE, R_ANKLE, R_EAR, R_HIP, R_SHOULDER
from .world import Pose, joints_of, sole_of

TALL = figures.SPINE + figures.HEAD + figures.HEAD_RADIUS + figures.THIGH + figures.SHIN + figures.SOLE
"""A puppet's height without its hat, standing upright, in figure units."""
CHAIN = 0.89  # of a person's height lies between an ankle and an ear, along the bones
ANKLE = 0.04  # of a person's height lies between the sole and an ankle
AWAY = 0.6  # of the torso's length: how far right shoulder and hip are to the right of those who face away
TILT = 20.0  # degrees, at most, between a puppet's head and torso
_SWAPPED = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]  # right and left


def retarget(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Give a person's skeleton a puppet's proportions: (18, 3) to (18, 3), OpenPose's points in pixels.

    The bones of arms and legs and the torso keep their directions; their lengths, shoulders, hips and the
    head are a puppet's. It is as tall as the person, at the same place, with its feet on the same ground.
    Points that aren't seen count as well: it is for detectors that guess them.
    """
    person = np.asarray(points[:, :2], np.float64)
    torso = person[NECK] - person[[R_HIP, L_HIP]].mean(axis=0)
    to_the_right = person[[R_SHOULDER, R_HIP], 0] - person[[L_SHOULDER, L_HIP], 0]
    if to_the_right.sum() > AWAY * np.hypot(*torso):
        person = person[_SWAPPED]  # a puppet that faces us shows the same limbs on the same side
    pose = _pose_of(person, torso)
    height = _height(person, torso)
    joints = joints_of(pose)[0]
    unit = height / TALL
    ground = person[[R_ANKLE, L_ANKLE], 1].max() + ANKLE * height
    found = np.ones((18, 3), np.float32)
    found[:, :2] = joints * unit + (person[[R_HIP, L_HIP], 0].mean(), ground - sole_of(joints) * unit)
    return found


def _pose_of(person: Points, torso: Points) -> Pose:
    """The directions of a person's bones (18, 2) as the angles of a puppet's."""
    lean = math.degrees(math.atan2(torso[0], -torso[1]))
    ears = person[[R_EAR, L_EAR]].mean(axis=0)
    head = ears - person[NECK]
    tilt = (math.degrees(math.atan2(head[0], -head[1])) - lean + 180) % 360 - 180
    turn = (person[NOSE, 0] - ears[0]) / max(0.3 * float(np.hypot(*torso)), 1e-6)
    angles = []
    for first, side, leaning in (
        (R_SHOULDER, -1, lean),
        (L_SHOULDER, 1, lean),
        (R_HIP, -1, 0.0),
        (L_HIP, 1, 0.0),
    ):
        upper, lower = np.diff(person[first : first + 3], axis=0)
        thigh = math.degrees(math.atan2(side * upper[0], upper[1]))
        shin = math.degrees(math.atan2(side * lower[0], lower[1]))
        angles += [thigh + side * leaning, shin - thigh]
    tilt, turn = float(np.clip(tilt, -TILT, TILT)), float(np.clip(turn, -1, 1))
    return Pose(*angles)._replace(lean=lean, tilt=tilt, turn=turn)


def _height(person: Points, torso: Points) -> float:
    """How tall a person would be upright, in pixels: by the bones from the ankles to the ears."""
    legs = [np.hypot(*np.diff(person[hip : hip + 3], axis=0).T).sum() for hip in (R_HIP, L_HIP)]
    head = person[[R_EAR, L_EAR]].mean(axis=0) - person[NECK]
    return float(max(legs) + np.hypot(*torso) + np.hypot(*head)) / CHAIN


def human_pose(rng: np.random.Generator) -> Pose:
    """A posture of somebody who walks, runs, gestures or jumps, seen from any side, as a puppet's."""
    yaw = math.radians(
        rng.choice([-1, 1]) * (rng.uniform(60, 115) if rng.random() < 0.5 else rng.uniform(0, 70))
    )
    kind = rng.random()
    # Degrees, right and left: how far limbs are lifted forwards and sideways
    if kind < 0.6:
        thighs, shins, arms, forearms = _steps(rng)
        pitch, roll = rng.uniform(-3, 15), rng.normal(0, 3)
    else:
        thighs, shins = _legs(rng) if kind > 0.75 else _steps(rng)[:2]
        arms, forearms = _gestures(rng)
        pitch, roll = (rng.uniform(-15, 70) if kind > 0.88 else rng.normal(4, 8)), rng.normal(0, 6)

    def in_picture(side: int, lifted: tuple[float, float]) -> float:
        forwards, outwards = (math.radians(each + rng.normal(0, 3)) for each in lifted)
        ahead, down = math.cos(outwards) * math.sin(forwards), math.cos(outwards) * math.cos(forwards)
        x = math.cos(yaw) * side * math.sin(outwards) + math.sin(yaw) * ahead
        return math.degrees(math.atan2(side * x, down))

    bent, tipped = math.radians(pitch), math.radians(roll)
    across = math.sin(yaw) * math.sin(bent) + math.cos(yaw) * math.sin(tipped)
    lean = math.degrees(math.atan2(across, math.cos(bent)))
    angles = []
    for upper, lower, leaning in ((arms, forearms, lean), (thighs, shins, 0.0)):
        for side, first, second in zip((-1, 1), upper, lower, strict=True):
            start = in_picture(side, first)
            angles += [start + side * leaning, in_picture(side, second) - start]
    tilt = float(np.clip(rng.normal(0, 7) + math.sin(yaw) * rng.uniform(0, 20), -TILT, TILT))
    turn = float(np.clip(1.3 * math.sin(yaw) + rng.normal(0, 0.3), -1, 1))
    lift = float(rng.uniform(0.02, 0.2)) if kind > 0.9 else 0.0
    return Pose(*angles)._replace(lean=lean, tilt=tilt, turn=turn, lift=lift)


Lifted = list[tuple[float, float]]


def _steps(rng: np.random.Generator) -> tuple[Lifted, Lifted, Lifted, Lifted]:
    """A moment of walking or running: thighs, shins, arms, forearms, right and left."""
    phase, stride, swing = rng.uniform(0, 2 * math.pi), rng.uniform(5, 42), rng.uniform(0, 50)
    knee, stiff, elbow = rng.uniform(20, 90), rng.uniform(0, 15), rng.uniform(0, 95)
    wide, out = rng.uniform(-3, 8), rng.uniform(-3, 20)
    thighs, shins, arms, forearms = [], [], [], []
    for when in (phase, phase + math.pi):
        thigh = stride * (0.15 + math.sin(when))
        arm = -swing * math.sin(when)
        thighs.append((thigh, wide))
        shins.append((thigh - stiff - knee * max(0.0, math.cos(when)) ** 1.5, wide))
        arms.append((arm, out))
        forearms.append((arm + elbow + rng.uniform(0, 12), out - rng.uniform(0, 12)))
    return thighs, shins, arms, forearms


def _gestures(rng: np.random.Generator) -> tuple[Lifted, Lifted]:
    """Arms and forearms, right and left, anywhere that they can go."""
    arms, forearms = [], []
    for _ in range(2):
        forwards, outwards = rng.uniform(-45, 180), rng.uniform(-15, 100)
        elbow, way = rng.uniform(0, 130), rng.uniform(-math.pi / 2, math.pi / 2)
        arms.append((forwards, outwards))
        forearms.append((forwards + elbow * math.cos(way), outwards + elbow * math.sin(way)))
    return arms, forearms


def _legs(rng: np.random.Generator) -> tuple[Lifted, Lifted]:
    """Thighs and shins, right and left: crouches, leaps, kicks."""
    thighs, shins = [], []
    both = rng.uniform(-20, 100), rng.uniform(0, 130)
    for _ in range(2):
        thigh, knee = both if rng.random() < 0.5 else (rng.uniform(-30, 100), rng.uniform(0, 120))
        outwards = rng.uniform(-5, 45)
        thighs.append((thigh, outwards))
        shins.append((thigh - knee, outwards))
    return thighs, shins
