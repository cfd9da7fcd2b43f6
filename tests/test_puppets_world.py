"""The puppets world: what the renderer says about its pictures is true, and the words fit."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from itertools import product

import cv2
import numpy as np
import pytest

from zs2kit.puppets import figures
from zs2kit.puppets.captions import HELD_OUT, caption, is_held_out, load_prompts, template_prompts
from zs2kit.puppets.skeleton import LIMB_COLOURS, draw_skeleton
from zs2kit.puppets.world import COLOURS, KINDS, MOTIONS, PLACES, Scene, motion_scenes, random_scene, render

FINGERPRINT = """
import hashlib, numpy
from zs2kit.puppets.world import random_scene, render
rng, digest = numpy.random.default_rng(3), hashlib.sha256()
for _ in range(12):
    picture = render(random_scene(rng))
    digest.update(picture.image.tobytes() + picture.keypoints.tobytes() + picture.depth.tobytes())
print(digest.hexdigest())
"""


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng) for _ in range(count)]


def test_a_random_scene_is_what_was_asked_for() -> None:
    scene = random_scene(np.random.default_rng(0), kind="clown", colour="pink", place="snow")
    assert (scene.kind, scene.colour, scene.place) == ("clown", "pink", "snow")
    drawn = scenes(300)
    assert {s.kind for s in drawn} == set(KINDS)
    assert {s.colour for s in drawn} == set(COLOURS)
    assert {s.place for s in drawn} == set(PLACES)


@pytest.mark.parametrize("size", [64, 128, 200])
def test_shapes_and_ranges(size: int) -> None:
    picture = render(scenes(1)[0], size)
    assert picture.image.shape == (size, size, 3) and picture.image.dtype == np.uint8
    assert picture.keypoints.shape == (18, 3) and picture.keypoints.dtype == np.float32
    assert picture.depth.shape == (size, size) and picture.depth.dtype == np.float32
    assert picture.mask.shape == (size, size) and picture.mask.dtype == np.bool_
    assert picture.depth.min() >= 0.0 and picture.depth.max() <= 1.0


def test_figures_are_whole_and_their_keypoints_lie_on_them() -> None:
    for scene in scenes(150):
        picture = render(scene)
        mask, points = picture.mask, picture.keypoints[:, :2]
        assert points.min() > 0 and points.max() < 127
        assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
        x, y = np.rint(points).astype(int).T
        # a wizard's ears stand a little out
        near = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8))
        assert near[y, x].all() and mask[y, x].mean() >= 16 / 18
        assert 0.01 < mask.mean() < 0.6


def test_the_right_hand_is_on_the_left_of_the_picture() -> None:
    points = render(Scene("robot", "red", "beach")).keypoints
    for right, left in ((2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13), (14, 15), (16, 17)):
        assert points[right, 0] < points[left, 0]


def test_the_body_has_the_colour() -> None:
    for kind, colour, place in product(KINDS, COLOURS, PLACES):
        picture = render(Scene(kind, colour, place, background=7))
        elbow = np.rint(picture.keypoints[[3, 6, 9, 12], :2]).astype(int)
        seen = picture.image[elbow[:, 1], elbow[:, 0]].astype(float)
        names = list(figures.COLOUR_VALUES)
        distance = np.abs(seen[:, None] - np.array(list(figures.COLOUR_VALUES.values()))[None]).sum(axis=2)
        assert [names[i] for i in distance.argmin(axis=1)] == [colour] * 4


def test_depth_puts_the_figure_before_the_sky_on_its_ground() -> None:
    for place in PLACES:
        scene = Scene("knight", "blue", place, ground=0.9, height=0.6)
        depth, mask = render(scene).depth, render(scene).mask
        assert depth[0].max() < 0.2  # sky, and at most something far
        assert depth[mask].min() > depth[~mask].min()
        empty = ~mask.any(axis=1)
        assert (np.diff(depth[empty][-5:, 3]) > 0).all()  # the ground comes nearer towards us
        sole = np.flatnonzero(mask.any(axis=1))[-1]
        assert abs(float(depth[sole][mask[sole]].mean()) - float(depth[sole, 3])) < 0.1


def test_the_mask_is_where_the_figure_changes_the_picture() -> None:
    for place in PLACES:
        one, other = (render(Scene("pirate", colour, place, background=5)) for colour in ("red", "green"))
        changed = np.abs(one.image.astype(int) - other.image.astype(int)).sum(axis=2) > 30
        assert changed.any() and one.mask[changed].mean() > 0.97  # the rest is soft edge


def test_small_movements_move_the_picture_a_little() -> None:
    scenes = (Scene("robot", "red", "grass", x=x) for x in (0.5, 0.5 + 0.1 / 128))
    first, second = (render(scene).image.astype(float) for scene in scenes)
    difference = np.abs(first - second)
    assert 0.0 < difference.mean() < 1.0 and difference.max() < 80


@pytest.mark.parametrize("motion", MOTIONS)
def test_motions_are_smooth_and_stay_in_the_frame(motion: str) -> None:
    for scene in scenes(6):
        frames = motion_scenes(scene, motion, 30, fps=12, pan=0.2, travel=0.3)
        points = np.array([render(frame, 64).keypoints[:, :2] for frame in frames]) / 64
        assert len(frames) == 30
        assert points.min() > 0 and points.max() < 1
        assert np.abs(np.diff(points, axis=0)).max() < 0.2
        assert np.ptp(points, axis=0).max() > 0.05
        assert len({frame.height for frame in frames}) == 1
        assert frames[12].pan == pytest.approx(scene.pan + 0.2)


def test_same_seed_same_pictures_in_another_process() -> None:
    runs = [subprocess.run([sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True)
            for _ in range(2)]  # fmt: skip
    rng, digest = np.random.default_rng(3), hashlib.sha256()
    for _ in range(12):
        picture = render(random_scene(rng))
        digest.update(picture.image.tobytes() + picture.keypoints.tobytes() + picture.depth.tobytes())
    assert {run.stdout.strip() for run in runs} == {digest.hexdigest()}


def test_skeletons_have_the_known_colours_and_leave_out_what_is_not_seen() -> None:
    keypoints = render(Scene("robot", "red", "beach"), 256).keypoints
    skeleton = draw_skeleton(keypoints, 256, 256)
    assert skeleton.shape == (256, 256, 3) and skeleton.dtype == np.uint8
    for key in (4, 7, 10, 13, 16, 17):  # ends of limbs, where no other joint is near
        x, y = np.rint(keypoints[key, :2]).astype(int)
        assert tuple(skeleton[y, x]) == LIMB_COLOURS[key]
    middle = np.rint(keypoints[[9, 10], :2].mean(axis=0)).astype(int)  # the right shin is limb 8
    assert tuple(skeleton[middle[1], middle[0]]) == tuple(int(c * 0.6) for c in LIMB_COLOURS[8])
    keypoints[10, 2] = 0
    hidden = draw_skeleton(keypoints, 256, 256)
    assert not hidden[middle[1], middle[0]].any()
    keypoints[:, 2] = 0
    assert not draw_skeleton(keypoints, 100, 60).any()


def test_captions_name_what_is_there_and_leave_out_each_at_random() -> None:
    rng = np.random.default_rng(0)
    full = [caption("robot", "red", "beach", rng, drop=0.0).lower() for _ in range(400)]
    assert all(any(w in c for w in ("robot", "android", "mechanical")) for c in full)
    assert all(any(w in c for w in ("red", "crimson", "scarlet")) for c in full)
    assert all(any(w in c for w in ("beach", "sea", "shore")) for c in full)
    assert len(set(full)) > 150
    some = [caption("wizard", "green", "desert", rng) for _ in range(3000)]
    for words in (("wizard", "sorcerer", "mage", "magician"), ("green", "emerald"), ("desert", "dunes")):
        missing = np.mean([not any(w in c.lower() for w in words) for c in some])
        assert 0.16 < missing < 0.3
    nothing = {caption("wizard", "green", "desert", rng, drop=1.0).lower() for _ in range(100)}
    assert nothing >= {"someone", "a figure"}


def test_captions_never_name_another_attribute() -> None:
    rng = np.random.default_rng(1)
    for kind, colour, place in product(KINDS, COLOURS, PLACES):
        words = set(re.findall(r"\w+", caption(kind, colour, place, rng).lower()))
        named = words & {*KINDS, *COLOURS, *PLACES}
        assert named <= {kind, colour, place}


def test_a_tenth_of_the_triples_is_held_out_and_every_pair_is_trained() -> None:
    assert len(HELD_OUT) == 29
    trained = [t for t in product(KINDS, COLOURS, PLACES) if not is_held_out(*t)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        names = (KINDS, COLOURS, PLACES)
        assert {(t[a], t[b]) for t in trained} == set(product(names[a], names[b]))


def test_the_frozen_prompts() -> None:
    prompts = load_prompts()
    template = [p for p in prompts if p.source == "template"]
    assert template == template_prompts()
    assert len(template) == 200 and sum(p.held_out for p in template) == 40
    assert {(p.kind, p.colour, p.place) for p in template if p.held_out} == HELD_OUT
    assert len([p for p in prompts if p.source == "hand"]) == 50
    assert len({p.prompt.lower() for p in prompts}) == 250
    assert all(p.held_out == is_held_out(p.kind, p.colour, p.place) for p in prompts)
