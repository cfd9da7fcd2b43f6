"""DWPose from its two ONNX files, run by OpenCV: it finds people, and each one's body, hands and face.

Yang et al., "Effective Whole-body Pose Estimation with Two-stages Distillation" (2023); people are found by
YOLOX (Ge et al., 2021).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

FILES = ("yolox_l.onnx", "dw-ll_ucoco_384.onnx")
SIDE = 640  # of the picture that YOLOX takes
STRIDES = (8, 16, 32)  # pixels between the places for which it says what is there
GREY = 114  # around a picture that isn't square
SURE, SAME = 0.3, 0.45  # the least score of a person; the overlap of boxes from which they are the same one's
WIDTH, HEIGHT = 288, 384  # of the picture of a person from which points are read
AROUND = 1.25  # how much larger than its box that is
MEAN = np.array([123.675, 116.28, 103.53], np.float32)  # of red, green and blue
DEVIATION = np.array([58.395, 57.12, 57.375], np.float32)
SPLIT = 2  # positions per pixel between which it distinguishes
VISIBLE = 0.3  # the least score of shoulders between which a neck is made up
TO_OPENPOSE = (
    (17, 6, 8, 10, 7, 9, 12, 14, 16, 13, 15, 2, 1, 4, 3),
    (1, 2, 3, 4, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17),
)
"""Which of COCO's points, of which the neck is the last, OpenPose has where."""


class DWPose:
    """Finds people's points; what `controlnet_aux.DWposeDetector` takes in place of its own networks."""

    def __init__(self, folder: str | Path) -> None:
        """Load the two networks from the files called `FILES` in ``folder``."""
        # The default engine of OpenCV 5 leaves out some of a network's outputs.
        self._people, self._points = (
            cv2.dnn.readNetFromONNX(str(Path(folder, name)), cv2.dnn.ENGINE_CLASSIC) for name in FILES
        )

    @classmethod
    def from_pretrained(cls, folder: str) -> Any:
        """Return an annotator of controlnet-aux that runs these networks."""
        from controlnet_aux import DWposeDetector

        annotator = DWposeDetector.__new__(DWposeDetector)  # without the packages that its own networks need
        annotator.pose_estimation = cls(folder)
        return annotator

    def to(self, device: object) -> DWPose:
        """Stay on the CPU, whatever the device."""
        return self

    def __call__(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the points (people, 134, 2) in a BGR image (height, width, 3), in pixels, and their scores.

        The first 18 are OpenPose's.
        """
        people = [self._read(image, box) for box in self._boxes(image)]
        found = np.array(people).reshape(-1, 133, 3)
        neck = found[:, [5, 6]].mean(axis=1)
        neck[:, 2] = (found[:, [5, 6], 2] > VISIBLE).all(axis=1)
        whole = np.insert(found, 17, neck, axis=1)
        ours, theirs = (list(each) for each in TO_OPENPOSE)
        whole[:, theirs] = whole[:, ours]
        return whole[..., :2], whole[..., 2]

    def _boxes(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Find people: (people, 4), left, top, width and height in pixels."""
        height, width = image.shape[:2]
        scale = min(SIDE / height, SIDE / width)
        small = cv2.resize(image, (int(width * scale), int(height * scale)))
        square = np.full((SIDE, SIDE, 3), GREY, np.float32)
        square[: small.shape[0], : small.shape[1]] = small
        (raw,) = _run(self._people, square.transpose(2, 0, 1)[None])
        places = [
            np.insert(np.indices((SIDE // each, SIDE // each)).reshape(2, -1)[::-1].T, 2, each, axis=1)
            for each in STRIDES
        ]
        x, y, stride = np.concatenate(places).T
        raw = raw[0].astype(np.float64)
        sides = np.exp(raw[:, 2:4]) * stride[:, None]
        middles = (raw[:, :2] + np.column_stack([x, y])) * stride[:, None]
        boxes: NDArray[np.float64] = np.concatenate([middles - sides / 2, sides], axis=1) / scale
        scores = raw[:, 4] * raw[:, 5]  # that something is there, and that it is a person
        chosen = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), SURE, SAME)
        return np.asarray(boxes[np.asarray(chosen, np.intp).reshape(-1)])

    def _read(self, image: NDArray[np.uint8], box: NDArray[np.float64]) -> NDArray[np.float64]:
        """Find the points (133, 3), x and y in pixels, and score, of whoever is in ``box``."""
        sides = box[2:] * AROUND
        scale = max(sides[0] / WIDTH, sides[1] / HEIGHT)  # pixels of the image in one of the person's picture
        corner = box[:2] + box[2:] / 2 - scale * np.array([WIDTH, HEIGHT]) / 2
        matrix = np.array([[scale, 0, corner[0]], [0, scale, corner[1]]])
        cut = cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        pixels = (cut[..., ::-1].astype(np.float32) - MEAN) / DEVIATION
        across, down = _run(self._points, pixels.transpose(2, 0, 1)[None])
        places = np.stack([each[0].argmax(axis=1) for each in (across, down)], axis=1) / SPLIT
        score = np.minimum(across[0].max(axis=1), down[0].max(axis=1))
        return np.column_stack([places * scale + corner, score])


def _run(network: Any, picture: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return a network's outputs, in their order, for (1, 3, height, width)."""
    network.setInput(np.ascontiguousarray(picture))
    return list(network.forward(network.getUnconnectedOutLayersNames()))
