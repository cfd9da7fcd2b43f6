"""The setting `every`: which frames are drawn, how the others are filled in, and that it can't be seen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from shell import run

import zs2kit
from zs2kit import Model, Plugin, hookimpl, io, plan
from zs2kit.carry import Carry
from zs2kit.clip import Anew, Clip, Fit, Frame
from zs2kit.errors import UsageError
from zs2kit.filling import filled, spaced
from zs2kit.scan import chunk_of
from zs2kit.verify import verify
from zs2kit_plugins.control import AnyControl
from zs2kit_plugins.mask import Mask
from zs2kit_plugins.strength import Strength

SIDE = 64
FIT = Fit((SIDE, SIDE), (SIDE, SIDE), (SIDE, SIDE))


def texture(seed: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(noise, (2 * SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)


def gliding(frames: int, *, seed: int = 0, first: int = 0) -> Iterator[Frame]:
    """A textured wall along which the camera moves, 2 pixels from frame to frame."""
    wall = texture(seed)
    for index in range(frames):
        yield Frame(wall[:, 2 * index : 2 * index + SIDE].copy(), first + index)


def clip_of(*shots: int) -> Clip:
    """A clip with shots of so many frames, of different walls."""

    def frames() -> Iterator[Frame]:
        first = 0
        for seed, count in enumerate(shots):
            yield from gliding(count, seed=seed, first=first)
            first += count

    return Clip(Anew(frames), SIDE, SIDE, Fraction(10), Fraction(1, 10), sum(shots))


def gaps(frames: Iterator[Frame]) -> str:
    """D for each drawn frame, - for each that is filled in."""
    return "".join("D" if frame.fill is None else "-" for frame in frames)


@pytest.fixture(scope="module")
def model(tiny_folders) -> Model:
    return Model.load(tiny_folders["epsilon"])


@pytest.fixture
def edited(model):
    def edited(clip: Clip | None = None, **more):
        quick = {"num_inference_steps": 2, "size": (SIDE, SIDE), "chunk_size": 2, "plugins": [Strength()]}
        given = {**quick, "cuts": (0.5,), "every": 2, **more}
        return zs2kit.edit(clip or clip_of(5, 4), "a robot", model=model, **given)

    return edited


def images(clip) -> list[NDArray[np.uint8]]:
    return [frame.image for frame in clip]


# Which frames are drawn


@pytest.mark.parametrize(
    ("every", "frames", "expected"),
    [(2, 5, "D-D-D"), (2, 6, "D-D-DD"), (3, 7, "D--D--D"), (3, 6, "D--D-D"), (4, 3, "D-D"), (2, 1, "D")],
)
def test_every_so_many_frames_are_drawn_and_always_the_first_and_the_last(every, frames, expected):
    assert gaps(spaced(gliding(frames), every, FIT)) == expected


def test_frames_whose_motion_is_not_sure_are_drawn_after_all():
    """A flash, and then pictures that have nothing in common."""
    flash = [
        frame._replace(image=255 - frame.image) if index == 3 else frame
        for index, frame in enumerate(gliding(8))
    ]
    assert gaps(spaced(flash, 2, FIT)) == "D-DDD-DD"
    assert gaps(spaced(flash, 3, FIT)) == "D-DDD--D"
    others = [Frame(texture(index)[:, :SIDE], index) for index in range(4)]
    assert gaps(spaced(others, 2, FIT)) == "DDDD"


def test_the_same_frames_are_drawn_from_any_drawn_one_on():
    flash = [
        frame._replace(image=255 - frame.image) if index == 4 else frame
        for index, frame in enumerate(gliding(14))
    ]
    for every in (2, 3, 5):
        whole = gaps(spaced(flash, every, FIT))
        for start in [place for place, each in enumerate(whole) if each == "D"]:
            assert gaps(spaced(flash[start:], every, FIT)) == whole[start:]


# How the others are filled in


def test_what_is_filled_in_is_where_the_source_has_it():
    """Frames of another wall that moves as the source does, so the truth is known."""
    source, other = list(spaced(gliding(5), 2, FIT)), images(gliding(5, seed=7))
    drawn = torch.from_numpy(np.stack(other[::2])).permute(0, 3, 1, 2) / 255
    chunk = chunk_of(clip_of(5), source, 0, FIT)
    made = (filled(drawn, chunk, None) * 255).permute(0, 2, 3, 1).numpy()
    for place in (1, 3):
        mean = (other[place - 1].astype(float) + other[place + 1]) / 2
        error, blended = (np.abs(each - other[place])[:, 4:-4].mean() for each in (made[place], mean))
        assert error < blended / 4
    assert np.array_equal(np.rint(made[::2]), other[::2])


def test_uneven_times_count():
    """Where both neighbours show something else, the one that is nearer in time is taken."""
    near = [frame._replace(pts=pts) for frame, pts in zip(gliding(3), (0, 1, 10), strict=True)]
    shares = [list(spaced(frames, 2, FIT))[1].fill[..., 4].mean() for frames in (near, gliding(3))]
    assert shares[0] < 0.15 and 0.4 < shares[1] < 0.6


# Edits


def test_an_edit_fills_in_what_it_does_not_draw(edited):
    seen = []

    @dataclass(eq=False)
    class Sees(Plugin):
        @hookimpl
        def prepare(self, chunk):
            seen.append((list(chunk.indices), len(chunk.frames), chunk.images.shape[0], len(chunk.times)))

    made = list(edited(plugins=[Strength(), Sees()]))
    assert gaps(made) == "D-D-DD-DD"
    assert seen == [([0, 2], 2, 2, 2), ([4], 1, 1, 1), ([5, 7], 2, 2, 2), ([8], 1, 1, 1)]
    assert [frame.pts for frame in made] == list(range(9))


def test_chunks_do_not_show(edited):
    whole = images(edited(chunk_size=9))
    for size in (1, 2, 3):
        for one, other in zip(images(edited(chunk_size=size)), whole, strict=True):
            assert np.abs(one.astype(int) - other).max() <= 1
    plain = images(edited(every=1))
    assert max(np.abs(one.astype(int) - other).max() for one, other in zip(whole, plain, strict=True)) > 20


def test_it_is_resumed_between_any_two_chunks(edited, tmp_path):
    whole, made = images(edited()), edited()
    places = []
    for done, _ in enumerate(made, 1):
        if made.index == done:
            made.carry.save(tmp_path / "carry.safetensors")
            places.append(done)
            rest = edited().frames_from(done, Carry.load(tmp_path / "carry.safetensors"))
            assert all(np.array_equal(a.image, b) for a, b in zip(rest, whole[done:], strict=True))
    assert places == [3, 5, 8, 9]


def test_an_interrupted_edit_gives_the_same_file(edited, tmp_path, monkeypatch):
    monkeypatch.setattr("zs2kit.journal.SHARE", 1e9)  # save whenever that is possible
    source = io.write(tmp_path / "source.mkv", clip_of(5, 4), codec="ffv1")

    def fail(progress):
        if progress == 6:
            raise RuntimeError("on purpose")

    whole = io.write(tmp_path / "whole.mkv", edited(io.read(source)), codec="ffv1")
    with pytest.raises(RuntimeError):
        io.write(tmp_path / "out.mkv", edited(io.read(source)), codec="ffv1", progress=fail)
    with pytest.raises(zs2kit.Zs2Error, match="every 2, not 3"):
        io.write(tmp_path / "out.mkv", edited(io.read(source), every=3), codec="ffv1", resume=True)
    steps = []
    resumed = edited(io.read(source), progress=lambda progress: steps.append(int(progress)))
    out = io.write(tmp_path / "out.mkv", resumed, codec="ffv1", resume=True)
    assert out.read_bytes() == whole.read_bytes() and min(steps) == 5
    assert all(check.ok for check in verify(source, out))


def test_what_a_mask_keeps_is_the_sources_own(edited, tmp_path):
    half = np.zeros((SIDE, SIDE, 3), np.uint8)
    masks = []
    for index in range(9):
        half[:, : 20 + index] = 255
        masks.append(half.copy())
    path = io.write(tmp_path / "masks.mkv", Clip.from_images(masks, 10), codec="ffv1")
    made = list(edited(plugins=[Strength(), Mask(clip=str(path), feather=0.0, grow=0.0)]))
    assert gaps(made) == "D-D-DD-DD"
    for index, (frame, source) in enumerate(zip(made, clip_of(5, 4), strict=True)):
        assert np.array_equal(frame.image[:, 20 + index :], source.image[:, 20 + index :])
        assert not np.array_equal(frame.image[:, : 20 + index], source.image[:, : 20 + index])


def test_a_shots_first_frame_can_be_wanted(edited):
    seen = []

    @dataclass(eq=False)
    class Wants(Plugin):
        wants_first = True

        @hookimpl
        def prepare(self, chunk):
            seen.append((list(chunk.indices), chunk.first is not None))

    assert len(list(edited(plugins=[Strength(), Wants()]))) == 9
    assert seen == [
        *[([0], False), ([0, 2], True), ([4], True)],
        *[([5], False), ([5, 7], True), ([8], True)],
    ]


def test_memory_that_runs_out_halves_the_drawn_frames(edited):
    """As `Edit.attempt` does it: a chunk that is too large is tried again with fewer."""
    seen = []

    @dataclass(eq=False)
    class Fails(Plugin):
        @hookimpl
        def prepare(self, chunk):
            seen.append(chunk.length)
            if chunk.length > 1:
                raise torch.cuda.OutOfMemoryError("on purpose")

    made = images(edited(plugins=[Strength(), Fails()], chunk_size=4))
    assert seen[-1] == 1 and 2 in seen
    for one, other in zip(made, images(edited(chunk_size=1)), strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def test_that_little_is_filled_in_is_said(edited):
    others = Clip.from_images([texture(index)[:, :SIDE] for index in range(4)], 10)
    with pytest.warns(UserWarning, match=r"only 0 of 4 frames could be filled in"):
        assert gaps(edited(others)) == "DDDD"


def test_a_plan_says_how_many_are_drawn(edited, tmp_path):
    found = plan.plan(edited(), tmp_path / "out.mp4")
    assert (found.frames, found.drawn_frames) == (9, 6)
    assert plan.lines(found)[0].endswith("s; 6 of them are drawn")


# The command line, and what isn't possible


def test_the_command_line_fills_in(tiny_folders, tmp_path):
    source = io.write(tmp_path / "clip.mp4", clip_of(5))
    words = ["edit", source, "--model", tiny_folders["epsilon"], "--steps", 2, "--prompt", "x", "--every", 2]
    report = tmp_path / "out.json"
    done = run(*words, "--plugin", "strength", "-o", tmp_path / "out.mp4", "--report", report)
    assert done.exit_code == 0, done.output
    assert json.loads(report.read_text())["settings"]["every"] == 2
    assert run("verify", source, tmp_path / "out.mp4", "--report", report).exit_code == 0
    again = run("edit", source, "--settings", report, "-o", tmp_path / "again.mp4")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "out.mp4").read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--every", 0], "--every must be a whole number from 1 to 8, not 0"),
        (["--every", 2, "--end", 0.2], "--every: a clip of 2 frames has no frame between two others"),
        (["--every", 2, "--end", 0.1], "--every: a clip of 1 frame has no frame between two others"),
        (["--every", 2, "--plugin", "none"], "with these plugins the result moves differently"),
    ],
)
def test_what_cannot_be_filled_in_is_one_line(tiny_folders, tmp_path, words, says):
    source = io.write(tmp_path / "clip.mp4", clip_of(5))
    given = ["edit", source, "--model", tiny_folders["epsilon"], "--prompt", "x", "-o", tmp_path / "out.mp4"]
    done = run(*given, *words)
    assert done.exit_code == 2 and says in done.stderr, done.output
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "out.mp4").exists()


def test_a_picture_has_nothing_to_fill_in(edited):
    with pytest.raises(UsageError, match="a clip of 1 frame has no frame between"):
        edited(Clip.from_images([texture(0)[:, :SIDE]], 10))


def test_text_alone_has_no_motion_to_follow(model):
    with pytest.raises(UsageError, match="along the motion of a clip, and there is no clip here"):
        zs2kit.generate("a robot", frames=5, model=model, every=2)


def test_maps_of_ones_own_have_another_motion(edited, tiny_folders, tmp_path):
    maps = io.write(tmp_path / "maps.mkv", clip_of(5, 4), codec="ffv1")
    plugins = [Strength(), AnyControl(model=str(tiny_folders["epsilon"] / "controlnet_pose"), maps=str(maps))]
    with pytest.raises(UsageError, match="the result moves differently"):
        edited(plugins=plugins)
