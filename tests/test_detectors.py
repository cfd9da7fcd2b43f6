"""Detectors: real loading code, with random weights saved on the spot."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from inspect import signature
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import transformers

from zs2kit.detectors import ANNOTATORS, NAMES, canny, load_depth_estimator, load_detector
from zs2kit.errors import ModelError, UsageError
from zs2kit.testing import drawn_clip

CPU = torch.device("cpu")
with warnings.catch_warnings():  # it warns of every optional package that isn't installed
    warnings.simplefilter("ignore")
    import controlnet_aux
    from controlnet_aux.pidi.model import pidinet
    from controlnet_aux.teed.ted import TED


@pytest.fixture(scope="module")
def annotators(tmp_path_factory):
    """Random weights of the two smallest annotators, in the files that controlnet-aux loads."""
    folder = tmp_path_factory.mktemp("annotators")
    torch.manual_seed(0)
    strong = {name: 4 * tensor for name, tensor in TED().state_dict().items()}  # or all would be one grey
    torch.save(strong, folder / "5_model.pth")
    weights = {f"module.{name}": tensor for name, tensor in pidinet().state_dict().items()}
    torch.save({"state_dict": weights}, folder / "table5_pidinet.pth")
    return str(folder)


@pytest.fixture(scope="module")
def images():
    return np.stack([frame.image for frame in drawn_clip(3, width=96, height=70)])


def load(name: str, weights: str | None = None):
    return load_detector(name, CPU, weights, plugin="control")


@pytest.mark.parametrize("name", ["canny", "teed", "pidinet", "lineart_standard", "shuffle"])
def test_maps_have_the_frames_size_and_come_from_each_frame_alone(name, annotators, images):
    detect = load(name, annotators if name in ("teed", "pidinet") else None)
    maps = detect(images)
    assert maps.shape == images.shape and maps.dtype == np.uint8
    assert len(np.unique(maps)) > 1
    assert np.array_equal(np.concatenate([detect(each[None]) for each in images]), maps)


def test_detection_leaves_no_trace(annotators, images, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["zs2kit", "edit", "--model", "x"])
    state, environment = np.random.get_state()[1].copy(), dict(os.environ)
    load("teed", annotators)(images)
    load("shuffle")(images)
    assert np.array_equal(np.random.get_state()[1], state)
    assert dict(os.environ) == environment and sys.argv[-1] == "x"


def test_canny_is_opencvs(images):
    expected = cv2.Canny(images[0], 100, 200)
    assert np.array_equal(canny()(images)[0], np.repeat(expected[..., None], 3, axis=2))
    assert canny(10, 20)(images).sum() > canny()(images).sum() > 0


@pytest.mark.parametrize("name", [name for name in ANNOTATORS if name != "dwpose"])
def test_the_table_names_what_controlnet_aux_has(name):
    annotator = ANNOTATORS[name]
    cls = getattr(controlnet_aux, annotator.cls)
    if annotator.files:
        signature(cls.from_pretrained).bind("folder", **annotator.loading)
    called = signature(cls.__call__)
    called.bind(None, "image", output_type="np", detect_resolution=64, **annotator.calling)


def refusal(load, *arguments, **settings) -> str:
    with pytest.raises((ModelError, UsageError)) as error:
        load(*arguments, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_weights_are_named_with_where_to_put_them(tmp_path):
    text = refusal(load, "lineart", str(tmp_path))
    assert "no sk_model.pth and no sk_model2.pth" in text and "`control.annotators`: " in text


def test_weights_that_are_code_are_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return Path.touch, (tmp_path / "harm",)

    (tmp_path / "5_model.pth").write_bytes(pickle.dumps(Harm()))
    assert "teed can't be loaded" in refusal(load, "teed", str(tmp_path))
    assert not (tmp_path / "harm").exists()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "controlnet_aux", None)
    text = refusal(load, "shuffle", None)
    assert text.startswith(
        "`control.detector`: shuffle needs the package controlnet_aux, which isn't installed"
    )


def test_a_current_mediapipe_is_no_obstacle(tmp_path):
    """controlnet-aux expects of it what it had years ago; without that, its import fails."""
    (tmp_path / "mediapipe.py").write_text("__version__ = '1.2.2'\n")
    script = """
import sys, numpy as np, torch
from zs2kit.detectors import load_detector
maps = load_detector("shuffle", torch.device("cpu"), plugin="control")(np.zeros((1, 64, 64, 3), np.uint8))
import mediapipe
print(maps.shape, mediapipe.__version__)
"""
    there = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = [sys.executable, "-W", "ignore", "-c"]
    done = subprocess.run([*run, script], env=there, capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 64, 64, 3) 1.2.2\n"
    control = subprocess.run([*run, "import controlnet_aux"], env=there, capture_output=True, text=True)
    assert "has no attribute 'solutions'" in control.stderr


def test_unknown_names_missing_packages_and_needless_weights_are_said():
    assert all(name in refusal(load, "magic") for name in NAMES)
    assert "takes no weights" in refusal(load, "canny", "folder")


# transformers' depth estimators


def tiny_depth(folder):
    """Save a tiny Depth Anything in ``folder``."""
    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        image_size=28,
        patch_size=14,
        num_hidden_layers=2,
        hidden_size=16,
        num_attention_heads=2,
        out_indices=[1, 2],
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=16,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    network = transformers.DepthAnythingForDepthEstimation(config)
    network.head.conv3.bias.data[:] = 1  # or the last layer, a ReLU, might give nothing but zeros
    network.save_pretrained(folder)
    size = {"height": 56, "width": 56}
    transformers.DPTImageProcessor(size=size, keep_aspect_ratio=False).save_pretrained(folder)


@pytest.fixture(scope="module")
def depth_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("depth")
    tiny_depth(folder)
    return folder


def test_a_depth_estimator_of_transformers_makes_grey_maps(depth_model, images):
    detect = load_depth_estimator(str(depth_model), CPU, plugin="depth")
    maps = detect(images)
    assert maps.shape == images.shape and maps.dtype == np.uint8
    assert np.array_equal(maps[..., 0], maps[..., 2])
    assert maps.min(axis=(1, 2, 3)).tolist() == [0] * 3 and maps.max(axis=(1, 2, 3)).tolist() == [255] * 3
    assert np.array_equal(np.concatenate([detect(each[None]) for each in images]), maps)


def test_estimators_of_distance_are_turned_into_nearness(depth_model, images, tmp_path):
    network = transformers.DepthAnythingForDepthEstimation.from_pretrained(
        depth_model, depth_estimation_type="metric"
    )
    network.save_pretrained(tmp_path)
    transformers.DPTImageProcessor.from_pretrained(depth_model).save_pretrained(tmp_path)
    near, far = (
        load_depth_estimator(str(folder), CPU, plugin="depth")(images[:1])[0, ..., 0].ravel()
        for folder in (depth_model, tmp_path)
    )
    assert np.corrcoef(near, far)[0, 1] < -0.5


def test_depth_estimators_load_from_safetensors_alone(depth_model, tmp_path):
    for file in depth_model.glob("*.json"):
        (tmp_path / file.name).write_text(file.read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    text = refusal(load_depth_estimator, str(tmp_path), CPU, plugin="depth")
    assert text.startswith("`depth.detector`: ") and "safetensors" in text
    assert "is not on this machine" in refusal(load_depth_estimator, "no/such", CPU, plugin="depth")
