"""The judge of the puppets world: clips of which it is known what it must say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from zs2kit.errors import ClipError, UsageError
from zs2kit.metrics import to_float, to_lab
from zs2kit.puppets import truth
from zs2kit.puppets.networks import GROUPS
from zs2kit.puppets.truth import NOTHING, Judge, true_clip, truly_asked
from zs2kit.puppets.world import Scene, motion_scenes, render

SCENE = Scene("robot", "red", "grass", background=4, height=0.8)


def images(clip):
    return np.stack([picture.image for picture in clip])


def test_flips_are_counted():
    steady = np.zeros((5, 3), np.intp)
    assert truth.flips(steady) == {"kind flips": 0, "colour flips": 0, "place flips": 0}
    steady[2:, 0] = 1  # another kind from frame 2 on: once in four transitions
    steady[::2, 1] = 5  # another colour in every frame
    assert truth.flips(steady) == {"kind flips": 25, "colour flips": 100, "place flips": 0}
    assert truth.flips(steady[:1]) == {}


def test_a_figure_that_vanishes_flips_and_one_that_never_was_tells_nothing():
    labels = np.zeros((5, 3), np.intp)
    labels[3, :2] = NOTHING
    assert truth.flips(labels) == {"kind flips": 50, "colour flips": 50, "place flips": 0}
    labels[:, :2] = NOTHING
    assert truth.flips(labels) == {"place flips": 0}


def test_what_is_asked_for_is_right_alone_and_together():
    labels = np.zeros((4, 3), np.intp)
    labels[0, 0], labels[1, 2] = NOTHING, 3
    kind, colour, place = (words[0] for words in GROUPS.values())
    assert truth.right(labels, {"kind": kind, "place": place}) == {
        "kind right": 0.75,
        "place right": 0.75,
        "text right": 0.5,
    }
    assert truth.right(labels, {"colour": colour}) == {"colour right": 1, "text right": 1}
    assert truth.right(labels, {}) == {}
    with pytest.raises(UsageError, match="no kind 'elephant'"):
        truth.right(labels, {"kind": "elephant"})


def lab_clip(*lightness):
    """Grey frames of known lightness; the figure is their left half."""
    pixels = np.zeros((len(lightness), 8, 8, 3), np.float32)
    pixels[..., :4, 0] = np.array(lightness)[:, None, None]
    masks = np.zeros(pixels.shape[:3], bool)
    masks[..., :4] = True
    return pixels, masks


def test_colour_drift_of_known_colours():
    pixels, masks = lab_clip(50, 53, 50, 59)
    assert truth.colour_drift(pixels, masks) == pytest.approx(
        {"colour drift to neighbour": 15 / 3, "colour drift to first": 12 / 3}
    )
    masks[1] = False  # not seen there: passed over
    assert truth.colour_drift(pixels, masks) == pytest.approx(
        {"colour drift to neighbour": 9 / 2, "colour drift to first": 9 / 2}
    )
    assert truth.colour_drift(pixels, masks & False) == {}
    assert truth.background_change(pixels, np.zeros_like(masks))["background change"] == pytest.approx(2.5)


def test_the_background_is_what_shows_no_figure():
    pixels, masks = lab_clip(50, 90, 20)
    assert truth.background_change(pixels, masks) == {"background change": 0}
    pixels[1, :, 4:, 0] += 8
    assert truth.background_change(pixels, masks) == pytest.approx({"background change": 8})
    assert truth.background_change(pixels, masks | True) == {}
    frames = np.full((2, 8, 8, 3), 100, np.uint8)
    lost = frames.copy()
    lost[..., 4:, :] += 51
    assert truth.background_kept(lost, frames, masks[:2]) == pytest.approx(
        {"background psnr": -20 * np.log10(0.2)}, abs=1e-4
    )
    assert truth.background_kept(lost, frames, ~masks[:2]) == {"background psnr": 100}


def points(count: int = 12):
    """Keypoints of a figure that stands still."""
    picture = render(SCENE)
    return np.repeat(picture.keypoints[None], count, axis=0), float(
        np.ptp(picture.keypoints[:, :2], axis=0).max()
    )


def test_motion_is_that_of_the_keypoints():
    still, height = points()
    assert truth.motion(still) == {"motion": 0, "jitter": 0, "smooth motion": 0}
    moving = still.copy()
    moving[..., 0] += 3 * np.arange(len(still))[:, None]
    numbers = truth.motion(moving)
    assert numbers == pytest.approx(
        {"motion": 3 / height, "jitter": 0, "smooth motion": 3 / height}, rel=1e-4, abs=1e-5
    )
    moving[..., 2] = 0
    assert truth.motion(moving) == truth.motion(still[:1]) == {}
    assert list(truth.motion(still[:2])) == ["motion"]


def test_motion_is_that_of_the_points_that_are_seen():
    moving, height = points()
    moving[..., 1] += 2 * np.arange(len(moving))[:, None]
    moving[:, 4, 2] = 0  # a hand that is never seen, wherever it is thought to be
    moving[:, 4, :2] = np.random.default_rng(0).uniform(-500, 500, (len(moving), 2))
    moving[5, :, 2] = 0
    assert truth.motion(moving)["motion"] == pytest.approx(2 / height, rel=1e-4)


def test_trembling_is_no_smooth_motion():
    still, _ = points(200)
    still[..., :2] += np.random.default_rng(0).normal(size=still[..., :2].shape)
    numbers = truth.motion(still)
    assert numbers["jitter"] == pytest.approx(3**0.5 * numbers["motion"], rel=0.05)
    assert numbers["smooth motion"] < 0.25 * numbers["motion"]


@pytest.mark.parametrize("motion", ["walk", "dance", "jump"])
def test_real_motion_is_smooth(motion):
    real = np.stack([render(each).keypoints for each in motion_scenes(SCENE, motion, 24)])
    numbers = truth.motion(real)
    assert numbers["smooth motion"] > 0.85 * numbers["motion"] > 0.005


def test_pose_of_known_errors():
    true, height = points(2)
    found = true.copy()
    found[0, :, 1] += 0.05 * height
    found[1, :, 1] += 0.2 * height
    assert truth.pose(found, true) == pytest.approx({"PCK@0.1": 0.5, "pose error": 0.125})
    found[1, :, 2] = 0  # not found at all: wrong, and no error of a place
    assert truth.pose(found, true) == pytest.approx({"PCK@0.1": 0.5, "pose error": 0.05})


@pytest.fixture(scope="module")
def judge():
    return Judge()


@pytest.mark.slow
def test_rendered_clips_are_right_and_steady(judge):
    for number in range(4):
        clip = true_clip(number, 12)
        numbers = judge(images(clip), truly_asked(clip), clip)
        assert numbers["figures found"] == numbers["text right"] == 1
        assert numbers["kind flips"] == numbers["colour flips"] == numbers["place flips"] == 0
        assert numbers["PCK@0.1"] > 0.99 and numbers["pose error"] < 0.02
        assert numbers["colour drift to neighbour"] < 1.5 and numbers["colour drift to first"] < 3
        assert numbers["background change"] < 0.5 and numbers["background psnr"] == 100
        true = truth.motion(np.stack([picture.keypoints for picture in clip]))
        assert numbers["smooth motion"] == pytest.approx(true["smooth motion"], rel=0.3)


@pytest.mark.slow
def test_every_number_is_documented(judge, documented_metrics):
    clip = true_clip(0, 3)
    assert judge(images(clip), truly_asked(clip), clip).keys() <= documented_metrics


@pytest.mark.slow
def test_a_change_at_a_known_frame_is_seen_there(judge):
    scenes = motion_scenes(SCENE, "walk", 11)
    asked = {"kind": "robot", "colour": "red"}
    changed = [replace(scene, kind="clown") if i > 6 else scene for i, scene in enumerate(scenes)]
    changed = [replace(scene, colour="blue") if 3 <= i < 5 else scene for i, scene in enumerate(changed)]
    clip = [render(scene) for scene in changed]
    numbers = judge(images(clip), asked)
    assert (numbers["kind flips"], numbers["colour flips"], numbers["place flips"]) == (10, 20, 0)
    assert numbers["kind right"] == pytest.approx(7 / 11)
    assert numbers["colour right"] == pytest.approx(9 / 11)
    assert numbers["text right"] == pytest.approx(5 / 11)
    assert numbers["colour drift to neighbour"] > 5
    assert "place right" not in numbers and "PCK@0.1" not in numbers


@pytest.mark.slow
def test_a_known_shift_of_colour_is_measured_inside_the_figure(judge):
    still = render(SCENE)
    darker = still.image.copy()
    darker[still.mask] = np.rint(darker[still.mask] * 0.8).astype(np.uint8)
    clip = np.stack([still.image, still.image, darker, darker])
    means = [to_lab(to_float(frame))[still.mask].mean(axis=0) for frame in (still.image, darker)]
    apart = float(np.linalg.norm(means[1] - means[0]))
    numbers = judge(clip, {})
    assert numbers["colour drift to neighbour"] == pytest.approx(apart / 3, rel=0.1)
    assert numbers["colour drift to first"] == pytest.approx(2 * apart / 3, rel=0.1)
    assert numbers["background change"] < 0.2 and numbers["motion"] < 0.005


@pytest.mark.slow
def test_a_clip_without_a_figure_is_not_called_steady(judge):
    numbers = judge(np.full((4, 128, 128, 3), 90, np.uint8), {"kind": "robot", "colour": "red"})
    assert numbers["figures found"] == numbers["text right"] == 0
    assert numbers["keypoints found"] < 0.5
    assert not {"kind flips", "colour flips", "colour drift to first", "motion"} & set(numbers)


@pytest.mark.slow
def test_what_can_not_be_judged_is_one_line(judge):
    clip = true_clip(0, 2)
    with pytest.raises(ClipError, match="128x128"):
        judge(images(clip)[:, :64], {})
    with pytest.raises(ClipError, match="1 frames can't be compared with 2 true pictures"):
        judge(images(clip)[:1], {}, clip)
    assert judge(images(clip)[:1], truly_asked(clip))["text right"] == 1
