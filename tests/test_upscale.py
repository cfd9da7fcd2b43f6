"""The filter upscale: networks that enlarge, after an edit and alone, and what a model brings along."""

from __future__ import annotations

import shutil
from time import sleep

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

import zs2kit
from zs2kit import cli
from zs2kit.carry import Carry
from zs2kit.errors import UsageError
from zs2kit.filters import Upscale
from zs2kit.motion import settle
from zs2kit.networks.enlarger import Enlarger
from zs2kit.testing import check_filter, drawn_clip, two_shots
from zs2kit_plugins.mask import Mask


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A network that makes pictures four times as large, as spandrel loads it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "tiny.safetensors"
    save_file(SRVGGNetCompact(num_feat=8, num_conv=2, upscale=4).state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_folders):
    """A tiny model that brings an enlarger along."""
    folder = shutil.copytree(tiny_folders["epsilon"], tmp_path_factory.mktemp("model") / "tiny")
    torch.manual_seed(0)
    network = Enlarger(channels=8, blocks=1, fine_channels=8)
    torch.nn.init.normal_(network.last.weight, std=0.2)
    network.half().save_pretrained(folder / "enlarger")
    return zs2kit.Model.load(folder)


def edit(model, height=96, width=80, **more):
    quick = {"plugins": [], "num_inference_steps": 2, "flow_momentum": 0.0}
    return zs2kit.edit(drawn_clip(3, height=height, width=width), "a robot", model=model, **{**quick, **more})


def images(clip):
    return [frame.image for frame in clip]


def apart(some, others):
    return max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(some, others, strict=True))


def test_a_models_own_network_enlarges_what_it_draws(model, tiny_folders):
    edited = edit(model)
    drawn = images(edited.unfitted())
    assert drawn[0].shape == (32, 27, 3)
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2) / 255
    large = [model.enlarger(each).permute(1, 2, 0).numpy() for each in pixels]
    assert large[0].shape == (128, 108, 3)
    shrunk = [cv2.resize(each, (80, 96), interpolation=cv2.INTER_AREA) for each in large]
    assert apart(images(edited), [np.rint(each * 255).astype(np.uint8) for each in shrunk]) <= 2
    assert apart(images(edited), images(edit(zs2kit.Model.load(tiny_folders["epsilon"])))) > 20


def test_enlarged_pictures_are_averaged_along_the_motion(model):
    averaged = edit(model, flow_momentum=0.5, chunk_size=2)
    drawn, sources = images(averaged.unfitted()), images(drawn_clip(3, height=96, width=80))
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2) / 255
    large = torch.stack([model.enlarger(each) for each in pixels])

    def shown(pictures):
        shrunk = [cv2.resize(each, (80, 96), interpolation=cv2.INTER_AREA) for each in pictures]
        return [np.rint(each * 255).astype(np.uint8) for each in shrunk]

    settled = settle(large, sources, Carry())
    assert apart(images(averaged), shown(settled.permute(0, 2, 3, 1).numpy())) <= 2
    assert apart(images(averaged), shown(large.permute(0, 2, 3, 1).numpy())) > 10
    assert apart(images(Upscale()(averaged)), images(averaged)) <= 2


def test_averages_do_not_depend_on_chunks_and_are_resumed(model):
    def made(size):
        return edit(model, flow_momentum=0.5, chunk_size=size)

    whole = images(made(3))
    assert apart(images(made(1)), whole) <= 1
    first = made(1)
    frames = iter(first)
    begun = [next(frames).image, next(frames).image]
    rest = [frame.image for frame in made(1).frames_from(2, first.carry)]
    assert len(rest) == 1 and apart(begun + rest, whole) <= 1
    afresh = [frame.image for frame in made(1).frames_from(2, without(first.carry, "enlarged/"))]
    assert apart(afresh, whole[2:]) > 10


def without(carry, prefix):
    return Carry({name: each for name, each in carry.items() if not name.startswith(prefix)})


def test_a_picture_that_need_not_be_larger_is_left_alone(model, tiny_folders):
    alone = zs2kit.Model.load(tiny_folders["epsilon"])
    for side in (32, 24):
        assert apart(images(edit(model, side, side)), images(edit(alone, side, side))) == 0


def test_by_default_the_filter_uses_the_models_own_network(model):
    edited = edit(model)
    assert apart(images(Upscale()(edited)), images(edited)) <= 2
    twice = Upscale(2.0)(edited)
    assert (twice.width, twice.height) == (160, 192)
    assert images(twice)[0].shape == (192, 160, 3)


def test_a_named_network_takes_its_place(model, file):
    made = images(Upscale(1.0, file)(edit(model)))
    assert made[0].shape == (96, 80, 3)
    assert apart(made, images(edit(model))) > 20


def test_what_a_mask_keeps_stays(model, tmp_path):
    mask = np.zeros((96, 80), np.uint8)
    mask[:40] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    edited = edit(model, plugins=[Mask(clip=str(tmp_path / "mask.png"), feather=0.0, grow=0.0)])
    sources = images(drawn_clip(3, height=96, width=80))
    for made in (edited, Upscale()(edited)):
        for image, source in zip(images(made), sources, strict=True):
            kept = [(image[rows] == source[rows]).all() for rows in (slice(None, 40), slice(40, None))]
            assert sorted(kept) == [False, True]


def test_a_plan_counts_the_time_that_enlarging_takes(model, tmp_path):
    def plan(made):
        return zs2kit.plan.plan(made, tmp_path / "out.mp4")

    slow = model.enlarger.network.register_forward_pre_hook(lambda *_: sleep(0.5))
    try:
        alone, filtered = plan(edit(model)), plan(Upscale()(edit(model)))
    finally:
        slow.remove()
    assert alone.seconds >= 1.5 and alone.filter_seconds == 0  # three frames
    assert filtered.filter_seconds >= 1.5
    assert filtered.seconds - filtered.filter_seconds < alone.seconds  # where the filter does it, once


def test_any_clip_can_be_enlarged(file):
    made = Upscale(1.5, file)(drawn_clip(2, height=30, width=21))
    assert (made.width, made.height) == (32, 45)  # 31.5, rounded to even
    assert [image.shape for image in images(made)] == [(45, 32, 3)] * 2


def test_it_keeps_the_laws(file):
    check_filter(Upscale(2.0, file), clip=two_shots(side=16))


def test_the_command_line_enlarges(file, tmp_path):
    source = zs2kit.write(tmp_path / "clip.mp4", drawn_clip(3))
    command = ["filter", source, "--then", "upscale", "--set", "upscale.factor=2", "--set"]
    result = CliRunner().invoke(
        cli.main, [*map(str, command), f"upscale.model={file}", "-o", str(tmp_path / "out.mp4")]
    )
    assert result.exit_code == 0, result.output
    made = zs2kit.read(tmp_path / "out.mp4")
    assert (made.width, made.height, made.frame_count) == (64, 64, 3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "would leave the clip at the size that it has; say how much larger"),
        ({"factor": 2.0}, "has no network: this clip is not an edit; name one: `upscale.model`"),
        ({"factor": 0.5}, "`upscale.factor` must be a number from 1 to 16, not 0.5"),
        ({"factor": 0.0}, "`upscale.factor` must be a number from 1 to 16, not 0"),
    ],
)
def test_what_cannot_be_done_gets_one_line(options, told):
    with pytest.raises(UsageError) as error:
        Upscale(**options)(drawn_clip(2))
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_model_without_a_network_of_its_own_needs_one(tiny_folders):
    with pytest.raises(UsageError, match="epsilon brings no enlarging network along; name one"):
        Upscale()(edit(zs2kit.Model.load(tiny_folders["epsilon"])))


def test_a_result_that_no_file_can_hold_is_an_error(file):
    with pytest.raises(
        UsageError, match="2000x16 times 16 is 32000x256, but no side may have more than 16384"
    ):
        Upscale(16.0, file)(drawn_clip(1, width=2000, height=16))
