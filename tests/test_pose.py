"""The pose plugin's detectors, with real loading code and random weights."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import zs2kit
from zs2kit.errors import ModelError, UsageError
from zs2kit.testing import drawn_clip, tiny_model
from zs2kit_plugins.pose import Pose


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
    assert "body_pose_model.pth" in text and "pose.annotators=" in text


def test_a_model_without_a_detector_of_its_own_says_what_to_use(other):
    assert "openpose" in message(other, Pose(detector="puppets"))


def test_dwpose_says_what_it_needs(other):
    assert "mmpose" in message(other, Pose(detector="dwpose"))


def test_a_controlnet_of_another_family_is_refused(other, tmp_path):
    wide = tiny_model(tmp_path / "wide", unet={"cross_attention_dim": 32})
    text = message(other, Pose(model=str(wide / "controlnet_pose"), detector="puppets"))
    assert "cross_attention_dim" in text


def test_start_must_lie_before_end(other):
    with pytest.raises(UsageError, match="before end"):
        zs2kit.edit(drawn_clip(1), model=other, plugins=[Pose(start=0.5, end=0.5)])


@pytest.mark.parametrize("options", [{"scale": -1.0}, {"end": 2.0}, {"detector": "magic"}, {"hands": 3}])
def test_options_out_of_range_are_refused(other, options):
    with pytest.raises(UsageError, match=r"pose\."):
        zs2kit.edit(drawn_clip(1), model=other, plugins=[Pose(**options)])
