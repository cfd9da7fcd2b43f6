"""Filters: what they get and declare, the laws that `check_filter` asserts, chains after an edit."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from shell import run
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

import zs2kit
from zs2kit import Filter, cli, io, option, plan
from zs2kit.carry import Carry
from zs2kit.clip import Anew, Clip
from zs2kit.errors import PluginError, UsageError
from zs2kit.filters import Diffuse, Smooth, Steady, Upscale, declared, through
from zs2kit.testing import check_filter, drawn_clip, two_shots
from zs2kit.verify import verify
from zs2kit_plugins.mask import Mask


@dataclass(eq=False)
class Twice(Filter):
    """Puts the mean of a frame and the next between them."""

    ahead = 1
    per_frame = 2

    def run(self, passage, carry):
        seen = torch.cat([passage.pixels, passage.ahead])
        following = torch.cat([seen[1:], seen[-1:]])[: len(passage.pixels)]
        return torch.stack([passage.pixels, (passage.pixels + following) / 2], 1).flatten(0, 1)


@dataclass(eq=False)
class Trail(Filter):
    """Averages over the frames before."""

    length: float = option(0.5, "How much is left.", minimum=0, maximum=1)
    chunk_size = 3

    def run(self, passage, carry):
        made, last = [], carry.get("last", passage.pixels[0])
        for picture in passage.pixels:
            last = torch.lerp(picture, last, self.length)
            made.append(last)
        carry["last"] = last
        return torch.stack(made)


@dataclass(eq=False)
class Larger(Filter):
    """Repeats pixels of what the model has drawn, four times."""

    factor: int = option(1, "How much larger than the source.", minimum=1)
    model_size = True

    def size(self, height, width):
        return height * self.factor, width * self.factor

    def run(self, passage, carry):
        return torch.nn.functional.interpolate(passage.pixels, scale_factor=4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of five frames, 48x32, at 29.97 per second."""
    clip = drawn_clip(5, width=48, height=32, rate=Fraction(30000, 1001))
    return io.write(tmp_path_factory.mktemp("clip") / "clip.mp4", clip)


@pytest.fixture
def edited(source, tiny_folders):
    def edited(**more):
        quick = {"num_inference_steps": 2, "chunk_size": 2, "flow_momentum": 0.0, "plugins": []}
        return zs2kit.edit(source, "a robot", **{"model": tiny_folders["epsilon"], **quick, **more})

    return edited


# The laws


@pytest.mark.parametrize("filter", [Twice(), Trail(), Larger(2)], ids=lambda each: type(each).__name__)
def test_they_keep_the_laws(filter):
    check_filter(filter, neutral={"length": 0.0} if isinstance(filter, Trail) else None)


@dataclass(eq=False)
class Random(Trail):
    def run(self, passage, carry):
        return passage.pixels * random.random()


@dataclass(eq=False)
class WholePassage(Trail):
    def run(self, passage, carry):
        return passage.pixels - passage.pixels.mean()


@dataclass(eq=False)
class Remembers(Trail):
    last = None

    def run(self, passage, carry):
        self.last, last = passage.pixels[-1], self.last
        return passage.pixels * 0.5 + 0.5 * (0 if last is None else last)


@dataclass(eq=False)
class Shares(Trail):
    def __post_init__(self):
        self.seen = []

    def run(self, passage, carry):
        Shares.level = getattr(Shares, "level", 0.0) + 0.1
        return passage.pixels * (1 - Shares.level % 1)


@dataclass(eq=False)
class Nothing(Trail):
    def run(self, passage, carry):
        return passage.pixels


@dataclass(eq=False)
class OtherCount(Trail):
    def declared(self, clip):
        return super().declared(clip).with_frames((), frame_count=clip.frame_count + 1)


@pytest.mark.parametrize(
    "filter, broken",
    [
        (Random(), "the same twice"),
        (WholePassage(), "frames at once"),
        (Remembers(), "frames at once|a shot differs|resumed"),
        (Shares(), "the same twice"),
        (Nothing(), "changes nothing"),
        (OtherCount(), "6 frames, not 7 as declared"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_broken_law_is_found(filter, broken):
    with pytest.raises(AssertionError, match=broken):
        check_filter(filter)


def test_what_is_not_neutral_is_found():
    with pytest.raises(AssertionError, match=r"length=0.3, which should change nothing"):
        check_filter(Trail(), neutral={"length": 0.3})


# What a filter gets


@dataclass(eq=False)
class Watches(Filter):
    """Notes what it is given."""

    ahead = 2
    chunk_size = 2

    def prepare(self, clip):
        self.given = []

    def run(self, passage, carry):
        self.given.append((passage.index, len(passage.pixels), len(passage.ahead), len(carry)))
        carry["seen"] = passage.pixels[-1]
        return passage.pixels


def test_no_passage_reaches_over_a_cut():
    watching = Watches()(two_shots([5, 4]))
    list(watching)
    assert watching.filter.given == [(0, 2, 2, 0), (2, 2, 1, 1), (4, 1, 0, 1), (5, 2, 2, 0), (7, 2, 0, 1)]


def test_it_sees_the_source_of_an_edit(edited):
    seen = []

    @dataclass(eq=False)
    class Sees(Filter):
        def run(self, passage, carry):
            seen.append(passage.sources)
            return passage.pixels

    list(Sees()(edited()))
    frames = [frame.image for frame in edited().clip]
    assert [tuple(each.shape) for each in seen] == [(1, 3, 32, 48)] * 5
    assert all(
        np.array_equal((each[0].permute(1, 2, 0) * 255).round().numpy(), frame)
        for each, frame in zip(seen, frames, strict=True)
    )
    seen.clear()
    list(Sees()(drawn_clip(2)))
    assert seen == [None, None]


@pytest.mark.parametrize(
    "returned, says",
    [
        (None, "returned None"),
        (torch.zeros(2, 3, 4, 4), r"returned a tensor \(2, 3, 4, 4\) from run\(\), not a tensor \(1, 3, h"),
        (torch.full((1, 3, 4, 4), torch.nan), "returned numbers that are not finite at frame 0"),
        (ValueError("no"), r"failed in run\(\): ValueError: no"),
    ],
)
def test_what_it_must_not_return(returned, says):
    @dataclass(eq=False)
    class Wrong(Filter):
        def run(self, passage, carry):
            if isinstance(returned, Exception):
                raise returned
            return returned

    with pytest.raises(PluginError, match=f"filter 'wrong' {says}"):
        list(Wrong()(drawn_clip(2)))


def test_its_options_are_checked():
    with pytest.raises(UsageError, match=r"trail.length"):
        Trail(2.0)(drawn_clip(2))
    with pytest.raises(UsageError, match="is not a filter"):
        zs2kit.Filtered(drawn_clip(2), Mask())


# Times, sizes and depth


def test_rates_are_exact(edited, tmp_path):
    made = Larger(2)(Twice()(Twice()(edited())))
    assert (made.rate, made.time_base.denominator, made.frame_count) == (Fraction(120000, 1001), 120000, 20)
    out = io.read(io.write(tmp_path / "out.mp4", made))
    assert (out.rate, out.width, out.height) == (Fraction(120000, 1001), 96, 64)
    assert [frame.pts * out.time_base for frame in out] == [Fraction(1001 * k, 120000) for k in range(20)]


def test_times_of_a_variable_rate_are_kept():
    clip = two_shots([3, 3])
    before, made = list(clip), list(Twice()(clip))
    assert [frame.pts for frame in made[::2]] == [2 * frame.pts for frame in before]
    assert all(
        b.pts - a.pts == c.pts - b.pts for a, b, c in zip(made[::2], made[1::2], made[2::2], strict=False)
    )
    assert made[-1].pts + made[-1].duration == 2 * (before[-1].pts + before[-1].duration)


def test_the_model_size_is_brought_to_the_source_last(edited):
    """An enlarger gets what the model drew, 32x21 of a source of 48x32, also through a filter before it."""
    sizes = []

    @dataclass(eq=False)
    class Measures(Larger):
        def run(self, passage, carry):
            sizes.append(tuple(passage.pixels.shape[2:]))
            return super().run(passage, carry)

    for clip in (edited(), Trail()(edited())):
        frame = next(iter(Measures()(clip)))
        assert frame.image.shape == (32, 48, 3)
    assert {*sizes} == {(21, 32)}
    direct = next(iter(Trail()(edited()))).image
    assert np.abs(direct.astype(int) - frame.image).max() > 8  # pixels were repeated rather than interpolated


def test_deep_pictures_stay_deep(tmp_path):
    deep = drawn_clip(3, width=48, height=32)
    path = io.write(tmp_path / "deep.mkv", deep, codec="ffv1")
    source = io.write(tmp_path / "deep.%04d.png", path)
    frames = [frame.image.astype(np.uint16) * 257 + 100 for frame in io.read(source)]
    import cv2

    for number, each in enumerate(frames, 1):
        cv2.imwrite(str(tmp_path / f"sixteen.{number:04}.png"), each[..., ::-1])
    clip = io.read(tmp_path / "sixteen.%04d.png")
    made = list(Trail(0.0)(clip))
    for frame, was in zip(made, clip, strict=True):
        assert np.array_equal(frame.stored, was.stored)
    made = list(Twice()(clip))
    between = (made[0].stored.astype(int) + made[2].stored) / 2
    assert np.abs(made[1].stored - between).max() <= 1


# Masks


@pytest.fixture
def masked(edited, source, tmp_path):
    half = np.zeros((32, 48, 3), np.uint8)
    half[:, :24] = 255
    path = io.write(tmp_path / "half.mkv", Clip.from_images([half] * 5, 30), codec="ffv1")

    def masked():
        return edited(plugins=[Mask(clip=str(path), feather=0)])

    return masked


def kept(made, source):
    """Return the share of each frame that is marked as the source's own, which it must be."""
    frames, shares = [frame.image for frame in source], []
    for place, frame in enumerate(made):
        stays = np.zeros((32, 48), bool) if frame.keep is None else frame.keep == 1
        if stays.any():
            assert np.array_equal(frame.image[stays], frames[place // made.per_frame][stays])
        shares.append(stays.mean())
    return shares


@pytest.mark.parametrize(
    "filters",
    [[Larger()], [Trail(0.9), Larger()], [Larger(), Larger()], [Larger(), Trail(0.9), Larger()]],
    ids=lambda filters: ", ".join(type(each).__name__ for each in filters),
)
def test_a_mask_holds_if_an_enlarger_comes_last(masked, filters):
    edited = masked()
    assert all(0.2 < share < 0.8 for share in kept(through(edited, filters), edited.clip))


@pytest.mark.parametrize(
    "filters, says",
    [
        ([Larger(2)], "larger"),
        ([Trail()], "trail"),
        ([Larger(), Trail()], "trail"),
        ([Trail(), Twice()], "trail"),
        ([Larger(2), Larger()], "larger"),
        ([Twice(), Larger()], "twice"),
    ],
    ids=lambda it: it if isinstance(it, str) else ", ".join(type(each).__name__ for each in it),
)
def test_a_mask_that_does_not_hold_is_said_once(masked, filters, says):
    edited = masked()
    with pytest.warns(UserWarning, match=f"no longer the source's own after filter '{says}'") as said:
        shares = kept(through(edited, filters), edited.clip)
    assert len(said) == 1
    if isinstance(filters[0], Twice):  # the frames that there were before stay as they were
        assert all(shares[::2]) and not any(shares[1::2])
    else:
        assert not any(shares)


# Resuming


def test_a_chain_is_resumed_at_every_frame(edited, tmp_path):
    def chain():
        return Larger(2)(Trail()(Twice()(edited())))

    whole = [frame.image for frame in chain()]
    made, places = chain(), []
    for done, _ in enumerate(made, 1):
        if made.index == done:
            made.carry.save(tmp_path / "carry.safetensors")
            places.append(done)
            rest = chain().frames_from(done, Carry.load(tmp_path / "carry.safetensors"))
            for frame, was in zip(rest, whole[done:], strict=True):
                assert np.array_equal(frame.image, was)
    assert {4, 8} <= {*places}


def test_an_interrupted_chain_gives_the_same_file(edited, tmp_path, monkeypatch):
    monkeypatch.setattr("zs2kit.journal.SHARE", 1e9)  # save whenever that is possible

    def chain():
        return Trail()(Twice()(edited()))

    def fail(progress):
        if progress == 7:
            raise RuntimeError("on purpose")

    whole = io.write(tmp_path / "whole.mkv", chain(), codec="ffv1")
    with pytest.raises(RuntimeError):
        io.write(tmp_path / "out.mkv", chain(), codec="ffv1", progress=fail)
    steps = []
    resumed = Trail()(Twice()(edited(progress=lambda progress: steps.append(int(progress)))))
    out = io.write(tmp_path / "out.mkv", resumed, codec="ffv1", resume=True)
    assert out.read_bytes() == whole.read_bytes()
    assert steps and min(steps) >= 4  # the first four of five frames are not drawn again


def test_other_options_are_not_resumed(edited, tmp_path, monkeypatch):
    monkeypatch.setattr("zs2kit.journal.SHARE", 1e9)

    def fail(progress):
        if progress == 3:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        io.write(tmp_path / "out.mkv", Trail()(edited()), codec="ffv1", progress=fail)
    with pytest.raises(zs2kit.Zs2Error, match=r"filters.trail.length 0.5, not 0.6"):
        io.write(tmp_path / "out.mkv", Trail(0.6)(edited()), codec="ffv1", resume=True)


def test_a_clip_that_is_not_edited_is_resumed(source, tmp_path, monkeypatch):
    monkeypatch.setattr("zs2kit.journal.SHARE", 1e9)

    def fail(progress):
        if progress == 5:
            raise RuntimeError

    whole = io.write(tmp_path / "whole.mkv", Twice()(source), codec="ffv1")
    with pytest.raises(RuntimeError):
        io.write(tmp_path / "out.mkv", Twice()(source), codec="ffv1", progress=fail)
    out = io.write(tmp_path / "out.mkv", Twice()(source), codec="ffv1", resume=True)
    assert out.read_bytes() == whole.read_bytes()


def test_an_edit_stops_through_its_filters(edited):
    made = Trail()(Twice()(edited()))
    frames = iter(made)
    list(islice(frames, 2))
    made.stop()
    with pytest.raises(zs2kit.Stopped):
        list(frames)


def test_only_a_few_frames_are_held():
    """A chain holds no more of a long clip than of a short one."""
    alive = 0

    def frames():
        nonlocal alive
        for frame in two_shots([40, 40]):
            alive += 1
            yield frame

    clip = two_shots([40, 40]).with_frames(Anew(frames))
    for done, _ in enumerate(Trail()(Twice()(clip)), 1):
        assert alive - done / 2 < 12


@pytest.mark.slow
def test_a_chain_of_all_filters_takes_no_more_memory_for_a_longer_clip():
    from zs2kit.bench.memory import filters_section

    found = re.search(r"120 frames take ([\d.]+) times as much as 20", filters_section((20, 120)))
    assert found and float(found[1]) < 1.02


@pytest.mark.slow
def test_a_chain_of_all_filters_of_720_lines_is_verified(tiny_folders, tmp_path):
    from zs2kit.bench.kills import with_sound

    clip = drawn_clip(3, width=1280, height=720, rate=Fraction(30000, 1001))
    source = with_sound(io.write(tmp_path / "clip.mp4", clip))
    enlarger = tmp_path / "tiny.safetensors"
    save_file(SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2).state_dict(), enlarger)
    filters = [
        Steady(),
        Diffuse(1.0, str(tiny_folders["upscaler"]), num_inference_steps=1, guidance_scale=1.0),
        Upscale(1.0, str(enlarger)),
        Smooth(2),
    ]
    edited = zs2kit.edit(source, "x", model=tiny_folders["epsilon"], plugins=[], num_inference_steps=1)
    out = io.write(tmp_path / "out.mp4", through(edited, filters))
    made = io.read(out)
    assert (made.width, made.height, made.rate, made.frame_count) == (1280, 720, Fraction(60000, 1001), 6)
    assert all(check.ok for check in verify(source, out, filters=filters))


@pytest.mark.slow
def test_a_kill_inside_a_filter_loses_nothing():
    script = (
        "import sys; from zs2kit.bench.kills import run; run(sys.argv[1:], 0, 0)"  # it patches the journal
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "filter steady", "filter smooth"], capture_output=True, text=True
    )
    assert "2 kills, 0 results that differ" in done.stdout, done.stdout + done.stderr


def test_the_library_declares_a_chain(source):
    filters = [Twice(), Larger(2)]
    clip = io.read(source)
    what = declared(clip, filters)
    made = through(clip, filters)
    assert [(each.width, each.height, each.rate, each.frame_count) for each in (what, made)] == [
        (96, 64, Fraction(60000, 1001), 10)
    ] * 2


def test_a_plan_and_a_check_know_of_filters(edited, source, tmp_path):
    made = Larger(2)(Twice()(edited()))
    found = plan.plan(made, tmp_path / "out.mp4")
    assert (found.frames, found.filtered_frames, found.filtered_size) == (5, 10, (96, 64))
    assert 0 < found.filter_seconds < found.seconds and not found.obstacles
    assert "filters     twice, larger: 96x64, 10 frames, 59.9401 per second" in plan.lines(found)
    out = io.write(tmp_path / "out.mp4", made)
    assert all(each.ok for each in verify(source, out, filters=[Twice(), Larger(2)]))
    wrong = {each.name for each in verify(source, out, filters=[Twice()]) if not each.ok}
    assert wrong == {"size"}
    assert {each.name for each in verify(source, out) if not each.ok} >= {"size", "frames"}


# Those that come with zs2kit


@pytest.mark.parametrize(
    "filter, neutral",
    [(Smooth(2), {"factor": 1}), (Smooth(3), None), (Steady(), {"momentum": 0.0})],
    ids=["twice", "three times", "steady"],
)
def test_ours_keep_the_laws(filter, neutral):
    check_filter(filter, neutral=neutral)


def moving(step: int, frames: int = 5) -> Clip:
    """A textured square that moves over a textured ground, by ``step`` pixels from frame to frame."""
    generator = np.random.default_rng(0)
    ground, square = (
        cv2.resize(generator.integers(0, 256, (each, each, 3), np.uint8), (side, side))
        for each, side in ((12, 96), (6, 32))
    )

    def image(place: int) -> np.ndarray:
        picture = ground.copy()
        picture[32:64, 16 + place : 48 + place] = square
        return picture

    return Clip.from_images([image(step * each) for each in range(frames)], 25)


def test_frames_in_between_are_where_things_move():
    made, true = list(Smooth(2)(moving(6, 4))), list(moving(3, 7))
    for here, there in zip(made[1::2], true[1::2], strict=False):
        mean = (true[there.pts - 1].image.astype(float) + true[there.pts + 1].image) / 2
        error, blended = (np.square(each - there.image.astype(float)).mean() for each in (here.image, mean))
        assert error < blended / 3
    assert np.array_equal(made[-1].image, made[-2].image)  # the last one has no neighbour


def test_nothing_is_put_between_two_shots():
    clip = two_shots([3, 3], side=64)
    made, before = list(Smooth(2)(clip)), list(clip)
    assert np.array_equal(made[5].image, before[2].image)
    assert np.array_equal(made[6].image, before[3].image) and made[6].cut


def flickering(clip: Clip, levels: int) -> list[np.ndarray]:
    return [
        np.clip(frame.image.astype(int) + (levels if place % 2 else -levels), 0, 255).astype(np.uint8)
        for place, frame in enumerate(clip)
    ]


def change(images) -> float:
    """How much the mean of a still part changes from frame to frame."""
    return float(np.abs(np.diff([image[:20].mean() for image in images])).mean())


def test_flicker_is_taken_out_but_not_motion(tmp_path):
    still = moving(2, 8)
    images = flickering(still, 4)
    clip = Clip.from_images(images, 25)
    source = io.write(tmp_path / "source.mkv", still, codec="ffv1")
    own = [frame.image for frame in Steady()(clip)]
    along = [frame.image for frame in Steady(source=str(source))(clip)]
    assert change(own) < 0.5 * change(images) and change(along) < 0.3 * change(images)
    for made, was in zip(along, still, strict=True):
        assert np.abs(made.astype(int) - was.image).mean() < 6


def test_steady_follows_a_named_source_before_an_enlarger(edited, source):
    """Where the model's pictures are averaged, which have another size than the source."""
    made, along = (list(Larger()(Steady(source=each)(edited()))) for each in (str(source), None))
    for frame, other in zip(made, along, strict=True):
        assert np.array_equal(frame.image, other.image)


def test_steady_uses_the_source_of_an_edit(edited):
    seen = []

    @dataclass(eq=False)
    class Watched(Steady):
        def run(self, passage, carry):
            seen.append(passage.sources is not None)
            return super().run(passage, carry)

    list(Watched()(edited()))
    list(Watched()(Twice()(edited())))
    assert seen == [True] * 2 + [False] * 3


@pytest.mark.parametrize(
    "words, says",
    [
        (["--then", "smooth", "--set", "smooth.factor=0"], "a whole number from 1 to 16, not 0"),
        (["--then", "smooth", "--set", "smooth.factor=1.5"], "a whole number from 1 to 16, not '1.5'"),
        (["--then", "steady", "--set", "steady.source=none.mp4"], "none.mp4"),
    ],
)
def test_wrong_options_of_ours(source, words, says, tmp_path):
    done = run("filter", source, *words, "-o", tmp_path / "out.mp4")
    assert done.exit_code in (1, 2) and says in done.stderr and len(done.stderr.splitlines()) == 1
    assert not [*tmp_path.iterdir()]


def test_one_frame_cannot_be_smoothed(tmp_path):
    clip = io.write(tmp_path / "one.mp4", drawn_clip(1))
    done = run("filter", clip, "--then", "smooth")
    assert done.exit_code == 2 and "a clip of one frame" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words, says",
    [
        (["one.mp4", "--then", "smooth"], "filter 'smooth': a clip of one frame has nothing to put"),
        (["one.mp4", "--then", "steady", "--then", "smooth:b"], "filter 'b': a clip of one frame"),
        (["wide.mp4", "--then", "upscale", "--set", "upscale.factor=16"], "use a smaller upscale.factor"),
        (["wide.mp4", "--then", "diffuse", "--set", "diffuse.factor=16"], "use a smaller diffuse.factor"),
        (["one.mp4", "--then", "steady", "--set", "steady.source=none.mp4"], "none.mp4"),
        (["one.mp4", "--then", "steady", "--set", "steady.source=wide.mp4"], "wide.mp4 is 2000x16 pixels"),
        (["wide.mp4", "--then", "upscale", "--set", "upscale.model=no.pth"], "upscale.model: there is no"),
        (["two.mp4", "--then", "smooth", "--set", "smooth.model=no.pkl"], "smooth.model: there is no file"),
        (["one.mp4", "--then", "diffuse", "--set", "diffuse.model=none"], "none: there is no such folder"),
        (["one.mp4", "--then", "diffuse", "--set", "diffuse.model=."], "this folder has no model_index.json"),
        (["one.mp4", "--then", "diffuse"], "stable-diffusion-x4-upscaler is not on this machine"),
    ],
)
@pytest.mark.parametrize("command", ["edit", "plan", "generate"])
def test_what_cannot_be_filtered_is_said_before_a_model_is_loaded(
    command, words, says, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zs2kit.model.Model.load", None)
    clips = {"one.mp4": (1, 32, 32), "two.mp4": (2, 32, 32), "wide.mp4": (1, 2000, 16)}
    for name, (frames, width, height) in clips.items():
        io.write(name, drawn_clip(frames, width=width, height=height))
    clip, *then = words
    frames, width, height = clips[clip]
    made = ["generate", "x", "--frames", frames, "--size", f"{width}x{height}"]
    done = run(*(made if command == "generate" else [command, clip]), *then)
    assert done.exit_code in (1, 2) and says in done.stderr and len(done.stderr.splitlines()) == 1
    assert {each.name for each in tmp_path.iterdir()} == {*clips}


def test_what_h264_cannot_store(tmp_path):
    wide = Clip.from_images([np.zeros((16, 9000, 3), np.uint8)] * 2, 25)
    with pytest.raises(zs2kit.Zs2Error, match="18000x32 pixels, but h264 stores no more than 16384x16384"):
        io.write(tmp_path / "out.mp4", Larger(2)(wide))
    assert not [*tmp_path.iterdir()]


def test_ours_from_the_command_line_to_the_check(source, tmp_path):
    report, then = tmp_path / "out.json", ["--then", "steady", "--then", "smooth"]
    done = run("filter", source, *then, "--report", report, "-o", tmp_path / "o.mp4")
    assert done.exit_code == 0, done.output
    assert run("verify", source, tmp_path / "o.mp4", "--report", report).exit_code == 0
    assert run("verify", source, tmp_path / "o.mp4", *then).exit_code == 0
    assert run("verify", source, tmp_path / "o.mp4").exit_code == 1
    assert run("verify", source, tmp_path / "o.mp4", "--then", "smooth", "--report", report).exit_code == 2


# The command line, with filters of others


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `zs2kit filters new` wrote."""
    folder = tmp_path_factory.mktemp("new") / "zs2kit-soft_trail"
    done = run("filters", "new", "soft_trail", "--out", folder)
    assert (done.exit_code, done.stdout) == (0, f"{folder}\n"), done.output
    return folder


@pytest.fixture(scope="module")
def site(new: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with that filter installed."""
    site = tmp_path_factory.mktemp("site")
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *offline, "--target", site, "."],
        cwd=new,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(site)
    return site


def test_a_new_filter_passes_its_test(new, site, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(site))
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(tests, cwd=new, capture_output=True, text=True)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_filters_are_listed_and_described(installed):
    listed = run("filters")
    assert "soft_trail" in listed.stdout and "Leaves a trail" in listed.stdout
    described = run("filters", "soft_trail")
    assert "soft_trail.OPTION=VALUE" in described.stdout and "from 0 to 1" in described.stdout
    assert run("filters", "--check").exit_code == 0
    assert "did you mean soft_trail" in run("filters", "soft_tail").stderr


def test_a_clip_is_filtered_twice(installed, source, tmp_path):
    out, report = tmp_path / "out.mkv", tmp_path / "out.json"
    then = ["--then", "soft_trail", "--then", "soft_trail:b", "--set", "b.length=0.9"]
    done = run(
        "filter",
        source,
        *then,
        "--codec",
        "ffv1",
        "-o",
        out,
        "--report",
        report,
        "--sheet",
        tmp_path / "s.png",
    )
    assert (done.exit_code, done.stdout) == (0, f"{out}\n"), done.output
    about = json.loads(report.read_text())
    assert [(each["name"], each["options"]) for each in about["filters"]] == [
        ("soft_trail", {"length": 0.5}),
        ("soft_trail:b", {"length": 0.9}),
    ]
    assert about["metrics"]["frames"] == 5
    again = tmp_path / "again.mkv"
    done = run("filter", source, "--settings", report, "-o", again, "--codec", "ffv1")
    assert done.exit_code == 0, done.output
    assert again.read_bytes() == out.read_bytes()


def test_an_edit_is_filtered(installed, source, tiny_folders, tmp_path):
    report, look = tmp_path / "out.json", tmp_path / "look.toml"
    given = ["--plugin", "none", "--model", tiny_folders["epsilon"], "--steps", 1, "--prompt", "x"]
    then = ["--then", "soft_trail", "--set", "soft_trail.length=0.25"]
    done = run(
        "edit", source, *given, *then, "-o", tmp_path / "out.mp4", "--report", report, "--save-settings", look
    )
    assert done.exit_code == 0, done.output
    assert json.loads(report.read_text())["filters"][0]["options"] == {"length": 0.25}
    assert 'then = ["soft_trail"]' in look.read_text() and "[soft_trail]" in look.read_text()
    for settings in (report, look):
        done = run("edit", source, "--settings", settings, "-o", tmp_path / "again.mp4", "--overwrite")
        assert done.exit_code == 0, done.output
        assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "out.mp4").read_bytes()
    done = run("generate", "x", *given[2:-2], "--frames", 2, *then, "-o", tmp_path / "made.mp4")
    assert done.exit_code == 0, done.output


@pytest.fixture
def loaded(installed, monkeypatch):
    """What an installed filter was told of the machine, each time that it was prepared."""
    seen = []
    kind = zs2kit.plugins.load("soft_trail", Filter)
    monkeypatch.setattr(kind, "prepare", lambda self, clip: seen.append((str(self.device), self.dtype)))
    return seen


def test_it_computes_where_it_is_told(loaded, edited, source, tmp_path):
    then = ["--then", "soft_trail", "--then", "soft_trail:b"]
    done = run("filter", source, *then, "--device", "cpu", "--dtype", "bfloat16", "-o", tmp_path / "out.mp4")
    assert done.exit_code == 0, done.output
    assert loaded == [("cpu", torch.bfloat16)] * 2
    done = run("filter", source, *then, "--device", "there", "-o", tmp_path / "b.mp4")
    assert done.exit_code == 2 and "device 'there' can't be used here" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "b.mp4").exists()


def test_it_computes_where_what_comes_before_does(loaded, edited, tiny_folders):
    kind = zs2kit.plugins.load("soft_trail", Filter)
    edit = edited(model=zs2kit.Model.load(tiny_folders["epsilon"], dtype="bfloat16"))
    kind()(kind()(edit))
    kind()(kind()(edit), dtype="float16")
    kind()(kind()(drawn_clip(2), device="cpu:0"))
    assert [dtype for _, dtype in loaded[:4]] == [torch.bfloat16] * 3 + [torch.float16]
    assert [device for device, _ in loaded[4:]] == ["cpu:0"] * 2


def test_cuts_can_be_given(tmp_path):
    """A clip of 10 frames a second that moves a little all the time, with a cut where somebody says so."""
    source = io.write(tmp_path / "clip.mp4", drawn_clip(6, width=48, height=32, rate=Fraction(10)))
    plain = [frame.image for frame in Smooth(2)(source)]
    cut = list(Smooth(2)(source, cuts=(0.3,)))
    assert [place for place, frame in enumerate(cut) if frame.cut] == [0, 6]
    assert np.array_equal(cut[5].image, cut[4].image) and not np.array_equal(plain[5], plain[4])
    assert [frame.cut for frame in Trail()(two_shots([4, 4]))].count(True) == 2
    assert [frame.cut for frame in Trail()(two_shots([4, 4]), cuts=())].count(True) == 1


def test_one_that_is_used_twice_without_a_name_is_numbered(source):
    made = through(source, [Trail(), Twice(), Twice(), Trail()], cuts=())
    assert [*made.describe()["filters"]] == ["trail", "twice", "twice:twice2", "trail:trail2"]


def test_wrong_cuts(edited, source):
    with pytest.raises(UsageError, match="`cuts` must be 'auto' or times in seconds, 0 or more, not 'none'"):
        Trail()(source, cuts="none")
    for clip in (edited(), Trail()(source)):
        with pytest.raises(UsageError, match="the shots of an edited or filtered clip are known"):
            Trail()(clip, cuts=(0.1,))
    assert through(source, [Trail(), Trail()], cuts=(0.1,)).clip.describe()["cuts"] == [0.1]


def test_a_report_restores_cuts_and_machine(installed, source, tmp_path):
    report, look = tmp_path / "out.json", tmp_path / "look.toml"
    given = ["--then", "soft_trail", "--cuts", "0.04,0.1", "--device", "cpu", "--dtype", "bfloat16"]
    done = run(
        "filter", source, *given, "-o", tmp_path / "a.mp4", "--report", report, "--save-settings", look
    )
    assert done.exit_code == 0, done.output
    about = json.loads(report.read_text())["settings"]
    assert about == {"cuts": [0.04, 0.1], "device": "cpu", "dtype": "bfloat16"}
    again = run(
        "filter", source, "--settings", report, "-o", tmp_path / "b.mp4", "--report", tmp_path / "b.json"
    )
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "b.json").read_text())["settings"] == about
    assert run("filter", source, "--settings", look, "-o", tmp_path / "c.mp4").exit_code == 0
    results = [(tmp_path / f"{name}.mp4").read_bytes() for name in "abc"]
    assert results[0] == results[1] == results[2]


def test_other_cuts_are_not_resumed(source, tmp_path, monkeypatch):
    monkeypatch.setattr("zs2kit.journal.SHARE", 1e9)

    def fail(progress):
        if progress == 3:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        io.write(tmp_path / "out.mkv", Trail()(source), codec="ffv1", progress=fail)
    with pytest.raises(zs2kit.Zs2Error, match=r"cuts 'auto', not \[0.1\]"):
        io.write(tmp_path / "out.mkv", Trail()(source, cuts=(0.1,)), codec="ffv1", resume=True)


def test_several_clips_are_filtered(installed, source, tmp_path):
    clips = [tmp_path / f"{name}.mp4" for name in ("one", "broken", "two")]
    for clip in clips:
        clip.write_bytes(b"no video" if clip.stem == "broken" else source.read_bytes())
    out = tmp_path / "results"
    out.mkdir()
    then = ["--then", "soft_trail", "-o", out]
    done = run("filter", *clips, *then, "--report", out)
    assert done.exit_code == 1 and "1 of 3 clips failed" in done.stderr
    names = [out / f"{name}-soft_trail.mp4" for name in ("one", "two")]
    assert done.stdout.split() == [str(each) for each in names]
    assert sorted(out.iterdir()) == sorted([*names, *(each.with_suffix(".json") for each in names)])
    names[1].unlink()
    done = run("filter", clips[0], clips[2], *then, "--resume")
    assert done.exit_code == 0 and done.stdout.split() == [str(names[1])], done.output
    assert "already exists, so" in done.stderr


def test_standard_input_and_output(installed, source, tmp_path):
    words = ["filter", "-", "--then", "soft_trail", "-o", "-", "--quiet"]
    done = CliRunner().invoke(cli.main, words, input=source.read_bytes())
    assert done.exit_code == 0, done.stderr
    (tmp_path / "out.mkv").write_bytes(done.stdout_bytes)
    made = io.read(tmp_path / "out.mkv")
    assert [len(list(made)), made.width, made.rate] == [5, 48, Fraction(30000, 1001)]


@pytest.mark.parametrize(
    "words, says",
    [
        (["cut.otio"], "cut.otio is a timeline, not a clip; name clips"),
        (["-"], "standard input is a single clip without a name"),
        (["-", "-o", "-", "--report", "a.json"], "nothing can be written beside standard output"),
    ],
)
def test_other_clips_are_one_line(installed, words, says):
    done = run("filter", *words, "--then", "soft_trail")
    assert done.exit_code == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words, says",
    [
        ([], "no filter is named"),
        (["--then", "soft_tail"], "no filter is called 'soft_tail'; did you mean soft_trail?"),
        (["--then", "soft_trail", "--then", "soft_trail"], "is given twice; give it once, or two names"),
        (["--then", "soft_trail:a.b"], "'a.b' is not a valid name"),
        (["--set", "soft_trail.length=1", "--then", "soft_trail:b"], "add --then soft_trail"),
        (["--then", "soft_trail", "--set", "soft_trail.lenght=1"], "did you mean length?"),
        (["--then", "soft_trail", "--set", "soft_trail.length=2"], "from 0 to 1, not 2"),
    ],
)
def test_wrong_usage_is_one_line(installed, source, words, says, tmp_path):
    done = run("filter", source, *words, "-o", tmp_path / "out.mp4")
    assert done.exit_code == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("plugins", [[], ["--plugin", "strength"], ["--plugin", "reference"]])
def test_a_filter_cannot_have_a_plugins_name(source, plugins):
    """Nor that of a plugin which may be added, since a report would not tell the two apart."""
    done = run("edit", source, *plugins, "--then", "smooth:strength")
    assert done.exit_code == 2 and "a plugin is called strength, too; give it another name" in done.stderr


def test_where_nothing_is_edited_it_may_have_that_name(source, tmp_path):
    out, report, look = (tmp_path / name for name in ("out.mp4", "out.json", "look.toml"))
    then = ["--then", "smooth:strength", "--set", "strength.factor=3"]
    done = run("filter", source, *then, "-o", out, "--report", report, "--save-settings", look)
    assert done.exit_code == 0, done.output
    for settings in (report, look):
        again = tmp_path / f"{settings.suffix[1:]}.mp4"
        assert run("filter", source, "--settings", settings, "-o", again).exit_code == 0
        assert again.read_bytes() == out.read_bytes()
    for used in (then, ["--report", report]):
        assert run("verify", source, out, *used).exit_code == 0


@pytest.fixture
def namesake(tmp_path, monkeypatch):
    """A filter is installed that is called pose, as a plugin is, and shows the clip upside down."""
    site = tmp_path / "site"
    about = site / "upside_down-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: upside-down\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[zs2kit.filters]\npose = upside_down:Pose\n")
    (site / "upside_down.py").write_text(
        "from dataclasses import dataclass\n\nfrom zs2kit import Filter, option\n\n\n"
        "@dataclass(eq=False)\nclass Pose(Filter):\n"
        '    share: float = option(1.0, "How much.", minimum=0, maximum=1)\n\n'
        "    def run(self, passage, carry):\n"
        "        return passage.pixels.flip(2) * self.share + passage.pixels * (1 - self.share)\n"
    )
    monkeypatch.syspath_prepend(site)


def test_a_filter_of_a_plugins_name(namesake, source, tiny_folders, tmp_path):
    look, out, report = (tmp_path / name for name in ("look.toml", "out.mp4", "out.json"))
    look.write_text("[pose]\nshare = 0.5\n")
    done = run("edit", source, "--settings", look)
    assert done.exit_code == 2 and "there are a plugin and a filter called 'pose'; say which" in done.stderr
    done = run("edit", source, "--set", "pose.share=0.5")
    assert "a plugin or filter that is not used; add --plugin pose or --then pose" in done.stderr
    done = run("edit", source, "--plugin", "pose", "--then", "pose")
    assert done.exit_code == 2 and "a plugin is called pose, too; give it another name: pose:a" in done.stderr
    assert run("filter", source, "--settings", look, "-o", tmp_path / "filtered.mp4").exit_code == 0
    look.write_text('then = "pose"\nplugin = "none"\n' + look.read_text())
    drawn = ["--model", tiny_folders["epsilon"], "--steps", 1, "--prompt", "x"]
    done = run("edit", source, "--settings", look, *drawn, "-o", out, "--report", report)
    assert done.exit_code == 0, done.output
    assert run("edit", source, "--settings", report, "-o", tmp_path / "again.mp4").exit_code == 0
    assert (tmp_path / "again.mp4").read_bytes() == out.read_bytes()
    assert run("verify", source, out, "--report", report).exit_code == 0
