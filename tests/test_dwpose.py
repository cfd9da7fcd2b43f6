"""DWPose: its two networks, as tiny ONNX files that say what they are told to, and what is made of that."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zs2kit.detectors import load_detector
from zs2kit.dwpose import FILES, DWPose
from zs2kit.errors import ModelError

CELL = 5, 7  # column and row of the place, 32 pixels wide, where somebody is
SIZE = 128.0, 384.0  # of the box, in YOLOX's picture


def field(number: int, value: int | bytes) -> bytes:
    """A field of a protobuf message."""

    def varint(value: int) -> bytes:
        head, rest = value & 127, value >> 7
        return bytes([head | 128]) + varint(rest) if rest else bytes([head])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name: str, values: np.ndarray) -> bytes:
    kind = {"float32": 1, "int64": 7}[str(values.dtype)]
    shape = b"".join(field(1, side) for side in values.shape)
    return shape + field(2, kind) + field(8, name.encode()) + field(9, values.tobytes())


def described(name: str, shape: tuple[int, ...]) -> bytes:
    sides = b"".join(field(1, field(1, side)) for side in shape)
    return field(1, name.encode()) + field(2, field(1, field(1, 1) + field(2, sides)))


def node(kind: str, inputs: list[str], output: str) -> bytes:
    return (
        b"".join(field(1, each.encode()) for each in inputs)
        + field(2, output.encode())
        + field(4, kind.encode())
    )


def network(shape: tuple[int, ...], outputs: dict[str, np.ndarray]) -> bytes:
    """An ONNX file that gives ``outputs``, whatever the picture shows."""
    graph, given = field(1, node("GlobalAveragePool", ["picture"], "mean")), b""
    for name, values in outputs.items():
        weights = np.zeros((values.size, 3, 1, 1), np.float32)
        constants = {
            "w": weights,
            "b": values.ravel().astype(np.float32),
            "s": np.array(values.shape, np.int64),
        }
        graph += field(1, node("Conv", ["mean", f"{name}w", f"{name}b"], f"{name}flat"))
        graph += field(1, node("Reshape", [f"{name}flat", f"{name}s"], name))
        given += b"".join(field(5, tensor(name + key, each)) for key, each in constants.items())
        given += field(12, described(name, values.shape))
    graph += field(2, b"tiny") + given + field(11, described("picture", shape))
    return field(1, 8) + field(8, field(1, b"") + field(2, 13)) + field(7, graph)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with both files; they see one person in every picture."""
    folder = tmp_path_factory.mktemp("dwpose")
    boxes = np.zeros((1, 8400, 85), np.float32)
    place = 80 * 80 + 40 * 40 + CELL[1] * 20 + CELL[0]
    boxes[0, place] = [0.5, 0.5, np.log(SIZE[0] / 32), np.log(SIZE[1] / 32), 1, 1, *[0] * 79]
    boxes[0, place - 1] = boxes[0, place] - [0, 0, 0, 0, 0.1, 0, *[0] * 79]  # the same person, less surely
    (folder / FILES[0]).write_bytes(network((1, 3, 640, 640), {"boxes": boxes}))
    across, down = np.zeros((1, 133, 576), np.float32), np.zeros((1, 133, 768), np.float32)
    for point in range(133):
        across[0, point, 3 * point], down[0, point, 5 * point] = 0.9, 0.8
    across[0, 9] *= 0.1  # the left wrist isn't seen
    (folder / FILES[1]).write_bytes(network((1, 3, 384, 288), {"across": across, "down": down}))
    return folder


def test_points_are_where_the_networks_say(weights):
    points, scores = DWPose(weights)(np.full((480, 320, 3), 200, np.uint8))
    assert points.shape == (1, 134, 2) and scores.shape == (1, 134)
    per_pixel = 480 / 640  # the picture was enlarged to 640 rows
    scale = max(SIZE[0] * 1.25 / 288, SIZE[1] * 1.25 / 384) * per_pixel
    corner = np.array([(CELL[0] + 0.5) * 32, (CELL[1] + 0.5) * 32]) * per_pixel - scale * np.array([144, 192])

    def expected(point: int) -> np.ndarray:
        return corner + scale * np.array([3 * point, 5 * point]) / 2

    for ours, coco in ((0, 0), (2, 6), (4, 10), (5, 5), (10, 16), (14, 2), (17, 3), (18, 17), (133, 132)):
        np.testing.assert_allclose(points[0, ours], expected(coco), atol=1e-3, err_msg=str(ours))
    np.testing.assert_allclose(points[0, 1], (expected(5) + expected(6)) / 2, atol=1e-3)  # the neck
    assert scores[0, 7] < 0.1 and scores[0, 1] == 1 and scores[0, 4] == pytest.approx(0.8)


def test_the_map_is_drawn_by_controlnet_aux(weights):
    images = np.full((2, 512, 512, 3), 200, np.uint8)
    detect = load_detector("dwpose", torch.device("cpu"), str(weights), plugin="pose")
    maps = detect(images)
    assert maps.shape == images.shape and maps[0].any() and np.array_equal(*maps)
    from controlnet_aux.dwpose.util import draw_bodypose

    points, scores = DWPose(weights)(images[0])
    numbers = np.where(scores[:, :18] > 0.3, np.arange(18), -1)
    body = draw_bodypose(np.zeros((512, 512, 3), np.uint8), points[0, :18] / 512, numbers)
    assert (maps[0][body.any(axis=2)] > 0).any(axis=1).mean() > 0.95


def test_nobody_is_an_empty_map(weights, tmp_path):
    (tmp_path / FILES[1]).write_bytes((weights / FILES[1]).read_bytes())
    nobody = {"boxes": np.zeros((1, 8400, 85), np.float32)}
    (tmp_path / FILES[0]).write_bytes(network((1, 3, 640, 640), nobody))
    detect = load_detector("dwpose", torch.device("cpu"), str(tmp_path), plugin="pose")
    assert not detect(np.full((1, 256, 256, 3), 200, np.uint8)).any()


def test_damaged_files_are_one_line(weights, tmp_path):
    (tmp_path / FILES[0]).write_bytes(b"nothing")
    (tmp_path / FILES[1]).write_bytes((weights / FILES[1]).read_bytes())
    with pytest.raises(
        ModelError, match=f"dwpose can't be loaded from {tmp_path}; download its weights again"
    ):
        load_detector("dwpose", torch.device("cpu"), str(tmp_path), plugin="pose")
