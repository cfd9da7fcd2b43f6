"""Pose: the figure keeps the source's posture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from zs2kit import hookimpl, notify, option
from zs2kit.control import UNIONS, Control
from zs2kit.detectors import Detector, load_detector
from zs2kit.errors import ModelError, UsageError
from zs2kit.plugins import name_of
from zs2kit.settings import MODEL

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from zs2kit.clip import Chunk, Clip
    from zs2kit.model import Model
    from zs2kit.people import Person

CONTROLNETS = {
    "sd1": "lllyasviel/control_v11p_sd15_openpose",
    "sd2": "thibaud/controlnet-sd21/control_v11p_sd21_openpose.safetensors",
    "sdxl": "xinsir/controlnet-openpose-sdxl-1.0",
    **UNIONS,
}


@dataclass(eq=False)
class Pose(Control):
    """Finds the figures' skeletons in the source and has the model draw its own figures in those poses.

    If the checkpoint has a pose ControlNet of its own, as the bundled one does, it is used. Otherwise it is
    lllyasviel's for Stable Diffusion 1, thibaud's for 2, xinsir's for XL, Shakker-Labs's for FLUX.1 and
    InstantX's for Qwen-Image. The bundled model draws puppets, one at a time: in a clip of people, it follows
    one person, and the skeleton gets a puppet's proportions.
    """

    detector: Literal["auto", "puppets", "person", "openpose", "dwpose"] = option(
        "auto",
        "What finds the poses: puppets is the checkpoint's own detector, and person finds people and needs "
        "no download. auto means openpose if one of its options is set, and else person; if the checkpoint "
        "has a detector of its own, auto means puppets, unless the clip's first frames show people.",
    )
    smooth: bool = option(True, "Smooth the points that person finds, so that they don't tremble.")
    annotators: str | None = option(
        None,
        "Folder or hub name of the weights of openpose or dwpose. none means lllyasviel/Annotators for "
        "openpose, and yzd-v/DWPose for dwpose.",
        kind=MODEL,
    )
    hands: bool = option(False, "Let openpose find hands too.")
    face: bool = option(False, "Let openpose find faces too.")

    _puppet = False  # whether a person's skeleton gets the proportions of the model's own figures

    @property
    def follows_source(self) -> bool:
        """Whether the result moves as the source does; a puppet's limbs go other ways than a person's."""
        return not self._puppet

    def controlnet(self, model: Model) -> str | Path:
        return model.bundled("controlnet_pose") or self.usual(model, CONTROLNETS)

    def kind(self) -> int:
        return 4

    def load_detector(self, model: Model, clip: Clip) -> None:
        self._without: set[int] = set()  # frames in which no figure was found
        self._told = self._told_small = False  # whether there were notices of several and of small people
        self._rate, self._draws = float(clip.rate), model.name
        own = model.bundled("detector")
        kind = self._choose(own, model, clip) if self.detector == "auto" else self.detector
        if kind != "openpose" and (self.hands or self.face):
            raise UsageError(
                f"`pose.hands` and `pose.face` are for openpose, but the detector is {kind}",
                "use openpose, or leave them out",
            )
        self._people_on = str(model.device) if kind == "person" else None
        self._puppet = kind == "person" and own is not None and self.model in (None, "controlnet_pose")
        if kind == "puppets":
            self._detector = _puppets(model, own)
        elif kind != "person":
            parts = {"include_hand": self.hands, "include_face": self.face} if kind == "openpose" else {}
            self._detector = load_detector(kind, model.device, self.annotators, plugin="pose", **parts)

    @hookimpl
    def prepare(
        self, chunk: Chunk, model: Model, carry: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor] | None:
        if self.scale == 0:
            return None
        if not self._people_on:
            super().prepare(chunk, model)
            return None
        from zs2kit.people import Tracker

        name = f"{name_of(self)}.people"
        self._tracker = Tracker(self._rate, self.smooth, carry.get(name), self._people_on, alone=self._puppet)
        super().prepare(chunk, model)
        return {name: self._tracker.state}

    def detect(self, images: NDArray[np.uint8], chunk: Chunk) -> NDArray[np.uint8]:
        maps = self._people(chunk) if self._people_on else self._detector(images)
        self._without |= {index for index, each in zip(chunk.indices, maps, strict=True) if not each.any()}
        return maps

    def _people(self, chunk: Chunk) -> NDArray[np.uint8]:
        """Draw skeletons at the model's size; people are looked for in the source, which shows more."""
        from zs2kit.people import draw_skeletons, to_openpose
        from zs2kit.puppets.human import retarget

        assert chunk.frames is not None and chunk.fit is not None
        fit = chunk.fit
        scale = np.divide(fit.scaled, fit.source)[::-1]  # of x and y
        maps = []
        for index, frame in zip(chunk.indices, chunk.frames, strict=True):
            people = self._tracker.follow(frame)
            self._tell(people, chunk, index)
            followed = [self._tracker.leader()] if self._puppet else [person.points for person in people]
            skeletons = [to_openpose(points) for points in followed if points is not None]
            for points in skeletons:
                points[:, :2] = (points[:, :2] + 0.5) * scale - 0.5 + fit.offset[::-1]
            if self._puppet:
                skeletons = [retarget(points) for points in skeletons]
            maps.append(draw_skeletons(skeletons, *fit.padded))
        return np.stack(maps)

    def _tell(self, people: list[Person], chunk: Chunk, index: int) -> None:
        """Say once how many people there are, and once that some are small."""
        from zs2kit.people import tell_small

        self._told_small = self._told_small or tell_small(name_of(self), people, chunk, index)
        if len(people) > 1 and not self._told:
            self._told = True
            shown = f"pose: frame {index} shows {len(people)} people"
            if self._puppet:
                notify(
                    "several-figures",
                    f"{shown}, and {self._draws} has learned to draw one figure at a time, so it follows the "
                    "largest",
                    "crop the clip to the one that you want, or use another `model`",
                )
            else:
                notify("several-figures", f"{shown}, and each of them gets a skeleton")

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
                "crop the clip to the people: who is less than a fifth as tall as the picture may be missed"
                if self._people_on
                else "",
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
