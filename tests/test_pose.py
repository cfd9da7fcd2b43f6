"""The pose plugin's detectors, with real loading code and random weights."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import diffusers
import numpy as np
import pytest
import torch

import zs2kit
from zs2kit.denoiser import Denoiser
from zs2kit.errors import ModelError, UsageError
from zs2kit.people import find_people, to_openpose
from zs2kit.plugins import manager
from zs2kit.puppets import human
from zs2kit.puppets.detector import detect, detect_each
from zs2kit.puppets.human import retarget
from zs2kit.puppets.pictures import scene
from zs2kit.puppets.skeleton import draw_skeleton
from zs2kit.puppets.truth import Judge
from zs2kit.puppets.world import render
from zs2kit.puppets.yardsticks import correct
from zs2kit.testing import chunks, drawn_clip, tiny_model
from zs2kit_plugins.pose import Pose

SAMPLES = Path(__file__).parents[1] / "samples"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A checkpoint that brings a ControlNet but no detector."""
    return zs2kit.Model.load(tiny_model(tmp_path_factory.mktemp("other")))


@pytest.fixture(scope="module")
def annotators(tmp_path_factory):
    """Random weights in the files that controlnet-aux loads."""
    with warnings.catch_warnings():  # it warns of every optional package that isn't installed
        warnings.simplefilter("ignore")
        from controlnet_aux.open_pose.face import FaceNet
        from controlnet_aux.open_pose.model import bodypose_model, handpose_model

    folder = tmp_path_factory.mktemp("annotators")
    networks = {"body_pose_model": bodypose_model(), "hand_pose_model": handpose_model()}
    for name, network in networks.items():
        weights = {key.split(".", 1)[1]: value for key, value in network.state_dict().items()}
        torch.save(weights, folder / f"{name}.pth")
    torch.save(FaceNet().state_dict(), folder / "facenet.pth")
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_openpose_loads_from_a_folder_and_frames_without_a_figure_are_counted(other, annotators):
    plugin = Pose(detector="openpose", annotators=str(annotators))
    clip = zs2kit.edit(drawn_clip(2), "a cat", model=other, plugins=[plugin], num_inference_steps=1)
    with pytest.warns(UserWarning, match="no figure was found in 2 of 2 frames"):
        frames = list(clip)
    assert len(frames) == 2 and all(np.isfinite(frame.image).all() for frame in frames)


def message(model, plugin) -> str:
    with pytest.raises(ModelError) as error:
        zs2kit.edit(drawn_clip(1), model=model, plugins=[plugin])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_annotators_are_named_with_where_to_put_them(other, tmp_path):
    text = message(other, Pose(annotators=str(tmp_path)))
    assert "body_pose_model.pth" in text and "`pose.annotators`: " in text


def test_a_model_without_a_detector_of_its_own_says_what_to_use(other):
    assert "openpose" in message(other, Pose(detector="puppets"))


def test_dwpose_says_what_it_needs(other, tmp_path):
    text = message(other, Pose(detector="dwpose", annotators=str(tmp_path)))
    assert "no yolox_l.onnx and no dw-ll_ucoco_384.onnx" in text and "`pose.annotators`: " in text


def test_a_controlnet_of_another_family_is_refused(other, tmp_path):
    wide = tiny_model(tmp_path / "wide", unet={"cross_attention_dim": 32})
    text = message(other, Pose(model=str(wide / "controlnet_pose"), detector="puppets"))
    assert "cross_attention_dim" in text


def test_start_must_lie_before_end(other):
    with pytest.raises(UsageError, match=r"`pose\.start` must be before `pose\.end`"):
        zs2kit.edit(drawn_clip(1), model=other, plugins=[Pose(start=0.5, end=0.5)])


@pytest.mark.parametrize("options", [{"scale": -1.0}, {"end": 2.0}, {"detector": "magic"}, {"hands": 3}])
def test_options_out_of_range_are_refused(other, options):
    with pytest.raises(UsageError, match=r"pose\."):
        zs2kit.edit(drawn_clip(1), model=other, plugins=[Pose(**options)])


def walking(frames=2, width=640, step=0, seen=None):
    """A clip of a woman in the middle of a wide grey picture, who moves by ``step`` pixels a frame.

    She is there in the frames of ``seen``, or in all. It can be iterated over again.
    """
    crop = cv2.imread(str(Path(__file__).parent / "people" / "crop.png"))[..., ::-1]
    images = []
    for index in range(frames):
        image = np.full((320, width, 3), 128, np.uint8)
        if seen is None or index in seen:
            left = width // 2 - 128 + step * index
            image[40:296, left : left + 256] = crop
        images.append(zs2kit.Frame(image, index))
    return zs2kit.Clip(images, width, 320, Fraction(12), Fraction(1, 12), frames)


class Seen(Pose):
    """Remembers the maps that it found."""

    def detect(self, images, chunk):
        self.maps = [*getattr(self, "maps", []), super().detect(images, chunk)]
        return self.maps[-1]


def maps_of(plugin, model, clip, sizes):
    """The maps (frames, height, width, 3) that a plugin makes of a clip, cut into chunks of ``sizes``."""
    plugin.setup(model, Denoiser(model, manager([]).hook, 0.9), clip)
    carry = {}
    for chunk in chunks(clip, sizes, model):
        carry = plugin.prepare(chunk, model, carry)
    return np.concatenate(plugin.maps)


@pytest.fixture(scope="module")
def puppets():
    return zs2kit.Model.load()


def test_people_are_drawn_where_they_are_in_the_models_picture(other):
    clip, plugin = walking(), Seen(detector="person")
    first = maps_of(plugin, other, clip, [2])[0]
    (chunk,) = chunks(clip, [2], other)
    rows, columns = np.nonzero(first.any(axis=2))
    (woman,) = find_people([next(iter(clip)).image])[0]
    seen = to_openpose(woman.points)
    seen = seen[seen[:, 2] > 0]
    expected = (seen[:, :2] + 0.5) * chunk.fit.scaled[1] / 640 - 0.5 + chunk.fit.offset[::-1]
    limits = [columns.min(), rows.min(), columns.max(), rows.max()]
    assert np.abs(np.array(limits) - [*expected.min(axis=0), *expected.max(axis=0)]).max() < 4
    assert plugin.follows_source


def test_points_are_smoothed_alike_in_chunks_and_as_a_whole(puppets):
    clip = walking(4, step=6)
    whole, cut, rough = (
        maps_of(Seen(detector="person", smooth=smooth), puppets, clip, sizes)
        for smooth, sizes in ((True, [4]), (True, [2, 2]), (False, [4]))
    )
    np.testing.assert_array_equal(whole, cut)
    np.testing.assert_array_equal(whole[0], rough[0])
    assert not np.array_equal(whole[1:], rough[1:])  # the control


def test_a_person_gives_the_bundled_model_a_puppets_skeleton(puppets):
    clip, plugin = walking(), Seen()
    with pytest.warns(UserWarning, match="pose.detector is person"):
        (first, _) = maps_of(plugin, puppets, clip, [2])
    (chunk,) = chunks(clip, [2], puppets)
    (woman,) = find_people([next(iter(clip)).image])[0]
    points = to_openpose(woman.points)
    points[:, :2] = (points[:, :2] + 0.5) * chunk.fit.scaled[1] / 640 - 0.5 + chunk.fit.offset[::-1]
    np.testing.assert_array_equal(first, draw_skeleton(retarget(points), *chunk.fit.padded))
    assert not plugin.follows_source  # a puppet's limbs go other ways than the picture
    with pytest.warns(UserWarning, match="pose.detector is person"):
        edit = zs2kit.edit(clip, "a red robot", plugins=[Pose()], model=puppets)
    assert edit.settings.flow_momentum == 0
    other = Seen(detector="puppets")
    maps_of(other, puppets, clip, [2])
    assert other.follows_source


@pytest.mark.slow
def test_a_real_walk_moves_a_puppet(puppets, wheel, monkeypatch):
    """A woman walks past: each puppet is what was asked for, in a pose that its reader finds again."""
    with (
        wheel("sports2d==0.8.34") as archive,
        av.open(io.BytesIO(archive.read("Sports2D/Demo/demo.mp4"))) as video,
    ):
        frames = [frame.to_ndarray(format="rgb24") for frame in islice(video.decode(video=0), 110)]
    clip = zs2kit.Clip.from_images([frame[434:994, 714:1274].copy() for frame in frames[84::4]], 7.5)
    asked = []
    monkeypatch.setattr(human, "retarget", lambda points: asked.append(retarget(points)) or asked[-1])
    plugins, settings = [Pose(detector="person")], {"seed": 1, "size": (128, 128), "chunk_size": 4}
    edit = zs2kit.edit(clip, "a red knight on the beach", plugins=plugins, model=puppets, **settings)
    drawn = [cv2.resize(frame.image, (128, 128), interpolation=cv2.INTER_AREA) for frame in edit]
    numbers = Judge()(np.stack(drawn), {"kind": "knight", "colour": "red", "place": "beach"})
    points = detect(puppets.load_network(diffusers.UNet2DModel, puppets.bundled("detector")), np.stack(drawn))
    assert numbers["figures found"] == 1 and numbers["text right"] >= 0.95
    assert correct(points, np.stack(asked), 0.1).mean() >= 0.85


def test_of_several_people_the_largest_is_followed_and_that_is_said(puppets):
    crop = cv2.imread(str(Path(__file__).parent / "people" / "crop.png"))[..., ::-1]
    small = cv2.resize(crop, (160, 160), interpolation=cv2.INTER_AREA)
    images = []
    for index in range(3):
        image = np.full((320, 640, 3), 128, np.uint8)
        image[120:280, 40:200] = small
        if index != 1:
            image[40:296, 320:576] = crop
        images.append(image)
    plugin = Seen(detector="person")
    clip = zs2kit.Clip.from_images(images, 12)
    with pytest.warns(
        UserWarning, match="frame 0 shows 2 people, and .* one figure at a time, so it follows the largest"
    ) as told:
        maps = maps_of(plugin, puppets, clip, [1, 1, 1])
    assert len(told) == 1
    assert not maps[:, :, :64].any() and all(each[:, 64:].any() for each in maps)  # also while she isn't seen
    assert not plugin._without


def test_how_many_people_there_are_is_said_and_that_some_are_small(other):
    crop = cv2.imread(str(Path(__file__).parent / "people" / "crop.png"))[..., ::-1]
    small = cv2.resize(crop, (125, 125), interpolation=cv2.INTER_AREA)
    image = np.full((448, 560, 3), 128, np.uint8)
    image[50:175, 40:165] = image[270:395, 360:485] = small
    clip = zs2kit.Clip.from_images([image] * 2, 12)
    with pytest.warns(UserWarning) as told:
        (first, _) = maps_of(Seen(detector="person"), other, clip, [1, 1])
    several, small = sorted(str(each.message) for each in told)
    assert several.startswith("pose: frame 0 shows 2 people, and each of them gets a skeleton")
    assert re.match(
        r"\w+: somebody in frame 0 is about 1\d\d pixels tall, and people of less than 90 ", small
    )
    height, width = first.shape[:2]
    assert first[: height // 2, : width // 2].any() and first[height // 2 :, width // 2 :].any()


def test_frames_without_a_person_are_counted(puppets):
    clip = replace(walking(6, seen=(0, 1)), rate=Fraction(4))  # she is remembered for half a second
    plugin = Seen(detector="person")
    maps = maps_of(plugin, puppets, clip, [6])
    assert [each.any() for each in maps] == [True] * 4 + [False] * 2
    np.testing.assert_array_equal(maps[3], maps[1])
    with pytest.warns(UserWarning, match=r"no figure was found in 2 of 6 frames \(the first is frame 4\)"):
        plugin.finish(6)


def test_what_finds_the_poses_is_chosen_by_the_model_and_the_clip(other):
    kinds = []
    own = SimpleNamespace(device="cpu")
    with pytest.warns(UserWarning, match="pose.detector is person"):
        kinds.append(Pose()._choose(Path("detector"), own, walking()))
    kinds.append(Pose()._choose(Path("detector"), own, replace(walking(), frames=iter(walking()))))
    kinds.append(Pose()._choose(Path("detector"), own, zs2kit.read(SAMPLES / "robot-dance.mp4")))
    kinds.append(Pose()._choose(None, other, walking()))
    kinds.append(Pose(hands=True)._choose(None, other, walking()))
    assert kinds == ["person", "puppets", "puppets", "person", "openpose"]


def test_a_clip_without_people_says_so(other):
    clip = zs2kit.edit(drawn_clip(2), "a cat", model=other, plugins=[Pose()], num_inference_steps=1)
    with pytest.warns(UserWarning, match="no figure was found in 2 of 2 frames"):
        assert len(list(clip)) == 2


def pair(number: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Two renders side by side, half as high as they are wide, and the keypoints of both."""
    left, right = (render(scene(number + index, "test"), 128) for index in (0, 1))
    image = cv2.resize(np.hstack([left.image, right.image]), (128, 64), interpolation=cv2.INTER_AREA)
    points = [each.keypoints * (0.5, 0.5, 1) + (64 * index, 0, 0) for index, each in enumerate((left, right))]
    return image, points


def test_figures_that_stand_apart_are_all_found():
    model = zs2kit.Model.load()
    networks = [
        model.load_network(diffusers.UNet2DModel, model.bundled(name)) for name in ("detector", "estimator")
    ]
    near, found = [], 0
    for number in range(0, 24, 2):
        image, truth = pair(number)
        (figures,) = detect_each(*networks, image[None])
        if len(figures) != 2:
            continue
        found += 1
        for figure, points in zip(sorted(figures, key=lambda it: it[:, 0].mean()), truth, strict=True):
            seen = points[:, 2] > 0
            extent = np.ptp(points[seen, :2], axis=0).max()
            apart = np.linalg.norm((figure - points)[seen, :2], axis=1)
            near.append(((apart < 0.1 * extent) & (figure[seen, 2] > 0)).mean())
    assert found >= 9 and np.mean(near) > 0.95
    # One alone is what the detector finds on the whole frame.
    alone = np.stack([render(scene(number, "test"), 128).image for number in range(12)])
    for whole, figures in zip(detect(networks[0], alone), detect_each(*networks, alone), strict=True):
        assert np.array_equal(whole[None], figures)


def test_all_figures_are_drawn():
    model, (image, _) = zs2kit.Model.load(), pair(0)
    clip = zs2kit.Clip.from_images([image], 12)
    plugin = Pose(detector="puppets")
    plugin.load_detector(model, clip)
    (chunk,) = chunks(clip, [1], model)
    with pytest.warns(UserWarning, match="several figures; each has its skeleton, but puppets has learned"):
        (skeletons,) = plugin.detect(chunk.images, chunk)
    plugin.detect(chunk.images, chunk)  # it is said once
    assert skeletons[:, :56].any() and skeletons[:, 72:].any() and not skeletons[:, 60:68].any()
