"""The yardsticks measure what they say, and the page shows what was measured."""

import numpy as np

from zs2kit.puppets.evaluate import ASK, PARTS, page
from zs2kit.puppets.pictures import draw, scene
from zs2kit.puppets.yardsticks import correct, grid, overlap, psnr


def test_keypoints_count_when_they_are_near_and_seen():
    true = draw(range(2), "test").keypoints
    assert correct(true, true, 0.05).all()
    far = true.copy()
    far[0, :, 0] += 0.06 * np.ptp(true[0, :, :2], axis=0).max()
    far[1, :, 2] = 0
    assert not correct(far, true, 0.05).any()
    assert correct(far, true, 0.07)[0].all()


def test_overlap_of_shifted_squares():
    masks = np.zeros((2, 8, 8), bool)
    masks[:, 2:6, 2:6] = True
    assert overlap(masks, masks) == 1
    assert overlap(masks, np.roll(masks, 2, axis=2)) == 1 / 3


def test_psnr_of_a_known_error():
    images = np.full((2, 8, 8, 3), 100, np.uint8)
    assert abs(psnr(images, images + np.uint8(10)) - 20 * np.log10(25.5)) < 1e-4


def test_grid_frames_what_was_missed():
    images = np.zeros((3, 128, 128, 3), np.uint8)
    drawn = grid(images, 2, np.array([False, True, False]))
    assert drawn.shape == (256, 256, 3)
    assert drawn[:128, 128:].any() and not drawn[:128, :128].any()


def test_prompts_ask_for_what_a_map_leaves_open():
    for number in range(20):
        shown = scene(number, "test")
        prompt, (kind, colour, place) = ASK["depth"](shown, np.random.default_rng(number))
        assert kind == shown.kind in prompt and colour != shown.colour and place != shown.place
        prompt, (kind, colour, place) = ASK["edges"](shown, np.random.default_rng(number))
        assert (kind, place) == (shown.kind, shown.place) and colour != shown.colour and colour in prompt


def test_the_page_shows_what_was_measured():
    text = page({"pose": {"pose edits, scale 1: kind": 0.956}}, {"unet": 2984})
    assert "unet 2,984" in text and "| pose edits, scale 1: kind | 95.6% | 90% |" in text
    assert PARTS["pose"].notes in text and PARTS["text"].notes not in text
