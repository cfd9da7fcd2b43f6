"""The yardsticks measure what they say."""

import numpy as np

from zs2kit.puppets.pictures import draw
from zs2kit.puppets.yardsticks import correct, grid, psnr


def test_keypoints_count_when_they_are_near_and_seen():
    true = draw(range(2), "test").keypoints
    assert correct(true, true, 0.05).all()
    far = true.copy()
    far[0, :, 0] += 0.06 * np.ptp(true[0, :, :2], axis=0).max()
    far[1, :, 2] = 0
    assert not correct(far, true, 0.05).any()
    assert correct(far, true, 0.07)[0].all()


def test_psnr_of_a_known_error():
    images = np.full((2, 8, 8, 3), 100, np.uint8)
    assert abs(psnr(images, images + np.uint8(10)) - 20 * np.log10(25.5)) < 1e-4


def test_grid_frames_what_was_missed():
    images = np.zeros((3, 128, 128, 3), np.uint8)
    drawn = grid(images, 2, np.array([False, True, False]))
    assert drawn.shape == (256, 256, 3)
    assert drawn[:128, 128:].any() and not drawn[:128, :128].any()
