"""Shots: cuts are found, or given, and nothing of one shot is seen in the next."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

import zs2kit
from zs2kit import Clip
from zs2kit.carry import Carry
from zs2kit.clip import Fit
from zs2kit.errors import UsageError
from zs2kit.scan import chunk_of, to_images
from zs2kit.shots import shots
from zs2kit.testing import drawn_clip, make_scan
from zs2kit_plugins.strength import Strength

SHOT = 4  # frames


def scene(seed: int, frames: int = SHOT, size: int = 32) -> list[np.ndarray]:
    """A disc that moves over blotches; another seed, another place and other colours."""
    rng = np.random.default_rng(seed)
    blotches = rng.integers(0, 255, (4, 4, 3), np.uint8)
    place = cv2.resize(blotches, (size, size), interpolation=cv2.INTER_CUBIC)
    colour = rng.integers(0, 255, 3).tolist()
    return [
        cv2.circle(place.copy(), (size // 4 + index * size // 16, size // 2), size // 6, colour, -1)
        for index in range(frames)
    ]


def film(*seeds: int) -> Clip:
    return Clip.from_images([image for seed in seeds for image in scene(seed)], 12)


def begun(images: list[np.ndarray], cuts="auto", rate=12) -> list[int]:
    """The positions at which shots begin."""
    return sorted({first for first, _ in shots(Clip.from_images(images, rate), cuts)})


def test_cuts_are_found_where_they_are():
    assert begun([*scene(0), *scene(1), *scene(2)]) == [0, SHOT, 2 * SHOT]


def test_a_cut_after_the_first_and_before_the_last_frame_is_found():
    assert begun([*scene(0, 1), *scene(1, 10), *scene(2, 1)]) == [0, 1, 11]


def test_every_frame_comes_once_and_in_order():
    for frames in range(8):
        clip = drawn_clip(frames)
        assert [frame.pts for _, frame in shots(clip, "auto")] == list(range(frames))


@pytest.mark.parametrize("flash", [1, 2])
@pytest.mark.parametrize("level", [0, 255])
def test_a_flash_is_no_cut(flash, level):
    images = scene(0, 12)
    images[5 : 5 + flash] = [np.full_like(images[0], level)] * flash
    assert begun(images) == [0]


def test_motion_is_no_cut():
    wide = scene(3, 1, 128)[0]
    pan = [np.roll(wide, -16 * index, 1) for index in range(12)]
    strobe = [image // (1 + index % 2) for index, image in enumerate(scene(0, 12))]
    fade = [(image * (0.3 + 0.7 * index / 11)).astype(np.uint8) for index, image in enumerate(scene(0, 12))]
    assert begun(pan) == begun(strobe) == begun(fade) == [0]
    slow = [np.roll(wide, -4 * index, 1) for index in range(12)]
    assert begun([*slow[:6], *(255 - image for image in slow[6:])]) == [0, 6]  # the control


def test_detection_looks_two_frames_ahead():
    taken = []

    def frames():
        for frame in drawn_clip(8):
            taken.append(frame.pts)
            yield frame

    clip = drawn_clip(8)
    clip.frames = frames()
    marked = shots(clip, "auto")
    for index in range(4):
        next(marked)
        assert taken[-1] == index + 2


def test_given_cuts_begin_with_the_nearest_frame():
    images = scene(0, 12)
    assert begun(images, [4 / 12, Fraction(8, 12)]) == [0, 4, 8]
    assert begun(images, [0.69, 0.31]) == [0, 4, 8]
    assert begun(images, [0, 0.33, 0.34, 100]) == [0, 4]
    assert begun([*scene(0), *scene(1)], ()) == [0]


@pytest.mark.parametrize("cuts", ["none", [-1.0], [float("nan")], [float("inf")]])
def test_what_is_no_cut_is_refused(tiny_folders, cuts):
    with pytest.raises(UsageError, match="`cuts` must be 'auto' or times"):
        zs2kit.edit(drawn_clip(2), plugins=(), model=tiny_folders["epsilon"], cuts=cuts)


def edited(clip: Clip, model, **settings) -> np.ndarray:
    settings = {"num_inference_steps": 3, "chunk_size": 3, "plugins": [Strength(strength=0.9)], **settings}
    return np.stack([frame.image for frame in zs2kit.edit(clip, "a red robot", model=model, **settings)])


@pytest.mark.parametrize(("momentum", "noise"), [(0.98, "dependency"), (1, "mixed")])
def test_no_shot_bleeds_into_the_next(tiny_folders, momentum, noise):
    """Whatever is shown before a shot, its frames are the same: those of an edit that begins there."""
    model = zs2kit.Model.load(tiny_folders["epsilon"])
    settings = {"momentum": momentum, "noise": noise, "flow_momentum": 0.9}
    here, there = (edited(film(first, 1, 2), model, **settings) for first in (0, 3))
    assert not np.array_equal(here[:SHOT], there[:SHOT])
    assert np.array_equal(here[SHOT:], there[SHOT:])

    clip = film(0, 1, 2)
    frames = list(clip)
    fit = Fit.into((32, 32), model.native_size, model.multiple)
    scan = make_scan(
        model, [Strength(strength=0.9)], clip, **{"num_inference_steps": 3, "divergence": 0.01, **settings}
    )
    alone = [scan(Carry(), chunk_of(clip, frames[first : first + SHOT], first, fit))[1] for first in (4, 8)]
    assert np.abs(here[SHOT:] - to_images(torch.cat(alone)).astype(int)).max() <= 1

    bleeding = [edited(film(first, 1, 2), model, **settings, cuts=()) for first in (0, 3)]
    assert not np.array_equal(bleeding[0][SHOT:], bleeding[1][SHOT:])


def test_given_cuts_are_as_good_as_found_ones(tiny_folders):
    model = zs2kit.Model.load(tiny_folders["epsilon"])
    found, given = (edited(film(0, 1, 2), model, cuts=cuts) for cuts in ("auto", [4 / 12, 8 / 12]))
    assert np.array_equal(found, given)


@pytest.mark.slow
def test_puppets_in_three_places_stay_in_their_shots():
    from zs2kit.puppets.world import Scene, motion_scenes, render

    model = zs2kit.Model.load()
    places = [
        Scene("robot", "red", "beach"),
        Scene("knight", "green", "city"),
        Scene("clown", "yellow", "snow"),
        Scene("astronaut", "blue", "space"),
    ]

    def clip(*which: int) -> Clip:
        scenes = [each for place in which for each in motion_scenes(places[place], "walk", SHOT)]
        return Clip.from_images([render(each, 128).image for each in scenes], 12)

    assert sorted({first for first, _ in shots(clip(0, 1, 2), "auto")}) == [0, SHOT, 2 * SHOT]
    here, there = (
        [
            frame.image
            for frame in zs2kit.edit(clip(first, 1, 2), "", plugins=(), model=model, num_inference_steps=2)
        ]
        for first in (0, 3)
    )
    assert np.array_equal(here[SHOT:], there[SHOT:])
