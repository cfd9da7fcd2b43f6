"""People's skeletons with a puppet's proportions, and the postures of people that training draws."""

from __future__ import annotations

import numpy as np
import pytest

from zs2kit.puppets import figures
from zs2kit.puppets.figures import L_ANKLE, L_HIP, L_SHOULDER, NECK, R_ANKLE, R_HIP, R_SHOULDER
from zs2kit.puppets.human import TALL, human_pose, retarget
from zs2kit.puppets.pictures import scene
from zs2kit.puppets.world import joints_of, render

BONES = [(2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (11, 12), (12, 13)]
MIRRORED = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]
HEIGHT, X, GROUND = 400.0, 700.0, 900.0


def person(seed: int):
    """A person's skeleton (18, 3), 400 pixels tall, and whether it is seen from the side."""
    joints, head = joints_of(human_pose(np.random.default_rng(seed)))
    shift = (joints[R_SHOULDER] + joints[L_SHOULDER]) / 2 - joints[NECK]
    lengths = {(2, 3): 0.17, (3, 4): 0.16, (8, 9): 0.245, (9, 10): 0.245}
    lengths |= {(a + 3, b + 3): length for (a, b), length in lengths.items()}
    points = np.zeros((18, 2))
    up = joints[NECK] / np.linalg.norm(joints[NECK])
    points[NECK] = 0.29 * up
    for side, shoulder, hip in ((-1, R_SHOULDER, R_HIP), (1, L_SHOULDER, L_HIP)):
        points[shoulder] = points[NECK] + side * 0.03 * np.array([-up[1], up[0]])
        points[hip] = side * 0.02, 0
    for (a, b), length in lengths.items():
        points[b] = points[a] + length * (joints[b] - joints[a]) / np.linalg.norm(joints[b] - joints[a])
    direction = (head - joints[NECK] - shift) / np.linalg.norm(head - joints[NECK] - shift)
    points[[0, 14, 15, 16, 17]] = points[NECK] + 0.11 * direction
    points *= HEIGHT
    points += (X, GROUND - 0.04 * HEIGHT - points[[R_ANKLE, L_ANKLE], 1].max())
    return np.column_stack([points, np.ones(18)]).astype(np.float32)


def turns(one, other) -> np.ndarray:
    """By how many degrees each bone points elsewhere."""
    first, second = (np.array([each[b, :2] - each[a, :2] for a, b in BONES]) for each in (one, other))
    angles = [np.degrees(np.arctan2(each[:, 0], each[:, 1])) for each in (first, second)]
    return np.abs((angles[0] - angles[1] + 180) % 360 - 180)


@pytest.mark.parametrize("seed", range(20))
def test_bones_keep_their_directions_and_get_a_puppets_lengths(seed):
    source = person(seed)
    puppet = retarget(source)
    assert turns(source, puppet).max() < 0.1
    torso = [each[NECK, :2] - each[[R_HIP, L_HIP], :2].mean(axis=0) for each in (source, puppet)]
    one, other = (each / np.linalg.norm(each) for each in torso)
    assert one @ other > np.cos(np.radians(0.1))
    assert puppet[[R_HIP, L_HIP], 0].mean() == pytest.approx(X, abs=0.01)
    unit = HEIGHT / TALL
    assert puppet[[R_ANKLE, L_ANKLE], 1].max() + figures.SOLE * unit == pytest.approx(GROUND, abs=1)
    for (a, b), length in {(2, 3): figures.UPPER_ARM, (9, 10): figures.SHIN, (14, 15): 0.124}.items():
        assert np.linalg.norm(puppet[a, :2] - puppet[b, :2]) == pytest.approx(length * unit, rel=0.01)
    assert np.ptp(retarget(source * [2, 2, 1]), axis=0)[:2] == pytest.approx(2 * np.ptp(puppet, axis=0)[:2])


def test_who_faces_away_moves_the_limbs_on_the_same_side():
    front = person(3)
    front[[R_SHOULDER, R_HIP], 0] -= 60
    front[[L_SHOULDER, L_HIP], 0] += 60
    away = front[MIRRORED]
    np.testing.assert_allclose(retarget(away), retarget(front))
    aside = person(3)[MIRRORED]
    assert not np.allclose(retarget(aside), retarget(person(3)))  # the control


def apart(shown) -> float:
    """How far the left ankle is to the right of the right one, in figure heights."""
    right, left = render(shown).keypoints[[R_ANKLE, L_ANKLE], 0]
    return float(left - right) / (128 * shown.height)


def test_a_puppet_can_show_how_people_stand():
    """The whole figure is in the picture, and legs pass one another, which otherwise they never do."""
    passing = 0
    for number in range(64):
        shown = scene(number, human=True)
        points = render(shown).keypoints[:, :2]
        assert points.min() > 0 and points.max() < 127
        passing += apart(shown) < 0.09
    assert passing >= 10
    assert not any(apart(scene(number)) < 0.09 for number in range(64))  # the control
