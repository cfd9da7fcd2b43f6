"""Pose: the figure keeps the source's posture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from zs2kit import hookimpl, notify, option
from zs2kit.control import Control
from zs2kit.detectors import Detector, load_detector
from zs2kit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zs2kit.clip import Chunk, Clip
    from zs2kit.model import Model

CONTROLNETS = {
    "sd1": "lllyasviel/control_v11p_sd15_openpose",
    "sd2": "thibaud/controlnet-sd21/control_v11p_sd21_openpose.safetensors",
    "sdxl": "xinsir/controlnet-openpose-sdxl-1.0",
}


@dataclass(eq=False)
class Pose(Control):
    """Finds the figures' skeletons in the source and has the model draw its own figures in those poses.

    If the checkpoint has a pose ControlNet of its own, as the bundled one does, it is used. Otherwise it is
    lllyasviel's for Stable Diffusion 1, thibaud's for 2 and xinsir's for XL.
    """

    detector: Literal["auto", "puppets", "person", "openpose", "dwpose"] = option(
        "auto",
        "What finds the poses: puppets is the checkpoint's own detector, person finds people and needs no "
        "download. auto is openpose where its options are set, else person, but for a checkpoint with a "
        "detector of its own, which it uses unless the clip's first frames show people.",
    )
    annotators: str | None = option(
        None, "Folder or hub name of openpose's weights; none is lllyasviel/Annotators."
    )
    hands: bool = option(False, "Let openpose find hands too.")
    face: bool = option(False, "Let openpose find faces too.")

    def controlnet(self, model: Model) -> str | Path:
        return model.bundled("controlnet_pose") or self.usual(model, CONTROLNETS)

    def load_detector(self, model: Model, clip: Clip) -> None:
        self._without: set[int] = set()  # frames in which no figure was found
        own = model.bundled("detector")
        kind = self._choose(own, model, clip) if self.detector == "auto" else self.detector
        if kind != "openpose" and (self.hands or self.face):
            raise UsageError(
                f"`pose.hands` and `pose.face` are for openpose, but the detector is {kind}",
                "use openpose, or leave them out",
            )
        self._people_on = str(model.device) if kind == "person" else None
        if kind == "puppets":
            self._detector = _puppets(model, own)
        elif kind != "person":
            parts = {"include_hand": self.hands, "include_face": self.face} if kind == "openpose" else {}
            self._detector = load_detector(kind, model.device, self.annotators, plugin="pose", **parts)

    def detect(self, images: NDArray[np.uint8], chunk: Chunk) -> NDArray[np.uint8]:
        maps = _people(chunk, self._people_on) if self._people_on else self._detector(images)
        self._without |= {index for index, each in zip(chunk.indices, maps, strict=True) if not each.any()}
        return maps

    def _choose(self, own: Path | None, model: Model, clip: Clip) -> str:
        if self.hands or self.face or self.annotators:
            return "openpose"
        if own is None:
            return "person"
        from zs2kit.people import shows_people

        if not shows_people(clip, str(model.device)):
            return "puppets"
        notify(
            "people-found",
            "pose: the clip shows people, so pose.detector is person",
            "set it to puppets if that is wrong",
        )
        return "person"

    @hookimpl
    def finish(self, frames: int) -> None:
        if self.scale and self._without:
            notify(
                "no-figure",
                f"pose: no figure was found in {len(self._without)} of {frames} frames "
                f"(the first is frame {min(self._without)}); their maps are empty",
            )


def _puppets(model: Model, folder: Path | None) -> Detector:
    if folder is None:
        raise ModelError(f"`pose.detector`: {model.name} has no detector of its own", "use openpose")
    from diffusers import UNet2DModel

    from zs2kit.puppets.detector import detect, detect_each
    from zs2kit.puppets.skeleton import draw_skeleton

    # Small, and resizing needs float32
    network, estimator = (
        model.load_network(UNet2DModel, each).float() if each else None
        for each in (folder, model.bundled("estimator"))
    )

    told = model.domain is None  # others may have learned to draw several

    def maps(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        nonlocal told
        height, width = images.shape[1:3]
        # Without an estimator figures can't be told apart.
        found = detect_each(network, estimator, images) if estimator else detect(network, images)[:, None]
        if not told and any(len(figures) > 1 for figures in found):
            told = True
            notify(
                "several-figures",
                "pose: the clip shows several figures; each has its skeleton, but "
                f"{model.name} has learned to draw one at a time",
                "use a clip with one, or another `model`",
            )
        skeletons = ([draw_skeleton(points, height, width) for points in figures] for figures in found)
        return np.stack([np.maximum.reduce(each) for each in skeletons])

    return maps


def _people(chunk: Chunk, device: str) -> NDArray[np.uint8]:
    """Skeletons at the model's size; people are looked for in the source, where there is more to be seen."""
    from zs2kit.people import draw_people, find_people

    assert chunk.frames is not None and chunk.fit is not None
    fit = chunk.fit
    scale = np.divide(fit.scaled, fit.source)[::-1]  # of x and y
    maps = []
    for people in find_people(chunk.frames, device):
        for person in people:
            person.points[:, :2] = (person.points[:, :2] + 0.5) * scale - 0.5 + fit.offset[::-1]
        maps.append(draw_people(people, *fit.padded))
    return np.stack(maps)
