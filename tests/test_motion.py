"""Flow momentum: the running average of denoised estimates along the source's motion."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event

import numpy as np
import pytest
import torch

import zs2kit
from zs2kit import Plugin, hookimpl, motion
from zs2kit.carry import Carry
from zs2kit.motion import AGREEMENT, MOMENTUM, SHARES, TOLERANCE, FlowMomentum, settle
from zs2kit.scan import follows
from zs2kit.schedule import SCHEDULERS, estimate, make_scheduler, steps_of
from zs2kit.testing import chunks, drawn_clip, edited_pixels, make_scan
from zs2kit_plugins.control import AnyControl
from zs2kit_plugins.mask import Mask
from zs2kit_plugins.pose import Pose
from zs2kit_plugins.reference import Reference

SIDE, STEP = 128, 8  # pixels; what moves goes STEP to the right a frame


def panorama(frames: int, step: int = STEP) -> np.ndarray:
    """A camera that pans over smooth clouds: (frames, SIDE, SIDE, 3)."""
    import cv2

    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.random((SIDE, SIDE + step * frames, 3)), (0, 0), 4)
    wide = np.interp(wide, (wide.min(), wide.max()), (0, 255)).astype(np.uint8)
    return np.stack([wide[:, step * (frames - k) : step * (frames - k) + SIDE] for k in range(frames)])


def paint(frames: int, side: int = SIDE) -> torch.Tensor:
    """Another picture for each frame, smooth enough to be moved: (frames, 3, side, side)."""
    noise = torch.rand(frames, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, size=(side, side), mode="bilinear")


def averaged(
    tiny, images: np.ndarray, pixels: torch.Tensor, sizes=(99,), momentum=1.0, finish=False
) -> torch.Tensor:
    """The average over chunks of the given numbers of frames."""
    carry, done, made = Carry(), 0, []
    for size in sizes:
        following = Carry()
        flowing = FlowMomentum(momentum, tiny, images[done : done + size], carry, following)
        part = pixels[done : done + size]
        made.append(flowing.finish(part) if finish else flowing.average("key", part))
        carry, done = following, done + size
    return torch.cat(made)


def by_opencv(images: np.ndarray, pixels: np.ndarray, momentum: float, agreement: float) -> np.ndarray:
    """The same averages by OpenCV alone, (frames, height, width, 3)."""
    import cv2

    from zs2kit.flow import flow, visible, warp

    def blurred(picture, sigma):
        return cv2.GaussianBlur(picture, (0, 0), sigma)

    def moved(picture, motion):
        bounds = (bound(picture, np.ones((3, 3), np.uint8)) for bound in (cv2.erode, cv2.dilate))
        low, high = (warp(each, motion, cv2.INTER_NEAREST) for each in bounds)
        return warp(picture, motion, cv2.INTER_CUBIC).clip(low, high)

    def small(apart, bound):
        return np.clip(2 - apart / bound, 0, 1)[..., None]

    def same(a, b, bound):
        return small(blurred(np.abs(a - b).max(axis=2), 1.5), bound)

    source, made = images[0].astype(np.float32), [pixels[0]]
    for before, image, frame in zip(images, images[1:], pixels[1:], strict=False):
        backward, forward = flow(image, before), flow(before, image)
        seen = blurred(visible(backward, forward).astype(np.float32), 1.0)[..., None]
        average, image = moved(source, backward), image.astype(np.float32)
        lag = np.abs(blurred(average - image, 2.5)).max(axis=2)
        sure = seen * small(lag, TOLERANCE) * same(average, image, AGREEMENT)
        source = momentum * sure * average + (1 - momentum * sure) * image
        last = moved(made[-1], backward)
        weight = momentum * sure * same(last, frame, agreement)
        made.append(weight * last + (1 - weight) * frame)
    return np.stack(made)


@pytest.mark.parametrize("finish", [False, True])
def test_it_is_what_opencv_computes(tiny, finish: bool) -> None:
    """On a clip in which there is something to be seen, at sizes that aren't alike."""
    images = np.stack([frame.image for frame in drawn_clip(6, width=96, height=70)])
    pixels = torch.nn.functional.interpolate(paint(6, 96) * 0.2 + 0.4, size=(70, 96))
    expected = by_opencv(
        images, pixels.permute(0, 2, 3, 1).numpy(), 0.95, AGREEMENT / 255 if finish else np.inf
    )
    made = averaged(tiny, images, pixels, (2, 4), 0.95, finish).permute(0, 2, 3, 1).numpy()
    assert np.abs(made - expected).max() < 1e-5
    assert np.abs(made - pixels.permute(0, 2, 3, 1).numpy()).max() > 1e-2


def test_flows_are_found_beside(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for them until they are needed."""
    going, own = Event(), motion.flow
    monkeypatch.setattr(motion, "flow", lambda a, b: own(a, b) if going.wait(60) else None)
    flowing = FlowMomentum(0.9, tiny, panorama(3), Carry(), Carry())
    going.set()
    assert [each is None for each in flowing.flows] == [True, False, False]


def test_at_momentum_one_the_first_picture_moves_with_the_source(tiny) -> None:
    """Where the source shows the same thing: what has come in at the left is new, and its own."""
    pixels = paint(4)
    made = averaged(tiny, panorama(4), pixels)
    assert torch.equal(made[0], pixels[0])
    for k in range(1, 4):
        moved = made[k][:, 8:-8, STEP * k + 12 : -8]
        assert (moved - pixels[0][:, 8:-8, 12 : -8 - STEP * k]).abs().mean() < 0.02
        assert (moved - pixels[k][:, 8:-8, STEP * k + 12 : -8]).abs().mean() > 0.2
        assert (made[k] - pixels[k])[:, 8:-8, :3].abs().mean() < 0.05


def test_it_is_the_recursion_where_nothing_moves(tiny) -> None:
    pixels = paint(5)
    made = averaged(tiny, np.repeat(panorama(1), 5, axis=0), pixels, momentum=0.75)
    expected = pixels[0]
    for k in range(1, 5):
        expected = 0.75 * expected + 0.25 * pixels[k]
        assert torch.allclose(made[k], expected, atol=1e-5)


def test_a_cut_in_the_source_is_not_averaged_over(tiny) -> None:
    """No flow leads from one picture to quite another, and where it isn't sure, a frame keeps its own."""
    images = np.concatenate([panorama(2)[:1], 255 - panorama(2, 60)[:1, ::-1, ::-1]])
    pixels = paint(2)
    made = averaged(tiny, images, pixels)
    assert (made[1] - pixels[1]).abs().mean() < 0.2 * (pixels[0] - pixels[1]).abs().mean()


def test_finished_frames_lose_their_flicker_and_keep_what_is_elsewhere_than_before(tiny) -> None:
    """The source stands still; the result flickers, and a square in it jumps to another place."""
    pixels = paint(1).repeat(6, 1, 1, 1) * 0.5
    flicker = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1)) * 0.01
    pixels[:3, :, 20:50, 20:50] = pixels[3:, :, 70:100, 70:100] = 1.0
    flowing = FlowMomentum(0.9, tiny, np.repeat(panorama(1), 6, axis=0), Carry(), Carry())
    made = flowing.finish(pixels + flicker)
    there = made - pixels
    assert (there[5] - there[4]).std() < 0.2 * (flicker[5] - flicker[4]).std()
    assert there[3].abs().max() < 0.05  # neither a ghost where the square was, nor a pale square
    assert (flowing.average("key", pixels) - pixels)[3].abs().max() > 0.4  # as the running average alone has


def test_enlarged_frames_lose_their_flicker_and_leave_no_trace() -> None:
    """The source stands still; the result's edges tremble by a pixel, and thin lines come and go."""
    source = panorama(1)[0]
    pixels = torch.full((6, 3, *source.shape[:2]), 0.3)
    for k, picture in enumerate(pixels):
        picture[..., 60 + k % 2 :] = 0.6
    flicker = float((pixels[5] - pixels[4]).abs().mean())
    pixels[:3, :, :, 20] = 1.0
    calm = settle(pixels, [source] * 6, Carry())
    assert (calm[5] - calm[4]).abs().mean() < 0.5 * flicker
    assert torch.equal(calm[3, ..., :50], pixels[3, ..., :50])


def test_pictures_stay_within_black_and_white(tiny) -> None:
    """Hard edges that move by parts of a pixel, where interpolation would overshoot."""
    pixels = (paint(1) > 0.5).float().repeat(4, 1, 1, 1)
    images = panorama(1)[0]
    turned = np.stack(
        [np.roll(images, k, axis=1) // 2 + np.roll(images, k + 1, axis=1) // 2 for k in range(4)]
    )
    made = averaged(tiny, turned, pixels)
    assert made.min() >= 0 and made.max() <= 1 and not torch.equal(made, pixels)


@pytest.mark.parametrize("finish", [False, True])
@pytest.mark.parametrize("frames", [8, 24])
def test_a_fade_is_not_held_up(tiny, monkeypatch: pytest.MonkeyPatch, frames: int, finish: bool) -> None:
    """Each step of it is small enough to be the same thing; all of them together are not."""
    images = np.linspace(1, 0, frames)[:, None, None, None] * panorama(1)
    images = np.concatenate([images, np.repeat(images[-1:], 4, axis=0)]).round().astype(np.uint8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255  # an edit that changes nothing

    def late() -> float:
        made = averaged(tiny, images, pixels, [5, 99], MOMENTUM, finish=finish)
        return float((made - pixels).abs().mean(dim=(1, 2, 3)).max() * 255)

    assert late() < TOLERANCE
    monkeypatch.setattr(motion, "TOLERANCE", 1e6)
    monkeypatch.setattr(motion, "AGREEMENT", 1e6)
    assert late() > 5 * TOLERANCE


def test_details_that_change_under_the_same_light_are_not_held_up(tiny, monkeypatch) -> None:
    """What is light becomes dark and the other way round: on the whole nothing is lighter or darker."""
    board = np.where(np.indices((64, 96)).sum(axis=0)[..., None] % 2, 200, 60) * np.ones((1, 1, 3))
    share = np.linspace(0, 1, 24)[:, None, None, None]
    images = ((1 - share) * board + share * (260 - board)).round().astype(np.uint8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255

    def late() -> float:
        made = averaged(tiny, images, pixels, [24], MOMENTUM)
        return float((made - pixels).abs().mean(dim=(1, 2, 3)).max() * 255)

    assert late() < AGREEMENT
    monkeypatch.setattr(motion, "AGREEMENT", 1e6)
    assert late() > 2 * AGREEMENT


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1, 1], [2, 3], [4, 1]])
def test_chunks_do_not_show(tiny, sizes: list[int]) -> None:
    images, pixels = panorama(5, 3), paint(5)
    whole = averaged(tiny, images, pixels, momentum=0.9)
    assert torch.allclose(averaged(tiny, images, pixels, sizes, momentum=0.9), whole, atol=1e-6)
    finished, parts = (averaged(tiny, images, pixels, each, 0.9, finish=True) for each in ((5,), sizes))
    assert torch.allclose(parts, finished, atol=1e-6)
    assert not torch.allclose(whole, pixels, atol=0.1)


def test_it_acts_in_some_of_the_steps_and_not_on_the_first_frame(tiny) -> None:
    latents = torch.randn(2, *tiny.latent_shape(32, 32), generator=torch.Generator().manual_seed(0))
    acted = []
    for index in range(10):
        made = FlowMomentum(0.9, tiny, panorama(1)[[0, 0], ::4, ::4], Carry(), Carry())(index, 10, latents)
        assert torch.allclose(made[0], latents[0], atol=1e-5)
        acted.append(not torch.equal(made[1], latents[1]))
    assert acted == [index / 10 in SHARES for index in range(10)]


def test_pictures_too_small_for_a_flow_are_left_alone(tiny) -> None:
    pixels = paint(2, 8)
    assert torch.equal(averaged(tiny, panorama(2)[:, :8, :8], pixels), pixels)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_what_a_step_takes_for_the_finished_latents(name: str, kind: str) -> None:
    """Against the schedulers' own way of adding noise: the clean latents come out again."""
    config = {
        "num_train_timesteps": 1000,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": kind,
    }
    scheduler = make_scheduler(name, config, 8)
    clean, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for step in steps_of(scheduler)[:-1]:
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(step.index)
        noisy = scheduler.add_noise(clean, noise, step.timestep[None])
        one, none = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        signal = scheduler.add_noise(one, none, step.timestep[None])
        sigma = scheduler.add_noise(none, one, step.timestep[None])
        velocity = (signal * noise - sigma * clean) / torch.hypot(signal, sigma)
        prediction = {"epsilon": noise, "v_prediction": velocity, "sample": clean}[kind]
        a, b = estimate(scheduler, step)
        assert torch.allclose(a * noisy + b * prediction, clean, atol=1e-3), step


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_edits_keep_the_law_of_chunks_with_it(tiny, scheduler: str) -> None:
    settings = {"scheduler": scheduler, "flow_momentum": 0.9}
    whole, cut, carryless, without = (
        edited_pixels(
            make_scan(tiny, **(settings | others)), chunks(drawn_clip(4), sizes, tiny), carried=carried
        )
        for sizes, carried, others in (
            ([4], True, {}),
            ([1, 3], True, {}),
            ([1, 3], False, {}),
            ([4], True, {"flow_momentum": 0.0}),
        )
    )
    assert (cut - whole).abs().max() <= 1e-4
    assert (carryless - whole).abs().max() > 1e-3 and (without - whole).abs().max() > 1e-3


@dataclass(eq=False)
class Drifting(Plugin):
    """Says that it moves by itself."""

    follows_source = False

    @hookimpl
    def prepare(self) -> None:
        pass


def test_what_moves_by_itself_does_not_go_along_with_the_source_unless_asked_to(tiny) -> None:
    """Maps of one's own, and any plugin that says so."""
    for plugins, expected in (
        ([], False),  # nothing ties such an edit to its source
        ([Pose()], True),
        ([AnyControl(detector="canny")], True),
        ([Reference(image="robot.png"), Mask()], False),
        ([Reference(image="robot.png"), Pose()], True),
        ([Pose(), AnyControl(maps="maps.mp4")], False),
    ):
        assert follows(plugins) == expected
    settings = {"model": tiny, "plugins": [Drifting()], "num_inference_steps": 5}
    by_default, off, on = (
        np.stack([frame.image for frame in zs2kit.edit(drawn_clip(3), "a disc", **settings, **momentum)])
        for momentum in ({}, {"flow_momentum": 0.0}, {"flow_momentum": 0.95})
    )
    assert np.array_equal(by_default, off) and not np.array_equal(by_default, on)
