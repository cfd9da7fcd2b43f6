"""Pose: the figure keeps the source's posture."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from zs2kit import hookimpl
from zs2kit.control import Control
from zs2kit.errors import ModelError, UsageError
from zs2kit.plugins import option

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zs2kit.clip import Chunk
    from zs2kit.model import Model


@dataclass(eq=False)
class Pose(Control):
    """Finds the figures' skeletons in the source and has the model draw its own figures in those poses.

    A checkpoint that brings its own pose ControlNet and detector, as the bundled one does, uses them;
    with any other, controlnet-aux finds the poses and a ControlNet from the hub draws them.
    """

    model: str | None = option(
        None,
        "Folder or hub name of the ControlNet; none is the checkpoint's own, else "
        "lllyasviel/control_v11p_sd15_openpose.",
    )
    detector: Literal["puppets", "openpose", "dwpose"] | None = option(
        None, "What finds the poses; none is the checkpoint's own detector, else openpose."
    )
    annotators: str = option(
        "lllyasviel/Annotators", "Folder or hub name of the openpose detector's weights."
    )
    hands: bool = option(False, "Let openpose find hands too.")
    face: bool = option(False, "Let openpose find faces too.")

    def controlnet(self, model: Model) -> str | Path:
        return self.model or model.bundled("controlnet_pose") or "lllyasviel/control_v11p_sd15_openpose"

    def load_detector(self, model: Model) -> None:
        self._without: list[int] = []  # frames in which no figure was found
        own = model.bundled("detector")
        kind = self.detector or ("puppets" if own else "openpose")
        if kind != "openpose" and (self.hands or self.face):
            raise UsageError(f"pose.hands and pose.face are for openpose, and the detector is {kind}")
        if kind == "puppets":
            self._detector = _puppets(model, own)
        elif kind == "openpose":
            self._detector = _openpose(self.annotators, self.hands, self.face, model)
        else:
            self._detector = _dwpose(model)

    def detect(self, images: NDArray[np.uint8], chunk: Chunk) -> NDArray[np.uint8]:
        maps: NDArray[np.uint8] = self._detector(images)
        self._without += [index for index, each in zip(chunk.indices, maps, strict=True) if not each.any()]
        return maps

    @hookimpl
    def finish(self, frames: int) -> None:
        if self.scale and self._without:
            warnings.warn(
                f"pose: no figure was found in {len(self._without)} of {frames} frames "
                f"(the first is frame {self._without[0]}); their maps are empty",
                stacklevel=2,
            )


def _puppets(model: Model, folder: Path | None) -> Any:
    if folder is None:
        raise ModelError(f"pose.detector: {model.name} brings no detector of its own; use openpose")
    from diffusers import UNet2DModel

    from zs2kit.puppets.detector import detect
    from zs2kit.puppets.skeleton import draw_skeleton

    network = model.load_network(UNet2DModel, folder).float()  # small, and resizing needs float32

    def maps(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = images.shape[1:3]
        return np.stack([draw_skeleton(points, height, width) for points in detect(network, images)])

    return maps


def _openpose(annotators: str, hands: bool, face: bool, model: Model) -> Any:
    try:
        with _unwarned():
            from controlnet_aux import OpenposeDetector

            detector = OpenposeDetector.from_pretrained(annotators)
    except Exception as error:  # missing, out of reach or damaged files raise all sorts
        raise ModelError(
            f"pose.annotators: the openpose detector's weights can't be had from {annotators}; put "
            "body_pose_model.pth, hand_pose_model.pth and facenet.pth (from lllyasviel/Annotators) into a "
            "folder and name it with --set pose.annotators=FOLDER"
        ) from error
    return _each(detector.to(model.device), include_hand=hands, include_face=face)


def _dwpose(model: Model) -> Any:
    try:
        with _unwarned():
            from controlnet_aux import DWposeDetector

            detector = DWposeDetector(device=str(model.device))
    except (ImportError, NameError) as error:
        raise ModelError(
            "pose.detector: dwpose needs mmcv, mmdet and mmpose, which controlnet-aux says how to install; "
            "or use openpose"
        ) from error
    except OSError as error:
        raise ModelError(f"pose.detector: dwpose's weights can't be had ({error}); use openpose") from error
    return _each(detector)


@contextmanager
def _unwarned() -> Iterator[None]:
    """controlnet_aux warns, on import, of every optional package that isn't installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _each(detector: Any, **settings: bool) -> Any:
    """Call one of controlnet-aux's detectors frame by frame; maps keep the frames' size."""
    import cv2

    def maps(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = images.shape[1:3]
        resolution = max(64, min(height, width))  # it rounds to multiples of 64
        found = [
            detector(
                image,
                detect_resolution=resolution,
                image_resolution=resolution,
                output_type="np",
                **settings,
            )
            for image in images
        ]
        return np.stack([cv2.resize(each, (width, height), interpolation=cv2.INTER_LINEAR) for each in found])

    return maps
