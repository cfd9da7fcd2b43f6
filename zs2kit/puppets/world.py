"""The puppets world: scenes of articulated figures, drawn together with all that is true about them.

A Scene says what is to be seen, `render` draws it at any size, `motion_scenes` lets it move. Everything is
decided by the scene alone: the same scene gives the same picture in every process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import figures, places
from .canvas import Canvas, Points
from .figures import COLOURS, KINDS
from .places import PLACES

__all__ = [
    "COLOURS",
    "KINDS",
    "MOTIONS",
    "PLACES",
    "Picture",
    "Pose",
    "Scene",
    "motion_scenes",
    "random_pose",
    "random_scene",
    "render",
]


class Pose(NamedTuple):
    """Angles of a figure that faces us, in degrees.

    Arms and legs count from hanging straight down (0), outward positive: an arm at 90 points sideways, at 180
    up. Elbows and knees add to that angle. `r_` is the figure's own right, on the left of the picture.
    """

    r_arm: float = 15.0
    r_elbow: float = 10.0
    l_arm: float = 15.0
    l_elbow: float = 10.0
    r_leg: float = 6.0
    r_knee: float = 0.0
    l_leg: float = 6.0
    l_knee: float = 0.0
    lean: float = 0.0
    """Torso, clockwise positive."""
    tilt: float = 0.0
    """Head, clockwise positive, on top of the lean."""
    turn: float = 0.0
    """Of the face to the side, -1..1, small."""
    lift: float = 0.0
    """Of the lower sole above the ground, in figure units."""

    def mirrored(self) -> Pose:
        """The pose as seen in a mirror."""
        return Pose(
            self.l_arm,
            self.l_elbow,
            self.r_arm,
            self.r_elbow,
            self.l_leg,
            self.l_knee,
            self.r_leg,
            self.r_knee,
            -self.lean,
            -self.tilt,
            -self.turn,
            self.lift,
        )


STANDING = Pose()


@dataclass(frozen=True)
class Scene:
    """One figure in one place: all that a picture depends on. Frame units: the frame is 1 wide and 1 high."""

    kind: str
    colour: str
    place: str
    background: int = 0
    """Seed of the place: where its things stand, which hand waves."""
    pose: Pose = STANDING
    x: float = 0.5
    """Of the middle of the hips."""
    ground: float = 0.92
    """Height in the frame (0 = top) of the ground that the figure stands on."""
    height: float = 0.7
    """Of the bare-headed figure when standing."""
    pan: float = 0.0
    """How far the view of the place has moved to the right, in frame widths."""


@dataclass(frozen=True)
class Picture:
    """A drawn scene. Depth and mask are drawn when first asked for."""

    scene: Scene
    size: int
    image: NDArray[np.uint8] = field(repr=False)
    """(size, size, 3), RGB."""
    keypoints: NDArray[np.float32] = field(repr=False)
    """(18, 3) in OpenPose's order: x and y in pixels (0 = middle of the first pixel), visibility 0 or 1."""

    @property
    def depth(self) -> NDArray[np.float32]:
        """(size, size), 0 = infinitely far, 1 = near: inverse depth, so that flat ground is a linear ramp."""
        return np.ascontiguousarray(self._maps[..., 0])

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(size, size), True on the figure."""
        return np.asarray(self._maps[..., 1] >= 0.5)

    @cached_property
    def _maps(self) -> NDArray[Any]:
        canvas = Canvas(self.size, maps=True)
        _paint(self.scene, canvas)
        return canvas.finish()


def render(scene: Scene, size: int = 128, like: int | None = None) -> Picture:
    """Draw a scene at size x size pixels (64 or more).

    like: show exactly what the picture of this smaller size shows, with outlines as thick as there.
    """
    canvas = Canvas(size, like=like)
    joints = _paint(scene, canvas)
    keypoints = np.ones((18, 3), np.float32)
    keypoints[:, :2] = joints * size - 0.5
    return Picture(scene, size, canvas.finish(), keypoints)


def _paint(scene: Scene, canvas: Canvas) -> Points:
    """Paint a scene and return the figure's joints (18, 2) in frame units."""
    stage = places.paint(canvas, scene.place, scene.background, scene.pan)
    joints, head = joints_of(scene.pose)
    sole = sole_of(joints)
    origin = np.array([scene.x, scene.ground - (sole + scene.pose.lift) * scene.height])
    joints, head = origin + joints * scene.height, origin + head * scene.height
    feet = joints[[figures.R_ANKLE, figures.L_ANKLE], 0]
    width = 0.16 * scene.height + 0.35 * abs(float(feet[1] - feet[0]))
    places.shadow(stage, scene.place, float(feet.mean()), scene.ground, width, 2.0 * scene.pose.lift)
    lean = math.radians(scene.pose.lean)
    puppet = figures.Puppet(
        canvas=canvas,
        joints=joints,
        head=head,
        unit=scene.height,
        lean=lean,
        tilt=lean + math.radians(scene.pose.tilt),
        turn=scene.pose.turn,
        colour=figures.COLOUR_VALUES[scene.colour],
        near=stage.nearness(scene.ground),
    )
    figures.paint(puppet, scene.kind)
    return joints


def joints_of(pose: Pose) -> tuple[Points, Points]:
    """The joints (18, 2) and the middle of the head (2,), in figure units around the middle of the hips."""
    lean = math.radians(pose.lean)
    up = np.array([math.sin(lean), -math.cos(lean)])
    across = np.array([math.cos(lean), math.sin(lean)])
    neck = up * figures.SPINE
    joints = np.zeros((18, 2))
    joints[figures.NECK] = neck
    for side, shoulder, hip, arm, elbow, leg, knee in (
        (-1, figures.R_SHOULDER, figures.R_HIP, pose.r_arm, pose.r_elbow, pose.r_leg, pose.r_knee),
        (1, figures.L_SHOULDER, figures.L_HIP, pose.l_arm, pose.l_elbow, pose.l_leg, pose.l_knee),
    ):
        joints[shoulder] = neck + across * side * figures.SHOULDER - up * 0.03
        arm -= side * pose.lean  # arms hang from the leaning torso
        joints[shoulder + 1] = joints[shoulder] + figures.UPPER_ARM * _swing(arm, side)
        joints[shoulder + 2] = joints[shoulder + 1] + figures.FOREARM * _swing(arm + elbow, side)
        joints[hip] = (side * figures.HIP, 0.0)
        joints[hip + 1] = joints[hip] + figures.THIGH * _swing(leg, side)
        joints[hip + 2] = joints[hip + 1] + figures.SHIN * _swing(leg + knee, side)
    tilt = lean + math.radians(pose.tilt)
    head = neck + figures.HEAD * np.array([math.sin(tilt), -math.cos(tilt)])
    right, down = np.array([math.cos(tilt), math.sin(tilt)]), np.array([-math.sin(tilt), math.cos(tilt)])
    for key, (x, y) in figures.FACE.items():
        moved = x + (0.0 if key in (figures.R_EAR, figures.L_EAR) else pose.turn * figures.TURN)
        joints[key] = head + moved * right + y * down
    return joints, head


def _swing(angle: float, side: int) -> Points:
    """The direction of a limb at this angle (degrees, outward) on this side (-1 = left in the picture)."""
    a = math.radians(angle)
    return np.array([side * math.sin(a), math.cos(a)])


def sole_of(joints: Points) -> float:
    """How far the lower sole is below the middle of the hips, in figure units, for joints (18, 2)."""
    return float(joints[[figures.R_ANKLE, figures.L_ANKLE], 1].max()) + figures.SOLE


def _extent(kind: str, pose: Pose) -> tuple[float, float, float]:
    """How far the drawn figure reaches left, right and up from hips and ground, in figure units."""
    joints, head = joints_of(pose)
    crown = float(head[1]) - figures.HEAD_RADIUS - figures.ABOVE[kind]
    top = min(float(joints[:, 1].min()) - figures.HAND_RADIUS, crown)
    left = min(float(joints[:, 0].min()) - 0.07, float(head[0]) - 0.28)
    right = max(float(joints[:, 0].max()) + 0.07, float(head[0]) + 0.28)
    return left, right, sole_of(joints) + pose.lift - top


def _fit(scene: Scene, poses: Iterable[Pose]) -> tuple[float, tuple[float, float], float]:
    """The largest height up to the scene's at which all poses fit, the range of x, and the highest ground."""
    extents = np.array([_extent(scene.kind, pose) for pose in poses])
    left, right, up = float(extents[:, 0].min()), float(extents[:, 1].max()), float(extents[:, 2].max())
    height = min(scene.height, 0.96 / (right - left), 0.93 / up)
    return height, (0.02 - left * height, 0.98 - right * height), 0.02 + up * height


def random_pose(rng: np.random.Generator) -> Pose:
    """A plausible pose: free limbs, ordinary standing, or a moment of a motion. The face stays visible."""
    kind = rng.random()
    while True:
        if kind < 0.55:
            pose = _free_pose(rng)
        elif kind < 0.9:
            motion = MOTIONS[int(rng.integers(len(MOTIONS)))]
            pose = _jitter(rng, _MOTIONS[motion][1](float(rng.random())), 5.0)
        else:
            pose = _jitter(rng, STANDING, 12.0)
        if rng.random() < 0.5:
            pose = pose.mirrored()
        if _plausible(pose):
            return pose


def _jitter(rng: np.random.Generator, pose: Pose, degrees: float) -> Pose:
    noise = rng.normal(0.0, degrees, 10)
    noise[4:8] *= 0.5
    noise[8] *= 0.6
    moved = Pose(*(float(a + b) for a, b in zip(pose[:10], noise, strict=True)))
    return moved._replace(turn=float(rng.uniform(-1, 1)), lift=pose.lift)


def _free_pose(rng: np.random.Generator) -> Pose:
    def arm() -> tuple[float, float]:
        upper = rng.uniform(-15, 180)
        return float(upper), float(np.clip(rng.uniform(-120, 120), -50 - upper, 215 - upper))

    def leg() -> tuple[float, float]:
        if rng.random() < 0.25:  # a kick, or a knee pulled up
            return float(rng.uniform(35, 92)), float(rng.uniform(-95, 5))
        thigh = rng.uniform(-4, 42)
        return float(thigh), float(rng.uniform(-1.2 * max(thigh, 8.0), 12))

    return Pose(
        *arm(),
        *arm(),
        *leg(),
        *leg(),
        lean=float(np.clip(rng.normal(0, 7), -16, 16)),
        tilt=float(np.clip(rng.normal(0, 8), -18, 18)),
        turn=float(rng.uniform(-1, 1)),
    )


def _plausible(pose: Pose) -> bool:
    """Whether the face is free, the legs are not crossed and at least one of them bears the figure."""
    joints, _ = joints_of(pose)
    face = joints[[figures.NOSE, figures.R_EYE, figures.L_EYE]]
    for elbow in (figures.R_ELBOW, figures.L_ELBOW):
        bone = joints[elbow] + np.linspace(0, 1.15, 5)[:, None] * (joints[elbow + 1] - joints[elbow])
        if float(np.hypot(*(bone[:, None] - face).transpose(2, 0, 1)).min()) < 0.1:
            return False
    ankles = joints[[figures.R_ANKLE, figures.L_ANKLE]]
    wrists = joints[[figures.R_WRIST, figures.L_WRIST]]
    return bool(
        ankles[1, 0] - ankles[0, 0] > 0.09
        and ankles[:, 1].max() > 0.12
        and float(np.hypot(*(wrists[1] - wrists[0]))) > 0.09
    )


def random_scene(
    rng: np.random.Generator,
    *,
    kind: str | None = None,
    colour: str | None = None,
    place: str | None = None,
    pose: Pose | None = None,
) -> Scene:
    """A scene drawn at random, except for what is given. The whole figure is in the frame."""
    scene = Scene(
        kind=kind or KINDS[int(rng.integers(len(KINDS)))],
        colour=colour or COLOURS[int(rng.integers(len(COLOURS)))],
        place=place or PLACES[int(rng.integers(len(PLACES)))],
        background=int(rng.integers(2**31)),
        pose=random_pose(rng) if pose is None else pose,
        height=float(0.45 + 0.47 * rng.random() ** 0.6),
        pan=float(rng.uniform(0, places.PERIOD)) if rng.random() < 0.25 else 0.0,
    )
    height, (left, right), highest = _fit(scene, [scene.pose])
    middle = (left + right) / 2
    x = middle + (rng.uniform(left, right) - middle) * 0.9
    ground = rng.uniform(min(max(highest, 0.78), 0.96), 0.97)
    return replace(scene, height=height, x=float(x), ground=float(ground))


def _walk(t: float) -> Pose:
    """Steps as seen from the front: knees come up in turn, arms swing against them."""
    s = math.sin(2 * math.pi * t)
    right, left = max(0.0, s) ** 1.5, max(0.0, -s) ** 1.5
    arms = (22 + 16 * s, 12 + 14 * s, 22 - 16 * s, 12 - 14 * s)
    return Pose(*arms, 5 + 38 * right, -52 * right, 5 + 38 * left, -52 * left, lean=-3.5 * s, tilt=4 * s)


def _wave(t: float) -> Pose:
    """The right hand waves."""
    s, c = math.sin(4 * math.pi * t), math.sin(2 * math.pi * t)
    return Pose(118 + 6 * s, 26 + 36 * s, 20 + 4 * c, 14, 8, 0, 8, 0, lean=2 * c, tilt=5 * c)


def _dance(t: float) -> Pose:
    """Arms go up in turn, the body swings over bending knees."""
    s, c = math.sin(2 * math.pi * t), math.sin(4 * math.pi * t)
    bend = 0.5 * (1 - math.cos(4 * math.pi * t))
    arms = (85 + 60 * s, 25 + 30 * c, 85 - 60 * s, 25 + 30 * c)
    legs = (14 + 14 * bend + 8 * s, -26 * bend, 14 + 14 * bend - 8 * s, -26 * bend)
    return Pose(*arms, *legs, lean=9 * s, tilt=-7 * s)


def _jump(t: float) -> Pose:
    """A crouch, a leap with arms and legs thrown out, a landing."""
    s = math.sin(2 * math.pi * t)
    air, crouch = max(0.0, s), max(0.0, -s)
    arm = (30 + 110 * air - 10 * crouch, 10 + 20 * air + 15 * crouch)
    leg = (8 + 18 * air + 34 * crouch, -60 * crouch)
    return Pose(*arm, *arm, *leg, *leg, lift=0.2 * air)


# cycles a second, and the pose at a point of the cycle
_MOTIONS: dict[str, tuple[float, Callable[[float], Pose]]] = {
    "walk": (1.0, _walk),
    "wave": (0.6, _wave),
    "dance": (0.75, _dance),
    "jump": (0.7, _jump),
}
MOTIONS = tuple(_MOTIONS)


def motion_scenes(
    scene: Scene, motion: str, frames: int, *, fps: float = 12.0, pan: float = 0.0, travel: float = 0.0
) -> list[Scene]:
    """The scene in motion: one scene a frame, moving smoothly.

    The place pans by `pan` and the figure travels by `travel` frame widths a second (turning back at the
    edges of the frame). The figure is drawn smaller than the scene says where it would not fit otherwise.
    """
    rate, pose_at = _MOTIONS[motion]
    mirror = scene.background % 2 == 1
    times = np.arange(frames) / fps
    poses = [pose_at(float(t * rate)) for t in times]
    poses = [pose.mirrored() if mirror else pose for pose in poses]
    poses = [pose._replace(turn=scene.pose.turn) for pose in poses]
    height, (left, right), highest = _fit(scene, poses)
    room = max(right - left, 1e-6)
    start = float(np.clip(scene.x, left, right)) - left
    way = (start + travel * times) % (2 * room)
    xs = left + np.where(way > room, 2 * room - way, way)
    ground = max(scene.ground, min(highest, 0.97))
    standing = replace(scene, height=height, ground=ground)
    return [
        replace(standing, pose=pose, x=float(x), pan=scene.pan + pan * float(t))
        for pose, x, t in zip(poses, xs, times, strict=True)
    ]
